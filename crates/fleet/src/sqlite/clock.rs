//! The clocks of a fleet ([`crate::clock`]) on one machine: within a run, fleet time follows a monotonic
//! clock, and between two runs it advances by the difference of the wall clock.

use std::sync::{Mutex, PoisonError};

use crate::UnixMs;
use crate::clock::{Clock, DISTRUST_MS, after_downtime, is_jump};

/// Interval at which the clocks are saved, in milliseconds: a crash loses at most this much fleet time if the
/// wall clock is set back before the next start.
const SAVE_INTERVAL_MS: i64 = 60_000;

/// Readings of both clocks when they were saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SavedClocks {
    pub(super) wall_ms: UnixMs,
    pub(super) fleet_ms: i64,
    /// Rest of the time during which nothing may be deleted.
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

/// Source of wall time and fleet time.
pub(super) struct FleetClock {
    wall: Clock,
    monotonic: Clock,
    /// Fleet time minus monotonic time.
    offset_ms: i64,
    jump_detector: Mutex<JumpDetector>,
}

struct JumpDetector {
    /// Wall time minus fleet time, at the last check.
    wall_offset_ms: i64,
    /// Fleet time from which casts may be deleted.
    trusted_from_ms: i64,
    saved_at_ms: i64,
}

impl FleetClock {
    /// Continues fleet time from the last run. Without saved clocks, `trusted` tells whether to trust the
    /// wall clock, as for a new database.
    pub(super) fn resume(wall: Clock, monotonic: Clock, saved: Option<SavedClocks>, trusted: bool) -> Self {
        let now = wall();
        let (fleet_ms, distrust_ms) = match saved {
            Some(saved) => {
                let (fleet_ms, trusted) = after_downtime(now, saved.wall_ms, saved.fleet_ms);
                let distrust_ms = if trusted { saved.distrust_ms.clamp(0, DISTRUST_MS) } else { DISTRUST_MS };
                (fleet_ms, distrust_ms)
            }
            None => (now, if trusted { 0 } else { DISTRUST_MS }),
        };
        let offset_ms = fleet_ms.saturating_sub(monotonic());
        let detector = JumpDetector {
            wall_offset_ms: now.saturating_sub(fleet_ms),
            trusted_from_ms: fleet_ms.saturating_add(distrust_ms),
            saved_at_ms: fleet_ms,
        };
        Self { wall, monotonic, offset_ms, jump_detector: Mutex::new(detector) }
    }

    /// Wall time, in milliseconds since 1970.
    pub(super) fn wall_ms(&self) -> UnixMs {
        (self.wall)()
    }

    /// Fleet time, in milliseconds.
    pub(super) fn fleet_ms(&self) -> i64 {
        (self.monotonic)().saturating_add(self.offset_ms)
    }

    /// Compares the clocks, and returns whether the wall clock is trusted for deleting casts. Call it often.
    pub(super) fn is_wall_trusted(&self) -> bool {
        let (wall, fleet) = (self.wall_ms(), self.fleet_ms());
        let mut detector = self.jump_detector.lock().unwrap_or_else(PoisonError::into_inner);
        let wall_offset_ms = wall.saturating_sub(fleet);
        let before_ms = std::mem::replace(&mut detector.wall_offset_ms, wall_offset_ms);
        if is_jump(before_ms, wall_offset_ms) {
            let jump_ms = wall_offset_ms.saturating_sub(before_ms);
            tracing::warn!(jump_ms, "system clock jumped, deletion of old casts paused");
            detector.trusted_from_ms = fleet.saturating_add(DISTRUST_MS);
            // Save the distrust soon, so that a crash does not lose it.
            detector.saved_at_ms = i64::MIN;
        }
        fleet >= detector.trusted_from_ms
    }

    /// The clocks to save, if a save is due.
    pub(super) fn clocks_if_save_due(&self) -> Option<SavedClocks> {
        let saved_at_ms = self.jump_detector.lock().unwrap_or_else(PoisonError::into_inner).saved_at_ms;
        (self.fleet_ms() >= saved_at_ms.saturating_add(SAVE_INTERVAL_MS)).then(|| self.clocks_to_save())
    }

    /// The clocks to save now.
    pub(super) fn clocks_to_save(&self) -> SavedClocks {
        // Detects a jump first: a wrong clock must not be saved as trusted.
        let _trusted = self.is_wall_trusted();
        let (wall_ms, fleet_ms) = (self.wall_ms(), self.fleet_ms());
        let mut detector = self.jump_detector.lock().unwrap_or_else(PoisonError::into_inner);
        detector.saved_at_ms = fleet_ms;
        let distrust_ms = detector.trusted_from_ms.saturating_sub(fleet_ms).max(0);
        SavedClocks { wall_ms, fleet_ms, distrust_ms }
    }
}
