//! What a cast would send: the same few seconds again and again, on the clock.

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
/// How long it lasts before it begins again, in seconds.
const CLIP_S: u32 = 4;
/// Packets that wait for the room.
const MAX_QUEUED_PACKETS: usize = 64;

/// Packets in the order in which they are due, each with where it goes: a layer, or the sound behind them.
static CLIP: LazyLock<Result<Vec<(usize, Packet)>>> = LazyLock::new(|| {
    let mut packets = Vec::new();
    for (layer, (width, height)) in SIZES.into_iter().enumerate() {
        let pictures = encoded_media::h264_access_units(width, height, FPS, CLIP_S)?;
        packets.extend((0..).zip(pictures).map(|(index, picture)| {
            let at = MediaTime::from_index(index, FPS);
            (layer, packet(Track::Video, &picture.data, at, picture.keyframe))
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

/// Sends until it is dropped.
pub(crate) struct Feeder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Nothing is encoded, so nothing can be changed: a keyframe comes with each second.
struct NoopEncoders;

impl EncoderControl for NoopEncoders {
    fn request_keyframe(&self, _layer: usize) {}
    fn set_target(&self, _layer: usize, _target: LayerTarget) {}
}

impl Feeder {
    /// Begins to send; the other ends are for the publisher.
    pub(crate) fn start() -> Result<(Self, Feed, Box<dyn EncoderControl>)> {
        let clip = CLIP.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let (large, large_end) = mpsc::channel(MAX_QUEUED_PACKETS);
        let (small, small_end) = mpsc::channel(MAX_QUEUED_PACKETS);
        let (sound, audio) = mpsc::channel(MAX_QUEUED_PACKETS);
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = std::thread::spawn(move || send_loop(clip, &[large, small, sound], &stop));
        let feed = Feed { video: vec![large_end, small_end], audio };
        Ok((Self { stop: over, thread: Some(thread) }, feed, Box::new(NoopEncoders)))
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _a_panic_was_shown = thread.join();
        }
    }
}

fn send_loop(clip: &[(usize, Packet)], to: &[mpsc::Sender<Packet>], over: &AtomicBool) {
    let began = Instant::now();
    for round in 0.. {
        for (which, packet) in clip {
            let pts = packet.pts + MediaTime::from_index(round * i64::from(CLIP_S), 1);
            let due = began + Duration::from_nanos(u64::try_from(pts.0).unwrap_or(0));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if over.load(Ordering::Relaxed) {
                return;
            }
            // Full, or nobody is there: a room is live, so what does not fit is gone.
            let _sent = to[*which].try_send(Packet { pts, dts: pts, ..packet.clone() });
        }
    }
}
