//! Which node carries which embedded room.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::delivery::deadline_after;
use crate::{Error, WorkerId};

/// Time after its end for which a lease is remembered, in milliseconds. Until then, requests for sessions of
/// the room still reach its last owner.
pub(crate) const FORGET_AFTER_MS: i64 = 3_600_000;

/// The table of rooms: each belongs to the node that has its lease. It is not part of [`crate::Fleet`],
/// because only nodes that pass on signalling of rooms need it.
#[async_trait]
pub trait Rooms: Debug + Send + Sync {
    /// Gives a room to a node, unless another node has an unexpired lease; returns the node that has it now.
    /// A node that has the room already gets a new lease.
    ///
    /// # Errors
    /// The storage of the fleet fails.
    async fn assign_room(&self, room: &str, candidate: &WorkerId, lease: Duration)
    -> Result<WorkerId, Error>;

    /// Returns the node that has a room, or had it until its lease ended. `None` if nobody had it lately.
    ///
    /// # Errors
    /// The storage of the fleet fails.
    async fn room_owner(&self, room: &str) -> Result<Option<WorkerId>, Error>;

    /// Renews the leases of a node's rooms that are not empty, and returns those that another node has now.
    /// A room that nobody has becomes the node's own.
    ///
    /// # Errors
    /// The storage of the fleet fails.
    async fn renew_rooms(
        &self,
        node: &WorkerId,
        rooms: &[String],
        lease: Duration,
    ) -> Result<Vec<String>, Error>;

    /// Ends the leases of all rooms of a node.
    ///
    /// # Errors
    /// The storage of the fleet fails.
    async fn release_rooms(&self, node: &WorkerId) -> Result<(), Error>;
}

/// Rooms of a fleet of one process, in memory: the rooms themselves are gone when it ends.
#[derive(Debug, Default)]
pub(crate) struct RoomTable(Mutex<HashMap<String, RoomLease>>);

#[derive(Debug)]
struct RoomLease {
    node: WorkerId,
    /// End of the lease, in fleet time.
    until_ms: i64,
}

impl RoomTable {
    pub(crate) fn assign(&self, now_ms: i64, room: &str, candidate: &WorkerId, lease: Duration) -> WorkerId {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, lease| lease.until_ms > now_ms.saturating_sub(FORGET_AFTER_MS));
        if let Some(present) = rooms.get(room).filter(|lease| lease.belongs_to_other(candidate, now_ms)) {
            return present.node.clone();
        }
        let until_ms = deadline_after(now_ms, lease);
        rooms.insert(room.to_owned(), RoomLease { node: candidate.clone(), until_ms });
        candidate.clone()
    }

    pub(crate) fn owner(&self, now_ms: i64, room: &str) -> Option<WorkerId> {
        let rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest_ms = now_ms.saturating_sub(FORGET_AFTER_MS);
        rooms.get(room).filter(|lease| lease.until_ms > oldest_ms).map(|lease| lease.node.clone())
    }

    pub(crate) fn renew(
        &self,
        now_ms: i64,
        node: &WorkerId,
        renewed: &[String],
        lease: Duration,
    ) -> Vec<String> {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until_ms = deadline_after(now_ms, lease);
        let mut lost = Vec::new();
        for room in renewed {
            if rooms.get(room).is_some_and(|lease| lease.belongs_to_other(node, now_ms)) {
                lost.push(room.clone());
            } else {
                rooms.insert(room.clone(), RoomLease { node: node.clone(), until_ms });
            }
        }
        lost.sort();
        lost.dedup();
        lost
    }

    pub(crate) fn release(&self, now_ms: i64, node: &WorkerId) {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for lease in rooms.values_mut().filter(|lease| lease.node == *node) {
            lease.until_ms = lease.until_ms.min(now_ms);
        }
    }
}

impl RoomLease {
    /// Whether a node other than `node` has the room.
    fn belongs_to_other(&self, node: &WorkerId, now_ms: i64) -> bool {
        self.node != *node && self.until_ms > now_ms
    }
}
