//! A room to publish and watch in, within this process: WHIP in, WHEP out, and a page.
//!
//! Packets are passed on as they are. Each viewer gets one layer of the picture, which is chosen by what its
//! line carries; what it gets goes on without a gap when the layer changes, or the publisher goes and comes
//! again.
//!
//! [`sfu`] decides; [`io_loop`] carries its datagrams, and [`http`] the words; nothing else here does any IO.

mod command;
mod demux;
mod expected_publishers;
mod http;
mod io_loop;
mod layer_selector;
mod payload;
mod publisher_clock;
mod random;
mod rate_meter;
mod rtp_rewriter;
mod sfu;
mod sockets;
mod stats;
mod tcp;
pub mod token;
mod viewer_state;

use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use pagecast_core::spec::Secret;
use tokio::sync::{mpsc, watch};

use self::expected_publishers::ExpectedPublishers;
#[doc(hidden)]
pub use self::sfu::run_fuzz_input;
use self::sfu::{SessionConfig, Sfu};
pub use self::stats::{LayerStats, PublisherStats, RoomStats, ViewerStats};
use crate::rtc::answerer::Certificate;

/// Commands that wait for the room's thread; more wait with whoever gives them.
const MAX_QUEUED_COMMANDS: usize = 64;

/// How the rooms are reached, and by whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the web server listens; port 0: any.
    pub http: SocketAddr,
    /// Where media come and go, all of them through one port; port 0: any.
    pub media: SocketAddr,
    /// Whether they can go by TCP too, through the port of the same number, where UDP does not get through.
    pub tcp: bool,
    /// Where others reach `media`, if that is not where it is; port 0: its port.
    pub advertised_addresses: Vec<SocketAddr>,
    /// Who may do what.
    pub access: Access,
    /// How much of everything.
    pub limits: Limits,
    /// Connections of the web server.
    pub connection_limits: pagecast_listen::Limits,
}

impl Default for Config {
    fn default() -> Self {
        let here = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            http: here(8080),
            media: here(0),
            tcp: true,
            advertised_addresses: Vec::new(),
            access: Access::Open,
            limits: Limits::default(),
            connection_limits: pagecast_listen::Limits::default(),
        }
    }
}

/// Who may publish and watch.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everybody on this machine.
    Open,
    /// Who has a token that was made with this secret; see [`token`].
    Jwt(Secret),
}

/// How much there may be of everything. What is more is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rooms with somebody in them. Rooms of this service's own casts are not refused for it.
    pub rooms: usize,
    /// Rooms of one application: what stands before the `~` in their names. Names without one have no such
    /// limit.
    pub rooms_per_application: usize,
    /// Users that publish in a room.
    pub publishers_per_room: usize,
    /// Viewers in a room.
    pub viewers_per_room: usize,
    /// Viewers in all rooms of one application.
    pub viewers_per_application: usize,
    /// Viewers in all rooms.
    pub viewers: usize,
    /// Sessions with one token that have not connected yet. All viewers of a room may have the same one, and
    /// connect within a second.
    pub connecting_per_token: usize,
    /// Sessions from one address that have not connected yet: an IPv4 address, or a network of 64 bits of
    /// IPv6. This machine's own addresses have no such limit, as a proxy in front of the rooms has one of
    /// them.
    pub connecting_per_address: usize,
    /// Bytes of an offer.
    pub sdp_bytes: usize,
}

impl Default for Limits {
    /// A gigabit carries 500 viewers at 2 Mbit/s. One application can have half of everything, so that no
    /// other is shut out by it.
    fn default() -> Self {
        Self {
            rooms: 100,
            rooms_per_application: 50,
            publishers_per_room: 4,
            viewers_per_room: 200,
            viewers_per_application: 250,
            viewers: 500,
            connecting_per_token: 32,
            connecting_per_address: 16,
            sdp_bytes: 64 * 1024,
        }
    }
}

/// Why the rooms cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An open room is only for this machine.
    #[error("a room without tokens can only be reached from this machine: listen on 127.0.0.1, not on {0}")]
    OpenNotLoopback(SocketAddr),
    /// An address is in use, or is not ours.
    #[error("cannot listen on {address} for {what}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For what.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system does not give what is needed.
    #[error("cannot start the rooms")]
    Start(#[source] io::Error),
}

/// Running rooms. Dropped, they end.
#[derive(Debug)]
pub struct Server {
    http: SocketAddr,
    media: SocketAddr,
    stats: Arc<Mutex<Vec<RoomStats>>>,
    expected: Arc<Mutex<ExpectedPublishers>>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts two threads: `room` for media, `room-http` for words.
    ///
    /// # Errors
    /// [`ErrorBody`].
    pub fn start(config: Config) -> Result<Self, Error> {
        if matches!(config.access, Access::Open) && !config.http.ip().is_loopback() {
            return Err(Error::OpenNotLoopback(config.http));
        }
        let sockets = sockets::open(config.media, config.tcp)?;
        let listen = |source| Error::Listen { address: config.http, what: "HTTP", source };
        let listener = std::net::TcpListener::bind(config.http).map_err(listen)?;
        listener.set_nonblocking(true).map_err(Error::Start)?;
        let http = listener.local_addr().map_err(Error::Start)?;
        let media = sockets.address;
        let certificate =
            Certificate::new().ok_or_else(|| Error::Start(io::Error::other("no randomness")))?;
        let addresses =
            sockets::advertised_addresses(&config.advertised_addresses, media).map_err(Error::Start)?;
        let expected = Arc::new(Mutex::new(ExpectedPublishers::default()));
        let limits = config.limits;
        let setup = SessionConfig {
            certificate,
            addresses,
            tcp: config.tcp,
            limits,
            expected: Arc::clone(&expected),
        };
        let hub = Sfu::new(Instant::now(), setup);
        let stats = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let (commands, orders) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let rooms = http::AppState {
            commands,
            stats: Arc::clone(&stats),
            access: Arc::new(config.access),
            limits,
            token_hasher: RandomState::new(),
        };
        let mut server = Self { http, media, stats: Arc::clone(&stats), expected, stop, threads: Vec::new() };
        let told = stopped.clone();
        server.spawn("room", async move || io_loop::run(hub, sockets, orders, stats, told).await)?;
        server.spawn("room-http", async move || match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let router = http::router(rooms);
                http::serve::run(listener, config.connection_limits, router, limits.viewers, stopped).await;
            }
            Err(error) => tracing::error!(%error, "the room's web server cannot be started"),
        })?;
        Ok(server)
    }

    fn spawn<F>(&mut self, name: &str, what: F) -> Result<(), Error>
    where
        F: AsyncFnOnce() + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(Error::Start)?;
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || runtime.block_on(what())).map_err(Error::Start)?;
        self.threads.push(thread);
        Ok(())
    }

    /// A cast of this service is going to publish in this room as this user. From now on its viewers can wait
    /// in the room, for two hours unless this is said again, and the cast finds a place in it however many
    /// rooms there are.
    pub fn expect_publisher(&self, room: &str, user: &str) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.add(Instant::now(), room, user);
    }

    /// Where the web server listens.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Where media come and go.
    #[must_use]
    pub fn media_addr(&self) -> SocketAddr {
        self.media
    }

    /// How a room is, at most half a second ago; none if nobody is in it.
    #[must_use]
    pub fn stats(&self, room: &str) -> Option<RoomStats> {
        self.rooms().into_iter().find(|stats| stats.room == room)
    }

    /// All rooms that somebody is in.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all sessions, and waits until both threads are over.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the rooms panicked");
            }
        }
    }
}
