//! Tests the paths of media from a publisher to the embedded rooms: TURN with a real server, and TCP.
#![expect(clippy::unwrap_used, reason = "an error fails the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::connection::State;
use pagecast_core::spec::{Ice, IceServer, Layer, Room, RoomIds, RoomService, RoomUrl, Secret, Size};
use pagecast_core::{Fps, MediaTime, Packet, Track};
use pagecast_room::embedded::{Config, Server};
use pagecast_room::publish::{EncoderControl, Feed, LayerTarget, Publisher, Status};
use pagecast_testkit::command::program;
use pagecast_testkit::coturn::{Coturn, PASSWORD, USER};
use pagecast_testkit::wait_until;
use tokio::sync::mpsc;

/// Longest duration of any step, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Environment variable with the server's URL, for the test that runs in its own process.
const TLS_SERVER_ENV: &str = "PAGECAST_TEST_TURNS";

struct NoopEncoders;

impl EncoderControl for NoopEncoders {
    fn request_keyframe(&self, _layer: usize) {}
    fn set_target(&self, _layer: usize, _target: LayerTarget) {}
}

/// A packet that can be sent but not decoded: parameter sets, and a slice of a keyframe.
fn video_packet(index: i64) -> Packet {
    let mut data =
        vec![0, 0, 0, 1, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0, 0, 0, 1, 0x68, 0xCE, 0x3C, 0x80, 0, 0, 0, 1, 0x65];
    data.extend((0..3000).map(|byte| 0x11 + (byte % 200) as u8));
    let (pts, duration) = (MediaTime(index * 33_000_000), MediaTime(33_000_000));
    Packet { track: Track::Video, data: data.into(), pts, dts: pts, duration, keyframe: true }
}

/// Sends video until it is dropped.
struct VideoFeeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl VideoFeeder {
    fn start(publisher: &Publisher) -> Self {
        let (sender, video) = mpsc::channel(8);
        let (_none, audio) = mpsc::channel(1);
        publisher.set_feed(Feed { video: vec![video], audio }, Box::new(NoopEncoders));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for index in 0.. {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                // A full queue drops packets, as with a real encoder.
                let _full = sender.try_send(video_packet(index));
                std::thread::sleep(Duration::from_millis(33));
            }
        });
        Self { stop, thread: Some(thread) }
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

/// Waits until a condition holds; the status is for the error, too.
fn wait_for_status(publisher: &Publisher, what: &str, condition: impl Fn(&Status) -> bool) {
    let waited = wait_until(what, TIMEOUT, || {
        let status = publisher.status();
        anyhow::ensure!(condition(&status), "{status:?}");
        Ok(())
    });
    waited.unwrap();
}

/// Waits until video arrives in the room.
fn wait_until_active(server: &Server, publisher: &Publisher) {
    let is_active = || {
        let stats = server.stats("demo")?;
        Some(stats.publishers.first()?.layers.iter().any(|layer| layer.bitrate_bps > 100_000))
    };
    wait_for_status(publisher, "video arrives", |_| is_active() == Some(true));
}

/// Publishes with these ICE servers until video arrives, and closes the session.
fn publish_until_active(ice: Ice) {
    let server = Server::start(Config { http: ([127, 0, 0, 1], 0).into(), ..Config::default() }).unwrap();
    let publisher = Publisher::start(room(server.http_addr(), ice)).unwrap();
    let feeder = VideoFeeder::start(&publisher);
    wait_until_active(&server, &publisher);
    assert_eq!(publisher.status().state, State::Running);
    drop(feeder);
    let (status, _) = publisher.finish().unwrap();
    assert_eq!(status.error, None);
}

#[test]
fn video_is_relayed_over_udp_and_tcp() {
    let coturn = Coturn::start(&[]).unwrap();
    for transport in ["udp", "tcp"] {
        publish_until_active(relayed_by(coturn.url(transport)));
    }
    assert_eq!(coturn.log().matches("ALLOCATE processed, success").count(), 2, "{}", coturn.log());
}

/// The system's TLS roots come from the environment, so the publisher runs in its own process.
#[test]
fn video_is_relayed_over_tls() {
    let coturn = Coturn::start(&[]).unwrap();
    let mut command = program(std::env::current_exe().unwrap());
    command.args(["--exact", "relay_over_tls_in_its_own_process", "--ignored", "--nocapture"]);
    command.env("SSL_CERT_FILE", coturn.certificate()).env(TLS_SERVER_ENV, coturn.tls_url());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(coturn.log().matches("ALLOCATE processed, success").count(), 1, "{}", coturn.log());
}

#[test]
#[ignore = "run by video_is_relayed_over_tls"]
fn relay_over_tls_in_its_own_process() {
    publish_until_active(relayed_by(std::env::var(TLS_SERVER_ENV).unwrap()));
}

#[test]
fn the_error_names_a_turn_server_that_refuses() {
    let coturn = Coturn::start(&[]).unwrap();
    let server = Server::start(Config { http: ([127, 0, 0, 1], 0).into(), ..Config::default() }).unwrap();
    let mut ice = relayed_by(coturn.url("udp"));
    ice.servers[0].credential = Secret::new("hunter2");
    let publisher = Publisher::start(room(server.http_addr(), ice)).unwrap();
    wait_for_status(&publisher, "an error", |status| status.error.is_some());
    let error = publisher.status().error.unwrap();
    assert!(error.contains("rejects the user or the password") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_restarted_turn_server_is_used_again() {
    let mut coturn = Coturn::start(&[]).unwrap();
    let server = Server::start(Config { http: ([127, 0, 0, 1], 0).into(), ..Config::default() }).unwrap();
    let publisher = Publisher::start(room(server.http_addr(), relayed_by(coturn.url("udp")))).unwrap();
    let _feeder = VideoFeeder::start(&publisher);
    wait_until_active(&server, &publisher);
    coturn.kill();
    wait_for_status(&publisher, "the loss is noticed", |status| status.state != State::Running);
    coturn.restart().unwrap();
    wait_for_status(&publisher, "it reconnects", |status| status.state == State::Running);
    wait_until_active(&server, &publisher);
    publisher.finish().unwrap();
}

/// Starts a proxy that removes UDP candidates from the server's responses.
fn proxy_without_udp(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The threads end with the process.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(server).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ended = std::io::copy(&mut from, &mut to);
                let _closed = to.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let (mut lines, mut client, mut line) = (BufReader::new(server), client, Vec::new());
                while lines.by_ref().take(10_000).read_until(b'\n', &mut line).is_ok_and(|length| length > 0)
                {
                    let text = String::from_utf8_lossy(&line);
                    if text.starts_with("a=candidate:") && text.contains(" udp ") {
                        // The length stays the same, because Content-Length was sent before.
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
fn media_uses_tcp_if_the_server_offers_only_that() {
    let server =
        Server::start(Config { http: ([127, 0, 0, 1], 0).into(), tcp: true, ..Config::default() }).unwrap();
    let http = proxy_without_udp(server.http_addr());
    let publisher = Publisher::start(room(http, Ice::default())).unwrap();
    let feeder = VideoFeeder::start(&publisher);
    wait_until_active(&server, &publisher);
    drop(feeder);
    assert_eq!(publisher.finish().unwrap().0.error, None);
}
