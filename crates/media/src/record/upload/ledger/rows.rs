//! What the ledger tells: rows for the fleet, and what is missing.

use std::collections::BTreeSet;

use pagecast_core::MediaTime;
use pagecast_core::ledger::LedgerRow;

use super::super::SPOOL_ELSEWHERE;
use super::{Ledger, Place, PlaylistWriter};

/// Most files of earlier owners that are looked for: more than any recording has.
const MAX_MISSING_FILES: u32 = 100_000;

/// Key of a row of the fleet's ledger, in the order in which rows are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKey {
    Run(u32),
    Segment(u32),
    Thumbnail(u32),
    File(u32),
}

impl Ledger {
    /// What earlier owners recorded and is neither stored nor readable, in words.
    pub(in super::super) fn missing(&self) -> Option<String> {
        if self.playlist_writer == PlaylistWriter::LaterOwner {
            return None;
        }
        let mut lost_files: BTreeSet<u32> = (0..self.first_file.min(MAX_MISSING_FILES)).collect();
        let mut lost_duration = MediaTime::ZERO;
        for entry in self.segments.iter().filter(|entry| !entry.is_readable()) {
            match entry.file {
                Some(file) if self.file_segments(file).is_some() => {
                    lost_duration = lost_duration + entry.segment.duration;
                }
                Some(file) => drop(lost_files.insert(file)),
                None => {}
            }
        }
        lost_files.retain(|file| self.format.has_mp4() && !self.earlier_files.contains_key(file));
        let has_lost = self.segments.iter().any(|entry| !entry.is_readable() && !entry.stored);
        let is_unknown = self.first_file > 0 && self.segments.iter().all(|e| e.place == Place::Spool);
        let lost_files: Vec<u32> = lost_files.into_iter().collect();
        let parts = match lost_files.as_slice() {
            [] if lost_duration > MediaTime::ZERO => {
                format!("{:.1} s of the recording", lost_duration.as_secs_f64())
            }
            [] if self.format.has_hls() && (has_lost || is_unknown) => "segments of the recording".to_owned(),
            [] => return None,
            [only] => self.names.mp4(*only),
            [first, .., last] => format!("{} to {}", self.names.mp4(*first), self.names.mp4(*last)),
        };
        Some(format!("{parts} cannot be stored: {SPOOL_ELSEWHERE}"))
    }

    /// Whether rows of the fleet's ledger have changed.
    pub(in super::super) fn has_changed_rows(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes at most `max` changed rows of the fleet's ledger.
    pub(in super::super) fn take_changed_rows(&mut self, max: usize) -> Vec<LedgerRow> {
        let mut rows = Vec::new();
        while rows.len() < max
            && let Some(key) = self.changed.pop_first()
        {
            rows.extend(self.row(key));
        }
        rows
    }

    fn row(&self, key: RowKey) -> Option<LedgerRow> {
        let in_use = |stored: bool| stored.then_some(self.stored_in);
        match key {
            RowKey::Run(index) => {
                let run = *self.runs.iter().find(|run| run.index == index)?;
                let init = in_use(self.stored_inits.contains(&index));
                Some(LedgerRow::Run { run, init, node: None, init_segment: None })
            }
            RowKey::Segment(index) => {
                let entry = self.segments.get(index as usize)?;
                let open = self.splitter.open_file().filter(|open| open.first <= index);
                let file = entry.file.or_else(|| open.map(|open| open.index));
                let (segment, stored, copied) = (entry.segment, in_use(entry.stored), entry.copied);
                Some(LedgerRow::Segment { segment, file, stored, copied })
            }
            RowKey::Thumbnail(index) => {
                let taken = self.thumbnails.get(index as usize)?;
                Some(LedgerRow::Thumbnail { thumbnail: taken.thumbnail, stored: in_use(taken.stored) })
            }
            RowKey::File(index) => {
                let file = self.files.iter().find(|file| file.segments.index == index)?.stored.clone()?;
                Some(LedgerRow::File { index, file, stored: self.stored_in })
            }
        }
    }
}
