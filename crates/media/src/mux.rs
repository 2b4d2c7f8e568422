//! What everything that packs packets into a container has in common.
#![expect(unsafe_code, reason = "calls of libavformat that its bindings do not wrap")]

use std::ffi::OsString;
use std::path::Path;

use ff::format::context::Output;
use ff::{ffi, packet};
use ffmpeg_the_third as ff;
use pagecast_core::{MediaTime, Packet};

/// `lseek` from where it stands.
const SEEK_CUR: i32 = 1;

/// Adds a stream whose times are multiples of `base` seconds. Its number.
pub(crate) fn add_stream(
    output: &mut Output,
    parameters: impl ff::AsPtr<ffi::AVCodecParameters>,
    base: impl Into<ff::Rational>,
) -> Result<usize, ff::Error> {
    let mut stream = output.add_stream(ff::codec::Id::None)?;
    stream.set_parameters(parameters);
    stream.set_time_base(base);
    // SAFETY: the stream and its parameters were just made by libavformat; 0 lets the container choose its tag.
    unsafe {
        (*(*stream.as_mut_ptr()).codecpar).codec_tag = 0;
    }
    Ok(stream.index())
}

/// A packet as libavformat takes it, for a stream that counts `per_second` units a second.
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

/// Hands a packet to a muxer.
pub(crate) fn write_packet(output: &mut Output, packet: &mut ff::Packet) -> Result<(), ff::Error> {
    // SAFETY: the context is ours, open, and past its header; the packet lives until the call returns.
    check_av(unsafe { ffi::av_write_frame(output.as_mut_ptr(), packet::Mut::as_mut_ptr(packet)) })
}

/// Hands what was written to whom it is for. How much was written to it so far, where that is known.
pub(crate) fn flush(output: &mut Output) -> Result<u64, ff::Error> {
    // SAFETY: the context is ours. Without a file, which could not be opened, nothing is touched.
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

/// Writes what stands at a file's end.
pub(crate) fn write_trailer(output: &mut Output) -> Result<(), ff::Error> {
    // SAFETY: the context is ours and past its header.
    check_av(unsafe { ffi::av_write_trailer(output.as_mut_ptr()) })
}

/// Some calls return how much they wrote.
pub(crate) fn check_av(result: i32) -> Result<(), ff::Error> {
    if result < 0 { Err(result.into()) } else { Ok(()) }
}

/// A path that libavformat does not take for another protocol.
pub(crate) fn file_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}
