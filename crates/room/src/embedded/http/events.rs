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

use super::super::command::{Command, Session};
use super::super::news::News;
use super::{Problem, Rooms, stream};

/// How often something is said, if only that there is nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET …/events`.
pub(super) async fn listen(
    State(rooms): State<Rooms>,
    Path(path): Path<(String, String)>,
) -> Result<Response, Problem> {
    let session = Session { room: path.0, publishes: false, secret: path.1 };
    let news = rooms.tell(|reply| Command::Listen(session, reply)).await?;
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, stream(Events { next: Box::pin(std::future::ready(first(news))) })).into_response())
}

type Told = Option<(String, News, watch::Receiver<News>)>;

/// The body of the answer: never more than one event in it, however slowly it is read.
struct Events {
    next: Pin<Box<dyn Future<Output = Told> + Send>>,
}

fn first(mut news: watch::Receiver<News>) -> Told {
    let known = news.borrow_and_update().clone();
    Some((known.since(None), known, news))
}

async fn next(known: News, mut news: watch::Receiver<News>) -> Told {
    match tokio::time::timeout(KEEP_ALIVE, news.changed()).await {
        Ok(Ok(())) => {
            let now = news.borrow_and_update().clone();
            Some((now.since(Some(&known)), now, news))
        }
        // The session is over.
        Ok(Err(_)) => None,
        Err(_) => Some((":\n\n".to_owned(), known, news)),
    }
}

impl http_body::Body for Events {
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
                    self.next = Box::pin(next(known, news));
                    if !text.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(text.into()))));
                    }
                }
            }
        }
    }
}
