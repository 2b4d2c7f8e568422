//! What each layer may cost, by what the line carries. Sans-IO.
//!
//! Sound comes first, then the smaller layer, then the larger one. A layer that gets too little for its
//! frames loses frames before it loses sharpness for good; one that would get next to nothing is paused. Down
//! goes at once, up in steps. A line that is clear, because nothing is lost or held up, carries what is sent,
//! whatever the estimate says: no layer shrinks on it.

use std::time::{Duration, Instant};

use pagecast_core::spec::Layer;

use super::LayerTarget;
use crate::congestion::CongestionDetector;
use crate::rtc::LinkStats;

/// What the sound takes, with its headers, in bit/s.
const AUDIO_BPS: u32 = 110_000;
/// Part of the estimate that is used: the rest is for headers and what is sent again.
const ESTIMATE_USE_SHARE: f64 = 0.90;
/// A layer is paused below this, and begins again above half as much more, in bit/s.
const MIN_LAYER_BPS: u32 = 40_000;
/// The larger layer of two is paused below this part of its cap, and begins again above the second.
const LARGER_LAYER_SHARES: [f64; 2] = [0.20, 0.33];
/// Below this part of its cap a layer has half its frames, and a quarter below the second.
const REDUCED_FPS_SHARES: [f64; 2] = [0.30, 0.12];
/// How much more than that brings the frames back.
const FPS_RESTORE_FACTOR: f64 = 1.4;
/// Least frames per second.
const MIN_FPS: u32 = 5;
/// How much a layer may grow at once, and how long it stays so.
const GROWTH_FACTOR: f64 = 1.3;
const GROWTH_INTERVAL: Duration = Duration::from_millis(500);
/// Changes smaller than this part are not told.
const MIN_REPORTED_CHANGE: f64 = 0.04;
/// Without estimates, losses say what the line carries: above the first part it carries less, below the
/// second more.
const LOSS_THRESHOLDS: [f64; 2] = [0.10, 0.02];

/// What was sent in a second while the line was clear for so long, it has carried. An estimator that is less
/// than that begins anew above it, as far as estimators themselves go beyond what was acknowledged
/// (draft-ietf-rmcat-gcc-02, section 5.5), and not again before it could have settled.
const MIN_CLEAR_DURATION: Duration = Duration::from_secs(2);
const ESTIMATE_RESET_PERCENT: u64 = 150;
const MIN_RESET_INTERVAL: Duration = Duration::from_secs(2);

/// The decision for all layers.
#[derive(Debug)]
pub(crate) struct BitrateController {
    layers: Vec<LayerState>,
    estimate_bps: Option<u32>,
    /// What the server takes at most, whatever the line carries.
    receiver_limit_bps: Option<u32>,
    /// What losses allow, where nobody estimates.
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
    /// 0: all frames, 1: half of them, 2: a quarter.
    fps_shift: usize,
}

impl BitrateController {
    /// Nothing is known yet; the larger layer first.
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
            // A line of which nothing is known yet gets what it is estimated to carry.
            congestion: CongestionDetector::new(false),
            estimate_reset_at: None,
            last_growth: None,
        }
    }

    /// A new connection: what was known of the line is known no longer, and everything is to be told again.
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

    /// There is no connection: nothing is encoded.
    pub(crate) fn stop(&mut self) {
        for state in &mut self.layers {
            state.target.bitrate_bps = 0;
        }
    }

    /// What the line is believed to carry.
    pub(crate) fn on_estimate(&mut self, now: Instant, bps: u32) {
        self.estimate_bps = Some(bps);
        self.allocate(now);
    }

    /// What the server takes at most.
    pub(crate) fn on_receiver_limit(&mut self, now: Instant, bps: u32) {
        self.receiver_limit_bps = Some(bps);
        self.allocate(now);
    }

    /// The line was measured, and `sent_bps` were sent in the last second; what the estimator is to begin
    /// anew from, in bit/s, if it believes in less than the line carries.
    pub(crate) fn on_link_measured(&mut self, now: Instant, line: LinkStats, sent_bps: u64) -> Option<u64> {
        self.congestion.record(now, line.rtt, line.loss);
        self.allocate(now);
        let carried = if self.congestion.clear_duration(now) >= MIN_CLEAR_DURATION { sent_bps } else { 0 };
        let often =
            self.estimate_reset_at.is_some_and(|at| now.saturating_duration_since(at) < MIN_RESET_INTERVAL);
        if often || line.estimate_bps? >= carried {
            return None;
        }
        self.estimate_reset_at = Some(now);
        Some(carried * ESTIMATE_RESET_PERCENT / 100)
    }

    /// Whether the line shows neither losses nor delays.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.congestion.is_clear(now)
    }

    /// What was lost in the last second, 0 to 1: only looked at where nobody estimates.
    pub(crate) fn on_loss(&mut self, now: Instant, loss: f64) {
        let most = f64::from(self.max_bps());
        let known = self.loss_based_bps.unwrap_or(most);
        self.loss_based_bps = Some(if loss > LOSS_THRESHOLDS[0] {
            (known * (1.0 - loss / 2.0)).max(f64::from(AUDIO_BPS + MIN_LAYER_BPS))
        } else if loss < LOSS_THRESHOLDS[1] {
            (known * 1.08).min(most)
        } else {
            known
        });
        self.allocate(now);
    }

    /// Whether anybody watches a layer.
    pub(crate) fn set_subscribed(&mut self, now: Instant, layer: usize, wanted: bool) {
        if let Some(state) = self.layers.get_mut(layer) {
            state.subscribed = wanted;
        }
        self.allocate(now);
    }

    /// Lets layers grow for which there is room.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.allocate(now);
    }

    /// What each layer has.
    pub(crate) fn targets(&self) -> impl Iterator<Item = LayerTarget> + '_ {
        self.layers.iter().map(|state| state.target)
    }

    /// What is to be told since the last call.
    pub(crate) fn take_changed_targets(&mut self) -> Vec<(usize, LayerTarget)> {
        let mut news = Vec::new();
        for (index, state) in self.layers.iter_mut().enumerate() {
            let (target, told) = (state.target, state.reported);
            let notable = told.is_none_or(|told| {
                let (new, old) = (f64::from(target.bitrate_bps), f64::from(told.bitrate_bps));
                told.fps != target.fps
                    || (new == 0.0) != (old == 0.0)
                    || (new - old).abs() > old * MIN_REPORTED_CHANGE
                    || (new != old && target.bitrate_bps == state.layer.bitrate_bps())
            });
            if notable {
                state.reported = Some(target);
                news.push((index, target));
            }
        }
        news
    }

    /// Everything at its cap.
    fn max_bps(&self) -> u32 {
        self.layers.iter().map(|state| state.layer.bitrate_bps()).sum::<u32>() + AUDIO_BPS
    }

    fn allocate(&mut self, now: Instant) {
        let carries = match (self.estimate_bps, self.loss_based_bps) {
            (Some(bps), _) => f64::from(bps) * ESTIMATE_USE_SHARE,
            (None, Some(bps)) => bps,
            (None, None) => f64::from(self.max_bps()),
        };
        let clear = self.congestion.is_clear(now) && self.estimate_bps.is_some();
        let runs = self.layers.iter().map(|state| state.target.bitrate_bps).sum::<u32>() + AUDIO_BPS;
        let carries = if clear { carries.max(f64::from(runs)) } else { carries };
        let most = self.receiver_limit_bps.map_or(f64::INFINITY, |bps| f64::from(bps) * ESTIMATE_USE_SHARE);
        let mut left = (carries.min(most) - f64::from(AUDIO_BPS)).max(0.0);
        // What the server takes is kept to on any line.
        let keep = clear && f64::from(runs) <= most;
        let may_grow =
            self.last_growth.is_none_or(|grown| now.saturating_duration_since(grown) >= GROWTH_INTERVAL);
        let mut grew = false;
        let (count, several) = (self.layers.len(), self.layers.len() > 1);
        let slowed = self.congestion.has_feedback() && !self.congestion.is_severe(now);
        for (index, state) in self.layers.iter_mut().enumerate().rev() {
            let cap = f64::from(state.layer.bitrate_bps());
            let runs = state.target.bitrate_bps > 0;
            let mut least = f64::from(MIN_LAYER_BPS) * if runs { 1.0 } else { 1.5 };
            if several && index == 0 {
                least = least.max(cap * LARGER_LAYER_SHARES[usize::from(!runs)]);
            }
            let now_bps = f64::from(state.target.bitrate_bps);
            let share = if keep { left.max(now_bps).min(cap) } else { left.min(cap) };
            // The last layer is not paused for delays that a busy machine makes, too.
            let last = runs && index + 1 == count && f64::from(AUDIO_BPS) + least <= most;
            let share = if last && slowed { share.max(least).min(cap) } else { share };
            let next = if !state.subscribed || share < least {
                0.0
            } else if !runs || share <= now_bps {
                share
            } else if may_grow {
                grew = true;
                share.min(now_bps * GROWTH_FACTOR)
            } else {
                now_bps
            };
            state.set_bitrate(next, cap);
            left = (left - next).max(0.0);
        }
        if grew {
            self.last_growth = Some(now);
        }
    }
}

impl LayerState {
    fn set_bitrate(&mut self, bps: f64, cap: f64) {
        let part = bps / cap;
        while self.fps_shift < REDUCED_FPS_SHARES.len() && part < REDUCED_FPS_SHARES[self.fps_shift] {
            self.fps_shift += 1;
        }
        while self.fps_shift > 0 && part > REDUCED_FPS_SHARES[self.fps_shift - 1] * FPS_RESTORE_FACTOR {
            self.fps_shift -= 1;
        }
        let all = self.layer.fps.get();
        let fps = (all >> self.fps_shift).max(MIN_FPS.min(all));
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

    /// Kbit/s and frames of each layer after `seconds` at this estimate.
    fn settle(adapt: &mut BitrateController, now: &mut Instant, bps: u32, seconds: f64) -> Vec<(u32, u32)> {
        let end = *now + Duration::from_secs_f64(seconds);
        while *now < end {
            *now += Duration::from_millis(100);
            adapt.on_estimate(*now, bps);
        }
        adapt.targets().map(|t| (t.bitrate_bps / 1000, t.fps)).collect()
    }

    #[test]
    fn starts_at_the_caps_and_reports_them_once() {
        let mut adapt = BitrateController::new(&[layer(1280, 720), layer(640, 360)]);
        adapt.start(Instant::now());
        let told: Vec<_> =
            adapt.take_changed_targets().iter().map(|(i, t)| (*i, t.bitrate_bps, t.fps)).collect();
        assert_eq!(told, [(0, 1_200_000, 30), (1, 600_000, 30)]);
        assert_eq!(adapt.take_changed_targets(), []);
    }

    #[test]
    fn the_larger_layer_goes_first_and_frames_before_sharpness() {
        let (mut now, mut adapt) =
            (Instant::now(), BitrateController::new(&[layer(1280, 720), layer(640, 360)]));
        adapt.start(now);
        assert_eq!(settle(&mut adapt, &mut now, 500_000, 0.2), [(0, 7), (340, 30)]);
        assert_eq!(settle(&mut adapt, &mut now, 180_000, 0.2), [(0, 7), (52, 7)]);
        assert_eq!(settle(&mut adapt, &mut now, 150_000, 0.2), [(0, 7), (0, 7)], "sound first");
        assert_eq!(settle(&mut adapt, &mut now, 5_000_000, 8.0), [(1200, 30), (600, 30)]);
    }

    #[test]
    fn up_goes_in_steps_and_down_at_once() {
        let (mut now, mut adapt) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        adapt.start(now);
        assert_eq!(settle(&mut adapt, &mut now, 500_000, 0.1), [(340, 15)]);
        let after = settle(&mut adapt, &mut now, 5_000_000, 1.1)[0];
        assert!((440..=760).contains(&after.0) && after.1 == 30, "{after:?}");
        assert_eq!(settle(&mut adapt, &mut now, 5_000_000, 4.0), [(1200, 30)]);
    }

    /// What an estimator may believe of a lossless line, made up; with it the round trip in ms and the loss in
    /// percent, each 250 ms.
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

    /// Least kbit/s of each layer from the fifth measurement on, and whether the estimator had to begin anew.
    fn replay(adapt: &mut BitrateController, delay: u64, loss: u32) -> (Vec<u32>, bool) {
        let (mut now, mut least, mut restarted) = (Instant::now(), vec![u32::MAX; 2], false);
        adapt.start(now);
        for (place, (estimate, rtt, lost)) in FALSE_ESTIMATES.into_iter().enumerate() {
            now += Duration::from_millis(250);
            adapt.on_estimate(now, estimate);
            let (rtt, loss) = if place > 3 { (rtt + delay, lost + loss) } else { (rtt, lost) };
            let line = LinkStats {
                rtt: Some(Duration::from_millis(rtt)),
                loss: Some(loss as f32 / 100.0),
                estimate_bps: Some(estimate.into()),
            };
            restarted |= adapt.on_link_measured(now, line, 1_300_000).is_some();
            for (least, target) in least.iter_mut().zip(adapt.targets()).filter(|_| place > 3) {
                *least = (*least).min(target.bitrate_bps / 1000);
            }
        }
        (least, restarted)
    }

    #[test]
    fn a_clear_link_keeps_its_bitrate_whatever_is_estimated() {
        let mut adapt = BitrateController::new(&[layer(1280, 720), layer(640, 360)]);
        let (least, restarted) = replay(&mut adapt, 0, 0);
        assert!(least[0] >= 600 && least[1] == 600 && restarted, "{least:?}");
        // The same estimates, and a line that holds packets up, or loses them.
        for (delay, loss) in [(250, 0), (0, 15)] {
            let (least, restarted) = replay(&mut adapt, delay, loss);
            assert!(least == [0, 0] && !restarted, "{delay} ms, {loss} %: {least:?}");
        }
        // Some losses take sharpness and frames, but not the picture.
        let (least, restarted) = replay(&mut adapt, 0, 3);
        assert!(least[0] == 0 && (40..60).contains(&least[1]) && !restarted, "{least:?}");
    }

    #[test]
    fn what_a_server_takes_is_kept_to() {
        let (mut now, mut adapt) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        adapt.start(now);
        settle(&mut adapt, &mut now, 5_000_000, 1.0);
        let clear = LinkStats { rtt: None, loss: Some(0.0), estimate_bps: None };
        adapt.on_link_measured(now, clear, 0);
        adapt.on_receiver_limit(now, 700_000);
        assert_eq!(adapt.targets().next().unwrap().bitrate_bps, 520_000);
    }

    #[test]
    fn small_changes_are_not_reported() {
        let (mut now, mut adapt) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        adapt.start(now);
        settle(&mut adapt, &mut now, 900_000, 0.1);
        adapt.take_changed_targets();
        settle(&mut adapt, &mut now, 895_000, 0.1);
        assert_eq!(adapt.take_changed_targets(), []);
        settle(&mut adapt, &mut now, 700_000, 0.1);
        assert_eq!(adapt.take_changed_targets().len(), 1);
    }

    #[test]
    fn an_unwatched_layer_is_paused() {
        let (now, mut adapt) = (Instant::now(), BitrateController::new(&[layer(1280, 720), layer(640, 360)]));
        adapt.start(now);
        adapt.take_changed_targets();
        adapt.set_subscribed(now, 0, false);
        assert_eq!(adapt.take_changed_targets(), [(0, LayerTarget { bitrate_bps: 0, fps: 7 })]);
        adapt.set_subscribed(now, 0, true);
        assert_eq!(adapt.take_changed_targets(), [(0, LayerTarget { bitrate_bps: 1_200_000, fps: 30 })]);
        adapt.set_subscribed(now, 7, true);
    }

    #[test]
    fn losses_count_where_nobody_estimates() {
        let (mut now, mut adapt) = (Instant::now(), BitrateController::new(&[layer(1280, 720)]));
        adapt.start(now);
        for _ in 0..10 {
            now += Duration::from_secs(1);
            adapt.on_loss(now, 0.2);
        }
        let low = adapt.targets().next().unwrap().bitrate_bps;
        assert!(low < 600_000, "{low}");
        for _ in 0..30 {
            now += Duration::from_secs(1);
            adapt.on_loss(now, 0.0);
        }
        assert_eq!(adapt.targets().next().unwrap().bitrate_bps, 1_200_000);
    }
}
