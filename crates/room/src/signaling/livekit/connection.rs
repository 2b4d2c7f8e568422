//! The WebSocket to a LiveKit server: requests out, responses in.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use pagecast_core::error_text::root_cause;
use pagecast_core::spec::Secret;
use prost::Message as _;
use reqwest::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{Client, Response as HttpResponse, StatusCode, Upgraded, redirect};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use url::Url;

use super::messages::{Request, Response, SignalRequest, SignalResponse};
use crate::signaling::sanitize_text;
use crate::signaling::whip::error_reason;

/// Longest message: who else is in a room comes in one.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// What waits to be sent, in bytes: an offer, candidates, pings. Full: the server does not read, and is given
/// up.
const MAX_UNSENT_BYTES: usize = 512 * 1024;
/// Buffers are filled so far before they are read or written; signalling is little.
const BUFFER_BYTES: usize = 16 * 1024;
/// How long the server may take to read what is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text of a refusal, in bytes.
const MAX_ERROR_BODY_BYTES: usize = 4096;

/// Why there is no link, or none any more. Tokens are cut out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionError {
    /// The server cannot be reached.
    Unreachable(String),
    /// It answers, but not with this protocol; or it breaks off.
    Failed(String),
    /// It says no.
    Refused(String),
    /// Somebody else publishes as this user now.
    Replaced,
}

impl ConnectionError {
    /// There is no session.
    pub(super) fn no_session() -> Self {
        Self::Failed("there is no session".into())
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection(WebSocketStream<Upgraded>);

impl Connection {
    /// Connects. The request goes through the same client as all others of this crate: same roots, same
    /// proxies.
    pub(super) async fn open(url: Url, token: &Secret) -> Result<Self, ConnectionError> {
        let client = Client::builder()
            .http1_only()
            // The token is for this server alone.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("pagecast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| ConnectionError::Unreachable(error_reason(&e)))?;
        let key = generate_key();
        let request = client
            .get(url)
            .bearer_auth(token.reveal())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = request.send().await.map_err(|e| ConnectionError::Unreachable(error_reason(&e)))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(response_error(response, token).await);
        }
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|v| v.as_bytes().to_vec());
        if accepted.as_deref() != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(ConnectionError::Failed("it speaks no WebSocket".into()));
        }
        let upgraded = response.upgrade().await.map_err(|e| ConnectionError::Failed(error_reason(&e)))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_UNSENT_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        Ok(Self(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await))
    }

    /// Sends a request. Dropped halfway, it is sent as a whole or not at all.
    pub(super) async fn send(&mut self, request: Request) -> Result<(), ConnectionError> {
        let bytes = SignalRequest { message: Some(request) }.encode_to_vec();
        match timeout(SEND_TIMEOUT, self.0.send(Message::binary(bytes))).await {
            Ok(sent) => sent.map_err(|e| ConnectionError::Failed(sanitize_text(&root_cause(&e)))),
            Err(_) => Err(ConnectionError::Unreachable("it does not read what is sent".into())),
        }
    }

    /// The next response. Those that are not understood come as `None`: they show that the server is there.
    /// Safe to be dropped and called again.
    pub(super) async fn receive(&mut self) -> Result<Option<Response>, ConnectionError> {
        match self.0.next().await {
            None | Some(Ok(Message::Close(_))) => {
                Err(ConnectionError::Failed("it closed the connection".into()))
            }
            Some(Err(error)) => Err(ConnectionError::Failed(sanitize_text(&root_cause(&error)))),
            Some(Ok(Message::Binary(bytes))) => match SignalResponse::decode(bytes) {
                Ok(response) => Ok(response.message),
                Err(_) => Err(ConnectionError::Failed("it speaks another protocol than LiveKit's".into())),
            },
            Some(Ok(_)) => Ok(None),
        }
    }
}

/// What an answer other than a WebSocket means.
async fn response_error(response: HttpResponse, token: &Secret) -> ConnectionError {
    let status = response.status();
    // It repeats tokens that it does not take.
    let said = sanitize_text(&read_error_body(response).await.replace(token.reveal(), "…"));
    let why = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ConnectionError::Refused(format!("{why} (are the API key and its secret right?)"))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => ConnectionError::Failed(why),
        // What stands before a server says so while the server starts; the server itself means the room.
        StatusCode::NOT_FOUND if !said.contains("room") => ConnectionError::Failed(why),
        status if status.is_client_error() => ConnectionError::Refused(why),
        _ => ConnectionError::Failed(why),
    }
}

/// The beginning of an answer's text.
async fn read_error_body(mut response: HttpResponse) -> String {
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY_BYTES {
        let Ok(Some(chunk)) = response.chunk().await else { break };
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY_BYTES - body.len())]);
    }
    String::from_utf8_lossy(&body).into_owned()
}
