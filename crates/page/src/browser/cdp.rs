//! The Chrome DevTools Protocol over a pair of pipes: JSON messages that end with a NUL byte.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest accepted message; a browser that sends a longer one is cut off. Screenshots of the largest display
/// fit.
const MAX_MESSAGE_BYTES: usize = 128 * 1024 * 1024;
/// How often a caller that may give up is asked whether it does.
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The browser closed the pipe, or never opened it.
    #[error("the browser is gone")]
    Closed,
    /// No answer in time.
    #[error("the browser did not answer {method} within {} s", .after.as_secs_f64())]
    Timeout {
        /// The call.
        method: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The caller did not want to wait any longer.
    #[error("{method} was given up")]
    Cancelled {
        /// The call.
        method: &'static str,
    },
    /// Nothing can be found with it.
    #[error("cannot look for {0:?}: it is not a CSS selector")]
    InvalidSelector(String),
    /// The browser refused.
    #[error("the browser refused {method}: {message}")]
    ErrorResponse {
        /// The call.
        method: &'static str,
        /// Its words.
        message: String,
    },
}

/// Where an answer arrives: what came of the call, or the browser's refusal.
pub(crate) type PendingResponse = Receiver<Result<Value, String>>;

/// Takes events, on the reader's thread: it may send, but not wait for an answer.
pub(crate) trait EventHandler: Send + 'static {
    /// Something happened; `session` is empty for the browser itself.
    fn handle_event(&mut self, cdp: &CdpClient, session: &str, method: &str, params: &Value);
    /// The browser is gone.
    fn handle_close(&mut self);
}

/// A connection to a browser.
#[derive(Debug, Clone)]
pub(crate) struct CdpClient(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// `None` once the browser is gone.
    pipe: Option<File>,
    next_id: u64,
    pending: HashMap<u64, SyncSender<Result<Value, String>>>,
}

impl CdpClient {
    /// Speaks through `write`, listens on `read` with the thread `cdp`, which ends when the browser does.
    pub(crate) fn connect(
        write: OwnedFd,
        read: OwnedFd,
        events: impl EventHandler,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let inner = Inner { pipe: Some(File::from(write)), next_id: 1, pending: HashMap::new() };
        let cdp = Self(Arc::new(Mutex::new(inner)));
        let reader = cdp.clone();
        let thread = std::thread::Builder::new()
            .name("cdp".into())
            .spawn(move || reader.read_loop(File::from(read), events))?;
        Ok((cdp, thread))
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// See [`ErrorBody`].
    pub(crate) fn call(
        &self,
        session: &str,
        method: &'static str,
        params: Value,
        timeout: Duration,
    ) -> Result<Value, Error> {
        self.call_cancellable(session, method, params, timeout, &|| false)
    }

    /// Calls a method and waits for its answer, unless `given_up` says that nobody wants it any more.
    ///
    /// # Errors
    /// See [`ErrorBody`].
    pub(crate) fn call_cancellable(
        &self,
        session: &str,
        method: &'static str,
        params: Value,
        timeout: Duration,
        given_up: &dyn Fn() -> bool,
    ) -> Result<Value, Error> {
        let (id, answer) = self.send_call(session, method, params)?;
        let begin = Instant::now();
        let reason = loop {
            let left = timeout.saturating_sub(begin.elapsed());
            match answer.recv_timeout(left.min(CANCEL_POLL_INTERVAL)) {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(message)) => {
                    tracing::debug!(method, message, "the browser refused a call");
                    return Err(Error::ErrorResponse { method, message });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Closed),
                Err(RecvTimeoutError::Timeout) if given_up() => break Error::Cancelled { method },
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    tracing::debug!(method, ?timeout, "the browser did not answer a call");
                    break Error::Timeout { method, after: timeout };
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        self.lock().pending.remove(&id);
        Err(reason)
    }

    /// Calls a method and does not care about its answer.
    pub(crate) fn send(&self, session: &str, method: &str, params: Value) {
        // A browser that is gone is noticed by the reader.
        let _gone = Self::write(&mut self.lock(), session, method, params);
    }

    /// Calls a method whose answer the caller will look for; `None` if the browser is gone.
    pub(crate) fn start_call(&self, session: &str, method: &str, params: Value) -> Option<PendingResponse> {
        self.send_call(session, method, params).ok().map(|(_, answer)| answer)
    }

    fn send_call(&self, session: &str, method: &str, params: Value) -> Result<(u64, PendingResponse), Error> {
        let (tx, rx) = sync_channel(1);
        let mut inner = self.lock();
        let id = Self::write(&mut inner, session, method, params)?;
        inner.pending.insert(id, tx);
        Ok((id, rx))
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

    fn read_loop(&self, pipe: File, mut events: impl EventHandler) {
        let mut reader = BufReader::with_capacity(64 * 1024, pipe);
        while let Some(message) = read_message(&mut reader) {
            match serde_json::from_slice::<Value>(&message) {
                Ok(message) => self.dispatch(&message, &mut events),
                Err(error) => tracing::warn!(%error, "message of the browser is not JSON"),
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
            let Some(waiting) = self.lock().pending.remove(&id) else { return };
            let answer = match message.get("error") {
                Some(error) => Err(error["message"].as_str().unwrap_or("no reason given").to_owned()),
                None => Ok(message["result"].clone()),
            };
            // Nobody listens when the caller has given up.
            let _unheard = waiting.try_send(answer);
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

/// The bytes up to the next NUL; `None` at the end, or when a message is too long.
fn read_message(reader: &mut BufReader<File>) -> Option<Vec<u8>> {
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

    /// A browser that answers from a script: each request line gets the bytes that `answer` returns.
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
        (CdpClient::connect(to_browser_w, from_browser_r, RecordingHandler(tx)).unwrap().0, rx)
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
    fn a_refusal_carries_the_browsers_words() {
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
    fn a_caller_may_give_up() {
        let (cdp, _events) = fake_browser(|_| b"{}\0".to_vec());
        let begin = Instant::now();
        let error = cdp
            .call_cancellable("", "X.y", json!({}), TIMEOUT, &|| begin.elapsed().as_millis() > 80)
            .unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
        assert!(begin.elapsed() < TIMEOUT && cdp.lock().pending.is_empty());
    }
}
