//! Transports to Janus: WebSocket, or HTTP with long polls. Both run in tasks that end when the transport is
//! dropped, so that receiving is cancel-safe.

mod long_poll;
mod websocket;

use std::time::Duration;

use pagecast_core::spec::Secret;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use url::Url;

use super::messages::Message;

/// Requests that wait to be sent. When full, sending fails.
const MAX_QUEUED_REQUESTS: usize = 32;
/// Received messages that wait to be read. When full, the server is not read.
const MAX_QUEUED_MESSAGES: usize = 32;
/// Longest message, in bytes: one may list all participants.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Longest duration of connecting, and of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A received message, or why the transport has ended.
type ReceivedMessage = Result<Message, String>;

/// Transport to a server.
#[derive(Debug)]
pub(super) struct Transport {
    requests: mpsc::Sender<Value>,
    messages: mpsc::Receiver<ReceivedMessage>,
    _tasks: JoinSet<()>,
}

impl Transport {
    /// Opens a transport. `secret` is for long polls, which have no body to put it in.
    ///
    /// # Errors
    /// A text why it failed.
    pub(super) async fn open(url: &Url, secret: Option<&Secret>) -> Result<Self, String> {
        let (requests, outbox) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let (inbox, messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let mut tasks = JoinSet::new();
        if url.scheme().starts_with("ws") {
            let stream = websocket::connect(url).await?;
            tasks.spawn(websocket::run(stream, outbox, inbox));
        } else {
            let server = long_poll::HttpApi::new(url, secret)?;
            let (session_sender, session) = tokio::sync::oneshot::channel();
            tasks.spawn(long_poll::poll_loop(server.clone(), session, inbox.clone()));
            tasks.spawn(long_poll::post_loop(server, outbox, session_sender, inbox));
        }
        Ok(Self { requests, messages, _tasks: tasks })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full.
    pub(super) fn send(&self, request: Value) -> Result<(), String> {
        // A transport that has ended returns its error from receive().
        match self.requests.try_send(request) {
            Err(mpsc::error::TrySendError::Full(_)) => Err("the server does not read requests".into()),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Waits for a message. Cancel-safe.
    pub(super) async fn receive(&mut self) -> ReceivedMessage {
        self.messages.recv().await.unwrap_or_else(|| Err("the connection has ended".into()))
    }
}

/// Forwards a result to the inbox. Returns whether to continue.
async fn forward(result: Result<Vec<Message>, String>, inbox: &mpsc::Sender<ReceivedMessage>) -> bool {
    let (messages, error) = match result {
        Ok(messages) => (messages, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    for message in messages {
        if inbox.send(Ok(message)).await.is_err() {
            return false;
        }
    }
    match error {
        Some(error) => {
            // The receiver may be gone.
            let _sent = inbox.send(Err(error)).await;
            false
        }
        None => true,
    }
}

/// Parses received messages.
fn parse_messages(text: &str) -> Result<Vec<Message>, String> {
    Message::parse(text).map_err(|_| "the server sent a message that is not Janus's API".to_owned())
}
