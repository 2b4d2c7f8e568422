//! From hits to steps: two in a row reload the page, two in a row after that move it. A crash moves it at once.

use std::time::Duration;

use super::Check;
use crate::time::HostTime;

/// Hits in a row that lead to a step.
const HITS: u32 = 2;
/// Looks in a row without a hit after which a page that was loaded again counts as sound. One is not enough: loading changes
/// the page, whatever becomes of it.
const SOUND: u32 = 4;

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
    /// In a row, of whatever came last.
    hits: u32,
    misses: u32,
    reloaded: bool,
}

impl Ladder {
    pub(super) fn new(check: Check) -> Self {
        Self { check, interval: Duration::ZERO, next: None, hits: 0, misses: 0, reloaded: false }
    }

    /// Looks from now on, every `interval`.
    pub(super) fn begin(&mut self, now: HostTime, interval: Option<Duration>) {
        self.interval = interval.unwrap_or_default();
        self.next = interval.map(|interval| now + interval);
    }

    /// Looks no more until it begins again, with all forgotten if the browser is another one.
    pub(super) fn pause(&mut self, forget: bool) {
        (self.next, self.hits, self.misses) = (None, 0, 0);
        self.reloaded &= !forget;
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

    pub(super) fn looked(&mut self, hit: bool) -> Step {
        if self.next.is_none() {
            return Step::None;
        }
        (self.hits, self.misses) = if hit { (self.hits + 1, 0) } else { (0, self.misses + 1) };
        self.reloaded &= self.misses < SOUND;
        match (self.check, self.hits) {
            (Check::Crash, 1..) => Step::Move,
            (_, HITS..) if self.reloaded => Step::Move,
            (_, HITS..) => {
                self.reloaded = true;
                Step::Reload
            }
            _ => Step::None,
        }
    }
}
