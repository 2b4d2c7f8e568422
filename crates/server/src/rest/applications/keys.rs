//! Pairs that sign requests of either cloud's API: added before others are removed, so that nothing pauses.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{Administrator, ApiError, Json, OptionalJson, RestState, error, json_response};
use super::{edit, find_application};
use crate::app::{AccessKey, validate_key};
use crate::service::random_bytes;

/// A pair that is wanted; what is left out is made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::rest) struct AddKeyRequest {
    /// Access key id; Tencent's SecretId.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,128}$")]
    id: Option<String>,
    /// The secret; Tencent's SecretKey.
    #[schema(value_type = Option<String>, pattern = "^[!-~]{1,256}$")]
    secret: Option<Secret>,
}

/// A pair, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(in crate::rest) struct KeyView {
    /// Access key id.
    id: String,
    /// Whether it is refused for the time being.
    disabled: bool,
}

/// A pair that was added.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct AddKeyResponse {
    /// Access key id.
    id: String,
    /// The secret, if it was made here. It is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// What can be changed of a pair.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct UpdateKeyRequest {
    /// Whether it is refused for the time being.
    disabled: bool,
}

/// All pairs of an application.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct KeyList {
    /// They.
    keys: Vec<KeyView>,
}

impl KeyView {
    pub(super) fn new(key: &AccessKey) -> Self {
        Self { id: key.id.clone(), disabled: key.disabled }
    }
}

fn no_such_key() -> ApiError {
    ApiError::not_found("no-such-key", "this application has no such key")
}

/// The keys of an application.
#[utoipa::path(get, path = "/v1/applications/{name}/keys", tag = "applications", operation_id = "listKeys",
    params(("name" = String, Path, description = "The application.")),
    responses((status = 200, description = "They.", body = KeyList),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn list(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let keys = find_application(&rest, &name)?.keys.iter().map(KeyView::new).collect();
    Ok(json_response(StatusCode::OK, &KeyList { keys }))
}

/// Adds a key. A secret that is made here is shown this once.
#[utoipa::path(post, path = "/v1/applications/{name}/keys", tag = "applications", operation_id = "addKey",
    params(("name" = String, Path, description = "The application.")),
    request_body = Option<AddKeyRequest>,
    responses((status = 201, description = "It is added.", body = AddKeyResponse),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, or `taken`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn add(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
    OptionalJson(body): OptionalJson<AddKeyRequest>,
) -> Result<Response, ApiError> {
    let AddKeyRequest { id, secret } = body.unwrap_or_default();
    let id = id.unwrap_or_else(|| format!("PC{}", hex(&random_bytes::<15>())));
    let made = secret.is_none().then(|| hex(&random_bytes::<24>()));
    let secret = secret.unwrap_or_else(|| Secret::new(made.clone().unwrap_or_default()));
    let key = AccessKey { id: id.clone(), secret, disabled: false };
    validate_key("", &key)
        .map_err(|wrong| ApiError::invalid_parameter(wrong.field.trim_start_matches('.'), wrong.reason))?;
    edit(&rest, &name, |app| {
        if app.keys.iter().any(|known| known.id == key.id) {
            return Err(ApiError::conflict("taken", "this application has a key of this id").with_field("id"));
        }
        app.keys.push(key);
        Ok(())
    })
    .await?;
    Ok(json_response(StatusCode::CREATED, &AddKeyResponse { id, secret: made }))
}

/// Refuses a key for the time being, or takes it again.
#[utoipa::path(put, path = "/v1/applications/{name}/keys/{id}", tag = "applications", operation_id = "changeKey",
    params(("name" = String, Path, description = "The application."), ("id" = String, Path, description = "Access key id.")),
    request_body = UpdateKeyRequest,
    responses((status = 200, description = "As it is now.", body = KeyView),
        (status = 404, description = "`no-such-application`, `no-such-key`.", body = error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn update(
    State(rest): State<RestState>,
    _: Administrator,
    Path((name, id)): Path<(String, String)>,
    Json { value, .. }: Json<UpdateKeyRequest>,
) -> Result<Response, ApiError> {
    let view = edit(&rest, &name, |app| {
        let key = app.keys.iter_mut().find(|key| key.id == id).ok_or_else(no_such_key)?;
        key.disabled = value.disabled;
        Ok(KeyView::new(key))
    });
    Ok(json_response(StatusCode::OK, &view.await?))
}

/// Removes a key.
#[utoipa::path(delete, path = "/v1/applications/{name}/keys/{id}", tag = "applications", operation_id = "removeKey",
    params(("name" = String, Path, description = "The application."), ("id" = String, Path, description = "Access key id.")),
    responses((status = 204, description = "It is gone."),
        (status = 404, description = "`no-such-application`, `no-such-key`.", body = error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn remove(
    State(rest): State<RestState>,
    _: Administrator,
    Path((name, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    edit(&rest, &name, |app| {
        let before = app.keys.len();
        app.keys.retain(|key| key.id != id);
        if app.keys.len() == before { Err(no_such_key()) } else { Ok(()) }
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(in crate::rest) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
