//! VP8 by libvpx.
#![expect(unsafe_code, reason = "settings of libavcodec that its bindings do not wrap")]

use ff::encoder::video::Encoder as Open;
use ff::frame;
use ffmpeg_the_third as ff;

use super::coder::{Coder, Shot, fps, prepare, set_cap, threads};
use super::purse::Purse;
use super::{Codec, Config, Error};

const NAME: &str = Codec::Vp8.name();
/// Units of the encoder's clock in a second.
const CLOCK: i32 = 1_000_000;
/// Size of the rate control's buffer, as seconds at the bitrate that it was opened with; the first keyframe
/// gets half of it.
const BUFFER_SECONDS: f64 = 0.6;
/// Longest time between two pictures that bits are saved up for, in seconds.
const SAVED_SECONDS: f64 = 0.25;
/// How far the cap may be from what the encoder was opened with when a keyframe is made, as a factor.
const NEAR: f64 = 1.25;
/// Best quantizer (0 best, 63 worst). Flat chroma is then off by less than one level; with 10 it was off by
/// more, and stayed so.
const BEST: i32 = 6;

/// An open encoder.
///
/// libvpx spends so many bits a second, and libavcodec lets nobody change how many. But it is us who tell the
/// time: where less is to be spent, time passes more slowly. That changes neither the picture nor the stream.
/// Only the size of the rate control's buffer, and so of keyframes, is off by the same factor; so, as a
/// keyframe owes nothing to what came before, it is made by an encoder that was opened for the cap. For
/// pictures in between, the [`Purse`] has the last word.
pub(super) struct Vp8 {
    inner: Open,
    config: Config,
    cap_bps: f64,
    opened_bps: f64,
    /// The encoder's clock, in units of [`CLOCK`].
    now: i64,
    /// The picture before: its tick.
    last: Option<i64>,
}

impl Vp8 {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let bps = config.bitrate_bps.into();
        let inner = open(config, bps)?;
        Ok(Self { inner, config: *config, cap_bps: bps, opened_bps: bps, now: 0, last: None })
    }

    /// Opens it anew for the cap, if that is not what it was opened for.
    fn reopen(&mut self) -> Result<(), Error> {
        let factor = self.cap_bps / self.opened_bps;
        if !(1.0 / NEAR..=NEAR).contains(&factor) {
            self.inner = open(&self.config, self.cap_bps)?;
            (self.opened_bps, self.now, self.last) = (self.cap_bps, 0, None);
        }
        Ok(())
    }
}

impl Coder for Vp8 {
    fn send(&mut self, picture: &mut frame::Video, shot: Shot, _purse: &Purse) -> Result<(), Error> {
        if shot.keyframe {
            self.reopen()?;
        }
        if let Some(last) = self.last {
            let seconds = (shot.index - last) as f64 / f64::from(fps(&self.config));
            let slowly = self.cap_bps / self.opened_bps;
            self.now += ((seconds.min(SAVED_SECONDS) * slowly * f64::from(CLOCK)) as i64).max(1);
        }
        self.last = Some(shot.index);
        picture.set_kind(if shot.keyframe { ff::picture::Type::I } else { ff::picture::Type::None });
        picture.set_pts(Some(self.now));
        self.inner.send_frame(picture).map_err(|e| Error::Encode(NAME, e))
    }

    fn cap(&mut self, bitrate_bps: u32) {
        self.cap_bps = bitrate_bps.into();
    }

    fn inner(&mut self) -> &mut ff::encoder::Encoder {
        &mut self.inner
    }

    fn index_of(&self, _packet: &ff::Packet) -> i64 {
        // Nothing is held back, so it is always the last picture's.
        self.last.unwrap_or_default()
    }
}

fn open(config: &Config, bps: f64) -> Result<Open, Error> {
    let mut video = prepare(NAME, "libvpx", config)?;
    video.set_time_base((1, CLOCK));
    video.set_bit_rate(bps as usize);
    // As far from each other at least as at most: no keyframe but those that are asked for.
    video.set_gop(i32::MAX.unsigned_abs());
    // SAFETY: the context is ours and not yet open; these fields may be set until then.
    unsafe {
        let context = video.as_mut_ptr();
        set_cap(context, bps as i64, (bps * BUFFER_SECONDS) as i64);
        (*context).rc_min_rate = bps as i64;
        (*context).rc_initial_buffer_occupancy = (bps * BUFFER_SECONDS) as i32;
        (*context).keyint_min = i32::MAX;
        (*context).qmin = BEST;
        (*context).slices = i32::try_from(threads(config)).unwrap_or(1);
    }
    let mut options = ff::Dictionary::new();
    options.set("deadline", "realtime");
    options.set("cpu-used", "-5");
    options.set("lag-in-frames", "0");
    options.set("auto-alt-ref", "0");
    options.set("error-resilient", "0");
    options.set("threads", threads(config).to_string());
    video.open_with(options).map_err(|e| Error::Open(NAME, e))
}
