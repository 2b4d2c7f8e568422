//! The channel to the other nodes of a fleet, and the rooms that are reached through it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use pagecast_fleet::{CastId, Fleet, Rooms, WorkerId};
use pagecast_server::config::{self, Config};
use pagecast_server::listen::{self, Listener};
use pagecast_server::peer::{self, PeerClient, PeerClientConfig, RoomForwarder};
use pagecast_server::route::Router;
use pagecast_server::{Clock, Service};
use pagecast_worker::node;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::rooms::EmbeddedRooms;

/// How long running requests of other nodes may continue at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Listeners of a node, and the table of rooms.
pub(super) struct OpenedPeers {
    settings: config::Peer,
    listener: Listener,
    /// Where the casts of this node publish their rooms: an address of its own that the operator chose for
    /// rooms, or one on loopback.
    room_listener: Option<Listener>,
    table: Arc<dyn Rooms>,
}

impl OpenedPeers {
    /// Binds the listeners, if the configuration has a channel.
    pub(super) async fn open(config: &Config, table: Arc<dyn Rooms>) -> anyhow::Result<Option<Self>> {
        let Some(settings) = config.fleet.peer.clone() else { return Ok(None) };
        let listener = Listener::bind(settings.listen, config.tls.as_ref()).await;
        let listener = listener.context("cannot listen for other nodes (fleet.peer.listen)")?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let room_listener = match config.rooms.enabled {
            true => Some(Listener::bind(config.rooms.listen.unwrap_or(loopback), None).await?),
            false => None,
        };
        Ok(Some(Self { settings, listener, room_listener, table }))
    }

    /// Address of the listener to which the casts of this node publish their rooms.
    pub(super) fn room_address(&self) -> Option<SocketAddr> {
        self.room_listener.as_ref().map(|listener| listener.addr)
    }

    /// URL at which other nodes reach this one.
    pub(super) fn url(&self) -> String {
        self.settings.url.clone().unwrap_or_else(|| self.listener.url())
    }

    /// Starts the client of the channel.
    pub(super) fn start_client(
        &self,
        config: &Config,
        node: &WorkerId,
        fleet: &Arc<dyn Fleet>,
        clock: &Clock,
    ) -> anyhow::Result<PeerClient> {
        let settings = PeerClientConfig {
            node: node.clone(),
            secret: self.settings.secret.clone(),
            ca: config.fleet.ca.clone(),
        };
        PeerClient::start(settings, Arc::clone(fleet), Arc::clone(clock)).context("cannot use fleet.ca")
    }

    /// Connects the listeners to the service. Returns the router of the rooms as well.
    pub(super) fn wire(
        self,
        service: &Service,
        client: PeerClient,
        rooms: Option<Arc<EmbeddedRooms>>,
        config: &node::Config,
    ) -> (WiredPeers, Router) {
        let Self { settings, listener, room_listener, table } = self;
        let (node, lease) = (client.own().clone(), service.config.fleet.lease());
        let local = rooms.as_ref().and_then(|rooms| rooms.server_router());
        let router = peer::router(peer::Node {
            id: node.clone(),
            secret: settings.secret,
            service: service.clone(),
            running: config.running.clone(),
            database: config.database.clone(),
            rooms: local.clone().unwrap_or_default(),
        });
        let forwarder = rooms.clone().map(|rooms| {
            let (table, owners) = (Arc::clone(&table), peer::OwnerCache::default());
            Arc::new(RoomForwarder { peers: client, table, lease, local, rooms, owners }).router()
        });
        let room_router = forwarder.unwrap_or_default();
        let room_listener = room_listener.map(|listener| (listener, room_router.clone()));
        (WiredPeers { node, lease, table, listener, router, room_listener, rooms }, room_router)
    }
}

/// The other nodes, as the node of this service asks them who may go on.
#[derive(Debug)]
pub(super) struct NodePeers(pub(super) PeerClient);

#[async_trait]
impl node::Peers for NodePeers {
    async fn status(&self, node: &WorkerId) -> Option<node::PeerStatus> {
        let status = self.0.status(node).await;
        let status = status.inspect_err(|error| tracing::debug!(%error, "no status of another node")).ok()?;
        let casts = status.casts.into_iter().map(|cast| (cast.id, cast.epoch)).collect();
        Some(node::PeerStatus { has_database: status.database, casts })
    }

    async fn owners(&self, node: &WorkerId, casts: &[CastId]) -> Option<node::Owners> {
        let owners = self.0.owners(node, casts).await;
        let owners =
            owners.inspect_err(|error| tracing::debug!(%error, "no owners from another node")).ok()?;
        Some(owners.into_iter().map(|owner| (owner.id, (owner.worker, owner.epoch))).collect())
    }
}

/// A channel that does not run yet.
pub(super) struct WiredPeers {
    node: WorkerId,
    lease: Duration,
    table: Arc<dyn Rooms>,
    listener: Listener,
    router: Router,
    room_listener: Option<(Listener, Router)>,
    rooms: Option<Arc<EmbeddedRooms>>,
}

impl WiredPeers {
    /// Runs the listeners, and keeps the leases of this node's rooms. Counts their viewers.
    pub(super) fn run(self, config: &Config, viewers: Arc<AtomicUsize>) -> RunningPeers {
        let Self { node, lease, table, listener, router, room_listener, rooms } = self;
        let event_streams = rooms.as_ref().map_or(0, |rooms| rooms.max_event_streams());
        let server = listener.serve(peer::listener_limits(event_streams), router);
        let room_server = room_listener.map(|(listener, router)| {
            let limits = pagecast_server::listen::Limits {
                max_event_streams: event_streams,
                ..config.limits.listener_limits()
            };
            listener.serve(limits, router)
        });
        let (stop, stopped) = watch::channel(false);
        let renewal = rooms
            .filter(|rooms| rooms.carries_rooms())
            .map(|rooms| tokio::spawn(peer::renew_rooms(node, table, rooms, lease, viewers, stopped)));
        RunningPeers { server, room_server, stop, renewal }
    }
}

/// A running channel.
pub(super) struct RunningPeers {
    server: listen::Server,
    room_server: Option<listen::Server>,
    stop: watch::Sender<bool>,
    renewal: Option<JoinHandle<()>>,
}

impl RunningPeers {
    /// Gives the rooms of this node up, after their sessions have ended.
    pub(super) async fn release_rooms(&mut self) {
        self.stop.send_replace(true);
        if let Some(renewal) = self.renewal.take()
            && renewal.await.is_err()
        {
            tracing::error!("renewal of rooms panicked");
        }
    }

    /// Stops the listeners. Call it last: other nodes ask what still runs here.
    pub(super) async fn stop(mut self) {
        self.release_rooms().await;
        if let Some(server) = self.room_server {
            server.stop(DRAIN_TIMEOUT).await;
        }
        self.server.stop(DRAIN_TIMEOUT).await;
    }
}
