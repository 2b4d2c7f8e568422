//! The two ways to talk to Janus: a WebSocket, or requests and long polls over HTTP. Both are tasks that end when the link is
//! dropped, so nothing that waits for one loses anything by being given up.

mod long_poll;
mod websocket;

use std::time::Duration;

use pagecast_core::spec::Secret;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use url::Url;

use super::messages::Message;

/// Requests on their way. Full: the server does not read.
const MAX_QUEUED_REQUESTS: usize = 32;
/// Messages that wait to be heard. Full: the server is read no further.
const MAX_QUEUED_MESSAGES: usize = 32;
/// Longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// How long a connection, or the answer to a request, may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What comes from the server, or why nothing does any more.
type ReceivedMessage = Result<Message, String>;

/// A way to talk to a server.
#[derive(Debug)]
pub(super) struct Transport {
    requests: mpsc::Sender<Value>,
    messages: mpsc::Receiver<ReceivedMessage>,
    _tasks: JoinSet<()>,
}

impl Transport {
    /// Connects, where there is a connection. `secret` is for requests that have nowhere else to put it.
    ///
    /// # Errors
    /// Why it is not possible, in words.
    pub(super) async fn open(url: &Url, secret: Option<&Secret>) -> Result<Self, String> {
        let (requests, outbox) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let (inbox, messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let mut tasks = JoinSet::new();
        if url.scheme().starts_with("ws") {
            let stream = websocket::connect(url).await?;
            tasks.spawn(websocket::run(stream, outbox, inbox));
        } else {
            let server = long_poll::HttpApi::new(url, secret)?;
            let (session, begun) = tokio::sync::oneshot::channel();
            tasks.spawn(long_poll::poll_loop(server.clone(), begun, inbox.clone()));
            tasks.spawn(long_poll::post_loop(server, outbox, session, inbox));
        }
        Ok(Self { requests, messages, _tasks: tasks })
    }

    /// Sends a request, some time soon.
    ///
    /// # Errors
    /// The server does not read.
    pub(super) fn send(&self, request: Value) -> Result<(), String> {
        // One that has ended says why when it is listened to.
        match self.requests.try_send(request) {
            Err(mpsc::error::TrySendError::Full(_)) => Err("it does not read what it is sent".into()),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Waits for a message. Safe to be dropped and called again.
    pub(super) async fn receive(&mut self) -> ReceivedMessage {
        self.messages.recv().await.unwrap_or_else(|| Err("the connection is over".into()))
    }
}

/// Passes on what was read; `false` if that is the end.
async fn forward(read: Result<Vec<Message>, String>, inbox: &mpsc::Sender<ReceivedMessage>) -> bool {
    let (messages, error) = match read {
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
            // Nobody listens any more, or it is the last that is heard.
            let _heard = inbox.send(Err(error)).await;
            false
        }
        None => true,
    }
}

/// The messages in what came.
fn parse_messages(text: &str) -> Result<Vec<Message>, String> {
    Message::parse(text).map_err(|_| "it says something that is not of Janus's API".to_owned())
}
