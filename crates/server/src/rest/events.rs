//! What happened to a cast: a page of it, or all of it as it happens (server-sent events, as HTML has them).

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
use super::{ApiError, Caller, RestState, json_response};
use crate::service::Service;

/// Events on a page, if nobody says otherwise.
const DEFAULT_LIMIT: usize = 100;
/// Most events on a page, and read at once for a stream.
const MAX_LIMIT: usize = 1000;
/// A stream says that it is there, at least so often; tests do not wait for that.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 15_000 });
/// Time between two looks of one stream: what happens in between is told together.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// A stream looks again after so long, even if nothing is said to be new.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// One step in the history of a cast.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(super) struct EventView {
    /// Names it among all events of all casts: who hears it twice can tell.
    pub(super) id: String,
    /// From 1, without a gap within its cast.
    seq: u64,
    /// When (RFC 3339).
    at: String,
    /// `queued`, `started`, `live`, `reloaded`, `moved`, `restarted`, `taken-up`, `unrecorded`, `push`,
    /// `room`, `storing`, `warning`, `ended` or `stored`.
    #[schema(example = "live")]
    pub(super) event: &'static str,
    /// `reloaded` and `moved`: what was wrong with the page: `start-timeout`, `freeze`, `blank`, `crash` or
    /// `unreachable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'static str>,
    /// `push`: where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    push: Option<PushView>,
    /// `room`: where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<RoomStateView>,
    /// `storing`: what waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    storing: Option<UploadView>,
    /// `warning`: what the page's owner should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<WarningView>,
    /// `ended`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndView>,
    /// `stored`: what.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<StoredView>,
}

/// Where a room stands.
#[derive(Serialize, ToSchema)]
struct RoomStateView {
    /// `idle`, `connecting`, `running`, `recovering`, `failed` or `disconnecting`.
    #[schema(value_type = String)]
    state: connection::State,
    /// Why it does not run, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How storing a recording gets on.
#[derive(Serialize, ToSchema)]
struct UploadView {
    /// Whether it has been failing for a while.
    stuck: bool,
    /// Files that wait.
    pending: usize,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Some events, in order.
#[derive(Serialize, ToSchema)]
pub(super) struct EventList {
    /// They.
    events: Vec<EventView>,
    /// The parameter `after` for those behind them, if there may be more already.
    next: Option<u64>,
}

impl EventView {
    /// An event of a cast.
    pub(super) fn new(cast: &CastId, event: &Event) -> Self {
        let plain = |word| Self {
            id: event.id(cast),
            seq: event.seq,
            at: rfc3339(event.at_ms),
            event: word,
            trouble: None,
            push: None,
            room: None,
            storing: None,
            warning: None,
            end: None,
            stored: None,
        };
        match &event.kind {
            EventKind::Queued => plain("queued"),
            EventKind::Started => plain("started"),
            EventKind::Live => plain("live"),
            EventKind::Reloaded { fault: trouble } => {
                Self { trouble: Some(fault_name(*trouble)), ..plain("reloaded") }
            }
            EventKind::Moved { fault: trouble } => {
                Self { trouble: Some(fault_name(*trouble)), ..plain("moved") }
            }
            EventKind::Restarted => plain("restarted"),
            EventKind::Resumed => plain("taken-up"),
            EventKind::RecordingStopped => plain("unrecorded"),
            EventKind::Warning { warning } => {
                Self { warning: Some(WarningView::new(*warning)), ..plain("warning") }
            }
            EventKind::Push { id, url, state, error } => {
                Self { push: Some(PushView::new(*id, url, *state, error.as_ref())), ..plain("push") }
            }
            EventKind::Room { state, error } => {
                Self { room: Some(RoomStateView { state: *state, error: error.clone() }), ..plain("room") }
            }
            EventKind::Upload { failing: stuck, pending, error: problem } => {
                let storing = UploadView { stuck: *stuck, pending: *pending, problem: problem.clone() };
                Self { storing: Some(storing), ..plain("storing") }
            }
            EventKind::Ended { reason, message, cause } => {
                Self { end: Some(EndView::new(*reason, message.as_ref(), cause.as_ref())), ..plain("ended") }
            }
            EventKind::Stored { files, complete, backup, error: problem } => {
                let stored = stored_view(files, *complete, *backup, problem.as_ref());
                Self { stored: Some(stored), ..plain("stored") }
            }
        }
    }
}

/// What happened to a cast. With `Accept: text/event-stream` all of it as it happens, until nothing more can.
#[utoipa::path(get, path = "/v1/casts/{id}/events", tag = "casts", operation_id = "listEvents",
    params(
        ("id" = String, Path, description = "The cast."),
        ("after" = Option<u64>, Query, description = "Behind the event of this number; 0 from the beginning."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many, 1 to 1000; 100 if left out. Not for streams."),
        ("Last-Event-ID" = Option<String>, Header, description = "For streams: behind this event."),
    ),
    responses(
        (status = 200, description = "A page of them; or a stream, each with its number as id, its word as event and itself as data.",
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
        let whose = match &caller {
            Caller::Application(app) => app.name.as_str(),
            // No application is called so.
            Caller::Administrator => "",
        };
        let place = rest.streams.try_acquire(whose).ok_or_else(|| {
            let words = "as many streams of events are open as may be: close some, or ask for pages";
            ApiError::retry_later(StatusCode::TOO_MANY_REQUESTS, "too-many-streams", words, 10)
        })?;
        return Ok(stream_response(rest.service, caller, cast.id, after, place));
    }
    let events = rest.service.fleet.events(&cast.id, after, limit).await?;
    let next = events.last().filter(|_| events.len() == limit).map(|last| last.seq);
    let events = events.iter().map(|event| EventView::new(&cast.id, event)).collect();
    Ok(json_response(StatusCode::OK, &EventList { events, next }))
}

fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let listed = |value: &HeaderValue| {
        let kinds = value.to_str().unwrap_or_default().split(',');
        kinds
            .map(|kind| kind.split(';').next().unwrap_or_default().trim())
            .any(|kind| kind == "text/event-stream")
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
                limit =
                    given.ok_or_else(|| ApiError::invalid_parameter("limit", "1 to 1000 are possible"))?;
            }
            _ => return Err(ApiError::invalid_parameter(name, "there is no such parameter")),
        }
    }
    Ok((after, limit))
}

fn parse_seq(field: &str, text: &str) -> Result<u64, ApiError> {
    // Numbers of events are kept as signed ones.
    let seq = text.parse::<u64>().ok().filter(|seq| i64::try_from(*seq).is_ok());
    seq.ok_or_else(|| ApiError::invalid_parameter(field, "write the number of an event, or 0"))
}

/// The number of an event, or its id.
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
    /// The next event; `None` when there will be none any more, or nobody can tell.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.buffered.pop_front() {
                self.after = event.seq;
                return Some(event);
            }
            if let Some(looked) = self.last_poll {
                sleep_until(looked + MIN_POLL_INTERVAL).await;
            }
            self.last_poll = Some(Instant::now());
            self.changes.borrow_and_update();
            let fleet = &self.service.fleet;
            // First the cast: what it has when it is closed is all that it will ever have.
            let closed = fleet.get(&self.cast).await.ok()?.is_none_or(|cast| cast.closed);
            self.buffered.extend(fleet.events(&self.cast, self.after, MAX_LIMIT).await.ok()?);
            if self.buffered.is_empty() {
                // Whoever listens comes again, to whoever is there then, and with a token that is good then.
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
    place: StreamPermit,
) -> Response {
    let changes = service.fleet.changes();
    let waiting = VecDeque::new();
    let reader = EventReader {
        service,
        caller,
        cast,
        after,
        buffered: waiting,
        changes,
        last_poll: None,
        _permit: place,
    };
    let alive = KeepAlive::new().interval(KEEP_ALIVE_INTERVAL).text("still here");
    let mut response = Sse::new(sse_events(reader)).keep_alive(alive).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect answers before they pass them on would hold it back.
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
