//! The room of a cast: connected while the page is being opened, fed once it is live.

use std::sync::mpsc::Receiver;
use std::task::Waker;
use std::thread::JoinHandle;

use pagecast_core::connection::State;
use pagecast_core::spec::{self, Source};
use pagecast_core::{Samples, Tick};
use pagecast_media::encode::{self, EndTime, KeyframeRequest, RateTarget, audio, video};
use pagecast_room::publish::{EncoderControl, Feed, LayerTarget, Publisher, Status};
use tokio::sync::mpsc;

use super::Error;

/// Video packets queued for the room, of one layer: about 2 s at 30 fps. When full, packets are dropped up to
/// the next keyframe.
const MAX_QUEUED_VIDEO_PACKETS: usize = 64;
/// Audio packets queued for the room, 20 ms each: half a second. When full, packets are dropped.
const MAX_QUEUED_AUDIO_PACKETS: usize = 25;

/// The thread of an encoder.
pub(super) type EncoderThread = JoinHandle<Result<(), encode::Error>>;

/// A room that is connecting, and encoders that take no input yet.
pub(super) struct Prepared {
    pub(super) room: Room,
    video: Vec<video::Encoder>,
    audio: audio::Encoder,
}

/// The room that the cast is published to.
#[derive(Debug)]
pub(super) struct Room {
    publisher: Publisher,
}

/// How the room controls its video encoders, one pair for each layer, the larger layer first.
#[derive(Debug)]
struct EncoderControls(Vec<(KeyframeRequest, RateTarget)>);

impl EncoderControl for EncoderControls {
    fn request_keyframe(&self, layer: usize) {
        if let Some((keyframes, _)) = self.0.get(layer) {
            keyframes.request();
        }
    }

    fn set_target(&self, layer: usize, target: LayerTarget) {
        if let Some((_, rate)) = self.0.get(layer) {
            rate.set(target.bitrate_bps, target.fps);
        }
    }
}

impl Prepared {
    /// Opens the encoders and starts to connect. `waker` is woken when the connection changes its state.
    pub(super) fn open(room: &spec::Room, source: &Source, waker: Waker) -> Result<Self, Error> {
        let encoder = |(number, layer)| {
            video::Encoder::open(video::Config::for_layer(number, layer, room.codec, source.size, source.fps))
        };
        let video = room.layers.iter().enumerate().map(encoder).collect::<Result<_, _>>()?;
        let audio = audio::Encoder::open(audio::Config::ROOM)?;
        let publisher = Publisher::start(room.clone()).map_err(Error::StartRoom)?;
        publisher.set_waker(waker);
        Ok(Self { room: Room { publisher }, video, audio })
    }

    /// Returns the number of video layers.
    pub(super) fn layer_count(&self) -> usize {
        self.video.len()
    }

    /// Starts to encode and publish these ticks and samples.
    pub(super) fn start(
        self,
        ticks: Vec<Receiver<Tick>>,
        samples: Receiver<Samples>,
        end: &EndTime,
    ) -> Result<(Room, Vec<EncoderThread>), Error> {
        let Self { room, video, audio } = self;
        let mut controls = Vec::new();
        let mut threads = Vec::new();
        let mut packet_queues = Vec::new();
        for (encoder, ticks) in video.into_iter().zip(ticks) {
            let (out, queue) = mpsc::channel(MAX_QUEUED_VIDEO_PACKETS);
            let (keyframes, rate) = (encoder.keyframe_request(), encoder.rate_target());
            // Nothing is encoded before the room sets a target.
            rate.set(0, 1);
            controls.push((keyframes, rate));
            threads.push(encoder.spawn(ticks, end.clone(), out)?);
            packet_queues.push(queue);
        }
        let (out, queue) = mpsc::channel(MAX_QUEUED_AUDIO_PACKETS);
        threads.push(audio.spawn(samples, end.clone(), out)?);
        room.publisher
            .set_feed(Feed { video: packet_queues, audio: queue }, Box::new(EncoderControls(controls)));
        Ok((room, threads))
    }
}

impl Room {
    /// Returns the status of the connection.
    pub(super) fn status(&self) -> Status {
        self.publisher.status()
    }

    /// Returns the changes of status since the last call.
    pub(super) fn status_changes(&self) -> Vec<Status> {
        let status = self.publisher.status();
        self.publisher.events().map(|e| with_state(&status, e.event.state, e.event.error)).collect()
    }

    /// Returns whether publishing has ended for good.
    pub(super) fn is_finished(&self) -> bool {
        self.publisher.is_finished()
    }

    /// Returns why the connection failed for good, if it did.
    pub(super) fn failure(&self) -> Option<Error> {
        let status = self.publisher.status();
        let failed = self.publisher.is_finished() || status.state == State::Failed;
        failed.then(|| Error::Room(status.error.unwrap_or_else(|| "the connection has ended".into())))
    }

    /// Closes the connection; returns the last status and the last changes.
    pub(super) fn finish(self) -> Result<(Status, Vec<Status>), Error> {
        let failed = self.failure().is_some();
        let (mut status, events) = self.publisher.finish().ok_or(Error::Panic("room"))?;
        if failed {
            status.state = State::Failed;
        }
        let changes = events.into_iter().map(|e| with_state(&status, e.event.state, e.event.error)).collect();
        Ok((status, changes))
    }
}

/// Returns the status with this state and error.
fn with_state(status: &Status, state: State, error: Option<String>) -> Status {
    Status { state, error, ..status.clone() }
}
