//! Who finds a place. A room is made by who publishes in it; those who only watch wait until there is one.
//!
//! Places are few, so that nobody takes those of others: a room's, an application's, and those of sessions
//! that never connect.

use std::time::Instant;

use super::super::command::{JoinRequest, SessionError};
use super::{Room, Session, SessionId, Sfu};

impl Sfu {
    /// Whether a cast of this service publishes: its token says so, or it was announced.
    pub(super) fn is_own_cast(&self, now: Instant, join: &JoinRequest, user: &str) -> bool {
        join.origin.own_cast || self.config.lock_expected().has_user(now, &join.room, user)
    }

    /// Finds a place for somebody. Casts of this service have theirs: the service has let them in already.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        join: &JoinRequest,
        own_cast: bool,
        replaces: bool,
    ) -> Result<(), SessionError> {
        let limits = self.config.limits;
        let room = self.rooms.get(&*join.room);
        if join.publishes {
            let publishers = room.map_or(0, |room| room.publishers.len());
            if !replaces && publishers >= limits.publishers_per_room {
                return Err(SessionError::PublisherLimit(limits.publishers_per_room));
            }
            if own_cast {
                return Ok(());
            }
            self.check_connecting_limits(join)?;
            return self.check_room_limits(now, join);
        }
        if room.is_none() && !self.config.lock_expected().has_room(now, &join.room) {
            return Err(SessionError::NoPublisher);
        }
        if room.is_some_and(|room| room.viewers.len() >= limits.viewers_per_room) {
            return Err(SessionError::CapacityExceeded("this room has as many viewers as it may"));
        }
        self.check_room_limits(now, join)?;
        let viewers = |of: &dyn Fn(&str) -> bool| {
            let rooms = self.rooms.iter().filter(|(name, _)| of(name));
            rooms.map(|(_, room)| room.viewers.len()).sum::<usize>()
        };
        let same = application_of(&join.room);
        if same.is_some() && viewers(&|name| application_of(name) == same) >= limits.viewers_per_application {
            return Err(SessionError::CapacityExceeded("this application has as many viewers as it may"));
        }
        if viewers(&|_| true) >= limits.viewers {
            return Err(SessionError::CapacityExceeded("there are as many viewers as there may be"));
        }
        self.check_connecting_limits(join)
    }

    /// Whether not too many sessions of this origin are connecting.
    fn check_connecting_limits(&self, join: &JoinRequest) -> Result<(), SessionError> {
        let limits = self.config.limits;
        let connecting = |same: &dyn Fn(&Session) -> bool| {
            self.sessions.values().filter(|session| !session.peer.is_connected() && same(session)).count()
        };
        let (token, address) = (join.origin.token, join.origin.address);
        let most = limits.connecting_per_token;
        if token.is_some() && connecting(&|session| session.origin.token == token) >= most {
            return Err(SessionError::TooManyConnecting(most, "with this token"));
        }
        let most = limits.connecting_per_address;
        if address.is_some() && connecting(&|session| session.origin.address == address) >= most {
            return Err(SessionError::TooManyConnecting(most, "from this address"));
        }
        Ok(())
    }

    /// Whether there is a room, or may be one more. A room in which viewers only wait makes place for one
    /// that is published in.
    fn check_room_limits(&mut self, now: Instant, join: &JoinRequest) -> Result<(), SessionError> {
        if self.rooms.contains_key(&*join.room) {
            return Ok(());
        }
        let limits = self.config.limits;
        let same = application_of(&join.room);
        let of_application = |name: &str| same.is_some() && application_of(name) == same;
        if self.rooms.keys().filter(|name| of_application(name)).count() >= limits.rooms_per_application
            && !(join.publishes && self.evict_waiting_room(now, &of_application))
        {
            return Err(SessionError::CapacityExceeded("this application has as many rooms as it may"));
        }
        if self.rooms.len() >= limits.rooms && !(join.publishes && self.evict_waiting_room(now, &|_| true)) {
            return Err(SessionError::CapacityExceeded("there are as many rooms as there may be"));
        }
        Ok(())
    }

    /// Ends the room in which viewers have waited for longest; whether there was one.
    fn evict_waiting_room(&mut self, now: Instant, which: &dyn Fn(&str) -> bool) -> bool {
        let waits = |(name, room): &(&std::sync::Arc<str>, &Room)| which(name) && room.publishers.is_empty();
        let oldest = self.rooms.iter().filter(waits).min_by_key(|(_, room)| room.viewers.first().copied());
        let Some(viewers) = oldest.map(|(_, room)| room.viewers.clone()) else { return false };
        viewers.into_iter().for_each(|key: SessionId| self.end_session(now, key, SessionError::Ended));
        true
    }
}

/// Whose room this is: service's rooms are named `application~room`.
fn application_of(room: &str) -> Option<&str> {
    room.split_once('~').map(|(application, _)| application)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::super::Limits;
    use super::super::super::command::ClientOrigin;
    use super::super::super::expected_publishers::ExpectedPublishers;
    use super::super::{CONNECT_TIMEOUT, SessionConfig, fuzz::OFFER};
    use super::*;
    use crate::rtc::answerer::Certificate;

    fn hub(now: Instant, limits: Limits) -> Sfu {
        let mut expected = ExpectedPublishers::default();
        expected.add(now, "app~room", "page");
        let here = SocketAddr::from(([127, 0, 0, 1], 4000));
        let (certificate, expected) = (Certificate::new().unwrap(), Arc::new(Mutex::new(expected)));
        Sfu::new(now, SessionConfig { certificate, addresses: vec![here], tcp: false, limits, expected })
    }

    fn join_request(publishes: bool, user: Option<&str>, address: Option<&str>) -> JoinRequest {
        let network = |ip: &str| ClientOrigin::network_prefix(ip.parse::<IpAddr>().unwrap());
        let origin = ClientOrigin { token: Some(7), address: address.map(network), own_cast: false };
        JoinRequest {
            room: "app~room".to_owned(),
            publishes,
            user: user.map(str::to_owned),
            offer: OFFER.to_owned(),
            origin,
        }
    }

    #[test]
    fn sessions_that_are_connecting_are_few_and_do_not_last() {
        let (mut now, limits) = (Instant::now(), Limits::default());
        let mut hub = hub(now, limits);
        let from = |ip| join_request(false, None, Some(ip));
        for number in 0..limits.connecting_per_address {
            // An IPv6 network is one address, and so is an IPv4 address however it is written.
            hub.join(now, from(["2001:db8::1", "2001:db8::ffff:2"][number % 2])).unwrap();
        }
        let refused = SessionError::TooManyConnecting(limits.connecting_per_address, "from this address");
        assert_eq!(hub.join(now, from("2001:db8::3")).unwrap_err(), refused);
        for ip in ["2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1"] {
            hub.join(now, from(ip)).unwrap();
        }
        // This machine's own addresses are a proxy's; the token's limit holds for all.
        let left = limits.connecting_per_token - limits.connecting_per_address - 3;
        (0..left).for_each(|_| drop(hub.join(now, join_request(false, None, None)).unwrap()));
        let refused = SessionError::TooManyConnecting(limits.connecting_per_token, "with this token");
        assert_eq!(hub.join(now, join_request(false, None, None)).unwrap_err(), refused);
        assert_eq!(hub.join(now, join_request(true, Some("stranger"), None)).unwrap_err(), refused);
        // A cast that was announced is not held up by those.
        hub.join(now, join_request(true, Some("page"), Some("2001:db8::1"))).unwrap();
        now += CONNECT_TIMEOUT + Duration::from_millis(1);
        hub.handle_timeout(now);
        hub.join(now, from("2001:db8::3")).unwrap();
    }

    #[test]
    fn rooms_are_made_by_publishers() {
        let now = Instant::now();
        let mut hub = hub(now, Limits::default());
        let elsewhere =
            |publishes| JoinRequest { room: "other".to_owned(), ..join_request(publishes, None, None) };
        assert_eq!(hub.join(now, elsewhere(false)).unwrap_err(), SessionError::NoPublisher);
        assert!(hub.rooms.is_empty() && hub.sessions.is_empty());
        hub.join(now, elsewhere(true)).unwrap();
        hub.join(now, elsewhere(false)).unwrap();
    }
}
