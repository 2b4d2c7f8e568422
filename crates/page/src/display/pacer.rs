//! Decides which tick a committed frame belongs to. Sans-IO: the caller passes the time.
//!
//! The display's ticks lie on a fixed grid. The time between tick *k* and tick *k+1* is **slot** *k*. The
//! browser follows this grid: it begins a frame on tick *k−d* and commits it in slot *k*, so the frame that
//! arrives in slot *k* is stamped with tick *k−d*, which aligns picture and sound. *d* is the [render
//! latency](crate::av_sync::RenderLatency). Each slot emits one tick, as soon as its frame is committed, or
//! when the slot closes without one. When the latency grows by one, a slot emits none; when it decreases by
//! one, two.

use std::ops::Range;

use pagecast_core::{Fps, HostTime, MediaTime};

/// Most slots that are caught up after the thread was not scheduled; more are skipped, as after a suspend of
/// the host.
const MAX_CATCH_UP_SLOTS: i64 = 600;

/// The tick grid, and which ticks were emitted.
#[derive(Debug)]
pub(crate) struct Pacer {
    fps: Fps,
    grid_start: HostTime,
    slot: i64,
    /// The slot whose tick is the first frame.
    first_slot: Option<i64>,
    /// Index of the next tick to emit.
    next_index: i64,
}

impl Pacer {
    /// A grid that starts at `now`.
    pub(crate) fn new(fps: Fps, now: HostTime) -> Self {
        Self { fps, grid_start: now, slot: 0, first_slot: None, next_index: 0 }
    }

    /// Begin of the current slot.
    pub(crate) fn slot_start(&self) -> HostTime {
        self.tick_time(self.slot)
    }

    /// End of the current slot.
    pub(crate) fn slot_end(&self) -> HostTime {
        self.tick_time(self.slot + 1)
    }

    /// Number of the current slot.
    pub(crate) fn slot(&self) -> i64 {
        self.slot
    }

    /// Whether the capture has started.
    pub(crate) fn is_capturing(&self) -> bool {
        self.first_slot.is_some()
    }

    /// Starts the capture: the next tick is the first frame. Returns its time; further calls return the same.
    pub(crate) fn start_capture(&mut self) -> HostTime {
        let first = *self.first_slot.get_or_insert(self.slot + 1);
        self.tick_time(first)
    }

    /// Closes the oldest slot that is over at `now`, and returns the ticks that it still owes; `None` if no
    /// slot is over. Call until `None`.
    pub(crate) fn close_slot(&mut self, now: HostTime, latency: u8) -> Option<Range<i64>> {
        if now < self.slot_end() {
            return None;
        }
        let due = self.due_ticks(latency);
        let following = self.slot + 1;
        self.slot = following.max(self.slot_at(now) - MAX_CATCH_UP_SLOTS);
        if self.is_capturing() {
            self.next_index += self.slot - following;
        }
        Some(due)
    }

    /// Returns the ticks to emit once the frame of this slot is committed; the last one is that of the frame.
    /// Empty if that tick was emitted, or the capture has not started.
    pub(crate) fn due_ticks(&mut self, latency: u8) -> Range<i64> {
        let Some(first) = self.first_slot else { return 0..0 };
        let end = self.slot - i64::from(latency) - first + 1;
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

    /// Closes all slots up to `now`, and returns the ticks that they owed.
    fn close_slots(pacer: &mut Pacer, now: HostTime, latency: u8) -> Vec<i64> {
        std::iter::from_fn(|| pacer.close_slot(now, latency)).flatten().collect()
    }

    fn due_ticks(pacer: &mut Pacer, latency: u8) -> Vec<i64> {
        pacer.due_ticks(latency).collect()
    }

    #[test]
    fn a_commit_belongs_to_the_tick_before_its_slot() {
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
        assert_eq!(close_slots(&mut pacer, ms(705), 1), [1, 2], "slots without a commit still owe a tick");
    }

    #[test]
    fn another_latency_is_another_tick() {
        let mut pacer = Pacer::new(Fps::new(10).unwrap(), ms(0));
        assert_eq!(pacer.start_capture(), ms(100));
        assert_eq!(close_slots(&mut pacer, ms(301), 1), [0]);
        assert_eq!(due_ticks(&mut pacer, 1), [1], "slot 3");
        assert_eq!(close_slots(&mut pacer, ms(401), 2), [0; 0]);
        assert_eq!(due_ticks(&mut pacer, 2), [0; 0], "tick 2 was emitted before");
        assert_eq!(close_slots(&mut pacer, ms(501), 2), [0; 0]);
        assert_eq!(due_ticks(&mut pacer, 2), [2], "slot 5");
        assert_eq!(close_slots(&mut pacer, ms(601), 0), [3, 4], "slot 5 closes with a smaller latency");
        assert_eq!(due_ticks(&mut pacer, 0), [5], "slot 6");
    }

    #[test]
    fn a_suspended_host_does_not_replay_hours() {
        let mut pacer = Pacer::new(Fps::new(30).unwrap(), ms(0));
        pacer.start_capture();
        let ticks = close_slots(&mut pacer, ms(3_600_000), 1);
        assert!(ticks.len() <= 601, "{}", ticks.len());
        assert_eq!(pacer.slot(), 30 * 3600);
    }

    proptest! {
        #[test]
        fn every_tick_is_emitted_once_and_in_order(
            fps in 1_u32..=60,
            steps in proptest::collection::vec((0_i64..90_000_000, any::<bool>(), 0_u8..=3), 1..200),
        ) {
            let mut pacer = Pacer::new(Fps::new(fps).unwrap(), HostTime(1234));
            let origin = pacer.start_capture();
            let (mut now, mut emitted) = (HostTime(1234), Vec::new());
            for (step, commit, latency) in steps {
                now = HostTime(now.0 + step);
                emitted.extend(close_slots(&mut pacer, now, latency));
                prop_assert!(pacer.slot_start() <= now && now < pacer.slot_end());
                if commit {
                    emitted.extend(pacer.due_ticks(latency));
                }
                let due = pacer.slot() - 1 - emitted.len() as i64;
                prop_assert!((-1..=4).contains(&due), "ticks are emitted within the latency: {due}");
            }
            prop_assert!(emitted.iter().copied().eq(0..emitted.len() as i64), "{emitted:?}");
            prop_assert!(origin > HostTime(1234));
        }
    }
}
