//! Which node carries which room: the [`Rooms`] part of the backend.
//!
//! Each operation is one statement that may be repeated, with the fleet's time of a statement before it.

use std::time::Duration;

use async_trait::async_trait;

use super::PostgresFleet;
use super::sql::{TxError, execute, params, query_all, query_one};
use super::transaction::Db;
use crate::delivery::deadline_after;
use crate::rooms::FORGET_AFTER_MS;
use crate::{Error, Rooms, WorkerId};

/// A room, and the node that shall have it.
struct Assign {
    room: String,
    candidate: WorkerId,
    lease: Duration,
}

async fn assign(db: &Db<'_>, args: &Assign) -> Result<WorkerId, TxError> {
    let now = db.clock().await?.fleet_ms();
    // Few rooms are assigned, so this is the moment to forget old ones.
    let forget = "DELETE FROM rooms WHERE until_ms <= $1";
    execute(db.client, forget, params![now.saturating_sub(FORGET_AFTER_MS)]).await?;
    let sql = "INSERT INTO rooms (room, node, until_ms) VALUES ($1, $2, $3)
               ON CONFLICT (room) DO UPDATE SET node = excluded.node, until_ms = excluded.until_ms
               WHERE rooms.node = excluded.node OR rooms.until_ms <= $4
               RETURNING node";
    let (room, candidate) = (args.room.as_str(), args.candidate.0.as_str());
    let params = params![room, candidate, deadline_after(now, args.lease), now];
    let assigned = query_one(db.client, sql, params, |row| Ok(WorkerId(row.try_get(0)?))).await?;
    match assigned {
        Some(node) => Ok(node),
        // The present owner may just have been forgotten: then the next attempt succeeds.
        None => owner(db, &args.room).await?.ok_or(TxError::Conflict),
    }
}

async fn owner(db: &Db<'_>, room: &String) -> Result<Option<WorkerId>, TxError> {
    let sql = "SELECT node FROM rooms, clock WHERE room = $1 AND until_ms > wall_ms() + offset_ms - $2";
    query_one(db.client, sql, params![room, FORGET_AFTER_MS], |row| Ok(WorkerId(row.try_get(0)?))).await
}

/// Rooms that are not empty, and their node.
struct Renew {
    node: WorkerId,
    rooms: Vec<String>,
    lease: Duration,
}

async fn renew(db: &Db<'_>, args: &Renew) -> Result<Vec<String>, TxError> {
    let now = db.clock().await?.fleet_ms();
    let sql = "WITH occupied AS (SELECT DISTINCT unnest($1) COLLATE \"C\" AS room ORDER BY room),
                    renewed AS (
                        INSERT INTO rooms (room, node, until_ms) SELECT room, $2, $3 FROM occupied
                        ON CONFLICT (room) DO UPDATE SET node = excluded.node, until_ms = excluded.until_ms
                        WHERE rooms.node = excluded.node OR rooms.until_ms <= $4
                        RETURNING room)
               SELECT room FROM occupied EXCEPT SELECT room FROM renewed ORDER BY room";
    let (rooms, node) = (args.rooms.clone(), args.node.0.as_str());
    let params = params![rooms, node, deadline_after(now, args.lease), now];
    query_all(db.client, sql, params, |row| Ok(row.try_get(0)?)).await
}

async fn release(db: &Db<'_>, node: &WorkerId) -> Result<(), TxError> {
    let sql = "UPDATE rooms SET until_ms = wall_ms() + offset_ms FROM clock
               WHERE node = $1 AND until_ms > wall_ms() + offset_ms";
    execute(db.client, sql, params![node.0.as_str()]).await.map(drop)
}

#[async_trait]
impl Rooms for PostgresFleet {
    async fn assign_room(
        &self,
        room: &str,
        candidate: &WorkerId,
        lease: Duration,
    ) -> Result<WorkerId, Error> {
        let args = Assign { room: room.to_owned(), candidate: candidate.clone(), lease };
        self.read("assigning a room", &args, |db, args| Box::pin(assign(db, args))).await
    }

    async fn room_owner(&self, room: &str) -> Result<Option<WorkerId>, Error> {
        let room = room.to_owned();
        self.read("finding the node of a room", &room, |db, room| Box::pin(owner(db, room))).await
    }

    async fn renew_rooms(
        &self,
        node: &WorkerId,
        rooms: &[String],
        lease: Duration,
    ) -> Result<Vec<String>, Error> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let args = Renew { node: node.clone(), rooms: rooms.to_vec(), lease };
        self.read("renewing rooms", &args, |db, args| Box::pin(renew(db, args))).await
    }

    async fn release_rooms(&self, node: &WorkerId) -> Result<(), Error> {
        self.read("releasing rooms", node, |db, node| Box::pin(release(db, node))).await
    }
}
