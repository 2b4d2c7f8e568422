//! All connections of a listener, and which of them is closed when there are too many. No IO; callers tell
//! the time.
//!
//! A new connection is never kept waiting: if there is no room, the least useful connection without an answer
//! under way is closed. So silent connections, however many, delay nobody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Limits;
use crate::address::limit_key;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// TLS is being agreed on.
    Handshake,
    /// Nothing has come yet.
    AwaitingFirstByte,
    /// A request's head is coming.
    ReadingHead,
    /// A request was answered, and no other has begun.
    Idle,
    /// A request's body is coming.
    ReadingBody,
    /// A request is being answered.
    Responding,
}

impl Phase {
    fn in_request(self) -> bool {
        self >= Self::ReadingBody
    }

    /// In which order connections are closed to make room, those with the same rank by age; never, if none.
    /// Whoever has sent nothing useful so far goes first, an answer under way is never cut off.
    fn eviction_rank(self) -> Option<u8> {
        match self {
            Self::Handshake | Self::AwaitingFirstByte | Self::ReadingHead => Some(0),
            Self::Idle => Some(1),
            Self::ReadingBody => Some(2),
            Self::Responding => None,
        }
    }
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Its address has as many as it may have, all of them with answers under way.
    PerAddressLimit,
    /// There are as many as there may be, all of them with answers under way.
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
    /// Entries whose phase is one of a request.
    requests: usize,
}

#[derive(Debug)]
struct Entry {
    /// The address that it is counted for; none if its address is not limited.
    limit_key: Option<IpAddr>,
    phase: Phase,
    since: Instant,
    evicted: Arc<Notify>,
}

/// A connection's place among all others, given back when it is dropped.
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

    /// Takes a new connection, and closes another one if there is no room for it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        now: Instant,
        peer: IpAddr,
        phase: Phase,
    ) -> Result<ConnectionSlot, Rejection> {
        let limits = &self.limits;
        let source = limits.applies_to(peer).then(|| limit_key(peer));
        let mut all = self.lock();
        if source.is_some()
            && all.count(|entry| entry.limit_key == source) >= limits.max_connections_per_address
            && !all.evict_one(|entry| entry.limit_key == source)
        {
            return Err(Rejection::PerAddressLimit);
        }
        let shaking = |entry: &Entry| entry.phase == Phase::Handshake;
        if phase == Phase::Handshake && all.count(shaking) >= limits.max_handshakes {
            all.evict_one(shaking);
        }
        if all.entries.len() >= limits.max_connections && !all.evict_one(|_| true) {
            return Err(Rejection::ConnectionLimit);
        }
        let (id, closed) = (all.next_id, Arc::new(Notify::new()));
        all.next_id += 1;
        all.entries.insert(id, Entry { limit_key: source, phase, since: now, evicted: Arc::clone(&closed) });
        drop(all);
        Ok(ConnectionSlot { id, connections: Arc::clone(self), evicted: closed })
    }

    /// Closes the connection that is needed least, if any can go.
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

    /// Closes the connection of these that is needed least, and says whether there was one.
    fn evict_one(&mut self, which: impl Fn(&Entry) -> bool) -> bool {
        let candidates = self.entries.iter().filter(|(_, entry)| which(entry));
        let ranked =
            candidates.filter_map(|(id, entry)| Some((entry.phase.eviction_rank()?, entry.since, *id)));
        let Some((_, _, id)) = ranked.min() else { return false };
        self.remove(id);
        true
    }

    /// Forgets a connection, and has it closed if it is not yet.
    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.requests -= usize::from(entry.phase.in_request());
        entry.evicted.notify_one();
    }

    fn set_phase(&mut self, id: u64, phase: Phase, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.requests -= usize::from(entry.phase.in_request());
        self.requests += usize::from(phase.in_request());
        (entry.phase, entry.since) = (phase, now);
    }
}

impl ConnectionSlot {
    pub(crate) fn limits(&self) -> &Limits {
        &self.connections.limits
    }

    /// Waits until the connection is closed to make room for others.
    pub(crate) async fn wait_until_evicted(&self) {
        self.evicted.notified().await;
    }

    /// Notes what the connection does from now on.
    pub(crate) fn set_phase(&self, now: Instant, phase: Phase) {
        self.connections.lock().set_phase(self.id, phase, now);
    }

    /// Notes that something came, if it is the beginning of a request's head.
    pub(crate) fn bytes_received(&self, now: Instant) {
        let mut all = self.connections.lock();
        if all
            .entries
            .get(&self.id)
            .is_some_and(|e| matches!(e.phase, Phase::AwaitingFirstByte | Phase::Idle))
        {
            all.set_phase(self.id, Phase::ReadingHead, now);
        }
    }

    /// Notes that a request's body is there, unless the request is over already.
    pub(crate) fn body_complete(&self, now: Instant) {
        let mut all = self.connections.lock();
        if all.entries.get(&self.id).is_some_and(|entry| entry.phase == Phase::ReadingBody) {
            all.set_phase(self.id, Phase::Responding, now);
        }
    }

    /// Begins a request, and says whether it may be answered: the last [`KeyedRateLimiter::reserved_requests`] places are for
    /// `reserved` ones. If there is none left, the request whose body has been coming for longest makes room.
    pub(crate) fn try_begin_request(&self, now: Instant, reserved: bool) -> bool {
        let limits = &self.connections.limits;
        let most = limits.max_connections
            - if reserved { 0 } else { limits.reserved_requests.min(limits.max_connections) };
        let mut all = self.connections.lock();
        if !all.entries.contains_key(&self.id) {
            return false;
        }
        if all.requests >= most && !all.evict_one(|entry| entry.phase == Phase::ReadingBody) {
            return false;
        }
        all.set_phase(self.id, Phase::ReadingBody, now);
        true
    }

    /// When the connection has had its time for what it does; never, while it is answered.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let limits = &self.connections.limits;
        let all = self.connections.lock();
        let entry = all.entries.get(&self.id)?;
        let time = match entry.phase {
            Phase::Handshake => limits.handshake_timeout,
            Phase::AwaitingFirstByte => limits.first_byte_timeout,
            Phase::ReadingHead => limits.header_timeout,
            Phase::Idle => limits.idle_timeout,
            // How long a body may take depends on whose it is, which the handlers know.
            Phase::ReadingBody | Phase::Responding => return None,
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
