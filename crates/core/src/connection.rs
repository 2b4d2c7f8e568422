//! One target, a push or a room: when to connect, when to wait, when to give up, and what to tell. Sans-IO: told the time and what happened,
//! it says what to do.
//!
//! ```text
//!            Start          Connected           Failed           patience over           Closed
//!  idle ─────────▶ connecting ─────▶ running ─────────▶ recovering ─────────▶ failed ─────────▶ idle
//!                       │               ▲ │                 │  │                               ▲
//!                       │    Connected  └─┼─────────────────┘  │ Stop                          │
//!                       └─────────────────┴────────────────────┴─────▶ disconnecting ──────────┘
//! ```
//!
//! [`StateMachine::handle`] takes inputs, [`StateMachine::poll`] gives the outputs to carry out, [`StateMachine::deadline`] says when to hand
//! in [`Input::Timeout`] at the latest.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::HostTime;

/// Longest pause before the second attempt; it doubles with each one that fails.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause of all, if nobody says otherwise. Half of a pause is fixed, half is drawn, so that many targets do not come back at
/// the same moment.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A connection that lasted so long was a good one: the next attempt after it is as good as a first.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(10);
/// How often it is told again that there is no connection yet.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long that is told again; after that, only what changes is.
const REPORT_WINDOW: Duration = Duration::from_secs(60);
/// How long a connection may take to close before it counts as closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not begun, or over.
    Idle,
    /// There was no connection yet.
    Connecting,
    /// The stream arrives.
    Running,
    /// The connection was lost.
    Recovering,
    /// Given up.
    Failed,
    /// The connection is being closed.
    Disconnecting,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The target is wanted.
    Start,
    /// The target takes the stream.
    Connected,
    /// An attempt failed, or the connection is lost, and why.
    Failed(String),
    /// The target refuses and always will, or is taken by another, and why.
    Refused(String),
    /// The target is not wanted any more, or there is nothing more to send.
    Stop,
    /// Nothing is left of a connection, after [`OutputOptions::Close`].
    Closed,
    /// Nothing but that it is later.
    Timeout,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect, and answer with [`Input::Connected`] or [`Input::FailureInfo`].
    Connect,
    /// End the connection, or the attempt at one, and answer with [`Input::ResolveError`].
    Close,
    /// Tell whoever wants to know.
    Event(Event),
}

/// News of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Where it stands.
    pub state: State,
    /// What went wrong last, if it does not run for that reason.
    pub error: Option<String>,
}

/// One target.
#[derive(Debug)]
pub struct StateMachine {
    reconnect_timeout: Option<Duration>,
    max_backoff: Duration,
    seed: u64,
    state: State,
    is_finished: bool,
    /// Since when it is in this state.
    state_since: HostTime,
    /// Attempts that failed since the last good connection.
    failures: u32,
    /// When the next attempt begins; `None` while one is under way.
    retry_at: Option<HostTime>,
    report_at: Option<HostTime>,
    error: Option<String>,
    outputs: VecDeque<Output>,
}

impl StateMachine {
    /// A target that is not wanted yet. It is given up for good after `patience` without a connection, or never; equal seeds give
    /// equal pauses.
    #[must_use]
    pub fn new(patience: Option<Duration>, seed: u64) -> Self {
        Self {
            reconnect_timeout: patience,
            max_backoff: MAX_BACKOFF,
            seed,
            state: State::Idle,
            is_finished: false,
            state_since: HostTime(0),
            failures: 0,
            retry_at: None,
            report_at: None,
            error: None,
            outputs: VecDeque::new(),
        }
    }

    /// Waits no longer than this between two attempts.
    #[must_use]
    pub fn with_max_backoff(self, longest_pause: Duration) -> Self {
        Self { max_backoff: longest_pause, ..self }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether nothing will happen any more.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// What went wrong last.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back at the latest; `None` if only an input can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<HostTime> {
        match self.state {
            State::Idle | State::Running => None,
            State::Failed | State::Disconnecting => Some(self.state_since + CLOSE_TIMEOUT),
            State::Connecting | State::Recovering => {
                [self.retry_at, self.report_at, self.give_up_at()].into_iter().flatten().min()
            }
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: HostTime, input: Input) {
        match (self.state, input) {
            (State::Idle, Input::Start) if !self.is_finished => {
                self.enter_state(now, State::Connecting);
                self.outputs.push_back(Output::Connect);
            }
            (State::Idle, Input::Stop) => self.is_finished = true,
            (State::Connecting | State::Recovering, Input::Connected) if self.retry_at.is_none() => {
                self.error = None;
                self.enter_state(now, State::Running);
            }
            (State::Connecting | State::Recovering, Input::Failed(error)) if self.retry_at.is_none() => {
                self.error = Some(error);
                self.schedule_retry(now);
            }
            (State::Running, Input::Failed(error)) => {
                if now.since(self.state_since) >= BACKOFF_RESET_AFTER {
                    self.failures = 0;
                }
                self.error = Some(error);
                self.enter_state(now, State::Recovering);
                self.schedule_retry(now);
            }
            (State::Connecting | State::Running | State::Recovering, Input::Refused(error)) => {
                self.error = Some(error);
                self.close(now, State::Failed);
            }
            (State::Connecting | State::Running | State::Recovering, Input::Stop) => {
                self.close(now, State::Disconnecting);
            }
            (State::Failed | State::Disconnecting, Input::Closed) => self.finish(now),
            _ => {}
        }
        self.handle_timeout(now);
    }

    /// Does what is due at `now`.
    fn handle_timeout(&mut self, now: HostTime) {
        let due = |at: Option<HostTime>| at.is_some_and(|at| at <= now);
        match self.state {
            State::Connecting | State::Recovering if due(self.give_up_at()) => {
                self.close(now, State::Failed);
            }
            State::Connecting | State::Recovering => {
                if due(self.report_at) {
                    self.emit_event(now);
                }
                if due(self.retry_at) {
                    self.retry_at = None;
                    self.outputs.push_back(Output::Connect);
                }
            }
            State::Failed | State::Disconnecting if due(Some(self.state_since + CLOSE_TIMEOUT)) => {
                self.finish(now);
            }
            _ => {}
        }
    }

    fn give_up_at(&self) -> Option<HostTime> {
        self.reconnect_timeout.map(|patience| self.state_since + patience)
    }

    /// Waits before the next attempt.
    fn schedule_retry(&mut self, now: HostTime) {
        let longest = INITIAL_BACKOFF.saturating_mul(1 << self.failures.min(16)).min(self.max_backoff);
        self.seed = splitmix64(self.seed);
        let drawn = (longest / 2).mul_f64(f64::from((self.seed >> 32) as u32) / f64::from(u32::MAX));
        self.failures += 1;
        self.retry_at = Some(now + longest / 2 + drawn);
    }

    fn close(&mut self, now: HostTime, state: State) {
        self.retry_at = None;
        self.enter_state(now, state);
        self.outputs.push_back(Output::Close);
    }

    fn finish(&mut self, now: HostTime) {
        self.is_finished = true;
        self.enter_state(now, State::Idle);
    }

    fn enter_state(&mut self, now: HostTime, state: State) {
        (self.state, self.state_since) = (state, now);
        self.emit_event(now);
    }

    /// Tells the state, and when to tell it again.
    fn emit_event(&mut self, now: HostTime) {
        let again = matches!(self.state, State::Connecting | State::Recovering);
        let next = now + REPORT_INTERVAL;
        self.report_at = (again && next.since(self.state_since) < REPORT_WINDOW).then_some(next);
        let error = self.error.clone();
        self.outputs.push_back(Output::Event(Event { state: self.state, error }));
    }
}

/// The next of a sequence of numbers without a pattern (splitmix64).
fn splitmix64(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
