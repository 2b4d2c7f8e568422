//! What operators and their programs ask for.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::time::{Instant, timeout};
use url::{Host, Url};

use super::AppState;
use crate::auth_log::AuthFailure;
use crate::metrics;
use crate::service::{Service, constant_time_eq};

/// The fleet must have answered by then.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long what was found holds: anybody may ask.
const CHECK_CACHE_TTL: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 500 });
/// A worker that was not heard of for so long does not count, in milliseconds.
const MAX_HEARTBEAT_AGE_MS: i64 = 10_000;

/// The process answers.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Whether casts are taken and will be run.
pub(super) async fn ready(State(desk): State<AppState>) -> Response {
    let why = if *desk.draining.borrow() {
        Some("the service is ending".to_owned())
    } else {
        let mut looked = desk.last_check.lock().await;
        match &*looked {
            Some((at, why)) if at.elapsed() < CHECK_CACHE_TTL => why.clone(),
            _ => {
                let why = not_ready_reason(&desk.service).await;
                *looked = Some((Instant::now(), why.clone()));
                why
            }
        }
    };
    match why {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn not_ready_reason(service: &Service) -> Option<String> {
    match timeout(CHECK_TIMEOUT, service.fleet.check_writable()).await {
        Err(_) => return Some("the fleet's storage does not answer".into()),
        Ok(Err(error)) => return Some(error.to_string()),
        Ok(Ok(())) => {}
    }
    let now = service.now();
    let mut workers = service.fleet.workers().await;
    workers.retain(|(_, load)| now.saturating_sub(load.at_ms) <= MAX_HEARTBEAT_AGE_MS);
    if workers.is_empty() {
        return Some("no worker was heard of in the last 10 s".into());
    }
    workers.iter().all(|(_, load)| load.draining).then(|| "all workers are ending".to_owned())
}

/// Metrics, for the administrator; for whoever is on this machine, if there is none. A page of another site
/// that has its name point here (DNS rebinding) is not: its browser still sends the name as `Host`.
pub(super) async fn metrics(State(desk): State<AppState>, headers: HeaderMap) -> Response {
    if !is_open_to_localhost(&desk.service, &headers) && !is_admin(&desk.service, &headers) {
        let ask = [(WWW_AUTHENTICATE, "Bearer")];
        let refused = AuthFailure::new("metrics", "", "401");
        let words =
            "the administrator's token is needed; if there is none, ask from this machine for localhost
";
        return (StatusCode::UNAUTHORIZED, Extension(refused), ask, words).into_response();
    }
    match metrics::scrape(&desk.metrics, &desk.service).await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Whether only this machine can ask: nobody else reaches the listener, unless a proxy passes them on. Not
/// every proxy says that it does, but whoever has one has an administrator.
fn is_open_to_localhost(service: &Service, headers: &HeaderMap) -> bool {
    let passed_on = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    let unguarded = service.config.admin_token.is_none() && service.config.listen.ip().is_loopback();
    unguarded && !passed_on.iter().any(|name| headers.contains_key(*name)) && names_localhost(headers)
}

/// Whether a request names nothing but this machine as its host and, if a page's script sent it, as its
/// origin.
fn names_localhost(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let host = text(HOST).map(|host| format!("http://{host}"));
    let mut urls = host.into_iter().chain(text(ORIGIN).map(str::to_owned));
    urls.all(|url| is_loopback_url(&url))
}

fn is_loopback_url(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn is_admin(service: &Service, headers: &HeaderMap) -> bool {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        shown.and_then(|shown| shown.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    match (&service.config.admin_token, token) {
        (Some(secret), Some((_, token))) => constant_time_eq(secret, token.trim()),
        _ => false,
    }
}
