//! The page's only way to the network: a SOCKS5 proxy (RFC 1928) that resolves names itself and connects to
//! the very address that it has checked.
//!
//! SOCKS and not HTTP, because then `http`, `https`, `ws` and `wss` are all the same: the browser says a name
//! and a port, and all that follows is bytes that nobody here reads.

mod client;
mod connect;
mod failures;
mod interfaces;
mod resolve;
mod socks;
mod tunnel;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

pub use client::AllowedClients;
pub use failures::{ConnectError, DeniedTarget};
pub(crate) use failures::{ConnectionFailures, FailedTarget};
pub(crate) use resolve::is_localhost_name;
pub use resolve::{Resolve, SystemResolver};

/// Tunnels at once. Full: a client is told that it cannot be served. Chromium has up to 256 connections and
/// as many WebSockets.
const MAX_TUNNELS: usize = 512;
/// Tunnels at once where the process may hardly open files.
const MIN_TUNNELS: usize = 64;
/// Clients at once that are told so. Full: they are hung up on.
const MAX_REJECTED_CLIENTS: usize = 64;
/// Open files that a cast has beside its tunnels: a page must not take the last one from the recording.
const RESERVED_FILES: u64 = 512;
/// Threads that ask name servers. Full: names wait for their turn.
const MAX_RESOLVER_THREADS: usize = 8;
/// How long a thread that asks name servers is kept without work.
const RESOLVER_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a name server is waited for at the end. A thread that still asks then ends when it has its
/// answer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause when no connection can be accepted, as when the process has no file descriptor left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// What a guard needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// What may be reached.
    pub network: NetworkPolicy,
    /// Who knows addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Who may connect.
    pub allowed_clients: AllowedClients,
}

impl Config {
    /// A guard that asks this machine's resolver, and takes anybody on this machine for its client.
    #[must_use]
    pub fn new(network: NetworkPolicy) -> Self {
        Self { network, resolver: Arc::new(SystemResolver), allowed_clients: AllowedClients::Any }
    }
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No port of 127.0.0.1 can be had.
    #[error("cannot listen on 127.0.0.1 for the browser's connections")]
    Listen(#[source] io::Error),
    /// Its thread cannot be started.
    #[error("cannot start the guard thread")]
    Thread(#[source] io::Error),
}

/// A running guard. When it is dropped, all its connections end.
#[derive(Debug)]
pub struct EgressProxy {
    address: SocketAddr,
    failures: Arc<ConnectionFailures>,
    /// The thread ends when this is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EgressProxy {
    /// Listens on a free port of 127.0.0.1, with the thread `guard`.
    ///
    /// # Errors
    /// See [`ErrorBody`].
    pub fn start(config: Config) -> Result<Self, Error> {
        let tunnels = tunnel_limit();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_RESOLVER_THREADS)
            .thread_keep_alive(RESOLVER_IDLE_TIMEOUT)
            .thread_name("guard-resolve")
            .build()
            .map_err(Error::Thread)?;
        let listener =
            runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        let journal = Arc::new(ConnectionFailures::default());
        let Config { network, resolver, allowed_clients: clients } = config;
        let shared = Arc::new(Shared {
            network,
            resolver,
            allowed_clients: clients,
            resolve_permits: Arc::new(Semaphore::new(MAX_RESOLVER_THREADS)),
            failures: Arc::clone(&journal),
            address,
            own_addresses: interfaces::addresses(),
        });
        let (stop, stopped) = oneshot::channel();
        let places = Arc::new(Semaphore::new(tunnels));
        let run = move || {
            runtime.block_on(serve(listener, shared, places, stopped));
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        };
        let thread = std::thread::Builder::new().name("guard".into()).spawn(run).map_err(Error::Thread)?;
        Ok(Self { address, failures: journal, stop: Some(stop), thread: Some(thread) })
    }

    /// Where the browser finds it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the page wanted to go and may not, the last 100 places, latest last.
    #[must_use]
    pub fn denied_targets(&self) -> Vec<DeniedTarget> {
        self.failures.denied_targets()
    }

    /// Why the last connection to `host` and `port` that was not made was not; `None` if all were.
    #[must_use]
    pub fn last_error(&self, host: &str, port: u16) -> Option<ConnectError> {
        self.failures.last_error(host, port)
    }

    pub(crate) fn failures(&self) -> Arc<ConnectionFailures> {
        Arc::clone(&self.failures)
    }
}

impl Drop for EgressProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the guard thread panicked");
        }
    }
}

/// What all connections need.
#[derive(Debug)]
struct Shared {
    network: NetworkPolicy,
    resolver: Arc<dyn Resolve>,
    allowed_clients: AllowedClients,
    /// A place for each question that may be asked at a time.
    resolve_permits: Arc<Semaphore>,
    failures: Arc<ConnectionFailures>,
    address: SocketAddr,
    /// Of this machine.
    own_addresses: HashSet<IpAddr>,
}

impl Shared {
    fn permits(&self, host: &str, address: IpAddr, port: u16) -> Result<(), NetworkRefusal> {
        // No rule lets a page talk to its guard.
        let canonical = address.to_canonical();
        if port == self.address.port() && (canonical.is_loopback() || canonical.is_unspecified()) {
            return Err(NetworkRefusal::Denied);
        }
        self.network.permits(&self.own_addresses, host, address, port)
    }
}

async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut clients = JoinSet::new();
    let mut warned = false;
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(ended) = clients.join_next() => {
                if ended.is_err_and(|e| e.is_panic()) {
                    tracing::error!("a tunnel of the guard panicked");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    if shared.allowed_clients.allows(peer, shared.address) {
                        spawn_tunnel(client, &shared, &places, &mut clients);
                    } else {
                        tracing::debug!(%peer, "a connection to the guard was closed: it is not the browser's");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(%error, "the guard cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
    clients.shutdown().await;
}

fn spawn_tunnel(client: TcpStream, shared: &Arc<Shared>, places: &Arc<Semaphore>, clients: &mut JoinSet<()>) {
    let place = Arc::clone(places).try_acquire_owned().ok();
    if place.is_some() || clients.len() < MAX_TUNNELS + MAX_REJECTED_CLIENTS {
        clients.spawn(tunnel::run(client, Arc::clone(shared), place));
    }
}

/// How many tunnels the process has open files for: two each. Many systems give it 1024 but let it have more.
fn tunnel_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = 2 * MAX_TUNNELS as u64 + RESERVED_FILES;
    let mut files = current.unwrap_or(wanted);
    if files < wanted {
        let more = maximum.map_or(wanted, |most| most.min(wanted));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum }).is_ok() {
            files = more;
        }
    }
    let tunnels = usize::try_from(files.saturating_sub(RESERVED_FILES) / 2).unwrap_or(MAX_TUNNELS);
    tunnels.clamp(MIN_TUNNELS, MAX_TUNNELS)
}
