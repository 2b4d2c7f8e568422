//! A service behind its router, for requests of any kind.

#[path = "memory_fleet.rs"]
pub(crate) mod memory_fleet;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use pagecast_core::spec::Secret;
use pagecast_server::app::{self, AccessKey, Application, ApplicationRegistry};
use pagecast_server::config::Config;
use pagecast_server::metrics::Metrics;
use pagecast_server::{Service, route};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tower::ServiceExt as _;

use memory_fleet::MemoryFleet;

/// Secret of all access keys.
pub(crate) const SECRET: &str = "secret";
/// `AppId` of the application `one`.
pub(crate) const APP_ID: &str = "app0123456789";
/// `SdkAppId` of the application `one`.
pub(crate) const SDK_APP_ID: u64 = 1_400_000_001;
/// Token of the application `one`.
pub(crate) const TOKEN: &str = "token-of-one-0123456789";
/// Token of the administrator.
pub(crate) const ADMIN: &str = "administrator-0123456789";
/// `Host` of all requests.
pub(crate) const HOST: &str = "127.0.0.1:8080";
/// Advance of the clock with each request, in milliseconds, so that no request is a replay.
const STEP_MS: i64 = 1000;

pub(crate) struct Fixture {
    router: Router,
    service: Service,
    fleet: Arc<MemoryFleet>,
    runtime: Runtime,
    now: Arc<AtomicI64>,
    keys: usize,
    next_key: AtomicUsize,
}

/// A response of the service.
pub(crate) struct ApiResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl ApiResponse {
    pub(crate) fn json(&self) -> Value {
        let shown = || String::from_utf8_lossy(&self.body).into_owned();
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", shown()))
    }
}

impl Fixture {
    /// A service with this many keys, as the rate limit is per key.
    pub(crate) fn new(keys: usize) -> Self {
        let mut one: Application = serde_json::from_value(json!({
            "name": "one", "app_id": APP_ID, "sdk_app_id": SDK_APP_ID, "tokens": [TOKEN],
            "room": {"service": {"whip": {"url": "https://rooms.example/{app}/{room}", "token": null}}},
            "storage": {"vod_keys": {"id": "vod", "secret": "s"}},
        }))
        .expect("an application");
        let key = |n| AccessKey { id: format!("K{n}"), secret: Secret::new(SECRET), disabled: false };
        one.keys = (0..keys).map(key).collect();
        let data = "/nonexistent/pagecast-fuzz".into();
        let admin_token = Some(Secret::new(ADMIN));
        let config = Config { data, admin_token, applications: vec![one.clone()], ..Config::default() };
        let fleet = Arc::new(MemoryFleet::default());
        let now = Arc::new(AtomicI64::new(1_700_000_000_000));
        let clock = Arc::clone(&now);
        let service = Service {
            node: pagecast_fleet::WorkerId("w".to_owned()),
            fleet: Arc::clone(&fleet) as _,
            apps: Arc::new(ApplicationRegistry::default()),
            config: Arc::new(config),
            rooms: None,
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            peers: None,
            draining: Arc::default(),
            live_api_nodes: Arc::default(),
            audit: Arc::default(),
            sign_in_code: Arc::default(),
            evidence: None,
            recordings: None,
            storage_tester: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // The service never drains.
        let (_, draining) = watch::channel(false);
        let router = route::router(service.clone(), Arc::new(Metrics::default()), draining, Router::new());
        // Set directly, as the configuration allows fewer keys.
        service.apps.replace(vec![one]);
        Self { router, service, fleet, runtime, now, keys, next_key: AtomicUsize::new(0) }
    }

    /// Resets the state of the service, but not its clock.
    pub(crate) fn reset(&self) {
        self.fleet.clear();
        // Targets with many keys do not change applications.
        if self.keys == 0 {
            self.runtime.block_on(app::load(&self.service)).expect("applications");
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.now.fetch_add(STEP_MS, Ordering::Relaxed) + STEP_MS
    }

    /// Id of the next key.
    pub(crate) fn key(&self) -> String {
        format!("K{}", self.next_key.fetch_add(1, Ordering::Relaxed) % self.keys.max(1))
    }

    /// Sends a request and returns the response; `None` for an endless one.
    pub(crate) fn send(&self, request: Request<Body>) -> Option<ApiResponse> {
        self.runtime.block_on(async {
            let answer: Response<Body> = match self.router.clone().oneshot(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            };
            let (head, body) = answer.into_parts();
            let endless = head.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
            if endless {
                return None;
            }
            let body = body.collect().await.expect("a complete response").to_bytes();
            Some(ApiResponse { status: head.status, headers: head.headers, body })
        })
    }
}

/// A request to `/` made of bytes: lines with method, query and headers, an empty line, and the body.
pub(crate) fn raw_request(bytes: &[u8]) -> Option<Request<Body>> {
    let (mut rest, mut request) = (bytes, Request::builder());
    let (mut lines, mut query) = (0, String::new());
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let (line, later) = (&rest[..end], &rest[(end + 1).min(rest.len())..]);
        rest = later;
        match lines {
            0 => request = request.method(line),
            1 => query = percent_encode(line),
            _ if line.is_empty() => break,
            _ => {
                let colon = line.iter().position(|byte| *byte == b':')?;
                request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
            }
        }
        lines += 1;
    }
    request.uri(format!("/?{query}")).body(Body::from(rest.to_vec())).ok()
}

/// A query of these bytes, percent-encoded where needed.
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>`".contains(&byte);
    bytes
        .iter()
        .map(|byte| if is_allowed(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// `valid` with mutations: each is the index of a member, a length, and a new value, JSON or text.
pub(crate) fn mutated(valid: &Value, mut bytes: &[u8]) -> Value {
    let mut value = valid.clone();
    while let [at, length, more @ ..] = bytes {
        let (new, later) = more.split_at(usize::from(*length).min(more.len()));
        bytes = later;
        let mut pointers = Vec::new();
        member_pointers(&value, &mut String::new(), &mut pointers);
        let pointer = &pointers[usize::from(*at) % pointers.len()];
        if let Some(member) = value.pointer_mut(pointer) {
            let text = || Value::from(String::from_utf8_lossy(new));
            *member = serde_json::from_slice(new).unwrap_or_else(|_| text());
        }
    }
    value
}

fn member_pointers(value: &Value, at: &mut String, found: &mut Vec<String>) {
    found.push(at.clone());
    let mut go = |name: &str, inner: &Value| {
        let length = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        member_pointers(inner, at, found);
        at.truncate(length);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, inner)| go(name, inner)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, inner)| go(&i.to_string(), inner)),
        _ => {}
    }
}
