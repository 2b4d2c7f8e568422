//! From ticks and samples to the file: the threads of a cast's outputs.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::connection::State;
use pagecast_core::spec::{self, NetworkPolicy, Push};
use pagecast_core::{CastSpec, Fps, MediaTime, Packet, Samples, Tick, Track};
use pagecast_media::encode::{self, EndTime, RateTarget, Tracks, audio, tee, video};
use pagecast_media::fanout::FanOut;

use super::pushes::{ActivePushes, Change, PushEvent, PushReport};
use super::recording::{PendingUpload, Recording};
use super::room::{self, Room};
use super::{DeliveryStatus, Error, RoomStatus};

/// How long one encoder may go on after the other has ended.
const ENCODER_EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Outputs that are open, but take nothing yet.
pub(super) struct Prepared {
    video: video::Encoder,
    audio: audio::Encoder,
    packets: SyncSender<Packet>,
    fan_out: FanOut,
    tracks: Tracks,
    recording: Option<Recording>,
    room: Option<room::Prepared>,
    /// What pushes are held to.
    network: Option<NetworkPolicy>,
    /// Nothing of the cast is recorded, nor pushed from the beginning: the room is all there is.
    room_only: bool,
    bitrate_bps: u32,
    end: EndTime,
}

impl Prepared {
    /// Opens the encoders and makes the spool.
    pub(super) fn open(spec: &CastSpec) -> Result<Self, Error> {
        let sound_only = spec.pushes.is_empty() && spec.recording.as_ref().is_some_and(|r| r.audio_only);
        let keyframe_interval = spec.recording.as_ref().map(spec::Recording::keyframe_interval);
        let keyframe_interval = keyframe_interval.unwrap_or(spec::KEYFRAME_INTERVAL);
        let (size, fps) = (spec.source.size, spec.source.fps);
        let config = video::Config::for_files(size, fps, spec.bitrate_bps(), keyframe_interval);
        let config = video::Config { enabled: !sound_only, ..config };
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
        let end = EndTime::new(spec.duration.map(|duration| MediaTime::from(duration) - begins_at));
        let room = spec.room.as_ref().map(|room| room::Prepared::open(room, &spec.source)).transpose()?;
        let idle = spec.recording.is_none() && spec.pushes.is_empty();
        let bitrate_bps = spec.bitrate_bps();
        let network = (!spec.pushes_anywhere).then(|| spec.network.clone());
        Ok(Self {
            video,
            audio,
            packets,
            fan_out,
            tracks,
            recording,
            room,
            network,
            room_only: idle,
            bitrate_bps,
            end,
        })
    }

    /// The room, while there is nothing to publish yet.
    pub(super) fn room(&self) -> Option<&Room> {
        self.room.as_ref().map(|room| &room.room)
    }

    /// Why there is no sense in beginning, if that is known: the recording cannot be stored, or the room, which is all there is,
    /// does not take the cast.
    pub(super) fn start_error(&self) -> Option<Error> {
        let given_up = || self.room().filter(|_| self.room_only).and_then(Room::failure);
        self.recording.as_ref().and_then(Recording::start_error).or_else(given_up)
    }

    /// Takes ticks and samples from now on, and sends them to these.
    pub(super) fn start(
        self,
        ticks: Receiver<Tick>,
        samples: Receiver<Samples>,
        pushes: &[Push],
    ) -> Result<Pipeline, Error> {
        let Self {
            video,
            audio,
            packets,
            fan_out,
            tracks,
            recording,
            room,
            network,
            room_only: idle,
            bitrate_bps,
            end,
        } = self;
        // Pushes may have been added since.
        let idle = idle && pushes.is_empty();
        let pushes =
            ActivePushes::start(pushes, network, tracks, fan_out.handle(), video.keyframe_request())?;
        let (video_stats, audio_stats) = (video.stats(), audio.stats());
        let rate = video.rate_target();
        let paused = idle.then_some(bitrate_bps);
        if idle {
            rate.set(0, 1);
        }
        let mut lengths = vec![tee::FILE_QUEUE_TICKS];
        lengths.resize(1 + room.as_ref().map_or(0, room::Prepared::layer_count), tee::ROOM_QUEUE_TICKS);
        let (mut ticks, split_ticks) = tee::ticks(ticks, &lengths)?;
        let lengths = vec![tee::QUEUE_SAMPLE_RUNS; 1 + usize::from(room.is_some())];
        let (mut samples, split_samples) = tee::samples(samples, &lengths)?;
        let splitters = split_ticks.into_iter().chain(split_samples).collect();
        let room_samples = samples.split_off(1);
        let room_ticks = ticks.split_off(1);
        let (Some(ticks), Some(samples)) = (ticks.pop(), samples.pop()) else {
            return Err(Error::Panic("split"));
        };
        let video = NamedThread("encode-video", video.spawn(ticks, end.clone(), packets.clone())?);
        let audio = NamedThread("encode-audio", audio.spawn(samples, end.clone(), packets)?);
        let (room, room_encoders) = match room.zip(room_samples.into_iter().next()) {
            None => (None, Vec::new()),
            Some((room, samples)) => {
                let (room, threads) = room.start(room_ticks, samples, &end)?;
                (Some(room), threads)
            }
        };
        let alone = Cell::new(None);
        Ok(Pipeline {
            end,
            video_stats,
            audio_stats,
            rate,
            paused_bitrate_bps: paused,
            video,
            audio,
            splitters,
            fan_out,
            pushes,
            recording,
            room,
            room_encoders,
            one_encoder_since: alone,
        })
    }

    /// Nothing is recorded. What an earlier process recorded is still to be stored.
    pub(super) fn abandon(self) -> Option<PendingUpload> {
        let Self { packets, video, audio, recording, .. } = self;
        drop((packets, video, audio));
        recording.map(|recording| recording.finish().0)
    }
}

/// A named thread that ends with a result.
#[derive(Debug)]
struct NamedThread<T>(&'static str, JoinHandle<T>);

impl<T> NamedThread<T> {
    fn join(self) -> Result<T, Error> {
        self.1.join().map_err(|_| Error::Panic(self.0))
    }
}

/// What came of the outputs.
#[derive(Debug, Default)]
pub(super) struct FinishedOutputs {
    /// The recording, which is being stored.
    pub(super) upload: Option<PendingUpload>,
    /// What failed first.
    pub(super) error: Option<Error>,
    pub(super) pushes: Vec<PushReport>,
    /// What happened to the pushes last.
    pub(super) push_events: Vec<PushEvent>,
    /// How the room got on, and what happened to it last.
    pub(super) room: Option<(RoomStatus, Vec<RoomStatus>)>,
}

/// Outputs that run.
#[derive(Debug)]
pub(super) struct Pipeline {
    end: EndTime,
    pub(super) video_stats: Arc<video::Stats>,
    pub(super) audio_stats: Arc<audio::Stats>,
    rate: RateTarget,
    /// The bitrate that is not spent yet, because nobody wants the picture but the room, which has its own.
    paused_bitrate_bps: Option<u32>,
    video: NamedThread<Result<(), encode::Error>>,
    audio: NamedThread<Result<(), encode::Error>>,
    splitters: Vec<JoinHandle<()>>,
    fan_out: FanOut,
    pushes: ActivePushes,
    recording: Option<Recording>,
    room: Option<Room>,
    room_encoders: Vec<room::EncoderThread>,
    /// Since when only one encoder runs.
    one_encoder_since: Cell<Option<Instant>>,
}

impl Pipeline {
    /// Whether nothing more will come out, because the end was reached or something failed.
    pub(super) fn is_finished(&self) -> bool {
        let ended = [self.video.1.is_finished(), self.audio.1.is_finished()];
        // Of several outputs, each may go on alone.
        let unwanted = (self.recording.is_some() || self.room.is_some())
            && self.recording.as_ref().is_none_or(Recording::is_finished)
            && self.room.as_ref().is_none_or(Room::is_finished)
            && self.pushes.are_finished();
        if unwanted || ended == [true; 2] {
            return true;
        }
        if ended == [false; 2] {
            return false;
        }
        // At the end, one follows the other at once. Otherwise one has failed.
        let since = self.one_encoder_since.get().unwrap_or_else(Instant::now);
        self.one_encoder_since.set(Some(since));
        since.elapsed() > ENCODER_EXIT_TIMEOUT
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
        self.recording.as_ref().is_some_and(Recording::is_finished) && !self.video.1.is_finished()
    }

    /// A push is added or removed; what is told then.
    pub(super) fn apply_change(&mut self, change: Change, fps: Fps) -> Option<PushEvent> {
        if let (Change::AddPush(_), Some(bitrate_bps)) = (&change, self.paused_bitrate_bps.take()) {
            self.rate.set(bitrate_bps, fps.get());
        }
        self.pushes.apply_change(change)
    }

    /// What happened to the pushes since the last call.
    pub(super) fn push_events(&self) -> impl Iterator<Item = PushEvent> + '_ {
        self.pushes.events()
    }

    /// The room.
    pub(super) fn room(&self) -> Option<&Room> {
        self.room.as_ref()
    }

    /// The room, if it is all there is and there is no connection to it.
    pub(super) fn unconnected_room(&self) -> Option<&Room> {
        self.room().filter(|room| self.paused_bitrate_bps.is_some() && room.status().state != State::Running)
    }

    /// How storing the recording gets on.
    pub(super) fn upload_status(&self) -> Option<DeliveryStatus> {
        self.recording.as_ref().map(Recording::status)
    }

    /// Ends the recording with the tick after the one that the encoder is at.
    pub(super) fn end_now(&self, spec: &CastSpec) {
        let next = i64::try_from(self.video_stats.ticks()).unwrap_or(0) + 1;
        self.end.set(spec.source.fps.time_of(next));
    }

    /// Waits for the file and the pushes. Nobody may send ticks or samples any more, or the end must be near.
    pub(super) fn finish(self) -> FinishedOutputs {
        let mut failed = None;
        for encoder in [self.video, self.audio] {
            if let Err(error) = encoder.join().and_then(|r| r.map_err(Into::into)) {
                failed.get_or_insert(error);
            }
        }
        for encoder in self.room_encoders {
            if let Err(error) = NamedThread("encode-room", encoder).join().and_then(|r| r.map_err(Into::into))
            {
                failed.get_or_insert(error);
            }
        }
        for splitter in self.splitters {
            if splitter.join().is_err() {
                failed.get_or_insert(Error::Panic("split"));
            }
        }
        if !self.fan_out.finish() {
            failed.get_or_insert(Error::Panic("fan-out"));
        }
        let (pushes, news) = self.pushes.finish();
        let alone = self.recording.is_none() && pushes.is_empty();
        if let Some(given_up) = self.room.as_ref().filter(|_| alone).and_then(Room::failure) {
            failed.get_or_insert(given_up);
        }
        let room = match self.room.map(Room::finish).transpose() {
            Ok(room) => room,
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        };
        let recording = self.recording.map(|recording| {
            let (finishing, added) = recording.finish();
            // What cannot be recorded is why the cast ends.
            failed = added.err().or(failed.take());
            finishing
        });
        FinishedOutputs { upload: recording, error: failed, pushes, push_events: news, room }
    }
}
