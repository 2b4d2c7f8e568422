//! Pushes the stream of a cast to servers over RTMP, RTMPS and SRT.
//!
//! The thread `pushes` runs a [`StateMachine`] for each target. A thread `push-N` for each target connects
//! and sends; it may block up to its deadline. Targets are independent, and are added and removed at any
//! time.

mod deadline;
mod error_text;
mod resolve;
mod runner;
mod session;
mod target;

use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::MediaTime;
use pagecast_core::connection::{Event, State, StateMachine};
use pagecast_core::spec::{MAX_PUSHES, NetworkPolicy, Push, PushUrl};
use pagecast_core::wake::SharedWaker;

use crate::encode::{KeyframeRequest, Tracks};
use crate::fanout::{FanOutHandle, QueueLimit};
use deadline::IoDeadline;
pub use resolve::{Resolver, system_resolver};
use runner::{Message, Runner, TargetHandle};
use target::{Target, TargetStatus};

/// Queue of a target: 8 s cover a reconnect, 16 MiB that at 16 Mbit/s. Full: drops up to the next keyframe.
const QUEUE_LIMIT: QueueLimit = QueueLimit { bytes: 16 * 1024 * 1024, duration: Duration::from_secs(8) };
/// Events that the caller has not received yet. Full: new ones are dropped; [`Pushes::statuses`] has them.
const MAX_QUEUED_EVENTS: usize = 256;
/// Messages to the thread `pushes`. Full: the sender waits, but briefly, as the thread never blocks.
const MAX_QUEUED_MESSAGES: usize = 64;
/// Commands to one target: at most one of each kind is pending.
const MAX_QUEUED_COMMANDS: usize = 2;
/// Ended targets whose status is kept. Full: the oldest is dropped.
const MAX_ENDED_TARGETS: usize = 50;

/// Errors of adding a target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cast has [`MAX_PUSHES`] targets already.
    #[error("cannot push to more than {MAX_PUSHES} servers at a time")]
    TooMany,
    /// The address is a target already.
    #[error("the stream is sent to {0} already")]
    Duplicate(PushUrl),
    /// The cast has ended.
    #[error("the cast has ended")]
    Ended,
    /// A thread cannot be started.
    #[error("cannot start a thread for a push")]
    Thread(#[source] std::io::Error),
}

/// Settings of all targets.
#[derive(Debug, Clone)]
pub struct Config {
    /// Longest time for a target to accept the stream.
    pub connect_timeout: Duration,
    /// Longest time for sending one packet.
    pub write_timeout: Duration,
    /// Longest time for closing the stream in order.
    pub close_timeout: Duration,
    /// File with the certificate authorities that are trusted for RTMPS. `None`: `SSL_CERT_FILE`, or the
    /// system's authorities.
    pub ca_file: Option<PathBuf>,
    /// Networks that targets may be in; names are resolved and checked before each connection. `None`: any.
    pub network: Option<NetworkPolicy>,
    /// Resolver of host names for that check.
    pub resolver: Resolver,
}

impl Default for Config {
    fn default() -> Self {
        let [connect, write, close] = [10, 10, 2].map(Duration::from_secs);
        Self {
            connect_timeout: connect,
            write_timeout: write,
            close_timeout: close,
            ca_file: None,
            network: None,
            resolver: system_resolver,
        }
    }
}

/// Id of a target within its cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u32);

/// A state change of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetEvent {
    /// Id of the target.
    pub id: Id,
    /// Address of the target.
    pub url: PushUrl,
    /// New state, and the error if there is one.
    pub event: Event,
}

/// Status of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Id of the target.
    pub id: Id,
    /// Address of the target.
    pub url: PushUrl,
    /// State of the connection.
    pub state: State,
    /// Whether the target has ended.
    pub finished: bool,
    /// Why the target is not connected or was given up; `None` while it runs and after a normal end.
    pub error: Option<String>,
    /// Why the connection was last lost, if it ever was.
    pub interruption: Option<String>,
    /// Encoded bytes sent, without container and protocol overhead.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets dropped since the first one, because the target was too slow or not connected.
    pub lost: u64,
    /// Connections after the first one.
    pub reconnects: u64,
    /// Duration of the queued packets.
    pub queue_delay: Duration,
    /// Bytes queued, with 128 bytes of overhead for each packet.
    pub queued_bytes: usize,
}

/// All targets of a cast.
#[derive(Debug)]
pub struct Pushes {
    tracks: Tracks,
    fan_out: FanOutHandle,
    keyframe_request: KeyframeRequest,
    config: Config,
    next_id: AtomicU32,
    messages: SyncSender<Message>,
    statuses: Mutex<Vec<Arc<TargetStatus>>>,
    /// Woken by the events.
    waker: SharedWaker,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
}

impl Pushes {
    /// Starts the thread `pushes` without a target. The receiver gets the events of all targets, in order.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(
        tracks: Tracks,
        fan_out: FanOutHandle,
        keyframe_request: KeyframeRequest,
        config: Config,
    ) -> Result<(Self, Receiver<TargetEvent>), Error> {
        let (messages, message_receiver) = sync_channel(MAX_QUEUED_MESSAGES);
        let (event_sender, events) = sync_channel(MAX_QUEUED_EVENTS);
        let close = config.close_timeout;
        let ca_file = config.ca_file.or_else(session::find_ca_file);
        let config = Config { ca_file, ..config };
        let waker = SharedWaker::default();
        let runner = Runner::new(event_sender, waker.clone(), close);
        let run = move || runner.run(&message_receiver);
        let thread = std::thread::Builder::new().name("pushes".into()).spawn(run).map_err(Error::Thread)?;
        let (next_id, statuses) = (AtomicU32::new(1), Mutex::default());
        Ok((
            Self {
                tracks,
                fan_out,
                keyframe_request,
                config,
                next_id,
                messages,
                statuses,
                waker,
                thread: Some(thread),
            },
            events,
        ))
    }

    /// Sets who is woken by each event.
    pub fn set_waker(&self, waker: Waker) {
        self.waker.set(waker);
    }

    /// Adds a target, which receives the stream from the next keyframe on.
    ///
    /// # Errors
    /// Any [`Error`]. A server that cannot be reached is an event, not an error.
    pub fn add(&self, push: Push) -> Result<Id, Error> {
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut active = statuses.iter().filter(|status| !status.is_finished());
        if active.clone().count() >= MAX_PUSHES {
            return Err(Error::TooMany);
        }
        if active.any(|status| status.url == push.url) {
            return Err(Error::Duplicate(push.url));
        }
        let id = Id(self.next_id.fetch_add(1, Ordering::Relaxed));
        let name = format!("push-{}", id.0);
        let subscription = Arc::new(self.fan_out.subscribe_paused(&name, QUEUE_LIMIT));
        let status = Arc::new(TargetStatus::new(id, push.url, Arc::clone(&subscription)));
        let deadline = Arc::new(IoDeadline::new());
        let (commands, command_receiver) = sync_channel(MAX_QUEUED_COMMANDS);
        let target = Target {
            id,
            tracks: self.tracks.clone(),
            config: self.config.clone(),
            subscription,
            keyframe_request: self.keyframe_request.clone(),
            deadline: Arc::clone(&deadline),
            status: Arc::clone(&status),
            messages: self.messages.clone(),
            last_dts: [MediaTime(i64::MIN); 2],
        };
        let run = move || target.run(&command_receiver);
        let thread = std::thread::Builder::new().name(name).spawn(run).map_err(Error::Thread)?;
        let machine = StateMachine::new(push.reconnect_timeout, RandomState::new().hash_one(id));
        let handle_status = Arc::clone(&status);
        let handle =
            TargetHandle { machine, commands, deadline, status: handle_status, thread, thread_ended: false };
        self.messages.send(Message::Add(id, Box::new(handle))).map_err(|_| Error::Ended)?;
        let oldest = statuses
            .iter()
            .position(|status| status.is_finished())
            .filter(|_| statuses.len() >= MAX_ENDED_TARGETS);
        if let Some(oldest) = oldest {
            statuses.remove(oldest);
        }
        statuses.push(status);
        Ok(id)
    }

    /// Ends a target; an event reports its end. False if there is no such target, or it has ended.
    #[must_use]
    pub fn remove(&self, id: Id) -> bool {
        let known = self.statuses().iter().any(|status| status.id == id && !status.finished);
        known && self.messages.send(Message::Remove(id)).is_ok()
    }

    /// Status of all targets, ended ones included, oldest first.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.iter().map(|status| status.snapshot()).collect()
    }

    /// Sends what is queued, ends all targets and returns their final status. Takes at most ten seconds,
    /// provided that all encoders have ended.
    #[must_use]
    pub fn finish(mut self) -> Vec<Status> {
        let _ended = self.messages.send(Message::Finish);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread pushes panicked");
        }
        self.statuses()
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        // After `finish` the thread has ended.
        let _ended = self.messages.try_send(Message::Finish);
    }
}
