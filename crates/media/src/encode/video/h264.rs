//! H.264 by libx264.
#![expect(unsafe_code, reason = "settings of libavcodec that its bindings do not wrap")]

use ff::codec::Flags;
use ff::encoder::video::Encoder as Open;
use ff::{ffi, frame};
use ffmpeg_the_third as ff;

use super::backend::{CodecBackend, EncodeParams, new_encoder, set_vbv, thread_count};
use super::budget::BitBudget;
use super::{Codec, Config, Error, FramePlanner};

const ENCODER_NAME: &str = Codec::H264.display_name();
/// Constant rate factor (0 best, 51 worst) by refinement: motion first, then ever finer while the picture
/// rests.
const CRF_BY_REFINEMENT: [f64; FramePlanner::MAX_REFINEMENT as usize + 1] = [16.0, 14.0, 12.0, 10.0];
/// Size of the rate control's buffer, as seconds at the capped bitrate: what a new slide may spend at once.
const VBV_BUFFER_SECONDS: f64 = 1.5;
/// Best quantizer (0 best, 51 worst) of a room: more is spent on nothing that anybody sees.
const MIN_QP: u32 = 12;
/// How much finer chroma is quantized than luma in a room, whose [`MIN_QP`] would leave colours off by up
/// to five levels for ever. Costs 1 % of a video's bits, and 10 % of a few moving colours'.
const CHROMA_QP_OFFSET: i32 = -6;
/// Worst rate factor that a room is given on purpose.
const MAX_CRF: f64 = 48.0;
/// About how long it is from one refinement to the next, in seconds.
const REFINEMENT_INTERVAL_SECONDS: f64 = 0.15;
/// How much of what can be saved up is kept for keyframes and new slides.
const RESERVE_SHARE: f64 = 0.6;

/// An open encoder.
pub(super) struct H264 {
    inner: Open,
    /// What is spent in a room, which nothing may be held back for.
    rate_control: Option<LiveRateControl>,
}

/// The rate control of a room.
///
/// libx264 in its capped mode spends whatever its buffer holds, so that the buffer is empty when a keyframe
/// is wanted. Here the rate factor is chosen so that moving pictures leave a reserve.
///
/// To know how long a frame lasts, libx264 would wait for the next one. Here nothing waits: it is told that
/// frames follow each other from tick to tick. As they do not, it is told with each frame how much its buffer
/// gains, so that it comes to hold what the [`BitBudget`] does.
#[derive(Debug)]
struct LiveRateControl {
    /// What libx264 believes that it may spend, in bits.
    vbv_fill: f64,
    /// What it gains with this frame, in bits.
    vbv_refill: f64,
    /// The most that it can hold, in bits.
    vbv_size: f64,
    crf: f64,
    is_moving: bool,
    /// What a moving picture takes at rate factor 0, in bits; unknown after a rest.
    crf0_bits: Option<f64>,
}

impl H264 {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let live = config.codec.is_live();
        let mut video = new_encoder(ENCODER_NAME, "libx264", config)?;
        if !live {
            video.set_flags(Flags::GLOBAL_HEADER);
        }
        let purse = BitBudget::new(config.bitrate_bps, config.fps.get());
        let size = if live { purse.capacity() } else { f64::from(config.bitrate_bps) * VBV_BUFFER_SECONDS };
        // SAFETY: only the pointer is taken; `video` is alive and not shared.
        set_vbv(unsafe { video.as_mut_ptr() }, config.bitrate_bps.into(), size as i64);
        let inner = video.open_with(x264_options(config)).map_err(|e| Error::Open(ENCODER_NAME, e))?;
        Ok(Self { inner, rate_control: live.then(|| LiveRateControl::new(&purse)) })
    }

    /// libx264 takes a new rate factor with the next frame.
    fn set_crf(&mut self, crf: f64) -> Result<(), Error> {
        // SAFETY: `priv_data` of an open libx264 context is its own options struct, which `av_opt_set_double`
        // looks the name up in; the name is a C string.
        let set = unsafe {
            let private = (*self.inner.as_mut_ptr()).priv_data;
            ffi::av_opt_set_double(private, c"crf".as_ptr(), crf, 0)
        };
        if set < 0 { Err(Error::Encode(ENCODER_NAME, set.into())) } else { Ok(()) }
    }
}

impl CodecBackend for H264 {
    fn send_frame(
        &mut self,
        picture: &mut frame::Video,
        shot: EncodeParams,
        purse: &BitBudget,
    ) -> Result<(), Error> {
        let crf = match &mut self.rate_control {
            None => CRF_BY_REFINEMENT[usize::from(shot.refinement)],
            Some(live) => {
                live.choose_crf(shot, purse);
                // SAFETY: only the pointer is taken; the encoder is open and not shared.
                let context = unsafe { self.inner.as_mut_ptr() };
                set_vbv(context, (live.vbv_refill * purse.fps()) as i64, live.vbv_size as i64);
                live.crf
            }
        };
        self.set_crf(crf)?;
        picture.set_kind(if shot.keyframe { ff::picture::Type::I } else { ff::picture::Type::None });
        picture.set_pts(Some(shot.index));
        self.inner.send_frame(picture).map_err(|e| Error::Encode(ENCODER_NAME, e))
    }

    fn on_encoded_bits(&mut self, bits: u64) {
        if let Some(live) = &mut self.rate_control {
            live.on_encoded_bits(bits);
        }
    }

    fn set_max_bitrate(&mut self, bitrate_bps: u32) {
        if self.rate_control.is_none() {
            let buffer = f64::from(bitrate_bps) * VBV_BUFFER_SECONDS;
            // SAFETY: only the pointer is taken; the encoder is open and not shared.
            set_vbv(unsafe { self.inner.as_mut_ptr() }, bitrate_bps.into(), buffer as i64);
        }
    }

    fn encoder(&mut self) -> &mut ff::encoder::Encoder {
        &mut self.inner
    }

    fn tick_of(&self, packet: &ff::Packet) -> i64 {
        packet.pts().unwrap_or_default()
    }
}

impl LiveRateControl {
    /// libx264 begins with a full buffer.
    fn new(purse: &BitBudget) -> Self {
        let size = purse.capacity();
        Self {
            vbv_fill: size,
            vbv_refill: 0.0,
            vbv_size: size,
            crf: CRF_BY_REFINEMENT[0],
            is_moving: false,
            crf0_bits: None,
        }
    }

    /// Decides about the next frame.
    fn choose_crf(&mut self, shot: EncodeParams, purse: &BitBudget) {
        self.vbv_size = purse.capacity();
        let owed = purse.available_bits() - self.vbv_fill.min(self.vbv_size);
        let next = if shot.unchanged { REFINEMENT_INTERVAL_SECONDS * purse.fps() } else { 1.0 };
        // More than the buffer holds would not be taken, and less than a kilobit a second not understood.
        let gain = next.max(1.0) * purse.bits_per_tick() + owed;
        self.vbv_refill = gain.clamp(1000.0 / purse.fps(), 0.95 * self.vbv_size);
        let finest = CRF_BY_REFINEMENT[usize::from(shot.refinement)];
        self.is_moving = !shot.unchanged && !shot.keyframe;
        if shot.unchanged && !shot.keyframe {
            self.crf0_bits = None;
        }
        let share = 1.0 + 2.0 * (purse.available_bits() / self.vbv_size - RESERVE_SHARE);
        let target = purse.bits_since_last_frame() * share.clamp(0.3, 1.8);
        self.crf =
            self.crf0_bits.map_or(finest, |cost| (6.0 * (cost / target).log2()).clamp(finest, MAX_CRF));
    }

    /// Remembers what the frame took.
    fn on_encoded_bits(&mut self, bits: u64) {
        let bits = bits as f64;
        self.vbv_fill =
            ((self.vbv_fill.min(self.vbv_size) - bits).max(0.0) + self.vbv_refill).min(self.vbv_size);
        if self.is_moving {
            let cost = bits.max(1.0) * (self.crf / 6.0).exp2();
            self.crf0_bits = Some(self.crf0_bits.map_or(cost, |before| (before * cost).sqrt()));
        }
    }
}

/// Low latency: nothing is held back for later frames, so that what was sent is in the file and on the air.
fn x264_options(config: &Config) -> ff::Dictionary {
    let threads = thread_count(config);
    // What a page moves, it moves by whole pixels: looking between them (subme) costs a quarter of the time,
    // and gains a video on the page less than 0.001 of SSIM.
    let x264 =
        "scenecut=0:rc-lookahead=0:sync-lookahead=0:mbtree=0:bframes=0:weightp=0:subme=0:keyint=infinite";
    let live = config.codec.is_live();
    let mut options = ff::Dictionary::new();
    if live {
        options.set("qmin", MIN_QP.to_string());
    }
    options.set("preset", "superfast");
    options.set("profile", if live { "baseline" } else { "high" });
    options.set("crf", CRF_BY_REFINEMENT[0].to_string());
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
    fn encode_frames(
        live: &mut LiveRateControl,
        purse: &mut BitBudget,
        ticks: impl Iterator<Item = i64>,
        cost: f64,
        rests: bool,
    ) -> Vec<f64> {
        let one = |index| {
            purse.refill(index);
            let refinement = if rests { FramePlanner::MAX_REFINEMENT } else { 0 };
            live.choose_crf(EncodeParams { index, keyframe: false, refinement, unchanged: rests }, purse);
            let bits = cost / (live.crf / 6.0).exp2();
            purse.spend(bits as u64);
            live.on_encoded_bits(bits as u64);
            bits
        };
        ticks.map(one).collect()
    }

    #[test]
    fn what_moves_spends_its_cap_and_leaves_a_reserve() {
        for (bps, step) in [(300_000, 1), (1_200_000, 1), (1_200_000, 2), (1_200_000, 6)] {
            let mut purse = BitBudget::new(bps, FPS);
            let mut live = LiveRateControl::new(&purse);
            // Ten times what may be spent.
            let cost = 10.0 * f64::from(bps) * f64::from(step) / 30.0 * (CRF_BY_REFINEMENT[0] / 6.0).exp2();
            let ticks = (0..300).step_by(usize::try_from(step).unwrap());
            let bits = encode_frames(&mut live, &mut purse, ticks, cost, false);
            let later: f64 = bits.iter().skip(150 / step as usize).sum();
            assert!((later / 5.0 / f64::from(bps) - 1.0).abs() < 0.05, "{later} of {bps}");
            let share = purse.available_bits() / purse.capacity();
            assert!((0.2..0.8).contains(&share), "{share} is left of {bps} in steps of {step}");
        }
    }

    #[test]
    fn the_vbv_converges_to_the_bit_budget() {
        let mut purse = BitBudget::new(1_200_000, FPS);
        let mut live = LiveRateControl::new(&purse);
        let cost = 40_000.0 * 10.0 * (CRF_BY_REFINEMENT[0] / 6.0).exp2();
        encode_frames(&mut live, &mut purse, (0..60).step_by(3), cost, false);
        // It gains with a frame what passes up to the next one, as far as that is known.
        let gap = |live: &LiveRateControl, purse: &BitBudget| {
            (live.vbv_fill - purse.available_bits()) / purse.bits_per_tick()
        };
        assert!((-2.0..=1.0).contains(&gap(&live, &purse)), "{}", gap(&live, &purse));
        purse.set_bitrate(300_000);
        encode_frames(&mut live, &mut purse, 60..120, cost, false);
        assert!((0.0..=1.0).contains(&gap(&live, &purse)), "{}", gap(&live, &purse));
        encode_frames(&mut live, &mut purse, (130..400).step_by(30), 100.0, true);
        assert!((-1.0..=1.0).contains(&gap(&live, &purse)), "{}", gap(&live, &purse));
        assert!(live.vbv_refill <= 0.95 * live.vbv_size);
    }

    #[test]
    fn after_a_rest_a_little_change_is_sharp() {
        let mut purse = BitBudget::new(300_000, FPS);
        let mut live = LiveRateControl::new(&purse);
        encode_frames(&mut live, &mut purse, 0..60, 1e9, false);
        assert!(live.crf > 30.0, "{}", live.crf);
        encode_frames(&mut live, &mut purse, 64..65, 1000.0, true);
        assert_eq!(live.crf, CRF_BY_REFINEMENT[3]);
        encode_frames(&mut live, &mut purse, 90..91, 1000.0, false);
        assert_eq!(live.crf, CRF_BY_REFINEMENT[0]);
    }
}
