//! What time does to casts. Each call is one small step, and says whether there may be more to do.

use rusqlite::params;

use super::claims::give_up;
use super::row::{Fail, Known, all, execute};
use super::writer::Tx;

/// Casts in one step.
const STEP: usize = 50;

/// Ends casts that nobody began in time.
pub(super) fn overdue(tx: &mut Tx<'_>) -> Result<bool, Fail> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_overdue WHERE state = 0 AND queue_until_ms <= ?
         ORDER BY queue_until_ms, n LIMIT ?",
        Known::COLUMNS
    );
    let overdue = all(tx.db, &sql, params![tx.now, STEP as i64], Known::read)?;
    for known in &overdue {
        give_up(tx, known, "no worker had room for it in time")?;
    }
    Ok(overdue.len() == STEP)
}

/// Forgets casts that are closed and old, unless somebody has yet to be told of them or nobody else may have their key.
pub(super) fn forget(tx: &mut Tx<'_>) -> Result<bool, Fail> {
    let before = tx.now.saturating_sub(tx.shared.history_ms);
    let sql = "DELETE FROM casts WHERE n IN (
                   SELECT n FROM casts INDEXED BY casts_past WHERE closed = 1 AND ended_ms < ?1
                   AND (held = 0 OR ifnull(key_until_ms, 0) <= ?2)
                   AND NOT EXISTS (SELECT 1 FROM outbox WHERE whose = n AND given_up = 0)
                   ORDER BY ended_ms LIMIT ?3)";
    Ok(execute(tx.db, sql, params![before, tx.now, STEP as i64])? == STEP)
}
