//! H.264 by libx264, on the thread `encode-video`.
#![expect(unsafe_code, reason = "settings of libavcodec that its bindings do not wrap")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ff::codec::Parameters;
use ff::format::Pixel;
use ff::{ffi, frame};
use ffmpeg_the_third as ff;
use pagecast_core::spec::Size;
use pagecast_core::{Fps, MediaTime, Packet, Tick, Track};

use super::{Choice, End, Error, Keyframes, Plan, drain, spawn};
use crate::convert::{Planes, convert};
use crate::thumbnail::Thumbnails;

const NAME: &str = "H.264 (libx264)";

/// Constant rate factor (0 best, 51 worst) by refinement: motion first, then ever finer while the picture rests.
const CRF: [f64; Plan::FINEST as usize + 1] = [16.0, 14.0, 12.0, 10.0];
/// Size of the rate control's buffer, as seconds at the capped bitrate: what a new slide may spend at once.
const BUFFER_SECONDS: f64 = 1.5;
/// Pixels per second that one core encodes with ease; more get another slice and thread.
const PIXELS_PER_THREAD: u32 = 45_000_000;

/// What to encode to.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Picture size.
    pub size: Size,
    /// Ticks per second; time stamps are multiples of its interval.
    pub fps: Fps,
    /// Cap on the bitrate in bit/s; still pictures stay far below.
    pub bitrate_bps: u32,
    /// Keyframes are the first ticks at or after each multiple of it; rounded to ticks, at least one.
    pub keyframe_interval: Duration,
    /// False where only sound is wanted: ticks are counted, and nothing is encoded.
    pub encodes: bool,
}

/// Counted while the encoder runs.
#[derive(Debug, Default)]
pub struct Stats {
    encoded: AtomicU64,
    unchanged: AtomicU64,
    missed: AtomicU64,
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
    inner: ff::encoder::video::Encoder,
    picture: frame::Video,
    config: Config,
    plan: Plan,
    keyframes: Keyframes,
    stats: Arc<Stats>,
    refinement: u8,
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
        let codec = ff::encoder::find_by_name("libx264").ok_or(Error::Missing(NAME))?;
        let fail = |e| Error::Open(NAME, e);
        let mut video = ff::codec::Context::new_with_codec(codec).encoder().video().map_err(fail)?;
        let rate = i32::try_from(config.fps.get()).unwrap_or(60);
        video.set_width(config.size.width());
        video.set_height(config.size.height());
        video.set_format(Pixel::YUV420P);
        video.set_time_base((1, rate));
        video.set_frame_rate(Some((rate, 1)));
        video.set_max_b_frames(0);
        video.set_max_bit_rate(config.bitrate_bps as usize);
        video.set_colorspace(ff::color::Space::BT709);
        video.set_color_range(ff::color::Range::MPEG);
        video.set_flags(ff::codec::Flags::GLOBAL_HEADER);
        // SAFETY: the context is ours and not yet open; these fields may be set until then.
        unsafe {
            let context = &mut *video.as_mut_ptr();
            context.color_primaries = ffi::AVColorPrimaries::BT709;
            context.color_trc = ffi::AVColorTransferCharacteristic::BT709;
            context.chroma_sample_location = ffi::AVChromaLocation::CENTER;
            context.rc_buffer_size = (f64::from(config.bitrate_bps) * BUFFER_SECONDS) as i32;
        }
        let inner = video.open_with(options(config)).map_err(fail)?;
        let picture = frame::Video::new(Pixel::YUV420P, config.size.width(), config.size.height());
        Ok(Self {
            inner,
            picture,
            config,
            plan: Plan::new(config.fps, config.keyframe_interval),
            keyframes: Keyframes::default(),
            stats: Arc::default(),
            refinement: 0,
            thumbnails: None,
            unwanted: false,
        })
    }

    /// Its ticks per second.
    #[must_use]
    pub fn fps(&self) -> Fps {
        self.config.fps
    }

    /// Has pictures taken meanwhile.
    pub fn take_pictures(&mut self, thumbnails: Thumbnails) {
        self.thumbnails = Some(thumbnails);
    }

    /// What a muxer must know.
    #[must_use]
    pub fn parameters(&self) -> Parameters {
        Parameters::from(&self.inner)
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

    /// Encodes ticks until `end`, or until nobody sends or takes any more.
    ///
    /// # Errors
    /// [`Error::Thread`]; the thread itself ends with [`Error::Encode`].
    pub fn spawn(
        mut self,
        ticks: Receiver<Tick>,
        end: End,
        out: SyncSender<Packet>,
    ) -> Result<JoinHandle<Result<(), Error>>, Error> {
        spawn("encode-video", move || self.run(&ticks, &end, &out))
    }

    fn run(&mut self, ticks: &Receiver<Tick>, end: &End, out: &SyncSender<Packet>) -> Result<(), Error> {
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
            self.take(&tick, out)?;
            next += 1;
            self.stats.ticks.store(u64::try_from(next).unwrap_or(0), Ordering::Relaxed);
            if self.unwanted || self.config.fps.time_of(next) >= end.get() {
                break;
            }
        }
        // Nobody waits for pictures any more.
        self.thumbnails = None;
        if next > 0 && self.config.encodes {
            let choice = self.plan.finish(next - 1);
            self.carry_out(choice, next - 1, out)?;
        }
        self.inner.send_eof().map_err(|e| Error::Encode(NAME, e))?;
        self.drain(out)
    }

    /// Counts the ticks from `next` up to `to` as missed.
    fn reach(&self, next: &mut i64, to: i64) {
        let missed = u64::try_from(to - *next).unwrap_or(0);
        self.stats.missed.fetch_add(missed, Ordering::Relaxed);
        *next = to.max(*next);
        self.stats.ticks.store(u64::try_from(*next).unwrap_or(0), Ordering::Relaxed);
    }

    fn take(&mut self, tick: &Tick, out: &SyncSender<Packet>) -> Result<(), Error> {
        if !self.config.encodes {
            return Ok(());
        }
        if let Some(frame) = &tick.frame {
            let stride = [0, 1, 2].map(|p| self.picture.stride(p));
            let mut planes = planes_of(&mut self.picture, stride)?;
            convert(&frame.picture, &frame.damage, &mut planes);
        } else {
            self.stats.unchanged.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(thumbnails) = &mut self.thumbnails {
            thumbnails.offer(tick.index, &self.picture);
        }
        if self.keyframes.take() {
            self.plan.request_keyframe();
        }
        let choice = self.plan.tick(tick.index, tick.frame.is_some());
        self.carry_out(choice, tick.index, out)
    }

    fn carry_out(&mut self, choice: Choice, index: i64, out: &SyncSender<Packet>) -> Result<(), Error> {
        let Choice::Encode { keyframe, refinement } = choice else { return Ok(()) };
        self.refine(refinement)?;
        let kind = if keyframe { ff::picture::Type::I } else { ff::picture::Type::None };
        self.picture.set_kind(kind);
        self.picture.set_pts(Some(index));
        self.inner.send_frame(&self.picture).map_err(|e| Error::Encode(NAME, e))?;
        self.stats.encoded.fetch_add(1, Ordering::Relaxed);
        self.drain(out)
    }

    /// libx264 takes a new rate factor with the next frame.
    fn refine(&mut self, refinement: u8) -> Result<(), Error> {
        if refinement == self.refinement {
            return Ok(());
        }
        self.refinement = refinement;
        // SAFETY: `priv_data` of an open libx264 context is its own options struct, which `av_opt_set_double` looks the
        // name up in; the name is a C string.
        let set = unsafe {
            let private = (*self.inner.as_mut_ptr()).priv_data;
            ffi::av_opt_set_double(private, c"crf".as_ptr(), CRF[usize::from(refinement)], 0)
        };
        if set < 0 { Err(Error::Encode(NAME, set.into())) } else { Ok(()) }
    }

    fn drain(&mut self, out: &SyncSender<Packet>) -> Result<(), Error> {
        let fps = self.config.fps;
        let at = |t: Option<i64>| fps.time_of(t.unwrap_or_default());
        let wanted = drain(&mut self.inner, NAME, &self.stats.bytes, out, |packet, data| Packet {
            track: Track::Video,
            data,
            pts: at(packet.pts()),
            dts: at(packet.dts().or(packet.pts())),
            duration: MediaTime::from(fps.interval()),
            keyframe: packet.is_key(),
        })?;
        self.unwanted |= !wanted;
        Ok(())
    }
}

/// Low latency: nothing is held back for later frames, so that what was sent is in the file and on the air.
fn options(config: Config) -> ff::Dictionary {
    let threads = (config.size.width() * config.size.height() * config.fps.get()).div_ceil(PIXELS_PER_THREAD);
    // What a page moves, it moves by whole pixels: looking between them (subme) costs a quarter of the time, and gains a
    // video on the page less than 0.001 of SSIM.
    let x264 = "scenecut=0:rc-lookahead=0:sync-lookahead=0:mbtree=0:bframes=0:weightp=0:subme=0:force-cfr=0:keyint=infinite";
    let mut options = ff::Dictionary::new();
    options.set("preset", "superfast");
    options.set("profile", "high");
    options.set("crf", CRF[0].to_string());
    options.set("threads", threads.clamp(1, 8).to_string());
    options.set("forced-idr", "1");
    options.set("x264-params", format!("{x264}:sliced-threads={}", u8::from(threads > 1)));
    options
}

/// The three planes of a picture that nobody else looks at.
fn planes_of(picture: &mut frame::Video, stride: [usize; 3]) -> Result<Planes<'_>, Error> {
    let rows = [picture.height(), picture.height() / 2, picture.height() / 2].map(|r| r as usize);
    // SAFETY: the picture owns three separate planes of `stride * rows` bytes. The encoder may still hold a reference to
    // them from the last frame; `av_frame_make_writable` then gives the picture a copy of its own.
    unsafe {
        let made = ffi::av_frame_make_writable(picture.as_mut_ptr());
        if made < 0 {
            return Err(Error::Encode(NAME, made.into()));
        }
        let data = (*picture.as_mut_ptr()).data;
        let plane = |p: usize| std::slice::from_raw_parts_mut(data[p], stride[p] * rows[p]);
        Ok(Planes { data: [plane(0), plane(1), plane(2)], stride })
    }
}
