//! One target: its thread `push-N`, which does as it is told by `pushes` and tells it what happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pagecast_core::push::{Event, Input, State};
use pagecast_core::spec::PushUrl;
use pagecast_core::{MediaTime, Packet, Track};

use super::reach::ways;
use super::runner::Message;
use super::session::Session;
use super::watch::Watch;
use super::words::{Log, Stage, explain, is_elsewhere};
use super::{Config, Id, Status};
use crate::encode::Keyframes;
use crate::encode::Tracks;
use crate::fanout::{Next, Tap};

/// How often a thread without packets looks whether it shall end.
const LOOK_UP: Duration = Duration::from_millis(100);

/// How long a server must keep a connection to have taken the stream: many say yes and look at the key
/// afterwards.
const SETTLED: Duration = Duration::from_millis(500);

/// What to do next.
#[derive(Debug)]
pub(super) enum Command {
    Connect,
    Close,
}

/// What is known of a target from outside.
#[derive(Debug)]
pub(super) struct Gauge {
    id: Id,
    pub(super) url: PushUrl,
    bytes: AtomicU64,
    packets: AtomicU64,
    connections: AtomicU64,
    latest: Mutex<Latest>,
}

#[derive(Debug)]
struct Latest {
    state: State,
    error: Option<String>,
    interruption: Option<String>,
    /// None once it is over.
    tap: Option<Arc<Tap>>,
    lost: u64,
    over: bool,
}

impl Gauge {
    pub(super) fn new(id: Id, url: PushUrl, tap: Arc<Tap>) -> Self {
        let count = AtomicU64::default;
        let latest = Latest {
            state: State::Idle,
            error: None,
            interruption: None,
            tap: Some(tap),
            lost: 0,
            over: false,
        };
        Self { id, url, bytes: count(), packets: count(), connections: count(), latest: Mutex::new(latest) }
    }

    pub(super) fn set(&self, event: &Event) {
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
            && let Some(tap) = latest.tap.take()
        {
            (latest.lost, latest.over) = (tap.lost(), true);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).over
    }

    pub(super) fn status(&self) -> Status {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = latest.tap.as_ref().map(|tap| tap.tally()).unwrap_or_default();
        Status {
            id: self.id,
            url: self.url.clone(),
            state: latest.state,
            over: latest.over,
            error: latest.error.clone(),
            interruption: latest.interruption.clone(),
            bytes: self.bytes.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            lost: latest.lost.max(tally.lost),
            reconnects: self.connections.load(Ordering::Relaxed).saturating_sub(1),
            delay: tally.delay,
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
    pub(super) tap: Arc<Tap>,
    pub(super) keyframes: Keyframes,
    pub(super) watch: Arc<Watch>,
    pub(super) gauge: Arc<Gauge>,
    pub(super) heard: SyncSender<Message>,
    /// Times of the last video and audio packet that were sent: none goes back, over all connections.
    pub(super) last: [MediaTime; 2],
}

impl Target {
    /// Carries out commands until it is to close.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let log = Log::listen();
        while let Ok(Command::Connect) = commands.recv() {
            log.begin();
            match self.attempt(&log) {
                // Nothing comes any more, or it was stopped: in both cases it will be told to close.
                Ok(()) => {}
                Err(error) => {
                    self.tap.pause();
                    self.tell(Input::Failed(error));
                }
            }
        }
        self.tell(Input::Closed);
    }

    /// Connects and sends until there is nothing more to send, or it shall stop, or the connection is lost.
    fn attempt(&mut self, log: &Log) -> Result<(), String> {
        let watch = Arc::clone(&self.watch);
        let mut session = self.connect(log)?;
        self.tap.restart();
        self.keyframes.request();
        log.begin();
        let mut stage = Stage::Connecting;
        let mut first = None;
        while !watch.is_stopped() {
            match self.tap.recv_timeout(LOOK_UP) {
                Next::Packet(packet) => {
                    watch.connected(self.config.write);
                    self.send(&mut session, &packet)
                        .map_err(|error| explain(&self.gauge.url, stage, error, watch.is_late(), log))?;
                    let first: &Instant = first.get_or_insert_with(Instant::now);
                    if stage == Stage::Connecting && first.elapsed() >= SETTLED {
                        stage = Stage::Running;
                        self.connected();
                    }
                }
                Next::Nothing => {}
                Next::End => {
                    if stage == Stage::Connecting {
                        self.connected();
                    }
                    self.tell(Input::Stop);
                    break;
                }
            }
        }
        watch.connected(self.config.close);
        if session.end().is_err() {
            tracing::debug!(id = self.id.0, "the end of the stream was not sent");
        }
        Ok(())
    }

    /// Connects to the first of its addresses that can be; each has its part of the time.
    fn connect(&self, log: &Log) -> Result<Session, String> {
        let (url, config, watch) = (&self.gauge.url, &self.config, &self.watch);
        let mut ways = ways(url, config.network.as_ref(), config.resolve)
            .map_err(|closed| closed.to_string())?
            .into_iter();
        let until = Instant::now() + config.connect;
        let mut why = String::new();
        while let Some(way) = ways.next() {
            let left = u32::try_from(ways.len() + 1).unwrap_or(u32::MAX);
            watch.connecting(until.saturating_duration_since(Instant::now()) / left);
            log.begin();
            match Session::open(url, way, &self.tracks, config.trusted.as_deref(), Arc::clone(watch)) {
                Ok(session) => return Ok(session),
                Err(error) => {
                    let late = watch.is_late();
                    why = explain(url, Stage::Connecting, error, late, log);
                    if watch.is_stopped() || !(late || is_elsewhere(url, error)) {
                        break;
                    }
                }
            }
        }
        Err(why)
    }

    fn connected(&self) {
        self.gauge.connections.fetch_add(1, Ordering::Relaxed);
        self.tell(Input::Connected);
    }

    fn send(&mut self, session: &mut Session, packet: &Packet) -> Result<(), ffmpeg_the_third::Error> {
        let last = &mut self.last[usize::from(packet.track == Track::Audio)];
        // The priming of the sound lies before the beginning, where these containers have no time.
        if packet.dts <= *last || packet.dts < MediaTime::ZERO {
            return Ok(());
        }
        *last = packet.dts;
        session.write(packet)?;
        self.gauge.packets.fetch_add(1, Ordering::Relaxed);
        self.gauge.bytes.fetch_add(packet.data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn tell(&self, input: Input) {
        // Nobody listens if the cast is over.
        let _gone = self.heard.send(Message::Heard(self.id, input));
    }
}
