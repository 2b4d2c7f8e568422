//! Peers of a TURN allocation, with their permissions and channels.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most peers; data for others is dropped. A server has a few candidates.
const MAX_PEERS: usize = 64;
/// Packets kept for a peer until its permission exists; the oldest is dropped. They are ICE checks.
const MAX_BUFFERED_PACKETS: usize = 8;
/// Interval of renewals: permissions last five minutes, channels ten (RFC 8656 sections 9 and 12).
const RENEW_INTERVAL: Duration = Duration::from_secs(240);
/// Delay before a denied permission is requested again.
const DENIED_RETRY_DELAY: Duration = Duration::from_secs(60);
/// Channel numbers (RFC 8656 section 12). Each is used for one peer only.
const CHANNEL_NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x4FFF;

/// Permission of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// It was requested.
    Pending,
    /// The server denied it.
    Denied,
    /// Data is sent in Send indications.
    Permitted,
    /// Data is sent over this channel.
    ChannelBound(u16),
}

#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    pub(super) permission: Permission,
    /// Channel number that was requested.
    channel: Option<u16>,
    buffered: VecDeque<Vec<u8>>,
    last_used: Instant,
    /// When to renew or remove the peer; `None` while a request is pending.
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
    /// Channel numbers used so far.
    channels_used: u16,
}

impl Peers {
    fn find(&mut self, address: SocketAddr) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.address == address)
    }

    /// The peer with this address, and whether it is new. `None` if there are too many.
    pub(super) fn get_or_insert(&mut self, address: SocketAddr, now: Instant) -> Option<(&mut Peer, bool)> {
        let found = self.peers.iter().position(|peer| peer.address == address);
        let index = match found {
            Some(index) => index,
            None if self.peers.len() == MAX_PEERS => return None,
            None => {
                self.peers.push(Peer {
                    address,
                    permission: Permission::Pending,
                    channel: None,
                    buffered: VecDeque::new(),
                    last_used: now,
                    renew_at: None,
                });
                self.peers.len() - 1
            }
        };
        self.peers[index].last_used = now;
        Some((&mut self.peers[index], found.is_none()))
    }

    /// Notes data from a peer and returns the channel number to request, if it needs one. `None` if the peer
    /// has no permission.
    pub(super) fn on_data_received(&mut self, address: SocketAddr) -> Option<Option<u16>> {
        let free = CHANNEL_NUMBERS.start() + self.channels_used;
        let Some(peer) = self.find(address) else {
            // A permission covers all ports of an address.
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
        // The server may use a channel before its response to ChannelBind arrives here.
        self.peers.iter().find(|peer| peer.channel == Some(number)).map(|peer| peer.address)
    }

    /// Marks a peer as permitted and returns the packets that were kept for it.
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

    /// Marks a peer as one without a channel. Its permission is renewed at once.
    pub(super) fn set_unbound(&mut self, address: SocketAddr, now: Instant) {
        if let Some(peer) = self.find(address) {
            peer.permission = Permission::Permitted;
            peer.renew_at = Some(now);
        }
    }

    /// When a peer must be renewed or removed next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.renew_at).min()
    }

    /// Removes peers without recent data and returns the others that must be renewed, with their channel.
    pub(super) fn take_due_renewals(&mut self, now: Instant) -> Vec<(SocketAddr, Option<u16>)> {
        let is_due = |peer: &Peer| peer.renew_at.is_some_and(|due| due <= now);
        let is_used = |peer: &Peer| now < peer.last_used + RENEW_INTERVAL;
        self.peers.retain(|peer| !is_due(peer) || is_used(peer));
        let mut renewals = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| is_due(peer)) {
            peer.renew_at = None;
            if peer.permission == Permission::Denied {
                peer.permission = Permission::Pending;
            }
            let channel = match peer.permission {
                Permission::ChannelBound(number) => Some(number),
                Permission::Pending | Permission::Denied | Permission::Permitted => None,
            };
            renewals.push((peer.address, channel));
        }
        renewals
    }
}
