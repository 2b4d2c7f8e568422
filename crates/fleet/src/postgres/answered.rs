//! Requests that nodes have answered: the [`AnsweredRequests`] part of the backend.

use std::time::Duration;

use async_trait::async_trait;

use super::PostgresFleet;
use super::sql::{TxError, execute, params, query_all};
use super::transaction::{Db, OPERATION_TIMEOUT, Read, Tx, Write};
use crate::answered::{AnsweredCursor, AnsweredRequest, AnsweredRequests, pack, unpack};
use crate::delivery::deadline_after;
use crate::{Error, UnixMs};

/// Context in which rows are sealed.
const CONTEXT: &str = "answered-requests";
/// Most rows that are read at a time: 5 MB.
const MAX_ROWS: i64 = 128;

struct Put {
    sealed: Vec<u8>,
    keep: Duration,
}

async fn put(tx: &Tx<'_>, args: &Put) -> Result<(), TxError> {
    let sql = "INSERT INTO answered_requests (at_ms, until_ms, content) VALUES ($1, $2, $3)";
    let until_ms = deadline_after(tx.fleet_now, args.keep);
    execute(tx.db(), sql, params![tx.fleet_now, until_ms, &args.sealed]).await.map(drop)
}

/// A row: its number, its fleet time, and sealed requests.
type Row = (i64, UnixMs, Vec<u8>);

async fn read(db: &Db<'_>, (after_ms, known): &(i64, Vec<i64>)) -> Result<Vec<Row>, TxError> {
    let sql = "SELECT n, at_ms, content FROM answered_requests WHERE at_ms > $1 AND n <> ALL ($2)
               ORDER BY n LIMIT $3";
    let params = params![*after_ms, known.clone(), MAX_ROWS];
    query_all(db.client, sql, params, |row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).await
}

#[async_trait]
impl AnsweredRequests for PostgresFleet {
    async fn put_answered(&self, requests: &[AnsweredRequest], keep: Duration) -> Result<(), Error> {
        let args = Put { sealed: self.shared.vault.seal(CONTEXT, &pack(requests)), keep };
        let put: Write<_, _> = |tx, args| Box::pin(put(tx, args));
        self.write("sharing answered requests", OPERATION_TIMEOUT, &args, put).await.map(drop)
    }

    async fn read_answered(&self, cursor: &mut AnsweredCursor) -> Result<Vec<AnsweredRequest>, Error> {
        let read: Read<_, _> = |db, args| Box::pin(read(db, args));
        let rows = self.read("reading answered requests", &cursor.unread_after(), read).await?;
        let mut requests = Vec::new();
        for (row, at_ms, sealed) in rows {
            match self.shared.vault.open(CONTEXT, &sealed) {
                Ok(packed) => requests.extend(unpack(&packed)),
                // It says nothing about other rows.
                Err(error) => tracing::warn!(row, %error, "answered requests cannot be read"),
            }
            cursor.add(row, at_ms);
        }
        Ok(requests)
    }
}
