//! Casts: asked for, looked at, listed, ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use chrono::DateTime;
use pagecast_fleet::{
    Cast, CastId, CastKey, CastState, Command, CreateOutcome, Error, Filter, KeyRetention, NewCast, UnixMs,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::applications::keys::hex;
use super::create_cast::{CreateCastRequest, CreateContext};
use super::error::ErrorResponse;
use super::view::{CastView, OutputStates};
use super::{ApiError, Caller, Json, ORIGIN, RestState, json_response};
use crate::app::{Application, CallbackReceiver};
use crate::service::Service;

/// How long a key of a request is remembered: 24 hours.
const IDEMPOTENCY_KEY_TTL_MS: UnixMs = 86_400_000;
/// Longest key of a request, in characters.
const MAX_IDEMPOTENCY_KEY_LEN: usize = 128;
/// Casts on a page of a list, if nobody says otherwise.
const DEFAULT_LIMIT: usize = 50;
/// Most casts on a page of a list.
const MAX_LIMIT: usize = 500;
/// Events that are read at once for the state of the outputs.
const EVENT_BATCH_LEN: usize = 500;
/// Most events that are read for it; a cast with more has outputs that change for ever, and shows how they
/// were.
const MAX_EVENTS_READ: usize = 20_000;
/// When to ask again for a cast that was one too many, in seconds.
const RETRY_AFTER_S: u64 = 10;

/// What is kept of a request: see `NewCast::request`.
#[derive(Serialize, Deserialize)]
struct StoredRequest {
    /// SHA-256 of the body, read and written again.
    #[serde(default)]
    hash: String,
    /// Who is told, instead of the application's receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<CallbackReceiver>,
}

/// Some casts, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct CastList {
    /// They. The states of their outputs are only those of the moment: look at one for more.
    casts: Vec<CastView>,
    /// The parameter `after` for those behind them, if there are more.
    next: Option<String>,
}

/// The parameters of a list.
#[derive(Default)]
struct ListQuery {
    filter: Filter,
}

/// Asks for a cast.
#[utoipa::path(post, path = "/v1/casts", tag = "casts", operation_id = "createCast", request_body = CreateCastRequest,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 128 printable ASCII characters. The same key with the same body within 24 hours is the same cast.")),
    responses(
        (status = 201, description = "It is queued.", body = CastView, headers(("Location" = String, description = "Where it is."))),
        (status = 200, description = "It was asked for before, with this key.", body = CastView,
            headers(("Idempotent-Replayed" = String, description = "`true`"))),
        (status = 400, description = "`invalid-json`, `invalid-parameter`, `no-output`.", body = ErrorResponse),
        (status = 409, description = "`idempotency-key-reused`: with another body; `no-rooms`.", body = ErrorResponse),
        (status = 429, description = "`too-many-casts`, `queue-full`, `too-many-bytes`, `too-many-requests`.", body = ErrorResponse,
            headers(("Retry-After" = u64, description = "When to try again, in seconds."))),
    ))]
pub(super) async fn create(
    State(rest): State<RestState>,
    caller: Caller,
    headers: HeaderMap,
    Json { value: mut wish, bytes }: Json<CreateCastRequest>,
) -> Result<Response, ApiError> {
    let service = &rest.service;
    let app = caller.resolve_application(service, wish.app.as_deref())?;
    let key = idempotency_key(&headers)?.map(|key| CastKey(format!("{ORIGIN}/{}/{key}", app.name)));
    let asked = StoredRequest {
        hash: body_hash(&bytes),
        callback: wish.callback.take().map(|callback| callback.into_receiver(&app)).transpose()?,
    };
    let new = new_cast(service, &caller, &app, wish, key, &asked)?;
    match service.create(new).await? {
        CreateOutcome::New(cast) => {
            let mut response = json_response(StatusCode::CREATED, &load_cast_view(service, &cast).await?);
            set_header(&mut response, LOCATION, &format!("/v1/casts/{}", cast.id));
            Ok(response)
        }
        CreateOutcome::Exists(cast) => {
            let before =
                StoredRequest::deserialize(&cast.request).map(|before| before.hash).unwrap_or_default();
            if before != asked.hash {
                let words = "this key was used for another cast within the last 24 hours: take a new one";
                return Err(ApiError::conflict("idempotency-key-reused", words).with_field("Idempotency-Key"));
            }
            let mut response = json_response(StatusCode::OK, &load_cast_view(service, &cast).await?);
            set_header(&mut response, LOCATION, &format!("/v1/casts/{}", cast.id));
            set_header(&mut response, HeaderName::from_static("idempotent-replayed"), "true");
            Ok(response)
        }
        CreateOutcome::QuotaExceeded => {
            let words = format!(
                "the application has as many casts as it may have at the same time, {}, with those of the last minute that were \
                 stopped or failed before they began",
                app.max_casts
            );
            Err(ApiError::retry_later(StatusCode::TOO_MANY_REQUESTS, "too-many-casts", words, RETRY_AFTER_S))
        }
        CreateOutcome::QueueFull => {
            let words = "as many casts wait for room on the machines as may wait";
            Err(ApiError::retry_later(StatusCode::TOO_MANY_REQUESTS, "queue-full", words, RETRY_AFTER_S))
        }
        CreateOutcome::BytesExceeded(kept) => {
            let words = app.quota_exceeded_message(kept);
            Err(ApiError::retry_later(StatusCode::TOO_MANY_REQUESTS, "too-many-bytes", words, RETRY_AFTER_S))
        }
    }
}

fn new_cast(
    service: &Service,
    caller: &Caller,
    app: &Arc<Application>,
    wish: CreateCastRequest,
    key: Option<CastKey>,
    asked: &StoredRequest,
) -> Result<NewCast, ApiError> {
    let id = service.new_cast_id();
    let now = service.now();
    let queue = Duration::from_secs(wish.queue_timeout_s(service)?);
    let asker = CreateContext { service, app, id: &id, is_administrator: caller.is_administrator() };
    let spec = wish.into_spec(&asker)?;
    Ok(NewCast {
        id,
        app: app.name.clone(),
        api: ORIGIN.to_owned(),
        key_retention: if key.is_some() {
            KeyRetention::Until(now.saturating_add(IDEMPOTENCY_KEY_TTL_MS))
        } else {
            KeyRetention::UntilEnded
        },
        key,
        request: serde_json::to_value(asked).unwrap_or_default(),
        spec,
        queue_timeout: queue,
        quota: app.max_casts,
        max_bytes: app.max_kept_bytes(),
        queue_limit: service.config.casts.queue_limit,
        notify: asked.callback.is_some() || app.callbacks.native.is_some(),
    })
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

/// The same for bodies that say the same, however they are spaced and ordered.
fn body_hash(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut text = HashWriter(digest::Context::new(&digest::SHA256));
    // Nothing of a value fails to be written, nor does this writer.
    let _written = serde_json::to_writer(&mut text, &value);
    hex(text.0.finish().as_ref())
}

/// Takes the hash of what is written to it.
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

fn set_header(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A cast with all that is known of it.
pub(super) async fn load_cast_view(service: &Service, cast: &Cast) -> Result<CastView, ApiError> {
    let mut outputs = OutputStates::default();
    let mut after = 0;
    loop {
        let events = service.fleet.events(&cast.id, after, EVENT_BATCH_LEN).await?;
        events.iter().for_each(|event| outputs.apply(event));
        match events.last() {
            Some(last) if events.len() == EVENT_BATCH_LEN && last.seq < MAX_EVENTS_READ as u64 => {
                after = last.seq;
            }
            _ => break,
        }
    }
    let vitals = service.fleet.stats(&cast.id).await;
    Ok(CastView::new(service, cast, vitals.as_ref(), outputs))
}

/// A cast.
#[utoipa::path(get, path = "/v1/casts/{id}", tag = "casts", operation_id = "getCast",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It.", body = CastView),
        (status = 404, description = "`no-such-cast`.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let cast = caller.find_cast(&rest.service, &id).await?;
    Ok(json_response(StatusCode::OK, &load_cast_view(&rest.service, &cast).await?))
}

/// Casts of the application, or of all applications for the administrator, the newest first.
///
/// Those of all APIs are among them.
#[utoipa::path(get, path = "/v1/casts", tag = "casts", operation_id = "listCasts",
    params(
        ("state" = Option<String>, Query, pattern = "^(queued|starting|live|ended)(,(queued|starting|live|ended))*$", description = "`queued`, `starting`, `live`, `ended`; several with commas."),
        ("origin" = Option<String>, Query, pattern = "^(v1|volcengine|tencent)$", description = "`v1`, `volcengine`, `tencent`."),
        ("since" = Option<String>, Query, format = DateTime, description = "Asked for at this time (RFC 3339) or later."),
        ("before" = Option<String>, Query, format = DateTime, description = "Asked for before this time (RFC 3339)."),
        ("app" = Option<String>, Query, description = "Of this application."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "At most so many, 1 to 500; 50 if left out."),
        ("after" = Option<String>, Query, pattern = "^[0-9a-f]{32}$", description = "Behind this one: `next` of the page before."),
    ),
    responses((status = 200, description = "A page of them.", body = CastList),
        (status = 400, description = "`invalid-parameter`.", body = ErrorResponse)))]
pub(super) async fn list(
    State(rest): State<RestState>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mut filter = ListQuery::parse(query.as_deref().unwrap_or_default())?.filter;
    if let Caller::Application(app) = &caller {
        if filter.app.as_ref().is_some_and(|name| *name != app.name) {
            return Err(ApiError::forbidden("this token is another application's").with_field("app"));
        }
        filter.app = Some(app.name.clone());
    }
    let page = rest.service.fleet.list(&filter).await?;
    let next = page.casts.last().filter(|_| page.has_more).map(|cast| cast.id.to_string());
    let mut casts = Vec::with_capacity(page.casts.len());
    for cast in &page.casts {
        let vitals = rest.service.fleet.stats(&cast.id).await;
        casts.push(CastView::new(&rest.service, cast, vitals.as_ref(), OutputStates::default()));
    }
    Ok(json_response(StatusCode::OK, &CastList { casts, next }))
}

impl ListQuery {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut filter = Filter { limit: DEFAULT_LIMIT, ..Filter::default() };
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name != "state" && seen.contains(&name) {
                return Err(ApiError::invalid_parameter(name, "it is given twice"));
            }
            match &*name {
                "state" => {
                    for word in value.split(',') {
                        let state = CastState::ALL.into_iter().find(|state| state.as_str() == word);
                        let state = state.ok_or_else(|| {
                            ApiError::invalid_parameter(
                                "state",
                                "queued, starting, live and ended are possible",
                            )
                        })?;
                        if !filter.states.contains(&state) {
                            filter.states.push(state);
                        }
                    }
                }
                "origin" => filter.api = Some(parse_origin(&value)?),
                "app" => filter.app = Some(value.chars().take(65).collect()),
                "since" => filter.since_ms = Some(parse_time("since", &value)?),
                "before" => filter.before_ms = Some(parse_time("before", &value)?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    filter.limit =
                        limit.ok_or_else(|| ApiError::invalid_parameter("limit", "1 to 500 are possible"))?;
                }
                "after" => {
                    let id = CastId::parse(&value);
                    filter.after =
                        Some(id.map_err(|error| ApiError::invalid_parameter("after", error.to_string()))?);
                }
                _ => return Err(ApiError::invalid_parameter(name, "there is no such parameter")),
            }
            seen.push(name);
        }
        Ok(Self { filter })
    }
}

fn parse_origin(text: &str) -> Result<String, ApiError> {
    if [ORIGIN, "volcengine", "tencent"].contains(&text) {
        return Ok(text.to_owned());
    }
    Err(ApiError::invalid_parameter("origin", "v1, volcengine and tencent are possible"))
}

fn parse_time(field: &str, text: &str) -> Result<UnixMs, ApiError> {
    // A + that nobody escaped has become a blank.
    let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+"));
    let time =
        time.map_err(|_| ApiError::invalid_parameter(field, "write a time like 2026-11-21T17:00:00Z"))?;
    Ok(time.timestamp_millis())
}

/// Ends a cast. Whoever asks twice gets the same.
#[utoipa::path(post, path = "/v1/casts/{id}/stop", tag = "casts", operation_id = "stopCast",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It is over, or will be soon.", body = CastView),
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
            // It ended while we asked.
            Ok(()) | Err(Error::CastEnded(_)) => {}
            Err(error) => return Err(error.into()),
        }
        cast = caller.find_cast(service, &id).await?;
    }
    Ok(json_response(StatusCode::OK, &load_cast_view(service, &cast).await?))
}
