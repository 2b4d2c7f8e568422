//! Statistics and snapshots in memory, with the owners that may replace them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{
    CastId, CastStats, Error, HeartbeatResponse, MAX_SNAPSHOT_BYTES, Ticket, UnixMs, WorkerId, WorkerStatus,
};

/// Time without a heartbeat after which a worker counts as gone, in milliseconds: several heartbeat
/// intervals.
pub(crate) const WORKER_TIMEOUT_MS: i64 = 30_000;

/// Casts that have an owner, and workers.
#[derive(Default)]
pub(crate) struct TelemetryTable(Mutex<TelemetryState>);

#[derive(Default)]
struct TelemetryState {
    /// Owners as committed, so that statistics need no database access.
    casts: HashMap<CastId, OwnedCast>,
    workers: HashMap<WorkerId, Heartbeat>,
    /// Process of each worker that registered last.
    instances: HashMap<WorkerId, u64>,
}

/// The newest heartbeat of a worker.
struct Heartbeat {
    at_ms: UnixMs,
    status: WorkerStatus,
    drain_requested: bool,
}

/// Owner of a cast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Worker that owns the cast.
    pub worker: WorkerId,
    /// Epoch of its ticket.
    pub epoch: u64,
    /// Nonce of its ticket.
    pub nonce: u64,
}

impl Owner {
    /// The owner that a ticket names.
    pub(crate) fn of(ticket: &Ticket) -> Self {
        Self { worker: ticket.worker.clone(), epoch: ticket.epoch, nonce: ticket.nonce }
    }
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
    pub(crate) fn set_owner(&self, id: CastId, owner: Owner) {
        self.lock().casts.insert(id, OwnedCast { owner, stats: None, snapshot: None });
    }

    /// Records that a cast has no owner.
    pub(crate) fn clear_owner(&self, id: &CastId) {
        self.lock().casts.remove(id);
    }

    /// Whether this is the known owner of a cast.
    #[must_use]
    pub(crate) fn is_owner(&self, id: &CastId, owner: &Owner) -> bool {
        self.lock().casts.get(id).is_some_and(|owned| owned.owner == *owner)
    }

    /// Statistics of all casts of a worker, with their owners.
    pub(crate) fn stats_of(&self, worker: &WorkerId) -> Vec<(CastId, Owner, CastStats)> {
        let state = self.lock();
        let owned = state.casts.iter().filter(|(_, owned)| owned.owner.worker == *worker);
        let stats =
            owned.filter_map(|(id, owned)| Some((id.clone(), owned.owner.clone(), owned.stats.clone()?)));
        stats.collect()
    }

    pub(crate) fn stats(&self, id: &CastId) -> Option<CastStats> {
        self.lock().casts.get(id)?.stats.clone()
    }

    pub(crate) fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        self.lock().casts.get(id)?.snapshot.clone()
    }

    pub(crate) fn put_stats(&self, ticket: &Ticket, stats: CastStats) {
        if let Some(owned) = self.lock().get_owned(ticket) {
            owned.stats = Some(stats);
        }
    }

    pub(crate) fn put_snapshot(&self, ticket: &Ticket, now: UnixMs, jpeg: Bytes) {
        if jpeg.len() <= MAX_SNAPSHOT_BYTES
            && let Some(owned) = self.lock().get_owned(ticket)
        {
            owned.snapshot = Some((now, jpeg));
        }
    }

    /// Records the process of a worker, which replaces an earlier one.
    pub(crate) fn set_instance(&self, worker: &WorkerId, instance: u64) {
        let mut state = self.lock();
        state.workers.remove(worker);
        state.instances.insert(worker.clone(), instance);
    }

    /// Fails with [`Error::Replaced`] if another process of the worker has registered.
    pub(crate) fn check_instance(&self, worker: &WorkerId, instance: u64) -> Result<(), Error> {
        match self.lock().instances.get(worker) {
            Some(registered) if *registered != instance => Err(Error::Replaced(worker.clone())),
            _ => Ok(()),
        }
    }

    pub(crate) fn heartbeat(
        &self,
        worker: &WorkerId,
        now: UnixMs,
        status: WorkerStatus,
    ) -> HeartbeatResponse {
        let mut state = self.lock();
        state.workers.retain(|_, heartbeat| is_recent(heartbeat.at_ms, now));
        let drain_requested = state.workers.get(worker).is_some_and(|last| last.drain_requested);
        state.workers.insert(worker.clone(), Heartbeat { at_ms: now, status, drain_requested });
        drop(state);
        let others = self.workers(now).into_iter().filter(|(id, _)| id != worker).collect();
        HeartbeatResponse { drain_requested, others }
    }

    /// Asks a worker with a recent heartbeat to drain, and returns whether there is one.
    pub(crate) fn request_drain(&self, worker: &WorkerId, now: UnixMs) -> bool {
        let mut state = self.lock();
        let found = state.workers.get_mut(worker).filter(|heartbeat| is_recent(heartbeat.at_ms, now));
        found.map(|heartbeat| heartbeat.drain_requested = true).is_some()
    }

    /// Workers with a recent heartbeat, ordered by name.
    pub(crate) fn workers(&self, now: UnixMs) -> Vec<(WorkerId, WorkerStatus)> {
        let state = self.lock();
        let recent = state.workers.iter().filter(|(_, heartbeat)| is_recent(heartbeat.at_ms, now));
        let status = |Heartbeat { at_ms, status, drain_requested }: &Heartbeat| WorkerStatus {
            draining: status.draining || *drain_requested,
            heartbeat_age_ms: now.saturating_sub(*at_ms).max(0).unsigned_abs(),
            ..status.clone()
        };
        let mut workers: Vec<_> = recent.map(|(id, heartbeat)| (id.clone(), status(heartbeat))).collect();
        workers.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0));
        workers
    }
}

impl TelemetryState {
    fn get_owned(&mut self, ticket: &Ticket) -> Option<&mut OwnedCast> {
        let owned = self.casts.get_mut(&ticket.cast)?;
        (owned.owner == Owner::of(ticket)).then_some(owned)
    }
}

fn is_recent(heartbeat: UnixMs, now: UnixMs) -> bool {
    now.saturating_sub(heartbeat) <= WORKER_TIMEOUT_MS
}
