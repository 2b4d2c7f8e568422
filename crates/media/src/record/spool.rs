//! The spool: the folder that holds a recording until all of it is stored. A lock file makes access
//! exclusive.
//!
//! ```text
//! NAME.spool/
//!   recording.json   what the recording is, without keys
//!   lock             locked by the process that records or uploads
//!   recorded.log     what was recorded, written by the thread `record`
//!   uploaded.log     what was assembled and stored, written by the thread `upload`
//!   NAME_init.mp4  NAME_0.m4s  NAME_1.m4s …
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pagecast_core::MediaTime;
use pagecast_core::ledger::{FIRST_EPOCH, LedgerRow, RecordedFile, Run, Segment, Thumbnail};
use pagecast_core::spec::{Recording, Storage};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Error;
use super::append_log::{LogReader, LogWriter};
use super::assemble::SegmentSource;
use super::file_names::FileNames;
use super::fleet_store::FleetStore;
use super::ledger_import::LedgerImport;
use super::splitter::FileSegments;
use super::unreported;
use crate::store::{UnfinishedUpload, parent_folder};

const DESCRIPTION_FILE: &str = "recording.json";
const LOCK_FILE: &str = "lock";
/// Longest wait for the lock: the kernel may still be ending the previous process, which was just killed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the lock is tried meanwhile.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);
const RECORDED_LOG: &str = "recorded.log";
const UPLOAD_LOG: &str = "uploaded.log";
/// Bounds of valid log entries: a year in nanoseconds, a petabyte per segment, the year 9999.
const MAX_DURATION_NS: i64 = 366 * 86_400 * 1_000_000_000;
const MAX_SEGMENT_BYTES: u64 = 1 << 50;
/// Longest tick: the lowest frame rate is 1 fps.
const MAX_TICK_NS: i64 = 1_000_000_000;
const MAX_UNIX_MS: i64 = 253_402_300_799_000;
/// Version of the description's format.
const FORMAT_VERSION: u32 = 1;

/// An entry of the log of recorded data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RecordedEntry {
    /// A run started; the following segments belong to it.
    Run(Run),
    /// A segment is complete.
    Segment(Segment),
    /// A thumbnail was taken.
    Thumbnail(Thumbnail),
    /// An earlier owner recorded a segment to a spool elsewhere.
    EarlierSegment(EarlierSegment),
    /// An earlier owner took a thumbnail, which is in a spool elsewhere.
    EarlierThumbnail(Thumbnail),
}

/// A segment that an earlier owner recorded to a spool elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EarlierSegment {
    pub(super) segment: Segment,
    /// Where it can be read; `None` if it is nowhere but in that spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<Origin>,
    /// Index of its MP4 file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<u32>,
    /// Whether the earlier owner did not report it, so that this one does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_unreported: bool,
}

/// A storage from which segments of earlier owners are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Origin {
    /// The store of the fleet.
    FleetStore,
    /// The recording's storage.
    Storage,
    /// The recording's backup.
    Backup,
}

impl RecordedEntry {
    /// Epoch of the owner that recorded it.
    fn epoch(&self) -> u64 {
        match self {
            Self::Run(run) => run.epoch,
            Self::Segment(segment) | Self::EarlierSegment(EarlierSegment { segment, .. }) => segment.epoch,
            Self::Thumbnail(thumbnail) | Self::EarlierThumbnail(thumbnail) => thumbnail.epoch,
        }
    }

    /// Checks the entry, as a spool may come from anywhere. `segments` and `thumbnails` are the counts so
    /// far.
    pub(super) fn validate(&self, segments: usize, thumbnails: usize) -> io::Result<()> {
        let time = |t: MediaTime| (-1_000_000_000..=MAX_DURATION_NS).contains(&t.0);
        let valid = match self {
            Self::Run(run) => {
                run.index < u32::MAX
                    && (0..=MAX_UNIX_MS).contains(&run.unix_ms)
                    && (0..=MAX_TICK_NS).contains(&run.tick.0)
            }
            Self::Segment(s) | Self::EarlierSegment(EarlierSegment { segment: s, .. }) => {
                s.index as usize == segments
                    && time(s.start)
                    && s.duration.0 > 0
                    && time(s.duration)
                    && s.bytes < MAX_SEGMENT_BYTES
            }
            Self::Thumbnail(t) | Self::EarlierThumbnail(t) => {
                t.index as usize == thumbnails && time(t.at) && t.bytes < MAX_SEGMENT_BYTES
            }
        };
        if valid {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("invalid log entry: {self:?}")))
        }
    }
}

/// An entry of the log of uploads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UploadEntry {
    /// An MP4 file was assembled from these segments.
    Assembled(FileSegments),
    /// The storage has confirmed this file.
    Stored(StoredFile),
    /// The store of the fleet has confirmed a copy of this segment.
    Copied {
        /// Name in the spool.
        name: String,
    },
    /// The first storage was given up; everything is uploaded to the backup, from the start.
    SwitchedToBackup,
    /// A multipart upload was requested, or created if it has an id. If its process is killed, the next one
    /// aborts it.
    MultipartStarted {
        upload: UnfinishedUpload,
        /// Whether it is in the backup.
        #[serde(default)]
        backup: bool,
    },
    /// A multipart upload was completed or aborted.
    MultipartEnded { upload: UnfinishedUpload },
}

/// A file that a storage has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredFile {
    /// Name in the spool.
    pub(super) name: String,
    /// Description of the file, if players open it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<RecordedFile>,
}

/// A recording, and the spool that it is kept in until it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct SpoolConfig {
    /// Description of the recording.
    pub recording: Recording,
    /// Folder for what is not stored yet. It is created for the recording and removed once everything is
    /// stored.
    pub folder: PathBuf,
    /// Receipt file (JSON) that lists what was stored and where. It is written once everything is stored and
    /// before the spool is removed, so that a later process can report it.
    pub receipt: Option<PathBuf>,
    /// Epoch of the owner that records now.
    pub epoch: u64,
    /// Ledger of what earlier owners recorded. It counts if the recording is resumed and the spool in
    /// `folder` does not have that.
    pub earlier: Vec<LedgerRow>,
    /// Whether earlier owners recorded something, even if the ledger is empty.
    pub has_earlier: bool,
    /// Store of the fleet: it gets a copy of each segment that the recording's own storage does not have, and
    /// segments of earlier owners are read from there. The spool does not contain it.
    pub store: Option<FleetStore>,
}

impl SpoolConfig {
    /// A recording with its spool in this folder, without earlier owners and a receipt.
    #[must_use]
    pub fn new(recording: Recording, folder: PathBuf) -> Self {
        let epoch = FIRST_EPOCH;
        let (receipt, earlier, has_earlier, store) = (None, Vec::new(), false, None);
        Self { recording, folder, receipt, epoch, earlier, has_earlier, store }
    }
}

/// Contents of `recording.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    recording: Recording,
    /// See [`SpoolConfig::receipt`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receipt: Option<PathBuf>,
    /// Index of the spool's first MP4 file: earlier owners make those before it.
    #[serde(default)]
    first_file: u32,
    /// A later owner went on with the recording in another spool, and has its playlists.
    #[serde(default)]
    superseded: bool,
    /// The fleet has a store: a later owner made files of the segments that were copied there.
    #[serde(default)]
    has_store: bool,
}

/// Who writes the playlists and the manifest of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaylistWriter {
    /// The owner of this spool, while they grow and at the end.
    ThisSpool,
    /// This spool is recovered: it completes them, unless another owner has gone on with the recording.
    Unknown,
    /// Another owner has gone on with the recording.
    LaterOwner,
}

/// A spool that this process has locked.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    description: Description,
    /// Epoch of the owner that records now; `None` if the spool is only recovered.
    epoch: Option<u64>,
    names: FileNames,
    store: Option<FleetStore>,
    /// See [`SpoolConfig::receipt`].
    receipt: Option<PathBuf>,
    /// Size of its files in bytes.
    used_bytes: AtomicU64,
    /// Holds the lock until it is closed.
    _lock: File,
}

impl Spool {
    /// Creates the spool of a recording, or opens the existing one if `resume` is set. A resumed recording
    /// whose spool is not here continues after what the ledger of its earlier owners has.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Unfinished`], [`Error::Overlap`], [`Error::NoFolder`],
    /// [`Error::CannotCreateFiles`], [`Error::Create`], [`Error::NotASpool`] or [`Error::Busy`].
    pub fn create(config: &SpoolConfig) -> Result<Arc<Self>, Error> {
        let (folder, recording) = (&config.folder, &config.recording);
        let lock = |folder: &Path| -> Result<Self, Error> {
            let mut spool = Self::lock(folder, if recording.resume { LOCK_TIMEOUT } else { Duration::ZERO })?;
            // The description on disk has no keys.
            recording.clone_into(&mut spool.description.recording);
            spool.description.receipt.clone_from(&config.receipt);
            spool.receipt.clone_from(&config.receipt);
            spool.epoch = Some(config.epoch);
            spool.store.clone_from(&config.store);
            spool.description.has_store |= config.store.is_some();
            Ok(spool)
        };
        if recording.resume && folder.join(DESCRIPTION_FILE).exists() {
            let spool = lock(folder)?;
            if spool.has_all_epochs(&config.earlier)? {
                return Ok(Arc::new(spool));
            }
            spool.set_aside()?;
        }
        check_destinations(config)?;
        match fs::create_dir(folder) {
            Ok(()) => {}
            // A process that was killed before it wrote the description.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_empty_draft(folder) => {}
            Err(e) => {
                return Err(match e.kind() {
                    io::ErrorKind::AlreadyExists => Error::Unfinished(folder.clone()),
                    // File systems like /proc return this for every new file.
                    io::ErrorKind::NotFound if parent_folder(folder).is_dir() => {
                        Error::CannotCreateFiles(parent_folder(folder).to_owned())
                    }
                    io::ErrorKind::NotFound => Error::NoFolder(parent_folder(folder).to_owned()),
                    _ => Error::Create(folder.clone(), e),
                });
            }
        }
        let written = write_new(config).map_err(|e| Error::Create(folder.clone(), e));
        written.and_then(|()| lock(folder)).map(Arc::new).inspect_err(|_| {
            // It is still empty.
            let _ignored = fs::remove_dir_all(folder);
        })
    }

    /// Whether the spool has the runs of all owners that the ledger knows: nobody else has gone on with the
    /// recording since.
    fn has_all_epochs(&self, ledger: &[LedgerRow]) -> Result<bool, Error> {
        let not_a_spool = |source| Error::NotASpool { folder: self.folder.clone(), source };
        let entries = self.recorded_log_reader().and_then(|mut log| log.read_new()).map_err(not_a_spool)?;
        let own = entries.iter().map(RecordedEntry::epoch).max();
        Ok(ledger.iter().filter_map(LedgerRow::epoch).max() <= own)
    }

    /// Makes room for another spool of the same recording. What is in this one stays beside it, in a folder
    /// whose path is returned; `None` if there is nothing.
    fn set_aside(mut self) -> Result<Option<PathBuf>, Error> {
        let fail = |e| Error::Create(self.folder.clone(), e);
        if !has_segment_files(&self.folder) {
            return fs::remove_dir_all(&self.folder).map_err(fail).map(|()| None);
        }
        self.description.superseded = true;
        write_description(&self.folder, &self.description).map_err(fail)?;
        let numbered = |n: u32| {
            let mut name = self.folder.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let aside = (1..).map(numbered).find(|path| !path.exists());
        let aside = aside.unwrap_or_else(|| numbered(0));
        fs::rename(&self.folder, &aside).map_err(fail)?;
        tracing::warn!(spool = %aside.display(), "recording went on elsewhere, its earlier spool was kept");
        Ok(Some(aside))
    }

    /// Marks the spool of a recording with which another owner has gone on, and moves it to another folder,
    /// whose path is returned; `None` if nothing was left in it. Does nothing if it was moved before.
    ///
    /// # Errors
    /// [`Error::NotASpool`], [`Error::Busy`], [`Error::Create`].
    pub fn supersede(folder: &Path) -> Result<Option<PathBuf>, Error> {
        let spool = Self::open(folder)?;
        if spool.description.superseded { Ok(Some(folder.to_owned())) } else { spool.set_aside() }
    }

    /// Whether a process has locked a spool.
    #[must_use]
    pub fn is_busy(folder: &Path) -> bool {
        let lock = OpenOptions::new().write(true).open(folder.join(LOCK_FILE));
        // The lock is released at once.
        lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    /// Newest epoch in the log of a spool; `None` if nothing was recorded.
    ///
    /// # Errors
    /// [`Error::NotASpool`].
    pub fn newest_epoch(folder: &Path) -> Result<Option<u64>, Error> {
        let entries = LogReader::<RecordedEntry>::open(&folder.join(RECORDED_LOG))
            .and_then(|mut log| log.read_new())
            .map_err(|source| Error::NotASpool { folder: folder.to_owned(), source })?;
        Ok(entries.iter().map(RecordedEntry::epoch).max())
    }

    /// Opens the spool of a recording that is over or went on elsewhere, to store what is left in it. Keys
    /// come from `config`.
    ///
    /// # Errors
    /// [`Error::NotASpool`], [`Error::Busy`].
    pub fn open_left(config: &SpoolConfig) -> Result<Arc<Self>, Error> {
        let mut spool = Self::open(&config.folder)?;
        config.recording.clone_into(&mut spool.description.recording);
        spool.receipt.clone_from(&config.receipt);
        spool.store.clone_from(&config.store);
        Ok(Arc::new(spool))
    }

    /// Opens the spool of an interrupted recording. The keys of its storage must be set again.
    ///
    /// # Errors
    /// [`Error::NotASpool`], [`Error::Busy`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::lock(folder, Duration::ZERO)
    }

    fn lock(folder: &Path, timeout: Duration) -> Result<Self, Error> {
        let not_a_spool = |source: io::Error| Error::NotASpool { folder: folder.to_owned(), source };
        let text = fs::read(folder.join(DESCRIPTION_FILE)).map_err(not_a_spool)?;
        let description: Description = serde_json::from_slice(&text).map_err(|e| not_a_spool(e.into()))?;
        if description.version != FORMAT_VERSION {
            return Err(not_a_spool(io::Error::other("it was created by another version of Pagecast")));
        }
        let mut options = OpenOptions::new();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(LOCK_FILE))
            .map_err(not_a_spool)?;
        let started_at = Instant::now();
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if started_at.elapsed() >= timeout {
                return Err(Error::Busy(folder.to_owned()));
            }
            std::thread::sleep(LOCK_POLL_INTERVAL);
        }
        description.recording.validate().map_err(|e| not_a_spool(io::Error::other(e)))?;
        let names = FileNames::new(&description.recording.name);
        // Creates missing logs, which count as empty.
        for log in [RECORDED_LOG, UPLOAD_LOG] {
            options.clone().append(true).open(folder.join(log)).map_err(not_a_spool)?;
        }
        let used_bytes = AtomicU64::new(folder_size(folder));
        let folder = folder.to_owned();
        // The later owner has the receipt.
        let receipt = description.receipt.clone().filter(|_| !description.superseded);
        Ok(Self { folder, description, epoch: None, names, store: None, receipt, used_bytes, _lock: lock })
    }

    /// Path of the spool.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Description of the recording.
    #[must_use]
    pub fn recording(&self) -> &Recording {
        &self.description.recording
    }

    /// Description of the recording, for setting the storage's keys, which are not in the spool.
    pub fn recording_mut(&mut self) -> &mut Recording {
        &mut self.description.recording
    }

    /// See [`SpoolConfig::receipt`].
    pub(super) fn receipt(&self) -> Option<&Path> {
        self.receipt.as_deref()
    }

    /// Epoch of the owner that records now.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.unwrap_or(FIRST_EPOCH)
    }

    /// Store of the fleet.
    pub(super) fn store(&self) -> Option<&FleetStore> {
        self.store.as_ref()
    }

    /// Whether only what a later owner could not read is left to store: it made files of the rest.
    pub(super) fn stores_remainder(&self) -> bool {
        self.description.superseded && self.description.has_store
    }

    /// Index of the first MP4 file: earlier owners make those before it.
    pub(super) fn first_file(&self) -> u32 {
        self.description.first_file
    }

    /// Who writes the playlists of the recording.
    pub(super) fn playlist_writer(&self) -> PlaylistWriter {
        match self.epoch {
            _ if self.description.superseded => PlaylistWriter::LaterOwner,
            Some(_) => PlaylistWriter::ThisSpool,
            None => PlaylistWriter::Unknown,
        }
    }

    pub(super) fn names(&self) -> &FileNames {
        &self.names
    }

    /// Path of the file `name`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A segment with the paths of its files.
    pub(super) fn segment_source(&self, segment: &Segment) -> SegmentSource {
        SegmentSource {
            start: segment.start,
            duration: segment.duration,
            init: self.path(&self.names.init(segment.epoch, segment.run)),
            segment: self.path(&self.names.segment(segment.epoch, segment.index)),
        }
    }

    /// Size of its files in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_used_bytes(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes a file that is no longer needed.
    pub(super) fn discard(&self, name: &str) {
        let path = self.path(name);
        let bytes = fs::metadata(&path).map_or(0, |m| m.len());
        match fs::remove_file(&path) {
            Ok(()) => {
                let less = |used: u64| Some(used.saturating_sub(bytes));
                // The closure always returns a value.
                let _before = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "spool file removal failed"),
        }
    }

    pub(super) fn recorded_log_reader(&self) -> io::Result<LogReader<RecordedEntry>> {
        LogReader::open(&self.folder.join(RECORDED_LOG))
    }

    pub(super) fn recorded_log_writer(&self) -> io::Result<LogWriter<RecordedEntry>> {
        LogWriter::open(&self.folder.join(RECORDED_LOG))
    }

    pub(super) fn upload_log_reader(&self) -> io::Result<LogReader<UploadEntry>> {
        LogReader::open(&self.folder.join(UPLOAD_LOG))
    }

    pub(super) fn upload_log_writer(&self) -> io::Result<LogWriter<UploadEntry>> {
        LogWriter::open(&self.folder.join(UPLOAD_LOG))
    }

    /// Removes the spool, after everything is stored or if nothing was recorded.
    pub fn remove(&self) {
        // If the rest cannot be removed, the spool counts as empty.
        let _ignored =
            fs::remove_file(self.folder.join(RECORDED_LOG)).and_then(|()| sync_folder(&self.folder));
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, spool = %self.folder.display(), "spool removal failed");
        }
    }
}

/// Checks that the destinations are free and do not overlap with the spool.
fn check_destinations(config: &SpoolConfig) -> Result<(), Error> {
    let recording = &config.recording;
    let spool = std::path::absolute(&config.folder).map_err(|e| Error::Create(config.folder.clone(), e))?;
    for storage in [Some(&recording.to), recording.backup.as_ref()].into_iter().flatten() {
        let own = match storage {
            Storage::File(path) => path.clone(),
            Storage::Folder(folder) => folder.join(&recording.name),
            // Remote storages are checked by the uploader's probe.
            _ => continue,
        };
        let own = std::path::absolute(&own).map_err(|e| Error::Create(own.clone(), e))?;
        if own.starts_with(&spool) || spool.starts_with(&own) {
            return Err(Error::Overlap(own));
        }
        check_destination(storage, recording)?;
    }
    Ok(())
}

fn check_destination(storage: &Storage, recording: &Recording) -> Result<(), Error> {
    // What is there of a resumed recording is its own.
    let may_exist = recording.overwrite || recording.resume;
    match storage {
        Storage::File(path) => {
            if path.is_dir() {
                return Err(Error::Create(path.clone(), io::ErrorKind::IsADirectory.into()));
            }
            let folder = parent_folder(path);
            if !folder.is_dir() {
                return Err(Error::NoFolder(folder.to_owned()));
            }
            if path.exists() && !may_exist { Err(Error::Exists(path.clone())) } else { Ok(()) }
        }
        Storage::Folder(folder) if folder.exists() && !folder.is_dir() => {
            Err(Error::Create(folder.clone(), io::ErrorKind::NotADirectory.into()))
        }
        Storage::Folder(folder) => {
            fs::create_dir_all(folder).map_err(|e| Error::Create(folder.clone(), e))?;
            let own = folder.join(&recording.name);
            if own.exists() && !may_exist { Err(Error::Exists(own)) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Whether a spool contains nothing but what [`write_new`] writes before the description.
fn is_empty_draft(folder: &Path) -> bool {
    let draft = |name: &str| {
        let is_init = name.contains("_init") && name.trim_end_matches(".part").ends_with(".mp4");
        name == format!("{DESCRIPTION_FILE}.part")
            || unreported::DRAFTS.contains(&name)
            || is_init
            || [RECORDED_LOG, UPLOAD_LOG].contains(&name.trim_end_matches(".part"))
    };
    fs::read_dir(folder)
        .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name().to_str().is_some_and(draft)))
}

/// Whether a spool has segments, closed or not.
fn has_segment_files(folder: &Path) -> bool {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "m4s"))
        .any(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0))
}

/// The storage with an absolute path, for processes with another working directory.
fn with_absolute_path(storage: Storage) -> Storage {
    match storage {
        Storage::File(path) => Storage::File(std::path::absolute(&path).unwrap_or(path)),
        Storage::Folder(path) => Storage::Folder(std::path::absolute(&path).unwrap_or(path)),
        bucket => bucket,
    }
}

/// Writes the logs of a new spool, if there are earlier owners, and last its description.
fn write_new(config: &SpoolConfig) -> io::Result<()> {
    let SpoolConfig { folder, recording, .. } = config;
    let mut first_file = 0;
    if recording.resume && (config.has_earlier || !config.earlier.is_empty()) {
        let earlier = unreported::complete(config, folder);
        let mut import = LedgerImport::new(recording, &earlier, config.store.is_some());
        import.mark_unreported(&earlier[config.earlier.len()..]);
        for (name, content) in &import.inits {
            write_atomically(&folder.join(name), content)?;
        }
        write_atomically(&folder.join(RECORDED_LOG), &json_lines(&import.recorded)?)?;
        write_atomically(&folder.join(UPLOAD_LOG), &json_lines(&import.uploaded)?)?;
        first_file = import.first_file;
    }
    let receipt = config.receipt.as_ref().map(std::path::absolute).transpose()?;
    let recording = recording.clone();
    let (version, has_store) = (FORMAT_VERSION, config.store.is_some());
    let description = Description { version, recording, receipt, first_file, superseded: false, has_store };
    write_description(folder, &description)?;
    sync_folder(parent_folder(folder))
}

fn write_description(folder: &Path, description: &Description) -> io::Result<()> {
    let mut recording = description.recording.clone();
    recording.to = with_absolute_path(recording.to.without_keys());
    recording.backup = recording.backup.map(|backup| with_absolute_path(backup.without_keys()));
    let receipt = description.receipt.clone();
    let text = serde_json::to_vec_pretty(&Description { recording, receipt, ..*description })?;
    write_atomically(&folder.join(DESCRIPTION_FILE), &text)
}

/// One JSON object per line.
fn json_lines(entries: &[impl Serialize]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Writes a file atomically and durably.
pub(super) fn write_atomically(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut draft = path.to_owned().into_os_string();
    draft.push(".part");
    fs::write(&draft, text)?;
    File::open(&draft)?.sync_all()?;
    fs::rename(draft, path)?;
    sync_folder(parent_folder(path))
}

/// Syncs the entries of a folder to the disk.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn folder_size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum()
}
