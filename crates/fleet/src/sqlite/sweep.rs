//! What time and size do to casts. Each call is one small step, and says whether there may be more to do.

use std::sync::atomic::Ordering;

use rusqlite::params;

use super::claims::fail_and_close;
use super::row::{CastRow, TxError, execute, query_all, query_one};
use super::schema;
use super::writer::Tx;

/// Casts in one step.
const SWEEP_BATCH: usize = 50;
/// Steps in which room is made for one request: others wait behind it.
const MAX_EVICTION_BATCHES: usize = 8;
/// Oldest casts of an application among which room is made: nobody can make the service look through a long
/// history again and again.
const MAX_EVICTION_CANDIDATES: usize = 1000;
/// How long a full database that nothing can be done about is left alone, in milliseconds: a look goes
/// through all that ended.
const SHRINK_RETRY_DELAY_MS: i64 = 60_000;

/// Casts that may be forgotten: closed, known to everybody who wants to know, and of a key that others may
/// have.
const DELETABLE: &str = "closed = 1 AND (held = 0 OR ifnull(key_until_ms, 0) <= ?1)
                    AND NOT EXISTS (SELECT 1 FROM outbox WHERE whose = n AND given_up = 0)";

/// Ends casts that nobody began in time.
pub(super) fn fail_overdue(tx: &mut Tx<'_>) -> Result<bool, TxError> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_overdue WHERE state = 0 AND queue_until_ms <= ?
         ORDER BY queue_until_ms, n LIMIT ?",
        CastRow::COLUMNS
    );
    let overdue = query_all(tx.db, &sql, params![tx.fleet_now, SWEEP_BATCH as i64], CastRow::from_row)?;
    for known in &overdue {
        fail_and_close(tx, known, "no worker had room for it in time")?;
    }
    Ok(overdue.len() == SWEEP_BATCH)
}

/// Forgets casts that are closed and old, unless somebody has yet to be told of them or nobody else may have
/// their key. Nothing, while the clock is in doubt.
pub(super) fn delete_expired(tx: &mut Tx<'_>) -> Result<bool, TxError> {
    let sure = tx.shared.clock.is_wall_trusted();
    if let Some(noted) = tx.shared.clock.clocks_if_save_due() {
        schema::save_clocks(tx.db, noted)?;
    }
    if !sure {
        return Ok(false);
    }
    let before = tx.now.saturating_sub(tx.shared.retention_ms);
    let sql = format!(
        "DELETE FROM casts WHERE n IN (
             SELECT n FROM casts INDEXED BY casts_past WHERE {DELETABLE} AND ended_ms < ?2 ORDER BY ended_ms LIMIT ?3)"
    );
    Ok(execute(tx.db, &sql, params![tx.now, before, SWEEP_BATCH as i64])? == SWEEP_BATCH)
}

/// Forgets the oldest casts that may be forgotten while the database is larger than it may be.
pub(super) fn shrink(tx: &mut Tx<'_>) -> Result<bool, TxError> {
    let (used, allowed, again) = (used_bytes(tx)?, tx.shared.max_bytes, &tx.shared.next_shrink_ms);
    if used <= allowed || tx.fleet_now < again.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let sql = format!(
        "DELETE FROM casts WHERE n IN (
             SELECT n FROM casts INDEXED BY casts_past WHERE {DELETABLE} ORDER BY ended_ms LIMIT ?2)"
    );
    let casts = execute(tx.db, &sql, params![tx.now, SWEEP_BATCH as i64])?;
    if casts > 0 {
        tracing::info!(casts, used, allowed, "old casts forgotten, because the database is full");
    } else {
        tracing::warn!(used, allowed, "the database is full, and no cast in it may be forgotten yet");
        again.store(tx.fleet_now.saturating_add(SHRINK_RETRY_DELAY_MS), Ordering::Relaxed);
    }
    Ok(casts == SWEEP_BATCH)
}

/// Bytes of the database that hold something.
fn used_bytes(tx: &Tx<'_>) -> Result<u64, TxError> {
    let number = |sql| Ok::<i64, TxError>(query_one(tx.db, sql, [], |row| Ok(row.get(0)?))?.unwrap_or(0));
    let pages = number("PRAGMA page_count")?.saturating_sub(number("PRAGMA freelist_count")?);
    Ok(pages.saturating_mul(number("PRAGMA page_size")?).unsigned_abs())
}

/// Forgets the oldest casts of an application that may be forgotten, a few at a time, until so many bytes are
/// free. Says whether they are.
pub(super) fn free_app_bytes(tx: &Tx<'_>, app: &str, most: u64) -> Result<bool, TxError> {
    let sql = format!(
        "DELETE FROM casts WHERE n IN (
             SELECT n FROM (SELECT n, closed, held, key_until_ms FROM casts INDEXED BY casts_by_app
                            WHERE app = ?2 AND state = 3 ORDER BY created_ms, id LIMIT {MAX_EVICTION_CANDIDATES})
             WHERE {DELETABLE} LIMIT ?3)"
    );
    for _ in 0..MAX_EVICTION_BATCHES {
        if app_bytes(tx, app)? <= most {
            return Ok(true);
        }
        if execute(tx.db, &sql, params![tx.now, app, SWEEP_BATCH as i64])? == 0 {
            return Ok(false);
        }
    }
    Ok(app_bytes(tx, app)? <= most)
}

/// Bytes kept of the casts of an application.
pub(super) fn app_bytes(tx: &Tx<'_>, app: &str) -> Result<u64, TxError> {
    let sql = "SELECT bytes FROM kept WHERE app = ?";
    let bytes: Option<i64> = query_one(tx.db, sql, [app], |row| Ok(row.get(0)?))?;
    Ok(bytes.unwrap_or(0).max(0).unsigned_abs())
}
