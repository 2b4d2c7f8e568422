//! Encoders of room layers, fed tick by tick, and a decoder for their packets.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ffmpeg_the_third as ff;
use pagecast_core::spec::{Layer, RoomCodec, Size};
use pagecast_core::{Fps, Frame, Packet, Picture, Tick, Tiles};
use pagecast_media::encode::{EndTime, Error, KeyframeRequest, RateTarget, video};
use pagecast_testkit::media::GrayImage;
use pagecast_testkit::timecode::{Timecode, TimecodePosition};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{Receiver, channel};

/// Ticks per second.
pub(crate) const FPS: Fps = Fps::DEFAULT;
/// Size of the page.
pub(crate) const PAGE: (u32, u32) = (640, 360);
/// Longest wait, much longer than needed, for busy machines.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Room for all packets of a test.
const MAX_TEST_PACKETS: usize = 10_000;

/// A running encoder of one layer.
pub(crate) struct LayerEncoder {
    pub(crate) rate_target: RateTarget,
    pub(crate) keyframe_request: KeyframeRequest,
    pub(crate) stats: Arc<video::Stats>,
    packets: Receiver<Packet>,
    ticks: SyncSender<Tick>,
    thread: JoinHandle<Result<(), Error>>,
    next: i64,
}

/// The settings of layer `number`, of this size and bitrate.
pub(crate) fn config(
    number: usize,
    codec: RoomCodec,
    size: (u32, u32),
    bitrate_kbps: u32,
) -> Result<video::Config> {
    let layer = Layer { size: Size::new(size.0, size.1)?, fps: FPS, bitrate_kbps: Some(bitrate_kbps) };
    Ok(video::Config::for_layer(number, &layer, codec, Size::new(PAGE.0, PAGE.1)?, FPS))
}

impl LayerEncoder {
    /// One layer, of the page's size.
    pub(crate) fn start(codec: RoomCodec, bitrate_kbps: u32) -> Result<Self> {
        Self::with_capacity(codec, bitrate_kbps, MAX_TEST_PACKETS)
    }

    /// The same, with a packet queue of this capacity.
    pub(crate) fn with_capacity(codec: RoomCodec, bitrate_kbps: u32, capacity: usize) -> Result<Self> {
        let encoder = video::Encoder::open(config(0, codec, PAGE, bitrate_kbps)?)?;
        let (rate_target, keyframe_request, stats) =
            (encoder.rate_target(), encoder.keyframe_request(), encoder.stats());
        let (ticks, ticks_out) = sync_channel(0);
        let (sender, packets) = channel(capacity);
        let thread = encoder.spawn(ticks_out, EndTime::new(None), sender)?;
        Ok(Self { rate_target, keyframe_request, stats, packets, ticks, thread, next: 0 })
    }

    /// Feeds the next ticks; afterwards the encoder has processed all but the last one.
    pub(crate) fn feed(&mut self, count: i64, picture: impl Fn(i64) -> Option<Picture>) -> Result<()> {
        for index in self.next..self.next + count {
            self.ticks.send(tick(index, picture(index)))?;
        }
        self.next += count;
        Ok(())
    }

    /// Index of the next tick.
    pub(crate) fn next_tick(&self) -> i64 {
        self.next
    }

    /// Waits for the next packet.
    pub(crate) fn recv_packet(&mut self) -> Result<Packet> {
        let began = Instant::now();
        loop {
            match self.packets.try_recv() {
                Ok(packet) => return Ok(packet),
                Err(TryRecvError::Disconnected) => anyhow::bail!("the encoder has ended"),
                Err(TryRecvError::Empty) => ensure!(began.elapsed() < WAIT_TIMEOUT, "no packet"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes all packets that are queued now.
    pub(crate) fn drain_packets(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.packets.try_recv().ok()).collect()
    }

    /// Ends the encoder and returns the remaining packets.
    pub(crate) fn finish(mut self) -> Result<Vec<Packet>> {
        drop(self.ticks);
        ensure!(self.thread.join().is_ok_and(|r| r.is_ok()), "the encoder failed");
        Ok(std::iter::from_fn(|| self.packets.blocking_recv()).collect())
    }
}

/// Tick `index`; with a picture, all of it is damaged.
pub(crate) fn tick(index: i64, picture: Option<Picture>) -> Tick {
    let damage = |picture: &Picture| Tiles::all(picture.width(), picture.height());
    let frame = picture.map(|picture| Frame { damage: damage(&picture), picture: Arc::new(picture) });
    Tick { index, pts: FPS.time_of(index), frame }
}

/// An empty page with the index of its tick.
pub(crate) fn plain_picture(index: i64) -> Picture {
    draw_picture(index, |_, _| 255)
}

/// The same on a picture with much detail in which everything moves.
pub(crate) fn busy_picture(index: i64) -> Picture {
    let seed = u32::try_from(index).unwrap_or(0);
    draw_picture(index, |x, y| {
        let (x, y) = (x as u32 + 3 * seed, y as u32 + seed);
        let hash = (x / 4).wrapping_mul(0x9e37_79b1) ^ (y / 4).wrapping_mul(0x85eb_ca77);
        let still = (hash ^ hash >> 15).wrapping_mul(0x2c1b_3c6d) >> 25;
        let flicker = (x ^ y ^ seed.wrapping_mul(0x27d4_eb2f)).wrapping_mul(0x1656_67b1) >> 28;
        (64 + still + flicker) as u8
    })
}

/// The same on crossing waves with a little noise, much like a video.
pub(crate) fn wave_picture(index: i64) -> Picture {
    let time = index as f32 / 30.0;
    let wave = |count: u32, length: f32, phase: f32| -> Vec<(f32, f32)> {
        (0..count).map(|i| (i as f32 / length + phase).sin_cos()).collect()
    };
    let [right, across] = [wave(PAGE.0, 38.0, 1.9 * time), wave(PAGE.0, 24.0, time)];
    let [up, down] = [wave(PAGE.1, 23.0, -1.3 * time), wave(PAGE.1, 19.0, 2.3 * time)];
    draw_picture(index, |x, y| {
        // The sine of a sum of two angles is a diagonal wave.
        let slanted = across[x].0 * down[y].1 + across[x].1 * down[y].0;
        let noise = (x as u32 ^ (y as u32) << 3 ^ (index as u32) << 7).wrapping_mul(0x9e37_79b1) >> 29;
        (124.0 + 35.0 * (right[x].0 + up[y].0 + slanted)) as u8 + noise as u8
    })
}

fn draw_picture(index: i64, gray: impl Fn(usize, usize) -> u8) -> Picture {
    let (width, height) = (PAGE.0 as usize, PAGE.1 as usize);
    let mut page = GrayImage::new(width, height);
    for (i, value) in page.data.iter_mut().enumerate() {
        *value = gray(i % width, i / width);
    }
    let counter = u32::try_from(index).unwrap_or(0);
    Timecode { counter, page_time: 0, event_time: None, user_bits: 0 }
        .draw(&mut page, TimecodePosition::PAGE);
    let mut picture = Picture::new(PAGE.0, PAGE.1);
    for (pixel, value) in picture.bgrx_mut().chunks_exact_mut(4).zip(&page.data) {
        pixel.fill(*value);
    }
    picture
}

/// Indexes of the ticks that have a packet.
pub(crate) fn ticks(packets: &[Packet]) -> Vec<i64> {
    packets.iter().map(|packet| packet.pts.to_index(FPS.get())).collect()
}

/// Indexes of the keyframes.
pub(crate) fn keyframes(packets: &[Packet]) -> Vec<i64> {
    let keys = packets.iter().filter(|packet| packet.keyframe);
    keys.map(|packet| packet.pts.to_index(FPS.get())).collect()
}

/// Average bitrate of the ticks from `begin` up to `end`, in kbit/s.
pub(crate) fn kbps(packets: &[Packet], begin: i64, end: i64) -> i64 {
    let inside = packets.iter().filter(|packet| (begin..end).contains(&packet.pts.to_index(FPS.get())));
    let bits: usize = inside.map(|packet| 8 * packet.data.len()).sum();
    i64::try_from(bits).unwrap_or(i64::MAX) * i64::from(FPS.get()) / (end - begin) / 1000
}

/// A decoded picture.
pub(crate) struct DecodedPicture {
    /// Index of its tick.
    pub(crate) tick: i64,
    pub(crate) size: (u32, u32),
    /// Luma from 0 to 255.
    pub(crate) gray: GrayImage,
    /// Cb and Cr, row by row.
    #[allow(dead_code, reason = "only the test of colours reads it")]
    pub(crate) chroma: [Vec<u8>; 2],
    /// Y, U and V of the centre pixel.
    pub(crate) center_yuv: [u8; 3],
}

impl std::fmt::Debug for DecodedPicture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tick {}, {:?}, drawn at {:?}", self.tick, self.size, self.counter())
    }
}

impl DecodedPicture {
    /// The burnt-in tick index.
    pub(crate) fn counter(&self) -> Option<u32> {
        let cell = 8 * self.size.0 as usize / PAGE.0 as usize;
        Timecode::read(&self.gray, TimecodePosition { cell_size: cell, ..TimecodePosition::PAGE })
            .map(|strip| strip.counter)
    }

    /// Mean square error of a picture of the page's size.
    pub(crate) fn mean_square_error(&self, wanted: &Picture) -> u64 {
        let pixels = wanted.bgrx().iter().step_by(4).zip(&self.gray.data);
        pixels.map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum::<u64>() / self.gray.data.len() as u64
    }
}

/// Decodes packets. Fails if a packet cannot be decoded, or only with a delay.
pub(crate) fn decode(codec: RoomCodec, packets: &[Packet]) -> Result<Vec<DecodedPicture>> {
    let id = match codec {
        RoomCodec::H264 => ff::codec::Id::H264,
        RoomCodec::Vp8 => ff::codec::Id::VP8,
    };
    let decoder = ff::decoder::find(id).context("a decoder")?;
    let mut context = ff::codec::Context::new_with_codec(decoder);
    context.set_flags(ff::codec::Flags::LOW_DELAY);
    let mut decoder = context.decoder().video()?;
    let mut frame = ff::frame::Video::empty();
    packets
        .iter()
        .map(|packet| {
            let mut coded = ff::Packet::copy(&packet.data);
            let tick = packet.pts.to_index(FPS.get());
            coded.set_pts(Some(tick));
            decoder.send_packet(&coded)?;
            decoder.receive_frame(&mut frame).with_context(|| format!("no picture of tick {tick}"))?;
            ensure!(frame.pts() == Some(tick), "the picture is not that of tick {tick}");
            Ok(decoded_picture(tick, &frame))
        })
        .collect()
}

fn decoded_picture(tick: i64, frame: &ff::frame::Video) -> DecodedPicture {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let mut gray = GrayImage::new(width, height);
    for (row, to) in gray.data.chunks_exact_mut(width).enumerate() {
        for (to, y) in to.iter_mut().zip(&frame.data(0)[row * frame.stride(0)..]) {
            *to = ((f32::from(*y) - 16.0) * 255.0 / 219.0).round() as u8;
        }
    }
    let middle = [1, 2, 2]
        .iter()
        .enumerate()
        .map(|(plane, half)| frame.data(plane)[height / half / 2 * frame.stride(plane) + width / half / 2]);
    let middle: Vec<_> = middle.collect();
    let chroma = [1, 2].map(|plane| {
        let rows = frame.data(plane).chunks(frame.stride(plane)).take(height / 2);
        rows.flat_map(|row| &row[..width / 2]).copied().collect()
    });
    DecodedPicture {
        tick,
        size: (frame.width(), frame.height()),
        gray,
        chroma,
        center_yuv: [middle[0], middle[1], middle[2]],
    }
}
