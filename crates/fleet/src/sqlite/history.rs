//! History of casts: each event is an entry of the history and of the outbox.

use rusqlite::{Connection, params};

use super::Shared;
use super::claims::verify_ticket;
use super::outbox;
use super::row::{CastRow, TxError, execute, query_all, query_one, rowid_of, seal_context, to_sql_integer};
use super::writer::Tx;
use crate::{CastEnd, CastId, CastState, Error, Event, EventKind, MAX_EVENTS, Ticket};

/// Maximum number of events returned at once.
const MAX_READ: usize = 10_000;

/// Context in which an event is sealed.
pub(super) fn event_seal_context(id: &CastId, seq: i64) -> String {
    seal_context(id, &format!("event/{seq}"))
}

/// Appends an event to the history and the outbox. Beyond the limit, it is only counted.
pub(super) fn append_event(tx: &mut Tx<'_>, row: &CastRow, event: &EventKind) -> Result<(), TxError> {
    let last: Option<i64> =
        query_one(tx.db, "SELECT last_seq FROM casts WHERE n = ?", [row.rowid], |row| Ok(row.get(0)?))?;
    let seq = last.ok_or_else(|| Error::CastNotFound(row.id.clone()))? + 1;
    if !has_room_for(seq, event) {
        let sql = "UPDATE casts SET events_dropped = events_dropped + 1 WHERE n = ?";
        execute(tx.db, sql, [row.rowid])?;
        return Ok(());
    }
    let sealed = tx.shared.seal(&event_seal_context(&row.id, seq), event)?;
    let sql = "UPDATE casts SET last_seq = ?, bytes = bytes + ? WHERE n = ?";
    execute(tx.db, sql, params![seq, sealed.len() as i64, row.rowid])?;
    execute(tx.db, "INSERT INTO events VALUES (?, ?, ?, ?)", params![row.rowid, seq, tx.now, sealed])?;
    if row.notify {
        outbox::enqueue(tx, row.rowid, seq)?;
    }
    tx.notify_changes();
    Ok(())
}

/// Whether the history of a cast has room for an event. There is always room for the end, and a reserve of 10
/// % for stored files.
fn has_room_for(seq: i64, event: &EventKind) -> bool {
    let max = MAX_EVENTS as i64;
    match event {
        EventKind::Ended { .. } => true,
        EventKind::Stored { .. } => seq <= max + max / 10,
        _ => seq <= max,
    }
}

/// Ends a cast. All ends go through this function.
pub(super) fn end_cast(tx: &mut Tx<'_>, row: &CastRow, end: CastEnd) -> Result<(), TxError> {
    let sealed = tx.shared.seal(&seal_context(&row.id, "end"), &end)?;
    execute(
        tx.db,
        "UPDATE casts SET state = 3, reason = ?1, ended_ms = ?2, held = ifnull(key_until_ms > ?2, 0) WHERE \
        n = ?3",
        params![sealed, tx.now, row.rowid],
    )?;
    execute(tx.db, "DELETE FROM commands WHERE whose = ?", [row.rowid])?;
    append_event(tx, row, &EventKind::Ended { reason: end.reason, message: end.message, cause: end.cause })
}

pub(super) fn report_event(tx: &mut Tx<'_>, ticket: &Ticket, event: EventKind) -> Result<(), TxError> {
    let row = verify_ticket(tx.db, ticket)?;
    match event {
        EventKind::Ended { .. } if row.state == CastState::Ended => Ok(()),
        EventKind::Ended { reason, message, cause } => end_cast(tx, &row, CastEnd { reason, message, cause }),
        EventKind::Live if row.state == CastState::Starting => {
            let sql = "UPDATE casts SET state = 2, live_ms = ? WHERE n = ?";
            execute(tx.db, sql, params![tx.now, row.rowid])?;
            append_event(tx, &row, &event)
        }
        EventKind::Live if row.state == CastState::Live => Ok(()),
        _ => append_event(tx, &row, &event),
    }
}

pub(super) fn events(
    db: &Connection,
    shared: &Shared,
    id: &CastId,
    after: u64,
    limit: usize,
) -> Result<Vec<Event>, TxError> {
    let n = rowid_of(db, id)?;
    let sql = "SELECT seq, at_ms, what FROM events WHERE whose = ? AND seq > ? ORDER BY seq LIMIT ?";
    let limit = limit.min(MAX_READ) as i64;
    query_all(db, sql, params![n, to_sql_integer(after), limit], |row| read_event(shared, id, row))
}

/// Reads an event from the columns `seq`, `at_ms` and `what`.
pub(super) fn read_event(shared: &Shared, id: &CastId, row: &rusqlite::Row<'_>) -> Result<Event, TxError> {
    let seq: i64 = row.get("seq")?;
    let sealed: Vec<u8> = row.get("what")?;
    let kind = shared.open(&event_seal_context(id, seq), &sealed)?;
    Ok(Event { seq: seq.unsigned_abs(), at_ms: row.get("at_ms")?, kind })
}
