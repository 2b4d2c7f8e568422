//! Starts the logs of a spool from the ledger of a recording whose earlier spool is elsewhere.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pagecast_core::ledger::{LedgerRow, Run, StoredIn};
use pagecast_core::spec::{Recording, Storage};

use super::file_names::FileNames;
use super::spool::{EarlierSegment, Origin, RecordedEntry, StoredFile, UploadEntry};

/// Largest initialization segment in bytes: those of our encoders have less than 2 KB.
pub(super) const MAX_INIT_BYTES: usize = 16 * 1024;

/// First entries of the logs of a spool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LedgerImport {
    pub(super) recorded: Vec<RecordedEntry>,
    pub(super) uploaded: Vec<UploadEntry>,
    /// Index of the first MP4 file of the spool; earlier owners make those before it, if they still can.
    pub(super) first_file: u32,
    /// Names and contents of initialization segments, which the spool needs with segments of other owners.
    pub(super) inits: Vec<(String, Vec<u8>)>,
}

/// Where the rows of a ledger say that a recording is.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    recording: &'a Recording,
    /// The fleet has a store, so that segments of earlier owners can be read.
    has_store: bool,
    /// Storage in use.
    storage: StoredIn,
}

impl Place<'_> {
    /// Whether the storage in use is on this machine: that of an earlier owner was perhaps another one.
    fn is_local(&self) -> bool {
        let backup = self.recording.backup.as_ref();
        let storage = backup.filter(|_| self.storage == StoredIn::Backup).unwrap_or(&self.recording.to);
        matches!(storage, Storage::File(_) | Storage::Folder(_))
    }

    /// Whether the storage in use confirmed a segment, and certainly has it.
    fn is_stored(&self, stored: Option<StoredIn>, copied: bool) -> bool {
        stored == Some(self.storage) && !(self.has_store && copied && self.is_local())
    }

    /// Where a recorded segment can be read.
    fn origin(&self, stored: Option<StoredIn>, copied: bool) -> Option<Origin> {
        if !self.has_store {
            return None;
        }
        if copied {
            return Some(Origin::FleetStore);
        }
        // As MPEG-TS, a segment cannot be a part of an MP4 file.
        let is_readable = stored == Some(self.storage) && !self.recording.format.is_ts() && !self.is_local();
        is_readable.then_some(match self.storage {
            StoredIn::Storage => Origin::Storage,
            StoredIn::Backup => Origin::Backup,
        })
    }
}

impl LedgerImport {
    /// Imports the rows of earlier owners. Without rows, they recorded something that is not known.
    /// `has_store`: the fleet has a store.
    pub(super) fn new(recording: &Recording, rows: &[LedgerRow], has_store: bool) -> Self {
        let mut import = Self { first_file: 1, ..Self::default() };
        let storage = import.import_storage(rows);
        let place = Place { recording, has_store, storage };
        let mut rows: Vec<&LedgerRow> = rows.iter().collect();
        rows.sort_by_key(|row| row.key());
        import.import_runs(place, &rows);
        import.import_thumbnails(recording, &rows, storage);
        import.import_files(place, &rows);
        import
    }

    /// Marks segments that the fleet does not know yet: a later owner would find a gap instead.
    pub(super) fn mark_unreported(&mut self, rows: &[LedgerRow]) {
        let unreported: BTreeSet<u32> = rows
            .iter()
            .filter_map(|row| match row {
                LedgerRow::Segment { segment, .. } => Some(segment.index),
                _ => None,
            })
            .collect();
        for entry in &mut self.recorded {
            if let RecordedEntry::EarlierSegment(earlier) = entry {
                earlier.is_unreported = unreported.contains(&earlier.segment.index);
            }
        }
    }

    /// Imports the storage in use.
    fn import_storage(&mut self, rows: &[LedgerRow]) -> StoredIn {
        let storage = storage_in_use(rows);
        if storage == StoredIn::Backup {
            self.uploaded.push(UploadEntry::SwitchedToBackup);
        }
        storage
    }

    /// Imports runs with their segments. Those behind a missing row are left out: their place in the
    /// recording is not known.
    fn import_runs(&mut self, place: Place<'_>, rows: &[&LedgerRow]) {
        let (names, is_ts) = (FileNames::new(&place.recording.name), place.recording.format.is_ts());
        let runs = rows.iter().filter_map(|row| match row {
            LedgerRow::Run { run, init, init_segment, .. } => Some((run, init, init_segment)),
            _ => None,
        });
        let mut segments = rows
            .iter()
            .filter_map(|row| match row {
                LedgerRow::Segment { segment, file, stored, copied } => {
                    // Each file has a segment.
                    let file = file.filter(|file| *file <= segment.index);
                    Some((*segment, file, *stored, *copied))
                }
                _ => None,
            })
            .enumerate()
            .take_while(|(position, (segment, ..))| segment.index as usize == *position)
            .map(|(_, segment)| segment)
            .peekable();
        for (run, init, init_segment) in runs {
            self.recorded.push(RecordedEntry::Run(*run));
            let init_is_stored = place.is_stored(*init, init_segment.is_some());
            if init_is_stored {
                self.push_stored(names.init(run.epoch, run.index));
            }
            let is_known = place.has_store && self.import_init(&names, run, init_segment.as_deref());
            while let Some((segment, file, stored, copied)) =
                segments.next_if(|(segment, ..)| segment.run == run.index)
            {
                let origin = place.origin(stored, copied).filter(|_| is_known);
                self.recorded.push(RecordedEntry::EarlierSegment(EarlierSegment {
                    segment,
                    origin,
                    file,
                    is_unreported: false,
                }));
                // A player needs the initialization segment too, except for MPEG-TS.
                let plays = is_ts || init_is_stored || is_known;
                if plays && place.is_stored(stored, copied && origin.is_some()) {
                    let (epoch, index) = (segment.epoch, segment.index);
                    self.push_stored(if is_ts {
                        names.ts(epoch, index)
                    } else {
                        names.segment(epoch, index)
                    });
                }
            }
        }
    }

    /// Imports the initialization segment of a run. Returns whether it is there.
    fn import_init(&mut self, names: &FileNames, run: &Run, text: Option<&str>) -> bool {
        // Four characters are three bytes.
        let text = text.filter(|text| text.len() <= MAX_INIT_BYTES / 3 * 4 + 4);
        let content = text.and_then(|text| BASE64_STANDARD.decode(text).ok());
        let Some(content) = content.filter(|content| !content.is_empty()) else { return false };
        self.inits.push((names.init(run.epoch, run.index), content));
        true
    }

    fn import_thumbnails(&mut self, recording: &Recording, rows: &[&LedgerRow], storage: StoredIn) {
        let names = FileNames::new(&recording.name);
        let mut next = 0;
        for row in rows {
            let LedgerRow::Thumbnail { thumbnail, stored } = row else { continue };
            if thumbnail.index != next {
                return;
            }
            self.recorded.push(RecordedEntry::EarlierThumbnail(*thumbnail));
            if *stored == Some(storage) {
                self.push_stored(names.thumbnail(thumbnail.epoch, thumbnail.index));
            }
            next += 1;
        }
    }

    fn import_files(&mut self, place: Place<'_>, rows: &[&LedgerRow]) {
        let names = FileNames::new(&place.recording.name);
        let mut stored_files = BTreeSet::new();
        for row in rows {
            match row {
                LedgerRow::Segment { file: Some(file), segment, .. } if *file <= segment.index => {
                    self.first_file = self.first_file.max(file.saturating_add(1));
                }
                LedgerRow::File { index, file, stored } if (*index as usize) < rows.len() => {
                    self.first_file = self.first_file.max(index.saturating_add(1));
                    if *stored == place.storage {
                        stored_files.insert(*index);
                        let (name, file) = (names.mp4(*index), Some(file.clone()));
                        self.uploaded.push(UploadEntry::Stored(StoredFile { name, file }));
                    }
                }
                _ => {}
            }
        }
        // Files whose segments can be read are made from this spool.
        let files = self.recorded.iter().filter_map(|entry| match entry {
            RecordedEntry::EarlierSegment(earlier) => earlier.origin.and(earlier.file),
            _ => None,
        });
        if let Some(first) = files.filter(|file| !stored_files.contains(file)).min() {
            self.first_file = first;
        }
    }

    fn push_stored(&mut self, name: String) {
        self.uploaded.push(UploadEntry::Stored(StoredFile { name, file: None }));
    }
}

/// The storage in use: the backup, once anything is there.
pub(super) fn storage_in_use(rows: &[LedgerRow]) -> StoredIn {
    let has_backup = rows.iter().any(|row| stored_in(row) == Some(StoredIn::Backup));
    if has_backup { StoredIn::Backup } else { StoredIn::Storage }
}

/// Storage that holds what a row describes.
fn stored_in(row: &LedgerRow) -> Option<StoredIn> {
    match row {
        LedgerRow::Run { init: stored, .. }
        | LedgerRow::Segment { stored, .. }
        | LedgerRow::Thumbnail { stored, .. } => *stored,
        LedgerRow::File { stored, .. } => Some(*stored),
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::MediaTime;
    use pagecast_core::ledger::{RecordedFile, Segment, Thumbnail};
    use pagecast_core::spec::{Bucket, Format, StorageService};

    use super::*;

    fn run(index: u32, epoch: u64) -> Run {
        Run { index, epoch, unix_ms: 7, tick: MediaTime(1) }
    }

    fn run_row(index: u32, epoch: u64, init: Option<StoredIn>) -> LedgerRow {
        LedgerRow::Run { run: run(index, epoch), init, node: None, init_segment: None }
    }

    fn segment(index: u32, run: u32, epoch: u64) -> Segment {
        let duration = MediaTime::from_index(4, 1);
        let start = MediaTime::from_index(4 * i64::from(index), 1);
        Segment { index, run, epoch, start, duration, bytes: 9 }
    }

    fn segment_row(index: u32, run: u32, file: u32, stored: Option<StoredIn>) -> LedgerRow {
        let segment = segment(index, run, u64::from(run) + 1);
        LedgerRow::Segment { segment, file: Some(file), stored, copied: false }
    }

    fn earlier(index: u32, run: u32, file: u32, origin: Option<Origin>) -> RecordedEntry {
        let (segment, file) = (segment(index, run, u64::from(run) + 1), Some(file));
        RecordedEntry::EarlierSegment(EarlierSegment { segment, origin, file, is_unreported: false })
    }

    fn recording(format: Format) -> Recording {
        Recording { format, ..Recording::new("rec", Storage::Folder("out".into())) }
    }

    fn stored_names(import: &LedgerImport) -> Vec<&str> {
        let names = import.uploaded.iter().filter_map(|entry| match entry {
            UploadEntry::Stored(stored) => Some(stored.name.as_str()),
            _ => None,
        });
        names.collect()
    }

    #[test]
    fn only_unreported_segments_are_reported_again() {
        let stored = Some(StoredIn::Storage);
        let rows = [run_row(0, 1, stored), segment_row(0, 0, 0, stored), segment_row(1, 0, 0, stored)];
        let mut import = LedgerImport::new(&recording(Format::Hls), &rows, false);
        import.mark_unreported(&rows[2..]);
        let marks: Vec<bool> = import
            .recorded
            .iter()
            .filter_map(|entry| match entry {
                RecordedEntry::EarlierSegment(earlier) => Some(earlier.is_unreported),
                _ => None,
            })
            .collect();
        assert_eq!(marks, [false, true]);
    }

    #[test]
    fn rows_become_logs_in_the_order_of_the_recording() {
        let own = Some(StoredIn::Storage);
        let thumbnail = Thumbnail { index: 0, epoch: 1, at: MediaTime::ZERO, bytes: 3 };
        let rows = [
            segment_row(2, 1, 1, own),
            segment_row(1, 0, 0, None),
            segment_row(0, 0, 0, own),
            run_row(1, 2, own),
            run_row(0, 1, own),
            LedgerRow::Thumbnail { thumbnail, stored: own },
        ];
        let import = LedgerImport::new(&recording(Format::Both), &rows, false);
        assert_eq!(
            import.recorded,
            [
                RecordedEntry::Run(run(0, 1)),
                earlier(0, 0, 0, None),
                earlier(1, 0, 0, None),
                RecordedEntry::Run(run(1, 2)),
                earlier(2, 1, 1, None),
                RecordedEntry::EarlierThumbnail(thumbnail),
            ]
        );
        assert_eq!(
            stored_names(&import),
            ["rec_init.mp4", "rec_0.m4s", "rec_r2_init_1.mp4", "rec_r2_000002.m4s", "rec_0.jpg"]
        );
        assert_eq!(import.first_file, 2);
    }

    #[test]
    fn what_cannot_be_played_does_not_count_as_stored() {
        let own = Some(StoredIn::Storage);
        let rows = [run_row(0, 1, None), segment_row(0, 0, 0, own)];
        assert!(stored_names(&LedgerImport::new(&recording(Format::Hls), &rows, false)).is_empty());
        assert_eq!(stored_names(&LedgerImport::new(&recording(Format::HlsTs), &rows, false)), ["rec_0.ts"]);
        let hole = [run_row(0, 1, own), segment_row(1, 0, 0, own)];
        assert_eq!(
            LedgerImport::new(&recording(Format::Hls), &hole, false).recorded.len(),
            1,
            "only the run"
        );
    }

    #[test]
    fn a_backup_in_use_stays_in_use() {
        let file = RecordedFile {
            name: "rec_0.mp4".into(),
            bytes: 5,
            start_unix_ms: 1,
            end_unix_ms: 2,
            file_id: None,
            url: None,
        };
        let rows = [
            run_row(0, 1, Some(StoredIn::Backup)),
            segment_row(0, 0, 0, Some(StoredIn::Storage)),
            LedgerRow::File { index: 0, file, stored: StoredIn::Backup },
        ];
        let import = LedgerImport::new(&recording(Format::Both), &rows, false);
        assert_eq!(import.uploaded[0], UploadEntry::SwitchedToBackup);
        assert_eq!(stored_names(&import), ["rec_init.mp4", "rec_0.mp4"]);
        assert_eq!(import.first_file, 1);
    }

    #[test]
    fn an_unknown_beginning_has_a_file_of_its_own() {
        let import = LedgerImport::new(&recording(Format::Mp4), &[], false);
        assert_eq!(import, LedgerImport { first_file: 1, ..LedgerImport::default() });
    }

    #[test]
    fn with_a_store_files_are_made_of_the_segments_of_all_owners() {
        let bucket = Storage::Bucket(Bucket::new(StorageService::S3, "rec"));
        let recording = |format| Recording { format, to: bucket.clone(), ..recording(format) };
        let own = Some(StoredIn::Storage);
        let (with_init, copied) = (
            |row| match row {
                LedgerRow::Run { run, init, node, .. } => {
                    LedgerRow::Run { run, init, node, init_segment: Some("aW5pdA==".into()) }
                }
                other => other,
            },
            |row| match row {
                LedgerRow::Segment { segment, file, stored, .. } => {
                    LedgerRow::Segment { segment, file, stored, copied: true }
                }
                other => other,
            },
        );
        let rows = [
            with_init(run_row(0, 1, own)),
            copied(segment_row(0, 0, 0, None)),
            segment_row(1, 0, 0, own),
            segment_row(2, 0, 0, None),
            run_row(1, 2, None),
            copied(segment_row(3, 1, 0, None)),
        ];
        let import = LedgerImport::new(&recording(Format::Both), &rows, true);
        let (store, storage) = (Some(Origin::FleetStore), Some(Origin::Storage));
        let expected = [
            earlier(0, 0, 0, store),
            earlier(1, 0, 0, storage),
            earlier(2, 0, 0, None),
            earlier(3, 1, 0, None),
        ];
        let segments = import.recorded.iter().filter(|entry| !matches!(entry, RecordedEntry::Run(_)));
        assert!(segments.eq(&expected), "{:?}", import.recorded);
        assert_eq!(import.inits, [("rec_init.mp4".to_owned(), b"init".to_vec())]);
        assert_eq!(import.first_file, 0);
        // MPEG-TS is no part of an MP4 file, and without a store nothing is read.
        let ts = LedgerImport::new(&recording(Format::BothTs), &rows, true);
        assert_eq!(ts.recorded[2], earlier(1, 0, 0, None));
        let without = LedgerImport::new(&recording(Format::Both), &rows, false);
        assert_eq!((without.recorded[1].clone(), without.first_file), (earlier(0, 0, 0, None), 1));
    }
}
