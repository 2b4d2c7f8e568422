//! Decisions about limits of applications and of the queue, which every backend follows.

use crate::{CreateOutcome, NewCast};

/// How long a cast that ended before it was claimed counts towards the quota, in milliseconds. This limits
/// clients that create casts without a queue timeout, or stop them at once.
pub(crate) const UNSTARTED_QUOTA_WINDOW_MS: i64 = 60_000;

/// Share of the queue that each application has however full the queue is, as a divisor of its limit. So no
/// application keeps the others out.
const QUEUE_SHARE_DIVISOR: i64 = 10;

/// Numbers of casts that count when another one is to be created.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CastCounts {
    /// Casts of the application that have not ended.
    pub open: i64,
    /// Casts of the application that were created within [`UNSTARTED_QUOTA_WINDOW_MS`] and ended before a
    /// worker claimed them.
    pub unstarted: i64,
    /// Queued casts of the application.
    pub own_queued: i64,
    /// Queued casts of all applications.
    pub queued: i64,
}

/// The most [`CastCounts::unstarted`] that need to be counted for a cast.
pub(crate) fn max_unstarted(new: &NewCast) -> i64 {
    i64::from(new.quota).saturating_mul(2)
}

/// The outcome that refuses a cast, if these counts do not allow another one.
pub(crate) fn refusal(new: &NewCast, counts: CastCounts) -> Option<CreateOutcome> {
    if counts.open >= i64::from(new.quota) || counts.open + counts.unstarted >= max_unstarted(new) {
        return Some(CreateOutcome::QuotaExceeded);
    }
    let limit = i64::from(new.queue_limit);
    let is_full = counts.queued >= limit && counts.own_queued >= limit / QUEUE_SHARE_DIVISOR;
    is_full.then_some(CreateOutcome::QueueFull)
}

/// Bytes that the application's other casts may take if one of this size is created; `None` if it exceeds
/// the limit by itself.
pub(crate) fn bytes_left(new: &NewCast, bytes: usize) -> Option<u64> {
    new.max_bytes.checked_sub(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CastId, KeyRetention};
    use pagecast_core::CastSpec;
    use pagecast_core::spec::{Source, SourceUrl};
    use std::time::Duration;

    #[test]
    fn casts_that_never_started_count_up_to_twice_the_quota() {
        let new = NewCast {
            id: CastId::new(0, [0; 10]),
            app: "app".to_owned(),
            api: "test".to_owned(),
            key: None,
            key_retention: KeyRetention::UntilEnded,
            request: serde_json::Value::Null,
            spec: CastSpec::new(Source::new(SourceUrl::parse("http://a.example/").unwrap())),
            queue_timeout: Duration::ZERO,
            quota: 2,
            max_bytes: 10,
            queue_limit: 5,
            notify: false,
        };
        let outcome = |open, unstarted, queued| {
            refusal(&new, CastCounts { open, unstarted, own_queued: 0, queued })
                .map(|outcome| format!("{outcome:?}"))
        };
        assert_eq!(outcome(1, 2, 4), None);
        for (open, unstarted) in [(2, 0), (1, 3), (0, 4)] {
            assert_eq!(outcome(open, unstarted, 5).as_deref(), Some("QuotaExceeded"), "{open} {unstarted}");
        }
        assert_eq!(outcome(0, 0, 5).as_deref(), Some("QueueFull"));
        let new = NewCast { queue_limit: 39, quota: 100, ..new };
        let is_refused = |own_queued, queued| {
            refusal(&new, CastCounts { own_queued, queued, ..CastCounts::default() }).is_some()
        };
        assert!(!is_refused(38, 38) && !is_refused(2, 39) && !is_refused(2, 1000));
        assert!(is_refused(3, 39) && is_refused(39, 39));
        assert_eq!((bytes_left(&new, 10), bytes_left(&new, 11)), (Some(0), None));
    }
}
