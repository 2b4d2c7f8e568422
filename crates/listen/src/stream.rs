//! What goes through a connection, watched: its bytes, the bodies of its requests and of its answers, and its
//! time.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::connections::{ConnectionSlot, Phase};

/// The connection was closed to make room for another.
pub(crate) fn evicted_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed to make room for others")
}

/// A stream whose first bytes of each request are noted.
#[derive(Debug)]
pub(crate) struct TrackedStream<S> {
    stream: S,
    slot: Arc<ConnectionSlot>,
}

impl<S> TrackedStream<S> {
    pub(crate) fn new(stream: S, place: Arc<ConnectionSlot>) -> Self {
        Self { stream, slot: place }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.slot.bytes_received(Instant::now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The end of a request: when this is dropped, the connection waits for the next one.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<ConnectionSlot>);

impl RequestGuard {
    pub(crate) fn new(place: Arc<ConnectionSlot>) -> Self {
        Self(place)
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.set_phase(Instant::now(), Phase::Idle);
    }
}

/// A request's body. That it is complete, or that nobody wants more of it, is noted.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Incoming,
    slot: Arc<ConnectionSlot>,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, place: Arc<ConnectionSlot>) -> Self {
        if body.is_end_stream() {
            place.body_complete(Instant::now());
        }
        Self { body, slot: place }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.slot.body_complete(Instant::now());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.slot.body_complete(Instant::now());
    }
}

/// An answer's body: with it ends the request.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Body,
    _request: RequestGuard,
}

impl ResponseBody {
    pub(crate) fn new(body: Body, ended: RequestGuard) -> Self {
        Self { body, _request: ended }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The time of a connection, which depends on what it is doing.
#[derive(Debug)]
pub(crate) struct PhaseTimer(Pin<Box<Sleep>>);

impl PhaseTimer {
    pub(crate) fn new() -> Self {
        Self(Box::pin(sleep_until(Instant::now())))
    }

    /// Runs a connection until it ends, or until it has taken too long for what it does.
    pub(crate) async fn run_until_timeout<F: Future>(
        &mut self,
        place: &ConnectionSlot,
        mut connection: Pin<&mut F>,
    ) -> io::Result<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = connection.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            // After each step: what it does may have changed with it.
            let Some(deadline) = place.deadline() else { return Poll::Pending };
            if self.0.deadline() != deadline {
                self.0.as_mut().reset(deadline);
            }
            self.0.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }
}
