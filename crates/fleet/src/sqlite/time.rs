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
const JUMP_MS: i64 = 10_000;
/// A service that was off for longer than this, by the wall clock, may as well have one that was set
/// meanwhile, in milliseconds.
const PLAUSIBLE_GAP_MS: i64 = 3_600_000;
/// How long the service must run after a jump before it forgets anything, in milliseconds: time for whoever
/// sets clocks (NTP, a person) to set it right, and short beside the least retention of 72 hours.
const DOUBT_MS: i64 = 3_600_000;
/// How often the clocks are noted in the database, in milliseconds: what a crash loses of fleet time at most,
/// if the wall clock is set back before the next start.
const NOTE_EVERY_MS: i64 = 60_000;

/// Both clocks as they were when they were noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) wall_ms: UnixMs,
    pub(super) fleet_ms: i64,
    /// What was left of the time in which nothing may be forgotten.
    pub(super) doubt_ms: i64,
}

impl Noted {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        [self.wall_ms, self.fleet_ms, self.doubt_ms].map(i64::to_be_bytes).concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |n: usize| Some(i64::from_be_bytes(bytes.get(8 * n..8 * n + 8)?.try_into().ok()?));
        Some(Self { wall_ms: number(0)?, fleet_ms: number(1)?, doubt_ms: number(2)? })
    }
}

/// Tells both times.
pub(super) struct Time {
    wall: Clock,
    steady: Clock,
    /// Fleet time minus the steady clock.
    offset_ms: i64,
    watch: Mutex<Watch>,
}

struct Watch {
    /// Wall time minus fleet time, at the last look.
    distance_ms: i64,
    /// From this fleet time on casts may be forgotten.
    sure_from_ms: i64,
    noted_at_ms: i64,
}

impl Time {
    /// Goes on where the last run ended. `trusted` says whether the wall clock is believed although there is
    /// nothing to compare it with: in a database that was made just now.
    pub(super) fn go_on(wall: Clock, steady: Clock, noted: Option<Noted>, trusted: bool) -> Self {
        let now = wall();
        let (fleet_ms, doubt_ms) = match noted {
            Some(noted) => {
                let gap = now.saturating_sub(noted.wall_ms);
                let plausible = (0..=PLAUSIBLE_GAP_MS).contains(&gap);
                let doubt_ms = if plausible { noted.doubt_ms.clamp(0, DOUBT_MS) } else { DOUBT_MS };
                (noted.fleet_ms.saturating_add(gap.max(0)), doubt_ms)
            }
            None => (now, if trusted { 0 } else { DOUBT_MS }),
        };
        let offset_ms = fleet_ms.saturating_sub(steady());
        let watch = Watch {
            distance_ms: now.saturating_sub(fleet_ms),
            sure_from_ms: fleet_ms.saturating_add(doubt_ms),
            noted_at_ms: fleet_ms,
        };
        Self { wall, steady, offset_ms, watch: Mutex::new(watch) }
    }

    /// Milliseconds since 1970, as far as the system knows.
    pub(super) fn wall(&self) -> UnixMs {
        (self.wall)()
    }

    /// Fleet time, in milliseconds.
    pub(super) fn fleet(&self) -> i64 {
        (self.steady)().saturating_add(self.offset_ms)
    }

    /// Compares the clocks; call it often. Says whether the wall clock is good enough to forget casts by.
    pub(super) fn is_sure(&self) -> bool {
        let (wall, fleet) = (self.wall(), self.fleet());
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let distance = wall.saturating_sub(fleet);
        let moved = distance.saturating_sub(watch.distance_ms);
        watch.distance_ms = distance;
        if moved.saturating_abs() > JUMP_MS {
            tracing::warn!(by_ms = moved, "the system clock was set: nothing is forgotten for an hour");
            watch.sure_from_ms = fleet.saturating_add(DOUBT_MS);
            // So that a crash does not lose the doubt.
            watch.noted_at_ms = i64::MIN;
        }
        fleet >= watch.sure_from_ms
    }

    /// What is to be noted, if it is time to.
    pub(super) fn to_note(&self) -> Option<Noted> {
        let noted_at_ms = self.watch.lock().unwrap_or_else(PoisonError::into_inner).noted_at_ms;
        (self.fleet() >= noted_at_ms.saturating_add(NOTE_EVERY_MS)).then(|| self.note())
    }

    /// What is to be noted now.
    pub(super) fn note(&self) -> Noted {
        // A clock that was set just now must not be noted as if it were right.
        let _doubt = self.is_sure();
        let (wall_ms, fleet_ms) = (self.wall(), self.fleet());
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.noted_at_ms = fleet_ms;
        let doubt_ms = watch.sure_from_ms.saturating_sub(fleet_ms).max(0);
        Noted { wall_ms, fleet_ms, doubt_ms }
    }
}
