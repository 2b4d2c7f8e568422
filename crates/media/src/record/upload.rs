//! Assembles the files of a recording and uploads them, on the thread `upload`. It works from the spool's
//! logs alone, so the recording may still run, have ended, or have been interrupted days ago.
//!
//! `machine` decides what to do next, with the `ledger` of files and the storage's `backoff`; `uploader`
//! carries it out. A file counts as stored when its storage has confirmed it; the spool is removed when all
//! files are stored. Until then uploads are retried until the caller cancels.

mod backoff;
mod copier;
mod fetch;
mod ledger;
mod machine;
mod spool_logs;
mod uploader;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::MediaTime;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::wake::{SharedWaker, ThreadEnd};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Error, Spool, salvage};
use crate::store::{Store, TransferConfig};
use fetch::OpenFleetStore;
use uploader::{Stores, Uploader};

pub use super::manifest::RecordedFile;
pub use backoff::State;
pub(super) use uploader::MAX_PLAYLIST_BYTES;

/// End of [`UploadReport::missing`].
pub const SPOOL_ELSEWHERE: &str = "the spool is not on this machine";

/// Settings of an upload.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Time without success after which an upload counts as stuck and switches to its backup.
    pub stuck_after: Duration,
    /// First pause after a failure. It doubles up to a minute, and ends early when a storage that did not
    /// respond does so again.
    pub initial_backoff: Duration,
    /// Whether to check at the start that the storage works.
    pub probe: bool,
    /// Timeouts and part sizes of the storages.
    pub transfer: TransferConfig,
}

impl Default for Config {
    fn default() -> Self {
        let (stuck_after, initial_backoff) = (Duration::from_secs(60), Duration::from_secs(1));
        Self { stuck_after, initial_backoff, probe: false, transfer: TransferConfig::default() }
    }
}

/// Status of an upload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Overall state.
    pub state: State,
    /// Files that are queued or being stored.
    pub pending: usize,
    /// The last error, if it is not resolved.
    pub problem: Option<String>,
    /// Whether the backup is in use.
    pub backup: bool,
    /// Since when nothing could be stored, in ms since 1970, if the outage has lasted some seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_unix_ms: Option<i64>,
}

impl Status {
    /// What rarely changes: the state, whether the backup is in use, and whether there is an outage.
    #[must_use]
    pub fn summary(&self) -> (State, bool, bool) {
        (self.state, self.backup, self.failing_since_unix_ms.is_some())
    }
}

/// Result of an upload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadReport {
    /// Folder of the files: an absolute path, an address like `s3://BUCKET/PREFIX/NAME`, or, for video on
    /// demand, the service in words.
    pub location: String,
    /// Endpoint of the bucket, if it is not the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The files that players open.
    pub files: Vec<RecordedFile>,
    /// Length of the recording.
    #[serde(rename = "duration_ms", default, with = "whole_ms")]
    pub duration: MediaTime,
    /// Final status.
    pub status: Status,
    /// The spool, if it still holds something that is not stored.
    pub spool: Option<PathBuf>,
    /// What is neither stored nor in the spool, in words: an earlier owner recorded it to a spool elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// Serializes a time as whole milliseconds.
mod whole_ms {
    use pagecast_core::MediaTime;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &MediaTime, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_millis().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MediaTime, D::Error> {
        Ok(MediaTime::from_index(i64::deserialize(deserializer)?, 1000))
    }
}

impl UploadReport {
    /// Reads a [receipt](super::SpoolConfig::receipt), if it exists.
    #[must_use]
    pub fn read(receipt: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(receipt).ok()?).ok()
    }
}

/// A running upload.
#[derive(Debug)]
pub struct UploadTask {
    thread: JoinHandle<UploadReport>,
    end: ThreadEnd,
    shared: Arc<Shared>,
}

/// State shared by the task and its thread.
#[derive(Debug)]
struct Shared {
    wakeup: Arc<Notify>,
    /// Notified when the upload is cancelled.
    cancelled: Notify,
    /// One of [`PHASE_RECORDING`], [`PHASE_ENDED`], [`PHASE_CANCELLED`].
    phase: AtomicU8,
    status: Mutex<Status>,
    /// Rows of the ledger that have changed since the last [`UploadTask::take_ledger_rows`].
    ledger_rows: Mutex<Vec<LedgerRow>>,
    /// Woken when [`Status::summary`] has changed.
    waker: SharedWaker,
}

/// The recording is running.
const PHASE_RECORDING: u8 = 0;
/// The recording has ended.
const PHASE_ENDED: u8 = 1;
/// The upload was cancelled.
const PHASE_CANCELLED: u8 = 2;

impl Shared {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger_rows(&self) -> MutexGuard<'_, Vec<LedgerRow>> {
        self.ledger_rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadTask {
    /// Starts the thread. `wakeup` is notified when something was recorded.
    ///
    /// # Errors
    /// [`Error::Thread`]; [`Error::Store`] if a storage cannot be opened.
    pub fn spawn(spool: Arc<Spool>, wakeup: Arc<Notify>, config: Config) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            wakeup,
            cancelled: Notify::new(),
            phase: AtomicU8::new(PHASE_RECORDING),
            status: Mutex::default(),
            ledger_rows: Mutex::default(),
            waker: SharedWaker::default(),
        });
        let thread_error = |e| Error::Thread("upload", e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("upload-files")
            .build()
            .map_err(thread_error)?;
        let stores = {
            let _entered = runtime.enter();
            let open = |storage| Store::open_with(storage, config.transfer);
            let recording = spool.recording();
            let (storage, backup) = (open(&recording.to)?, recording.backup.as_ref().map(open).transpose()?);
            Stores { storage, backup, fleet: open_fleet_store(&spool, config.transfer) }
        };
        let uploader = Uploader::new(spool, stores, config, Arc::clone(&shared));
        let end = ThreadEnd::new(&shared.waker);
        let guard = end.guard();
        let run = move || {
            let _guard = guard;
            let report = runtime.block_on(uploader.run());
            // A blocking task may still be assembling a file; it is not waited for.
            runtime.shutdown_background();
            report
        };
        let thread = std::thread::Builder::new().name("upload".into()).spawn(run).map_err(thread_error)?;
        Ok(Self { thread, end, shared })
    }

    /// Current status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status().clone()
    }

    /// Takes rows of the ledger that have changed, those of earlier processes on this spool included. More
    /// may follow at the next call.
    #[must_use]
    pub fn take_ledger_rows(&self) -> Vec<LedgerRow> {
        let rows = std::mem::take(&mut *self.shared.ledger_rows());
        if !rows.is_empty() {
            // The next rows are ready sooner.
            self.shared.wakeup.notify_one();
        }
        rows
    }

    /// Sets who is woken when [`Status::summary`] or the ledger has changed, and when the thread has ended.
    pub fn set_waker(&self, waker: Waker) {
        self.shared.waker.set(waker);
    }

    /// Ends the recording: the upload ends when everything is stored.
    pub fn end_input(&self) {
        self.advance_phase(PHASE_ENDED);
    }

    /// Ends the upload now; the spool keeps what is not stored.
    pub fn cancel(&self) {
        self.advance_phase(PHASE_CANCELLED);
        self.shared.cancelled.notify_one();
    }

    fn advance_phase(&self, phase: u8) {
        self.shared.phase.fetch_max(phase, Ordering::AcqRel);
        self.shared.wakeup.notify_one();
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end.has_ended()
    }

    /// Waits for the end of the thread. `None` if it panicked.
    #[must_use]
    pub fn join(self) -> Option<UploadReport> {
        self.thread.join().ok()
    }
}

/// Opens the store of the fleet. The recording does not depend on it.
fn open_fleet_store(spool: &Spool, transfer: TransferConfig) -> Option<OpenFleetStore> {
    let fleet_store = spool.store()?;
    match fleet_store.open(transfer) {
        Ok(store) => Some(OpenFleetStore { store: Arc::new(store), folder: fleet_store.folder.clone() }),
        Err(error) => {
            tracing::warn!(error = crate::chain(&error), "cannot use the fleet's store");
            None
        }
    }
}

/// Uploads the spool of an interrupted recording.
///
/// # Errors
/// As [`UploadTask::spawn`], and [`Error::Io`] for a spool that cannot be read.
pub fn recover(spool: Arc<Spool>, config: Config) -> Result<UploadTask, Error> {
    salvage_open_segment(&spool)?;
    let upload = UploadTask::spawn(spool, Arc::default(), config)?;
    upload.end_input();
    Ok(upload)
}

/// Salvages the complete fragments of a segment that was open when its recorder was killed.
///
/// # Errors
/// [`Error::Io`], [`Error::DiskFull`].
pub fn salvage_open_segment(spool: &Spool) -> Result<(), Error> {
    salvage::load(spool).map(drop).map_err(|e| super::io_error(spool, e))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::task::Wake;

    use pagecast_core::spec::{Bucket, Recording, Storage, StorageKeys, StorageService};
    use pagecast_testkit::{S3Server, ScratchDir};

    use super::super::SpoolConfig;
    use super::*;

    /// Longest wait for a wake-up, for busy machines.
    const TIMEOUT: Duration = Duration::from_secs(60);

    struct Woken(SyncSender<()>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let _pending = self.0.try_send(());
        }
    }

    #[test]
    fn a_refusal_and_the_end_of_the_thread_wake() {
        let scratch = ScratchDir::new().unwrap();
        let server = S3Server::start(&scratch.join("s3"), "key", "secret").unwrap();
        server.make_bucket("rec").unwrap();
        let bucket = Bucket {
            endpoint: server.url().parse().ok(),
            keys: Some(StorageKeys::new("key", "another one")),
            ..Bucket::new(StorageService::S3, "rec")
        };
        let recording = Recording::new("rec", Storage::Bucket(bucket));
        let spool = Spool::create(&SpoolConfig::new(recording, scratch.join("rec.spool"))).unwrap();
        let config = Config { probe: true, ..Config::default() };
        let upload = UploadTask::spawn(spool, Arc::default(), config).unwrap();
        let (sender, woken) = sync_channel(1);
        upload.set_waker(Arc::new(Woken(sender)).into());
        while upload.status().state != State::Failed {
            woken.recv_timeout(TIMEOUT).expect("a refusal wakes");
        }
        upload.cancel();
        while !upload.is_finished() {
            woken.recv_timeout(TIMEOUT).expect("the end of the thread wakes");
        }
        assert!(upload.join().is_some());
    }
}
