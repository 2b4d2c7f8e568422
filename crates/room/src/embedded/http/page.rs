//! The viewer page.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::super::random;
use super::{AppState, ErrorResponse, is_room_name};

/// The page, self-contained.
const VIEWER_HTML: &str = include_str!("../viewer.html");
/// Placeholder in the page for the nonce of the content security policy.
const NONCE_PLACEHOLDER: &str = "{{nonce}}";

/// `GET /rooms/{room}`: the viewer page of a room.
pub(super) async fn viewer_page(
    State(_): State<AppState>,
    Path(room): Path<String>,
) -> Result<Response, ErrorResponse> {
    if !is_room_name(&room) {
        return Err(ErrorResponse::new(StatusCode::NOT_FOUND, "this is not a valid room name"));
    }
    let nonce = random::random_hex(16).ok_or_else(|| {
        ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, "no random numbers are available yet")
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
