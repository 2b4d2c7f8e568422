//! The accept loop of our web servers, HTTP/1.1, plain or in TLS: which connections stay, for how long, and
//! whose requests are answered when there are too many.
//!
//! A connection enters through [`serve`], is counted in `connections`, and its requests leave through the
//! router, which finds the client's address as [`ConnectInfo`] and [`RequestSource`]. Deliberately absent: what is
//! served, certificates, and how long a request's body may take.

mod address;
mod connections;
mod stream;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

pub use address::{ParseSubnetError, Subnet};
use connections::{ConnectionSlot, Connections, Phase, Rejection};

/// What is sent must be acknowledged within this time, or the connection is closed.
const TCP_USER_TIMEOUT_MS: u32 = 30_000;
/// Pause after a connection could not be accepted, as the process or the machine has no file descriptor left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(20);
/// Time between two warnings that connections are refused: there can be thousands in a second.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// File descriptors beside those of connections: the database, casts' pipes, and whatever else the process
/// has.
const OTHER_FDS: u64 = 1024;

/// How many connections there may be, and how long each may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address, or from one /64 network of IPv6. Addresses of this machine and
    /// of `trusted_proxies` are not limited.
    pub max_connections_per_address: usize,
    /// Requests at once that are left to those that are reserved for, see [`Service::is_reserved`].
    pub reserved_requests: usize,
    /// TLS handshakes at once; more close the oldest.
    pub max_handshakes: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time until the first byte of the first request.
    pub first_byte_timeout: Duration,
    /// Time for a request's head, from its first byte on.
    pub header_timeout: Duration,
    /// Time without a request after one was answered.
    pub idle_timeout: Duration,
    /// Largest head of a request, in bytes.
    pub max_head_bytes: usize,
    /// Most headers of a request.
    pub max_headers: usize,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Subnet>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            // Four addresses are needed to fill all places, and no SDK's pool has as many (Java's usual ones
            // have 50 to 200).
            max_connections_per_address: 256,
            reserved_requests: 64,
            // A handshake takes less than a millisecond of CPU and two round trips: these are some thousand a
            // second.
            max_handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            // Clients send at once; a first byte is late when its packet was lost, which is sent again after
            // 1 and 3 s.
            first_byte_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            // Longer than proxies keep theirs (nginx and AWS 60 s), so that it is they who close: a request
            // that meets a closing connection is lost.
            idle_timeout: Duration::from_secs(75),
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Limits {
    /// Whether connections of this address are counted.
    fn applies_to(&self, peer: IpAddr) -> bool {
        !peer.to_canonical().is_loopback() && !self.trusted_proxies.iter().any(|net| net.contains(peer))
    }
}

/// What is served.
#[derive(Debug, Clone)]
pub struct Service {
    /// Answers requests.
    pub router: Router,
    /// Whether a request may use the places that are reserved, by what it asks for and whether it comes from
    /// this machine.
    pub is_reserved: fn(&Method, &Uri, bool) -> bool,
}

/// How far the end of a server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownPhase {
    /// It goes on.
    Running,
    /// Requests that run are finished, and no connection is taken.
    Draining,
    /// All connections are closed.
    Closed,
}

/// Serves until told to stop. `acceptor` is asked for each connection; none means plain HTTP.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    service: Service,
    mut acceptor: impl FnMut() -> Option<TlsAcceptor>,
    mut stop: watch::Receiver<ShutdownPhase>,
) {
    raise_fd_limit(limits.max_connections);
    let all = Connections::new(limits);
    let mut running = JoinSet::new();
    let mut warned: Option<Instant> = None;
    let stopped = stop.clone();
    loop {
        tokio::select! {
            () = wait_for_phase(&mut stop, ShutdownPhase::Draining) => break,
            Some(_ended) = running.join_next(), if !running.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let tls = acceptor();
                    let phase = if tls.is_some() { Phase::Handshake } else { Phase::AwaitingFirstByte };
                    match all.admit(Instant::now(), peer.ip(), phase) {
                        Ok(place) => {
                            let (service, stop) = (service.clone(), stopped.clone());
                            running.spawn(async move {
                                if let Err(error) = handle_connection(stream, peer, tls, place, service, stop).await {
                                    tracing::trace!(%error, %peer, "a connection ends");
                                }
                            });
                        }
                        Err(refused) => warn_rejected(refused, peer, &mut warned),
                    }
                }
                Err(error) => {
                    // There is no file descriptor left, most likely: one that is needed less makes room.
                    let closed = all.evict_one();
                    tracing::warn!(%error, closed, "cannot accept a connection");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
        }
    }
    drop(listener);
    tokio::select! {
        () = wait_for_phase(&mut stop, ShutdownPhase::Closed) => {}
        () = async { while running.join_next().await.is_some() {} } => {}
    }
    running.shutdown().await;
}

fn warn_rejected(refused: Rejection, peer: SocketAddr, warned: &mut Option<Instant>) {
    if warned.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
        return;
    }
    *warned = Some(Instant::now());
    match refused {
        Rejection::PerAddressLimit => tracing::warn!(%peer, "connection refused: too many from this address"),
        Rejection::ConnectionLimit => tracing::warn!(%peer, "connection refused: too many connections"),
    }
}

/// Lets the process have as many file descriptors as its connections may need, if the system's hard limit
/// permits.
fn raise_fd_limit(connections: usize) {
    let wanted = OTHER_FDS + 2 * connections as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let possible = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if current.is_some_and(|current| current < possible)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum })
    {
        tracing::warn!(%error, wanted, "cannot raise the limit of open files");
    }
}

/// Waits until the end has come so far; a server that is gone is as far as can be.
async fn wait_for_phase(stop: &mut watch::Receiver<ShutdownPhase>, so_far: ShutdownPhase) {
    let _gone = stop.wait_for(|stop| *stop >= so_far).await.map(drop);
}

async fn handle_connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    place: ConnectionSlot,
    service: Service,
    stop: watch::Receiver<ShutdownPhase>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, TCP_USER_TIMEOUT_MS)?;
    let ends = ConnectionAddresses { peer, local: stream.local_addr()?.ip() };
    let Some(tls) = tls else { return serve_requests(stream, ends, place, service, stop).await };
    let handshake = place.limits().handshake_timeout;
    let stream = tokio::select! {
        shaken = timeout(handshake, tls.accept(stream)) => shaken.map_err(io::Error::from)??,
        () = place.wait_until_evicted() => return Err(stream::evicted_error()),
    };
    place.set_phase(Instant::now(), Phase::AwaitingFirstByte);
    serve_requests(stream, ends, place, service, stop).await
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
struct ConnectionAddresses {
    peer: SocketAddr,
    local: IpAddr,
}

/// Where a request comes from: an extension of each, beside [`ConnectInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSource {
    /// Whoever a trusted proxy names, or else the other end of the connection.
    client: IpAddr,
    local: IpAddr,
}

impl RequestSource {
    /// The client's address, unless it is one of this machine's own.
    #[must_use]
    pub fn non_local_ip(&self) -> Option<IpAddr> {
        let client = self.client.to_canonical();
        (!client.is_loopback() && client != self.local.to_canonical()).then_some(client)
    }
}

async fn serve_requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    ends: ConnectionAddresses,
    place: ConnectionSlot,
    service: Service,
    mut stop: watch::Receiver<ShutdownPhase>,
) -> io::Result<()> {
    let place = Arc::new(place);
    let mut builder = http1::Builder::new();
    let limits = place.limits();
    // Times are kept here: hyper knows one for heads alone.
    builder.header_read_timeout(None).max_buf_size(limits.max_head_bytes).max_headers(limits.max_headers);
    let asked = Arc::clone(&place);
    let each = service_fn(move |request| {
        let (service, place) = (service.clone(), Arc::clone(&asked));
        async move { Ok::<_, std::convert::Infallible>(handle_request(request, ends, place, service).await) }
    });
    let stream = stream::TrackedStream::new(stream, Arc::clone(&place));
    let connection = builder.serve_connection(TokioIo::new(stream), each);
    tokio::pin!(connection);
    let mut timer = stream::PhaseTimer::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            done = timer.run_until_timeout(&place, connection.as_mut()) => return done?.map_err(io::Error::other),
            () = place.wait_until_evicted() => return Err(stream::evicted_error()),
            () = wait_for_phase(&mut stop, ShutdownPhase::Draining), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn handle_request(
    request: Request<Incoming>,
    ends: ConnectionAddresses,
    place: Arc<ConnectionSlot>,
    service: Service,
) -> Response<Body> {
    let here = address::is_local_request(ends.peer.ip(), ends.local, request.headers());
    let reserved = (service.is_reserved)(request.method(), request.uri(), here);
    if !place.try_begin_request(Instant::now(), reserved) {
        return service_unavailable();
    }
    let client = address::client_address(ends.peer, request.headers(), &place.limits().trusted_proxies);
    let ended = stream::RequestGuard::new(Arc::clone(&place));
    let mut request = request.map(|body| Body::new(stream::RequestBody::new(body, place)));
    request.extensions_mut().insert(ConnectInfo(client));
    request.extensions_mut().insert(RequestSource { client: client.ip(), local: ends.local });
    let answered = service.router.oneshot(request).await;
    let response = answered.unwrap_or_else(|never| match never {});
    response.map(|body| Body::new(stream::ResponseBody::new(body, ended)))
}

/// All places for requests are taken. Told without a look at the request's body.
fn service_unavailable() -> Response<Body> {
    let mut response = Response::new(Body::from("too many requests at once: try again\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests;
