//! H.264 by libx264.
#![expect(unsafe_code, reason = "settings of libavcodec that its bindings do not wrap")]

use ff::codec::Flags;
use ff::encoder::video::Encoder as Open;
use ff::{ffi, frame};
use ffmpeg_the_third as ff;

use super::coder::{Coder, Shot, prepare, set_cap, threads};
use super::purse::Purse;
use super::{Codec, Config, Error, Plan};

const NAME: &str = Codec::H264.name();
/// Constant rate factor (0 best, 51 worst) by refinement: motion first, then ever finer while the picture
/// rests.
const CRF: [f64; Plan::FINEST as usize + 1] = [16.0, 14.0, 12.0, 10.0];
/// Size of the rate control's buffer, as seconds at the capped bitrate: what a new slide may spend at once.
const BUFFER_SECONDS: f64 = 1.5;
/// Best quantizer (0 best, 51 worst) of a room: more is spent on nothing that anybody sees.
const FINEST_QP: u32 = 12;
/// How much finer chroma is quantized than luma in a room, whose [`FINEST_QP`] would leave colours off by up
/// to five levels for ever. Costs 1 % of a video's bits, and 10 % of a few moving colours'.
const CHROMA_QP_OFFSET: i32 = -6;
/// Worst rate factor that a room is given on purpose.
const WORST_CRF: f64 = 48.0;
/// About how long it is from one refinement to the next, in seconds.
const REFINED_SECONDS: f64 = 0.15;
/// How much of what can be saved up is kept for keyframes and new slides.
const RESERVE: f64 = 0.6;

/// An open encoder.
pub(super) struct H264 {
    inner: Open,
    /// What is spent in a room, which nothing may be held back for.
    live: Option<Live>,
}

/// The rate control of a room.
///
/// libx264 in its capped mode spends whatever its buffer holds, so that the buffer is empty when a keyframe
/// is wanted. Here the rate factor is chosen so that moving pictures leave a reserve.
///
/// To know how long a frame lasts, libx264 would wait for the next one. Here nothing waits: it is told that
/// frames follow each other from tick to tick. As they do not, it is told with each frame how much its buffer
/// gains, so that it comes to hold what the [`Purse`] does.
#[derive(Debug)]
struct Live {
    /// What libx264 believes that it may spend, in bits.
    believed: f64,
    /// What it gains with this frame, in bits.
    gain: f64,
    /// The most that it can hold, in bits.
    size: f64,
    crf: f64,
    moves: bool,
    /// What a moving picture takes at rate factor 0, in bits; unknown after a rest.
    cost: Option<f64>,
}

impl H264 {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let live = config.codec.is_live();
        let mut video = prepare(NAME, "libx264", config)?;
        if !live {
            video.set_flags(Flags::GLOBAL_HEADER);
        }
        let purse = Purse::new(config.bitrate_bps, config.fps.get());
        let size = if live { purse.size() } else { f64::from(config.bitrate_bps) * BUFFER_SECONDS };
        // SAFETY: only the pointer is taken; `video` is alive and not shared.
        set_cap(unsafe { video.as_mut_ptr() }, config.bitrate_bps.into(), size as i64);
        let inner = video.open_with(options(config)).map_err(|e| Error::Open(NAME, e))?;
        Ok(Self { inner, live: live.then(|| Live::new(&purse)) })
    }

    /// libx264 takes a new rate factor with the next frame.
    fn set_crf(&mut self, crf: f64) -> Result<(), Error> {
        // SAFETY: `priv_data` of an open libx264 context is its own options struct, which `av_opt_set_double`
        // looks the name up in; the name is a C string.
        let set = unsafe {
            let private = (*self.inner.as_mut_ptr()).priv_data;
            ffi::av_opt_set_double(private, c"crf".as_ptr(), crf, 0)
        };
        if set < 0 { Err(Error::Encode(NAME, set.into())) } else { Ok(()) }
    }
}

impl Coder for H264 {
    fn send(&mut self, picture: &mut frame::Video, shot: Shot, purse: &Purse) -> Result<(), Error> {
        let crf = match &mut self.live {
            None => CRF[usize::from(shot.refinement)],
            Some(live) => {
                live.prepare(shot, purse);
                // SAFETY: only the pointer is taken; the encoder is open and not shared.
                let context = unsafe { self.inner.as_mut_ptr() };
                set_cap(context, (live.gain * purse.fps()) as i64, live.size as i64);
                live.crf
            }
        };
        self.set_crf(crf)?;
        picture.set_kind(if shot.keyframe { ff::picture::Type::I } else { ff::picture::Type::None });
        picture.set_pts(Some(shot.index));
        self.inner.send_frame(picture).map_err(|e| Error::Encode(NAME, e))
    }

    fn spent(&mut self, bits: u64) {
        if let Some(live) = &mut self.live {
            live.spent(bits);
        }
    }

    fn cap(&mut self, bitrate_bps: u32) {
        if self.live.is_none() {
            let buffer = f64::from(bitrate_bps) * BUFFER_SECONDS;
            // SAFETY: only the pointer is taken; the encoder is open and not shared.
            set_cap(unsafe { self.inner.as_mut_ptr() }, bitrate_bps.into(), buffer as i64);
        }
    }

    fn inner(&mut self) -> &mut ff::encoder::Encoder {
        &mut self.inner
    }

    fn index_of(&self, packet: &ff::Packet) -> i64 {
        packet.pts().unwrap_or_default()
    }
}

impl Live {
    /// libx264 begins with a full buffer.
    fn new(purse: &Purse) -> Self {
        let size = purse.size();
        Self { believed: size, gain: 0.0, size, crf: CRF[0], moves: false, cost: None }
    }

    /// Decides about the next frame.
    fn prepare(&mut self, shot: Shot, purse: &Purse) {
        self.size = purse.size();
        let owed = purse.bits() - self.believed.min(self.size);
        let next = if shot.rests { REFINED_SECONDS * purse.fps() } else { 1.0 };
        // More than the buffer holds would not be taken, and less than a kilobit a second not understood.
        let gain = next.max(1.0) * purse.bits_per_tick() + owed;
        self.gain = gain.clamp(1000.0 / purse.fps(), 0.95 * self.size);
        let finest = CRF[usize::from(shot.refinement)];
        self.moves = !shot.rests && !shot.keyframe;
        if shot.rests && !shot.keyframe {
            self.cost = None;
        }
        let share = 1.0 + 2.0 * (purse.bits() / self.size - RESERVE);
        let target = purse.since_last() * share.clamp(0.3, 1.8);
        self.crf = self.cost.map_or(finest, |cost| (6.0 * (cost / target).log2()).clamp(finest, WORST_CRF));
    }

    /// Remembers what the frame took.
    fn spent(&mut self, bits: u64) {
        let bits = bits as f64;
        self.believed = ((self.believed.min(self.size) - bits).max(0.0) + self.gain).min(self.size);
        if self.moves {
            let cost = bits.max(1.0) * (self.crf / 6.0).exp2();
            self.cost = Some(self.cost.map_or(cost, |before| (before * cost).sqrt()));
        }
    }
}

/// Low latency: nothing is held back for later frames, so that what was sent is in the file and on the air.
fn options(config: &Config) -> ff::Dictionary {
    let threads = threads(config);
    // What a page moves, it moves by whole pixels: looking between them (subme) costs a quarter of the time,
    // and gains a video on the page less than 0.001 of SSIM.
    let x264 =
        "scenecut=0:rc-lookahead=0:sync-lookahead=0:mbtree=0:bframes=0:weightp=0:subme=0:keyint=infinite";
    let live = config.codec.is_live();
    let mut options = ff::Dictionary::new();
    if live {
        options.set("qmin", FINEST_QP.to_string());
    }
    options.set("preset", "superfast");
    options.set("profile", if live { "baseline" } else { "high" });
    options.set("crf", CRF[0].to_string());
    options.set("threads", threads.to_string());
    options.set("forced-idr", "1");
    let (sliced, steady) = (u8::from(threads > 1), u8::from(live));
    let chroma = if live { CHROMA_QP_OFFSET } else { 0 };
    options.set(
        "x264-params",
        format!("{x264}:sliced-threads={sliced}:force-cfr={steady}:chroma-qp-offset={chroma}"),
    );
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const FPS: u32 = 30;

    /// Feeds `count` shots of pictures that take `cost` bits at rate factor 0; the bits they took.
    fn run(
        live: &mut Live,
        purse: &mut Purse,
        ticks: impl Iterator<Item = i64>,
        cost: f64,
        rests: bool,
    ) -> Vec<f64> {
        let one = |index| {
            purse.earn(index);
            let refinement = if rests { Plan::FINEST } else { 0 };
            live.prepare(Shot { index, keyframe: false, refinement, rests }, purse);
            let bits = cost / (live.crf / 6.0).exp2();
            purse.spend(bits as u64);
            live.spent(bits as u64);
            bits
        };
        ticks.map(one).collect()
    }

    #[test]
    fn what_moves_spends_its_cap_and_leaves_a_reserve() {
        for (bps, step) in [(300_000, 1), (1_200_000, 1), (1_200_000, 2), (1_200_000, 6)] {
            let mut purse = Purse::new(bps, FPS);
            let mut live = Live::new(&purse);
            // Ten times what may be spent.
            let cost = 10.0 * f64::from(bps) * f64::from(step) / 30.0 * (CRF[0] / 6.0).exp2();
            let ticks = (0..300).step_by(usize::try_from(step).unwrap());
            let bits = run(&mut live, &mut purse, ticks, cost, false);
            let later: f64 = bits.iter().skip(150 / step as usize).sum();
            assert!((later / 5.0 / f64::from(bps) - 1.0).abs() < 0.05, "{later} of {bps}");
            let share = purse.bits() / purse.size();
            assert!((0.2..0.8).contains(&share), "{share} is left of {bps} in steps of {step}");
        }
    }

    #[test]
    fn libx264_comes_to_hold_what_the_purse_does() {
        let mut purse = Purse::new(1_200_000, FPS);
        let mut live = Live::new(&purse);
        let cost = 40_000.0 * 10.0 * (CRF[0] / 6.0).exp2();
        run(&mut live, &mut purse, (0..60).step_by(3), cost, false);
        // It gains with a frame what passes up to the next one, as far as that is known.
        let gap = |live: &Live, purse: &Purse| (live.believed - purse.bits()) / purse.bits_per_tick();
        assert!((-2.0..=1.0).contains(&gap(&live, &purse)), "{}", gap(&live, &purse));
        purse.set_cap(300_000);
        run(&mut live, &mut purse, 60..120, cost, false);
        assert!((0.0..=1.0).contains(&gap(&live, &purse)), "{}", gap(&live, &purse));
        run(&mut live, &mut purse, (130..400).step_by(30), 100.0, true);
        assert!((-1.0..=1.0).contains(&gap(&live, &purse)), "{}", gap(&live, &purse));
        assert!(live.gain <= 0.95 * live.size);
    }

    #[test]
    fn after_a_rest_a_little_change_is_sharp() {
        let mut purse = Purse::new(300_000, FPS);
        let mut live = Live::new(&purse);
        run(&mut live, &mut purse, 0..60, 1e9, false);
        assert!(live.crf > 30.0, "{}", live.crf);
        run(&mut live, &mut purse, 64..65, 1000.0, true);
        assert_eq!(live.crf, CRF[3]);
        run(&mut live, &mut purse, 90..91, 1000.0, false);
        assert_eq!(live.crf, CRF[0]);
    }
}
