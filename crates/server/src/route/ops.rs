//! Health, readiness and metrics, for operators.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pagecast_listen::{is_for_localhost, is_forwarded};
use tokio::time::{Instant, timeout};

use super::AppState;
use crate::auth_log::AuthFailure;
use crate::config::Role;
use crate::metrics;
use crate::service::{Service, constant_time_eq};

/// Longest time that a readiness check waits for the fleet database: a healthy one answers in milliseconds,
/// and load balancers give up after some seconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a readiness check is reused: each one writes to the disk, and anyone may request it.
const CHECK_CACHE_TTL: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 500 });
/// Oldest heartbeat of a worker that counts as ready, in milliseconds.
const MAX_HEARTBEAT_AGE_MS: u64 = 10_000;

/// Answers `ok` as long as the process runs.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Answers whether this node can do what its roles say: an `api` node accepts casts that would run, and a
/// `worker` is in the fleet and claims casts.
pub(super) async fn ready(State(state): State<AppState>) -> Response {
    let reason = if *state.draining.borrow() {
        Some("shutting down".to_owned())
    } else {
        let mut last_check = state.last_check.lock().await;
        match &*last_check {
            Some((at, reason)) if at.elapsed() < CHECK_CACHE_TTL => reason.clone(),
            _ => {
                let reason = not_ready_reason(&state.service).await;
                *last_check = Some((Instant::now(), reason.clone()));
                reason
            }
        }
    };
    match reason {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn not_ready_reason(service: &Service) -> Option<String> {
    match timeout(CHECK_TIMEOUT, service.fleet.check_writable()).await {
        Err(_) => return Some("the fleet database did not answer within 3 s".into()),
        Ok(Err(error)) => return Some(error.to_string()),
        Ok(Ok(())) => {}
    }
    let mut nodes = service.fleet.workers().await;
    nodes.retain(|(_, status)| status.heartbeat_age_ms <= MAX_HEARTBEAT_AGE_MS);
    let roles = &service.config.fleet;
    if roles.has_role(Role::Api) {
        let mut workers = nodes.iter().filter(|(_, status)| status.node.runs_casts()).peekable();
        if workers.peek().is_none() {
            return Some("no worker heartbeat in the last 10 s".into());
        }
        if workers.all(|(_, status)| status.draining) {
            return Some("all workers are draining".into());
        }
    }
    match nodes.iter().find(|(id, _)| *id == service.node) {
        Some((_, own)) => own.draining.then(|| "this node is draining".into()),
        None if roles.has_role(Role::Worker) => Some("this node sent no heartbeat in the last 10 s".into()),
        None => None,
    }
}

/// Metrics, for the administrator. Without an administrator token they are open to this machine only, and not
/// to pages of other sites whose name resolves here (DNS rebinding): a browser still sends that name as
/// `Host`.
pub(super) async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    if !is_open_to_localhost(&state.service, &headers) && !is_admin(&state.service, &headers) {
        let challenge = [(WWW_AUTHENTICATE, "Bearer")];
        let failure = AuthFailure::new("metrics", "", "401");
        let message =
            "send the administrator's token; without an admin_token, metrics are open to localhost only\n";
        return (StatusCode::UNAUTHORIZED, Extension(failure), challenge, message).into_response();
    }
    match metrics::scrape(&state.metrics, &state.service).await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Whether only this machine can send the request: the listener is on a loopback address, no administrator
/// token is set, and no proxy passed the request on. Some proxies do not say that they did, so operate them
/// with an administrator token.
fn is_open_to_localhost(service: &Service, headers: &HeaderMap) -> bool {
    let unguarded = service.config.admin_token.is_none() && service.config.listen.ip().is_loopback();
    unguarded && !is_forwarded(headers) && is_for_localhost(headers)
}

fn is_admin(service: &Service, headers: &HeaderMap) -> bool {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = authorization
        .and_then(|authorization| authorization.split_once(' '))
        .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    match (&service.config.admin_token, token) {
        (Some(secret), Some((_, token))) => constant_time_eq(secret, token.trim()),
        _ => false,
    }
}
