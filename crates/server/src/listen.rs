//! The listener of all APIs: HTTP/1.1, plain or in TLS. [`pagecast_listen`] bounds its connections, and the
//! time for a handshake and for a request's head; what a request's body may be is up to [`crate::route`].

mod tls;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Uri};
use pagecast_listen::{Limits, Service, ShutdownPhase, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::config;
use tls::Certificates;

pub(crate) use tls::validate as check_tls;

/// Largest head of a request, in bytes, and most headers: a signed query of 32 KiB, as Tencent allows, and
/// the SDKs' headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
/// How often the files of the certificate are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

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
    stop: watch::Sender<ShutdownPhase>,
    running: JoinHandle<()>,
}

impl Server {
    /// Listens, and answers by this router, which finds the client's address as
    /// [`axum::extract::ConnectInfo`].
    ///
    /// # Errors
    /// The address is taken, or the certificate cannot be used.
    pub async fn start(
        listen: SocketAddr,
        tls: Option<&config::Tls>,
        limits: &config::Limits,
        router: Router,
    ) -> Result<Self, Error> {
        let certificates = tls.map(|tls| Certificates::load(tls.clone())).transpose().map_err(Error::Tls)?;
        let bind = |error| Error::Bind(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        let (stop, stopped) = watch::channel(ShutdownPhase::Running);
        let limits =
            Limits { max_head_bytes: MAX_HEAD_BYTES, max_headers: MAX_HEADERS, ..limits.listener_limits() };
        let service = Service { router, is_reserved: is_health };
        let mut looked = Instant::now();
        let mut certificates = certificates;
        let acceptor = move || {
            let certificates = certificates.as_mut()?;
            if looked.elapsed() >= RELOAD_INTERVAL {
                looked = Instant::now();
                certificates.reload();
            }
            Some(certificates.acceptor())
        };
        let running = tokio::spawn(serve(listener, limits, service, acceptor, stopped));
        Ok(Self { addr, stop, running })
    }

    /// Takes no more connections, finishes requests that run until the deadline, and cuts off the rest.
    pub async fn stop(self, deadline: Duration) {
        let Self { stop, mut running, .. } = self;
        stop.send_replace(ShutdownPhase::Draining);
        if timeout(deadline, &mut running).await.is_err() {
            stop.send_replace(ShutdownPhase::Closed);
            let _ended = running.await;
        }
    }
}

/// Whether whoever watches over the service asks for its health: they may come from anywhere, and are
/// answered at once.
fn is_health(method: &Method, uri: &Uri, _from_here: bool) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && matches!(uri.path(), "/healthz" | "/readyz")
}

#[cfg(test)]
mod tests;
