//! The two clocks of a fleet.
//!
//! What people read (when something happened) is *wall time*, which an administrator or NTP may set at any
//! moment, in either direction. What is decided by waiting (deadlines in the queue, leases, pauses between
//! deliveries) is *fleet time*: within a run it moves with a clock that nobody sets, and from one run to the
//! next by what the wall clock says has passed in between, never back.
//!
//! Old casts are forgotten by wall time, since only that knows how long the service was off. So nothing is
//! forgotten while the wall clock is in doubt: for an hour of running time after it jumped.

use std::sync::{Mutex, PoisonError};

use super::Clock;
use crate::UnixMs;

/// A wall clock that is so far from where it should be by the other clock has been set, in milliseconds.
/// Slewing (NTP: 0.5 ms a second) stays far below it between two looks.
const CLOCK_JUMP_MS: i64 = 10_000;
/// A service that was off for longer than this, by the wall clock, may as well have one that was set
/// meanwhile, in milliseconds.
const MAX_TRUSTED_DOWNTIME_MS: i64 = 3_600_000;
/// How long the service must run after a jump before it forgets anything, in milliseconds: time for whoever
/// sets clocks (NTP, a person) to set it right, and short beside the least retention of 72 hours.
const DISTRUST_MS: i64 = 3_600_000;
/// How often the clocks are noted in the database, in milliseconds: what a crash loses of fleet time at most,
/// if the wall clock is set back before the next start.
const SAVE_INTERVAL_MS: i64 = 60_000;

/// Both clocks as they were when they were noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SavedClocks {
    pub(super) wall_ms: UnixMs,
    pub(super) fleet_ms: i64,
    /// What was left of the time in which nothing may be forgotten.
    pub(super) distrust_ms: i64,
}

impl SavedClocks {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.wall_ms, self.fleet_ms, self.distrust_ms].map(i64::to_be_bytes).concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |n: usize| Some(i64::from_be_bytes(bytes.get(8 * n..8 * n + 8)?.try_into().ok()?));
        Some(Self { wall_ms: number(0)?, fleet_ms: number(1)?, distrust_ms: number(2)? })
    }
}

/// Tells both times.
pub(super) struct FleetClock {
    wall: Clock,
    monotonic: Clock,
    /// Fleet time minus the steady clock.
    offset_ms: i64,
    jump_detector: Mutex<JumpDetector>,
}

struct JumpDetector {
    /// Wall time minus fleet time, at the last look.
    wall_offset_ms: i64,
    /// From this fleet time on casts may be forgotten.
    trusted_from_ms: i64,
    saved_at_ms: i64,
}

impl FleetClock {
    /// Goes on where the last run ended. `trusted` says whether the wall clock is believed although there is
    /// nothing to compare it with: in a database that was made just now.
    pub(super) fn resume(wall: Clock, steady: Clock, noted: Option<SavedClocks>, trusted: bool) -> Self {
        let now = wall();
        let (fleet_ms, doubt_ms) = match noted {
            Some(noted) => {
                let gap = now.saturating_sub(noted.wall_ms);
                let plausible = (0..=MAX_TRUSTED_DOWNTIME_MS).contains(&gap);
                let doubt_ms = if plausible { noted.distrust_ms.clamp(0, DISTRUST_MS) } else { DISTRUST_MS };
                (noted.fleet_ms.saturating_add(gap.max(0)), doubt_ms)
            }
            None => (now, if trusted { 0 } else { DISTRUST_MS }),
        };
        let offset_ms = fleet_ms.saturating_sub(steady());
        let watch = JumpDetector {
            wall_offset_ms: now.saturating_sub(fleet_ms),
            trusted_from_ms: fleet_ms.saturating_add(doubt_ms),
            saved_at_ms: fleet_ms,
        };
        Self { wall, monotonic: steady, offset_ms, jump_detector: Mutex::new(watch) }
    }

    /// Milliseconds since 1970, as far as the system knows.
    pub(super) fn wall_ms(&self) -> UnixMs {
        (self.wall)()
    }

    /// Fleet time, in milliseconds.
    pub(super) fn fleet_ms(&self) -> i64 {
        (self.monotonic)().saturating_add(self.offset_ms)
    }

    /// Compares the clocks; call it often. Says whether the wall clock is good enough to forget casts by.
    pub(super) fn is_wall_trusted(&self) -> bool {
        let (wall, fleet) = (self.wall_ms(), self.fleet_ms());
        let mut watch = self.jump_detector.lock().unwrap_or_else(PoisonError::into_inner);
        let distance = wall.saturating_sub(fleet);
        let moved = distance.saturating_sub(watch.wall_offset_ms);
        watch.wall_offset_ms = distance;
        if moved.saturating_abs() > CLOCK_JUMP_MS {
            tracing::warn!(by_ms = moved, "the system clock was set: nothing is forgotten for an hour");
            watch.trusted_from_ms = fleet.saturating_add(DISTRUST_MS);
            // So that a crash does not lose the doubt.
            watch.saved_at_ms = i64::MIN;
        }
        fleet >= watch.trusted_from_ms
    }

    /// What is to be noted, if it is time to.
    pub(super) fn clocks_if_save_due(&self) -> Option<SavedClocks> {
        let noted_at_ms = self.jump_detector.lock().unwrap_or_else(PoisonError::into_inner).saved_at_ms;
        (self.fleet_ms() >= noted_at_ms.saturating_add(SAVE_INTERVAL_MS)).then(|| self.clocks_to_save())
    }

    /// What is to be noted now.
    pub(super) fn clocks_to_save(&self) -> SavedClocks {
        // A clock that was set just now must not be noted as if it were right.
        let _doubt = self.is_wall_trusted();
        let (wall_ms, fleet_ms) = (self.wall_ms(), self.fleet_ms());
        let mut watch = self.jump_detector.lock().unwrap_or_else(PoisonError::into_inner);
        watch.saved_at_ms = fleet_ms;
        let doubt_ms = watch.trusted_from_ms.saturating_sub(fleet_ms).max(0);
        SavedClocks { wall_ms, fleet_ms, distrust_ms: doubt_ms }
    }
}
