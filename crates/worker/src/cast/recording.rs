//! The recording of a cast: written by one thread, delivered by another.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use pagecast_core::MediaTime;
use pagecast_core::spec::{self, Keys, Storage};
use pagecast_media::encode::{Tracks, video};
use pagecast_media::fanout::{FanOut, Limit};
use pagecast_media::record::deliver::{self, Config, Delivered, Delivery, State, Status};
use pagecast_media::record::{self, Added, Recorder, Spool};
use pagecast_media::thumbnail::Thumbnails;

use super::Error;

/// Packets on their way to the disk, for one that stalls. Full: they are lost up to the next keyframe.
const RECORD: Limit = Limit { bytes: 64 * 1024 * 1024, span: std::time::Duration::from_secs(60) };

/// A recording that is being made.
#[derive(Debug)]
pub(super) struct Recording {
    spool: Arc<Spool>,
    begins_at: MediaTime,
    recorder: JoinHandle<Result<Added, record::Error>>,
    thumbnails: Option<JoinHandle<()>>,
    delivery: Delivery,
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
            video.end_files_every(spec.split, begins_at);
        }
        let probe = !spec.resume && !matches!(spec.to, Storage::File(_) | Storage::Folder(_));
        let config = Config { probe, ..Config::default() };
        let delivery = Delivery::spawn(Arc::clone(&spool), recorder.bell(), config)?;
        let (pictures, thumbnails) = match spec.thumbnails {
            None => (None, None),
            Some(every) => {
                let (thumbnails, pictures, thread) = Thumbnails::spawn(every, video.fps())
                    .map_err(|e| record::Error::Thread("thumbnails", e))?;
                video.take_pictures(thumbnails);
                (Some(pictures), Some(thread))
            }
        };
        let recorder = recorder.spawn(fan_out.tap("record", RECORD), pictures)?;
        Ok(Self { spool, begins_at, recorder, thumbnails, delivery })
    }

    /// Where it began: not at zero if it goes on with another one's.
    pub(super) fn begins_at(&self) -> MediaTime {
        self.begins_at
    }

    /// Whether nothing more is recorded, because nothing more comes or something failed.
    pub(super) fn is_over(&self) -> bool {
        self.recorder.is_finished()
    }

    /// Why it should not begin: it could not be stored before somebody mends something.
    pub(super) fn trouble(&self) -> Option<Error> {
        // One that goes on has something to store already.
        if self.spool.recording().resume {
            return None;
        }
        let status = self.delivery.status();
        let problem = status.problem.filter(|_| status.state == State::Failed)?;
        Some(Error::Storage(problem))
    }

    /// How storing it gets on.
    pub(super) fn status(&self) -> Status {
        self.delivery.status()
    }

    /// Waits for the last packet to be written. What was added, and what failed.
    pub(super) fn finish(self) -> (Finishing, Result<Added, Error>) {
        let added = match self.recorder.join() {
            Ok(added) => added.map_err(Error::from),
            Err(_) => Err(Error::Panic("record")),
        };
        let pictures =
            self.thumbnails.map_or(Ok(()), |thread| thread.join().map_err(|_| Error::Panic("thumbnails")));
        match if added.is_err() { deliver::complete(&self.spool) } else { Ok(()) } {
            Ok(()) => self.delivery.end(),
            // What is stored now would be stored without it.
            Err(error) => {
                tracing::warn!(%error, "the last segment is not saved yet");
                self.delivery.give_up();
            }
        }
        (Finishing(self.delivery), pictures.and(added))
    }
}

/// A recording that has ended and is being stored.
#[derive(Debug)]
pub(super) struct Finishing(Delivery);

impl Finishing {
    /// Stores what an earlier cast left in the spool.
    pub(super) fn recover(spec: &spec::Recording) -> Result<Self, Error> {
        let spool = Spool::create(&spec::Recording { resume: true, ..spec.clone() })?;
        Ok(Self(deliver::recover(spool, Config::default())?))
    }

    /// Stores what is in a spool that nobody works on.
    pub(super) fn take_up(spool: &Path, keys: Option<&Keys>) -> Result<Self, Error> {
        let mut spool = Spool::open(spool)?;
        let recording = spool.recording_mut();
        for storage in [Some(&mut recording.to), recording.backup.as_mut()].into_iter().flatten() {
            if let (Storage::TencentVod(vod), Some(keys)) = (storage, keys) {
                vod.keys = Some(keys.clone());
            }
        }
        Ok(Self(deliver::recover(Arc::new(spool), Config::default())?))
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
        self.0.give_up();
    }

    /// What became of it.
    pub(super) fn join(self) -> Result<Delivered, Error> {
        self.0.join().ok_or(Error::Panic("deliver"))
    }
}
