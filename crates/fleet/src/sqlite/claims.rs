//! Casts for whoever runs them.

use std::time::Duration;

use pagecast_core::cast::EndReason;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::Shared;
use super::history::{end, happen};
use super::memory::Owner;
use super::row::{Fail, Known, all, by_number, execute, int, one, place};
use super::writer::Tx;
use crate::{Cast, CastId, Claim, Command, End, Error, Happening, State, Ticket, UnixMs, WorkerId};

/// What there is for a worker.
pub(super) enum Next {
    /// Nothing.
    Nothing,
    /// A cast that waits in this row, if it fits.
    Ask(i64, Box<Cast>),
    /// This one is the worker's now.
    Taken(Box<Claim>),
}

/// Whose casts are.
pub(super) fn owners(db: &Connection, mut found: impl FnMut(CastId, Owner)) -> rusqlite::Result<()> {
    let sql = "SELECT id, worker, epoch FROM casts INDEXED BY casts_begun
               WHERE closed = 0 AND state > 0 AND worker IS NOT NULL";
    let mut select = db.prepare(sql)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let owner = Owner { worker: WorkerId(row.get(1)?), epoch: row.get::<_, i64>(2)?.unsigned_abs() };
        if let Ok(id) = CastId::parse(&row.get::<_, String>(0)?) {
            found(id, owner);
        }
    }
    Ok(())
}

/// The cast of a ticket that is good, or [`Error::Fenced`].
pub(super) fn owned(db: &Connection, ticket: &Ticket) -> Result<Known, Fail> {
    let sql = format!(
        "SELECT {} FROM casts WHERE id = ? AND worker = ? AND epoch = ? AND closed = 0",
        Known::COLUMNS
    );
    let params = params![ticket.cast.as_str(), ticket.worker.0, int(ticket.epoch)];
    one(db, &sql, params, Known::read)?.ok_or_else(|| Error::Fenced(ticket.cast.clone()).into())
}

pub(super) fn adopt(tx: &mut Tx<'_>, worker: &WorkerId) -> Result<(), Fail> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_begun WHERE closed = 0 AND state > 0 AND worker = ?",
        Known::COLUMNS
    );
    for known in all(tx.db, &sql, [&worker.0], Known::read)? {
        free(tx, &known)?;
    }
    Ok(())
}

/// Takes what is to be gone on with, or the head of the queue if that is known to fit.
pub(super) fn claim(
    tx: &mut Tx<'_>,
    worker: &WorkerId,
    lease: Duration,
    fitting: Option<i64>,
) -> Result<Next, Fail> {
    loop {
        let Some(known) = waiting(tx, worker)? else {
            return Ok(Next::Nothing);
        };
        let cast = match by_number(tx.db, tx.shared, known.n) {
            Ok(Some(cast)) => cast,
            Ok(None) => return Ok(Next::Nothing),
            // It would be in everybody's way for ever.
            Err(Fail::Told(error @ Error::Unreadable { .. })) => {
                tracing::warn!(whose = %known.id, %error, "a cast is given up");
                give_up(tx, &known, "its description cannot be read any more")?;
                continue;
            }
            Err(fail) => return Err(fail),
        };
        if known.state == State::Queued && fitting != Some(known.n) {
            return Ok(Next::Ask(known.n, Box::new(cast)));
        }
        return take(tx, worker, lease, &known).map(|claim| Next::Taken(Box::new(claim)));
    }
}

/// The cast whose turn it is.
fn waiting(tx: &Tx<'_>, worker: &WorkerId) -> Result<Option<Known>, Fail> {
    let begun = format!(
        "SELECT {} FROM casts INDEXED BY casts_begun WHERE closed = 0 AND state > 0 AND lease_until_ms <= ?
         AND worker IS NOT ? ORDER BY lease_until_ms, n LIMIT 1",
        Known::COLUMNS
    );
    if let Some(known) = one(tx.db, &begun, params![tx.now, worker.0], Known::read)? {
        return Ok(Some(known));
    }
    let queued = format!(
        "SELECT {} FROM casts INDEXED BY casts_queued WHERE state = 0 AND queue_until_ms > ?
         ORDER BY n LIMIT 1",
        Known::COLUMNS
    );
    one(tx.db, &queued, [tx.now], Known::read)
}

fn take(tx: &mut Tx<'_>, worker: &WorkerId, lease: Duration, known: &Known) -> Result<Claim, Fail> {
    let sql = "UPDATE casts SET worker = ?, epoch = epoch + 1, lease_until_ms = ? WHERE n = ?";
    execute(tx.db, sql, params![worker.0, over(tx.now, lease), known.n])?;
    match known.state {
        State::Queued => {
            let sql = "UPDATE casts SET state = 1, started_ms = ? WHERE n = ?";
            execute(tx.db, sql, params![tx.now, known.n])?;
            happen(tx, known, &Happening::Started)?;
        }
        State::Starting | State::Live => happen(tx, known, &Happening::TakenUp)?,
        State::Ended => {}
    }
    let cast = by_number(tx.db, tx.shared, known.n)?.ok_or_else(|| Error::NoCast(known.id.clone()))?;
    tx.owned(cast.id.clone(), Owner { worker: worker.clone(), epoch: cast.epoch });
    let ticket = Ticket { cast: cast.id.clone(), worker: worker.clone(), epoch: cast.epoch };
    Ok(Claim { ticket, cast })
}

/// When a lease from now is over.
fn over(now: UnixMs, lease: Duration) -> UnixMs {
    now.saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn renew(tx: &Tx<'_>, ticket: &Ticket, lease: Duration) -> Result<(), Fail> {
    let known = owned(tx.db, ticket)?;
    let sql = "UPDATE casts SET lease_until_ms = ? WHERE n = ?";
    execute(tx.db, sql, params![over(tx.now, lease), known.n])?;
    Ok(())
}

pub(super) fn commands(
    db: &Connection,
    shared: &Shared,
    ticket: &Ticket,
) -> Result<Vec<(u64, Command)>, Fail> {
    let known = owned(db, ticket)?;
    let place = place(&known.id, "command");
    all(db, "SELECT n, command FROM commands WHERE whose = ? ORDER BY n", [known.n], |row| {
        let sealed: Vec<u8> = row.get(1)?;
        Ok((row.get::<_, i64>(0)?.unsigned_abs(), shared.open(&place, &sealed)?))
    })
}

pub(super) fn obeyed(tx: &Tx<'_>, ticket: &Ticket, upto: u64) -> Result<(), Fail> {
    let known = owned(tx.db, ticket)?;
    execute(tx.db, "DELETE FROM commands WHERE whose = ? AND n <= ?", params![known.n, int(upto)])?;
    Ok(())
}

pub(super) fn close(tx: &mut Tx<'_>, ticket: &Ticket, report: Option<&Value>) -> Result<(), Fail> {
    let known = owned(tx.db, ticket)?;
    let sealed = report.map(|report| tx.shared.seal(&place(&known.id, "report"), report)).transpose()?;
    if known.state != State::Ended {
        let message = Some("whoever ran it did not say how it ended".to_owned());
        end(tx, &known, End { reason: EndReason::OutputFailed, message })?;
    }
    shut(tx, &known, sealed)
}

/// Nothing is left to do for a cast.
pub(super) fn shut(tx: &mut Tx<'_>, known: &Known, report: Option<Vec<u8>>) -> Result<(), Fail> {
    let sql = "UPDATE casts SET closed = 1, worker = NULL, report = ? WHERE n = ?";
    execute(tx.db, sql, params![report, known.n])?;
    tx.freed(known.id.clone());
    tx.news();
    Ok(())
}

pub(super) fn release(tx: &mut Tx<'_>, ticket: &Ticket) -> Result<(), Fail> {
    let known = owned(tx.db, ticket)?;
    free(tx, &known)
}

/// Anybody may go on with a cast, and whoever ran it may not.
fn free(tx: &mut Tx<'_>, known: &Known) -> Result<(), Fail> {
    execute(tx.db, "UPDATE casts SET worker = NULL, lease_until_ms = 0 WHERE n = ?", [known.n])?;
    tx.freed(known.id.clone());
    tx.news();
    Ok(())
}

/// Ends a cast that nobody runs, and closes it.
pub(super) fn give_up(tx: &mut Tx<'_>, known: &Known, why: &str) -> Result<(), Fail> {
    let reason = match known.state {
        State::Queued => EndReason::StartFailed,
        State::Starting | State::Live | State::Ended => EndReason::OutputFailed,
    };
    if known.state != State::Ended {
        // Nobody runs it who would log its end.
        tracing::warn!(cast = %known.id, error = why, "cast failed");
        end(tx, known, End { reason, message: Some(why.to_owned()) })?;
    }
    shut(tx, known, None)
}
