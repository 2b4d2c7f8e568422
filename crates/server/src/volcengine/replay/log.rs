//! Signatures on the disk: two append-only files of fixed records, the newer of which becomes the older one
//! when it is full or old.
//!
//! A record is written before its request is carried out, but not synced: it survives the process, however
//! that dies. A thread syncs the file at most once a second, so that no request waits for the disk; when the
//! machine itself goes down, the records of the last second may be lost. Refusing all older signatures after
//! such a start would be worse: clients that got no answer send the same bytes again, and those whose clock
//! is behind would be shut out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pagecast_fleet::UnixMs;

use super::{MAX_SIGNATURE_AGE_MS, Signature};

/// Bytes of a record: when it was seen (Unix milliseconds, little-endian), and the signature.
const RECORD_BYTES: usize = 8 + 32;
/// Time between two syncs, and most that is lost when the machine goes down: short enough that hardly any
/// request is in it, and one sync a second costs nothing that can be measured.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
const CURRENT_FILE: &str = "signatures.log";
const OLDER_FILE: &str = "signatures.old.log";

/// Where signatures are kept. Dropped, its thread ends.
#[derive(Debug)]
pub(super) struct SignatureLog {
    folder: PathBuf,
    file: Arc<File>,
    /// Records in the current file.
    records: usize,
    /// Most of them: both files together have twice as many.
    max_records: usize,
    /// When the first of them was seen.
    first_record_ms: Option<UnixMs>,
    /// Whether the last record could not be written: that is logged once.
    failing: bool,
    sync: Arc<SyncQueue>,
}

/// What the thread that syncs waits for.
#[derive(Debug)]
struct SyncQueue {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug)]
struct SyncState {
    /// The file that has records which are not synced.
    dirty: Option<Arc<File>>,
    closed: bool,
}

impl SignatureLog {
    /// Opens the files in this folder, or makes them; with what is in them, the oldest first.
    pub(super) fn open(folder: &Path, max_records: usize) -> io::Result<(Self, Vec<(UnixMs, Signature)>)> {
        let mut records = match File::open(folder.join(OLDER_FILE)) {
            Ok(mut file) => read_records(&mut file, max_records)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut file = open_current(folder)?;
        let current = read_records(&mut file, max_records)?;
        // A record that was only half written when the process died would shift all behind it.
        file.set_len(records_len(current.len()))?;
        let (count, since) = (current.len(), current.first().map(|(at, _)| *at));
        records.extend(current);
        let sync = Arc::new(SyncQueue {
            state: Mutex::new(SyncState { dirty: None, closed: false }),
            changed: Condvar::new(),
        });
        let thread = Arc::clone(&sync);
        std::thread::Builder::new().name("signatures".into()).spawn(move || thread.run())?;
        let log = Self {
            folder: folder.to_owned(),
            file: Arc::new(file),
            records: count,
            max_records,
            first_record_ms: since,
            failing: false,
            sync,
        };
        Ok((log, records))
    }

    /// Adds a signature. One that cannot be written, as the disk is full, is remembered until the service
    /// ends, which is logged.
    pub(super) fn append(&mut self, at: UnixMs, mark: Signature) {
        match self.write(at, mark) {
            Ok(()) => self.failing = false,
            Err(error) => {
                // No half record stays in front of the next one.
                let _kept = self.file.set_len(records_len(self.records));
                if !std::mem::replace(&mut self.failing, true) {
                    let folder = self.folder.display();
                    tracing::warn!(%error, %folder, "signatures are not kept, a restart would forget them");
                }
            }
        }
    }

    fn write(&mut self, at: UnixMs, mark: Signature) -> io::Result<()> {
        let is_old = self.first_record_ms.is_some_and(|since| at - since > MAX_SIGNATURE_AGE_MS);
        if is_old || self.records >= self.max_records {
            self.rotate()?;
        }
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&at.to_le_bytes());
        record[8..].copy_from_slice(&mark);
        (&*self.file).write_all(&record)?;
        self.records += 1;
        self.first_record_ms.get_or_insert(at);
        self.sync.lock().dirty = Some(Arc::clone(&self.file));
        self.sync.changed.notify_one();
        Ok(())
    }

    /// Begins a new file. What was in the older one is older than any signature holds, or more than is
    /// remembered.
    fn rotate(&mut self) -> io::Result<()> {
        // The thread syncs the new file from now on.
        self.file.sync_data()?;
        fs::rename(self.folder.join(CURRENT_FILE), self.folder.join(OLDER_FILE))?;
        self.file = Arc::new(open_current(&self.folder)?);
        (self.records, self.first_record_ms) = (0, None);
        Ok(())
    }
}

impl Drop for SignatureLog {
    fn drop(&mut self) {
        self.sync.lock().closed = true;
        self.sync.changed.notify_one();
    }
}

impl SyncQueue {
    fn lock(&self) -> MutexGuard<'_, SyncState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let waits = |state: &mut SyncState| state.dirty.is_none() && !state.closed;
            let state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
            if state.closed && state.dirty.is_none() {
                return;
            }
            // What is written meanwhile is synced with it.
            let open = |state: &mut SyncState| !state.closed;
            let waited = self.changed.wait_timeout_while(state, SYNC_INTERVAL, open);
            let dirty = waited.unwrap_or_else(PoisonError::into_inner).0.dirty.take();
            if let Some(Err(error)) = dirty.map(|file| file.sync_data()) {
                tracing::warn!(%error, "signatures cannot be synced");
            }
        }
    }
}

fn open_current(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(folder.join(CURRENT_FILE))
}

/// The whole records of a file, the last `most` of them.
fn read_records(file: &mut File, most: usize) -> io::Result<Vec<(UnixMs, Signature)>> {
    let mut content = Vec::new();
    file.take(records_len(most)).read_to_end(&mut content)?;
    let (records, _) = content.as_chunks::<RECORD_BYTES>();
    let record = |record: &[u8; RECORD_BYTES]| {
        let (mut at, mut mark) = ([0; 8], [0; 32]);
        at.copy_from_slice(&record[..8]);
        mark.copy_from_slice(&record[8..]);
        (UnixMs::from_le_bytes(at), mark)
    };
    Ok(records.iter().map(record).collect())
}

fn records_len(records: usize) -> u64 {
    (records * RECORD_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use pagecast_testkit::scratch::ScratchDir;

    use super::*;

    fn first_bytes(folder: &Path, most: usize) -> Vec<u8> {
        let (_, records) = SignatureLog::open(folder, most).unwrap();
        records.iter().map(|(_, mark)| mark[0]).collect()
    }

    #[test]
    fn two_files_hold_what_is_remembered_and_no_more() {
        let folder = ScratchDir::new().unwrap();
        for mark in 0..10 {
            // A file for each, as after a restart.
            let (mut log, _) = SignatureLog::open(folder.path(), 3).unwrap();
            log.append(0, [mark; 32]);
        }
        assert_eq!(first_bytes(folder.path(), 3), [6, 7, 8, 9]);
        let (mut log, _) = SignatureLog::open(folder.path(), 3).unwrap();
        log.append(MAX_SIGNATURE_AGE_MS + 1, [10; 32]);
        assert_eq!(first_bytes(folder.path(), 3), [9, 10], "what is too old goes with the next file");
        let sizes = [CURRENT_FILE, OLDER_FILE].map(|name| fs::metadata(folder.join(name)).unwrap().len());
        assert_eq!(sizes, [RECORD_BYTES as u64; 2]);
    }

    #[test]
    fn a_record_that_is_not_whole_is_cut_off() {
        let folder = ScratchDir::new().unwrap();
        let (mut log, _) = SignatureLog::open(folder.path(), 9).unwrap();
        log.append(0, [1; 32]);
        drop(log);
        let mut file = OpenOptions::new().append(true).open(folder.join(CURRENT_FILE)).unwrap();
        file.write_all(&[7; RECORD_BYTES - 1]).unwrap();
        let (mut log, records) = SignatureLog::open(folder.path(), 9).unwrap();
        assert_eq!(records.len(), 1);
        log.append(5, [2; 32]);
        drop(log);
        assert_eq!(first_bytes(folder.path(), 9), [1, 2]);
    }
}
