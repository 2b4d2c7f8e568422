//! Client of the Chrome DevTools Protocol over a pair of pipes: JSON messages that end with a NUL byte.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_core::wake::SharedWaker;
use serde_json::{Value, json};

use crate::clock;

/// Longest accepted message, in bytes: room for a screenshot of the largest display. A longer one ends the
/// connection.
const MAX_MESSAGE_BYTES: usize = 128 * 1024 * 1024;

/// Why a DevTools call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The browser closed the pipe.
    #[error("the browser is gone")]
    Closed,
    /// The response did not arrive in time.
    #[error("the browser did not answer {method} within {} s", .after.as_secs_f64())]
    Timeout {
        /// The DevTools method.
        method: &'static str,
        /// How long the call waited.
        after: Duration,
    },
    /// The CSS selector is malformed.
    #[error("{0:?} is not a valid CSS selector")]
    InvalidSelector(String),
    /// The browser returned an error.
    #[error("the browser refused {method}: {message}")]
    ErrorResponse {
        /// The DevTools method.
        method: &'static str,
        /// Message of the browser.
        message: String,
    },
}

/// Response of the browser to a call.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) received_at: HostTime,
    /// The result, or the error message of the browser.
    pub(crate) result: Result<Value, String>,
}

/// Receives the response of a call; disconnected when the browser is gone.
pub(crate) type PendingResponse = Receiver<Response>;

/// A call that waits for its response.
#[derive(Debug)]
struct PendingCall {
    response: SyncSender<Response>,
    /// Woken by the response, if the caller does not wait for it.
    waker: Option<SharedWaker>,
}

/// Handles events on the thread of the reader. It may send commands, but must not wait for a response.
pub(crate) trait EventHandler: Send + 'static {
    /// Handles one event; `session` is empty for events of the browser itself.
    fn handle_event(&mut self, cdp: &CdpClient, session: &str, method: &str, params: &Value);
    /// Handles the end of the connection.
    fn handle_close(&mut self);
}

/// A DevTools connection to a browser. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct CdpClient(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// `None` once the browser is gone.
    pipe: Option<File>,
    next_id: u64,
    pending: HashMap<u64, PendingCall>,
}

impl CdpClient {
    /// Sends commands through `write`, and reads from `read` on the thread `cdp`, which ends with it.
    pub(crate) fn connect(
        write: OwnedFd,
        read: impl Read + Send + 'static,
        events: impl EventHandler,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let inner = Inner { pipe: Some(File::from(write)), next_id: 1, pending: HashMap::new() };
        let cdp = Self(Arc::new(Mutex::new(inner)));
        let reader = cdp.clone();
        let thread =
            std::thread::Builder::new().name("cdp".into()).spawn(move || reader.read_loop(read, events))?;
        Ok((cdp, thread))
    }

    /// Calls a method and waits for its response.
    ///
    /// # Errors
    /// See [`Error`].
    pub(crate) fn call(
        &self,
        session: &str,
        method: &'static str,
        params: Value,
        timeout: Duration,
    ) -> Result<Value, Error> {
        let (id, response) = self.send_call(session, method, params, None)?;
        match response.recv_timeout(timeout) {
            Ok(response) => response.result.map_err(|message| {
                tracing::debug!(method, message, "DevTools call failed");
                Error::ErrorResponse { method, message }
            }),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Closed),
            Err(RecvTimeoutError::Timeout) => {
                tracing::debug!(method, ?timeout, "DevTools call timed out");
                self.lock().pending.remove(&id);
                Err(Error::Timeout { method, after: timeout })
            }
        }
    }

    /// Calls a method without waiting for its response.
    pub(crate) fn send(&self, session: &str, method: &str, params: Value) {
        // The reader notices when the browser is gone.
        let _gone = Self::write(&mut self.lock(), session, method, params);
    }

    /// Calls a method, and returns where its response will arrive; `None` if the browser is gone. The
    /// response wakes `waker`.
    pub(crate) fn start_call(
        &self,
        session: &str,
        method: &str,
        params: Value,
        waker: Option<&SharedWaker>,
    ) -> Option<PendingResponse> {
        self.send_call(session, method, params, waker).ok().map(|(_, response)| response)
    }

    fn send_call(
        &self,
        session: &str,
        method: &str,
        params: Value,
        waker: Option<&SharedWaker>,
    ) -> Result<(u64, PendingResponse), Error> {
        let (sender, response) = sync_channel(1);
        let mut inner = self.lock();
        let id = Self::write(&mut inner, session, method, params)?;
        inner.pending.insert(id, PendingCall { response: sender, waker: waker.cloned() });
        Ok((id, response))
    }

    fn write(inner: &mut Inner, session: &str, method: &str, params: Value) -> Result<u64, Error> {
        let id = inner.next_id;
        inner.next_id += 1;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !session.is_empty() {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        inner.pipe.as_mut().and_then(|p| p.write_all(&bytes).ok()).ok_or(Error::Closed)?;
        Ok(id)
    }

    fn read_loop(&self, pipe: impl Read, mut events: impl EventHandler) {
        let mut reader = BufReader::with_capacity(64 * 1024, pipe);
        while let Some(message) = read_message(&mut reader) {
            match serde_json::from_slice::<Value>(&message) {
                Ok(message) => self.dispatch(&message, &mut events),
                Err(error) => tracing::warn!(%error, "DevTools message is not JSON"),
            }
        }
        let mut inner = self.lock();
        inner.pipe = None;
        inner.pending.clear();
        drop(inner);
        events.handle_close();
    }

    fn dispatch(&self, message: &Value, events: &mut impl EventHandler) {
        if let Some(id) = message["id"].as_u64() {
            let Some(call) = self.lock().pending.remove(&id) else { return };
            let result = match message.get("error") {
                Some(error) => Err(error["message"].as_str().unwrap_or("no reason given").to_owned()),
                None => Ok(message["result"].clone()),
            };
            // Fails if the caller no longer waits.
            let _given_up = call.response.try_send(Response { received_at: clock::now(), result });
            if let Some(waker) = call.waker {
                waker.wake();
            }
        } else if let Some(method) = message["method"].as_str() {
            events.handle_event(
                self,
                message["sessionId"].as_str().unwrap_or_default(),
                method,
                &message["params"],
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads up to the next NUL byte; `None` at the end, or when the message is too long.
fn read_message(reader: &mut BufReader<impl Read>) -> Option<Vec<u8>> {
    use std::io::BufRead;
    let mut message = Vec::new();
    let read = reader.take(MAX_MESSAGE_BYTES as u64).read_until(0, &mut message).ok()?;
    if read == 0 || message.pop() != Some(0) {
        return None;
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::pipe;
    use std::io::BufRead;
    use std::task::Wake;

    const TIMEOUT: Duration = Duration::from_secs(5);

    struct RecordingHandler(SyncSender<String>);

    impl EventHandler for RecordingHandler {
        fn handle_event(&mut self, _cdp: &CdpClient, session: &str, method: &str, params: &Value) {
            self.0.send(format!("{session} {method} {params}")).unwrap();
        }
        fn handle_close(&mut self) {
            self.0.send("closed".into()).unwrap();
        }
    }

    /// A browser that answers each request with the bytes that `answer` returns; empty bytes close the pipes.
    fn fake_browser(answer: impl Fn(Value) -> Vec<u8> + Send + 'static) -> (CdpClient, Receiver<String>) {
        let (to_browser_r, to_browser_w) = pipe().unwrap();
        let (from_browser_r, from_browser_w) = pipe().unwrap();
        std::thread::spawn(move || {
            let mut out = File::from(from_browser_w);
            for request in BufReader::new(File::from(to_browser_r)).split(0) {
                let reply = answer(serde_json::from_slice(&request.unwrap()).unwrap());
                if reply.is_empty() {
                    break;
                }
                out.write_all(&reply).unwrap();
            }
        });
        let (tx, rx) = sync_channel(10);
        (CdpClient::connect(to_browser_w, File::from(from_browser_r), RecordingHandler(tx)).unwrap().0, rx)
    }

    #[test]
    fn answers_find_their_calls_between_events() {
        let (cdp, events) = fake_browser(|request| {
            let mut bytes = br#"{"method":"A.b","sessionId":"s","params":{"x":1}}"#.to_vec();
            bytes.push(0);
            bytes.extend(b"not json\0");
            bytes.extend(
                json!({"id": request["id"], "result": {"echo": request["method"]}}).to_string().bytes(),
            );
            bytes.push(0);
            bytes
        });
        assert_eq!(
            cdp.call("", "Browser.getVersion", json!({}), TIMEOUT).unwrap()["echo"],
            "Browser.getVersion"
        );
        assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), r#"s A.b {"x":1}"#);
    }

    #[test]
    fn an_error_carries_the_message_of_the_browser() {
        let (cdp, _events) = fake_browser(|request| {
            let mut bytes =
                json!({"id": request["id"], "error": {"code": 1, "message": "no such thing"}}).to_string();
            bytes.push('\0');
            bytes.into_bytes()
        });
        let error = cdp.call("", "X.y", json!({}), TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "the browser refused X.y: no such thing");
    }

    #[test]
    fn a_browser_that_dies_fails_all_calls() {
        let (cdp, events) = fake_browser(|_| Vec::new());
        assert!(matches!(cdp.call("", "X.y", json!({}), TIMEOUT), Err(Error::Closed)));
        assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), "closed");
        assert!(matches!(cdp.call("", "X.y", json!({}), TIMEOUT), Err(Error::Closed)));
    }

    #[test]
    fn silence_ends_in_a_timeout() {
        let (cdp, _events) = fake_browser(|_| b"{}\0".to_vec());
        let error = cdp.call("", "X.y", json!({}), Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.to_string(), "the browser did not answer X.y within 0.02 s");
    }

    #[test]
    fn a_response_that_nobody_waits_for_wakes() {
        struct Woken(SyncSender<()>);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.send(()).unwrap();
            }
        }
        let (cdp, _events) = fake_browser(|request| {
            let mut bytes = json!({"id": request["id"], "result": 7}).to_string();
            bytes.push('\0');
            bytes.into_bytes()
        });
        let (waker, (sender, woken)) = (SharedWaker::default(), sync_channel(1));
        waker.set(Arc::new(Woken(sender)).into());
        let before = clock::now();
        let response = cdp.start_call("", "X.y", json!({}), Some(&waker)).unwrap();
        woken.recv_timeout(TIMEOUT).unwrap();
        let response = response.try_recv().unwrap();
        assert_eq!(response.result, Ok(json!(7)));
        assert!(response.received_at >= before);
        cdp.start_call("", "X.y", json!({}), None).unwrap().recv_timeout(TIMEOUT).unwrap();
        assert!(woken.try_recv().is_err(), "a quiet call");
    }
}
