//! Signature log on disk: two append-only files of fixed-size records. When the current file is full or old,
//! it replaces the older one.
//!
//! A record is written before its request is executed, but not synced: it survives a crash of the process. A
//! thread syncs the file at most once a second, so that no request waits for the disk; a crash of the machine
//! may lose the records of the last second. Refusing all older signatures after such a start would be worse:
//! clients that got no answer repeat the same bytes, and clients with a slow clock would be shut out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pagecast_fleet::UnixMs;

use super::{MAX_SIGNATURE_AGE_MS, Signature};

/// Size of a record in bytes: time of first use (Unix milliseconds, little-endian), and the signature.
const RECORD_BYTES: usize = 8 + 32;
/// Time between two syncs, and the most that a crash of the machine loses: short enough to contain few
/// requests, and one sync a second has no measurable cost.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
const CURRENT_FILE: &str = "signatures.log";
const OLDER_FILE: &str = "signatures.old.log";

/// Signature log. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct SignatureLog {
    folder: PathBuf,
    file: Arc<File>,
    /// Number of records in the current file.
    records: usize,
    /// Most records in a file; both files together have twice as many.
    max_records: usize,
    /// Time of the first record.
    first_record_ms: Option<UnixMs>,
    /// Whether the last write failed, so that only the first failure is logged.
    failing: bool,
    sync: Arc<SyncQueue>,
}

/// Work of the sync thread.
#[derive(Debug)]
struct SyncQueue {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug)]
struct SyncState {
    /// File with records that are not synced.
    dirty: Option<Arc<File>>,
    closed: bool,
}

impl SignatureLog {
    /// Opens or creates the files in this folder. Returns their records, the oldest first.
    pub(super) fn open(folder: &Path, max_records: usize) -> io::Result<(Self, Vec<(UnixMs, Signature)>)> {
        let mut records = match File::open(folder.join(OLDER_FILE)) {
            Ok(mut file) => read_records(&mut file, max_records)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut file = open_current(folder)?;
        let current = read_records(&mut file, max_records)?;
        // Half a record, written when the process died, would shift all later ones.
        file.set_len(records_len(current.len()))?;
        let (count, since) = (current.len(), current.first().map(|(at, _)| *at));
        records.extend(current);
        let sync = Arc::new(SyncQueue {
            state: Mutex::new(SyncState { dirty: None, closed: false }),
            changed: Condvar::new(),
        });
        let thread = Arc::clone(&sync);
        std::thread::Builder::new().name("signature-sync".into()).spawn(move || thread.run())?;
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

    /// Appends a signature. If the write fails, for example on a full disk, replay protection of this
    /// signature ends with the process; that is logged.
    pub(super) fn append(&mut self, at: UnixMs, signature: Signature) {
        match self.write(at, signature) {
            Ok(()) => self.failing = false,
            Err(error) => {
                // Removes half a record, so that the next one starts at its place.
                let _kept = self.file.set_len(records_len(self.records));
                if !std::mem::replace(&mut self.failing, true) {
                    let folder = self.folder.display();
                    tracing::warn!(%error, %folder, "writing signature log failed, replay protection ends \
                        at restart");
                }
            }
        }
    }

    fn write(&mut self, at: UnixMs, signature: Signature) -> io::Result<()> {
        let is_old = self.first_record_ms.is_some_and(|since| at - since > MAX_SIGNATURE_AGE_MS);
        if is_old || self.records >= self.max_records {
            self.rotate()?;
        }
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&at.to_le_bytes());
        record[8..].copy_from_slice(&signature);
        (&*self.file).write_all(&record)?;
        self.records += 1;
        self.first_record_ms.get_or_insert(at);
        self.sync.lock().dirty = Some(Arc::clone(&self.file));
        self.sync.changed.notify_one();
        Ok(())
    }

    /// Starts a new file. The records of the older file have expired or exceed the limit.
    fn rotate(&mut self) -> io::Result<()> {
        // From here on the thread only knows the new file.
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
            // Later writes until then are covered by the same sync.
            let open = |state: &mut SyncState| !state.closed;
            let waited = self.changed.wait_timeout_while(state, SYNC_INTERVAL, open);
            let dirty = waited.unwrap_or_else(PoisonError::into_inner).0.dirty.take();
            if let Some(Err(error)) = dirty.map(|file| file.sync_data()) {
                tracing::warn!(%error, "syncing signature log failed");
            }
        }
    }
}

fn open_current(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(folder.join(CURRENT_FILE))
}

/// Reads the complete records of a file, at most `max_records`.
fn read_records(file: &mut File, max_records: usize) -> io::Result<Vec<(UnixMs, Signature)>> {
    let mut content = Vec::new();
    file.take(records_len(max_records)).read_to_end(&mut content)?;
    let (records, _) = content.as_chunks::<RECORD_BYTES>();
    let record = |record: &[u8; RECORD_BYTES]| {
        let (mut at, mut signature) = ([0; 8], [0; 32]);
        at.copy_from_slice(&record[..8]);
        signature.copy_from_slice(&record[8..]);
        (UnixMs::from_le_bytes(at), signature)
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

    fn first_bytes(folder: &Path, max_records: usize) -> Vec<u8> {
        let (_, records) = SignatureLog::open(folder, max_records).unwrap();
        records.iter().map(|(_, signature)| signature[0]).collect()
    }

    #[test]
    fn two_files_hold_the_latest_records() {
        let folder = ScratchDir::new().unwrap();
        for signature in 0..10 {
            // Each signature is written by a new process.
            let (mut log, _) = SignatureLog::open(folder.path(), 3).unwrap();
            log.append(0, [signature; 32]);
        }
        assert_eq!(first_bytes(folder.path(), 3), [6, 7, 8, 9]);
        let (mut log, _) = SignatureLog::open(folder.path(), 3).unwrap();
        log.append(MAX_SIGNATURE_AGE_MS + 1, [10; 32]);
        assert_eq!(first_bytes(folder.path(), 3), [9, 10], "expired records go with the older file");
        let sizes = [CURRENT_FILE, OLDER_FILE].map(|name| fs::metadata(folder.join(name)).unwrap().len());
        assert_eq!(sizes, [RECORD_BYTES as u64; 2]);
    }

    #[test]
    fn an_incomplete_record_is_cut_off() {
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
