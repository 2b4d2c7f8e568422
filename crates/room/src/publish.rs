//! Publishes the stream of one cast to a room.

mod bitrate;
mod media;
mod runner;
mod session;
mod status;

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::thread::JoinHandle;

use pagecast_core::Packet;
use pagecast_core::connection::Event;
use pagecast_core::spec::Room;
use pagecast_core::wake::{SharedWaker, ThreadEnd};
use tokio::sync::mpsc;

use media::lock_status;
use runner::Runner;
pub use status::{LayerStatus, Status};

/// Events that wait to be read. When full, later ones are dropped; the status contains the latest state.
const MAX_QUEUED_EVENTS: usize = 64;
/// Commands that wait for the thread. There are never more than two.
const MAX_QUEUED_COMMANDS: usize = 4;

/// Control of a room's encoders. Layers are counted from 0, the larger one first.
pub trait EncoderControl: Send + 'static {
    /// Requests a keyframe with the next tick.
    fn request_keyframe(&self, layer: usize);
    /// Sets the target of a layer.
    fn set_target(&self, layer: usize, target: LayerTarget);
}

/// Target of a layer's encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerTarget {
    /// Bitrate cap in bit/s; 0 pauses the layer.
    pub bitrate_bps: u32,
    /// Highest frame rate, in frames per second.
    pub fps: u32,
}

/// Encoded packets for a room.
#[derive(Debug)]
pub struct Feed {
    /// Packets of the video layers, the larger one first.
    pub video: Vec<mpsc::Receiver<Packet>>,
    /// Opus packets of 20 ms.
    pub audio: mpsc::Receiver<Packet>,
}

/// Event of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherEvent {
    /// New state of the connection, and its error.
    pub event: Event,
}

/// Queue of the events, and who is woken by each.
struct EventSender {
    queue: SyncSender<PublisherEvent>,
    waker: SharedWaker,
}

impl EventSender {
    /// Queues an event; the status contains the latest state even if the queue is full.
    fn send(&self, event: PublisherEvent) {
        if let Err(error) = self.queue.try_send(event) {
            tracing::trace!(%error, "room event dropped, queue full");
        }
        self.waker.wake();
    }
}

enum Command {
    Feed(Feed, Box<dyn EncoderControl>),
    Stop,
}

/// Publishes a stream, on the thread `room`. It connects at once, sends once it has a feed, and reconnects
/// until it is stopped. Dropping it ends it without closing the session on the server.
#[derive(Debug)]
pub struct Publisher {
    commands: mpsc::Sender<Command>,
    events: Receiver<PublisherEvent>,
    status: Arc<Mutex<Status>>,
    /// Woken by the events and at the end of the thread.
    waker: SharedWaker,
    end: ThreadEnd,
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
        let (sender, events) = sync_channel(MAX_QUEUED_EVENTS);
        let status = Arc::new(Mutex::new(Status::new(room.redacted_url())));
        let waker = SharedWaker::default();
        let sender = EventSender { queue: sender, waker: waker.clone() };
        let runner = Runner::new(room, receiver, sender, Arc::clone(&status));
        let end = ThreadEnd::new(&waker);
        let guard = end.guard();
        let thread = std::thread::Builder::new().name("room".into()).spawn(move || {
            let _guard = guard;
            runtime.block_on(runner.run());
            // A blocking DNS lookup must not delay the end of the thread.
            runtime.shutdown_background();
        })?;
        Ok(Self { commands, events, status, waker, end, thread })
    }

    /// Sets who is woken by each event, and at the end of the publisher.
    pub fn set_waker(&self, waker: Waker) {
        self.waker.set(waker);
    }

    /// Sets the packets to send, and the control of their encoders.
    pub fn set_feed(&self, feed: Feed, encoders: Box<dyn EncoderControl>) {
        if self.commands.try_send(Command::Feed(feed, encoders)).is_err() {
            tracing::debug!("feed ignored, room has ended");
        }
    }

    /// Current status.
    #[must_use]
    pub fn status(&self) -> Status {
        lock_status(&self.status).clone()
    }

    /// The events since the last call.
    pub fn events(&self) -> impl Iterator<Item = PublisherEvent> + '_ {
        self.events.try_iter()
    }

    /// Whether the publisher has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end.has_ended()
    }

    /// Closes the session and returns the final status and events. `None` if the thread panicked.
    #[must_use]
    pub fn finish(self) -> Option<(Status, Vec<PublisherEvent>)> {
        let Self { commands, events, status, thread, .. } = self;
        if commands.try_send(Command::Stop).is_err() {
            tracing::trace!("room had already ended");
        }
        thread.join().ok()?;
        let status = lock_status(&status).clone();
        Some((status, events.try_iter().collect()))
    }
}
