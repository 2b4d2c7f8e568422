//! The stream sent to servers, over RTMP, RTMPS and SRT, while a cast runs.
//!
//! The thread `pushes` holds a [`StateMachine`] for each target and decides; a thread `push-N` for each target
//! connects and sends, and may block as long as its watch lets it. Targets come and go at any time, and know
//! nothing of each other.

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
use std::thread::JoinHandle;
use std::time::Duration;

use pagecast_core::MediaTime;
use pagecast_core::connection::{Event, State, StateMachine};
use pagecast_core::spec::{MAX_PUSHES, NetworkPolicy, Push, PushUrl};

use crate::encode::{KeyframeRequest, Tracks};
use crate::fanout::{FanOutHandle, QueueLimit};
use deadline::IoDeadline;
pub use resolve::{Resolver, system_resolver};
use runner::{Message, Runner, TargetHandle};
use target::{Target, TargetStatus};

/// What a target may be behind. Full: it loses everything up to the next keyframe.
const QUEUE_LIMIT: QueueLimit = QueueLimit { bytes: 16 * 1024 * 1024, duration: Duration::from_secs(8) };
/// News that nobody took yet. Full: what is new is lost; [`PushCosts::statuses`] knows it all the same.
const MAX_QUEUED_EVENTS: usize = 256;
/// What the thread `pushes` has not heard yet. Full: who has something to say waits; the thread itself waits
/// for nobody.
const MAX_QUEUED_MESSAGES: usize = 64;
/// Commands to one target: at most one of each is under way.
const MAX_QUEUED_COMMANDS: usize = 2;
/// Targets that are over and still known. Full: the oldest is forgotten.
const MAX_ENDED_TARGETS: usize = 50;

/// Why a target cannot be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are [`MAX_PUSHES`] already.
    #[error("cannot push to more than {MAX_PUSHES} servers at a time")]
    TooMany,
    /// It is a target already.
    #[error("the stream is sent to {0} already")]
    Duplicate(PushUrl),
    /// The cast is over.
    #[error("the stream is over")]
    Ended,
    /// A thread cannot be started.
    #[error("cannot start a thread for a push")]
    Thread(#[source] std::io::Error),
}

/// What all targets have in common.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a target may take to accept the stream.
    pub connect_timeout: Duration,
    /// How long it may take for one packet.
    pub write_timeout: Duration,
    /// How long it may take for the end.
    pub close_timeout: Duration,
    /// A file of certificates: who is trusted to vouch for an RTMPS server. `None`: `SSL_CERT_FILE`, or those
    /// the system trusts.
    pub ca_file: Option<PathBuf>,
    /// What targets may lead to: their names are looked up and judged before each connection. `None`:
    /// anywhere.
    pub network: Option<NetworkPolicy>,
    /// How names are looked up for that.
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

/// Names a target within its cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u32);

/// What happened to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetEvent {
    /// Which.
    pub id: Id,
    /// Its address.
    pub url: PushUrl,
    /// Where it stands now.
    pub event: Event,
}

/// How a target is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Which.
    pub id: Id,
    /// Its address.
    pub url: PushUrl,
    /// Where it stands.
    pub state: State,
    /// Whether that is for good.
    pub finished: bool,
    /// Why it does not run, or was given up; `None` while it runs, and once it ended as it should.
    pub error: Option<String>,
    /// Why the connection was lost last, if it ever was.
    pub interruption: Option<String>,
    /// Encoded bytes sent, without what containers and protocols add.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets it did not get since its first one, because it was too slow or not there.
    pub lost: u64,
    /// Connections after the first one.
    pub reconnects: u64,
    /// Length of the stream that is queued for it.
    pub queue_delay: Duration,
    /// Bytes that are queued for it, with a little for each packet.
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
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
}

impl Pushes {
    /// Starts without a target. The receiver gets the news of all targets, in order.
    ///
    /// # Errors
    /// [`ErrorBody::NamedThread`].
    pub fn start(
        tracks: Tracks,
        taps: FanOutHandle,
        keyframes: KeyframeRequest,
        config: Config,
    ) -> Result<(Self, Receiver<TargetEvent>), Error> {
        let (messages, heard) = sync_channel(MAX_QUEUED_MESSAGES);
        let (news, told) = sync_channel(MAX_QUEUED_EVENTS);
        let close = config.close_timeout;
        let trusted = config.ca_file.or_else(session::find_ca_file);
        let config = Config { ca_file: trusted, ..config };
        let run = move || Runner::new(news, close).run(&heard);
        let thread = std::thread::Builder::new().name("pushes".into()).spawn(run).map_err(Error::Thread)?;
        let (next, gauges) = (AtomicU32::new(1), Mutex::default());
        Ok((
            Self {
                tracks,
                fan_out: taps,
                keyframe_request: keyframes,
                config,
                next_id: next,
                messages,
                statuses: gauges,
                thread: Some(thread),
            },
            told,
        ))
    }

    /// Sends the stream there too, from the next keyframe on.
    ///
    /// # Errors
    /// Any [`ErrorBody`]. That the server cannot be reached is none, but news.
    pub fn add(&self, push: Push) -> Result<Id, Error> {
        let mut gauges = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut active = gauges.iter().filter(|gauge| !gauge.is_finished());
        if active.clone().count() >= MAX_PUSHES {
            return Err(Error::TooMany);
        }
        if active.any(|gauge| gauge.url == push.url) {
            return Err(Error::Duplicate(push.url));
        }
        let id = Id(self.next_id.fetch_add(1, Ordering::Relaxed));
        let name = format!("push-{}", id.0);
        let tap = Arc::new(self.fan_out.subscribe_paused(&name, QUEUE_LIMIT));
        let gauge = Arc::new(TargetStatus::new(id, push.url, Arc::clone(&tap)));
        let watch = Arc::new(IoDeadline::new());
        let (commands, orders) = sync_channel(MAX_QUEUED_COMMANDS);
        let target = Target {
            id,
            tracks: self.tracks.clone(),
            config: self.config.clone(),
            subscription: tap,
            keyframe_request: self.keyframe_request.clone(),
            deadline: Arc::clone(&watch),
            status: Arc::clone(&gauge),
            messages: self.messages.clone(),
            last_dts: [MediaTime(i64::MIN); 2],
        };
        let run = move || target.run(&orders);
        let thread = std::thread::Builder::new().name(name).spawn(run).map_err(Error::Thread)?;
        let machine = StateMachine::new(push.reconnect_timeout, RandomState::new().hash_one(id));
        let gauge_here = Arc::clone(&gauge);
        let running = TargetHandle {
            machine,
            commands,
            deadline: watch,
            status: gauge_here,
            thread,
            thread_ended: false,
        };
        self.messages.send(Message::Add(id, Box::new(running))).map_err(|_| Error::Ended)?;
        let oldest =
            gauges.iter().position(|gauge| gauge.is_finished()).filter(|_| gauges.len() >= MAX_ENDED_TARGETS);
        if let Some(oldest) = oldest {
            gauges.remove(oldest);
        }
        gauges.push(gauge);
        Ok(id)
    }

    /// Ends a target; news tell when it has. False if there is no such target, or it is over.
    #[must_use]
    pub fn remove(&self, id: Id) -> bool {
        let known = self.statuses().iter().any(|status| status.id == id && !status.finished);
        known && self.messages.send(Message::Remove(id)).is_ok()
    }

    /// How all targets are doing, those that are over too, oldest first.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        let gauges = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.iter().map(|gauge| gauge.snapshot()).collect()
    }

    /// Ends all targets, once each has what is queued for it, and says how they did. Takes ten seconds at
    /// most, provided that the stream is over: no encoder sends packets any more.
    #[must_use]
    pub fn finish(mut self) -> Vec<Status> {
        let _over = self.messages.send(Message::Finish);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread pushes panicked");
        }
        self.statuses()
    }
}

impl Drop for Pushes {
    fn drop(&mut self) {
        // After `finish` nobody hears it.
        let _over = self.messages.try_send(Message::Finish);
    }
}
