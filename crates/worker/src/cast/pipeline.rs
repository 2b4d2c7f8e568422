//! The outputs of a cast: the threads that turn ticks and samples into a recording, pushes and a room.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::connection::State;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{self, NetworkPolicy, Push};
use pagecast_core::wake::{SharedWaker, ThreadEnd, ThreadEndGuard};
use pagecast_core::{CastSpec, Fps, HostTime, MediaTime, Packet, Samples, Tick, Track};
use pagecast_media::encode::{
    self, EndTime, PacketSender, RateTarget, SendOutcome, Tracks, audio, tee, video,
};
use pagecast_media::fanout::FanOut;
use pagecast_page::clock;

use super::assignment::Assignment;
use super::pushes::{ActivePushes, PushEvent, PushReport};
use super::recording::{PendingUpload, Recording};
use super::room::{self, Room};
use super::{Change, Error, RoomStatus, UploadStatus};

/// How long one encoder may run on after the other has ended. Both end at the same media time, so one that is
/// seconds behind has lost its input: the other one failed.
const ENCODER_EXIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Outputs that are open but take no input yet.
pub(super) struct Prepared {
    video: video::Encoder,
    audio: audio::Encoder,
    packets: SyncSender<Packet>,
    fan_out: FanOut,
    tracks: Tracks,
    recording: Option<Recording>,
    room: Option<room::Prepared>,
    /// Where pushes may connect; `None`: anywhere.
    network: Option<NetworkPolicy>,
    /// The room is the only output at the start: there is no recording and no push.
    room_only: bool,
    bitrate_bps: u32,
    end: EndTime,
    /// Woken when an output has changed its state or has ended.
    waker: Waker,
}

/// Sends the packets of an encoder, and is dropped when the encoder's thread ends.
#[derive(Debug)]
struct WatchedSender {
    // Dropped first: the encoder has ended before whatever ends without its packets.
    _guard: ThreadEndGuard,
    packets: SyncSender<Packet>,
}

impl PacketSender for WatchedSender {
    fn send_packet(&mut self, packet: Packet) -> SendOutcome {
        self.packets.send_packet(packet)
    }
}

impl Prepared {
    /// Opens the encoders and creates the spool. `waker` is woken when an output has changed its state or has
    /// ended.
    pub(super) fn open(assignment: &Assignment, waker: &Waker) -> Result<Self, Error> {
        let spec = &assignment.spec;
        let audio_only = spec.pushes.is_empty() && spec.recording.as_ref().is_some_and(|r| r.audio_only);
        let keyframe_interval = spec.recording.as_ref().map(spec::Recording::keyframe_interval);
        let keyframe_interval = keyframe_interval.unwrap_or(spec::KEYFRAME_INTERVAL);
        let (size, fps) = (spec.source.size, spec.source.fps);
        let config = video::Config::for_files(size, fps, spec.bitrate_bps(), keyframe_interval);
        let config = video::Config { enabled: !audio_only, ..config };
        let (mut video, audio) = (video::Encoder::open(config)?, audio::Encoder::open(audio::Config::FILES)?);
        let picture = (video.parameters(), spec.source.fps);
        let tracks = Tracks { video: (!audio_only).then_some(picture), audio: audio.parameters() };
        let lead = if audio_only { Track::Audio } else { Track::Video };
        let (packets, fan_out) = FanOut::spawn(lead).map_err(|e| encode::Error::Thread("fan-out", e))?;
        let recording = match assignment.spool_config() {
            None => None,
            Some(spool) => {
                let video_track = tracks.video.clone().filter(|_| !spool.recording.audio_only);
                let own = Tracks { video: video_track, audio: audio.parameters() };
                Some(Recording::start(&spool, own, &mut video, &fan_out, waker)?)
            }
        };
        let begins_at = recording.as_ref().map_or(MediaTime::ZERO, Recording::begins_at);
        let end = EndTime::new(spec.duration.map(|duration| MediaTime::from(duration) - begins_at));
        let open_room = |room| room::Prepared::open(room, &spec.source, waker.clone());
        let room = spec.room.as_ref().map(open_room).transpose()?;
        let room_only = spec.recording.is_none() && spec.pushes.is_empty();
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
            room_only,
            bitrate_bps,
            end,
            waker: waker.clone(),
        })
    }

    /// Returns the room, which connects before there is anything to publish.
    pub(super) fn room(&self) -> Option<&Room> {
        self.room.as_ref().map(|room| &room.room)
    }

    /// Returns why the outputs cannot succeed, if that is known before the start: the storage refuses the
    /// recording, or the room, the only output, refuses the cast.
    pub(super) fn start_error(&self) -> Option<Error> {
        let room_error = || self.room().filter(|_| self.room_only).and_then(Room::failure);
        self.recording.as_ref().and_then(Recording::start_error).or_else(room_error)
    }

    /// Starts the outputs on these inputs, with these pushes.
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
            room_only,
            bitrate_bps,
            end,
            waker,
        } = self;
        // Pushes may have been added since the outputs were opened.
        let room_only = room_only && pushes.is_empty();
        let keyframes = video.keyframe_request();
        let pushes =
            ActivePushes::start(pushes, network, tracks, fan_out.handle(), keyframes, waker.clone())?;
        let (video_stats, audio_stats) = (video.stats(), audio.stats());
        let rate = video.rate_target();
        let paused = room_only.then_some(bitrate_bps);
        if room_only {
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
        let spawn_video = |out: WatchedSender| video.spawn(ticks, end.clone(), out);
        let video = EncoderThread::start("encode-video", packets.clone(), &waker, spawn_video)?;
        let spawn_audio = |out: WatchedSender| audio.spawn(samples, end.clone(), out);
        let audio = EncoderThread::start("encode-audio", packets, &waker, spawn_audio)?;
        let (room, room_encoders) = match room.zip(room_samples.into_iter().next()) {
            None => (None, Vec::new()),
            Some((room, samples)) => {
                let (room, threads) = room.start(room_ticks, samples, &end)?;
                (Some(room), threads)
            }
        };

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
            closed_room: None,
            room_encoders,
            one_encoder_since: Cell::new(None),
        })
    }

    /// Closes the outputs without input. Returns what an earlier process recorded and is still to be
    /// uploaded.
    pub(super) fn abandon(self) -> Option<PendingUpload> {
        let Self { packets, video, audio, recording, .. } = self;
        drop((packets, video, audio));
        recording.map(|recording| recording.finish().0)
    }
}

/// The thread of an encoder for recording and pushes.
#[derive(Debug)]
struct EncoderThread {
    name: &'static str,
    thread: JoinHandle<Result<(), encode::Error>>,
    end: ThreadEnd,
}

impl EncoderThread {
    /// Starts the thread by `spawn`. Its end wakes `waker`.
    fn start(
        name: &'static str,
        packets: SyncSender<Packet>,
        waker: &Waker,
        spawn: impl FnOnce(WatchedSender) -> Result<JoinHandle<Result<(), encode::Error>>, encode::Error>,
    ) -> Result<Self, Error> {
        let end = ThreadEnd::new(&SharedWaker::from(waker.clone()));
        let thread = spawn(WatchedSender { _guard: end.guard(), packets })?;
        Ok(Self { name, thread, end })
    }

    fn join(self) -> Result<(), Error> {
        join_encoder(self.name, self.thread)
    }
}

/// Waits for an encoder; `name` is reported if it panicked.
fn join_encoder(name: &'static str, thread: JoinHandle<Result<(), encode::Error>>) -> Result<(), Error> {
    Ok(thread.join().map_err(|_| Error::Panic(name))??)
}

/// What the outputs left when they finished.
#[derive(Debug, Default)]
pub(super) struct FinishedOutputs {
    /// The recording, whose upload is under way.
    pub(super) upload: Option<PendingUpload>,
    /// The first failure.
    pub(super) error: Option<Error>,
    pub(super) pushes: Vec<PushReport>,
    /// The last events of the pushes.
    pub(super) push_events: Vec<PushEvent>,
    /// The room's last status, and its last changes.
    pub(super) room: Option<(RoomStatus, Vec<RoomStatus>)>,
}

/// Outputs that are running.
#[derive(Debug)]
pub(super) struct Pipeline {
    end: EndTime,
    pub(super) video_stats: Arc<video::Stats>,
    pub(super) audio_stats: Arc<audio::Stats>,
    rate: RateTarget,
    /// The bitrate held back while the room, which has encoders of its own, is the only output.
    paused_bitrate_bps: Option<u32>,
    video: EncoderThread,
    audio: EncoderThread,
    splitters: Vec<JoinHandle<()>>,
    fan_out: FanOut,
    pushes: ActivePushes,
    recording: Option<Recording>,
    room: Option<Room>,
    /// What a room left that was closed before the end.
    closed_room: Option<Result<(RoomStatus, Vec<RoomStatus>), Error>>,
    room_encoders: Vec<room::EncoderThread>,
    /// Since when only one encoder has been running.
    one_encoder_since: Cell<Option<HostTime>>,
}

impl Pipeline {
    /// Returns whether no more output will come, because the end was reached or an output failed.
    pub(super) fn is_finished(&self) -> bool {
        let ended = [self.video.end.has_ended(), self.audio.end.has_ended()];
        // Of several outputs, each may continue alone.
        let all_finished = (self.recording.is_some() || self.room.is_some())
            && self.recording.as_ref().is_none_or(Recording::is_finished)
            && self.room.as_ref().is_none_or(Room::is_finished)
            && self.pushes.are_finished();
        if all_finished || ended == [true; 2] {
            return true;
        }
        if ended == [false; 2] {
            return false;
        }
        // At the end, both stop within a moment. Otherwise one has failed.
        let since = self.one_encoder_since.get().unwrap_or_else(clock::now);
        self.one_encoder_since.set(Some(since));
        clock::now() >= since + ENCODER_EXIT_TIMEOUT
    }

    /// When [`Pipeline::is_finished`] becomes true without another wake-up.
    pub(super) fn deadline(&self) -> Option<HostTime> {
        self.one_encoder_since.get().map(|since| since + ENCODER_EXIT_TIMEOUT)
    }

    /// Media time at which this process began: the length that earlier processes recorded.
    pub(super) fn begins_at(&self) -> MediaTime {
        self.recording.as_ref().map_or(MediaTime::ZERO, Recording::begins_at)
    }

    /// Returns how long the cast has been live, earlier processes included.
    pub(super) fn elapsed(&self, spec: &CastSpec) -> MediaTime {
        let ticks = i64::try_from(self.video_stats.ticks()).unwrap_or(0);
        self.begins_at() + spec.source.fps.time_of(ticks)
    }

    /// Returns whether the cast has reached its configured duration.
    pub(super) fn is_complete(&self, spec: &CastSpec) -> bool {
        spec.duration.is_some_and(|d| self.elapsed(spec) >= MediaTime::from(d))
    }

    /// Returns whether the recording stopped while the cast continues.
    pub(super) fn has_stopped_recording(&self) -> bool {
        self.recording.as_ref().is_some_and(Recording::is_finished) && !self.video.end.has_ended()
    }

    /// Adds or removes a push; returns an event if the change was refused.
    pub(super) fn apply_change(&mut self, change: Change, fps: Fps) -> Option<PushEvent> {
        if let (Change::AddPush(_), Some(bitrate_bps)) = (&change, self.paused_bitrate_bps.take()) {
            self.rate.set(bitrate_bps, fps.get());
        }
        self.pushes.apply_change(change)
    }

    /// Stops publishing and storing for good: pushes and room are closed, and what is recorded stays in the
    /// spool.
    pub(super) fn isolate(&mut self) {
        self.pushes.stop_all();
        if let Some(recording) = &self.recording {
            recording.stop_upload();
        }
        if let Some(room) = self.room.take() {
            self.closed_room = Some(room.finish());
        }
    }

    /// Returns the events of the pushes since the last call.
    pub(super) fn push_events(&self) -> impl Iterator<Item = PushEvent> + '_ {
        self.pushes.events()
    }

    /// Returns the room, if the cast has one.
    pub(super) fn room(&self) -> Option<&Room> {
        self.room.as_ref()
    }

    /// Returns the room if it is the only output and is not connected.
    pub(super) fn unconnected_room(&self) -> Option<&Room> {
        self.room().filter(|room| self.paused_bitrate_bps.is_some() && room.status().state != State::Running)
    }

    /// Returns the status of the recording's upload.
    pub(super) fn upload_status(&self) -> Option<UploadStatus> {
        self.recording.as_ref().map(Recording::status)
    }

    /// Takes the rows of the recording's ledger that have changed.
    pub(super) fn take_ledger_rows(&self) -> Vec<LedgerRow> {
        self.recording.as_ref().map(Recording::take_ledger_rows).unwrap_or_default()
    }

    /// Ends the outputs one tick after the encoder's current one.
    pub(super) fn end_now(&self, spec: &CastSpec) {
        let next = i64::try_from(self.video_stats.ticks()).unwrap_or(0) + 1;
        self.end.set(spec.source.fps.time_of(next));
    }

    /// Waits for all outputs to finish. The senders of ticks and samples must be gone, or the end time set.
    pub(super) fn finish(self) -> FinishedOutputs {
        let mut failed = None;
        let encoders = [self.video, self.audio].map(EncoderThread::join);
        let room_encoders = self.room_encoders.into_iter().map(|thread| join_encoder("encode-room", thread));
        for error in encoders.into_iter().chain(room_encoders).filter_map(Result::err) {
            failed.get_or_insert(error);
        }
        for splitter in self.splitters {
            if splitter.join().is_err() {
                failed.get_or_insert(Error::Panic("split"));
            }
        }
        if !self.fan_out.finish() {
            failed.get_or_insert(Error::Panic("fan-out"));
        }
        let (pushes, push_events) = self.pushes.finish();
        let room_only = self.recording.is_none() && pushes.is_empty();
        if let Some(error) = self.room.as_ref().filter(|_| room_only).and_then(Room::failure) {
            failed.get_or_insert(error);
        }
        let room = match self.closed_room.or_else(|| self.room.map(Room::finish)).transpose() {
            Ok(room) => room,
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        };
        let upload = self.recording.map(|recording| {
            let (upload, recorded) = recording.finish();
            // A recorder that failed is the cause of what failed after it.
            failed = recorded.err().or(failed.take());
            upload
        });
        FinishedOutputs { upload, error: failed, pushes, push_events, room }
    }
}
