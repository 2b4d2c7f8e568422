//! Embedded rooms of the service: where they listen, URLs and tokens for publishing and watching.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pagecast_core::spec::{RoomIds, RoomService, RoomUrl, Secret};
use pagecast_core::{CastSpec, SpecError};
use pagecast_room::embedded::{
    self, Server,
    token::{self, Action, Claims},
};
use pagecast_server::config::{Config, Role};
use pagecast_server::is_embedded_room;
use pagecast_server::peer::{OccupiedRoom, RoomServer};
use pagecast_server::route::Router;
use pagecast_worker::node;

/// Lifetime of a publisher's token, which is made when the cast is claimed: the longest cast of a day, and a
/// day for what comes before it is live.
const PUBLISHER_TOKEN_LIFETIME: Duration = Duration::from_secs(2 * 86_400);
/// Lifetime of a viewer's token. Each query of the watch URL returns a new one.
const VIEWER_TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);

/// Embedded rooms of the service.
///
/// Viewers reach them through the service's main listener, or through a listener of their own
/// (`rooms.listen`). Casts of this service publish through the latter, or through one on a free port of
/// loopback: it needs no certificate, and no room in the limits of the main listener.
///
/// In a fleet whose nodes have a channel, requests pass through [`pagecast_server::peer::RoomForwarder`]
/// first, and a node may carry no rooms itself.
#[derive(Debug)]
pub(super) struct EmbeddedRooms {
    /// The rooms that this node carries.
    server: Option<Server>,
    /// Address of the listener to which the casts of this service publish.
    publish_address: SocketAddr,
    /// Whether other nodes carry rooms, too.
    is_shared: bool,
    /// Whether the main listener serves the rooms.
    on_main_listener: bool,
    public_url: String,
    secret: Option<Secret>,
    max_viewers: usize,
}

impl EmbeddedRooms {
    /// Starts the rooms. `main_url` is the base URL of the main listener, and `fleet_listener` the address of
    /// the listener of rooms that belong to a fleet.
    pub(super) fn start(
        config: &Config,
        main_url: &str,
        fleet_listener: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let (rooms, connection_limits) = (&config.rooms, config.limits.listener_limits());
        // The configuration was validated; this holds whatever was configured.
        anyhow::ensure!(
            rooms.secret.is_some() || rooms.listen.unwrap_or(config.listen).ip().is_loopback(),
            "rooms that other machines can reach need rooms.secret"
        );
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let own_listener = rooms.listen.filter(|_| fleet_listener.is_none()).unwrap_or(loopback);
        let start_server = || {
            Server::start(embedded::Config {
                http: own_listener,
                media: rooms.media_listen,
                advertised_addresses: rooms.announced_addresses.clone(),
                access: rooms.secret.clone().map_or(embedded::Access::Open, embedded::Access::Jwt),
                connection_limits,
                limits: embedded::Limits {
                    rooms: rooms.max_rooms,
                    rooms_per_application: rooms.max_rooms_per_application,
                    viewers: rooms.max_viewers,
                    viewers_per_application: rooms.max_viewers_per_application,
                    viewers_per_room: rooms.max_viewers_per_room,
                    ..embedded::Limits::default()
                },
                ..embedded::Config::default()
            })
        };
        let carries_rooms = fleet_listener.is_none() || config.fleet.has_role(Role::Rooms);
        let server = carries_rooms.then(start_server).transpose();
        let server = server.context("cannot start the embedded rooms")?;
        let publish_address = fleet_listener.or_else(|| server.as_ref().map(Server::http_addr));
        let publish_address = publish_address.context("no listener for rooms")?;
        let listener_url = match rooms.listen {
            Some(_) => format!("http://{publish_address}"),
            None => main_url.to_owned(),
        };
        let public_url = rooms.public_url.clone().unwrap_or(listener_url);
        Ok(Self {
            server,
            publish_address,
            is_shared: fleet_listener.is_some(),
            on_main_listener: rooms.listen.is_none(),
            public_url: public_url.trim_end_matches('/').to_owned(),
            secret: rooms.secret.clone(),
            max_viewers: rooms.max_viewers,
        })
    }

    /// Base URL at which viewers reach the rooms.
    pub(super) fn public_url(&self) -> &str {
        &self.public_url
    }

    /// The rooms that this node carries, if it carries any.
    pub(super) fn server_router(&self) -> Option<Router> {
        self.server.as_ref().map(Server::router)
    }

    /// Whether this node carries rooms.
    pub(super) fn carries_rooms(&self) -> bool {
        self.server.is_some()
    }

    /// What the main listener serves: these rooms, or nothing.
    pub(super) fn main_router(&self, rooms: Router) -> Router {
        if self.on_main_listener { rooms } else { Router::new() }
    }

    /// Most event streams of viewers on the main listener.
    pub(super) fn max_event_streams(&self) -> usize {
        if self.on_main_listener { self.max_viewers * embedded::MAX_EVENT_STREAMS_PER_VIEWER } else { 0 }
    }

    /// Ends all sessions and event streams, without waiting.
    pub(super) fn shutdown(&self) {
        if let Some(server) = &self.server {
            server.shutdown();
        }
    }

    fn token(&self, claims: &Claims) -> Option<String> {
        // If signing fails, verifying fails, too, so the missing token changes nothing.
        self.secret.as_ref().and_then(|secret| token::mint(secret, claims).ok())
    }

    /// Endpoint to which a cast of this service publishes its room, and a token.
    fn publish_service(&self, ids: &RoomIds) -> Result<RoomService, SpecError> {
        let room = qualified_room_name(ids);
        let token =
            self.token(&Claims::new(&room, PUBLISHER_TOKEN_LIFETIME).allow_publish(&ids.user).for_own_cast());
        let address = loopback_if_unspecified(self.publish_address);
        let url = format!("http://{address}/rooms/{}/whip?user={{user}}", escape_room_name(&room));
        Ok(RoomService::Whip { url: RoomUrl::parse(&url)?, token: token.map(Secret::new) })
    }
}

impl pagecast_server::EmbeddedRooms for EmbeddedRooms {
    fn expect_publisher(&self, ids: &RoomIds) {
        if let Some(server) = &self.server {
            server.expect_publisher(&qualified_room_name(ids), &ids.user);
        }
    }

    fn watch_url(&self, ids: &RoomIds) -> String {
        let room = qualified_room_name(ids);
        let token = self.token(&Claims::new(&room, VIEWER_TOKEN_LIFETIME).allow_view());
        let token = token.map(|token| format!("?token={token}")).unwrap_or_default();
        format!("{}/rooms/{}{token}", self.public_url, escape_room_name(&room))
    }

    fn viewer_count(&self, ids: &RoomIds) -> Option<usize> {
        let stats = self.server.as_ref().and_then(|server| server.stats(&qualified_room_name(ids)));
        let of_others = if self.is_shared { None } else { Some(0) };
        stats.map_or(of_others, |stats| Some(stats.viewers.len()))
    }
}

impl RoomServer for EmbeddedRooms {
    fn occupied_rooms(&self) -> Vec<OccupiedRoom> {
        let rooms = self.server.iter().flat_map(Server::rooms);
        rooms.map(|stats| OccupiedRoom { viewers: stats.viewers.len(), name: stats.room }).collect()
    }

    fn close_room(&self, room: &str) {
        if self.server.as_ref().is_some_and(|server| !server.close_room(room)) {
            tracing::debug!(room, "media thread busy, room closed later");
        }
    }

    fn may_publish(&self, room: &str, token: Option<&str>) -> bool {
        let Some(secret) = &self.secret else { return true };
        token.is_some_and(|token| token::verify(secret, token, room, Action::Publish).is_ok())
    }
}

/// Fills in where a claimed cast publishes.
#[derive(Debug)]
pub(super) struct RoomEndpoint(pub(super) Arc<EmbeddedRooms>);

impl node::CompleteSpec for RoomEndpoint {
    fn complete(&self, spec: &mut CastSpec) {
        let Some(room) = spec.room.as_mut().filter(|room| is_embedded_room(&room.service)) else { return };
        pagecast_server::EmbeddedRooms::expect_publisher(self.0.as_ref(), &room.ids);
        match self.0.publish_service(&room.ids) {
            Ok(service) => room.service = service,
            Err(error) => tracing::error!(%error, "room endpoint invalid"),
        }
    }
}

/// Room name that is unique across applications. Identifiers do not contain `~`.
fn qualified_room_name(ids: &RoomIds) -> String {
    format!("{}~{}", ids.app, ids.room)
}

fn escape_room_name(name: &str) -> String {
    name.replace('@', "%40")
}

/// The address at which this machine reaches a listener.
fn loopback_if_unspecified(listener: SocketAddr) -> SocketAddr {
    if listener.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listener.port());
    }
    listener
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::{Layer, Room, Source, SourceUrl};
    use pagecast_server::EmbeddedRooms as _;

    use super::*;
    use node::CompleteSpec as _;

    fn ids(app: &str, room: &str) -> RoomIds {
        RoomIds { app: app.into(), room: room.into(), user: "u".into(), task: "t".into() }
    }

    fn start(change: impl FnOnce(&mut Config)) -> EmbeddedRooms {
        let mut config = Config::default();
        change(&mut config);
        EmbeddedRooms::start(&config, "https://pagecast.example:8443", None).unwrap()
    }

    #[test]
    fn rooms_of_two_applications_are_two() {
        assert_ne!(qualified_room_name(&ids("a", "b.c")), qualified_room_name(&ids("a.b", "c")));
        assert_eq!(qualified_room_name(&ids("a", "r@1")), "a~r@1");
    }

    #[test]
    fn viewers_use_the_main_listener_unless_the_rooms_have_their_own() {
        let watch_url = |rooms: &EmbeddedRooms| rooms.watch_url(&ids("a", "r@1"));
        let rooms = start(|_| ());
        assert_eq!(watch_url(&rooms), "https://pagecast.example:8443/rooms/a~r%401");
        assert_eq!(rooms.max_event_streams(), 1500);
        let rooms = start(|config| config.rooms.public_url = Some("https://rooms.example/".into()));
        assert_eq!(watch_url(&rooms), "https://rooms.example/rooms/a~r%401");
        let rooms = start(|config| config.rooms.listen = Some(([127, 0, 0, 1], 0).into()));
        assert_eq!(watch_url(&rooms), format!("http://{}/rooms/a~r%401", rooms.publish_address));
        assert_eq!(rooms.max_event_streams(), 0);
    }

    #[test]
    fn a_claimed_cast_publishes_to_loopback_with_a_token() {
        let rooms = Arc::new(start(|config| config.rooms.secret = Some(Secret::new("0123456789abcdef"))));
        let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://localhost/").unwrap()));
        let layer = Layer { size: spec.source.size, fps: spec.source.fps, bitrate_kbps: None };
        let complete = |spec: &mut CastSpec, url: &str| {
            let service = RoomService::Whip { url: RoomUrl::parse(url).unwrap(), token: None };
            spec.room = Some(Room::new(service, ids("a", "r@1"), layer));
            RoomEndpoint(Arc::clone(&rooms)).complete(spec);
            let service = spec.room.take().unwrap().service;
            let RoomService::Whip { url, token } = service else { panic!("not WHIP") };
            (url.reveal().to_owned(), token)
        };
        let (url, token) = complete(&mut spec, "http://rooms.invalid/");
        let port = rooms.publish_address.port();
        assert_eq!(url, format!("http://127.0.0.1:{port}/rooms/a~r%401/whip?user={{user}}"));
        assert!(token.is_some());
        let other = "https://whip.example/{room}";
        assert_eq!(complete(&mut spec, other), (other.to_owned(), None), "rooms elsewhere stay as they are");
    }

    #[test]
    fn publishers_reach_listeners_on_all_addresses() {
        for (listener, expected) in
            [("0.0.0.0:81", "127.0.0.1:81"), ("[::]:81", "127.0.0.1:81"), ("[::1]:81", "[::1]:81")]
        {
            assert_eq!(loopback_if_unspecified(listener.parse().unwrap()).to_string(), expected);
        }
    }
}
