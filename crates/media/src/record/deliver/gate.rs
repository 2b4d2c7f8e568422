//! When to try again, and what to call the time until then. Sans-IO.

use std::time::Duration;

use pagecast_core::HostTime;
use serde::{Deserialize, Serialize};

use crate::store::Class;

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How storing gets on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Whatever there is gets stored.
    #[default]
    Uploading,
    /// Nothing could be stored for a while. It is tried again and again.
    Stuck,
    /// Nothing can be stored before somebody mends something: wrong keys, no bucket, no space. It is tried again now and then.
    Failed,
    /// All of it is stored.
    Stored,
    /// Nothing was recorded, so there is nothing to store.
    Empty,
}

/// Opens and closes the way to a storage.
#[derive(Debug)]
pub(super) struct Gate {
    stuck_after: Duration,
    first_pause: Duration,
    failures: u32,
    failing_since: Option<HostTime>,
    retry_at: Option<HostTime>,
    class: Option<Class>,
}

impl Gate {
    /// Pauses grow from `first_pause`, doubling; after `stuck_after` without success it is stuck.
    pub(super) fn new(stuck_after: Duration, first_pause: Duration) -> Self {
        Self { stuck_after, first_pause, failures: 0, failing_since: None, retry_at: None, class: None }
    }

    /// Whether anything may be tried now: one thing at a time while things fail.
    pub(super) fn is_open(&self, now: HostTime, under_way: usize) -> bool {
        self.failing_since.is_none() || (under_way == 0 && self.retry_at.is_none_or(|at| at <= now))
    }

    /// When to look again, if it is closed.
    pub(super) fn retry_at(&self) -> Option<HostTime> {
        self.retry_at
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::new(self.stuck_after, self.first_pause);
    }

    /// `noise`, 0 to 1, spreads the tries of many.
    pub(super) fn failed(&mut self, now: HostTime, class: Class, noise: f64) {
        self.failing_since.get_or_insert(now);
        // Those that were under way together failed together.
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.failures += 1;
        let pause = self.first_pause.saturating_mul(1 << (self.failures - 1).min(16)).min(MAX_PAUSE);
        self.retry_at = Some(now + pause.mul_f64(0.75 + noise.clamp(0.0, 1.0) / 2.0));
        self.class = Some(class);
    }

    pub(super) fn state(&self, now: HostTime) -> State {
        match (self.class, self.failing_since) {
            (Some(Class::Transient) | None, Some(since)) if now.since(since) >= self.stuck_after => {
                State::Stuck
            }
            (Some(Class::Transient) | None, _) => State::Uploading,
            (Some(_), _) => State::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> HostTime {
        HostTime(0) + Duration::from_millis(ms)
    }

    #[test]
    fn pauses_grow_and_success_ends_them() {
        let mut gate = Gate::new(Duration::from_secs(60), Duration::from_secs(1));
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            gate.failed(at(now), Class::Transient, 0.5);
            let next = gate.retry_at().unwrap().since(at(0)).as_millis() as u64;
            assert!(
                !gate.is_open(at(next - 1), 0) && gate.is_open(at(next), 0) && !gate.is_open(at(next), 1)
            );
            pauses.push((next - now) / 1000);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert_eq!(gate.state(at(now)), State::Stuck);
        gate.succeeded();
        assert!(gate.is_open(at(now), 3) && gate.state(at(now)) == State::Uploading);
    }

    #[test]
    fn what_fails_together_counts_once() {
        let mut gate = Gate::new(Duration::from_secs(60), Duration::from_secs(1));
        for _ in 0..4 {
            gate.failed(at(0), Class::Transient, 0.5);
        }
        assert_eq!(gate.retry_at(), Some(at(1000)));
    }

    #[test]
    fn states() {
        let mut gate = Gate::new(Duration::from_secs(60), Duration::from_secs(1));
        assert_eq!(gate.state(at(0)), State::Uploading);
        gate.failed(at(0), Class::Transient, 0.5);
        assert_eq!(gate.state(at(59_999)), State::Uploading);
        assert_eq!(gate.state(at(60_000)), State::Stuck);
        gate.failed(at(60_000), Class::Denied, 0.5);
        assert_eq!(gate.state(at(60_000)), State::Failed);
    }
}
