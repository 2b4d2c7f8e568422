//! What happens to casts: each event is one step of the history, and one entry of the outbox.

use rusqlite::{Connection, params};

use super::Shared;
use super::claims::owned;
use super::outbox;
use super::row::{Fail, Known, all, execute, int, number, one, place};
use super::writer::Tx;
use crate::{CastId, End, Error, Event, Happening, MAX_EVENTS, State, Ticket};

/// Most events that are read at once.
const MAX_READ: usize = 10_000;

/// Where an event is sealed.
pub(super) fn event_place(id: &CastId, seq: i64) -> String {
    place(id, &format!("event/{seq}"))
}

/// One step more in the history of a cast. One too many is only counted.
pub(super) fn happen(tx: &mut Tx<'_>, known: &Known, what: &Happening) -> Result<(), Fail> {
    let last: Option<i64> =
        one(tx.db, "SELECT last_seq FROM casts WHERE n = ?", [known.n], |row| Ok(row.get(0)?))?;
    let seq = last.ok_or_else(|| Error::NoCast(known.id.clone()))? + 1;
    if !is_kept(seq, what) {
        let sql = "UPDATE casts SET events_dropped = events_dropped + 1 WHERE n = ?";
        execute(tx.db, sql, [known.n])?;
        return Ok(());
    }
    let sealed = tx.shared.seal(&event_place(&known.id, seq), what)?;
    let sql = "UPDATE casts SET last_seq = ?, bytes = bytes + ? WHERE n = ?";
    execute(tx.db, sql, params![seq, sealed.len() as i64, known.n])?;
    execute(tx.db, "INSERT INTO events VALUES (?, ?, ?, ?)", params![known.n, seq, tx.now, sealed])?;
    if known.notify {
        outbox::put(tx, known.n, seq)?;
    }
    tx.news();
    Ok(())
}

/// Whether an event still has room in the history of its cast: how it ended always has, and what was stored
/// as long as it is not itself what comes without end.
fn is_kept(seq: i64, what: &Happening) -> bool {
    let most = MAX_EVENTS as i64;
    match what {
        Happening::Ended { .. } => true,
        Happening::Stored { .. } => seq <= most + most / 10,
        _ => seq <= most,
    }
}

/// A cast is over: the one place where that is written down.
pub(super) fn end(tx: &mut Tx<'_>, known: &Known, end: End) -> Result<(), Fail> {
    let sealed = tx.shared.seal(&place(&known.id, "end"), &end)?;
    execute(
        tx.db,
        "UPDATE casts SET state = 3, reason = ?1, ended_ms = ?2, held = ifnull(key_until_ms > ?2, 0) WHERE n = ?3",
        params![sealed, tx.now, known.n],
    )?;
    execute(tx.db, "DELETE FROM commands WHERE whose = ?", [known.n])?;
    happen(tx, known, &Happening::Ended { reason: end.reason, message: end.message, cause: end.cause })
}

pub(super) fn report(tx: &mut Tx<'_>, ticket: &Ticket, what: Happening) -> Result<(), Fail> {
    let known = owned(tx.db, ticket)?;
    match what {
        Happening::Ended { .. } if known.state == State::Ended => Ok(()),
        Happening::Ended { reason, message, cause } => end(tx, &known, End { reason, message, cause }),
        Happening::Live if known.state == State::Starting => {
            let sql = "UPDATE casts SET state = 2, live_ms = ? WHERE n = ?";
            execute(tx.db, sql, params![tx.now, known.n])?;
            happen(tx, &known, &what)
        }
        Happening::Live if known.state == State::Live => Ok(()),
        _ => happen(tx, &known, &what),
    }
}

pub(super) fn events(
    db: &Connection,
    shared: &Shared,
    id: &CastId,
    after: u64,
    limit: usize,
) -> Result<Vec<Event>, Fail> {
    let n = number(db, id)?;
    let sql = "SELECT seq, at_ms, what FROM events WHERE whose = ? AND seq > ? ORDER BY seq LIMIT ?";
    let limit = limit.min(MAX_READ) as i64;
    all(db, sql, params![n, int(after), limit], |row| event(shared, id, row))
}

/// An event from its columns `seq`, `at_ms` and `what`.
pub(super) fn event(shared: &Shared, id: &CastId, row: &rusqlite::Row<'_>) -> Result<Event, Fail> {
    let seq: i64 = row.get("seq")?;
    let sealed: Vec<u8> = row.get("what")?;
    let what = shared.open(&event_place(id, seq), &sealed)?;
    Ok(Event { seq: seq.unsigned_abs(), at_ms: row.get("at_ms")?, what })
}
