//! State machine of the connection to one target, a push or a room: when to connect, to wait and to give up,
//! and which events to report. Sans-IO: callers hand in the time and inputs, and carry out the outputs.
//!
//! ```text
//!            Start          Connected           Failed         reconnect timeout         Closed
//!  idle ─────────▶ connecting ─────▶ running ─────────▶ recovering ─────────▶ failed ─────────▶ idle
//!                       │               ▲ │                 │  │                               ▲
//!                       │    Connected  └─┼─────────────────┘  │ Stop                          │
//!                       └─────────────────┴────────────────────┴─────▶ disconnecting ──────────┘
//! ```
//!
//! [`StateMachine::handle`] takes an input, [`StateMachine::poll`] returns the next output to carry out, and
//! [`StateMachine::deadline`] is the latest time to hand in [`Input::Timeout`].

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;
use crate::time::HostTime;

/// Longest delay before the second attempt; it doubles with each failure. Most losses are over within a
/// second.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Default of the longest delay between two attempts: a server that is back gets its stream within half a
/// minute.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Duration after which a connection counts as good, so that the delays start from the shortest again:
/// servers that accept and then reject a stream do so within a few seconds.
const BACKOFF_RESET_AFTER: Duration = Duration::from_secs(10);
/// Interval at which the lack of a connection is reported again, as the vendors' callbacks do.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Duration of these repeated reports; after it, only changes are reported.
const REPORT_WINDOW: Duration = Duration::from_secs(60);
/// Longest time a connection may take to close before it counts as closed. A server that does not answer must
/// not delay the end of the cast.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// State of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not started, or finished.
    Idle,
    /// Connecting for the first time.
    Connecting,
    /// Connected: the stream is being sent.
    Running,
    /// The connection was lost and is being restored.
    Recovering,
    /// Given up: the connection is being closed.
    Failed,
    /// Stopped: the connection is being closed.
    Disconnecting,
}

/// Input of the [`StateMachine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The target is to be connected.
    Start,
    /// The target accepted the stream.
    Connected,
    /// An attempt failed or the connection was lost, for this reason.
    Failed(String),
    /// The target refuses for good, or another publisher took it, for this reason.
    Refused(String),
    /// The target is to be disconnected, because it was removed or the stream ended.
    Stop,
    /// The connection is closed, after [`Output::Close`].
    Closed,
    /// Time has passed; see [`StateMachine::deadline`].
    Timeout,
}

/// Output of the [`StateMachine`] that the caller carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect, and answer with [`Input::Connected`], [`Input::Failed`] or [`Input::Refused`].
    Connect,
    /// Close the connection or abort the attempt, and answer with [`Input::Closed`].
    Close,
    /// Report an event of the target.
    Event(Event),
}

/// An event of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// State that the target is in.
    pub state: State,
    /// Last error, unless the target is running.
    pub error: Option<String>,
}

/// State machine of one target.
#[derive(Debug)]
pub struct StateMachine {
    reconnect_timeout: Option<Duration>,
    backoff: Backoff,
    state: State,
    is_finished: bool,
    /// When the current state was entered.
    state_since: HostTime,
    /// When the next attempt starts; `None` while one is under way.
    retry_at: Option<HostTime>,
    report_at: Option<HostTime>,
    error: Option<String>,
    outputs: VecDeque<Output>,
}

impl StateMachine {
    /// Creates the state machine of a target that is not started yet. The target fails for good after
    /// `reconnect_timeout` without a connection, or never; equal seeds give equal delays.
    #[must_use]
    pub fn new(reconnect_timeout: Option<Duration>, seed: u64) -> Self {
        Self {
            reconnect_timeout,
            backoff: Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF, seed),
            state: State::Idle,
            is_finished: false,
            state_since: HostTime(0),
            retry_at: None,
            report_at: None,
            error: None,
            outputs: VecDeque::new(),
        }
    }

    /// Limits the delay between two attempts.
    #[must_use]
    pub fn with_max_backoff(mut self, max: Duration) -> Self {
        self.backoff.set_max(max);
        self
    }

    /// State of the target.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the target has ended, so that no output follows.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Last error of the target.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Returns the next output to carry out, if any.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Latest time to hand in [`Input::Timeout`]; `None` if only another input can change anything.
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

    /// Processes an input at time `now`.
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
                    self.backoff.reset();
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

    /// Carries out whatever is due at `now`.
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
        self.reconnect_timeout.map(|timeout| self.state_since + timeout)
    }

    fn schedule_retry(&mut self, now: HostTime) {
        self.retry_at = Some(now + self.backoff.next_delay());
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

    /// Reports the state, and schedules its next report.
    fn emit_event(&mut self, now: HostTime) {
        let repeats = matches!(self.state, State::Connecting | State::Recovering);
        let next = now + REPORT_INTERVAL;
        self.report_at = (repeats && next.since(self.state_since) < REPORT_WINDOW).then_some(next);
        let error = self.error.clone();
        self.outputs.push_back(Output::Event(Event { state: self.state, error }));
    }
}

#[cfg(test)]
mod tests;
