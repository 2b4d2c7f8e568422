//! Access keys of an application, which sign requests of the vendors' APIs. A new key is added before an old
//! one is removed, so that requests never fail in between.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base16ct::lower::encode_string as hex;
use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::audit::Created;
use super::super::{Administrator, ApiError, ErrorCode, Json, OptionalJson, RestState, error, json_response};
use super::{edit, find_application};
use crate::app::{AccessKey, validate_key};
use crate::service::random_bytes;

/// Access key to add; absent values are generated.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::rest) struct AddKeyRequest {
    /// Access key id (Tencent: SecretId).
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,128}$")]
    id: Option<String>,
    /// Secret key (Tencent: SecretKey).
    #[schema(value_type = Option<String>, pattern = "^[!-~]{1,256}$")]
    secret: Option<Secret>,
}

/// Access key without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(in crate::rest) struct KeyView {
    /// Access key id.
    id: String,
    /// Whether requests with this key are refused.
    disabled: bool,
}

/// Access key that was added.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct AddKeyResponse {
    /// Access key id.
    id: String,
    /// Secret key, if it was generated. It is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// Changes to an access key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::rest) struct UpdateKeyRequest {
    /// Whether requests with this key are refused.
    disabled: bool,
}

/// Access keys of an application.
#[derive(Serialize, ToSchema)]
pub(in crate::rest) struct KeyList {
    /// The keys.
    keys: Vec<KeyView>,
}

impl KeyView {
    pub(super) fn new(key: &AccessKey) -> Self {
        Self { id: key.id.clone(), disabled: key.disabled }
    }
}

fn no_such_key() -> ApiError {
    ApiError::new(ErrorCode::NoSuchKey, "this application has no key with this id")
}

/// List the access keys of an application.
#[utoipa::path(get, path = "/v1/applications/{name}/keys", tag = "applications", operation_id = "listKeys",
    params(("name" = String, Path, description = "Name of the application.")),
    responses((status = 200, description = "The keys.", body = KeyList),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn list(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let keys = find_application(&rest, &name)?.keys.iter().map(KeyView::new).collect();
    Ok(json_response(StatusCode::OK, &KeyList { keys }))
}

/// Add an access key; a generated secret is shown only once.
#[utoipa::path(post, path = "/v1/applications/{name}/keys", tag = "applications", operation_id = "addKey",
    params(("name" = String, Path, description = "Name of the application.")),
    request_body = Option<AddKeyRequest>,
    responses((status = 201, description = "The key was added.", body = AddKeyResponse),
        (status = 404, description = "`no-such-application`.", body = error::ErrorResponse),
        (status = 409, description = "`defined-in-configuration`, \
                                      `already-exists`.", body = error::ErrorResponse)))]
pub(in crate::rest) async fn add(
    State(rest): State<RestState>,
    _: Administrator,
    Path(name): Path<String>,
    OptionalJson(body): OptionalJson<AddKeyRequest>,
) -> Result<Response, ApiError> {
    let AddKeyRequest { id, secret } = body.unwrap_or_default();
    let id = id.unwrap_or_else(|| format!("PC{}", hex(&random_bytes::<15>())));
    let generated = secret.is_none().then(|| hex(&random_bytes::<24>()));
    let secret = secret.unwrap_or_else(|| Secret::new(generated.clone().unwrap_or_default()));
    let key = AccessKey { id: id.clone(), secret, disabled: false };
    validate_key("", &key.id, &key.secret)
        .map_err(|wrong| ApiError::invalid_parameter(wrong.field.trim_start_matches('.'), wrong.reason))?;
    edit(&rest, &name, |app| {
        if app.keys.iter().any(|known| known.id == key.id) {
            return Err(ApiError::new(
                ErrorCode::AlreadyExists,
                "this application already has a key with this id",
            )
            .with_field("id"));
        }
        app.keys.push(key);
        Ok(())
    })
    .await?;
    let created = Created { id: id.clone(), app: None };
    let mut response = json_response(StatusCode::CREATED, &AddKeyResponse { id, secret: generated });
    response.extensions_mut().insert(created);
    Ok(response)
}

/// Disable or enable an access key.
#[utoipa::path(put, path = "/v1/applications/{name}/keys/{id}", tag = "applications",
    operation_id = "updateKey",
    params(("name" = String, Path, description = "Name of the \
        application."), ("id" = String, Path, description = "Access key id.")),
    request_body = UpdateKeyRequest,
    responses((status = 200, description = "The key after the change.", body = KeyView),
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

/// Remove an access key.
#[utoipa::path(delete, path = "/v1/applications/{name}/keys/{id}", tag = "applications",
    operation_id = "removeKey",
    params(("name" = String, Path, description = "Name of the \
        application."), ("id" = String, Path, description = "Access key id.")),
    responses((status = 204, description = "The key was removed."),
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
