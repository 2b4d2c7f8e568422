//! When the page draws and which moment a picture belongs to. Sans-IO: told the time, never asks for it.
//!
//! The display's ticks lie on a fixed grid. The time between tick *k* and tick *k+1* is **slot** *k*. A browser that was told
//! this grid begins a frame on tick *k−d* and commits it in slot *k*, so the picture that arrives in slot *k* is stamped
//! with tick *k−d*: then picture and sound agree. *d* is the browser's [depth](crate::sync::Depth). Each slot yields one
//! beat, as soon as its picture is there, or when the slot closes without one. When the depth grows by one, a slot yields
//! none; when it becomes less by one, two.

use std::ops::Range;

use pagecast_core::{Fps, HostTime, MediaTime};

/// Slots that may be made up for after the thread was not scheduled; more are skipped (the host was suspended).
const MAX_CATCH_UP_SLOTS: i64 = 600;

/// The tick grid and what was told of it.
#[derive(Debug)]
pub(crate) struct Pacer {
    fps: Fps,
    grid_start: HostTime,
    slot: i64,
    /// The slot whose tick is the first frame.
    first_slot: Option<i64>,
    /// The beat to be told next.
    next_index: i64,
}

impl Pacer {
    /// A grid that starts now.
    pub(crate) fn new(fps: Fps, now: HostTime) -> Self {
        Self { fps, grid_start: now, slot: 0, first_slot: None, next_index: 0 }
    }

    /// The tick that opened the current slot.
    pub(crate) fn slot_start(&self) -> HostTime {
        self.tick_time(self.slot)
    }

    /// The tick that closes the current slot.
    pub(crate) fn slot_end(&self) -> HostTime {
        self.tick_time(self.slot + 1)
    }

    /// Number of the current slot.
    pub(crate) fn slot(&self) -> i64 {
        self.slot
    }

    /// Whether beats are wanted.
    pub(crate) fn is_capturing(&self) -> bool {
        self.first_slot.is_some()
    }

    /// Starts the capture: the next tick is the first frame's moment, which is returned. Again: the same moment.
    pub(crate) fn start_capture(&mut self) -> HostTime {
        let first = *self.first_slot.get_or_insert(self.slot + 1);
        self.tick_time(first)
    }

    /// Closes the oldest slot that is over at `now`. Returns `None` when none is; otherwise the beats it still owes. Call
    /// until `None`.
    pub(crate) fn close_slot(&mut self, now: HostTime, depth: u8) -> Option<Range<i64>> {
        if now < self.slot_end() {
            return None;
        }
        let owed = self.due_ticks(depth);
        let following = self.slot + 1;
        self.slot = following.max(self.slot_at(now) - MAX_CATCH_UP_SLOTS);
        if self.is_capturing() {
            self.next_index += self.slot - following;
        }
        Some(owed)
    }

    /// The picture of this slot is there: the beats to tell, of which the last is the picture's. Empty if it was told, or
    /// none is wanted yet.
    pub(crate) fn due_ticks(&mut self, depth: u8) -> Range<i64> {
        let Some(first) = self.first_slot else { return 0..0 };
        let end = self.slot - i64::from(depth) - first + 1;
        let due = self.next_index..end.max(self.next_index);
        self.next_index = due.end;
        due
    }

    fn tick_time(&self, slot: i64) -> HostTime {
        HostTime(self.grid_start.0 + self.fps.time_of(slot).0)
    }

    fn slot_at(&self, now: HostTime) -> i64 {
        self.fps.index_at(MediaTime(now.0 - self.grid_start.0))
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
    fn close_slots(pacer: &mut Pacer, now: HostTime, depth: u8) -> Vec<i64> {
        std::iter::from_fn(|| pacer.close_slot(now, depth)).flatten().collect()
    }

    fn due_ticks(pacer: &mut Pacer, depth: u8) -> Vec<i64> {
        pacer.due_ticks(depth).collect()
    }

    #[test]
    fn a_commit_is_the_picture_of_the_tick_before_its_slot() {
        let mut pacer = Pacer::new(Fps::new(10).unwrap(), ms(0));
        assert_eq!(close_slots(&mut pacer, ms(250), 1), [0; 0]);
        assert_eq!(pacer.start_capture(), ms(300));
        assert_eq!(due_ticks(&mut pacer, 1), [0; 0], "slot 2 is before the first frame");
        assert_eq!(close_slots(&mut pacer, ms(310), 1), [0; 0]);
        assert_eq!(due_ticks(&mut pacer, 1), [0; 0], "what commits in slot 3 was drawn for tick 2");
        assert_eq!(close_slots(&mut pacer, ms(405), 1), [0; 0]);
        assert_eq!(
            due_ticks(&mut pacer, 1),
            [0],
            "what commits in slot 4 was drawn for tick 3, the first frame"
        );
        assert_eq!(due_ticks(&mut pacer, 1), [0; 0]);
        assert_eq!(close_slots(&mut pacer, ms(705), 1), [1, 2], "slots without a commit still owe a beat");
    }

    #[test]
    fn another_depth_is_another_tick() {
        let mut pacer = Pacer::new(Fps::new(10).unwrap(), ms(0));
        assert_eq!(pacer.start_capture(), ms(100));
        assert_eq!(close_slots(&mut pacer, ms(301), 1), [0]);
        assert_eq!(due_ticks(&mut pacer, 1), [1], "slot 3");
        assert_eq!(close_slots(&mut pacer, ms(401), 2), [0; 0]);
        assert_eq!(due_ticks(&mut pacer, 2), [0; 0], "the picture of tick 2 in slot 4: there is one already");
        assert_eq!(close_slots(&mut pacer, ms(501), 2), [0; 0]);
        assert_eq!(due_ticks(&mut pacer, 2), [2], "slot 5");
        assert_eq!(close_slots(&mut pacer, ms(601), 0), [3, 4], "slot 5 closed by one who knows better");
        assert_eq!(due_ticks(&mut pacer, 0), [5], "slot 6");
    }

    #[test]
    fn a_suspended_host_does_not_replay_hours() {
        let mut pacer = Pacer::new(Fps::new(30).unwrap(), ms(0));
        pacer.start_capture();
        let beats = close_slots(&mut pacer, ms(3_600_000), 1);
        assert!(beats.len() <= 601, "{}", beats.len());
        assert_eq!(pacer.slot(), 30 * 3600);
    }

    proptest! {
        #[test]
        fn every_beat_is_told_once_and_in_order(
            fps in 1_u32..=60,
            steps in proptest::collection::vec((0_i64..90_000_000, any::<bool>(), 0_u8..=3), 1..200),
        ) {
            let mut pacer = Pacer::new(Fps::new(fps).unwrap(), HostTime(1234));
            let origin = pacer.start_capture();
            let (mut now, mut told) = (HostTime(1234), Vec::new());
            for (step, commit, depth) in steps {
                now = HostTime(now.0 + step);
                told.extend(close_slots(&mut pacer, now, depth));
                prop_assert!(pacer.slot_start() <= now && now < pacer.slot_end());
                if commit {
                    told.extend(pacer.due_ticks(depth));
                }
                let due = pacer.slot() - 1 - told.len() as i64;
                prop_assert!((-1..=4).contains(&due), "beats are told within the depth: {due}");
            }
            prop_assert!(told.iter().copied().eq(0..told.len() as i64), "{told:?}");
            prop_assert!(origin > HostTime(1234));
        }
    }
}
