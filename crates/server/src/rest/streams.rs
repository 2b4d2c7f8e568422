//! How many streams of events there may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most streams at once. More are refused.
const MAX_STREAMS: usize = 512;
/// Most of them that one application may have; the administrator likewise.
const MAX_OF_ONE: usize = 64;

/// Streams at the moment, by whose they are.
#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<String, usize>>);

/// A place for one stream, free again when this is dropped.
pub(super) struct Place {
    streams: Arc<Streams>,
    whose: String,
}

impl Streams {
    /// A place, if there is one left.
    pub(super) fn take(self: &Arc<Self>, whose: &str) -> Option<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.values().sum::<usize>() >= MAX_STREAMS || all.get(whose).is_some_and(|n| *n >= MAX_OF_ONE) {
            return None;
        }
        *all.entry(whose.to_owned()).or_default() += 1;
        Some(Place { streams: Arc::clone(self), whose: whose.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let streams = Arc::new(Streams::default());
        let mut places: Vec<_> = (0..MAX_OF_ONE).map(|_| streams.take("a").unwrap()).collect();
        assert!(streams.take("a").is_none() && streams.take("b").is_some());
        places.pop();
        assert!(streams.take("a").is_some(), "a place that is free again is given again");
        let others = (0..MAX_STREAMS).filter_map(|i| streams.take(&format!("app-{i}"))).collect::<Vec<_>>();
        assert_eq!(others.len() + places.len(), MAX_STREAMS);
        drop((places, others));
        assert!(streams.0.lock().unwrap().is_empty());
    }
}
