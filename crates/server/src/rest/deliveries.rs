//! Deliveries of callbacks: attempts, messages, backlog, and sending them again.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use pagecast_core::spec::PushUrl;
use pagecast_fleet::{Cast, CastId, DeliveryAttempt, Event, RedeliverOutcome, UnixMs};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::view::rfc3339;
use super::{ApiError, Caller, ErrorCode, OptionalJson, RestState, json_response};
use crate::callback::{WebhookMessage, sent_headers, shown_url};
use crate::route::DIALECTS;
use crate::tencent::callback::PUSH_URLS_FIELD;

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
    /// Beginning of the receiver's answer, up to 500 characters, with control characters escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
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
            answer: attempt.answer,
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

/// Messages by which an event is reported.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryMessages {
    /// The messages in order; none if the application has no receiver, or the format has none for this
    /// event.
    messages: Vec<MessageView>,
}

/// Message to a receiver of callbacks.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryMessage)]
struct MessageView {
    /// Address of the receiver; its query is shown as `…`.
    url: String,
    /// Always `POST`.
    method: &'static str,
    /// Headers, with the signature.
    headers: BTreeMap<&'static str, String>,
    /// The body. It is what is signed, except for keys of pushes, which are shown as `…`.
    body: String,
}

/// Get the messages by which an event is reported to the receiver.
///
/// They are rendered as for another attempt: the same bytes each time, with the receiver and the secret of
/// now.
#[utoipa::path(get, path = "/v1/casts/{id}/deliveries/{seq}", tag = "casts", operation_id = "getDelivery",
    params(("id" = String, Path, description = "Id of the cast."),
        ("seq" = u64, Path, description = "Number of the event.")),
    responses((status = 200, description = "The messages.", body = DeliveryMessages),
        (status = 404, description = "`no-such-cast`, `no-such-event`.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path((id, seq)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let missing = || ApiError::new(ErrorCode::NoSuchEvent, "this cast has no such event");
    let seq = seq.parse().ok().filter(|seq| *seq >= 1).ok_or_else(missing)?;
    let event = find_event(&rest, &cast.id, seq).await?.ok_or_else(missing)?;
    let format = DIALECTS.iter().find(|format| format.api == cast.api);
    let app = rest.service.apps.by_name(&cast.app);
    let receiver = format.zip(app).and_then(|(format, app)| Some((format, (format.receiver)(&app, &cast)?)));
    let Some((format, receiver)) = receiver else {
        return Ok(json_response(StatusCode::OK, &DeliveryMessages { messages: Vec::new() }));
    };
    let messages = (format.render)(&receiver, &cast, &event);
    let view = |message: WebhookMessage| MessageView {
        url: shown_url(&receiver.url),
        method: "POST",
        headers: sent_headers(&message),
        body: hide_push_keys(&cast, String::from_utf8_lossy(&message.body).into_owned()),
    };
    let messages = messages.into_iter().map(view).collect();
    Ok(json_response(StatusCode::OK, &DeliveryMessages { messages }))
}

/// Replaces addresses of pushes, as the vendors' callbacks repeat them, by what may be shown.
fn hide_push_keys(cast: &Cast, mut body: String) -> String {
    let stored = cast.request.get(PUSH_URLS_FIELD).and_then(|urls| urls.as_array());
    let mut requested: Vec<&str> = stored.into_iter().flatten().filter_map(|url| url.as_str()).collect();
    // The longest first: one may be the beginning of another.
    requested.sort_unstable_by_key(|url| std::cmp::Reverse(url.len()));
    for url in requested {
        let shown = PushUrl::parse(url).map_or_else(|_| "…".to_owned(), |url| url.to_string());
        let (quoted, shown) = (Value::from(url).to_string(), Value::from(shown).to_string());
        body = body.replace(&quoted, &shown);
    }
    body
}

async fn find_event(rest: &RestState, cast: &CastId, seq: u64) -> Result<Option<Event>, ApiError> {
    let Some(before) = seq.checked_sub(1).filter(|before| i64::try_from(*before).is_ok()) else {
        return Ok(None);
    };
    let events = rest.service.fleet.events(cast, before, 1).await?;
    Ok(events.into_iter().next().filter(|event| event.seq == seq))
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
        if seq == 0 || i64::try_from(seq).is_err() {
            return Err(ApiError::invalid_parameter("seq", "the number of an event is at least 1"));
        }
        if find_event(&rest, &cast.id, seq).await?.is_none() {
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
