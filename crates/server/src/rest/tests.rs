//! Tests of the REST API through its router, with a real fleet.

mod applications;
mod audit;
mod auth;
mod callbacks;
mod cast_request;
mod cast_stream;
mod casts;
mod check;
mod create_cast;
mod daily_use;
mod events;
mod explorer;
mod files;
mod limits;
mod nodes;
mod oidc;
mod openapi;
mod operate;
mod outage;
mod running;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::middleware::from_fn;
use http_body_util::BodyExt as _;
use pagecast_core::spec::RoomIds;
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{CastId, Claim, EventKind, Fleet, UnixMs, WorkerId};
use pagecast_testkit::scratch::ScratchDir;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::config::Config;
use crate::{EmbeddedRooms, Service, StoredEvidence};

/// Time at which each test starts: 2026-11-21T17:00:00Z.
const START_MS: UnixMs = 1_795_280_400_000;
const ADMIN_TOKEN: &str = "administrator-0123456789";
const TOKEN_ONE: &str = "token-of-one-0123456789";
const TOKEN_ONE_OTHER: &str = "another-token-of-one-0123456789";
const TOKEN_TWO: &str = "token-of-two-0123456789";
const LEASE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct FakeRooms;

impl EmbeddedRooms for FakeRooms {
    fn expect_publisher(&self, _: &RoomIds) {}

    fn watch_url(&self, ids: &RoomIds) -> String {
        format!("http://127.0.0.1:8080/{}/{}", ids.app, ids.room)
    }

    fn viewer_count(&self, _: &RoomIds) -> Option<usize> {
        Some(3)
    }
}

/// A service with the applications `one` and `two`, and with a clock that tests advance.
struct TestServer {
    service: Service,
    router: Router,
    clock_ms: Arc<AtomicI64>,
    scratch: ScratchDir,
}

/// A response that was received.
struct TestResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl TestResponse {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Returns the JSON of the body, or null for an empty body. Panics if the status is another.
    #[track_caller]
    fn expect_status(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Checks that the body is an error with these values; `-` means that it names no field.
    #[track_caller]
    fn expect_error(&self, status: u16, code: &str, field: &str) {
        let json = self.expect_status(status);
        assert_eq!(json["error"]["code"], code, "{json}");
        assert_eq!(json["error"]["field"].as_str().unwrap_or("-"), field, "{json}");
        assert!(json["error"]["message"].as_str().is_some_and(|message| message.len() > 8), "{json}");
        assert_eq!(json["request_id"], self.header("x-request-id"), "{json}");
    }
}

/// Wraps the router of the API in the layer that assigns request ids.
fn router_of(api: Router) -> Router {
    api.layer(from_fn(crate::request_id::assign))
}

impl TestServer {
    async fn new() -> Self {
        Self::with_casts_config(json!({})).await
    }

    /// Starts a service with these values in the section `casts` of its configuration.
    async fn with_casts_config(casts: Value) -> Self {
        Self::with_config(json!({"casts": casts})).await
    }

    /// Starts a service with these sections in its configuration.
    async fn with_config(sections: Value) -> Self {
        Self::build(&sections, None).await
    }

    /// Starts a service on a fleet of its own, or on this one.
    async fn build(sections: &Value, fleet: Option<Arc<dyn Fleet>>) -> Self {
        let scratch = ScratchDir::new().unwrap();
        let mut config = json!({
            "data": scratch.path(),
            "admin_token": ADMIN_TOKEN,
            "applications": [
                {
                    "name": "one", "tokens": [TOKEN_ONE, TOKEN_ONE_OTHER], "max_casts": 3,
                    "callbacks": {"native": {"url": "http://127.0.0.1:9/hook?planted=query",
                    "secret": "planted-hook"}},
                },
                {"name": "two", "tokens": [TOKEN_TWO], "limits": {"max_time_s": 600}},
            ],
        });
        config.as_object_mut().unwrap().extend(sections.as_object().unwrap().clone());
        let config: Config = serde_json::from_value(config).unwrap();
        let time = Arc::new(AtomicI64::new(START_MS));
        let clock = {
            let time = Arc::clone(&time);
            Arc::new(move || time.load(Ordering::SeqCst))
        };
        let embedded = SqliteFleet::open(sqlite::Config {
            path: scratch.join("fleet.db"),
            vault: Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap(),
            retention: Duration::from_secs(100 * 3600),
            wall_clock: clock.clone(),
            monotonic_clock: clock.clone(),
            max_bytes: 1 << 40,
        })
        .unwrap();
        let service = Service {
            node: pagecast_fleet::WorkerId("w".to_owned()),
            fleet: fleet.unwrap_or(embedded),
            apps: Arc::default(),
            config: Arc::new(config),
            rooms: Some(Arc::new(FakeRooms)),
            clock,
            peers: None,
            draining: Arc::default(),
            live_api_nodes: Arc::default(),
            audit: Arc::default(),
            sign_in_code: Arc::default(),
            page_checker: None,
            evidence: None,
            recordings: None,
            storage_tester: None,
        };
        crate::app::load(&service).await.unwrap();
        let router = router_of(super::router(service.clone()));
        Self { router, service, clock_ms: time, scratch }
    }

    /// Gives the service a store with evidence.
    fn set_stored_evidence(&mut self, evidence: Arc<dyn StoredEvidence>) {
        self.service.evidence = Some(evidence);
        self.router = router_of(super::router(self.service.clone()));
    }

    fn advance_clock(&self, ms: UnixMs) {
        self.clock_ms.fetch_add(ms, Ordering::SeqCst);
    }

    async fn send(&self, request: Request<Body>) -> TestResponse {
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        let response = TestResponse { status: head.status, headers: head.headers, body };
        assert_eq!(response.header("x-request-id").len(), 36, "each response has a request id");
        response
    }

    async fn get(&self, token: &str, path: &str) -> TestResponse {
        self.send(request("GET", path, token).body(Body::empty()).unwrap()).await
    }

    async fn send_json(&self, method: &str, token: &str, path: &str, body: &Value) -> TestResponse {
        let request = request(method, path, token).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> TestResponse {
        self.send_json("POST", token, path, body).await
    }

    /// Creates a recorded cast of the application `one`.
    async fn create_cast(&self) -> CastId {
        self.create_cast_as(TOKEN_ONE, &json!({"url": "http://a.example/?planted=1", "recording": {}})).await
    }

    async fn create_cast_as(&self, token: &str, body: &Value) -> CastId {
        let cast = self.post(token, "/v1/casts", body).await.expect_status(201);
        CastId::parse(cast["id"].as_str().unwrap()).unwrap()
    }

    /// Claims the next cast as a worker.
    async fn claim(&self) -> Claim {
        let worker = WorkerId("w".to_owned());
        self.service
            .fleet
            .claim(&worker, &Default::default(), LEASE, &|_| true)
            .await
            .unwrap()
            .expect("a cast is queued")
    }

    async fn report(&self, claim: &Claim, kind: EventKind) {
        self.service.fleet.report_event(&claim.ticket, kind).await.unwrap();
    }
}

fn request(method: &str, path: &str, token: &str) -> axum::http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) }
}

/// Panics if a value contains a secret; all secrets of these tests contain `planted`.
#[track_caller]
fn assert_no_secrets(shown: &Value) {
    let text = shown.to_string();
    assert!(!text.contains("planted"), "{text}");
}
