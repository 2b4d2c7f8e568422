use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::routing::{any, get};
use pagecast_testkit::{ScratchDir, tls as testkit_tls};
use reqwest::{Certificate, Client, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;

const LOOPBACK: &str = "127.0.0.1:0";

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

fn echo() -> Router {
    let peer = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
    Router::new().route("/", any(|body: Bytes| async move { body })).route("/peer", get(peer))
}

async fn start(router: Router) -> Server {
    let listener = Listener::bind(LOOPBACK.parse().unwrap(), None).await.unwrap();
    assert_eq!(listener.url(), format!("http://{}", listener.addr));
    listener.serve(Limits::default(), router)
}

/// Sends raw bytes and reads until the server closes the connection.
async fn send_raw(addr: SocketAddr, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(text).await.unwrap();
    let mut response = Vec::new();
    let _reset_counts_as_closed = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_accepted_chunked_pipelined_and_within_limits() {
    let server = start(echo()).await;
    let chunked =
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
        POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nfgh";
    let responses = send_raw(server.addr, chunked).await;
    assert_eq!(responses.matches("HTTP/1.1 200 OK").count(), 2, "the connection is kept alive: {responses}");
    assert!(responses.contains("abcde") && responses.ends_with("fgh"), "{responses}");
    assert!(send_raw(server.addr, b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    // The server reads all of it, so it does not reset the connection before the response is received.
    let mut long = b"GET / HTTP/1.1\r\nHost: x\r\nX: ".to_vec();
    long.resize(MAX_HEAD_BYTES, b'x');
    assert!(send_raw(server.addr, &long).await.starts_with("HTTP/1.1 431"));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(MAX_HEADERS + 1));
    assert!(send_raw(server.addr, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let peer = client().get(format!("http://{}/peer", server.addr)).send().await.unwrap();
    assert_eq!(peer.text().await.unwrap(), "127.0.0.1");
    server.stop(Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_refuses_new_connections_and_finishes_running_requests() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (has_entered, may_leave) = (Arc::clone(&entered), Arc::clone(&leave));
    let wait = move || {
        let (has_entered, may_leave) = (Arc::clone(&has_entered), Arc::clone(&may_leave));
        async move {
            has_entered.notify_one();
            may_leave.notified().await;
            "finished"
        }
    };
    let server = start(Router::new().route("/", get(wait))).await;
    let addr = server.addr;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    let mut requests = JoinSet::new();
    requests.spawn(async move { client().get(format!("http://{addr}/")).send().await?.text().await });
    entered.notified().await;
    let mut stopping = JoinSet::new();
    stopping.spawn(server.stop(Duration::from_secs(60)));
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "idle connections are closed");
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    leave.notify_one();
    assert_eq!(requests.join_next().await.unwrap().unwrap().unwrap(), "finished");
    stopping.join_next().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_aborts_requests_after_its_deadline() {
    let entered = Arc::new(Notify::new());
    let has_entered = Arc::clone(&entered);
    let hang = move || {
        has_entered.notify_one();
        std::future::pending::<&str>()
    };
    let server = start(Router::new().route("/", get(hang))).await;
    let url = format!("http://{}/", server.addr);
    let mut requests = JoinSet::new();
    requests.spawn(async move { client().get(url).send().await.map(drop) });
    entered.notified().await;
    server.stop(Duration::from_millis(50)).await;
    assert!(requests.join_next().await.unwrap().unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_reported() {
    let server = start(echo()).await;
    let error = Listener::bind(server.addr, None).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {}", server.addr));
    server.stop(Duration::from_secs(30)).await;
}

fn certificate_files(folder: &std::path::Path) -> config::Tls {
    let (certificate, key) = testkit_tls::end_entity_certificate(folder).unwrap();
    config::Tls { certificate, key }
}

async fn get_trusting(server: &Server, files: &config::Tls) -> reqwest::Result<StatusCode> {
    let pem = std::fs::read(&files.certificate).unwrap();
    let trust = Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&pem).unwrap()]);
    let url = format!("https://localhost:{}/", server.addr.port());
    trust.build().unwrap().get(url).send().await.map(|response| response.status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_tls() {
    let scratch = ScratchDir::new().unwrap();
    let files = certificate_files(scratch.path());
    let listener = Listener::bind(LOOPBACK.parse().unwrap(), Some(&files)).await.unwrap();
    assert_eq!(listener.url(), format!("https://{}", listener.addr));
    let server = listener.serve(Limits::default(), echo());
    assert_eq!(get_trusting(&server, &files).await.unwrap(), StatusCode::OK);
    assert!(client().get(format!("http://{}/", server.addr)).send().await.is_err(), "plain HTTP is refused");
    server.stop(Duration::from_secs(30)).await;
}

#[test]
fn a_changed_certificate_is_reloaded() {
    let scratch = ScratchDir::new().unwrap();
    let files = certificate_files(scratch.path());
    let mut certificates = Certificates::load(files.clone()).unwrap();
    let current = |certificates: &Certificates| Arc::as_ptr(certificates.acceptor().config());
    let first = current(&certificates);
    certificates.reload();
    assert_eq!(current(&certificates), first, "nothing changed");
    std::fs::write(&files.certificate, "half a certificate").unwrap();
    certificates.reload();
    assert_eq!(current(&certificates), first, "an invalid certificate is not used");
    std::fs::remove_file(&files.certificate).unwrap();
    std::fs::remove_file(&files.key).unwrap();
    certificate_files(scratch.path());
    certificates.reload();
    assert_ne!(current(&certificates), first);
}

#[test]
fn certificate_errors_name_the_problem() {
    let scratch = ScratchDir::new().unwrap();
    let files = certificate_files(scratch.path());
    assert!(tls::validate(&files).is_ok());
    let swapped = config::Tls { certificate: files.key.clone(), key: files.certificate.clone() };
    assert!(matches!(tls::validate(&swapped), Err(TlsError::NoCertificate(path)) if path == files.key));
    let twice = config::Tls { key: files.certificate.clone(), ..files.clone() };
    assert!(matches!(tls::validate(&twice), Err(TlsError::NoKey(path)) if path == files.certificate));
    let missing = config::Tls { certificate: scratch.path().join("none.pem"), ..files.clone() };
    assert!(matches!(tls::validate(&missing), Err(TlsError::ReadCertificate(..))));
    let other = ScratchDir::new().unwrap();
    let mixed = config::Tls { key: certificate_files(other.path()).key, ..files };
    assert!(matches!(tls::validate(&mixed), Err(TlsError::Mismatch { .. })));
}
