//! What is recorded becomes files, and files get stored, on the thread `deliver`, from the spool's logs
//! alone. So it makes no difference whether the recording still runs, has ended, or was broken off days ago.
//!
//! A file is struck off when its storage has confirmed it, and the spool is removed when all of them are.
//! Until then it is tried again, for ever or until somebody loses patience. A storage that is away is asked
//! every few seconds whether it is back.

mod backoff;
mod ledger;
mod uploader;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::MediaTime;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Error, Spool, salvage};
use crate::store::{Store, TransferConfig};
use uploader::Uploader;

pub use super::manifest::RecordedFile;
pub use backoff::State;

/// How deliveries behave when storage does not.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// After so long without success a delivery is stuck, and a backup is turned to.
    pub stuck_after: Duration,
    /// The first pause after a failure; it doubles up to a minute, and ends when a storage that did not
    /// answer does again.
    pub initial_backoff: Duration,
    /// Whether to find out at once if anything can be stored.
    pub probe: bool,
    /// How storages are spoken to.
    pub transfer: TransferConfig,
}

impl Default for Config {
    fn default() -> Self {
        let (stuck_after, first_pause) = (Duration::from_secs(60), Duration::from_secs(1));
        Self { stuck_after, initial_backoff: first_pause, probe: false, transfer: TransferConfig::default() }
    }
}

/// How a delivery gets on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// In a word.
    pub state: State,
    /// Files that wait, or are under way.
    pub pending: usize,
    /// Why the last try failed, if it did.
    pub problem: Option<String>,
    /// Whether the backup is used.
    pub backup: bool,
    /// Since when nothing could be stored, in ms since 1970, if that lasts for some seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_unix_ms: Option<i64>,
}

/// What became of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadReport {
    /// The folder that its files are in: an absolute path, an address like `s3://BUCKET/PREFIX/NAME`, or, for
    /// video on demand, words.
    pub location: String,
    /// The server of the bucket, if it is not the service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The files that players open, with their names there.
    pub files: Vec<RecordedFile>,
    /// Its length.
    #[serde(rename = "duration_ms", default, with = "whole_ms")]
    pub duration: MediaTime,
    /// How it got on.
    pub status: Status,
    /// The spool that holds what is not stored yet, if anything is left.
    pub spool: Option<PathBuf>,
}

/// A time as whole milliseconds.
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
    /// Reads a [receipt](pagecast_core::spec::Recording::receipt), if there is one.
    #[must_use]
    pub fn read(receipt: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(receipt).ok()?).ok()
    }
}

/// A delivery that runs.
#[derive(Debug)]
pub struct UploadTask {
    thread: JoinHandle<UploadReport>,
    shared: Arc<Shared>,
}

/// What both sides see.
#[derive(Debug)]
struct Shared {
    wakeup: Arc<Notify>,
    /// Rings when nobody waits any more.
    cancelled: Notify,
    /// One of [`PHASE_RECORDING`], [`PHASE_ENDED`], [`PHASE_CANCELLED`].
    phase: AtomicU8,
    status: Mutex<Status>,
}

/// More may be recorded.
const PHASE_RECORDING: u8 = 0;
/// Nothing more will be.
const PHASE_ENDED: u8 = 1;
/// Nobody waits any more.
const PHASE_CANCELLED: u8 = 2;

impl Shared {
    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadTask {
    /// Starts it. `bell` rings when something was recorded.
    ///
    /// # Errors
    /// [`ErrorBody::NamedThread`]; [`ErrorBody::Store`] if the description of the storage cannot be used.
    pub fn spawn(spool: Arc<Spool>, bell: Arc<Notify>, config: Config) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            wakeup: bell,
            cancelled: Notify::new(),
            phase: AtomicU8::new(PHASE_RECORDING),
            status: Mutex::default(),
        });
        let thread_error = |e| Error::Thread("deliver", e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("deliver-files")
            .build()
            .map_err(thread_error)?;
        let stores = {
            let _entered = runtime.enter();
            let open = |storage| Store::open_with(storage, config.transfer).map(Arc::new);
            let recording = spool.recording();
            (open(&recording.to)?, recording.backup.as_ref().map(open).transpose()?)
        };
        let courier = Uploader::new(spool, stores, config, Arc::clone(&shared));
        let run = move || {
            let delivered = runtime.block_on(courier.run());
            // A file that is being made for nobody.
            runtime.shutdown_background();
            delivered
        };
        let thread = std::thread::Builder::new().name("deliver".into()).spawn(run).map_err(thread_error)?;
        Ok(Self { thread, shared })
    }

    /// How it gets on.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status().clone()
    }

    /// Nothing more is recorded: when all of it is stored, the delivery ends.
    pub fn end_input(&self) {
        self.advance_phase(PHASE_ENDED);
    }

    /// Nobody waits any more: it ends now, and the spool keeps what is not stored.
    pub fn cancel(&self) {
        self.advance_phase(PHASE_CANCELLED);
        self.shared.cancelled.notify_one();
    }

    fn advance_phase(&self, phase: u8) {
        self.shared.phase.fetch_max(phase, Ordering::AcqRel);
        self.shared.wakeup.notify_one();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end. `None` if it panicked.
    #[must_use]
    pub fn join(self) -> Option<UploadReport> {
        self.thread.join().ok()
    }
}

/// Finishes what a recording left that was broken off: nobody records to it any more.
///
/// # Errors
/// As [`UploadTask::spawn`], and [`ErrorBody::Io`] for a spool that cannot be read.
pub fn recover(spool: Arc<Spool>, config: Config) -> Result<UploadTask, Error> {
    salvage_open_segment(&spool)?;
    let delivery = UploadTask::spawn(spool, Arc::default(), config)?;
    delivery.end_input();
    Ok(delivery)
}

/// Saves what is whole of a segment that was open when its recorder died.
///
/// # Errors
/// [`ErrorBody::Io`], [`ErrorBody::DiskFull`].
pub fn salvage_open_segment(spool: &Spool) -> Result<(), Error> {
    salvage::load(spool).map(drop).map_err(|e| super::io_error(spool, e))
}
