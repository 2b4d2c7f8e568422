//! The page to watch a room on.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::super::random;
use super::{AppState, ErrorResponse, is_room_name};

/// One file: what it needs is in it.
const VIEWER_HTML: &str = include_str!("../viewer.html");
/// What stands in it for a number used once, by which the browser knows our script from others'.
const NONCE_PLACEHOLDER: &str = "{{nonce}}";

/// `GET /rooms/{room}`.
pub(super) async fn viewer_page(
    State(_): State<AppState>,
    Path(room): Path<String>,
) -> Result<Response, ErrorResponse> {
    if !is_room_name(&room) {
        return Err(ErrorResponse::new(StatusCode::NOT_FOUND, "there is no room of this name"));
    }
    let nonce = random::random_hex(16).ok_or_else(|| {
        ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "the system has no randomness yet")
    })?;
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         media-src 'self' blob:; img-src data:; base-uri 'none'; form-action 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, VIEWER_HTML.replace(NONCE_PLACEHOLDER, &nonce)).into_response())
}
