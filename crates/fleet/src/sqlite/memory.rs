//! What is not kept: how casts and workers get on right now.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{CastId, Load, MAX_SNAPSHOT_BYTES, Ticket, UnixMs, Vitals, WorkerId};

/// A worker that was not heard of for so long is not there any more.
const LATELY_MS: i64 = 30_000;

/// Casts that somebody owns, and workers.
#[derive(Default)]
pub(super) struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    /// As committed, so that nobody has to ask the database about each sign of life.
    owned: HashMap<CastId, Owned>,
    loads: HashMap<WorkerId, (UnixMs, Load)>,
}

/// Whose a cast is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The worker.
    pub worker: WorkerId,
    /// Its ticket's number.
    pub epoch: u64,
}

/// What a new owner begins anew.
struct Owned {
    owner: Owner,
    vitals: Option<Vitals>,
    snapshot: Option<(UnixMs, Bytes)>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cast has another owner.
    pub(super) fn owns(&self, id: CastId, owner: Owner) {
        self.lock().owned.insert(id, Owned { owner, vitals: None, snapshot: None });
    }

    /// A cast has no owner.
    pub(super) fn free(&self, id: &CastId) {
        self.lock().owned.remove(id);
    }

    pub(super) fn vitals(&self, id: &CastId) -> Option<Vitals> {
        self.lock().owned.get(id)?.vitals.clone()
    }

    pub(super) fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        self.lock().owned.get(id)?.snapshot.clone()
    }

    pub(super) fn tell(&self, ticket: &Ticket, vitals: Vitals) {
        if let Some(owned) = self.lock().of(ticket) {
            owned.vitals = Some(vitals);
        }
    }

    pub(super) fn put_snapshot(&self, ticket: &Ticket, now: UnixMs, jpeg: Bytes) {
        if jpeg.len() <= MAX_SNAPSHOT_BYTES
            && let Some(owned) = self.lock().of(ticket)
        {
            owned.snapshot = Some((now, jpeg));
        }
    }

    pub(super) fn beat(&self, worker: &WorkerId, now: UnixMs, load: Load) {
        let mut state = self.lock();
        state.loads.retain(|_, (heard, _)| is_lately(*heard, now));
        state.loads.insert(worker.clone(), (now, load));
    }

    /// In the order of their names.
    pub(super) fn workers(&self, now: UnixMs) -> Vec<(WorkerId, Load)> {
        let state = self.lock();
        let lately = state.loads.iter().filter(|(_, (heard, _))| is_lately(*heard, now));
        let mut workers: Vec<_> = lately.map(|(id, (_, load))| (id.clone(), load.clone())).collect();
        workers.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0));
        workers
    }
}

impl State {
    fn of(&mut self, ticket: &Ticket) -> Option<&mut Owned> {
        let owned = self.owned.get_mut(&ticket.cast)?;
        (owned.owner.worker == ticket.worker && owned.owner.epoch == ticket.epoch).then_some(owned)
    }
}

fn is_lately(heard: UnixMs, now: UnixMs) -> bool {
    now.saturating_sub(heard) <= LATELY_MS
}
