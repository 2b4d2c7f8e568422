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
//! [`Machine::handle`] takes inputs, [`Machine::poll`] gives the outputs to carry out, [`Machine::deadline`] says when to hand
//! in [`Input::Time`] at the latest.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::HostTime;

/// Longest pause before the second attempt; it doubles with each one that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause of all, if nobody says otherwise. Half of a pause is fixed, half is drawn, so that many targets do not come back at
/// the same moment.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that lasted so long was a good one: the next attempt after it is as good as a first.
const GOOD: Duration = Duration::from_secs(10);
/// How often it is told again that there is no connection yet.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long that is told again; after that, only what changes is.
const TELL_FOR: Duration = Duration::from_secs(60);
/// How long a connection may take to close before it counts as closed.
const CLOSING: Duration = Duration::from_secs(3);

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
    /// Nothing is left of a connection, after [`Output::Close`].
    Closed,
    /// Nothing but that it is later.
    Time,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect, and answer with [`Input::Connected`] or [`Input::Failed`].
    Connect,
    /// End the connection, or the attempt at one, and answer with [`Input::Closed`].
    Close,
    /// Tell whoever wants to know.
    Tell(Event),
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
pub struct Machine {
    patience: Option<Duration>,
    longest_pause: Duration,
    seed: u64,
    state: State,
    over: bool,
    /// Since when it is in this state.
    since: HostTime,
    /// Attempts that failed since the last good connection.
    failures: u32,
    /// When the next attempt begins; `None` while one is under way.
    retry_at: Option<HostTime>,
    tell_at: Option<HostTime>,
    error: Option<String>,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A target that is not wanted yet. It is given up for good after `patience` without a connection, or never; equal seeds give
    /// equal pauses.
    #[must_use]
    pub fn new(patience: Option<Duration>, seed: u64) -> Self {
        Self {
            patience,
            longest_pause: LONGEST_PAUSE,
            seed,
            state: State::Idle,
            over: false,
            since: HostTime(0),
            failures: 0,
            retry_at: None,
            tell_at: None,
            error: None,
            outputs: VecDeque::new(),
        }
    }

    /// Waits no longer than this between two attempts.
    #[must_use]
    pub fn with_longest_pause(self, longest_pause: Duration) -> Self {
        Self { longest_pause, ..self }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether nothing will happen any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
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
            State::Failed | State::Disconnecting => Some(self.since + CLOSING),
            State::Connecting | State::Recovering => {
                [self.retry_at, self.tell_at, self.give_up_at()].into_iter().flatten().min()
            }
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: HostTime, input: Input) {
        match (self.state, input) {
            (State::Idle, Input::Start) if !self.over => {
                self.enter(now, State::Connecting);
                self.outputs.push_back(Output::Connect);
            }
            (State::Idle, Input::Stop) => self.over = true,
            (State::Connecting | State::Recovering, Input::Connected) if self.retry_at.is_none() => {
                self.error = None;
                self.enter(now, State::Running);
            }
            (State::Connecting | State::Recovering, Input::Failed(error)) if self.retry_at.is_none() => {
                self.error = Some(error);
                self.pause(now);
            }
            (State::Running, Input::Failed(error)) => {
                if now.since(self.since) >= GOOD {
                    self.failures = 0;
                }
                self.error = Some(error);
                self.enter(now, State::Recovering);
                self.pause(now);
            }
            (State::Connecting | State::Running | State::Recovering, Input::Refused(error)) => {
                self.error = Some(error);
                self.close(now, State::Failed);
            }
            (State::Connecting | State::Running | State::Recovering, Input::Stop) => {
                self.close(now, State::Disconnecting);
            }
            (State::Failed | State::Disconnecting, Input::Closed) => self.end(now),
            _ => {}
        }
        self.pass(now);
    }

    /// Does what is due at `now`.
    fn pass(&mut self, now: HostTime) {
        let due = |at: Option<HostTime>| at.is_some_and(|at| at <= now);
        match self.state {
            State::Connecting | State::Recovering if due(self.give_up_at()) => {
                self.close(now, State::Failed);
            }
            State::Connecting | State::Recovering => {
                if due(self.tell_at) {
                    self.tell(now);
                }
                if due(self.retry_at) {
                    self.retry_at = None;
                    self.outputs.push_back(Output::Connect);
                }
            }
            State::Failed | State::Disconnecting if due(Some(self.since + CLOSING)) => self.end(now),
            _ => {}
        }
    }

    fn give_up_at(&self) -> Option<HostTime> {
        self.patience.map(|patience| self.since + patience)
    }

    /// Waits before the next attempt.
    fn pause(&mut self, now: HostTime) {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(self.longest_pause);
        self.seed = mix(self.seed);
        let drawn = (longest / 2).mul_f64(f64::from((self.seed >> 32) as u32) / f64::from(u32::MAX));
        self.failures += 1;
        self.retry_at = Some(now + longest / 2 + drawn);
    }

    fn close(&mut self, now: HostTime, state: State) {
        self.retry_at = None;
        self.enter(now, state);
        self.outputs.push_back(Output::Close);
    }

    fn end(&mut self, now: HostTime) {
        self.over = true;
        self.enter(now, State::Idle);
    }

    fn enter(&mut self, now: HostTime, state: State) {
        (self.state, self.since) = (state, now);
        self.tell(now);
    }

    /// Tells the state, and when to tell it again.
    fn tell(&mut self, now: HostTime) {
        let again = matches!(self.state, State::Connecting | State::Recovering);
        let next = now + TELL_EVERY;
        self.tell_at = (again && next.since(self.since) < TELL_FOR).then_some(next);
        let error = self.error.clone();
        self.outputs.push_back(Output::Tell(Event { state: self.state, error }));
    }
}

/// The next of a sequence of numbers without a pattern (splitmix64).
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
