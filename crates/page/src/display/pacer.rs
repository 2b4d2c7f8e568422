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

/// Input of the [`Pacer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The render latency, in ticks, that holds from now on.
    RenderLatency(u8),
    /// The capture starts: the next tick is the first frame. Further ones change nothing.
    StartCapture,
    /// The frame of the current slot was committed.
    FrameCommitted,
}

/// Output of the [`Pacer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// The capture has started: the first frame is due at this time.
    CaptureStarted(HostTime),
    /// These ticks, at least one, are due; the last one shows the current screen. There are several after the
    /// render latency has decreased.
    TicksDue(Range<i64>),
    /// A slot is over, and the next one has begun.
    SlotStarted,
}

/// The tick grid, and which ticks were emitted.
#[derive(Debug)]
pub(crate) struct Pacer {
    fps: Fps,
    grid_start: HostTime,
    slot: i64,
    render_latency: u8,
    /// The slot whose tick is the first frame.
    first_slot: Option<i64>,
    /// Index of the next tick to emit.
    next_index: i64,
    /// What [`Pacer::poll`] returns next.
    capture_started: bool,
    due: Range<i64>,
    slot_started: bool,
}

impl Pacer {
    /// A grid that starts at `now`.
    pub(crate) fn new(fps: Fps, now: HostTime) -> Self {
        Self {
            fps,
            grid_start: now,
            slot: 0,
            render_latency: 0,
            first_slot: None,
            next_index: 0,
            capture_started: false,
            due: 0..0,
            slot_started: false,
        }
    }

    /// Begin of the current slot.
    pub(crate) fn slot_start(&self) -> HostTime {
        self.tick_time(self.slot)
    }

    /// Number of the current slot.
    pub(crate) fn slot(&self) -> i64 {
        self.slot
    }

    /// Whether the capture has started.
    pub(crate) fn is_capturing(&self) -> bool {
        self.first_slot.is_some()
    }

    /// Processes an input at time `now`. Before a capture or a frame, the slots that are over must be closed:
    /// see [`Pacer::poll`].
    pub(crate) fn handle(&mut self, now: HostTime, input: Input) {
        match input {
            Input::RenderLatency(ticks) => self.render_latency = ticks,
            Input::StartCapture => {
                debug_assert!(now < self.slot_end(), "a slot is not closed");
                self.capture_started |= self.first_slot.is_none();
                self.first_slot.get_or_insert(self.slot + 1);
            }
            Input::FrameCommitted => {
                debug_assert!(now < self.slot_end(), "a slot is not closed");
                self.add_due_ticks();
            }
        }
    }

    /// Returns the next output. Closes the slots that are over at `now`, one after the other.
    pub(crate) fn poll(&mut self, now: HostTime) -> Option<Output> {
        if std::mem::take(&mut self.capture_started)
            && let Some(first) = self.first_slot
        {
            return Some(Output::CaptureStarted(self.tick_time(first)));
        }
        if self.due.is_empty() && !self.slot_started && self.slot_end() <= now {
            self.close_slot(now);
        }
        if !self.due.is_empty() {
            let due = self.due.clone();
            self.due.start = due.end;
            return Some(Output::TicksDue(due));
        }
        std::mem::take(&mut self.slot_started).then_some(Output::SlotStarted)
    }

    /// When the current slot is over.
    pub(crate) fn deadline(&self) -> Option<HostTime> {
        Some(self.slot_end())
    }

    fn slot_end(&self) -> HostTime {
        self.tick_time(self.slot + 1)
    }

    /// Closes the current slot, which still owes its tick if no frame was committed.
    fn close_slot(&mut self, now: HostTime) {
        self.add_due_ticks();
        let following = self.slot + 1;
        self.slot = following.max(self.slot_at(now) - MAX_CATCH_UP_SLOTS);
        if self.is_capturing() {
            self.next_index += self.slot - following;
        }
        self.slot_started = true;
    }

    /// Makes the ticks up to that of the current slot's frame due, unless they were before.
    fn add_due_ticks(&mut self) {
        let Some(first) = self.first_slot else { return };
        let end = (self.slot - i64::from(self.render_latency) - first + 1).max(self.next_index);
        let start = if self.due.is_empty() { self.next_index } else { self.due.start };
        self.due = start..end;
        self.next_index = end;
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

    fn handle(pacer: &mut Pacer, input: Input) {
        pacer.handle(pacer.slot_start(), input);
    }

    /// Ticks that are due at `now`.
    fn poll_ticks(pacer: &mut Pacer, now: HostTime) -> Vec<i64> {
        let mut ticks = Vec::new();
        while let Some(output) = pacer.poll(now) {
            if let Output::TicksDue(due) = output {
                assert!(!due.is_empty());
                ticks.extend(due);
            }
        }
        ticks
    }

    /// Closes all slots up to `now`, and returns the ticks that they owed.
    fn close_slots(pacer: &mut Pacer, now: HostTime, latency: u8) -> Vec<i64> {
        handle(pacer, Input::RenderLatency(latency));
        poll_ticks(pacer, now)
    }

    /// Commits a frame, and returns the ticks that are due by it.
    fn commit(pacer: &mut Pacer, latency: u8) -> Vec<i64> {
        handle(pacer, Input::RenderLatency(latency));
        handle(pacer, Input::FrameCommitted);
        let now = pacer.slot_start();
        poll_ticks(pacer, now)
    }

    fn start_capture(pacer: &mut Pacer) -> HostTime {
        handle(pacer, Input::StartCapture);
        match pacer.poll(pacer.slot_start()) {
            Some(Output::CaptureStarted(origin)) => origin,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_commit_belongs_to_the_tick_before_its_slot() {
        let mut pacer = Pacer::new(Fps::new(10).unwrap(), ms(0));
        assert_eq!(close_slots(&mut pacer, ms(250), 1), [0; 0]);
        assert_eq!(start_capture(&mut pacer), ms(300));
        assert_eq!(commit(&mut pacer, 1), [0; 0], "slot 2 is before the first frame");
        assert_eq!(close_slots(&mut pacer, ms(310), 1), [0; 0]);
        assert_eq!(commit(&mut pacer, 1), [0; 0], "what commits in slot 3 was drawn for tick 2");
        assert_eq!(close_slots(&mut pacer, ms(405), 1), [0; 0]);
        assert_eq!(
            commit(&mut pacer, 1),
            [0],
            "what commits in slot 4 was drawn for tick 3, the first frame"
        );
        assert_eq!(commit(&mut pacer, 1), [0; 0]);
        assert_eq!(close_slots(&mut pacer, ms(705), 1), [1, 2], "slots without a commit still owe a tick");
    }

    #[test]
    fn another_latency_is_another_tick() {
        let mut pacer = Pacer::new(Fps::new(10).unwrap(), ms(0));
        assert_eq!(start_capture(&mut pacer), ms(100));
        assert_eq!(close_slots(&mut pacer, ms(301), 1), [0]);
        assert_eq!(commit(&mut pacer, 1), [1], "slot 3");
        assert_eq!(close_slots(&mut pacer, ms(401), 2), [0; 0]);
        assert_eq!(commit(&mut pacer, 2), [0; 0], "tick 2 was emitted before");
        assert_eq!(close_slots(&mut pacer, ms(501), 2), [0; 0]);
        assert_eq!(commit(&mut pacer, 2), [2], "slot 5");
        assert_eq!(close_slots(&mut pacer, ms(601), 0), [3, 4], "slot 5 closes with a smaller latency");
        assert_eq!(commit(&mut pacer, 0), [5], "slot 6");
    }

    #[test]
    fn each_slot_is_started_after_its_ticks_and_the_capture_once() {
        let mut pacer = Pacer::new(Fps::new(10).unwrap(), ms(0));
        handle(&mut pacer, Input::StartCapture);
        handle(&mut pacer, Input::StartCapture);
        assert_eq!(pacer.deadline(), Some(ms(100)));
        let outputs: Vec<_> = std::iter::from_fn(|| pacer.poll(ms(310))).collect();
        let expected = [
            Output::CaptureStarted(ms(100)),
            Output::SlotStarted,
            Output::TicksDue(0..1),
            Output::SlotStarted,
            Output::TicksDue(1..2),
            Output::SlotStarted,
        ];
        assert_eq!(outputs, expected);
        assert_eq!((pacer.slot(), pacer.deadline()), (3, Some(ms(400))));
    }

    #[test]
    fn a_suspended_host_does_not_replay_hours() {
        let mut pacer = Pacer::new(Fps::new(30).unwrap(), ms(0));
        start_capture(&mut pacer);
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
            let origin = start_capture(&mut pacer);
            let (mut now, mut emitted) = (HostTime(1234), Vec::new());
            for (step, commits, latency) in steps {
                now = HostTime(now.0 + step);
                emitted.extend(close_slots(&mut pacer, now, latency));
                prop_assert!(pacer.slot_start() <= now && pacer.deadline().is_some_and(|end| now < end));
                if commits {
                    emitted.extend(commit(&mut pacer, latency));
                }
                let due = pacer.slot() - 1 - emitted.len() as i64;
                prop_assert!((-1..=4).contains(&due), "ticks are emitted within the latency: {due}");
            }
            prop_assert!(emitted.iter().copied().eq(0..emitted.len() as i64), "{emitted:?}");
            prop_assert!(origin > HostTime(1234));
        }
    }
}
