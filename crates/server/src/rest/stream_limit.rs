//! How many streams of events there may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most streams at once. More are refused.
const MAX_STREAMS: usize = 512;
/// Most of them that one application may have; the administrator likewise.
const MAX_STREAMS_PER_OWNER: usize = 64;

/// Streams at the moment, by whose they are.
#[derive(Default)]
pub(super) struct StreamLimiter(Mutex<HashMap<String, usize>>);

/// A place for one stream, free again when this is dropped.
pub(super) struct StreamPermit {
    limiter: Arc<StreamLimiter>,
    owner: String,
}

impl StreamLimiter {
    /// A place, if there is one left.
    pub(super) fn try_acquire(self: &Arc<Self>, whose: &str) -> Option<StreamPermit> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= MAX_STREAMS
            || all.get(whose).is_some_and(|n| *n >= MAX_STREAMS_PER_OWNER)
        {
            return None;
        }
        *all.entry(whose.to_owned()).or_default() += 1;
        Some(StreamPermit { limiter: Arc::clone(self), owner: whose.to_owned() })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut all = self.limiter.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let streams = Arc::new(StreamLimiter::default());
        let mut places: Vec<_> =
            (0..MAX_STREAMS_PER_OWNER).map(|_| streams.try_acquire("a").unwrap()).collect();
        assert!(streams.try_acquire("a").is_none() && streams.try_acquire("b").is_some());
        places.pop();
        assert!(streams.try_acquire("a").is_some(), "a place that is free again is given again");
        let others =
            (0..MAX_STREAMS).filter_map(|i| streams.try_acquire(&format!("app-{i}"))).collect::<Vec<_>>();
        assert_eq!(others.len() + places.len(), MAX_STREAMS);
        drop((places, others));
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
