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
    Cast, CastId, Command, Created, Error, Filter, Hold, Key, NewCast, State as CastState, UnixMs,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::applications::keys::hex;
use super::problem::Answer;
use super::view::{CastView, Outputs};
use super::wish::{Asker, Wish};
use super::{Caller, Json, ORIGIN, Problem, Rest, answer};
use crate::app::{Application, Receiver};
use crate::service::Service;

/// How long a key of a request is remembered: 24 hours.
const KEY_HELD_MS: UnixMs = 86_400_000;
/// Longest key of a request, in characters.
const MAX_KEY_LEN: usize = 128;
/// Casts on a page of a list, if nobody says otherwise.
const USUAL_LIMIT: usize = 50;
/// Most casts on a page of a list.
const MAX_LIMIT: usize = 500;
/// Events that are read at once for the state of the outputs.
const EVENTS_AT_ONCE: usize = 500;
/// Most events that are read for it; a cast with more has outputs that change for ever, and shows how they
/// were.
const MAX_EVENTS: usize = 20_000;
/// When to ask again for a cast that was one too many, in seconds.
const RETRY_S: u64 = 10;

/// What is kept of a request: see `NewCast::request`.
#[derive(Serialize, Deserialize)]
struct Asked {
    /// SHA-256 of the body, read and written again.
    #[serde(default)]
    hash: String,
    /// Who is told, instead of the application's receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<Receiver>,
}

/// Some casts, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Casts {
    /// They. The states of their outputs are only those of the moment: look at one for more.
    casts: Vec<CastView>,
    /// The parameter `after` for those behind them, if there are more.
    next: Option<String>,
}

/// The parameters of a list.
#[derive(Default)]
struct Wanted {
    filter: Filter,
}

/// Asks for a cast.
#[utoipa::path(post, path = "/v1/casts", tag = "casts", operation_id = "createCast", request_body = Wish,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 128 printable ASCII characters. The same key with the same body within 24 hours is the same cast.")),
    responses(
        (status = 201, description = "It is queued.", body = CastView, headers(("Location" = String, description = "Where it is."))),
        (status = 200, description = "It was asked for before, with this key.", body = CastView,
            headers(("Idempotent-Replayed" = String, description = "`true`"))),
        (status = 400, description = "`invalid-json`, `invalid-parameter`, `no-output`.", body = Answer),
        (status = 409, description = "`idempotency-key-reused`: with another body; `no-rooms`.", body = Answer),
        (status = 429, description = "`too-many-casts`, `queue-full`, `too-many-bytes`, `too-many-requests`.", body = Answer,
            headers(("Retry-After" = u64, description = "When to try again, in seconds."))),
    ))]
pub(super) async fn create(
    State(rest): State<Rest>,
    caller: Caller,
    headers: HeaderMap,
    Json { value: mut wish, bytes }: Json<Wish>,
) -> Result<Response, Problem> {
    let service = &rest.service;
    let app = caller.application(service, wish.app.as_deref())?;
    let key = idempotency_key(&headers)?.map(|key| Key(format!("{ORIGIN}/{}/{key}", app.name)));
    let asked = Asked {
        hash: hash(&bytes),
        callback: wish.callback.take().map(|callback| callback.receiver(&app)).transpose()?,
    };
    let new = new_cast(service, &caller, &app, wish, key, &asked)?;
    match service.create(new).await? {
        Created::New(cast) => {
            let mut response = answer(StatusCode::CREATED, &shown(service, &cast).await?);
            header(&mut response, LOCATION, &format!("/v1/casts/{}", cast.id));
            Ok(response)
        }
        Created::Exists(cast) => {
            let before = Asked::deserialize(&cast.request).map(|before| before.hash).unwrap_or_default();
            if before != asked.hash {
                let words = "this key was used for another cast within the last 24 hours: take a new one";
                return Err(Problem::conflict("idempotency-key-reused", words).field("Idempotency-Key"));
            }
            let mut response = answer(StatusCode::OK, &shown(service, &cast).await?);
            header(&mut response, LOCATION, &format!("/v1/casts/{}", cast.id));
            header(&mut response, HeaderName::from_static("idempotent-replayed"), "true");
            Ok(response)
        }
        Created::TooMany => {
            let words = format!(
                "the application has as many casts as it may have at the same time, {}, with those of the last minute that were \
                 stopped or failed before they began",
                app.max_casts
            );
            Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, "too-many-casts", words, RETRY_S))
        }
        Created::Full => {
            let words = "as many casts wait for room on the machines as may wait";
            Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, "queue-full", words, RETRY_S))
        }
        Created::OverBytes(kept) => {
            let words = app.over_bytes(kept);
            Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, "too-many-bytes", words, RETRY_S))
        }
    }
}

fn new_cast(
    service: &Service,
    caller: &Caller,
    app: &Arc<Application>,
    wish: Wish,
    key: Option<Key>,
    asked: &Asked,
) -> Result<NewCast, Problem> {
    let id = service.cast_id();
    let now = service.now();
    let queue = Duration::from_secs(wish.queue_s(service)?);
    let asker = Asker { service, app, id: &id, trusted: caller.is_administrator() };
    let spec = wish.spec(&asker)?;
    Ok(NewCast {
        id,
        app: app.name.clone(),
        origin: ORIGIN.to_owned(),
        hold: if key.is_some() { Hold::Until(now.saturating_add(KEY_HELD_MS)) } else { Hold::WhileLive },
        key,
        request: serde_json::to_value(asked).unwrap_or_default(),
        spec,
        queue,
        quota: app.max_casts,
        max_bytes: app.max_kept_bytes(),
        queue_limit: service.config.casts.queue_limit,
        notify: asked.callback.is_some() || app.callbacks.native.is_some(),
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let plain = |text: &&str| {
        (1..=MAX_KEY_LEN).contains(&text.len()) && text.bytes().all(|c| c == b' ' || c.is_ascii_graphic())
    };
    match value.to_str().ok().filter(plain) {
        Some(text) if values.next().is_none() => Ok(Some(text)),
        _ => Err(Problem::value(NAME, "send one key of 1 to 128 printable ASCII characters")),
    }
}

/// The same for bodies that say the same, however they are spaced and ordered.
fn hash(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut text = Hashing(digest::Context::new(&digest::SHA256));
    // Nothing of a value fails to be written, nor does this writer.
    let _written = serde_json::to_writer(&mut text, &value);
    hex(text.0.finish().as_ref())
}

/// Takes the hash of what is written to it.
struct Hashing(digest::Context);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn header(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A cast with all that is known of it.
pub(super) async fn shown(service: &Service, cast: &Cast) -> Result<CastView, Problem> {
    let mut outputs = Outputs::default();
    let mut after = 0;
    loop {
        let events = service.fleet.events(&cast.id, after, EVENTS_AT_ONCE).await?;
        events.iter().for_each(|event| outputs.hear(event));
        match events.last() {
            Some(last) if events.len() == EVENTS_AT_ONCE && last.seq < MAX_EVENTS as u64 => after = last.seq,
            _ => break,
        }
    }
    let vitals = service.fleet.vitals(&cast.id).await;
    Ok(CastView::of(service, cast, vitals.as_ref(), outputs))
}

/// A cast.
#[utoipa::path(get, path = "/v1/casts/{id}", tag = "casts", operation_id = "getCast",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It.", body = CastView),
        (status = 404, description = "`no-such-cast`.", body = Answer)))]
pub(super) async fn get(
    State(rest): State<Rest>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let cast = caller.cast(&rest.service, &id).await?;
    Ok(answer(StatusCode::OK, &shown(&rest.service, &cast).await?))
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
    responses((status = 200, description = "A page of them.", body = Casts),
        (status = 400, description = "`invalid-parameter`.", body = Answer)))]
pub(super) async fn list(
    State(rest): State<Rest>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let mut filter = Wanted::read(query.as_deref().unwrap_or_default())?.filter;
    if let Caller::Application(app) = &caller {
        if filter.app.as_ref().is_some_and(|name| *name != app.name) {
            return Err(Problem::forbidden("this token is another application's").field("app"));
        }
        filter.app = Some(app.name.clone());
    }
    let page = rest.service.fleet.list(&filter).await?;
    let next = page.casts.last().filter(|_| page.more).map(|cast| cast.id.to_string());
    let mut casts = Vec::with_capacity(page.casts.len());
    for cast in &page.casts {
        let vitals = rest.service.fleet.vitals(&cast.id).await;
        casts.push(CastView::of(&rest.service, cast, vitals.as_ref(), Outputs::default()));
    }
    Ok(answer(StatusCode::OK, &Casts { casts, next }))
}

impl Wanted {
    fn read(query: &str) -> Result<Self, Problem> {
        let mut filter = Filter { limit: USUAL_LIMIT, ..Filter::default() };
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name != "state" && seen.contains(&name) {
                return Err(Problem::value(name, "it is given twice"));
            }
            match &*name {
                "state" => {
                    for word in value.split(',') {
                        let state = CastState::ALL.into_iter().find(|state| state.word() == word);
                        let state = state.ok_or_else(|| {
                            Problem::value("state", "queued, starting, live and ended are possible")
                        })?;
                        if !filter.states.contains(&state) {
                            filter.states.push(state);
                        }
                    }
                }
                "origin" => filter.origin = Some(origin(&value)?),
                "app" => filter.app = Some(value.chars().take(65).collect()),
                "since" => filter.since_ms = Some(moment("since", &value)?),
                "before" => filter.before_ms = Some(moment("before", &value)?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    filter.limit = limit.ok_or_else(|| Problem::value("limit", "1 to 500 are possible"))?;
                }
                "after" => {
                    let id = CastId::parse(&value);
                    filter.after = Some(id.map_err(|error| Problem::value("after", error.to_string()))?);
                }
                _ => return Err(Problem::value(name, "there is no such parameter")),
            }
            seen.push(name);
        }
        Ok(Self { filter })
    }
}

fn origin(text: &str) -> Result<String, Problem> {
    if [ORIGIN, "volcengine", "tencent"].contains(&text) {
        return Ok(text.to_owned());
    }
    Err(Problem::value("origin", "v1, volcengine and tencent are possible"))
}

fn moment(field: &str, text: &str) -> Result<UnixMs, Problem> {
    // A + that nobody escaped has become a blank.
    let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+"));
    let time = time.map_err(|_| Problem::value(field, "write a time like 2026-11-21T17:00:00Z"))?;
    Ok(time.timestamp_millis())
}

/// Ends a cast. Whoever asks twice gets the same.
#[utoipa::path(post, path = "/v1/casts/{id}/stop", tag = "casts", operation_id = "stopCast",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It is over, or will be soon.", body = CastView),
        (status = 404, description = "`no-such-cast`.", body = Answer)))]
pub(super) async fn stop(
    State(rest): State<Rest>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let service = &rest.service;
    let mut cast = caller.cast(service, &id).await?;
    if cast.state != CastState::Ended && !cast.stop_asked {
        match service.fleet.order(&cast.id, Command::Stop).await {
            // It ended while we asked.
            Ok(()) | Err(Error::Over(_)) => {}
            Err(error) => return Err(error.into()),
        }
        cast = caller.cast(service, &id).await?;
    }
    Ok(answer(StatusCode::OK, &shown(service, &cast).await?))
}
