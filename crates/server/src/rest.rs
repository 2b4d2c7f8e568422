//! The REST API: casts, their events and evidence, the applications that own them, and the nodes of the
//! fleet.
//!
//! Bearer tokens authenticate callers ([`caller`]), a body becomes the description of a cast
//! ([`create_cast`]), [`view`] decides what is shown of a cast, and [`error`] renders all errors in one
//! format.

mod applications;
mod audit;
pub(crate) mod callback;
mod caller;
mod cast_request;
mod cast_stream;
mod casts;
mod check;
mod create_cast;
mod daily_use;
mod deliveries;
mod error;
mod error_code;
mod events;
mod evidence;
mod explorer;
mod files;
mod json;
mod nodes;
mod openapi;
mod permissions;
mod pushes;
mod queue;
mod session;
mod snapshot;
mod stats;
mod stream_limit;
#[cfg(test)]
mod tests;
mod view;

pub use check::PageCheck;
pub(crate) use nodes::renewal_age;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use pagecast_fleet::with_time_limit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::callback::WebhookClient;
use crate::internal_error::FLEET_TIME_LIMIT;
use crate::oidc::OidcClient;
use crate::rate_limit::KeyedRateLimiter;
use crate::service::Service;
use caller::{Administrator, Caller};
use error::{ApiError, ErrorCode, json_response};
pub(crate) use evidence::{
    EvidenceContent, MAX_FILE_LEN as MAX_EVIDENCE_FILE_LEN, MAX_FILES as MAX_EVIDENCE_FILES,
    is_valid_name as is_evidence_name, list_local as list_evidence, read_local as read_evidence,
};
pub(crate) use files::{CHUNK_LEN as RECORDING_CHUNK_LEN, read_local as read_recording};
use json::{Json, OptionalJson};
pub(crate) use snapshot::{PendingSnapshots, SnapshotError, take as take_snapshot};

/// Largest body of a request, in bytes: a style sheet and a script of 1 MiB each, and the most headers and
/// cookies, escaped as JSON.
const MAX_BODY_LEN: usize = 8 << 20;
/// Most tests of receivers and storages at once: each may wait for its timeouts.
const MAX_CONCURRENT_TESTS: usize = 8;
/// Value of `Retry-After` when all of them are busy, in seconds.
const TEST_RETRY_AFTER_S: u64 = 5;
/// Name of this API in casts, metrics and logs.
pub(crate) const API: &str = "v1";

/// State shared by all handlers.
#[derive(Clone)]
struct RestState {
    service: Service,
    streams: Arc<stream_limit::StreamLimiter>,
    snapshots: Arc<snapshot::PendingSnapshots>,
    cast_feed: Arc<cast_stream::CastFeed>,
    checks: Arc<check::CheckLimiter>,
    sessions: Arc<session::Sessions>,
    transfers: Arc<files::Transfers>,
    oidc: Arc<OidcClient>,
    /// Rate limit of each token.
    rate_limits: Arc<KeyedRateLimiter>,
    /// Sends test messages.
    webhooks: Arc<WebhookClient>,
    /// Limits tests of receivers and storages that run at the same time.
    test_slots: Arc<Semaphore>,
    /// Serializes changes of applications, each of which reads, modifies and stores one.
    edit_lock: Arc<tokio::sync::Mutex<()>>,
}

impl RestState {
    /// Takes one of the slots for tests of receivers and storages.
    fn acquire_test_slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.test_slots).try_acquire_owned().map_err(|_| {
            let message = "the service is busy with other tests: try again in a moment";
            ApiError::retry_later(ErrorCode::TooManyRequests, message, TEST_RETRY_AFTER_S)
        })
    }
}

/// Limits the time that a request waits for the fleet. Bodies and pictures may take longer to arrive.
async fn limit_fleet_time(request: Request, next: Next) -> Response {
    with_time_limit(FLEET_TIME_LIMIT, next.run(request)).await
}

/// Routes of casts.
fn cast_routes() -> Router<RestState> {
    Router::new()
        .route("/casts", get(casts::list).post(casts::create))
        .route("/casts/check", post(check::check))
        .route("/casts/{id}", get(casts::get))
        .route("/casts/{id}/stop", post(casts::stop))
        .route("/casts/{id}/request", get(cast_request::get))
        .route("/casts/{id}/move", post(casts::move_cast))
        .route("/casts/{id}/pushes", post(pushes::add).delete(pushes::remove))
        .route("/casts/{id}/pushes/{push}", axum::routing::delete(pushes::remove_by_number))
        .route("/casts/{id}/snapshot.jpg", get(snapshot::get))
        .route("/casts/{id}/events", get(events::list))
        .route("/casts/{id}/stats", get(stats::get))
        .route("/casts/{id}/evidence", get(evidence::list))
        .route("/casts/{id}/evidence/{name}", get(evidence::get))
        .route("/casts/{id}/files", get(files::list))
        .route("/casts/{id}/files/{name}", get(files::get))
        .route("/casts/{id}/deliveries", get(deliveries::list))
        .route("/casts/{id}/deliveries/{seq}", get(deliveries::get))
        .route("/casts/{id}/deliveries/redeliver", post(deliveries::redeliver))
}

/// Routes of applications.
fn application_routes() -> Router<RestState> {
    Router::new()
        .route("/applications", get(applications::list).post(applications::create))
        .route(
            "/applications/{name}",
            get(applications::get).put(applications::replace).delete(applications::remove),
        )
        .route("/applications/{name}/callbacks/test", post(applications::callback_test::test))
        .route("/applications/{name}/storage/test", post(applications::storage_test::test))
        .route("/applications/{name}/keys", get(applications::keys::list).post(applications::keys::add))
        .route(
            "/applications/{name}/keys/{id}",
            put(applications::keys::update).delete(applications::keys::remove),
        )
        .route("/applications/{name}/tokens", get(applications::tokens::list).post(applications::tokens::add))
        .route("/applications/{name}/tokens/{id}", axum::routing::delete(applications::tokens::remove))
}

/// Routes of sessions and of the explorer.
fn console_routes() -> Router<RestState> {
    Router::new()
        .route("/session", get(session::get).post(session::sign_in).delete(session::sign_out))
        .route("/session/codes", post(session::codes::create))
        .route("/session/methods", get(session::oidc::methods))
        .route("/session/oidc", get(session::oidc::begin))
        .route("/session/oidc/callback", get(session::oidc::finish))
        .route("/explorer", get(explorer::get))
        .route("/explorer/call", post(explorer::call))
        .route("/explorer/explain", post(explorer::explain))
}

/// Router of everything below `/v1`.
pub(crate) fn router(service: Service) -> Router {
    let rate_limits = KeyedRateLimiter::new(service.config.limits.requests_per_s);
    router_with_limits(service, rate_limits)
}

/// The router, with these rate limits of tokens.
fn router_with_limits(service: Service, rate_limits: KeyedRateLimiter) -> Router {
    let rest = RestState {
        rate_limits: Arc::new(rate_limits),
        service,
        streams: Arc::default(),
        snapshots: Arc::default(),
        cast_feed: Arc::default(),
        checks: Arc::default(),
        sessions: Arc::default(),
        transfers: Arc::default(),
        oidc: Arc::default(),
        webhooks: Arc::default(),
        test_slots: Arc::new(Semaphore::new(MAX_CONCURRENT_TESTS)),
        edit_lock: Arc::default(),
    };
    let inner = cast_routes()
        .merge(application_routes())
        .merge(console_routes())
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::get))
        .route("/nodes/{id}/drain", post(nodes::drain))
        .route("/audit", get(audit::list))
        .route("/use", get(daily_use::get))
        .route("/", get(openapi::reference_page))
        .route("/reference.js", get(openapi::reference_script))
        .route("/openapi.json", get(openapi::document))
        .fallback(error::fallback)
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .layer(from_fn(limit_fleet_time))
        .layer(from_fn(error::render_errors))
        .layer(from_fn_with_state(rest.clone(), audit::record))
        .with_state(rest);
    // A nested router does not answer its own path with a slash at the end.
    let slash =
        Router::new().route("/v1/", get(openapi::reference_page)).layer(from_fn(error::render_errors));
    Router::new().nest("/v1", inner).merge(slash)
}
