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
use crate::address::source;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// TLS is being agreed on.
    Handshake,
    /// Nothing has come yet.
    Silent,
    /// A request's head is coming.
    Head,
    /// A request was answered, and no other has begun.
    Idle,
    /// A request's body is coming.
    Body,
    /// A request is being answered.
    Answer,
}

impl Phase {
    fn in_request(self) -> bool {
        self >= Self::Body
    }

    /// In which order connections are closed to make room, those with the same rank by age; never, if none.
    /// Whoever has sent nothing useful so far goes first, an answer under way is never cut off.
    fn rank(self) -> Option<u8> {
        match self {
            Self::Handshake | Self::Silent | Self::Head => Some(0),
            Self::Idle => Some(1),
            Self::Body => Some(2),
            Self::Answer => None,
        }
    }
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its address has as many as it may have, all of them with answers under way.
    Address,
    /// There are as many as there may be, all of them with answers under way.
    Full,
}

#[derive(Debug)]
pub(crate) struct Connections {
    limits: Limits,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    next_id: u64,
    entries: HashMap<u64, Entry>,
    /// Entries whose phase is one of a request.
    requests: usize,
}

#[derive(Debug)]
struct Entry {
    /// The address that it is counted for; none if its address is not limited.
    source: Option<IpAddr>,
    phase: Phase,
    since: Instant,
    closed: Arc<Notify>,
}

/// A connection's place among all others, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    connections: Arc<Connections>,
    closed: Arc<Notify>,
}

impl Connections {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, all: Mutex::default() })
    }

    /// Takes a new connection, and closes another one if there is no room for it.
    pub(crate) fn admit(
        self: &Arc<Self>,
        now: Instant,
        peer: IpAddr,
        phase: Phase,
    ) -> Result<Place, Refused> {
        let limits = &self.limits;
        let source = limits.counts(peer).then(|| source(peer));
        let mut all = self.lock();
        if source.is_some()
            && all.count(|entry| entry.source == source) >= limits.per_address
            && !all.close_one(|entry| entry.source == source)
        {
            return Err(Refused::Address);
        }
        let shaking = |entry: &Entry| entry.phase == Phase::Handshake;
        if phase == Phase::Handshake && all.count(shaking) >= limits.handshakes {
            all.close_one(shaking);
        }
        if all.entries.len() >= limits.connections && !all.close_one(|_| true) {
            return Err(Refused::Full);
        }
        let (id, closed) = (all.next_id, Arc::new(Notify::new()));
        all.next_id += 1;
        all.entries.insert(id, Entry { source, phase, since: now, closed: Arc::clone(&closed) });
        drop(all);
        Ok(Place { id, connections: Arc::clone(self), closed })
    }

    /// Closes the connection that is needed least, if any can go.
    pub(crate) fn close_one(&self) -> bool {
        self.lock().close_one(|_| true)
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }
}

impl All {
    fn count(&self, which: impl Fn(&Entry) -> bool) -> usize {
        self.entries.values().filter(|entry| which(entry)).count()
    }

    /// Closes the connection of these that is needed least, and says whether there was one.
    fn close_one(&mut self, which: impl Fn(&Entry) -> bool) -> bool {
        let candidates = self.entries.iter().filter(|(_, entry)| which(entry));
        let ranked = candidates.filter_map(|(id, entry)| Some((entry.phase.rank()?, entry.since, *id)));
        let Some((_, _, id)) = ranked.min() else { return false };
        self.remove(id);
        true
    }

    /// Forgets a connection, and has it closed if it is not yet.
    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.requests -= usize::from(entry.phase.in_request());
        entry.closed.notify_one();
    }

    fn set(&mut self, id: u64, phase: Phase, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.requests -= usize::from(entry.phase.in_request());
        self.requests += usize::from(phase.in_request());
        (entry.phase, entry.since) = (phase, now);
    }
}

impl Place {
    pub(crate) fn limits(&self) -> &Limits {
        &self.connections.limits
    }

    /// Waits until the connection is closed to make room for others.
    pub(crate) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// Notes what the connection does from now on.
    pub(crate) fn set(&self, now: Instant, phase: Phase) {
        self.connections.lock().set(self.id, phase, now);
    }

    /// Notes that something came, if it is the beginning of a request's head.
    pub(crate) fn came(&self, now: Instant) {
        let mut all = self.connections.lock();
        if all.entries.get(&self.id).is_some_and(|e| matches!(e.phase, Phase::Silent | Phase::Idle)) {
            all.set(self.id, Phase::Head, now);
        }
    }

    /// Notes that a request's body is there, unless the request is over already.
    pub(crate) fn complete(&self, now: Instant) {
        let mut all = self.connections.lock();
        if all.entries.get(&self.id).is_some_and(|entry| entry.phase == Phase::Body) {
            all.set(self.id, Phase::Answer, now);
        }
    }

    /// Begins a request, and says whether it may be answered: the last [`Limits::reserved`] places are for
    /// `reserved` ones. If there is none left, the request whose body has been coming for longest makes room.
    pub(crate) fn begin(&self, now: Instant, reserved: bool) -> bool {
        let limits = &self.connections.limits;
        let most = limits.connections - if reserved { 0 } else { limits.reserved.min(limits.connections) };
        let mut all = self.connections.lock();
        if !all.entries.contains_key(&self.id) {
            return false;
        }
        if all.requests >= most && !all.close_one(|entry| entry.phase == Phase::Body) {
            return false;
        }
        all.set(self.id, Phase::Body, now);
        true
    }

    /// When the connection has had its time for what it does; never, while it is answered.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let limits = &self.connections.limits;
        let all = self.connections.lock();
        let entry = all.entries.get(&self.id)?;
        let time = match entry.phase {
            Phase::Handshake => limits.handshake,
            Phase::Silent => limits.first_byte,
            Phase::Head => limits.head,
            Phase::Idle => limits.idle,
            // How long a body may take depends on whose it is, which the handlers know.
            Phase::Body | Phase::Answer => return None,
        };
        Some(entry.since + time)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests;
