//! Routes requests on the one listener: the vendors' APIs at `/`, the REST API at `/v1`, the console at
//! `/console`, the rooms at `/rooms`, health and metrics.
//!
//! The vendors share a path; query and headers decide which API a request is for.

mod body;
mod ops;

use std::sync::Arc;
use std::time::Duration;

pub use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{any, get};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::callback::CallbackFormat;
use crate::config::Role;
use crate::metrics::Metrics;
use crate::request_id::{self, RequestId};
use crate::service::Service;
use crate::{auth_log, console, rest, tencent, volcengine};

pub(crate) use body::{BodyError, ClaimedPrincipal, read_up_to};
pub use body::{HashedBody, MAX_BODY_LEN};

/// Longest answer that is searched for the vendor's error code, in bytes. Answers with an error have less
/// than 1 KiB.
const MAX_SCANNED_BODY_LEN: usize = 256 << 10;
/// Longest beginning of a form that is searched for the action, in bytes: metrics are not worth more.
const MAX_SCANNED_FORM_LEN: usize = 4096;

/// A request to `/`.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// Its id, for the log and the answer.
    pub id: RequestId,
    /// HTTP method.
    pub method: Method,
    /// Text behind the `?`, as sent.
    pub query: String,
    /// Headers, with names in lower case.
    pub headers: HeaderMap,
    /// Body, as sent. A body over [`MAX_BODY_LEN`] is cut off one byte behind that limit.
    pub body: HashedBody,
}

impl ApiRequest {
    /// A header's value, if the value is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The action that the request names, if it is one of `known`; the label of metrics otherwise is `other`.
    fn action(&self, known: &[&'static str]) -> &'static str {
        let is_form = self.header("content-type").is_some_and(|t| t.starts_with("application/x-www-form"));
        let form = if is_form { &self.body[..self.body.len().min(MAX_SCANNED_FORM_LEN)] } else { &[] };
        let mut pairs =
            form_urlencoded::parse(self.query.as_bytes()).chain(form_urlencoded::parse(form)).take(200);
        let named = pairs.find(|(name, _)| name.eq_ignore_ascii_case("action")).map(|(_, value)| value);
        let named = self.header("x-tc-action").or(named.as_deref()).unwrap_or_default();
        known.iter().find(|action| action.eq_ignore_ascii_case(named)).copied().unwrap_or("other")
    }
}

/// One API at `/`: how its requests are recognized and answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApiFrontend {
    /// Name of the API, `Cast::api` of its casts.
    pub(crate) api: &'static str,
    /// Actions of the API, as metrics label them.
    pub(crate) actions: &'static [&'static str],
    /// Whether a request is meant for this API.
    pub(crate) matches: fn(&ApiRequest) -> bool,
    /// Longest body, in bytes.
    pub(crate) max_body_len: usize,
    /// Answers a request.
    pub(crate) handle: for<'a> fn(&'a Service, ApiRequest) -> BoxFuture<'a, Response>,
    /// Answers a request whose body could not be read.
    pub(crate) body_error_response: fn(&ApiRequest, BodyError) -> Response,
}

/// The APIs at `/`. The last one answers requests that no API matches.
static API_FRONTENDS: &[ApiFrontend] = &[tencent::FRONTEND, volcengine::FRONTEND];

/// Formats of callbacks, by the API that a cast was created through.
pub(crate) static DIALECTS: &[CallbackFormat] =
    &[tencent::callback::FORMAT, volcengine::callback::FORMAT, rest::callback::FORMAT];

/// When readiness was checked last, and why the service was not ready.
type CheckResult = (Instant, Option<String>);

/// State of all handlers outside the REST API.
#[derive(Clone)]
struct AppState {
    service: Service,
    metrics: Arc<Metrics>,
    draining: watch::Receiver<bool>,
    frontends: &'static [ApiFrontend],
    /// Last result of `/readyz`, cached because a check writes to the disk.
    last_check: Arc<tokio::sync::Mutex<Option<CheckResult>>>,
}

/// Router of the listener. `rooms` answers everything below `/rooms`; it is empty if the rooms have a
/// listener of their own. `/readyz` answers 503 while `draining` is true. A node without the role `api` has
/// only the rooms and what operators need: health, readiness and metrics.
pub fn router(
    service: Service,
    metrics: Arc<Metrics>,
    draining: watch::Receiver<bool>,
    rooms: Router,
) -> Router {
    let rest = service.config.fleet.has_role(Role::Api).then(|| rest::router(service.clone()));
    build_router(
        AppState { service, metrics, draining, frontends: API_FRONTENDS, last_check: Arc::default() },
        rest,
        rooms,
    )
}

/// Builds the router. Without `rest`, there are no APIs at all.
fn build_router(state: AppState, rest: Option<Router>, rooms: Router) -> Router {
    let ops = Router::new()
        .route("/healthz", get(ops::health))
        .route("/readyz", get(ops::ready))
        .route("/metrics", get(ops::metrics));
    let apis = match rest {
        Some(rest) => {
            let rest = rest.layer(from_fn_with_state(state.clone(), observe_rest));
            ops.route("/", any(dispatch)).with_state(state).merge(rest).merge(console::router())
        }
        None => ops.with_state(state),
    };
    let apis = apis
        .layer(from_fn_with_state(Arc::<auth_log::FailureLog>::default(), auth_log::log_failures))
        .layer(from_fn(request_id::assign));
    // Rooms have tokens and CORS headers of their own, and no request ids. In this order, unknown paths are
    // those of the APIs.
    rooms.merge(apis)
}

async fn dispatch(State(state): State<AppState>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    if matches!(parts.method, Method::GET | Method::HEAD) && query.is_empty() && !is_signed(&parts.headers) {
        return landing_page(&parts.headers);
    }
    let mut call = ApiRequest {
        id: RequestId::of(&parts.extensions),
        method: parts.method,
        query,
        headers: parts.headers,
        body: HashedBody::empty(),
    };
    let find_frontend = |call: &ApiRequest| state.frontends.iter().find(|api| (api.matches)(call));
    let matched_by_head = find_frontend(&call);
    let max_len = matched_by_head.map_or(MAX_BODY_LEN, |api| api.max_body_len);
    let principal = ClaimedPrincipal::from_headers(&state.service, &call.headers);
    let body_error = match body::read(body, &principal, &call.headers, max_len).await {
        Ok(body) => {
            call.body = body;
            None
        }
        Err(error) => Some(error),
    };
    // A form may name its API only in the body.
    let Some(frontend) = matched_by_head.or_else(|| find_frontend(&call)).or(state.frontends.last()).copied()
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (id, action) = (call.id.clone(), call.action(frontend.actions));
    // Metrics leave out the time that the body took to arrive: the sender decides it.
    let body_time = started.elapsed();
    let span = request_span(frontend.api, action, &id);
    let response = match body_error {
        None => (frontend.handle)(&state.service, call).instrument(span.clone()).await,
        Some(error) => (frontend.body_error_response)(&call, error),
    };
    let (response, code) = response_code(response).await;
    let outcome = Outcome { api: frontend.api, action, code: &code, status: response.status() };
    outcome.report(&state.metrics, &span, &id, started.elapsed().saturating_sub(body_time));
    response
}

/// Span of a request, for traces.
fn request_span(api: &str, action: &str, id: &RequestId) -> Span {
    tracing::debug_span!(
        "request",
        otel.name = action,
        otel.kind = "server",
        otel.status_code = Empty,
        api,
        action,
        request_id = %id,
        code = Empty,
    )
}

/// How a request was answered.
struct Outcome<'a> {
    api: &'static str,
    action: &'a str,
    code: &'a str,
    status: StatusCode,
}

impl Outcome<'_> {
    /// Reports to metrics, span and log. A refused request is no error of the service, so its span is none
    /// either.
    fn report(&self, metrics: &Metrics, span: &Span, request_id: &RequestId, duration: Duration) {
        let Self { api, action, code, status } = *self;
        metrics.record_request(api, action, code, duration);
        span.record("code", code);
        if status.is_server_error() || code.starts_with("Internal") {
            span.record("otel.status_code", "ERROR");
        }
        // Tencent answers errors with status 200 as well, so the code decides.
        if code != "ok" && code != status.as_str() || !status.is_success() {
            tracing::debug!(api, action, %request_id, code, "request refused");
        }
    }
}

fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key("authorization") || headers.keys().any(|name| name.as_str().starts_with("x-tc-"))
}

/// The vendor's error code in an answer, or `ok`.
async fn response_code(response: Response) -> (Response, String) {
    let (parts, body) = response.into_parts();
    let status = parts.status;
    // The vendors' answers are complete in memory; a body without a known length is a stream and passes
    // unread.
    let small =
        http_body::Body::size_hint(&body).exact().is_some_and(|len| len <= MAX_SCANNED_BODY_LEN as u64);
    if !small {
        return (Response::from_parts(parts, body), code_from_status(status));
    }
    let Ok(whole) = body.collect().await else { return (status.into_response(), code_from_status(status)) };
    let whole = whole.to_bytes();
    let code = vendor_code(&whole).unwrap_or_else(|| code_from_status(status));
    (Response::from_parts(parts, Body::from(whole)), code)
}

fn code_from_status(status: StatusCode) -> String {
    if status.is_success() { "ok".into() } else { status.as_str().into() }
}

/// `Code` of the object `Error`, as both vendors' envelopes have it. Quotes inside a JSON string are escaped,
/// so the pattern cannot match there.
fn vendor_code(answer: &[u8]) -> Option<String> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (_, error) = answer.split_once(r#""Error":{"#)?;
    let (_, code) = error.split_once(r#""Code":""#)?;
    let code = code.split_once('"')?.0;
    let is_code = |c: char| c.is_ascii_alphanumeric() || c == '.';
    (code.len() <= 80 && code.chars().all(is_code)).then(|| code.to_owned())
}

/// Answers somebody who just opens the service: a browser sees the console.
fn landing_page(headers: &HeaderMap) -> Response {
    let html =
        headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    if html {
        return Redirect::to("/console/").into_response();
    }
    let text = "This is Pagecast. Volcengine's and Tencent's APIs are at this address, the REST API is at \
                /v1, the console at /console/.\n";
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// Traces and measures requests of the REST API.
async fn observe_rest(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let id = RequestId::of(request.extensions());
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // Unknown addresses match axum's own fallback path, which contains a `*`.
    let path = matched.filter(|path| !path.contains('*')).unwrap_or("other").to_owned();
    let method = match request.method() {
        method @ (&Method::GET | &Method::POST | &Method::PUT | &Method::DELETE) => method.as_str(),
        _ => "other",
    };
    let (action, started) = (format!("{method} {path}"), Instant::now());
    let span = request_span(rest::API, &action, &id);
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let outcome = Outcome { api: rest::API, action: &action, code: status.as_str(), status };
    outcome.report(&state.metrics, &span, &id, started.elapsed());
    response
}

#[cfg(test)]
mod tests;
