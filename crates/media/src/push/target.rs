//! The thread `push-N` of one target: carries out commands of the thread `pushes` and reports back to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pagecast_core::connection::{Event, Input, State};
use pagecast_core::spec::PushUrl;
use pagecast_core::{MediaTime, Packet, Track};

use super::deadline::IoDeadline;
use super::error_text::{LogCapture, Stage, describe_error, should_try_next_address};
use super::resolve::connect_addresses;
use super::runner::Message;
use super::session::Session;
use super::{Config, Id, Status};
use crate::encode::KeyframeRequest;
use crate::encode::Tracks;
use crate::fanout::{Received, Subscription};

/// How often a thread without packets checks for a stop.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection must last to count as accepted: many servers accept first and check the key
/// afterwards.
const MIN_ACCEPTED_DURATION: Duration = Duration::from_millis(500);

/// A command to a target's thread.
#[derive(Debug)]
pub(super) enum Command {
    Connect,
    Close,
}

/// Status and counters of a target, shared with its thread.
#[derive(Debug)]
pub(super) struct TargetStatus {
    id: Id,
    pub(super) url: PushUrl,
    bytes: AtomicU64,
    packets: AtomicU64,
    connections: AtomicU64,
    latest: Mutex<LatestState>,
}

#[derive(Debug)]
struct LatestState {
    state: State,
    error: Option<String>,
    interruption: Option<String>,
    /// `None` once the target has ended.
    subscription: Option<Arc<Subscription>>,
    lost: u64,
    finished: bool,
}

impl TargetStatus {
    pub(super) fn new(id: Id, url: PushUrl, subscription: Arc<Subscription>) -> Self {
        let count = AtomicU64::default;
        let latest = LatestState {
            state: State::Idle,
            error: None,
            interruption: None,
            subscription: Some(subscription),
            lost: 0,
            finished: false,
        };
        Self { id, url, bytes: count(), packets: count(), connections: count(), latest: Mutex::new(latest) }
    }

    pub(super) fn on_event(&self, event: &Event) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // After a failure the final state `Idle` must not hide `Failed`.
        if (latest.state, event.state) != (State::Failed, State::Idle) {
            latest.state = event.state;
        }
        // An event without an error clears the error: the stream runs again.
        latest.error.clone_from(&event.error);
        if event.state == State::Recovering {
            latest.interruption.clone_from(&event.error);
        }
        if event.state == State::Idle
            && let Some(subscription) = latest.subscription.take()
        {
            (latest.lost, latest.finished) = (subscription.lost(), true);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).finished
    }

    pub(super) fn snapshot(&self) -> Status {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = latest.subscription.as_ref().map(|subscription| subscription.stats()).unwrap_or_default();
        Status {
            id: self.id,
            url: self.url.clone(),
            state: latest.state,
            finished: latest.finished,
            error: latest.error.clone(),
            interruption: latest.interruption.clone(),
            bytes: self.bytes.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            lost: latest.lost.max(queue.lost),
            reconnects: self.connections.load(Ordering::Relaxed).saturating_sub(1),
            queue_delay: queue.delay,
            queued_bytes: queue.bytes,
        }
    }
}

/// State of a target's thread.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) id: Id,
    pub(super) tracks: Tracks,
    pub(super) config: Config,
    pub(super) subscription: Arc<Subscription>,
    pub(super) keyframe_request: KeyframeRequest,
    pub(super) deadline: Arc<IoDeadline>,
    pub(super) status: Arc<TargetStatus>,
    pub(super) messages: SyncSender<Message>,
    /// Time stamps of the last video and audio packets sent: they never go back, across all connections.
    pub(super) last_dts: [MediaTime; 2],
}

impl Target {
    /// Carries out commands connect_by `Close`.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let log = LogCapture::start();
        while let Ok(Command::Connect) = commands.recv() {
            log.clear();
            match self.connect_and_send(&log) {
                // The stream ended or was stopped; a `Close` command follows.
                Ok(()) => {}
                Err(error) => {
                    self.subscription.pause();
                    self.send_input(Input::Failed(error));
                }
            }
        }
        self.send_input(Input::Closed);
    }

    /// Connects and sends connect_by the stream ends, a stop is requested, or the connection is lost.
    fn connect_and_send(&mut self, log: &LogCapture) -> Result<(), String> {
        let deadline = Arc::clone(&self.deadline);
        let mut session = self.connect(log)?;
        self.subscription.restart();
        self.keyframe_request.request();
        log.clear();
        let mut stage = Stage::Connecting;
        let mut first = None;
        while !deadline.is_stopped() {
            match self.subscription.recv_timeout(POLL_INTERVAL) {
                Received::Packet(packet) => {
                    deadline.begin_operation(self.config.write_timeout);
                    self.send_packet(&mut session, &packet).map_err(|error| {
                        describe_error(&self.status.url, stage, error, deadline.is_expired(), log)
                    })?;
                    let first: &Instant = first.get_or_insert_with(Instant::now);
                    if stage == Stage::Connecting && first.elapsed() >= MIN_ACCEPTED_DURATION {
                        stage = Stage::Running;
                        self.report_connected();
                    }
                }
                Received::Empty => {}
                Received::Closed => {
                    if stage == Stage::Connecting {
                        self.report_connected();
                    }
                    self.send_input(Input::Stop);
                    break;
                }
            }
        }
        deadline.begin_operation(self.config.close_timeout);
        if session.finish().is_err() {
            tracing::debug!(push = self.id.0, "end of stream not sent");
        }
        Ok(())
    }

    /// Connects to the first address that accepts; the addresses share the connect timeout.
    fn connect(&self, log: &LogCapture) -> Result<Session, String> {
        let (url, config, deadline) = (&self.status.url, &self.config, &self.deadline);
        let mut addresses = connect_addresses(url, config.network.as_ref(), config.resolver)
            .map_err(|refused| refused.to_string())?
            .into_iter();
        let connect_by = Instant::now() + config.connect_timeout;
        let mut message = String::new();
        while let Some(address) = addresses.next() {
            let left = u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
            deadline.begin_connecting(connect_by.saturating_duration_since(Instant::now()) / left);
            log.clear();
            match Session::open(url, address, &self.tracks, config.ca_file.as_deref(), Arc::clone(deadline)) {
                Ok(session) => return Ok(session),
                Err(error) => {
                    let late = deadline.is_expired();
                    message = describe_error(url, Stage::Connecting, error, late, log);
                    if deadline.is_stopped() || !(late || should_try_next_address(url, error)) {
                        break;
                    }
                }
            }
        }
        Err(message)
    }

    fn report_connected(&self) {
        self.status.connections.fetch_add(1, Ordering::Relaxed);
        self.send_input(Input::Connected);
    }

    fn send_packet(&mut self, session: &mut Session, packet: &Packet) -> Result<(), ffmpeg_the_third::Error> {
        let last = &mut self.last_dts[usize::from(packet.track == Track::Audio)];
        // Audio priming lies before zero, where these containers have no time stamps.
        if packet.dts <= *last || packet.dts < MediaTime::ZERO {
            return Ok(());
        }
        *last = packet.dts;
        session.write_packet(packet)?;
        self.status.packets.fetch_add(1, Ordering::Relaxed);
        self.status.bytes.fetch_add(packet.data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn send_input(&self, input: Input) {
        // The thread `pushes` is gone if the cast has ended.
        let _gone = self.messages.send(Message::Input(self.id, input));
    }
}
