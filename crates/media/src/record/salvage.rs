//! Salvages the complete fragments of a segment whose recorder was killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use ffmpeg_the_third as ff;
use pagecast_core::MediaTime;
use pagecast_core::ledger::{Run, Segment};

use super::concat::ConcatInput;
use super::spool::{EarlierSegment, RecordedEntry, Spool, sync_folder};

/// The recorded contents of a spool.
#[derive(Debug, Default)]
pub(super) struct SpoolContents {
    pub(super) runs: Vec<Run>,
    pub(super) segments: Vec<Segment>,
    /// Index of the next thumbnail.
    pub(super) next_thumbnail: u32,
}

impl SpoolContents {
    /// End of the recording so far.
    pub(super) fn end(&self) -> MediaTime {
        self.segments.last().map_or(MediaTime::ZERO, |s| s.start + s.duration)
    }
}

/// Reads the log of a spool and appends the salvaged open segment, if there is one.
pub(super) fn load(spool: &Spool) -> io::Result<SpoolContents> {
    let mut contents = SpoolContents::default();
    for entry in spool.recorded_log_reader()?.read_new()? {
        entry.validate(contents.segments.len(), contents.next_thumbnail as usize)?;
        match entry {
            RecordedEntry::Run(run) => contents.runs.push(run),
            RecordedEntry::Segment(segment)
            | RecordedEntry::EarlierSegment(EarlierSegment { segment, .. }) => {
                contents.segments.push(segment);
            }
            RecordedEntry::Thumbnail(thumbnail) | RecordedEntry::EarlierThumbnail(thumbnail) => {
                contents.next_thumbnail = thumbnail.index + 1;
            }
        }
    }
    let open = contents
        .runs
        .last()
        .map(|run| salvage_open_segment(spool, run, contents.segments.last()))
        .transpose()?;
    if let Some(segment) = open.flatten() {
        tracing::info!(
            segment = segment.index,
            duration_s = segment.duration.as_secs_f64(),
            "open segment salvaged"
        );
        spool.recorded_log_writer()?.append(&RecordedEntry::Segment(segment))?;
        contents.segments.push(segment);
    }
    Ok(contents)
}

/// Truncates the open segment to its complete fragments; `None` if it has none.
fn salvage_open_segment(spool: &Spool, run: &Run, last: Option<&Segment>) -> io::Result<Option<Segment>> {
    let index = last.map_or(0, |s| s.index + 1);
    let start = last.map_or(MediaTime::ZERO, |s| s.start + s.duration);
    let empty =
        Segment { index, run: run.index, epoch: run.epoch, start, duration: MediaTime::ZERO, bytes: 0 };
    let path = spool.segment_source(&empty).segment;
    let bytes = match whole_fragments(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if bytes == 0 {
        return Ok(None);
    }
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(bytes)?;
    file.sync_all()?;
    sync_folder(spool.folder())?;
    let end = end_time(&spool.segment_source(&empty).init, &path).map_err(|error| {
        io::Error::other(format!(
            "cannot read segment {}: {error}; remove this file to recover the others",
            path.display()
        ))
    })?;
    Ok((end > start).then_some(Segment { duration: end - start, bytes, ..empty }))
}

/// Size in bytes of the complete fragments (`moof` and `mdat`) at the start of a file.
fn whole_fragments(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let (mut at, mut whole) = (0_u64, 0);
    let mut header = [0; 16];
    while at + 8 <= length {
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header[..8])?;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (kind, short) = (word(4), u64::from(word(0)));
        let size = if short == 1 && at + 16 <= length {
            file.read_exact(&mut header[8..])?;
            u64::from_be_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|i: usize| header[i]))
        } else {
            short
        };
        let Some(end) = at.checked_add(size).filter(|end| size >= 8 && *end <= length) else { break };
        if kind.to_be_bytes() == *b"mdat" {
            whole = end;
        }
        at = end;
    }
    Ok(whole)
}

/// End of the first track of a segment.
pub(super) fn end_time(init: &Path, segment: &Path) -> Result<MediaTime, ff::Error> {
    let mut end = MediaTime(i64::MIN);
    ConcatInput::open(&[init, segment])?.for_each_packet(|base, packet| {
        if let (0, Some(dts)) = (packet.stream(), packet.dts()) {
            let per_second = u32::try_from(base.1).unwrap_or(1);
            end = end.max(MediaTime::from_index(dts.saturating_add(packet.duration()), per_second));
        }
        Ok(())
    })?;
    Ok(end)
}
