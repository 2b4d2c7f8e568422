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

/// What Janus speaks over WebSockets.
const SUBPROTOCOL: HeaderValue = HeaderValue::from_static("janus-protocol");
/// What a connection reads at once.
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
    // A future of many kilobytes; boxed, it is not part of all that wait for it.
    let connecting = Box::pin(connect_async_with_config(request, Some(config), true));
    match timeout(REQUEST_TIMEOUT, connecting).await {
        Ok(Ok((stream, _))) => Ok(stream),
        Ok(Err(error)) => Err(error_reason(&error)),
        Err(_) => Err("it did not answer in time".into()),
    }
}

/// Carries messages both ways until either side has enough.
pub(super) async fn run(
    mut stream: Stream,
    mut outbox: mpsc::Receiver<Value>,
    inbox: mpsc::Sender<ReceivedMessage>,
) {
    loop {
        let heard = tokio::select! {
            request = outbox.recv() => {
                let Some(request) = request else { return };
                match timeout(REQUEST_TIMEOUT, stream.send(Frame::text(request.to_string()))).await {
                    Ok(Ok(())) => Ok(Vec::new()),
                    Ok(Err(error)) => Err(error_reason(&error)),
                    Err(_) => Err("it does not read what it is sent".into()),
                }
            }
            frame = stream.next() => match frame {
                Some(Ok(Frame::Text(text))) => parse_messages(&text),
                Some(Ok(Frame::Close(_))) | None => Err("it closed the connection".into()),
                // Pings are answered on their own.
                Some(Ok(_)) => Ok(Vec::new()),
                Some(Err(error)) => Err(error_reason(&error)),
            },
        };
        if !forward(heard, &inbox).await {
            return;
        }
    }
}

/// What went wrong, without the address.
fn error_reason(error: &Error) -> String {
    match error {
        Error::Http(response) => format!("it answered {} where a WebSocket was asked for", response.status()),
        Error::Io(error) => root_cause(error),
        Error::Capacity(_) => "it said more at once than it may".into(),
        Error::ConnectionClosed | Error::AlreadyClosed => "it closed the connection".into(),
        Error::Url(_) => "its address cannot be used for a WebSocket".into(),
        other => root_cause(other),
    }
}
