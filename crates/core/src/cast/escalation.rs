//! From hits to steps: two in a row reload the page, two in a row after that move it, whatever was seen in
//! between. Only [`STABLE_AFTER`] without a hit forgets the reload. A crash moves the page at once.

use std::time::Duration;

use super::{HealthCheck, STABLE_AFTER};
use crate::time::HostTime;

/// Hits in a row that lead to a step.
const FAILURE_THRESHOLD: u32 = 2;

/// What a look leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecoveryAction {
    None,
    Reload,
    Move,
}

/// The looks for one kind of trouble.
#[derive(Debug)]
pub(super) struct Escalation {
    check: HealthCheck,
    interval: Duration,
    next_check: Option<HostTime>,
    /// Hits in a row, up to the last look.
    consecutive_failures: u32,
    /// When the page was reloaded or the last hit after that came; `None` if it was not reloaded in this
    /// browser.
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

    /// Looks from now on, every `interval`.
    pub(super) fn start(&mut self, now: HostTime, interval: Option<Duration>) {
        self.interval = interval.unwrap_or_default();
        self.next_check = interval.map(|interval| now + interval);
    }

    /// Looks no more until it begins again, with all forgotten if the browser is another one.
    pub(super) fn pause(&mut self, forget: bool) {
        (self.next_check, self.consecutive_failures) = (None, 0);
        if forget {
            self.last_reload_or_failure = None;
        }
    }

    pub(super) fn next_check(&self) -> Option<HostTime> {
        self.next_check
    }

    /// Whether a look is due; the next one then is an interval from now, however late this one comes.
    pub(super) fn take_due_check(&mut self, now: HostTime) -> bool {
        let due = self.next_check.is_some_and(|at| at <= now);
        if due {
            self.next_check = Some(now + self.interval);
        }
        due
    }

    pub(super) fn handle_result(&mut self, now: HostTime, hit: bool) -> RecoveryAction {
        if self.next_check.is_none() {
            return RecoveryAction::None;
        }
        self.last_reload_or_failure =
            self.last_reload_or_failure.filter(|since| now.since(*since) < STABLE_AFTER);
        if !hit {
            self.consecutive_failures = 0;
            return RecoveryAction::None;
        }
        self.consecutive_failures += 1;
        let was_reloaded = self.last_reload_or_failure.is_some();
        self.last_reload_or_failure = self.last_reload_or_failure.map(|_| now);
        match (self.check, self.consecutive_failures) {
            (HealthCheck::Crash, _) => RecoveryAction::Move,
            (_, FAILURE_THRESHOLD..) if was_reloaded => RecoveryAction::Move,
            (_, FAILURE_THRESHOLD..) => {
                self.last_reload_or_failure = Some(now);
                RecoveryAction::Reload
            }
            _ => RecoveryAction::None,
        }
    }
}
