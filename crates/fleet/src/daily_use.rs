//! What applications used on each day, which is kept when their casts are deleted. A cast is counted in the
//! transaction that closes it, so once, however many nodes have run it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use async_trait::async_trait;
use serde_json::Value;

use crate::{Error, UnixMs};

/// Milliseconds of a day in UTC, which has no leap seconds here.
const DAY_MS: i64 = 86_400_000;
/// Number of days for which use is kept: more than two years, so that a year can be compared with the one
/// before.
pub const USE_RETENTION_DAYS: i64 = 800;
/// Longest time that counts of one cast, in days; more only comes from clocks that were set.
const MAX_CAST_DAYS: i64 = 400;
/// Most rows that are read at once: a year of 270 applications.
pub(crate) const MAX_USE_ROWS: i64 = 100_000;

/// What an application used on one day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DailyUse {
    /// The day in UTC: number of days since 1970-01-01.
    pub day: i64,
    /// The application.
    pub app: String,
    /// Number of casts that a worker started on this day.
    pub casts: u64,
    /// Time that casts ran on this day, from their start to their end, in milliseconds.
    pub cast_ms: u64,
    /// CPU time of casts, in milliseconds of one core, in proportion to the time that they ran on this day.
    /// Casts that are not closed are left out.
    pub core_ms: u64,
    /// Bytes that casts recorded and stored, in the same proportion. Casts that are not closed are left out.
    pub bytes: u64,
}

/// Use by day, for servers.
#[async_trait]
pub trait Accounting: Debug + Send + Sync {
    /// Returns what applications used on these days, ordered by day and application: all of them, or this
    /// one. Casts that are running are counted up to now.
    ///
    /// # Errors
    /// The storage of the fleet fails.
    async fn daily_use(&self, app: Option<&str>, days: RangeInclusive<i64>) -> Result<Vec<DailyUse>, Error>;
}

/// The day of a time, as a number of days since 1970-01-01 in UTC.
pub(crate) fn day_of(ms: UnixMs) -> i64 {
    ms.div_euclid(DAY_MS)
}

/// What a cast used that a worker had started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CastUse {
    pub started_ms: UnixMs,
    pub ended_ms: UnixMs,
    pub core_ms: u64,
    pub bytes: u64,
}

impl CastUse {
    /// The use of a cast with this report of its worker, whose `cpu_ms.total` and `bytes` count.
    pub(crate) fn new(started_ms: UnixMs, ended_ms: UnixMs, report: Option<&Value>) -> Self {
        let number = |pointer| report.and_then(|report| report.pointer(pointer)?.as_u64()).unwrap_or(0);
        // A damaged report must not make sums overflow.
        let number = |pointer| number(pointer).min(1 << 50);
        Self { started_ms, ended_ms, core_ms: number("/cpu_ms/total"), bytes: number("/bytes") }
    }

    /// Its use on each day. The sums of all days are exact.
    pub(crate) fn by_day(&self, app: &str) -> Vec<DailyUse> {
        let total_ms = self.ended_ms.saturating_sub(self.started_ms).clamp(0, MAX_CAST_DAYS * DAY_MS);
        let ended_ms = self.started_ms.saturating_add(total_ms);
        let share = |value: u64, until_ms: i64| {
            let part = u128::from(until_ms.unsigned_abs());
            let of = u128::from(total_ms.unsigned_abs().max(1));
            u64::try_from(u128::from(value) * part / of).unwrap_or(value)
        };
        let (first, mut used) = (day_of(self.started_ms), DailyUse::default());
        // A cast that ended at midnight used nothing of the next day.
        let last = day_of(ended_ms.saturating_sub(1)).max(first);
        let mut days = Vec::new();
        for day in first..=last {
            let until_ms = if day == last { total_ms } else { (day + 1) * DAY_MS - self.started_ms };
            let so_far = DailyUse {
                casts: 1,
                cast_ms: until_ms.unsigned_abs(),
                core_ms: if day == last { self.core_ms } else { share(self.core_ms, until_ms) },
                bytes: if day == last { self.bytes } else { share(self.bytes, until_ms) },
                ..DailyUse::default()
            };
            days.push(DailyUse {
                day,
                app: app.to_owned(),
                casts: so_far.casts - used.casts,
                cast_ms: so_far.cast_ms - used.cast_ms,
                core_ms: so_far.core_ms - used.core_ms,
                bytes: so_far.bytes - used.bytes,
            });
            used = so_far;
        }
        days
    }
}

/// Use of casts by day, summed up.
#[derive(Debug, Default)]
pub(crate) struct UseSums(BTreeMap<(i64, String), DailyUse>);

impl UseSums {
    pub(crate) fn add(&mut self, of: DailyUse) {
        let sum = self.0.entry((of.day, of.app.clone())).or_insert_with(|| DailyUse {
            day: of.day,
            app: of.app.clone(),
            ..DailyUse::default()
        });
        sum.casts += of.casts;
        sum.cast_ms += of.cast_ms;
        sum.core_ms += of.core_ms;
        sum.bytes += of.bytes;
    }

    /// Adds what a cast that is not closed has used on these days until now.
    pub(crate) fn add_open(
        &mut self,
        app: &str,
        started_ms: UnixMs,
        now: UnixMs,
        days: &RangeInclusive<i64>,
    ) {
        let of_cast = CastUse::new(started_ms, now, None).by_day(app);
        of_cast.into_iter().filter(|of| days.contains(&of.day)).for_each(|of| self.add(of));
    }

    /// The sums in order.
    pub(crate) fn into_rows(self) -> Vec<DailyUse> {
        self.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Days, casts, and times of a cast.
    fn rows(of: &CastUse) -> Vec<(i64, u64, u64, u64, u64)> {
        of.by_day("a").into_iter().map(|d| (d.day, d.casts, d.cast_ms, d.core_ms, d.bytes)).collect()
    }

    #[test]
    fn a_cast_is_split_at_midnight_and_nothing_is_lost() {
        let report = json!({"cpu_ms": {"total": 1000}, "bytes": 7});
        let of = |start, end| rows(&CastUse::new(start, end, Some(&report)));
        assert_eq!(of(10, 10), [(0, 1, 0, 1000, 7)]);
        assert_eq!(of(10, 5), [(0, 1, 0, 1000, 7)], "the clock was set back");
        assert_eq!(of(0, DAY_MS), [(0, 1, DAY_MS as u64, 1000, 7)]);
        let quarter = DAY_MS / 4;
        assert_eq!(
            of(DAY_MS - quarter, 2 * DAY_MS + 2 * quarter),
            [
                (0, 1, quarter as u64, 142, 1),
                (1, 0, DAY_MS as u64, 572, 4),
                (2, 0, 2 * quarter as u64, 286, 2)
            ]
        );
        let long = of(0, i64::MAX);
        assert_eq!(long.len() as i64, MAX_CAST_DAYS);
        assert_eq!(long.iter().map(|row| row.3).sum::<u64>(), 1000);
        assert_eq!(rows(&CastUse::new(-1, 1, None)), [(-1, 1, 1, 0, 0), (0, 0, 1, 0, 0)]);
    }

    #[test]
    fn a_damaged_report_is_bounded() {
        let of = CastUse::new(0, 1, Some(&json!({"cpu_ms": "x", "bytes": u64::MAX})));
        assert_eq!((of.core_ms, of.bytes), (0, 1 << 50));
    }
}
