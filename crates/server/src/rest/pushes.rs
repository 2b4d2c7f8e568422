//! Pushes of a cast that runs, or waits.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_core::spec::{MAX_PUSHES, PushUrl, Secret};
use pagecast_fleet::{Cast, CastState, Command};
use serde::Deserialize;
use utoipa::ToSchema;

use super::casts::load_cast_view;
use super::create_cast::AddPushRequest;
use super::error::ErrorResponse;
use super::{ApiError, Caller, Json, RestState, json_response};

/// A push that is to be removed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemovePushRequest {
    /// Its address, whole.
    #[schema(value_type = String)]
    url: Secret,
}

/// Sends the stream there too.
#[utoipa::path(post, path = "/v1/casts/{id}/pushes", tag = "casts", operation_id = "addPush", request_body = AddPushRequest,
    params(("id" = String, Path, description = "The cast.")),
    responses((status = 202, description = "Whoever runs the cast is told.", body = super::view::CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 409, description = "`over`, `push-exists`, `too-many-pushes`.", body = ErrorResponse)))]
pub(super) async fn add(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    Json { value, .. }: Json<AddPushRequest>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let app = rest.service.apps.by_name(&cast.app);
    let app =
        app.ok_or_else(|| ApiError::conflict("no-application", "the application of this cast is gone"))?;
    let push = value.into_push(&app, "")?;
    if cast.state != CastState::Ended {
        if cast.spec.pushes.iter().any(|other| other.url == push.url) {
            return Err(
                ApiError::conflict("push-exists", "the stream is sent there already").with_field("url")
            );
        }
        if cast.spec.pushes.len() >= MAX_PUSHES {
            return Err(ApiError::conflict("too-many-pushes", "the stream is sent to ten servers already"));
        }
    }
    send_command(&rest, &caller, &cast, Command::AddPush(push)).await
}

/// Sends the stream there no longer. If it was not sent there, nothing happens.
#[utoipa::path(delete, path = "/v1/casts/{id}/pushes", tag = "casts", operation_id = "removePush", request_body = RemovePushRequest,
    params(("id" = String, Path, description = "The cast.")),
    responses((status = 202, description = "Whoever runs the cast is told.", body = super::view::CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 409, description = "`over`.", body = ErrorResponse)))]
pub(super) async fn remove(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    Json { value, .. }: Json<RemovePushRequest>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let url = PushUrl::parse(value.url.reveal())
        .map_err(|error| ApiError::invalid_parameter("url", error.to_string()))?;
    send_command(&rest, &caller, &cast, Command::RemovePush(url)).await
}

async fn send_command(
    rest: &RestState,
    caller: &Caller,
    cast: &Cast,
    command: Command,
) -> Result<Response, ApiError> {
    rest.service.fleet.send_command(&cast.id, command).await?;
    let cast = caller.find_cast(&rest.service, cast.id.as_str()).await?;
    Ok(json_response(StatusCode::ACCEPTED, &load_cast_view(&rest.service, &cast).await?))
}
