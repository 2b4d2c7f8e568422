//! Media of a room: packets from the encoders, and targets for them.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use pagecast_core::Packet;
use pagecast_core::spec::Layer;

use super::bitrate::{BitrateController, Input, Output};
use super::status::{LayerStatus, Status};
use super::{EncoderControl, Feed, LayerTarget};
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
            self.on_disconnected(Instant::now());
        }
    }

    /// Handles a new connection. Packets that waited for it are dropped as too old.
    pub(crate) fn on_connected(&mut self, now: Instant) {
        self.connected = true;
        (self.last_measurement, self.sent_bps) = (None, 0);
        if let Some((feed, _)) = &mut self.feed {
            for queue in feed.video.iter_mut().chain([&mut feed.audio]) {
                while queue.try_recv().is_ok() {}
            }
        }
        self.control_bitrate(now, Input::Start);
        (0..self.layers.len()).for_each(|layer| self.request_keyframe(layer));
    }

    /// Handles the end of the connection: pauses the encoders.
    pub(crate) fn on_disconnected(&mut self, now: Instant) {
        self.connected = false;
        self.control_bitrate(now, Input::Stop);
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

    /// Handles a bandwidth estimate, in bit/s.
    pub(crate) fn on_estimate(&mut self, now: Instant, bps: u32) {
        self.control_bitrate(now, Input::Estimate(bps));
    }

    /// Handles the server's limit (REMB), in bit/s.
    pub(crate) fn on_receiver_limit(&mut self, now: Instant, bps: u32) {
        self.control_bitrate(now, Input::ReceiverLimit(bps));
    }

    /// Handles a measurement of the link. Returns the estimate to reset the estimator to, in bit/s, if its
    /// estimate is below the proven bitrate.
    pub(crate) fn on_link_measured(&mut self, now: Instant, link: LinkStats) -> Option<u64> {
        self.control_bitrate(now, Input::LinkMeasured { link, sent_bps: self.sent_bps })
    }

    /// Sets whether a layer has subscribers.
    pub(crate) fn set_subscribed(&mut self, now: Instant, layer: usize, subscribed: bool) {
        self.control_bitrate(now, Input::Subscribed { layer, subscribed });
    }

    /// Tells the bitrate control that time has passed, if its deadline has.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.control_bitrate(now, Input::Timeout);
        }
    }

    /// Latest time for [`Self::handle_timeout`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.bitrate.deadline()
    }

    /// Whether the link shows neither loss nor delay.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.bitrate.is_clear(now)
    }

    /// Hands an input to the bitrate control and sets new targets. Returns the estimate to reset the
    /// estimator to, in bit/s, if it must be reset.
    fn control_bitrate(&mut self, now: Instant, input: Input) -> Option<u64> {
        self.bitrate.handle(now, input);
        let mut reset = None;
        while let Some(output) = self.bitrate.poll() {
            match output {
                Output::SetTarget { layer, target } => self.set_target(layer, target),
                Output::ResetEstimate(bps) => reset = Some(bps),
            }
        }
        reset
    }

    fn set_target(&self, layer: usize, target: LayerTarget) {
        let Some((_, encoders)) = &self.feed else { return };
        let (bitrate_kbps, fps) = (target.bitrate_bps / 1000, target.fps);
        tracing::debug!(layer, bitrate_kbps, fps, "layer target changed");
        encoders.set_target(layer, target);
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

    /// Updates the status once per second.
    pub(crate) fn update_status(&mut self, now: Instant, stats: &Stats) {
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
            self.control_bitrate(now, Input::Loss(worst));
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
