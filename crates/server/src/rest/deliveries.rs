//! What was told of a cast, and what came of that.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_fleet::{CastId, DeliveryAttempt, RedeliverOutcome as Waiting, UnixMs};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::view::rfc3339;
use super::{ApiError, Caller, OptionalJson, RestState, json_response};

/// Attempts to tell of a cast.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryList {
    /// In order, the last 1000.
    attempts: Vec<AttemptView>,
    /// What waits to be told, of all casts. For the administrator only.
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<BacklogView>,
}

/// One attempt.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
struct AttemptView {
    /// Which event.
    event_id: String,
    /// Its number within the cast.
    seq: u64,
    /// Which of its messages, from 0.
    part: u32,
    /// When.
    at: String,
    /// How long it took, in milliseconds.
    took_ms: u64,
    /// Where to: scheme, host and path.
    url: String,
    /// What the receiver answered, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Why it did not arrive, if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What waits to be told.
#[derive(Serialize, ToSchema)]
#[schema(as = Backlog)]
struct BacklogView {
    /// Events that are not settled.
    waiting: u64,
    /// When the oldest of them happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<String>,
    /// Events given up that are remembered.
    given_up: u64,
}

/// What is to be told again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RedeliverRequest {
    /// The event of this number; all that were given up if left out.
    #[schema(minimum = 1)]
    seq: Option<u64>,
}

/// What will be told again.
#[derive(Serialize, ToSchema)]
pub(super) struct RedeliverResponse {
    /// How many events.
    events: u64,
    /// Events of the cast that wait to be told, those included.
    waiting: u64,
    /// When the first of them will be tried (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    next_at: Option<String>,
}

impl AttemptView {
    fn new(cast: &CastId, attempt: DeliveryAttempt) -> Self {
        Self {
            event_id: format!("{cast}-{}", attempt.seq),
            seq: attempt.seq,
            part: attempt.part,
            at: rfc3339(attempt.at_ms),
            took_ms: attempt.took_ms,
            url: attempt.url,
            status: attempt.status,
            error: attempt.error,
        }
    }
}

/// What was told of a cast, and what came of that.
#[utoipa::path(get, path = "/v1/casts/{id}/deliveries", tag = "casts", operation_id = "listDeliveries",
    params(("id" = String, Path, description = "The cast.")),
    responses((status = 200, description = "The attempts.", body = DeliveryList),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn list(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let fleet = &rest.service.fleet;
    let cast = caller.find_cast(&rest.service, &id).await?;
    let attempts = fleet.attempts(&cast.id).await?;
    let attempts = attempts.into_iter().map(|attempt| AttemptView::new(&cast.id, attempt)).collect();
    let mut backlog = None;
    if caller.is_administrator() {
        let all = fleet.backlog().await?;
        let oldest_at = all.oldest_event_ms.map(rfc3339);
        backlog = Some(BacklogView { waiting: all.pending, oldest_at, given_up: all.given_up });
    }
    Ok(json_response(StatusCode::OK, &DeliveryList { attempts, backlog }))
}

/// Has an event told again, or all that were given up; then what waits for another try is tried at once, too.
#[utoipa::path(post, path = "/v1/casts/{id}/deliveries/redeliver", tag = "casts", operation_id = "redeliver",
    params(("id" = String, Path, description = "The cast.")), request_body = Option<RedeliverRequest>,
    responses((status = 202, description = "So many will be.", body = RedeliverResponse),
        (status = 404, description = "`no-such-cast`, `no-such-event`.", body = ErrorResponse)))]
pub(super) async fn redeliver(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    OptionalJson(body): OptionalJson<RedeliverRequest>,
) -> Result<Response, ApiError> {
    let fleet = &rest.service.fleet;
    let cast = caller.find_cast(&rest.service, &id).await?;
    let seq = body.unwrap_or_default().seq;
    if let Some(seq) = seq {
        let before = seq.checked_sub(1).filter(|before| i64::try_from(*before).is_ok());
        let before = before
            .ok_or_else(|| ApiError::invalid_parameter("seq", "the number of an event is 1 at least"))?;
        if fleet.events(&cast.id, before, 1).await?.first().is_none_or(|event| event.seq != seq) {
            return Err(ApiError::not_found("no-such-event", "this cast has no such event").with_field("seq"));
        }
    }
    let Waiting { requeued, pending, next_due_in } = fleet.redeliver(&cast.id, seq).await?;
    let next_at = next_due_in.map(|next| {
        let next_ms = UnixMs::try_from(next.as_millis()).unwrap_or(UnixMs::MAX);
        rfc3339(rest.service.now().saturating_add(next_ms))
    });
    Ok(json_response(
        StatusCode::ACCEPTED,
        &RedeliverResponse { events: requeued, waiting: pending, next_at },
    ))
}
