//! Server-sent events: what a viewer is told.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use http_body::Frame;
use tokio::sync::watch;

use super::super::command::{Command, SessionPath};
use super::super::viewer_state::ViewerState;
use super::{AppState, ErrorResponse, stream_body};

/// How often something is said, if only that there is nothing to say.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// `GET …/events`.
pub(super) async fn event_stream(
    State(rooms): State<AppState>,
    Path(path): Path<(String, String)>,
) -> Result<Response, ErrorResponse> {
    let session = SessionPath { room: path.0, publishes: false, secret: path.1 };
    let news = rooms.send_command(|reply| Command::Subscribe(session, reply)).await?;
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, stream_body(EventStream { next: Box::pin(std::future::ready(first_event(news))) }))
        .into_response())
}

type NextEvent = Option<(String, ViewerState, watch::Receiver<ViewerState>)>;

/// The body of the answer: never more than one event in it, however slowly it is read.
struct EventStream {
    next: Pin<Box<dyn Future<Output = NextEvent> + Send>>,
}

fn first_event(mut news: watch::Receiver<ViewerState>) -> NextEvent {
    let known = news.borrow_and_update().clone();
    Some((known.events_since(None), known, news))
}

async fn next_event(known: ViewerState, mut news: watch::Receiver<ViewerState>) -> NextEvent {
    match tokio::time::timeout(KEEP_ALIVE_INTERVAL, news.changed()).await {
        Ok(Ok(())) => {
            let now = news.borrow_and_update().clone();
            Some((now.events_since(Some(&known)), now, news))
        }
        // The session is over.
        Ok(Err(_)) => None,
        Err(_) => Some((":\n\n".to_owned(), known, news)),
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
                Poll::Ready(Some((text, known, news))) => {
                    self.next = Box::pin(next_event(known, news));
                    if !text.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(text.into()))));
                    }
                }
            }
        }
    }
}
