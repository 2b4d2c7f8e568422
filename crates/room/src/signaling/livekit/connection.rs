//! WebSocket to a LiveKit server: requests out, responses in.

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

/// Longest message, in bytes: one contains all participants of the room.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes that wait to be sent: an offer, candidates and pings. When full, the connection fails.
const MAX_UNSENT_BYTES: usize = 512 * 1024;
/// Size of the read buffer, in bytes; most messages are small.
const BUFFER_BYTES: usize = 16 * 1024;
/// Longest duration of sending a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest body of an error response that is read, in bytes.
const MAX_ERROR_BODY_BYTES: usize = 4096;

/// Why a connection could not be opened or has ended. Tokens are removed from the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionError {
    /// The server cannot be reached.
    Unreachable(String),
    /// The server failed or violated the protocol.
    Failed(String),
    /// The server refuses for a lasting reason.
    Refused(String),
    /// Another publisher of this user replaced this one.
    Replaced,
}

impl ConnectionError {
    /// The error of calls before a session is joined.
    pub(super) fn no_session() -> Self {
        Self::Failed("there is no session".into())
    }
}

/// WebSocket connection to a server.
#[derive(Debug)]
pub(super) struct Connection(WebSocketStream<Upgraded>);

impl Connection {
    /// Connects. The request uses reqwest like all others of this crate, with the same roots and proxies.
    pub(super) async fn open(url: Url, token: &Secret) -> Result<Self, ConnectionError> {
        let client = Client::builder()
            .http1_only()
            // A redirect must not send the token to another server.
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
            return Err(ConnectionError::Failed("the server does not support WebSocket".into()));
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

    /// Sends a request. Cancel-safe: it is sent completely or not at all.
    pub(super) async fn send(&mut self, request: Request) -> Result<(), ConnectionError> {
        let bytes = SignalRequest { message: Some(request) }.encode_to_vec();
        match timeout(SEND_TIMEOUT, self.0.send(Message::binary(bytes))).await {
            Ok(sent) => sent.map_err(|e| ConnectionError::Failed(sanitize_text(&root_cause(&e)))),
            Err(_) => Err(ConnectionError::Unreachable("sending to the server timed out".into())),
        }
    }

    /// Waits for the next response. `None` for an unknown one, which still shows that the server is alive.
    /// Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<Option<Response>, ConnectionError> {
        match self.0.next().await {
            None | Some(Ok(Message::Close(_))) => {
                Err(ConnectionError::Failed("the server closed the connection".into()))
            }
            Some(Err(error)) => Err(ConnectionError::Failed(sanitize_text(&root_cause(&error)))),
            Some(Ok(Message::Binary(bytes))) => match SignalResponse::decode(bytes) {
                Ok(response) => Ok(response.message),
                Err(_) => Err(ConnectionError::Failed(
                    "the server sent a message of another protocol than LiveKit's".into(),
                )),
            },
            Some(Ok(_)) => Ok(None),
        }
    }
}

/// The error that a response other than a WebSocket means.
async fn response_error(response: HttpResponse, token: &Secret) -> ConnectionError {
    let status = response.status();
    // LiveKit repeats rejected tokens in its error text.
    let text = sanitize_text(&read_error_body(response).await.replace(token.reveal(), "…"));
    let why = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ConnectionError::Refused(format!("{why} (check the API key and its secret)"))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => ConnectionError::Failed(why),
        // A proxy answers 404 while the server starts. LiveKit's own 404 is about the room.
        StatusCode::NOT_FOUND if !text.contains("room") => ConnectionError::Failed(why),
        status if status.is_client_error() => ConnectionError::Refused(why),
        _ => ConnectionError::Failed(why),
    }
}

/// Reads the start of a response's body.
async fn read_error_body(mut response: HttpResponse) -> String {
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY_BYTES {
        let Ok(Some(chunk)) = response.chunk().await else { break };
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY_BYTES - body.len())]);
    }
    String::from_utf8_lossy(&body).into_owned()
}
