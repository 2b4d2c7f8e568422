//! Rooms of two nodes: each node takes requests for all rooms, and a room moves when its node dies.

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_core::spec::Secret;
use pagecast_fleet::sqlite::{self, SqliteFleet, monotonic_clock};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{
    DatabaseState, Fleet, NodeInfo, Rooms, RunningCasts, Telemetry as _, UnixMs, WorkerId, WorkerStatus,
};
use pagecast_room::embedded::{
    Access, Config, Server,
    token::{self, Action, Claims},
};
use pagecast_server::Service;
use pagecast_server::listen::{self, Listener};
use pagecast_server::peer::{
    self as channel, Node as ChannelNode, OccupiedRoom, OwnerCache, PeerClient, PeerClientConfig,
    RoomForwarder, RoomServer,
};
use pagecast_testkit::{ScratchDir, wait_until};
use peer::{Peer, SessionRequest};
use tokio::runtime::Runtime;
use tokio::sync::watch;

const TIMEOUT: Duration = Duration::from_secs(40);
/// Lease of rooms: the shortest that a fleet may have.
const LEASE: Duration = Duration::from_secs(3);
/// Longest time after the death of a node until its rooms are elsewhere: the lease, and what a loaded machine
/// adds.
const MOVE_TIMEOUT: Duration = Duration::from_secs(10);
const FLEET_SECRET: &str = "fleet-secret-fleet-secret-fleet-se";
const ROOM_SECRET: &str = "room-secret-0123456789";

/// The rooms of a node.
#[derive(Debug)]
struct TestRooms(Server);

impl RoomServer for TestRooms {
    fn occupied_rooms(&self) -> Vec<OccupiedRoom> {
        let rooms = self.0.rooms().into_iter();
        rooms.map(|stats| OccupiedRoom { viewers: stats.viewers.len(), name: stats.room }).collect()
    }

    fn close_room(&self, room: &str) {
        self.0.close_room(room);
    }

    fn may_publish(&self, room: &str, token: Option<&str>) -> bool {
        let verify = |token| token::verify(&Secret::new(ROOM_SECRET), token, room, Action::Publish).is_ok();
        token.is_some_and(verify)
    }
}

/// A node with a main listener, a channel to the others, and rooms.
struct TestNode {
    id: WorkerId,
    rooms: Arc<TestRooms>,
    main: SocketAddr,
    runtime: Runtime,
    _stop: watch::Sender<bool>,
}

impl TestNode {
    fn start(name: &str, fleet: &Arc<SqliteFleet>, scratch: &ScratchDir) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let access = Access::Jwt(Secret::new(ROOM_SECRET));
        let server = Server::start(Config { http: "127.0.0.1:0".parse()?, access, ..Config::default() })?;
        let (id, rooms) = (WorkerId(name.to_owned()), Arc::new(TestRooms(server)));
        let (stop, stopped) = watch::channel(false);
        let data = scratch.join(name);
        let main = runtime.block_on(run_node(&id, fleet, &rooms, data, stopped))?;
        Ok(Self { id, rooms, main, runtime, _stop: stop })
    }

    /// Ends the node without releasing anything.
    fn die(self) {
        self.runtime.shutdown_background();
        drop(self.rooms);
    }
}

/// Runs a node's listeners and tasks on this runtime, and returns the address of its main listener.
async fn run_node(
    id: &WorkerId,
    fleet: &Arc<SqliteFleet>,
    rooms: &Arc<TestRooms>,
    data: std::path::PathBuf,
    stopped: watch::Receiver<bool>,
) -> Result<SocketAddr> {
    let shared: Arc<dyn Fleet> = Arc::clone(fleet) as _;
    let secret = Secret::new(FLEET_SECRET);
    let settings = PeerClientConfig { node: id.clone(), secret: secret.clone(), ca: None };
    let client = PeerClient::start(settings, Arc::clone(&shared), Arc::new(unix_ms))?;
    let config = pagecast_server::config::Config { data, ..Default::default() };
    let service = Service {
        fleet: shared,
        apps: Arc::default(),
        config: Arc::new(config),
        rooms: None,
        peers: Some(client.clone()),
        node: id.clone(),
        live_api_nodes: Arc::default(),
        audit: Arc::default(),
        sign_in_code: Arc::default(),
        page_checker: None,
        evidence: None,
        recordings: None,
        storage_tester: None,
        clock: Arc::new(unix_ms),
        draining: Arc::default(),
    };
    let (listener, url) = bind().await?;
    let node = ChannelNode {
        id: id.clone(),
        secret,
        service,
        running: RunningCasts::default(),
        database: DatabaseState::default(),
        rooms: rooms.0.router(),
    };
    serve(listener, channel::router(node));
    let forwarder = RoomForwarder {
        peers: client,
        table: Arc::clone(fleet) as _,
        lease: LEASE,
        local: Some(rooms.0.router()),
        rooms: Arc::clone(rooms) as _,
        owners: OwnerCache::default(),
    };
    let (listener, _) = bind().await?;
    let main = listener.addr;
    serve(listener, Arc::new(forwarder).router());
    let viewers = Arc::new(AtomicUsize::new(0));
    let table: Arc<dyn Rooms> = Arc::clone(fleet) as _;
    let renewal = channel::renew_rooms(id.clone(), table, Arc::clone(rooms) as _, LEASE, viewers, stopped);
    drop(tokio::spawn(renewal));
    drop(tokio::spawn(send_heartbeats(id.clone(), Arc::clone(fleet), url)));
    Ok(main)
}

async fn bind() -> Result<(Listener, String)> {
    let listener = Listener::bind("127.0.0.1:0".parse()?, None).await?;
    let url = listener.url();
    Ok((listener, url))
}

/// Serves a router for as long as the runtime lives.
fn serve(listener: Listener, router: pagecast_server::route::Router) {
    let server: listen::Server = listener.serve(channel::listener_limits(100), router);
    drop(tokio::spawn(async move {
        let _server = server;
        std::future::pending::<()>().await;
    }));
}

async fn send_heartbeats(id: WorkerId, fleet: Arc<SqliteFleet>, url: String) {
    let node = NodeInfo { peer_url: Some(url), roles: vec!["rooms".to_owned()], ..NodeInfo::default() };
    loop {
        let status = WorkerStatus { at_ms: unix_ms(), node: node.clone(), ..WorkerStatus::default() };
        drop(fleet.heartbeat(&id, status).await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn unix_ms() -> UnixMs {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::try_from(now.as_millis()).unwrap_or(UnixMs::MAX)
}

fn open_fleet(scratch: &ScratchDir) -> Result<Arc<SqliteFleet>> {
    Ok(SqliteFleet::open(sqlite::Config {
        path: scratch.join("fleet.db"),
        vault: Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")?,
        retention: Duration::from_secs(100 * 3600),
        wall_clock: Arc::new(unix_ms),
        monotonic_clock: monotonic_clock(),
        max_bytes: 1 << 40,
    })?)
}

fn token(room: &str) -> Result<String> {
    let claims = Claims::new(room, Duration::from_secs(600)).allow_publish("page").allow_view();
    Ok(token::mint(&Secret::new(ROOM_SECRET), &claims)?)
}

fn owner(fleet: &Arc<SqliteFleet>, room: &str) -> Result<Option<WorkerId>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(fleet.room_owner(room))?)
}

/// Publishes through one node until the room is on the other.
fn publish_on_the_other(via: &TestNode, fleet: &Arc<SqliteFleet>) -> Result<(String, Peer)> {
    for n in 0..40 {
        let room = format!("app~{n}");
        let token = token(&room)?;
        let request = SessionRequest { token: Some(&token), ..SessionRequest::room(&room) };
        let publisher = Peer::publish(via.main, &request)?;
        if owner(fleet, &room)?.context("no owner")? != via.id {
            return Ok((room, publisher));
        }
        publisher.leave()?;
    }
    bail!("all rooms are on one node")
}

#[test]
fn viewers_of_one_node_see_publishers_of_another_and_come_back() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let fleet = open_fleet(&scratch)?;
    let (a, b) = (TestNode::start("a", &fleet, &scratch)?, TestNode::start("b", &fleet, &scratch)?);
    // Until both nodes know each other, rooms are where they begin.
    let (room, publisher) =
        wait_until("both nodes carry rooms", TIMEOUT, || publish_on_the_other(&a, &fleet))?;
    let token = token(&room)?;
    let request = SessionRequest { token: Some(&token), ..SessionRequest::room(&room) };
    ensure!(b.rooms.0.stats(&room).is_some() || a.rooms.0.stats(&room).is_none(), "the room is on b");
    let (via_a, via_b) = (Peer::watch(a.main, &request)?, Peer::watch(b.main, &request)?);
    for viewer in [&via_a, &via_b] {
        viewer.wait("frames", TIMEOUT, |state| state.video.len() > 60)?;
    }
    ensure!(a.rooms.0.stats(&room).is_none(), "the sessions are on b");
    // Sessions can be changed through either node, and the room's node checks tokens.
    publisher.restart_ice()?;
    let path = |verb: &str| format!("/rooms/{room}/{verb}");
    let stats = http::send_request(a.main, "GET", &path(&format!("stats?token={token}")), &[], "")?;
    ensure!(stats.status == 200 && stats.body.contains("\"page\""), "{stats:?}");
    ensure!(http::send_request(a.main, "GET", &path("stats"), &[], "")?.status == 401);
    let offer = peer::offer(None, false)?.sdp;
    ensure!(http::post_offer(a.main, &path("whep"), Some("x"), &offer)?.status == 401);
    ensure!(http::post_offer(a.main, &path("whip"), None, &offer)?.status == 401);
    ensure!(http::send_request(a.main, "GET", &path("whep/nosession"), &[], "")?.status == 404);
    let nobody = http::post_offer(a.main, "/rooms/app~nobody/whep", Some("x"), &offer)?;
    ensure!(nobody.status == 404 && nobody.header("retry-after") == Some("2"), "{nobody:?}");
    ensure!(owner(&fleet, "app~nobody")?.is_none(), "viewers create no rooms");
    let mut events = TcpStream::connect(a.main)?;
    events.set_read_timeout(Some(TIMEOUT))?;
    let head = format!("GET {}/events HTTP/1.1\r\nHost: a\r\nConnection: close", via_a.session);
    write!(events, "{head}\r\n\r\n")?;
    let mut text = String::new();
    while !text.contains("event: layers") {
        let mut part = [0; 1024];
        let length = events.read(&mut part)?;
        ensure!(length > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    ensure!(text.starts_with("HTTP/1.1 200") && text.contains("text/event-stream"), "{text}");

    b.die();
    let died = Instant::now();
    events.read_to_end(&mut Vec::new()).or_else(|error| match error.kind() {
        std::io::ErrorKind::ConnectionReset => Ok(0),
        _ => Err(error).context("the event stream does not end"),
    })?;
    via_a.wait("the end of the session", TIMEOUT, |state| state.disconnected)?;
    let refused = http::post_offer(a.main, &path("whep"), Some(&token), &offer)?;
    ensure!(matches!(refused.status, 503 | 404) && refused.header("retry-after").is_some(), "{refused:?}");
    let again = wait_until("the room moves", MOVE_TIMEOUT, || Peer::publish(a.main, &request))?;
    println!("published again {:?} after the death of the node", died.elapsed());
    ensure!(owner(&fleet, &room)? == Some(a.id.clone()));
    let viewer = wait_until("viewers come back", MOVE_TIMEOUT, || Peer::watch(a.main, &request))?;
    viewer.wait("frames", TIMEOUT, |state| state.video.len() > 60)?;
    ensure!(a.rooms.0.stats(&room).is_some_and(|stats| stats.publishers.len() == 1));
    viewer.leave()?;
    again.leave()?;
    // An empty room is not renewed.
    let ends = wait_until("the lease ends", TIMEOUT, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let other = WorkerId("c".to_owned());
        let owner = runtime.block_on(fleet.assign_room(&room, &other, LEASE))?;
        ensure!(owner == other, "{owner:?}");
        Ok(())
    });
    drop((publisher, via_b));
    ends
}
