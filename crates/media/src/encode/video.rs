//! H.264 and VP8, on the thread `encode-video` for files and pushes, and `encode-room-1` and `encode-room-2`
//! for rooms.
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

/// Least time from a keyframe to one that is asked for, in files and in rooms.
const MIN_KEYFRAME_REQUEST_INTERVAL: Duration = Duration::from_secs(1);
const LIVE_MIN_KEYFRAME_REQUEST_INTERVAL: Duration = Duration::from_millis(500);
/// Least cap on the bitrate that an encoder is told, in bit/s.
const MIN_BITRATE_BPS: u32 = 10_000;
/// Threads of a room's layers, the larger one first.
const LAYER_THREAD_NAMES: [&str; 2] = ["encode-room-1", "encode-room-2"];

/// What to encode to.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Name of its thread.
    pub thread_name: &'static str,
    /// How the picture is encoded.
    pub codec: Codec,
    /// Size of the ticks' pictures.
    pub source_size: Size,
    /// Size of the encoded picture, no larger than that.
    pub size: Size,
    /// Ticks per second; time stamps are multiples of its interval.
    pub fps: Fps,
    /// Most frames per second, until [`RateTarget`] says otherwise.
    pub max_fps: Fps,
    /// Cap on the bitrate in bit/s, until [`RateTarget`] says otherwise; still pictures stay far below.
    pub bitrate_bps: u32,
    /// When there are keyframes.
    pub gop: GopPolicy,
    /// False where only sound is wanted: ticks are counted, and nothing is encoded.
    pub enabled: bool,
}

/// How a picture is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// H.264, high profile, parameter sets apart: for files and pushes.
    H264,
    /// H.264, constrained baseline, parameter sets in front of each keyframe, nothing held back: for rooms.
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

    /// For a layer of a room, counted from 0. Of its size, what has the page's proportions is used.
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
    /// As errors call it.
    const fn display_name(self) -> &'static str {
        match self {
            Self::H264 | Self::H264Live => "H.264 (libx264)",
            Self::Vp8 => "VP8 (libvpx)",
        }
    }

    /// Whether it is for rooms.
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

/// Counted while the encoder runs.
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

    /// Ticks that brought no change.
    #[must_use]
    pub fn unchanged(&self) -> u64 {
        self.unchanged.load(Ordering::Relaxed)
    }

    /// Ticks that never arrived, because the encoder was too slow.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Packets that found no room with their taker, and those that cannot be decoded without them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Bytes of all packets.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ticks dealt with: how far the cast has come.
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

/// An open encoder.
pub struct Encoder {
    backend: Box<dyn CodecBackend>,
    parameters: Parameters,
    picture: frame::Video,
    /// The page's picture, where it is larger than the encoded one.
    source_picture: Option<(frame::Video, Scaler)>,
    /// What changed since the last encoded picture.
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
    /// Nobody takes packets any more.
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
    /// [`ErrorBody::Missing`] or [`ErrorBody::OpenNotLoopback`].
    pub fn open(config: Config) -> Result<Self, Error> {
        let rate = RateTarget::new(config.bitrate_bps, config.max_fps);
        let config = Config { bitrate_bps: config.bitrate_bps.max(MIN_BITRATE_BPS), ..config };
        let mut coder: Box<dyn CodecBackend> = match config.codec {
            Codec::H264 | Codec::H264Live => Box::new(H264::open(&config)?),
            Codec::Vp8 => Box::new(Vp8::open(&config)?),
        };
        let sides = |size: Size| (size.width(), size.height());
        let empty = |size: Size| frame::Video::new(Pixel::YUV420P, size.width(), size.height());
        let scaler = || Scaler::new(sides(config.source_size), sides(config.size));
        let mut plan = FramePlanner::new(config.fps, config.gop);
        plan.limit_fps(config.max_fps.get());
        Ok(Self {
            parameters: Parameters::from(&*coder.encoder()),
            backend: coder,
            picture: empty(config.size),
            source_picture: (config.source_size != config.size)
                .then(|| (empty(config.source_size), scaler())),
            pending_frame: None,
            config,
            planner: plan,
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

    /// Its ticks per second.
    #[must_use]
    pub fn fps(&self) -> Fps {
        self.config.fps
    }

    /// Size of the encoded picture.
    #[must_use]
    pub fn size(&self) -> Size {
        self.config.size
    }

    /// Has pictures taken meanwhile.
    pub fn capture_thumbnails(&mut self, thumbnails: ThumbnailCapture) {
        self.thumbnails = Some(thumbnails);
    }

    /// Puts a keyframe where a file of the recording ends: at every multiple of `length`, to a tick. The
    /// first tick is at `begins_at` in the recording.
    pub fn force_keyframes_at_splits(&mut self, length: Duration, begins_at: MediaTime) {
        self.planner.set_split_points(SplitPoints::new(length, self.config.fps.interval().into()), begins_at);
    }

    /// What a muxer must know.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        self.parameters.clone()
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Where keyframes can be asked for.
    #[must_use]
    pub fn keyframe_request(&self) -> KeyframeRequest {
        self.keyframe_request.clone()
    }

    /// Where it is told what it may spend.
    #[must_use]
    pub fn rate_target(&self) -> RateTarget {
        self.rate_target.clone()
    }

    /// Encodes ticks until `end`, or until nobody sends or takes any more.
    ///
    /// # Errors
    /// [`ErrorBody::NamedThread`]; the thread itself ends with [`ErrorBody::Encode`].
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
                // Ticks before the end that never arrived showed the picture that is there.
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
        // Nobody waits for pictures any more.
        self.thumbnails = None;
        if next > 0 && self.config.enabled && self.rate_limit.bitrate_bps > 0 {
            let choice = self.planner.decide_last(next - 1);
            self.apply_decision(choice, next - 1, out)?;
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
        let choice = self.planner.decide(tick.index, changed);
        self.apply_decision(choice, tick.index, out)
    }

    /// Takes over what may be spent.
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
        choice: FrameDecision,
        index: i64,
        out: &mut dyn PacketSender,
    ) -> Result<(), Error> {
        let FrameDecision::Encode { keyframe, refinement } = choice else { return Ok(()) };
        let rests = self.pending_frame.is_none();
        self.update_picture()?;
        let shot = EncodeParams { index, keyframe, refinement, unchanged: rests };
        self.backend.send_frame(&mut self.picture, shot, &self.bit_budget)?;
        self.stats.encoded.fetch_add(1, Ordering::Relaxed);
        self.drain_packets(out)
    }

    /// Brings the picture up to date.
    fn update_picture(&mut self) -> Result<(), Error> {
        let Some(Frame { picture, damage }) = self.pending_frame.take() else { return Ok(()) };
        let codec = self.config.codec;
        let Some((large, scaler)) = &mut self.source_picture else {
            convert(&picture, &damage, codec.matrix(), &mut planes_mut(&mut self.picture, codec)?);
            return Ok(());
        };
        let mut source = planes_mut(large, codec)?;
        convert(&picture, &damage, codec.matrix(), &mut source);
        // It is free for the page to draw on again.
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
            let weight = self.bit_budget.spend(8 * bytes);
            if self.config.codec.is_live() {
                self.planner.on_frame_cost(weight);
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

/// The three planes of a picture that nobody else looks at.
fn planes_mut(picture: &mut frame::Video, codec: Codec) -> Result<Planes<'_>, Error> {
    let rows = [picture.height(), picture.height() / 2, picture.height() / 2].map(|r| r as usize);
    // SAFETY: the picture is alive and ours.
    let made = unsafe { ffi::av_frame_make_writable(picture.as_mut_ptr()) };
    if made < 0 {
        return Err(Error::Encode(codec.display_name(), made.into()));
    }
    let stride = [0, 1, 2].map(|plane| picture.stride(plane));
    // SAFETY: the picture owns three separate planes of `stride * rows` bytes. The encoder may still have
    // held a reference to them from the last frame; the picture then has a copy of its own by now.
    unsafe {
        let data = (*picture.as_mut_ptr()).data;
        let plane = |p: usize| std::slice::from_raw_parts_mut(data[p], stride[p] * rows[p]);
        Ok(Planes { data: [plane(0), plane(1), plane(2)], stride })
    }
}
