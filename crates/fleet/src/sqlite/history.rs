//! What happens to casts: each event is one step of the history, and one entry of the outbox.

use rusqlite::{Connection, params};

use super::Shared;
use super::claims::verify_ticket;
use super::outbox;
use super::row::{CastRow, TxError, execute, query_all, query_one, rowid_of, seal_context, to_sql_integer};
use super::writer::Tx;
use crate::{CastEnd, CastId, CastState, Error, Event, EventKind, MAX_EVENTS, Ticket};

/// Most events that are read at once.
const MAX_READ: usize = 10_000;

/// Where an event is sealed.
pub(super) fn event_seal_context(id: &CastId, seq: i64) -> String {
    seal_context(id, &format!("event/{seq}"))
}

/// One step more in the history of a cast. One too many is only counted.
pub(super) fn append_event(tx: &mut Tx<'_>, known: &CastRow, what: &EventKind) -> Result<(), TxError> {
    let last: Option<i64> =
        query_one(tx.db, "SELECT last_seq FROM casts WHERE n = ?", [known.rowid], |row| Ok(row.get(0)?))?;
    let seq = last.ok_or_else(|| Error::CastNotFound(known.id.clone()))? + 1;
    if !has_room_for(seq, what) {
        let sql = "UPDATE casts SET events_dropped = events_dropped + 1 WHERE n = ?";
        execute(tx.db, sql, [known.rowid])?;
        return Ok(());
    }
    let sealed = tx.shared.seal(&event_seal_context(&known.id, seq), what)?;
    let sql = "UPDATE casts SET last_seq = ?, bytes = bytes + ? WHERE n = ?";
    execute(tx.db, sql, params![seq, sealed.len() as i64, known.rowid])?;
    execute(tx.db, "INSERT INTO events VALUES (?, ?, ?, ?)", params![known.rowid, seq, tx.now, sealed])?;
    if known.notify {
        outbox::enqueue(tx, known.rowid, seq)?;
    }
    tx.notify_changes();
    Ok(())
}

/// Whether an event still has room in the history of its cast: how it ended always has, and what was stored
/// as long as it is not itself what comes without end.
fn has_room_for(seq: i64, what: &EventKind) -> bool {
    let most = MAX_EVENTS as i64;
    match what {
        EventKind::Ended { .. } => true,
        EventKind::Stored { .. } => seq <= most + most / 10,
        _ => seq <= most,
    }
}

/// A cast is over: the one place where that is written down.
pub(super) fn end_cast(tx: &mut Tx<'_>, known: &CastRow, end: CastEnd) -> Result<(), TxError> {
    let sealed = tx.shared.seal(&seal_context(&known.id, "end"), &end)?;
    execute(
        tx.db,
        "UPDATE casts SET state = 3, reason = ?1, ended_ms = ?2, held = ifnull(key_until_ms > ?2, 0) WHERE n = ?3",
        params![sealed, tx.now, known.rowid],
    )?;
    execute(tx.db, "DELETE FROM commands WHERE whose = ?", [known.rowid])?;
    append_event(tx, known, &EventKind::Ended { reason: end.reason, message: end.message, cause: end.cause })
}

pub(super) fn report_event(tx: &mut Tx<'_>, ticket: &Ticket, what: EventKind) -> Result<(), TxError> {
    let known = verify_ticket(tx.db, ticket)?;
    match what {
        EventKind::Ended { .. } if known.state == CastState::Ended => Ok(()),
        EventKind::Ended { reason, message, cause } => {
            end_cast(tx, &known, CastEnd { reason, message, cause })
        }
        EventKind::Live if known.state == CastState::Starting => {
            let sql = "UPDATE casts SET state = 2, live_ms = ? WHERE n = ?";
            execute(tx.db, sql, params![tx.now, known.rowid])?;
            append_event(tx, &known, &what)
        }
        EventKind::Live if known.state == CastState::Live => Ok(()),
        _ => append_event(tx, &known, &what),
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

/// An event from its columns `seq`, `at_ms` and `what`.
pub(super) fn read_event(shared: &Shared, id: &CastId, row: &rusqlite::Row<'_>) -> Result<Event, TxError> {
    let seq: i64 = row.get("seq")?;
    let sealed: Vec<u8> = row.get("what")?;
    let what = shared.open(&event_seal_context(id, seq), &sealed)?;
    Ok(Event { seq: seq.unsigned_abs(), at_ms: row.get("at_ms")?, kind: what })
}
