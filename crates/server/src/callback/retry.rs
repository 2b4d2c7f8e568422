//! When a message that did not arrive is sent again.

use std::time::Duration;

use super::DeliveryPolicy;

/// Pauses when the vendor's tries are over and the application wants more: they grow from the one to the other.
const EXTENDED_DELAY_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(30)..=Duration::from_secs(600);

/// Pause after this many tries of a message that was first tried `age` ago; `None`: it is given up. The vendor's rule comes first;
/// then it goes on until the message is `patience` old, with a last try when it is just that old.
pub(super) fn retry_delay(
    rule: &DeliveryPolicy,
    patience: Duration,
    tries: u32,
    age: Duration,
) -> Option<Duration> {
    if let Some(pause) = (rule.retry_delay)(tries, age) {
        return Some(pause);
    }
    let left = patience.checked_sub(age).filter(|left| !left.is_zero())?;
    Some((age / 2).clamp(*EXTENDED_DELAY_RANGE.start(), *EXTENDED_DELAY_RANGE.end()).min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn volcengine(tries: u32, _: Duration) -> Option<Duration> {
        [S(1), S(5)].get(tries as usize - 1).copied()
    }

    fn tencent(tries: u32, age: Duration) -> Option<Duration> {
        let pause = if tries == 1 { S(0) } else { S(10) };
        (age + pause <= S(60)).then_some(pause)
    }

    #[test]
    fn the_vendor_first_and_then_patience() {
        let volcengine = DeliveryPolicy { timeout: S(5), retry_delay: volcengine };
        let tencent = DeliveryPolicy { timeout: S(5), retry_delay: tencent };
        for (what, rule, patience, tries, age, want) in [
            ("its second try", &volcengine, 0, 1, 5, Some(1)),
            ("its third", &volcengine, 0, 2, 11, Some(5)),
            ("no fourth", &volcengine, 0, 3, 21, None),
            ("but an application that wants more gets it", &volcengine, 3600, 3, 21, Some(30)),
            ("pauses grow", &volcengine, 3600, 4, 100, Some(50)),
            ("and grow", &volcengine, 86_400, 9, 1000, Some(500)),
            ("to ten minutes", &volcengine, 86_400, 30, 50_000, Some(600)),
            ("the last try is at the very end", &volcengine, 3600, 20, 3500, Some(100)),
            ("which is the end", &volcengine, 3600, 21, 3600, None),
            ("also later", &volcengine, 3600, 21, 10_000, None),
            ("patience that is shorter than the vendor's changes nothing", &volcengine, 1, 2, 11, Some(5)),
            ("at once", &tencent, 0, 1, 5, Some(0)),
            ("then every ten seconds", &tencent, 0, 2, 6, Some(10)),
            ("until a minute is over", &tencent, 0, 6, 51, None),
            ("or more", &tencent, 600, 6, 51, Some(30)),
        ] {
            assert_eq!(retry_delay(rule, S(patience), tries, S(age)), want.map(S), "{what}");
        }
    }

    #[test]
    fn a_receiver_that_never_answers_is_given_up() {
        let rule = DeliveryPolicy { timeout: S(5), retry_delay: volcengine };
        let (mut age, mut tries) = (Duration::ZERO, 0);
        while let Some(pause) = retry_delay(&rule, S(7200), tries + 1, age) {
            (age, tries) = (age + pause + S(5), tries + 1);
            assert!(tries < 100, "it is tried for ever");
        }
        assert!(tries > 15, "hours are more than {tries} tries");
        assert!(age <= S(7200 + 5) && age >= S(7200), "{age:?}");
    }
}
