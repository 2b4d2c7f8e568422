//! Tests against scripted servers, many of them hostile, and one against a real server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use pagecast_core::Fps;
use pagecast_core::spec::{Ice, Layer, RoomCodec, Size};
use pagecast_testkit::janus::{Config, Room as RoomConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::*;
use crate::net::IceSockets;
use crate::rtc::Datagram;
use crate::rtc::offerer::{Event, Input, Output, PeerConnection};
use crate::timer;

const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest message that the client reads, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

fn janus(url: &str, room: &str) -> JanusClient {
    let id = |text: &str| text.to_owned();
    let ids = RoomIds { app: id("app"), room: id(room), user: id("webcast"), task: id("task") };
    let secrets = ["api-secret", "room-secret", "pin-secret"].map(Secret::new);
    JanusClient::new(
        &RoomUrl::parse(url).unwrap(),
        [Some(&secrets[0]), Some(&secrets[1]), Some(&secrets[2])],
        &ids,
    )
}

/// The messages of a well-behaved server for a request.
fn default_response(request: &Value) -> Vec<Value> {
    let transaction = &request["transaction"];
    let plugin = |kind: &str, data: Value| {
        let data = json!({"plugin": messages::PLUGIN, "data": data});
        json!({"janus": kind, "transaction": transaction, "plugindata": data})
    };
    let ack = json!({"janus": "ack", "transaction": transaction});
    let body = &request["body"];
    match (request["janus"].as_str().unwrap(), body["request"].as_str().unwrap_or_default()) {
        ("create", _) => vec![json!({"janus": "success", "transaction": transaction, "data": {"id": 11}})],
        ("attach", _) => vec![json!({"janus": "success", "transaction": transaction, "data": {"id": 12}})],
        (_, "exists") => vec![plugin("success", json!({"exists": true}))],
        (_, "listparticipants") => vec![plugin("success", json!({"participants": []}))],
        (_, "join") => vec![ack, plugin("event", json!({"videoroom": "joined"}))],
        (_, "publish" | "configure") => {
            let mut published = plugin("event", json!({"configured": "ok"}));
            published["jsep"] = json!({"type": "answer", "sdp": "v=0\r\n"});
            vec![ack, published]
        }
        _ => vec![json!({"janus": "success", "transaction": transaction})],
    }
}

/// A scripted WebSocket server. Dropping it ends it.
struct FakeServer {
    url: String,
    _tasks: JoinSet<()>,
}

impl FakeServer {
    /// Starts a server that answers each request with the frames of `respond`.
    async fn start(respond: impl Fn(&Value) -> Vec<Frame> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        let respond = Arc::new(respond);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let respond = Arc::clone(&respond);
                connections.spawn(async move {
                    #[expect(clippy::result_large_err, reason = "the library's type")]
                    let accept = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
                        let name = "janus-protocol".parse().unwrap();
                        response.headers_mut().insert("Sec-WebSocket-Protocol", name);
                        Ok(response)
                    };
                    let mut stream = tokio_tungstenite::accept_hdr_async(stream, accept).await.unwrap();
                    while let Some(Ok(frame)) = stream.next().await {
                        let Frame::Text(text) = frame else { continue };
                        for frame in respond(&serde_json::from_str(&text).unwrap()) {
                            // The client may have closed the connection.
                            if stream.send(frame).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { url, _tasks: tasks }
    }

    /// Starts a well-behaved server that answers requests of this kind with `respond`.
    async fn with_override(
        kind: &'static str,
        respond: impl Fn(&Value) -> Vec<Frame> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| {
            if request["janus"] == kind || request["body"]["request"] == kind {
                respond(request)
            } else {
                default_response(request).iter().map(text_frame).collect()
            }
        })
        .await
    }
}

fn text_frame(value: &Value) -> Frame {
    Frame::text(value.to_string())
}

fn offer() -> Offer {
    Offer {
        sdp: "v=0\r\na=ice-ufrag:a\r\n".into(),
        audio_mid: "0".into(),
        video_mid: "1".into(),
        layers: Vec::new(),
    }
}

fn assert_no_secret(error: &Error) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("-secret"), "{text}");
    assert!(text.len() < 1000, "{} bytes", text.len());
}

#[tokio::test]
async fn invalid_messages_are_errors_at_every_step() {
    let invalid: [fn(&Value) -> Frame; 9] = [
        |_| Frame::text("{"),
        |_| Frame::text("[".repeat(10_000)),
        |_| Frame::text("x".repeat(MAX_MESSAGE_BYTES + 1)),
        |_| Frame::Close(None),
        |r| text_frame(&json!({"janus": "success", "transaction": r["transaction"], "data": {"id": -1}})),
        |r| text_frame(&json!({"janus": 7, "transaction": r["transaction"]})),
        |r| text_frame(&json!({"janus": "error", "transaction": r["transaction"], "error": "api-secret"})),
        |r| {
            let reason = format!("api-secret room-secret pin-secret {}", "long ".repeat(10_000));
            let error = json!({"code": 490, "reason": reason});
            text_frame(&json!({"janus": "error", "transaction": r["transaction"], "error": error}))
        },
        |r| {
            let data = json!({"error_code": 499, "error": "no\u{7}\n\npin-secret"});
            text_frame(
                &json!({"janus": "event", "transaction": r["transaction"], "plugindata": {"data": data}}),
            )
        },
    ];
    for step in ["create", "attach", "exists", "listparticipants", "join"] {
        for (number, respond) in invalid.into_iter().enumerate() {
            let server = FakeServer::with_override(step, move |request| vec![respond(request)]).await;
            let mut janus = janus(&server.url, "1");
            // For some requests, a success without data is valid.
            if number == 4 && !["create", "attach"].contains(&step) {
                continue;
            }
            let error = tokio::time::timeout(TEST_TIMEOUT, janus.join()).await.unwrap().unwrap_err();
            assert!(error.is_transient(), "{step} {number}: {error}");
            assert_no_secret(&error);
            janus.leave().await;
        }
    }
}

#[tokio::test]
async fn http_servers_other_than_janus_are_errors() {
    let endless =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", "x".repeat(MAX_MESSAGE_BYTES + 1));
    for (response, expected) in [
        ("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "500"),
        ("HTTP/1.1 307 Away\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "307"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not Janus's API"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\u{fffd}", "not UTF-8"),
        ("SSH-2.0-x\r\n", ""),
        ("", ""),
        (endless.as_str(), "longer than"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/janus?key=api-secret", listener.local_addr().unwrap());
        let response = response.to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _read = stream.read(&mut request).await;
                let _written = stream.write_all(response.as_bytes()).await;
            }
        });
        let mut janus = janus(&url, "1");
        let error = janus.join().await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(expected), "{error}");
        assert_no_secret(&error);
        janus.leave().await;
    }
}

#[tokio::test]
async fn candidates_received_meanwhile_are_queued_up_to_a_limit() {
    let line = |n: usize| format!("candidate:{n} 1 udp 1 127.0.0.1 5000 typ host");
    let server = FakeServer::with_override("publish", move |request| {
        let trickle = (0..10 * MAX_QUEUED_CANDIDATES)
            .map(|n| json!({"janus": "trickle", "candidate": {"candidate": line(n)}}));
        trickle.chain(default_response(request)).map(|value| text_frame(&value)).collect()
    })
    .await;
    let mut janus = janus(&server.url, "1");
    janus.join().await.unwrap();
    assert_eq!(janus.negotiate(&offer()).await.unwrap(), "v=0\r\n");
    for n in 0..MAX_QUEUED_CANDIDATES {
        assert_eq!(janus.next_event().await.unwrap(), ServerEvent::Candidate(line(n)));
    }
    let more = tokio::time::timeout(Duration::from_millis(50), janus.next_event()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(janus.leave().await, None);
}

#[tokio::test]
async fn a_kick_while_something_else_fails_is_reported_as_replaced() {
    for step in ["publish", "destroy"] {
        let server = FakeServer::with_override(step, |request| {
            let kicked = json!({"videoroom": "event", "leaving": "ok", "reason": "kicked"});
            let refused = json!({"error_code": 433, "error": "Unauthorized, you have been kicked"});
            vec![
                text_frame(&json!({"janus": "event", "plugindata": {"data": kicked}})),
                text_frame(&json!({"janus": "hangup", "reason": "Close PC"})),
                text_frame(&json!({
                    "janus": "event", "transaction": request["transaction"], "plugindata": {"data": refused},
                })),
            ]
        })
        .await;
        let mut janus = janus(&server.url, "1");
        janus.join().await.unwrap();
        let published = janus.negotiate(&offer()).await;
        assert_eq!(published.is_err(), step == "publish");
        assert!(published.is_ok() || published == Err(Error::Replaced), "{published:?}");
        assert_eq!(janus.leave().await, Some(Error::Replaced));
    }
}

#[tokio::test]
async fn attempts_to_join_are_limited() {
    let server = FakeServer::with_override("join", |request| {
        let taken = json!({"error_code": error_code::ID_EXISTS, "error": "User ID already exists"});
        let event =
            json!({"janus": "event", "transaction": request["transaction"], "plugindata": {"data": taken}});
        vec![text_frame(&event)]
    })
    .await;
    let error = janus(&server.url, "1").join().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("again and again"), "{error}");
}

/// Runs a peer connection until `done`.
async fn drive(
    peer: &mut PeerConnection,
    net: &mut IceSockets,
    signal: &mut JanusClient,
    done: impl Fn(&PeerConnection, &[Event]) -> bool,
) {
    let began = std::time::Instant::now();
    let mut events = Vec::new();
    while !done(peer, &events) {
        assert!(began.elapsed() < TEST_TIMEOUT, "timed out: {events:?}");
        if let Some(output) = peer.poll(std::time::Instant::now()) {
            match output {
                Output::Transmit(t) => net.send(t.protocol, t.source, t.destination, &t.data),
                Output::Event(event) => events.push(event),
            }
            continue;
        }
        tokio::select! {
            received = net.receive() => {
                let (protocol, source, destination) = (received.protocol, received.from, received.to);
                let datagram = Datagram { protocol, source, destination, data: &received.data };
                peer.handle(std::time::Instant::now(), Input::Datagram(datagram));
            }
            event = signal.next_event() => panic!("{event:?}"),
            () = timer::sleep_until(peer.deadline()) => {
                peer.handle(std::time::Instant::now(), Input::Timeout);
            }
        }
    }
}

#[tokio::test]
async fn a_real_server_restarts_ice() {
    let secret = Some("room-secret".to_owned());
    let rooms =
        vec![RoomConfig { id: "1".into(), secret, pin: Some("pin-secret".into()), ..RoomConfig::default() }];
    let config = Config { api_secret: Some("api-secret".into()), rooms, ..Config::default() };
    let server = pagecast_testkit::JanusServer::start(config).unwrap();
    for url in [server.ws_url(), server.http_url()] {
        let mut janus = janus(&url, "1");
        assert_eq!(janus.join().await.unwrap(), []);
        let layer =
            Layer { size: Size::new(640, 360).unwrap(), fps: Fps::new(30).unwrap(), bitrate_kbps: None };
        let mut net = IceSockets::open(&Ice::default(), true).await.unwrap();
        let mut peer =
            PeerConnection::new(std::time::Instant::now(), RoomCodec::H264, &[layer], janus.rids());
        for candidate in net.candidates() {
            peer.add_local_candidate(candidate.clone());
        }
        let answer = janus.negotiate(&peer.create_offer()).await.unwrap();
        peer.accept_answer(&answer).unwrap();
        drive(&mut peer, &mut net, &mut janus, |peer, _| peer.is_connected()).await;

        let restart = peer.create_offer();
        let fragment = janus.restart_ice(&sdp::restart_fragment(&restart.sdp)).await.unwrap().unwrap();
        let password = |text: &str| text.lines().find(|l| l.starts_with("a=ice-pwd:")).unwrap().to_owned();
        assert_ne!(password(&fragment), password(&answer));
        assert!(fragment.contains("a=candidate:"), "{fragment}");
        peer.accept_answer(&sdp::apply_fragment(&answer, &fragment)).unwrap();
        // A new round-trip time shows that checks with the new credentials are answered.
        let before = peer.stats().rtt;
        drive(&mut peer, &mut net, &mut janus, |peer, _| {
            peer.stats().rtt.is_some_and(|rtt| before != Some(rtt))
        })
        .await;
        assert_eq!(janus.leave().await, None);
    }
}
