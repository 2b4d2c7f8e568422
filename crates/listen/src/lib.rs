//! The accept loop of our web servers, HTTP/1.1, plain or in TLS: which connections stay, for how long, and
//! whose requests are answered when there are too many.
//!
//! A connection enters through [`serve`], is counted in `connections`, and its requests leave through the
//! router, which finds the client's address as [`ConnectInfo`] and [`Source`]. Deliberately absent: what is
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

pub use address::{NotASubnet, Subnet};
use connections::{Connections, Phase, Place, Refused};

/// What is sent must be acknowledged within this time, or the connection is closed.
const UNREAD_FOR_AT_MOST_MS: u32 = 30_000;
/// Pause after a connection could not be accepted, as the process or the machine has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Time between two warnings that connections are refused: there can be thousands in a second.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// File descriptors beside those of connections: the database, casts' pipes, and whatever else the process
/// has.
const OTHER_FILES: u64 = 1024;

/// How many connections there may be, and how long each may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address, or from one /64 network of IPv6. Addresses of this machine and
    /// of `trusted_proxies` are not limited.
    pub per_address: usize,
    /// Requests at once that are left to those that are reserved for, see [`Service::reserved`].
    pub reserved: usize,
    /// TLS handshakes at once; more close the oldest.
    pub handshakes: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time until the first byte of the first request.
    pub first_byte: Duration,
    /// Time for a request's head, from its first byte on.
    pub head: Duration,
    /// Time without a request after one was answered.
    pub idle: Duration,
    /// Largest head of a request, in bytes.
    pub head_bytes: usize,
    /// Most headers of a request.
    pub headers: usize,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Subnet>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            // Four addresses are needed to fill all places, and no SDK's pool has as many (Java's usual ones
            // have 50 to 200).
            per_address: 256,
            reserved: 64,
            // A handshake takes less than a millisecond of CPU and two round trips: these are some thousand a
            // second.
            handshakes: 256,
            handshake: Duration::from_secs(10),
            // Clients send at once; a first byte is late when its packet was lost, which is sent again after
            // 1 and 3 s.
            first_byte: Duration::from_secs(5),
            head: Duration::from_secs(10),
            // Longer than proxies keep theirs (nginx and AWS 60 s), so that it is they who close: a request
            // that meets a closing connection is lost.
            idle: Duration::from_secs(75),
            head_bytes: 64 * 1024,
            headers: 100,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Limits {
    /// Whether connections of this address are counted.
    fn counts(&self, peer: IpAddr) -> bool {
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
    pub reserved: fn(&Method, &Uri, bool) -> bool,
}

/// How far the end of a server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// It goes on.
    No,
    /// Requests that run are finished, and no connection is taken.
    Soon,
    /// All connections are closed.
    Now,
}

/// Serves until told to stop. `acceptor` is asked for each connection; none means plain HTTP.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    service: Service,
    mut acceptor: impl FnMut() -> Option<TlsAcceptor>,
    mut stop: watch::Receiver<Stop>,
) {
    allow_files(limits.connections);
    let all = Connections::new(limits);
    let mut running = JoinSet::new();
    let mut warned: Option<Instant> = None;
    let stopped = stop.clone();
    loop {
        tokio::select! {
            () = reached(&mut stop, Stop::Soon) => break,
            Some(_ended) = running.join_next(), if !running.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let tls = acceptor();
                    let phase = if tls.is_some() { Phase::Handshake } else { Phase::Silent };
                    match all.admit(Instant::now(), peer.ip(), phase) {
                        Ok(place) => {
                            let (service, stop) = (service.clone(), stopped.clone());
                            running.spawn(async move {
                                if let Err(error) = connection(stream, peer, tls, place, service, stop).await {
                                    tracing::trace!(%error, %peer, "a connection ends");
                                }
                            });
                        }
                        Err(refused) => warn_of(refused, peer, &mut warned),
                    }
                }
                Err(error) => {
                    // There is no file descriptor left, most likely: one that is needed less makes room.
                    let closed = all.close_one();
                    tracing::warn!(%error, closed, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    tokio::select! {
        () = reached(&mut stop, Stop::Now) => {}
        () = async { while running.join_next().await.is_some() {} } => {}
    }
    running.shutdown().await;
}

fn warn_of(refused: Refused, peer: SocketAddr, warned: &mut Option<Instant>) {
    if warned.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
        return;
    }
    *warned = Some(Instant::now());
    match refused {
        Refused::Address => tracing::warn!(%peer, "connection refused: too many from this address"),
        Refused::Full => tracing::warn!(%peer, "connection refused: too many connections"),
    }
}

/// Lets the process have as many file descriptors as its connections may need, if the system's hard limit
/// permits.
fn allow_files(connections: usize) {
    let wanted = OTHER_FILES + 2 * connections as u64;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let possible = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if current.is_some_and(|current| current < possible)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum })
    {
        tracing::warn!(%error, wanted, "cannot raise the limit of open files");
    }
}

/// Waits until the end has come so far; a server that is gone is as far as can be.
async fn reached(stop: &mut watch::Receiver<Stop>, so_far: Stop) {
    let _gone = stop.wait_for(|stop| *stop >= so_far).await.map(drop);
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    place: Place,
    service: Service,
    stop: watch::Receiver<Stop>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_FOR_AT_MOST_MS)?;
    let ends = Ends { peer, local: stream.local_addr()?.ip() };
    let Some(tls) = tls else { return requests(stream, ends, place, service, stop).await };
    let handshake = place.limits().handshake;
    let stream = tokio::select! {
        shaken = timeout(handshake, tls.accept(stream)) => shaken.map_err(io::Error::from)??,
        () = place.closed() => return Err(stream::closed()),
    };
    place.set(Instant::now(), Phase::Silent);
    requests(stream, ends, place, service, stop).await
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: IpAddr,
}

/// Where a request comes from: an extension of each, beside [`ConnectInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Whoever a trusted proxy names, or else the other end of the connection.
    client: IpAddr,
    local: IpAddr,
}

impl Source {
    /// The client's address, unless it is one of this machine's own.
    #[must_use]
    pub fn elsewhere(&self) -> Option<IpAddr> {
        let client = self.client.to_canonical();
        (!client.is_loopback() && client != self.local.to_canonical()).then_some(client)
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    ends: Ends,
    place: Place,
    service: Service,
    mut stop: watch::Receiver<Stop>,
) -> io::Result<()> {
    let place = Arc::new(place);
    let mut builder = http1::Builder::new();
    let limits = place.limits();
    // Times are kept here: hyper knows one for heads alone.
    builder.header_read_timeout(None).max_buf_size(limits.head_bytes).max_headers(limits.headers);
    let asked = Arc::clone(&place);
    let each = service_fn(move |request| {
        let (service, place) = (service.clone(), Arc::clone(&asked));
        async move { Ok::<_, std::convert::Infallible>(answer(request, ends, place, service).await) }
    });
    let stream = stream::Watched::new(stream, Arc::clone(&place));
    let connection = builder.serve_connection(TokioIo::new(stream), each);
    tokio::pin!(connection);
    let mut timer = stream::Timer::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            done = timer.within(&place, connection.as_mut()) => return done?.map_err(io::Error::other),
            () = place.closed() => return Err(stream::closed()),
            () = reached(&mut stop, Stop::Soon), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    ends: Ends,
    place: Arc<Place>,
    service: Service,
) -> Response<Body> {
    let here = address::is_from_this_machine(ends.peer.ip(), ends.local, request.headers());
    let reserved = (service.reserved)(request.method(), request.uri(), here);
    if !place.begin(Instant::now(), reserved) {
        return too_busy();
    }
    let client = address::client(ends.peer, request.headers(), &place.limits().trusted_proxies);
    let ended = stream::Ended::new(Arc::clone(&place));
    let mut request = request.map(|body| Body::new(stream::Arriving::new(body, place)));
    request.extensions_mut().insert(ConnectInfo(client));
    request.extensions_mut().insert(Source { client: client.ip(), local: ends.local });
    let answered = service.router.oneshot(request).await;
    let response = answered.unwrap_or_else(|never| match never {});
    response.map(|body| Body::new(stream::Leaving::new(body, ended)))
}

/// All places for requests are taken. Told without a look at the request's body.
fn too_busy() -> Response<Body> {
    let mut response = Response::new(Body::from("too many requests at once: try again\n"));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests;
