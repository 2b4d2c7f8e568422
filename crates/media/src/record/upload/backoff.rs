//! Retry times of a failing storage, and the state that is reported meanwhile. Sans-IO.

use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_core::backoff::exponential;
use serde::{Deserialize, Serialize};

use crate::store::ErrorClass;

/// Longest pause between two attempts: a storage that returns without being noticed waits no longer.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Interval of reachability checks while a storage fails; each is one small request. With
/// [`REACHABILITY_CHECK_TIMEOUT`], uploads resume within five seconds of the storage's return.
const REACHABILITY_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of a reachability check: a connection attempt from before the storage's return may hang.
pub(super) const REACHABILITY_CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest outage that is reported: short ones are retried without notice.
const MIN_REPORTED_OUTAGE: Duration = Duration::from_secs(3);

/// State of an upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Files are uploaded as they are ready.
    #[default]
    Uploading,
    /// Nothing could be stored for a while; retries continue.
    Stuck,
    /// Nothing can be stored until an operator acts: wrong keys, no bucket, no space. Retries continue.
    Failed,
    /// Everything is stored.
    Stored,
    /// Nothing was recorded.
    Empty,
}

/// Exponential backoff with reachability checks, for one storage.
#[derive(Debug)]
pub(super) struct Backoff {
    stuck_after: Duration,
    initial_backoff: Duration,
    failures: u32,
    failing_since: Option<HostTime>,
    retry_at: Option<HostTime>,
    /// When to check whether the storage responds.
    check_at: Option<HostTime>,
    /// Whether the current attempt was triggered by a reachability check.
    retried_after_check: bool,
    /// Whether checks are ignored, as the storage responds to them but uploads fail.
    checks_misleading: bool,
    last_error_class: Option<ErrorClass>,
}

impl Backoff {
    /// Pauses double from `initial_backoff`. After `stuck_after` without success the state is stuck.
    pub(super) fn new(stuck_after: Duration, initial_backoff: Duration) -> Self {
        Self {
            stuck_after,
            initial_backoff,
            failures: 0,
            failing_since: None,
            retry_at: None,
            check_at: None,
            retried_after_check: false,
            checks_misleading: false,
            last_error_class: None,
        }
    }

    /// Whether a job may start now. While the storage fails, only one job runs at a time.
    pub(super) fn may_attempt(&self, now: HostTime, in_flight: usize) -> bool {
        self.failing_since.is_none() || (in_flight == 0 && self.retry_at.is_none_or(|at| at <= now))
    }

    /// When to try again, while the storage fails.
    pub(super) fn retry_at(&self) -> Option<HostTime> {
        self.retry_at
    }

    /// When to check whether the storage responds, while it fails.
    pub(super) fn check_at(&self) -> Option<HostTime> {
        self.check_at
    }

    /// Takes the result of a reachability check. A response triggers one attempt at once. If that fails,
    /// checks are ignored until one fails again, so that a storage that responds but fails gets growing
    /// pauses.
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

    /// Takes a failure. `jitter`, 0 to 1, spreads the retries of many uploads.
    pub(super) fn on_failure(&mut self, now: HostTime, class: ErrorClass, jitter: f64) {
        self.failing_since.get_or_insert(now);
        // Jobs that ran at the same time count as one failure.
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.failures += 1;
        let pause = exponential(self.initial_backoff, MAX_BACKOFF, self.failures - 1);
        self.retry_at = Some(now + pause.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0));
        self.last_error_class = Some(class);
        self.checks_misleading |= std::mem::take(&mut self.retried_after_check);
        // A reachability check cannot tell whether an operator has fixed the cause.
        self.check_at = (class == ErrorClass::Transient).then(|| now + REACHABILITY_CHECK_INTERVAL);
    }

    /// Since when nothing could be stored, if that lasts at least [`MIN_REPORTED_OUTAGE`].
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
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            backoff.on_failure(at(now), ErrorClass::Transient, 0.5);
            let next = backoff.retry_at().unwrap().since(at(0)).as_millis() as u64;
            assert!(
                !backoff.may_attempt(at(next - 1), 0)
                    && backoff.may_attempt(at(next), 0)
                    && !backoff.may_attempt(at(next), 1)
            );
            pauses.push((next - now) / 1000);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert_eq!(backoff.state(at(now)), State::Stuck);
        backoff.on_success();
        assert!(backoff.may_attempt(at(now), 3) && backoff.state(at(now)) == State::Uploading);
    }

    /// Simulates a storage that is away for `away_s`. Returns the time from its return to the first attempt,
    /// in ms.
    fn retry_delay_after_outage(away_s: u64, answers_meanwhile: bool) -> u64 {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        for ms in (0..).step_by(100) {
            let back = ms >= 1000 * away_s;
            if backoff.check_at().is_some_and(|due| due <= at(ms)) {
                backoff.on_check_result(at(ms), back || answers_meanwhile);
            }
            if !backoff.may_attempt(at(ms), 0) {
                continue;
            }
            if back {
                return ms - 1000 * away_s;
            }
            backoff.on_failure(at(ms), ErrorClass::Transient, 0.5);
        }
        unreachable!("it is tried eventually")
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
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        let mut tries = Vec::new();
        for s in 0..300 {
            if backoff.check_at().is_some_and(|due| due <= at(1000 * s)) {
                backoff.on_check_result(at(1000 * s), !(200..250).contains(&s));
            }
            if backoff.may_attempt(at(1000 * s), 0) {
                tries.push(s);
                backoff.on_failure(at(1000 * s), ErrorClass::Transient, 0.5);
            }
        }
        // The check at 5 s triggers one attempt. After checks have failed, the next response triggers
        // another.
        assert_eq!(tries, [0, 1, 3, 5, 13, 29, 61, 121, 181, 241, 251]);
    }

    #[test]
    fn an_outage_is_reported_when_it_lasts() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        backoff.on_failure(at(500), ErrorClass::Transient, 0.5);
        assert_eq!((backoff.outage_since(at(3400)), backoff.outage_since(at(3500))), (None, Some(at(500))));
        backoff.on_success();
        assert_eq!(backoff.outage_since(at(9000)), None);
    }

    #[test]
    fn what_fails_together_counts_once() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        for _ in 0..4 {
            backoff.on_failure(at(0), ErrorClass::Transient, 0.5);
        }
        assert_eq!(backoff.retry_at(), Some(at(1000)));
    }

    #[test]
    fn states() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        assert_eq!(backoff.state(at(0)), State::Uploading);
        backoff.on_failure(at(0), ErrorClass::Transient, 0.5);
        assert_eq!(backoff.state(at(59_999)), State::Uploading);
        assert_eq!(backoff.state(at(60_000)), State::Stuck);
        backoff.on_failure(at(60_000), ErrorClass::Denied, 0.5);
        assert_eq!(backoff.state(at(60_000)), State::Failed);
    }
}
