//! Embedded rooms of the service: URLs and tokens for publishing and watching.

use std::sync::Arc;
use std::time::Duration;

use pagecast_core::SpecError;
use pagecast_core::spec::{RoomIds, RoomService, RoomUrl, Secret};
use pagecast_room::embedded::{
    Server,
    token::{self, Claims},
};

/// Lifetime of a publisher's token: the longest cast of a day, and a day for it to be resumed.
const PUBLISHER_TOKEN_LIFETIME: Duration = Duration::from_secs(2 * 86_400);
/// Lifetime of a viewer's token. Each query of the watch URL returns a new one.
const VIEWER_TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);

/// Embedded rooms, as the APIs use them.
#[derive(Debug)]
pub(super) struct EmbeddedRooms {
    server: Arc<Server>,
    public_url: String,
    secret: Option<Secret>,
}

impl EmbeddedRooms {
    /// Rooms that viewers reach at `public_url`, by default the address of their listener.
    pub(super) fn new(server: Arc<Server>, public_url: Option<String>, secret: Option<Secret>) -> Self {
        let listener_url = || format!("http://{}", server.http_addr());
        let public_url = public_url.map_or_else(listener_url, |url| url.trim_end_matches('/').to_owned());
        Self { server, public_url, secret }
    }

    fn token(&self, claims: &Claims) -> Option<String> {
        // If signing fails, verifying fails, too, so the missing token changes nothing.
        self.secret.as_ref().and_then(|secret| token::mint(secret, claims).ok())
    }
}

impl pagecast_server::EmbeddedRooms for EmbeddedRooms {
    fn publish_service(&self, ids: &RoomIds) -> Result<RoomService, SpecError> {
        let room = qualified_room_name(ids);
        let token =
            self.token(&Claims::new(&room, PUBLISHER_TOKEN_LIFETIME).allow_publish(&ids.user).for_own_cast());
        self.server.expect_publisher(&room, &ids.user);
        // The listener may be bound to all addresses. Publishers are on this machine.
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

/// Room name that is unique across applications. Identifiers do not contain `~`.
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
