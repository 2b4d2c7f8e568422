//! MP4 by libavformat.
#![expect(unsafe_code, reason = "calls of libavformat that its bindings do not wrap")]

use std::path::Path;

use ff::format::context::Output;
use ff::{ffi, packet};
use ffmpeg_the_third as ff;
use pagecast_core::{MediaTime, Packet, SAMPLE_RATE, Track};

use super::Tracks;

const VIDEO: usize = 0;
const AUDIO: usize = 1;
/// `lseek` from where it stands.
const SEEK_CUR: i32 = 1;

/// A file that grows by fragments.
pub(super) struct Fragmented {
    output: Output,
    fps: u32,
    has_header: bool,
}

impl std::fmt::Debug for Fragmented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fragmented")
    }
}

impl Fragmented {
    pub(super) fn create(path: &Path, tracks: Tracks) -> Result<Self, ff::Error> {
        let mut output = ff::format::output_as(url(path), "mp4")?;
        let fps = tracks.video.1.get();
        add_stream(&mut output, tracks.video.0, fps)?;
        add_stream(&mut output, tracks.audio, SAMPLE_RATE)?;
        let mut options = ff::Dictionary::new();
        // With `delay_moov` the header waits for the first fragment and can say where the sound's priming ends.
        options.set("movflags", "frag_custom+delay_moov+default_base_moof");
        output.write_header_with(options)?;
        Ok(Self { output, fps, has_header: false })
    }

    pub(super) fn write(&mut self, packet: &Packet) -> Result<(), ff::Error> {
        let (stream, per_second) = match packet.track {
            Track::Video => (VIDEO, self.fps),
            Track::Audio => (AUDIO, SAMPLE_RATE),
        };
        let mut av = ff::Packet::copy(&packet.data);
        let at = |t: MediaTime| t.to_index(per_second);
        av.set_stream(stream);
        av.set_pts(Some(at(packet.pts)));
        av.set_dts(Some(at(packet.dts)));
        av.set_duration(at(packet.duration));
        av.set_flags(if packet.keyframe { packet::Flags::KEY } else { packet::Flags::empty() });
        let base = self.output.stream(stream).map_or(ff::Rational(1, 1), |s| s.time_base());
        av.rescale_ts(ff::Rational(1, i32::try_from(per_second).unwrap_or(i32::MAX)), base);
        // SAFETY: the context is ours, open, and past its header; the packet lives until the call returns.
        let written =
            unsafe { ffi::av_write_frame(self.output.as_mut_ptr(), packet::Mut::as_mut_ptr(&mut av)) };
        // Some muxers return how much they wrote.
        if written < 0 { Err(written.into()) } else { Ok(()) }
    }

    /// Ends a fragment and hands it to the system. The file's length then.
    pub(super) fn cut(&mut self) -> Result<u64, ff::Error> {
        // The first flush writes the delayed header and nothing else.
        if !std::mem::replace(&mut self.has_header, true) {
            self.flush()?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<u64, ff::Error> {
        // SAFETY: the context is ours, open, and past its header; a null packet asks the muxer to flush.
        unsafe {
            let context = self.output.as_mut_ptr();
            let written = ffi::av_write_frame(context, std::ptr::null_mut());
            if written < 0 {
                return Err(written.into());
            }
            let io = (*context).pb;
            ffi::avio_flush(io);
            if (*io).error < 0 {
                return Err((*io).error.into());
            }
            Ok(u64::try_from(ffi::avio_seek(io, 0, SEEK_CUR)).unwrap_or(0))
        }
    }

    /// Writes what stands at a file's end.
    pub(super) fn end(&mut self) -> Result<(), ff::Error> {
        end(&mut self.output)
    }
}

/// Why a file cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemuxError {
    #[error("libavformat: {0}")]
    Av(#[from] ff::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Copies all packets of `from` into a new file `to` with its index in front.
pub(super) fn remux(from: &Path, to: &Path) -> Result<(), RemuxError> {
    let mut input = ff::format::input(url(from))?;
    let mut output = ff::format::output_as(url(to), "mp4")?;
    let mut bases = Vec::new();
    for stream in input.streams() {
        bases.push(stream.time_base());
        let mut added = output.add_stream(ff::codec::Id::None)?;
        added.set_parameters(stream.parameters());
        added.set_time_base(stream.time_base());
    }
    let mut options = ff::Dictionary::new();
    options.set("movflags", "faststart");
    output.write_header_with(options)?;
    let mut packet = ff::Packet::empty();
    loop {
        match packet.read(&mut input) {
            Ok(()) => {}
            Err(ff::Error::Eof) => break,
            Err(e) => return Err(e.into()),
        }
        let target = output.stream(packet.stream()).map_or(ff::Rational(1, 1), |s| s.time_base());
        if let Some(base) = bases.get(packet.stream()) {
            packet.rescale_ts(*base, target);
            packet.set_position(-1);
            packet.write_interleaved(&mut output)?;
        }
    }
    end(&mut output)?;
    Ok(())
}

fn end(output: &mut Output) -> Result<(), ff::Error> {
    // SAFETY: the context is ours and past its header. Like other calls it may return how much it wrote.
    let written = unsafe { ffi::av_write_trailer(output.as_mut_ptr()) };
    if written < 0 { Err(written.into()) } else { Ok(()) }
}

fn add_stream(
    output: &mut Output,
    parameters: ff::codec::Parameters,
    per_second: u32,
) -> Result<(), ff::Error> {
    let mut stream = output.add_stream(ff::codec::Id::None)?;
    stream.set_parameters(parameters);
    stream.set_time_base((1, i32::try_from(per_second).unwrap_or(i32::MAX)));
    // SAFETY: the stream and its parameters were just made by libavformat; 0 lets the container choose its tag.
    unsafe {
        (*(*stream.as_mut_ptr()).codecpar).codec_tag = 0;
    }
    Ok(())
}

/// A path that libavformat does not take for another protocol.
fn url(path: &Path) -> std::ffi::OsString {
    let mut url = std::ffi::OsString::from("file:");
    url.push(path);
    url
}
