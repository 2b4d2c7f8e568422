//! Wrappers that report the phases of a connection: its stream, its request and response bodies, and its
//! timer.

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

/// Error of a connection that was evicted to make room for another.
pub(crate) fn evicted_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed to make room for others")
}

/// A stream that reports received bytes to its connection slot.
#[derive(Debug)]
pub(crate) struct TrackedStream<S> {
    stream: S,
    slot: Arc<ConnectionSlot>,
}

impl<S> TrackedStream<S> {
    pub(crate) fn new(stream: S, slot: Arc<ConnectionSlot>) -> Self {
        Self { stream, slot }
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

/// Guard of a running request: dropping it makes the connection idle.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<ConnectionSlot>);

impl RequestGuard {
    pub(crate) fn new(slot: Arc<ConnectionSlot>) -> Self {
        Self(slot)
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.set_phase(Instant::now(), Phase::Idle);
    }
}

/// A request's body that reports when it is complete or dropped.
#[derive(Debug)]
pub(crate) struct RequestBody {
    body: Incoming,
    slot: Arc<ConnectionSlot>,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, slot: Arc<ConnectionSlot>) -> Self {
        if body.is_end_stream() {
            slot.body_complete(Instant::now());
        }
        Self { body, slot }
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

/// A response's body, whose end is the end of the request.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: Body,
    _request: RequestGuard,
}

impl ResponseBody {
    pub(crate) fn new(body: Body, request: RequestGuard) -> Self {
        Self { body, _request: request }
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

/// Timer of a connection's current phase.
#[derive(Debug)]
pub(crate) struct PhaseTimer(Pin<Box<Sleep>>);

impl PhaseTimer {
    pub(crate) fn new() -> Self {
        Self(Box::pin(sleep_until(Instant::now())))
    }

    /// Runs a connection until it ends or its phase times out.
    pub(crate) async fn run_until_timeout<F: Future>(
        &mut self,
        slot: &ConnectionSlot,
        mut connection: Pin<&mut F>,
    ) -> io::Result<F::Output> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = connection.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            // The deadline is read after each poll, which may have changed the phase.
            let Some(deadline) = slot.deadline() else { return Poll::Pending };
            if self.0.deadline() != deadline {
                self.0.as_mut().reset(deadline);
            }
            self.0.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }
}
