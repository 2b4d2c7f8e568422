//! From hits to steps: two in a row reload the page, two in a row after that move it, whatever was seen in
//! between. Only [`STABLE`] without a hit forgets the reload. A crash moves the page at once.

use std::time::Duration;

use super::{Check, STABLE};
use crate::time::HostTime;

/// Hits in a row that lead to a step.
const HITS: u32 = 2;

/// What a look leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    None,
    Reload,
    Move,
}

/// The looks for one kind of trouble.
#[derive(Debug)]
pub(super) struct Ladder {
    check: Check,
    interval: Duration,
    next: Option<HostTime>,
    /// Hits in a row, up to the last look.
    hits: u32,
    /// When the page was reloaded or the last hit after that came; `None` if it was not reloaded in this
    /// browser.
    reloaded: Option<HostTime>,
}

impl Ladder {
    pub(super) fn new(check: Check) -> Self {
        Self { check, interval: Duration::ZERO, next: None, hits: 0, reloaded: None }
    }

    /// Looks from now on, every `interval`.
    pub(super) fn begin(&mut self, now: HostTime, interval: Option<Duration>) {
        self.interval = interval.unwrap_or_default();
        self.next = interval.map(|interval| now + interval);
    }

    /// Looks no more until it begins again, with all forgotten if the browser is another one.
    pub(super) fn pause(&mut self, forget: bool) {
        (self.next, self.hits) = (None, 0);
        if forget {
            self.reloaded = None;
        }
    }

    pub(super) fn next_look(&self) -> Option<HostTime> {
        self.next
    }

    /// Whether a look is due; the next one then is an interval from now, however late this one comes.
    pub(super) fn look_if_due(&mut self, now: HostTime) -> bool {
        let due = self.next.is_some_and(|at| at <= now);
        if due {
            self.next = Some(now + self.interval);
        }
        due
    }

    pub(super) fn looked(&mut self, now: HostTime, hit: bool) -> Step {
        if self.next.is_none() {
            return Step::None;
        }
        self.reloaded = self.reloaded.filter(|since| now.since(*since) < STABLE);
        if !hit {
            self.hits = 0;
            return Step::None;
        }
        self.hits += 1;
        let was_reloaded = self.reloaded.is_some();
        self.reloaded = self.reloaded.map(|_| now);
        match (self.check, self.hits) {
            (Check::Crash, _) => Step::Move,
            (_, HITS..) if was_reloaded => Step::Move,
            (_, HITS..) => {
                self.reloaded = Some(now);
                Step::Reload
            }
            _ => Step::None,
        }
    }
}
