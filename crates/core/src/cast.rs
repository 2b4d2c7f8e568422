//! The life of a cast: queued → starting → waiting → live → stopping → ended. Sans-IO: told the time and what
//! happened, it says what to do.
//!
//! ```text
//!             Start         Opened          Ready          (stop, end, limits)       Drained
//!  queued ─────────▶ starting ─────▶ waiting ─────▶ live ─────────────────▶ stopping ─────▶ ended
//!                       ▲               │            │
//!                       └── reload, move┴────────────┘
//! ```
//!
//! [`StateMachine::handle`] takes inputs, [`StateMachine::poll`] gives the outputs to carry out, [`StateMachine::deadline`]
//! says when to hand in [`Input::Timeout`] at the latest.

mod escalation;
mod load_error;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{CastSpec, HealthChecks, Limits, Readiness, ReadySignal};
use crate::time::HostTime;
use escalation::{Escalation, RecoveryAction};
pub use load_error::LoadError;

/// Time before a page is opened again that could not be opened; grows with each attempt.
const REOPEN_DELAY: Duration = Duration::from_secs(2);
/// Longest time for which a first load that fails for a passing reason is tried again, where no ready timeout
/// says how long: a server that restarts, or a name that is being published, is usually there by then, and
/// nobody waits for an answer much longer.
const FIRST_LOAD_WINDOW: Duration = Duration::from_secs(15);
/// Pause before the second try of a first load; it doubles up to [`MAX_LOAD_RETRY_DELAY`].
const FIRST_LOAD_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Longest pause between two tries of a first load, so that a window of 15 s holds several.
const MAX_LOAD_RETRY_DELAY: Duration = Duration::from_secs(4);
/// A page that was live for so long has all its attempts again: they are there to end a cast that cannot
/// work, not one that crashes now and then. After as long without a hit, a check forgets that it had the page
/// reloaded.
const STABLE_AFTER: Duration = Duration::from_secs(600);

/// Where a cast stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not begun.
    Queued,
    /// A browser starts, and the page's server is waited for.
    Starting,
    /// The page is there, but not yet ready to be shown.
    Waiting,
    /// The page is in all outputs.
    Live,
    /// The outputs are being finished.
    Stopping,
    /// Over.
    Ended(EndReason),
}

/// Why a cast is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// By command.
    Stopped,
    /// The page called `onWebcastEnd()`.
    PageEnded,
    /// Its maximum running time is over.
    MaxTime,
    /// The recording has the length that was asked for.
    Complete,
    /// The page plays a video larger than it may.
    LargeVideo,
    /// The page could not be opened, or no browser be started, in the first place.
    StartFailed,
    /// The page was in trouble too often.
    GaveUp(HealthFault),
    /// An output cannot go on.
    OutputFailed,
}

/// What is wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthFault {
    /// It was not ready in time.
    StartTimeout,
    /// Nothing changed.
    Freeze,
    /// All white.
    Blank,
    /// Its renderer or its browser is gone, or its scripts do not get on.
    Crash,
    /// It could be opened once, but not again.
    Unreachable,
}

/// What to look for on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthCheck {
    /// Whether anything has changed since the last look.
    Freeze,
    /// Whether all is white.
    Blank,
    /// Whether the scripts have got on since the last look.
    Crash,
}

impl HealthCheck {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Freeze, Self::Blank, Self::Crash];

    /// What a hit means.
    #[must_use]
    pub fn fault(self) -> HealthFault {
        match self {
            Self::Freeze => HealthFault::Freeze,
            Self::Blank => HealthFault::Blank,
            Self::Crash => HealthFault::Crash,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// There is room for the cast.
    Start,
    /// The page's server answered.
    Opened,
    /// The page cannot be opened, or no browser be started.
    OpenFailed,
    /// The page cannot be opened at the moment, for a reason that may pass: see [`LoadError::is_transient`].
    OpenFailedTransiently,
    /// The page made the call that it was asked for, and only its first picture is missing: its time is not
    /// up any more.
    ReadySignalReceived,
    /// The page is ready to be shown.
    Ready,
    /// The outputs have taken the page.
    WentLive,
    /// The page called `onWebcastEnd()`.
    PageEnded,
    /// The page plays a video larger than it may.
    LargeVideo,
    /// A look at the page: whether it was in trouble.
    CheckResult(HealthCheck, bool),
    /// The page's renderer or its browser is gone.
    Crashed,
    /// Somebody wants the cast to end.
    Stop,
    /// The recording has the length that was asked for.
    Complete,
    /// An output cannot go on.
    OutputFailed,
    /// The outputs are finished, after [`OutputOptions::StopOutputs`].
    Drained,
    /// Nothing but that it is later.
    Timeout,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Start a fresh browser, instead of the one there is, and open the page in it.
    StartBrowser,
    /// Open the page again, in the same browser; it may never have been there.
    Reload,
    /// Let the page into the outputs, and answer with [`Input::WentLive`] when they have it.
    GoLive,
    /// Keep the page out of the outputs: the last picture stays, and silence.
    MuteOutputs,
    /// Look at the page and answer with [`Input::CheckResult`].
    RunCheck(HealthCheck),
    /// Keep what tells about the trouble: a picture of the page, its last words.
    SaveEvidence(HealthFault),
    /// End all outputs now and answer with [`Input::Drained`].
    StopOutputs,
    /// Tell whoever wants to know.
    Event(Event),
}

/// News of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The page is in the outputs for the first time.
    Live,
    /// The page is loaded again.
    Reloaded(HealthFault),
    /// The page gets a fresh browser.
    Moved(HealthFault),
    /// The cast is over. The last event.
    Ended(EndReason),
}

/// Something about a page that its owner should know, and that does not keep the cast from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warning {
    /// The page sets up a connection of WebRTC, and the cast does not let it send UDP.
    #[serde(rename = "webrtc-without-udp")]
    WebRtcWithoutUdp,
    /// A certificate of the page's own origin was accepted that the browser does not trust, as it was asked
    /// to.
    InsecureTls,
}

impl Warning {
    /// A stable word for it, like `insecure-tls`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebRtcWithoutUdp => "webrtc-without-udp",
            Self::InsecureTls => "insecure-tls",
        }
    }
}

/// The life of one cast.
#[derive(Debug)]
pub struct StateMachine {
    readiness: Readiness,
    checks: HealthChecks,
    limits: Limits,
    state: State,
    /// Why it ends, once it does.
    end_reason: Option<EndReason>,
    /// When the maximum running time is over: counted from the start until the outputs have the page, and
    /// then anew.
    ends_at: Option<HostTime>,
    /// When the first load is not tried again any more, once it failed.
    first_load_deadline: Option<HostTime>,
    /// Times the first load was tried again.
    load_retries: u32,
    /// When the page must be ready.
    ready_deadline: Option<HostTime>,
    /// When the page is opened again.
    retry_at: Option<HostTime>,
    escalations: [(HealthCheck, Escalation); 3],
    /// Browsers started since the page was stable.
    attempts: u32,
    live_since: HostTime,
    /// Whether the page was reloaded for not being ready since it got its browser.
    timed_out: bool,
    was_live: bool,
    /// An earlier process has shown the page, and its running time goes on.
    resumed: bool,
    /// The page was there once, perhaps for another process.
    was_loaded: bool,
    outputs: VecDeque<Output>,
}

impl StateMachine {
    /// A cast that has not begun.
    #[must_use]
    pub fn new(spec: &CastSpec) -> Self {
        Self {
            readiness: spec.readiness.clone(),
            checks: spec.checks.clone(),
            limits: spec.limits.clone(),
            state: State::Queued,
            end_reason: None,
            ends_at: None,
            ready_deadline: None,
            retry_at: None,
            first_load_deadline: None,
            load_retries: 0,
            escalations: HealthCheck::ALL.map(|check| (check, Escalation::new(check))),
            attempts: 0,
            live_since: HostTime(0),
            timed_out: false,
            was_live: false,
            resumed: spec.resumed,
            was_loaded: spec.resumed || spec.recording.as_ref().is_some_and(|recording| recording.resume),
            outputs: VecDeque::new(),
        }
    }

    /// Where the cast stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Browsers started since the page was last stable.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the page could not be opened and will be opened again after a pause.
    #[must_use]
    pub fn will_retry(&self) -> bool {
        self.retry_at.is_some() && !matches!(self.state, State::Stopping | State::Ended(_))
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back at the latest; `None` if only an input can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<HostTime> {
        if matches!(self.state, State::Stopping | State::Ended(_)) {
            return None;
        }
        let looks = self.escalations.iter().filter_map(|(_, ladder)| ladder.next_check());
        [self.ends_at, self.ready_deadline, self.retry_at].into_iter().flatten().chain(looks).min()
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: HostTime, input: Input) {
        if self.state == State::Live && now.since(self.live_since) >= STABLE_AFTER {
            self.attempts = 1;
        }
        match (self.state, input) {
            (State::Ended(_), _) => {}
            (State::Stopping, Input::Drained) => self.end(),
            (State::Stopping, Input::OutputFailed) => self.end_reason = Some(EndReason::OutputFailed),
            (State::Stopping, _) => {}
            (_, Input::Stop) => self.stop(EndReason::Stopped),
            (_, Input::Complete) => self.stop(EndReason::Complete),
            (_, Input::OutputFailed) => self.stop(EndReason::OutputFailed),
            (State::Queued, Input::Start) => {
                self.ends_at = Some(now + self.limits.max_time);
                self.start_browser();
            }
            (State::Queued, _) => {}
            (_, Input::PageEnded) => self.stop(EndReason::PageEnded),
            (_, Input::LargeVideo) => self.stop(EndReason::LargeVideo),
            (State::Starting, Input::Opened) if self.retry_at.is_none() => {
                self.state = State::Waiting;
                let timeout = self.readiness.timeout;
                self.ready_deadline = (!timeout.is_zero()).then(|| now + timeout);
            }
            (State::Starting | State::Waiting, Input::OpenFailed) if self.retry_at.is_none() => {
                self.handle_open_failure(now);
            }
            (State::Starting | State::Waiting, Input::OpenFailedTransiently) if self.retry_at.is_none() => {
                self.handle_transient_open_failure(now);
            }
            (State::Waiting, Input::ReadySignalReceived) => self.ready_deadline = None,
            (State::Waiting, Input::Ready) => self.go_live(now),
            (State::Live, Input::WentLive) if !self.was_live => {
                self.was_live = true;
                if !self.resumed {
                    self.ends_at = Some(now + self.limits.max_time);
                }
                self.outputs.push_back(Output::Event(Event::Live));
            }
            (State::Live, Input::CheckResult(check, hit)) => self.handle_check_result(now, check, hit),
            (_, Input::Crashed) if self.retry_at.is_none() => {
                self.outputs.push_back(Output::SaveEvidence(HealthFault::Crash));
                self.move_page(HealthFault::Crash);
            }
            _ => {}
        }
        self.handle_timeout(now);
    }

    /// Does what is due at `now`.
    fn handle_timeout(&mut self, now: HostTime) {
        let due = |at: Option<HostTime>| at.is_some_and(|at| at <= now);
        if matches!(self.state, State::Queued | State::Stopping | State::Ended(_)) {
            return;
        }
        if due(self.ends_at) {
            return self.stop(EndReason::MaxTime);
        }
        if due(self.retry_at) {
            self.retry_at = None;
            if self.is_first_load() {
                self.outputs.push_back(Output::Reload);
            } else {
                self.start_browser();
            }
        }
        if due(self.ready_deadline) {
            self.handle_ready_timeout();
        }
        for (check, ladder) in &mut self.escalations {
            if ladder.take_due_check(now) {
                self.outputs.push_back(Output::RunCheck(*check));
            }
        }
    }

    /// Starts the next browser, if there may be one more.
    fn start_browser(&mut self) {
        self.attempts += 1;
        self.timed_out = false;
        self.load_page(Output::StartBrowser);
    }

    /// Loads the page: nothing of it is seen until it is ready.
    fn load_page(&mut self, how: Output) {
        if self.state == State::Live {
            self.outputs.push_back(Output::MuteOutputs);
        }
        self.state = State::Starting;
        self.ready_deadline = None;
        for (_, ladder) in &mut self.escalations {
            ladder.pause(how == Output::StartBrowser);
        }
        self.outputs.push_back(how);
    }

    fn go_live(&mut self, now: HostTime) {
        (self.state, self.live_since, self.was_loaded) = (State::Live, now, true);
        (self.ready_deadline, self.timed_out) = (None, false);
        self.outputs.push_back(Output::GoLive);
        let HealthChecks { freeze, blank, crash } = self.checks;
        for ((_, ladder), interval) in self.escalations.iter_mut().zip([freeze, blank, crash]) {
            ladder.start(now, interval);
        }
    }

    fn handle_check_result(&mut self, now: HostTime, check: HealthCheck, hit: bool) {
        let trouble = check.fault();
        let Some((_, ladder)) = self.escalations.iter_mut().find(|(c, _)| *c == check) else { return };
        if hit {
            self.outputs.push_back(Output::SaveEvidence(trouble));
        }
        match ladder.handle_result(now, hit) {
            RecoveryAction::None => {}
            RecoveryAction::Reload => self.reload(trouble),
            RecoveryAction::Move => self.move_page(trouble),
        }
    }

    fn handle_ready_timeout(&mut self) {
        let trouble = HealthFault::StartTimeout;
        self.ready_deadline = None;
        self.outputs.push_back(Output::SaveEvidence(trouble));
        if !std::mem::replace(&mut self.timed_out, true) {
            self.reload(trouble);
        } else if self.readiness.signal == ReadySignal::NotifyReady {
            self.stop(EndReason::GaveUp(trouble));
        } else {
            self.move_page(trouble);
        }
    }

    /// Whether the page was never there, and has still got its first browser.
    fn is_first_load(&self) -> bool {
        !self.was_loaded && !self.timed_out && self.attempts == 1
    }

    /// A first load is tried again in the same browser while there is time: nothing was shown yet that would
    /// have to be healed.
    fn handle_transient_open_failure(&mut self, now: HostTime) {
        let timeout = self.readiness.timeout;
        let window = if timeout.is_zero() { FIRST_LOAD_WINDOW } else { timeout };
        // Counted from the first failure: a browser that is slow to start takes nothing of it.
        let until = *self.first_load_deadline.get_or_insert(now + window);
        if !self.is_first_load() || now >= until {
            return self.handle_open_failure(now);
        }
        // Doubled no more often than it takes to reach the longest pause.
        let pause = FIRST_LOAD_RETRY_DELAY * (1 << self.load_retries.min(3));
        self.load_retries += 1;
        // The last try is made when the time is up, so that all of it is used.
        self.retry_at = Some((now + pause.min(MAX_LOAD_RETRY_DELAY)).min(until));
        // Whatever there is meanwhile is not looked at.
        (self.state, self.ready_deadline) = (State::Starting, None);
    }

    /// A page that was there once is tried again; one that never was has failed.
    fn handle_open_failure(&mut self, now: HostTime) {
        if self.is_first_load() {
            self.stop(EndReason::StartFailed);
        } else if self.may_move() {
            self.outputs.push_back(Output::Event(Event::Moved(HealthFault::Unreachable)));
            // Whatever there is meanwhile is not looked at.
            (self.state, self.ready_deadline) = (State::Starting, None);
            self.retry_at = Some(now + REOPEN_DELAY * self.attempts);
        } else {
            self.stop(EndReason::GaveUp(HealthFault::Unreachable));
        }
    }

    fn reload(&mut self, trouble: HealthFault) {
        self.outputs.push_back(Output::Event(Event::Reloaded(trouble)));
        self.load_page(Output::Reload);
    }

    fn move_page(&mut self, trouble: HealthFault) {
        if self.may_move() {
            self.outputs.push_back(Output::Event(Event::Moved(trouble)));
            self.start_browser();
        } else {
            self.stop(EndReason::GaveUp(trouble));
        }
    }

    fn may_move(&self) -> bool {
        self.attempts < self.limits.attempts
    }

    fn stop(&mut self, reason: EndReason) {
        self.end_reason = Some(reason);
        if self.state == State::Queued {
            return self.end();
        }
        self.state = State::Stopping;
        self.outputs.push_back(Output::StopOutputs);
    }

    fn end(&mut self) {
        let reason = self.end_reason.unwrap_or(EndReason::Stopped);
        self.state = State::Ended(reason);
        self.outputs.push_back(Output::Event(Event::Ended(reason)));
    }
}

#[cfg(test)]
mod tests;
