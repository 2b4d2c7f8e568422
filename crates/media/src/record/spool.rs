//! The folder where a recording lives until all of it is stored. Whoever holds its lock owns it.
//!
//! ```text
//! NAME.spool/
//!   recording.json   what the recording is, without keys
//!   lock             held by the process that records or delivers
//!   recorded.log     what was recorded, by the thread `record`
//!   delivered.log    what became of it, by the thread `deliver`
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
use crate::store::parent_folder;

const DESCRIPTION_FILE: &str = "recording.json";
const LOCK_FILE: &str = "lock";
/// Time for the process that recorded before to be gone: it may have been killed a moment ago.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether it is.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);
const RECORDED_LOG: &str = "recorded.log";
const UPLOAD_LOG: &str = "delivered.log";
/// What no recording exceeds: a year of nanoseconds, a petabyte in one piece, the year 9999.
const MAX_DURATION_NS: i64 = 366 * 86_400 * 1_000_000_000;
const MAX_SEGMENT_BYTES: u64 = 1 << 50;
/// One picture a second is the slowest.
const MAX_TICK_NS: i64 = 1_000_000_000;
const MAX_UNIX_MS: i64 = 253_402_300_799_000;
/// How a description of another kind is told from this one.
const FORMAT_VERSION: u32 = 1;

/// What was recorded, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RecordedEntry {
    /// An encoder began: the segments that follow are its.
    Run(Run),
    /// A segment is whole.
    Segment(Segment),
    /// A picture was taken.
    Thumbnail(Thumbnail),
}

impl RecordedEntry {
    /// Whether the numbers can be true: a spool may come from anywhere. `segments` and `thumbnails` were
    /// there before.
    pub(super) fn validate(&self, segments: usize, thumbnails: usize) -> io::Result<()> {
        let time = |t: MediaTime| (-1_000_000_000..=MAX_DURATION_NS).contains(&t.0);
        let good = match self {
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
        if good {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("cannot be true: {self:?}")))
        }
    }
}

/// One encoder's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) index: u32,
    /// What time it was at zero of the recording, had the run begun there; in milliseconds since 1970.
    pub(super) unix_ms: i64,
    /// Time from one picture, or frame of sound, to the next. Zero in spools of versions that did not cut
    /// segments where files end.
    #[serde(default)]
    pub(super) tick: MediaTime,
}

/// A segment; the first one starts at zero, each at the end of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) index: u32,
    pub(super) run: u32,
    pub(super) start: MediaTime,
    pub(super) duration: MediaTime,
    pub(super) bytes: u64,
}

/// A picture of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Thumbnail {
    pub(super) index: u32,
    /// When, in the recording.
    pub(super) at: MediaTime,
    pub(super) bytes: u64,
}

/// What became of what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UploadEntry {
    /// An MP4 file was made of these segments.
    Assembled(FileSegments),
    /// Storage has confirmed this.
    Stored(StoredFile),
    /// The first storage was given up: all goes to the backup, from the beginning.
    SwitchedToBackup,
}

/// A file that storage has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredFile {
    /// Its name in the spool.
    pub(super) name: String,
    /// What players open, if it is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<RecordedFile>,
}

/// What a spool says about itself.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    recording: Recording,
}

/// A spool that is ours.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    recording: Recording,
    names: FileNames,
    /// Bytes in it.
    used_bytes: AtomicU64,
    /// Until it is closed, the spool is nobody else's.
    _lock: File,
}

impl Spool {
    /// Makes the spool of a recording, or takes up the one there is.
    ///
    /// # Errors
    /// [`ErrorBody::Exists`] where something else is or was recorded, [`ErrorBody::NoFolder`], [`ErrorBody::Create`],
    /// [`ErrorBody::TooManyCommands`].
    pub fn create(recording: &Recording) -> Result<Arc<Self>, Error> {
        let folder = &recording.spool;
        let ours = |folder: &Path| {
            let mut spool = Self::lock(folder, if recording.resume { LOCK_TIMEOUT } else { Duration::ZERO })?;
            // Its keys are not in the folder.
            recording.clone_into(&mut spool.recording);
            Ok(Arc::new(spool))
        };
        if recording.resume && folder.join(DESCRIPTION_FILE).exists() {
            return ours(folder);
        }
        check_destinations(recording)?;
        match fs::create_dir(folder) {
            Ok(()) => {}
            // Made by one that died before it could say what it is.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_empty_draft(folder) => {}
            Err(e) => {
                return Err(match e.kind() {
                    io::ErrorKind::AlreadyExists => Error::Unfinished(folder.clone()),
                    // Some file systems of the kernel say so of whatever somebody wants to make in them.
                    io::ErrorKind::NotFound if parent_folder(folder).is_dir() => {
                        Error::CannotCreateFiles(parent_folder(folder).to_owned())
                    }
                    io::ErrorKind::NotFound => Error::NoFolder(parent_folder(folder).to_owned()),
                    _ => Error::Create(folder.clone(), e),
                });
            }
        }
        let made = write_description(folder, recording).map_err(|e| Error::Create(folder.clone(), e));
        made.and_then(|()| ours(folder)).inspect_err(|_| {
            // Nothing is in it yet.
            let _gone = fs::remove_dir_all(folder);
        })
    }

    /// Takes up a spool that somebody left. Keys of its storage have to be given anew.
    ///
    /// # Errors
    /// [`ErrorBody::NotASpool`], [`ErrorBody::TooManyCommands`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::lock(folder, Duration::ZERO)
    }

    fn lock(folder: &Path, patience: Duration) -> Result<Self, Error> {
        let none = |source: io::Error| Error::NotASpool { folder: folder.to_owned(), source };
        let text = fs::read(folder.join(DESCRIPTION_FILE)).map_err(none)?;
        let described: Description = serde_json::from_slice(&text).map_err(|e| none(e.into()))?;
        if described.version != FORMAT_VERSION {
            return Err(none(io::Error::other("another version of Pagecast made it")));
        }
        let mut options = OpenOptions::new();
        let lock =
            options.write(true).create(true).truncate(false).open(folder.join(LOCK_FILE)).map_err(none)?;
        let begin = Instant::now();
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if begin.elapsed() >= patience {
                return Err(Error::Busy(folder.to_owned()));
            }
            std::thread::sleep(LOCK_POLL_INTERVAL);
        }
        let recording = described.recording;
        recording.validate().map_err(|e| none(io::Error::other(e)))?;
        let names = FileNames::new(&recording.name);
        // A log that is not there yet is empty.
        for log in [RECORDED_LOG, UPLOAD_LOG] {
            options.clone().append(true).open(folder.join(log)).map_err(none)?;
        }
        let used = AtomicU64::new(folder_size(folder));
        Ok(Self { folder: folder.to_owned(), recording, names, used_bytes: used, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is recorded.
    #[must_use]
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// For keys, which are not in the spool.
    pub fn recording_mut(&mut self) -> &mut Recording {
        &mut self.recording
    }

    pub(super) fn names(&self) -> &FileNames {
        &self.names
    }

    /// Where a file of this name is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a segment and what begins its run are.
    pub(super) fn segment_source(&self, segment: &Segment) -> SegmentSource {
        SegmentSource {
            start: segment.start,
            duration: segment.duration,
            init: self.path(&self.names.init(segment.run)),
            segment: self.path(&self.names.segment(segment.index)),
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_used_bytes(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes a file that is not needed any more.
    pub(super) fn discard(&self, name: &str) {
        let path = self.path(name);
        let bytes = fs::metadata(&path).map_or(0, |m| m.len());
        match fs::remove_file(&path) {
            Ok(()) => {
                let less = |used: u64| Some(used.saturating_sub(bytes));
                // The closure always gives a value.
                let _before = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, path = %path.display(), "stays in the spool"),
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

    /// Everything is stored, or there is nothing: the spool goes.
    pub fn remove(&self) {
        // A spool that is half removed then holds nothing that somebody would look for.
        let _gone = fs::remove_file(self.folder.join(RECORDED_LOG)).and_then(|()| sync_folder(&self.folder));
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, spool = %self.folder.display(), "the spool stays");
        }
    }
}

/// Looks whether there is room for the files of a recording where they will be, apart from its spool.
fn check_destinations(recording: &Recording) -> Result<(), Error> {
    let spool =
        std::path::absolute(&recording.spool).map_err(|e| Error::Create(recording.spool.clone(), e))?;
    for storage in [Some(&recording.to), recording.backup.as_ref()].into_iter().flatten() {
        let own = match storage {
            Storage::File(path) => path.clone(),
            Storage::Folder(folder) => folder.join(&recording.name),
            // Where others can write too, a look now would promise nothing.
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

/// Whether nothing is in a spool but the draft of its description.
fn is_empty_draft(folder: &Path) -> bool {
    let draft = format!("{DESCRIPTION_FILE}.part");
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().all(|e| e.file_name() == draft.as_str()))
}

/// The same place for whoever works in another folder.
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

/// Writes a file that is there with all of this, or not at all, also after a power cut.
pub(super) fn write_atomically(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut draft = path.to_owned().into_os_string();
    draft.push(".part");
    fs::write(&draft, text)?;
    File::open(&draft)?.sync_all()?;
    fs::rename(draft, path)?;
    sync_folder(parent_folder(path))
}

/// What was made in this folder is still there after a power cut.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn folder_size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum()
}
