//! Admission of sessions. A publisher creates its room; viewers need an existing or expected one.
//!
//! Limits per room, per application and per origin keep one client from using up the places of the others.

use std::time::Instant;

use super::super::command::{JoinRequest, SessionError};
use super::{Room, Session, SessionId, Sfu};

impl Sfu {
    /// Whether a cast of this service publishes: by its token, or because it is expected.
    pub(super) fn is_own_cast(&self, now: Instant, join: &JoinRequest, user: &str) -> bool {
        join.origin.own_cast || self.config.lock_expected().has_user(now, &join.room, user)
    }

    /// Checks the limits for a new session. Casts of this service are exempt from the limit of rooms, because
    /// the service has admitted them already.
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
            return Err(SessionError::CapacityExceeded("viewers in this room"));
        }
        self.check_room_limits(now, join)?;
        let count_viewers = |filter: &dyn Fn(&str) -> bool| {
            let rooms = self.rooms.iter().filter(|(name, _)| filter(name));
            rooms.map(|(_, room)| room.viewers.len()).sum::<usize>()
        };
        let app = application_of(&join.room);
        if app.is_some()
            && count_viewers(&|name| application_of(name) == app) >= limits.viewers_per_application
        {
            return Err(SessionError::CapacityExceeded("viewers of this application"));
        }
        if count_viewers(&|_| true) >= limits.viewers {
            return Err(SessionError::CapacityExceeded("viewers of this service"));
        }
        self.check_connecting_limits(join)
    }

    /// Checks the number of sessions of this origin that are still connecting.
    fn check_connecting_limits(&self, join: &JoinRequest) -> Result<(), SessionError> {
        let limits = self.config.limits;
        let count_connecting = |filter: &dyn Fn(&Session) -> bool| {
            self.sessions.values().filter(|session| !session.peer.is_connected() && filter(session)).count()
        };
        let (token, address) = (join.origin.token, join.origin.address);
        let limit = limits.connecting_per_token;
        if token.is_some() && count_connecting(&|session| session.origin.token == token) >= limit {
            return Err(SessionError::TooManyConnecting(limit, "with this token"));
        }
        let limit = limits.connecting_per_address;
        if address.is_some() && count_connecting(&|session| session.origin.address == address) >= limit {
            return Err(SessionError::TooManyConnecting(limit, "from this address"));
        }
        Ok(())
    }

    /// Checks that the room exists or may be created. A publisher's room may take the place of one in which
    /// viewers only wait.
    fn check_room_limits(&mut self, now: Instant, join: &JoinRequest) -> Result<(), SessionError> {
        if self.rooms.contains_key(&*join.room) {
            return Ok(());
        }
        let limits = self.config.limits;
        let app = application_of(&join.room);
        let in_application = |name: &str| app.is_some() && application_of(name) == app;
        if self.rooms.keys().filter(|name| in_application(name)).count() >= limits.rooms_per_application
            && !(join.publishes && self.evict_waiting_room(now, &in_application))
        {
            return Err(SessionError::CapacityExceeded("rooms of this application"));
        }
        if self.rooms.len() >= limits.rooms && !(join.publishes && self.evict_waiting_room(now, &|_| true)) {
            return Err(SessionError::CapacityExceeded("rooms of this service"));
        }
        Ok(())
    }

    /// Ends the room in which viewers have waited the longest. Returns whether there was one.
    fn evict_waiting_room(&mut self, now: Instant, filter: &dyn Fn(&str) -> bool) -> bool {
        let is_waiting =
            |(name, room): &(&std::sync::Arc<str>, &Room)| filter(name) && room.publishers.is_empty();
        let oldest =
            self.rooms.iter().filter(is_waiting).min_by_key(|(_, room)| room.viewers.first().copied());
        let Some(viewers) = oldest.map(|(_, room)| room.viewers.clone()) else { return false };
        viewers.into_iter().for_each(|id: SessionId| self.end_session(now, id, SessionError::Ended));
        true
    }
}

/// The application of a room: rooms of a service are named `application~room`.
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
    use super::super::{CONNECT_TIMEOUT, Input, SessionConfig, fuzz::OFFER};
    use super::*;
    use crate::rtc::answerer::Certificate;

    fn new_sfu(now: Instant, limits: Limits) -> Sfu {
        let mut expected = ExpectedPublishers::default();
        expected.add(now, "app~room", "page");
        let address = SocketAddr::from(([127, 0, 0, 1], 4000));
        let (certificate, expected) = (Certificate::new().unwrap(), Arc::new(Mutex::new(expected)));
        Sfu::new(now, SessionConfig { certificate, addresses: vec![address], tcp: false, limits, expected })
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
    fn connecting_sessions_are_limited_and_time_out() {
        let (mut now, limits) = (Instant::now(), Limits::default());
        let mut sfu = new_sfu(now, limits);
        let from = |ip| join_request(false, None, Some(ip));
        for number in 0..limits.connecting_per_address {
            // An IPv6 /64 network counts as one address.
            sfu.join(now, from(["2001:db8::1", "2001:db8::ffff:2"][number % 2])).unwrap();
        }
        let refused = SessionError::TooManyConnecting(limits.connecting_per_address, "from this address");
        assert_eq!(sfu.join(now, from("2001:db8::3")).unwrap_err(), refused);
        for ip in ["2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1"] {
            sfu.join(now, from(ip)).unwrap();
        }
        // Local addresses are exempt, because a proxy has one; the limit of the token applies to all.
        let remaining = limits.connecting_per_token - limits.connecting_per_address - 3;
        (0..remaining).for_each(|_| drop(sfu.join(now, join_request(false, None, None)).unwrap()));
        let refused = SessionError::TooManyConnecting(limits.connecting_per_token, "with this token");
        assert_eq!(sfu.join(now, join_request(false, None, None)).unwrap_err(), refused);
        assert_eq!(sfu.join(now, join_request(true, Some("stranger"), None)).unwrap_err(), refused);
        // An expected cast is exempt.
        sfu.join(now, join_request(true, Some("page"), Some("2001:db8::1"))).unwrap();
        now += CONNECT_TIMEOUT + Duration::from_millis(1);
        sfu.handle(now, Input::Timeout);
        sfu.join(now, from("2001:db8::3")).unwrap();
    }

    #[test]
    fn publishers_create_rooms() {
        let now = Instant::now();
        let mut sfu = new_sfu(now, Limits::default());
        let in_other_room =
            |publishes| JoinRequest { room: "other".to_owned(), ..join_request(publishes, None, None) };
        assert_eq!(sfu.join(now, in_other_room(false)).unwrap_err(), SessionError::NoPublisher);
        assert!(sfu.rooms.is_empty() && sfu.sessions.is_empty());
        sfu.join(now, in_other_room(true)).unwrap();
        sfu.join(now, in_other_room(false)).unwrap();
    }
}
