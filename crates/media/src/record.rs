//! A recording is a chain of segments in a [`Spool`], written by the thread `record`. The thread `deliver`
//! makes of them what was asked for and stores it; see [`upload`].
//!
//! What a segment holds is on the disk when it is closed, and in the system's hands within a second: whoever
//! is killed, nothing older is lost. A recording that was broken off goes on in another run of the same
//! spool.

mod append_log;
mod assemble;
mod concat;
mod file_names;
mod fmp4;
mod interleave;
mod manifest;
mod playlist;
mod salvage;
mod splitter;
mod spool;
pub mod upload;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use ffmpeg_the_third as ff;
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
use spool::{RecordedEntry, Run, Segment, Thumbnail, sync_folder};

pub use spool::Spool;

/// Length of a fragment: what a segment that is not closed may lose.
const FRAGMENT_DURATION: MediaTime = MediaTime(1_000_000_000);

/// Space that is kept reserved for the open segment, in multiples of its recording's largest fragment so far:
/// one for the next, and as much again, because it may be larger.
const RESERVED_FRAGMENTS: u64 = 2;
/// Space that is reserved for a segment before the first fragment is known: a second at 4 Mbit/s.
const INITIAL_RESERVE_BYTES: u64 = 512 << 10;

/// Length of an AAC frame.
const AAC_FRAME_DURATION: MediaTime = MediaTime(21_333_333);

/// Why a recording cannot be made or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is such a file already.
    #[error("{} exists already: choose another name, or replace it with --overwrite", .0.display())]
    Exists(PathBuf),
    /// The spool and the recording would be in each other's way.
    #[error("{} is in the spool, or the spool in it: name another folder for the spool", .0.display())]
    Overlap(PathBuf),
    /// Another recording of that name was never finished.
    #[error("{spool} holds a recording that was not finished: finish it with `pagecast recover {spool}`, or remove it", spool = .0.display())]
    Unfinished(PathBuf),
    /// The folder is not there.
    #[error("there is no folder {}: make it first", .0.display())]
    NoFolder(PathBuf),
    /// The folder is there, but its file system takes no files, as that of `/proc`.
    #[error("no files can be made in {}: choose another folder", .0.display())]
    CannotCreateFiles(PathBuf),
    /// The file cannot be made.
    #[error("cannot write {}", .0.display())]
    Create(PathBuf, #[source] io::Error),
    /// Not a spool, or one that cannot be read.
    #[error("{} is not the spool of a recording", folder.display())]
    NotASpool {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// Somebody works on it.
    #[error("{} is in use: its recording still runs, or is being stored", .0.display())]
    Busy(PathBuf),
    /// The disk is full.
    #[error("the disk that {} is on is full: what was recorded until then is kept", .0.display())]
    DiskFull(PathBuf),
    /// The spool holds as much as it may.
    #[error("{} holds {used} bytes, and {limit} are allowed: what was recorded until then is kept", spool.display())]
    SpoolFull {
        /// The folder.
        spool: PathBuf,
        /// What it holds, in bytes.
        used: u64,
        /// What it may hold.
        limit: u64,
    },
    /// The recording cannot go on.
    #[error("cannot go on recording to {}: what was recorded until then is kept", .0.display())]
    Write(PathBuf, #[source] ff::Error),
    /// The same, as the system says it.
    #[error("cannot go on recording to {}: what was recorded until then is kept", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// It cannot be stored where it shall be.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The thread cannot be started.
    #[error("cannot start the thread {0}")]
    Thread(&'static str, #[source] io::Error),
}

/// What one run added to a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSummary {
    /// Its length.
    pub duration: MediaTime,
    /// Its bytes.
    pub bytes: u64,
    /// Packets that were lost, because the disk was too slow.
    pub lost: u64,
}

/// The one who writes segments.
#[derive(Debug)]
pub struct Recorder {
    spool: Arc<Spool>,
    /// Rings when there is something to deliver.
    wakeup: Arc<Notify>,
    log: LogWriter<RecordedEntry>,
    muxer: Muxer,
    interleaver: Interleaver,
    run: u32,
    /// Where the run begins in the recording.
    run_start: MediaTime,
    /// Which track segments are cut by, and its interval.
    reference_track: Track,
    frame_interval: MediaTime,
    /// Where its MP4 files end, if there are any.
    split_points: Option<SplitPoints>,
    segment_index: u32,
    next_thumbnail: u32,
    /// When the open segment began, and when its next fragment does.
    open_segment: Option<(MediaTime, MediaTime)>,
    /// Bytes of the open segment, and of the largest fragment.
    segment_bytes: u64,
    largest_fragment_bytes: u64,
    /// Where the recording ends so far.
    end: MediaTime,
    summary: RunSummary,
}

impl Recorder {
    /// Begins a run. What an earlier one left is completed first.
    ///
    /// # Errors
    /// [`ErrorBody::Create`], [`ErrorBody::DiskFull`], [`ErrorBody::PendingWrite`] or [`ErrorBody::Io`].
    pub fn create(spool: Arc<Spool>, tracks: Tracks) -> Result<Self, Error> {
        let fail = |e: io::Error| io_error(&spool, e);
        let past = salvage::load(&spool).map_err(fail)?;
        let run = past.runs.last().map_or(0, |run| run.index + 1);
        let segment = past.segments.last().map_or(0, |segment| segment.index + 1);
        let (lead, interval) = match &tracks.video {
            Some((_, fps)) => (Track::Video, MediaTime::from(fps.interval())),
            None => (Track::Audio, AAC_FRAME_DURATION),
        };
        let (init, path) =
            (spool.path(&spool.names().init(run)), spool.path(&spool.names().segment(segment)));
        create_segment_file(&path).map_err(fail)?;
        preallocate_if_space(&path, INITIAL_RESERVE_BYTES);
        let muxer = Muxer::create(&init, path, tracks, run == 0).map_err(|e| av_error(&spool, e))?;
        Ok(Self {
            log: spool.recorded_log_writer().map_err(fail)?,
            wakeup: Arc::default(),
            muxer,
            interleaver: Interleaver::new(lead == Track::Video),
            run,
            run_start: past.end(),
            reference_track: lead,
            frame_interval: interval,
            split_points: spool
                .recording()
                .format
                .has_mp4()
                .then(|| SplitPoints::new(spool.recording().split, interval)),
            segment_index: segment,
            next_thumbnail: past.next_thumbnail,
            open_segment: None,
            segment_bytes: 0,
            largest_fragment_bytes: 0,
            end: past.end(),
            summary: RunSummary { duration: MediaTime::ZERO, bytes: 0, lost: 0 },
            spool,
        })
    }

    /// Where the run begins in the recording.
    #[must_use]
    pub fn begins_at(&self) -> MediaTime {
        self.run_start
    }

    /// Rings when a segment was closed.
    #[must_use]
    pub fn wakeup(&self) -> Arc<Notify> {
        Arc::clone(&self.wakeup)
    }

    /// Writes packets until nobody sends any more, and pictures that come meanwhile.
    ///
    /// # Errors
    /// [`ErrorBody::NamedThread`]; the thread itself ends with [`ErrorBody::DiskFull`], [`ErrorBody::SpoolFull`], [`ErrorBody::PendingWrite`] or
    /// [`ErrorBody::Io`].
    pub fn spawn(
        mut self,
        packets: Subscription,
        pictures: Option<Receiver<Jpeg>>,
    ) -> Result<JoinHandle<Result<RunSummary, Error>>, Error> {
        let run = move || {
            let done = self.run(&packets, pictures.as_ref());
            self.discard_prepared();
            self.wakeup.notify_one();
            done.map(|()| self.summary)
        };
        std::thread::Builder::new().name("record".into()).spawn(run).map_err(|e| Error::Thread("record", e))
    }

    fn run(&mut self, packets: &Subscription, pictures: Option<&Receiver<Jpeg>>) -> Result<(), Error> {
        while let Some(mut packet) = packets.recv() {
            packet.pts = packet.pts + self.run_start;
            packet.dts = packet.dts + self.run_start;
            // Sound that primes the decoder comes before the run begins; only the first has room for it.
            if self.run > 0 && packet.dts < self.run_start {
                continue;
            }
            let lost = packets.lost();
            if lost > self.summary.lost {
                tracing::warn!(lost, "the disk is too slow: a part of the recording is missing");
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

    /// Puts a packet into the segment that it belongs to.
    fn write_packet(&mut self, packet: &Packet) -> Result<(), Error> {
        if packet.track == self.reference_track {
            match self.open_segment {
                None => self.begin_run(packet.dts)?,
                Some((start, fragment)) => {
                    // Keyframes are on ticks, and a length is a whole number of them only nearly.
                    let due =
                        start + self.spool.recording().segment.into() - MediaTime(self.frame_interval.0 / 2);
                    let cut = self
                        .split_points
                        .is_some_and(|cuts| cuts.count_until(packet.dts) > cuts.count_until(start));
                    if packet.keyframe && (packet.dts >= due || cut) {
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
        self.append_entry(&RecordedEntry::Run(Run { index: self.run, unix_ms, tick: self.frame_interval }))?;
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

    /// Has room for what comes next in the open segment. When there is none, the segment is closed at `end`,
    /// in order, and the recording is over: what was reserved before is enough for that.
    fn reserve(&mut self, end: MediaTime) -> Result<(), Error> {
        let path = self.spool.path(&self.spool.names().segment(self.segment_index));
        match reserve_fragments(&path, self.largest_fragment_bytes) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.close_segment(end)?;
                Err(Error::DiskFull(self.spool.folder().to_owned()))
            }
            // Only the disk itself can refuse a write.
            _ => Ok(()),
        }
    }

    /// A segment that was prepared and has nothing in it is not left.
    fn discard_prepared(&self) {
        let path = self.spool.path(&self.spool.names().segment(self.segment_index));
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == 0) {
            let _later = std::fs::remove_file(path);
        }
    }

    /// Closes the open segment, which ends at `end`.
    fn close_segment(&mut self, end: MediaTime) -> Result<(), Error> {
        let Some((start, _)) = self.open_segment.take() else { return Ok(()) };
        let bytes = self.end_fragment()?;
        self.segment_bytes = 0;
        let names = self.spool.names();
        let path = self.spool.path(&names.segment(self.segment_index));
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
        // What is behind its end is for others.
        let _kept = release_preallocated(&path);
        let mut synced = sync(&path);
        if self.summary.bytes == 0 {
            synced = synced.and_then(|()| sync(&self.spool.path(&names.init(self.run))));
        }
        synced.and_then(|()| sync_folder(self.spool.folder())).map_err(|e| io_error(&self.spool, e))?;
        let duration = end - start;
        let segment = Segment { index: self.segment_index, run: self.run, start, duration, bytes };
        self.append_entry(&RecordedEntry::Segment(segment))?;
        self.segment_index += 1;
        self.summary.duration = self.summary.duration + duration;
        self.summary.bytes += bytes;
        self.account_bytes(bytes)
    }

    /// Has a file with room in it for the segment after the one that was closed.
    fn prepare_next_segment(&mut self) -> Result<(), Error> {
        let next = self.spool.path(&self.spool.names().segment(self.segment_index));
        let has_room =
            create_segment_file(&next).and_then(|()| reserve_fragments(&next, self.largest_fragment_bytes));
        self.muxer.set_next_file(next);
        has_room.map_err(|e| io_error(&self.spool, e))
    }

    fn save_thumbnail(&mut self, picture: &Jpeg) -> Result<(), Error> {
        let path = self.spool.path(&self.spool.names().thumbnail(self.next_thumbnail));
        let written = std::fs::write(&path, &picture.data).and_then(|()| File::open(&path)?.sync_all());
        written.and_then(|()| sync_folder(self.spool.folder())).map_err(|e| io_error(&self.spool, e))?;
        let (index, bytes) = (self.next_thumbnail, picture.data.len() as u64);
        self.append_entry(&RecordedEntry::Thumbnail(Thumbnail {
            index,
            at: self.run_start + picture.at,
            bytes,
        }))?;
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

/// Makes an empty file for a segment. One may be there that was torn when its recorder died.
fn create_segment_file(path: &Path) -> io::Result<()> {
    File::create(path).map(drop)
}

/// Reserves room for the next fragments behind a segment: as many as shall be, or just one.
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
