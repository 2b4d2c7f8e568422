//! When to try again, and what to call the time until then. Sans-IO.

use std::time::Duration;

use pagecast_core::HostTime;
use serde::{Deserialize, Serialize};

use crate::store::ErrorClass;

/// Longest pause between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Pause between two looks whether a storage that failed answers again. With [`REACHABILITY_CHECK_TIMEOUT`], what waits is
/// tried within five seconds of its return; a look is one small request.
const REACHABILITY_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time for a look: a connection that is made while the storage is away may never know that it is
/// back.
pub(super) const REACHABILITY_CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Failures that pass sooner are not worth telling anybody.
const MIN_REPORTED_OUTAGE: Duration = Duration::from_secs(3);

/// How storing gets on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Whatever there is gets stored.
    #[default]
    Uploading,
    /// Nothing could be stored for a while. It is tried again and again.
    Stuck,
    /// Nothing can be stored before somebody mends something: wrong keys, no bucket, no space. It is tried
    /// again now and then.
    Failed,
    /// All of it is stored.
    Stored,
    /// Nothing was recorded, so there is nothing to store.
    Empty,
}

/// Opens and closes the way to a storage.
#[derive(Debug)]
pub(super) struct Backoff {
    stuck_after: Duration,
    initial_backoff: Duration,
    failures: u32,
    failing_since: Option<HostTime>,
    retry_at: Option<HostTime>,
    /// When to look whether the storage answers.
    check_at: Option<HostTime>,
    /// What is tried now is tried because the storage answered a look.
    retried_after_check: bool,
    /// Looks say nothing: the storage answers them, and fails all the same.
    checks_misleading: bool,
    last_error_class: Option<ErrorClass>,
}

impl Backoff {
    /// Pauses grow from `first_pause`, doubling; after `stuck_after` without success it is stuck.
    pub(super) fn new(stuck_after: Duration, first_pause: Duration) -> Self {
        Self {
            stuck_after,
            initial_backoff: first_pause,
            failures: 0,
            failing_since: None,
            retry_at: None,
            check_at: None,
            retried_after_check: false,
            checks_misleading: false,
            last_error_class: None,
        }
    }

    /// Whether anything may be tried now: one thing at a time while things fail.
    pub(super) fn may_attempt(&self, now: HostTime, under_way: usize) -> bool {
        self.failing_since.is_none() || (under_way == 0 && self.retry_at.is_none_or(|at| at <= now))
    }

    /// When to look again, if it is closed.
    pub(super) fn retry_at(&self) -> Option<HostTime> {
        self.retry_at
    }

    /// When to look whether the storage answers, while that is not known.
    pub(super) fn check_at(&self) -> Option<HostTime> {
        self.check_at
    }

    /// Whether the storage answered a look, with whatever. If it did, what waits is tried now: once, as one
    /// that answers and still fails is given its growing pauses, until it no longer answers either.
    pub(super) fn on_check_result(&mut self, now: HostTime, answered: bool) {
        if self.check_at.is_none() {
            return;
        }
        self.check_at = Some(now + REACHABILITY_CHECK_INTERVAL);
        self.checks_misleading &= answered;
        if answered && !self.checks_misleading && self.retry_at.is_some_and(|at| at > now) {
            (self.retry_at, self.check_at, self.retried_after_check) = (Some(now), None, true);
        }
    }

    pub(super) fn on_success(&mut self) {
        *self = Self::new(self.stuck_after, self.initial_backoff);
    }

    /// `noise`, 0 to 1, spreads the tries of many.
    pub(super) fn on_failure(&mut self, now: HostTime, class: ErrorClass, noise: f64) {
        self.failing_since.get_or_insert(now);
        // Those that were under way together failed together.
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.failures += 1;
        let pause = self.initial_backoff.saturating_mul(1 << (self.failures - 1).min(16)).min(MAX_BACKOFF);
        self.retry_at = Some(now + pause.mul_f64(0.75 + noise.clamp(0.0, 1.0) / 2.0));
        self.last_error_class = Some(class);
        self.checks_misleading |= std::mem::take(&mut self.retried_after_check);
        // What somebody has to mend, a look does not see.
        self.check_at = (class == ErrorClass::Transient).then(|| now + REACHABILITY_CHECK_INTERVAL);
    }

    /// Since when nothing could be stored, if that is worth telling.
    pub(super) fn outage_since(&self, now: HostTime) -> Option<HostTime> {
        self.failing_since.filter(|since| now.since(*since) >= MIN_REPORTED_OUTAGE)
    }

    pub(super) fn state(&self, now: HostTime) -> State {
        match (self.last_error_class, self.failing_since) {
            (Some(ErrorClass::Transient) | None, Some(since)) if now.since(since) >= self.stuck_after => {
                State::Stuck
            }
            (Some(ErrorClass::Transient) | None, _) => State::Uploading,
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
        let mut gate = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            gate.on_failure(at(now), ErrorClass::Transient, 0.5);
            let next = gate.retry_at().unwrap().since(at(0)).as_millis() as u64;
            assert!(
                !gate.may_attempt(at(next - 1), 0)
                    && gate.may_attempt(at(next), 0)
                    && !gate.may_attempt(at(next), 1)
            );
            pauses.push((next - now) / 1000);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert_eq!(gate.state(at(now)), State::Stuck);
        gate.on_success();
        assert!(gate.may_attempt(at(now), 3) && gate.state(at(now)) == State::Uploading);
    }

    /// A storage that is away for `away_s`, tried whenever the gate is open. How long after its return the
    /// first try is, in ms.
    fn retry_delay_after_outage(away_s: u64, answers_meanwhile: bool) -> u64 {
        let mut gate = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        for ms in (0..).step_by(100) {
            let back = ms >= 1000 * away_s;
            if gate.check_at().is_some_and(|due| due <= at(ms)) {
                gate.on_check_result(at(ms), back || answers_meanwhile);
            }
            if !gate.may_attempt(at(ms), 0) {
                continue;
            }
            if back {
                return ms - 1000 * away_s;
            }
            gate.on_failure(at(ms), ErrorClass::Transient, 0.5);
        }
        unreachable!("it is tried at last")
    }

    #[test]
    fn a_storage_that_is_back_is_tried_within_seconds() {
        for away_s in [1, 5, 17, 18, 40, 100, 1000] {
            let after = retry_delay_after_outage(away_s, false);
            assert!(after <= 2000, "away for {away_s} s, tried after {after} ms");
        }
    }

    #[test]
    fn a_storage_that_answers_and_fails_gets_pauses_that_grow() {
        let mut gate = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        let mut tries = Vec::new();
        for s in 0..300 {
            if gate.check_at().is_some_and(|due| due <= at(1000 * s)) {
                gate.on_check_result(at(1000 * s), !(200..250).contains(&s));
            }
            if gate.may_attempt(at(1000 * s), 0) {
                tries.push(s);
                gate.on_failure(at(1000 * s), ErrorClass::Transient, 0.5);
            }
        }
        // The look at 5 s brings one try forward. Once looks have failed, the next one that is answered does
        // so again.
        assert_eq!(tries, [0, 1, 3, 5, 13, 29, 61, 121, 181, 241, 251]);
    }

    #[test]
    fn an_outage_is_reported_when_it_lasts() {
        let mut gate = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        gate.on_failure(at(500), ErrorClass::Transient, 0.5);
        assert_eq!((gate.outage_since(at(3400)), gate.outage_since(at(3500))), (None, Some(at(500))));
        gate.on_success();
        assert_eq!(gate.outage_since(at(9000)), None);
    }

    #[test]
    fn what_fails_together_counts_once() {
        let mut gate = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        for _ in 0..4 {
            gate.on_failure(at(0), ErrorClass::Transient, 0.5);
        }
        assert_eq!(gate.retry_at(), Some(at(1000)));
    }

    #[test]
    fn states() {
        let mut gate = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        assert_eq!(gate.state(at(0)), State::Uploading);
        gate.on_failure(at(0), ErrorClass::Transient, 0.5);
        assert_eq!(gate.state(at(59_999)), State::Uploading);
        assert_eq!(gate.state(at(60_000)), State::Stuck);
        gate.on_failure(at(60_000), ErrorClass::Denied, 0.5);
        assert_eq!(gate.state(at(60_000)), State::Failed);
    }
}
