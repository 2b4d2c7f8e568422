//! When the page draws and which moment a picture belongs to. Sans-IO: told the time, never asks for it.
//!
//! The display's ticks lie on a fixed grid. The time between tick *k* and tick *k+1* is **slot** *k*. A browser that was told
//! this grid begins a frame on tick *k−1* and commits it in slot *k*, so the picture that arrives in slot *k* is stamped
//! with tick *k−1*: then picture and sound agree. Each slot yields exactly one beat, as soon as its picture is there, or
//! when the slot closes without one.

use pagecast_core::{Fps, HostTime, MediaTime};

/// Slots that may be made up for after the thread was not scheduled; more are skipped (the host was suspended).
const MAX_CATCH_UP: i64 = 600;

/// The tick grid and what was told of it.
#[derive(Debug)]
pub(crate) struct Pacer {
    fps: Fps,
    base: HostTime,
    slot: i64,
    /// The slot whose tick is the first frame.
    first: Option<i64>,
    told: bool,
}

impl Pacer {
    /// A grid that starts now.
    pub(crate) fn new(fps: Fps, now: HostTime) -> Self {
        Self { fps, base: now, slot: 0, first: None, told: false }
    }

    /// The tick that opened the current slot.
    pub(crate) fn last_tick(&self) -> HostTime {
        self.tick(self.slot)
    }

    /// The tick that closes the current slot.
    pub(crate) fn next_tick(&self) -> HostTime {
        self.tick(self.slot + 1)
    }

    /// Number of the current slot.
    pub(crate) fn slot(&self) -> i64 {
        self.slot
    }

    /// Whether beats are wanted.
    pub(crate) fn capturing(&self) -> bool {
        self.first.is_some()
    }

    /// Starts the capture: the next tick is the first frame's moment, which is returned. Again: the same moment.
    pub(crate) fn begin(&mut self) -> HostTime {
        let first = *self.first.get_or_insert(self.slot + 1);
        self.tick(first)
    }

    /// Closes the oldest slot that is over at `now`. Returns `None` when none is; otherwise the beat it still owes, if any.
    /// Call until `None`.
    pub(crate) fn close(&mut self, now: HostTime) -> Option<Option<i64>> {
        if now < self.next_tick() {
            return None;
        }
        let owed = self.beat();
        let current = self.slot_at(now);
        self.slot = (self.slot + 1).max(current - MAX_CATCH_UP);
        self.told = false;
        Some(owed)
    }

    /// The picture of this slot is there: the beat to tell, unless it was told or none is wanted yet.
    pub(crate) fn beat(&mut self) -> Option<i64> {
        let index = self.slot - 1 - self.first?;
        if index < 0 || std::mem::replace(&mut self.told, true) {
            return None;
        }
        Some(index)
    }

    fn tick(&self, slot: i64) -> HostTime {
        HostTime(self.base.0 + self.fps.time_of(slot).0)
    }

    fn slot_at(&self, now: HostTime) -> i64 {
        self.fps.index_at(MediaTime(now.0 - self.base.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: i64) -> HostTime {
        HostTime(ms * 1_000_000)
    }

    /// Runs all events up to `now` and returns the beats that closing slots owed.
    fn close_all(pacer: &mut Pacer, now: HostTime) -> Vec<i64> {
        std::iter::from_fn(|| pacer.close(now)).flatten().collect()
    }

    #[test]
    fn a_commit_is_the_picture_of_the_tick_before_its_slot() {
        let mut pacer = Pacer::new(Fps::new(10).unwrap(), ms(0));
        assert_eq!(close_all(&mut pacer, ms(250)), [0; 0]);
        assert_eq!(pacer.begin(), ms(300));
        assert_eq!(pacer.beat(), None, "slot 2 is before the first frame");
        assert_eq!(close_all(&mut pacer, ms(310)), [0; 0]);
        assert_eq!(pacer.beat(), None, "what commits in slot 3 was drawn for tick 2");
        assert_eq!(close_all(&mut pacer, ms(405)), [0; 0]);
        assert_eq!(pacer.beat(), Some(0), "what commits in slot 4 was drawn for tick 3, the first frame");
        assert_eq!(pacer.beat(), None);
        assert_eq!(close_all(&mut pacer, ms(705)), [1, 2], "slots without a commit still owe a beat");
    }

    #[test]
    fn a_suspended_host_does_not_replay_hours() {
        let mut pacer = Pacer::new(Fps::new(30).unwrap(), ms(0));
        pacer.begin();
        let beats = close_all(&mut pacer, ms(3_600_000));
        assert!(beats.len() <= 601, "{}", beats.len());
        assert_eq!(pacer.slot(), 30 * 3600);
    }

    proptest! {
        #[test]
        fn every_beat_is_told_once_and_in_order(
            fps in 1_u32..=60,
            steps in proptest::collection::vec((0_i64..90_000_000, any::<bool>()), 1..200),
        ) {
            let mut pacer = Pacer::new(Fps::new(fps).unwrap(), HostTime(1234));
            let origin = pacer.begin();
            let (mut now, mut told) = (HostTime(1234), Vec::new());
            for (step, commit) in steps {
                now = HostTime(now.0 + step);
                told.extend(close_all(&mut pacer, now));
                prop_assert!(pacer.last_tick() <= now && now < pacer.next_tick());
                if commit {
                    told.extend(pacer.beat());
                }
            }
            prop_assert!(told.iter().copied().eq(0..told.len() as i64), "{told:?}");
            prop_assert!(origin > HostTime(1234));
        }
    }
}
