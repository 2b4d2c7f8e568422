//! History of casts: each event is an entry of the history and of the outbox.

use rusqlite::{Connection, params};

use super::Shared;
use super::claims::verify_ticket;
use super::outbox;
use super::row::{CastRow, TxError, execute, query_all, query_one, rowid_of, to_sql_integer};
use super::writer::Tx;
use crate::lifecycle::{ReportEffect, ended_event, has_room_for, holds_key_after_end, on_report};
use crate::paging::MAX_READ_EVENTS;
use crate::sealing::{cast_context, event_context};
use crate::{CastEnd, CastId, Error, Event, EventKind, Ticket};

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
    let sealed = tx.shared.seal(&event_context(&row.id, seq), event)?;
    let sql = "UPDATE casts SET last_seq = ?, bytes = bytes + ? WHERE n = ?";
    execute(tx.db, sql, params![seq, sealed.len() as i64, row.rowid])?;
    execute(tx.db, "INSERT INTO events VALUES (?, ?, ?, ?)", params![row.rowid, seq, tx.now, sealed])?;
    if row.notify {
        outbox::enqueue(tx, row.rowid, seq)?;
    }
    tx.notify_changes();
    Ok(())
}

/// Ends a cast. All ends go through this function.
pub(super) fn end_cast(tx: &mut Tx<'_>, row: &CastRow, end: CastEnd) -> Result<(), TxError> {
    let sealed = tx.shared.seal(&cast_context(&row.id, "end"), &end)?;
    let sql = "UPDATE casts SET state = 3, reason = ?, ended_ms = ?, held = ? WHERE n = ?";
    let held = holds_key_after_end(row.key_until_ms, tx.now);
    execute(tx.db, sql, params![sealed, tx.now, held, row.rowid])?;
    execute(tx.db, "DELETE FROM commands WHERE whose = ?", [row.rowid])?;
    append_event(tx, row, &ended_event(end))
}

pub(super) fn report_event(tx: &mut Tx<'_>, ticket: &Ticket, event: &EventKind) -> Result<(), TxError> {
    let row = verify_ticket(tx.db, ticket)?;
    match on_report(row.state, event) {
        ReportEffect::Ignored => Ok(()),
        ReportEffect::Appended => append_event(tx, &row, event),
        ReportEffect::BecomesLive => {
            let sql = "UPDATE casts SET state = 2, live_ms = ? WHERE n = ?";
            execute(tx.db, sql, params![tx.now, row.rowid])?;
            append_event(tx, &row, event)
        }
        ReportEffect::Ends(end) => end_cast(tx, &row, end),
    }
}

pub(super) fn report_stored_later(tx: &mut Tx<'_>, id: &CastId, event: &EventKind) -> Result<(), TxError> {
    let row = CastRow::find(tx.db, id)?;
    let sql = "SELECT closed FROM casts WHERE n = ?";
    let closed: Option<bool> = query_one(tx.db, sql, [row.rowid], |row| Ok(row.get(0)?))?;
    let is_stored = matches!(event, EventKind::Stored { .. });
    if closed == Some(true) && is_stored { append_event(tx, &row, event) } else { Ok(()) }
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
    let limit = limit.min(MAX_READ_EVENTS) as i64;
    query_all(db, sql, params![n, to_sql_integer(after), limit], |row| read_event(shared, id, row))
}

/// Reads an event from the columns `seq`, `at_ms` and `what`.
pub(super) fn read_event(shared: &Shared, id: &CastId, row: &rusqlite::Row<'_>) -> Result<Event, TxError> {
    let seq: i64 = row.get("seq")?;
    let sealed: Vec<u8> = row.get("what")?;
    let kind = shared.open(&event_context(id, seq), &sealed)?;
    Ok(Event { seq: seq.unsigned_abs(), at_ms: row.get("at_ms")?, kind })
}
