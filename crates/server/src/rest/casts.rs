//! Casts: create, get, list and stop.

use std::io;
use std::sync::Arc;

use aws_lc_rs::digest;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base16ct::lower::encode_string as hex;
use chrono::DateTime;
use pagecast_fleet::{
    Cast, CastId, CastKey, CastState, Command, CreateOutcome, Error, Event, Filter, KeyRetention, NewCast,
    UnixMs,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::audit::Created;
use super::create_cast::{CreateCastRequest, CreateContext};
use super::error::ErrorResponse;
use super::events::{accepts_event_stream, acquire_stream};
use super::queue::QueueSnapshot;
use super::session::SessionId;
use super::view::{CastView, OutputStates};
use super::{API, ApiError, Caller, ErrorCode, Json, RestState, cast_stream, json_response};
use crate::app::{Application, CallbackReceiver};
use crate::new_cast::CastDraft;
use crate::request_record::without_secrets;
use crate::service::Service;

/// Time that an idempotency key is kept, in milliseconds: 24 hours, longer than clients retry.
const IDEMPOTENCY_KEY_TTL_MS: UnixMs = 86_400_000;
/// Longest idempotency key, in characters: room for a UUID with a prefix.
const MAX_IDEMPOTENCY_KEY_LEN: usize = 128;
/// Casts on a page of a list by default.
const DEFAULT_LIMIT: usize = 50;
/// Most casts on a page of a list: about 1 MiB of JSON.
const MAX_LIMIT: usize = 500;
/// Events in one read for the state of the outputs.
const EVENT_BATCH_LEN: usize = 500;
/// Most events that are read for the state of the outputs. A cast with more events has outputs that change
/// constantly, and is shown with an old state.
const MAX_EVENTS_READ: usize = 20_000;
/// Value of `Retry-After` when a limit on casts is reached, in seconds: places become free when casts end.
const RETRY_AFTER_S: u64 = 10;

/// Stored form of a request, [`CastDraft::request`].
#[derive(Serialize)]
struct StoredRequest {
    /// SHA-256 of the body in canonical form.
    hash: String,
    /// The body without secrets, [`BODY_FIELD`](crate::request_record::BODY_FIELD).
    body: Value,
    /// Receiver of callbacks, instead of the application's.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<CallbackReceiver>,
}

/// A page of casts.
#[derive(Serialize, ToSchema)]
pub(super) struct CastList {
    /// The casts, newest first. Only `GET /v1/casts/{id}` shows complete states of outputs.
    casts: Vec<CastView>,
    /// Value of the parameter `after` for the next page, if there is one.
    next: Option<String>,
}

/// Query parameters of a list.
#[derive(Default)]
struct ListQuery {
    filter: Filter,
}

/// Create a cast.
#[utoipa::path(post, path = "/v1/casts", tag = "casts", operation_id = "createCast",
    request_body = CreateCastRequest,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 128 printable ASCII characters. A repeated request with the same key and body \
                       within 24 hours returns the same cast.")),
    responses(
        (status = 201, description = "The cast is queued.", body = CastView,
            headers(("Location" = String, description = "Path of the cast."))),
        (status = 200, description = "This key already created the cast.", body = CastView,
            headers(("Idempotent-Replayed" = String, description = "`true`"))),
        (status = 400, description = "`invalid-json`, `invalid-parameter`, \
                                      `no-output`.", body = ErrorResponse),
        (status = 409, description = "`idempotency-key-reused`: the key was used with another body; \
                                      `rooms-disabled`.", body = ErrorResponse),
        (status = 429, description = "`too-many-casts`, `queue-full`, `history-quota-exceeded`, \
                                      `too-many-requests`.", body = ErrorResponse,
            headers(("Retry-After" = u64, description = "Time after which to try again, in seconds."))),
    ))]
pub(super) async fn create(
    State(rest): State<RestState>,
    caller: Caller,
    headers: HeaderMap,
    Json { value: mut body, bytes }: Json<CreateCastRequest>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let app = caller.resolve_application(service, body.app.as_deref())?;
    let key = idempotency_key(&headers)?.map(|key| CastKey(format!("{API}/{}/{key}", app.name)));
    let sent: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let stored = StoredRequest {
        hash: body_hash(&sent),
        body: without_secrets(&sent),
        callback: body.callback.take().map(|callback| callback.into_receiver(&app)).transpose()?,
    };
    let new = new_cast(service, &caller, &app, body, key, &stored)?;
    match service.create(new).await? {
        CreateOutcome::New(cast) => {
            let mut response = json_response(StatusCode::CREATED, &load_cast_view(service, &cast).await?);
            set_header(&mut response, LOCATION, &format!("/v1/casts/{}", cast.id));
            let created = Created { id: cast.id.to_string(), app: Some(cast.app) };
            response.extensions_mut().insert(created);
            Ok(response)
        }
        CreateOutcome::Exists(cast) => {
            if cast.request["hash"] != stored.hash.as_str() {
                let message = "this key was used with another body within the last 24 hours: use a new key";
                return Err(
                    ApiError::new(ErrorCode::IdempotencyKeyReused, message).with_field("Idempotency-Key")
                );
            }
            let mut response = json_response(StatusCode::OK, &load_cast_view(service, &cast).await?);
            set_header(&mut response, LOCATION, &format!("/v1/casts/{}", cast.id));
            set_header(&mut response, HeaderName::from_static("idempotent-replayed"), "true");
            Ok(response)
        }
        CreateOutcome::QuotaExceeded => {
            let message = format!(
                "the application's limit of {} casts at the same time is reached, counting those of the \
                 last minute that \
                 ended before they began: stop one, or try again later",
                app.settings.max_casts
            );
            Err(ApiError::retry_later(ErrorCode::TooManyCasts, message, RETRY_AFTER_S))
        }
        CreateOutcome::QueueFull => {
            let message = "the queue is full";
            Err(ApiError::retry_later(ErrorCode::QueueFull, message, RETRY_AFTER_S))
        }
        CreateOutcome::BytesExceeded(kept) => {
            let message = app.quota_exceeded_message(kept);
            Err(ApiError::retry_later(ErrorCode::HistoryQuotaExceeded, message, RETRY_AFTER_S))
        }
    }
}

fn new_cast(
    service: &Service,
    caller: &Caller,
    app: &Arc<Application>,
    body: CreateCastRequest,
    key: Option<CastKey>,
    stored: &StoredRequest,
) -> Result<NewCast, ApiError> {
    let id = service.new_cast_id();
    let queue_timeout = body.queue_timeout(service)?;
    let is_administrator = caller.is_administrator();
    let context = CreateContext { service, app, id: &id, is_administrator, is_dry_run: false };
    let spec = body.into_spec(&context)?;
    let retention = KeyRetention::Until(service.now().saturating_add(IDEMPOTENCY_KEY_TTL_MS));
    let draft = CastDraft {
        id,
        api: API,
        key: key.map(|key| (key, retention)),
        request: serde_json::to_value(stored).unwrap_or_default(),
        spec,
        queue_timeout,
        notify: stored.callback.is_some() || app.settings.callbacks.native.is_some(),
    };
    Ok(draft.into_new_cast(service, app))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let plain = |text: &&str| {
        (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&text.len())
            && text.bytes().all(|c| c == b' ' || c.is_ascii_graphic())
    };
    match value.to_str().ok().filter(plain) {
        Some(text) if values.next().is_none() => Ok(Some(text)),
        _ => Err(ApiError::invalid_parameter(NAME, "send one key of 1 to 128 printable ASCII characters")),
    }
}

/// Hash of a body, independent of white space and the order of fields.
fn body_hash(body: &Value) -> String {
    let mut hash = HashWriter(digest::Context::new(&digest::SHA256));
    // Neither the value nor this writer can fail.
    let _written = serde_json::to_writer(&mut hash, body);
    hex(hash.0.finish().as_ref())
}

/// Hashes everything written to it.
struct HashWriter(digest::Context);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn set_header(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Reads the events of a cast in order.
pub(super) async fn read_events(
    service: &Service,
    cast: &CastId,
    mut handle: impl FnMut(&Event),
) -> Result<(), ApiError> {
    let mut after = 0;
    loop {
        let events = service.fleet.events(cast, after, EVENT_BATCH_LEN).await?;
        events.iter().for_each(&mut handle);
        match events.last() {
            Some(last) if events.len() == EVENT_BATCH_LEN && last.seq < MAX_EVENTS_READ as u64 => {
                after = last.seq;
            }
            _ => return Ok(()),
        }
    }
}

/// Describes a cast with the complete state of its outputs.
pub(super) async fn load_cast_view(service: &Service, cast: &Cast) -> Result<CastView, ApiError> {
    let mut outputs = OutputStates::default();
    read_events(service, &cast.id, |event| outputs.apply(event)).await?;
    let stats = service.fleet.stats(&cast.id).await;
    let place = QueueSnapshot::load(service, &[cast]).await?.and_then(|queue| queue.place(cast));
    Ok(CastView::new(service, cast, stats.as_ref(), outputs, place))
}

/// Get a cast.
#[utoipa::path(get, path = "/v1/casts/{id}", tag = "casts", operation_id = "getCast",
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 200, description = "The cast.", body = CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    Ok(json_response(StatusCode::OK, &load_cast_view(&rest.service, &cast).await?))
}

/// List casts, newest first.
///
/// Lists the casts of the application, for the administrator those of all applications, whatever API they
/// were created through. With `Accept: text/event-stream` the response is a stream of server-sent events
/// `casts`, at most one each second. The first has all casts that are queued, starting or live, at most the
/// newest 5000; the others have those that changed, once more when they are closed. Their data is
/// `{"casts": [Cast, …], "gone": [ids of deleted casts], "counts": {"queued": 0, "starting": 0, "live": 0,
/// "ended": 0}}`. Of the parameters, only `app` counts for streams.
#[utoipa::path(get, path = "/v1/casts", tag = "casts", operation_id = "listCasts",
    params(
        ("state" = Option<String>, Query,
            pattern = "^(queued|starting|live|ended)(,(queued|starting|live|ended))*$",
            description = "Only casts in these states: `queued`, `starting`, `live`, `ended`; several \
                           with commas."),
        ("api" = Option<String>, Query, pattern = "^(v1|volcengine|tencent)$", description = "Only \
            casts created through this API: `v1`, `volcengine`, `tencent`."),
        ("since" = Option<String>, Query, format = DateTime, description = "Only casts created at this \
            time (RFC 3339) or later."),
        ("before" = Option<String>, Query, format = DateTime, description = "Only casts created before \
            this time (RFC 3339)."),
        ("app" = Option<String>, Query, description = "Only casts of this application."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "Most casts on the page; \
            default 50."),
        ("after" = Option<String>, Query, pattern = "^[0-9a-f]{32}$", description = "Value of `next` of \
            the previous page."),
    ),
    responses((status = 200, description = "A page of casts, or a stream of changes.",
            content((CastList = "application/json"), (String = "text/event-stream"))),
        (status = 400, description = "`invalid-parameter`.", body = ErrorResponse),
        (status = 429, description = "`too-many-streams`.", body = ErrorResponse)))]
pub(super) async fn list(
    State(rest): State<RestState>,
    caller: Caller,
    session: Option<Extension<SessionId>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mut filter = ListQuery::parse(query.as_deref().unwrap_or_default())?.filter;
    if let Caller::Application(app) = &caller {
        if filter.app.as_ref().is_some_and(|name| *name != app.name) {
            return Err(ApiError::forbidden("this token belongs to another application").with_field("app"));
        }
        filter.app = Some(app.name.clone());
    }
    if accepts_event_stream(&headers) {
        let permit = acquire_stream(&rest, &caller)?;
        let session = session.map(|Extension(session)| session);
        return Ok(cast_stream::response(rest, caller, session, filter.app, permit));
    }
    let page = rest.service.fleet.list(&filter).await?;
    let next = page.casts.last().filter(|_| page.has_more).map(|cast| cast.id.to_string());
    let mut casts = Vec::with_capacity(page.casts.len());
    let queue = QueueSnapshot::load(&rest.service, &page.casts.iter().collect::<Vec<_>>()).await?;
    let ids: Vec<CastId> = page.casts.iter().map(|cast| cast.id.clone()).collect();
    let stats = rest.service.fleet.stats_of(&ids).await;
    for cast in &page.casts {
        let place = queue.as_ref().and_then(|queue| queue.place(cast));
        casts.push(CastView::new(&rest.service, cast, stats.get(&cast.id), OutputStates::default(), place));
    }
    Ok(json_response(StatusCode::OK, &CastList { casts, next }))
}

impl ListQuery {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut filter = Filter { limit: DEFAULT_LIMIT, ..Filter::default() };
        let mut seen_names = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name != "state" && seen_names.contains(&name) {
                return Err(ApiError::invalid_parameter(name, "the parameter is present twice"));
            }
            match &*name {
                "state" => {
                    for name_of_state in value.split(',') {
                        let state = CastState::ALL.into_iter().find(|state| state.as_str() == name_of_state);
                        let state = state.ok_or_else(|| {
                            ApiError::invalid_parameter("state", "it must be queued, starting, live or ended")
                        })?;
                        if !filter.states.contains(&state) {
                            filter.states.push(state);
                        }
                    }
                }
                "api" => filter.api = Some(parse_api(&value)?),
                "app" => filter.app = Some(value.chars().take(65).collect()),
                "since" => filter.since_ms = Some(parse_time("since", &value)?),
                "before" => filter.before_ms = Some(parse_time("before", &value)?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    filter.limit =
                        limit.ok_or_else(|| ApiError::invalid_parameter("limit", "it must be 1 to 500"))?;
                }
                "after" => {
                    let id = CastId::parse(&value);
                    filter.after =
                        Some(id.map_err(|error| ApiError::invalid_parameter("after", error.to_string()))?);
                }
                _ => return Err(ApiError::invalid_parameter(name, "there is no such parameter")),
            }
            seen_names.push(name);
        }
        Ok(Self { filter })
    }
}

fn parse_api(text: &str) -> Result<String, ApiError> {
    if crate::route::DIALECTS.iter().any(|dialect| dialect.api == text) {
        return Ok(text.to_owned());
    }
    Err(ApiError::invalid_parameter("api", "it must be v1, volcengine or tencent"))
}

fn parse_time(field: &str, text: &str) -> Result<UnixMs, ApiError> {
    // An unescaped + was decoded as a blank.
    let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+"));
    let time =
        time.map_err(|_| ApiError::invalid_parameter(field, "it must be a time like 2026-11-21T17:00:00Z"))?;
    Ok(time.timestamp_millis())
}

/// Stop a cast. Stopping it again changes nothing.
#[utoipa::path(post, path = "/v1/casts/{id}/stop", tag = "casts", operation_id = "stopCast",
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 200, description = "The cast has ended, or will soon.", body = CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn stop(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let mut cast = caller.find_cast(service, &id).await?;
    if cast.state != CastState::Ended && !cast.stop_requested {
        match service.fleet.send_command(&cast.id, Command::Stop).await {
            // It ended in the meantime.
            Ok(()) | Err(Error::CastEnded(_)) => {}
            Err(error) => return Err(error.into()),
        }
        cast = caller.find_cast(service, &id).await?;
    }
    Ok(json_response(StatusCode::OK, &load_cast_view(service, &cast).await?))
}

/// Move a cast to another node.
///
/// The node that runs the cast ends its page, and another node opens it anew and goes on with the same
/// recording, pushes and room; the same node does, if no other one takes the cast within some seconds.
/// Outputs have a gap of a few seconds, and the cast has the event `resumed`. What was recorded and not
/// stored yet is stored by the node that the cast has left.
#[utoipa::path(post, path = "/v1/casts/{id}/move", tag = "casts", operation_id = "moveCast",
    params(("id" = String, Path, description = "Id of the cast.")),
    responses((status = 202, description = "The cast moves within a second or two.", body = CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse),
        (status = 409, description = "`not-running`: no node runs the cast yet; `cast-ended`: it has \
                                      ended, or its stop was requested.", body = ErrorResponse),
        (status = 503, description = "`too-many-commands`, `unavailable`.", body = ErrorResponse)))]
pub(super) async fn move_cast(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let cast = caller.find_cast(service, &id).await?;
    if cast.state == CastState::Queued {
        return Err(ApiError::new(ErrorCode::NotRunning, "no node runs this cast yet"));
    }
    if cast.state == CastState::Ended || cast.stop_requested {
        return Err(ApiError::new(ErrorCode::CastEnded, "this cast has ended, or will soon"));
    }
    service.fleet.send_command(&cast.id, Command::Move).await?;
    Ok(json_response(StatusCode::ACCEPTED, &load_cast_view(service, &cast).await?))
}
