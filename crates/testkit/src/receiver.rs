//! A server that callbacks are sent to: it keeps all that came, and misbehaves on demand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Largest body that is taken.
const MAX_BODY_LEN: usize = 1 << 20;
/// How long a request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What came.
#[derive(Debug, Clone)]
pub struct ReceivedRequest {
    /// When.
    pub received_at: Instant,
    /// The path, with what stands behind the `?`.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What was answered; 0 for nothing.
    pub response_status: u16,
}

impl ReceivedRequest {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMode {
    /// With this status, at once.
    Status(u16),
    /// With 200, after so long.
    Delayed(Duration),
    /// Not at all: the connection is closed.
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

/// A receiver on this machine.
#[derive(Debug)]
pub struct WebhookReceiver {
    address: SocketAddr,
    shared: Arc<ReceiverState>,
    thread: Option<JoinHandle<()>>,
}

impl WebhookReceiver {
    /// Starts it; it answers 200.
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

    /// Its address with this path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How it answers from now on.
    pub fn set_response_mode(&self, manner: ResponseMode) {
        *self.shared.response_mode.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Nobody is there any more, until [`Self::open`].
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // The thread waits for a connection.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }

    /// Is there (again), at the same address.
    ///
    /// # Errors
    /// The port is somebody else's.
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
                // A sender that goes away in the middle is nothing to report.
                connections.push(std::thread::spawn(move || drop(serve_connection(&stream, &shared))));
            }
            connections.into_iter().for_each(|connection| drop(connection.join()));
        })?);
        Ok(())
    }

    /// All that came, in order.
    #[must_use]
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.shared.received().clone()
    }

    /// Waits until what came is like this.
    ///
    /// # Errors
    /// It is not within `limit`.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        like: impl Fn(&[ReceivedRequest]) -> bool,
    ) -> Result<Vec<ReceivedRequest>> {
        let begin = Instant::now();
        let mut told = self.shared.received();
        while !like(&told) {
            let left = limit.saturating_sub(begin.elapsed());
            let bodies =
                || told.iter().map(|t| String::from_utf8_lossy(&t.body).into_owned()).collect::<Vec<_>>();
            ensure!(!left.is_zero(), "not within {limit:?}: {what}; came: {:#?}", bodies());
            told = self
                .shared
                .request_arrived
                .wait_timeout(told, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(told.clone())
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
        let path = line.split(' ').nth(1).context("no request")?.to_owned();
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
        let manner = *shared.response_mode.lock().unwrap_or_else(PoisonError::into_inner);
        let (answered, pause) = match manner {
            ResponseMode::Status(status) => (status, Duration::ZERO),
            ResponseMode::Delayed(pause) => (200, pause),
            ResponseMode::CloseConnection => (0, Duration::ZERO),
        };
        shared.received().push(ReceivedRequest {
            received_at: Instant::now(),
            path,
            headers,
            body,
            response_status: answered,
        });
        shared.request_arrived.notify_all();
        if answered == 0 {
            return Ok(());
        }
        let begin = Instant::now();
        while begin.elapsed() < pause && !shared.stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(10));
        }
        (&mut &*stream).write_all(
            format!("HTTP/1.1 {answered} X\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{{\"code\":0}}")
                .as_bytes(),
        )?;
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
    }
}
