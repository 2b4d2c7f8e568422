//! Limits the number of open event streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most streams at once; each costs a task and a query for every change of the fleet. Further streams are
/// refused.
const MAX_STREAMS: usize = 512;
/// Most streams of one application, and of the administrator, so that one client cannot take all of them.
const MAX_STREAMS_PER_OWNER: usize = 64;

/// Number of open streams by owner.
#[derive(Default)]
pub(super) struct StreamLimiter(Mutex<HashMap<String, usize>>);

/// Permission for one stream; dropping it frees it.
pub(super) struct StreamPermit {
    limiter: Arc<StreamLimiter>,
    owner: String,
}

impl StreamLimiter {
    /// Takes a permit, if one is left.
    pub(super) fn try_acquire(self: &Arc<Self>, owner: &str) -> Option<StreamPermit> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= MAX_STREAMS
            || counts.get(owner).is_some_and(|count| *count >= MAX_STREAMS_PER_OWNER)
        {
            return None;
        }
        *counts.entry(owner.to_owned()).or_default() += 1;
        Some(StreamPermit { limiter: Arc::clone(self), owner: owner.to_owned() })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut counts = self.limiter.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_owner_takes_all_permits() {
        let streams = Arc::new(StreamLimiter::default());
        let mut permits: Vec<_> =
            (0..MAX_STREAMS_PER_OWNER).map(|_| streams.try_acquire("a").unwrap()).collect();
        assert!(streams.try_acquire("a").is_none() && streams.try_acquire("b").is_some());
        permits.pop();
        assert!(streams.try_acquire("a").is_some(), "a freed permit is available again");
        let others =
            (0..MAX_STREAMS).filter_map(|i| streams.try_acquire(&format!("app-{i}"))).collect::<Vec<_>>();
        assert_eq!(others.len() + permits.len(), MAX_STREAMS);
        drop((permits, others));
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
