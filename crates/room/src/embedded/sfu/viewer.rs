//! A viewer: its layer, its outgoing streams and its link.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::super::layer_selector::{CongestionLevel, LayerOption, LayerPreference, LayerSelector};
use super::super::payload::PayloadInfo;
use super::super::rate_meter::RateMeter;
use super::super::rtp_rewriter::RtpRewriter;
use super::super::viewer_state::ViewerState;
use super::SessionId;
use super::publisher::{AUDIO_CLOCK_RATE, VIDEO_CLOCK_RATE};
use crate::congestion::CongestionDetector;
use crate::rtc::LinkStats;
use crate::rtc::answerer::OutgoingPacket;
use crate::rtc::answerer::media::{Packet, Track};

/// Share of the estimate that is used, because estimates vary.
const ESTIMATE_USE_PERCENT: u64 = 95;
/// Least bandwidth reserved for audio, in bit/s: its rate is unknown at first.
const MIN_AUDIO_BPS: u64 = 48_000;
/// Least bitrate that the link is probed for, in bit/s, because a static page may start to move.
const MIN_DESIRED_BPS: u64 = 1_500_000;
/// Interval of probes for more bandwidth. A probe is a few packets.
const PROBE_INTERVAL: Duration = Duration::from_millis(1000);
/// Time that the link must be clear before the sent bitrate counts as proven; [`RateMeter`] covers as much.
const MIN_CLEAR_DURATION: Duration = Duration::from_secs(2);
/// Estimate after a reset, in percent of the proven bitrate: the most that an estimator goes beyond the
/// acknowledged bitrate (draft-ietf-rmcat-gcc-02, section 5.5).
const ESTIMATE_RESET_PERCENT: u64 = 150;
/// Shortest interval of resets, so that the estimator can settle.
const MIN_RESET_INTERVAL: Duration = Duration::from_secs(2);
/// Longest queuing delay of video. After it, video is not sent until a keyframe arrives.
const MAX_QUEUE_DELAY: Duration = Duration::from_millis(1500);
/// Shortest interval of keyframe requests that are accepted from a viewer.
const MIN_KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before a keyframe request is repeated.
const KEYFRAME_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A viewer.
#[derive(Debug)]
pub(super) struct Viewer {
    /// Number of the viewer in statistics.
    pub(super) id: u64,
    /// User to watch. `None` for any publisher.
    pub(super) requested_user: Option<String>,
    /// Session of the watched publisher.
    pub(super) publisher: Option<SessionId>,
    /// Requested layer.
    pub(super) preference: LayerPreference,
    /// State for subscribers.
    pub(super) state_sender: watch::Sender<ViewerState>,
    /// Estimated bandwidth of the link, in bit/s.
    pub(super) estimate_bps: Option<u64>,
    /// Meter of sent packets.
    pub(super) sent_meter: RateMeter,
    selector: LayerSelector,
    congestion: CongestionDetector,
    estimate_reset_at: Option<Instant>,
    /// Whether the estimate is too low for the largest layer.
    below_best: bool,
    /// The layer to send, and the one that is sent until its keyframe arrives.
    target_layer: Option<usize>,
    current_layer: Option<usize>,
    audio_rewriter: RtpRewriter,
    video_rewriter: RtpRewriter,
    desired_bps: u64,
    last_probe: Instant,
    keyframe_requested_at: Option<Instant>,
    keyframe_accepted_at: Option<Instant>,
}

impl Viewer {
    /// A viewer without a publisher.
    pub(super) fn new(now: Instant, id: u64, user: Option<String>) -> Self {
        Self {
            id,
            requested_user: user,
            publisher: None,
            preference: LayerPreference::Auto,
            state_sender: watch::channel(ViewerState::default()).0,
            estimate_bps: None,
            sent_meter: RateMeter::new(now),
            selector: LayerSelector::new(),
            // The link counts as clear at first; one that is too narrow shows it with the first frames.
            congestion: CongestionDetector::new(true),
            estimate_reset_at: None,
            below_best: false,
            target_layer: None,
            current_layer: None,
            audio_rewriter: RtpRewriter::new(AUDIO_CLOCK_RATE),
            video_rewriter: RtpRewriter::new(VIDEO_CLOCK_RATE),
            desired_bps: 0,
            last_probe: now,
            keyframe_requested_at: None,
            keyframe_accepted_at: None,
        }
    }

    /// Sets the watched publisher.
    pub(super) fn set_publisher(&mut self, source: Option<SessionId>) {
        if self.publisher != source {
            self.publisher = source;
            self.audio_rewriter.switch_source();
            self.selector.reset();
            (self.target_layer, self.current_layer, self.keyframe_requested_at) = (None, None, None);
        }
    }

    /// The sent layer.
    pub(super) fn current_layer(&self) -> Option<usize> {
        self.current_layer
    }

    /// The layer whose keyframe must be requested now, if any.
    pub(super) fn take_keyframe_request(&mut self, now: Instant) -> Option<usize> {
        let target = self.target_layer.filter(|_| self.current_layer != self.target_layer)?;
        if self
            .keyframe_requested_at
            .is_some_and(|at| now.saturating_duration_since(at) < KEYFRAME_RETRY_INTERVAL)
        {
            return None;
        }
        self.keyframe_requested_at = Some(now);
        Some(target)
    }

    /// Handles a keyframe request of the viewer. Returns the layer, unless requests are too frequent.
    pub(super) fn accept_keyframe_request(&mut self, now: Instant) -> Option<usize> {
        let too_soon = self
            .keyframe_accepted_at
            .is_some_and(|at| now.saturating_duration_since(at) < MIN_KEYFRAME_INTERVAL);
        let layer = self.current_layer.filter(|_| !too_soon)?;
        self.keyframe_accepted_at = Some(now);
        Some(layer)
    }

    /// Records a measurement of the link. Returns the estimate to reset the estimator to, in bit/s, if its
    /// estimate is below the proven bitrate.
    pub(super) fn on_link_measured(&mut self, now: Instant, link: LinkStats) -> Option<u64> {
        self.congestion.record(now, link.rtt, link.loss);
        let too_soon =
            self.estimate_reset_at.is_some_and(|at| now.saturating_duration_since(at) < MIN_RESET_INTERVAL);
        let proven = self.proven_bps(now);
        if too_soon || link.estimate_bps? >= proven {
            return None;
        }
        self.estimate_reset_at = Some(now);
        Some(proven * ESTIMATE_RESET_PERCENT / 100)
    }

    /// Whether the link shows neither loss nor delay.
    pub(super) fn is_clear(&self, now: Instant) -> bool {
        self.congestion.is_clear(now)
    }

    /// Estimated bandwidth of the link, at least the proven bitrate, in bit/s. `None` before an estimate.
    pub(super) fn capacity_bps(&mut self, now: Instant) -> Option<u64> {
        let proven = self.proven_bps(now);
        self.estimate_bps.map(|estimate| estimate.max(proven))
    }

    /// Bitrate that the link has carried without loss or delay, in bit/s.
    fn proven_bps(&mut self, now: Instant) -> u64 {
        if self.congestion.clear_duration(now) >= MIN_CLEAR_DURATION { self.sent_meter.bps(now) } else { 0 }
    }

    /// Updates the layer to send. `requested` is the layer that the viewer requested.
    pub(super) fn update_layer(
        &mut self,
        now: Instant,
        options: &[LayerOption],
        requested: Option<usize>,
        audio_bps: u64,
    ) {
        let audio = audio_bps.max(MIN_AUDIO_BPS);
        // Without an estimate, any layer fits.
        let estimate = self.capacity_bps(now).unwrap_or(u64::from(u32::MAX));
        let budget = (estimate * ESTIMATE_USE_PERCENT / 100).saturating_sub(audio);
        let requested = requested.filter(|layer| options.iter().any(|option| option.layer == *layer));
        let (clear, level) = (self.is_clear(now), CongestionLevel::from_detector(&self.congestion, now));
        let target = requested.or_else(|| self.selector.select(now, options, budget, level));
        self.below_best = options.first().is_some_and(|best| best.bps > budget);
        if target != self.target_layer {
            // A layer above the budget stops at once: it would delay the keyframe of the new layer.
            let over_budget = |current| {
                !clear && options.iter().any(|option| option.layer == current && option.bps > budget)
            };
            self.current_layer =
                self.current_layer.filter(|current| requested.is_some() || !over_budget(*current));
            tracing::debug!(viewer = self.id, layer = ?target, budget_bps = budget, "layer selected");
            (self.target_layer, self.keyframe_requested_at) = (target, None);
        }
        if target.is_none() {
            self.current_layer = None;
        }
    }

    /// The bitrate to probe the link for, in bit/s, if it is time and the largest layer did not fit before.
    pub(super) fn probe_bitrate(&mut self, now: Instant, options: &[LayerOption]) -> Option<u64> {
        let is_largest =
            self.target_layer.is_some() && self.target_layer == options.first().map(|option| option.layer);
        let fits = is_largest && !self.below_best;
        if fits || options.is_empty() || now.saturating_duration_since(self.last_probe) < PROBE_INTERVAL {
            return None;
        }
        self.last_probe = now;
        Some(self.desired_bps)
    }

    /// The desired bitrate, in bit/s, if it has changed.
    pub(super) fn updated_desired_bitrate(&mut self, options: &[LayerOption], audio_bps: u64) -> Option<u64> {
        let largest = options.iter().map(|option| option.bps).max().unwrap_or(0);
        let needed = (largest * 3 / 2 + audio_bps).max(MIN_DESIRED_BPS);
        // It grows in steps, because each one is a probe, and falls slowly, because pages alternate between
        // motion and rest.
        let desired = if needed > self.desired_bps + self.desired_bps / 10 {
            needed
        } else if needed < self.desired_bps / 2 {
            self.desired_bps * 9 / 10
        } else {
            return None;
        };
        self.desired_bps = desired;
        Some(desired)
    }

    /// Stops the video until a keyframe if its oldest packet was queued too long ago.
    pub(super) fn on_queue_delay(&mut self, now: Instant, since: Option<Instant>) {
        if since.is_some_and(|since| now.saturating_duration_since(since) > MAX_QUEUE_DELAY) {
            (self.current_layer, self.keyframe_requested_at) = (None, None);
        }
    }

    /// Rewrites a packet for this viewer. `None` if the viewer does not get it.
    pub(super) fn forward_packet(
        &mut self,
        now: Instant,
        packet: &Packet,
        payload: PayloadInfo,
        captured_at: Instant,
    ) -> Option<OutgoingPacket> {
        let mut source_changed = false;
        let ids = match packet.track {
            Track::Audio => self.audio_rewriter.rewrite(packet, captured_at, None)?,
            Track::Video(layer) => {
                if self.target_layer == Some(layer)
                    && self.current_layer != self.target_layer
                    && payload.keyframe
                {
                    self.video_rewriter.switch_source();
                    (self.current_layer, source_changed) = (self.target_layer, true);
                }
                if self.current_layer != Some(layer) {
                    return None;
                }
                self.video_rewriter.rewrite(packet, captured_at, payload.vp8_ids)?
            }
        };
        self.sent_meter.add(now, packet.payload.len(), packet.marker);
        Some(OutgoingPacket {
            is_audio: packet.track == Track::Audio,
            codec: packet.codec,
            seq: ids.seq,
            timestamp: ids.timestamp,
            captured_at,
            marker: packet.marker,
            payload: std::sync::Arc::clone(&packet.payload),
            source_changed,
            vp8_ids: ids.vp8_ids,
        })
    }
}
