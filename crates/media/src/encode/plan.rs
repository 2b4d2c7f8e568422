//! Which ticks are encoded, and how well. Sans-IO.
//!
//! A changed tick always is, or, where less frames per second are allowed than there are ticks, the first one
//! at which the next frame is due. After the picture came to rest it is encoded a few more times, finer each
//! time, until it is as good as the page; from then on only heartbeats are, which cost next to nothing and
//! tell players that we live. A keyframe that is due is always encoded: on a grid, where a file ends, and
//! when somebody asks for one.

use std::time::Duration;

use pagecast_core::{Fps, MediaTime};

use crate::cuts::Cuts;

/// How long after the last change each refinement comes, in milliseconds.
const REFINE_AFTER_MS: [i64; 3] = [120, 350, 800];
/// Longest time between two encoded frames, in milliseconds.
const HEARTBEAT_MS: i64 = 1000;
/// The same while a picture at rest is not as good as the page yet.
const UNFINISHED_MS: i64 = 200;
/// How long that may go on because of heavy frames, and because of others that are not light, in
/// milliseconds.
const FINISHED_MS: [i64; 2] = [10_000, 3000];

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

/// How large a frame is, compared with what may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Next to nothing.
    Light,
    /// In between.
    Medium,
    /// It may have been kept from being larger.
    Heavy,
}

/// When there are keyframes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keying {
    /// The first ticks at or after each multiple of it are keyframes; rounded to ticks, at least one. Without
    /// it only the first frame is one, and those that are asked for.
    pub interval: Option<Duration>,
    /// Least time from a keyframe to one that is asked for.
    pub request_gap: Duration,
}

/// Remembers what was encoded when.
#[derive(Debug)]
pub struct Plan {
    fps: i64,
    /// Most frames per second, at most `fps`.
    cap: i64,
    /// Ticks from one keyframe of the grid to the next, and the tick that the grid is counted from.
    interval: Option<i64>,
    origin: i64,
    /// Where files end, and when tick 0 is in their recording.
    cuts: Option<(Cuts, MediaTime)>,
    request_gap_ms: i64,
    requested: bool,
    last_encoded: Option<i64>,
    last_keyframe: i64,
    last_change: i64,
    /// What changed last is not encoded yet.
    owed: bool,
    /// Only keyframes are encoded.
    held: bool,
    /// The last frame took so much that there may be more to refine.
    unfinished: bool,
    refinement: u8,
}

impl Plan {
    /// Refinements until a picture is as good as it gets.
    pub const FINEST: u8 = REFINE_AFTER_MS.len() as u8;

    /// Nothing encoded yet.
    #[must_use]
    pub fn new(fps: Fps, keying: Keying) -> Self {
        Self {
            fps: fps.get().into(),
            cap: fps.get().into(),
            interval: keying.interval.map(|every| MediaTime::from(every).to_index(fps.get()).max(1)),
            origin: 0,
            cuts: None,
            request_gap_ms: MediaTime::from(keying.request_gap).as_millis(),
            requested: false,
            last_encoded: None,
            last_keyframe: 0,
            last_change: 0,
            owed: false,
            held: false,
            unfinished: false,
            refinement: 0,
        }
    }

    /// Asks for a keyframe: the next tick is one, or the first that is far enough from the last one.
    pub fn request_keyframe(&mut self) {
        self.requested = true;
    }

    /// Puts keyframes where files end, too. Tick 0 is at `begins_at` in the recording. After such a keyframe
    /// the grid begins anew, so that all files are divided alike.
    pub(crate) fn cut(&mut self, cuts: Cuts, begins_at: MediaTime) {
        self.cuts = Some((cuts, begins_at));
    }

    /// Allows so many frames per second from now on. Those that are left out are spread evenly.
    pub fn limit_fps(&mut self, fps: u32) {
        self.cap = i64::from(fps).clamp(1, self.fps);
    }

    /// Leaves out everything but keyframes, or no longer.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Hears how large the last frame was: a picture at rest is refined until there is little to add.
    pub fn judge(&mut self, weight: Weight) {
        let rest = self.last_encoded.map_or(0, |last| self.millis(last - self.last_change));
        self.unfinished = match weight {
            Weight::Heavy => rest < FINISHED_MS[0],
            Weight::Medium => rest < FINISHED_MS[1],
            Weight::Light => false,
        };
    }

    /// Forgets what was encoded: whoever decodes begins anew with the next tick.
    pub fn restart(&mut self) {
        self.last_encoded = None;
    }

    /// Decides about tick `index`; ticks come in order but may be missing.
    pub fn tick(&mut self, index: i64, changed: bool) -> Choice {
        if changed || self.last_encoded.is_none() {
            self.last_change = index;
            self.refinement = 0;
            self.owed = true;
        }
        if self.held {
            return if self.keyframe_is_due(index) { self.encode(index) } else { Choice::Skip };
        }
        if self.owed {
            let wanted = self.is_due(index) || self.keyframe_is_due(index);
            return if wanted { self.encode(index) } else { Choice::Skip };
        }
        let rest = self.millis(index - self.last_change);
        let due = REFINE_AFTER_MS.get(usize::from(self.refinement));
        if due.is_some_and(|after| rest >= *after) {
            self.refinement += 1;
            return self.encode(index);
        }
        let silence = self.last_encoded.map_or(0, |last| self.millis(index - last));
        let longest = if self.unfinished { UNFINISHED_MS } else { HEARTBEAT_MS };
        if silence >= longest || self.keyframe_is_due(index) { self.encode(index) } else { Choice::Skip }
    }

    /// The last tick of the cast: it is encoded, so that the last picture lasts to the end. Nothing if it was
    /// already.
    pub fn finish(&mut self, index: i64) -> Choice {
        if self.last_encoded.is_some_and(|last| last >= index) { Choice::Skip } else { self.encode(index) }
    }

    fn encode(&mut self, index: i64) -> Choice {
        let keyframe = self.keyframe_is_due(index);
        self.last_encoded = Some(index);
        self.owed = false;
        if keyframe {
            if self.is_cut(index) {
                self.origin = index;
            }
            self.last_keyframe = index;
            self.requested = false;
            if self.interval.is_none() {
                // Live, a keyframe may cost no more than a picture in motion: it is refined like one.
                self.last_change = index;
                self.refinement = 0;
            }
        }
        Choice::Encode { keyframe, refinement: self.refinement }
    }

    /// Whether the number of frames so far allows one more.
    fn is_due(&self, index: i64) -> bool {
        let slot = |index: i64| index * self.cap / self.fps;
        self.last_encoded.is_none_or(|last| slot(index) > slot(last))
    }

    /// On the grid, so that what is cut there is as long as it was asked to be, where files end, and at a
    /// request.
    fn keyframe_is_due(&self, index: i64) -> bool {
        let slot = |index: i64, every: i64| (index - self.origin) / every;
        self.last_encoded.is_none()
            || self.interval.is_some_and(|every| slot(index, every) > slot(self.last_keyframe, every))
            || self.is_cut(index)
            || self.requested && self.millis(index - self.last_keyframe) >= self.request_gap_ms
    }

    /// Whether a file ends between the last keyframe and tick `index`.
    fn is_cut(&self, index: i64) -> bool {
        let at = |index: i64| MediaTime::of_index(index, u32::try_from(self.fps).unwrap_or(1));
        self.cuts.is_some_and(|(cuts, begins_at)| {
            cuts.before(begins_at + at(index)) > cuts.before(begins_at + at(self.last_keyframe))
        })
    }

    fn millis(&self, ticks: i64) -> i64 {
        ticks * 1000 / self.fps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const FILES: Keying = Keying { interval: Some(Duration::from_secs(4)), request_gap: SECOND };
    const ROOM: Keying = Keying { interval: None, request_gap: Duration::from_millis(500) };

    /// The encoded ticks of `seconds` at `fps` where `changed` says which ticks changed.
    fn encoded(fps: u32, seconds: i64, changed: impl Fn(i64) -> bool) -> Vec<(i64, bool, u8)> {
        let mut plan = Plan::new(Fps::new(fps).unwrap(), FILES);
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
            let interval = Some(Duration::from_millis(interval));
            let mut plan = Plan::new(Fps::new(fps).unwrap(), Keying { interval, ..FILES });
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
        let mut plan = Plan::new(Fps::new(10).unwrap(), Keying { interval: Some(SECOND), ..FILES });
        let keys: Vec<_> =
            [0, 9, 13, 19, 20, 39, 40].into_iter().filter(|i| is_key(plan.tick(*i, false))).collect();
        assert_eq!(keys, [0, 13, 20, 39, 40]);
    }

    #[test]
    fn a_requested_keyframe_comes_at_once_but_a_second_after_the_last() {
        let mut plan = Plan::new(Fps::new(10).unwrap(), FILES);
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

    /// The keyframes of the first 20 s of a run that begins at `begins_at`, in files of `split`.
    fn cut(fps: u32, split: Duration, begins_at: MediaTime) -> Vec<i64> {
        let fps = Fps::new(fps).unwrap();
        let mut plan = Plan::new(fps, FILES);
        plan.cut(Cuts::new(split, fps.interval().into()), begins_at);
        (0..20 * i64::from(fps.get())).filter(|i| is_key(plan.tick(*i, i % 7 == 3))).collect()
    }

    #[test]
    fn a_file_ends_with_a_keyframe_and_the_grid_begins_anew() {
        assert_eq!(cut(10, Duration::from_secs(5), MediaTime::ZERO), [0, 40, 50, 90, 100, 140, 150, 190]);
        assert_eq!(cut(10, Duration::from_secs(8), MediaTime::ZERO), [0, 40, 80, 120, 160]);
        // A recording that goes on at 7.3 s is cut at 10 and 15 s all the same.
        let seven = MediaTime::of_index(73, 10);
        assert_eq!(cut(10, Duration::from_secs(5), seven), [0, 27, 67, 77, 117, 127, 167, 177]);
        // Time that is rounded moves no cut by a tick: 51 sevenths of a second.
        let rounded = MediaTime::of_index(51, 7);
        assert_eq!(cut(7, Duration::from_secs(10), rounded), [0, 19, 47, 75, 89, 117]);
    }

    #[test]
    fn a_cut_that_is_missing_hands_its_keyframe_to_the_next() {
        let mut plan = Plan::new(Fps::new(10).unwrap(), FILES);
        plan.cut(Cuts::new(Duration::from_secs(5), MediaTime::of_index(1, 10)), MediaTime::ZERO);
        let keys: Vec<_> =
            [0, 40, 49, 53, 92, 93, 99, 100].into_iter().filter(|i| is_key(plan.tick(*i, false))).collect();
        assert_eq!(keys, [0, 40, 53, 93, 100]);
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
        let mut plan = Plan::new(Fps::new(30).unwrap(), FILES);
        plan.tick(0, true);
        assert_eq!(plan.tick(1, false), Choice::Skip);
        assert_eq!(plan.finish(1), Choice::Encode { keyframe: false, refinement: 0 });
        assert_eq!(plan.finish(1), Choice::Skip);
    }

    #[test]
    fn a_room_has_no_grid_and_answers_requests_sooner() {
        for changed in [|_| true, |_| false] as [fn(i64) -> bool; 2] {
            let mut plan = Plan::new(Fps::new(30).unwrap(), ROOM);
            let keys: Vec<_> = (0..600)
                .filter(|i| {
                    if [100, 105, 300].contains(i) {
                        plan.request_keyframe();
                    }
                    is_key(plan.tick(*i, changed(*i)))
                })
                .collect();
            assert_eq!(keys, [0, 100, 115, 300]);
        }
    }

    #[test]
    fn a_keyframe_at_rest_is_refined_in_a_room() {
        let mut plan = Plan::new(Fps::new(30).unwrap(), ROOM);
        let refined = |choice| match choice {
            Choice::Encode { refinement, .. } => Some(refinement),
            Choice::Skip => None,
        };
        let all: Vec<_> = (0..200)
            .filter_map(|i| {
                if i == 100 {
                    plan.request_keyframe();
                }
                Some((i, refined(plan.tick(i, i == 0))?))
            })
            .collect();
        let beats = [(54, 3), (84, 3), (100, 0), (104, 1), (111, 2), (124, 3), (154, 3), (184, 3)];
        assert_eq!(all[4..], beats);
    }

    #[test]
    fn what_is_not_good_yet_is_refined_further() {
        let mut plan = Plan::new(Fps::new(10).unwrap(), ROOM);
        let mut all = Vec::new();
        for i in 0..60 {
            if plan.tick(i, i == 0) != Choice::Skip {
                all.push(i);
                plan.judge(if i < 16 { Weight::Heavy } else { Weight::Light });
            }
        }
        assert_eq!(all, [0, 2, 4, 6, 8, 10, 12, 14, 16, 26, 36, 46, 56]);
    }

    #[test]
    fn who_is_in_debt_sends_keyframes_only() {
        let mut plan = Plan::new(Fps::new(30).unwrap(), ROOM);
        plan.tick(0, true);
        plan.hold(true);
        assert!((1..60).all(|i| plan.tick(i, true) == Choice::Skip));
        plan.request_keyframe();
        assert_eq!(plan.tick(60, false), Choice::Encode { keyframe: true, refinement: 0 });
        assert_eq!(plan.tick(61, true), Choice::Skip);
        plan.hold(false);
        assert_eq!(plan.tick(62, false), Choice::Encode { keyframe: false, refinement: 0 });
    }

    #[test]
    fn fewer_frames_are_spread_evenly_and_forget_no_change() {
        let mut plan = Plan::new(Fps::new(30).unwrap(), ROOM);
        let mut count = |cap, range: std::ops::Range<i64>, changed: bool| {
            plan.limit_fps(cap);
            range.filter(|i| plan.tick(*i, changed) != Choice::Skip).collect::<Vec<_>>()
        };
        assert_eq!(count(15, 0..10, true), [0, 2, 4, 6, 8]);
        assert_eq!(count(20, 12..21, true), [12, 14, 15, 17, 18, 20]);
        assert_eq!(count(1, 30..90, true), [30, 60]);
        assert_eq!(count(100, 90..95, true), [90, 91, 92, 93, 94]);
        // A change that was left out is encoded when it is due, and rests from then on.
        assert_eq!(count(10, 95..97, true), [96]);
        assert!(count(10, 97..98, true).is_empty());
        assert_eq!(count(10, 98..125, false), [99, 101, 108, 121]);
    }

    #[test]
    fn a_keyframe_does_not_wait_for_its_turn() {
        let mut plan = Plan::new(Fps::new(30).unwrap(), ROOM);
        plan.limit_fps(1);
        plan.tick(0, true);
        plan.request_keyframe();
        let first = (1..60).find(|i| is_key(plan.tick(*i, true)));
        assert_eq!(first, Some(15));
    }

    #[test]
    fn after_a_restart_there_is_a_keyframe_at_once() {
        let mut plan = Plan::new(Fps::new(30).unwrap(), ROOM);
        plan.tick(0, true);
        plan.restart();
        assert_eq!(plan.tick(1, false), Choice::Encode { keyframe: true, refinement: 0 });
        assert_eq!(plan.tick(2, false), Choice::Skip);
    }
}
