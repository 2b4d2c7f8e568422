//! From hits to steps: two in a row reload the page, two more move it. A crash moves it at once.

use std::time::Duration;

use super::Check;
use crate::time::HostTime;

/// Hits in a row until the page is reloaded, and until it is moved.
const RELOAD_AT: u32 = 2;
const MOVE_AT: u32 = 4;

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
    move_at_once: bool,
    interval: Duration,
    next: Option<HostTime>,
    hits: u32,
}

impl Ladder {
    pub(super) fn new(check: Check) -> Self {
        Self { move_at_once: check == Check::Crash, interval: Duration::ZERO, next: None, hits: 0 }
    }

    /// Looks from now on, every `interval`.
    pub(super) fn begin(&mut self, now: HostTime, interval: Option<Duration>) {
        self.interval = interval.unwrap_or_default();
        self.next = interval.map(|interval| now + interval);
    }

    /// Looks no more until it begins again, with the hits forgotten if the browser is another one.
    pub(super) fn pause(&mut self, forget: bool) {
        self.next = None;
        if forget {
            self.hits = 0;
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

    pub(super) fn looked(&mut self, hit: bool) -> Step {
        if self.next.is_none() {
            return Step::None;
        }
        self.hits = if hit { self.hits + 1 } else { 0 };
        match self.hits {
            0 => Step::None,
            _ if self.move_at_once => Step::Move,
            RELOAD_AT => Step::Reload,
            MOVE_AT.. => Step::Move,
            _ => Step::None,
        }
    }
}
