//! Packets become one MP4 file, on the thread `record`.
//!
//! While the cast runs the file is fragmented: whatever happens, it plays up to its last fragment. At the end it is
//! replaced, without encoding again, by one with its index in front (`faststart`), as players and web servers like it.

mod mp4;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ff::codec::Parameters;
use ffmpeg_the_third as ff;
use pagecast_core::{Fps, MediaTime, Packet, Track};

use crate::fanout::Tap;
use mp4::Fragmented;

/// Length of a fragment: what a power cut may cost.
const FRAGMENT: MediaTime = MediaTime(1_000_000_000);

/// Why a recording cannot be made or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is such a file already.
    #[error("{} exists already: choose another name, or replace it with --overwrite", .0.display())]
    Exists(PathBuf),
    /// The folder is not there.
    #[error("there is no folder {}: make it first", .0.display())]
    NoFolder(PathBuf),
    /// The file cannot be made.
    #[error("cannot write {}", .0.display())]
    Create(PathBuf, #[source] io::Error),
    /// The disk is full.
    #[error("the disk that {} is on is full: {kept}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What is left of it.
        kept: Kept,
    },
    /// The file cannot be written any further.
    #[error("cannot go on writing {}: {kept}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What is left of it.
        kept: Kept,
        /// What libavformat said.
        #[source]
        source: ff::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread record")]
    Thread(#[source] io::Error),
}

/// What is left of a recording that cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Whole fragments, which play.
    Fragments,
    /// No fragment was complete: the file is removed.
    Nothing,
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fragments => "what was recorded until then is in the file and plays",
            Self::Nothing => "nothing was recorded",
        })
    }
}

/// A finished recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Why the file is still fragmented, if it is. It plays all the same.
    pub left_fragmented: Option<String>,
}

/// What the file holds.
pub struct Tracks {
    /// H.264 and its ticks per second.
    pub video: (Parameters, Fps),
    /// AAC.
    pub audio: Parameters,
}

impl std::fmt::Debug for Tracks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tracks({:?} at {:?}, {:?})", self.video.0.id(), self.video.1, self.audio.id())
    }
}

/// A file that is being recorded to.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: Fragmented,
    /// The last video packet: how long it lasts is known when the next one comes, and a fragment must know it.
    held: Option<Packet>,
    cut_at: MediaTime,
    /// Bytes that hold whole fragments.
    whole: u64,
}

impl Recorder {
    /// Makes the file.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoFolder`], [`Error::Create`].
    pub fn create(path: &Path, overwrite: bool, tracks: Tracks) -> Result<Self, Error> {
        claim(path, overwrite)?;
        match Fragmented::create(path, tracks) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, held: None, cut_at: FRAGMENT, whole: 0 }),
            Err(reason) => Err(give_up(path, 0, reason)),
        }
    }

    /// Writes packets until nobody sends any more, then finishes the file. A file that got no packet is removed.
    ///
    /// # Errors
    /// [`Error::Thread`]; the thread itself ends with [`Error::Full`] or [`Error::Write`].
    pub fn spawn(mut self, packets: Tap) -> Result<JoinHandle<Result<Option<Finished>, Error>>, Error> {
        let run = move || {
            let mut any = false;
            for packet in packets {
                any = true;
                if let Err(reason) = self.take(packet) {
                    drop(self.file);
                    return Err(give_up(&self.path, self.whole, reason));
                }
            }
            if any {
                self.finish().map(Some)
            } else {
                drop(self.file);
                // It may have been removed meanwhile; nothing was in it.
                let _gone = std::fs::remove_file(&self.path);
                Ok(None)
            }
        };
        std::thread::Builder::new().name("record".into()).spawn(run).map_err(Error::Thread)
    }

    fn take(&mut self, packet: Packet) -> Result<(), ff::Error> {
        if packet.track == Track::Audio {
            return self.file.write(&packet);
        }
        let next = packet.dts;
        if let Some(mut last) = self.held.replace(packet) {
            last.duration = next - last.dts;
            self.file.write(&last)?;
            if next >= self.cut_at {
                self.whole = self.file.cut()?;
                self.cut_at = next + FRAGMENT;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ff::Error> {
        if let Some(last) = self.held.take() {
            self.file.write(&last)?;
        }
        self.file.cut()?;
        self.file.end()
    }

    fn finish(mut self) -> Result<Finished, Error> {
        let ended = self.end();
        drop(self.file);
        if let Err(reason) = ended {
            return Err(give_up(&self.path, self.whole, reason));
        }
        let left_fragmented = match faststart(&self.path) {
            Ok(()) => None,
            Err(reason) => Some(reason.to_string()),
        };
        let bytes = std::fs::metadata(&self.path).map_or(0, |m| m.len());
        Ok(Finished { path: self.path, bytes, left_fragmented })
    }
}

/// Leaves a file that ends with its `whole` bytes of fragments, or none. Nobody may have it open any more: libavformat writes
/// what it still holds when it closes a file.
fn give_up(path: &Path, whole: u64, reason: ff::Error) -> Error {
    let cut = || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole)?;
        file.sync_all()
    };
    let done = if whole == 0 { std::fs::remove_file(path) } else { cut() };
    if let Err(error) = done {
        tracing::warn!(%error, "the torn end of the file stays");
    }
    let kept = if whole == 0 { Kept::Nothing } else { Kept::Fragments };
    let path = path.to_owned();
    match reason {
        ff::Error::Other { errno } if errno == rustix::io::Errno::NOSPC.raw_os_error() => {
            Error::Full { path, kept }
        }
        source => Error::Write { path, kept, source },
    }
}

/// Makes the file, or empties it if that is allowed.
fn claim(path: &Path, overwrite: bool) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.write(true).truncate(true).create(overwrite).create_new(!overwrite);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Err(Error::NoFolder(folder.to_owned()))
        }
        Err(e) => Err(Error::Create(path.to_owned(), e)),
    }
}

/// Replaces a fragmented file by one with its index in front.
fn faststart(path: &Path) -> Result<(), mp4::RemuxError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    let draft = path.with_file_name(name);
    let done = mp4::remux(path, &draft)
        .and_then(|()| Ok(File::open(&draft)?.sync_all()?))
        .and_then(|()| Ok(std::fs::rename(&draft, path)?));
    if done.is_err() {
        // The draft may not even have been made.
        let _gone = std::fs::remove_file(&draft);
    }
    done
}
