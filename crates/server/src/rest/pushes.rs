//! Pushes of a cast that runs, or waits.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_core::spec::{MAX_PUSHES, PushUrl, Secret};
use pagecast_fleet::{Cast, Command, State as CastState};
use serde::Deserialize;
use utoipa::ToSchema;

use super::casts::shown;
use super::problem::Answer;
use super::wish::PushBody;
use super::{Caller, Json, Problem, Rest, answer};

/// A push that is to be removed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OldPush {
    /// Its address, whole.
    #[schema(value_type = String)]
    url: Secret,
}

/// Sends the stream there too.
#[utoipa::path(post, path = "/v1/casts/{id}/pushes", tag = "casts", operation_id = "addPush", request_body = PushBody,
    params(("id" = String, Path, description = "The cast.")),
    responses((status = 202, description = "Whoever runs the cast is told.", body = super::view::CastView),
        (status = 404, description = "`no-such-cast`.", body = Answer),
        (status = 409, description = "`over`, `push-exists`, `too-many-pushes`.", body = Answer)))]
pub(super) async fn add(
    State(rest): State<Rest>,
    caller: Caller,
    Path(id): Path<String>,
    Json { value, .. }: Json<PushBody>,
) -> Result<Response, Problem> {
    let cast = caller.cast(&rest.service, &id).await?;
    let app = rest.service.apps.named(&cast.app);
    let app =
        app.ok_or_else(|| Problem::conflict("no-application", "the application of this cast is gone"))?;
    let push = value.push(&app, "")?;
    if cast.state != CastState::Ended {
        if cast.spec.pushes.iter().any(|other| other.url == push.url) {
            return Err(Problem::conflict("push-exists", "the stream is sent there already").field("url"));
        }
        if cast.spec.pushes.len() >= MAX_PUSHES {
            return Err(Problem::conflict("too-many-pushes", "the stream is sent to ten servers already"));
        }
    }
    order(&rest, &caller, &cast, Command::AddPush(push)).await
}

/// Sends the stream there no longer. If it was not sent there, nothing happens.
#[utoipa::path(delete, path = "/v1/casts/{id}/pushes", tag = "casts", operation_id = "removePush", request_body = OldPush,
    params(("id" = String, Path, description = "The cast.")),
    responses((status = 202, description = "Whoever runs the cast is told.", body = super::view::CastView),
        (status = 404, description = "`no-such-cast`.", body = Answer),
        (status = 409, description = "`over`.", body = Answer)))]
pub(super) async fn remove(
    State(rest): State<Rest>,
    caller: Caller,
    Path(id): Path<String>,
    Json { value, .. }: Json<OldPush>,
) -> Result<Response, Problem> {
    let cast = caller.cast(&rest.service, &id).await?;
    let url = PushUrl::parse(value.url.reveal()).map_err(|error| Problem::value("url", error.to_string()))?;
    order(&rest, &caller, &cast, Command::RemovePush(url)).await
}

async fn order(rest: &Rest, caller: &Caller, cast: &Cast, command: Command) -> Result<Response, Problem> {
    rest.service.fleet.order(&cast.id, command).await?;
    let cast = caller.cast(&rest.service, cast.id.as_str()).await?;
    Ok(answer(StatusCode::ACCEPTED, &shown(&rest.service, &cast).await?))
}
