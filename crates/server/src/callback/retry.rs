//! Delays between the attempts to deliver a webhook.

use std::time::Duration;

use super::DeliveryPolicy;

/// Range of the growing delays during `extra_retry_s`: short enough to deliver soon after a restart of the
/// receiver, long enough not to burden it for days.
const EXTENDED_DELAY_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(30)..=Duration::from_secs(600);

/// Returns the delay after `attempts` failed attempts, the first of them `age` ago, or `None` to give up. The
/// vendor's policy comes first. After it, attempts go on until `age` reaches `max_age`, with the last one
/// exactly then.
pub(super) fn retry_delay(
    policy: &DeliveryPolicy,
    max_age: Duration,
    attempts: u32,
    age: Duration,
) -> Option<Duration> {
    if let Some(delay) = (policy.retry_delay)(attempts, age) {
        return Some(delay);
    }
    let left = max_age.checked_sub(age).filter(|left| !left.is_zero())?;
    Some((age / 2).clamp(*EXTENDED_DELAY_RANGE.start(), *EXTENDED_DELAY_RANGE.end()).min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn volcengine(attempts: u32, _: Duration) -> Option<Duration> {
        [S(1), S(5)].get(attempts as usize - 1).copied()
    }

    fn tencent(attempts: u32, age: Duration) -> Option<Duration> {
        let delay = if attempts == 1 { S(0) } else { S(10) };
        (age + delay <= S(60)).then_some(delay)
    }

    #[test]
    fn the_vendors_policy_comes_first() {
        let volcengine = DeliveryPolicy { timeout: S(5), retry_delay: volcengine };
        let tencent = DeliveryPolicy { timeout: S(5), retry_delay: tencent };
        for (case, policy, max_age, attempts, age, want) in [
            ("Volcengine, second attempt", &volcengine, 0, 1, 5, Some(1)),
            ("third attempt", &volcengine, 0, 2, 11, Some(5)),
            ("no fourth attempt", &volcengine, 0, 3, 21, None),
            ("a fourth attempt with extra_retry_s", &volcengine, 3600, 3, 21, Some(30)),
            ("delays grow", &volcengine, 3600, 4, 100, Some(50)),
            ("to half of the age", &volcengine, 86_400, 9, 1000, Some(500)),
            ("up to ten minutes", &volcengine, 86_400, 30, 50_000, Some(600)),
            ("the last attempt is at the very end", &volcengine, 3600, 20, 3500, Some(100)),
            ("no attempt after the end", &volcengine, 3600, 21, 3600, None),
            ("nor later", &volcengine, 3600, 21, 10_000, None),
            ("extra_retry_s does not shorten the vendor's policy", &volcengine, 1, 2, 11, Some(5)),
            ("Tencent, immediately", &tencent, 0, 1, 5, Some(0)),
            ("every ten seconds", &tencent, 0, 2, 6, Some(10)),
            ("for a minute", &tencent, 0, 6, 51, None),
            ("or longer with extra_retry_s", &tencent, 600, 6, 51, Some(30)),
        ] {
            assert_eq!(retry_delay(policy, S(max_age), attempts, S(age)), want.map(S), "{case}");
        }
    }

    #[test]
    fn deliveries_end_at_the_maximum_age() {
        let policy = DeliveryPolicy { timeout: S(5), retry_delay: volcengine };
        let (mut age, mut attempts) = (Duration::ZERO, 0);
        while let Some(delay) = retry_delay(&policy, S(7200), attempts + 1, age) {
            (age, attempts) = (age + delay + S(5), attempts + 1);
            assert!(attempts < 100, "the attempts never end");
        }
        assert!(attempts > 15, "{attempts} attempts in two hours");
        assert!(age <= S(7200 + 5) && age >= S(7200), "{age:?}");
    }
}
