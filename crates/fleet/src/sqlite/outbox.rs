//! Events to be delivered: the [`crate::Outbox`] part of the backend.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::Shared;
use super::history::read_event;
use super::row::{
    OUTBOX_CAST_COLUMNS, TxError, execute, query_all, query_one, read_cast, read_cast_id, rowid_of,
    to_sql_integer,
};
use super::writer::Tx;
use crate::delivery::{MAX_DUE_BYTES, MAX_LOGGED_ATTEMPTS, PendingEntry, duration_between};
use crate::sealing::cast_context;
use crate::{Backlog, CastId, DeliveryAttempt, DeliveryOutcome, Error, OutboxEntry, RedeliverOutcome};

/// Adds a new event to the outbox.
pub(super) fn enqueue(tx: &Tx<'_>, n: i64, seq: i64) -> Result<(), TxError> {
    execute(
        tx.db,
        "INSERT INTO outbox (whose, seq, at_ms, next_ms)
         SELECT ?1, ?2, ?3, iif(EXISTS (SELECT 1 FROM outbox WHERE whose = ?1 AND given_up = 0), NULL, ?4)",
        params![n, seq, tx.now, tx.fleet_now],
    )?;
    Ok(())
}

/// Makes the first pending event of a cast due, at its own time if it has one, and all later ones not due.
fn schedule_head(tx: &Tx<'_>, n: i64) -> Result<(), TxError> {
    let first = "SELECT min(seq) FROM outbox WHERE whose = ?1 AND given_up = 0";
    let sql = format!(
        "UPDATE outbox SET next_ms = iif(seq = ({first}), ifnull(next_ms, ?2), NULL)
         WHERE whose = ?1 AND given_up = 0 AND (next_ms IS NOT NULL OR seq = ({first}))"
    );
    execute(tx.db, &sql, params![n, tx.fleet_now])?;
    Ok(())
}

pub(super) fn due_entries(
    db: &Connection,
    shared: &Shared,
    limit: usize,
    skip: &HashSet<CastId>,
) -> Result<Vec<OutboxEntry>, TxError> {
    let sql = format!(
        "SELECT {OUTBOX_CAST_COLUMNS}, o.seq, o.tries, o.first_try_ms, o.parts_done, e.at_ms, e.what
         FROM outbox o INDEXED BY outbox_due JOIN events e ON e.whose = o.whose AND e.seq = o.seq JOIN \
         casts ON n = o.whose
         WHERE o.next_ms <= ? ORDER BY o.next_ms, o.whose"
    );
    let now = shared.clock.fleet_ms();
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query([now])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while entries.len() < limit
        && bytes < MAX_DUE_BYTES
        && let Some(row) = rows.next()?
    {
        if read_cast_id(row).is_ok_and(|id| skip.contains(&id)) {
            continue;
        }
        match read_entry(shared, row, now) {
            Ok(entry) => entries.push(entry),
            // An unreadable entry must not block the others.
            Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
                tracing::warn!(%error, "outbox entry unreadable, skipped");
            }
            Err(error) => return Err(error),
        }
        for column in ["request", "spec", "what"] {
            bytes += row.get_ref(column)?.as_blob().map_or(0, <[u8]>::len);
        }
    }
    Ok(entries)
}

fn read_entry(shared: &Shared, row: &rusqlite::Row<'_>, now: i64) -> Result<OutboxEntry, TxError> {
    let first_try: Option<i64> = row.get("first_try_ms")?;
    Ok(OutboxEntry {
        cast: read_cast(shared, row)?,
        event: read_event(shared, &read_cast_id(row)?, row)?,
        attempts: row.get("tries")?,
        since_first_attempt: first_try.map(|at| duration_between(at, now)),
        parts_delivered: row.get("parts_done")?,
    })
}

pub(super) fn next_due_in(db: &Connection, shared: &Shared) -> Result<Option<Duration>, TxError> {
    let now = shared.clock.fleet_ms();
    let sql = "SELECT next_ms FROM outbox INDEXED BY outbox_due WHERE next_ms > ? ORDER BY next_ms LIMIT 1";
    query_one(db, sql, [now], |row| Ok(duration_between(now, row.get(0)?)))
}

pub(super) fn settle(
    tx: &mut Tx<'_>,
    id: &CastId,
    seq: u64,
    outcome: DeliveryOutcome,
    attempt: Option<&DeliveryAttempt>,
) -> Result<(), TxError> {
    let (n, seq) = (rowid_of(tx.db, id)?, to_sql_integer(seq));
    if let Some(attempt) = attempt {
        log_attempt(tx, id, n, attempt)?;
    }
    let sql = "SELECT tries, first_try_ms, parts_done, next_ms FROM outbox
               WHERE whose = ? AND seq = ? AND given_up = 0";
    let pending = query_one(tx.db, sql, params![n, seq], |row| {
        let (tries, first_try_ms) = (row.get(0)?, row.get(1)?);
        let (parts_done, next_ms) = (row.get(2)?, row.get(3)?);
        Ok(PendingEntry { tries, first_try_ms, parts_done, next_ms, given_up: false })
    })?;
    match pending.map(|entry| entry.settled(outcome, attempt, tx.fleet_now)) {
        Some(Some(entry)) => {
            let PendingEntry { tries, first_try_ms, parts_done, next_ms, given_up } = entry;
            let sql = "UPDATE outbox SET tries = ?, first_try_ms = ?, parts_done = ?, next_ms = ?,
                       given_up = ? WHERE whose = ? AND seq = ?";
            let params = params![tries, first_try_ms, parts_done, next_ms, given_up, n, seq];
            execute(tx.db, sql, params)?;
        }
        Some(None) => {
            execute(tx.db, "DELETE FROM outbox WHERE whose = ? AND seq = ?", params![n, seq])?;
        }
        None => {}
    }
    schedule_head(tx, n)?;
    tx.notify_changes();
    Ok(())
}

fn log_attempt(tx: &Tx<'_>, id: &CastId, n: i64, attempt: &DeliveryAttempt) -> Result<(), TxError> {
    let sealed = tx.shared.seal(&cast_context(id, "attempt"), attempt)?;
    let added = sealed.len() as i64;
    execute(tx.db, "INSERT INTO attempts (whose, attempt) VALUES (?, ?)", params![n, sealed])?;
    let oldest =
        "whose = ?1 AND n <= (SELECT n FROM attempts WHERE whose = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2)";
    let removed = format!("DELETE FROM attempts WHERE {oldest} RETURNING length(attempt)");
    let removed: Vec<i64> =
        query_all(tx.db, &removed, params![n, MAX_LOGGED_ATTEMPTS], |row| Ok(row.get(0)?))?;
    let grown = added - removed.iter().sum::<i64>();
    execute(tx.db, "UPDATE casts SET bytes = bytes + ? WHERE n = ?", [grown, n])?;
    Ok(())
}

pub(super) fn attempts(
    db: &Connection,
    shared: &Shared,
    id: &CastId,
) -> Result<Vec<DeliveryAttempt>, TxError> {
    let n = rowid_of(db, id)?;
    let context = cast_context(id, "attempt");
    query_all(db, "SELECT attempt FROM attempts WHERE whose = ? ORDER BY n", [n], |row| {
        let sealed: Vec<u8> = row.get(0)?;
        shared.open(&context, &sealed)
    })
}

pub(super) fn redeliver(tx: &mut Tx<'_>, id: &CastId, seq: Option<u64>) -> Result<RedeliverOutcome, TxError> {
    let n = rowid_of(tx.db, id)?;
    let fresh = "next_ms = ?2, tries = 0, first_try_ms = NULL, parts_done = 0, given_up = 0";
    let requeued = match seq {
        Some(seq) => {
            let sql = format!(
                "INSERT INTO outbox (whose, seq, at_ms, next_ms)
                 SELECT e.whose, e.seq, e.at_ms, ?2 FROM events e JOIN casts ON n = e.whose
                 WHERE e.whose = ?1 AND e.seq = ?3 AND notify = 1
                 ON CONFLICT DO UPDATE SET {fresh}"
            );
            execute(tx.db, &sql, params![n, tx.fleet_now, to_sql_integer(seq)])?
        }
        None => {
            let sql = format!("UPDATE outbox SET {fresh} WHERE whose = ?1 AND given_up = 1");
            let requeued = execute(tx.db, &sql, params![n, tx.fleet_now])?;
            // A request to redeliver also ends the delays of pending retries.
            let sql = "UPDATE outbox SET next_ms = ?2 WHERE whose = ?1 AND given_up = 0 AND next_ms > ?2";
            execute(tx.db, sql, params![n, tx.fleet_now])?;
            requeued
        }
    };
    schedule_head(tx, n)?;
    tx.notify_changes();
    let sql = "SELECT count(*), min(next_ms) FROM outbox WHERE whose = ? AND given_up = 0";
    let found = query_one(tx.db, sql, [n], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)))?;
    let (pending, next) = found.unwrap_or_default();
    Ok(RedeliverOutcome {
        requeued: requeued as u64,
        pending: pending.unsigned_abs(),
        next_due_in: next.map(|at| duration_between(tx.fleet_now, at)),
    })
}

pub(super) fn backlog(db: &Connection) -> Result<Backlog, TxError> {
    let pending = "SELECT count(*), min(at_ms) FROM outbox WHERE given_up = 0";
    let (pending, oldest_event_ms) =
        query_one(db, pending, [], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?.unwrap_or_default();
    let given_up = "SELECT count(*) FROM outbox WHERE given_up = 1";
    let given_up = query_one(db, given_up, [], |row| Ok(row.get::<_, i64>(0)?))?.unwrap_or_default();
    Ok(Backlog { pending: pending.unsigned_abs(), oldest_event_ms, given_up: given_up.unsigned_abs() })
}
