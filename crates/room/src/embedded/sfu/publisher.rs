//! One who publishes.

use std::time::{Duration, Instant, SystemTime};

use super::super::layer_selector::LayerOption;
use super::super::payload::PayloadInfo;
use super::super::publisher_clock::PublisherClock;
use super::super::rate_meter::RateMeter;
use super::super::stats::{LayerStats, PublisherStats};
use crate::rtc::answerer::media::{Packet, SenderReport, Track};

/// A publisher is asked for a keyframe of a layer so often at most, however many want one.
const MIN_KEYFRAME_INTERVAL: Duration = Duration::from_millis(500);
/// A layer of which nothing came for so long is none. A page at rest sends a picture a second.
const LAYER_TIMEOUT: Duration = Duration::from_secs(3);
/// Ticks per second of RTP time stamps.
pub(super) const VIDEO_CLOCK_RATE: u32 = 90_000;
pub(super) const AUDIO_CLOCK_RATE: u32 = 48_000;

/// One who publishes.
#[derive(Debug)]
pub(super) struct Publisher {
    /// As whom.
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
    /// When a keyframe was asked for the last time.
    keyframe_requested_at: Option<Instant>,
    /// Whether somebody has wanted one since.
    keyframe_pending: bool,
}

impl Publisher {
    /// Of whom nothing came yet. `rids` are the layers.
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

    /// It says when a time stamp was.
    pub(super) fn on_sender_report(&mut self, track: Track, report: SenderReport) {
        self.clock.on_sender_report(track, report);
    }

    /// A packet came; when it was made.
    pub(super) fn on_packet(&mut self, now: Instant, packet: &Packet, glance: PayloadInfo) -> Instant {
        let (rate, bytes) = match packet.track {
            Track::Audio => (AUDIO_CLOCK_RATE, packet.payload.len()),
            Track::Video(_) => (VIDEO_CLOCK_RATE, packet.payload.len()),
        };
        match packet.track {
            Track::Audio => self.audio_meter.add(now, bytes, false),
            Track::Video(index) => {
                if let Some(layer) = self.layers.get_mut(index) {
                    layer.meter.add(now, bytes, packet.marker);
                    layer.size = glance.size.or(layer.size);
                    layer.keyframe_pending &= !glance.keyframe;
                }
            }
        }
        self.clock.capture_time(now, packet.track, rate, packet.timestamp)
    }

    /// Somebody wants a keyframe of a layer; whether it has to be asked for right now.
    pub(super) fn request_keyframe(&mut self, now: Instant, layer: usize) -> bool {
        let Some(layer) = self.layers.get_mut(layer) else { return false };
        let may = layer
            .keyframe_requested_at
            .is_none_or(|asked| now.saturating_duration_since(asked) >= MIN_KEYFRAME_INTERVAL);
        layer.keyframe_pending = !may;
        if may {
            layer.keyframe_requested_at = Some(now);
            self.keyframe_requests += 1;
        }
        may
    }

    /// A layer of which a keyframe is wanted that could not be asked for when somebody wanted it.
    pub(super) fn pending_keyframe_layer(&self, now: Instant) -> Option<usize> {
        let due = |layer: &Layer| {
            layer.keyframe_pending
                && layer
                    .keyframe_requested_at
                    .is_none_or(|asked| now.saturating_duration_since(asked) >= MIN_KEYFRAME_INTERVAL)
        };
        self.layers.iter().position(due)
    }

    /// Whether anything comes.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.audio_meter.is_active(now, LAYER_TIMEOUT)
            || self.layers.iter().any(|layer| layer.meter.is_active(now, LAYER_TIMEOUT))
    }

    /// What comes of sound, in bit/s.
    pub(super) fn audio_bps(&mut self, now: Instant) -> u64 {
        self.audio_meter.bps(now)
    }

    /// The layers that come, the largest one first; all of them before anything has come.
    pub(super) fn layer_options(&mut self, now: Instant) -> Vec<LayerOption> {
        let any = self.layers.iter().any(|layer| layer.meter.is_active(now, LAYER_TIMEOUT));
        let mut offers = Vec::new();
        for index in self.layers_by_size() {
            let layer = &mut self.layers[index];
            if !any || layer.meter.is_active(now, LAYER_TIMEOUT) {
                offers.push(LayerOption { layer: index, bps: layer.meter.bps(now) });
            }
        }
        offers
    }

    /// The layer that a viewer means: by its name, or `h`, `m`, `l` for the first, second and third.
    pub(super) fn find_layer(&self, name: &str) -> Option<usize> {
        let named = self.layers.iter().position(|layer| layer.rid.as_deref() == Some(name));
        let order = self.layers_by_size();
        let by_size = ["h", "m", "l"].iter().position(|known| *known == name);
        named.or_else(|| order.get(by_size?.min(order.len().saturating_sub(1))).copied())
    }

    /// A layer's name: what the publisher calls it, or its place.
    pub(super) fn layer_name(&self, layer: usize) -> String {
        let rid = self.layers.get(layer).and_then(|layer| layer.rid.clone());
        rid.unwrap_or_else(|| layer.to_string())
    }

    /// Places of the layers, the largest one first; as offered, while sizes are not known.
    fn layers_by_size(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.layers.len()).collect();
        if self.layers.iter().all(|layer| layer.size.is_some()) {
            let area = |index: &usize| self.layers[*index].size.map(|(w, h)| u64::from(w) * u64::from(h));
            order.sort_by_key(|index| std::cmp::Reverse(area(index)));
        }
        order
    }

    /// What there is to tell; `watched` says how many get a layer.
    pub(super) fn stats(&mut self, now: Instant, watched: impl Fn(usize) -> usize) -> PublisherStats {
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
                viewers: watched(index),
            });
        }
        PublisherStats {
            user: self.user.clone(),
            since_ms: u64::try_from(since.as_millis()).unwrap_or(0),
            active: self.is_active(now),
            layers,
            audio_bps: self.audio_meter.bps(now),
            rtt_ms: None,
            loss: None,
            keyframe_requests: self.keyframe_requests,
        }
    }
}
