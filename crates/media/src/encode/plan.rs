//! Which ticks are encoded, and how well. Sans-IO.
//!
//! A changed tick always is. After the picture came to rest it is encoded a few more times, finer each time, until it is
//! as good as the page; from then on only heartbeats are, which cost next to nothing and tell players that we live.

use pagecast_core::Fps;

/// How long after the last change each refinement comes, in milliseconds.
const REFINE_AFTER_MS: [i64; 3] = [120, 350, 800];
/// Longest time between two encoded frames, in milliseconds.
const HEARTBEAT_MS: i64 = 1000;
/// Longest time between two keyframes, in milliseconds.
const KEYFRAME_MS: i64 = 10_000;

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
    last_encoded: Option<i64>,
    last_keyframe: i64,
    last_change: i64,
    refinement: u8,
}

impl Plan {
    /// Refinements until a picture is as good as it gets.
    pub const FINEST: u8 = REFINE_AFTER_MS.len() as u8;

    /// Nothing encoded yet.
    #[must_use]
    pub fn new(fps: Fps) -> Self {
        Self { fps: fps.get().into(), last_encoded: None, last_keyframe: 0, last_change: 0, refinement: 0 }
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
        if silence >= HEARTBEAT_MS { self.encode(index) } else { Choice::Skip }
    }

    /// The last tick of the cast: it is encoded, so that the last picture lasts to the end. Nothing if it was already.
    pub fn finish(&mut self, index: i64) -> Choice {
        if self.last_encoded.is_some_and(|last| last >= index) { Choice::Skip } else { self.encode(index) }
    }

    fn encode(&mut self, index: i64) -> Choice {
        let keyframe = self.last_encoded.is_none() || self.millis(index - self.last_keyframe) >= KEYFRAME_MS;
        self.last_encoded = Some(index);
        if keyframe {
            self.last_keyframe = index;
        }
        Choice::Encode { keyframe, refinement: self.refinement }
    }

    fn millis(&self, ticks: i64) -> i64 {
        ticks * 1000 / self.fps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::Fps;

    /// The encoded ticks of `seconds` at `fps` where `changed` says which ticks changed.
    fn encoded(fps: u32, seconds: i64, changed: impl Fn(i64) -> bool) -> Vec<(i64, bool, u8)> {
        let mut plan = Plan::new(Fps::new(fps).unwrap());
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
        assert_eq!(all.iter().filter(|(_, key, _)| *key).map(|(i, ..)| *i).collect::<Vec<_>>(), [0, 324]);
        assert!(all[3..].iter().all(|(.., refinement)| *refinement == Plan::FINEST));
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
        let mut plan = Plan::new(Fps::new(30).unwrap());
        plan.tick(0, true);
        assert_eq!(plan.tick(1, false), Choice::Skip);
        assert_eq!(plan.finish(1), Choice::Encode { keyframe: false, refinement: 0 });
        assert_eq!(plan.finish(1), Choice::Skip);
    }
}
