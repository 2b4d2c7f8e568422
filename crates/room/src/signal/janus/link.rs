//! The two ways to talk to Janus: a WebSocket, or requests and long polls over HTTP. Both are tasks that end when the link is
//! dropped, so nothing that waits for one loses anything by being given up.

mod poll;
mod socket;

use std::time::Duration;

use pagecast_core::spec::Secret;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use url::Url;

use super::words::Message;

/// Requests on their way. Full: the server does not read.
const REQUESTS: usize = 32;
/// Messages that wait to be heard. Full: the server is read no further.
const MESSAGES: usize = 32;
/// Longest message, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;
/// How long a connection, or the answer to a request, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What comes from the server, or why nothing does any more.
type Heard = Result<Message, String>;

/// A way to talk to a server.
#[derive(Debug)]
pub(super) struct Link {
    requests: mpsc::Sender<Value>,
    messages: mpsc::Receiver<Heard>,
    _tasks: JoinSet<()>,
}

impl Link {
    /// Connects, where there is a connection. `secret` is for requests that have nowhere else to put it.
    ///
    /// # Errors
    /// Why it is not possible, in words.
    pub(super) async fn open(url: &Url, secret: Option<&Secret>) -> Result<Self, String> {
        let (requests, outbox) = mpsc::channel(REQUESTS);
        let (inbox, messages) = mpsc::channel(MESSAGES);
        let mut tasks = JoinSet::new();
        if url.scheme().starts_with("ws") {
            let stream = socket::connect(url).await?;
            tasks.spawn(socket::run(stream, outbox, inbox));
        } else {
            let server = poll::Server::new(url, secret)?;
            let (session, begun) = tokio::sync::oneshot::channel();
            tasks.spawn(poll::listen(server.clone(), begun, inbox.clone()));
            tasks.spawn(poll::ask(server, outbox, session, inbox));
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
    pub(super) async fn receive(&mut self) -> Heard {
        self.messages.recv().await.unwrap_or_else(|| Err("the connection is over".into()))
    }
}

/// Passes on what was read; `false` if that is the end.
async fn pass_on(read: Result<Vec<Message>, String>, inbox: &mpsc::Sender<Heard>) -> bool {
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
fn read(text: &str) -> Result<Vec<Message>, String> {
    Message::read(text).map_err(|_| "it says something that is not of Janus's API".to_owned())
}
