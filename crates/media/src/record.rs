//! Records a cast. The thread `record` writes segments to a [`Spool`]; the thread `upload` assembles the
//! requested files from them and stores these, see [`upload`].
//!
//! A closed segment is synced to the disk; an open one is handed to the kernel once a second. So a killed
//! process loses at most a second. An interrupted recording continues in another run: of the same spool, or
//! of a new one that starts from the ledger of the earlier owners ([`SpoolConfig::earlier`]).

mod append_log;
mod assemble;
mod concat;
mod file_names;
pub mod fleet_store;
mod fmp4;
mod interleave;
mod ledger_import;
mod manifest;
mod playlist;
mod salvage;
mod splitter;
mod spool;
mod unreported;
pub mod upload;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use ffmpeg_the_third as ff;
use pagecast_core::ledger::{Run, Segment, Thumbnail};
use pagecast_core::wake::{SharedWaker, ThreadEnd};
use pagecast_core::{MediaTime, Packet, Track};
use tokio::sync::Notify;

use crate::disk::{preallocate, preallocate_if_space, release_preallocated};
use crate::encode::Tracks;
use crate::fanout::Subscription;
use crate::split_points::SplitPoints;
use crate::thumbnail::Jpeg;
use append_log::LogWriter;
use fmp4::Muxer;
use interleave::Interleaver;
use spool::{RecordedEntry, sync_folder};

pub use fleet_store::{EvidenceStore, FleetStore};
pub use spool::{Spool, SpoolConfig};

/// Length of a fragment: the most that an open segment loses when the process is killed.
const FRAGMENT_DURATION: MediaTime = MediaTime(1_000_000_000);

/// Disk space reserved for the open segment, in multiples of the largest fragment so far: one for the next
/// fragment, and one because that may be larger.
const RESERVED_FRAGMENTS: u64 = 2;
/// Space reserved for a segment before the first fragment, in bytes: a second at 4 Mbit/s.
const INITIAL_RESERVE_BYTES: u64 = 512 << 10;

/// Length of an AAC frame: 1024 samples at 48 kHz.
const AAC_FRAME_DURATION: MediaTime = MediaTime(21_333_333);

/// Errors of a recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The destination exists, and overwriting is not allowed.
    #[error("{} already exists: choose another name, or allow overwriting", .0.display())]
    Exists(PathBuf),
    /// The spool and the destination contain each other.
    #[error("{} and the spool contain each other: choose another folder for the spool", .0.display())]
    Overlap(PathBuf),
    /// The spool holds another, unfinished recording.
    #[error("{} holds an unfinished recording: recover or remove it first", .0.display())]
    Unfinished(PathBuf),
    /// The folder does not exist.
    #[error("there is no folder {}: create it first", .0.display())]
    NoFolder(PathBuf),
    /// The folder exists, but its file system does not support new files, like `/proc`.
    #[error("cannot create files in {}: choose another folder", .0.display())]
    CannotCreateFiles(PathBuf),
    /// A file or folder cannot be created.
    #[error("cannot write {}", .0.display())]
    Create(PathBuf, #[source] io::Error),
    /// The folder is not a spool, or cannot be read.
    #[error("{} is not the spool of a recording", folder.display())]
    NotASpool {
        /// The folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process has locked the spool.
    #[error("{} is in use: its recording is still running or being stored", .0.display())]
    Busy(PathBuf),
    /// The disk is full.
    #[error("the disk of {} is full: everything recorded so far is kept", .0.display())]
    DiskFull(PathBuf),
    /// The spool has reached its size limit.
    #[error("{} has {used} bytes, the limit is {limit}: everything recorded so far is kept", spool.display())]
    SpoolFull {
        /// The folder.
        spool: PathBuf,
        /// Its size in bytes.
        used: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The muxer failed.
    #[error("cannot continue recording to {}: everything recorded so far is kept", .0.display())]
    Write(PathBuf, #[source] ff::Error),
    /// A file operation failed.
    #[error("cannot continue recording to {}: everything recorded so far is kept", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The storage cannot be opened.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// A thread cannot be started.
    #[error("cannot start the thread {0}")]
    Thread(&'static str, #[source] io::Error),
}

/// Summary of one run of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSummary {
    /// Length of the run.
    pub duration: MediaTime,
    /// Size of its segments in bytes.
    pub bytes: u64,
    /// Packets dropped because the disk was too slow.
    pub lost: u64,
}

/// Writes the segments of one run.
#[derive(Debug)]
pub struct Recorder {
    spool: Arc<Spool>,
    /// Notified when there is something to upload.
    wakeup: Arc<Notify>,
    thread_end: ThreadEnd,
    log: LogWriter<RecordedEntry>,
    muxer: Muxer,
    interleaver: Interleaver,
    run: u32,
    /// Start of the run in the recording.
    run_start: MediaTime,
    /// The track that segments are cut by, and its frame interval.
    reference_track: Track,
    frame_interval: MediaTime,
    /// Split points, if MP4 files are made.
    split_points: Option<SplitPoints>,
    segment_index: u32,
    next_thumbnail: u32,
    /// Start of the open segment, and start of its next fragment.
    open_segment: Option<(MediaTime, MediaTime)>,
    /// Size of the open segment, and of the largest fragment so far, in bytes.
    segment_bytes: u64,
    largest_fragment_bytes: u64,
    /// End of the recording so far.
    end: MediaTime,
    summary: RunSummary,
}

impl Recorder {
    /// Starts a run, after salvaging the segment that an earlier run left open.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Write`] or [`Error::Io`].
    pub fn create(spool: Arc<Spool>, tracks: Tracks) -> Result<Self, Error> {
        let fail = |e: io::Error| io_error(&spool, e);
        let contents = salvage::load(&spool).map_err(fail)?;
        let run = contents.runs.last().map_or(0, |run| run.index + 1);
        let segment = contents.segments.last().map_or(0, |segment| segment.index + 1);
        let (reference_track, frame_interval) = match &tracks.video {
            Some((_, fps)) => (Track::Video, MediaTime::from(fps.interval())),
            None => (Track::Audio, AAC_FRAME_DURATION),
        };
        let (names, epoch) = (spool.names(), spool.epoch());
        let (init, path) = (spool.path(&names.init(epoch, run)), spool.path(&names.segment(epoch, segment)));
        create_segment_file(&path).map_err(fail)?;
        preallocate_if_space(&path, INITIAL_RESERVE_BYTES);
        let muxer = Muxer::create(&init, path, tracks, run == 0).map_err(|e| av_error(&spool, e))?;
        Ok(Self {
            log: spool.recorded_log_writer().map_err(fail)?,
            wakeup: Arc::default(),
            thread_end: ThreadEnd::default(),
            muxer,
            interleaver: Interleaver::new(reference_track == Track::Video),
            run,
            run_start: contents.end(),
            reference_track,
            frame_interval,
            split_points: spool
                .recording()
                .format
                .has_mp4()
                .then(|| SplitPoints::new(spool.recording().split, frame_interval)),
            segment_index: segment,
            next_thumbnail: contents.next_thumbnail,
            open_segment: None,
            segment_bytes: 0,
            largest_fragment_bytes: 0,
            end: contents.end(),
            summary: RunSummary { duration: MediaTime::ZERO, bytes: 0, lost: 0 },
            spool,
        })
    }

    /// Start of the run in the recording.
    #[must_use]
    pub fn begins_at(&self) -> MediaTime {
        self.run_start
    }

    /// Notified whenever a segment or thumbnail is complete.
    #[must_use]
    pub fn wakeup(&self) -> Arc<Notify> {
        Arc::clone(&self.wakeup)
    }

    /// Wakes `waker` when the thread of [`Recorder::spawn`] ends; the returned value tells that it has.
    #[must_use]
    pub fn watch_thread(&mut self, waker: &SharedWaker) -> ThreadEnd {
        self.thread_end = ThreadEnd::new(waker);
        self.thread_end.clone()
    }

    /// Records packets until the subscription ends, and the thumbnails that arrive meanwhile.
    ///
    /// # Errors
    /// [`Error::Thread`]; the thread itself ends with [`Error::DiskFull`], [`Error::SpoolFull`],
    /// [`Error::Write`] or [`Error::Io`].
    pub fn spawn(
        mut self,
        packets: Subscription,
        pictures: Option<Receiver<Jpeg>>,
    ) -> Result<JoinHandle<Result<RunSummary, Error>>, Error> {
        let run = move || {
            let _guard = self.thread_end.guard();
            let result = self.run(&packets, pictures.as_ref());
            self.discard_prepared();
            self.wakeup.notify_one();
            result.map(|()| self.summary)
        };
        std::thread::Builder::new().name("record".into()).spawn(run).map_err(|e| Error::Thread("record", e))
    }

    fn run(&mut self, packets: &Subscription, pictures: Option<&Receiver<Jpeg>>) -> Result<(), Error> {
        while let Some(mut packet) = packets.recv() {
            packet.pts = packet.pts + self.run_start;
            packet.dts = packet.dts + self.run_start;
            // Priming samples lie before the run; only the first run has room for them.
            if self.run > 0 && packet.dts < self.run_start {
                continue;
            }
            let lost = packets.lost();
            if lost > self.summary.lost {
                tracing::warn!(lost, "disk too slow, packets dropped from recording");
                self.summary.lost = lost;
            }
            self.interleaver.push(packet);
            while let Some(packet) = self.interleaver.pop() {
                self.write_packet(&packet)?;
            }
            for picture in pictures.into_iter().flat_map(Receiver::try_iter) {
                self.save_thumbnail(&picture)?;
            }
        }
        while let Some(packet) = self.interleaver.drain() {
            self.write_packet(&packet)?;
        }
        for picture in pictures.into_iter().flat_map(Receiver::iter) {
            self.save_thumbnail(&picture)?;
        }
        if self.open_segment.is_some() {
            self.close_segment(self.end)?;
        }
        Ok(())
    }

    /// Writes a packet, after closing the segment or fragment that ends before it.
    fn write_packet(&mut self, packet: &Packet) -> Result<(), Error> {
        if packet.track == self.reference_track {
            match self.open_segment {
                None => self.begin_run(packet.dts)?,
                Some((start, fragment)) => {
                    // Keyframes lie on ticks, and the segment length is not a whole number of ticks: allow
                    // half a tick.
                    let due =
                        start + self.spool.recording().segment.into() - MediaTime(self.frame_interval.0 / 2);
                    let is_split_point = self
                        .split_points
                        .is_some_and(|splits| splits.count_until(packet.dts) > splits.count_until(start));
                    if packet.keyframe && (packet.dts >= due || is_split_point) {
                        self.close_segment(packet.dts)?;
                        self.prepare_next_segment()?;
                        self.open_segment = Some((packet.dts, packet.dts + FRAGMENT_DURATION));
                    } else if packet.dts >= fragment {
                        self.end_fragment()?;
                        self.open_segment = Some((start, packet.dts + FRAGMENT_DURATION));
                        self.reserve(packet.dts)?;
                    }
                }
            }
            self.end = packet.dts + packet.duration;
        }
        self.muxer.write(packet).map_err(|e| av_error(&self.spool, e))
    }

    fn begin_run(&mut self, at: MediaTime) -> Result<(), Error> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = i64::try_from(unix.as_millis()).unwrap_or(0) - at.as_millis();
        let (index, epoch, tick) = (self.run, self.spool.epoch(), self.frame_interval);
        self.append_entry(&RecordedEntry::Run(Run { index, epoch, unix_ms, tick }))?;
        self.open_segment = Some((at, at + FRAGMENT_DURATION));
        Ok(())
    }

    fn end_fragment(&mut self) -> Result<u64, Error> {
        let bytes = self.muxer.end_fragment().map_err(|e| av_error(&self.spool, e))?;
        self.largest_fragment_bytes =
            self.largest_fragment_bytes.max(bytes.saturating_sub(self.segment_bytes));
        self.segment_bytes = bytes;
        Ok(bytes)
    }

    /// Reserves space for the next fragments of the open segment. On a full disk, closes the segment at
    /// `end`, for which the earlier reservation suffices, and returns the error that ends the recording.
    fn reserve(&mut self, end: MediaTime) -> Result<(), Error> {
        let path = self.segment_path();
        match reserve_fragments(&path, self.largest_fragment_bytes) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.close_segment(end)?;
                Err(Error::DiskFull(self.spool.folder().to_owned()))
            }
            // Other errors are left to the write itself.
            _ => Ok(()),
        }
    }

    /// Path of the open or next segment.
    fn segment_path(&self) -> PathBuf {
        self.spool.path(&self.spool.names().segment(self.spool.epoch(), self.segment_index))
    }

    /// Removes the prepared file of the next segment if it is empty.
    fn discard_prepared(&self) {
        let path = self.segment_path();
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == 0) {
            let _ignored = std::fs::remove_file(path);
        }
    }

    /// Closes the open segment, which ends at `end`.
    fn close_segment(&mut self, end: MediaTime) -> Result<(), Error> {
        let Some((start, _)) = self.open_segment.take() else { return Ok(()) };
        let bytes = self.end_fragment()?;
        self.segment_bytes = 0;
        let (path, epoch) = (self.segment_path(), self.spool.epoch());
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        // The reservation behind its end is no longer needed.
        let _ignored = release_preallocated(&path);
        let mut synced = sync(&path);
        if self.summary.bytes == 0 {
            let init = self.spool.names().init(epoch, self.run);
            synced = synced.and_then(|()| sync(&self.spool.path(&init)));
        }
        synced.and_then(|()| sync_folder(self.spool.folder())).map_err(|e| io_error(&self.spool, e))?;
        let duration = end - start;
        let segment = Segment { index: self.segment_index, run: self.run, epoch, start, duration, bytes };
        self.append_entry(&RecordedEntry::Segment(segment))?;
        self.segment_index += 1;
        self.summary.duration = self.summary.duration + duration;
        self.summary.bytes += bytes;
        self.account_bytes(bytes)
    }

    /// Creates the file of the next segment and reserves space in it.
    fn prepare_next_segment(&mut self) -> Result<(), Error> {
        let next = self.segment_path();
        let reserved =
            create_segment_file(&next).and_then(|()| reserve_fragments(&next, self.largest_fragment_bytes));
        self.muxer.set_next_file(next);
        reserved.map_err(|e| io_error(&self.spool, e))
    }

    fn save_thumbnail(&mut self, picture: &Jpeg) -> Result<(), Error> {
        let epoch = self.spool.epoch();
        let path = self.spool.path(&self.spool.names().thumbnail(epoch, self.next_thumbnail));
        let written = std::fs::write(&path, &picture.data).and_then(|()| File::open(&path)?.sync_all());
        written.and_then(|()| sync_folder(self.spool.folder())).map_err(|e| io_error(&self.spool, e))?;
        let (index, bytes) = (self.next_thumbnail, picture.data.len() as u64);
        let at = self.run_start + picture.at;
        self.append_entry(&RecordedEntry::Thumbnail(Thumbnail { index, epoch, at, bytes }))?;
        self.next_thumbnail += 1;
        self.account_bytes(bytes)
    }

    fn account_bytes(&self, bytes: u64) -> Result<(), Error> {
        self.spool.add_used_bytes(bytes);
        self.wakeup.notify_one();
        let (used, limit) = (self.spool.used_bytes(), self.spool.recording().spool_limit_bytes);
        if used > limit {
            return Err(Error::SpoolFull { spool: self.spool.folder().to_owned(), used, limit });
        }
        Ok(())
    }

    fn append_entry(&mut self, entry: &RecordedEntry) -> Result<(), Error> {
        self.log.append(entry).map_err(|e| io_error(&self.spool, e))
    }
}

/// Creates an empty file for a segment, replacing a torn one of a killed recorder.
fn create_segment_file(path: &Path) -> io::Result<()> {
    File::create(path).map(drop)
}

/// Reserves space behind a segment: for [`RESERVED_FRAGMENTS`] fragments, or else for one.
fn reserve_fragments(path: &Path, largest: u64) -> io::Result<()> {
    preallocate(path, RESERVED_FRAGMENTS * largest).or_else(|_| preallocate(path, largest))
}

fn av_error(spool: &Spool, error: ff::Error) -> Error {
    match error {
        ff::Error::Other { errno } if errno == rustix::io::Errno::NOSPC.raw_os_error() => {
            Error::DiskFull(spool.folder().to_owned())
        }
        ff::Error::Other { errno } => {
            Error::Io(spool.folder().to_owned(), io::Error::from_raw_os_error(errno))
        }
        source => Error::Write(spool.folder().to_owned(), source),
    }
}

fn io_error(spool: &Spool, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull => Error::DiskFull(spool.folder().to_owned()),
        _ => Error::Io(spool.folder().to_owned(), error),
    }
}
