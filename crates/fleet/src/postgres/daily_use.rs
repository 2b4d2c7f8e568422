//! Use by day: the [`crate::Accounting`] part of the backend.

use std::ops::RangeInclusive;

use super::row::to_bigint;
use super::sql::{TxError, execute, params, query_all};
use super::transaction::{Db, Tx};
use crate::DailyUse;
use crate::daily_use::{CastUse, MAX_USE_ROWS, USE_RETENTION_DAYS, UseSums, day_of};

/// Counts a cast that is being closed.
pub(super) async fn count_cast(tx: &Tx<'_>, app: &str, of_cast: &CastUse) -> Result<(), TxError> {
    let rows = of_cast.by_day(app);
    let days: Vec<i64> = rows.iter().map(|row| row.day).collect();
    let column =
        |value: fn(&DailyUse) -> u64| -> Vec<i64> { rows.iter().map(|row| to_bigint(value(row))).collect() };
    let (casts, cast_ms) = (column(|row| row.casts), column(|row| row.cast_ms));
    let (core_ms, bytes) = (column(|row| row.core_ms), column(|row| row.bytes));
    // Rows are locked in the order of days, so that two transactions cannot wait for each other.
    let sql = "INSERT INTO daily_use AS used (day, app, casts, cast_ms, core_ms, bytes)
               SELECT day, $1, casts, cast_ms, core_ms, bytes FROM unnest($2, $3, $4, $5, $6)
                   AS new (day, casts, cast_ms, core_ms, bytes) ORDER BY day
               ON CONFLICT (day, app) DO UPDATE SET
                   casts = used.casts + excluded.casts, cast_ms = used.cast_ms + excluded.cast_ms,
                   core_ms = used.core_ms + excluded.core_ms, bytes = used.bytes + excluded.bytes";
    execute(tx.db(), sql, params![app, days, casts, cast_ms, core_ms, bytes]).await.map(drop)
}

/// Which days to read.
pub(super) struct ReadUse {
    pub app: Option<String>,
    pub days: RangeInclusive<i64>,
}

pub(super) async fn list(db: &Db<'_>, args: &ReadUse) -> Result<Vec<DailyUse>, TxError> {
    // One statement, so that a cast that is closed meanwhile is not counted twice.
    let sql = "(SELECT day, app, casts, cast_ms, core_ms, bytes,
                       NULL::bigint AS started_ms, NULL::bigint AS until_ms
                FROM daily_use WHERE day BETWEEN $1 AND $2 AND ($3 IS NULL OR app = $3)
                ORDER BY day, app LIMIT $4)
               UNION ALL
               (SELECT 0, app, 0, 0, 0, 0, started_ms, coalesce(ended_ms, wall_ms())
                FROM leases JOIN casts USING (id)
                WHERE NOT closed AND started_ms IS NOT NULL AND ($3 IS NULL OR app = $3))";
    let params = params![*args.days.start(), *args.days.end(), args.app.as_ref(), MAX_USE_ROWS];
    let mut sums = UseSums::default();
    query_all(db.client, sql, params, |row| {
        let number =
            |column: &str| -> Result<u64, TxError> { Ok(row.try_get::<_, i64>(column)?.unsigned_abs()) };
        let app: String = row.try_get("app")?;
        if let Some(started_ms) = row.try_get("started_ms")? {
            sums.add_open(&app, started_ms, row.try_get("until_ms")?, &args.days);
            return Ok(());
        }
        sums.add(DailyUse {
            day: row.try_get("day")?,
            app,
            casts: number("casts")?,
            cast_ms: number("cast_ms")?,
            core_ms: number("core_ms")?,
            bytes: number("bytes")?,
        });
        Ok(())
    })
    .await?;
    Ok(sums.into_rows())
}

/// Deletes days that are too old.
pub(super) async fn delete_old(tx: &Tx<'_>) -> Result<(), TxError> {
    let sql = "DELETE FROM daily_use WHERE day < $1";
    execute(tx.db(), sql, params![day_of(tx.now).saturating_sub(USE_RETENTION_DAYS)]).await.map(drop)
}
