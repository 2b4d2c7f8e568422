//! Encodes H.264 and VP8, on the thread `encode-video` for files and pushes, and on `encode-room-1` and
//! `encode-room-2` for rooms.
#![expect(unsafe_code, reason = "pictures of libavcodec are written to in place")]

mod backend;
mod budget;
mod h264;
mod vp8;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ff::codec::Parameters;
use ff::format::Pixel;
use ff::{ffi, frame};
use ffmpeg_the_third as ff;
use pagecast_core::spec::{Layer, RoomCodec, Size};
use pagecast_core::{Fps, Frame, MediaTime, Packet, Tick, Track};

use self::backend::{CodecBackend, EncodeParams};
use self::budget::BitBudget;
use self::h264::H264;
use self::vp8::Vp8;
use super::packet_sender::{KeyframeFilter, PacketSender, SendOutcome};
use super::rate::{RateLimit, RateTarget};
use super::{
    EndTime, Error, FrameDecision, FramePlanner, GopPolicy, KeyframeRequest, receive_packet, spawn_thread,
    tee,
};
use crate::convert::{Matrix, Planes, convert};
use crate::scale::Scaler;
use crate::split_points::SplitPoints;
use crate::thumbnail::ThumbnailCapture;

/// Least time from a keyframe to a requested one, in files and in rooms: bounds the cost of many requests.
const MIN_KEYFRAME_REQUEST_INTERVAL: Duration = Duration::from_secs(1);
const LIVE_MIN_KEYFRAME_REQUEST_INTERVAL: Duration = Duration::from_millis(500);
/// Lowest bitrate limit passed to an encoder, in bit/s: below, libx264 and libvpx reject or ignore it.
const MIN_BITRATE_BPS: u32 = 10_000;
/// Threads of a room's layers, the largest layer first.
const LAYER_THREAD_NAMES: [&str; 2] = ["encode-room-1", "encode-room-2"];

/// Settings of a video encoder.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Name of the encoder's thread.
    pub thread_name: &'static str,
    /// Codec and its variant.
    pub codec: Codec,
    /// Size of the ticks' pictures.
    pub source_size: Size,
    /// Size of the encoded picture, no larger than `source_size`.
    pub size: Size,
    /// Ticks per second; time stamps are multiples of the interval.
    pub fps: Fps,
    /// Initial frame rate limit; [`RateTarget`] changes it.
    pub max_fps: Fps,
    /// Initial bitrate limit in bit/s; [`RateTarget`] changes it. Still pictures stay far below.
    pub bitrate_bps: u32,
    /// When keyframes are encoded.
    pub gop: GopPolicy,
    /// False for audio-only casts: ticks are counted, and nothing is encoded.
    pub enabled: bool,
}

/// A video codec and its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// H.264 high profile with out-of-band parameter sets, for files and pushes.
    H264,
    /// H.264 constrained baseline with parameter sets before each keyframe and no lookahead, for rooms.
    H264Live,
    /// VP8, for rooms.
    Vp8,
}

impl Config {
    /// For files and pushes.
    #[must_use]
    pub fn for_files(size: Size, fps: Fps, bitrate_bps: u32, keyframe_interval: Duration) -> Self {
        Self {
            thread_name: "encode-video",
            codec: Codec::H264,
            source_size: size,
            size,
            fps,
            max_fps: fps,
            bitrate_bps,
            gop: GopPolicy {
                keyframe_interval: Some(keyframe_interval),
                min_request_interval: MIN_KEYFRAME_REQUEST_INTERVAL,
            },
            enabled: true,
        }
    }

    /// For layer `number` of a room, from 0. The picture fits into the layer's size with the page's
    /// proportions.
    #[must_use]
    pub fn for_layer(number: usize, layer: &Layer, codec: RoomCodec, source: Size, fps: Fps) -> Self {
        Self {
            thread_name: LAYER_THREAD_NAMES[number.min(LAYER_THREAD_NAMES.len() - 1)],
            codec: match codec {
                RoomCodec::H264 => Codec::H264Live,
                RoomCodec::Vp8 => Codec::Vp8,
            },
            source_size: source,
            size: source.fit_within(layer.size),
            fps,
            max_fps: layer.fps,
            bitrate_bps: layer.bitrate_bps(),
            gop: GopPolicy {
                keyframe_interval: None,
                min_request_interval: LIVE_MIN_KEYFRAME_REQUEST_INTERVAL,
            },
            enabled: true,
        }
    }
}

impl Codec {
    /// Name in error messages.
    const fn display_name(self) -> &'static str {
        match self {
            Self::H264 | Self::H264Live => "H.264 (libx264)",
            Self::Vp8 => "VP8 (libvpx)",
        }
    }

    /// Whether the variant is for rooms.
    fn is_live(self) -> bool {
        self != Self::H264
    }

    fn matrix(self) -> Matrix {
        match self {
            Self::H264 | Self::H264Live => Matrix::Bt709,
            Self::Vp8 => Matrix::Bt601,
        }
    }
}

/// Counters of a running encoder.
#[derive(Debug, Default)]
pub struct Stats {
    encoded: AtomicU64,
    unchanged: AtomicU64,
    missed: AtomicU64,
    lost: AtomicU64,
    bytes: AtomicU64,
    ticks: AtomicU64,
    first_frame_at: OnceLock<Instant>,
}

impl Stats {
    /// Frames encoded, refinements and heartbeats included.
    #[must_use]
    pub fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }

    /// Ticks without a change.
    #[must_use]
    pub fn unchanged(&self) -> u64 {
        self.unchanged.load(Ordering::Relaxed)
    }

    /// Ticks that were dropped because the encoder was too slow.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Packets dropped because the receiver's queue was full, and those that depend on them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ticks processed, which is the position of the cast.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// When the first frame arrived.
    #[must_use]
    pub fn first_frame_at(&self) -> Option<Instant> {
        self.first_frame_at.get().copied()
    }
}

/// An open video encoder.
pub struct Encoder {
    backend: Box<dyn CodecBackend>,
    parameters: Parameters,
    picture: frame::Video,
    /// The page's picture, if it is larger than the encoded one, and its scaler.
    source_picture: Option<(frame::Video, Scaler)>,
    /// Damage since the last encoded picture.
    pending_frame: Option<Frame>,
    config: Config,
    planner: FramePlanner,
    keyframe_request: KeyframeRequest,
    rate_target: RateTarget,
    rate_limit: RateLimit,
    bit_budget: BitBudget,
    keyframe_filter: KeyframeFilter,
    stats: Arc<Stats>,
    thumbnails: Option<ThumbnailCapture>,
    /// Whether the receiver of packets is gone.
    output_closed: bool,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Opens the encoder.
    ///
    /// # Errors
    /// [`Error::EncoderNotFound`] or [`Error::Open`].
    pub fn open(config: Config) -> Result<Self, Error> {
        let rate = RateTarget::new(config.bitrate_bps, config.max_fps);
        let config = Config { bitrate_bps: config.bitrate_bps.max(MIN_BITRATE_BPS), ..config };
        let mut backend: Box<dyn CodecBackend> = match config.codec {
            Codec::H264 | Codec::H264Live => Box::new(H264::open(&config)?),
            Codec::Vp8 => Box::new(Vp8::open(&config)?),
        };
        let sides = |size: Size| (size.width(), size.height());
        let empty = |size: Size| frame::Video::new(Pixel::YUV420P, size.width(), size.height());
        let scaler = || Scaler::new(sides(config.source_size), sides(config.size));
        let mut planner = FramePlanner::new(config.fps, config.gop);
        planner.limit_fps(config.max_fps.get());
        Ok(Self {
            parameters: Parameters::from(&*backend.encoder()),
            backend,
            picture: empty(config.size),
            source_picture: (config.source_size != config.size)
                .then(|| (empty(config.source_size), scaler())),
            pending_frame: None,
            config,
            planner,
            keyframe_request: KeyframeRequest::default(),
            rate_limit: rate.get(),
            bit_budget: BitBudget::new(config.bitrate_bps, config.fps.get()),
            rate_target: rate,
            keyframe_filter: KeyframeFilter::default(),
            stats: Arc::default(),
            thumbnails: None,
            output_closed: false,
        })
    }

    /// Ticks per second.
    #[must_use]
    pub fn fps(&self) -> Fps {
        self.config.fps
    }

    /// Size of the encoded picture.
    #[must_use]
    pub fn size(&self) -> Size {
        self.config.size
    }

    /// Takes thumbnails while encoding.
    pub fn capture_thumbnails(&mut self, thumbnails: ThumbnailCapture) {
        self.thumbnails = Some(thumbnails);
    }

    /// Forces a keyframe at each split point of the recording: at every multiple of `length`, rounded to a
    /// tick. The first tick is at `begins_at` in the recording.
    pub fn force_keyframes_at_splits(&mut self, length: Duration, begins_at: MediaTime) {
        self.planner.set_split_points(SplitPoints::new(length, self.config.fps.interval().into()), begins_at);
    }

    /// Codec parameters for muxers.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.parameters.clone()
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// A handle that requests keyframes.
    #[must_use]
    pub fn keyframe_request(&self) -> KeyframeRequest {
        self.keyframe_request.clone()
    }

    /// A handle that sets the bitrate and frame rate limits.
    #[must_use]
    pub fn rate_target(&self) -> RateTarget {
        self.rate_target.clone()
    }

    /// Encodes ticks until `end`, or until the input or output is closed.
    ///
    /// # Errors
    /// [`Error::Thread`]; the thread itself ends with [`Error::Encode`].
    pub fn spawn(
        mut self,
        ticks: Receiver<Tick>,
        end: EndTime,
        mut out: impl PacketSender,
    ) -> Result<JoinHandle<Result<(), Error>>, Error> {
        spawn_thread(self.config.thread_name, move || self.run(&ticks, &end, &mut out))
    }

    fn run(
        &mut self,
        ticks: &Receiver<Tick>,
        end: &EndTime,
        out: &mut dyn PacketSender,
    ) -> Result<(), Error> {
        let mut next = 0;
        while let Ok(tick) = ticks.recv() {
            if tick.pts >= end.get() {
                // Dropped ticks before the end showed the current picture.
                if next > 0 {
                    self.count_missed(&mut next, self.config.fps.index_at(end.get() - MediaTime(1)) + 1);
                }
                break;
            }
            self.stats.first_frame_at.get_or_init(Instant::now);
            self.count_missed(&mut next, tick.index);
            self.process_tick(tick, out)?;
            next += 1;
            self.stats.ticks.store(u64::try_from(next).unwrap_or(0), Ordering::Relaxed);
            if self.output_closed || self.config.fps.time_of(next) >= end.get() {
                break;
            }
        }
        // Closes the thumbnail queue, so that its thread ends.
        self.thumbnails = None;
        if next > 0 && self.config.enabled && self.rate_limit.bitrate_bps > 0 {
            let decision = self.planner.decide_last(next - 1);
            self.apply_decision(decision, next - 1, out)?;
        }
        self.backend.encoder().send_eof().map_err(|e| Error::Encode(self.config.codec.display_name(), e))?;
        self.drain_packets(out)
    }

    /// Counts the ticks from `next` up to `to` as missed.
    fn count_missed(&self, next: &mut i64, to: i64) {
        let missed = u64::try_from(to - *next).unwrap_or(0);
        self.stats.missed.fetch_add(missed, Ordering::Relaxed);
        *next = to.max(*next);
        self.stats.ticks.store(u64::try_from(*next).unwrap_or(0), Ordering::Relaxed);
    }

    fn process_tick(&mut self, tick: Tick, out: &mut dyn PacketSender) -> Result<(), Error> {
        if !self.config.enabled {
            return Ok(());
        }
        let changed = tick.frame.is_some();
        self.pending_frame = tee::merge_frames(self.pending_frame.take(), tick.frame);
        if !changed {
            self.stats.unchanged.fetch_add(1, Ordering::Relaxed);
        }
        if self.thumbnails.is_some() {
            self.update_picture()?;
        }
        if let Some(thumbnails) = &mut self.thumbnails {
            thumbnails.offer(tick.index, &self.picture, self.config.codec.matrix());
        }
        self.apply_rate_limit();
        if self.rate_limit.bitrate_bps == 0 {
            return Ok(());
        }
        if self.keyframe_request.take() {
            self.planner.request_keyframe();
        }
        self.bit_budget.refill(tick.index);
        self.planner.set_keyframes_only(self.config.codec.is_live() && self.bit_budget.is_in_debt());
        let decision = self.planner.decide(tick.index, changed);
        self.apply_decision(decision, tick.index, out)
    }

    /// Applies changed limits.
    fn apply_rate_limit(&mut self) {
        let before = std::mem::replace(&mut self.rate_limit, self.rate_target.get());
        if before == self.rate_limit || self.rate_limit.bitrate_bps == 0 {
            return;
        }
        if before.bitrate_bps == 0 {
            self.planner.restart();
        }
        self.planner.limit_fps(self.rate_limit.fps);
        let bps = self.rate_limit.bitrate_bps.max(MIN_BITRATE_BPS);
        self.bit_budget.set_bitrate(bps);
        self.backend.set_max_bitrate(bps);
    }

    fn apply_decision(
        &mut self,
        decision: FrameDecision,
        index: i64,
        out: &mut dyn PacketSender,
    ) -> Result<(), Error> {
        let FrameDecision::Encode { keyframe, refinement } = decision else { return Ok(()) };
        let unchanged = self.pending_frame.is_none();
        self.update_picture()?;
        let params = EncodeParams { index, keyframe, refinement, unchanged };
        self.backend.send_frame(&mut self.picture, params, &self.bit_budget)?;
        self.stats.encoded.fetch_add(1, Ordering::Relaxed);
        self.drain_packets(out)
    }

    /// Draws the pending damage into the picture.
    fn update_picture(&mut self) -> Result<(), Error> {
        let Some(Frame { picture, damage }) = self.pending_frame.take() else { return Ok(()) };
        let codec = self.config.codec;
        let Some((large, scaler)) = &mut self.source_picture else {
            convert(&picture, &damage, codec.matrix(), &mut planes_mut(&mut self.picture, codec)?);
            return Ok(());
        };
        let mut source = planes_mut(large, codec)?;
        convert(&picture, &damage, codec.matrix(), &mut source);
        // Releases the buffer, so that the display can reuse it.
        drop(picture);
        scaler.scale(&source, &damage, &mut planes_mut(&mut self.picture, codec)?);
        Ok(())
    }

    fn drain_packets(&mut self, out: &mut dyn PacketSender) -> Result<(), Error> {
        let fps = self.config.fps;
        while let Some(packet) = receive_packet(self.backend.encoder(), self.config.codec.display_name())? {
            let data: Arc<[u8]> = packet.data().unwrap_or_default().into();
            let bytes = data.len() as u64;
            self.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
            let cost = self.bit_budget.spend(8 * bytes);
            if self.config.codec.is_live() {
                self.planner.on_frame_cost(cost);
            }
            self.backend.on_encoded_bits(8 * bytes);
            let (at, duration) = (fps.time_of(self.backend.tick_of(&packet)), fps.interval().into());
            let keyframe = packet.is_key();
            let packet = Packet { track: Track::Video, data, pts: at, dts: at, duration, keyframe };
            match self.keyframe_filter.send(packet, out) {
                SendOutcome::Sent => {}
                SendOutcome::Lost => {
                    self.stats.lost.fetch_add(1, Ordering::Relaxed);
                    self.planner.request_keyframe();
                }
                SendOutcome::Closed => self.output_closed = true,
            }
        }
        Ok(())
    }
}

/// The three planes of a picture, for writing.
fn planes_mut(picture: &mut frame::Video, codec: Codec) -> Result<Planes<'_>, Error> {
    let rows = [picture.height(), picture.height() / 2, picture.height() / 2].map(|r| r as usize);
    // SAFETY: the picture is alive and ours.
    let result = unsafe { ffi::av_frame_make_writable(picture.as_mut_ptr()) };
    if result < 0 {
        return Err(Error::Encode(codec.display_name(), result.into()));
    }
    let stride = [0, 1, 2].map(|plane| picture.stride(plane));
    // SAFETY: the picture owns three separate planes of `stride * rows` bytes. If the encoder still held a
    // reference from the last frame, `av_frame_make_writable` has copied them.
    unsafe {
        let data = (*picture.as_mut_ptr()).data;
        let plane = |p: usize| std::slice::from_raw_parts_mut(data[p], stride[p] * rows[p]);
        Ok(Planes { data: [plane(0), plane(1), plane(2)], stride })
    }
}
