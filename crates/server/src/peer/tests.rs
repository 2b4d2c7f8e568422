//! Two nodes with real listeners, one database, and a data folder each.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::from_fn;
use pagecast_core::spec::Secret;
use pagecast_fleet::sqlite::{self, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{
    Cast, CastId, Claim, Command, CreateOutcome, DatabaseState, EventKind, Fleet, NodeInfo, Renewal,
    RunningCastGuard, RunningCasts, Telemetry as _, WorkerId, WorkerStatus,
};
use pagecast_testkit::ScratchDir;
use serde_json::{Value, json};
use tracing::instrument::WithSubscriber as _;

use super::client::PeerRequest;
use super::token::{FleetKey, HEADER, Target};
use super::*;
use crate::auth_log::tests::CapturedLogs;
use crate::config::Config;
use crate::listen::{Listener, Server};
use crate::new_cast::CastDraft;
use crate::service::{Clock, RecordingReader, Service, StoredRecordings};

const SECRET: &str = "fleet-secret-fleet-secret-fleet-se";
const ADMIN_TOKEN: &str = "administrator-0123456789";
const USER_TOKEN: &str = "token-of-one-0123456789";
const START_MS: i64 = 1_795_280_400_000;
const LEASE: Duration = Duration::from_secs(60);

/// The database of all nodes, and their clock.
struct Database {
    fleet: Arc<SqliteFleet>,
    clock_ms: Arc<AtomicI64>,
    scratch: ScratchDir,
}

impl Database {
    fn new() -> Self {
        let scratch = ScratchDir::new().unwrap();
        let clock_ms = Arc::new(AtomicI64::new(START_MS));
        let fleet = SqliteFleet::open(sqlite::Config {
            path: scratch.join("fleet.db"),
            vault: Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap(),
            retention: Duration::from_secs(100 * 3600),
            wall_clock: clock(&clock_ms),
            monotonic_clock: clock(&clock_ms),
            max_bytes: 1 << 40,
        });
        Self { fleet: fleet.unwrap(), clock_ms, scratch }
    }

    /// A node that other nodes can reach.
    async fn node(&self, name: &str) -> TestNode {
        self.node_with_secret(name, SECRET).await
    }

    async fn node_with_secret(&self, name: &str, secret: &str) -> TestNode {
        let id = WorkerId(name.to_owned());
        let config: Config = serde_json::from_value(json!({
            "data": self.scratch.join(name),
            "admin_token": ADMIN_TOKEN,
            "applications": [{"name": "one", "tokens": [USER_TOKEN]}],
        }))
        .unwrap();
        let fleet: Arc<dyn Fleet> = Arc::clone(&self.fleet) as _;
        let settings = PeerClientConfig { node: id.clone(), secret: Secret::new(secret), ca: None };
        let client = PeerClient::start(settings, Arc::clone(&fleet), clock(&self.clock_ms)).unwrap();
        let service = Service {
            fleet,
            node: id.clone(),
            apps: Arc::default(),
            config: Arc::new(config),
            rooms: None,
            peers: Some(client.clone()),
            live_api_nodes: Arc::default(),
            audit: Arc::default(),
            sign_in_code: Arc::default(),
            page_checker: None,
            evidence: None,
            recordings: Some(Arc::new(FolderRecordings(self.scratch.join(name)))),
            storage_tester: None,
            clock: clock(&self.clock_ms),
            draining: Arc::default(),
        };
        crate::app::load(&service).await.unwrap();
        let (running, state) = (RunningCasts::default(), DatabaseState::default());
        state.set_answers(true);
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        let url = listener.url();
        let node = Node {
            id: id.clone(),
            secret: Secret::new(secret),
            service: service.clone(),
            running: running.clone(),
            database: state.clone(),
            rooms: Router::new(),
        };
        let server = listener.serve(listener_limits(0), router(node));
        let rest = crate::rest::router(service.clone()).layer(from_fn(crate::request_id::assign));
        let api = Listener::bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        let api = api.serve(listener_limits(0), rest);
        self.heartbeat(&id, &url).await;
        TestNode { id, client, service, running, state, guards: Mutex::default(), server, api }
    }

    /// Sends a heartbeat of a node.
    async fn heartbeat(&self, node: &WorkerId, url: &str) {
        let info = NodeInfo { peer_url: Some(url.to_owned()), ..NodeInfo::default() };
        drop(self.fleet.heartbeat(node, WorkerStatus { node: info, ..WorkerStatus::default() }).await);
    }
}

/// Recordings in the data folder of a node.
#[derive(Debug, Clone)]
struct FolderRecordings(PathBuf);

impl StoredRecordings for FolderRecordings {
    fn open(&self, cast: &Cast, _: bool) -> io::Result<Arc<dyn RecordingReader>> {
        Ok(Arc::new(Self(self.0.join("recordings").join(cast.id.as_str()))))
    }
}

#[async_trait]
impl RecordingReader for FolderRecordings {
    async fn read(&self, name: &str, from: u64, max: usize) -> io::Result<Option<(Bytes, u64)>> {
        let Ok(content) = std::fs::read(self.0.join(name)) else { return Ok(None) };
        let from = usize::try_from(from).unwrap().min(content.len());
        let to = (from + max).min(content.len());
        Ok(Some((Bytes::copy_from_slice(&content[from..to]), content.len() as u64)))
    }

    fn is_local(&self) -> bool {
        true
    }
}

fn clock(ms: &Arc<AtomicI64>) -> Clock {
    let ms = Arc::clone(ms);
    Arc::new(move || ms.load(Ordering::SeqCst))
}

struct TestNode {
    id: WorkerId,
    client: PeerClient,
    service: Service,
    running: RunningCasts,
    state: DatabaseState,
    guards: Mutex<Vec<RunningCastGuard>>,
    server: Server,
    /// Its REST API.
    api: Server,
}

impl TestNode {
    /// Creates a cast, claims it for this node and starts it.
    async fn run_cast(&self) -> Claim {
        let app = self.service.apps.by_name("one").unwrap();
        let url = pagecast_core::spec::SourceUrl::parse("http://a.example/").unwrap();
        let id = self.service.new_cast_id();
        let mut spec = self.service.new_cast_spec(&app, pagecast_core::spec::Source::new(url));
        spec.recording = Some(self.service.new_recording(&app, &id, None));
        let draft = CastDraft {
            id,
            api: "test",
            key: None,
            request: Value::Null,
            spec,
            queue_timeout: None,
            notify: false,
        };
        let new = draft.into_new_cast(&self.service, &app);
        assert!(matches!(self.service.create(new).await.unwrap(), CreateOutcome::New(_)));
        let (fleet, info) = (&self.service.fleet, NodeInfo::default());
        let claim = fleet.claim(&self.id, &info, LEASE, &|_| true).await.unwrap().unwrap();
        self.guards.lock().unwrap().push(self.running.add(&claim.ticket));
        self.service.fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
        claim
    }

    /// Waits until this node knows that another one lives.
    async fn wait_until_known(&self, other: &Self) {
        while !self.client.nodes().contains(&other.id) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        let client = pagecast_egress::http::client_builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", self.api.addr);
        client.get(url).bearer_auth(USER_TOKEN).send().await.unwrap()
    }
}

fn key(name: &str, secret: &str, clock: Clock) -> FleetKey {
    FleetKey::new(&Secret::new(secret), WorkerId(name.to_owned()), clock)
}

/// Sends a request with these headers to a channel, and returns status and body.
async fn send(to: SocketAddr, headers: &[(&str, &str)], path: &str) -> (StatusCode, String) {
    let client = pagecast_egress::http::client_builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{to}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn nodes_ask_each_other_what_runs_and_who_owns_it() {
    let database = Database::new();
    let (a, b) = (database.node("a").await, database.node("b").await);
    let claim = a.run_cast().await;
    let id = claim.ticket.cast.clone();
    let status = b.client.status(&a.id).await.unwrap();
    let running = pagecast_fleet::RunningCast { id: id.clone(), epoch: 1 };
    assert_eq!((status.database, status.casts), (true, vec![running]));
    // The node says so when it could not renew its leases.
    a.state.set_answers(false);
    assert!(!b.client.status(&a.id).await.unwrap().database);
    assert!(a.client.status(&b.id).await.unwrap().casts.is_empty());
    let unknown = CastId::new(1, [0; 10]);
    let owners = b.client.owners(&a.id, &[unknown, id.clone()]).await.unwrap();
    assert_eq!(owners.len(), 1);
    assert_eq!((&owners[0].id, owners[0].worker.0.as_str(), owners[0].epoch), (&id, "a", 1));
    b.wait_until_known(&a).await;
    assert_eq!(b.client.nodes(), std::slice::from_ref(&a.id));
    let nobody = WorkerId("nobody".to_owned());
    assert!(matches!(b.client.status(&nobody).await, Err(PeerError::UnknownNode(node)) if node == nobody));
    a.server.stop(Duration::ZERO).await;
    assert!(matches!(b.client.status(&a.id).await, Err(PeerError::Unreachable { .. })));
}

#[tokio::test]
async fn strangers_and_users_are_refused_alike() {
    let database = Database::new();
    let a = database.node("a").await;
    let addr = a.server.addr;
    let path = "/peer/status";
    let target = Target { method: &Method::GET, path };
    let token = |sender: &FleetKey, receiver: &str| {
        let token = sender.sign(target, &WorkerId(receiver.to_owned()), None, b"").unwrap();
        token.to_str().unwrap().to_owned()
    };
    let now = || clock(&database.clock_ms);
    let member = key("b", SECRET, now());
    let stale: Clock = Arc::new(|| START_MS - 30_001);
    let used = token(&member, "a");
    assert_eq!(send(addr, &[(HEADER.as_str(), &used)], path).await.0, StatusCode::OK);
    let (wrong, old, other) = (
        token(&key("b", "another-secret-another-secret-anoth", now()), "a"),
        token(&key("b", SECRET, stale), "a"),
        token(&member, "c"),
    );
    let bearer = |token: &str| format!("Bearer {token}");
    let (admin, user) = (bearer(ADMIN_TOKEN), bearer(USER_TOKEN));
    let with_body = member.sign(target, &a.id, None, b"a body that does not come").unwrap();
    let mut answers = Vec::new();
    for (what, headers) in [
        ("no token", vec![]),
        ("a wrong secret", vec![(HEADER.as_str(), wrong.as_str())]),
        ("a stale token", vec![(HEADER.as_str(), &old)]),
        ("a replay", vec![(HEADER.as_str(), &used)]),
        ("a token for another node", vec![(HEADER.as_str(), &other)]),
        ("an administrator", vec![("authorization", &admin)]),
        ("a user", vec![("authorization", &user)]),
        ("a user's token as a node's", vec![(HEADER.as_str(), &user)]),
        ("another body", vec![(HEADER.as_str(), with_body.to_str().unwrap())]),
    ] {
        let (status, body) = send(addr, &headers, path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}");
        answers.push(body);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    for path in ["/", "/v1/casts", "/metrics", "/peer/rooms/a/whip", "/peer/evidence/x"] {
        assert_eq!(
            send(addr, &[("authorization", &admin)], path).await.0,
            StatusCode::UNAUTHORIZED,
            "{path}"
        );
    }
    // A node with another secret is told apart from a room that refuses a user.
    let stranger = database.node_with_secret("d", "another-secret-another-secret-anoth").await;
    assert!(matches!(stranger.client.status(&a.id).await, Err(PeerError::Refused(node)) if node == a.id));
}

#[tokio::test]
async fn refusals_are_logged_once_a_minute() {
    let lines = CapturedLogs::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let database = Database::new();
    let a = database.node("a").await;
    let router = router(Node {
        id: a.id.clone(),
        secret: Secret::new(SECRET),
        service: a.service.clone(),
        running: RunningCasts::default(),
        database: DatabaseState::default(),
        rooms: Router::new(),
    });
    let request = || axum::http::Request::get("/peer/status").body(axum::body::Body::empty()).unwrap();
    async {
        for _ in 0..50 {
            let response = tower::ServiceExt::oneshot(router.clone(), request()).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        }
    }
    .with_subscriber(subscriber)
    .await;
    let text = lines.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(" INFO ") && text.contains("peer request refused") && text.contains("no-token"));
}

#[tokio::test]
async fn a_body_is_limited() {
    let database = Database::new();
    let (a, b) = (database.node("a").await, database.node("b").await);
    let request = |len: usize| PeerRequest {
        method: Method::POST,
        path: "/owners".to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::from(vec![b' '; len]),
        client: None,
    };
    let at_limit = b.client.send(&a.id, request(256 << 10)).await.unwrap();
    assert_eq!(at_limit.status(), StatusCode::BAD_REQUEST, "it was read, and is no request for owners");
    // The connection may be closed before the whole body was sent.
    let above = b.client.send(&a.id, request((256 << 10) + 1)).await;
    assert!(matches!(above, Err(PeerError::Refused(_) | PeerError::Unreachable { .. })), "{above:?}");
}

#[tokio::test]
async fn answers_are_limited_in_time_and_size() {
    let database = Database::new();
    let b = database.node("b").await;
    for (name, answer) in [
        ("endless", Router::new().fallback(async || "x".repeat(2 << 20))),
        ("silent", Router::new().fallback(async || std::future::pending::<&str>().await)),
        ("wrong", Router::new().fallback(async || "{\"database\": 1}")),
        ("redirecting", Router::new().fallback(async || axum::response::Redirect::to("/elsewhere"))),
    ] {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        let node = WorkerId(name.to_owned());
        database.heartbeat(&node, &listener.url()).await;
        let server = listener.serve(listener_limits(0), answer);
        let error = b.client.status(&node).await.unwrap_err();
        let as_expected = match name {
            "silent" => matches!(error, PeerError::Timeout(_)),
            "redirecting" => matches!(error, PeerError::Status { status: 303, .. }),
            _ => matches!(error, PeerError::InvalidAnswer(_)),
        };
        assert!(as_expected, "{name}: {error:?}");
        server.stop(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn snapshots_come_from_the_node_that_runs_the_cast() {
    let database = Database::new();
    let (a, b) = (database.node("a").await, database.node("b").await);
    let claim = a.run_cast().await;
    let path = format!("/v1/casts/{}/snapshot.jpg", claim.ticket.cast);
    let fleet = &database.fleet;
    let worker = async {
        loop {
            let ticket = std::slice::from_ref(&claim.ticket);
            let renewals = pagecast_fleet::Leases::renew_all(&**fleet, ticket, LEASE).await.unwrap();
            let [Renewal::Renewed { commands }] = renewals.as_slice() else { panic!("{renewals:?}") };
            if let [(number, Command::Snapshot)] = commands.as_slice() {
                database.clock_ms.fetch_add(1000, Ordering::SeqCst);
                fleet.put_snapshot(&claim.ticket, Bytes::from_static(b"\xff\xd8\xff picture")).await;
                pagecast_fleet::Leases::ack_commands(&**fleet, &claim.ticket, *number).await.unwrap();
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (response, ()) = tokio::join!(b.get(&path), worker);
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers()["pagecast-taken-at"].to_str().unwrap().starts_with("2026-11-21T17:00:01"));
    assert_eq!(response.bytes().await.unwrap(), &b"\xff\xd8\xff picture"[..]);
    // It is that node that is asked, and not the database.
    a.server.stop(Duration::ZERO).await;
    assert_eq!(b.get(&path).await.status(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn evidence_and_logs_come_from_the_node_that_has_them() {
    let database = Database::new();
    let (a, b) = (database.node("a").await, database.node("b").await);
    tokio::join!(a.wait_until_known(&b), b.wait_until_known(&a));
    let id = a.run_cast().await.ticket.cast;
    let folder = a.service.cast_folder("evidence", &id);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("cast.log"), "page loaded\n").unwrap();
    std::fs::write(folder.join("1-frozen.png"), [7; 1000]).unwrap();
    let own = b.service.cast_folder("evidence", &id);
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("2-blank.png"), [8; 10]).unwrap();
    let base = format!("/v1/casts/{id}/evidence");
    let list: Value = serde_json::from_slice(&b.get(&base).await.bytes().await.unwrap()).unwrap();
    let names: Vec<_> = list["files"].as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(names, ["1-frozen.png", "2-blank.png", "cast.log"]);
    let log = b.get(&format!("{base}/cast.log")).await;
    assert_eq!(log.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(log.text().await.unwrap(), "page loaded\n");
    assert_eq!(b.get(&format!("{base}/1-frozen.png")).await.bytes().await.unwrap(), &[7; 1000][..]);
    assert_eq!(a.get(&format!("{base}/2-blank.png")).await.bytes().await.unwrap(), &[8; 10][..]);
    assert_eq!(b.get(&format!("{base}/3.png")).await.status(), StatusCode::NOT_FOUND);
    a.server.stop(Duration::ZERO).await;
    let list: Value = serde_json::from_slice(&b.get(&base).await.bytes().await.unwrap()).unwrap();
    assert_eq!(list["files"].as_array().unwrap().len(), 1, "what can be had is listed");
}

#[tokio::test]
async fn recordings_come_from_the_node_that_has_them() {
    let database = Database::new();
    let (a, b) = (database.node("a").await, database.node("b").await);
    tokio::join!(a.wait_until_known(&b), b.wait_until_known(&a));
    let id = a.run_cast().await.ticket.cast;
    let folder = database.scratch.join("a").join("recordings").join(id.as_str());
    std::fs::create_dir_all(&folder).unwrap();
    // More than one chunk.
    let movie: Vec<u8> = (0..1_000_000).map(|at| (at % 251) as u8).collect();
    std::fs::write(folder.join("movie.mp4"), &movie).unwrap();
    let path = format!("/v1/casts/{id}/files/movie.mp4");
    for node in [&a, &b] {
        let response = node.get(&path).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.bytes().await.unwrap() == movie, "node {}", node.id.0);
    }
    assert_eq!(b.get(&format!("/v1/casts/{id}/files/other.mp4")).await.status(), StatusCode::NOT_FOUND);
    a.server.stop(Duration::ZERO).await;
    assert_eq!(b.get(&path).await.status(), StatusCode::NOT_FOUND, "nobody has it");
}
