//! Allocates the bandwidth of the link to the layers. Sans-IO.
//!
//! Audio has priority, then the smaller layer, then the larger one. A layer with a low bitrate gets a lower
//! frame rate first, so that its frames stay sharp; one with too low a bitrate is paused. Bitrates fall at
//! once and grow in steps. On a clear link, without loss or delay, no layer shrinks, whatever the estimate.

use std::time::{Duration, Instant};

use pagecast_core::spec::Layer;

use super::LayerTarget;
use crate::congestion::CongestionDetector;
use crate::rtc::LinkStats;

/// Bitrate of the audio with its headers, in bit/s.
const AUDIO_BPS: u32 = 110_000;
/// Share of the estimate that is used; the rest is for headers and retransmissions.
const ESTIMATE_USE_SHARE: f64 = 0.90;
/// Bitrate below which a layer is paused, in bit/s. It resumes above one and a half times as much.
const MIN_LAYER_BPS: u32 = 40_000;
/// Shares of its cap below which the larger of two layers is paused, and above which it resumes.
const LARGER_LAYER_SHARES: [f64; 2] = [0.20, 0.33];
/// Shares of its cap below which a layer has half of its frame rate, and a quarter.
const REDUCED_FPS_SHARES: [f64; 2] = [0.30, 0.12];
/// Factor of those shares above which the frame rate is restored, as hysteresis.
const FPS_RESTORE_FACTOR: f64 = 1.4;
/// Lowest reduced frame rate, in frames per second.
const MIN_FPS: u32 = 5;
/// Largest growth of a layer in one step: the estimator sees its effect before the next step.
const GROWTH_FACTOR: f64 = 1.3;
/// Shortest interval between steps.
const GROWTH_INTERVAL: Duration = Duration::from_millis(500);
/// Smallest relative change that is reported to an encoder: reconfiguring one costs quality.
const MIN_REPORTED_CHANGE: f64 = 0.04;
/// Loss-based control, used without estimates: loss above the first value lowers the bitrate, loss below the
/// second raises it (as in draft-ietf-rmcat-gcc-02, section 6).
const LOSS_THRESHOLDS: [f64; 2] = [0.10, 0.02];

/// Time that the link must be clear before the bitrate of the last second counts as proven.
const MIN_CLEAR_DURATION: Duration = Duration::from_secs(2);
/// Estimate after a reset, in percent of the proven bitrate: the most that an estimator goes beyond the
/// acknowledged bitrate (draft-ietf-rmcat-gcc-02, section 5.5).
const ESTIMATE_RESET_PERCENT: u64 = 150;
/// Shortest interval of resets, so that the estimator can settle.
const MIN_RESET_INTERVAL: Duration = Duration::from_secs(2);

/// Bitrate control of all layers.
#[derive(Debug)]
pub(crate) struct BitrateController {
    layers: Vec<LayerState>,
    estimate_bps: Option<u32>,
    /// Highest bitrate that the server accepts (REMB).
    receiver_limit_bps: Option<u32>,
    /// Bitrate by loss-based control, used without estimates.
    loss_based_bps: Option<f64>,
    congestion: CongestionDetector,
    estimate_reset_at: Option<Instant>,
    last_growth: Option<Instant>,
}

#[derive(Debug)]
struct LayerState {
    layer: Layer,
    subscribed: bool,
    target: LayerTarget,
    reported: Option<LayerTarget>,
    /// Reduction of the frame rate, as a right shift: 0 none, 1 half, 2 a quarter.
    fps_shift: usize,
}

impl BitrateController {
    /// A controller for these layers, the larger one first.
    pub(crate) fn new(layers: &[Layer]) -> Self {
        let layers = layers.iter().map(|layer| LayerState {
            layer: *layer,
            subscribed: true,
            target: LayerTarget { bitrate_bps: 0, fps: layer.fps.get() },
            reported: None,
            fps_shift: 0,
        });
        Self {
            layers: layers.collect(),
            estimate_bps: None,
            receiver_limit_bps: None,
            loss_based_bps: None,
            // Before the first measurement, the estimate counts.
            congestion: CongestionDetector::new(false),
            estimate_reset_at: None,
            last_growth: None,
        }
    }

    /// Starts with a new connection: resets the state of the link and reports all targets again.
    pub(crate) fn start(&mut self, now: Instant) {
        (self.estimate_bps, self.receiver_limit_bps, self.loss_based_bps) = (None, None, None);
        (self.congestion, self.estimate_reset_at, self.last_growth) =
            (CongestionDetector::new(false), None, None);
        for state in &mut self.layers {
            (state.subscribed, state.reported, state.fps_shift) = (true, None, 0);
            state.target.bitrate_bps = 0;
        }
        self.allocate(now);
    }

    /// Pauses all layers while there is no connection.
    pub(crate) fn stop(&mut self) {
        for state in &mut self.layers {
            state.target.bitrate_bps = 0;
        }
    }

    /// Handles a bandwidth estimate, in bit/s.
    pub(crate) fn on_estimate(&mut self, now: Instant, bps: u32) {
        self.estimate_bps = Some(bps);
        self.allocate(now);
    }

    /// Handles the server's limit (REMB), in bit/s.
    pub(crate) fn on_receiver_limit(&mut self, now: Instant, bps: u32) {
        self.receiver_limit_bps = Some(bps);
        self.allocate(now);
    }

    /// Handles a measurement of the link. `sent_bps` is the sent bitrate of the last second. Returns the
    /// estimate to reset the estimator to, in bit/s, if its estimate is below the proven bitrate.
    pub(crate) fn on_link_measured(&mut self, now: Instant, link: LinkStats, sent_bps: u64) -> Option<u64> {
        self.congestion.record(now, link.rtt, link.loss);
        self.allocate(now);
        let proven = if self.congestion.clear_duration(now) >= MIN_CLEAR_DURATION { sent_bps } else { 0 };
        let too_soon =
            self.estimate_reset_at.is_some_and(|at| now.saturating_duration_since(at) < MIN_RESET_INTERVAL);
        if too_soon || link.estimate_bps? >= proven {
            return None;
        }
        self.estimate_reset_at = Some(now);
        Some(proven * ESTIMATE_RESET_PERCENT / 100)
    }

    /// Whether the link shows neither loss nor delay.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.congestion.is_clear(now)
    }

    /// Handles the packet loss of the last second, 0 to 1. It counts only without estimates.
    pub(crate) fn on_loss(&mut self, now: Instant, loss: f64) {
        let max = f64::from(self.max_bps());
        let current = self.loss_based_bps.unwrap_or(max);
        self.loss_based_bps = Some(if loss > LOSS_THRESHOLDS[0] {
            (current * (1.0 - loss / 2.0)).max(f64::from(AUDIO_BPS + MIN_LAYER_BPS))
        } else if loss < LOSS_THRESHOLDS[1] {
            (current * 1.08).min(max)
        } else {
            current
        });
        self.allocate(now);
    }

    /// Sets whether a layer has subscribers. One without is paused.
    pub(crate) fn set_subscribed(&mut self, now: Instant, layer: usize, subscribed: bool) {
        if let Some(state) = self.layers.get_mut(layer) {
            state.subscribed = subscribed;
        }
        self.allocate(now);
    }

    /// Handles the passing of time: layers may grow.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.allocate(now);
    }

    /// Current targets of the layers.
    pub(crate) fn targets(&self) -> impl Iterator<Item = LayerTarget> + '_ {
        self.layers.iter().map(|state| state.target)
    }

    /// The targets that changed notably since the last call.
    pub(crate) fn take_changed_targets(&mut self) -> Vec<(usize, LayerTarget)> {
        let mut changed = Vec::new();
        for (index, state) in self.layers.iter_mut().enumerate() {
            let (target, reported) = (state.target, state.reported);
            let is_notable = reported.is_none_or(|reported| {
                let (new, old) = (f64::from(target.bitrate_bps), f64::from(reported.bitrate_bps));
                reported.fps != target.fps
                    || (new == 0.0) != (old == 0.0)
                    || (new - old).abs() > old * MIN_REPORTED_CHANGE
                    || (new != old && target.bitrate_bps == state.layer.bitrate_bps())
            });
            if is_notable {
                state.reported = Some(target);
                changed.push((index, target));
            }
        }
        changed
    }

    /// Total bitrate with all layers at their cap, in bit/s.
    fn max_bps(&self) -> u32 {
        self.layers.iter().map(|state| state.layer.bitrate_bps()).sum::<u32>() + AUDIO_BPS
    }

    fn allocate(&mut self, now: Instant) {
        let capacity = match (self.estimate_bps, self.loss_based_bps) {
            (Some(bps), _) => f64::from(bps) * ESTIMATE_USE_SHARE,
            (None, Some(bps)) => bps,
            (None, None) => f64::from(self.max_bps()),
        };
        let clear = self.congestion.is_clear(now) && self.estimate_bps.is_some();
        let current = self.layers.iter().map(|state| state.target.bitrate_bps).sum::<u32>() + AUDIO_BPS;
        let capacity = if clear { capacity.max(f64::from(current)) } else { capacity };
        let limit = self.receiver_limit_bps.map_or(f64::INFINITY, |bps| f64::from(bps) * ESTIMATE_USE_SHARE);
        let mut remaining = (capacity.min(limit) - f64::from(AUDIO_BPS)).max(0.0);
        // The server's limit applies even on a clear link.
        let keep_bitrates = clear && f64::from(current) <= limit;
        let may_grow = self.last_growth.is_none_or(|at| now.saturating_duration_since(at) >= GROWTH_INTERVAL);
        let mut grew = false;
        let (count, several) = (self.layers.len(), self.layers.len() > 1);
        let mildly_congested = self.congestion.has_feedback() && !self.congestion.is_severe(now);
        for (index, state) in self.layers.iter_mut().enumerate().rev() {
            let cap = f64::from(state.layer.bitrate_bps());
            let is_running = state.target.bitrate_bps > 0;
            let mut min = f64::from(MIN_LAYER_BPS) * if is_running { 1.0 } else { 1.5 };
            if several && index == 0 {
                min = min.max(cap * LARGER_LAYER_SHARES[usize::from(!is_running)]);
            }
            let current_bps = f64::from(state.target.bitrate_bps);
            let share = if keep_bitrates { remaining.max(current_bps).min(cap) } else { remaining.min(cap) };
            // A busy machine causes mild delays, too, so they do not pause the smallest layer.
            let is_smallest = is_running && index + 1 == count && f64::from(AUDIO_BPS) + min <= limit;
            let share = if is_smallest && mildly_congested { share.max(min).min(cap) } else { share };
            let next = if !state.subscribed || share < min {
                0.0
            } else if !is_running || share <= current_bps {
                share
            } else if may_grow {
                grew = true;
                share.min(current_bps * GROWTH_FACTOR)
            } else {
                current_bps
            };
            state.set_bitrate(next, cap);
            remaining = (remaining - next).max(0.0);
        }
        if grew {
            self.last_growth = Some(now);
        }
    }
}

impl LayerState {
    fn set_bitrate(&mut self, bps: f64, cap: f64) {
        let share = bps / cap;
        while self.fps_shift < REDUCED_FPS_SHARES.len() && share < REDUCED_FPS_SHARES[self.fps_shift] {
            self.fps_shift += 1;
        }
        while self.fps_shift > 0 && share > REDUCED_FPS_SHARES[self.fps_shift - 1] * FPS_RESTORE_FACTOR {
            self.fps_shift -= 1;
        }
        let full = self.layer.fps.get();
        let fps = (full >> self.fps_shift).max(MIN_FPS.min(full));
        self.target = LayerTarget { bitrate_bps: bps as u32, fps };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::Fps;
    use pagecast_core::spec::Size;

    fn layer(width: u32, height: u32) -> Layer {
        let fps = Fps::new(30).unwrap();
        Layer { size: Size::new(width, height).unwrap(), fps, bitrate_kbps: None }
    }

    /// The targets of the layers after `seconds` at this estimate, in kbit/s and frames per second.
    fn settle(
        controller: &mut BitrateController,
        now: &mut Instant,
        bps: u32,
        seconds: f64,
    ) -> Vec<(u32, u32)> {
        let end = *now + Duration::from_secs_f64(seconds);
        while *now < end {
            *now += Duration::from_millis(100);
            controller.on_estimate(*now, bps);
        }
        controller.targets().map(|t| (t.bitrate_bps / 1000, t.fps)).collect()
    }

    #[test]
    fn starts_at_the_caps_and_reports_them_once() {
        let mut controller = BitrateController::new(&[layer(1280, 720), layer(640, 360)]);
        controller.start(Instant::now());
        let changed: Vec<_> =
            controller.take_changed_targets().iter().map(|(i, t)| (*i, t.bitrate_bps, t.fps)).collect();
        assert_eq!(changed, [(0, 1_200_000, 30), (1, 600_000, 30)]);
        assert_eq!(controller.take_changed_targets(), []);
    }

    #[test]
    fn the_larger_layer_pauses_first_and_frame_rates_fall_before_sharpness() {
        let (mut now, mut controller) =
            (Instant::now(), BitrateController::new(&[layer(1280, 720), layer(640, 360)]));
        controller.start(now);
        assert_eq!(settle(&mut controller, &mut now, 500_000, 0.2), [(0, 7), (340, 30)]);
        assert_eq!(settle(&mut controller, &mut now, 180_000, 0.2), [(0, 7), (52, 7)]);
        assert_eq!(settle(&mut controller, &mut now, 150_000, 0.2), [(0, 7), (0, 7)], "audio has priority");
        assert_eq!(settle(&mut controller, &mut now, 5_000_000, 8.0), [(1200, 30), (600, 30)]);
    }

    #[test]
    fn bitrates_grow_in_steps_and_fall_at_once() {
        let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        controller.start(now);
        assert_eq!(settle(&mut controller, &mut now, 500_000, 0.1), [(340, 15)]);
        let after = settle(&mut controller, &mut now, 5_000_000, 1.1)[0];
        assert!((440..=760).contains(&after.0) && after.1 == 30, "{after:?}");
        assert_eq!(settle(&mut controller, &mut now, 5_000_000, 4.0), [(1200, 30)]);
    }

    /// Made-up estimates of a lossless link in bit/s, with round-trip times in ms and loss in percent, one
    /// every 250 ms.
    const FALSE_ESTIMATES: [(u32, u64, u32); 12] = [
        (1_500_000, 3, 0),
        (1_500_000, 4, 0),
        (2_600_000, 4, 0),
        (2_600_000, 9, 0),
        (300_000, 15, 0),
        (240_000, 6, 0),
        (110_000, 5, 0),
        (110_000, 12, 0),
        (130_000, 4, 0),
        (190_000, 5, 0),
        (260_000, 4, 0),
        (300_000, 4, 0),
    ];

    /// Lowest bitrate of each layer from the fifth measurement on in kbit/s, and whether the estimate was
    /// reset.
    fn replay(controller: &mut BitrateController, delay: u64, loss: u32) -> (Vec<u32>, bool) {
        let (mut now, mut lowest, mut was_reset) = (Instant::now(), vec![u32::MAX; 2], false);
        controller.start(now);
        for (index, (estimate, rtt, lost)) in FALSE_ESTIMATES.into_iter().enumerate() {
            now += Duration::from_millis(250);
            controller.on_estimate(now, estimate);
            let (rtt, loss) = if index > 3 { (rtt + delay, lost + loss) } else { (rtt, lost) };
            let link = LinkStats {
                rtt: Some(Duration::from_millis(rtt)),
                loss: Some(loss as f32 / 100.0),
                estimate_bps: Some(estimate.into()),
            };
            was_reset |= controller.on_link_measured(now, link, 1_300_000).is_some();
            for (lowest, target) in lowest.iter_mut().zip(controller.targets()).filter(|_| index > 3) {
                *lowest = (*lowest).min(target.bitrate_bps / 1000);
            }
        }
        (lowest, was_reset)
    }

    #[test]
    fn a_clear_link_keeps_its_bitrate_whatever_is_estimated() {
        let mut controller = BitrateController::new(&[layer(1280, 720), layer(640, 360)]);
        let (lowest, was_reset) = replay(&mut controller, 0, 0);
        assert!(lowest[0] >= 600 && lowest[1] == 600 && was_reset, "{lowest:?}");
        // The same estimates on a link that delays or loses packets.
        for (delay, loss) in [(250, 0), (0, 15)] {
            let (lowest, was_reset) = replay(&mut controller, delay, loss);
            assert!(lowest == [0, 0] && !was_reset, "{delay} ms, {loss} %: {lowest:?}");
        }
        // Some loss lowers bitrate and frame rate, but does not pause the video.
        let (lowest, was_reset) = replay(&mut controller, 0, 3);
        assert!(lowest[0] == 0 && (40..60).contains(&lowest[1]) && !was_reset, "{lowest:?}");
    }

    #[test]
    fn the_servers_limit_applies() {
        let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        controller.start(now);
        settle(&mut controller, &mut now, 5_000_000, 1.0);
        let clear = LinkStats { rtt: None, loss: Some(0.0), estimate_bps: None };
        controller.on_link_measured(now, clear, 0);
        controller.on_receiver_limit(now, 700_000);
        assert_eq!(controller.targets().next().unwrap().bitrate_bps, 520_000);
    }

    #[test]
    fn small_changes_are_not_reported() {
        let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        controller.start(now);
        settle(&mut controller, &mut now, 900_000, 0.1);
        controller.take_changed_targets();
        settle(&mut controller, &mut now, 895_000, 0.1);
        assert_eq!(controller.take_changed_targets(), []);
        settle(&mut controller, &mut now, 700_000, 0.1);
        assert_eq!(controller.take_changed_targets().len(), 1);
    }

    #[test]
    fn an_unwatched_layer_is_paused() {
        let (now, mut controller) =
            (Instant::now(), BitrateController::new(&[layer(1280, 720), layer(640, 360)]));
        controller.start(now);
        controller.take_changed_targets();
        controller.set_subscribed(now, 0, false);
        assert_eq!(controller.take_changed_targets(), [(0, LayerTarget { bitrate_bps: 0, fps: 7 })]);
        controller.set_subscribed(now, 0, true);
        assert_eq!(controller.take_changed_targets(), [(0, LayerTarget { bitrate_bps: 1_200_000, fps: 30 })]);
        controller.set_subscribed(now, 7, true);
    }

    #[test]
    fn losses_count_without_estimates() {
        let (mut now, mut controller) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        controller.start(now);
        for _ in 0..10 {
            now += Duration::from_secs(1);
            controller.on_loss(now, 0.2);
        }
        let low = controller.targets().next().unwrap().bitrate_bps;
        assert!(low < 600_000, "{low}");
        for _ in 0..30 {
            now += Duration::from_secs(1);
            controller.on_loss(now, 0.0);
        }
        assert_eq!(controller.targets().next().unwrap().bitrate_bps, 1_200_000);
    }
}
