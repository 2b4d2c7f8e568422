//! Connections of the room's web server. Each has its time for a request's head, and there are only so many.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Most connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// How long a request's head may take to come, and how large it may be.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// What is sent must arrive within this time, or the connection is closed.
const UNREAD_FOR_AT_MOST_MS: u32 = 30_000;
/// After a connection could not be accepted: the process has no files left, which passes.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop.
pub(in super::super) async fn run(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            (place, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let router = router.clone();
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

async fn serve(stream: TcpStream, router: Router) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_FOR_AT_MOST_MS)?;
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    connection.await.map_err(io::Error::other)
}
