//! The clocks of a fleet ([`crate::clock`]) on a database: wall time is the database's, and fleet time is
//! wall time plus an offset in the database.
//!
//! Each process compares the database's clock with its own monotonic clock, with each statement that reads
//! it. When the database's clock jumps, because somebody sets it or another server takes over, the first
//! process that notices changes the offset, so that fleet time goes on as before. No process ever uses its
//! own clock for anything else.

use std::sync::{Mutex, PoisonError};

use tokio_postgres::{Client, Row, SimpleQueryRow};

use super::sql::{TxError, execute, params, query_one};
use super::transaction::read_number;
use crate::UnixMs;
use crate::clock::{CLOCK_JUMP_MS, Clock, DISTRUST_MS, after_downtime, is_jump};

/// Interval at which it is recorded that the clock is steady, in milliseconds of wall time.
const SEEN_INTERVAL_MS: i64 = 1000;

/// A reading of the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// Wall time.
    pub wall_ms: UnixMs,
    /// Fleet time minus wall time.
    offset_ms: i64,
    /// Wall time when some process last found the clock steady.
    seen_ms: UnixMs,
}

impl Reading {
    /// Columns for [`Self::from_row`], from table `clock`.
    pub(super) const COLUMNS: &str = "wall_ms() AS wall_ms, offset_ms, seen_ms";

    pub(super) fn from_row(row: &Row) -> Result<Self, TxError> {
        let (wall_ms, offset_ms) = (row.try_get("wall_ms")?, row.try_get("offset_ms")?);
        Ok(Self { wall_ms, offset_ms, seen_ms: row.try_get("seen_ms")? })
    }

    /// Reads the columns from a row that is text.
    pub(super) fn from_text(row: &SimpleQueryRow) -> Result<Self, TxError> {
        let (wall_ms, offset_ms) = (read_number(row, "wall_ms")?, read_number(row, "offset_ms")?);
        Ok(Self { wall_ms, offset_ms, seen_ms: read_number(row, "seen_ms")? })
    }

    /// Fleet time.
    pub(super) fn fleet_ms(&self) -> i64 {
        self.wall_ms.saturating_add(self.offset_ms)
    }

    /// Whether it should be recorded that the clock is steady.
    fn is_stale(&self) -> bool {
        self.wall_ms.saturating_sub(self.seen_ms) >= SEEN_INTERVAL_MS
    }
}

/// A reading with the monotonic times of this process before and after it.
#[derive(Debug, Clone, Copy)]
struct Observation {
    reading: Reading,
    before_ms: i64,
    after_ms: i64,
}

/// Compares the database's clock with the monotonic clock of this process.
pub(super) struct ClockCheck {
    monotonic: Clock,
    last: Mutex<Option<Observation>>,
}

impl ClockCheck {
    pub(super) fn new(monotonic: Clock) -> Self {
        Self { monotonic, last: Mutex::default() }
    }

    /// Monotonic time of this process, in milliseconds.
    pub(super) fn monotonic_ms(&self) -> i64 {
        (self.monotonic)()
    }

    /// Whether the database's clock jumped. `before_ms` is the monotonic time before the reading.
    pub(super) fn has_jumped(&self, reading: Reading, before_ms: i64) -> bool {
        let new = Observation { reading, before_ms, after_ms: self.monotonic_ms() };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let jumped = last.as_ref().is_some_and(|last| last.jump_until(&new).is_some());
        if !jumped {
            *last = Some(new);
        }
        jumped
    }

    /// Changes the offset after a jump, unless another process did so already.
    pub(super) async fn correct(&self, client: &mut Client) -> Result<(), TxError> {
        let tx = client.transaction().await?;
        // Another process may hold the lock for a moment.
        let lock = "SELECT 1 FROM clock FOR UPDATE";
        query_one(tx.client(), lock, params![], |_| Ok(())).await?;
        let before_ms = self.monotonic_ms();
        let reading = read(tx.client()).await?;
        let new = Observation { reading, before_ms, after_ms: self.monotonic_ms() };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let jump_ms = last.and_then(|last| last.jump_until(&new));
        // If others have found the clock steady until now, this process was asleep.
        let steady_for_others = (0..=CLOCK_JUMP_MS).contains(&(reading.wall_ms - reading.seen_ms));
        if let Some(jump_ms) = jump_ms.filter(|_| !steady_for_others) {
            tracing::warn!(jump_ms, "clock of the database jumped, deletion of old casts paused");
            let sql = "UPDATE clock SET offset_ms = $1, seen_ms = $2";
            let offset_ms = reading.offset_ms.saturating_sub(jump_ms);
            execute(tx.client(), sql, params![offset_ms, reading.wall_ms]).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

impl Observation {
    /// How far the clock jumped between this observation and a later one, if it did, in milliseconds.
    fn jump_until(&self, later: &Self) -> Option<i64> {
        // A changed offset is a jump that was corrected.
        if self.reading.offset_ms != later.reading.offset_ms {
            return None;
        }
        let passed = later.reading.wall_ms.saturating_sub(self.reading.wall_ms);
        let least = later.before_ms.saturating_sub(self.after_ms);
        let most = later.after_ms.saturating_sub(self.before_ms);
        if passed < least {
            Some(passed - least).filter(|jump| is_jump(0, *jump))
        } else {
            Some(passed.saturating_sub(most)).filter(|jump| *jump > 0 && is_jump(0, *jump))
        }
    }
}

/// Reads the database's clock.
pub(super) async fn read(client: &Client) -> Result<Reading, TxError> {
    let sql = format!("SELECT {} FROM clock", Reading::COLUMNS);
    query_one(client, &sql, params![], Reading::from_row).await?.ok_or(TxError::Conflict)
}

/// Records that the clock was steady when it was read, about once a second.
pub(super) async fn record_steady(client: &Client, reading: Reading) -> Result<(), TxError> {
    if reading.is_stale() {
        let sql = "UPDATE clock SET seen_ms = $1 WHERE offset_ms = $2 AND seen_ms < $1";
        execute(client, sql, params![reading.wall_ms, reading.offset_ms]).await?;
    }
    Ok(())
}

/// Continues fleet time when a process starts: the database, or all processes, may have been off meanwhile.
pub(super) async fn resume(client: &mut Client) -> Result<(), TxError> {
    let tx = client.transaction().await?;
    query_one(tx.client(), "SELECT 1 FROM clock FOR UPDATE", params![], |_| Ok(())).await?;
    let Reading { wall_ms, offset_ms, seen_ms } = read(tx.client()).await?;
    let (fleet_ms, trusted) = after_downtime(wall_ms, seen_ms, seen_ms.saturating_add(offset_ms));
    let offset_ms = fleet_ms.saturating_sub(wall_ms);
    let sql = "UPDATE clock SET offset_ms = $1, seen_ms = $2";
    execute(tx.client(), sql, params![offset_ms, wall_ms]).await?;
    if trusted {
        check_trust(tx.client(), fleet_ms).await?;
    } else {
        distrust(tx.client(), fleet_ms).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Whether wall time is trusted for deleting casts, after a comparison of the clocks with the last call.
pub(super) async fn check_trust(client: &Client, fleet_ms: i64) -> Result<bool, TxError> {
    let sql = "SELECT offset_ms, swept_offset_ms, trusted_from_ms FROM clock";
    let found =
        query_one(client, sql, params![], |row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)));
    let (offset_ms, swept_offset_ms, trusted_from_ms): (i64, i64, i64) =
        found.await?.ok_or(TxError::Conflict)?;
    if is_jump(swept_offset_ms, offset_ms) {
        distrust(client, fleet_ms).await?;
        return Ok(false);
    }
    Ok(fleet_ms >= trusted_from_ms)
}

async fn distrust(client: &Client, fleet_ms: i64) -> Result<(), TxError> {
    let sql = "UPDATE clock SET swept_offset_ms = offset_ms, trusted_from_ms = $1";
    execute(client, sql, params![fleet_ms.saturating_add(DISTRUST_MS)]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: i64, before_ms: i64, after_ms: i64) -> Observation {
        Observation { reading: Reading { wall_ms, offset_ms: 0, seen_ms: 0 }, before_ms, after_ms }
    }

    #[test]
    fn slow_statements_are_no_jumps_of_the_clock() {
        let first = at(1_000_000, 0, 30_000);
        assert_eq!(first.jump_until(&at(1_000_001, 30_001, 30_002)), None, "the reading took 30 s");
        assert_eq!(first.jump_until(&at(1_059_000, 60_000, 60_001)), None);
        assert_eq!(first.jump_until(&at(1_100_000, 60_000, 70_000)), Some(30_000));
        assert_eq!(first.jump_until(&at(900_000, 30_000, 30_001)), Some(-100_000));
        let corrected = Observation { reading: Reading { offset_ms: 7, ..first.reading }, ..first };
        assert_eq!(first.jump_until(&corrected), None);
    }
}
