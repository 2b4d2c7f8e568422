//! The native API: casts, their events and evidence, and the applications that may ask for them.
//!
//! Bearer tokens say who asks ([`caller`]); a body becomes a description of a cast ([`wish`]), a cast what is
//! shown of it ([`view`]); whatever is wrong has one shape ([`problem`]).

mod applications;
pub(crate) mod callback;
mod caller;
mod casts;
mod deliveries;
mod events;
mod evidence;
mod json;
mod openapi;
mod place;
mod problem;
mod pushes;
mod settings;
mod snapshot;
mod streams;
#[cfg(test)]
mod tests;
mod view;
mod wish;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};

use crate::limit::Limits;
use crate::service::Service;
use caller::{Administrator, Caller};
use json::{Json, Maybe};
use problem::{Problem, answer};

/// Largest body of a request, in bytes: a style sheet and a script of 1 MiB each, and all headers there may
/// be, as JSON.
const MAX_BODY_LEN: usize = 8 << 20;
/// By which API a cast of this one was asked for.
pub(crate) const ORIGIN: &str = "v1";

/// What the handlers share.
#[derive(Clone)]
struct Rest {
    service: Service,
    streams: Arc<streams::Streams>,
    pictures: Arc<snapshot::Pictures>,
    /// Requests of each token.
    rates: Arc<Limits>,
    /// Held while applications are changed: a change is read, made and stored as one.
    edits: Arc<tokio::sync::Mutex<()>>,
}

/// Everything below `/v1`.
pub(crate) fn router(service: Service) -> Router {
    let rates = Limits::new(service.config.limits.requests_per_s);
    with_rates(service, rates)
}

/// The same, with these limits for requests of each token.
fn with_rates(service: Service, rates: Limits) -> Router {
    let rest = Rest {
        rates: Arc::new(rates),
        service,
        streams: Arc::default(),
        pictures: Arc::default(),
        edits: Arc::default(),
    };
    let casts = Router::new()
        .route("/casts", get(casts::list).post(casts::create))
        .route("/casts/{id}", get(casts::get))
        .route("/casts/{id}/stop", post(casts::stop))
        .route("/casts/{id}/pushes", post(pushes::add).delete(pushes::remove))
        .route("/casts/{id}/snapshot.jpg", get(snapshot::get))
        .route("/casts/{id}/events", get(events::get))
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
            put(applications::keys::change_key).delete(applications::keys::remove),
        )
        .route("/applications/{name}/tokens", get(applications::tokens::list).post(applications::tokens::add))
        .route("/applications/{name}/tokens/{id}", axum::routing::delete(applications::tokens::remove));
    let inner = casts
        .merge(applications)
        .route("/", get(openapi::page))
        .route("/reference.js", get(openapi::script))
        .route("/openapi.json", get(openapi::document))
        .fallback(problem::nothing)
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .layer(from_fn(problem::finish))
        .with_state(rest);
    // What is nested does not answer with a slash behind its name.
    let slash = Router::new().route("/v1/", get(openapi::page)).layer(from_fn(problem::finish));
    Router::new().nest("/v1", inner).merge(slash)
}
