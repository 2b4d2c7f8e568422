//! Janus over a WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use pagecast_core::error_text::root_cause;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use url::Url;

use super::{MAX_MESSAGE_BYTES, REQUEST_TIMEOUT, ReceivedMessage, forward, parse_messages};

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// WebSocket subprotocol of Janus.
const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("janus-protocol");
/// Size of the read buffer, in bytes.
const READ_BUFFER_BYTES: usize = 16 * 1024;

pub(super) async fn connect(url: &Url) -> Result<Stream, String> {
    let mut request = url.as_str().into_client_request().map_err(|e| error_reason(&e))?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_MESSAGE_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    // Boxed, because the future has many kilobytes, which would be part of every future that awaits it.
    let connecting = Box::pin(connect_async_with_config(request, Some(config), true));
    match timeout(REQUEST_TIMEOUT, connecting).await {
        Ok(Ok((stream, _))) => Ok(stream),
        Ok(Err(error)) => Err(error_reason(&error)),
        Err(_) => Err("the connection timed out".into()),
    }
}

/// Sends and receives messages until either side closes.
pub(super) async fn run(
    mut stream: Stream,
    mut outbox: mpsc::Receiver<Value>,
    inbox: mpsc::Sender<ReceivedMessage>,
) {
    loop {
        let result = tokio::select! {
            request = outbox.recv() => {
                let Some(request) = request else { return };
                match timeout(REQUEST_TIMEOUT, stream.send(Frame::text(request.to_string()))).await {
                    Ok(Ok(())) => Ok(Vec::new()),
                    Ok(Err(error)) => Err(error_reason(&error)),
                    Err(_) => Err("the server does not read requests".into()),
                }
            }
            frame = stream.next() => match frame {
                Some(Ok(Frame::Text(text))) => parse_messages(&text),
                Some(Ok(Frame::Close(_))) | None => Err("the server closed the connection".into()),
                // The library answers pings.
                Some(Ok(_)) => Ok(Vec::new()),
                Some(Err(error)) => Err(error_reason(&error)),
            },
        };
        if !forward(result, &inbox).await {
            return;
        }
    }
}

/// The text of an error, without the URL.
fn error_reason(error: &Error) -> String {
    match error {
        Error::Http(response) => format!("a WebSocket request was answered with {}", response.status()),
        Error::Io(error) => root_cause(error),
        Error::Capacity(_) => format!("the message is longer than {MAX_MESSAGE_BYTES} bytes"),
        Error::ConnectionClosed | Error::AlreadyClosed => "the server closed the connection".into(),
        Error::Url(_) => "the URL is not valid for a WebSocket".into(),
        other => root_cause(other),
    }
}
