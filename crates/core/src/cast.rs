//! State machine of a cast: queued → starting → waiting → live → stopping → ended. It is sans-IO: callers
//! hand in the time and inputs, and carry out its outputs.
//!
//! ```text
//!             Start         Opened          Ready          (stop, end, limits)       Drained
//!  queued ─────────▶ starting ─────▶ waiting ─────▶ live ─────────────────▶ stopping ─────▶ ended
//!                       ▲               │            │
//!                       └── reload, move┴────────────┘
//! ```
//!
//! [`StateMachine::handle`] takes an input, [`StateMachine::poll`] returns the next output to carry out, and
//! [`StateMachine::deadline`] is the latest time to hand in [`Input::Timeout`].

mod escalation;
mod load_error;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backoff;
use crate::spec::{CastSpec, HealthChecks, Limits, Readiness, ReadySignal};
use crate::time::HostTime;
use escalation::Escalation;
pub use load_error::LoadError;

/// Delay before a page that was loaded before is opened again, multiplied by the number of browsers started:
/// long enough for a server to restart, and short for viewers.
const REOPEN_DELAY: Duration = Duration::from_secs(2);
/// Longest time for which a first load that fails transiently is retried if no ready timeout is set. A server
/// that restarts, or a DNS name that is being published, is usually there by then, and users rarely wait
/// longer.
const FIRST_LOAD_WINDOW: Duration = Duration::from_secs(15);
/// Delay before the second attempt of a first load; it doubles up to [`MAX_LOAD_RETRY_DELAY`]. Short, because
/// a user is waiting for the result.
const FIRST_LOAD_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Longest delay between two attempts of a first load, so that [`FIRST_LOAD_WINDOW`] holds several.
const MAX_LOAD_RETRY_DELAY: Duration = Duration::from_secs(4);
/// Time after which a live page counts as stable, and all browser attempts are available again: attempts
/// exist to end a cast that cannot work, not one that crashes occasionally. A check that has not failed for
/// as long forgets its last reload.
const STABLE_AFTER: Duration = Duration::from_secs(600);

/// State of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The cast has not been started.
    Queued,
    /// A browser is starting, or the page's server has not answered yet.
    Starting,
    /// The page is loaded, but not ready to be shown.
    Waiting,
    /// The page is in all outputs.
    Live,
    /// The outputs are being drained.
    Stopping,
    /// The cast is over.
    Ended(EndReason),
}

/// Reason why a cast ended. The aliases are names that earlier versions stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// A command stopped it.
    Stopped,
    /// The page called `onWebcastEnd()`.
    PageEnded,
    /// Its maximum running time has passed.
    MaxTime,
    /// All that was requested is recorded: the recording has reached its duration, or was stored already when
    /// the cast was resumed.
    Complete,
    /// The page plays a video larger than its limit.
    #[serde(alias = "large-video")]
    VideoTooLarge,
    /// The first load failed, or no browser could be started.
    StartFailed,
    /// The page had this fault, and no attempt to heal it was left.
    #[serde(alias = "gave-up")]
    PageFailed(HealthFault),
    /// An output failed for good.
    OutputFailed,
}

/// A health fault of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthFault {
    /// The page was not ready before the ready timeout.
    StartTimeout,
    /// Nothing changed on the page.
    Freeze,
    /// Every pixel of the page is white.
    Blank,
    /// The renderer or the browser exited, or the page's scripts do not respond.
    Crash,
    /// The page was loaded once, but cannot be loaded again.
    Unreachable,
}

/// A periodic health check of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthCheck {
    /// Fails if nothing changed since the last check.
    Freeze,
    /// Fails if every pixel is white.
    Blank,
    /// Fails if the page's scripts have not responded since the last check.
    Crash,
}

impl HealthCheck {
    /// All checks, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Freeze, Self::Blank, Self::Crash];

    /// Fault that a failed check reports.
    #[must_use]
    pub fn fault(self) -> HealthFault {
        match self {
            Self::Freeze => HealthFault::Freeze,
            Self::Blank => HealthFault::Blank,
            Self::Crash => HealthFault::Crash,
        }
    }
}

/// Input of the [`StateMachine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The cast is to start.
    Start,
    /// The page's server answered, and the page is loading.
    Opened,
    /// The page cannot be loaded, or no browser can be started.
    OpenFailed,
    /// The page cannot be loaded for a transient reason, see [`LoadError::is_transient`].
    OpenFailedTransiently,
    /// The page made its ready call, and only its first picture is missing: the ready timeout no longer
    /// applies.
    ReadySignalReceived,
    /// The page is ready to be shown.
    Ready,
    /// The outputs have taken the first frame.
    WentLive,
    /// The page called `onWebcastEnd()`.
    PageEnded,
    /// The page plays a video larger than its limit.
    LargeVideo,
    /// Result of a check that [`Output::RunCheck`] requested.
    CheckResult {
        /// Check that ran.
        check: HealthCheck,
        /// Whether the page failed it.
        failed: bool,
    },
    /// The page's renderer or its browser exited.
    Crashed,
    /// A command to end the cast arrived.
    Stop,
    /// The recording has reached the requested duration.
    Complete,
    /// An output failed for good.
    OutputFailed,
    /// The outputs are drained, after [`Output::StopOutputs`].
    Drained,
    /// Time has passed; see [`StateMachine::deadline`].
    Timeout,
}

/// Output of the [`StateMachine`] that the caller carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Replace the browser by a fresh one and open the page in it.
    StartBrowser,
    /// Load the page again in the same browser, whether or not it was loaded before.
    Reload,
    /// Unmute the outputs, and answer with [`Input::WentLive`] when they have taken the page.
    GoLive,
    /// Keep the page out of the outputs, which repeat the last picture with silence.
    MuteOutputs,
    /// Run a check and answer with [`Input::CheckResult`].
    RunCheck(HealthCheck),
    /// Save evidence of a fault: a screenshot of the page and its last console messages.
    SaveEvidence(HealthFault),
    /// Stop all outputs now, and answer with [`Input::Drained`] when they are drained.
    StopOutputs,
    /// Report an event of the cast.
    Event(Event),
}

/// An event of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The page is in the outputs for the first time.
    Live,
    /// The page is being reloaded.
    Reloaded(HealthFault),
    /// The page moves to a fresh browser.
    Moved(HealthFault),
    /// The cast is over; no event follows.
    Ended(EndReason),
}

/// A problem with a page that its owner should know about, and that does not end the cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warning {
    /// The page sets up a WebRTC connection, but the cast's network policy forbids UDP.
    #[serde(rename = "webrtc-without-udp")]
    WebRtcWithoutUdp,
    /// An untrusted certificate of the page's own origin was accepted, as `Tls::insecure` permits.
    InsecureTls,
}

impl Warning {
    /// Stable identifier, as in JSON: `insecure-tls`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebRtcWithoutUdp => "webrtc-without-udp",
            Self::InsecureTls => "insecure-tls",
        }
    }
}

/// State machine of one cast.
#[derive(Debug)]
pub struct StateMachine {
    readiness: Readiness,
    checks: HealthChecks,
    limits: Limits,
    state: State,
    /// Reason of the end, from the moment the cast stops.
    end_reason: Option<EndReason>,
    /// When the maximum running time is over: counted from the start, and anew once the outputs have the
    /// page.
    ends_at: Option<HostTime>,
    /// When a failed first load is no longer retried.
    first_load_deadline: Option<HostTime>,
    /// Number of retries of the first load.
    load_retries: u32,
    /// Latest time for the page to be ready.
    ready_deadline: Option<HostTime>,
    /// When the page is loaded again after a failure.
    retry_at: Option<HostTime>,
    escalations: [(HealthCheck, Escalation); 3],
    /// Browsers started since the page was last stable.
    attempts: u32,
    live_since: HostTime,
    /// Whether the ready timeout has already caused a reload in the current browser.
    timed_out: bool,
    was_live: bool,
    /// Whether an earlier process has shown the page, so that its running time continues.
    resumed: bool,
    /// Whether the page was loaded before, possibly by an earlier process.
    was_loaded: bool,
    outputs: VecDeque<Output>,
}

impl StateMachine {
    /// Creates the state machine of a cast that has not been started.
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

    /// State of the cast.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Number of browsers started since the page was last stable.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether loading the page failed and will be retried after a delay.
    #[must_use]
    pub fn will_retry(&self) -> bool {
        self.retry_at.is_some() && !matches!(self.state, State::Stopping | State::Ended(_))
    }

    /// Returns the next output to carry out, if any.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Latest time to hand in [`Input::Timeout`]; `None` if only another input can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<HostTime> {
        if matches!(self.state, State::Stopping | State::Ended(_)) {
            return None;
        }
        let checks = self.escalations.iter().filter_map(|(_, escalation)| escalation.deadline());
        [self.ends_at, self.ready_deadline, self.retry_at].into_iter().flatten().chain(checks).min()
    }

    /// Processes an input at time `now`.
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
                self.start_browser(now);
            }
            (State::Queued, _) => {}
            (_, Input::PageEnded) => self.stop(EndReason::PageEnded),
            (_, Input::LargeVideo) => self.stop(EndReason::VideoTooLarge),
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
            (State::Live, Input::CheckResult { check, failed }) => {
                self.handle_check_result(now, check, failed);
            }
            (_, Input::Crashed) if self.retry_at.is_none() => {
                self.outputs.push_back(Output::SaveEvidence(HealthFault::Crash));
                self.move_page(now, HealthFault::Crash);
            }
            _ => {}
        }
        self.handle_timeout(now);
    }

    /// Carries out whatever is due at `now`.
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
                self.start_browser(now);
            }
        }
        if due(self.ready_deadline) {
            self.handle_ready_timeout(now);
        }
        for (check, escalation) in &mut self.escalations {
            if escalation.handle(now, escalation::Input::Timeout) == Some(escalation::Output::RunCheck) {
                self.outputs.push_back(Output::RunCheck(*check));
            }
        }
    }

    /// Starts the next browser.
    fn start_browser(&mut self, now: HostTime) {
        self.attempts += 1;
        self.timed_out = false;
        self.load_page(now, Output::StartBrowser);
    }

    /// Loads the page by this output, muted until it is ready.
    fn load_page(&mut self, now: HostTime, output: Output) {
        if self.state == State::Live {
            self.outputs.push_back(Output::MuteOutputs);
        }
        self.state = State::Starting;
        self.ready_deadline = None;
        let new_browser = output == Output::StartBrowser;
        for (_, escalation) in &mut self.escalations {
            escalation.handle(now, escalation::Input::Pause { new_browser });
        }
        self.outputs.push_back(output);
    }

    fn go_live(&mut self, now: HostTime) {
        (self.state, self.live_since, self.was_loaded) = (State::Live, now, true);
        (self.ready_deadline, self.timed_out) = (None, false);
        self.outputs.push_back(Output::GoLive);
        let HealthChecks { freeze, blank, crash } = self.checks;
        for ((_, escalation), interval) in self.escalations.iter_mut().zip([freeze, blank, crash]) {
            escalation.handle(now, escalation::Input::Start { interval });
        }
    }

    fn handle_check_result(&mut self, now: HostTime, check: HealthCheck, failed: bool) {
        let fault = check.fault();
        let Some((_, escalation)) = self.escalations.iter_mut().find(|(c, _)| *c == check) else { return };
        if failed {
            self.outputs.push_back(Output::SaveEvidence(fault));
        }
        match escalation.handle(now, escalation::Input::CheckResult { failed }) {
            Some(escalation::Output::Reload) => self.reload(now, fault),
            Some(escalation::Output::Move) => self.move_page(now, fault),
            Some(escalation::Output::RunCheck) | None => {}
        }
    }

    fn handle_ready_timeout(&mut self, now: HostTime) {
        let fault = HealthFault::StartTimeout;
        self.ready_deadline = None;
        self.outputs.push_back(Output::SaveEvidence(fault));
        if !std::mem::replace(&mut self.timed_out, true) {
            self.reload(now, fault);
        } else if self.readiness.signal == ReadySignal::NotifyReady {
            self.stop(EndReason::PageFailed(fault));
        } else {
            self.move_page(now, fault);
        }
    }

    /// Whether the page was never loaded and still has its first browser.
    fn is_first_load(&self) -> bool {
        !self.was_loaded && !self.timed_out && self.attempts == 1
    }

    /// Retries a first load in the same browser while its window lasts: nothing has been shown yet that would
    /// need recovery.
    fn handle_transient_open_failure(&mut self, now: HostTime) {
        let timeout = self.readiness.timeout;
        let window = if timeout.is_zero() { FIRST_LOAD_WINDOW } else { timeout };
        // Counted from the first failure, so that a slow start of the browser does not shorten the window.
        let deadline = *self.first_load_deadline.get_or_insert(now + window);
        if !self.is_first_load() || now >= deadline {
            return self.handle_open_failure(now);
        }
        let delay = backoff::exponential(FIRST_LOAD_RETRY_DELAY, MAX_LOAD_RETRY_DELAY, self.load_retries);
        self.load_retries += 1;
        // The last attempt is made at the deadline, so that the whole window is used.
        self.retry_at = Some((now + delay).min(deadline));
        // Until then, inputs about the failed page are ignored.
        (self.state, self.ready_deadline) = (State::Starting, None);
    }

    /// Opens a page that was loaded before in another browser; a page that never loaded has failed.
    fn handle_open_failure(&mut self, now: HostTime) {
        if self.is_first_load() {
            self.stop(EndReason::StartFailed);
        } else if self.may_move() {
            self.outputs.push_back(Output::Event(Event::Moved(HealthFault::Unreachable)));
            // Until the retry, inputs about the failed page are ignored.
            (self.state, self.ready_deadline) = (State::Starting, None);
            self.retry_at = Some(now + REOPEN_DELAY * self.attempts);
        } else {
            self.stop(EndReason::PageFailed(HealthFault::Unreachable));
        }
    }

    fn reload(&mut self, now: HostTime, fault: HealthFault) {
        self.outputs.push_back(Output::Event(Event::Reloaded(fault)));
        self.load_page(now, Output::Reload);
    }

    /// Moves the page to a fresh browser, or gives up if there are no attempts left.
    fn move_page(&mut self, now: HostTime, fault: HealthFault) {
        if self.may_move() {
            self.outputs.push_back(Output::Event(Event::Moved(fault)));
            self.start_browser(now);
        } else {
            self.stop(EndReason::PageFailed(fault));
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
