//! Events to be delivered: the [`crate::Outbox`] part of the backend.
//!
//! A node claims the entries that it delivers for [`CLAIM_MS`]. No other node delivers an event of the same
//! cast meanwhile, so that each cast's events are delivered in order and one at a time.

use std::collections::HashSet;

use tokio_postgres::{Client, Row};

use super::Shared;
use super::history::read_event;
use super::row::{OUTBOX_CAST_COLUMNS, read_cast, read_cast_id, row_of, to_bigint};
use super::sql::{TxError, execute, params, query_all, query_one};
use super::transaction::{Db, Tx};
use crate::delivery::{MAX_DUE_BYTES, MAX_LOGGED_ATTEMPTS, PendingEntry, duration_between};
use crate::sealing::cast_context;
use crate::{Backlog, CastId, DeliveryAttempt, DeliveryOutcome, Error, OutboxEntry, RedeliverOutcome};

/// How long a node may deliver an entry before another one may, in milliseconds: longer than an attempt
/// takes.
const CLAIM_MS: i64 = 30_000;

/// Makes the first pending event of a cast due, at its own time if it has one, and all later ones not due.
async fn schedule_head(tx: &Tx<'_>, n: i64) -> Result<(), TxError> {
    let sql = "WITH head AS (SELECT min(seq) AS seq FROM outbox WHERE cast_n = $1 AND NOT given_up)
               UPDATE outbox
               SET next_ms = CASE WHEN outbox.seq = head.seq THEN coalesce(next_ms, $2) END
               FROM head
               WHERE cast_n = $1 AND NOT given_up AND (next_ms IS NOT NULL OR outbox.seq = head.seq)";
    execute(tx.db(), sql, params![n, tx.fleet_now]).await?;
    Ok(())
}

/// Entries that a node wants to deliver.
pub(super) struct ClaimDue {
    pub node: String,
    pub limit: usize,
    pub skip: HashSet<CastId>,
}

/// Whether an entry is due, for this node or another.
pub(super) async fn is_any_due(db: &Db<'_>, _: &()) -> Result<bool, TxError> {
    let columns = "EXISTS (SELECT 1 FROM outbox WHERE next_ms <= fleet_ms) AS due";
    Ok(db.clock_and(columns, params![], |row| Ok(row.try_get("due")?)).await?.1)
}

/// Claims due entries, the longest waiting first.
pub(super) async fn claim_due(tx: &Tx<'_>, args: &ClaimDue) -> Result<Vec<OutboxEntry>, TxError> {
    let ClaimDue { node, limit, skip } = args;
    let sql =
        "SELECT o.cast_n, (octet_length(request) + octet_length(spec) + octet_length(e.content))::bigint
         FROM outbox o JOIN casts c ON c.n = o.cast_n
         JOIN events e ON e.cast_n = o.cast_n AND e.seq = o.seq AND e.at_ms = o.at_ms
         WHERE o.next_ms <= $1 AND c.id <> ALL ($2)
           AND (o.claimed_by IS NULL OR o.claimed_by = $3 OR o.claimed_until_ms <= $1)
           AND NOT EXISTS (SELECT 1 FROM outbox other WHERE other.cast_n = o.cast_n
                           AND other.claimed_by <> $3 AND other.claimed_until_ms > $1)
         ORDER BY o.next_ms, o.cast_n LIMIT $4 FOR UPDATE OF o SKIP LOCKED";
    let skip: Vec<&str> = skip.iter().map(CastId::as_str).collect();
    let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
    let params = params![tx.fleet_now, skip, node.as_str(), limit];
    let found: Vec<(i64, i64)> =
        query_all(tx.db(), sql, params, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
    let mut bytes = 0;
    let fit = found.into_iter().take_while(|(_, size)| {
        let fits = bytes < MAX_DUE_BYTES;
        bytes += usize::try_from(*size).unwrap_or(0);
        fits
    });
    let rows: Vec<i64> = fit.map(|(n, _)| n).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "WITH claimed AS (
             UPDATE outbox SET claimed_by = $2, claimed_until_ms = $3
             WHERE cast_n = ANY ($1) AND next_ms <= $4
             RETURNING cast_n, seq, at_ms, next_ms, tries, first_try_ms, parts_done)
         SELECT {OUTBOX_CAST_COLUMNS}, e.seq, e.at_ms, e.content, tries, first_try_ms, parts_done
         FROM claimed JOIN casts ON n = claimed.cast_n
         JOIN events e ON e.cast_n = n AND e.seq = claimed.seq AND e.at_ms = claimed.at_ms
         ORDER BY next_ms, n"
    );
    let until = tx.fleet_now.saturating_add(CLAIM_MS);
    let params = params![rows, node.as_str(), until, tx.fleet_now];
    let read = query_all(tx.db(), &sql, params, |row| Ok(read_entry(tx.shared, row, tx.fleet_now))).await?;
    let mut entries = Vec::with_capacity(read.len());
    for entry in read {
        match entry {
            Ok(entry) => entries.push(entry),
            // An unreadable entry must not block the others.
            Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
                tracing::warn!(%error, "outbox entry unreadable, skipped");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

fn read_entry(shared: &Shared, row: &Row, now: i64) -> Result<OutboxEntry, TxError> {
    let number = |column| Ok::<_, TxError>(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX));
    let first_try: Option<i64> = row.try_get("first_try_ms")?;
    Ok(OutboxEntry {
        cast: read_cast(shared, row)?,
        event: read_event(shared, &read_cast_id(row)?, row)?,
        attempts: number("tries")?,
        since_first_attempt: first_try.map(|at| duration_between(at, now)),
        parts_delivered: number("parts_done")?,
    })
}

pub(super) async fn next_due_in(db: &Db<'_>, _: &()) -> Result<Option<std::time::Duration>, TxError> {
    let columns = "(SELECT next_ms FROM outbox WHERE next_ms > fleet_ms ORDER BY next_ms LIMIT 1) AS next_ms";
    let read = |row: &Row| Ok(row.try_get("next_ms")?);
    let (now, next_ms): (_, Option<i64>) = db.clock_and(columns, params![], read).await?;
    Ok(next_ms.map(|at| duration_between(now.fleet_ms(), at)))
}

/// Outcome of a delivery.
pub(super) struct Settle {
    pub node: String,
    pub cast: CastId,
    pub seq: u64,
    pub outcome: DeliveryOutcome,
    pub attempt: Option<DeliveryAttempt>,
}

/// Locks the row of a cast whose outbox is to change, so that this is done by one transaction at a time.
async fn lock_outbox(tx: &Tx<'_>, id: &CastId) -> Result<i64, TxError> {
    let sql = "SELECT n FROM casts WHERE id = $1 FOR NO KEY UPDATE";
    let found = query_one(tx.db(), sql, params![id.as_str()], |row| Ok(row.try_get(0)?)).await?;
    found.ok_or_else(|| Error::CastNotFound(id.clone()).into())
}

pub(super) async fn settle(tx: &mut Tx<'_>, args: &Settle) -> Result<(), TxError> {
    let Settle { node, cast, seq, outcome, attempt } = args;
    let (n, seq) = (lock_outbox(tx, cast).await?, to_bigint(*seq));
    if let Some(attempt) = attempt {
        log_attempt(tx, cast, n, attempt).await?;
    }
    // A node that was too slow must not settle what another one is delivering.
    let sql = "SELECT tries, first_try_ms, parts_done, next_ms FROM outbox
               WHERE cast_n = $1 AND seq = $2 AND NOT given_up
                 AND NOT coalesce(claimed_by <> $3 AND claimed_until_ms > $4, false)";
    let params = params![n, seq, node.as_str(), tx.fleet_now];
    let pending = query_one(tx.db(), sql, params, |row| {
        let (tries, first_try_ms) = (row.try_get(0)?, row.try_get(1)?);
        let (parts_done, next_ms) = (row.try_get(2)?, row.try_get(3)?);
        Ok(PendingEntry { tries, first_try_ms, parts_done, next_ms, given_up: false })
    })
    .await?;
    match pending.map(|entry| entry.settled(*outcome, attempt.as_ref(), tx.fleet_now)) {
        Some(Some(PendingEntry { tries, first_try_ms, parts_done, next_ms, given_up })) => {
            let sql = "UPDATE outbox SET tries = $1, first_try_ms = $2, parts_done = $3, next_ms = $4,
                           given_up = $5, claimed_by = NULL, claimed_until_ms = 0
                       WHERE cast_n = $6 AND seq = $7";
            let params = params![tries, first_try_ms, parts_done, next_ms, given_up, n, seq];
            execute(tx.db(), sql, params).await?;
        }
        Some(None) => {
            execute(tx.db(), "DELETE FROM outbox WHERE cast_n = $1 AND seq = $2", params![n, seq]).await?;
        }
        None => {}
    }
    schedule_head(tx, n).await?;
    tx.notify_changes();
    Ok(())
}

async fn log_attempt(tx: &Tx<'_>, id: &CastId, n: i64, attempt: &DeliveryAttempt) -> Result<(), TxError> {
    let sealed = tx.shared.seal(&cast_context(id, "attempt"), attempt)?;
    let added = sealed.len() as i64;
    // The new one is not seen by the other parts of the statement.
    let sql = "WITH new AS (INSERT INTO attempts (cast_n, content) VALUES ($1, $2)),
               gone AS (DELETE FROM attempts WHERE cast_n = $1 AND n <= (
                            SELECT n FROM attempts WHERE cast_n = $1 ORDER BY n DESC LIMIT 1 OFFSET $3)
                        RETURNING octet_length(content) AS bytes)
               UPDATE casts SET bytes = bytes + $4 - coalesce((SELECT sum(gone.bytes) FROM gone), 0)
               WHERE n = $1";
    execute(tx.db(), sql, params![n, sealed, MAX_LOGGED_ATTEMPTS - 1, added]).await?;
    Ok(())
}

pub(super) async fn attempts(db: &Db<'_>, id: &CastId) -> Result<Vec<DeliveryAttempt>, TxError> {
    let n = row_of(db.client, id).await?;
    let context = cast_context(id, "attempt");
    let sql = "SELECT content FROM attempts WHERE cast_n = $1 ORDER BY n";
    query_all(db.client, sql, params![n], |row| db.shared.open(&context, row.try_get(0)?)).await
}

/// Events to be delivered again.
pub(super) struct Redeliver {
    pub cast: CastId,
    pub seq: Option<u64>,
}

pub(super) async fn redeliver(tx: &mut Tx<'_>, args: &Redeliver) -> Result<RedeliverOutcome, TxError> {
    let n = lock_outbox(tx, &args.cast).await?;
    let fresh = "next_ms = $2, tries = 0, first_try_ms = NULL, parts_done = 0, given_up = false";
    let requeued = match args.seq {
        Some(seq) => {
            let sql = format!(
                "INSERT INTO outbox (cast_n, seq, at_ms, next_ms)
                 SELECT cast_n, seq, at_ms, $2 FROM events JOIN casts ON n = cast_n
                 WHERE cast_n = $1 AND seq = $3 AND notify
                 ON CONFLICT (cast_n, seq) DO UPDATE SET {fresh}"
            );
            execute(tx.db(), &sql, params![n, tx.fleet_now, to_bigint(seq)]).await?
        }
        None => {
            let sql = format!("UPDATE outbox SET {fresh} WHERE cast_n = $1 AND given_up");
            let requeued = execute(tx.db(), &sql, params![n, tx.fleet_now]).await?;
            // A request to redeliver also ends the delays of pending retries.
            let sql = "UPDATE outbox SET next_ms = $2 WHERE cast_n = $1 AND NOT given_up AND next_ms > $2";
            execute(tx.db(), sql, params![n, tx.fleet_now]).await?;
            requeued
        }
    };
    schedule_head(tx, n).await?;
    tx.notify_changes();
    let sql = "SELECT count(*), min(next_ms) FROM outbox WHERE cast_n = $1 AND NOT given_up";
    let found = query_one(tx.db(), sql, params![n], |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
    let (pending, next): (i64, Option<i64>) = found.unwrap_or_default();
    Ok(RedeliverOutcome {
        requeued,
        pending: pending.unsigned_abs(),
        next_due_in: next.map(|at| duration_between(tx.fleet_now, at)),
    })
}

pub(super) async fn backlog(db: &Db<'_>, _: &()) -> Result<Backlog, TxError> {
    let pending = "SELECT count(*), min(at_ms) FROM outbox WHERE NOT given_up";
    let (pending, oldest_event_ms) = count(db.client, pending).await?;
    let given_up = "SELECT count(*), NULL::bigint FROM outbox WHERE given_up";
    let (given_up, _) = count(db.client, given_up).await?;
    Ok(Backlog { pending, oldest_event_ms, given_up })
}

async fn count(client: &Client, sql: &str) -> Result<(u64, Option<i64>), TxError> {
    let read = |row: &Row| Ok((row.try_get::<_, i64>(0)?.unsigned_abs(), row.try_get(1)?));
    Ok(query_one(client, sql, params![], read).await?.unwrap_or_default())
}
