//! Whom an allocation may send to, and hear from.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most peers; others are not sent to.
const MAX_PEERS: usize = 64;
/// Packets kept for a peer until it may be sent to; the oldest is dropped.
const MAX_KEPT: usize = 8;
/// Permissions last five minutes, channels ten (RFC 8656 sections 9 and 12).
const RENEW_AFTER: Duration = Duration::from_secs(240);
/// A peer that was refused is asked for again after this.
const DENIED_FOR: Duration = Duration::from_secs(60);
/// Numbers of channels (RFC 8656 section 12). None is used twice.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4FFF;

/// How a peer can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// Not yet.
    Asked,
    /// Not.
    Denied,
    /// With indications.
    Permitted,
    /// By a number.
    Bound(u16),
}

#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    pub(super) grant: Grant,
    /// The number that is asked for, or was.
    channel: Option<u16>,
    kept: VecDeque<Vec<u8>>,
    used: Instant,
    /// When to ask again, or to forget it; not while a request is under way.
    due: Option<Instant>,
}

impl Peer {
    pub(super) fn keep(&mut self, data: &[u8]) {
        if self.kept.len() == MAX_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(data.to_vec());
    }
}

/// All peers of an allocation.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: Vec<Peer>,
    /// Numbers given away so far.
    channels: u16,
}

impl Peers {
    fn find(&mut self, address: SocketAddr) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.address == address)
    }

    /// A peer that is sent to, and whether it is a new one; `None` if there are too many.
    pub(super) fn wanted(&mut self, address: SocketAddr, now: Instant) -> Option<(&mut Peer, bool)> {
        let found = self.peers.iter().position(|peer| peer.address == address);
        let at = match found {
            Some(at) => at,
            None if self.peers.len() == MAX_PEERS => return None,
            None => {
                let (grant, kept) = (Grant::Asked, VecDeque::new());
                self.peers.push(Peer { address, grant, channel: None, kept, used: now, due: None });
                self.peers.len() - 1
            }
        };
        self.peers[at].used = now;
        Some((&mut self.peers[at], found.is_none()))
    }

    /// A peer sent something; the number to ask for, if it should have one. `None`: nobody allowed it to.
    pub(super) fn heard(&mut self, address: SocketAddr) -> Option<Option<u16>> {
        let free = CHANNELS.start() + self.channels;
        let Some(peer) = self.find(address) else {
            // What is permitted is permitted for all ports of an address.
            return self.peers.iter().any(|peer| peer.address.ip() == address.ip()).then_some(None);
        };
        if peer.grant != Grant::Permitted || peer.channel.is_some() || !CHANNELS.contains(&free) {
            return Some(None);
        }
        peer.channel = Some(free);
        peer.due = None;
        self.channels += 1;
        Some(Some(free))
    }

    pub(super) fn of_channel(&self, number: u16) -> Option<SocketAddr> {
        // A peer may use a number as soon as the server knows it, which is before we know that it does.
        self.peers.iter().find(|peer| peer.channel == Some(number)).map(|peer| peer.address)
    }

    /// It may be sent to: what was kept for it.
    pub(super) fn permitted(&mut self, address: SocketAddr, now: Instant) -> VecDeque<Vec<u8>> {
        let Some(peer) = self.find(address) else { return VecDeque::new() };
        if !matches!(peer.grant, Grant::Bound(_)) {
            peer.grant = Grant::Permitted;
        }
        peer.due = Some(now + RENEW_AFTER);
        std::mem::take(&mut peer.kept)
    }

    pub(super) fn denied(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.find(address) {
            peer.grant = Grant::Denied;
            peer.kept.clear();
            peer.due = Some(now + DENIED_FOR);
        }
    }

    pub(super) fn bound(&mut self, address: SocketAddr, number: u16, now: Instant) {
        if let Some(peer) = self.find(address) {
            peer.grant = Grant::Bound(number);
            peer.due = Some(now + RENEW_AFTER);
        }
    }

    /// It has no number, or no longer; whether it may still be sent to is asked at once.
    pub(super) fn unbound(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.find(address) {
            peer.grant = Grant::Permitted;
            peer.due = Some(now);
        }
    }

    /// When there is something to renew or forget.
    pub(super) fn due(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.due).min()
    }

    /// Forgets those that nothing was sent to lately; what to ask again for the others, with their number.
    pub(super) fn renew(&mut self, now: Instant) -> Vec<(SocketAddr, Option<u16>)> {
        let is_due = |peer: &Peer| peer.due.is_some_and(|due| due <= now);
        let is_used = |peer: &Peer| now < peer.used + RENEW_AFTER;
        self.peers.retain(|peer| !is_due(peer) || is_used(peer));
        let mut asked = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| is_due(peer)) {
            peer.due = None;
            if peer.grant == Grant::Denied {
                peer.grant = Grant::Asked;
            }
            let channel = match peer.grant {
                Grant::Bound(number) => Some(number),
                Grant::Asked | Grant::Denied | Grant::Permitted => None,
            };
            asked.push((peer.address, channel));
        }
        asked
    }
}
