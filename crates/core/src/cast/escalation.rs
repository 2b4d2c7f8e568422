//! Escalation of failed health checks: two failures in a row reload the page, and two more in a row move it
//! to a fresh browser. Only [`STABLE_AFTER`] without a failure forgets the reload. A failed crash check moves
//! the page at once.
//!
//! Sans-IO like the cast's state machine, but each input has at most one output, which [`Escalation::handle`]
//! returns.

use std::time::Duration;

use super::{HealthCheck, STABLE_AFTER};
use crate::time::HostTime;

/// Number of consecutive failures that lead to a recovery action: one failure may be a page that happens to
/// rest.
const FAILURE_THRESHOLD: u32 = 2;

/// Input of an [`Escalation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The page is live: run the check at this interval from now on; `None` turns it off.
    Start { interval: Option<Duration> },
    /// The page is being loaded: run no check until the next start. A new browser also forgets the last
    /// reload.
    Pause { new_browser: bool },
    /// Result of a check that [`Output::RunCheck`] requested.
    CheckResult { failed: bool },
    /// Time has passed; see [`Escalation::deadline`].
    Timeout,
}

/// Output of an [`Escalation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Run the check.
    RunCheck,
    /// Reload the page.
    Reload,
    /// Move the page to a fresh browser.
    Move,
}

/// Schedule and failure history of one health check.
#[derive(Debug)]
pub(super) struct Escalation {
    check: HealthCheck,
    interval: Duration,
    next_check: Option<HostTime>,
    /// Failures in a row, up to the last check.
    consecutive_failures: u32,
    /// Time of the last reload, or of the last failure after it; `None` if this browser was not reloaded.
    last_reload_or_failure: Option<HostTime>,
}

impl Escalation {
    pub(super) fn new(check: HealthCheck) -> Self {
        Self {
            check,
            interval: Duration::ZERO,
            next_check: None,
            consecutive_failures: 0,
            last_reload_or_failure: None,
        }
    }

    /// Processes an input at time `now`, and returns what the caller has to do.
    pub(super) fn handle(&mut self, now: HostTime, input: Input) -> Option<Output> {
        match input {
            Input::Start { interval } => {
                self.interval = interval.unwrap_or_default();
                self.next_check = interval.map(|interval| now + interval);
                None
            }
            Input::Pause { new_browser } => {
                (self.next_check, self.consecutive_failures) = (None, 0);
                if new_browser {
                    self.last_reload_or_failure = None;
                }
                None
            }
            Input::CheckResult { failed } => self.handle_result(now, failed),
            Input::Timeout => {
                self.next_check.filter(|at| *at <= now)?;
                // Counted from now, so that a late check is not followed by another at once.
                self.next_check = Some(now + self.interval);
                Some(Output::RunCheck)
            }
        }
    }

    /// Latest time to hand in [`Input::Timeout`]; `None` while the check is paused or off.
    pub(super) fn deadline(&self) -> Option<HostTime> {
        self.next_check
    }

    fn handle_result(&mut self, now: HostTime, failed: bool) -> Option<Output> {
        self.next_check?;
        self.last_reload_or_failure =
            self.last_reload_or_failure.filter(|since| now.since(*since) < STABLE_AFTER);
        if !failed {
            self.consecutive_failures = 0;
            return None;
        }
        self.consecutive_failures += 1;
        let was_reloaded = self.last_reload_or_failure.is_some();
        self.last_reload_or_failure = self.last_reload_or_failure.map(|_| now);
        match (self.check, self.consecutive_failures) {
            (HealthCheck::Crash, _) => Some(Output::Move),
            (_, FAILURE_THRESHOLD..) if was_reloaded => Some(Output::Move),
            (_, FAILURE_THRESHOLD..) => {
                self.last_reload_or_failure = Some(now);
                Some(Output::Reload)
            }
            _ => None,
        }
    }
}
