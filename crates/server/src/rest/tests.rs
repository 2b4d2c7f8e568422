//! The whole API through its router, over a real fleet.

mod applications;
mod auth;
mod casts;
mod events;
mod files;
mod limits;
mod openapi;
mod running;
mod wishes;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use pagecast_core::SpecError;
use pagecast_core::spec::{RoomIds, RoomService, RoomUrl, Secret};
use pagecast_fleet::sqlite::{self, Sqlite};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{CastId, Claim, Happening, UnixMs, WorkerId};
use pagecast_testkit::scratch::Scratch;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::config::Config;
use crate::{Rooms, Service};

/// 2026-11-21T17:00:00Z.
const BEGIN: UnixMs = 1_795_280_400_000;
const ADMIN: &str = "administrator-0123456789";
const ONE: &str = "token-of-one-0123456789";
const ONE_MORE: &str = "another-token-of-one-0123456789";
const TWO: &str = "token-of-two-0123456789";
const LEASE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct OwnRooms;

impl Rooms for OwnRooms {
    fn service(&self, _: &RoomIds) -> Result<RoomService, SpecError> {
        let url = RoomUrl::parse("http://127.0.0.1:8081/whip/{app}/{room}")?;
        Ok(RoomService::Whip { url, token: Some(Secret::new("planted-room-token")) })
    }

    fn watch(&self, ids: &RoomIds) -> String {
        format!("http://127.0.0.1:8081/{}/{}", ids.app, ids.room)
    }

    fn viewers(&self, _: &RoomIds) -> usize {
        3
    }
}

/// A service with the applications `one` and `two`, and its time.
struct Lab {
    service: Service,
    router: Router,
    time: Arc<AtomicI64>,
    scratch: Scratch,
}

/// What was answered.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The answer, which must have this status.
    #[track_caller]
    fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Checks that this is an error of the one shape; field `-` is none.
    #[track_caller]
    fn refused(&self, status: u16, code: &str, field: &str) {
        let said = self.expect(status);
        assert_eq!(said["error"]["code"], code, "{said}");
        assert_eq!(said["error"]["field"].as_str().unwrap_or("-"), field, "{said}");
        assert!(said["error"]["message"].as_str().is_some_and(|words| words.len() > 8), "{said}");
        assert_eq!(said["request_id"], self.header("x-request-id"), "{said}");
    }
}

impl Lab {
    async fn new() -> Self {
        Self::with(json!({})).await
    }

    /// With these values in the configuration of its casts.
    async fn with(casts: Value) -> Self {
        let scratch = Scratch::new().unwrap();
        let config: Config = serde_json::from_value(json!({
            "data": scratch.path(),
            "admin_token": ADMIN,
            "casts": casts,
            "applications": [
                {
                    "name": "one", "tokens": [ONE, ONE_MORE], "max_casts": 3,
                    "callbacks": {"native": {"url": "http://127.0.0.1:9/hook?planted=query", "secret": "planted-hook"}},
                },
                {"name": "two", "tokens": [TWO], "limits": {"max_time": {"secs": 600, "nanos": 0}}},
            ],
        }))
        .unwrap();
        let time = Arc::new(AtomicI64::new(BEGIN));
        let clock = {
            let time = Arc::clone(&time);
            Arc::new(move || time.load(Ordering::SeqCst))
        };
        let fleet = Sqlite::open(sqlite::Config {
            path: scratch.join("fleet.db"),
            vault: Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap(),
            history: Duration::from_secs(100 * 3600),
            clock: clock.clone(),
            steady: clock.clone(),
            max_bytes: 1 << 40,
        })
        .unwrap();
        let service = Service {
            fleet,
            apps: Arc::default(),
            config: Arc::new(config),
            rooms: Some(Arc::new(OwnRooms)),
            clock,
            draining: Arc::default(),
        };
        crate::app::load(&service).await.unwrap();
        Self { router: super::router(service.clone()), service, time, scratch }
    }

    fn pass(&self, ms: UnixMs) {
        self.time.fetch_add(ms, Ordering::SeqCst);
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        let reply = Reply { status: head.status, headers: head.headers, body };
        assert_eq!(reply.header("x-request-id").len(), 36, "each answer names its request");
        reply
    }

    async fn get(&self, token: &str, path: &str) -> Reply {
        self.send(request("GET", path, token).body(Body::empty()).unwrap()).await
    }

    async fn call(&self, method: &str, token: &str, path: &str, body: &Value) -> Reply {
        let request = request(method, path, token).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn post(&self, token: &str, path: &str, body: &Value) -> Reply {
        self.call("POST", token, path, body).await
    }

    /// A cast of `one` that is recorded.
    async fn cast(&self) -> CastId {
        self.cast_of(ONE, &json!({"url": "http://a.example/?planted=1", "recording": {}})).await
    }

    async fn cast_of(&self, token: &str, body: &Value) -> CastId {
        let made = self.post(token, "/v1/casts", body).await.expect(201);
        CastId::parse(made["id"].as_str().unwrap()).unwrap()
    }

    /// A worker takes the next cast.
    async fn claim(&self) -> Claim {
        let worker = WorkerId("w".to_owned());
        self.service.fleet.claim(&worker, LEASE, &|_| true).await.unwrap().expect("one waits")
    }

    async fn report(&self, claim: &Claim, happening: Happening) {
        self.service.fleet.report(&claim.ticket, happening).await.unwrap();
    }
}

fn request(method: &str, path: &str, token: &str) -> axum::http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    if token.is_empty() { request } else { request.header("authorization", format!("Bearer {token}")) }
}

/// Nothing that was planted is shown.
#[track_caller]
fn clean(shown: &Value) {
    let text = shown.to_string();
    assert!(!text.contains("planted"), "{text}");
}
