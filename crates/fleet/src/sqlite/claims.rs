//! Casts for whoever runs them.

use std::time::Duration;

use pagecast_core::cast::EndReason;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::Shared;
use super::history::{end, happen};
use super::memory::Owner;
use super::row::{Fail, Known, all, by_number, execute, int, listed, one, place};
use super::writer::Tx;
use crate::injected::Injected;
use crate::{Cast, CastId, Claim, Command, End, Error, Happening, State, Ticket, WorkerId};

/// Casts of each application that a worker is asked about in one look at the queue: an application whose
/// first ones fit nowhere keeps only itself waiting.
const MAX_ASKED_OF_APP: i64 = 100;
/// Casts that a worker is asked about in one look at the queue, of all applications.
const MAX_ASKED: usize = 2000;

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

/// Takes a cast that is to be gone on with, if there is one.
pub(super) fn take_up(tx: &mut Tx<'_>, worker: &WorkerId, lease: Duration) -> Result<Option<Claim>, Fail> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_begun WHERE closed = 0 AND state > 0 AND lease_until_ms <= ?
         AND worker IS NOT ? ORDER BY lease_until_ms, n LIMIT 1",
        Known::COLUMNS
    );
    while let Some(known) = one(tx.db, &sql, params![tx.fleet_now, worker.0], Known::read)? {
        if let Some(claim) = take(tx, worker, lease, &known)? {
            return Ok(Some(claim));
        }
    }
    Ok(None)
}

/// The queue in the order in which casts are begun: first of the applications whose casts take the least at
/// the moment, the older ones first. Rows only: what they are is read when somebody is asked about them.
pub(super) fn queue(db: &Connection, shared: &Shared) -> Result<Vec<i64>, Fail> {
    let apps = "SELECT q.app, (SELECT ifnull(sum(weight), 0) FROM tally t WHERE t.state IN (1, 2) AND t.app = q.app) share,
                       (SELECT min(n) FROM casts c INDEXED BY casts_waiting WHERE c.state = 0 AND c.app = q.app) first
                FROM tally q WHERE q.state = 0 AND q.n > 0 ORDER BY share, first";
    let apps: Vec<String> = all(db, apps, [], |row| Ok(row.get(0)?))?;
    let of_app =
        "SELECT n FROM casts INDEXED BY casts_waiting WHERE state = 0 AND app = ? AND queue_until_ms > ?
                  ORDER BY n LIMIT ?";
    let mut queue: Vec<i64> = Vec::new();
    for app in apps {
        let params = params![app, shared.time.fleet(), MAX_ASKED_OF_APP];
        queue.extend(all(db, of_app, params, |row| Ok(row.get::<_, i64>(0)?))?);
        if queue.len() >= MAX_ASKED {
            queue.truncate(MAX_ASKED);
            break;
        }
    }
    Ok(queue)
}

/// Some casts of the queue, without what is put into their pages. One that cannot be read has no description,
/// and nobody is asked about it.
pub(super) fn queued(
    db: &Connection,
    shared: &Shared,
    rows: &[i64],
) -> Result<Vec<(i64, Option<Cast>)>, Fail> {
    let mut casts = Vec::with_capacity(rows.len());
    for n in rows {
        match listed(db, shared, *n) {
            Ok(Some(cast)) if cast.state == State::Queued => casts.push((*n, Some(cast))),
            Ok(_) => {}
            Err(Fail::Told(Error::Unreadable { .. })) => casts.push((*n, None)),
            Err(fail) => return Err(fail),
        }
    }
    Ok(casts)
}

/// Takes a cast of the queue, unless somebody was faster.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    worker: &WorkerId,
    lease: Duration,
    n: i64,
) -> Result<Option<Claim>, Fail> {
    let sql =
        format!("SELECT {} FROM casts WHERE n = ? AND state = 0 AND queue_until_ms > ?", Known::COLUMNS);
    match one(tx.db, &sql, [n, tx.fleet_now], Known::read)? {
        Some(known) => take(tx, worker, lease, &known),
        None => Ok(None),
    }
}

/// Makes a cast the worker's. One that cannot be read would be in everybody's way for ever: it is given up.
fn take(tx: &mut Tx<'_>, worker: &WorkerId, lease: Duration, known: &Known) -> Result<Option<Claim>, Fail> {
    let spec = match whole(tx, known.n) {
        Ok(cast) => cast.spec,
        Err(Fail::Told(error @ Error::Unreadable { .. })) => {
            tracing::warn!(whose = %known.id, %error, "a cast is given up");
            give_up(tx, known, "its description cannot be read any more")?;
            return Ok(None);
        }
        Err(fail) => return Err(fail),
    };
    let sql = "UPDATE casts SET worker = ?, epoch = epoch + 1, lease_until_ms = ? WHERE n = ?";
    execute(tx.db, sql, params![worker.0, over(tx.fleet_now, lease), known.n])?;
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
    let cast = Cast { spec, ..cast };
    tx.owned(cast.id.clone(), Owner { worker: worker.clone(), epoch: cast.epoch });
    let ticket = Ticket { cast: cast.id.clone(), worker: worker.clone(), epoch: cast.epoch };
    Ok(Some(Claim { ticket, cast }))
}

/// A cast with what is put into its page.
fn whole(tx: &Tx<'_>, n: i64) -> Result<Cast, Fail> {
    let gone = || Fail::Told(Error::Unreadable { what: format!("cast {n}"), why: "it is gone".to_owned() });
    let mut cast = by_number(tx.db, tx.shared, n)?.ok_or_else(gone)?;
    let sql = "SELECT what FROM injected WHERE whose = ?";
    if let Some(sealed) = one(tx.db, sql, [n], |row| Ok(row.get::<_, Vec<u8>>(0)?))? {
        let injected: Injected = tx.shared.open(&place(&cast.id, "injected"), &sealed)?;
        injected.put_into(&mut cast.spec);
    }
    Ok(cast)
}

/// When so much time from now is over, in fleet time.
pub(super) fn over(now: i64, time: Duration) -> i64 {
    now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn renew(tx: &Tx<'_>, ticket: &Ticket, lease: Duration) -> Result<(), Fail> {
    let known = owned(tx.db, ticket)?;
    let sql = "UPDATE casts SET lease_until_ms = ? WHERE n = ?";
    execute(tx.db, sql, params![over(tx.fleet_now, lease), known.n])?;
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
        end(tx, &known, End { reason: EndReason::OutputFailed, message, cause: None })?;
    }
    shut(tx, &known, sealed)
}

/// Nothing is left to do for a cast.
pub(super) fn shut(tx: &mut Tx<'_>, known: &Known, report: Option<Vec<u8>>) -> Result<(), Fail> {
    let sql = "SELECT length(what) FROM injected WHERE whose = ?";
    let injected = one(tx.db, sql, [known.n], |row| Ok(row.get::<_, i64>(0)?))?.unwrap_or(0);
    // Nobody opens its page any more.
    execute(tx.db, "DELETE FROM injected WHERE whose = ?", [known.n])?;
    let grown = report.as_ref().map_or(0, |report| report.len() as i64) - injected;
    let sql = "UPDATE casts SET closed = 1, worker = NULL, report = ?, bytes = bytes + ? WHERE n = ?";
    execute(tx.db, sql, params![report, grown, known.n])?;
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
        end(tx, known, End { reason, message: Some(why.to_owned()), cause: None })?;
    }
    shut(tx, known, None)
}
