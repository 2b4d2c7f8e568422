//! Encodes VP8 with libvpx.
#![expect(unsafe_code, reason = "settings of libavcodec that its bindings do not wrap")]

use ff::encoder::video::Encoder as Open;
use ff::frame;
use ffmpeg_the_third as ff;

use super::backend::{CodecBackend, EncodeParams, new_encoder, set_vbv, thread_count, ticks_per_second};
use super::budget::BitBudget;
use super::{Codec, Config, Error};

const ENCODER_NAME: &str = Codec::Vp8.display_name();
/// Units of the encoder's clock per second.
const TIME_BASE_HZ: i32 = 1_000_000;
/// Size of the rate control's buffer, in seconds of the bitrate at opening; the first keyframe gets half of
/// it.
const RC_BUFFER_SECONDS: f64 = 0.6;
/// Longest time between two pictures that counts for the rate control, in seconds: limits saved bits.
const MAX_FRAME_GAP_SECONDS: f64 = 0.25;
/// Factor between bitrate limit and bitrate at opening from which a keyframe reopens the encoder.
const REOPEN_RATIO: f64 = 1.25;
/// Best quantizer (0 best, 63 worst): flat chroma is off by less than one level; with 10 it stayed off by
/// more.
const MIN_QUANTIZER: i32 = 6;

/// An open libvpx encoder.
///
/// libavcodec cannot change the bitrate of an open libvpx encoder. So we scale the time stamps instead: for a
/// lower bitrate, the encoder's clock runs slower. That changes neither the picture nor the stream, but the
/// rate control's buffer, and so keyframes, are off by the same factor. As a keyframe does not depend on
/// earlier pictures, an encoder reopened for the current limit makes it. For other pictures, the
/// [`BitBudget`] decides.
pub(super) struct Vp8 {
    inner: Open,
    config: Config,
    max_bitrate_bps: f64,
    opened_bitrate_bps: f64,
    /// The encoder's clock, in units of [`TIME_BASE_HZ`].
    pts: i64,
    /// Tick of the previous picture.
    last_tick: Option<i64>,
}

impl Vp8 {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let bps = config.bitrate_bps.into();
        let inner = open_encoder(config, bps)?;
        Ok(Self {
            inner,
            config: *config,
            max_bitrate_bps: bps,
            opened_bitrate_bps: bps,
            pts: 0,
            last_tick: None,
        })
    }

    /// Reopens the encoder if the limit is too far from the bitrate at opening.
    fn reopen_if_needed(&mut self) -> Result<(), Error> {
        let factor = self.max_bitrate_bps / self.opened_bitrate_bps;
        if !(1.0 / REOPEN_RATIO..=REOPEN_RATIO).contains(&factor) {
            self.inner = open_encoder(&self.config, self.max_bitrate_bps)?;
            (self.opened_bitrate_bps, self.pts, self.last_tick) = (self.max_bitrate_bps, 0, None);
        }
        Ok(())
    }
}

impl CodecBackend for Vp8 {
    fn send_frame(
        &mut self,
        picture: &mut frame::Video,
        params: EncodeParams,
        _budget: &BitBudget,
    ) -> Result<(), Error> {
        if params.keyframe {
            self.reopen_if_needed()?;
        }
        if let Some(last) = self.last_tick {
            let seconds = (params.index - last) as f64 / f64::from(ticks_per_second(&self.config));
            let clock_rate = self.max_bitrate_bps / self.opened_bitrate_bps;
            self.pts +=
                ((seconds.min(MAX_FRAME_GAP_SECONDS) * clock_rate * f64::from(TIME_BASE_HZ)) as i64).max(1);
        }
        self.last_tick = Some(params.index);
        picture.set_kind(if params.keyframe { ff::picture::Type::I } else { ff::picture::Type::None });
        picture.set_pts(Some(self.pts));
        self.inner.send_frame(picture).map_err(|e| Error::Encode(ENCODER_NAME, e))
    }

    fn set_max_bitrate(&mut self, bitrate_bps: u32) {
        self.max_bitrate_bps = bitrate_bps.into();
    }

    fn encoder(&mut self) -> &mut ff::encoder::Encoder {
        &mut self.inner
    }

    fn tick_of(&self, _packet: &ff::Packet) -> i64 {
        // The encoder has no delay, so a packet is always the last picture's.
        self.last_tick.unwrap_or_default()
    }
}

fn open_encoder(config: &Config, bps: f64) -> Result<Open, Error> {
    let mut video = new_encoder(ENCODER_NAME, "libvpx", config)?;
    video.set_time_base((1, TIME_BASE_HZ));
    video.set_bit_rate(bps as usize);
    // Least and largest keyframe distance are the maximum: only requested keyframes.
    video.set_gop(i32::MAX.unsigned_abs());
    // SAFETY: the context is ours and not yet open; these fields may be set until then.
    unsafe {
        let context = video.as_mut_ptr();
        set_vbv(context, bps as i64, (bps * RC_BUFFER_SECONDS) as i64);
        (*context).rc_min_rate = bps as i64;
        (*context).rc_initial_buffer_occupancy = (bps * RC_BUFFER_SECONDS) as i32;
        (*context).keyint_min = i32::MAX;
        (*context).qmin = MIN_QUANTIZER;
        (*context).slices = i32::try_from(thread_count(config)).unwrap_or(1);
    }
    let mut options = ff::Dictionary::new();
    options.set("deadline", "realtime");
    options.set("cpu-used", "-5");
    options.set("lag-in-frames", "0");
    options.set("auto-alt-ref", "0");
    options.set("error-resilient", "0");
    options.set("threads", thread_count(config).to_string());
    video.open_with(options).map_err(|e| Error::Open(ENCODER_NAME, e))
}
