//! Adds and removes pushes of a cast.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_core::connection::State as PushState;
use pagecast_core::spec::{MAX_PUSHES, Push, PushUrl, Secret};
use pagecast_fleet::{Cast, CastState, Command, Event, EventKind};
use serde::Deserialize;
use utoipa::ToSchema;

use super::casts::{load_cast_view, read_events};
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

/// Remove a push from a cast, by its number.
///
/// Unlike the address, the number is in every description of the cast.
#[utoipa::path(delete, path = "/v1/casts/{id}/pushes/{push}", tag = "casts",
    operation_id = "removePushByNumber",
    params(("id" = String, Path, description = "Id of the cast."),
        ("push" = u32, Path, description = "Number of the push, `pushes[].id` of the cast.")),
    responses((status = 202, description = "The worker will remove the push.", body = super::view::CastView),
        (status = 404, description = "`no-such-cast`; `no-such-push`: there is none with this number, or it \
                                      has ended.", body = ErrorResponse),
        (status = 409, description = "`cast-ended`.", body = ErrorResponse)))]
pub(super) async fn remove_by_number(
    State(rest): State<RestState>,
    caller: Caller,
    Path((id, push)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    if cast.state == CastState::Ended {
        return Err(pagecast_fleet::Error::CastEnded(cast.id).into());
    }
    let missing = || ApiError::new(ErrorCode::NoSuchPush, "the cast has no push with this number");
    let number = push.parse().map_err(|_| missing())?;
    let mut known = KnownPushes::default();
    read_events(&rest.service, &cast.id, |event| known.apply(event)).await?;
    let url = known.find(&cast.spec.pushes, number).ok_or_else(missing)?;
    send_command(&rest, &caller, &cast, Command::RemovePush(url)).await
}

/// Numbers and addresses of the pushes that a cast's present process has, as its events tell.
#[derive(Debug, Default)]
struct KnownPushes(BTreeMap<u32, KnownPush>);

#[derive(Debug)]
struct KnownPush {
    /// Address without the key.
    url: String,
    is_over: bool,
}

impl KnownPushes {
    fn apply(&mut self, event: &Event) {
        match &event.kind {
            // The next process numbers the pushes that are left anew.
            EventKind::Resumed { .. } => self.0.clear(),
            // A push that was refused has the number 0.
            EventKind::Push { id, url, state, .. } if *id > 0 => {
                let is_over = matches!(state, PushState::Idle | PushState::Disconnecting);
                self.0.insert(*id, KnownPush { url: url.clone(), is_over });
            }
            _ => {}
        }
    }

    /// The full address of the push with this number, among those of the cast. Pushes to one server with
    /// different keys look the same without them, but are in the same order.
    fn find(&self, pushes: &[Push], number: u32) -> Option<PushUrl> {
        if self.0.is_empty() {
            let index = usize::try_from(number).ok()?.checked_sub(1)?;
            return pushes.get(index).map(|push| push.url.clone());
        }
        let wanted = self.0.get(&number).filter(|push| !push.is_over)?;
        let alike = self.0.iter().filter(|(_, push)| push.url == wanted.url && !push.is_over);
        let place = alike.take_while(|(other, _)| **other < number).count();
        let mut candidates = pushes.iter().filter(|push| push.url.to_string() == wanted.url);
        candidates.nth(place).map(|push| push.url.clone())
    }
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
