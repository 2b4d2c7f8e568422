//! Receiver of webhooks: keeps all requests, and delays or drops responses on demand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Largest request body, in bytes. Callbacks have a few kilobytes.
const MAX_BODY_LEN: usize = 1 << 20;
/// Longest time for a request to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that was received.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// Time at which the whole request was received.
    pub received_at: Instant,
    /// The path with the query.
    pub path: String,
    /// Headers: names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Status of the response; 0 if there was none.
    pub response_status: u16,
}

impl ReceivedRequest {
    /// Value of a header; the name is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How the receiver responds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMode {
    /// Responds with this status at once.
    Status(u16),
    /// Responds with 200 after this pause.
    Delayed(Duration),
    /// Closes the connection without a response.
    CloseConnection,
}

#[derive(Debug)]
struct ReceiverState {
    received: Mutex<Vec<ReceivedRequest>>,
    request_arrived: Condvar,
    response_mode: Mutex<ResponseMode>,
    stop: AtomicBool,
}

impl ReceiverState {
    fn received(&self) -> MutexGuard<'_, Vec<ReceivedRequest>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A webhook receiver on a port of 127.0.0.1; stopped when dropped.
#[derive(Debug)]
pub struct WebhookReceiver {
    address: SocketAddr,
    shared: Arc<ReceiverState>,
    thread: Option<JoinHandle<()>>,
}

impl WebhookReceiver {
    /// Starts a receiver that responds with 200.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        let shared = ReceiverState {
            received: Mutex::default(),
            request_arrived: Condvar::new(),
            response_mode: Mutex::new(ResponseMode::Status(200)),
            stop: AtomicBool::new(false),
        };
        let mut receiver =
            Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), shared: Arc::new(shared), thread: None };
        receiver.restart()?;
        Ok(receiver)
    }

    /// URL of this path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sets how the receiver responds from now on.
    pub fn set_response_mode(&self, mode: ResponseMode) {
        *self.shared.response_mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Refuses connections until [`Self::restart`].
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the thread, which waits for a connection.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }

    /// Accepts connections again, at the same address.
    ///
    /// # Errors
    /// The port is in use.
    pub fn restart(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address)?;
        self.address = listener.local_addr()?;
        self.shared.stop.store(false, Ordering::Release);
        let shared = Arc::clone(&self.shared);
        self.thread = Some(std::thread::Builder::new().name("receiver".into()).spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Acquire) {
                    break;
                }
                let shared = Arc::clone(&shared);
                // A sender may close the connection at any time.
                connections.push(std::thread::spawn(move || drop(serve_connection(&stream, &shared))));
            }
            connections.into_iter().for_each(|connection| drop(connection.join()));
        })?);
        Ok(())
    }

    /// All requests so far, in order.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.shared.received().clone()
    }

    /// Waits until the requests so far match, and returns them; `what` describes the condition in the error.
    ///
    /// # Errors
    /// The requests do not match within `limit`.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        matches: impl Fn(&[ReceivedRequest]) -> bool,
    ) -> Result<Vec<ReceivedRequest>> {
        let begin = Instant::now();
        let mut requests = self.shared.received();
        while !matches(&requests) {
            let left = limit.saturating_sub(begin.elapsed());
            let bodies =
                || requests.iter().map(|t| String::from_utf8_lossy(&t.body).into_owned()).collect::<Vec<_>>();
            ensure!(!left.is_zero(), "not within {limit:?}: {what}; received: {:#?}", bodies());
            requests = self
                .shared
                .request_arrived
                .wait_timeout(requests, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(requests.clone())
    }
}

impl Drop for WebhookReceiver {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve_connection(stream: &TcpStream, shared: &ReceiverState) -> Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).context("the request line has no path")?.to_owned();
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.map_or(Ok(0), |(_, value)| value.parse::<usize>())?;
        ensure!(length <= MAX_BODY_LEN, "a body of {length} bytes");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mode = *shared.response_mode.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, pause) = match mode {
            ResponseMode::Status(status) => (status, Duration::ZERO),
            ResponseMode::Delayed(pause) => (200, pause),
            ResponseMode::CloseConnection => (0, Duration::ZERO),
        };
        shared.received().push(ReceivedRequest {
            received_at: Instant::now(),
            path,
            headers,
            body,
            response_status: status,
        });
        shared.request_arrived.notify_all();
        if status == 0 {
            return Ok(());
        }
        let begin = Instant::now();
        while begin.elapsed() < pause && !shared.stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(10));
        }
        (&mut &*stream).write_all(
            format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n\
                 {{\"code\":0}}"
            )
            .as_bytes(),
        )?;
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
    }
}
