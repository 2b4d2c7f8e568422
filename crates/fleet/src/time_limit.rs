//! Time that one caller gives all of its operations together.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    /// What is left of the caller's time.
    static TIME_LEFT: Cell<Duration>;
}

/// Runs `work`, and lets its operations on a fleet take `limit` in all. When it is used up, they fail with
/// [`Error::Unavailable`](crate::Error::Unavailable), or as their last attempt did. What else `work` waits
/// for does not count.
pub async fn with_time_limit<F: Future>(limit: Duration, work: F) -> F::Output {
    TIME_LEFT.scope(Cell::new(limit), work).await
}

/// A running operation, which uses up the time of its caller.
pub(crate) struct OperationTimer {
    began: Instant,
    /// When the operation must end.
    pub(crate) deadline: Instant,
}

impl OperationTimer {
    /// Starts an operation that may take so long if its caller has the time.
    pub(crate) fn start(within: Duration) -> Self {
        let left = TIME_LEFT.try_with(Cell::get).unwrap_or(Duration::MAX);
        let began = Instant::now();
        Self { began, deadline: began + within.min(left) }
    }
}

impl Drop for OperationTimer {
    fn drop(&mut self) {
        let elapsed = self.began.elapsed();
        // Most callers have no limit.
        let _unlimited = TIME_LEFT.try_with(|left| left.set(left.get().saturating_sub(elapsed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operation that works for so long, if it has the time.
    async fn operation(work: Duration) -> bool {
        let timer = OperationTimer::start(Duration::from_secs(15));
        tokio::time::timeout_at(timer.deadline, tokio::time::sleep(work)).await.is_ok()
    }

    #[tokio::test]
    async fn operations_of_a_caller_share_its_time() {
        let (limit, never) = (Duration::from_millis(600), Duration::from_secs(3600));
        let began = Instant::now();
        with_time_limit(limit, async {
            // What else the caller waits for does not count.
            tokio::time::sleep(2 * limit).await;
            assert!(operation(limit / 6).await);
            assert!(!operation(never).await);
            assert!(!operation(never).await, "nothing is left");
        })
        .await;
        let elapsed = began.elapsed();
        assert!((3 * limit..3 * limit + Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
        let unlimited = tokio::time::timeout(2 * limit, operation(never)).await;
        assert!(unlimited.is_err(), "others have no limit");
    }
}
