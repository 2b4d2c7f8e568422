//! Bearer tokens of an application. A token's id is the beginning of its SHA-256, which reveals nothing about
//! it.

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base16ct::lower::encode_string as hex;
use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::audit::Created;
use super::super::{Administrator, ApiError, ErrorCode, OptionalJson, RestState, error, json_response};
use super::{edit, find_application};
use crate::app::{MIN_TOKEN_LEN, validate_token};
use crate::service::random_bytes;

/// Token to add.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::rest) struct AddTokenRequest {
    /// 16 to 256 printable ASCII characters without blanks; generated if absent.
    #[schema(value_type = Option<String>, pattern = "^[!-~]{16,256}$")]
    token: Option<Secret>,
}

/// Token, shown by its id only.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(in crate::rest) struct TokenView {
    /// Id of the token: the first 12 hex digits of its SHA-256.
    id: String,
}

/// Token that was added.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct AddTokenResponse {
    /// Id of the token.
    id: String,
    /// The token, if it was generated. It is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// Tokens of an application.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct TokenList {
    /// The tokens, by their ids.
    tokens: Vec<TokenView>,
}

impl TokenView {
    pub(super) fn new(token: &Secret) -> Self {
        Self { id: token_id(token) }
    }
}

pub(in crate::rest) fn token_id(token: &Secret) -> String {
    let mut id = hex(digest(&SHA256, token.reveal().as_bytes()).as_ref());
    id.truncate(12);
    id
}

/// Id of the token in a request, as in [`TokenView`]; empty without one, and for a value too short for a
/// token: a short secret sent by mistake could be guessed from its hash.
pub(in crate::rest) fn claimed_token_id(headers: &HeaderMap) -> String {
    let requested = headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
    let token =
        requested.and_then(|text| text.split_once(' ')).map(|(_, token)| token.trim()).unwrap_or_default();
    if token.len() < MIN_TOKEN_LEN { String::new() } else { token_id(&Secret::new(token)) }
}

/// List the tokens of an application.
#[utoipa::path(get, path = "/v1/applications/{name}/tokens", tag = "applications",
    operation_id = "listTokens",
    params(("name" = String, Path, description = "Name of the application.")),
    responses((status = 200, description = "The tokens.", body = TokenList),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn list(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let tokens = find_application(&rest, &name)?.tokens.iter().map(TokenView::new).collect();
    Ok(json_response(StatusCode::OK, &TokenList { tokens }))
}

/// Add a token; a generated one is shown only once.
#[utoipa::path(post, path = "/v1/applications/{name}/tokens", tag = "applications", operation_id = "addToken",
    params(("name" = String, Path, description = "Name of the application.")),
    request_body = Option<AddTokenRequest>,
    responses((status = 201, description = "The token was added.", body = AddTokenResponse),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, \
                                      `already-exists`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn add(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
    OptionalJson(body): OptionalJson<AddTokenRequest>,
) -> Result<Response, ApiError> {
    let requested = body.unwrap_or_default().token;
    let generated = requested.is_none().then(|| format!("pct_{}", hex(&random_bytes::<24>())));
    let token = requested.unwrap_or_else(|| Secret::new(generated.clone().unwrap_or_default()));
    validate_token("token", &token)?;
    let id = token_id(&token);
    edit(&rest, &name, |app| {
        app.tokens.push(token);
        Ok(())
    })
    .await?;
    let created = Created { id: id.clone(), app: None };
    let mut response = json_response(StatusCode::CREATED, &AddTokenResponse { id, token: generated });
    response.extensions_mut().insert(created);
    Ok(response)
}

/// Remove a token.
#[utoipa::path(delete, path = "/v1/applications/{name}/tokens/{id}", tag = "applications",
    operation_id = "removeToken",
    params(("name" = String, Path, description = "Name of the \
        application."), ("id" = String, Path, description = "Id of the token.")),
    responses((status = 204, description = "The token was removed."),
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
        Err(ApiError::new(ErrorCode::NoSuchToken, "this application has no token with this id"))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
