//! Decisions about the delivery of events, which every backend follows: attempts, delays, and when delivery
//! is given up.
//!
//! Only the first pending event of each cast has a due time; the next one gets it when the first is settled.
//! So a long backlog of a cast does not have to be searched for its next event.

use std::time::Duration;

use crate::{DeliveryAttempt, DeliveryOutcome, MAX_RETRY_DELAY};

/// Maximum number of delivery attempts kept per cast.
pub(crate) const MAX_LOGGED_ATTEMPTS: i64 = 1000;
/// Sealed bytes after which a read of due entries stops: about a thousand typical ones. For more, callers
/// skip the casts they already have.
pub(crate) const MAX_DUE_BYTES: usize = 4 << 20;

/// State of an outbox entry whose delivery is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingEntry {
    /// Number of failed attempts.
    pub tries: i64,
    /// Fleet time of the first attempt.
    pub first_try_ms: Option<i64>,
    /// Number of messages delivered.
    pub parts_done: i64,
    /// Fleet time at which the entry is due; `None` if an earlier event is pending.
    pub next_ms: Option<i64>,
    /// Whether delivery was given up.
    pub given_up: bool,
}

impl PendingEntry {
    /// The entry after an attempt that finished now with this outcome; `None` if it was delivered.
    pub(crate) fn settled(
        self,
        outcome: DeliveryOutcome,
        attempt: Option<&DeliveryAttempt>,
        fleet_now: i64,
    ) -> Option<Self> {
        let took = attempt.map_or(0, |attempt| i64::try_from(attempt.took_ms).unwrap_or(0));
        let failed = Self {
            tries: self.tries.saturating_add(1),
            first_try_ms: self.first_try_ms.or(Some(fleet_now.saturating_sub(took))),
            ..self
        };
        match outcome {
            DeliveryOutcome::Delivered => None,
            // Attempts are counted anew for the next message.
            DeliveryOutcome::PartDelivered(parts) => Some(Self {
                parts_done: self.parts_done.max(parts.into()),
                tries: 0,
                first_try_ms: None,
                ..self
            }),
            DeliveryOutcome::RetryAfter(delay) => {
                let at = deadline_after(fleet_now, delay.min(MAX_RETRY_DELAY));
                Some(Self { next_ms: self.next_ms.map(|_| at), ..failed })
            }
            DeliveryOutcome::GivenUp => Some(Self { next_ms: None, given_up: true, ..failed }),
        }
    }
}

/// Fleet time at which `time` from now has passed.
pub(crate) fn deadline_after(now: i64, time: Duration) -> i64 {
    now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// Duration between two times in milliseconds; zero if `to` is earlier.
pub(crate) fn duration_between(from: i64, to: i64) -> Duration {
    Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: PendingEntry =
        PendingEntry { tries: 0, first_try_ms: None, parts_done: 0, next_ms: Some(5), given_up: false };

    #[test]
    fn attempts_are_counted_per_message() {
        let retry = DeliveryOutcome::RetryAfter(Duration::from_secs(1));
        let once = NEW.settled(retry, None, 100).unwrap();
        assert_eq!(once, PendingEntry { tries: 1, first_try_ms: Some(100), next_ms: Some(1100), ..NEW });
        let twice = once.settled(retry, None, 2000).unwrap();
        assert_eq!((twice.tries, twice.first_try_ms, twice.next_ms), (2, Some(100), Some(3000)));
        let part = twice.settled(DeliveryOutcome::PartDelivered(2), None, 4000).unwrap();
        assert_eq!((part.tries, part.first_try_ms, part.parts_done), (0, None, 2));
        let behind = PendingEntry { next_ms: None, ..NEW };
        assert_eq!(behind.settled(retry, None, 1).unwrap().next_ms, None, "an earlier event is pending");
        assert!(NEW.settled(DeliveryOutcome::GivenUp, None, 1).unwrap().given_up);
        assert_eq!(NEW.settled(DeliveryOutcome::Delivered, None, 1), None);
        let late = NEW.settled(DeliveryOutcome::RetryAfter(Duration::MAX), None, 0).unwrap();
        assert_eq!(late.next_ms, Some(MAX_RETRY_DELAY.as_millis() as i64));
    }
}
