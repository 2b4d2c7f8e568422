//! Use by day: the [`crate::Accounting`] part of the backend.

use std::ops::RangeInclusive;

use rusqlite::{Connection, params};
use serde_json::Value;

use super::Shared;
use super::row::{TxError, execute, query_all, query_one, to_sql_integer};
use super::writer::Tx;
use crate::DailyUse;
use crate::daily_use::{CastUse, MAX_USE_ROWS, USE_RETENTION_DAYS, UseSums, day_of};

/// Counts a cast that is being closed, unless no worker had started it.
pub(super) fn count_cast(tx: &Tx<'_>, n: i64, report: Option<&Value>) -> Result<(), TxError> {
    let sql = "SELECT app, started_ms, ended_ms FROM casts
               WHERE n = ? AND started_ms IS NOT NULL AND ended_ms IS NOT NULL";
    let found = query_one(tx.db, sql, [n], |row| {
        Ok((row.get::<_, String>(0)?, CastUse::new(row.get(1)?, row.get(2)?, report)))
    })?;
    let Some((app, of_cast)) = found else { return Ok(()) };
    let sql = "INSERT INTO daily_use VALUES (?, ?, ?, ?, ?, ?)
               ON CONFLICT DO UPDATE SET
                   casts = casts + excluded.casts, cast_ms = cast_ms + excluded.cast_ms,
                   core_ms = core_ms + excluded.core_ms, bytes = bytes + excluded.bytes";
    for DailyUse { day, app, casts, cast_ms, core_ms, bytes } in of_cast.by_day(&app) {
        let [casts, cast_ms, core_ms, bytes] = [casts, cast_ms, core_ms, bytes].map(to_sql_integer);
        execute(tx.db, sql, params![day, app, casts, cast_ms, core_ms, bytes])?;
    }
    Ok(())
}

pub(super) fn list(
    db: &Connection,
    shared: &Shared,
    app: Option<&str>,
    days: &RangeInclusive<i64>,
) -> Result<Vec<DailyUse>, TxError> {
    let mut sums = UseSums::default();
    let sql = "SELECT day, app, casts, cast_ms, core_ms, bytes FROM daily_use
               WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR app = ?3) ORDER BY day, app LIMIT ?4";
    let closed = query_all(db, sql, params![days.start(), days.end(), app, MAX_USE_ROWS], |row| {
        let number = |column| -> Result<u64, TxError> { Ok(row.get::<_, i64>(column)?.unsigned_abs()) };
        Ok(DailyUse {
            day: row.get(0)?,
            app: row.get(1)?,
            casts: number(2)?,
            cast_ms: number(3)?,
            core_ms: number(4)?,
            bytes: number(5)?,
        })
    })?;
    closed.into_iter().for_each(|of| sums.add(of));
    let now = shared.clock.wall_ms();
    let sql = "SELECT app, started_ms, ended_ms FROM casts INDEXED BY casts_begun
               WHERE closed = 0 AND state > 0 AND started_ms IS NOT NULL AND (?1 IS NULL OR app = ?1)";
    let open = query_all(db, sql, params![app], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?.unwrap_or(now)))
    })?;
    open.iter().for_each(|(app, started_ms, ended_ms)| sums.add_open(app, *started_ms, *ended_ms, days));
    Ok(sums.into_rows())
}

/// Deletes days that are too old.
pub(super) fn delete_old(tx: &Tx<'_>) -> Result<(), TxError> {
    let sql = "DELETE FROM daily_use WHERE day < ?";
    execute(tx.db, sql, [day_of(tx.now).saturating_sub(USE_RETENTION_DAYS)]).map(drop)
}
