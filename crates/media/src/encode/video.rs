//! H.264 and VP8, on the thread `encode-video` for files and pushes, and `encode-room-1` and `encode-room-2`
//! for rooms.
#![expect(unsafe_code, reason = "pictures of libavcodec are written to in place")]

mod coder;
mod h264;
mod purse;
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

use self::coder::{Coder, Shot};
use self::h264::H264;
use self::purse::Purse;
use self::vp8::Vp8;
use super::out::{Chain, Out, Took};
use super::rate::{Budget, Rate};
use super::{Choice, End, Error, Keyframes, Keying, Plan, receive, spawn, split};
use crate::convert::{Matrix, Planes, convert};
use crate::cuts::Cuts;
use crate::scale::Scaler;
use crate::thumbnail::Thumbnails;

/// Least time from a keyframe to one that is asked for, in files and in rooms.
const REQUEST_GAP: Duration = Duration::from_secs(1);
const LIVE_REQUEST_GAP: Duration = Duration::from_millis(500);
/// Least cap on the bitrate that an encoder is told, in bit/s.
const LEAST_BPS: u32 = 10_000;
/// Threads of a room's layers, the larger one first.
const LAYER_THREADS: [&str; 2] = ["encode-room-1", "encode-room-2"];

/// What to encode to.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Name of its thread.
    pub thread: &'static str,
    /// How the picture is encoded.
    pub codec: Codec,
    /// Size of the ticks' pictures.
    pub source: Size,
    /// Size of the encoded picture, no larger than that.
    pub size: Size,
    /// Ticks per second; time stamps are multiples of its interval.
    pub fps: Fps,
    /// Most frames per second, until [`Rate`] says otherwise.
    pub max_fps: Fps,
    /// Cap on the bitrate in bit/s, until [`Rate`] says otherwise; still pictures stay far below.
    pub bitrate_bps: u32,
    /// When there are keyframes.
    pub keying: Keying,
    /// False where only sound is wanted: ticks are counted, and nothing is encoded.
    pub encodes: bool,
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
    pub fn files(size: Size, fps: Fps, bitrate_bps: u32, keyframe_interval: Duration) -> Self {
        Self {
            thread: "encode-video",
            codec: Codec::H264,
            source: size,
            size,
            fps,
            max_fps: fps,
            bitrate_bps,
            keying: Keying { interval: Some(keyframe_interval), request_gap: REQUEST_GAP },
            encodes: true,
        }
    }

    /// For a layer of a room, counted from 0. Of its size, what has the page's proportions is used.
    #[must_use]
    pub fn layer(number: usize, layer: &Layer, codec: RoomCodec, source: Size, fps: Fps) -> Self {
        Self {
            thread: LAYER_THREADS[number.min(LAYER_THREADS.len() - 1)],
            codec: match codec {
                RoomCodec::H264 => Codec::H264Live,
                RoomCodec::Vp8 => Codec::Vp8,
            },
            source,
            size: source.within(layer.size),
            fps,
            max_fps: layer.fps,
            bitrate_bps: layer.bitrate_bps(),
            keying: Keying { interval: None, request_gap: LIVE_REQUEST_GAP },
            encodes: true,
        }
    }
}

impl Codec {
    /// As errors call it.
    const fn name(self) -> &'static str {
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
    first_at: OnceLock<Instant>,
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
    pub fn first_at(&self) -> Option<Instant> {
        self.first_at.get().copied()
    }
}

/// An open encoder.
pub struct Encoder {
    coder: Box<dyn Coder>,
    parameters: Parameters,
    picture: frame::Video,
    /// The page's picture, where it is larger than the encoded one.
    large: Option<(frame::Video, Scaler)>,
    /// What changed since the last encoded picture.
    owed: Option<Frame>,
    config: Config,
    plan: Plan,
    keyframes: Keyframes,
    rate: Rate,
    budget: Budget,
    purse: Purse,
    chain: Chain,
    stats: Arc<Stats>,
    thumbnails: Option<Thumbnails>,
    /// Nobody takes packets any more.
    unwanted: bool,
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
    /// [`Error::Missing`] or [`Error::Open`].
    pub fn open(config: Config) -> Result<Self, Error> {
        let rate = Rate::new(config.bitrate_bps, config.max_fps);
        let config = Config { bitrate_bps: config.bitrate_bps.max(LEAST_BPS), ..config };
        let mut coder: Box<dyn Coder> = match config.codec {
            Codec::H264 | Codec::H264Live => Box::new(H264::open(&config)?),
            Codec::Vp8 => Box::new(Vp8::open(&config)?),
        };
        let sides = |size: Size| (size.width(), size.height());
        let empty = |size: Size| frame::Video::new(Pixel::YUV420P, size.width(), size.height());
        let scaler = || Scaler::new(sides(config.source), sides(config.size));
        let mut plan = Plan::new(config.fps, config.keying);
        plan.limit_fps(config.max_fps.get());
        Ok(Self {
            parameters: Parameters::from(&*coder.inner()),
            coder,
            picture: empty(config.size),
            large: (config.source != config.size).then(|| (empty(config.source), scaler())),
            owed: None,
            config,
            plan,
            keyframes: Keyframes::default(),
            budget: rate.get(),
            purse: Purse::new(config.bitrate_bps, config.fps.get()),
            rate,
            chain: Chain::default(),
            stats: Arc::default(),
            thumbnails: None,
            unwanted: false,
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
    pub fn take_pictures(&mut self, thumbnails: Thumbnails) {
        self.thumbnails = Some(thumbnails);
    }

    /// Puts a keyframe where a file of the recording ends: at every multiple of `length`, to a tick. The
    /// first tick is at `begins_at` in the recording.
    pub fn end_files_every(&mut self, length: Duration, begins_at: MediaTime) {
        self.plan.cut(Cuts::new(length, self.config.fps.interval().into()), begins_at);
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
    pub fn keyframes(&self) -> Keyframes {
        self.keyframes.clone()
    }

    /// Where it is told what it may spend.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate.clone()
    }

    /// Encodes ticks until `end`, or until nobody sends or takes any more.
    ///
    /// # Errors
    /// [`Error::Thread`]; the thread itself ends with [`Error::Encode`].
    pub fn spawn(
        mut self,
        ticks: Receiver<Tick>,
        end: End,
        mut out: impl Out,
    ) -> Result<JoinHandle<Result<(), Error>>, Error> {
        spawn(self.config.thread, move || self.run(&ticks, &end, &mut out))
    }

    fn run(&mut self, ticks: &Receiver<Tick>, end: &End, out: &mut dyn Out) -> Result<(), Error> {
        let mut next = 0;
        while let Ok(tick) = ticks.recv() {
            if tick.pts >= end.get() {
                // Ticks before the end that never arrived showed the picture that is there.
                if next > 0 {
                    self.reach(&mut next, self.config.fps.index_at(end.get() - MediaTime(1)) + 1);
                }
                break;
            }
            self.stats.first_at.get_or_init(Instant::now);
            self.reach(&mut next, tick.index);
            self.take(tick, out)?;
            next += 1;
            self.stats.ticks.store(u64::try_from(next).unwrap_or(0), Ordering::Relaxed);
            if self.unwanted || self.config.fps.time_of(next) >= end.get() {
                break;
            }
        }
        // Nobody waits for pictures any more.
        self.thumbnails = None;
        if next > 0 && self.config.encodes && self.budget.bitrate_bps > 0 {
            let choice = self.plan.finish(next - 1);
            self.carry_out(choice, next - 1, out)?;
        }
        self.coder.inner().send_eof().map_err(|e| Error::Encode(self.config.codec.name(), e))?;
        self.drain(out)
    }

    /// Counts the ticks from `next` up to `to` as missed.
    fn reach(&self, next: &mut i64, to: i64) {
        let missed = u64::try_from(to - *next).unwrap_or(0);
        self.stats.missed.fetch_add(missed, Ordering::Relaxed);
        *next = to.max(*next);
        self.stats.ticks.store(u64::try_from(*next).unwrap_or(0), Ordering::Relaxed);
    }

    fn take(&mut self, tick: Tick, out: &mut dyn Out) -> Result<(), Error> {
        if !self.config.encodes {
            return Ok(());
        }
        let changed = tick.frame.is_some();
        self.owed = split::merge(self.owed.take(), tick.frame);
        if !changed {
            self.stats.unchanged.fetch_add(1, Ordering::Relaxed);
        }
        if self.thumbnails.is_some() {
            self.draw()?;
        }
        if let Some(thumbnails) = &mut self.thumbnails {
            thumbnails.offer(tick.index, &self.picture, self.config.codec.matrix());
        }
        self.obey();
        if self.budget.bitrate_bps == 0 {
            return Ok(());
        }
        if self.keyframes.take() {
            self.plan.request_keyframe();
        }
        self.purse.earn(tick.index);
        self.plan.hold(self.config.codec.is_live() && self.purse.is_in_debt());
        let choice = self.plan.tick(tick.index, changed);
        self.carry_out(choice, tick.index, out)
    }

    /// Takes over what may be spent.
    fn obey(&mut self) {
        let before = std::mem::replace(&mut self.budget, self.rate.get());
        if before == self.budget || self.budget.bitrate_bps == 0 {
            return;
        }
        if before.bitrate_bps == 0 {
            self.plan.restart();
        }
        self.plan.limit_fps(self.budget.fps);
        let bps = self.budget.bitrate_bps.max(LEAST_BPS);
        self.purse.set_cap(bps);
        self.coder.cap(bps);
    }

    fn carry_out(&mut self, choice: Choice, index: i64, out: &mut dyn Out) -> Result<(), Error> {
        let Choice::Encode { keyframe, refinement } = choice else { return Ok(()) };
        let rests = self.owed.is_none();
        self.draw()?;
        let shot = Shot { index, keyframe, refinement, rests };
        self.coder.send(&mut self.picture, shot, &self.purse)?;
        self.stats.encoded.fetch_add(1, Ordering::Relaxed);
        self.drain(out)
    }

    /// Brings the picture up to date.
    fn draw(&mut self) -> Result<(), Error> {
        let Some(Frame { picture, damage }) = self.owed.take() else { return Ok(()) };
        let codec = self.config.codec;
        let Some((large, scaler)) = &mut self.large else {
            convert(&picture, &damage, codec.matrix(), &mut planes_of(&mut self.picture, codec)?);
            return Ok(());
        };
        let mut source = planes_of(large, codec)?;
        convert(&picture, &damage, codec.matrix(), &mut source);
        // It is free for the page to draw on again.
        drop(picture);
        scaler.scale(&source, &damage, &mut planes_of(&mut self.picture, codec)?);
        Ok(())
    }

    fn drain(&mut self, out: &mut dyn Out) -> Result<(), Error> {
        let fps = self.config.fps;
        while let Some(packet) = receive(self.coder.inner(), self.config.codec.name())? {
            let data: Arc<[u8]> = packet.data().unwrap_or_default().into();
            let bytes = data.len() as u64;
            self.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
            let weight = self.purse.spend(8 * bytes);
            if self.config.codec.is_live() {
                self.plan.judge(weight);
            }
            self.coder.spent(8 * bytes);
            let (at, duration) = (fps.time_of(self.coder.index_of(&packet)), fps.interval().into());
            let keyframe = packet.is_key();
            let packet = Packet { track: Track::Video, data, pts: at, dts: at, duration, keyframe };
            match self.chain.pass(packet, out) {
                Took::Yes => {}
                Took::Lost => {
                    self.stats.lost.fetch_add(1, Ordering::Relaxed);
                    self.plan.request_keyframe();
                }
                Took::Over => self.unwanted = true,
            }
        }
        Ok(())
    }
}

/// The three planes of a picture that nobody else looks at.
fn planes_of(picture: &mut frame::Video, codec: Codec) -> Result<Planes<'_>, Error> {
    let rows = [picture.height(), picture.height() / 2, picture.height() / 2].map(|r| r as usize);
    // SAFETY: the picture is alive and ours.
    let made = unsafe { ffi::av_frame_make_writable(picture.as_mut_ptr()) };
    if made < 0 {
        return Err(Error::Encode(codec.name(), made.into()));
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
