//! What encoders of pictures have in common.
#![expect(unsafe_code, reason = "settings of libavcodec that its bindings do not wrap")]

use ff::codec::Context;
use ff::encoder::Encoder;
use ff::encoder::video::Video;
use ff::format::Pixel;
use ff::{ffi, frame};
use ffmpeg_the_third as ff;

use super::budget::BitBudget;
use super::{Config, Error};
use crate::convert::Matrix;

/// Pixels per second that one core encodes with ease; more get another slice and thread.
const PIXELS_PER_THREAD: u32 = 45_000_000;

/// How a picture is to be encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct EncodeParams {
    /// Its tick.
    pub(super) index: i64,
    /// Whether decoding can start here.
    pub(super) keyframe: bool,
    /// As in [`FrameDecision`](super::Choice).
    pub(super) refinement: u8,
    /// The page shows what it did at the last one.
    pub(super) unchanged: bool,
}

/// An open encoder. Each picture becomes one packet.
pub(super) trait CodecBackend: Send {
    /// Takes a picture. Its packet is then to be had from [`CodecBackend::encoder`].
    fn send_frame(
        &mut self,
        picture: &mut frame::Video,
        shot: EncodeParams,
        purse: &BitBudget,
    ) -> Result<(), Error>;

    /// Hears how many bits the last picture took.
    fn on_encoded_bits(&mut self, _bits: u64) {}

    /// Spends no more than this from the next picture on, in bit/s.
    fn set_max_bitrate(&mut self, bitrate_bps: u32);

    /// What libavcodec has.
    fn encoder(&mut self) -> &mut Encoder;

    /// The tick of a packet.
    fn tick_of(&self, packet: &ff::Packet) -> i64;
}

/// An encoder that is not open yet, with what all have in common.
pub(super) fn new_encoder(name: &'static str, library: &str, config: &Config) -> Result<Video, Error> {
    let codec = ff::encoder::find_by_name(library).ok_or(Error::EncoderNotFound(name))?;
    let mut video = Context::new_with_codec(codec).encoder().video().map_err(|e| Error::Open(name, e))?;
    let rate = ticks_per_second(config);
    video.set_width(config.size.width());
    video.set_height(config.size.height());
    video.set_format(Pixel::YUV420P);
    video.set_time_base((1, rate));
    video.set_frame_rate(Some((rate, 1)));
    video.set_max_b_frames(0);
    video.set_colorspace(match config.codec.matrix() {
        Matrix::Bt709 => ff::color::Space::BT709,
        Matrix::Bt601 => ff::color::Space::SMPTE170M,
    });
    video.set_color_range(ff::color::Range::MPEG);
    // SAFETY: the context is ours and not yet open; these fields may be set until then.
    unsafe {
        let context = &mut *video.as_mut_ptr();
        context.color_primaries = ffi::AVColorPrimaries::BT709;
        context.color_trc = ffi::AVColorTransferCharacteristic::BT709;
        context.chroma_sample_location = ffi::AVChromaLocation::CENTER;
    }
    Ok(video)
}

/// Ticks per second.
pub(super) fn ticks_per_second(config: &Config) -> i32 {
    i32::try_from(config.fps.get()).unwrap_or(60)
}

/// Threads, and so slices, that keep up.
pub(super) fn thread_count(config: &Config) -> u32 {
    let pixels = config.size.width() * config.size.height() * config.fps.get();
    pixels.div_ceil(PIXELS_PER_THREAD).clamp(1, 8)
}

/// Sets how much an encoder may spend: its cap in bit/s, and the bits that it may spend at once.
pub(super) fn set_vbv(context: *mut ffi::AVCodecContext, max_bps: i64, buffer_bits: i64) {
    // SAFETY: the caller's context is alive and used by nobody else; libavcodec reads these fields when it opens, and libx264's
    // wrapper with each picture.
    unsafe {
        (*context).rc_max_rate = max_bps;
        (*context).rc_buffer_size = i32::try_from(buffer_bits).unwrap_or(i32::MAX);
    }
}
