//! One cast's stream in a room.

mod bitrate;
mod media;
mod runner;
mod session;
mod status;

use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use pagecast_core::Packet;
use pagecast_core::connection::{Event, State};
use pagecast_core::spec::Room;
use tokio::sync::mpsc;

use media::lock_status;
use runner::Runner;
pub use status::{LayerStatus, Status};

/// News that wait to be heard. Full: later ones are not told; the status says it, too.
const MAX_QUEUED_EVENTS: usize = 64;
/// Commands on their way. There are never more than two.
const MAX_QUEUED_COMMANDS: usize = 4;

/// What the encoders of a room are told. Layers are counted from 0, the larger one first.
pub trait EncoderControl: Send + 'static {
    /// A keyframe is wanted, with the next tick.
    fn request_keyframe(&self, layer: usize);
    /// What a layer may cost from now on.
    fn set_target(&self, layer: usize, target: LayerTarget);
}

/// What a layer may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerTarget {
    /// Cap on the bitrate in bit/s; 0: the layer is not wanted, and nothing is encoded.
    pub bitrate_bps: u32,
    /// Most frames per second.
    pub fps: u32,
}

/// Packets for a room, from the encoders.
#[derive(Debug)]
pub struct Feed {
    /// The picture's layers, the larger one first.
    pub video: Vec<mpsc::Receiver<Packet>>,
    /// Opus, 20 ms a packet.
    pub audio: mpsc::Receiver<Packet>,
}

/// What happened to a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherEvent {
    /// Where it stands now, and why.
    pub event: Event,
}

enum Command {
    Feed(Feed, Box<dyn EncoderControl>),
    Stop,
}

/// A stream that is published, on the thread `room`. It connects at once, and sends when it is fed; a connection that is lost is made again
/// until it is stopped. Dropped, it stops without a goodbye.
#[derive(Debug)]
pub struct Publisher {
    commands: mpsc::Sender<Command>,
    events: Receiver<PublisherEvent>,
    status: Arc<Mutex<Status>>,
    thread: JoinHandle<()>,
}

impl Publisher {
    /// Connects to the room's server.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(room: Room) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, receiver) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let (sender, news) = sync_channel(MAX_QUEUED_EVENTS);
        let status = Arc::new(Mutex::new(Status {
            server: room.redacted_url(),
            state: State::Idle,
            error: None,
            reconnects: 0,
            rtt_ms: None,
            estimate_kbps: None,
            audio_kbps: 0,
            layers: Vec::new(),
        }));
        let runner = Runner::new(room, receiver, sender, Arc::clone(&status));
        let thread = std::thread::Builder::new().name("room".into()).spawn(move || {
            runtime.block_on(runner.run());
            // A name that is being looked up must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { commands, events: news, status, thread })
    }

    /// What is sent from now on.
    pub fn set_feed(&self, feed: Feed, encoders: Box<dyn EncoderControl>) {
        if self.commands.try_send(Command::Feed(feed, encoders)).is_err() {
            tracing::debug!("a room that is over is not fed");
        }
    }

    /// How it gets on.
    #[must_use]
    pub fn status(&self) -> Status {
        lock_status(&self.status).clone()
    }

    /// What happened since the last call.
    pub fn events(&self) -> impl Iterator<Item = PublisherEvent> + '_ {
        self.events.try_iter()
    }

    /// Whether nothing is sent any more, nor will be.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Says goodbye to the server: how it got on, and the last news. `None` if the thread panicked.
    #[must_use]
    pub fn finish(self) -> Option<(Status, Vec<PublisherEvent>)> {
        let Self { commands, events: news, status, thread } = self;
        // One that is over takes none.
        if commands.try_send(Command::Stop).is_err() {
            tracing::trace!("a room was over already");
        }
        thread.join().ok()?;
        let status = lock_status(&status).clone();
        Some((status, news.try_iter().collect()))
    }
}
