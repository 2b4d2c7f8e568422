//! Whom an allocation may send to, and hear from.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most peers; others are not sent to.
const MAX_PEERS: usize = 64;
/// Packets kept for a peer until it may be sent to; the oldest is dropped.
const MAX_BUFFERED_PACKETS: usize = 8;
/// Permissions last five minutes, channels ten (RFC 8656 sections 9 and 12).
const RENEW_INTERVAL: Duration = Duration::from_secs(240);
/// A peer that was refused is asked for again after this.
const DENIED_RETRY_DELAY: Duration = Duration::from_secs(60);
/// Numbers of channels (RFC 8656 section 12). None is used twice.
const CHANNEL_NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x4FFF;

/// How a peer can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Not yet.
    Pending,
    /// Not.
    Denied,
    /// With indications.
    Permitted,
    /// By a number.
    ChannelBound(u16),
}

#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    pub(super) permission: Permission,
    /// The number that is asked for, or was.
    channel: Option<u16>,
    buffered: VecDeque<Vec<u8>>,
    last_used: Instant,
    /// When to ask again, or to forget it; not while a request is under way.
    renew_at: Option<Instant>,
}

impl Peer {
    pub(super) fn buffer(&mut self, data: &[u8]) {
        if self.buffered.len() == MAX_BUFFERED_PACKETS {
            self.buffered.pop_front();
        }
        self.buffered.push_back(data.to_vec());
    }
}

/// All peers of an allocation.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: Vec<Peer>,
    /// Numbers given away so far.
    channels_used: u16,
}

impl Peers {
    fn find(&mut self, address: SocketAddr) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.address == address)
    }

    /// A peer that is sent to, and whether it is a new one; `None` if there are too many.
    pub(super) fn get_or_insert(&mut self, address: SocketAddr, now: Instant) -> Option<(&mut Peer, bool)> {
        let found = self.peers.iter().position(|peer| peer.address == address);
        let at = match found {
            Some(at) => at,
            None if self.peers.len() == MAX_PEERS => return None,
            None => {
                let (grant, kept) = (Permission::Pending, VecDeque::new());
                self.peers.push(Peer {
                    address,
                    permission: grant,
                    channel: None,
                    buffered: kept,
                    last_used: now,
                    renew_at: None,
                });
                self.peers.len() - 1
            }
        };
        self.peers[at].last_used = now;
        Some((&mut self.peers[at], found.is_none()))
    }

    /// A peer sent something; the number to ask for, if it should have one. `None`: nobody allowed it to.
    pub(super) fn on_data_received(&mut self, address: SocketAddr) -> Option<Option<u16>> {
        let free = CHANNEL_NUMBERS.start() + self.channels_used;
        let Some(peer) = self.find(address) else {
            // What is permitted is permitted for all ports of an address.
            return self.peers.iter().any(|peer| peer.address.ip() == address.ip()).then_some(None);
        };
        if peer.permission != Permission::Permitted
            || peer.channel.is_some()
            || !CHANNEL_NUMBERS.contains(&free)
        {
            return Some(None);
        }
        peer.channel = Some(free);
        peer.renew_at = None;
        self.channels_used += 1;
        Some(Some(free))
    }

    pub(super) fn by_channel(&self, number: u16) -> Option<SocketAddr> {
        // A peer may use a number as soon as the server knows it, which is before we know that it does.
        self.peers.iter().find(|peer| peer.channel == Some(number)).map(|peer| peer.address)
    }

    /// It may be sent to: what was kept for it.
    pub(super) fn set_permitted(&mut self, address: SocketAddr, now: Instant) -> VecDeque<Vec<u8>> {
        let Some(peer) = self.find(address) else { return VecDeque::new() };
        if !matches!(peer.permission, Permission::ChannelBound(_)) {
            peer.permission = Permission::Permitted;
        }
        peer.renew_at = Some(now + RENEW_INTERVAL);
        std::mem::take(&mut peer.buffered)
    }

    pub(super) fn set_denied(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.find(address) {
            peer.permission = Permission::Denied;
            peer.buffered.clear();
            peer.renew_at = Some(now + DENIED_RETRY_DELAY);
        }
    }

    pub(super) fn set_bound(&mut self, address: SocketAddr, number: u16, now: Instant) {
        if let Some(peer) = self.find(address) {
            peer.permission = Permission::ChannelBound(number);
            peer.renew_at = Some(now + RENEW_INTERVAL);
        }
    }

    /// It has no number, or no longer; whether it may still be sent to is asked at once.
    pub(super) fn set_unbound(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.find(address) {
            peer.permission = Permission::Permitted;
            peer.renew_at = Some(now);
        }
    }

    /// When there is something to renew or forget.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.renew_at).min()
    }

    /// Forgets those that nothing was sent to lately; what to ask again for the others, with their number.
    pub(super) fn take_due_renewals(&mut self, now: Instant) -> Vec<(SocketAddr, Option<u16>)> {
        let is_due = |peer: &Peer| peer.renew_at.is_some_and(|due| due <= now);
        let is_used = |peer: &Peer| now < peer.last_used + RENEW_INTERVAL;
        self.peers.retain(|peer| !is_due(peer) || is_used(peer));
        let mut asked = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| is_due(peer)) {
            peer.renew_at = None;
            if peer.permission == Permission::Denied {
                peer.permission = Permission::Pending;
            }
            let channel = match peer.permission {
                Permission::ChannelBound(number) => Some(number),
                Permission::Pending | Permission::Denied | Permission::Permitted => None,
            };
            asked.push((peer.address, channel));
        }
        asked
    }
}
