//! One who watches.

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

/// Part of the estimate that is used.
const ESTIMATE_USE_PERCENT: u64 = 95;
/// What is kept free for sound whose rate is not known yet, in bit/s.
const MIN_AUDIO_BPS: u64 = 48_000;
/// The line is always tried for so much, in bit/s: a page at rest may begin to move.
const MIN_DESIRED_BPS: u64 = 1_500_000;
/// How often it is tried whether the line carries more by now. A try is a few packets.
const PROBE_INTERVAL: Duration = Duration::from_millis(1000);
/// What was sent while the line was clear for so long, it has carried: [`RateMeter`] counts for two seconds.
const MIN_CLEAR_DURATION: Duration = Duration::from_secs(2);
/// An estimator that is less than that begins anew above it, as far as estimators themselves go beyond what
/// was acknowledged (draft-ietf-rmcat-gcc-02, section 5.5), and not again before it could have settled.
const ESTIMATE_RESET_PERCENT: u64 = 150;
const MIN_RESET_INTERVAL: Duration = Duration::from_secs(2);
/// A picture that waits for the line for so long is not sent any more, until a keyframe comes.
const MAX_QUEUE_DELAY: Duration = Duration::from_millis(1500);
/// A viewer may ask for keyframes so often.
const MIN_KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// It asked for a keyframe and none came: once more.
const KEYFRAME_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// One who watches.
#[derive(Debug)]
pub(super) struct Viewer {
    /// A number for those who look at statistics.
    pub(super) id: u64,
    /// Whom they want to see; none: whoever publishes.
    pub(super) requested_user: Option<String>,
    /// Whom they see.
    pub(super) publisher: Option<SessionId>,
    /// Which layer they want.
    pub(super) preference: LayerPreference,
    /// What is told to them.
    pub(super) state_sender: watch::Sender<ViewerState>,
    /// What their line carries, in bit/s.
    pub(super) estimate_bps: Option<u64>,
    /// What was sent.
    pub(super) sent_meter: RateMeter,
    selector: LayerSelector,
    congestion: CongestionDetector,
    estimate_reset_at: Option<Instant>,
    /// Whether the estimate is too low for the layer that is sent, or for a better one.
    below_best: bool,
    /// The layer that is to be sent, and the one that is.
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
    /// Who has got nothing yet.
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
            // Until it shows otherwise: a line that is too narrow does so with the first pictures.
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

    /// Sees somebody else from now on, or nobody.
    pub(super) fn set_publisher(&mut self, source: Option<SessionId>) {
        if self.publisher != source {
            self.publisher = source;
            self.audio_rewriter.switch_source();
            self.selector.reset();
            (self.target_layer, self.current_layer, self.keyframe_requested_at) = (None, None, None);
        }
    }

    /// The layer that is sent.
    pub(super) fn current_layer(&self) -> Option<usize> {
        self.current_layer
    }

    /// The layer that a keyframe is needed of, if it is time to ask for one.
    pub(super) fn take_keyframe_request(&mut self, now: Instant) -> Option<usize> {
        let target = self.target_layer.filter(|_| self.current_layer != self.target_layer)?;
        if self
            .keyframe_requested_at
            .is_some_and(|asked| now.saturating_duration_since(asked) < KEYFRAME_RETRY_INTERVAL)
        {
            return None;
        }
        self.keyframe_requested_at = Some(now);
        Some(target)
    }

    /// The viewer asks for a keyframe; of which layer, if this one may.
    pub(super) fn accept_keyframe_request(&mut self, now: Instant) -> Option<usize> {
        let often = self
            .keyframe_accepted_at
            .is_some_and(|at| now.saturating_duration_since(at) < MIN_KEYFRAME_INTERVAL);
        let layer = self.current_layer.filter(|_| !often)?;
        self.keyframe_accepted_at = Some(now);
        Some(layer)
    }

    /// The line was measured; what the estimator is to begin anew from, in bit/s, if it believes in less than
    /// the line carries.
    pub(super) fn on_link_measured(&mut self, now: Instant, line: LinkStats) -> Option<u64> {
        self.congestion.record(now, line.rtt, line.loss);
        let often =
            self.estimate_reset_at.is_some_and(|at| now.saturating_duration_since(at) < MIN_RESET_INTERVAL);
        let carried = self.proven_bps(now);
        if often || line.estimate_bps? >= carried {
            return None;
        }
        self.estimate_reset_at = Some(now);
        Some(carried * ESTIMATE_RESET_PERCENT / 100)
    }

    /// Whether the line shows neither losses nor delays.
    pub(super) fn is_clear(&self, now: Instant) -> bool {
        self.congestion.is_clear(now)
    }

    /// What the line is believed to carry, in bit/s, once anything is known: what it is estimated to, but no
    /// less than it does.
    pub(super) fn capacity_bps(&mut self, now: Instant) -> Option<u64> {
        let carried = self.proven_bps(now);
        self.estimate_bps.map(|estimate| estimate.max(carried))
    }

    /// What the line has carried without losses and delays, in bit/s.
    fn proven_bps(&mut self, now: Instant) -> u64 {
        if self.congestion.clear_duration(now) >= MIN_CLEAR_DURATION { self.sent_meter.bps(now) } else { 0 }
    }

    /// Looks again at which layer to send. `named` is the layer that the viewer asked for.
    pub(super) fn update_layer(
        &mut self,
        now: Instant,
        offers: &[LayerOption],
        named: Option<usize>,
        audio_bps: u64,
    ) {
        let audio = audio_bps.max(MIN_AUDIO_BPS);
        // Before there is an estimate, the line is as good as it must be.
        let estimate = self.capacity_bps(now).unwrap_or(u64::from(u32::MAX));
        let budget = (estimate * ESTIMATE_USE_PERCENT / 100).saturating_sub(audio);
        let wished = named.filter(|named| offers.iter().any(|offer| offer.layer == *named));
        let (clear, shows) = (self.is_clear(now), CongestionLevel::from_detector(&self.congestion, now));
        let target = wished.or_else(|| self.selector.select(now, offers, budget, shows));
        self.below_best = offers.first().is_some_and(|best| best.bps > budget);
        if target != self.target_layer {
            // What the line cannot carry is not sent until the keyframe of what it can: that would come even
            // later.
            let tight =
                |current| !clear && offers.iter().any(|offer| offer.layer == current && offer.bps > budget);
            self.current_layer = self.current_layer.filter(|current| wished.is_some() || !tight(*current));
            tracing::debug!(viewer = self.id, ?target, budget, "another layer");
            (self.target_layer, self.keyframe_requested_at) = (target, None);
        }
        if target.is_none() {
            self.current_layer = None;
        }
    }

    /// Whether to try the line again: it did not carry the best there is, but may by now.
    pub(super) fn probe_bitrate(&mut self, now: Instant, offers: &[LayerOption]) -> Option<u64> {
        let best =
            self.target_layer.is_some() && self.target_layer == offers.first().map(|offer| offer.layer);
        let content = best && !self.below_best;
        if content || offers.is_empty() || now.saturating_duration_since(self.last_probe) < PROBE_INTERVAL {
            return None;
        }
        self.last_probe = now;
        Some(self.desired_bps)
    }

    /// What the line is to be tried for, if that has changed.
    pub(super) fn updated_desired_bitrate(&mut self, offers: &[LayerOption], audio_bps: u64) -> Option<u64> {
        let largest = offers.iter().map(|offer| offer.bps).max().unwrap_or(0);
        let wanted = (largest * 3 / 2 + audio_bps).max(MIN_DESIRED_BPS);
        // Up with a jump, for a little more is not worth trying the line; down slowly, as pages move and
        // rest.
        let desired = if wanted > self.desired_bps + self.desired_bps / 10 {
            wanted
        } else if wanted < self.desired_bps / 2 {
            self.desired_bps * 9 / 10
        } else {
            return None;
        };
        self.desired_bps = desired;
        Some(desired)
    }

    /// The picture waits for the line since then; it is not made longer.
    pub(super) fn on_queue_delay(&mut self, now: Instant, since: Option<Instant>) {
        if since.is_some_and(|since| now.saturating_duration_since(since) > MAX_QUEUE_DELAY) {
            (self.current_layer, self.keyframe_requested_at) = (None, None);
        }
    }

    /// What this viewer gets of a packet.
    pub(super) fn forward_packet(
        &mut self,
        now: Instant,
        packet: &Packet,
        glance: PayloadInfo,
        made: Instant,
    ) -> Option<OutgoingPacket> {
        let mut fresh = false;
        let numbers = match packet.track {
            Track::Audio => self.audio_rewriter.rewrite(packet, made, None)?,
            Track::Video(layer) => {
                if self.target_layer == Some(layer)
                    && self.current_layer != self.target_layer
                    && glance.keyframe
                {
                    self.video_rewriter.switch_source();
                    (self.current_layer, fresh) = (self.target_layer, true);
                }
                if self.current_layer != Some(layer) {
                    return None;
                }
                self.video_rewriter.rewrite(packet, made, glance.vp8_ids)?
            }
        };
        self.sent_meter.add(now, packet.payload.len(), packet.marker);
        Some(OutgoingPacket {
            is_audio: packet.track == Track::Audio,
            codec: packet.codec,
            seq: numbers.seq,
            timestamp: numbers.timestamp,
            captured_at: made,
            marker: packet.marker,
            payload: std::sync::Arc::clone(&packet.payload),
            source_changed: fresh,
            vp8_ids: numbers.vp8_ids,
        })
    }
}
