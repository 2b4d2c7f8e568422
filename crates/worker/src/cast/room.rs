//! The room of a cast: connected while the page is being opened, fed when it is live.

use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use pagecast_core::push::State;
use pagecast_core::spec::{self, Source};
use pagecast_core::{Samples, Tick};
use pagecast_media::encode::{self, End, Keyframes, Rate, audio, video};
use pagecast_room::publish::{Encoders, Feed, Publisher, Status, Target};
use tokio::sync::mpsc;

use super::Error;

/// Packets of a layer on their way to the room. Full, because the room is behind: they are lost up to the next keyframe.
const PICTURES: usize = 64;
/// Packets of the sound likewise, 20 ms each. Full: they are lost.
const SOUNDS: usize = 25;

/// A thread that encodes.
pub(super) type Encoding = JoinHandle<Result<(), encode::Error>>;

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
struct Handles(Vec<(Keyframes, Rate)>);

impl Encoders for Handles {
    fn keyframe(&self, layer: usize) {
        if let Some((keyframes, _)) = self.0.get(layer) {
            keyframes.request();
        }
    }

    fn target(&self, layer: usize, target: Target) {
        if let Some((_, rate)) = self.0.get(layer) {
            rate.set(target.bitrate_bps, target.fps);
        }
    }
}

impl Prepared {
    /// Opens the encoders, and connects.
    pub(super) fn open(room: &spec::Room, source: &Source) -> Result<Self, Error> {
        let encoder = |(number, layer)| {
            video::Encoder::open(video::Config::layer(number, layer, room.codec, source.size, source.fps))
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
    pub(super) fn layers(&self) -> usize {
        self.video.len()
    }

    /// Publishes ticks and samples from now on.
    pub(super) fn start(
        self,
        ticks: Vec<Receiver<Tick>>,
        samples: Receiver<Samples>,
        end: &End,
    ) -> Result<(Room, Vec<Encoding>), Error> {
        let Self { room, video, audio } = self;
        let mut handles = Vec::new();
        let mut threads = Vec::new();
        let mut queues = Vec::new();
        for (encoder, ticks) in video.into_iter().zip(ticks) {
            let (out, queue) = mpsc::channel(PICTURES);
            let (keyframes, rate) = (encoder.keyframes(), encoder.rate());
            // Nobody takes them before the room says so.
            rate.set(0, 1);
            handles.push((keyframes, rate));
            threads.push(encoder.spawn(ticks, end.clone(), out)?);
            queues.push(queue);
        }
        let (out, queue) = mpsc::channel(SOUNDS);
        threads.push(audio.spawn(samples, end.clone(), out)?);
        room.publisher.feed(Feed { video: queues, audio: queue }, Box::new(Handles(handles)));
        Ok((room, threads))
    }
}

impl Room {
    /// How it gets on.
    pub(super) fn status(&self) -> Status {
        self.publisher.status()
    }

    /// What happened since the last call.
    pub(super) fn news(&self) -> Vec<Status> {
        let status = self.publisher.status();
        self.publisher.news().map(|news| at(&status, news.event.state, news.event.error)).collect()
    }

    /// Whether nothing is published any more, nor will be.
    pub(super) fn is_over(&self) -> bool {
        self.publisher.is_over()
    }

    /// Why it is given up, if it is.
    pub(super) fn given_up(&self) -> Option<Error> {
        let status = self.publisher.status();
        let failed = self.publisher.is_over() || status.state == State::Failed;
        failed.then(|| Error::Room(status.error.unwrap_or_else(|| "it is over".into())))
    }

    /// Says goodbye: how it got on, and the last news.
    pub(super) fn finish(self) -> Result<(Status, Vec<Status>), Error> {
        let failed = self.given_up().is_some();
        let (mut status, news) = self.publisher.finish().ok_or(Error::Panic("room"))?;
        if failed {
            status.state = State::Failed;
        }
        let news = news.into_iter().map(|news| at(&status, news.event.state, news.event.error)).collect();
        Ok((status, news))
    }
}

/// A status in another state.
fn at(status: &Status, state: State, error: Option<String>) -> Status {
    Status { state, error, ..status.clone() }
}
