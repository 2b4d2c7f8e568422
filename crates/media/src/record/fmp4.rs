//! Muxes packets to fragmented MP4 with explicit fragment and file boundaries.
#![expect(unsafe_code, reason = "calls of libavformat that its bindings do not wrap")]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ff::ffi;
use ff::format::context::Output;
use ffmpeg_the_third as ff;
use pagecast_core::{Packet, SAMPLE_RATE, Track};

use crate::encode::Tracks;
use crate::mux::{self, add_stream, check_av, file_url, to_av_packet};

/// Writes one run: the initialization segment, then fragments to one segment file after the other.
pub(super) struct Muxer {
    output: Output,
    /// Stream index and units per second of the time base, for each track.
    video: Option<(usize, u32)>,
    audio: (usize, u32),
    /// File of the next fragment, if not the open one.
    next_file: Option<PathBuf>,
    has_header: bool,
}

impl std::fmt::Debug for Muxer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Muxer").field("next", &self.next_file).finish_non_exhaustive()
    }
}

impl Muxer {
    /// Starts a run. `init` is the path of its initialization segment, `segment` that of its first segment.
    /// Only the time stamps of the `first` run start at zero.
    pub(super) fn create(
        init: &Path,
        segment: PathBuf,
        tracks: Tracks,
        first: bool,
    ) -> Result<Self, ff::Error> {
        let mut output = ff::format::output_as(file_url(init), "mp4")?;
        let mut add = |parameters, per_second| -> Result<(usize, u32), ff::Error> {
            let base = (1, i32::try_from(per_second).unwrap_or(i32::MAX));
            Ok((add_stream(&mut output, parameters, base)?, per_second))
        };
        let video = tracks.video.map(|(parameters, fps)| add(parameters, fps.get())).transpose()?;
        let audio = add(tracks.audio, SAMPLE_RATE)?;
        let mut options = ff::Dictionary::new();
        // `delay_moov` writes the header with the first fragment, so that its edit list includes the priming.
        let flags = "frag_custom+delay_moov+default_base_moof+skip_trailer";
        options.set("movflags", if first { flags.to_owned() } else { format!("{flags}+frag_discont") });
        output.write_header_with(options)?;
        Ok(Self { output, video, audio, next_file: Some(segment), has_header: false })
    }

    pub(super) fn write(&mut self, packet: &Packet) -> Result<(), ff::Error> {
        let (stream, per_second) = match (packet.track, self.video) {
            (Track::Audio, _) => self.audio,
            (Track::Video, Some(video)) => video,
            (Track::Video, None) => return Ok(()),
        };
        let mut av = to_av_packet(packet, stream, per_second);
        let base = self.output.stream(stream).map_or(ff::Rational(1, 1), |s| s.time_base());
        av.rescale_ts(ff::Rational(1, i32::try_from(per_second).unwrap_or(i32::MAX)), base);
        mux::write_packet(&mut self.output, &mut av)
    }

    /// Ends a fragment and flushes it to the kernel. Returns the size of its file in bytes.
    pub(super) fn end_fragment(&mut self) -> Result<u64, ff::Error> {
        // The first flush writes the delayed header and nothing else.
        if !std::mem::replace(&mut self.has_header, true) {
            self.flush()?;
        }
        if let Some(path) = self.next_file.take() {
            self.open_file(&path)?;
        }
        self.flush()
    }

    /// Sets the file that the next fragment starts.
    pub(super) fn set_next_file(&mut self, path: PathBuf) {
        self.next_file = Some(path);
    }

    /// Closes the current file and opens another, which is empty. It is not truncated, as that would release
    /// its reserved space.
    fn open_file(&mut self, path: &Path) -> Result<(), ff::Error> {
        let url = CString::new(file_url(path).as_bytes())
            .map_err(|_| ff::Error::Other { errno: rustix::io::Errno::INVAL.raw_os_error() })?;
        // SAFETY: we own the context; between two fragments the output of its muxer may be replaced.
        unsafe {
            let context = self.output.as_mut_ptr();
            let closed = ffi::avio_closep(&raw mut (*context).pb);
            let mut options = std::ptr::null_mut();
            let set = ffi::av_dict_set(&raw mut options, c"truncate".as_ptr(), c"0".as_ptr(), 0);
            let opened = ffi::avio_open2(
                &raw mut (*context).pb,
                url.as_ptr(),
                ffi::AVIO_FLAG_WRITE,
                std::ptr::null(),
                &raw mut options,
            );
            ffi::av_dict_free(&raw mut options);
            check_av(closed.min(set).min(opened))
        }
    }

    fn flush(&mut self) -> Result<u64, ff::Error> {
        // SAFETY: we own the context, which is past its header; a null packet flushes the muxer. Nothing is
        // dereferenced if its file could not be opened.
        unsafe {
            let context = self.output.as_mut_ptr();
            if !(*context).pb.is_null() {
                check_av(ffi::av_write_frame(context, std::ptr::null_mut()))?;
            }
        }
        mux::flush(&mut self.output)
    }
}
