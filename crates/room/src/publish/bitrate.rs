//! Allocates the bandwidth of the link to the layers. Sans-IO: callers hand in the time and inputs, and carry
//! out the outputs.
//!
//! Audio has priority, then the smaller layer, then the larger one. A layer with a low bitrate gets a lower
//! frame rate first, so that its frames stay sharp; one with too low a bitrate is paused. Bitrates fall at
//! once and grow in steps. On a clear link, without loss or delay, no layer shrinks, whatever the estimate.
//!
//! [`BitrateController::handle`] takes an input, [`BitrateController::poll`] returns the next output to carry
//! out, and [`BitrateController::deadline`] is the latest time to hand in [`Input::Timeout`].

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
/// Interval at which a layer may grow without another input, because time has passed or congestion is over.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
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

/// Input of the [`BitrateController`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Input {
    /// A new connection is established: the state of the link is reset and all targets are reported again.
    Start,
    /// The connection is gone: all layers are paused.
    Stop,
    /// Estimated bandwidth of the link, in bit/s.
    Estimate(u32),
    /// Highest bitrate that the server accepts (REMB), in bit/s.
    ReceiverLimit(u32),
    /// The link was measured.
    LinkMeasured {
        /// Measurement of the link.
        link: LinkStats,
        /// Sent bitrate of the last second, in bit/s.
        sent_bps: u64,
    },
    /// Packet loss of the last second, 0 to 1. It counts only without estimates.
    Loss(f64),
    /// A layer has subscribers, or no longer. One without is paused.
    Subscribed {
        /// Index of the layer.
        layer: usize,
        /// Whether it has subscribers.
        subscribed: bool,
    },
    /// Time has passed; see [`BitrateController::deadline`].
    Timeout,
}

/// Output of the [`BitrateController`] that the caller carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Set the target of a layer's encoder, which has changed notably.
    SetTarget {
        /// Index of the layer.
        layer: usize,
        /// New target.
        target: LayerTarget,
    },
    /// Restart the bandwidth estimator from this estimate, in bit/s, because its own is below the proven
    /// bitrate.
    ResetEstimate(u64),
}

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
    /// Estimate of a reset that was not polled yet.
    pending_reset: Option<u64>,
    last_growth: Option<Instant>,
    /// When to consider the passing of time; `None` without a connection.
    update_at: Option<Instant>,
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
            pending_reset: None,
            last_growth: None,
            update_at: None,
        }
    }

    /// Processes an input at time `now`.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Start => self.start(now),
            Input::Stop => return self.stop(),
            Input::Estimate(bps) => self.estimate_bps = Some(bps),
            Input::ReceiverLimit(bps) => self.receiver_limit_bps = Some(bps),
            Input::LinkMeasured { link, .. } => self.congestion.record(now, link.rtt, link.loss),
            Input::Loss(loss) => self.update_loss_based(loss),
            Input::Subscribed { layer, subscribed } => {
                if let Some(state) = self.layers.get_mut(layer) {
                    state.subscribed = subscribed;
                }
            }
            Input::Timeout => self.update_at = Some(now + UPDATE_INTERVAL),
        }
        self.allocate(now);
        if let Input::LinkMeasured { link, sent_bps } = input {
            self.check_estimate(now, link, sent_bps);
        }
    }

    /// Returns the next output to carry out, if any.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        for (layer, state) in self.layers.iter_mut().enumerate() {
            if let Some(target) = state.take_changed_target() {
                return Some(Output::SetTarget { layer, target });
            }
        }
        self.pending_reset.take().map(Output::ResetEstimate)
    }

    /// Latest time to hand in [`Input::Timeout`]; `None` if only another input can change anything.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.update_at
    }

    fn start(&mut self, now: Instant) {
        (self.estimate_bps, self.receiver_limit_bps, self.loss_based_bps) = (None, None, None);
        (self.congestion, self.estimate_reset_at, self.last_growth) =
            (CongestionDetector::new(false), None, None);
        for state in &mut self.layers {
            (state.subscribed, state.reported, state.fps_shift) = (true, None, 0);
            state.target.bitrate_bps = 0;
        }
        (self.pending_reset, self.update_at) = (None, Some(now + UPDATE_INTERVAL));
    }

    fn stop(&mut self) {
        for state in &mut self.layers {
            state.target.bitrate_bps = 0;
        }
        (self.pending_reset, self.update_at) = (None, None);
    }

    /// Requests a reset of the estimator if its estimate is below the proven bitrate.
    fn check_estimate(&mut self, now: Instant, link: LinkStats, sent_bps: u64) {
        let proven = if self.congestion.clear_duration(now) >= MIN_CLEAR_DURATION { sent_bps } else { 0 };
        let too_soon =
            self.estimate_reset_at.is_some_and(|at| now.saturating_duration_since(at) < MIN_RESET_INTERVAL);
        if !too_soon && link.estimate_bps.is_some_and(|estimate| estimate < proven) {
            self.estimate_reset_at = Some(now);
            self.pending_reset = Some(proven * ESTIMATE_RESET_PERCENT / 100);
        }
    }

    /// Whether the link shows neither loss nor delay.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.congestion.is_clear(now)
    }

    fn update_loss_based(&mut self, loss: f64) {
        let max = f64::from(self.max_bps());
        let current = self.loss_based_bps.unwrap_or(max);
        self.loss_based_bps = Some(if loss > LOSS_THRESHOLDS[0] {
            (current * (1.0 - loss / 2.0)).max(f64::from(AUDIO_BPS + MIN_LAYER_BPS))
        } else if loss < LOSS_THRESHOLDS[1] {
            (current * 1.08).min(max)
        } else {
            current
        });
    }

    /// Current targets of the layers.
    pub(crate) fn targets(&self) -> impl Iterator<Item = LayerTarget> + '_ {
        self.layers.iter().map(|state| state.target)
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
    /// The target, if it has changed notably since the last call.
    fn take_changed_target(&mut self) -> Option<LayerTarget> {
        let target = self.target;
        let is_notable = self.reported.is_none_or(|reported| {
            let (new, old) = (f64::from(target.bitrate_bps), f64::from(reported.bitrate_bps));
            reported.fps != target.fps
                || (new == 0.0) != (old == 0.0)
                || (new - old).abs() > old * MIN_REPORTED_CHANGE
                || (new != old && target.bitrate_bps == self.layer.bitrate_bps())
        });
        is_notable.then(|| {
            self.reported = Some(target);
            target
        })
    }

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
mod tests;
