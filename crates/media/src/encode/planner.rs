//! Decides which ticks are encoded, and at which quality. Sans-IO.
//!
//! A changed tick is encoded at once, or, if fewer frames per second are allowed than there are ticks, when
//! the next frame is due. When the picture stops changing, it is encoded a few more times at rising quality
//! (refinements). After that only heartbeats are encoded: cheap frames that keep players from stalling.
//! Keyframes are always encoded when due: on a fixed grid, at split points and on request.

use std::time::Duration;

use pagecast_core::{Fps, MediaTime};

use crate::split_points::SplitPoints;

/// Time of each refinement after the last change, in ms. The first is short enough to go unnoticed, the last
/// long enough not to interrupt slow animations.
const REFINE_AFTER_MS: [i64; 3] = [120, 350, 800];
/// Longest time between two encoded frames, in ms: players and servers take longer gaps for a stall.
const HEARTBEAT_INTERVAL_MS: i64 = 1000;
/// The same while a still picture has not reached the quality of the page yet.
const UNREFINED_INTERVAL_MS: i64 = 200;
/// How long after the last change [`UNREFINED_INTERVAL_MS`] may apply, in ms: after frames of high and of
/// medium cost. Bounds the bits that are spent on noise.
const MAX_REFINE_MS: [i64; 2] = [10_000, 3000];

/// What the encoder does with a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameDecision {
    /// Nothing is encoded; the last frame stays visible.
    Skip,
    /// The tick is encoded.
    Encode {
        /// Whether decoding can start here.
        keyframe: bool,
        /// Refinements of this picture so far: 0 in motion, up to [`FramePlanner::MAX_REFINEMENT`] when
        /// still.
        refinement: u8,
    },
}

/// Size of a frame, compared with the bit budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameCost {
    /// So small that there was nothing left to refine.
    Low,
    /// Between the two.
    Medium,
    /// So large that the rate control may have reduced its quality.
    High,
}

/// When keyframes are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GopPolicy {
    /// Time between keyframes, rounded to ticks, at least one tick: the first tick at or after each multiple
    /// is a keyframe. `None`: only the first frame and requested ones are keyframes.
    pub keyframe_interval: Option<Duration>,
    /// Least time from a keyframe to a requested one.
    pub min_request_interval: Duration,
}

/// Plans the frames of one encoder.
#[derive(Debug)]
pub struct FramePlanner {
    fps: i64,
    /// Limit of the frame rate, at most `fps`.
    max_fps: i64,
    /// Ticks between keyframes of the grid, and the tick at which the grid starts.
    keyframe_interval: Option<i64>,
    grid_origin: i64,
    /// Split points of the recording, and the time of tick 0 in it.
    split_points: Option<(SplitPoints, MediaTime)>,
    min_request_interval_ms: i64,
    keyframe_requested: bool,
    last_encoded: Option<i64>,
    last_keyframe: i64,
    last_change: i64,
    /// Whether the last change is not encoded yet.
    has_pending_change: bool,
    /// Whether only keyframes are encoded.
    keyframes_only: bool,
    /// Whether the last frame was so large that another refinement may improve it.
    needs_refinement: bool,
    refinement: u8,
}

impl FramePlanner {
    /// Number of refinements until a still picture has full quality.
    pub const MAX_REFINEMENT: u8 = REFINE_AFTER_MS.len() as u8;

    /// A planner that has encoded nothing yet.
    #[must_use]
    pub fn new(fps: Fps, gop: GopPolicy) -> Self {
        Self {
            fps: fps.get().into(),
            max_fps: fps.get().into(),
            keyframe_interval: gop
                .keyframe_interval
                .map(|every| MediaTime::from(every).to_index(fps.get()).max(1)),
            grid_origin: 0,
            split_points: None,
            min_request_interval_ms: MediaTime::from(gop.min_request_interval).as_millis(),
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

    /// Requests a keyframe: the next tick, or the first one after the least request interval.
    pub fn request_keyframe(&mut self) {
        self.keyframe_requested = true;
    }

    /// Adds keyframes at split points. Tick 0 is at `begins_at` in the recording. The grid restarts after
    /// such a keyframe, so that all files have their keyframes at the same offsets.
    pub(crate) fn set_split_points(&mut self, splits: SplitPoints, begins_at: MediaTime) {
        self.split_points = Some((splits, begins_at));
    }

    /// Limits the frame rate from now on. Skipped frames are spread evenly.
    pub fn limit_fps(&mut self, fps: u32) {
        self.max_fps = i64::from(fps).clamp(1, self.fps);
    }

    /// Switches keyframes-only mode on or off.
    pub fn set_keyframes_only(&mut self, enabled: bool) {
        self.keyframes_only = enabled;
    }

    /// Takes the cost of the last frame. A still picture is refined until a frame adds little.
    pub fn on_frame_cost(&mut self, cost: FrameCost) {
        let still_ms = self.last_encoded.map_or(0, |last| self.ticks_to_ms(last - self.last_change));
        self.needs_refinement = match cost {
            FrameCost::High => still_ms < MAX_REFINE_MS[0],
            FrameCost::Medium => still_ms < MAX_REFINE_MS[1],
            FrameCost::Low => false,
        };
    }

    /// Makes the next tick a keyframe, for a decoder that starts there.
    pub fn restart(&mut self) {
        self.last_encoded = None;
    }

    /// Decides about tick `index`. Ticks arrive in order, but some may be missing.
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
            let due = self.is_frame_due(index) || self.is_keyframe_due(index);
            return if due { self.encode_frame(index) } else { FrameDecision::Skip };
        }
        let still_ms = self.ticks_to_ms(index - self.last_change);
        let due = REFINE_AFTER_MS.get(usize::from(self.refinement));
        if due.is_some_and(|after| still_ms >= *after) {
            self.refinement += 1;
            return self.encode_frame(index);
        }
        let idle_ms = self.last_encoded.map_or(0, |last| self.ticks_to_ms(index - last));
        let max_idle_ms = if self.needs_refinement { UNREFINED_INTERVAL_MS } else { HEARTBEAT_INTERVAL_MS };
        if idle_ms >= max_idle_ms || self.is_keyframe_due(index) {
            self.encode_frame(index)
        } else {
            FrameDecision::Skip
        }
    }

    /// Encodes the last tick of the cast, unless that was done, so that the last picture lasts to the end.
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
                // In a room, a keyframe has no more bits than a picture in motion, so it is refined like one.
                self.last_change = index;
                self.refinement = 0;
            }
        }
        FrameDecision::Encode { keyframe, refinement: self.refinement }
    }

    /// Whether the frame rate limit allows another frame at tick `index`.
    fn is_frame_due(&self, index: i64) -> bool {
        let slot = |index: i64| index * self.max_fps / self.fps;
        self.last_encoded.is_none_or(|last| slot(index) > slot(last))
    }

    /// Whether tick `index` must be a keyframe: on the grid, so that segments have the configured length, at
    /// a split point, or on request.
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

    /// Whether a split point lies between the last keyframe and tick `index`.
    fn is_split_point(&self, index: i64) -> bool {
        let at = |index: i64| MediaTime::from_index(index, u32::try_from(self.fps).unwrap_or(1));
        self.split_points.is_some_and(|(splits, begins_at)| {
            splits.count_until(begins_at + at(index)) > splits.count_until(begins_at + at(self.last_keyframe))
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

    /// The encoded ticks of `seconds` at `fps`, where `changed` tells which ticks changed.
    fn encoded_ticks(fps: u32, seconds: i64, changed: impl Fn(i64) -> bool) -> Vec<(i64, bool, u8)> {
        let mut planner = FramePlanner::new(Fps::new(fps).unwrap(), FILE_GOP);
        let ticks = 0..seconds * i64::from(fps);
        ticks
            .filter_map(|i| match planner.decide(i, changed(i)) {
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
            let mut planner = FramePlanner::new(
                Fps::new(fps).unwrap(),
                GopPolicy { keyframe_interval: interval, ..FILE_GOP },
            );
            (0..10).filter(|i| is_keyframe(planner.decide(*i, false))).collect::<Vec<_>>()
        };
        assert_eq!(grid(7, 500), [0, 4, 8], "rounded to ticks");
        assert_eq!(grid(1, 100), (0..10).collect::<Vec<_>>(), "at least one tick");
    }

    fn is_keyframe(decision: FrameDecision) -> bool {
        matches!(decision, FrameDecision::Encode { keyframe: true, .. })
    }

    #[test]
    fn a_tick_that_is_missing_hands_its_keyframe_to_the_next() {
        let mut planner = FramePlanner::new(
            Fps::new(10).unwrap(),
            GopPolicy { keyframe_interval: Some(SECOND), ..FILE_GOP },
        );
        let keys: Vec<_> = [0, 9, 13, 19, 20, 39, 40]
            .into_iter()
            .filter(|i| is_keyframe(planner.decide(*i, false)))
            .collect();
        assert_eq!(keys, [0, 13, 20, 39, 40]);
    }

    #[test]
    fn a_requested_keyframe_comes_at_once_but_a_second_after_the_last() {
        let mut planner = FramePlanner::new(Fps::new(10).unwrap(), FILE_GOP);
        let keys: Vec<_> = (0..90)
            .filter(|i| {
                if [2, 3, 25, 39, 60, 61].contains(i) {
                    planner.request_keyframe();
                }
                is_keyframe(planner.decide(*i, false))
            })
            .collect();
        // Requests do not move the grid, and a keyframe of the grid also answers a request.
        assert_eq!(keys, [0, 10, 25, 39, 40, 60, 70, 80]);
    }

    /// The keyframes of the first 20 s of a run that starts at `begins_at`, in files of length `split`.
    fn split_keyframes(fps: u32, split: Duration, begins_at: MediaTime) -> Vec<i64> {
        let fps = Fps::new(fps).unwrap();
        let mut planner = FramePlanner::new(fps, FILE_GOP);
        planner.set_split_points(SplitPoints::new(split, fps.interval().into()), begins_at);
        (0..20 * i64::from(fps.get())).filter(|i| is_keyframe(planner.decide(*i, i % 7 == 3))).collect()
    }

    #[test]
    fn a_file_ends_with_a_keyframe_and_the_grid_begins_anew() {
        assert_eq!(
            split_keyframes(10, Duration::from_secs(5), MediaTime::ZERO),
            [0, 40, 50, 90, 100, 140, 150, 190]
        );
        assert_eq!(split_keyframes(10, Duration::from_secs(8), MediaTime::ZERO), [0, 40, 80, 120, 160]);
        // A recording that resumes at 7.3 s is still split at 10 and 15 s.
        let seven = MediaTime::from_index(73, 10);
        assert_eq!(split_keyframes(10, Duration::from_secs(5), seven), [0, 27, 67, 77, 117, 127, 167, 177]);
        // Rounded time stamps (51 sevenths of a second) do not move a split point by a tick.
        let rounded = MediaTime::from_index(51, 7);
        assert_eq!(split_keyframes(7, Duration::from_secs(10), rounded), [0, 19, 47, 75, 89, 117]);
    }

    #[test]
    fn a_split_point_that_is_missing_hands_its_keyframe_to_the_next() {
        let mut planner = FramePlanner::new(Fps::new(10).unwrap(), FILE_GOP);
        planner.set_split_points(
            SplitPoints::new(Duration::from_secs(5), MediaTime::from_index(1, 10)),
            MediaTime::ZERO,
        );
        let keys: Vec<_> = [0, 40, 49, 53, 92, 93, 99, 100]
            .into_iter()
            .filter(|i| is_keyframe(planner.decide(*i, false)))
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
        let mut planner = FramePlanner::new(Fps::new(30).unwrap(), FILE_GOP);
        planner.decide(0, true);
        assert_eq!(planner.decide(1, false), FrameDecision::Skip);
        assert_eq!(planner.decide_last(1), FrameDecision::Encode { keyframe: false, refinement: 0 });
        assert_eq!(planner.decide_last(1), FrameDecision::Skip);
    }

    #[test]
    fn a_room_has_no_grid_and_answers_requests_sooner() {
        for changed in [|_| true, |_| false] as [fn(i64) -> bool; 2] {
            let mut planner = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
            let keys: Vec<_> = (0..600)
                .filter(|i| {
                    if [100, 105, 300].contains(i) {
                        planner.request_keyframe();
                    }
                    is_keyframe(planner.decide(*i, changed(*i)))
                })
                .collect();
            assert_eq!(keys, [0, 100, 115, 300]);
        }
    }

    #[test]
    fn a_keyframe_at_rest_is_refined_in_a_room() {
        let mut planner = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        let refined = |decision| match decision {
            FrameDecision::Encode { refinement, .. } => Some(refinement),
            FrameDecision::Skip => None,
        };
        let all: Vec<_> = (0..200)
            .filter_map(|i| {
                if i == 100 {
                    planner.request_keyframe();
                }
                Some((i, refined(planner.decide(i, i == 0))?))
            })
            .collect();
        let heartbeats = [(54, 3), (84, 3), (100, 0), (104, 1), (111, 2), (124, 3), (154, 3), (184, 3)];
        assert_eq!(all[4..], heartbeats);
    }

    #[test]
    fn a_still_picture_of_high_cost_is_refined_further() {
        let mut planner = FramePlanner::new(Fps::new(10).unwrap(), ROOM_GOP);
        let mut all = Vec::new();
        for i in 0..60 {
            if planner.decide(i, i == 0) != FrameDecision::Skip {
                all.push(i);
                planner.on_frame_cost(if i < 16 { FrameCost::High } else { FrameCost::Low });
            }
        }
        assert_eq!(all, [0, 2, 4, 6, 8, 10, 12, 14, 16, 26, 36, 46, 56]);
    }

    #[test]
    fn keyframes_only_mode_skips_everything_else() {
        let mut planner = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        planner.decide(0, true);
        planner.set_keyframes_only(true);
        assert!((1..60).all(|i| planner.decide(i, true) == FrameDecision::Skip));
        planner.request_keyframe();
        assert_eq!(planner.decide(60, false), FrameDecision::Encode { keyframe: true, refinement: 0 });
        assert_eq!(planner.decide(61, true), FrameDecision::Skip);
        planner.set_keyframes_only(false);
        assert_eq!(planner.decide(62, false), FrameDecision::Encode { keyframe: false, refinement: 0 });
    }

    #[test]
    fn a_reduced_frame_rate_is_even_and_loses_no_change() {
        let mut planner = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        let mut count = |cap, range: std::ops::Range<i64>, changed: bool| {
            planner.limit_fps(cap);
            range.filter(|i| planner.decide(*i, changed) != FrameDecision::Skip).collect::<Vec<_>>()
        };
        assert_eq!(count(15, 0..10, true), [0, 2, 4, 6, 8]);
        assert_eq!(count(20, 12..21, true), [12, 14, 15, 17, 18, 20]);
        assert_eq!(count(1, 30..90, true), [30, 60]);
        assert_eq!(count(100, 90..95, true), [90, 91, 92, 93, 94]);
        // A skipped change is encoded when the next frame is due; refinements count from then on.
        assert_eq!(count(10, 95..97, true), [96]);
        assert!(count(10, 97..98, true).is_empty());
        assert_eq!(count(10, 98..125, false), [99, 101, 108, 121]);
    }

    #[test]
    fn a_requested_keyframe_does_not_wait_for_a_reduced_frame_rate() {
        let mut planner = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        planner.limit_fps(1);
        planner.decide(0, true);
        planner.request_keyframe();
        let first = (1..60).find(|i| is_keyframe(planner.decide(*i, true)));
        assert_eq!(first, Some(15));
    }

    #[test]
    fn after_a_restart_there_is_a_keyframe_at_once() {
        let mut planner = FramePlanner::new(Fps::new(30).unwrap(), ROOM_GOP);
        planner.decide(0, true);
        planner.restart();
        assert_eq!(planner.decide(1, false), FrameDecision::Encode { keyframe: true, refinement: 0 });
        assert_eq!(planner.decide(2, false), FrameDecision::Skip);
    }
}
