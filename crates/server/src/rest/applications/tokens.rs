//! Tokens for this API. One is named by the beginning of its SHA-256, which says nothing about it.

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{Administrator, ApiError, OptionalJson, RestState, error, json_response};
use super::keys::hex;
use super::{edit, find_application};
use crate::app::{MIN_TOKEN_LEN, validate_token};
use crate::service::random_bytes;

/// A token that is wanted; made, if left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::rest) struct AddTokenRequest {
    /// 16 to 256 ASCII characters without blanks.
    #[schema(value_type = Option<String>, pattern = "^[!-~]{16,256}$")]
    token: Option<Secret>,
}

/// A token, without itself.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(in crate::rest) struct TokenView {
    /// Its name: the first 12 hex digits of its SHA-256.
    id: String,
}

/// A token that was added.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct AddTokenResponse {
    /// Its name.
    id: String,
    /// Itself, if it was made here. It is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// All tokens of an application.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct TokenList {
    /// They.
    tokens: Vec<TokenView>,
}

impl TokenView {
    pub(super) fn new(token: &Secret) -> Self {
        Self { id: token_id(token) }
    }
}

fn token_id(token: &Secret) -> String {
    let mut id = hex(digest(&SHA256, token.reveal().as_bytes()).as_ref());
    id.truncate(12);
    id
}

/// The name of the token that a request carries, as [`TokenView`] has it; empty if there is none, or one that
/// is too short to be a token: what somebody sends by mistake could be found out from its hash.
pub(in crate::rest) fn claimed_token_id(headers: &HeaderMap) -> String {
    let given = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let token =
        given.and_then(|text| text.split_once(' ')).map(|(_, token)| token.trim()).unwrap_or_default();
    if token.len() < MIN_TOKEN_LEN { String::new() } else { token_id(&Secret::new(token)) }
}

/// The tokens of an application.
#[utoipa::path(get, path = "/v1/applications/{name}/tokens", tag = "applications", operation_id = "listTokens",
    params(("name" = String, Path, description = "The application.")),
    responses((status = 200, description = "Their names.", body = TokenList),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn list(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let tokens = find_application(&rest, &name)?.tokens.iter().map(TokenView::new).collect();
    Ok(json_response(StatusCode::OK, &TokenList { tokens }))
}

/// Adds a token. One that is made here is shown this once.
#[utoipa::path(post, path = "/v1/applications/{name}/tokens", tag = "applications", operation_id = "addToken",
    params(("name" = String, Path, description = "The application.")),
    request_body = Option<AddTokenRequest>,
    responses((status = 201, description = "It is added.", body = AddTokenResponse),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, or `taken`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn add(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
    OptionalJson(body): OptionalJson<AddTokenRequest>,
) -> Result<Response, ApiError> {
    let given = body.unwrap_or_default().token;
    let made = given.is_none().then(|| format!("pct_{}", hex(&random_bytes::<24>())));
    let token = given.unwrap_or_else(|| Secret::new(made.clone().unwrap_or_default()));
    validate_token("token", &token)
        .map_err(|wrong| ApiError::invalid_parameter(wrong.field, wrong.reason))?;
    let id = token_id(&token);
    edit(&rest, &name, |app| {
        app.tokens.push(token);
        Ok(())
    })
    .await?;
    Ok(json_response(StatusCode::CREATED, &AddTokenResponse { id, token: made }))
}

/// Removes a token.
#[utoipa::path(delete, path = "/v1/applications/{name}/tokens/{id}", tag = "applications", operation_id = "removeToken",
    params(("name" = String, Path, description = "The application."), ("id" = String, Path, description = "The token's name.")),
    responses((status = 204, description = "It is gone."),
        (status = 404, description = "`no-such-application`, `no-such-token`.", body = error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn remove(
    State(rest): State<RestState>,
    _: Administrator,
    Path((name, token)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    edit(&rest, &name, |app| {
        let before = app.tokens.len();
        app.tokens.retain(|known| token_id(known) != token);
        if app.tokens.len() < before {
            return Ok(());
        }
        Err(ApiError::not_found("no-such-token", "this application has no such token"))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
