//! Encodes H.264 with libx264.
#![expect(unsafe_code, reason = "settings of libavcodec that its bindings do not wrap")]

use ff::codec::Flags;
use ff::encoder::video::Encoder as Open;
use ff::{ffi, frame};
use ffmpeg_the_third as ff;

use super::backend::{CodecBackend, EncodeParams, new_encoder, set_vbv, thread_count};
use super::budget::BitBudget;
use super::{Codec, Config, Error, FramePlanner};

const ENCODER_NAME: &str = Codec::H264.display_name();
/// Constant rate factor (0 best, 51 worst) by refinement: coarse in motion, finer with each refinement.
const CRF_BY_REFINEMENT: [f64; FramePlanner::MAX_REFINEMENT as usize + 1] = [16.0, 14.0, 12.0, 10.0];
/// Size of the VBV buffer in seconds of the bitrate limit: the largest burst, for a new slide.
const VBV_BUFFER_SECONDS: f64 = 1.5;
/// Best quantizer (0 best, 51 worst) in a room: finer ones cost bits without a visible gain.
const MIN_QP: u32 = 12;
/// Quantizer offset of chroma in a room; without it, [`MIN_QP`] leaves colours off by up to five levels.
/// Costs 1 % of the bits of a video, and 10 % of those of a few moving flat colours.
const CHROMA_QP_OFFSET: i32 = -6;
/// Worst rate factor that is chosen in a room: beyond, libx264's own VBV limits the frame.
const MAX_CRF: f64 = 48.0;
/// Approximate time between refinements, in seconds.
const REFINEMENT_INTERVAL_SECONDS: f64 = 0.15;
/// Share of the budget's capacity that is kept for keyframes and new slides.
const RESERVE_SHARE: f64 = 0.6;

/// An open libx264 encoder.
pub(super) struct H264 {
    inner: Open,
    /// Rate control of the live variant.
    rate_control: Option<LiveRateControl>,
}

/// The rate control of a room.
///
/// libx264 in capped CRF mode empties its VBV buffer, so nothing is left when a keyframe is requested. So we
/// choose the rate factor of moving pictures such that a reserve stays.
///
/// libx264 would delay each frame until the next one to know its duration. To avoid that delay, it is
/// configured for one frame per tick. As ticks are skipped, the VBV's refill is set with each frame, so that
/// its fill follows the [`BitBudget`].
#[derive(Debug)]
struct LiveRateControl {
    /// Fill of libx264's VBV buffer, in bits.
    vbv_fill: f64,
    /// Refill with this frame, in bits.
    vbv_refill: f64,
    /// Size of the VBV buffer, in bits.
    vbv_size: f64,
    crf: f64,
    is_moving: bool,
    /// Size of a moving picture at rate factor 0, in bits; unknown after a still phase.
    crf0_bits: Option<f64>,
}

impl H264 {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let live = config.codec.is_live();
        let mut video = new_encoder(ENCODER_NAME, "libx264", config)?;
        if !live {
            video.set_flags(Flags::GLOBAL_HEADER);
        }
        let budget = BitBudget::new(config.bitrate_bps, config.fps.get());
        let size = if live { budget.capacity() } else { f64::from(config.bitrate_bps) * VBV_BUFFER_SECONDS };
        // SAFETY: only the pointer is taken; `video` is alive and not shared.
        set_vbv(unsafe { video.as_mut_ptr() }, config.bitrate_bps.into(), size as i64);
        let inner = video.open_with(x264_options(config)).map_err(|e| Error::Open(ENCODER_NAME, e))?;
        Ok(Self { inner, rate_control: live.then(|| LiveRateControl::new(&budget)) })
    }

    /// Sets the rate factor; libx264 applies it to the next frame.
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
        params: EncodeParams,
        budget: &BitBudget,
    ) -> Result<(), Error> {
        let crf = match &mut self.rate_control {
            None => CRF_BY_REFINEMENT[usize::from(params.refinement)],
            Some(control) => {
                control.choose_crf(params, budget);
                // SAFETY: only the pointer is taken; the encoder is open and not shared.
                let context = unsafe { self.inner.as_mut_ptr() };
                set_vbv(context, (control.vbv_refill * budget.fps()) as i64, control.vbv_size as i64);
                control.crf
            }
        };
        self.set_crf(crf)?;
        picture.set_kind(if params.keyframe { ff::picture::Type::I } else { ff::picture::Type::None });
        picture.set_pts(Some(params.index));
        self.inner.send_frame(picture).map_err(|e| Error::Encode(ENCODER_NAME, e))
    }

    fn on_encoded_bits(&mut self, bits: u64) {
        if let Some(control) = &mut self.rate_control {
            control.on_encoded_bits(bits);
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
    /// A full buffer, as libx264 starts.
    fn new(budget: &BitBudget) -> Self {
        let size = budget.capacity();
        Self {
            vbv_fill: size,
            vbv_refill: 0.0,
            vbv_size: size,
            crf: CRF_BY_REFINEMENT[0],
            is_moving: false,
            crf0_bits: None,
        }
    }

    /// Chooses rate factor and VBV refill of the next frame.
    fn choose_crf(&mut self, params: EncodeParams, budget: &BitBudget) {
        self.vbv_size = budget.capacity();
        let correction = budget.available_bits() - self.vbv_fill.min(self.vbv_size);
        let ticks = if params.unchanged { REFINEMENT_INTERVAL_SECONDS * budget.fps() } else { 1.0 };
        // libx264 rejects a refill above the buffer size, and less than 1 kbit/s.
        let refill = ticks.max(1.0) * budget.bits_per_tick() + correction;
        self.vbv_refill = refill.clamp(1000.0 / budget.fps(), 0.95 * self.vbv_size);
        let finest = CRF_BY_REFINEMENT[usize::from(params.refinement)];
        self.is_moving = !params.unchanged && !params.keyframe;
        if params.unchanged && !params.keyframe {
            self.crf0_bits = None;
        }
        let share = 1.0 + 2.0 * (budget.available_bits() / self.vbv_size - RESERVE_SHARE);
        let target = budget.bits_since_last_frame() * share.clamp(0.3, 1.8);
        self.crf =
            self.crf0_bits.map_or(finest, |cost| (6.0 * (cost / target).log2()).clamp(finest, MAX_CRF));
    }

    /// Takes the size of the encoded frame.
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

/// Low-latency options: no lookahead and no B-frames, so each frame is in the file and on the network at
/// once.
fn x264_options(config: &Config) -> ff::Dictionary {
    let threads = thread_count(config);
    // Pages move content by whole pixels: sub-pixel motion search (subme) costs a quarter of the time and
    // gains less than 0.001 SSIM for a video on the page.
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
    let (sliced, cfr) = (u8::from(threads > 1), u8::from(live));
    let chroma = if live { CHROMA_QP_OFFSET } else { 0 };
    options.set(
        "x264-params",
        format!("{x264}:sliced-threads={sliced}:force-cfr={cfr}:chroma-qp-offset={chroma}"),
    );
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const FPS: u32 = 30;

    /// Encodes pictures of `cost` bits at rate factor 0 at these ticks; returns their sizes in bits.
    fn encode_frames(
        live: &mut LiveRateControl,
        budget: &mut BitBudget,
        ticks: impl Iterator<Item = i64>,
        cost: f64,
        unchanged: bool,
    ) -> Vec<f64> {
        let one = |index| {
            budget.refill(index);
            let refinement = if unchanged { FramePlanner::MAX_REFINEMENT } else { 0 };
            live.choose_crf(EncodeParams { index, keyframe: false, refinement, unchanged }, budget);
            let bits = cost / (live.crf / 6.0).exp2();
            budget.spend(bits as u64);
            live.on_encoded_bits(bits as u64);
            bits
        };
        ticks.map(one).collect()
    }

    #[test]
    fn motion_uses_the_bitrate_and_leaves_a_reserve() {
        for (bps, step) in [(300_000, 1), (1_200_000, 1), (1_200_000, 2), (1_200_000, 6)] {
            let mut budget = BitBudget::new(bps, FPS);
            let mut live = LiveRateControl::new(&budget);
            // Ten times the bitrate limit.
            let cost = 10.0 * f64::from(bps) * f64::from(step) / 30.0 * (CRF_BY_REFINEMENT[0] / 6.0).exp2();
            let ticks = (0..300).step_by(usize::try_from(step).unwrap());
            let bits = encode_frames(&mut live, &mut budget, ticks, cost, false);
            let later: f64 = bits.iter().skip(150 / step as usize).sum();
            assert!((later / 5.0 / f64::from(bps) - 1.0).abs() < 0.05, "{later} of {bps}");
            let share = budget.available_bits() / budget.capacity();
            assert!((0.2..0.8).contains(&share), "{share} is left of {bps} in steps of {step}");
        }
    }

    #[test]
    fn the_vbv_converges_to_the_bit_budget() {
        let mut budget = BitBudget::new(1_200_000, FPS);
        let mut live = LiveRateControl::new(&budget);
        let cost = 40_000.0 * 10.0 * (CRF_BY_REFINEMENT[0] / 6.0).exp2();
        encode_frames(&mut live, &mut budget, (0..60).step_by(3), cost, false);
        // The refill of a frame covers the expected time up to the next one.
        let gap = |live: &LiveRateControl, budget: &BitBudget| {
            (live.vbv_fill - budget.available_bits()) / budget.bits_per_tick()
        };
        assert!((-2.0..=1.0).contains(&gap(&live, &budget)), "{}", gap(&live, &budget));
        budget.set_bitrate(300_000);
        encode_frames(&mut live, &mut budget, 60..120, cost, false);
        assert!((0.0..=1.0).contains(&gap(&live, &budget)), "{}", gap(&live, &budget));
        encode_frames(&mut live, &mut budget, (130..400).step_by(30), 100.0, true);
        assert!((-1.0..=1.0).contains(&gap(&live, &budget)), "{}", gap(&live, &budget));
        assert!(live.vbv_refill <= 0.95 * live.vbv_size);
    }

    #[test]
    fn after_a_still_phase_a_small_change_is_sharp() {
        let mut budget = BitBudget::new(300_000, FPS);
        let mut live = LiveRateControl::new(&budget);
        encode_frames(&mut live, &mut budget, 0..60, 1e9, false);
        assert!(live.crf > 30.0, "{}", live.crf);
        encode_frames(&mut live, &mut budget, 64..65, 1000.0, true);
        assert_eq!(live.crf, CRF_BY_REFINEMENT[3]);
        encode_frames(&mut live, &mut budget, 90..91, 1000.0, false);
        assert_eq!(live.crf, CRF_BY_REFINEMENT[0]);
    }
}
