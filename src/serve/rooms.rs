//! The rooms of the service: where casts publish to, and where to watch them.

use std::sync::Arc;
use std::time::Duration;

use pagecast_core::SpecError;
use pagecast_core::spec::{RoomIds, RoomService, RoomUrl, Secret};
use pagecast_room::embedded::{
    Server,
    token::{self, Claims},
};

/// How long a token is good for: that of a publisher as long as a cast can last, with a day to be taken up
/// again.
const PUBLISHER_TOKEN_LIFETIME: Duration = Duration::from_secs(2 * 86_400);
/// That of a viewer, who gets the address anew whenever it is asked for.
const VIEWER_TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);

/// The embedded rooms.
#[derive(Debug)]
pub(super) struct EmbeddedRooms {
    server: Arc<Server>,
    public_url: String,
    secret: Option<Secret>,
}

impl EmbeddedRooms {
    /// Rooms that viewers reach at `public_url`, or where they listen.
    pub(super) fn new(server: Arc<Server>, public_url: Option<String>, secret: Option<Secret>) -> Self {
        let own = || format!("http://{}", server.http_addr());
        let public_url = public_url.map_or_else(own, |url| url.trim_end_matches('/').to_owned());
        Self { server, public_url, secret }
    }

    fn token(&self, claims: &Claims) -> Option<String> {
        // Without a system's cryptography nobody would be let in, with or without a token.
        self.secret.as_ref().and_then(|secret| token::mint(secret, claims).ok())
    }
}

impl pagecast_server::EmbeddedRooms for EmbeddedRooms {
    fn publish_service(&self, ids: &RoomIds) -> Result<RoomService, SpecError> {
        let room = qualified_room_name(ids);
        let token =
            self.token(&Claims::new(&room, PUBLISHER_TOKEN_LIFETIME).allow_publish(&ids.user).for_own_cast());
        self.server.expect_publisher(&room, &ids.user);
        // The rooms may listen on all addresses; publishers are on this machine.
        let address = self.server.http_addr();
        let host =
            if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { url_host(address.ip()) };
        let url =
            format!("http://{host}:{}/rooms/{}/whip?user={{user}}", address.port(), escape_room_name(&room));
        Ok(RoomService::Whip { url: RoomUrl::parse(&url)?, token: token.map(Secret::new) })
    }

    fn watch_url(&self, ids: &RoomIds) -> String {
        let room = qualified_room_name(ids);
        let token = self.token(&Claims::new(&room, VIEWER_TOKEN_LIFETIME).allow_view());
        let token = token.map(|token| format!("?token={token}")).unwrap_or_default();
        format!("{}/rooms/{}{token}", self.public_url, escape_room_name(&room))
    }

    fn viewer_count(&self, ids: &RoomIds) -> usize {
        self.server.stats(&qualified_room_name(ids)).map_or(0, |stats| stats.viewers.len())
    }
}

/// The room of an application: others may have one of the same name. No identifier has a `~`.
fn qualified_room_name(ids: &RoomIds) -> String {
    format!("{}~{}", ids.app, ids.room)
}

fn escape_room_name(name: &str) -> String {
    name.replace('@', "%40")
}

fn url_host(ip: std::net::IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_of_two_applications_are_two() {
        let name = |app: &str, room: &str| {
            qualified_room_name(&RoomIds {
                app: app.into(),
                room: room.into(),
                user: "u".into(),
                task: "t".into(),
            })
        };
        assert_ne!(name("a", "b.c"), name("a.b", "c"));
        assert_eq!(name("a", "r@1"), "a~r@1");
    }
}
