//! Upkeep: overdue, expired and excess casts. Each sweep function is one small step, and returns whether
//! there may be more to do.

use std::sync::atomic::Ordering;

use rusqlite::params;

use super::claims::fail_and_close;
use super::row::{CastRow, TxError, execute, query_all, query_one};
use super::schema;
use super::writer::Tx;
use super::{audit, daily_use};
use crate::lifecycle::OVERDUE_MESSAGE;
use crate::retention::{MAX_EVICTION_BATCHES, MAX_EVICTION_CANDIDATES, SWEEP_BATCH};

/// Delay before a full database without deletable casts is shrunk again, in milliseconds, because an attempt
/// scans all ended casts.
const SHRINK_RETRY_DELAY_MS: i64 = 60_000;

/// Condition for deletable casts: closed, without pending outbox entries, and with a key that is not held.
const DELETABLE: &str = "closed = 1 AND (held = 0 OR ifnull(key_until_ms, 0) <= ?1)
                    AND NOT EXISTS (SELECT 1 FROM outbox WHERE whose = n AND given_up = 0)";

/// Fails queued casts whose queue timeout has passed.
pub(super) fn fail_overdue(tx: &mut Tx<'_>) -> Result<bool, TxError> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_overdue WHERE state = 0 AND queue_until_ms <= ?
         ORDER BY queue_until_ms, n LIMIT ?",
        CastRow::COLUMNS
    );
    let overdue = query_all(tx.db, &sql, params![tx.fleet_now, SWEEP_BATCH], CastRow::from_row)?;
    for row in &overdue {
        fail_and_close(tx, row, OVERDUE_MESSAGE)?;
    }
    Ok(overdue.len() as i64 == SWEEP_BATCH)
}

/// Deletes deletable casts and audit entries that are older than the retention, and old use by day, unless
/// the wall clock is not trusted.
pub(super) fn delete_expired(tx: &mut Tx<'_>) -> Result<bool, TxError> {
    let trusted = tx.shared.clock.is_wall_trusted();
    if let Some(clocks) = tx.shared.clock.clocks_if_save_due() {
        schema::save_clocks(tx.db, clocks)?;
    }
    if !trusted {
        return Ok(false);
    }
    let before = tx.now.saturating_sub(tx.shared.retention_ms);
    let sql = format!(
        "DELETE FROM casts WHERE n IN (
             SELECT n FROM casts INDEXED BY casts_past WHERE {DELETABLE} AND ended_ms < ?2 ORDER BY \
                 ended_ms LIMIT ?3)"
    );
    let has_more = execute(tx.db, &sql, params![tx.now, before, SWEEP_BATCH])? as i64 == SWEEP_BATCH;
    daily_use::delete_old(tx)?;
    Ok(audit::delete_before(tx, before)? || has_more)
}

/// Deletes the oldest deletable casts while the database exceeds its size limit.
pub(super) fn shrink(tx: &mut Tx<'_>) -> Result<bool, TxError> {
    let (used, allowed, next_shrink) = (used_bytes(tx)?, tx.shared.max_bytes, &tx.shared.next_shrink_ms);
    if used <= allowed || tx.fleet_now < next_shrink.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let sql = format!(
        "DELETE FROM casts WHERE n IN (
             SELECT n FROM casts INDEXED BY casts_past WHERE {DELETABLE} ORDER BY ended_ms LIMIT ?2)"
    );
    let casts = execute(tx.db, &sql, params![tx.now, SWEEP_BATCH])?;
    if casts > 0 {
        tracing::info!(casts, used, allowed, "database full, oldest casts deleted");
    } else {
        tracing::warn!(used, allowed, "database full, no cast can be deleted yet");
        next_shrink.store(tx.fleet_now.saturating_add(SHRINK_RETRY_DELAY_MS), Ordering::Relaxed);
    }
    Ok(casts as i64 == SWEEP_BATCH)
}

/// Bytes of the database in use.
fn used_bytes(tx: &Tx<'_>) -> Result<u64, TxError> {
    let number = |sql| Ok::<i64, TxError>(query_one(tx.db, sql, [], |row| Ok(row.get(0)?))?.unwrap_or(0));
    let pages = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
    Ok(pages.saturating_mul(number("PRAGMA page_size")?).unsigned_abs())
}

/// Deletes the oldest deletable casts of an application until it uses at most `max` bytes. Returns whether it
/// does.
pub(super) fn free_app_bytes(tx: &Tx<'_>, app: &str, max: u64) -> Result<bool, TxError> {
    let sql = format!(
        "DELETE FROM casts WHERE n IN (
             SELECT n FROM (SELECT n, closed, held, key_until_ms FROM casts INDEXED BY casts_by_app
                            WHERE app = ?2 AND state = 3 ORDER BY created_ms, id LIMIT \
                            {MAX_EVICTION_CANDIDATES})
             WHERE {DELETABLE} LIMIT ?3)"
    );
    for _ in 0..MAX_EVICTION_BATCHES {
        if app_bytes(tx, app)? <= max {
            return Ok(true);
        }
        if execute(tx.db, &sql, params![tx.now, app, SWEEP_BATCH])? == 0 {
            return Ok(false);
        }
    }
    Ok(app_bytes(tx, app)? <= max)
}

/// Bytes stored for the casts of an application.
pub(super) fn app_bytes(tx: &Tx<'_>, app: &str) -> Result<u64, TxError> {
    let sql = "SELECT bytes FROM kept WHERE app = ?";
    let bytes: Option<i64> = query_one(tx.db, sql, [app], |row| Ok(row.get(0)?))?;
    Ok(bytes.unwrap_or(0).max(0).unsigned_abs())
}
