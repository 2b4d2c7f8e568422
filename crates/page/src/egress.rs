//! The page's only way to the network: a SOCKS5 proxy (RFC 1928) that resolves names itself and connects only
//! to addresses that it has checked.
//!
//! SOCKS rather than HTTP, because it treats `http`, `https`, `ws` and `wss` alike: the browser sends a name
//! and a port, and the proxy relays all bytes that follow without reading them.

mod client;
mod connect;
mod failures;
mod socks;
mod tunnel;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal};
use pagecast_egress::{Resolve, SystemResolver, local_addresses};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

pub use client::AllowedClients;
pub use failures::{ConnectError, DeniedTarget};
pub(crate) use failures::{ConnectionFailures, FailedTarget};

/// Most tunnels at a time: Chromium has up to 256 connections and as many WebSockets. When full, further
/// clients get an error reply.
const MAX_TUNNELS: usize = 512;
/// Most tunnels at a time where the limit of open files is low.
const MIN_TUNNELS: usize = 64;
/// Most clients at a time that wait for such an error reply. When full, connections are closed.
const MAX_REJECTED_CLIENTS: usize = 64;
/// Open files that are left for the rest of the cast: a page must not take the last one from the recording.
const RESERVED_FILES: u64 = 512;
/// Most lookups at a time, each on a thread. When full, lookups wait.
const MAX_RESOLVER_THREADS: usize = 8;
/// How long an idle lookup thread is kept.
const RESOLVER_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long shutdown waits for running lookups. A thread with a slower one ends when its lookup does.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause after a failed accept, for example when the process has no file descriptor left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Configuration of an [`EgressProxy`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Which addresses the page may reach.
    pub network: NetworkPolicy,
    /// Looks up names.
    pub resolver: Arc<dyn Resolve>,
    /// Which processes may connect to the proxy.
    pub allowed_clients: AllowedClients,
}

impl Config {
    /// A configuration with the resolver of this machine, for any client on this machine.
    #[must_use]
    pub fn new(network: NetworkPolicy) -> Self {
        Self { network, resolver: Arc::new(SystemResolver), allowed_clients: AllowedClients::Any }
    }
}

/// Why the egress proxy cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No port of 127.0.0.1 is available.
    #[error("cannot listen on 127.0.0.1 for the browser's connections")]
    Listen(#[source] io::Error),
    /// Its thread cannot be started.
    #[error("cannot start the egress proxy thread")]
    Thread(#[source] io::Error),
}

/// A running proxy. Dropping it ends all its connections.
#[derive(Debug)]
pub struct EgressProxy {
    address: SocketAddr,
    failures: Arc<ConnectionFailures>,
    /// Stops the thread when dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EgressProxy {
    /// Listens on a free port of 127.0.0.1, on the thread `egress`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(config: Config) -> Result<Self, Error> {
        let tunnels = tunnel_limit();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(MAX_RESOLVER_THREADS)
            .thread_keep_alive(RESOLVER_IDLE_TIMEOUT)
            .thread_name("egress-resolve")
            .build()
            .map_err(Error::Thread)?;
        let listener =
            runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).map_err(Error::Listen)?;
        let address = listener.local_addr().map_err(Error::Listen)?;
        let failures = Arc::new(ConnectionFailures::default());
        let Config { network, resolver, allowed_clients } = config;
        let shared = Arc::new(Shared {
            network,
            resolver,
            allowed_clients,
            resolve_permits: Arc::new(Semaphore::new(MAX_RESOLVER_THREADS)),
            failures: Arc::clone(&failures),
            address,
            own_addresses: local_addresses(),
        });
        let (stop, stopped) = oneshot::channel();
        let permits = Arc::new(Semaphore::new(tunnels));
        let run = move || {
            runtime.block_on(serve(listener, shared, permits, stopped));
            runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        };
        let thread = std::thread::Builder::new().name("egress".into()).spawn(run).map_err(Error::Thread)?;
        Ok(Self { address, failures, stop: Some(stop), thread: Some(thread) })
    }

    /// Address that the proxy listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The last 100 targets that the policy denied to the page, latest last.
    #[must_use]
    pub fn denied_targets(&self) -> Vec<DeniedTarget> {
        self.failures.denied_targets()
    }

    /// The last error of a connection to `host` and `port`; `None` if all succeeded.
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
            tracing::error!("egress thread panicked");
        }
    }
}

/// State that all connections share.
#[derive(Debug)]
struct Shared {
    network: NetworkPolicy,
    resolver: Arc<dyn Resolve>,
    allowed_clients: AllowedClients,
    /// One permit for each lookup at a time.
    resolve_permits: Arc<Semaphore>,
    failures: Arc<ConnectionFailures>,
    address: SocketAddr,
    /// Addresses of this machine, read at the start.
    own_addresses: HashSet<IpAddr>,
}

impl Shared {
    fn permits(&self, host: &str, address: IpAddr, port: u16) -> Result<(), NetworkRefusal> {
        // No rule permits connections to the proxy itself.
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
    permits: Arc<Semaphore>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut clients = JoinSet::new();
    let mut warned = false;
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(ended) = clients.join_next() => {
                if ended.is_err_and(|e| e.is_panic()) {
                    tracing::error!("egress tunnel panicked");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    if shared.allowed_clients.allows(peer, shared.address) {
                        spawn_tunnel(client, &shared, &permits, &mut clients);
                    } else {
                        tracing::debug!(%peer, reason = "not the browser", "egress client refused");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(%error, "egress accept failed");
                    }
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }
    clients.shutdown().await;
}

fn spawn_tunnel(
    client: TcpStream,
    shared: &Arc<Shared>,
    permits: &Arc<Semaphore>,
    clients: &mut JoinSet<()>,
) {
    let permit = Arc::clone(permits).try_acquire_owned().ok();
    if permit.is_some() || clients.len() < MAX_TUNNELS + MAX_REJECTED_CLIENTS {
        clients.spawn(tunnel::run(client, Arc::clone(shared), permit));
    }
}

/// Number of tunnels that the limit of open files allows, at two files each. Raises the soft limit first,
/// which is 1024 on many systems.
fn tunnel_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let needed = 2 * MAX_TUNNELS as u64 + RESERVED_FILES;
    let mut files = current.unwrap_or(needed);
    if files < needed {
        let raised = maximum.map_or(needed, |most| most.min(needed));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).is_ok() {
            files = raised;
        }
    }
    let tunnels = usize::try_from(files.saturating_sub(RESERVED_FILES) / 2).unwrap_or(MAX_TUNNELS);
    tunnels.clamp(MIN_TUNNELS, MAX_TUNNELS)
}
