//! Tests against scripted servers, many of them faulty. `tests/livekit.rs` has tests against a real one.

use std::future::Future;

use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::messages::{
    AddTrackRequest, DisconnectReason, JoinResponse, LeaveRequest, Request, Response, SessionDescription,
    SignalRequest, SignalResponse, SignalTarget, SubscribedCodec, SubscribedQuality, SubscribedQualityUpdate,
    TrackInfo, TrackPublishedResponse, TrickleRequest, VideoLayer, VideoQuality,
};
use super::*;
use crate::signaling::OfferedLayer;

const OFFER: &str = "v=0\r\na=ice-ufrag:u1\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=msid:pagecast audio\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 108\r\na=msid:pagecast video\r\na=mid:1\r\na=ice-ufrag:u1\r\n";

fn livekit(url: &str) -> LiveKitClient {
    let id = |text: &str| text.to_owned();
    let ids = RoomIds { app: id("a@b"), room: id("r"), user: id("u"), task: id("t") };
    LiveKitClient::new(&RoomUrl::parse(url).unwrap(), "key", &Secret::new("s3cret"), &ids)
}

fn offer() -> Offer {
    let layer =
        |rid: &str, size, bitrate_bps| OfferedLayer { rid: Some(rid.into()), size, fps: 30, bitrate_bps };
    Offer {
        sdp: OFFER.into(),
        audio_mid: "0".into(),
        video_mid: "1".into(),
        layers: vec![layer("h", (1280, 720), 1_200_000), layer("q", (640, 360), 600_000)],
    }
}

/// The server's end of a WebSocket.
struct ServerSocket(WebSocketStream<TcpStream>);

impl ServerSocket {
    async fn send(&mut self, response: Response) {
        let bytes = SignalResponse { message: Some(response) }.encode_to_vec();
        self.0.send(Message::binary(bytes)).await.unwrap();
    }

    async fn receive(&mut self) -> Request {
        let message = self.0.next().await.unwrap().unwrap();
        SignalRequest::decode(message.into_data()).unwrap().message.unwrap()
    }

    async fn send_join(&mut self, join: JoinResponse) {
        self.send(Response::Join(join)).await;
    }
}

/// Runs a client against a server that accepts one connection.
fn run_with_server<S, C, T>(server: impl FnOnce(TcpStream) -> S, client: impl FnOnce(LiveKitClient) -> C) -> T
where
    S: Future<Output = ()>,
    C: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let server = async { server(listener.accept().await.unwrap().0).await };
        tokio::join!(server, client(livekit(&url))).1
    })
}

/// The error of joining a server with this HTTP response.
fn join_error_for(answer: &'static str) -> Error {
    let server = |mut stream: TcpStream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let text = String::from_utf8(request).unwrap();
        let token = text.split("Bearer ").nth(1).unwrap().split("\r\n").next().unwrap();
        assert!(text.starts_with("GET /rtc?protocol=") && !text.lines().next().unwrap().contains(token));
        stream.write_all(answer.replace("{token}", token).as_bytes()).await.unwrap();
    };
    run_with_server(server, |mut livekit| async move { livekit.join().await.unwrap_err() })
}

/// The error of joining a server whose first message is this.
fn join_error_after(message: impl FnOnce() -> Message) -> Error {
    let message = message();
    let server = |stream| async move {
        let mut side = ServerSocket(accept_async(stream).await.unwrap());
        // The client may close before all of it is sent.
        let _closed = side.0.send(message).await;
        while let Some(Ok(_)) = side.0.next().await {}
    };
    run_with_server(server, |mut livekit| async move { livekit.join().await.unwrap_err() })
}

#[test]
fn the_websocket_url_is_below_that_of_the_server() {
    let query = format!("protocol=15&auto_subscribe=0&sdk=pagecast&version={}", env!("CARGO_PKG_VERSION"));
    for (given, expected) in [
        ("ws://a.example:7880", "http://a.example:7880/rtc?"),
        ("wss://a.example/{app}/", "https://a.example/a%40b/rtc?"),
        ("https://a.example/x?k=v#f", "https://a.example/x/rtc?k=v&"),
    ] {
        assert_eq!(livekit(given).signal_url().unwrap().as_str(), format!("{expected}{query}"));
    }
}

#[test]
fn nothing_shows_the_secret() {
    let shown = format!("{:?}", livekit("wss://me:pass@a.example/").map_error(ConnectionError::no_session()));
    assert!(shown.contains("a.example") && !shown.contains("pass"), "{shown}");
    let shown = format!("{:?}", livekit("wss://a.example"));
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn http_errors_are_transient_or_refusals() {
    for (answer, transient, text) in [
        (
            "HTTP/1.1 401 U\r\nContent-Length: 14\r\n\r\nwho\n  are\tyou?",
            false,
            "401 Unauthorized: who are you?",
        ),
        (
            "HTTP/1.1 404 N\r\nConnection: close\r\n\r\nrequested room does not exist",
            false,
            "room does not exist",
        ),
        ("HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", true, "404 Not Found"),
        ("HTTP/1.1 503 S\r\nContent-Length: 0\r\n\r\n", true, "503 Service"),
        ("HTTP/1.1 429 S\r\nContent-Length: 0\r\n\r\n", true, "429 Too"),
        ("HTTP/1.1 302 F\r\nLocation: http://b.example/\r\nContent-Length: 0\r\n\r\n", true, "302 Found"),
        ("HTTP/1.1 200 O\r\nContent-Length: 2\r\n\r\nOK", true, "200 OK: OK"),
        (
            "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            true,
            "does not support WebSocket",
        ),
        ("SSH-2.0-OpenSSH\r\n", true, "cannot reach"),
    ] {
        let error = join_error_for(answer);
        assert!(error.is_transient() == transient && error.to_string().contains(text), "{error}");
    }
    let error =
        join_error_for("HTTP/1.1 401 U\r\nConnection: close\r\n\r\ninvalid token: {token}!").to_string();
    assert!(error.contains("invalid token: …!"), "{error}");
}

#[test]
fn invalid_messages_end_the_session() {
    for (message, text) in [
        (Message::binary(vec![0xff; 100]), "another protocol"),
        (Message::binary(vec![0; 5 << 20]), "too long"),
        (Message::Close(None), "closed the connection"),
    ] {
        let error = join_error_after(|| message);
        assert!(error.is_transient() && error.to_string().contains(text), "{error}");
    }
    let leave = |reason: DisconnectReason| {
        let leave = Response::Leave(LeaveRequest { reason: reason.into() });
        join_error_after(|| Message::binary(SignalResponse { message: Some(leave) }.encode_to_vec()))
    };
    assert_eq!(leave(DisconnectReason::DuplicateIdentity), Error::Replaced);
    assert!(matches!(leave(DisconnectReason::RoomDeleted), Error::Refused { .. }));
    assert!(matches!(leave(DisconnectReason::ServerShutdown), Error::Failed { .. }));
    assert!(matches!(leave(DisconnectReason::UnknownReason), Error::Failed { .. }));
}

#[test]
fn joining_a_silent_server_times_out() {
    let server = |mut stream: TcpStream| async move {
        // Until the client closes.
        while stream.read_u8().await.is_ok() {}
    };
    let error = run_with_server(server, |mut livekit| async move { livekit.join().await.unwrap_err() });
    assert!(matches!(&error, Error::Unreachable { why, .. } if why.contains("timed out")), "{error}");
}

#[test]
fn a_server_that_does_not_answer_pings_is_unreachable() {
    let server = |stream| async move {
        let mut side = ServerSocket(accept_async(stream).await.unwrap());
        side.send_join(JoinResponse { ping_interval: 1, ping_timeout: 2, ..JoinResponse::default() }).await;
        assert!(matches!(side.receive().await, Request::PingReq(ping) if ping.timestamp > 0));
        assert!(matches!(side.receive().await, Request::Ping(_)));
        while let Some(Ok(_)) = side.0.next().await {}
    };
    let error = run_with_server(server, |mut livekit| async move {
        livekit.join().await.unwrap();
        livekit.next_event().await.unwrap_err()
    });
    assert!(
        matches!(&error, Error::Unreachable { why, .. } if why.contains("does not answer pings")),
        "{error}"
    );
}

#[test]
fn tracks_are_announced_as_livekit_has_them() {
    let server = |stream| async move {
        let mut side = ServerSocket(accept_async(stream).await.unwrap());
        side.send_join(JoinResponse::default()).await;
        let Request::AddTrack(audio) = side.receive().await else { panic!("no audio") };
        assert_eq!((audio.cid.as_str(), audio.r#type, audio.source, audio.stereo), ("audio", 0, 4, true));
        let Request::AddTrack(video) = side.receive().await else { panic!("no video") };
        let layer = |quality: VideoQuality, width, height, bitrate, spatial_layer, rid: &str| VideoLayer {
            quality: quality.into(),
            width,
            height,
            bitrate,
            spatial_layer,
            rid: rid.into(),
        };
        let expected = AddTrackRequest {
            cid: "video".into(),
            name: "video".into(),
            r#type: 1,
            source: 3,
            width: 1280,
            height: 720,
            layers: vec![
                layer(VideoQuality::Low, 640, 360, 600_000, 0, "q"),
                layer(VideoQuality::Medium, 1280, 720, 1_200_000, 1, "h"),
            ],
            ..AddTrackRequest::default()
        };
        assert_eq!(video, expected);
        assert!(matches!(side.receive().await, Request::Offer(offer) if offer.sdp == OFFER && offer.id == 1));
        side.send(Response::Answer(SessionDescription { sdp: "x".repeat(300_000), ..Default::default() }))
            .await;
    };
    let error = run_with_server(server, |mut livekit| async move {
        livekit.join().await.unwrap();
        livekit.negotiate(&offer()).await.unwrap_err()
    });
    assert!(error.to_string().contains("256 KiB"), "{error}");
}

/// Serves a session up to the answer, and sends these responses before it.
async fn serve_answer(side: &mut ServerSocket, responses: Vec<Response>) {
    side.send_join(JoinResponse::default()).await;
    while !matches!(side.receive().await, Request::Offer(_)) {}
    for response in responses {
        side.send(response).await;
    }
    let sdp = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:s1\r\na=ice-pwd:p1\r\n".into();
    side.send(Response::Answer(SessionDescription { r#type: "answer".into(), sdp, id: 1 })).await;
}

fn trickle_response(text: &str, target: SignalTarget) -> Response {
    Response::Trickle(TrickleRequest { candidate_init: text.into(), target: target.into() })
}

fn quality_update(track_sid: &str, enabled: [bool; 3]) -> Response {
    let qualities =
        (0..).zip(enabled).map(|(quality, enabled)| SubscribedQuality { quality, enabled }).collect();
    Response::SubscribedQualityUpdate(SubscribedQualityUpdate {
        track_sid: track_sid.into(),
        subscribed_codecs: vec![SubscribedCodec { qualities }],
        ..Default::default()
    })
}

#[test]
fn events_before_the_answer_are_returned_after_it() {
    let server = |stream| async move {
        let mut side = ServerSocket(accept_async(stream).await.unwrap());
        let published = |cid: &str, sid: &str| {
            let track = Some(TrackInfo { sid: sid.into() });
            Response::TrackPublished(TrackPublishedResponse { cid: cid.into(), track })
        };
        let responses = vec![
            published("audio", "TR_A"),
            published("video", "TR_V"),
            trickle_response(r#"{"candidate":"candidate:1 x","sdpMid":"0"}"#, SignalTarget::Publisher),
            trickle_response(r#"{"candidate":"candidate:2 x"}"#, SignalTarget::Subscriber),
            trickle_response(r#"{"candidate":""}"#, SignalTarget::Publisher),
            trickle_response("{", SignalTarget::Publisher),
            trickle_response(&format!(r#"{{"candidate":"{}"}}"#, "x".repeat(2000)), SignalTarget::Publisher),
            quality_update("TR_A", [false; 3]),
            quality_update("TR_V", [true, false, false]),
        ];
        serve_answer(&mut side, responses).await;
        side.send(quality_update("TR_V", [true; 3])).await;
        side.send(Response::Leave(LeaveRequest { reason: DisconnectReason::DuplicateIdentity.into() })).await;
        while let Some(Ok(_)) = side.0.next().await {}
    };
    let received = run_with_server(server, |mut livekit| async move {
        livekit.join().await.unwrap();
        livekit.negotiate(&offer()).await.unwrap();
        let mut events = Vec::new();
        loop {
            match livekit.next_event().await {
                Ok(event) => events.push(event),
                Err(error) => return (events, error),
            }
        }
    });
    let subscription = |layer, subscribed| ServerEvent::LayerSubscription { layer, subscribed };
    let expected = vec![
        ServerEvent::Candidate("candidate:1 x".into()),
        subscription(0, false),
        subscription(1, true),
        subscription(0, true),
        subscription(1, true),
    ];
    assert_eq!(received, (expected, Error::Replaced));
}

#[test]
fn events_before_the_answer_are_limited() {
    let server = |stream| async move {
        let mut side = ServerSocket(accept_async(stream).await.unwrap());
        let flood = vec![trickle_response(r#"{"candidate":"candidate:1 x"}"#, SignalTarget::Publisher); 1000];
        serve_answer(&mut side, flood).await;
    };
    let queued = run_with_server(server, |mut livekit| async move {
        livekit.join().await.unwrap();
        livekit.negotiate(&offer()).await.unwrap();
        let mut count = 0;
        while livekit.next_event().await.is_ok() {
            count += 1;
        }
        count
    });
    assert_eq!(queued, session::MAX_QUEUED_EVENTS);
}

#[test]
fn a_restart_is_the_same_offer_with_other_credentials() {
    let server = |stream| async move {
        let mut side = ServerSocket(accept_async(stream).await.unwrap());
        let old = vec![trickle_response(r#"{"candidate":"candidate:old x"}"#, SignalTarget::Publisher)];
        serve_answer(&mut side, old).await;
        let Request::Trickle(trickle) = side.receive().await else { panic!("no candidate") };
        assert_eq!(trickle.candidate_init, r#"{"candidate":"candidate:3 x","sdpMLineIndex":0}"#);
        let Request::Offer(offer) = side.receive().await else { panic!("no offer") };
        assert_eq!((offer.id, offer.sdp), (2, OFFER.replace("u1", "u2")));
        // A late answer to the previous offer.
        side.send(Response::Answer(SessionDescription { sdp: "late".into(), id: 1, ..Default::default() }))
            .await;
        let sdp = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:s2\r\na=ice-pwd:p2\r\n".into();
        side.send(Response::Answer(SessionDescription { sdp, id: 2, ..Default::default() })).await;
        side.send(trickle_response(r#"{"candidate":"candidate:new x"}"#, SignalTarget::Publisher)).await;
        assert!(matches!(side.receive().await, Request::Leave(_)));
        side.send(Response::Leave(LeaveRequest { reason: DisconnectReason::ParticipantRemoved.into() }))
            .await;
    };
    let (fragment, event, left) = run_with_server(server, |mut livekit| async move {
        livekit.join().await.unwrap();
        livekit.negotiate(&offer()).await.unwrap();
        livekit.trickle("a=mid:0\r\na=candidate:3 x\r\n").await.unwrap();
        let fragment = livekit.restart_ice("a=ice-ufrag:u2\r\na=ice-pwd:p\r\n").await.unwrap().unwrap();
        let event = livekit.next_event().await.unwrap();
        (fragment, event, livekit.leave().await)
    });
    assert!(fragment.contains("a=ice-ufrag:s2\r\na=ice-pwd:p2\r\n"), "{fragment}");
    assert_eq!(event, ServerEvent::Candidate("candidate:new x".into()));
    assert!(matches!(left, Some(Error::Refused { .. })), "{left:?}");
}

#[test]
fn ice_servers_of_the_join_response_are_returned() {
    let server = |stream| async move {
        let mut side = ServerSocket(accept_async(stream).await.unwrap());
        let ice_server = |urls: &[&str]| super::messages::IceServer {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            username: "u".into(),
            credential: "c".into(),
        };
        let ice_servers = vec![
            ice_server(&["turn:a", "https://b", "turns:c"]),
            ice_server(&["stun:d"; 20]),
            ice_server(&[&"turn:".repeat(999)]),
        ];
        side.send_join(JoinResponse { ice_servers, ..JoinResponse::default() }).await;
    };
    let servers = run_with_server(server, |mut livekit| async move { livekit.join().await.unwrap() });
    let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
    assert_eq!((urls.len(), &urls[..3]), (8, &["turn:a", "turns:c", "stun:d"][..]));
    assert_eq!((servers[0].username.as_str(), servers[0].credential.reveal()), ("u", "c"));
}
