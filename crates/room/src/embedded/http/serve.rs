//! Connections of the room's web server. Each has its time for a request's head, and there are only so many.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::super::Limits;
use super::Visitor;

/// Most connections at once, beside one for each viewer who listens to events; more are closed.
const MAX_REQUESTS: usize = 256;
/// Connections of this machine beyond those, for publishers only: casts of this service publish over them,
/// however many watch.
const MAX_RESERVED: usize = 64;
/// How long a request's head may take to come, and how large it may be.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// What is sent must arrive within this time, or the connection is closed.
const UNREAD_FOR_AT_MOST_MS: u32 = 30_000;
/// After a connection could not be accepted: the process has no files left, which passes.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop.
pub(in super::super) async fn run(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.viewers.saturating_add(MAX_REQUESTS)));
    let reserve = Arc::new(Semaphore::new(MAX_RESERVED));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let own = is_own(&stream, from);
                    let place = Arc::clone(&places).try_acquire_owned();
                    let reserved = place.is_err();
                    let place = match place {
                        Err(_) if own => Arc::clone(&reserve).try_acquire_owned(),
                        place => place,
                    };
                    let Ok(place) = place else {
                        tracing::debug!(%from, "a connection is closed: there are as many as there may be");
                        continue;
                    };
                    let visitor = Visitor { address: (!own).then_some(from.ip()), reserved };
                    let router = router.clone().layer(Extension(visitor));
                    connections.spawn(async move {
                        if let Err(error) = serve(stream, router).await {
                            tracing::trace!(%error, "a connection ends");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// Whether a connection comes from this machine: what it was made from is what it was made to, or loopback.
fn is_own(stream: &TcpStream, from: SocketAddr) -> bool {
    let from = from.ip().to_canonical();
    from.is_loopback() || stream.local_addr().is_ok_and(|here| here.ip().to_canonical() == from)
}

async fn serve(stream: TcpStream, router: Router) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_FOR_AT_MOST_MS)?;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    connection.await.map_err(io::Error::other)
}
