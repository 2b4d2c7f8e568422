//! Size and order of the queue, for servers.

use super::claims;
use super::sql::{TxError, params, query_one};
use super::transaction::Db;
use crate::QueueState;

pub(super) async fn state(db: &Db<'_>, _: &()) -> Result<QueueState, TxError> {
    let sql = "SELECT count(*), coalesce(sum(weight), 0)::bigint, min(created_ms) FROM casts WHERE state = 0";
    let state = query_one(db.client, sql, params![], |row| {
        let number = |n: usize| Ok::<_, TxError>(row.try_get::<_, i64>(n)?.max(0).unsigned_abs());
        Ok(QueueState {
            casts: number(0)?,
            weight: number(1)?,
            oldest_ms: row.try_get(2)?,
            order: Vec::new(),
        })
    });
    let state = state.await?.unwrap_or_default();
    if state.casts == 0 {
        return Ok(state);
    }
    let now = db.clock().await?;
    let rows = claims::queue_order(db, now.fleet_ms(), None).await?;
    Ok(QueueState { order: rows.into_iter().map(|row| row.cast.id).collect(), ..state })
}
