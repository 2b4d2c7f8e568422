//! A whole service behind its router, for requests of any kind.

#[path = "shelf.rs"]
pub(crate) mod shelf;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use pagecast_core::spec::Secret;
use pagecast_server::app::{self, AccessKey, Application, Apps};
use pagecast_server::config::Config;
use pagecast_server::metrics::Metrics;
use pagecast_server::{Service, route};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tower::ServiceExt as _;

use shelf::Shelf;

/// The secret of all keys.
pub(crate) const SECRET: &str = "secret";
/// `AppId` and `SdkAppId` of the application `one`.
pub(crate) const APP_ID: &str = "app0123456789";
pub(crate) const SDK_APP_ID: u64 = 1_400_000_001;
/// A token of it, and the administrator's.
pub(crate) const TOKEN: &str = "token-of-one-0123456789";
pub(crate) const ADMIN: &str = "administrator-0123456789";
/// Whom requests are sent to.
pub(crate) const HOST: &str = "127.0.0.1:8080";
/// How far the clock goes with each request, in milliseconds: nothing comes twice.
const STEP_MS: i64 = 1000;

pub(crate) struct Rig {
    router: Router,
    service: Service,
    shelf: Arc<Shelf>,
    runtime: Runtime,
    now: Arc<AtomicI64>,
    keys: usize,
    turn: AtomicUsize,
}

/// What was answered.
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        let shown = || String::from_utf8_lossy(&self.body).into_owned();
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", shown()))
    }
}

impl Rig {
    /// With so many keys: each may ask as often as it may.
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
        let shelf = Arc::new(Shelf::default());
        let now = Arc::new(AtomicI64::new(1_700_000_000_000));
        let clock = Arc::clone(&now);
        let service = Service {
            fleet: Arc::clone(&shelf) as _,
            apps: Arc::new(Apps::default()),
            config: Arc::new(config),
            rooms: None,
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            draining: Arc::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // Nobody tells that it drains.
        let (_, draining) = watch::channel(false);
        let router = route::router(service.clone(), Arc::new(Metrics::default()), draining);
        // Not loaded: so many keys would be refused.
        service.apps.replace(vec![one]);
        Self { router, service, shelf, runtime, now, keys, turn: AtomicUsize::new(0) }
    }

    /// As it was at first, but later.
    pub(crate) fn begin(&self) {
        self.shelf.empty();
        // With many keys they are never changed.
        if self.keys == 0 {
            self.runtime.block_on(app::load(&self.service)).expect("applications");
        }
    }

    pub(crate) fn now(&self) -> i64 {
        self.now.fetch_add(STEP_MS, Ordering::Relaxed) + STEP_MS
    }

    /// The next key.
    pub(crate) fn key(&self) -> String {
        format!("K{}", self.turn.fetch_add(1, Ordering::Relaxed) % self.keys.max(1))
    }

    /// The whole answer; `None` for one that has no end.
    pub(crate) fn send(&self, request: Request<Body>) -> Option<Said> {
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
            let body = body.collect().await.expect("an answer is whole").to_bytes();
            Some(Said { status: head.status, headers: head.headers, body })
        })
    }
}

/// A request to `/` as bytes say: lines of method, query and headers, an empty one, and the body.
pub(crate) fn raw(bytes: &[u8]) -> Option<Request<Body>> {
    let (mut rest, mut request) = (bytes, Request::builder());
    let (mut lines, mut query) = (0, String::new());
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let (line, later) = (&rest[..end], &rest[(end + 1).min(rest.len())..]);
        rest = later;
        match lines {
            0 => request = request.method(line),
            1 => query = percent(line),
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

/// A query of these bytes: what may not be in one is written with `%`.
pub(crate) fn percent(bytes: &[u8]) -> String {
    let may = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>`".contains(&byte);
    bytes
        .iter()
        .map(|byte| if may(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// `good` with changes: each a place among its members, a length, and what is put there, JSON or text.
pub(crate) fn changed(good: &Value, mut bytes: &[u8]) -> Value {
    let mut value = good.clone();
    while let [at, length, more @ ..] = bytes {
        let (new, later) = more.split_at(usize::from(*length).min(more.len()));
        bytes = later;
        let mut places = Vec::new();
        places_of(&value, &mut String::new(), &mut places);
        let place = &places[usize::from(*at) % places.len()];
        if let Some(member) = value.pointer_mut(place) {
            let text = || Value::from(String::from_utf8_lossy(new));
            *member = serde_json::from_slice(new).unwrap_or_else(|_| text());
        }
    }
    value
}

fn places_of(value: &Value, at: &mut String, found: &mut Vec<String>) {
    found.push(at.clone());
    let mut go = |name: &str, inner: &Value| {
        let length = at.len();
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        places_of(inner, at, found);
        at.truncate(length);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, inner)| go(name, inner)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, inner)| go(&i.to_string(), inner)),
        _ => {}
    }
}
