//! Table of a listener's connections, and the choice of which to evict when there are too many. No IO;
//! callers pass the time.
//!
//! A new connection never waits: if there is no room, the least useful connection without a response under
//! way is evicted. So silent connections do not delay others, however many there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Limits;
use crate::address::limit_key;

/// Phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The TLS handshake is under way.
    Handshake,
    /// No byte of the first request has arrived.
    AwaitingFirstByte,
    /// The head of a request is arriving.
    ReadingHead,
    /// A response was sent, and no further request has started.
    Idle,
    /// The body of a request is arriving.
    ReadingBody,
    /// A response is being prepared or sent.
    Responding,
    /// An event stream is being sent, which [`Limits::max_event_streams`] alone limits.
    EventStream,
}

impl Phase {
    fn in_request(self) -> bool {
        matches!(self, Self::ReadingBody | Self::Responding)
    }

    /// Rank by which connections are evicted, the lowest first and the oldest first within a rank; `None`
    /// means never. Connections that have sent nothing useful go first, and a response under way is never cut
    /// off.
    fn eviction_rank(self) -> Option<u8> {
        match self {
            Self::Handshake | Self::AwaitingFirstByte | Self::ReadingHead => Some(0),
            Self::Idle => Some(1),
            Self::ReadingBody => Some(2),
            Self::Responding | Self::EventStream => None,
        }
    }
}

/// Reason why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Its address has reached its limit, and table of its connections have responses under way.
    PerAddressLimit,
    /// The listener has reached its limit, and table connections have responses under way.
    ConnectionLimit,
}

#[derive(Debug)]
pub(crate) struct Connections {
    limits: Limits,
    table: Mutex<ConnectionTable>,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    next_id: u64,
    entries: HashMap<u64, Entry>,
    /// Number of entries in a phase of a request.
    requests: usize,
    /// Number of entries with an event stream.
    event_streams: usize,
}

#[derive(Debug)]
struct Entry {
    /// Source that the connection counts for; `None` if its address is not limited.
    limit_key: Option<IpAddr>,
    phase: Phase,
    since: Instant,
    evicted: Arc<Notify>,
}

/// Entry of a connection in the table, removed on drop.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    id: u64,
    connections: Arc<Connections>,
    evicted: Arc<Notify>,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default() })
    }

    /// Admits a new connection, and evicts another if there is no room.
    pub(crate) fn admit(
        self: &Arc<Self>,
        now: Instant,
        peer: IpAddr,
        phase: Phase,
    ) -> Result<ConnectionSlot, Rejection> {
        let limits = &self.limits;
        let limit_key = limits.applies_to(peer).then(|| limit_key(peer));
        let mut table = self.lock();
        let same_address = |entry: &Entry| entry.limit_key == limit_key && entry.phase != Phase::EventStream;
        // Loops, because connections whose event streams have ended count again and may exceed a limit.
        while limit_key.is_some() && table.count(same_address) >= limits.max_connections_per_address {
            if !table.evict_one(same_address) {
                return Err(Rejection::PerAddressLimit);
            }
        }
        let in_handshake = |entry: &Entry| entry.phase == Phase::Handshake;
        if phase == Phase::Handshake && table.count(in_handshake) >= limits.max_handshakes {
            table.evict_one(in_handshake);
        }
        while table.entries.len() - table.event_streams >= limits.max_connections {
            if !table.evict_one(|_| true) {
                return Err(Rejection::ConnectionLimit);
            }
        }
        let (id, evicted) = (table.next_id, Arc::new(Notify::new()));
        table.next_id += 1;
        table.entries.insert(id, Entry { limit_key, phase, since: now, evicted: Arc::clone(&evicted) });
        drop(table);
        Ok(ConnectionSlot { id, connections: Arc::clone(self), evicted })
    }

    /// Evicts the least useful connection, and returns whether there was one to evict.
    pub(crate) fn evict_one(&self) -> bool {
        self.lock().evict_one(|_| true)
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }
}

impl ConnectionTable {
    fn count(&self, which: impl Fn(&Entry) -> bool) -> usize {
        self.entries.values().filter(|entry| which(entry)).count()
    }

    /// Evicts the least useful connection among those selected, and returns whether there was one.
    fn evict_one(&mut self, which: impl Fn(&Entry) -> bool) -> bool {
        let candidates = self.entries.iter().filter(|(_, entry)| which(entry));
        let ranked =
            candidates.filter_map(|(id, entry)| Some((entry.phase.eviction_rank()?, entry.since, *id)));
        let Some((_, _, id)) = ranked.min() else { return false };
        self.remove(id);
        true
    }

    /// Removes a connection, which closes it if it is still open.
    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.uncount(entry.phase);
        entry.evicted.notify_one();
    }

    fn set_phase(&mut self, id: u64, phase: Phase, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.phase, phase);
        entry.since = now;
        self.uncount(before);
        self.requests += usize::from(phase.in_request());
        self.event_streams += usize::from(phase == Phase::EventStream);
    }

    /// Counts one entry less in a phase.
    fn uncount(&mut self, phase: Phase) {
        self.requests -= usize::from(phase.in_request());
        self.event_streams -= usize::from(phase == Phase::EventStream);
    }
}

impl ConnectionSlot {
    pub(crate) fn limits(&self) -> &Limits {
        &self.connections.limits
    }

    /// Waits until the connection is evicted.
    pub(crate) async fn wait_until_evicted(&self) {
        self.evicted.notified().await;
    }

    /// Records the phase that the connection enters.
    pub(crate) fn set_phase(&self, now: Instant, phase: Phase) {
        self.connections.lock().set_phase(self.id, phase, now);
    }

    /// Records that bytes arrived, which may be the start of a request's head.
    pub(crate) fn bytes_received(&self, now: Instant) {
        let mut table = self.connections.lock();
        if table
            .entries
            .get(&self.id)
            .is_some_and(|e| matches!(e.phase, Phase::AwaitingFirstByte | Phase::Idle))
        {
            table.set_phase(self.id, Phase::ReadingHead, now);
        }
    }

    /// Records that a request's body is complete, unless the request has already ended.
    pub(crate) fn body_complete(&self, now: Instant) {
        let mut table = self.connections.lock();
        if table.entries.get(&self.id).is_some_and(|entry| entry.phase == Phase::ReadingBody) {
            table.set_phase(self.id, Phase::Responding, now);
        }
    }

    /// Starts a request, and returns whether it may be answered. The last [`Limits::reserved_requests`]
    /// places are for `reserved` requests. If no place is left, the request whose body has been arriving
    /// longest is evicted.
    pub(crate) fn try_begin_request(&self, now: Instant, reserved: bool) -> bool {
        let limits = &self.connections.limits;
        let max = limits.max_connections
            - if reserved { 0 } else { limits.reserved_requests.min(limits.max_connections) };
        let mut table = self.connections.lock();
        if !table.entries.contains_key(&self.id) {
            return false;
        }
        if table.requests >= max && !table.evict_one(|entry| entry.phase == Phase::ReadingBody) {
            return false;
        }
        table.set_phase(self.id, Phase::ReadingBody, now);
        true
    }

    /// Records that the response is an event stream, unless there are too many of them.
    pub(crate) fn begin_event_stream(&self, now: Instant) {
        let mut table = self.connections.lock();
        if table.event_streams < self.connections.limits.max_event_streams {
            table.set_phase(self.id, Phase::EventStream, now);
        }
    }

    /// Time at which the current phase times out; `None` during a request's body and response.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let limits = &self.connections.limits;
        let table = self.connections.lock();
        let entry = table.entries.get(&self.id)?;
        let time = match entry.phase {
            Phase::Handshake => limits.handshake_timeout,
            Phase::AwaitingFirstByte => limits.first_byte_timeout,
            Phase::ReadingHead => limits.header_timeout,
            Phase::Idle => limits.idle_timeout,
            // The time for a body depends on the client, which the handlers know.
            Phase::ReadingBody | Phase::Responding | Phase::EventStream => return None,
        };
        Some(entry.since + time)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests;
