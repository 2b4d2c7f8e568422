//! The recording of a cast: written by one thread, uploaded by another.

use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::thread::JoinHandle;

use pagecast_core::MediaTime;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{Storage, StorageKeys};
use pagecast_core::wake::{SharedWaker, ThreadEnd};
use pagecast_media::encode::{Tracks, video};
use pagecast_media::fanout::{FanOut, QueueLimit};
use pagecast_media::record::upload::{self, Config, State, Status, UploadReport, UploadTask};
use pagecast_media::record::{self, Recorder, RunSummary, Spool, SpoolConfig};
use pagecast_media::thumbnail::ThumbnailCapture;

use super::Error;

/// Packets queued for the disk: a minute of 8 Mbit/s, for a disk that stalls. When full, packets are dropped
/// up to the next keyframe.
const RECORD_QUEUE_LIMIT: QueueLimit =
    QueueLimit { bytes: 64 * 1024 * 1024, duration: std::time::Duration::from_secs(60) };

/// A recording in progress.
#[derive(Debug)]
pub(super) struct Recording {
    spool: Arc<Spool>,
    begins_at: MediaTime,
    recorder: JoinHandle<Result<RunSummary, record::Error>>,
    recorder_end: ThreadEnd,
    thumbnails: Option<JoinHandle<()>>,
    upload: UploadTask,
}

impl Recording {
    /// Starts the recording: nothing is written before the first packet. `waker` is woken when the recorder
    /// ends or the state of the upload changes.
    pub(super) fn start(
        config: &SpoolConfig,
        tracks: Tracks,
        video: &mut video::Encoder,
        fan_out: &FanOut,
        waker: &Waker,
    ) -> Result<Self, Error> {
        let spool = Spool::create(config)?;
        let resumed = config.recording.resume;
        Self::begin(Arc::clone(&spool), tracks, video, fan_out, waker).inspect_err(|_| {
            // The spool is still empty.
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
        waker: &Waker,
    ) -> Result<Self, Error> {
        let spec = spool.recording();
        let mut recorder = Recorder::create(Arc::clone(&spool), tracks)?;
        let recorder_end = recorder.watch_thread(&SharedWaker::from(waker.clone()));
        let begins_at = recorder.begins_at();
        if spec.format.has_mp4() {
            video.force_keyframes_at_splits(spec.split, begins_at);
        }
        let probe = !spec.resume && !matches!(spec.to, Storage::File(_) | Storage::Folder(_));
        let config = Config { probe, ..Config::default() };
        let upload = UploadTask::spawn(Arc::clone(&spool), recorder.wakeup(), config)?;
        upload.set_waker(waker.clone());
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
        Ok(Self { spool, begins_at, recorder, recorder_end, thumbnails, upload })
    }

    /// Media time at which this process began; above zero if it resumes an earlier process's recording.
    pub(super) fn begins_at(&self) -> MediaTime {
        self.begins_at
    }

    /// Returns whether the recorder has ended, with its input or by an error.
    pub(super) fn is_finished(&self) -> bool {
        self.recorder_end.has_ended()
    }

    /// Returns why the recording should not start: the storage refuses it until its configuration is fixed.
    pub(super) fn start_error(&self) -> Option<Error> {
        // A resumed recording already holds material to upload.
        if self.spool.recording().resume {
            return None;
        }
        let status = self.upload.status();
        let problem = status.problem.filter(|_| status.state == State::Failed)?;
        Some(Error::Storage(problem))
    }

    /// Returns the status of the upload.
    pub(super) fn status(&self) -> Status {
        self.upload.status()
    }

    /// Takes the rows of the ledger that have changed.
    pub(super) fn take_ledger_rows(&self) -> Vec<LedgerRow> {
        self.upload.take_ledger_rows()
    }

    /// Stops the upload; what is not uploaded, and what is recorded from now on, stays in the spool.
    pub(super) fn stop_upload(&self) {
        self.upload.cancel();
    }

    /// Waits until the last packet is written. Returns the upload, and what was recorded or why it failed.
    pub(super) fn finish(self) -> (PendingUpload, Result<RunSummary, Error>) {
        let recorded = match self.recorder.join() {
            Ok(recorded) => recorded.map_err(Error::from),
            Err(_) => Err(Error::Panic("record")),
        };
        let pictures =
            self.thumbnails.map_or(Ok(()), |thread| thread.join().map_err(|_| Error::Panic("thumbnails")));
        match if recorded.is_err() { upload::salvage_open_segment(&self.spool) } else { Ok(()) } {
            Ok(()) => self.upload.end_input(),
            // Uploading now would leave the last segment out for good.
            Err(error) => {
                tracing::warn!(%error, "last segment not saved");
                self.upload.cancel();
            }
        }
        (PendingUpload(self.upload), pictures.and(recorded))
    }
}

/// The upload of a recording that has ended.
#[derive(Debug)]
pub(super) struct PendingUpload(UploadTask);

impl PendingUpload {
    /// Starts the upload of what earlier processes left in the cast's spool, or in its ledger.
    pub(super) fn recover(mut config: SpoolConfig) -> Result<Self, Error> {
        config.recording.resume = true;
        Ok(Self(upload::recover(Spool::create(&config)?, Config::default())?))
    }

    /// Starts the upload of what is left in the spool of a recording that is over or went on elsewhere.
    pub(super) fn open_left(config: &SpoolConfig) -> Result<Self, Error> {
        Ok(Self(upload::recover(Spool::open_left(config)?, Config::default())?))
    }

    /// Starts the upload of a spool that no process is using.
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

    /// Returns whether all is uploaded, or the upload was given up.
    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Returns the status of the upload.
    pub(super) fn status(&self) -> Status {
        self.0.status()
    }

    /// Takes the rows of the ledger that have changed.
    pub(super) fn take_ledger_rows(&self) -> Vec<LedgerRow> {
        self.0.take_ledger_rows()
    }

    /// Sets who is woken when the state of the upload or the ledger has changed, or it has ended.
    pub(super) fn set_waker(&self, waker: Waker) {
        self.0.set_waker(waker);
    }

    /// Stops the upload; what is not uploaded stays in the spool.
    pub(super) fn give_up(&self) {
        self.0.cancel();
    }

    /// Waits for the upload to end; returns its report.
    pub(super) fn join(self) -> Result<UploadReport, Error> {
        self.0.join().ok_or(Error::Panic("upload"))
    }
}
