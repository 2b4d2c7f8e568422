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
use pagecast_core::spec::{Recording, Storage};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Error;
use super::append_log::{LogReader, LogWriter};
use super::assemble::SegmentSource;
use super::file_names::FileNames;
use super::manifest::RecordedFile;
use super::splitter::FileSegments;
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
}

impl RecordedEntry {
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
            Self::Segment(s) => {
                s.index as usize == segments
                    && time(s.start)
                    && s.duration.0 > 0
                    && time(s.duration)
                    && s.bytes < MAX_SEGMENT_BYTES
            }
            Self::Thumbnail(t) => t.index as usize == thumbnails && time(t.at) && t.bytes < MAX_SEGMENT_BYTES,
        };
        if valid {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("invalid log entry: {self:?}")))
        }
    }
}

/// One run: the time of one encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) index: u32,
    /// Time of day at zero of the recording, extrapolated from this run, in ms since 1970.
    pub(super) unix_ms: i64,
    /// Interval of pictures or audio frames. Zero in spools of versions that did not cut segments at split
    /// points.
    #[serde(default)]
    pub(super) tick: MediaTime,
}

/// A recorded segment. The first one starts at zero, each other one at the end of the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) index: u32,
    pub(super) run: u32,
    pub(super) start: MediaTime,
    pub(super) duration: MediaTime,
    pub(super) bytes: u64,
}

/// A recorded thumbnail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Thumbnail {
    pub(super) index: u32,
    /// Time in the recording.
    pub(super) at: MediaTime,
    pub(super) bytes: u64,
}

/// An entry of the log of uploads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UploadEntry {
    /// An MP4 file was assembled from these segments.
    Assembled(FileSegments),
    /// The storage has confirmed this file.
    Stored(StoredFile),
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

/// Contents of `recording.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    recording: Recording,
}

/// A spool that this process has locked.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    recording: Recording,
    names: FileNames,
    /// Size of its files in bytes.
    used_bytes: AtomicU64,
    /// Holds the lock until it is closed.
    _lock: File,
}

impl Spool {
    /// Creates the spool of a recording, or opens the existing one if `resume` is set.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Unfinished`], [`Error::Overlap`], [`Error::NoFolder`],
    /// [`Error::CannotCreateFiles`], [`Error::Create`], [`Error::NotASpool`] or [`Error::Busy`].
    pub fn create(recording: &Recording) -> Result<Arc<Self>, Error> {
        let folder = &recording.spool;
        let lock = |folder: &Path| {
            let mut spool = Self::lock(folder, if recording.resume { LOCK_TIMEOUT } else { Duration::ZERO })?;
            // The description on disk has no keys.
            recording.clone_into(&mut spool.recording);
            Ok(Arc::new(spool))
        };
        if recording.resume && folder.join(DESCRIPTION_FILE).exists() {
            return lock(folder);
        }
        check_destinations(recording)?;
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
        let written = write_description(folder, recording).map_err(|e| Error::Create(folder.clone(), e));
        written.and_then(|()| lock(folder)).inspect_err(|_| {
            // It is still empty.
            let _ignored = fs::remove_dir_all(folder);
        })
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
        let recording = description.recording;
        recording.validate().map_err(|e| not_a_spool(io::Error::other(e)))?;
        let names = FileNames::new(&recording.name);
        // Creates missing logs, which count as empty.
        for log in [RECORDED_LOG, UPLOAD_LOG] {
            options.clone().append(true).open(folder.join(log)).map_err(not_a_spool)?;
        }
        let used_bytes = AtomicU64::new(folder_size(folder));
        Ok(Self { folder: folder.to_owned(), recording, names, used_bytes, _lock: lock })
    }

    /// Path of the spool.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Description of the recording.
    #[must_use]
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Description of the recording, for setting the storage's keys, which are not in the spool.
    pub fn recording_mut(&mut self) -> &mut Recording {
        &mut self.recording
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
            init: self.path(&self.names.init(segment.run)),
            segment: self.path(&self.names.segment(segment.index)),
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
fn check_destinations(recording: &Recording) -> Result<(), Error> {
    let spool =
        std::path::absolute(&recording.spool).map_err(|e| Error::Create(recording.spool.clone(), e))?;
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
    match storage {
        Storage::File(path) => {
            if path.is_dir() {
                return Err(Error::Create(path.clone(), io::ErrorKind::IsADirectory.into()));
            }
            let folder = parent_folder(path);
            if !folder.is_dir() {
                return Err(Error::NoFolder(folder.to_owned()));
            }
            if path.exists() && !recording.overwrite { Err(Error::Exists(path.clone())) } else { Ok(()) }
        }
        Storage::Folder(folder) if folder.exists() && !folder.is_dir() => {
            Err(Error::Create(folder.clone(), io::ErrorKind::NotADirectory.into()))
        }
        Storage::Folder(folder) => {
            fs::create_dir_all(folder).map_err(|e| Error::Create(folder.clone(), e))?;
            let own = folder.join(&recording.name);
            if own.exists() && !recording.overwrite { Err(Error::Exists(own)) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Whether a spool contains nothing but the draft of its description.
fn is_empty_draft(folder: &Path) -> bool {
    let draft = format!("{DESCRIPTION_FILE}.part");
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().all(|e| e.file_name() == draft.as_str()))
}

/// The storage with an absolute path, for processes with another working directory.
fn with_absolute_path(storage: Storage) -> Storage {
    match storage {
        Storage::File(path) => Storage::File(std::path::absolute(&path).unwrap_or(path)),
        Storage::Folder(path) => Storage::Folder(std::path::absolute(&path).unwrap_or(path)),
        bucket => bucket,
    }
}

fn write_description(folder: &Path, recording: &Recording) -> io::Result<()> {
    let mut recording = recording.clone();
    recording.to = with_absolute_path(recording.to.without_keys());
    recording.backup = recording.backup.map(|backup| with_absolute_path(backup.without_keys()));
    let text = serde_json::to_vec_pretty(&Description { version: FORMAT_VERSION, recording })?;
    write_atomically(&folder.join(DESCRIPTION_FILE), &text)?;
    sync_folder(parent_folder(folder))
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
