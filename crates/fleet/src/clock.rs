//! Rules of the two clocks of a fleet, which every backend follows.
//!
//! Times of events are *wall time*, which an administrator or NTP may set at any moment, in either direction.
//! Deadlines (of the queue, leases, and delivery retries) are in *fleet time*, in milliseconds: it advances
//! steadily whatever happens to the wall clock, and never goes back.
//!
//! Old casts are deleted by wall time, because only that tells how long the service was off. Therefore
//! nothing is deleted while the wall clock is not trusted: for an hour of running time after it jumped.

use std::sync::Arc;
use std::time::Instant;

use crate::UnixMs;

/// A clock that returns milliseconds.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// Creates a monotonic clock that starts at zero.
#[must_use]
pub fn monotonic_clock() -> Clock {
    let begin = Instant::now();
    Arc::new(move || UnixMs::try_from(begin.elapsed().as_millis()).unwrap_or(UnixMs::MAX))
}

/// Difference between the clocks' progress that counts as a jump of the wall clock, in milliseconds. NTP
/// slews by at most 0.5 ms per second, which stays far below it between two checks.
pub(crate) const CLOCK_JUMP_MS: i64 = 10_000;
/// Longest downtime by the wall clock that is believed, in milliseconds. After a longer one, the clock may
/// have been set meanwhile.
const MAX_TRUSTED_DOWNTIME_MS: i64 = 3_600_000;
/// Running time after a jump during which nothing is deleted, in milliseconds: enough for NTP or an
/// administrator to correct the clock, and short compared with the minimum retention of 72 hours.
pub(crate) const DISTRUST_MS: i64 = 3_600_000;

/// Fleet time after a downtime, and whether the wall clock can be trusted: it shows `now_ms`, and it showed
/// `wall_ms` when fleet time was `fleet_ms`.
pub(crate) fn after_downtime(now_ms: UnixMs, wall_ms: UnixMs, fleet_ms: i64) -> (i64, bool) {
    let gap = now_ms.saturating_sub(wall_ms);
    (fleet_ms.saturating_add(gap.max(0)), (0..=MAX_TRUSTED_DOWNTIME_MS).contains(&gap))
}

/// Whether the wall clock jumped between two readings of its distance to fleet time.
pub(crate) fn is_jump(distance_ms: i64, later_distance_ms: i64) -> bool {
    later_distance_ms.saturating_sub(distance_ms).saturating_abs() > CLOCK_JUMP_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_time_never_goes_back() {
        assert_eq!(after_downtime(5000, 1000, 70), (4070, true));
        assert_eq!(after_downtime(500, 1000, 70), (70, false), "the clock was set back");
        let late = 1000 + MAX_TRUSTED_DOWNTIME_MS + 1;
        assert_eq!(after_downtime(late, 1000, 0), (late - 1000, false), "implausibly long");
        assert!(!is_jump(0, CLOCK_JUMP_MS) && is_jump(0, -CLOCK_JUMP_MS - 1));
    }
}
