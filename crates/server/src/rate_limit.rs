//! How often somebody may ask.

use std::fmt;
use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// Names that are counted at the same time. Full: those that did not ask lately are forgotten; if that is not enough, all are
/// refused until it is.
const MAX_KEYS: usize = 10_000;

/// So many requests a second for each of several names, and as many at once after a pause.
pub(crate) struct KeyedRateLimiter<C: Clock = DefaultClock>(
    RateLimiter<String, HashMapStateStore<String>, C, NoOpMiddleware<C::Instant>>,
);

impl KeyedRateLimiter {
    /// This many a second, 1 at least.
    #[must_use]
    pub(crate) fn new(per_second: u32) -> Self {
        Self::with_clock(per_second, DefaultClock::default())
    }

    /// For tests that must not depend on how fast they are.
    #[cfg(test)]
    pub(crate) fn once_an_hour() -> Self {
        let quota = Quota::with_period(std::time::Duration::from_secs(3600)).unwrap();
        Self(RateLimiter::new(quota, HashMapStateStore::default(), DefaultClock::default()))
    }
}

impl<C: Clock> KeyedRateLimiter<C> {
    fn with_clock(per_second: u32, clock: C) -> Self {
        let quota = Quota::per_second(NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN));
        Self(RateLimiter::new(quota, HashMapStateStore::default(), clock))
    }

    /// Counts a request of this name, and says whether it may be carried out. Names come from outside: only those that proved
    /// who they are should get here.
    #[must_use]
    pub(crate) fn check(&self, key: &str) -> bool {
        if self.0.len() >= MAX_KEYS {
            self.0.retain_recent();
            if self.0.len() >= MAX_KEYS {
                return false;
            }
        }
        self.0.check_key(&key.to_owned()).is_ok()
    }
}

impl<C: Clock> fmt::Debug for KeyedRateLimiter<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("keys", &self.0.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn each_name_has_its_own_rate() {
        let clock = FakeRelativeClock::default();
        let limits = KeyedRateLimiter::with_clock(20, clock.clone());
        let asked = |key: &str, times: u32| (0..times).filter(|_| limits.check(key)).count();
        assert_eq!((asked("a", 50), asked("b", 5)), (20, 5));
        clock.advance(Duration::from_millis(500));
        assert_eq!((asked("a", 50), asked("b", 50)), (10, 20), "half a second, half of it");
        clock.advance(Duration::from_secs(3600));
        assert_eq!(asked("a", 50), 20, "nothing is saved up");
    }

    #[test]
    fn names_are_bounded() {
        let clock = FakeRelativeClock::default();
        let limits = KeyedRateLimiter::with_clock(1, clock.clone());
        let accepted =
            |from: usize| (from..from + 2 * MAX_KEYS).filter(|i| limits.check(&i.to_string())).count();
        assert_eq!(accepted(0), MAX_KEYS);
        clock.advance(Duration::from_secs(10));
        assert_eq!(accepted(7 * MAX_KEYS), MAX_KEYS, "those that rest are forgotten");
    }
}
