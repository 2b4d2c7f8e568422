//! A publisher: its layers, meters and clock.

use std::time::{Duration, Instant, SystemTime};

use super::super::layer_selector::LayerOption;
use super::super::payload::PayloadInfo;
use super::super::publisher_clock::PublisherClock;
use super::super::rate_meter::RateMeter;
use super::super::stats::{LayerStats, PublisherStats};
use crate::rtc::answerer::media::{Packet, SenderReport, Track};

/// Shortest interval of keyframe requests for one layer, however many viewers need one.
const MIN_KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which a layer without packets is inactive. A static page sends one frame per second.
const LAYER_TIMEOUT: Duration = Duration::from_secs(3);
/// Ticks per second of RTP time stamps.
pub(super) const VIDEO_CLOCK_RATE: u32 = 90_000;
pub(super) const AUDIO_CLOCK_RATE: u32 = 48_000;

/// A publisher.
#[derive(Debug)]
pub(super) struct Publisher {
    /// User name.
    pub(super) user: String,
    started_at: SystemTime,
    clock: PublisherClock,
    audio_meter: RateMeter,
    layers: Vec<Layer>,
    keyframe_requests: u64,
}

#[derive(Debug)]
struct Layer {
    rid: Option<String>,
    meter: RateMeter,
    size: Option<(u32, u32)>,
    /// Time of the last keyframe request.
    keyframe_requested_at: Option<Instant>,
    /// Whether a keyframe was needed since, but could not be requested yet.
    keyframe_pending: bool,
}

impl Publisher {
    /// A publisher without packets. `rids` name the layers.
    pub(super) fn new(now: Instant, user: String, rids: Vec<Option<String>>) -> Self {
        let layer = |rid| Layer {
            rid,
            meter: RateMeter::new(now),
            size: None,
            keyframe_requested_at: None,
            keyframe_pending: false,
        };
        Self {
            user,
            started_at: SystemTime::now(),
            clock: PublisherClock::default(),
            audio_meter: RateMeter::new(now),
            layers: rids.into_iter().map(layer).collect(),
            keyframe_requests: 0,
        }
    }

    /// Records a sender report.
    pub(super) fn on_sender_report(&mut self, track: Track, report: SenderReport) {
        self.clock.on_sender_report(track, report);
    }

    /// Records a packet and returns its capture time.
    pub(super) fn on_packet(&mut self, now: Instant, packet: &Packet, payload: PayloadInfo) -> Instant {
        let (rate, bytes) = match packet.track {
            Track::Audio => (AUDIO_CLOCK_RATE, packet.payload.len()),
            Track::Video(_) => (VIDEO_CLOCK_RATE, packet.payload.len()),
        };
        match packet.track {
            Track::Audio => self.audio_meter.add(now, bytes, false),
            Track::Video(index) => {
                if let Some(layer) = self.layers.get_mut(index) {
                    layer.meter.add(now, bytes, packet.marker);
                    layer.size = payload.size.or(layer.size);
                    layer.keyframe_pending &= !payload.keyframe;
                }
            }
        }
        self.clock.capture_time(now, packet.track, rate, packet.timestamp)
    }

    /// Notes that a viewer needs a keyframe of a layer. Returns whether to request it now.
    pub(super) fn request_keyframe(&mut self, now: Instant, layer: usize) -> bool {
        let Some(layer) = self.layers.get_mut(layer) else { return false };
        let allowed = layer
            .keyframe_requested_at
            .is_none_or(|at| now.saturating_duration_since(at) >= MIN_KEYFRAME_INTERVAL);
        layer.keyframe_pending = !allowed;
        if allowed {
            layer.keyframe_requested_at = Some(now);
            self.keyframe_requests += 1;
        }
        allowed
    }

    /// A layer whose pending keyframe may be requested now.
    pub(super) fn pending_keyframe_layer(&self, now: Instant) -> Option<usize> {
        let is_due = |layer: &Layer| {
            layer.keyframe_pending
                && layer
                    .keyframe_requested_at
                    .is_none_or(|at| now.saturating_duration_since(at) >= MIN_KEYFRAME_INTERVAL)
        };
        self.layers.iter().position(is_due)
    }

    /// Whether packets arrive.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.audio_meter.is_active(now, LAYER_TIMEOUT)
            || self.layers.iter().any(|layer| layer.meter.is_active(now, LAYER_TIMEOUT))
    }

    /// Bitrate of the audio, in bit/s.
    pub(super) fn audio_bps(&mut self, now: Instant) -> u64 {
        self.audio_meter.bps(now)
    }

    /// The active layers, the largest first; all layers before the first packet.
    pub(super) fn layer_options(&mut self, now: Instant) -> Vec<LayerOption> {
        let any_active = self.layers.iter().any(|layer| layer.meter.is_active(now, LAYER_TIMEOUT));
        let mut options = Vec::new();
        for index in self.layers_by_size() {
            let layer = &mut self.layers[index];
            if !any_active || layer.meter.is_active(now, LAYER_TIMEOUT) {
                options.push(LayerOption { layer: index, bps: layer.meter.bps(now) });
            }
        }
        options
    }

    /// The layer with this name; `h`, `m` and `l` also mean the largest, second and third.
    pub(super) fn find_layer(&self, name: &str) -> Option<usize> {
        let named = self.layers.iter().position(|layer| layer.rid.as_deref() == Some(name));
        let order = self.layers_by_size();
        let by_size = ["h", "m", "l"].iter().position(|known| *known == name);
        named.or_else(|| order.get(by_size?.min(order.len().saturating_sub(1))).copied())
    }

    /// The name of a layer: its rid, or its index.
    pub(super) fn layer_name(&self, layer: usize) -> String {
        let rid = self.layers.get(layer).and_then(|layer| layer.rid.clone());
        rid.unwrap_or_else(|| layer.to_string())
    }

    /// Indices of the layers, the largest first; in the order of the offer while sizes are unknown.
    fn layers_by_size(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.layers.len()).collect();
        if self.layers.iter().all(|layer| layer.size.is_some()) {
            let area = |index: &usize| self.layers[*index].size.map(|(w, h)| u64::from(w) * u64::from(h));
            order.sort_by_key(|index| std::cmp::Reverse(area(index)));
        }
        order
    }

    /// Statistics. `viewer_count` returns the number of viewers of a layer.
    pub(super) fn stats(&mut self, now: Instant, viewer_count: impl Fn(usize) -> usize) -> PublisherStats {
        let since = self.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut layers = Vec::new();
        for index in self.layers_by_size() {
            let layer = &mut self.layers[index];
            layers.push(LayerStats {
                rid: layer.rid.clone(),
                width: layer.size.map(|size| size.0),
                height: layer.size.map(|size| size.1),
                bitrate_bps: layer.meter.bps(now),
                fps: layer.meter.fps(now),
                viewers: viewer_count(index),
            });
        }
        PublisherStats {
            user: self.user.clone(),
            published_since_ms: u64::try_from(since.as_millis()).unwrap_or(0),
            active: self.is_active(now),
            layers,
            audio_bps: self.audio_meter.bps(now),
            rtt_ms: None,
            loss: None,
            keyframe_requests: self.keyframe_requests,
        }
    }
}
