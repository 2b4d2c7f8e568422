//! Exponential backoff with a cap and jitter: the delay before the next attempt of something that failed.
//!
//! [`Backoff`] counts failures and draws the jitter; [`exponential`] is the bare formula, for callers that
//! count their failures elsewhere. Sans-IO: randomness comes from a seed.

use std::time::Duration;

/// Most doublings of a delay: 2¹⁶ times any delay worth waiting for exceeds every cap in use.
const MAX_DOUBLINGS: u32 = 16;

/// Delay after `failures` earlier failures, without jitter: `initial`, doubled for each of them, at most
/// `max`.
#[must_use]
pub fn exponential(initial: Duration, max: Duration, failures: u32) -> Duration {
    initial.saturating_mul(1 << failures.min(MAX_DOUBLINGS)).min(max)
}

/// Delays that grow with each failure, until a success resets them.
///
/// Half of each delay is fixed and half is random ("equal jitter"), so that many clients of one server do not
/// all come back at the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
    seed: u64,
}

impl Backoff {
    /// Starts at delays of up to `initial`, which double up to `max`. Equal seeds draw equal jitter.
    #[must_use]
    pub fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        Self { initial, max, failures: 0, seed }
    }

    /// Counts a failure, and returns the delay before the next attempt: between half and all of
    /// [`exponential`].
    pub fn next_delay(&mut self) -> Duration {
        let longest = exponential(self.initial, self.max, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.seed = splitmix64(self.seed);
        let fraction = f64::from((self.seed >> 32) as u32) / f64::from(u32::MAX);
        longest / 2 + (longest / 2).mul_f64(fraction)
    }

    /// Forgets the failures: the next delay is the shortest again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Changes the cap of the delays.
    pub fn set_max(&mut self, max: Duration) {
        self.max = max;
    }
}

/// Next value of the splitmix64 pseudo-random sequence.
fn splitmix64(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<_> = (0..7).map(|failures| exponential(MS(500), MS(4000), failures)).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 4000, 4000, 4000].map(MS));
        assert_eq!(exponential(Duration::MAX, Duration::MAX, u32::MAX), Duration::MAX, "no overflow");
    }

    #[test]
    fn jitter_keeps_half_of_each_delay_and_follows_the_seed() {
        let draw = |seed| {
            let mut backoff = Backoff::new(MS(1000), MS(30_000), seed);
            (0..10).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        for (failures, delay) in (0..).zip(draw(7)) {
            let longest = exponential(MS(1000), MS(30_000), failures);
            assert!((longest / 2..=longest).contains(&delay), "{failures}: {delay:?}");
        }
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_success_resets_the_delays() {
        let mut backoff = Backoff::new(MS(1000), MS(30_000), 1);
        for _ in 0..5 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= MS(1000));
    }
}
