//! Servers for the demo: one for its page, and a receiver of callbacks.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

/// Longest time for a client on loopback to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the receiver is checked for new callbacks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Largest callback accepted, in bytes: callbacks have a few kilobytes.
const MAX_BODY_LEN: usize = 1 << 20;

/// Files of the page: path, type, contents.
const PAGE_FILES: [(&str, &str, &[u8]); 7] = [
    ("/", "text/html; charset=utf-8", include_bytes!("../../demo/index.html")),
    ("/style.css", "text/css", include_bytes!("../../demo/style.css")),
    ("/main.js", "text/javascript", include_bytes!("../../demo/main.js")),
    ("/scenes.js", "text/javascript", include_bytes!("../../demo/scenes.js")),
    ("/canvas.js", "text/javascript", include_bytes!("../../demo/canvas.js")),
    ("/knot.js", "text/javascript", include_bytes!("../../demo/knot.js")),
    ("/music.js", "text/javascript", include_bytes!("../../demo/music.js")),
];

/// Path and body of a request.
type Request = (String, Vec<u8>);

/// Serves [`PAGE_FILES`] on loopback until the program ends.
pub(super) struct PageServer(SocketAddr);

impl PageServer {
    pub(super) fn start() -> std::io::Result<Self> {
        let answer = |(path, _): Request| match PAGE_FILES.iter().find(|(name, ..)| *name == path) {
            Some((_, kind, body)) => ("200 OK", *kind, *body),
            None => ("404 Not Found", "text/plain", &b""[..]),
        };
        spawn_server("demo-page", answer).map(Self)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.0)
    }
}

/// Receives callbacks on loopback until the program ends.
pub(super) struct WebhookReceiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Value>>>,
}

impl WebhookReceiver {
    pub(super) fn start() -> std::io::Result<Self> {
        let received = Arc::<Mutex<Vec<Value>>>::default();
        let sink = Arc::clone(&received);
        let answer = move |(_, body): Request| {
            if let Ok(body) = serde_json::from_slice(&body) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(body);
            }
            ("200 OK", "application/json", &b"{\"code\":0}"[..])
        };
        Ok(Self { address: spawn_server("demo-callbacks", answer)?, received })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the received callbacks satisfy the condition; returns all of them.
    pub(super) async fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        condition: impl Fn(&[Value]) -> bool,
    ) -> anyhow::Result<Vec<Value>> {
        let begin = Instant::now();
        loop {
            let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if condition(&received) {
                return Ok(received);
            }
            if begin.elapsed() > timeout {
                bail!("no callback within {} s that {what}; received: {received:?}", timeout.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Starts a thread that answers requests; returns its address.
fn spawn_server(
    name: &str,
    answer: impl Fn(Request) -> (&'static str, &'static str, &'static [u8]) + Send + 'static,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = handle_connection(&stream, &answer) {
                tracing::debug!(%error, "demo request failed");
            }
        }
    })?;
    Ok(address)
}

fn handle_connection(
    stream: &TcpStream,
    answer: &impl Fn(Request) -> (&'static str, &'static str, &'static [u8]),
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut lines = BufReader::new(stream);
    let mut request = String::new();
    lines.read_line(&mut request)?;
    let mut length = 0;
    let mut header = String::new();
    while lines.read_line(&mut header)? > 2 {
        let (name, value) = header.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
        header.clear();
    }
    let mut body = vec![0; length.min(MAX_BODY_LEN)];
    lines.read_exact(&mut body)?;
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, kind, body) = answer((path, body));
    let length = body.len();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)
}
