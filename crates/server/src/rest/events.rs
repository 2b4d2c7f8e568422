//! Events of a cast: a page of them, or a stream of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{Stream, unfold};
use pagecast_core::connection;
use pagecast_fleet::{CastId, Event, EventKind};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::stream_limit::StreamPermit;
use super::view::{EndView, PushView, StoredView, WarningView, fault_name, rfc3339, stored_view};
use super::{ApiError, Caller, ErrorCode, RestState, json_response};
use crate::service::Service;

/// Events on a page by default.
const DEFAULT_LIMIT: usize = 100;
/// Most events on a page, and in one read for a stream: about 300 KiB of JSON.
const MAX_LIMIT: usize = 1000;
/// Time between keep-alive comments: shorter than the idle timeouts of usual proxies. Shorter in tests.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 15_000 });
/// Shortest time between two reads of a stream; events in between are sent together.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Longest time between two reads of a stream, in case a change was not reported.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Event in the history of a cast.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(super) struct EventView {
    /// Unique id among the events of all casts, by which receivers recognize repeated callbacks.
    pub(super) id: String,
    /// Number of the event within its cast, from 1 without gaps.
    seq: u64,
    /// Time of the event (RFC 3339).
    at: String,
    /// Kind: `queued`, `started`, `live`, `reloaded`, `moved`, `restarted`, `lost-node`, `resumed`,
    /// `recording-stopped`, `push`, `room`, `upload`, `warning`, `ended` or `stored`; `test` in test messages
    /// to a receiver.
    #[schema(example = "live")]
    pub(super) event: &'static str,
    /// `lost-node`: the node that ran the cast and was lost. `resumed`: the node that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// `reloaded` and `moved`: the page's fault, `start-timeout`, `freeze`, `blank`, `crash` or
    /// `unreachable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    /// `push`: state of the push.
    #[serde(skip_serializing_if = "Option::is_none")]
    push: Option<PushView>,
    /// `room`: state of the connection to the room.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<RoomStateView>,
    /// `upload`: state of the upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<UploadView>,
    /// `warning`: the warning for the owner of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<WarningView>,
    /// `ended`: why the cast ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndView>,
    /// `stored`: the stored recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<StoredView>,
}

/// State of the connection to a room.
#[derive(Serialize, ToSchema)]
#[schema(as = RoomState)]
struct RoomStateView {
    /// `idle`, `connecting`, `running`, `recovering`, `failed` or `disconnecting`.
    #[schema(value_type = String)]
    state: connection::State,
    /// Why the connection does not run, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// State of the upload of a recording.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadState)]
struct UploadView {
    /// Whether uploads have failed for a while.
    failing: bool,
    /// Number of files that wait to be uploaded.
    pending: usize,
    /// Why uploads fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
pub(super) struct EventList {
    /// The events, oldest first.
    events: Vec<EventView>,
    /// Value of the parameter `after` for the next page, if there may be one.
    next: Option<u64>,
}

impl EventView {
    /// Describes an event of a cast.
    pub(super) fn new(cast: &CastId, event: &Event) -> Self {
        let with_kind = |media_type| Self {
            id: event.id(cast),
            seq: event.seq,
            at: rfc3339(event.at_ms),
            event: media_type,
            node: None,
            fault: None,
            push: None,
            room: None,
            upload: None,
            warning: None,
            end: None,
            stored: None,
        };
        match &event.kind {
            EventKind::Queued => with_kind("queued"),
            EventKind::Started => with_kind("started"),
            EventKind::Live => with_kind("live"),
            EventKind::Reloaded { fault } => {
                Self { fault: Some(fault_name(*fault)), ..with_kind("reloaded") }
            }
            EventKind::Moved { fault } => Self { fault: Some(fault_name(*fault)), ..with_kind("moved") },
            EventKind::Restarted => with_kind("restarted"),
            EventKind::LostNode { node } => Self { node: Some(node.clone()), ..with_kind("lost-node") },
            EventKind::Resumed { node } => Self { node: node.clone(), ..with_kind("resumed") },
            EventKind::RecordingStopped => with_kind("recording-stopped"),
            EventKind::Warning { warning } => {
                Self { warning: Some(WarningView::new(*warning)), ..with_kind("warning") }
            }
            EventKind::Push { id, url, state, error } => {
                Self { push: Some(PushView::new(*id, url, *state, error.as_ref())), ..with_kind("push") }
            }
            EventKind::Room { state, error } => Self {
                room: Some(RoomStateView { state: *state, error: error.clone() }),
                ..with_kind("room")
            },
            EventKind::Upload { failing, pending, error } => {
                let upload = UploadView { failing: *failing, pending: *pending, error: error.clone() };
                Self { upload: Some(upload), ..with_kind("upload") }
            }
            EventKind::Ended { reason, message, cause } => Self {
                end: Some(EndView::new(*reason, message.as_ref(), cause.as_ref())),
                ..with_kind("ended")
            },
            EventKind::Stored { files, complete, backup, error } => {
                let stored = stored_view(files, *complete, *backup, error.as_ref());
                Self { stored: Some(stored), ..with_kind("stored") }
            }
        }
    }
}

/// List the events of a cast, or stream them.
///
/// With `Accept: text/event-stream` the response is a stream of server-sent events that ends after the
/// last event.
#[utoipa::path(get, path = "/v1/casts/{id}/events", tag = "casts", operation_id = "listEvents",
    params(
        ("id" = String, Path, description = "Id of the cast."),
        ("after" = Option<u64>, Query, description = "Only events after the one with this number; 0 for \
            all."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most events on the \
            page; default 100. Ignored for streams."),
        ("Last-Event-ID" = Option<String>, Header, description = "For streams: only events after this one."),
    ),
    responses(
        (status = 200, description = "A page of events; or a stream, in which `id` is the number of the \
                                      event, `event` its kind and `data` the event itself.",
            content((EventList = "application/json"), (String = "text/event-stream"))),
        (status = 400, description = "`invalid-parameter`.", body = ErrorResponse),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 429, description = "`too-many-streams`.", body = ErrorResponse),
    ))]
pub(super) async fn list(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    let (mut after, limit) = parse_query(query.as_deref().unwrap_or_default())?;
    if accepts_event_stream(&headers) {
        if let Some(last) = headers.get("last-event-id") {
            after = parse_last_event_id(last, &cast.id)?;
        }
        let permit = acquire_stream(&rest, &caller)?;
        return Ok(stream_response(rest.service, caller, cast.id, after, permit));
    }
    let events = rest.service.fleet.events(&cast.id, after, limit).await?;
    let next = events.last().filter(|_| events.len() == limit).map(|last| last.seq);
    let events = events.iter().map(|event| EventView::new(&cast.id, event)).collect();
    Ok(json_response(StatusCode::OK, &EventList { events, next }))
}

/// Takes a permit for one more stream of a caller.
pub(super) fn acquire_stream(rest: &RestState, caller: &Caller) -> Result<StreamPermit, ApiError> {
    let owner = match caller {
        Caller::Application(app) => app.name.as_str(),
        // No application has an empty name.
        Caller::Administrator => "",
    };
    rest.streams.try_acquire(owner).ok_or_else(|| {
        let message = "too many event streams are open: close some, or request pages instead";
        ApiError::retry_later(ErrorCode::TooManyStreams, message, 10)
    })
}

pub(super) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let listed = |value: &HeaderValue| {
        let kinds = value.to_str().unwrap_or_default().split(',');
        kinds
            .map(|media_type| media_type.split(';').next().unwrap_or_default().trim())
            .any(|media_type| media_type == "text/event-stream")
    };
    headers.get_all(ACCEPT).iter().any(listed)
}

fn parse_query(query: &str) -> Result<(u64, usize), ApiError> {
    let (mut after, mut limit) = (0, DEFAULT_LIMIT);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "after" => after = parse_seq("after", &value)?,
            "limit" => {
                let given = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                limit = given.ok_or_else(|| ApiError::invalid_parameter("limit", "it must be 1 to 1000"))?;
            }
            _ => {
                return Err(ApiError::invalid_parameter(
                    name,
                    "there is no such parameter: use after and limit",
                ));
            }
        }
    }
    Ok((after, limit))
}

fn parse_seq(field: &str, text: &str) -> Result<u64, ApiError> {
    // The database stores numbers of events as signed integers.
    let seq = text.parse::<u64>().ok().filter(|seq| i64::try_from(*seq).is_ok());
    seq.ok_or_else(|| ApiError::invalid_parameter(field, "it must be the number of an event, or 0"))
}

/// Parses the number of an event, or its id.
fn parse_last_event_id(value: &HeaderValue, cast: &CastId) -> Result<u64, ApiError> {
    let text = value.to_str().unwrap_or("?");
    let own = text.strip_prefix(cast.as_str()).and_then(|rest| rest.strip_prefix('-'));
    parse_seq("Last-Event-ID", own.unwrap_or(text))
}

struct EventReader {
    service: Service,
    caller: Caller,
    cast: CastId,
    after: u64,
    buffered: VecDeque<Event>,
    changes: watch::Receiver<u64>,
    last_poll: Option<Instant>,
    _permit: StreamPermit,
}

impl EventReader {
    /// The next event. `None` after the last one, and when the fleet fails.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.buffered.pop_front() {
                self.after = event.seq;
                return Some(event);
            }
            if let Some(last_poll) = self.last_poll {
                sleep_until(last_poll + MIN_POLL_INTERVAL).await;
            }
            self.last_poll = Some(Instant::now());
            self.changes.borrow_and_update();
            let fleet = &self.service.fleet;
            // The cast is read before its events: a closed cast gets no further ones.
            let closed = fleet.get(&self.cast).await.ok()?.is_none_or(|cast| cast.closed);
            self.buffered.extend(fleet.events(&self.cast, self.after, MAX_LIMIT).await.ok()?);
            if self.buffered.is_empty() {
                // On shutdown and after a change of its application, the client reconnects and is
                // authenticated again.
                if closed || self.service.is_draining() || !self.caller.is_unchanged(&self.service) {
                    return None;
                }
                if let Ok(Err(_)) = timeout(MAX_POLL_INTERVAL, self.changes.changed()).await {
                    return None;
                }
            }
        }
    }
}

fn stream_response(
    service: Service,
    caller: Caller,
    cast: CastId,
    after: u64,
    permit: StreamPermit,
) -> Response {
    let changes = service.fleet.changes();
    let buffered = VecDeque::new();
    let reader =
        EventReader { service, caller, cast, after, buffered, changes, last_poll: None, _permit: permit };
    let alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL).text("keep-alive");
    unbuffered(Sse::new(sse_events(reader)).keep_alive(alive).into_response())
}

/// Tells caches and proxies to pass a stream on as it comes.
pub(super) fn unbuffered(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn sse_events(reader: EventReader) -> impl Stream<Item = Result<Sent, Infallible>> {
    unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        let view = EventView::new(&reader.cast, &event);
        let data = serde_json::to_string(&view).unwrap_or_default();
        Some((Ok(Sent::default().id(event.seq.to_string()).event(view.event).data(data)), reader))
    })
}
