//! What each layer may cost, by what the line carries. Sans-IO.
//!
//! Sound comes first, then the smaller layer, then the larger one. A layer that gets too little for its
//! frames loses frames before it loses sharpness for good; one that would get next to nothing is paused. Down
//! goes at once, up in steps. A line that is clear, because nothing is lost or held up, carries what is sent,
//! whatever the estimate says: no layer shrinks on it.

use std::time::{Duration, Instant};

use pagecast_core::spec::Layer;

use super::Target;
use crate::congestion::Congestion;
use crate::rtc::Line;

/// What the sound takes, with its headers, in bit/s.
const SOUND_BPS: u32 = 110_000;
/// Part of the estimate that is used: the rest is for headers and what is sent again.
const USED: f64 = 0.90;
/// A layer is paused below this, and begins again above half as much more, in bit/s.
const LEAST_BPS: u32 = 40_000;
/// The larger layer of two is paused below this part of its cap, and begins again above the second.
const LARGER: [f64; 2] = [0.20, 0.33];
/// Below this part of its cap a layer has half its frames, and a quarter below the second.
const FEWER: [f64; 2] = [0.30, 0.12];
/// How much more than that brings the frames back.
const BACK: f64 = 1.4;
/// Least frames per second.
const LEAST_FPS: u32 = 5;
/// How much a layer may grow at once, and how long it stays so.
const STEP: f64 = 1.3;
const STEP_INTERVAL: Duration = Duration::from_millis(500);
/// Changes smaller than this part are not told.
const NOTABLE: f64 = 0.04;
/// Without estimates, losses say what the line carries: above the first part it carries less, below the
/// second more.
const LOSSY: [f64; 2] = [0.10, 0.02];

/// What was sent in a second while the line was clear for so long, it has carried. An estimator that is less
/// than that begins anew above it, as far as estimators themselves go beyond what was acknowledged
/// (draft-ietf-rmcat-gcc-02, section 5.5), and not again before it could have settled.
const CARRIED_AFTER: Duration = Duration::from_secs(2);
const RESTART_PERCENT: u64 = 150;
const RESTART_EVERY: Duration = Duration::from_secs(2);

/// The decision for all layers.
#[derive(Debug)]
pub(crate) struct Adapt {
    layers: Vec<LayerState>,
    estimate_bps: Option<u32>,
    /// What the server takes at most, whatever the line carries.
    limit_bps: Option<u32>,
    /// What losses allow, where nobody estimates.
    lossy_bps: Option<f64>,
    congestion: Congestion,
    restarted: Option<Instant>,
    grown: Option<Instant>,
}

#[derive(Debug)]
struct LayerState {
    layer: Layer,
    wanted: bool,
    target: Target,
    told: Option<Target>,
    /// 0: all frames, 1: half of them, 2: a quarter.
    fewer: usize,
}

impl Adapt {
    /// Nothing is known yet; the larger layer first.
    pub(crate) fn new(layers: &[Layer]) -> Self {
        let layers = layers.iter().map(|layer| LayerState {
            layer: *layer,
            wanted: true,
            target: Target { bitrate_bps: 0, fps: layer.fps.get() },
            told: None,
            fewer: 0,
        });
        Self {
            layers: layers.collect(),
            estimate_bps: None,
            limit_bps: None,
            lossy_bps: None,
            // A line of which nothing is known yet gets what it is estimated to carry.
            congestion: Congestion::new(false),
            restarted: None,
            grown: None,
        }
    }

    /// A new connection: what was known of the line is known no longer, and everything is to be told again.
    pub(crate) fn begin(&mut self, now: Instant) {
        (self.estimate_bps, self.limit_bps, self.lossy_bps) = (None, None, None);
        (self.congestion, self.restarted, self.grown) = (Congestion::new(false), None, None);
        for state in &mut self.layers {
            (state.wanted, state.told, state.fewer) = (true, None, 0);
            state.target.bitrate_bps = 0;
        }
        self.decide(now);
    }

    /// There is no connection: nothing is encoded.
    pub(crate) fn end(&mut self) {
        for state in &mut self.layers {
            state.target.bitrate_bps = 0;
        }
    }

    /// What the line is believed to carry.
    pub(crate) fn estimate(&mut self, now: Instant, bps: u32) {
        self.estimate_bps = Some(bps);
        self.decide(now);
    }

    /// What the server takes at most.
    pub(crate) fn limit(&mut self, now: Instant, bps: u32) {
        self.limit_bps = Some(bps);
        self.decide(now);
    }

    /// The line was measured, and `sent_bps` were sent in the last second; what the estimator is to begin
    /// anew from, in bit/s, if it believes in less than the line carries.
    pub(crate) fn measured(&mut self, now: Instant, line: Line, sent_bps: u64) -> Option<u64> {
        self.congestion.measured(now, line.rtt, line.loss);
        self.decide(now);
        let carried = if self.congestion.clear_for(now) >= CARRIED_AFTER { sent_bps } else { 0 };
        let often = self.restarted.is_some_and(|at| now.saturating_duration_since(at) < RESTART_EVERY);
        if often || line.estimate_bps? >= carried {
            return None;
        }
        self.restarted = Some(now);
        Some(carried * RESTART_PERCENT / 100)
    }

    /// Whether the line shows neither losses nor delays.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.congestion.is_clear(now)
    }

    /// What was lost in the last second, 0 to 1: only looked at where nobody estimates.
    pub(crate) fn loss(&mut self, now: Instant, loss: f64) {
        let most = f64::from(self.most());
        let known = self.lossy_bps.unwrap_or(most);
        self.lossy_bps = Some(if loss > LOSSY[0] {
            (known * (1.0 - loss / 2.0)).max(f64::from(SOUND_BPS + LEAST_BPS))
        } else if loss < LOSSY[1] {
            (known * 1.08).min(most)
        } else {
            known
        });
        self.decide(now);
    }

    /// Whether anybody watches a layer.
    pub(crate) fn want(&mut self, now: Instant, layer: usize, wanted: bool) {
        if let Some(state) = self.layers.get_mut(layer) {
            state.wanted = wanted;
        }
        self.decide(now);
    }

    /// Lets layers grow for which there is room.
    pub(crate) fn pass(&mut self, now: Instant) {
        self.decide(now);
    }

    /// What each layer has.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.layers.iter().map(|state| state.target)
    }

    /// What is to be told since the last call.
    pub(crate) fn poll(&mut self) -> Vec<(usize, Target)> {
        let mut news = Vec::new();
        for (index, state) in self.layers.iter_mut().enumerate() {
            let (target, told) = (state.target, state.told);
            let notable = told.is_none_or(|told| {
                let (new, old) = (f64::from(target.bitrate_bps), f64::from(told.bitrate_bps));
                told.fps != target.fps
                    || (new == 0.0) != (old == 0.0)
                    || (new - old).abs() > old * NOTABLE
                    || (new != old && target.bitrate_bps == state.layer.bitrate_bps())
            });
            if notable {
                state.told = Some(target);
                news.push((index, target));
            }
        }
        news
    }

    /// Everything at its cap.
    fn most(&self) -> u32 {
        self.layers.iter().map(|state| state.layer.bitrate_bps()).sum::<u32>() + SOUND_BPS
    }

    fn decide(&mut self, now: Instant) {
        let carries = match (self.estimate_bps, self.lossy_bps) {
            (Some(bps), _) => f64::from(bps) * USED,
            (None, Some(bps)) => bps,
            (None, None) => f64::from(self.most()),
        };
        let clear = self.congestion.is_clear(now) && self.estimate_bps.is_some();
        let runs = self.layers.iter().map(|state| state.target.bitrate_bps).sum::<u32>() + SOUND_BPS;
        let carries = if clear { carries.max(f64::from(runs)) } else { carries };
        let most = self.limit_bps.map_or(f64::INFINITY, |bps| f64::from(bps) * USED);
        let mut left = (carries.min(most) - f64::from(SOUND_BPS)).max(0.0);
        // What the server takes is kept to on any line.
        let keep = clear && f64::from(runs) <= most;
        let may_grow = self.grown.is_none_or(|grown| now.saturating_duration_since(grown) >= STEP_INTERVAL);
        let mut grew = false;
        let (count, several) = (self.layers.len(), self.layers.len() > 1);
        let slowed = self.congestion.is_answered() && !self.congestion.is_jammed(now);
        for (index, state) in self.layers.iter_mut().enumerate().rev() {
            let cap = f64::from(state.layer.bitrate_bps());
            let runs = state.target.bitrate_bps > 0;
            let mut least = f64::from(LEAST_BPS) * if runs { 1.0 } else { 1.5 };
            if several && index == 0 {
                least = least.max(cap * LARGER[usize::from(!runs)]);
            }
            let now_bps = f64::from(state.target.bitrate_bps);
            let share = if keep { left.max(now_bps).min(cap) } else { left.min(cap) };
            // The last layer is not paused for delays that a busy machine makes, too.
            let last = runs && index + 1 == count && f64::from(SOUND_BPS) + least <= most;
            let share = if last && slowed { share.max(least).min(cap) } else { share };
            let next = if !state.wanted || share < least {
                0.0
            } else if !runs || share <= now_bps {
                share
            } else if may_grow {
                grew = true;
                share.min(now_bps * STEP)
            } else {
                now_bps
            };
            state.set(next, cap);
            left = (left - next).max(0.0);
        }
        if grew {
            self.grown = Some(now);
        }
    }
}

impl LayerState {
    fn set(&mut self, bps: f64, cap: f64) {
        let part = bps / cap;
        while self.fewer < FEWER.len() && part < FEWER[self.fewer] {
            self.fewer += 1;
        }
        while self.fewer > 0 && part > FEWER[self.fewer - 1] * BACK {
            self.fewer -= 1;
        }
        let all = self.layer.fps.get();
        let fps = (all >> self.fewer).max(LEAST_FPS.min(all));
        self.target = Target { bitrate_bps: bps as u32, fps };
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
    fn settle(adapt: &mut Adapt, now: &mut Instant, bps: u32, seconds: f64) -> Vec<(u32, u32)> {
        let end = *now + Duration::from_secs_f64(seconds);
        while *now < end {
            *now += Duration::from_millis(100);
            adapt.estimate(*now, bps);
        }
        adapt.targets().map(|t| (t.bitrate_bps / 1000, t.fps)).collect()
    }

    #[test]
    fn begins_with_everything_and_tells_it_once() {
        let mut adapt = Adapt::new(&[layer(1280, 720), layer(640, 360)]);
        adapt.begin(Instant::now());
        let told: Vec<_> = adapt.poll().iter().map(|(i, t)| (*i, t.bitrate_bps, t.fps)).collect();
        assert_eq!(told, [(0, 1_200_000, 30), (1, 600_000, 30)]);
        assert_eq!(adapt.poll(), []);
    }

    #[test]
    fn the_larger_layer_goes_first_and_frames_before_sharpness() {
        let (mut now, mut adapt) = (Instant::now(), Adapt::new(&[layer(1280, 720), layer(640, 360)]));
        adapt.begin(now);
        assert_eq!(settle(&mut adapt, &mut now, 500_000, 0.2), [(0, 7), (340, 30)]);
        assert_eq!(settle(&mut adapt, &mut now, 180_000, 0.2), [(0, 7), (52, 7)]);
        assert_eq!(settle(&mut adapt, &mut now, 150_000, 0.2), [(0, 7), (0, 7)], "sound first");
        assert_eq!(settle(&mut adapt, &mut now, 5_000_000, 8.0), [(1200, 30), (600, 30)]);
    }

    #[test]
    fn up_goes_in_steps_and_down_at_once() {
        let (mut now, mut adapt) = (Instant::now(), Adapt::new(&[layer(1280, 720)]));
        adapt.begin(now);
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
    fn replay(adapt: &mut Adapt, delay: u64, loss: u32) -> (Vec<u32>, bool) {
        let (mut now, mut least, mut restarted) = (Instant::now(), vec![u32::MAX; 2], false);
        adapt.begin(now);
        for (place, (estimate, rtt, lost)) in FALSE_ESTIMATES.into_iter().enumerate() {
            now += Duration::from_millis(250);
            adapt.estimate(now, estimate);
            let (rtt, loss) = if place > 3 { (rtt + delay, lost + loss) } else { (rtt, lost) };
            let line = Line {
                rtt: Some(Duration::from_millis(rtt)),
                loss: Some(loss as f32 / 100.0),
                estimate_bps: Some(estimate.into()),
            };
            restarted |= adapt.measured(now, line, 1_300_000).is_some();
            for (least, target) in least.iter_mut().zip(adapt.targets()).filter(|_| place > 3) {
                *least = (*least).min(target.bitrate_bps / 1000);
            }
        }
        (least, restarted)
    }

    #[test]
    fn a_clear_line_keeps_what_it_has_whatever_is_estimated() {
        let mut adapt = Adapt::new(&[layer(1280, 720), layer(640, 360)]);
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
        let (mut now, mut adapt) = (Instant::now(), Adapt::new(&[layer(1280, 720)]));
        adapt.begin(now);
        settle(&mut adapt, &mut now, 5_000_000, 1.0);
        let clear = Line { rtt: None, loss: Some(0.0), estimate_bps: None };
        adapt.measured(now, clear, 0);
        adapt.limit(now, 700_000);
        assert_eq!(adapt.targets().next().unwrap().bitrate_bps, 520_000);
    }

    #[test]
    fn small_changes_are_not_told() {
        let (mut now, mut adapt) = (Instant::now(), Adapt::new(&[layer(1280, 720)]));
        adapt.begin(now);
        settle(&mut adapt, &mut now, 900_000, 0.1);
        adapt.poll();
        settle(&mut adapt, &mut now, 895_000, 0.1);
        assert_eq!(adapt.poll(), []);
        settle(&mut adapt, &mut now, 700_000, 0.1);
        assert_eq!(adapt.poll().len(), 1);
    }

    #[test]
    fn an_unwatched_layer_is_paused() {
        let (now, mut adapt) = (Instant::now(), Adapt::new(&[layer(1280, 720), layer(640, 360)]));
        adapt.begin(now);
        adapt.poll();
        adapt.want(now, 0, false);
        assert_eq!(adapt.poll(), [(0, Target { bitrate_bps: 0, fps: 7 })]);
        adapt.want(now, 0, true);
        assert_eq!(adapt.poll(), [(0, Target { bitrate_bps: 1_200_000, fps: 30 })]);
        adapt.want(now, 7, true);
    }

    #[test]
    fn losses_count_where_nobody_estimates() {
        let (mut now, mut adapt) = (Instant::now(), Adapt::new(&[layer(1280, 720)]));
        adapt.begin(now);
        for _ in 0..10 {
            now += Duration::from_secs(1);
            adapt.loss(now, 0.2);
        }
        let low = adapt.targets().next().unwrap().bitrate_bps;
        assert!(low < 600_000, "{low}");
        for _ in 0..30 {
            now += Duration::from_secs(1);
            adapt.loss(now, 0.0);
        }
        assert_eq!(adapt.targets().next().unwrap().bitrate_bps, 1_200_000);
    }
}
