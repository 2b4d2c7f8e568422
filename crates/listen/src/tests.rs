use axum::Extension;
use axum::routing::{any, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;

struct TestServer {
    addr: SocketAddr,
    stop: watch::Sender<ShutdownPhase>,
    running: JoinSet<()>,
}

impl TestServer {
    async fn start(limits: Limits, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(ShutdownPhase::Running);
        let reserved = |_: &Method, uri: &Uri, is_local| is_local && uri.path() == "/healthz";
        let mut running = JoinSet::new();
        running.spawn(serve(listener, limits, Service { router, is_reserved: reserved }, || None, stopped));
        Self { addr, stop, running }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Opens a connection and sends this text.
    async fn connect_and_send(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a request, and returns everything received until the server closes the connection.
    async fn request(&self, head: &str) -> String {
        let stream = self.connect_and_send(&format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        read_to_end(stream).await
    }

    async fn stop(mut self) {
        self.stop.send_replace(ShutdownPhase::Closed);
        self.running.join_next().await.unwrap().unwrap();
    }
}

/// Reads everything until the peer closes the connection.
async fn read_to_end(mut stream: TcpStream) -> String {
    let mut response = Vec::new();
    let _reset_counts_as_end = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

fn health_router() -> Router {
    Router::new().route("/healthz", get(|| async { "ok" })).route("/other", get(|| async { "other" }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_delay_others() {
    let never = Duration::from_secs(3600);
    let limits = Limits {
        max_connections: 64,
        reserved_requests: 4,
        first_byte_timeout: never,
        header_timeout: never,
        ..Limits::default()
    };
    let server = TestServer::start(limits, health_router()).await;
    let mut held = Vec::new();
    for n in 0..300 {
        // Every other connection sends a part of a head.
        held.push(server.connect_and_send(if n % 2 == 0 { "" } else { "GET / HTTP/1.1\r\nX: " }).await);
    }
    for path in ["/healthz", "/other"] {
        let response = server.request(&format!("GET {path} HTTP/1.1")).await;
        assert!(response.starts_with("HTTP/1.1 200 OK"), "{path}: {response:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_time_out() {
    let (short, never) = (Duration::from_millis(50), Duration::from_secs(3600));
    let all_long =
        Limits { first_byte_timeout: never, header_timeout: never, idle_timeout: never, ..Limits::default() };
    for (case, limits, text) in [
        ("nothing", Limits { first_byte_timeout: short, ..all_long.clone() }, ""),
        ("half a head", Limits { header_timeout: short, ..all_long.clone() }, "GET /healthz HTTP/1.1\r\n"),
        (
            "no second request",
            Limits { idle_timeout: short, ..all_long.clone() },
            "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        (
            "half a second request",
            Limits { header_timeout: short, ..all_long },
            "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /h",
        ),
    ] {
        let server = TestServer::start(limits, health_router()).await;
        let stream = server.connect_and_send(text).await;
        if case == "half a second request" {
            // A part that arrives together with the first request is noticed only when more bytes follow.
            let mut stream = stream;
            let mut response = [0; 512];
            let n = stream.read(&mut response).await.unwrap();
            assert!(response[..n].starts_with(b"HTTP/1.1 200"), "{case}");
            stream.write_all(b"ea").await.unwrap();
            read_to_end(stream).await;
        } else {
            read_to_end(stream).await;
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_have_reserved_request_slots() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(tokio::sync::Semaphore::new(0)));
    let hang = {
        let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
        move || {
            let (entered, leave) = (Arc::clone(&entered), Arc::clone(&leave));
            async move {
                entered.notify_one();
                drop(leave.acquire().await);
                "done"
            }
        }
    };
    let limits = Limits { max_connections: 8, reserved_requests: 2, ..Limits::default() };
    let server = TestServer::start(limits, health_router().route("/hang", any(hang))).await;
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(
            server.connect_and_send("GET /hang HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await,
        );
        entered.notified().await;
    }
    let refused = server.request("GET /other HTTP/1.1").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    let response = server.request("GET /healthz HTTP/1.1").await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    let forwarded = server.request("GET /healthz HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9").await;
    assert!(forwarded.starts_with("HTTP/1.1 503"), "it is not a local request: {forwarded}");
    leave.add_permits(100);
    for stream in waiting {
        assert!(read_to_end(stream).await.ends_with("done"));
    }
    assert!(server.request("GET /other HTTP/1.1").await.ends_with("other"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_do_not_arrive_are_evicted() {
    let echo = any(|body: axum::body::Bytes| async move { body });
    let limits = Limits { max_connections: 8, reserved_requests: 2, ..Limits::default() };
    let server = TestServer::start(limits, health_router().route("/echo", echo)).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(
            server
                .connect_and_send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
                .await,
        );
    }
    let text = "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole";
    let response = read_to_end(server.connect_and_send(text).await).await;
    assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("whole"), "{response}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_gets_the_client_address() {
    let peer = get(
        async |ConnectInfo(client): ConnectInfo<SocketAddr>, Extension(source): Extension<RequestSource>| {
            assert_eq!(source.non_local_ip(), Some(client.ip()).filter(|ip| !ip.is_loopback()));
            client.ip().to_string()
        },
    );
    let limits = Limits { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..Limits::default() };
    for (limits, want) in [(Limits::default(), "127.0.0.1"), (limits, "203.0.113.9")] {
        let server = TestServer::start(limits, Router::new().route("/peer", peer.clone())).await;
        let response = server.request("GET /peer HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9").await;
        assert!(response.ends_with(want), "{response}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_leave_all_places_to_others() {
    // Its body never ends.
    let events = get(async || (Extension(EventStream), Body::new(EndlessBody)));
    let limits =
        Limits { max_connections: 4, reserved_requests: 2, max_event_streams: 6, ..Limits::default() };
    let server = TestServer::start(limits, health_router().route("/events", events)).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        let mut stream = server.connect_and_send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut head = [0; 15];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        streams.push(stream);
    }
    assert!(server.request("GET /other HTTP/1.1").await.ends_with("other"));
    let mut more = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect_and_send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await;
        stream.read_exact(&mut [0; 15]).await.unwrap();
        more.push(stream);
    }
    let refused = server.request("GET /other HTTP/1.1").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "two streams too many take the places: {refused}");
    assert!(server.request("GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200 OK"));
    server.stop().await;
}

/// A body that sends nothing and never ends.
struct EndlessBody;

impl http_body::Body for EndlessBody {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}
