//! The room of a cast: connected while the page is being opened, fed when it is live.

use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use pagecast_core::connection::State;
use pagecast_core::spec::{self, Source};
use pagecast_core::{Samples, Tick};
use pagecast_media::encode::{self, EndTime, KeyframeRequest, RateTarget, audio, video};
use pagecast_room::publish::{EncoderControl, Feed, LayerTarget, Publisher, Status};
use tokio::sync::mpsc;

use super::Error;

/// Packets of a layer on their way to the room. Full, because the room is behind: they are lost up to the next keyframe.
const MAX_QUEUED_VIDEO_PACKETS: usize = 64;
/// Packets of the sound likewise, 20 ms each. Full: they are lost.
const MAX_QUEUED_AUDIO_PACKETS: usize = 25;

/// A thread that encodes.
pub(super) type EncoderThread = JoinHandle<Result<(), encode::Error>>;

/// A room that is being connected to, and encoders that take nothing yet.
pub(super) struct Prepared {
    pub(super) room: Room,
    video: Vec<video::Encoder>,
    audio: audio::Encoder,
}

/// The room that the cast is published in.
#[derive(Debug)]
pub(super) struct Room {
    publisher: Publisher,
}

/// What a room tells its encoders; the larger layer first.
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
    /// Opens the encoders, and connects.
    pub(super) fn open(room: &spec::Room, source: &Source) -> Result<Self, Error> {
        let encoder = |(number, layer)| {
            video::Encoder::open(video::Config::for_layer(number, layer, room.codec, source.size, source.fps))
        };
        let video = room.layers.iter().enumerate().map(encoder).collect::<Result<_, _>>()?;
        let audio = audio::Encoder::open(audio::Config::ROOM)?;
        Ok(Self {
            room: Room { publisher: Publisher::start(room.clone()).map_err(Error::StartRoom)? },
            video,
            audio,
        })
    }

    /// How many layers its picture has.
    pub(super) fn layer_count(&self) -> usize {
        self.video.len()
    }

    /// Publishes ticks and samples from now on.
    pub(super) fn start(
        self,
        ticks: Vec<Receiver<Tick>>,
        samples: Receiver<Samples>,
        end: &EndTime,
    ) -> Result<(Room, Vec<EncoderThread>), Error> {
        let Self { room, video, audio } = self;
        let mut handles = Vec::new();
        let mut threads = Vec::new();
        let mut queues = Vec::new();
        for (encoder, ticks) in video.into_iter().zip(ticks) {
            let (out, queue) = mpsc::channel(MAX_QUEUED_VIDEO_PACKETS);
            let (keyframes, rate) = (encoder.keyframe_request(), encoder.rate_target());
            // Nobody takes them before the room says so.
            rate.set(0, 1);
            handles.push((keyframes, rate));
            threads.push(encoder.spawn(ticks, end.clone(), out)?);
            queues.push(queue);
        }
        let (out, queue) = mpsc::channel(MAX_QUEUED_AUDIO_PACKETS);
        threads.push(audio.spawn(samples, end.clone(), out)?);
        room.publisher.set_feed(Feed { video: queues, audio: queue }, Box::new(EncoderControls(handles)));
        Ok((room, threads))
    }
}

impl Room {
    /// How it gets on.
    pub(super) fn status(&self) -> Status {
        self.publisher.status()
    }

    /// What happened since the last call.
    pub(super) fn status_changes(&self) -> Vec<Status> {
        let status = self.publisher.status();
        self.publisher.events().map(|news| with_state(&status, news.event.state, news.event.error)).collect()
    }

    /// Whether nothing is published any more, nor will be.
    pub(super) fn is_finished(&self) -> bool {
        self.publisher.is_finished()
    }

    /// Why it is given up, if it is.
    pub(super) fn failure(&self) -> Option<Error> {
        let status = self.publisher.status();
        let failed = self.publisher.is_finished() || status.state == State::Failed;
        failed.then(|| Error::Room(status.error.unwrap_or_else(|| "it is over".into())))
    }

    /// Says goodbye: how it got on, and the last news.
    pub(super) fn finish(self) -> Result<(Status, Vec<Status>), Error> {
        let failed = self.failure().is_some();
        let (mut status, news) = self.publisher.finish().ok_or(Error::Panic("room"))?;
        if failed {
            status.state = State::Failed;
        }
        let news =
            news.into_iter().map(|news| with_state(&status, news.event.state, news.event.error)).collect();
        Ok((status, news))
    }
}

/// A status in another state.
fn with_state(status: &Status, state: State, error: Option<String>) -> Status {
    Status { state, error, ..status.clone() }
}
