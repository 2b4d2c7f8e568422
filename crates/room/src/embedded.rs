//! Embedded rooms: a selective forwarding unit in this process, with WHIP in, WHEP out and a viewer page.
//!
//! Packets are forwarded without transcoding. Each viewer gets one layer of the video, selected by the
//! bandwidth of its link. Its stream continues without a gap when the layer changes or the publisher
//! reconnects.
//!
//! [`sfu`] decides; [`io_loop`] moves its datagrams, and [`http`] answers requests. Nothing else does IO.

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

/// Commands that wait for the media thread. When full, requests wait for a place until their timeout.
const MAX_QUEUED_COMMANDS: usize = 64;
/// Most event streams of one viewer session: a page that reloads may have an old one for a while. A listener
/// that serves [`Server::router`] has to allow as many for each viewer
/// ([`pagecast_listen::Limits::max_event_streams`]).
pub const MAX_EVENT_STREAMS_PER_VIEWER: usize = 3;

/// Configuration of the embedded rooms.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the HTTP listener; port 0 means any.
    pub http: SocketAddr,
    /// UDP address of all media; port 0 means any.
    pub media: SocketAddr,
    /// Whether media may use TCP on the port of the same number, for clients whose UDP is blocked.
    pub tcp: bool,
    /// Addresses that clients use for `media`, if they differ from it; port 0 means the port of `media`.
    pub advertised_addresses: Vec<SocketAddr>,
    /// Who may publish and watch.
    pub access: Access,
    /// Limits of rooms and sessions.
    pub limits: Limits,
    /// Limits of HTTP connections.
    pub connection_limits: pagecast_listen::Limits,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            http: loopback(8080),
            media: loopback(0),
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
    /// Every client on this machine.
    Open,
    /// Clients with a token signed with this secret; see [`token`].
    Jwt(Secret),
}

/// Limits of rooms and sessions. Requests above a limit are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most rooms with a session. Casts of this service are exempt.
    pub rooms: usize,
    /// Most rooms of one application, which is the part before the `~` in a room's name. Names without `~`
    /// are exempt.
    pub rooms_per_application: usize,
    /// Most users that publish in one room.
    pub publishers_per_room: usize,
    /// Most viewers in one room.
    pub viewers_per_room: usize,
    /// Most viewers in all rooms of one application.
    pub viewers_per_application: usize,
    /// Most viewers in all rooms.
    pub viewers: usize,
    /// Most sessions with one token that are still connecting. All viewers of a room may share a token, and
    /// connect within a second.
    pub connecting_per_token: usize,
    /// Most sessions from one IPv4 address or IPv6 /64 network that are still connecting. Local addresses are
    /// exempt, because a proxy in front of the rooms has one.
    pub connecting_per_address: usize,
    /// Longest offer, in bytes.
    pub sdp_bytes: usize,
}

impl Default for Limits {
    /// A gigabit carries 500 viewers at 2 Mbit/s. One application gets half of the rooms and viewers, so that
    /// it cannot shut out the others.
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

/// Why the rooms cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Rooms without tokens may only listen on a loopback address.
    #[error("rooms without tokens may not listen on {0}; use a loopback address or set a secret")]
    OpenNotLoopback(SocketAddr),
    /// The address is in use or not an address of this machine.
    #[error("cannot listen on {address} for {what}")]
    Listen {
        /// Address of the socket.
        address: SocketAddr,
        /// Use of the address: HTTP or media.
        what: &'static str,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The system refused a resource.
    #[error("cannot start the rooms")]
    Start(#[source] io::Error),
}

/// Running rooms. Dropping it ends them.
#[derive(Debug)]
pub struct Server {
    http: SocketAddr,
    media: SocketAddr,
    stats: Arc<Mutex<Vec<RoomStats>>>,
    expected: Arc<Mutex<ExpectedPublishers>>,
    state: http::AppState,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts two threads: `room-media` for media and `room-http` for HTTP.
    ///
    /// # Errors
    /// [`Error`].
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
        let session_config = SessionConfig {
            certificate,
            addresses,
            tcp: config.tcp,
            limits,
            expected: Arc::clone(&expected),
        };
        let sfu = Sfu::new(Instant::now(), session_config);
        let stats = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let (commands, command_receiver) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let state = http::AppState {
            commands,
            stats: Arc::clone(&stats),
            access: Arc::new(config.access),
            limits,
            token_hasher: RandomState::new(),
        };
        let router = http::router(state.clone());
        let mut server =
            Self { http, media, stats: Arc::clone(&stats), expected, state, stop, threads: Vec::new() };
        let media_stop = stopped.clone();
        server.spawn("room-media", async move || {
            io_loop::run(sfu, sockets, command_receiver, stats, media_stop).await;
        })?;
        server.spawn("room-http", async move || match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                http::serve::run(listener, config.connection_limits, router, limits.viewers, stopped).await;
            }
            Err(error) => tracing::error!(%error, "room HTTP listener failed"),
        })?;
        Ok(server)
    }

    fn spawn<F>(&mut self, name: &str, task: F) -> Result<(), Error>
    where
        F: AsyncFnOnce() + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(Error::Start)?;
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || runtime.block_on(task())).map_err(Error::Start)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Announces that a cast of this service will publish in this room as this user. For two hours, viewers
    /// may wait in the room, and the cast is exempt from the limit of rooms. Repeated calls extend the time.
    pub fn expect_publisher(&self, room: &str, user: &str) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.add(Instant::now(), room, user);
    }

    /// The HTTP interface of the rooms, for another listener to serve as well. Rooms without tokens must not
    /// be served on an address that other machines can reach. Requests need the extension
    /// [`pagecast_listen::RequestSource`].
    pub fn router(&self) -> axum::Router {
        http::router(self.state.clone())
    }

    /// Address of the HTTP listener.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Address of the media port.
    #[must_use]
    pub fn media_addr(&self) -> SocketAddr {
        self.media
    }

    /// Statistics of a room, at most half a second old. `None` if the room has no session.
    #[must_use]
    pub fn stats(&self, room: &str) -> Option<RoomStats> {
        self.rooms().into_iter().find(|stats| stats.room == room)
    }

    /// Statistics of all rooms with a session.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all sessions of a room, without waiting. Returns whether the media thread will do so; it may be
    /// too busy.
    pub fn close_room(&self, room: &str) -> bool {
        self.state.commands.try_send(command::Command::CloseRoom(room.to_owned())).is_ok()
    }

    /// Ends all sessions and their event streams, without waiting. Later requests are answered with 503.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    /// Ends all sessions and waits for the threads.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("room thread panicked");
            }
        }
    }
}
