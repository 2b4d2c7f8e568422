//! The native API: casts, their events and evidence, and the applications that may ask for them.
//!
//! Bearer tokens say who asks ([`caller`]); a body becomes a description of a cast ([`create_cast`]), a cast what is
//! shown of it ([`application_view`]); whatever is wrong has one shape ([`error`]).

mod applications;
pub(crate) mod callback;
mod caller;
mod casts;
mod create_cast;
mod deliveries;
mod error;
mod events;
mod evidence;
mod json;
mod openapi;
mod pushes;
mod settings;
mod snapshot;
mod storage;
mod stream_limit;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};

use crate::rate_limit::KeyedRateLimiter;
use crate::service::Service;
use caller::{Administrator, Caller};
use error::{ApiError, json_response};
use json::{Json, OptionalJson};

/// Largest body of a request, in bytes: a style sheet and a script of 1 MiB each, and all headers there may
/// be, as JSON.
const MAX_BODY_LEN: usize = 8 << 20;
/// By which API a cast of this one was asked for.
pub(crate) const ORIGIN: &str = "v1";

/// What the handlers share.
#[derive(Clone)]
struct RestState {
    service: Service,
    streams: Arc<stream_limit::StreamLimiter>,
    snapshots: Arc<snapshot::PendingSnapshots>,
    /// Requests of each token.
    rate_limits: Arc<KeyedRateLimiter>,
    /// Held while applications are changed: a change is read, made and stored as one.
    edit_lock: Arc<tokio::sync::Mutex<()>>,
}

/// Everything below `/v1`.
pub(crate) fn router(service: Service) -> Router {
    let rates = KeyedRateLimiter::new(service.config.limits.requests_per_s);
    router_with_limits(service, rates)
}

/// The same, with these limits for requests of each token.
fn router_with_limits(service: Service, rates: KeyedRateLimiter) -> Router {
    let rest = RestState {
        rate_limits: Arc::new(rates),
        service,
        streams: Arc::default(),
        snapshots: Arc::default(),
        edit_lock: Arc::default(),
    };
    let casts = Router::new()
        .route("/casts", get(casts::list).post(casts::create))
        .route("/casts/{id}", get(casts::get))
        .route("/casts/{id}/stop", post(casts::stop))
        .route("/casts/{id}/pushes", post(pushes::add).delete(pushes::remove))
        .route("/casts/{id}/snapshot.jpg", get(snapshot::get))
        .route("/casts/{id}/events", get(events::list))
        .route("/casts/{id}/evidence", get(evidence::list))
        .route("/casts/{id}/evidence/{name}", get(evidence::get))
        .route("/casts/{id}/deliveries", get(deliveries::list))
        .route("/casts/{id}/deliveries/redeliver", post(deliveries::redeliver));
    let applications = Router::new()
        .route("/applications", get(applications::list).post(applications::create))
        .route(
            "/applications/{name}",
            get(applications::get).put(applications::replace).delete(applications::remove),
        )
        .route("/applications/{name}/keys", get(applications::keys::list).post(applications::keys::add))
        .route(
            "/applications/{name}/keys/{id}",
            put(applications::keys::update).delete(applications::keys::remove),
        )
        .route("/applications/{name}/tokens", get(applications::tokens::list).post(applications::tokens::add))
        .route("/applications/{name}/tokens/{id}", axum::routing::delete(applications::tokens::remove));
    let inner = casts
        .merge(applications)
        .route("/", get(openapi::reference_page))
        .route("/reference.js", get(openapi::reference_script))
        .route("/openapi.json", get(openapi::document))
        .fallback(error::fallback)
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .layer(from_fn(error::render_errors))
        .with_state(rest);
    // What is nested does not answer with a slash behind its name.
    let slash =
        Router::new().route("/v1/", get(openapi::reference_page)).layer(from_fn(error::render_errors));
    Router::new().nest("/v1", inner).merge(slash)
}
