//! The listener of all APIs: HTTP/1.1, plain or in TLS. Connections are bounded, and so is the time for a handshake and for a request's
//! head; what a request's body may be is up to [`crate::route`].

mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use crate::config;
use tls::Certificates;

pub(crate) use tls::check as check_tls;

/// Most connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a request's head may take to come, and how large it may be. A connection that is kept may rest for as long.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// What is sent must arrive within this time, or the connection is closed.
const UNREAD_FOR_AT_MOST_MS: u32 = 30_000;
/// After a connection could not be accepted: the process has no files left, which passes.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the files of the certificate are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Why nobody listens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: is something else there already?")]
    Bind(SocketAddr, #[source] io::Error),
    /// The certificate or its key cannot be used.
    #[error("{0}")]
    Tls(String),
}

/// A listener that runs.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    stop: watch::Sender<Stop>,
    running: JoinHandle<()>,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// Requests that run are finished.
    Soon,
    Now,
}

impl Server {
    /// Listens, and answers by this router, which finds the other end's address as [`ConnectInfo`].
    ///
    /// # Errors
    /// The address is taken, or the certificate cannot be used.
    pub async fn start(listen: SocketAddr, tls: Option<&config::Tls>, router: Router) -> Result<Self, Error> {
        let certificates = tls.map(|tls| Certificates::load(tls.clone())).transpose().map_err(Error::Tls)?;
        let bind = |error| Error::Bind(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let (stop, stopped) = watch::channel(Stop::No);
        let running = tokio::spawn(run(listener, certificates, router, stopped));
        Ok(Self { addr, stop, running })
    }

    /// Takes no more connections, finishes requests that run until the deadline, and cuts off the rest.
    pub async fn stop(self, deadline: Duration) {
        let Self { stop, mut running, .. } = self;
        stop.send_replace(Stop::Soon);
        if timeout(deadline, &mut running).await.is_err() {
            stop.send_replace(Stop::Now);
            let _ended = running.await;
        }
    }
}

async fn run(
    listener: TcpListener,
    mut certificates: Option<Certificates>,
    router: Router,
    mut stop: watch::Receiver<Stop>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let stopped = stop.clone();
    let mut look = tokio::time::interval(RELOAD_EVERY);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = reached(&mut stop, Stop::Soon) => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            _ = look.tick(), if certificates.is_some() => {
                if let Some(certificates) = &mut certificates {
                    certificates.reload();
                }
            }
            (place, accepted) = next => match accepted {
                Ok((stream, peer)) => {
                    let (router, stop) = (router.clone(), stopped.clone());
                    let acceptor = certificates.as_ref().map(Certificates::acceptor);
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, peer, acceptor, router, stop).await {
                            tracing::trace!(%error, %peer, "a connection ends");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    tokio::select! {
        () = reached(&mut stop, Stop::Now) => {}
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
    connections.shutdown().await;
}

/// Waits until the end has come so far; a server that is gone is as far as can be.
async fn reached(stop: &mut watch::Receiver<Stop>, so_far: Stop) {
    let _gone = stop.wait_for(|stop| *stop >= so_far).await.map(drop);
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    router: Router,
    stop: watch::Receiver<Stop>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_FOR_AT_MOST_MS)?;
    let Some(acceptor) = acceptor else { return serve(stream, peer, router, stop).await };
    let shaken = timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await;
    serve(shaken.map_err(io::Error::from)??, peer, router, stop).await
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    router: Router,
    mut stop: watch::Receiver<Stop>,
) -> io::Result<()> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    builder.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    let service = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.map(axum::body::Body::new)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        done = &mut connection => return done.map_err(io::Error::other),
        () = reached(&mut stop, Stop::Soon) => connection.as_mut().graceful_shutdown(),
    }
    connection.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
