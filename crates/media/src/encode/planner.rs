//! Which ticks are encoded, and how well. Sans-IO.
//!
//! A changed tick always is, or, where less frames per second are allowed than there are ticks, the first one
//! at which the next frame is due. After the picture came to rest it is encoded a few more times, finer each
//! time, until it is as good as the page; from then on only heartbeats are, which cost next to nothing and
//! tell players that we live. A keyframe that is due is always encoded: on a grid, where a file ends, and
//! when somebody asks for one.

use std::time::Duration;

use pagecast_core::{Fps, MediaTime};

use crate::split_points::SplitPoints;

/// How long after the last change each refinement comes, in milliseconds.
const REFINE_AFTER_MS: [i64; 3] = [120, 350, 800];
/// Longest time between two encoded frames, in milliseconds.
const HEARTBEAT_INTERVAL_MS: i64 = 1000;
/// The same while a picture at rest is not as good as the page yet.
const UNREFINED_INTERVAL_MS: i64 = 200;
/// How long that may go on because of heavy frames, and because of others that are not light, in
/// milliseconds.
const MAX_REFINE_MS: [i64; 2] = [10_000, 3000];

/// What to do with a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameDecision {
    /// Nothing: the last frame stays on.
    Skip,
    /// Encode it.
    Encode {
        /// Whether decoding can start here.
        keyframe: bool,
        /// How often this picture was refined: 0 for a picture in motion, [`FramePlanner::MAX_REFINEMENT`] for one at rest.
        refinement: u8,
    },
}

/// How large a frame is, compared with what may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameCost {
    /// Next to nothing.
    Low,
    /// In between.
    Medium,
    /// It may have been kept from being larger.
    High,
}

/// When there are keyframes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GopPolicy {
    /// The first ticks at or after each multiple of it are keyframes; rounded to ticks, at least one. Without
    /// it only the first frame is one, and those that are asked for.
    pub keyframe_interval: Option<Duration>,
    /// Least time from a keyframe to one that is asked for.
    pub min_request_interval: Duration,
}

/// Remembers what was encoded when.
#[derive(Debug)]
pub struct FramePlanner {
    fps: i64,
    /// Most frames per second, at most `fps`.
    max_fps: i64,
    /// Ticks from one keyframe of the grid to the next, and the tick that the grid is counted from.
    keyframe_interval: Option<i64>,
    grid_origin: i64,
    /// Where files end, and when tick 0 is in their recording.
    split_points: Option<(SplitPoints, MediaTime)>,
    min_request_interval_ms: i64,
    keyframe_requested: bool,
    last_encoded: Option<i64>,
    last_keyframe: i64,
    last_change: i64,
    /// What changed last is not encoded yet.
    has_pending_change: bool,
    /// Only keyframes are encoded.
    keyframes_only: bool,
    /// The last frame took so much that there may be more to refine.
    needs_refinement: bool,
    refinement: u8,
}

impl FramePlanner {
    /// Refinements until a picture is as good as it gets.
    pub const MAX_REFINEMENT: u8 = REFINE_AFTER_MS.len() as u8;

    /// Nothing encoded yet.
    #[must_use]
    pub fn new(fps: Fps, keying: GopPolicy) -> Self {
        Self {
            fps: fps.get().into(),
            max_fps: fps.get().into(),
            keyframe_interval: keying
                .keyframe_interval
                .map(|every| MediaTime::from(every).to_index(fps.get()).max(1)),
            grid_origin: 0,
            split_points: None,
            min_request_interval_ms: MediaTime::from(keying.min_request_interval).as_millis(),
            keyframe_requested: false,
            last_encoded: None,
            last_keyframe: 0,
            last_change: 0,
            has_pending_change: false,
            keyframes_only: false,
            needs_refinement: false,
            refinement: 0,
        }
    }

    /// Asks for a keyframe: the next tick is one, or the first that is far enough from the last one.
    pub fn request_keyframe(&mut self) {
        self.keyframe_requested = true;
    }

    /// Puts keyframes where files end, too. Tick 0 is at `begins_at` in the recording. After such a keyframe
    /// the grid begins anew, so that all files are divided alike.
    pub(crate) fn set_split_points(&mut self, cuts: SplitPoints, begins_at: MediaTime) {
        self.split_points = Some((cuts, begins_at));
    }

    /// Allows so many frames per second from now on. Those that are left out are spread evenly.
    pub fn limit_fps(&mut self, fps: u32) {
        self.max_fps = i64::from(fps).clamp(1, self.fps);
    }

    /// Leaves out everything but keyframes, or no longer.
    pub fn set_keyframes_only(&mut self, held: bool) {
        self.keyframes_only = held;
    }

    /// Hears how large the last frame was: a picture at rest is refined until there is little to add.
    pub fn on_frame_cost(&mut self, weight: FrameCost) {
        let rest = self.last_encoded.map_or(0, |last| self.ticks_to_ms(last - self.last_change));
        self.needs_refinement = match weight {
            FrameCost::High => rest < MAX_REFINE_MS[0],
            FrameCost::Medium => rest < MAX_REFINE_MS[1],
            FrameCost::Low => false,
        };
    }

    /// Forgets what was encoded: whoever decodes begins anew with the next tick.
    pub fn restart(&mut self) {
        self.last_encoded = None;
    }

    /// Decides about tick `index`; ticks come in order but may be missing.
    pub fn decide(&mut self, index: i64, changed: bool) -> FrameDecision {
        if changed || self.last_encoded.is_none() {
            self.last_change = index;
            self.refinement = 0;
            self.has_pending_change = true;
        }
        if self.keyframes_only {
            return if self.is_keyframe_due(index) { self.encode_frame(index) } else { FrameDecision::Skip };
        }
        if self.has_pending_change {
            let wanted = self.is_frame_due(index) || self.is_keyframe_due(index);
            return if wanted { self.encode_frame(index) } else { FrameDecision::Skip };
        }
        let rest = self.ticks_to_ms(index - self.last_change);
        let due = REFINE_AFTER_MS.get(usize::from(self.refinement));
        if due.is_some_and(|after| rest >= *after) {
            self.refinement += 1;
            return self.encode_frame(index);
        }
        let silence = self.last_encoded.map_or(0, |last| self.ticks_to_ms(index - last));
        let longest = if self.needs_refinement { UNREFINED_INTERVAL_MS } else { HEARTBEAT_INTERVAL_MS };
        if silence >= longest || self.is_keyframe_due(index) {
            self.encode_frame(index)
        } else {
            FrameDecision::Skip
        }
    }

    /// The last tick of the cast: it is encoded, so that the last picture lasts to the end. Nothing if it was
    /// already.
    pub fn decide_last(&mut self, index: i64) -> FrameDecision {
        if self.last_encoded.is_some_and(|last| last >= index) {
            FrameDecision::Skip
        } else {
            self.encode_frame(index)
        }
    }

    fn encode_frame(&mut self, index: i64) -> FrameDecision {
        let keyframe = self.is_keyframe_due(index);
        self.last_encoded = Some(index);
        self.has_pending_change = false;
        if keyframe {
            if self.is_split_point(index) {
                self.grid_origin = index;
            }
            self.last_keyframe = index;
            self.keyframe_requested = false;
            if self.keyframe_interval.is_none() {
                // Live, a keyframe may cost no more than a picture in motion: it is refined like one.
                self.last_change = index;
                self.refinement = 0;
            }
        }
        FrameDecision::Encode { keyframe, refinement: self.refinement }
    }

    /// Whether the number of frames so far allows one more.
    fn is_frame_due(&self, index: i64) -> bool {
        let slot = |index: i64| index * self.max_fps / self.fps;
        self.last_encoded.is_none_or(|last| slot(index) > slot(last))
    }

    /// On the grid, so that what is cut there is as long as it was asked to be, where files end, and at a
    /// request.
    fn is_keyframe_due(&self, index: i64) -> bool {
        let slot = |index: i64, every: i64| (index - self.grid_origin) / every;
        self.last_encoded.is_none()
            || self
                .keyframe_interval
                .is_some_and(|every| slot(index, every) > slot(self.last_keyframe, every))
            || self.is_split_point(index)
            || self.keyframe_requested
                && self.ticks_to_ms(index - self.last_keyframe) >= self.min_request_interval_ms
    }

    /// Whether a file ends between the last keyframe and tick `index`.
    fn is_split_point(&self, index: i64) -> bool {
        let at = |index: i64| MediaTime::from_index(index, u32::try_from(self.fps).unwrap_or(1));
        self.split_points.is_some_and(|(cuts, begins_at)| {
            cuts.count_until(begins_at + at(index)) > cuts.count_until(begins_at + at(self.last_keyframe))
        })
    }

    fn ticks_to_ms(&self, ticks: i64) -> i64 {
        ticks * 1000 / self.fps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const FILE_GOP: GopPolicy =
        GopPolicy { keyframe_interval: Some(Duration::from_secs(4)), min_request_interval: SECOND };
    const ROOM_GOP: GopPolicy =
        GopPolicy { keyframe_interval: None, min_request_interval: Duration::from_millis(500) };

    /// The encoded ticks of `seconds` at `fps` where `changed` says which ticks changed.
    fn encoded_ticks(fps: u32, seconds: i64, changed: impl Fn(i64) -> bool) -> Vec<(i64, bool, u8)> {
        let mut plan = FramePlanner::new(Fps::new(fps).unwrap(), FILE_GOP);
        let ticks = 0..seconds * i64::from(fps);
        ticks
            .filter_map(|i| match plan.decide(i, changed(i)) {
                FrameDecision::Skip => None,
                FrameDecision::Encode { keyframe, refinement } => Some((i, keyframe, refinement)),
            })
            .collect()
    }

    #[test]
    fn a_still_page_is_refined_and_then_sends_a_heartbeat_a_second() {
        let all = encoded_ticks(30, 12, |i| i == 0);
        let first: Vec<_> = all.iter().take(6).copied().collect();
        assert_eq!(
            first,
            [(0, true, 0), (4, false, 1), (11, false, 2), (24, false, 3), (54, false, 3), (84, false, 3)]
        );
        assert_eq!(keyframes(&all), [0, 120, 240]);
        assert!(all[3..].iter().all(|(.., refinement)| *refinement == FramePlanner::MAX_REFINEMENT));
    }

    fn keyframes(all: &[(i64, bool, u8)]) -> Vec<i64> {
        all.iter().filter(|(_, key, _)| *key).map(|(i, ..)| *i).collect()
    }

    #[test]
    fn keyframes_lie_on_their_grid_whatever_changes() {
        for changed in [|_| true, |i| i == 0, |i| i % 7 == 3] as [fn(i64) -> bool; 3] {
            assert_eq!(keyframes(&encoded_ticks(30, 20, changed)), [0, 120, 240, 360, 480]);
        }
        let grid = |fps, interval| {
            let interval = Some(Duration::from_millis(interval));
            let mut plan = FramePlanner::new(
                Fps::new(fps).unwrap(),
                GopPolicy { keyframe_interval: interval, ..FILE_GOP },
            );
            (0..10).filter(|i| is_keyframe(plan.decide(*i, false))).collect::<Vec<_>>()
        };
        assert_eq!(grid(7, 500), [0, 4, 8], "rounded to ticks");
        assert_eq!(grid(1, 100), (0..10).collect::<Vec<_>>(), "at least one tick");
    }

    fn is_keyframe(choice: FrameDecision) -> bool {
        matches!(choice, FrameDecision::Encode { keyframe: true, .. })
    }

    #[test]
    fn a_tick_that_is_missing_hands_its_keyframe_to_the_next() {
        let mut plan = FramePlanner::new(
            Fps::new(10).unwrap(),
            GopPolicy { keyframe_interval: Some(SECOND), ..FILE_GOP },
        );
        let keys: Vec<_> =
            [0, 9, 13, 19, 20, 39, 40].into_iter().filter(|i| is_keyframe(plan.decide(*i, false))).collect();
        assert_eq!(keys, [0, 13, 20, 39, 40]);
    }

    #[test]
    fn a_requested_keyframe_comes_at_once_but_a_second_after_the_last() {
        let mut plan = FramePlanner::new(Fps::new(10).unwrap(), FILE_GOP);
        let keys: Vec<_> = (0..90)
            .filter(|i| {
                if [2, 3, 25, 39, 60, 61].contains(i) {
                    plan.request_keyframe();
                }
                is_keyframe(plan.decide(*i, false))
            })
            .collect();
        // The grid goes on as if nothing had been requested, and its keyframes are answers too.
        assert_eq!(keys, [0, 10, 25, 39, 40, 60, 70, 80]);
    }

    /// The keyframes of the first 20 s of a run that begins at `begins_at`, in files of `split`.
    fn split_keyframes(fps: u32, split: Duration, begins_at: MediaTime) -> Vec<i64> {
        let fps = Fps::new(fps).unwrap();
        let mut plan = FramePlanner::new(fps, FILE_GOP);
        plan.set_split_points(SplitPoints::new(split, fps.interval().into()), begins_at);
        (0..20 * i64::from(fps.get())).filter(|i| is_keyframe(plan.decide(*i, i % 7 == 3))).collect()
    }

    #[test]
    fn a_file_ends_with_a_keyframe_and_the_grid_begins_anew() {
        assert_eq!(
            split_keyframes(10, Duration::from_secs(5), MediaTime::ZERO),
            [0, 40, 50, 90, 100, 140, 150, 190]
        );
        assert_eq!(split_keyframes(10, Duration::from_secs(8), MediaTime::ZERO), [0, 40, 80, 120, 160]);
        // A recording that goes on at 7.3 s is cut at 10 and 15 s all the same.
        let seven = MediaTime::from_index(73, 10);
        assert_eq!(split_keyframes(10, Duration::from_secs(5), seven), [0, 27, 67, 77, 117, 127, 167, 177]);
        // Time that is rounded moves no cut by a tick: 51 sevenths of a second.
        let rounded = MediaTime::from_index(51, 7);
        assert_eq!(split_keyframes(7, Duration::from_secs(10), rounded), [0, 19, 47, 75, 89, 117]);
    }

    #[test]
    fn a_split_point_that_is_missing_hands_its_keyframe_to_the_next() {
        let mut plan = FramePlanner::new(Fps::new(10).unwrap(), FILE_GOP);
        plan.set_split_points(
            SplitPoints::new(Duration::from_secs(5), MediaTime::from_index(1, 10)),
            MediaTime::ZERO,
        );
        let keys: Vec<_> = [0, 40, 49, 53, 92, 93, 99, 100]
            .into_iter()
            .filter(|i| is_keyframe(plan.decide(*i, false)))
            .collect();
        assert_eq!(keys, [0, 40, 53, 93, 100]);
    }

    #[test]
    fn motion_is_encoded_whole_and_coarse() {
        let all = encoded_ticks(60, 3, |_| true);
        assert_eq!(all.len(), 180);
        assert!(all.iter().all(|(.., refinement)| *refinement == 0));
    }

    #[test]
    fn one_frame_a_second_is_refined_between() {
        assert_eq!(
            encoded_ticks(1, 4, |i| i == 1),
            [(0, true, 0), (1, false, 0), (2, false, 1), (3, false, 2)]
        );
    }

    #[test]
    fn the_last_tick_is_encoded_once() {
        let mut plan = FramePlanner::new(Fps::new(30).unwrap(), FILE_GOP);
        plan.decide(0, true);
        assert_eq!(plan.decide(1, false), FrameDecision::Skip);
        assert_eq!(plan.decide_last(1), FrameDecision::Encode { keyframe: false, refinement: 0 });
        assert_eq!(plan.decide_last(1), FrameDecision::Skip);
    }

    #[test]
    fn a_room_has_no_grid_and_answers_requests_sooner() {
        for changed in [|_| true, |_| false] as [fn(i64) -> bool; 2] {
            let mut plan = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
            let keys: Vec<_> = (0..600)
                .filter(|i| {
                    if [100, 105, 300].contains(i) {
                        plan.request_keyframe();
                    }
                    is_keyframe(plan.decide(*i, changed(*i)))
                })
                .collect();
            assert_eq!(keys, [0, 100, 115, 300]);
        }
    }

    #[test]
    fn a_keyframe_at_rest_is_refined_in_a_room() {
        let mut plan = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        let refined = |choice| match choice {
            FrameDecision::Encode { refinement, .. } => Some(refinement),
            FrameDecision::Skip => None,
        };
        let all: Vec<_> = (0..200)
            .filter_map(|i| {
                if i == 100 {
                    plan.request_keyframe();
                }
                Some((i, refined(plan.decide(i, i == 0))?))
            })
            .collect();
        let beats = [(54, 3), (84, 3), (100, 0), (104, 1), (111, 2), (124, 3), (154, 3), (184, 3)];
        assert_eq!(all[4..], beats);
    }

    #[test]
    fn what_is_not_good_yet_is_refined_further() {
        let mut plan = FramePlanner::new(Fps::new(10).unwrap(), ROOM_GOP);
        let mut all = Vec::new();
        for i in 0..60 {
            if plan.decide(i, i == 0) != FrameDecision::Skip {
                all.push(i);
                plan.on_frame_cost(if i < 16 { FrameCost::High } else { FrameCost::Low });
            }
        }
        assert_eq!(all, [0, 2, 4, 6, 8, 10, 12, 14, 16, 26, 36, 46, 56]);
    }

    #[test]
    fn who_is_in_debt_sends_keyframes_only() {
        let mut plan = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        plan.decide(0, true);
        plan.set_keyframes_only(true);
        assert!((1..60).all(|i| plan.decide(i, true) == FrameDecision::Skip));
        plan.request_keyframe();
        assert_eq!(plan.decide(60, false), FrameDecision::Encode { keyframe: true, refinement: 0 });
        assert_eq!(plan.decide(61, true), FrameDecision::Skip);
        plan.set_keyframes_only(false);
        assert_eq!(plan.decide(62, false), FrameDecision::Encode { keyframe: false, refinement: 0 });
    }

    #[test]
    fn fewer_frames_are_spread_evenly_and_forget_no_change() {
        let mut plan = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        let mut count = |cap, range: std::ops::Range<i64>, changed: bool| {
            plan.limit_fps(cap);
            range.filter(|i| plan.decide(*i, changed) != FrameDecision::Skip).collect::<Vec<_>>()
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
        let mut plan = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        plan.limit_fps(1);
        plan.decide(0, true);
        plan.request_keyframe();
        let first = (1..60).find(|i| is_keyframe(plan.decide(*i, true)));
        assert_eq!(first, Some(15));
    }

    #[test]
    fn after_a_restart_there_is_a_keyframe_at_once() {
        let mut plan = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        plan.decide(0, true);
        plan.restart();
        assert_eq!(plan.decide(1, false), FrameDecision::Encode { keyframe: true, refinement: 0 });
        assert_eq!(plan.decide(2, false), FrameDecision::Skip);
    }
}
