//! What there is to do: one statement for all loops of this process, at most one for each wake-up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::Row;

use super::sql::{TxError, params};
use super::sweep::{COMMITTED_RETENTION_MS, DUE_COLUMNS, Due};
use super::transaction::Db;
use super::{PostgresFleet, Shared};
use crate::clock::CLOCK_JUMP_MS;
use crate::delivery::duration_between;
use crate::{Error, PendingWork};

/// What was found last.
#[derive(Debug, Default)]
pub(super) struct LastFound(Mutex<Option<Found>>);

/// What a statement found.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Number of the wake-up after which it was read.
    wakeup: u64,
    /// Fleet time, and monotonic time of this process.
    fleet_ms: i64,
    monotonic_ms: i64,
    has_queued: bool,
    has_commands: bool,
    /// End of the lease of another worker that ends first.
    lease_until_ms: Option<i64>,
    /// Time at which an outbox entry is due that no other process delivers.
    next_delivery_ms: Option<i64>,
    documents_version: i64,
    sweep: Due,
}

impl Found {
    /// Reads what there is to do for a node.
    async fn read(db: &Db<'_>, node: &str) -> Result<Self, TxError> {
        let columns = format!(
            "{DUE_COLUMNS},
             EXISTS (SELECT 1 FROM casts WHERE state = 0) AS has_queued,
             EXISTS (SELECT 1 FROM commands JOIN leases USING (id) WHERE worker = $4) AS has_commands,
             (SELECT min(until_ms) FROM leases WHERE worker IS DISTINCT FROM $4) AS lease_until_ms,
             (SELECT next_ms FROM outbox
              WHERE next_ms IS NOT NULL
                AND (claimed_by IS NULL OR claimed_by = $4 OR claimed_until_ms <= fleet_ms)
              ORDER BY next_ms LIMIT 1) AS next_delivery_ms,
             (SELECT version FROM document_version) AS documents_version"
        );
        let params = params![db.shared.retention_ms, CLOCK_JUMP_MS, COMMITTED_RETENTION_MS, node];
        let read = |row: &Row| {
            Ok(Self {
                wakeup: 0,
                fleet_ms: 0,
                monotonic_ms: 0,
                has_queued: row.try_get("has_queued")?,
                has_commands: row.try_get("has_commands")?,
                lease_until_ms: row.try_get("lease_until_ms")?,
                next_delivery_ms: row.try_get("next_delivery_ms")?,
                documents_version: row.try_get("documents_version")?,
                sweep: Due::from_row(row)?,
            })
        };
        let (now, found) = db.clock_and(&columns, params, read).await?;
        Ok(Self { fleet_ms: now.fleet_ms(), monotonic_ms: db.shared.clock.monotonic_ms(), ..found })
    }

    /// What there is to do now: what was not due when it was read may be due meanwhile.
    fn now(&self, shared: &Shared) -> PendingWork {
        let monotonic_ms = shared.clock.monotonic_ms();
        let fleet_ms = self.fleet_ms.saturating_add(monotonic_ms.saturating_sub(self.monotonic_ms));
        let until = |at: Option<i64>| at.map(|at| duration_between(fleet_ms, at));
        let next_lease_end_in = until(self.lease_until_ms);
        PendingWork {
            has_queued: self.has_queued,
            has_expired_leases: next_lease_end_in == Some(Duration::ZERO),
            next_lease_end_in,
            has_commands: self.has_commands,
            needs_sweep: self.sweep.is_due(fleet_ms)
                || monotonic_ms >= shared.next_partitions_ms.load(Ordering::Relaxed),
            next_delivery_in: until(self.next_delivery_ms),
            documents_version: Some(self.documents_version.unsigned_abs()),
        }
    }
}

impl PostgresFleet {
    /// What there is to do, read after the last wake-up.
    pub(super) async fn read_pending_work(&self) -> Result<PendingWork, Error> {
        // Whoever comes meanwhile waits for the same answer.
        let mut last = self.shared.last_found.0.lock().await;
        let wakeup = self.shared.wakeup.number();
        let found = match *last {
            Some(found) if found.wakeup == wakeup => found,
            _ => {
                let read = self.read("looking for pending work", &self.shared.node, |db, node| {
                    Box::pin(Found::read(db, node))
                });
                *last.insert(Found { wakeup, ..read.await? })
            }
        };
        Ok(found.now(&self.shared))
    }
}
