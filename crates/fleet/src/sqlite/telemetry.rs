//! What is not kept: how casts and workers get on right now.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{CastId, CastStats, MAX_SNAPSHOT_BYTES, Ticket, UnixMs, WorkerId, WorkerStatus};

/// A worker that was not heard of for so long is not there any more.
const WORKER_TIMEOUT_MS: i64 = 30_000;

/// Casts that somebody owns, and workers.
#[derive(Default)]
pub(super) struct Telemetry(Mutex<TelemetryState>);

#[derive(Default)]
struct TelemetryState {
    /// As committed, so that nobody has to ask the database about each sign of life.
    casts: HashMap<CastId, OwnedCast>,
    workers: HashMap<WorkerId, (UnixMs, WorkerStatus)>,
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
struct OwnedCast {
    owner: Owner,
    stats: Option<CastStats>,
    snapshot: Option<(UnixMs, Bytes)>,
}

impl Telemetry {
    fn lock(&self) -> MutexGuard<'_, TelemetryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cast has another owner.
    pub(super) fn set_owner(&self, id: CastId, owner: Owner) {
        self.lock().casts.insert(id, OwnedCast { owner, stats: None, snapshot: None });
    }

    /// A cast has no owner.
    pub(super) fn clear_owner(&self, id: &CastId) {
        self.lock().casts.remove(id);
    }

    pub(super) fn stats(&self, id: &CastId) -> Option<CastStats> {
        self.lock().casts.get(id)?.stats.clone()
    }

    pub(super) fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        self.lock().casts.get(id)?.snapshot.clone()
    }

    pub(super) fn put_stats(&self, ticket: &Ticket, vitals: CastStats) {
        if let Some(owned) = self.lock().get_owned(ticket) {
            owned.stats = Some(vitals);
        }
    }

    pub(super) fn put_snapshot(&self, ticket: &Ticket, now: UnixMs, jpeg: Bytes) {
        if jpeg.len() <= MAX_SNAPSHOT_BYTES
            && let Some(owned) = self.lock().get_owned(ticket)
        {
            owned.snapshot = Some((now, jpeg));
        }
    }

    pub(super) fn heartbeat(&self, worker: &WorkerId, now: UnixMs, load: WorkerStatus) {
        let mut state = self.lock();
        state.workers.retain(|_, (heard, _)| is_recent(*heard, now));
        state.workers.insert(worker.clone(), (now, load));
    }

    /// In the order of their names.
    pub(super) fn workers(&self, now: UnixMs) -> Vec<(WorkerId, WorkerStatus)> {
        let state = self.lock();
        let lately = state.workers.iter().filter(|(_, (heard, _))| is_recent(*heard, now));
        let mut workers: Vec<_> = lately.map(|(id, (_, load))| (id.clone(), load.clone())).collect();
        workers.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0));
        workers
    }
}

impl TelemetryState {
    fn get_owned(&mut self, ticket: &Ticket) -> Option<&mut OwnedCast> {
        let owned = self.casts.get_mut(&ticket.cast)?;
        (owned.owner.worker == ticket.worker && owned.owner.epoch == ticket.epoch).then_some(owned)
    }
}

fn is_recent(heard: UnixMs, now: UnixMs) -> bool {
    now.saturating_sub(heard) <= WORKER_TIMEOUT_MS
}
