//! The ways to a server's media, from end to end: a publisher, a real TURN server, and the embedded room.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::connection::State;
use pagecast_core::spec::{Ice, IceServer, Layer, Room, RoomIds, RoomService, RoomUrl, Secret, Size};
use pagecast_core::{Fps, MediaTime, Packet, Track};
use pagecast_room::embedded::{Config, Server};
use pagecast_room::publish::{EncoderControl, Feed, LayerTarget, Publisher};
use pagecast_testkit::command::program;
use pagecast_testkit::coturn::{Coturn, PASSWORD, USER};
use tokio::sync::mpsc;

/// How long anything may take on a machine that has other things to do.
const TIMEOUT: Duration = Duration::from_secs(60);
/// In which environment variable a test that runs in a process of its own finds its server.
const TLS_SERVER_ENV: &str = "PAGECAST_TEST_TURNS";

struct NoopEncoders;

impl EncoderControl for NoopEncoders {
    fn request_keyframe(&self, _layer: usize) {}
    fn set_target(&self, _layer: usize, _target: LayerTarget) {}
}

/// Something that can be sent, though not seen: a parameter set, and a slice of a keyframe.
fn video_packet(at: i64) -> Packet {
    let mut data =
        vec![0, 0, 0, 1, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0, 0, 0, 1, 0x68, 0xCE, 0x3C, 0x80, 0, 0, 0, 1, 0x65];
    data.extend((0..3000).map(|byte| 0x11 + (byte % 200) as u8));
    let (pts, duration) = (MediaTime(at * 33_000_000), MediaTime(33_000_000));
    Packet { track: Track::Video, data: data.into(), pts, dts: pts, duration, keyframe: true }
}

/// Pictures for ever.
struct VideoFeeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl VideoFeeder {
    fn start(publisher: &Publisher) -> Self {
        let (sender, video) = mpsc::channel(8);
        let (_none, audio) = mpsc::channel(1);
        publisher.set_feed(Feed { video: vec![video], audio }, Box::new(NoopEncoders));
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            for at in 0.. {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                // What finds no room is dropped, as encoders drop it.
                let _full = sender.try_send(video_packet(at));
                std::thread::sleep(Duration::from_millis(33));
            }
        });
        Self { stop: over, thread: Some(thread) }
    }
}

impl Drop for VideoFeeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn room(http: SocketAddr, ice: Ice) -> Room {
    let service = RoomService::Whip {
        url: RoomUrl::parse(&format!("http://{http}/rooms/{{room}}/whip?user={{user}}")).unwrap(),
        token: None,
    };
    let id = |text: &str| text.to_owned();
    let ids = RoomIds { app: id("app"), room: id("demo"), user: id("page"), task: id("task") };
    let layer = Layer { size: Size::HD, fps: Fps::DEFAULT, bitrate_kbps: None };
    Room { ice, ..Room::new(service, ids, layer) }
}

fn relayed_by(url: String) -> Ice {
    let server = IceServer { url, username: USER.into(), credential: Secret::new(PASSWORD) };
    Ice { servers: vec![server], relay_only: true }
}

/// Waits until pictures arrive in a room, or do no longer.
fn wait_until_active(server: &Server, publisher: &Publisher) {
    let began = Instant::now();
    let arrives = || {
        let stats = server.stats("demo")?;
        Some(stats.publishers.first()?.layers.iter().any(|layer| layer.bitrate_bps > 100_000))
    };
    while arrives() != Some(true) {
        assert!(began.elapsed() < TIMEOUT, "nothing arrives: {:?}", publisher.status());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Publishes by way of this server until pictures arrive, and says goodbye.
fn publish_until_active(ice: Ice) {
    let server = Server::start(Config { http: ([127, 0, 0, 1], 0).into(), ..Config::default() }).unwrap();
    let publisher = Publisher::start(room(server.http_addr(), ice)).unwrap();
    let pictures = VideoFeeder::start(&publisher);
    wait_until_active(&server, &publisher);
    assert_eq!(publisher.status().state, State::Running);
    drop(pictures);
    let (status, _) = publisher.finish().unwrap();
    assert_eq!(status.error, None);
}

#[test]
fn pictures_are_relayed_over_udp_and_tcp() {
    let coturn = Coturn::start(&[]).unwrap();
    for transport in ["udp", "tcp"] {
        publish_until_active(relayed_by(coturn.url(transport)));
    }
    assert_eq!(coturn.log().matches("ALLOCATE processed, success").count(), 2, "{}", coturn.log());
}

/// The system's trust is read from the environment, so the publisher gets a process with one of its own.
#[test]
fn pictures_are_relayed_over_tls() {
    let coturn = Coturn::start(&[]).unwrap();
    let mut itself = program(std::env::current_exe().unwrap());
    itself.args(["--exact", "over_tls_in_a_process_of_its_own", "--ignored", "--nocapture"]);
    itself.env("SSL_CERT_FILE", coturn.certificate()).env(TLS_SERVER_ENV, coturn.tls_url());
    let ended = itself.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(coturn.log().matches("ALLOCATE processed, success").count(), 1, "{}", coturn.log());
}

#[test]
#[ignore = "run by pictures_are_relayed_over_tls"]
fn over_tls_in_a_process_of_its_own() {
    publish_until_active(relayed_by(std::env::var(TLS_SERVER_ENV).unwrap()));
}

#[test]
fn a_turn_server_that_refuses_is_named() {
    let coturn = Coturn::start(&[]).unwrap();
    let server = Server::start(Config { http: ([127, 0, 0, 1], 0).into(), ..Config::default() }).unwrap();
    let mut ice = relayed_by(coturn.url("udp"));
    ice.servers[0].credential = Secret::new("hunter2");
    let publisher = Publisher::start(room(server.http_addr(), ice)).unwrap();
    let began = Instant::now();
    let error = loop {
        if let Some(error) = publisher.status().error {
            break error;
        }
        assert!(began.elapsed() < TIMEOUT, "{:?}", publisher.status());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(error.contains("the user or the password is wrong") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_turn_server_that_comes_back_is_used_again() {
    let mut coturn = Coturn::start(&[]).unwrap();
    let server = Server::start(Config { http: ([127, 0, 0, 1], 0).into(), ..Config::default() }).unwrap();
    let publisher = Publisher::start(room(server.http_addr(), relayed_by(coturn.url("udp")))).unwrap();
    let _pictures = VideoFeeder::start(&publisher);
    wait_until_active(&server, &publisher);
    coturn.kill();
    let began = Instant::now();
    while publisher.status().state == State::Running {
        assert!(began.elapsed() < TIMEOUT, "nobody notices: {:?}", publisher.status());
        std::thread::sleep(Duration::from_millis(20));
    }
    coturn.restart().unwrap();
    let began = Instant::now();
    while publisher.status().state != State::Running {
        assert!(began.elapsed() < TIMEOUT, "it does not come back: {:?}", publisher.status());
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_until_active(&server, &publisher);
    publisher.finish().unwrap();
}

/// Passes on what a server says, but for its candidates by UDP.
fn proxy_without_udp(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the process, as do its connections.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(server).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _over = std::io::copy(&mut from, &mut to);
                let _closed = to.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let (mut lines, mut client, mut line) = (BufReader::new(server), client, Vec::new());
                while lines.by_ref().take(10_000).read_until(b'\n', &mut line).is_ok_and(|length| length > 0)
                {
                    let text = String::from_utf8_lossy(&line);
                    if text.starts_with("a=candidate:") && text.contains(" udp ") {
                        // Of the same length, as that was told before.
                        line[2] = b'x';
                    }
                    if client.write_all(&line).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

#[test]
fn a_server_that_wants_tcp_gets_it() {
    let server =
        Server::start(Config { http: ([127, 0, 0, 1], 0).into(), tcp: true, ..Config::default() }).unwrap();
    let http = proxy_without_udp(server.http_addr());
    let publisher = Publisher::start(room(http, Ice::default())).unwrap();
    let pictures = VideoFeeder::start(&publisher);
    wait_until_active(&server, &publisher);
    drop(pictures);
    assert_eq!(publisher.finish().unwrap().0.error, None);
}
