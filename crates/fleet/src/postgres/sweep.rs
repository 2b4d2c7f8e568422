//! Upkeep: overdue and expired casts, and rows that nobody needs any more. Each sweep function is one small
//! step, and returns whether there may be more to do. One process at a time sweeps.

use tokio_postgres::{Client, Row};

use super::claims::{fail_and_close, lock_tallies};
use super::clock::check_trust;
use super::row::CastRow;
use super::sql::{TxError, execute, params, query_all, query_one};
use super::transaction::{Db, Tx};
use super::{audit, daily_use};
use crate::clock::CLOCK_JUMP_MS;
use crate::lifecycle::OVERDUE_MESSAGE;
use crate::retention::{MAX_EVICTION_BATCHES, MAX_EVICTION_CANDIDATES, SWEEP_BATCH};

/// Advisory lock of the process that sweeps.
const SWEEP_LOCK: i64 = 0x7061_6765_0001;
/// How long the nonce of a committed transaction is kept, in milliseconds: longer than any operation is
/// attempted.
pub(super) const COMMITTED_RETENTION_MS: i64 = 600_000;
/// Time without a heartbeat after which the row of a worker is deleted, in milliseconds.
const WORKER_RETENTION_MS: i64 = 24 * 3_600_000;
/// Time after which the registration of a worker without heartbeats is deleted, in milliseconds: long,
/// because a process that was stopped must not go on as if it were the only one of its name.
const REGISTRATION_RETENTION_MS: i64 = 30 * 24 * 3_600_000;
/// Interval of the upkeep of partitions, in milliseconds.
pub(super) const PARTITION_INTERVAL_MS: i64 = 3_600_000;

/// Condition for deletable casts: closed, without pending outbox entries, and with a key that is not held.
const DELETABLE: &str = "closed AND (NOT held OR coalesce(key_until_ms, 0) <= $1)
                    AND NOT EXISTS (SELECT 1 FROM outbox WHERE cast_n = n AND NOT given_up)";

/// What a sweep would find.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// Fleet time at which the next queue timeout passes.
    queue_until_ms: Option<i64>,
    /// Closed casts or audit entries that are older than the retention, or a jump of the clock.
    pub expired: bool,
    /// Rows that nobody needs any more.
    pub stale: bool,
}

/// Columns for [`Due::from_row`], with `wall_ms` and `fleet_ms`. Parameters: retention, longest jump of the
/// clock that is none, and retention of nonces.
pub(super) const DUE_COLUMNS: &str =
    "(SELECT min(queue_until_ms) FROM casts WHERE state = 0) AS queue_until_ms,
     EXISTS (SELECT 1 FROM casts WHERE closed AND ended_ms < wall_ms - $1)
         OR EXISTS (SELECT 1 FROM audit WHERE at_ms < wall_ms - $1)
         OR EXISTS (SELECT 1 FROM clock WHERE abs(clock.offset_ms - swept_offset_ms) > $2) AS expired,
     EXISTS (SELECT 1 FROM committed WHERE at_ms < fleet_ms - $3) AS stale";

impl Due {
    pub(super) fn from_row(row: &Row) -> Result<Self, TxError> {
        let (queue_until_ms, expired) = (row.try_get("queue_until_ms")?, row.try_get("expired")?);
        Ok(Self { queue_until_ms, expired, stale: row.try_get("stale")? })
    }

    /// Whether a queue timeout has passed.
    pub(super) fn has_overdue(&self, fleet_now: i64) -> bool {
        self.queue_until_ms.is_some_and(|until| until <= fleet_now)
    }

    /// Whether there is anything to do.
    pub(super) fn is_due(&self, fleet_now: i64) -> bool {
        self.has_overdue(fleet_now) || self.expired || self.stale
    }
}

/// Finds out what there is to do, because nearly always there is nothing.
pub(super) async fn due(db: &Db<'_>, _: &()) -> Result<(i64, Due), TxError> {
    let params = params![db.shared.retention_ms, CLOCK_JUMP_MS, COMMITTED_RETENTION_MS];
    let (now, due) = db.clock_and(DUE_COLUMNS, params, Due::from_row).await?;
    Ok((now.fleet_ms(), due))
}

/// Whether this process may sweep until the end of the transaction.
async fn lock_sweep(tx: &Tx<'_>) -> Result<bool, TxError> {
    let sql = "SELECT pg_try_advisory_xact_lock($1)";
    Ok(query_one(tx.db(), sql, params![SWEEP_LOCK], |row| Ok(row.try_get(0)?)).await?.unwrap_or(false))
}

/// Fails queued casts whose queue timeout has passed.
pub(super) async fn fail_overdue(tx: &mut Tx<'_>, _: &()) -> Result<bool, TxError> {
    if !lock_sweep(tx).await? {
        return Ok(false);
    }
    let sql = format!(
        "SELECT {} FROM casts WHERE state = 0 AND queue_until_ms <= $1
         ORDER BY queue_until_ms, n LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED",
        CastRow::COLUMNS
    );
    let params = params![tx.fleet_now, SWEEP_BATCH];
    let mut overdue = query_all(tx.db(), &sql, params, CastRow::from_row).await?;
    lock_tallies(tx, overdue.iter().map(|row| row.n).collect()).await?;
    for row in &mut overdue {
        fail_and_close(tx, row, OVERDUE_MESSAGE).await?;
    }
    Ok(overdue.len() as i64 == SWEEP_BATCH)
}

/// Deletes deletable casts and audit entries that are older than the retention, and old use by day, unless
/// the wall clock is not trusted.
pub(super) async fn delete_expired(tx: &Tx<'_>, _: &()) -> Result<bool, TxError> {
    if !lock_sweep(tx).await? || !check_trust(tx.db(), tx.fleet_now).await? {
        return Ok(false);
    }
    let sql = format!(
        "SELECT n FROM casts WHERE {DELETABLE} AND ended_ms < $2 ORDER BY ended_ms LIMIT $3
         FOR UPDATE SKIP LOCKED"
    );
    let before = tx.now.saturating_sub(tx.shared.retention_ms);
    let params = params![tx.now, before, SWEEP_BATCH];
    let rows = query_all(tx.db(), &sql, params, |row| Ok(row.try_get(0)?)).await?;
    let has_more = delete_casts(tx, rows).await? == SWEEP_BATCH;
    daily_use::delete_old(tx).await?;
    Ok(audit::delete_before(tx, before).await? || has_more)
}

/// Deletes casts whose rows are locked, with all that belongs to them. Returns their number.
async fn delete_casts(tx: &Tx<'_>, rows: Vec<i64>) -> Result<i64, TxError> {
    if rows.is_empty() {
        return Ok(0);
    }
    lock_tallies(tx, rows.clone()).await?;
    let sql = "WITH gone AS (DELETE FROM events WHERE cast_n = ANY ($1))
               DELETE FROM casts WHERE n = ANY ($1)";
    Ok(i64::try_from(execute(tx.db(), sql, params![rows]).await?).unwrap_or(i64::MAX))
}

/// Deletes rows that nobody needs any more.
pub(super) async fn delete_stale(tx: &Tx<'_>, _: &()) -> Result<bool, TxError> {
    let sql = "WITH gone AS (DELETE FROM workers WHERE at_ms < $2),
                    forgotten AS (DELETE FROM nodes WHERE registered_ms < $3 AND NOT EXISTS (
                                      SELECT 1 FROM workers WHERE workers.worker = nodes.worker)),
                    answered AS (DELETE FROM answered_requests WHERE until_ms < $4)
               DELETE FROM committed WHERE at_ms < $1";
    let committed = tx.fleet_now.saturating_sub(COMMITTED_RETENTION_MS);
    let workers = tx.fleet_now.saturating_sub(WORKER_RETENTION_MS);
    let registered = tx.fleet_now.saturating_sub(REGISTRATION_RETENTION_MS);
    execute(tx.db(), sql, params![committed, workers, registered, tx.fleet_now]).await?;
    Ok(false)
}

/// Creates partitions that will be needed, and drops those that are empty.
pub(super) async fn maintain_partitions(tx: &Tx<'_>, _: &()) -> Result<bool, TxError> {
    if lock_sweep(tx).await? {
        call_maintain_partitions(tx.db(), tx.shared.retention_ms).await?;
    }
    Ok(false)
}

/// The same, in a transaction of the caller.
pub(super) async fn call_maintain_partitions(db: &Client, retention_ms: i64) -> Result<(), TxError> {
    // Waiting longer for the lock of the table would keep all writers waiting.
    execute(db, "SET LOCAL lock_timeout = '1s'", params![]).await?;
    execute(db, "SELECT maintain_event_partitions($1)", params![retention_ms]).await?;
    Ok(())
}

/// Deletes the oldest deletable casts of an application, which uses `used` bytes, until it uses at most
/// `max`. Returns whether it does, or else what it uses.
pub(super) async fn free_app_bytes(
    tx: &Tx<'_>,
    app: &str,
    mut used: u64,
    max: u64,
) -> Result<Result<(), u64>, TxError> {
    let sql = format!(
        "SELECT n FROM casts
         WHERE n IN (SELECT n FROM casts WHERE app = $2 AND state = 3 ORDER BY created_ms, id
                     LIMIT {MAX_EVICTION_CANDIDATES})
           AND {DELETABLE}
         ORDER BY created_ms, id LIMIT $3 FOR UPDATE SKIP LOCKED"
    );
    for _ in 0..MAX_EVICTION_BATCHES {
        if used <= max {
            break;
        }
        let params = params![tx.now, app, SWEEP_BATCH];
        let rows = query_all(tx.db(), &sql, params, |row| Ok(row.try_get(0)?)).await?;
        if delete_casts(tx, rows).await? == 0 {
            break;
        }
        let bytes = "SELECT bytes FROM tallies WHERE app = $1";
        let left: Option<i64> = query_one(tx.db(), bytes, params![app], |row| Ok(row.try_get(0)?)).await?;
        used = left.unwrap_or(0).max(0).unsigned_abs();
    }
    Ok(if used <= max { Ok(()) } else { Err(used) })
}
