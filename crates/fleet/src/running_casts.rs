//! The casts that run on this node now, as other nodes may ask for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{CastId, Ticket};

/// A cast that runs on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningCast {
    /// Id of the cast.
    pub id: CastId,
    /// Epoch of the lease under which the node runs it.
    pub epoch: u64,
}

/// Casts that run on this node, each with the epoch of its lease. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct RunningCasts(Arc<Mutex<BTreeMap<CastId, u64>>>);

impl RunningCasts {
    /// Adds a cast, which runs under this ticket until the result is dropped.
    #[must_use]
    pub fn add(&self, ticket: &Ticket) -> RunningCastGuard {
        let cast = RunningCast { id: ticket.cast.clone(), epoch: ticket.epoch };
        self.lock().insert(cast.id.clone(), cast.epoch);
        RunningCastGuard { casts: self.clone(), cast }
    }

    /// Returns whether a cast runs here.
    #[must_use]
    pub fn contains(&self, cast: &CastId) -> bool {
        self.lock().contains_key(cast)
    }

    /// Returns all casts, ordered by id.
    #[must_use]
    pub fn list(&self) -> Vec<RunningCast> {
        self.lock().iter().map(|(id, epoch)| RunningCast { id: id.clone(), epoch: *epoch }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CastId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a cast in the list of those that run.
#[derive(Debug)]
pub struct RunningCastGuard {
    casts: RunningCasts,
    cast: RunningCast,
}

impl Drop for RunningCastGuard {
    fn drop(&mut self) {
        let mut casts = self.casts.lock();
        // The cast may run again under a newer ticket.
        if casts.get(&self.cast.id) == Some(&self.cast.epoch) {
            casts.remove(&self.cast.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerId;

    #[test]
    fn a_cast_is_listed_while_it_runs() {
        let ticket = |epoch| Ticket {
            cast: CastId::new(1, [7; 10]),
            worker: WorkerId("w".to_owned()),
            epoch,
            nonce: 0,
        };
        let casts = RunningCasts::default();
        let shared = casts.clone();
        let first = casts.add(&ticket(1));
        let second = casts.add(&ticket(2));
        drop(first);
        assert_eq!(shared.list(), [RunningCast { id: ticket(2).cast, epoch: 2 }]);
        drop(second);
        assert!(!shared.contains(&ticket(2).cast) && shared.list().is_empty());
    }
}
