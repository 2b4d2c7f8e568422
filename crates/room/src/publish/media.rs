//! Media of a room: packets from the encoders, and targets for them.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use pagecast_core::Packet;
use pagecast_core::spec::Layer;

use super::bitrate::BitrateController;
use super::status::{LayerStatus, Status};
use super::{EncoderControl, Feed};
use crate::rtc::LinkStats;
use crate::rtc::offerer::Stats;

/// Interval at which sent bitrates are measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// Track of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedTrack {
    /// A layer of the video.
    Video(usize),
    /// The audio.
    Audio,
}

/// The feed of a room and the bitrate control of its layers.
pub(crate) struct MediaFeed {
    layers: Vec<Layer>,
    feed: Option<(Feed, Box<dyn EncoderControl>)>,
    bitrate: BitrateController,
    connected: bool,
    status: Arc<Mutex<Status>>,
    last_measurement: Option<(Instant, Vec<u64>)>,
    /// Sent bitrate of the last second, in bit/s.
    sent_bps: u64,
}

impl std::fmt::Debug for MediaFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaFeed").field("connected", &self.connected).finish_non_exhaustive()
    }
}

impl MediaFeed {
    pub(crate) fn new(layers: &[Layer], status: Arc<Mutex<Status>>) -> Self {
        let (layers, bitrate) = (layers.to_vec(), BitrateController::new(layers));
        Self { layers, feed: None, bitrate, connected: false, status, last_measurement: None, sent_bps: 0 }
    }

    /// Sets the feed.
    pub(crate) fn feed(&mut self, feed: Feed, encoders: Box<dyn EncoderControl>) {
        self.feed = Some((feed, encoders));
        if self.connected {
            self.on_connected(Instant::now());
        } else {
            self.on_disconnected();
        }
    }

    /// Handles a new connection. Packets that waited for it are dropped as too old.
    pub(crate) fn on_connected(&mut self, now: Instant) {
        self.connected = true;
        (self.last_measurement, self.sent_bps) = (None, 0);
        self.bitrate.start(now);
        if let Some((feed, _)) = &mut self.feed {
            for queue in feed.video.iter_mut().chain([&mut feed.audio]) {
                while queue.try_recv().is_ok() {}
            }
        }
        self.apply_targets();
        (0..self.layers.len()).for_each(|layer| self.request_keyframe(layer));
    }

    /// Handles the end of the connection: pauses the encoders.
    pub(crate) fn on_disconnected(&mut self) {
        self.connected = false;
        self.bitrate.stop();
        self.apply_targets();
        let mut status = lock_status(&self.status);
        (status.rtt_ms, status.estimate_kbps, status.audio_kbps) = (None, None, 0);
        status.layers.iter_mut().for_each(|layer| layer.bitrate_kbps = 0);
    }

    /// Requests a keyframe of a layer.
    pub(crate) fn request_keyframe(&self, layer: usize) {
        if let Some((_, encoders)) = &self.feed {
            encoders.request_keyframe(layer);
        }
    }

    pub(crate) fn on_estimate(&mut self, now: Instant, bps: u32) {
        self.bitrate.on_estimate(now, bps);
        self.apply_targets();
    }

    /// Handles the server's limit (REMB), in bit/s.
    pub(crate) fn on_receiver_limit(&mut self, now: Instant, bps: u32) {
        self.bitrate.on_receiver_limit(now, bps);
        self.apply_targets();
    }

    /// Handles a measurement of the link. Returns the estimate to reset the estimator to, in bit/s, if its
    /// estimate is below the proven bitrate.
    pub(crate) fn on_link_measured(&mut self, now: Instant, link: LinkStats) -> Option<u64> {
        let reset = self.bitrate.on_link_measured(now, link, self.sent_bps);
        self.apply_targets();
        reset
    }

    /// Whether the link shows neither loss nor delay.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.bitrate.is_clear(now)
    }

    pub(crate) fn set_subscribed(&mut self, now: Instant, layer: usize, subscribed: bool) {
        self.bitrate.set_subscribed(now, layer, subscribed);
        self.apply_targets();
    }

    fn apply_targets(&mut self) {
        let changed = self.bitrate.take_changed_targets();
        if let Some((_, encoders)) = &self.feed {
            for (layer, target) in changed {
                tracing::debug!(
                    layer,
                    bitrate_kbps = target.bitrate_bps / 1000,
                    fps = target.fps,
                    "layer target changed"
                );
                encoders.set_target(layer, target);
            }
        }
    }

    /// Waits for the next packet. Cancel-safe.
    pub(crate) async fn next_packet(&mut self) -> (FeedTrack, Packet) {
        let Some((feed, _)) = &mut self.feed else { return std::future::pending().await };
        poll_fn(|context| {
            // Audio has priority.
            if let Poll::Ready(Some(packet)) = feed.audio.poll_recv(context) {
                return Poll::Ready((FeedTrack::Audio, packet));
            }
            for (layer, queue) in feed.video.iter_mut().enumerate() {
                if let Poll::Ready(Some(packet)) = queue.poll_recv(context) {
                    return Poll::Ready((FeedTrack::Video(layer), packet));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Updates targets, and once per second the status.
    pub(crate) fn update_status(&mut self, now: Instant, stats: &Stats) {
        self.bitrate.handle_timeout(now);
        self.apply_targets();
        let bytes: Vec<u64> = stats.streams.iter().map(|stream| stream.bytes).collect();
        let Some((measured_at, previous)) = &self.last_measurement else {
            self.last_measurement = Some((now, bytes));
            return;
        };
        let elapsed = now.saturating_duration_since(*measured_at);
        if elapsed < MEASURE_INTERVAL {
            return;
        }
        let kbps: Vec<u32> = bytes
            .iter()
            .zip(previous)
            .map(|(bytes, previous)| {
                (bytes.saturating_sub(*previous) as f64 * 8.0 / 1000.0 / elapsed.as_secs_f64()).round() as u32
            })
            .collect();
        if stats.estimate_bps.is_none() {
            let worst = stats.streams.iter().map(|stream| f64::from(stream.loss)).fold(0.0, f64::max);
            self.bitrate.on_loss(now, worst);
        }
        self.sent_bps = kbps.iter().map(|kbps| u64::from(*kbps) * 1000).sum();
        self.last_measurement = Some((now, bytes));
        let mut status = lock_status(&self.status);
        status.rtt_ms = stats.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
        status.estimate_kbps = stats.estimate_bps.map(|bps| bps / 1000);
        status.audio_kbps = kbps.last().copied().unwrap_or(0);
        let targets = self.bitrate.targets();
        let streams = self.layers.iter().zip(targets).zip(stats.streams.iter().zip(kbps));
        status.layers = streams
            .map(|((layer, target), (stream, bitrate_kbps))| LayerStatus {
                width: layer.size.width(),
                height: layer.size.height(),
                fps: target.fps,
                target_kbps: target.bitrate_bps / 1000,
                bitrate_kbps,
                loss: stream.loss,
                nacks: stream.nacks,
                keyframe_requests: stream.keyframe_requests,
            })
            .collect();
    }
}

/// Locks a status, even a poisoned one: each change of it is complete.
pub(crate) fn lock_status(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}
