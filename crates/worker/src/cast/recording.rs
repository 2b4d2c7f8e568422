//! The recording of a cast: written by one thread, delivered by another.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use pagecast_core::MediaTime;
use pagecast_core::spec::{self, Storage, StorageKeys};
use pagecast_media::encode::{Tracks, video};
use pagecast_media::fanout::{FanOut, QueueLimit};
use pagecast_media::record::upload::{self, Config, State, Status, UploadReport, UploadTask};
use pagecast_media::record::{self, Recorder, RunSummary, Spool};
use pagecast_media::thumbnail::ThumbnailCapture;

use super::Error;

/// Packets on their way to the disk, for one that stalls. Full: they are lost up to the next keyframe.
const RECORD_QUEUE_LIMIT: QueueLimit =
    QueueLimit { bytes: 64 * 1024 * 1024, duration: std::time::Duration::from_secs(60) };

/// A recording that is being made.
#[derive(Debug)]
pub(super) struct Recording {
    spool: Arc<Spool>,
    begins_at: MediaTime,
    recorder: JoinHandle<Result<RunSummary, record::Error>>,
    thumbnails: Option<JoinHandle<()>>,
    upload: UploadTask,
}

impl Recording {
    /// Begins it: nothing is recorded before there are packets.
    pub(super) fn start(
        spec: &spec::Recording,
        tracks: Tracks,
        video: &mut video::Encoder,
        fan_out: &FanOut,
    ) -> Result<Self, Error> {
        let spool = Spool::create(spec)?;
        let resumed = spec.resume;
        Self::begin(Arc::clone(&spool), tracks, video, fan_out).inspect_err(|_| {
            // Nothing is in it yet.
            if !resumed {
                spool.remove();
            }
        })
    }

    fn begin(
        spool: Arc<Spool>,
        tracks: Tracks,
        video: &mut video::Encoder,
        fan_out: &FanOut,
    ) -> Result<Self, Error> {
        let spec = spool.recording();
        let recorder = Recorder::create(Arc::clone(&spool), tracks)?;
        let begins_at = recorder.begins_at();
        if spec.format.has_mp4() {
            video.force_keyframes_at_splits(spec.split, begins_at);
        }
        let probe = !spec.resume && !matches!(spec.to, Storage::File(_) | Storage::Folder(_));
        let config = Config { probe, ..Config::default() };
        let delivery = UploadTask::spawn(Arc::clone(&spool), recorder.wakeup(), config)?;
        let (pictures, thumbnails) = match spec.thumbnails {
            None => (None, None),
            Some(every) => {
                let (thumbnails, pictures, thread) = ThumbnailCapture::spawn(every, video.fps())
                    .map_err(|e| record::Error::Thread("thumbnails", e))?;
                video.capture_thumbnails(thumbnails);
                (Some(pictures), Some(thread))
            }
        };
        let recorder = recorder.spawn(fan_out.subscribe("record", RECORD_QUEUE_LIMIT), pictures)?;
        Ok(Self { spool, begins_at, recorder, thumbnails, upload: delivery })
    }

    /// Where it began: not at zero if it goes on with another one's.
    pub(super) fn begins_at(&self) -> MediaTime {
        self.begins_at
    }

    /// Whether nothing more is recorded, because nothing more comes or something failed.
    pub(super) fn is_finished(&self) -> bool {
        self.recorder.is_finished()
    }

    /// Why it should not begin: it could not be stored before somebody mends something.
    pub(super) fn start_error(&self) -> Option<Error> {
        // One that goes on has something to store already.
        if self.spool.recording().resume {
            return None;
        }
        let status = self.upload.status();
        let problem = status.problem.filter(|_| status.state == State::Failed)?;
        Some(Error::Storage(problem))
    }

    /// How storing it gets on.
    pub(super) fn status(&self) -> Status {
        self.upload.status()
    }

    /// Waits for the last packet to be written. What was added, and what failed.
    pub(super) fn finish(self) -> (PendingUpload, Result<RunSummary, Error>) {
        let added = match self.recorder.join() {
            Ok(added) => added.map_err(Error::from),
            Err(_) => Err(Error::Panic("record")),
        };
        let pictures =
            self.thumbnails.map_or(Ok(()), |thread| thread.join().map_err(|_| Error::Panic("thumbnails")));
        match if added.is_err() { upload::salvage_open_segment(&self.spool) } else { Ok(()) } {
            Ok(()) => self.upload.end_input(),
            // What is stored now would be stored without it.
            Err(error) => {
                tracing::warn!(%error, "the last segment is not saved yet");
                self.upload.cancel();
            }
        }
        (PendingUpload(self.upload), pictures.and(added))
    }
}

/// A recording that has ended and is being stored.
#[derive(Debug)]
pub(super) struct PendingUpload(UploadTask);

impl PendingUpload {
    /// Stores what an earlier cast left in the spool.
    pub(super) fn recover(spec: &spec::Recording) -> Result<Self, Error> {
        let spool = Spool::create(&spec::Recording { resume: true, ..spec.clone() })?;
        Ok(Self(upload::recover(spool, Config::default())?))
    }

    /// Stores what is in a spool that nobody works on.
    pub(super) fn open(spool: &Path, keys: Option<&StorageKeys>) -> Result<Self, Error> {
        let mut spool = Spool::open(spool)?;
        let recording = spool.recording_mut();
        for storage in [Some(&mut recording.to), recording.backup.as_mut()].into_iter().flatten() {
            if let (Storage::TencentVod(vod), Some(keys)) = (storage, keys) {
                vod.keys = Some(keys.clone());
            }
        }
        Ok(Self(upload::recover(Arc::new(spool), Config::default())?))
    }

    /// Whether all of it is stored, or nobody waits any more.
    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// How it gets on.
    pub(super) fn status(&self) -> Status {
        self.0.status()
    }

    /// What is not stored now stays in the spool.
    pub(super) fn give_up(&self) {
        self.0.cancel();
    }

    /// What became of it.
    pub(super) fn join(self) -> Result<UploadReport, Error> {
        self.0.join().ok_or(Error::Panic("deliver"))
    }
}
