//! Server-sent events with the state of a viewer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use http_body::Frame;
use tokio::sync::watch;

use super::super::command::{Command, SessionPath};
use super::super::viewer_state::ViewerState;
use super::{AppState, ErrorResponse, stream_body};

/// Longest pause before a comment keeps the stream alive; proxies close idle ones after 30 s and more.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// `GET …/events`: the event stream of a viewer.
pub(super) async fn event_stream(
    State(rooms): State<AppState>,
    Path(path): Path<(String, String)>,
) -> Result<Response, ErrorResponse> {
    let session = SessionPath { room: path.0, publishes: false, secret: path.1 };
    let states = rooms.send_command(|reply| Command::Subscribe(session, reply)).await?;
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    let body = stream_body(EventStream { next: Box::pin(std::future::ready(first_event(states))) });
    Ok((Extension(pagecast_listen::EventStream), headers, body).into_response())
}

type NextEvent = Option<(String, ViewerState, watch::Receiver<ViewerState>)>;

/// Response body. It buffers at most one event, however slowly it is read.
struct EventStream {
    next: Pin<Box<dyn Future<Output = NextEvent> + Send>>,
}

fn first_event(mut states: watch::Receiver<ViewerState>) -> NextEvent {
    let known = states.borrow_and_update().clone();
    Some((known.events_since(None), known, states))
}

async fn next_event(known: ViewerState, mut states: watch::Receiver<ViewerState>) -> NextEvent {
    match tokio::time::timeout(KEEP_ALIVE_INTERVAL, states.changed()).await {
        Ok(Ok(())) => {
            let current = states.borrow_and_update().clone();
            Some((current.events_since(Some(&known)), current, states))
        }
        // The session has ended.
        Ok(Err(_)) => None,
        Err(_) => Some((":\n\n".to_owned(), known, states)),
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            match self.next.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some((text, known, states))) => {
                    self.next = Box::pin(next_event(known, states));
                    if !text.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(text.into()))));
                    }
                }
            }
        }
    }
}
