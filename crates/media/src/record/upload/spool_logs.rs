//! The logs of a spool as the uploader uses them: follows the recorded log and appends to the upload log.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use pagecast_core::ledger::Segment;

use super::super::append_log::{LogReader, LogWriter};
use super::super::assemble;
use super::super::spool::{RecordedEntry, Spool, UploadEntry};
use super::ledger::Ledger;
use crate::store::{UnfinishedUpload, UploadJournal};

/// Reads the recorded log of a spool as it grows.
#[derive(Debug)]
pub(super) struct RecordedLog {
    reader: LogReader<RecordedEntry>,
    /// The log contained an invalid entry: nothing of the spool can be trusted.
    invalid: bool,
    /// The last run and its decoder configuration, to see whether the next one can share its files.
    last_run: Option<u32>,
    extradata: Option<Vec<u8>>,
}

impl RecordedLog {
    pub(super) fn open(spool: &Spool) -> io::Result<Self> {
        Ok(Self { reader: spool.recorded_log_reader()?, invalid: false, last_run: None, extradata: None })
    }

    /// Reads new entries, each with whether a segment has the decoder configuration of the previous one.
    pub(super) fn read_new(
        &mut self,
        spool: &Spool,
        ledger: &Ledger,
    ) -> io::Result<Vec<(RecordedEntry, bool)>> {
        if self.invalid {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (mut segments, mut thumbnails) = ledger.counts();
        let mut entries = Vec::new();
        for entry in self.reader.read_new()? {
            // Valid entries before an invalid one are not used either.
            entry.validate(segments, thumbnails).inspect_err(|_| self.invalid = true)?;
            let fits = match &entry {
                // The initialization segment is written with the first segment of a run.
                RecordedEntry::Segment(segment) => self.fits(spool, segment),
                // The initialization segments of what cannot be read may not be there.
                RecordedEntry::EarlierSegment(earlier) if earlier.origin.is_some() => {
                    self.fits(spool, &earlier.segment)
                }
                _ => true,
            };
            match &entry {
                RecordedEntry::Run(_) => {}
                RecordedEntry::Segment(_) | RecordedEntry::EarlierSegment(_) => segments += 1,
                RecordedEntry::Thumbnail(_) | RecordedEntry::EarlierThumbnail(_) => thumbnails += 1,
            }
            entries.push((entry, fits));
        }
        Ok(entries)
    }

    /// Whether a segment has the decoder configuration of the previous one.
    fn fits(&mut self, spool: &Spool, segment: &Segment) -> bool {
        if self.last_run == Some(segment.run) {
            return true;
        }
        self.last_run = Some(segment.run);
        let init = spool.path(&spool.names().init(segment.epoch, segment.run));
        let before = std::mem::replace(&mut self.extradata, assemble::extradata(&init));
        before.is_none() || before == self.extradata
    }
}

/// The upload log, shared by the uploader and the storages' multipart uploads.
#[derive(Debug, Default)]
pub(super) struct UploadLog {
    writer: Mutex<Option<LogWriter<UploadEntry>>>,
}

impl UploadLog {
    /// Opens the log for writing.
    pub(super) fn open(&self, spool: &Spool) -> io::Result<()> {
        let writer = spool.upload_log_writer()?;
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(())
    }

    pub(super) fn append(&self, entry: &UploadEntry) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.as_mut().map_or(Ok(()), |writer| writer.append(entry))
    }
}

/// Logs the multipart uploads of one storage.
pub(super) struct LoggedUploads {
    pub(super) log: Arc<UploadLog>,
    pub(super) backup: bool,
}

impl UploadJournal for LoggedUploads {
    fn started(&self, upload: &UnfinishedUpload) -> io::Result<()> {
        self.log.append(&UploadEntry::MultipartStarted { upload: upload.clone(), backup: self.backup })
    }

    fn ended(&self, upload: &UnfinishedUpload) {
        let entry = UploadEntry::MultipartEnded { upload: upload.clone() };
        if let Err(error) = self.log.append(&entry) {
            // The next process aborts the upload once more, which does no harm.
            tracing::debug!(%error, "end of multipart upload not logged");
        }
    }
}

/// Multipart uploads that an earlier process started and did not end, in the first storage and in the backup.
#[derive(Debug, Default)]
pub(super) struct UnfinishedUploads {
    pub(super) first: Vec<UnfinishedUpload>,
    pub(super) backup: Vec<UnfinishedUpload>,
}

impl UnfinishedUploads {
    /// Follows the entries of the upload log.
    pub(super) fn apply(&mut self, entry: &UploadEntry) {
        match entry {
            UploadEntry::MultipartStarted { upload, backup } => {
                let unfinished = if *backup { &mut self.backup } else { &mut self.first };
                // Its request was logged before, without the id.
                unfinished.retain(|earlier| earlier.upload_id.is_some() || earlier.key != upload.key);
                unfinished.push(upload.clone());
            }
            UploadEntry::MultipartEnded { upload } => {
                self.first.retain(|unfinished| unfinished != upload);
                self.backup.retain(|unfinished| unfinished != upload);
            }
            UploadEntry::Assembled(_)
            | UploadEntry::Stored(_)
            | UploadEntry::Copied { .. }
            | UploadEntry::SwitchedToBackup => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys and ids of the unfinished uploads after these entries.
    fn unfinished(entries: &[UploadEntry]) -> Vec<(String, Option<String>)> {
        let mut uploads = UnfinishedUploads::default();
        entries.iter().for_each(|entry| uploads.apply(entry));
        uploads.first.into_iter().map(|upload| (upload.key, upload.upload_id)).collect()
    }

    #[test]
    fn an_upload_is_unfinished_from_its_request_to_its_end() {
        let upload = |key: &str, id: Option<&str>| UnfinishedUpload {
            key: key.to_owned(),
            upload_id: id.map(str::to_owned),
        };
        let started = |key, id| UploadEntry::MultipartStarted { upload: upload(key, id), backup: false };
        let ended = |key, id| UploadEntry::MultipartEnded { upload: upload(key, id) };
        let named = |key: &str, id: Option<&str>| (key.to_owned(), id.map(str::to_owned));
        let requested = [started("a", None), started("b", None)];
        assert_eq!(unfinished(&requested), [named("a", None), named("b", None)]);
        let created = [requested.as_slice(), &[started("a", Some("1"))]].concat();
        assert_eq!(unfinished(&created), [named("b", None), named("a", Some("1"))]);
        let all_ended = [created.as_slice(), &[ended("b", None), ended("a", Some("1"))]].concat();
        assert!(unfinished(&all_ended).is_empty());
        let elsewhere = UploadEntry::MultipartStarted { upload: upload("a", Some("2")), backup: true };
        assert_eq!(unfinished(&[started("a", None), elsewhere]), [named("a", None)]);
    }
}
