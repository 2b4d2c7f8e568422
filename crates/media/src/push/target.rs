//! One target: its thread `push-N`, which does as it is told by `pushes` and tells it what happened.

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

/// How often a thread without packets looks whether it shall end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a server must keep a connection to have taken the stream: many say yes and look at the key
/// afterwards.
const MIN_ACCEPTED_DURATION: Duration = Duration::from_millis(500);

/// What to do next.
#[derive(Debug)]
pub(super) enum Command {
    Connect,
    Close,
}

/// What is known of a target from outside.
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
    /// None once it is over.
    subscription: Option<Arc<Subscription>>,
    lost: u64,
    finished: bool,
}

impl TargetStatus {
    pub(super) fn new(id: Id, url: PushUrl, tap: Arc<Subscription>) -> Self {
        let count = AtomicU64::default;
        let latest = LatestState {
            state: State::Idle,
            error: None,
            interruption: None,
            subscription: Some(tap),
            lost: 0,
            finished: false,
        };
        Self { id, url, bytes: count(), packets: count(), connections: count(), latest: Mutex::new(latest) }
    }

    pub(super) fn on_event(&self, event: &Event) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // That it was given up is worth more than that it rests.
        if (latest.state, event.state) != (State::Failed, State::Idle) {
            latest.state = event.state;
        }
        // Once the stream runs again, nothing is wrong with it any more.
        latest.error.clone_from(&event.error);
        if event.state == State::Recovering {
            latest.interruption.clone_from(&event.error);
        }
        if event.state == State::Idle
            && let Some(tap) = latest.subscription.take()
        {
            (latest.lost, latest.finished) = (tap.lost(), true);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).finished
    }

    pub(super) fn snapshot(&self) -> Status {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = latest.subscription.as_ref().map(|tap| tap.stats()).unwrap_or_default();
        Status {
            id: self.id,
            url: self.url.clone(),
            state: latest.state,
            finished: latest.finished,
            error: latest.error.clone(),
            interruption: latest.interruption.clone(),
            bytes: self.bytes.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            lost: latest.lost.max(tally.lost),
            reconnects: self.connections.load(Ordering::Relaxed).saturating_sub(1),
            queue_delay: tally.delay,
            queued_bytes: tally.bytes,
        }
    }
}

/// What the thread of a target works with.
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
    /// Times of the last video and audio packet that were sent: none goes back, over all connections.
    pub(super) last_dts: [MediaTime; 2],
}

impl Target {
    /// Carries out commands until it is to close.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let log = LogCapture::start();
        while let Ok(Command::Connect) = commands.recv() {
            log.clear();
            match self.connect_and_send(&log) {
                // Nothing comes any more, or it was stopped: in both cases it will be told to close.
                Ok(()) => {}
                Err(error) => {
                    self.subscription.pause();
                    self.send_input(Input::Failed(error));
                }
            }
        }
        self.send_input(Input::Closed);
    }

    /// Connects and sends until there is nothing more to send, or it shall stop, or the connection is lost.
    fn connect_and_send(&mut self, log: &LogCapture) -> Result<(), String> {
        let watch = Arc::clone(&self.deadline);
        let mut session = self.connect(log)?;
        self.subscription.restart();
        self.keyframe_request.request();
        log.clear();
        let mut stage = Stage::Connecting;
        let mut first = None;
        while !watch.is_stopped() {
            match self.subscription.recv_timeout(POLL_INTERVAL) {
                Received::Packet(packet) => {
                    watch.begin_operation(self.config.write_timeout);
                    self.send_packet(&mut session, &packet).map_err(|error| {
                        describe_error(&self.status.url, stage, error, watch.is_expired(), log)
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
        watch.begin_operation(self.config.close_timeout);
        if session.finish().is_err() {
            tracing::debug!(id = self.id.0, "the end of the stream was not sent");
        }
        Ok(())
    }

    /// Connects to the first of its addresses that can be; each has its part of the time.
    fn connect(&self, log: &LogCapture) -> Result<Session, String> {
        let (url, config, watch) = (&self.status.url, &self.config, &self.deadline);
        let mut ways = connect_addresses(url, config.network.as_ref(), config.resolver)
            .map_err(|closed| closed.to_string())?
            .into_iter();
        let until = Instant::now() + config.connect_timeout;
        let mut why = String::new();
        while let Some(way) = ways.next() {
            let left = u32::try_from(ways.len() + 1).unwrap_or(u32::MAX);
            watch.begin_connecting(until.saturating_duration_since(Instant::now()) / left);
            log.clear();
            match Session::open(url, way, &self.tracks, config.ca_file.as_deref(), Arc::clone(watch)) {
                Ok(session) => return Ok(session),
                Err(error) => {
                    let late = watch.is_expired();
                    why = describe_error(url, Stage::Connecting, error, late, log);
                    if watch.is_stopped() || !(late || should_try_next_address(url, error)) {
                        break;
                    }
                }
            }
        }
        Err(why)
    }

    fn report_connected(&self) {
        self.status.connections.fetch_add(1, Ordering::Relaxed);
        self.send_input(Input::Connected);
    }

    fn send_packet(&mut self, session: &mut Session, packet: &Packet) -> Result<(), ffmpeg_the_third::Error> {
        let last = &mut self.last_dts[usize::from(packet.track == Track::Audio)];
        // The priming of the sound lies before the beginning, where these containers have no time.
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
        // Nobody listens if the cast is over.
        let _gone = self.messages.send(Message::Input(self.id, input));
    }
}
