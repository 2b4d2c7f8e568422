//! Accept loop of the HTTP/1.1 servers, with or without TLS: limits and timeouts of connections, and the
//! choice of requests to answer under overload.
//!
//! Begin with [`serve`]: each connection is counted in `connections`, and its requests go to the router, with
//! the client's address as extensions [`ConnectInfo`] and [`RequestSource`].
//!
//! Deliberately absent: content, certificates, and timeouts of request bodies.

mod address;
mod connections;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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

pub use address::{ParseSubnetError, Subnet, is_for_localhost, is_forwarded};
use connections::{ConnectionSlot, Connections, Phase, Rejection};

/// Longest time for the peer to acknowledge sent data, in milliseconds, before the kernel closes the
/// connection: enough for a change of mobile networks.
const TCP_USER_TIMEOUT_MS: u32 = 30_000;
/// Delay after a failed accept, usually for lack of file descriptors, so that the loop does not spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(20);
/// Interval of warnings about refused connections, of which there can be thousands per second.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// File descriptors needed besides those of connections: database, pipes of casts, and files.
const OTHER_FDS: u64 = 1024;

/// Limits and timeouts of a listener's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of connections.
    pub max_connections: usize,
    /// Maximum number of connections from one IPv4 address or one /64 network of IPv6. Loopback addresses and
    /// `trusted_proxies` are not limited.
    pub max_connections_per_address: usize,
    /// Number of concurrent requests reserved for those that [`Service::is_reserved`] selects.
    pub reserved_requests: usize,
    /// Maximum number of event streams ([`EventStream`]), beside the other limits. Further ones count as
    /// ordinary requests.
    pub max_event_streams: usize,
    /// Maximum number of concurrent TLS handshakes; beyond it, the oldest is closed.
    pub max_handshakes: usize,
    /// Longest time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Longest time until the first byte of the first request.
    pub first_byte_timeout: Duration,
    /// Longest time for a request's head, from its first byte.
    pub header_timeout: Duration,
    /// Longest idle time after a response.
    pub idle_timeout: Duration,
    /// Maximum size of a request's head, in bytes.
    pub max_head_bytes: usize,
    /// Maximum number of headers of a request.
    pub max_headers: usize,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<Subnet>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            // It takes four addresses to use all connections, and pools of SDKs are smaller (Java's common
            // ones have 50 to 200).
            max_connections_per_address: 256,
            reserved_requests: 64,
            max_event_streams: 0,
            // A handshake takes less than a millisecond of CPU and two round trips, so this allows some
            // thousand per second.
            max_handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            // Clients send at once; if the first packet is lost, it is retransmitted after 1 and 3 s.
            first_byte_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            // Longer than proxies keep idle connections (nginx and AWS: 60 s), so that the proxy closes
            // first: a request on a connection that we just closed is lost.
            idle_timeout: Duration::from_secs(75),
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Limits {
    /// Whether connections from this address are limited.
    fn applies_to(&self, peer: IpAddr) -> bool {
        !peer.to_canonical().is_loopback() && !self.trusted_proxies.iter().any(|net| net.contains(peer))
    }
}

/// Service of a listener.
#[derive(Debug, Clone)]
pub struct Service {
    /// Router that answers requests.
    pub router: Router,
    /// Whether a request may use the reserved places, by its method, its URI, and whether it comes from this
    /// machine.
    pub is_reserved: fn(&Method, &Uri, bool) -> bool,
}

/// Marks a response, as one of its extensions, as an event stream whose client decides how long it lasts. Up
/// to [`Limits::max_event_streams`] of them count towards no other limit, so that however many clients follow
/// events, they keep no connection and no request of others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventStream;

/// Progress of a server's shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShutdownPhase {
    /// The server is running.
    Running,
    /// Running requests are finished, and no connection is accepted.
    Draining,
    /// All connections are closed at once.
    Closed,
}

/// Serves connections until `stop` changes. `acceptor` is called for each connection; `None` means plain
/// HTTP.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    service: Service,
    mut acceptor: impl FnMut() -> Option<TlsAcceptor>,
    mut stop: watch::Receiver<ShutdownPhase>,
) {
    raise_fd_limit(limits.max_connections.saturating_add(limits.max_event_streams));
    let connections = Connections::new(limits);
    let mut running = JoinSet::new();
    let mut last_warning: Option<Instant> = None;
    let stop_receiver = stop.clone();
    loop {
        tokio::select! {
            () = wait_for_phase(&mut stop, ShutdownPhase::Draining) => break,
            Some(_ended) = running.join_next(), if !running.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let tls = acceptor();
                    let phase = if tls.is_some() { Phase::Handshake } else { Phase::AwaitingFirstByte };
                    match connections.admit(Instant::now(), peer.ip(), phase) {
                        Ok(slot) => {
                            let (service, stop) = (service.clone(), stop_receiver.clone());
                            running.spawn(async move {
                                if let Err(error) = handle_connection(stream, peer, tls, slot, service,
                                stop).await {
                                    tracing::trace!(%error, %peer, "connection closed");
                                }
                            });
                        }
                        Err(rejection) => warn_rejected(rejection, peer, &mut last_warning),
                    }
                }
                Err(error) => {
                    // Most likely no file descriptor is left: free one.
                    let evicted = connections.evict_one();
                    tracing::warn!(%error, evicted, "accepting a connection failed");
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

fn warn_rejected(rejection: Rejection, peer: SocketAddr, last_warning: &mut Option<Instant>) {
    if last_warning.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
        return;
    }
    *last_warning = Some(Instant::now());
    match rejection {
        Rejection::PerAddressLimit => tracing::warn!(%peer, "connection refused: too many from this address"),
        Rejection::ConnectionLimit => tracing::warn!(%peer, "connection refused: too many connections"),
    }
}

/// Raises the limit of open files to what the connections may need, within the system's hard limit.
fn raise_fd_limit(connections: usize) {
    let needed = OTHER_FDS + 2 * connections as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let possible = maximum.map_or(needed, |maximum| needed.min(maximum));
    if current.is_some_and(|current| current < possible)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum })
    {
        tracing::warn!(%error, needed, "raising the open file limit failed");
    }
}

/// Waits until the shutdown reaches this phase, or its sender is gone.
async fn wait_for_phase(stop: &mut watch::Receiver<ShutdownPhase>, phase: ShutdownPhase) {
    let _sender_is_gone = stop.wait_for(|stop| *stop >= phase).await.map(drop);
}

async fn handle_connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    slot: ConnectionSlot,
    service: Service,
    stop: watch::Receiver<ShutdownPhase>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, TCP_USER_TIMEOUT_MS)?;
    let ends = ConnectionAddresses { peer, local: stream.local_addr()?.ip() };
    let Some(tls) = tls else { return serve_requests(stream, ends, slot, service, stop).await };
    let handshake = slot.limits().handshake_timeout;
    let stream = tokio::select! {
        accepted = timeout(handshake, tls.accept(stream)) => accepted.map_err(io::Error::from)??,
        () = slot.wait_until_evicted() => return Err(stream::evicted_error()),
    };
    slot.set_phase(Instant::now(), Phase::AwaitingFirstByte);
    serve_requests(stream, ends, slot, service, stop).await
}

/// Addresses of both ends of a connection.
#[derive(Debug, Clone, Copy)]
struct ConnectionAddresses {
    peer: SocketAddr,
    local: IpAddr,
}

/// Source of a request: an extension of each request, besides [`ConnectInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSource {
    /// Client that trusted proxies report, or else the peer of the connection.
    client: IpAddr,
    local: IpAddr,
}

impl RequestSource {
    /// Source of a request that another server received from this client and passed on. `None` is a client on
    /// that server's own machine.
    #[must_use]
    pub fn forwarded(client: Option<IpAddr>) -> Self {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { client: client.unwrap_or(local), local }
    }

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
    slot: ConnectionSlot,
    service: Service,
    mut stop: watch::Receiver<ShutdownPhase>,
) -> io::Result<()> {
    let slot = Arc::new(slot);
    let mut builder = http1::Builder::new();
    let limits = slot.limits();
    // [`stream::PhaseTimer`] keeps all timeouts; hyper has one for heads only.
    builder.header_read_timeout(None).max_buf_size(limits.max_head_bytes).max_headers(limits.max_headers);
    let request_slot = Arc::clone(&slot);
    let each = service_fn(move |request| {
        let (service, slot) = (service.clone(), Arc::clone(&request_slot));
        async move { Ok::<_, std::convert::Infallible>(handle_request(request, ends, slot, service).await) }
    });
    let stream = stream::TrackedStream::new(stream, Arc::clone(&slot));
    let connection = builder.serve_connection(TokioIo::new(stream), each);
    tokio::pin!(connection);
    let mut timer = stream::PhaseTimer::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            done = timer.run_until_timeout(&slot, connection.as_mut(
            )) => return done?.map_err(io::Error::other),
            () = slot.wait_until_evicted() => return Err(stream::evicted_error()),
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
    slot: Arc<ConnectionSlot>,
    service: Service,
) -> Response<Body> {
    let is_local = address::is_local_request(ends.peer.ip(), ends.local, request.headers());
    let reserved = (service.is_reserved)(request.method(), request.uri(), is_local);
    if !slot.try_begin_request(Instant::now(), reserved) {
        return service_unavailable();
    }
    let client = address::client_address(ends.peer, request.headers(), &slot.limits().trusted_proxies);
    let guard = stream::RequestGuard::new(Arc::clone(&slot));
    let body_slot = Arc::clone(&slot);
    let mut request = request.map(|body| Body::new(stream::RequestBody::new(body, body_slot)));
    request.extensions_mut().insert(ConnectInfo(client));
    request.extensions_mut().insert(RequestSource { client: client.ip(), local: ends.local });
    let result = service.router.oneshot(request).await;
    let mut response = result.unwrap_or_else(|never| match never {});
    if response.extensions_mut().remove::<EventStream>().is_some() {
        slot.begin_event_stream(Instant::now());
    }
    response.map(|body| Body::new(stream::ResponseBody::new(body, guard)))
}

/// Response to a request for which no place is left, sent without reading the request's body.
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
