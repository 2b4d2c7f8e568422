//! Statistics and snapshots in memory: the [`crate::Telemetry`] part of the backend.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{CastId, CastStats, MAX_SNAPSHOT_BYTES, Ticket, UnixMs, WorkerId, WorkerStatus};

/// Time without a heartbeat after which a worker counts as gone, in milliseconds: several heartbeat
/// intervals.
const WORKER_TIMEOUT_MS: i64 = 30_000;

/// Casts that have an owner, and workers.
#[derive(Default)]
pub(super) struct TelemetryTable(Mutex<TelemetryState>);

#[derive(Default)]
struct TelemetryState {
    /// Owners as committed, so that statistics need no database access.
    casts: HashMap<CastId, OwnedCast>,
    workers: HashMap<WorkerId, (UnixMs, WorkerStatus)>,
}

/// Owner of a cast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// Worker that owns the cast.
    pub worker: WorkerId,
    /// Epoch of its ticket.
    pub epoch: u64,
}

/// Telemetry of a cast, discarded when the owner changes.
struct OwnedCast {
    owner: Owner,
    stats: Option<CastStats>,
    snapshot: Option<(UnixMs, Bytes)>,
}

impl TelemetryTable {
    fn lock(&self) -> MutexGuard<'_, TelemetryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the new owner of a cast.
    pub(super) fn set_owner(&self, id: CastId, owner: Owner) {
        self.lock().casts.insert(id, OwnedCast { owner, stats: None, snapshot: None });
    }

    /// Records that a cast has no owner.
    pub(super) fn clear_owner(&self, id: &CastId) {
        self.lock().casts.remove(id);
    }

    pub(super) fn stats(&self, id: &CastId) -> Option<CastStats> {
        self.lock().casts.get(id)?.stats.clone()
    }

    pub(super) fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        self.lock().casts.get(id)?.snapshot.clone()
    }

    pub(super) fn put_stats(&self, ticket: &Ticket, stats: CastStats) {
        if let Some(owned) = self.lock().get_owned(ticket) {
            owned.stats = Some(stats);
        }
    }

    pub(super) fn put_snapshot(&self, ticket: &Ticket, now: UnixMs, jpeg: Bytes) {
        if jpeg.len() <= MAX_SNAPSHOT_BYTES
            && let Some(owned) = self.lock().get_owned(ticket)
        {
            owned.snapshot = Some((now, jpeg));
        }
    }

    pub(super) fn heartbeat(&self, worker: &WorkerId, now: UnixMs, status: WorkerStatus) {
        let mut state = self.lock();
        state.workers.retain(|_, (heartbeat, _)| is_recent(*heartbeat, now));
        state.workers.insert(worker.clone(), (now, status));
    }

    /// Workers with a recent heartbeat, ordered by name.
    pub(super) fn workers(&self, now: UnixMs) -> Vec<(WorkerId, WorkerStatus)> {
        let state = self.lock();
        let recent = state.workers.iter().filter(|(_, (heartbeat, _))| is_recent(*heartbeat, now));
        let mut workers: Vec<_> = recent.map(|(id, (_, status))| (id.clone(), status.clone())).collect();
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

fn is_recent(heartbeat: UnixMs, now: UnixMs) -> bool {
    now.saturating_sub(heartbeat) <= WORKER_TIMEOUT_MS
}
