//! Rate limits of requests. They hold for all API nodes of a fleet together: each takes an equal share.

use std::fmt;
use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// Most keys that are tracked at once: about 1 MiB. When full, idle keys are dropped; if none is idle, every
/// request is refused.
const MAX_KEYS: usize = 10_000;

/// A rate limiter with a quota per key: so many requests per second, and bursts of the same size.
pub(crate) struct KeyedRateLimiter<C: Clock = DefaultClock> {
    limiter: RateLimiter<String, HashMapStateStore<String>, C, NoOpMiddleware<C::Instant>>,
    /// Largest burst: what the limiter admits at once.
    burst: NonZeroU32,
}

impl KeyedRateLimiter {
    /// Creates a limiter. A rate of 0 counts as 1.
    #[must_use]
    pub(crate) fn new(per_second: u32) -> Self {
        Self::with_clock(per_second, DefaultClock::default())
    }

    /// A limiter that never refills within a test, so that tests do not depend on their speed.
    #[cfg(test)]
    pub(crate) fn once_an_hour() -> Self {
        let quota = Quota::with_period(std::time::Duration::from_secs(3600)).unwrap();
        Self::with_quota(quota, DefaultClock::default())
    }
}

impl<C: Clock> KeyedRateLimiter<C> {
    fn with_clock(per_second: u32, clock: C) -> Self {
        let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN));
        Self::with_quota(quota, clock)
    }

    fn with_quota(quota: Quota, clock: C) -> Self {
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock);
        Self { limiter, burst: quota.burst_size() }
    }

    /// Counts a request and returns whether it is within this node's share of the quota: one of so many API
    /// nodes, where 0 counts as 1. However many there are, a node admits a request now and then. Call it for
    /// authenticated keys only, so that strangers cannot fill the table.
    #[must_use]
    pub(crate) fn check(&self, key: &str, api_nodes: u32) -> bool {
        if self.limiter.len() >= MAX_KEYS {
            self.limiter.retain_recent();
            if self.limiter.len() >= MAX_KEYS {
                return false;
            }
        }
        // Each request counts as if all nodes had got one.
        let count = NonZeroU32::new(api_nodes).unwrap_or(NonZeroU32::MIN).min(self.burst);
        matches!(self.limiter.check_key_n(&key.to_owned(), count), Ok(Ok(())))
    }
}

impl<C: Clock> fmt::Debug for KeyedRateLimiter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedRateLimiter").field("keys", &self.limiter.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn each_key_has_its_own_quota() {
        let clock = FakeRelativeClock::default();
        let limiter = KeyedRateLimiter::with_clock(20, clock.clone());
        let accepted = |key: &str, times: u32| (0..times).filter(|_| limiter.check(key, 0)).count();
        assert_eq!((accepted("a", 50), accepted("b", 5)), (20, 5));
        clock.advance(Duration::from_millis(500));
        assert_eq!((accepted("a", 50), accepted("b", 50)), (10, 20), "half a second refills half the quota");
        clock.advance(Duration::from_secs(3600));
        assert_eq!(accepted("a", 50), 20, "bursts are bounded");
    }

    #[test]
    fn a_quota_is_shared_by_the_nodes_of_a_fleet() {
        let clock = FakeRelativeClock::default();
        let limiter = KeyedRateLimiter::with_clock(20, clock.clone());
        let accepted = |nodes, times: u32| (0..times).filter(|_| limiter.check("a", nodes)).count();
        assert_eq!(accepted(3, 50), 6);
        let mut within_seconds = 0;
        for _ in 0..100 {
            clock.advance(Duration::from_millis(100));
            within_seconds += accepted(3, 50);
        }
        assert!((65..=67).contains(&within_seconds), "{within_seconds} in 10 s");
        clock.advance(Duration::from_secs(3600));
        assert_eq!(accepted(1, 50), 20, "the other nodes are gone");
        clock.advance(Duration::from_secs(1));
        assert_eq!(accepted(1000, 50), 1, "each node admits at least one now and then");
    }

    #[test]
    fn keys_are_bounded() {
        let clock = FakeRelativeClock::default();
        let limiter = KeyedRateLimiter::with_clock(1, clock.clone());
        let accepted =
            |from: usize| (from..from + 2 * MAX_KEYS).filter(|i| limiter.check(&i.to_string(), 1)).count();
        assert_eq!(accepted(0), MAX_KEYS);
        clock.advance(Duration::from_secs(10));
        assert_eq!(accepted(7 * MAX_KEYS), MAX_KEYS, "idle keys are dropped");
    }
}
