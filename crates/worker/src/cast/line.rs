//! From ticks and samples to the file: the threads of a cast's outputs.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::spec::{Push, Storage};
use pagecast_core::{CastSpec, MediaTime, Packet, Samples, Tick, Track};
use pagecast_media::encode::{self, End, audio, video};
use pagecast_media::fanout::{FanOut, Limit};
use pagecast_media::push;
use pagecast_media::record::{self, Finished, Recorder, Tracks};

use super::Error;
use super::pushes::{PushNews, PushReport, Running};

/// Packets on their way to the file, for a disk that stalls. Full: they are lost up to the next keyframe.
const RECORD: Limit = Limit { bytes: 64 * 1024 * 1024, span: Duration::from_secs(60) };
/// How long one encoder may go on after the other has ended.
const ALONE: Duration = Duration::from_secs(3);

/// Outputs that are open, but take nothing yet.
pub(super) struct Prepared {
    video: video::Encoder,
    audio: audio::Encoder,
    packets: SyncSender<Packet>,
    fan_out: FanOut,
    pushed: push::Tracks,
    recording: Thread<Result<Option<Finished>, record::Error>>,
    end: End,
}

impl Prepared {
    /// Opens the encoders and makes the file.
    pub(super) fn open(spec: &CastSpec) -> Result<Self, Error> {
        let config = video::Config {
            size: spec.source.size,
            fps: spec.source.fps,
            bitrate_bps: spec.bitrate_bps(),
            keyframe_interval: video::KEYFRAME_INTERVAL,
        };
        let (video, audio) = (video::Encoder::open(config)?, audio::Encoder::open()?);
        let tracks = Tracks { video: (video.parameters(), spec.source.fps), audio: audio.parameters() };
        let pushed =
            push::Tracks { video: Some((video.parameters(), spec.source.fps)), audio: audio.parameters() };
        let recording = spec.recording.as_ref();
        let path = recording.and_then(|r| match &r.to {
            Storage::File(path) | Storage::Folder(path) => Some(path.as_path()),
            _ => None,
        });
        let recorder =
            Recorder::create(path.unwrap_or(Path::new("")), recording.is_some_and(|r| r.overwrite), tracks)?;
        let (packets, fan_out) =
            FanOut::spawn(Track::Video).map_err(|e| encode::Error::Thread("fan-out", e))?;
        let recording = Thread("record", recorder.spawn(fan_out.tap("record", RECORD))?);
        let end = End::new(spec.duration.map(Into::into));
        Ok(Self { video, audio, packets, fan_out, pushed, recording, end })
    }

    /// Takes ticks and samples from now on, and sends them to these.
    pub(super) fn start(
        self,
        ticks: Receiver<Tick>,
        samples: Receiver<Samples>,
        pushes: &[Push],
    ) -> Result<Line, Error> {
        let Self { video, audio, packets, fan_out, pushed, recording, end } = self;
        let pushes = Running::start(pushes, pushed, fan_out.taps(), video.keyframes())?;
        let (video_stats, audio_stats) = (video.stats(), audio.stats());
        let video = Thread("encode-video", video.spawn(ticks, end.clone(), packets.clone())?);
        let audio = Thread("encode-audio", audio.spawn(samples, end.clone(), packets)?);
        let alone = Cell::new(None);
        Ok(Line { end, video_stats, audio_stats, video, audio, fan_out, pushes, recording, alone })
    }

    /// Without a packet, nothing is left of the file.
    pub(super) fn abandon(self) {
        drop(self.packets);
        let _nothing = self.recording.join();
    }
}

/// A named thread that ends with a result.
#[derive(Debug)]
struct Thread<T>(&'static str, JoinHandle<T>);

impl<T> Thread<T> {
    fn join(self) -> Result<T, Error> {
        self.1.join().map_err(|_| Error::Panic(self.0))
    }
}

/// What came of the outputs.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) finished: Option<Finished>,
    /// What failed first.
    pub(super) failed: Option<Error>,
    pub(super) pushes: Vec<PushReport>,
    /// What happened to the pushes last.
    pub(super) news: Vec<PushNews>,
}

/// Outputs that run.
#[derive(Debug)]
pub(super) struct Line {
    end: End,
    pub(super) video_stats: Arc<video::Stats>,
    pub(super) audio_stats: Arc<audio::Stats>,
    video: Thread<Result<(), encode::Error>>,
    audio: Thread<Result<(), encode::Error>>,
    fan_out: FanOut,
    pub(super) pushes: Running,
    recording: Thread<Result<Option<Finished>, record::Error>>,
    /// Since when only one encoder runs.
    alone: Cell<Option<Instant>>,
}

impl Line {
    /// Whether nothing more will come out, because the end was reached or something failed.
    pub(super) fn is_over(&self) -> bool {
        let ended = [self.video.1.is_finished(), self.audio.1.is_finished()];
        if self.recording.1.is_finished() || ended == [true; 2] {
            return true;
        }
        if ended == [false; 2] {
            return false;
        }
        // At the end, one follows the other at once. Otherwise one has failed.
        let since = self.alone.get().unwrap_or_else(Instant::now);
        self.alone.set(Some(since));
        since.elapsed() > ALONE
    }

    /// Whether it was its own length that ended the recording.
    pub(super) fn is_complete(&self, spec: &CastSpec) -> bool {
        let ticks = i64::try_from(self.video_stats.ticks()).unwrap_or(0);
        spec.duration.is_some_and(|d| spec.source.fps.time_of(ticks) >= MediaTime::from(d))
    }

    /// Ends the recording with the tick after the one that the encoder is at.
    pub(super) fn end_now(&self, spec: &CastSpec) {
        let next = i64::try_from(self.video_stats.ticks()).unwrap_or(0) + 1;
        self.end.at(spec.source.fps.time_of(next));
    }

    /// Waits for the file and the pushes. Nobody may send ticks or samples any more, or the end must be near.
    pub(super) fn finish(self) -> Ended {
        let mut failed = None;
        for encoder in [self.video, self.audio] {
            if let Err(error) = encoder.join().and_then(|r| r.map_err(Into::into)) {
                failed.get_or_insert(error);
            }
        }
        if !self.fan_out.finish() {
            failed.get_or_insert(Error::Panic("fan-out"));
        }
        let (pushes, news) = self.pushes.finish();
        let (finished, failed) = match self.recording.join().and_then(|r| r.map_err(Into::into)) {
            Ok(finished) => (finished, failed),
            // A file that cannot be written is why the cast ends.
            Err(error) => (None, Some(error)),
        };
        Ended { finished, failed, pushes, news }
    }
}
