//! Which ticks are encoded, and how well. Sans-IO.
//!
//! A changed tick always is. After the picture came to rest it is encoded a few more times, finer each time, until it is
//! as good as the page; from then on only heartbeats are, which cost next to nothing and tell players that we live. A keyframe
//! that is due is always encoded.

use std::time::Duration;

use pagecast_core::{Fps, MediaTime};

/// How long after the last change each refinement comes, in milliseconds.
const REFINE_AFTER_MS: [i64; 3] = [120, 350, 800];
/// Longest time between two encoded frames, in milliseconds.
const HEARTBEAT_MS: i64 = 1000;
/// Least time from a keyframe to one that was requested, in milliseconds.
const REQUESTED_MS: i64 = 1000;

/// What to do with a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Nothing: the last frame stays on.
    Skip,
    /// Encode it.
    Encode {
        /// Whether decoding can start here.
        keyframe: bool,
        /// How often this picture was refined: 0 for a picture in motion, [`Plan::FINEST`] for one at rest.
        refinement: u8,
    },
}

/// Remembers what was encoded when.
#[derive(Debug)]
pub struct Plan {
    fps: i64,
    /// Ticks from one keyframe of the grid to the next.
    interval: i64,
    requested: bool,
    last_encoded: Option<i64>,
    last_keyframe: i64,
    last_change: i64,
    refinement: u8,
}

impl Plan {
    /// Refinements until a picture is as good as it gets.
    pub const FINEST: u8 = REFINE_AFTER_MS.len() as u8;

    /// Nothing encoded yet. Keyframes lie on a grid of `keyframe_interval`, rounded to ticks, at least one.
    #[must_use]
    pub fn new(fps: Fps, keyframe_interval: Duration) -> Self {
        Self {
            fps: fps.get().into(),
            interval: MediaTime::from(keyframe_interval).to_index(fps.get()).max(1),
            requested: false,
            last_encoded: None,
            last_keyframe: 0,
            last_change: 0,
            refinement: 0,
        }
    }

    /// Asks for a keyframe: the next tick is one, or the first that is a second after the last one.
    pub fn request_keyframe(&mut self) {
        self.requested = true;
    }

    /// Decides about tick `index`; ticks come in order but may be missing.
    pub fn tick(&mut self, index: i64, changed: bool) -> Choice {
        if changed || self.last_encoded.is_none() {
            self.last_change = index;
            self.refinement = 0;
            return self.encode(index);
        }
        let rest = self.millis(index - self.last_change);
        let due = REFINE_AFTER_MS.get(usize::from(self.refinement));
        if due.is_some_and(|after| rest >= *after) {
            self.refinement += 1;
            return self.encode(index);
        }
        let silence = self.last_encoded.map_or(0, |last| self.millis(index - last));
        if silence >= HEARTBEAT_MS || self.keyframe_is_due(index) { self.encode(index) } else { Choice::Skip }
    }

    /// The last tick of the cast: it is encoded, so that the last picture lasts to the end. Nothing if it was already.
    pub fn finish(&mut self, index: i64) -> Choice {
        if self.last_encoded.is_some_and(|last| last >= index) { Choice::Skip } else { self.encode(index) }
    }

    fn encode(&mut self, index: i64) -> Choice {
        let keyframe = self.keyframe_is_due(index);
        self.last_encoded = Some(index);
        if keyframe {
            self.last_keyframe = index;
            self.requested = false;
        }
        Choice::Encode { keyframe, refinement: self.refinement }
    }

    /// On the grid, so that what is cut there is as long as it was asked to be, and at a request.
    fn keyframe_is_due(&self, index: i64) -> bool {
        self.last_encoded.is_none()
            || index / self.interval > self.last_keyframe / self.interval
            || self.requested && self.millis(index - self.last_keyframe) >= REQUESTED_MS
    }

    fn millis(&self, ticks: i64) -> i64 {
        ticks * 1000 / self.fps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(4);

    /// The encoded ticks of `seconds` at `fps` where `changed` says which ticks changed.
    fn encoded(fps: u32, seconds: i64, changed: impl Fn(i64) -> bool) -> Vec<(i64, bool, u8)> {
        let mut plan = Plan::new(Fps::new(fps).unwrap(), INTERVAL);
        let ticks = 0..seconds * i64::from(fps);
        ticks
            .filter_map(|i| match plan.tick(i, changed(i)) {
                Choice::Skip => None,
                Choice::Encode { keyframe, refinement } => Some((i, keyframe, refinement)),
            })
            .collect()
    }

    #[test]
    fn a_still_page_is_refined_and_then_beats_once_a_second() {
        let all = encoded(30, 12, |i| i == 0);
        let first: Vec<_> = all.iter().take(6).copied().collect();
        assert_eq!(
            first,
            [(0, true, 0), (4, false, 1), (11, false, 2), (24, false, 3), (54, false, 3), (84, false, 3)]
        );
        assert_eq!(keyframes(&all), [0, 120, 240]);
        assert!(all[3..].iter().all(|(.., refinement)| *refinement == Plan::FINEST));
    }

    fn keyframes(all: &[(i64, bool, u8)]) -> Vec<i64> {
        all.iter().filter(|(_, key, _)| *key).map(|(i, ..)| *i).collect()
    }

    #[test]
    fn keyframes_lie_on_their_grid_whatever_changes() {
        for changed in [|_| true, |i| i == 0, |i| i % 7 == 3] as [fn(i64) -> bool; 3] {
            assert_eq!(keyframes(&encoded(30, 20, changed)), [0, 120, 240, 360, 480]);
        }
        let grid = |fps, interval| {
            let mut plan = Plan::new(Fps::new(fps).unwrap(), Duration::from_millis(interval));
            (0..10).filter(|i| is_key(plan.tick(*i, false))).collect::<Vec<_>>()
        };
        assert_eq!(grid(7, 500), [0, 4, 8], "rounded to ticks");
        assert_eq!(grid(1, 100), (0..10).collect::<Vec<_>>(), "at least one tick");
    }

    fn is_key(choice: Choice) -> bool {
        matches!(choice, Choice::Encode { keyframe: true, .. })
    }

    #[test]
    fn a_tick_that_is_missing_hands_its_keyframe_to_the_next() {
        let mut plan = Plan::new(Fps::new(10).unwrap(), Duration::from_secs(1));
        let keys: Vec<_> =
            [0, 9, 13, 19, 20, 39, 40].into_iter().filter(|i| is_key(plan.tick(*i, false))).collect();
        assert_eq!(keys, [0, 13, 20, 39, 40]);
    }

    #[test]
    fn a_requested_keyframe_comes_at_once_but_a_second_after_the_last() {
        let mut plan = Plan::new(Fps::new(10).unwrap(), INTERVAL);
        let keys: Vec<_> = (0..90)
            .filter(|i| {
                if [2, 3, 25, 39, 60, 61].contains(i) {
                    plan.request_keyframe();
                }
                is_key(plan.tick(*i, false))
            })
            .collect();
        // The grid goes on as if nothing had been requested, and its keyframes are answers too.
        assert_eq!(keys, [0, 10, 25, 39, 40, 60, 70, 80]);
    }

    #[test]
    fn motion_is_encoded_whole_and_coarse() {
        let all = encoded(60, 3, |_| true);
        assert_eq!(all.len(), 180);
        assert!(all.iter().all(|(.., refinement)| *refinement == 0));
    }

    #[test]
    fn one_frame_a_second_is_refined_between() {
        assert_eq!(encoded(1, 4, |i| i == 1), [(0, true, 0), (1, false, 0), (2, false, 1), (3, false, 2)]);
    }

    #[test]
    fn the_last_tick_is_encoded_once() {
        let mut plan = Plan::new(Fps::new(30).unwrap(), INTERVAL);
        plan.tick(0, true);
        assert_eq!(plan.tick(1, false), Choice::Skip);
        assert_eq!(plan.finish(1), Choice::Encode { keyframe: false, refinement: 0 });
        assert_eq!(plan.finish(1), Choice::Skip);
    }
}
