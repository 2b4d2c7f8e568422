//! Helpers shared by all muxers.
#![expect(unsafe_code, reason = "calls of libavformat that its bindings do not wrap")]

use std::ffi::OsString;
use std::path::Path;

use ff::format::context::Output;
use ff::{ffi, packet};
use ffmpeg_the_third as ff;
use pagecast_core::{MediaTime, Packet};

/// `SEEK_CUR` of `lseek`: an offset from the current position.
const SEEK_CUR: i32 = 1;

/// Adds a stream with time base `base` and returns its index.
pub(crate) fn add_stream(
    output: &mut Output,
    parameters: impl ff::AsPtr<ffi::AVCodecParameters>,
    base: impl Into<ff::Rational>,
) -> Result<usize, ff::Error> {
    let mut stream = output.add_stream(ff::codec::Id::None)?;
    stream.set_parameters(parameters);
    stream.set_time_base(base);
    // SAFETY: the stream and its parameters were just made by libavformat; 0 lets the container choose its
    // tag.
    unsafe {
        (*(*stream.as_mut_ptr()).codecpar).codec_tag = 0;
    }
    Ok(stream.index())
}

/// Converts a packet for libavformat, with time stamps in units of 1/`per_second` seconds.
pub(crate) fn to_av_packet(packet: &Packet, stream: usize, per_second: u32) -> ff::Packet {
    let mut av = ff::Packet::copy(&packet.data);
    let at = |t: MediaTime| t.to_index(per_second);
    av.set_stream(stream);
    av.set_pts(Some(at(packet.pts)));
    av.set_dts(Some(at(packet.dts)));
    av.set_duration(at(packet.duration));
    av.set_flags(if packet.keyframe { packet::Flags::KEY } else { packet::Flags::empty() });
    av
}

/// Writes a packet to a muxer.
pub(crate) fn write_packet(output: &mut Output, packet: &mut ff::Packet) -> Result<(), ff::Error> {
    // SAFETY: the context is ours, open, and past its header; the packet lives until the call returns.
    check_av(unsafe { ffi::av_write_frame(output.as_mut_ptr(), packet::Mut::as_mut_ptr(packet)) })
}

/// Flushes the output and returns its position in bytes, or 0 where it has none.
pub(crate) fn flush(output: &mut Output) -> Result<u64, ff::Error> {
    // SAFETY: we own the context. Nothing is dereferenced if its file could not be opened.
    unsafe {
        let io = (*output.as_mut_ptr()).pb;
        if io.is_null() {
            return Err(ff::Error::Other { errno: rustix::io::Errno::BADF.raw_os_error() });
        }
        ffi::avio_flush(io);
        check_av((*io).error)?;
        Ok(u64::try_from(ffi::avio_seek(io, 0, SEEK_CUR)).unwrap_or(0))
    }
}

/// Writes the container's trailer.
pub(crate) fn write_trailer(output: &mut Output) -> Result<(), ff::Error> {
    // SAFETY: the context is ours and past its header.
    check_av(unsafe { ffi::av_write_trailer(output.as_mut_ptr()) })
}

/// Maps a negative result to an error. Some calls return a positive count.
pub(crate) fn check_av(result: i32) -> Result<(), ff::Error> {
    if result < 0 { Err(result.into()) } else { Ok(()) }
}

/// A `file:` URL of a path, so that libavformat does not take it for another protocol.
pub(crate) fn file_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}
