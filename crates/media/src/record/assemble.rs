//! Recorded segments become what players like best: one MP4 with its index in front, or MPEG-TS. Nothing is
//! encoded again.

use std::fs::File;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat};
use ff::format::context::Output;
use ffmpeg_the_third as ff;
use pagecast_core::MediaTime;

use super::concat::ConcatInput;
use super::spool::sync_folder;
use crate::mux::{add_stream, file_url, write_packet, write_trailer};

/// Time stamps of MPEG-TS begin here, as nothing before zero can be said in it: 1.4 s, as is usual.
const TS_TIME_OFFSET: i64 = 126_000;
/// Units a second of MPEG-TS.
const TS_CLOCK_HZ: i32 = 90_000;

/// Why a file cannot be made of segments.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Error {
    /// A segment cannot be read, or the file not be written.
    #[error("cannot make {} of its segments", .0.display())]
    Write(PathBuf, #[source] ff::Error),
    /// The same, as the system says it.
    #[error("cannot make {} of its segments", .0.display())]
    Io(PathBuf, #[source] std::io::Error),
}

/// A segment where it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentSource {
    /// When it begins in the recording, and how long it lasts.
    pub(super) start: MediaTime,
    pub(super) duration: MediaTime,
    /// What begins the run.
    pub(super) init: PathBuf,
    pub(super) segment: PathBuf,
}

/// Writes pieces as one MP4, through `draft`. Its creation time is when its first picture was shown, in ms
/// since 1970.
pub(super) fn write_mp4(
    pieces: &[SegmentSource],
    unix_ms: i64,
    path: &Path,
    draft: &Path,
) -> Result<(), Error> {
    let made = concat_to_mp4(pieces, unix_ms, draft).map_err(|e| Error::Write(path.to_owned(), e));
    let moved = made.and_then(|()| {
        let sync = File::open(draft).and_then(|file| file.sync_all());
        let moved = sync.and_then(|()| std::fs::rename(draft, path));
        let synced = moved.and_then(|()| path.parent().map_or(Ok(()), sync_folder));
        synced.map_err(|e| Error::Io(path.to_owned(), e))
    });
    if moved.is_err() {
        // It may not even have been made.
        let _gone = std::fs::remove_file(draft);
    }
    moved
}

fn concat_to_mp4(pieces: &[SegmentSource], unix_ms: i64, path: &Path) -> Result<(), ff::Error> {
    let mut output = ff::format::output_as(file_url(path), "mp4")?;
    let created = DateTime::from_timestamp_millis(unix_ms).unwrap_or_default();
    output.metadata_mut().set("creation_time", created.to_rfc3339_opts(SecondsFormat::Micros, true));
    let mut units = Vec::new();
    // A file begins at zero, wherever it is in the recording.
    let begin_at = pieces.first().map_or(MediaTime::ZERO, |piece| piece.start);
    for piece in pieces {
        let mut chain = ConcatInput::open(&[&piece.init, &piece.segment])?;
        if units.is_empty() {
            units = write_header(&mut output, &chain)?;
        }
        copy_packets(&mut chain, &mut output, &units, begin_at, piece.start + piece.duration)?;
    }
    write_trailer(&mut output)
}

/// Writes the header of a file that has the tracks of this piece. Units a second, by track.
fn write_header(output: &mut Output, chain: &ConcatInput) -> Result<Vec<u32>, ff::Error> {
    for stream in chain.input().streams() {
        add_stream(output, stream.parameters(), stream.time_base())?;
    }
    let mut options = ff::Dictionary::new();
    options.set("movflags", "faststart");
    output.write_header_with(options)?;
    Ok(output.streams().map(|s| u32::try_from(s.time_base().1).unwrap_or(1)).collect())
}

/// Copies all packets of one piece, which ends at `end_at`.
fn copy_packets(
    chain: &mut ConcatInput,
    output: &mut Output,
    units: &[u32],
    begin_at: MediaTime,
    end_at: MediaTime,
) -> Result<(), ff::Error> {
    chain.for_each_packet(|base, mut packet| {
        let Some(&per_second) = units.get(packet.stream()) else { return Ok(()) };
        packet.rescale_ts(base, ff::Rational(1, i32::try_from(per_second).unwrap_or(i32::MAX)));
        let (Some(pts), Some(dts)) = (packet.pts(), packet.dts()) else { return Ok(()) };
        // Sound that goes on when the picture rests may be longer than a segment that was broken off: what
        // follows begins there.
        if dts >= end_at.to_index(per_second) {
            return Ok(());
        }
        // The last packet of a fragment is read with any duration. It matters for the last one of the file
        // only.
        let rest = (end_at.to_index(per_second) - dts).max(0);
        let known = packet.duration();
        packet.set_duration(if known > 0 { known.min(rest) } else { rest });
        let before = begin_at.to_index(per_second);
        packet.set_pts(Some(pts - before));
        packet.set_dts(Some(dts - before));
        write_packet(output, &mut packet)
    })
}

/// What the tracks of a run need to be decoded: runs where it is the same can be in one file.
pub(super) fn extradata(init: &Path) -> Option<Vec<u8>> {
    Some(ConcatInput::open(&[init]).ok()?.extradata())
}

/// Writes one piece as MPEG-TS, through `draft`. Its time goes on through the run.
pub(super) fn write_ts(piece: &SegmentSource, path: &Path, draft: &Path) -> Result<(), Error> {
    let made = remux_to_ts(piece, draft).map_err(|e| Error::Write(path.to_owned(), e));
    let moved = made.and_then(|()| std::fs::rename(draft, path).map_err(|e| Error::Io(path.to_owned(), e)));
    if moved.is_err() {
        // It may not even have been made.
        let _gone = std::fs::remove_file(draft);
    }
    moved
}

fn remux_to_ts(piece: &SegmentSource, path: &Path) -> Result<(), ff::Error> {
    let mut chain = ConcatInput::open(&[&piece.init, &piece.segment])?;
    let mut output = ff::format::output_as(file_url(path), "mpegts")?;
    for stream in chain.input().streams() {
        add_stream(&mut output, stream.parameters(), (1, TS_CLOCK_HZ))?;
    }
    let mut options = ff::Dictionary::new();
    options.set("mpegts_copyts", "1");
    // Each segment counts its packets anew, and says so.
    options.set("mpegts_flags", "initial_discontinuity");
    options.set("muxdelay", "0");
    output.write_header_with(options)?;
    let end_at = (piece.start + piece.duration).to_index(TS_CLOCK_HZ.unsigned_abs());
    chain.for_each_packet(|base, mut packet| {
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
