//! Servers that are hostile, or say something at the wrong time; and what only a real one can say.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use pagecast_core::Fps;
use pagecast_core::spec::{Ice, Layer, RoomCodec, Size};
use pagecast_testkit::janus::{Config, Room as Known};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::*;
use crate::net::IceSockets;
use crate::rtc::offerer::{Event, Output, PeerConnection};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest message that is read.
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

/// What a good server answers.
fn default_response(request: &Value) -> Vec<Value> {
    let transaction = &request["transaction"];
    let plugin = |kind: &str, data: Value| json!({"janus": kind, "transaction": transaction, "plugindata": {"plugin": messages::PLUGIN, "data": data}});
    let receipt = json!({"janus": "ack", "transaction": transaction});
    let body = &request["body"];
    match (request["janus"].as_str().unwrap(), body["request"].as_str().unwrap_or_default()) {
        ("create", _) => vec![json!({"janus": "success", "transaction": transaction, "data": {"id": 11}})],
        ("attach", _) => vec![json!({"janus": "success", "transaction": transaction, "data": {"id": 12}})],
        (_, "exists") => vec![plugin("success", json!({"exists": true}))],
        (_, "listparticipants") => vec![plugin("success", json!({"participants": []}))],
        (_, "join") => vec![receipt, plugin("event", json!({"videoroom": "joined"}))],
        (_, "publish" | "configure") => {
            let mut published = plugin("event", json!({"configured": "ok"}));
            published["jsep"] = json!({"type": "answer", "sdp": "v=0\r\n"});
            vec![receipt, published]
        }
        _ => vec![json!({"janus": "success", "transaction": transaction})],
    }
}

/// A server that says this whenever it is asked something; gone when dropped.
struct FakeServer {
    url: String,
    _tasks: JoinSet<()>,
}

impl FakeServer {
    async fn start(says: impl Fn(&Value) -> Vec<Frame> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        let says = Arc::new(says);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let says = Arc::clone(&says);
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
                        for frame in says(&serde_json::from_str(&text).unwrap()) {
                            // Whoever has heard enough goes.
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

    /// A polite one, but for requests of this kind.
    async fn with_override(
        kind: &'static str,
        says: impl Fn(&Value) -> Vec<Frame> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| {
            if request["janus"] == kind || request["body"]["request"] == kind {
                says(request)
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
async fn nonsense_is_an_error_at_every_step() {
    let nonsense: [fn(&Value) -> Frame; 9] = [
        |_| Frame::text("{"),
        |_| Frame::text("[".repeat(10_000)),
        |_| Frame::text("x".repeat(MAX_MESSAGE_BYTES + 1)),
        |_| Frame::Close(None),
        |r| text_frame(&json!({"janus": "success", "transaction": r["transaction"], "data": {"id": -1}})),
        |r| text_frame(&json!({"janus": 7, "transaction": r["transaction"]})),
        |r| text_frame(&json!({"janus": "error", "transaction": r["transaction"], "error": "api-secret"})),
        |r| {
            let reason = format!("api-secret room-secret pin-secret {}", "long ".repeat(10_000));
            text_frame(
                &json!({"janus": "error", "transaction": r["transaction"], "error": {"code": 490, "reason": reason}}),
            )
        },
        |r| {
            let data = json!({"error_code": 499, "error": "no\u{7}\n\npin-secret"});
            text_frame(
                &json!({"janus": "event", "transaction": r["transaction"], "plugindata": {"data": data}}),
            )
        },
    ];
    for step in ["create", "attach", "exists", "listparticipants", "join"] {
        for (number, says) in nonsense.into_iter().enumerate() {
            let server = FakeServer::with_override(step, move |request| vec![says(request)]).await;
            let mut janus = janus(&server.url, "1");
            // A success that says nothing more is one for some requests.
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
async fn http_servers_that_are_none_of_janus() {
    let endless =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", "x".repeat(MAX_MESSAGE_BYTES + 1));
    for (says, words) in [
        ("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "500"),
        ("HTTP/1.1 307 Away\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "307"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not of Janus"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\u{fffd}", "no text"),
        ("SSH-2.0-x\r\n", ""),
        ("", ""),
        (endless.as_str(), "more at once"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/janus?key=api-secret", listener.local_addr().unwrap());
        let text = says.to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _asked = stream.read(&mut request).await;
                let _heard = stream.write_all(text.as_bytes()).await;
            }
        });
        let mut janus = janus(&url, "1");
        let error = janus.join().await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(words), "{error}");
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
                text_frame(&json!({"janus": "event", "transaction": request["transaction"], "plugindata": {"data": refused}})),
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
async fn others_that_join_again_and_again_are_not_fought_for_ever() {
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

/// Carries what a peer has to say and to hear until something happens.
async fn drive(
    peer: &mut PeerConnection,
    net: &mut IceSockets,
    signal: &mut JanusClient,
    done: impl Fn(&PeerConnection, &[Event]) -> bool,
) {
    let began = std::time::Instant::now();
    let mut events = Vec::new();
    while !done(peer, &events) {
        assert!(began.elapsed() < TEST_TIMEOUT, "it takes too long: {events:?}");
        let wake = match peer.poll().unwrap() {
            Output::Transmit(t) => {
                net.send(t.proto, t.source, t.destination, &t.contents);
                continue;
            }
            Output::Event(event) => {
                events.push(event);
                continue;
            }
            Output::Timeout(at) => at,
        };
        tokio::select! {
            received = net.receive() => {
                let way = (received.protocol, received.from, received.to);
                peer.handle_datagram(std::time::Instant::now(), way, &received.data).unwrap();
            }
            said = signal.next_event() => panic!("{said:?}"),
            () = sleep_until(wake.into()) => peer.handle_timeout(std::time::Instant::now()).unwrap(),
        }
    }
}

#[tokio::test]
async fn a_real_server_takes_new_ways_for_the_same_session() {
    let secret = Some("room-secret".to_owned());
    let rooms = vec![Known { id: "1".into(), secret, pin: Some("pin-secret".into()), ..Known::default() }];
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

        let again = peer.create_offer();
        let fragment = janus.restart_ice(&sdp::restart_fragment(&again.sdp)).await.unwrap().unwrap();
        let password = |text: &str| text.lines().find(|l| l.starts_with("a=ice-pwd:")).unwrap().to_owned();
        assert_ne!(password(&fragment), password(&answer));
        assert!(fragment.contains("a=candidate:"), "{fragment}");
        peer.accept_answer(&sdp::apply_fragment(&answer, &fragment)).unwrap();
        // With the first credentials, nothing would be heard of this any more.
        let before = peer.stats().rtt;
        drive(&mut peer, &mut net, &mut janus, |peer, _| {
            peer.stats().rtt.is_some_and(|rtt| before != Some(rtt))
        })
        .await;
        assert_eq!(janus.leave().await, None);
    }
}
