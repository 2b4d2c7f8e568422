//! Deliveries of callbacks: attempts, backlog, and sending them again.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_fleet::{CastId, DeliveryAttempt, RedeliverOutcome, UnixMs};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::view::rfc3339;
use super::{ApiError, Caller, ErrorCode, OptionalJson, RestState, json_response};

/// Attempts to deliver callbacks about a cast.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryList {
    /// The last 1000 attempts, oldest first.
    attempts: Vec<AttemptView>,
    /// Undelivered events of all casts. Only for the administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<BacklogView>,
}

/// An attempt to deliver a callback.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
struct AttemptView {
    /// Id of the event.
    event_id: String,
    /// Number of the event within the cast.
    seq: u64,
    /// Index of the message, for events with several messages, from 0.
    part: u32,
    /// Time of the attempt (RFC 3339).
    at: String,
    /// Duration in milliseconds.
    duration_ms: u64,
    /// Scheme, host and path of the receiver.
    url: String,
    /// HTTP status of the receiver's answer, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Why the attempt failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Undelivered events of all casts.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryBacklog)]
struct BacklogView {
    /// Number of events that wait for delivery.
    pending: u64,
    /// Time of the oldest of them (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_at: Option<String>,
    /// Number of events that were given up and can be delivered again.
    given_up: u64,
}

/// Events to deliver again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RedeliverRequest {
    /// Number of the event; all events that were given up if absent.
    #[schema(minimum = 1)]
    seq: Option<u64>,
}

/// Events that will be delivered again.
#[derive(Serialize, ToSchema)]
pub(super) struct RedeliverResponse {
    /// Number of events that were put back into the queue.
    requeued: u64,
    /// Number of events of the cast that wait for delivery, those included.
    pending: u64,
    /// Time of the next attempt (RFC 3339).
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
            duration_ms: attempt.took_ms,
            url: attempt.url,
            status: attempt.status,
            error: attempt.error,
        }
    }
}

/// List the attempts to deliver callbacks about a cast.
#[utoipa::path(get, path = "/v1/casts/{id}/deliveries", tag = "casts", operation_id = "listDeliveries",
    params(("id" = String, Path, description = "Id of the cast.")),
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
        let backlog_of_all = fleet.backlog().await?;
        let oldest_at = backlog_of_all.oldest_event_ms.map(rfc3339);
        backlog = Some(BacklogView {
            pending: backlog_of_all.pending,
            oldest_at,
            given_up: backlog_of_all.given_up,
        });
    }
    Ok(json_response(StatusCode::OK, &DeliveryList { attempts, backlog }))
}

/// Deliver an event, or all events that were given up, again.
///
/// Events that wait for another attempt are tried at once, too.
#[utoipa::path(post, path = "/v1/casts/{id}/deliveries/redeliver", tag = "casts",
    operation_id = "redeliverEvents",
    params(("id" = String, Path, description = "Id of the cast.")), request_body = Option<RedeliverRequest>,
    responses((status = 202, description = "The events are in the queue.", body = RedeliverResponse),
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
            .ok_or_else(|| ApiError::invalid_parameter("seq", "the number of an event is at least 1"))?;
        if fleet.events(&cast.id, before, 1).await?.first().is_none_or(|event| event.seq != seq) {
            return Err(
                ApiError::new(ErrorCode::NoSuchEvent, "this cast has no such event").with_field("seq")
            );
        }
    }
    let RedeliverOutcome { requeued, pending, next_due_in } = fleet.redeliver(&cast.id, seq).await?;
    let next_at = next_due_in.map(|next| {
        let next_ms = UnixMs::try_from(next.as_millis()).unwrap_or(UnixMs::MAX);
        rfc3339(rest.service.now().saturating_add(next_ms))
    });
    Ok(json_response(StatusCode::ACCEPTED, &RedeliverResponse { requeued, pending, next_at }))
}
