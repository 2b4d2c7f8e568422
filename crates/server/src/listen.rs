//! The service's listener for the APIs and the rooms: HTTP/1.1, plain or over TLS. [`pagecast_listen`] limits
//! its connections and the time for handshakes and request heads; [`crate::route`] limits request bodies.

mod tls;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, Uri};
pub use pagecast_listen::Limits;
use pagecast_listen::{Service, ShutdownPhase, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::config;
use tls::Certificates;

pub use tls::TlsError;
pub(crate) use tls::validate as validate_tls;

/// Largest head of a request, in bytes: room for a signed query of 32 KiB, which Tencent allows, and headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most headers of a request: several times as many as the vendors' SDKs send.
const MAX_HEADERS: usize = 100;
/// Minimum time between two checks of the certificate files for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Why the listener cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The certificate or its key is invalid.
    #[error("cannot load the TLS certificate")]
    Tls(#[from] TlsError),
}

/// A listener that is bound and accepts connections, which wait until [`Self::serve`].
#[derive(Debug)]
pub struct Listener {
    /// Its bound address.
    pub addr: SocketAddr,
    listener: TcpListener,
    certificates: Option<Certificates>,
}

impl Listener {
    /// Binds an address and loads the certificate.
    ///
    /// # Errors
    /// The address cannot be bound, or the certificate is invalid.
    pub async fn bind(listen: SocketAddr, tls: Option<&config::Tls>) -> Result<Self, Error> {
        let certificates = tls.map(|tls| Certificates::load(tls.clone())).transpose()?;
        let bind = |error| Error::Bind(listen, error);
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let addr = listener.local_addr().map_err(bind)?;
        Ok(Self { addr, listener, certificates })
    }

    /// Base URL of the listener.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Serves this router. Handlers get the client's address as [`axum::extract::ConnectInfo`].
    #[must_use]
    pub fn serve(self, limits: Limits, router: Router) -> Server {
        let Self { addr, listener, mut certificates } = self;
        let (stop, stopped) = watch::channel(ShutdownPhase::Running);
        let limits = Limits { max_head_bytes: MAX_HEAD_BYTES, max_headers: MAX_HEADERS, ..limits };
        let service = Service { router, is_reserved: is_health };
        let mut last_check = Instant::now();
        let acceptor = move || {
            let certificates = certificates.as_mut()?;
            if last_check.elapsed() >= RELOAD_INTERVAL {
                last_check = Instant::now();
                certificates.reload();
            }
            Some(certificates.acceptor())
        };
        let running = tokio::spawn(serve(listener, limits, service, acceptor, stopped));
        Server { addr, stop, running }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Its bound address.
    pub addr: SocketAddr,
    stop: watch::Sender<ShutdownPhase>,
    running: JoinHandle<()>,
}

impl Server {
    /// Accepts no more connections, lets running requests finish within `deadline`, and aborts the rest.
    pub async fn stop(self, deadline: Duration) {
        let Self { stop, mut running, .. } = self;
        stop.send_replace(ShutdownPhase::Draining);
        if timeout(deadline, &mut running).await.is_err() {
            stop.send_replace(ShutdownPhase::Closed);
            let _ended = running.await;
        }
    }
}

/// Whether a request is a health check. Health checks get a reserved connection, from any address, so that an
/// orchestrator does not kill a service that is merely busy.
fn is_health(method: &Method, uri: &Uri, _is_local: bool) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && matches!(uri.path(), "/healthz" | "/readyz")
}

#[cfg(test)]
mod tests;
