//! Remuxes recorded segments, without encoding again: to one MP4 with its index in front, or to MPEG-TS.

use std::fs::File;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat};
use ff::format::context::Output;
use ffmpeg_the_third as ff;
use pagecast_core::MediaTime;

use super::concat::ConcatInput;
use super::spool::sync_folder;
use crate::mux::{add_stream, file_url, write_packet, write_trailer};

/// First MPEG-TS time stamp, in units of 1/90000 s: 1.4 s as in FFmpeg, as negative ones do not exist.
const TS_TIME_OFFSET: i64 = 126_000;
/// Units per second of MPEG-TS time stamps.
const TS_CLOCK_HZ: i32 = 90_000;

/// Errors of assembling a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Error {
    /// A segment cannot be read, or the file cannot be written.
    #[error("cannot assemble {} from its segments", .0.display())]
    Write(PathBuf, #[source] ff::Error),
    /// A file operation failed.
    #[error("cannot assemble {} from its segments", .0.display())]
    Io(PathBuf, #[source] std::io::Error),
}

/// A recorded segment and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentSource {
    /// Start in the recording, and duration.
    pub(super) start: MediaTime,
    pub(super) duration: MediaTime,
    /// Initialization segment of the run.
    pub(super) init: PathBuf,
    pub(super) segment: PathBuf,
}

/// Writes segments to one MP4 file, via a temporary file.
pub(super) struct Mp4Writer {
    output: Output,
    /// Path of the file, and of the temporary one.
    path: PathBuf,
    draft: PathBuf,
    /// Time stamp units per second of each track, after the first segment.
    units: Vec<u32>,
    /// Start of the first segment: time stamps of each file start at zero.
    begin_at: MediaTime,
}

impl std::fmt::Debug for Mp4Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mp4Writer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Mp4Writer {
    /// Creates the temporary file `draft`. `unix_ms` is the creation time: when the first picture was shown,
    /// in ms since 1970.
    pub(super) fn create(unix_ms: i64, path: PathBuf, draft: PathBuf) -> Result<Self, Error> {
        let mut output =
            ff::format::output_as(file_url(&draft), "mp4").map_err(|e| Error::Write(path.clone(), e))?;
        let created = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
        output.metadata_mut().set("creation_time", created.to_rfc3339_opts(SecondsFormat::Micros, true));
        Ok(Self { output, path, draft, units: Vec::new(), begin_at: MediaTime::ZERO })
    }

    /// Appends a segment.
    pub(super) fn append(&mut self, segment: &SegmentSource) -> Result<(), Error> {
        self.copy(segment).map_err(|e| Error::Write(self.path.clone(), e))
    }

    fn copy(&mut self, segment: &SegmentSource) -> Result<(), ff::Error> {
        let mut input = ConcatInput::open(&[&segment.init, &segment.segment])?;
        if self.units.is_empty() {
            self.begin_at = segment.start;
            self.units = write_header(&mut self.output, &input)?;
        }
        let end_at = segment.start + segment.duration;
        copy_packets(&mut input, &mut self.output, &self.units, self.begin_at, end_at)
    }

    /// Whether no segment was appended.
    pub(super) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Completes the file, with its index in front.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        write_trailer(&mut self.output).map_err(|e| Error::Write(self.path.clone(), e))?;
        let sync = File::open(&self.draft).and_then(|file| file.sync_all());
        let moved = sync.and_then(|()| std::fs::rename(&self.draft, &self.path));
        let synced = moved.and_then(|()| self.path.parent().map_or(Ok(()), sync_folder));
        synced.map_err(|e| Error::Io(self.path.clone(), e))
    }
}

impl Drop for Mp4Writer {
    fn drop(&mut self) {
        // It is gone if the file is complete.
        let _ignored = std::fs::remove_file(&self.draft);
    }
}

/// Writes a header with the tracks of `input`; returns the time stamp units per second of each track.
fn write_header(output: &mut Output, input: &ConcatInput) -> Result<Vec<u32>, ff::Error> {
    for stream in input.input().streams() {
        add_stream(output, stream.parameters(), stream.time_base())?;
    }
    let mut options = ff::Dictionary::new();
    options.set("movflags", "faststart");
    output.write_header_with(options)?;
    Ok(output.streams().map(|s| u32::try_from(s.time_base().1).unwrap_or(1)).collect())
}

/// Copies the packets of one segment, which ends at `end_at`.
fn copy_packets(
    input: &mut ConcatInput,
    output: &mut Output,
    units: &[u32],
    begin_at: MediaTime,
    end_at: MediaTime,
) -> Result<(), ff::Error> {
    input.for_each_packet(|base, mut packet| {
        let Some(&per_second) = units.get(packet.stream()) else { return Ok(()) };
        packet.rescale_ts(base, ff::Rational(1, i32::try_from(per_second).unwrap_or(i32::MAX)));
        let (Some(pts), Some(dts)) = (packet.pts(), packet.dts()) else { return Ok(()) };
        // In a salvaged segment audio may be longer than video; the next segment starts at `end_at`.
        if dts >= end_at.to_index(per_second) {
            return Ok(());
        }
        // The demuxer may return any duration for the last packet of a fragment; limit it to the segment's
        // end.
        let rest = (end_at.to_index(per_second) - dts).max(0);
        let known = packet.duration();
        packet.set_duration(if known > 0 { known.min(rest) } else { rest });
        let before = begin_at.to_index(per_second);
        packet.set_pts(Some(pts - before));
        packet.set_dts(Some(dts - before));
        write_packet(output, &mut packet)
    })
}

/// Decoder configuration of a run. Runs with the same configuration can share a file.
pub(super) fn extradata(init: &Path) -> Option<Vec<u8>> {
    Some(ConcatInput::open(&[init]).ok()?.extradata())
}

/// Writes one segment as MPEG-TS, via the temporary file `draft`, with the recording's time stamps.
pub(super) fn write_ts(segment: &SegmentSource, path: &Path, draft: &Path) -> Result<(), Error> {
    let written = remux_to_ts(segment, draft).map_err(|e| Error::Write(path.to_owned(), e));
    let moved =
        written.and_then(|()| std::fs::rename(draft, path).map_err(|e| Error::Io(path.to_owned(), e)));
    if moved.is_err() {
        // The draft may not exist.
        let _ignored = std::fs::remove_file(draft);
    }
    moved
}

fn remux_to_ts(segment: &SegmentSource, path: &Path) -> Result<(), ff::Error> {
    let mut input = ConcatInput::open(&[&segment.init, &segment.segment])?;
    let mut output = ff::format::output_as(file_url(path), "mpegts")?;
    for stream in input.input().streams() {
        add_stream(&mut output, stream.parameters(), (1, TS_CLOCK_HZ))?;
    }
    let mut options = ff::Dictionary::new();
    options.set("mpegts_copyts", "1");
    // Continuity counters restart in each segment.
    options.set("mpegts_flags", "initial_discontinuity");
    options.set("muxdelay", "0");
    output.write_header_with(options)?;
    let end_at = (segment.start + segment.duration).to_index(TS_CLOCK_HZ.unsigned_abs());
    input.for_each_packet(|base, mut packet| {
        packet.rescale_ts(base, ff::Rational(1, TS_CLOCK_HZ));
        if packet.dts().is_some_and(|dts| dts >= end_at) {
            return Ok(());
        }
        packet.set_pts(packet.pts().map(|t| t + TS_TIME_OFFSET));
        packet.set_dts(packet.dts().map(|t| t + TS_TIME_OFFSET));
        packet.write_interleaved(&mut output)
    })?;
    write_trailer(&mut output)
}
