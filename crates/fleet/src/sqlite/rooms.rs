//! Rooms of the one process that uses the database: the [`Rooms`] part of the backend, in memory.

use std::time::Duration;

use async_trait::async_trait;

use super::SqliteFleet;
use crate::{Error, Rooms, WorkerId};

#[async_trait]
impl Rooms for SqliteFleet {
    async fn assign_room(
        &self,
        room: &str,
        candidate: &WorkerId,
        lease: Duration,
    ) -> Result<WorkerId, Error> {
        Ok(self.shared.rooms.assign(self.shared.clock.fleet_ms(), room, candidate, lease))
    }

    async fn room_owner(&self, room: &str) -> Result<Option<WorkerId>, Error> {
        Ok(self.shared.rooms.owner(self.shared.clock.fleet_ms(), room))
    }

    async fn renew_rooms(
        &self,
        node: &WorkerId,
        rooms: &[String],
        lease: Duration,
    ) -> Result<Vec<String>, Error> {
        Ok(self.shared.rooms.renew(self.shared.clock.fleet_ms(), node, rooms, lease))
    }

    async fn release_rooms(&self, node: &WorkerId) -> Result<(), Error> {
        self.shared.rooms.release(self.shared.clock.fleet_ms(), node);
        Ok(())
    }
}
