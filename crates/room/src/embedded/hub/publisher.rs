//! One who publishes.

use std::time::{Duration, Instant, SystemTime};

use super::super::choice::Offer;
use super::super::clock::Clock;
use super::super::frame::Glance;
use super::super::meter::Meter;
use super::super::stats::{LayerStats, PublisherStats};
use crate::rtc::serve::media::{Packet, Report, Track};

/// A publisher is asked for a keyframe of a layer so often at most, however many want one.
const KEYFRAME_EVERY: Duration = Duration::from_millis(500);
/// A layer of which nothing came for so long is none. A page at rest sends a picture a second.
const SILENT: Duration = Duration::from_secs(3);
/// Ticks per second of RTP time stamps.
pub(super) const VIDEO_RATE: u32 = 90_000;
pub(super) const AUDIO_RATE: u32 = 48_000;

/// One who publishes.
#[derive(Debug)]
pub(super) struct Publisher {
    /// As whom.
    pub(super) user: String,
    since: SystemTime,
    clock: Clock,
    audio: Meter,
    layers: Vec<Layer>,
    keyframe_requests: u64,
}

#[derive(Debug)]
struct Layer {
    rid: Option<String>,
    meter: Meter,
    size: Option<(u32, u32)>,
    /// When a keyframe was asked for the last time.
    asked: Option<Instant>,
    /// Whether somebody has wanted one since.
    wanted: bool,
}

impl Publisher {
    /// Of whom nothing came yet. `rids` are the layers.
    pub(super) fn new(now: Instant, user: String, rids: Vec<Option<String>>) -> Self {
        let layer = |rid| Layer { rid, meter: Meter::new(now), size: None, asked: None, wanted: false };
        Self {
            user,
            since: SystemTime::now(),
            clock: Clock::default(),
            audio: Meter::new(now),
            layers: rids.into_iter().map(layer).collect(),
            keyframe_requests: 0,
        }
    }

    /// It says when a time stamp was.
    pub(super) fn report(&mut self, track: Track, report: Report) {
        self.clock.report(track, report);
    }

    /// A packet came; when it was made.
    pub(super) fn take(&mut self, now: Instant, packet: &Packet, glance: Glance) -> Instant {
        let (rate, bytes) = match packet.track {
            Track::Audio => (AUDIO_RATE, packet.payload.len()),
            Track::Video(_) => (VIDEO_RATE, packet.payload.len()),
        };
        match packet.track {
            Track::Audio => self.audio.add(now, bytes, false),
            Track::Video(index) => {
                if let Some(layer) = self.layers.get_mut(index) {
                    layer.meter.add(now, bytes, packet.marker);
                    layer.size = glance.size.or(layer.size);
                    layer.wanted &= !glance.keyframe;
                }
            }
        }
        self.clock.made(now, packet.track, rate, packet.timestamp)
    }

    /// Somebody wants a keyframe of a layer; whether it has to be asked for right now.
    pub(super) fn want_keyframe(&mut self, now: Instant, layer: usize) -> bool {
        let Some(layer) = self.layers.get_mut(layer) else { return false };
        let may = layer.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= KEYFRAME_EVERY);
        layer.wanted = !may;
        if may {
            layer.asked = Some(now);
            self.keyframe_requests += 1;
        }
        may
    }

    /// A layer of which a keyframe is wanted that could not be asked for when somebody wanted it.
    pub(super) fn wanted(&self, now: Instant) -> Option<usize> {
        let due = |layer: &Layer| {
            layer.wanted
                && layer.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= KEYFRAME_EVERY)
        };
        self.layers.iter().position(due)
    }

    /// Whether anything comes.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.audio.is_alive(now, SILENT) || self.layers.iter().any(|layer| layer.meter.is_alive(now, SILENT))
    }

    /// What comes of sound, in bit/s.
    pub(super) fn audio_bps(&mut self, now: Instant) -> u64 {
        self.audio.bps(now)
    }

    /// The layers that come, the largest one first; all of them before anything has come.
    pub(super) fn offers(&mut self, now: Instant) -> Vec<Offer> {
        let any = self.layers.iter().any(|layer| layer.meter.is_alive(now, SILENT));
        let mut offers = Vec::new();
        for index in self.order() {
            let layer = &mut self.layers[index];
            if !any || layer.meter.is_alive(now, SILENT) {
                offers.push(Offer { layer: index, bps: layer.meter.bps(now) });
            }
        }
        offers
    }

    /// The layer that a viewer means: by its name, or `h`, `m`, `l` for the first, second and third.
    pub(super) fn layer_named(&self, name: &str) -> Option<usize> {
        let named = self.layers.iter().position(|layer| layer.rid.as_deref() == Some(name));
        let order = self.order();
        let by_size = ["h", "m", "l"].iter().position(|known| *known == name);
        named.or_else(|| order.get(by_size?.min(order.len().saturating_sub(1))).copied())
    }

    /// A layer's name: what the publisher calls it, or its place.
    pub(super) fn layer_name(&self, layer: usize) -> String {
        let rid = self.layers.get(layer).and_then(|layer| layer.rid.clone());
        rid.unwrap_or_else(|| layer.to_string())
    }

    /// Places of the layers, the largest one first; as offered, while sizes are not known.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.layers.len()).collect();
        if self.layers.iter().all(|layer| layer.size.is_some()) {
            let area = |index: &usize| self.layers[*index].size.map(|(w, h)| u64::from(w) * u64::from(h));
            order.sort_by_key(|index| std::cmp::Reverse(area(index)));
        }
        order
    }

    /// What there is to tell; `watched` says how many get a layer.
    pub(super) fn stats(&mut self, now: Instant, watched: impl Fn(usize) -> usize) -> PublisherStats {
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut layers = Vec::new();
        for index in self.order() {
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
            audio_bps: self.audio.bps(now),
            rtt_ms: None,
            loss: None,
            keyframe_requests: self.keyframe_requests,
        }
    }
}
