//! From ticks and samples to the file: the threads of a cast's outputs.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::spec::{self, Push};
use pagecast_core::{CastSpec, MediaTime, Packet, Samples, Tick, Track};
use pagecast_media::encode::{self, End, Tracks, audio, video};
use pagecast_media::fanout::FanOut;

use super::pushes::{PushNews, PushReport, Running};
use super::recording::{Finishing, Recording};
use super::{DeliveryStatus, Error};

/// How long one encoder may go on after the other has ended.
const ALONE: Duration = Duration::from_secs(3);

/// Outputs that are open, but take nothing yet.
pub(super) struct Prepared {
    video: video::Encoder,
    audio: audio::Encoder,
    packets: SyncSender<Packet>,
    fan_out: FanOut,
    tracks: Tracks,
    recording: Option<Recording>,
    end: End,
}

impl Prepared {
    /// Opens the encoders and makes the spool.
    pub(super) fn open(spec: &CastSpec) -> Result<Self, Error> {
        let sound_only = spec.pushes.is_empty() && spec.recording.as_ref().is_some_and(|r| r.audio_only);
        let keyframe_interval = spec.recording.as_ref().map(spec::Recording::keyframe_interval);
        let keyframe_interval = keyframe_interval.unwrap_or(spec::KEYFRAME_INTERVAL);
        let (size, fps) = (spec.source.size, spec.source.fps);
        let config = video::Config::files(size, fps, spec.bitrate_bps(), keyframe_interval);
        let config = video::Config { encodes: !sound_only, ..config };
        let (mut video, audio) = (video::Encoder::open(config)?, audio::Encoder::open(audio::Config::FILES)?);
        let picture = (video.parameters(), spec.source.fps);
        let tracks = Tracks { video: (!sound_only).then_some(picture), audio: audio.parameters() };
        let lead = if sound_only { Track::Audio } else { Track::Video };
        let (packets, fan_out) = FanOut::spawn(lead).map_err(|e| encode::Error::Thread("fan-out", e))?;
        let recording = match &spec.recording {
            None => None,
            Some(spec) => {
                let video_track = tracks.video.clone().filter(|_| !spec.audio_only);
                let own = Tracks { video: video_track, audio: audio.parameters() };
                Some(Recording::start(spec, own, &mut video, &fan_out)?)
            }
        };
        let begins_at = recording.as_ref().map_or(MediaTime::ZERO, Recording::begins_at);
        let end = End::new(spec.duration.map(|duration| MediaTime::from(duration) - begins_at));
        Ok(Self { video, audio, packets, fan_out, tracks, recording, end })
    }

    /// Why the recording cannot be stored, if that is known.
    pub(super) fn trouble(&self) -> Option<Error> {
        self.recording.as_ref().and_then(Recording::trouble)
    }

    /// Takes ticks and samples from now on, and sends them to these.
    pub(super) fn start(
        self,
        ticks: Receiver<Tick>,
        samples: Receiver<Samples>,
        pushes: &[Push],
    ) -> Result<Line, Error> {
        let Self { video, audio, packets, fan_out, tracks, recording, end } = self;
        let pushes = Running::start(pushes, tracks, fan_out.taps(), video.keyframes())?;
        let (video_stats, audio_stats) = (video.stats(), audio.stats());
        let video = Thread("encode-video", video.spawn(ticks, end.clone(), packets.clone())?);
        let audio = Thread("encode-audio", audio.spawn(samples, end.clone(), packets)?);
        let alone = Cell::new(None);
        Ok(Line { end, video_stats, audio_stats, video, audio, fan_out, pushes, recording, alone })
    }

    /// Nothing is recorded. What an earlier process recorded is still to be stored.
    pub(super) fn abandon(self) -> Option<Finishing> {
        let Self { packets, video, audio, recording, .. } = self;
        drop((packets, video, audio));
        recording.map(|recording| recording.finish().0)
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
    /// The recording, which is being stored.
    pub(super) recording: Option<Finishing>,
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
    recording: Option<Recording>,
    /// Since when only one encoder runs.
    alone: Cell<Option<Instant>>,
}

impl Line {
    /// Whether nothing more will come out, because the end was reached or something failed.
    pub(super) fn is_over(&self) -> bool {
        let ended = [self.video.1.is_finished(), self.audio.1.is_finished()];
        // Others may go on without it.
        let unrecorded = self.recording.as_ref().is_some_and(Recording::is_over) && self.pushes.are_over();
        if unrecorded || ended == [true; 2] {
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

    /// How long its earlier processes recorded.
    pub(super) fn begins_at(&self) -> MediaTime {
        self.recording.as_ref().map_or(MediaTime::ZERO, Recording::begins_at)
    }

    /// How long the cast has been live, its earlier processes included.
    pub(super) fn elapsed(&self, spec: &CastSpec) -> MediaTime {
        let ticks = i64::try_from(self.video_stats.ticks()).unwrap_or(0);
        self.begins_at() + spec.source.fps.time_of(ticks)
    }

    /// Whether it was its own length that ended the cast.
    pub(super) fn is_complete(&self, spec: &CastSpec) -> bool {
        spec.duration.is_some_and(|d| self.elapsed(spec) >= MediaTime::from(d))
    }

    /// Whether nothing is recorded any more, though the cast goes on.
    pub(super) fn has_stopped_recording(&self) -> bool {
        self.recording.as_ref().is_some_and(Recording::is_over) && !self.video.1.is_finished()
    }

    /// How storing the recording gets on.
    pub(super) fn delivery(&self) -> Option<DeliveryStatus> {
        self.recording.as_ref().map(Recording::status)
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
        let recording = self.recording.map(|recording| {
            let (finishing, added) = recording.finish();
            // What cannot be recorded is why the cast ends.
            failed = added.err().or(failed.take());
            finishing
        });
        Ended { recording, failed, pushes, news }
    }
}
