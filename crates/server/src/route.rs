//! One listener, one path: requests to `/` are told apart by what they carry. Beside it the REST API, and
//! what operators ask for.

mod body;
mod ops;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{any, get};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::callback::{self, CallbackFormat};
use crate::metrics::Metrics;
use crate::service::{Service, request_id};
use crate::{auth_log, rest, tencent, volcengine};

/// Names a request, in requests, answers and logs.
static REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest name that others may give.
const MAX_REQUEST_ID_LEN: usize = 64;
/// Longest answer that is looked through for the vendor's code.
const MAX_SCANNED_BODY_LEN: usize = 256 << 10;

/// Actions of the vendors' APIs, as metrics tell them.
const METRIC_ACTIONS: [&str; 6] =
    ["StartWebcast", "StopWebcast", "GetWebCastTask", "StartWebRecord", "StopWebRecord", "DescribeWebRecord"];

/// A request to `/`, as it came.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// How.
    pub method: Method,
    /// What stands behind the `?`, as it was sent.
    pub query: String,
    /// Names in lower case.
    pub headers: HeaderMap,
    /// As it was sent. One that is longer than [`MAX_BODY_LEN`] is cut off one byte behind it.
    pub body: HashedBody,
}

pub(crate) use body::{BodyError, ClaimedPrincipal, read_up_to};
pub use body::{HashedBody, MAX_BODY_LEN};

impl ApiRequest {
    /// A header's value, if it is there once and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The action that it names, if it is one of ours: for metrics.
    fn action(&self) -> &'static str {
        let is_form = self.header("content-type").is_some_and(|t| t.starts_with("application/x-www-form"));
        let form = if is_form { &self.body[..self.body.len().min(4096)] } else { &[] };
        let mut pairs =
            form_urlencoded::parse(self.query.as_bytes()).chain(form_urlencoded::parse(form)).take(200);
        let named = pairs.find(|(name, _)| name.eq_ignore_ascii_case("action")).map(|(_, value)| value);
        let named = self.header("x-tc-action").or(named.as_deref()).unwrap_or_default();
        METRIC_ACTIONS.into_iter().find(|action| action.eq_ignore_ascii_case(named)).unwrap_or("other")
    }
}

/// Casts that came by Volcengine's API.
const VOLCENGINE_ORIGIN: &str = "volcengine";

/// Who answers requests to `/`.
struct ApiFrontend {
    /// The name of the API.
    api: &'static str,
    /// Whether this request is meant for it.
    matches: fn(&ApiRequest) -> bool,
    /// Longest body that it takes, in bytes.
    max_body_len: usize,
    handle: for<'a> fn(&'a Service, ApiRequest) -> BoxFuture<'a, Response>,
    /// What it says to a request whose body is lost.
    body_error_response: fn(&ApiRequest, BodyError) -> Response,
}

/// The APIs at `/`. The last one answers what none claims.
static API_FRONTENDS: &[ApiFrontend] = &[
    ApiFrontend {
        api: tencent::ORIGIN,
        matches: tencent::matches,
        max_body_len: MAX_BODY_LEN,
        handle: |service, call| Box::pin(tencent::handle(service, call)),
        body_error_response: tencent::body_error_response,
    },
    ApiFrontend {
        api: VOLCENGINE_ORIGIN,
        matches: volcengine::matches,
        max_body_len: volcengine::signature::MAX_BODY_LEN,
        handle: |service, call| Box::pin(volcengine::handle(service, call)),
        body_error_response: volcengine::body_error_response,
    },
];

/// How casts are told about, by the API that they came by.
pub(crate) static DIALECTS: &[CallbackFormat] = &[
    CallbackFormat {
        api: tencent::ORIGIN,
        policy: tencent::callback::RETRY_POLICY,
        render: tencent::callback::render,
        receiver: |app, _| app.callbacks.tencent.clone(),
        is_success: callback::is_200,
    },
    CallbackFormat {
        api: VOLCENGINE_ORIGIN,
        policy: volcengine::callback::RETRY_POLICY,
        render: volcengine::callback::render,
        receiver: |app, _| app.callbacks.volcengine.clone(),
        is_success: callback::is_200,
    },
    CallbackFormat {
        api: rest::ORIGIN,
        policy: rest::callback::RETRY_POLICY,
        render: rest::callback::render,
        receiver: callback::native_receiver,
        is_success: callback::is_2xx,
    },
];

/// When it was looked whether the service is ready, and why it was not.
type CheckResult = (Instant, Option<String>);

/// What requests are answered from.
#[derive(Clone)]
struct AppState {
    service: Service,
    metrics: Arc<Metrics>,
    draining: watch::Receiver<bool>,
    frontends: &'static [ApiFrontend],
    /// What `/readyz` found, and when: looking writes to the disk.
    last_check: Arc<tokio::sync::Mutex<Option<CheckResult>>>,
}

/// Answers everything that comes to the listener. While `draining`, `/readyz` says so.
pub fn router(service: Service, metrics: Arc<Metrics>, draining: watch::Receiver<bool>) -> Router {
    let rest = rest::router(service.clone());
    build_router(
        AppState { service, metrics, draining, frontends: API_FRONTENDS, last_check: Arc::default() },
        rest,
    )
}

fn build_router(desk: AppState, rest: Router) -> Router {
    let rest = rest.layer(from_fn_with_state(desk.clone(), record_metrics));
    Router::new()
        .route("/", any(dispatch))
        .route("/healthz", get(ops::health))
        .route("/readyz", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .with_state(desk)
        .merge(rest)
        .layer(from_fn_with_state(Arc::<auth_log::FailureLog>::default(), auth_log::log_failures))
        .layer(from_fn(set_request_id))
}

async fn dispatch(State(desk): State<AppState>, request: Request) -> Response {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    if matches!(parts.method, Method::GET | Method::HEAD) && query.is_empty() && !is_signed(&parts.headers) {
        return landing_page(&parts.headers);
    }
    let mut call =
        ApiRequest { method: parts.method, query, headers: parts.headers, body: HashedBody::empty() };
    let claimed = |call: &ApiRequest| desk.frontends.iter().find(|tongue| (tongue.matches)(call));
    // A form may say only in its body whose it is.
    let by_head = claimed(&call);
    let most = by_head.map_or(MAX_BODY_LEN, |tongue| tongue.max_body_len);
    let lost = match body::read(
        body,
        &ClaimedPrincipal::from_headers(&desk.service, &call.headers),
        &call.headers,
        most,
    )
    .await
    {
        Ok(body) => {
            call.body = body;
            None
        }
        Err(lost) => Some(lost),
    };
    let Some(tongue) = by_head.or_else(|| claimed(&call)).or(desk.frontends.last()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let action = call.action();
    // The clock of metrics begins where the service's work does: how long a body took to come is the
    // sender's.
    let waited = begun.elapsed();
    let span = request_span(tongue.api, action, &call.headers);
    let answer = match lost {
        None => (tongue.handle)(&desk.service, call).instrument(span.clone()).await,
        Some(lost) => (tongue.body_error_response)(&call, lost),
    };
    let (answer, code) = response_code(answer).await;
    record_outcome(&span, &code, answer.status());
    desk.metrics.record_request(tongue.api, action, &code, begun.elapsed().saturating_sub(waited));
    answer
}

/// A request, for traces.
fn request_span(api: &str, action: &str, headers: &HeaderMap) -> Span {
    let request = headers.get(&REQUEST_ID_HEADER).and_then(|id| id.to_str().ok());
    tracing::debug_span!(
        "request",
        otel.name = action,
        otel.kind = "server",
        otel.status_code = Empty,
        api,
        action,
        request,
        code = Empty,
    )
}

/// What became of it. A request that was refused was answered as it should be.
fn record_outcome(span: &Span, code: &str, status: StatusCode) {
    span.record("code", code);
    if status.is_server_error() || code.starts_with("Internal") {
        span.record("otel.status_code", "ERROR");
    }
}

fn is_signed(headers: &HeaderMap) -> bool {
    headers.contains_key("authorization") || headers.keys().any(|name| name.as_str().starts_with("x-tc-"))
}

/// The vendor's code for what went wrong, or `ok`.
async fn response_code(answer: Response) -> (Response, String) {
    let (parts, body) = answer.into_parts();
    let status = parts.status;
    // Answers of the vendors' APIs are there as a whole; what is not is sent on as it comes.
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

/// `Code` of the object `Error`, as both vendors' envelopes have it. In a text of the answer its quotes would
/// be escaped.
fn vendor_code(answer: &[u8]) -> Option<String> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (_, error) = answer.split_once(r#""Error":{"#)?;
    let (_, code) = error.split_once(r#""Code":""#)?;
    let code = code.split_once('"')?.0;
    let word = |c: char| c.is_ascii_alphanumeric() || c == '.';
    (code.len() <= 80 && code.chars().all(word)).then(|| code.to_owned())
}

/// What a person finds who opens the address in a browser.
fn landing_page(headers: &HeaderMap) -> Response {
    let html =
        headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    if html {
        return Html(include_str!("route/page.html")).into_response();
    }
    let text =
        "This is Pagecast. Volcengine's and Tencent's APIs are at this address, the REST API is at /v1.\n";
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// Measures requests of the REST API.
async fn record_metrics(State(desk): State<AppState>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    // What nobody answers has a path of axum's own.
    let path = matched.filter(|path| !path.contains('*')).unwrap_or("other").to_owned();
    let method = match request.method() {
        method @ (&Method::GET | &Method::POST | &Method::PUT | &Method::DELETE) => method.as_str(),
        _ => "other",
    };
    let (action, begun) = (format!("{method} {path}"), Instant::now());
    let span = request_span(rest::ORIGIN, &action, request.headers());
    let answer = next.run(request).instrument(span.clone()).await;
    record_outcome(&span, answer.status().as_str(), answer.status());
    desk.metrics.record_request(rest::ORIGIN, &action, answer.status().as_str(), begun.elapsed());
    answer
}

/// Gives each request a name, unless it has a decent one, and the answer the same, unless it has one.
async fn set_request_id(mut request: Request, next: Next) -> Response {
    let decent = |id: &&HeaderValue| {
        let id = id.as_bytes();
        let word = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        (1..=MAX_REQUEST_ID_LEN).contains(&id.len()) && id.iter().all(word)
    };
    let given = request.headers().get(&REQUEST_ID_HEADER).filter(decent).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&request_id()).ok());
    if let Some(id) = &id {
        request.headers_mut().insert(REQUEST_ID_HEADER.clone(), id.clone());
    }
    let mut answer = next.run(request).await;
    if let Some(id) = id {
        answer.headers_mut().entry(REQUEST_ID_HEADER.clone()).or_insert(id);
    }
    answer
}

#[cfg(test)]
mod tests;
