//! The request that created a cast.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_fleet::Cast;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::{API, ApiError, Caller, RestState, json_response};
use crate::request_record::{BODY_FIELD, without_secrets};
use crate::{tencent, volcengine};

/// Request that created a cast.
#[derive(Serialize, ToSchema)]
pub(super) struct CastRequestView {
    /// API that it was sent to: `v1`, `volcengine` or `tencent`.
    #[schema(example = "v1")]
    api: String,
    /// Its operation or action: `createCast`, `StartWebcast` or `StartWebRecord`.
    #[schema(example = "createCast")]
    action: &'static str,
    /// Its parameters. `…` stands for secrets: keys, tokens, passwords, values of headers and cookies,
    /// queries of addresses, keys of pushes, scripts and style sheets. Null if an earlier version
    /// stored none.
    #[schema(required = true, value_type = Option<BTreeMap<String, Value>>)]
    request: Option<Value>,
}

impl CastRequestView {
    fn new(cast: &Cast) -> Self {
        let body = || cast.request.get(BODY_FIELD).cloned();
        let (action, request) = match cast.api.as_str() {
            // What is stored are its parameters.
            volcengine::API => ("StartWebcast", Some(without_secrets(&cast.request))),
            tencent::API => ("StartWebRecord", body()),
            API => ("createCast", body()),
            _ => ("unknown", None),
        };
        Self { api: cast.api.clone(), action, request: request.filter(Value::is_object) }
    }
}

/// Get the request that created a cast.
#[utoipa::path(get, path = "/v1/casts/{id}/request", tag = "casts", operation_id = "getCastRequest",
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 200, description = "The request, without secrets.", body = CastRequestView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    Ok(json_response(StatusCode::OK, &CastRequestView::new(&cast)))
}
