//! Janus over HTTP: requests are posted, events are received with long polls.

use std::time::Duration;

use pagecast_core::error_text::root_cause;
use pagecast_core::spec::Secret;
use reqwest::{Client, RequestBuilder, StatusCode, redirect};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::super::messages::Message;
use super::{MAX_MESSAGE_BYTES, REQUEST_TIMEOUT, ReceivedMessage, forward, parse_messages};

/// Longest duration of a long poll; Janus answers after half a minute.
const POLL_TIMEOUT: Duration = Duration::from_secs(45);
/// Most events in one response.
const MAX_EVENTS: &str = "10";

/// HTTP API of a server.
#[derive(Debug, Clone)]
pub(super) struct HttpApi {
    client: Client,
    url: Url,
    secret: Option<Secret>,
}

impl HttpApi {
    pub(super) fn new(url: &Url, secret: Option<&Secret>) -> Result<Self, String> {
        // A redirect must not send the secrets to another server.
        let builder = Client::builder().redirect(redirect::Policy::none()).connect_timeout(REQUEST_TIMEOUT);
        let client = builder.user_agent(concat!("pagecast/", env!("CARGO_PKG_VERSION"))).build();
        let client = client.map_err(|e| error_reason(&e))?;
        Ok(Self { client, url: url.clone(), secret: secret.cloned() })
    }

    /// The URL of the API, of a session, or of a handle.
    fn url_for(&self, path: [Option<u64>; 2]) -> Url {
        let mut url = self.url.clone();
        // An http URL always has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.iter().flatten().map(u64::to_string));
        }
        url
    }

    async fn post(&self, request: &Value) -> Result<Vec<Message>, String> {
        let path = ["session_id", "handle_id"].map(|name| request[name].as_u64());
        let post = self.client.post(self.url_for(path)).timeout(REQUEST_TIMEOUT);
        send_request(post.header("content-type", "application/json").body(request.to_string())).await
    }

    async fn poll_events(&self, session: u64) -> Result<Vec<Message>, String> {
        let mut url = self.url_for([Some(session), None]);
        url.query_pairs_mut().append_pair("maxev", MAX_EVENTS);
        if let Some(secret) = &self.secret {
            let secret = secret.reveal();
            url.query_pairs_mut().append_pair("apisecret", secret).append_pair("token", secret);
        }
        send_request(self.client.get(url).timeout(POLL_TIMEOUT)).await
    }
}

/// Posts requests, one after the other, and sends the identifier of the created session.
pub(super) async fn post_loop(
    server: HttpApi,
    mut outbox: mpsc::Receiver<Value>,
    session: oneshot::Sender<u64>,
    inbox: mpsc::Sender<ReceivedMessage>,
) {
    let mut session = Some(session);
    while let Some(request) = outbox.recv().await {
        let response = server.post(&request).await;
        let created = response.as_ref().ok().and_then(|messages| messages.first()?.created_id());
        if request["janus"] == "create"
            && let (Some(id), Some(session)) = (created, session.take())
        {
            // The poll loop may have ended; then it has sent its error.
            let _sent = session.send(id);
        }
        if !forward(response, &inbox).await {
            return;
        }
    }
}

/// Polls the events of a session until it ends.
pub(super) async fn poll_loop(
    server: HttpApi,
    session: oneshot::Receiver<u64>,
    inbox: mpsc::Sender<ReceivedMessage>,
) {
    let Ok(session) = session.await else { return };
    while forward(server.poll_events(session).await, &inbox).await {}
}

async fn send_request(request: RequestBuilder) -> Result<Vec<Message>, String> {
    let mut response = request.send().await.map_err(|e| error_reason(&e))?;
    if response.status() != StatusCode::OK {
        return Err(format!("a request to Janus's API was answered with {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| error_reason(&e))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(format!("the response is longer than {MAX_MESSAGE_BYTES} bytes"));
        }
    }
    let text = String::from_utf8(body).map_err(|_| "the response is not UTF-8")?;
    parse_messages(&text)
}

/// Why a request failed: the root cause, which contains no URL.
fn error_reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the request timed out".into();
    }
    // The text of the outermost error contains the URL.
    if std::error::Error::source(error).is_none() { "the request failed".into() } else { root_cause(error) }
}
