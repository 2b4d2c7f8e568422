use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::routing::{any, get};
use pagecast_testkit::{ScratchDir, tls as made};
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
    let whose = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() };
    Router::new().route("/", any(|body: Bytes| async move { body })).route("/peer", get(whose))
}

async fn start(router: Router) -> Server {
    Server::start(LOOPBACK.parse().unwrap(), None, &config::Limits::default(), router).await.unwrap()
}

/// Sends this and reads until the other end closes.
async fn send_raw(addr: SocketAddr, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(text).await.unwrap();
    let mut answer = Vec::new();
    let _reset_is_an_end_too = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_all_forms() {
    let server = start(echo()).await;
    let chunked =
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
        POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nfgh";
    let answers = send_raw(server.addr, chunked).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "the connection is kept: {answers}");
    assert!(answers.contains("abcde") && answers.ends_with("fgh"), "{answers}");
    assert!(send_raw(server.addr, b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    // No more than is read, or the answer could be lost.
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
async fn a_stop_finishes_what_runs_and_takes_nothing_new() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (came, go) = (Arc::clone(&entered), Arc::clone(&leave));
    let wait = move || {
        let (came, go) = (Arc::clone(&came), Arc::clone(&go));
        async move {
            came.notify_one();
            go.notified().await;
            "finished"
        }
    };
    let server = start(Router::new().route("/", get(wait))).await;
    let addr = server.addr;
    // One that is kept though nothing is asked by it.
    let mut idle = TcpStream::connect(addr).await.unwrap();
    let mut asking = JoinSet::new();
    asking.spawn(async move { client().get(format!("http://{addr}/")).send().await?.text().await });
    entered.notified().await;
    let mut stopping = JoinSet::new();
    stopping.spawn(server.stop(Duration::from_secs(60)));
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "connections at rest are closed");
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    leave.notify_one();
    assert_eq!(asking.join_next().await.unwrap().unwrap().unwrap(), "finished");
    stopping.join_next().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_cuts_off_what_takes_too_long() {
    let entered = Arc::new(Notify::new());
    let came = Arc::clone(&entered);
    let hang = move || {
        came.notify_one();
        std::future::pending::<&str>()
    };
    let server = start(Router::new().route("/", get(hang))).await;
    let url = format!("http://{}/", server.addr);
    let mut asking = JoinSet::new();
    asking.spawn(async move { client().get(url).send().await.map(drop) });
    entered.notified().await;
    server.stop(Duration::from_millis(50)).await;
    assert!(asking.join_next().await.unwrap().unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_taken_is_an_error_in_words() {
    let server = start(echo()).await;
    let error = Server::start(server.addr, None, &config::Limits::default(), echo()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {}: is something else there already?", server.addr)
    );
    server.stop(Duration::from_secs(30)).await;
}

fn certificate_files(folder: &std::path::Path) -> config::Tls {
    let (certificate, key) = made::end_entity_certificate(folder).unwrap();
    config::Tls { certificate, key }
}

async fn get_trusting(server: &Server, files: &config::Tls) -> reqwest::Result<StatusCode> {
    let pem = std::fs::read(&files.certificate).unwrap();
    let trust = Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&pem).unwrap()]);
    let url = format!("https://localhost:{}/", server.addr.port());
    trust.build().unwrap().get(url).send().await.map(|answer| answer.status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_tls() {
    let scratch = ScratchDir::new().unwrap();
    let files = certificate_files(scratch.path());
    let server = Server::start(LOOPBACK.parse().unwrap(), Some(&files), &config::Limits::default(), echo())
        .await
        .unwrap();
    assert_eq!(get_trusting(&server, &files).await.unwrap(), StatusCode::OK);
    assert!(client().get(format!("http://{}/", server.addr)).send().await.is_err(), "plain HTTP is no TLS");
    server.stop(Duration::from_secs(30)).await;
}

#[test]
fn a_certificate_that_changes_is_read_again() {
    let scratch = ScratchDir::new().unwrap();
    let files = certificate_files(scratch.path());
    let mut certificates = Certificates::load(files.clone()).unwrap();
    let kept = |certificates: &Certificates| Arc::as_ptr(certificates.acceptor().config());
    let first = kept(&certificates);
    certificates.reload();
    assert_eq!(kept(&certificates), first, "nothing changed");
    std::fs::write(&files.certificate, "half of it").unwrap();
    certificates.reload();
    assert_eq!(kept(&certificates), first, "what cannot be used is not");
    std::fs::remove_file(&files.certificate).unwrap();
    std::fs::remove_file(&files.key).unwrap();
    certificate_files(scratch.path());
    certificates.reload();
    assert_ne!(kept(&certificates), first);
}

#[test]
fn certificate_errors_name_the_problem() {
    let scratch = ScratchDir::new().unwrap();
    let files = certificate_files(scratch.path());
    assert_eq!(tls::validate(&files), Ok(()));
    let swapped = config::Tls { certificate: files.key.clone(), key: files.certificate.clone() };
    assert!(tls::validate(&swapped).unwrap_err().contains("there is no certificate in it"));
    let twice = config::Tls { key: files.certificate.clone(), ..files.clone() };
    assert!(tls::validate(&twice).unwrap_err().contains("there is no private key in it"));
    let missing = config::Tls { certificate: scratch.path().join("none.pem"), ..files.clone() };
    assert!(tls::validate(&missing).unwrap_err().starts_with("tls: cannot read "));
    let other = ScratchDir::new().unwrap();
    let mixed = config::Tls { key: certificate_files(other.path()).key, ..files };
    assert!(tls::validate(&mixed).unwrap_err().contains("do not fit together"));
}
