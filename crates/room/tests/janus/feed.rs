//! Feed of a test publisher: a clip of a few seconds, repeated in real time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use pagecast_core::{MediaTime, Packet, Track};
use pagecast_room::publish::{EncoderControl, Feed, LayerTarget};
use pagecast_testkit::encoded_media;
use tokio::sync::mpsc;

/// Both layers, the larger one first.
pub(crate) const SIZES: [(u32, u32); 2] = [(640, 360), (320, 180)];
pub(crate) const FPS: u32 = 30;
/// Length of the clip, in seconds.
const CLIP_S: u32 = 4;
/// Packets that wait for the publisher.
const MAX_QUEUED_PACKETS: usize = 64;

/// Packets by pts, each with the index of its queue: a layer, or the audio after the layers.
static CLIP: LazyLock<Result<Vec<(usize, Packet)>>> = LazyLock::new(|| {
    let mut packets = Vec::new();
    for (layer, (width, height)) in SIZES.into_iter().enumerate() {
        let frames = encoded_media::h264_access_units(width, height, FPS, CLIP_S)?;
        packets.extend((0..).zip(frames).map(|(index, frame)| {
            let at = MediaTime::from_index(index, FPS);
            (layer, packet(Track::Video, &frame.data, at, frame.keyframe))
        }));
    }
    let tone = encoded_media::opus_packets(CLIP_S)?;
    packets.extend((0..).zip(tone).map(|(index, data)| {
        let at = MediaTime::from_index(index * i64::from(encoded_media::OPUS_PACKET_SAMPLES), 48_000);
        (SIZES.len(), packet(Track::Audio, &data, at, true))
    }));
    packets.retain(|(_, packet)| packet.pts < MediaTime::from_index(i64::from(CLIP_S), 1));
    packets.sort_by_key(|(_, packet)| packet.pts);
    Ok(packets)
});

fn packet(track: Track, data: &[u8], pts: MediaTime, keyframe: bool) -> Packet {
    Packet { track, data: data.into(), pts, dts: pts, duration: MediaTime::from_index(1, FPS), keyframe }
}

/// Sends the clip until it is dropped.
pub(crate) struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Encoder control without effect: the clip has a keyframe every second.
struct NoopEncoders;

impl EncoderControl for NoopEncoders {
    fn request_keyframe(&self, _layer: usize) {}
    fn set_target(&self, _layer: usize, _target: LayerTarget) {}
}

impl Feeder {
    /// Starts sending, and returns the feed for the publisher.
    pub(crate) fn start() -> Result<(Self, Feed, Box<dyn EncoderControl>)> {
        let clip = CLIP.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let (large_sender, large) = mpsc::channel(MAX_QUEUED_PACKETS);
        let (small_sender, small) = mpsc::channel(MAX_QUEUED_PACKETS);
        let (audio_sender, audio) = mpsc::channel(MAX_QUEUED_PACKETS);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let senders = [large_sender, small_sender, audio_sender];
        let thread = std::thread::spawn(move || send_loop(clip, &senders, &stopped));
        let feed = Feed { video: vec![large, small], audio };
        Ok((Self { stop, thread: Some(thread) }, feed, Box::new(NoopEncoders)))
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panic = thread.join();
        }
    }
}

fn send_loop(clip: &[(usize, Packet)], senders: &[mpsc::Sender<Packet>], stopped: &AtomicBool) {
    let began = Instant::now();
    for round in 0.. {
        for (queue, packet) in clip {
            let pts = packet.pts + MediaTime::from_index(round * i64::from(CLIP_S), 1);
            let due = began + Duration::from_nanos(u64::try_from(pts.0).unwrap_or(0));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            // A full queue drops packets, because a room is live.
            let _sent = senders[*queue].try_send(Packet { pts, dts: pts, ..packet.clone() });
        }
    }
}
