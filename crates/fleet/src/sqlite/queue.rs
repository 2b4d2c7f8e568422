//! Size and order of the queue, for servers.

use rusqlite::Connection;

use super::Shared;
use super::claims;
use super::row::{TxError, query_one};
use crate::QueueState;

pub(super) fn state(db: &Connection, shared: &Shared) -> Result<QueueState, TxError> {
    let sql = "SELECT count(*), ifnull(sum(weight), 0), min(created_ms)
               FROM casts INDEXED BY casts_waiting WHERE state = 0";
    let state = query_one(db, sql, [], |row| {
        let number = |n: usize| Ok::<_, TxError>(row.get::<_, i64>(n)?.max(0).unsigned_abs());
        Ok(QueueState { casts: number(0)?, weight: number(1)?, oldest_ms: row.get(2)?, order: Vec::new() })
    });
    let mut state = state?.unwrap_or_default();
    state.order = claims::queue_order(db, shared, None)?.into_iter().map(|row| row.cast.id).collect();
    Ok(state)
}
