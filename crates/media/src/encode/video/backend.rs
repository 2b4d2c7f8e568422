//! The interface and shared settings of the video codecs.
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

/// Pixels per second for which one thread suffices (measured); more get another slice and thread.
const PIXELS_PER_THREAD: u32 = 45_000_000;

/// Parameters of one picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct EncodeParams {
    /// Index of its tick.
    pub(super) index: i64,
    /// Whether decoding can start here.
    pub(super) keyframe: bool,
    /// Refinements so far, as in [`FrameDecision`](super::FrameDecision).
    pub(super) refinement: u8,
    /// Whether the page did not change since the last encoded picture.
    pub(super) unchanged: bool,
}

/// An open video codec. Each picture becomes one packet.
pub(super) trait CodecBackend: Send {
    /// Encodes a picture; [`CodecBackend::encoder`] then has its packet.
    fn send_frame(
        &mut self,
        picture: &mut frame::Video,
        params: EncodeParams,
        budget: &BitBudget,
    ) -> Result<(), Error>;

    /// Takes the size of the last picture in bits.
    fn on_encoded_bits(&mut self, _bits: u64) {}

    /// Sets the bitrate limit in bit/s from the next picture on.
    fn set_max_bitrate(&mut self, bitrate_bps: u32);

    /// The underlying encoder of libavcodec.
    fn encoder(&mut self) -> &mut Encoder;

    /// Index of the tick that a packet encodes.
    fn tick_of(&self, packet: &ff::Packet) -> i64;
}

/// Makes an encoder with the shared settings; the caller opens it.
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

/// Number of threads, and so slices, that keep up with the frame rate: 1 to 8.
pub(super) fn thread_count(config: &Config) -> u32 {
    let pixels = config.size.width() * config.size.height() * config.fps.get();
    pixels.div_ceil(PIXELS_PER_THREAD).clamp(1, 8)
}

/// Sets the video buffering verifier: the largest bitrate in bit/s, and the buffer size in bits.
pub(super) fn set_vbv(context: *mut ffi::AVCodecContext, max_bps: i64, buffer_bits: i64) {
    // SAFETY: the caller's context is alive and not shared; libavcodec reads these fields when it opens the
    // encoder, and libx264's wrapper reads them with each picture.
    unsafe {
        (*context).rc_max_rate = max_bps;
        (*context).rc_buffer_size = i32::try_from(buffer_bits).unwrap_or(i32::MAX);
    }
}
