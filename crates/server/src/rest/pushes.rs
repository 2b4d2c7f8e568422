//! Adds and removes pushes of a cast.

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
use super::{ApiError, Caller, ErrorCode, Json, RestState, json_response};

/// Push to remove.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemovePushRequest {
    /// Full address of the push.
    #[schema(value_type = String)]
    url: Secret,
}

/// Add a push to a cast.
#[utoipa::path(post, path = "/v1/casts/{id}/pushes", tag = "casts", operation_id = "addPush",
    request_body = AddPushRequest,
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 202, description = "The worker will add the push.", body = super::view::CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 409, description = "`cast-ended`, `push-exists`, `too-many-pushes`, \
                                      `application-removed`.", body = ErrorResponse)))]
pub(super) async fn add(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    Json { value, .. }: Json<AddPushRequest>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let app = rest.service.apps.by_name(&cast.app);
    let app = app.ok_or_else(|| {
        ApiError::new(ErrorCode::ApplicationRemoved, "the application of this cast was removed")
    })?;
    let push = value.into_push(&app, "")?;
    if cast.state != CastState::Ended {
        if cast.spec.pushes.iter().any(|other| other.url == push.url) {
            return Err(ApiError::new(ErrorCode::PushExists, "the cast already pushes to this address")
                .with_field("url"));
        }
        if cast.spec.pushes.len() >= MAX_PUSHES {
            return Err(ApiError::new(
                ErrorCode::TooManyPushes,
                "the cast already has ten pushes, the most possible: remove one first",
            ));
        }
    }
    send_command(&rest, &caller, &cast, Command::AddPush(push)).await
}

/// Remove a push from a cast; an unknown address changes nothing.
#[utoipa::path(delete, path = "/v1/casts/{id}/pushes", tag = "casts", operation_id = "removePush",
    request_body = RemovePushRequest,
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 202, description = "The worker will remove the push.", body = super::view::CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 409, description = "`cast-ended`.", body = ErrorResponse)))]
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
