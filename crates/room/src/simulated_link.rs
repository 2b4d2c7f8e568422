//! A link for tests with a simulated clock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pagecast_core::{MediaTime, Packet, Track};
use pagecast_testkit::link::{Input, Link, LinkConditions};

/// Length of IPv4 and UDP headers, in bytes.
const HEADERS_LEN: usize = 28;

/// Both directions of a link between a client and a server.
#[derive(Debug)]
pub(crate) struct SimulatedLink {
    /// From the client to the server.
    pub(crate) up: Direction,
    /// From the server to the client.
    pub(crate) down: Direction,
}

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Direction(Link<Vec<u8>>);

impl SimulatedLink {
    pub(crate) fn new(conditions: LinkConditions) -> Self {
        Self { up: Direction(Link::new(conditions, 1)), down: Direction(Link::new(conditions, 2)) }
    }

    /// Sets the conditions from now on.
    pub(crate) fn set_conditions(&mut self, now: Instant, conditions: LinkConditions) {
        for direction in [&mut self.up, &mut self.down] {
            direction.0.handle(now, Input::Conditions(conditions));
        }
    }

    /// When the next datagram arrives at either end.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [&self.up, &self.down].into_iter().filter_map(|direction| direction.0.deadline()).min()
    }
}

impl Direction {
    pub(crate) fn send(&mut self, now: Instant, datagram: Vec<u8>) {
        let length = datagram.len() + HEADERS_LEN;
        self.0.handle(now, Input::Datagram { datagram, length });
    }

    /// Returns the next datagram that has arrived, if any.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.0.poll(now)
    }
}

/// Conditions with this bandwidth in kbit/s and a round-trip time of 40 ms.
pub(crate) fn narrow(kbps: u64) -> LinkConditions {
    let delay = Duration::from_millis(20);
    LinkConditions { bits_per_second: Some(kbps * 1000), delay, ..LinkConditions::default() }
}

/// Conditions with jitter, which makes estimators see too little bandwidth. No loss, no bandwidth limit.
pub(crate) fn jittery() -> LinkConditions {
    let (delay, jitter) = (Duration::from_millis(10), Duration::from_millis(30));
    LinkConditions { delay, jitter, ..LinkConditions::default() }
}

/// An address for documentation (RFC 5737).
pub(crate) const fn address(host: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)), 4000)
}

/// A packet that can be sent but perhaps not decoded.
pub(crate) fn packet(track: Track, pts: Duration, data: Vec<u8>) -> Packet {
    let (pts, duration) = (MediaTime::from(pts), MediaTime(20_000_000));
    Packet { track, data: data.into(), pts, dts: pts, duration, keyframe: true }
}
