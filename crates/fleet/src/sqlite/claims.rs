//! Claims, leases and commands: the [`crate::Leases`] part of the backend.

use std::time::Duration;

use pagecast_core::cast::EndReason;
use rusqlite::{Connection, params};
use serde_json::Value;

use super::Shared;
use super::history::{append_event, end_cast};
use super::row::{
    CastRow, TxError, execute, get_by_rowid, get_listed, query_all, query_one, seal_context, to_sql_integer,
};
use super::telemetry::Owner;
use super::writer::Tx;
use crate::injected::Injected;
use crate::{Cast, CastEnd, CastId, CastState, Claim, Command, Error, EventKind, Ticket, WorkerId};

/// Maximum number of queued casts per application that are offered to a worker at once. If none of them fits,
/// only this application waits.
const MAX_CANDIDATES_PER_APP: i64 = 100;
/// Maximum number of queued casts of all applications that are offered to a worker at once: reading them
/// takes a fraction of a second.
const MAX_CANDIDATES: usize = 2000;

/// Calls `found` for each cast that has an owner.
pub(super) fn for_each_owner(db: &Connection, mut found: impl FnMut(CastId, Owner)) -> rusqlite::Result<()> {
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

/// The cast of a valid ticket, or [`Error::Fenced`].
pub(super) fn verify_ticket(db: &Connection, ticket: &Ticket) -> Result<CastRow, TxError> {
    let sql = format!(
        "SELECT {} FROM casts WHERE id = ? AND worker = ? AND epoch = ? AND closed = 0",
        CastRow::COLUMNS
    );
    let params = params![ticket.cast.as_str(), ticket.worker.0, to_sql_integer(ticket.epoch)];
    query_one(db, &sql, params, CastRow::from_row)?.ok_or_else(|| Error::Fenced(ticket.cast.clone()).into())
}

pub(super) fn register_worker(tx: &mut Tx<'_>, worker: &WorkerId) -> Result<(), TxError> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_begun WHERE closed = 0 AND state > 0 AND worker = ?",
        CastRow::COLUMNS
    );
    for row in query_all(tx.db, &sql, [&worker.0], CastRow::from_row)? {
        clear_owner(tx, &row)?;
    }
    Ok(())
}

/// Claims a started cast whose lease has expired, if there is one.
pub(super) fn claim_expired(
    tx: &mut Tx<'_>,
    worker: &WorkerId,
    lease: Duration,
) -> Result<Option<Claim>, TxError> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_begun WHERE closed = 0 AND state > 0 AND lease_until_ms <= ?
         AND worker IS NOT ? ORDER BY lease_until_ms, n LIMIT 1",
        CastRow::COLUMNS
    );
    while let Some(row) = query_one(tx.db, &sql, params![tx.fleet_now, worker.0], CastRow::from_row)? {
        if let Some(claim) = assign_owner(tx, worker, lease, &row)? {
            return Ok(Some(claim));
        }
    }
    Ok(None)
}

/// Rows of the queue in the order in which casts are offered: first those of the application whose running
/// casts have the least weight, the oldest first. Descriptions are read later ([`read_queued`]).
pub(super) fn queue_order(db: &Connection, shared: &Shared) -> Result<Vec<i64>, TxError> {
    let apps = "SELECT q.app, (SELECT ifnull(sum(weight), 0) FROM tally t WHERE t.state IN (1, 2) AND t.app \
        = q.app) share,
                       (SELECT min(n) FROM casts c INDEXED BY casts_waiting WHERE c.state = 0 AND c.app = \
                       q.app) first
                FROM tally q WHERE q.state = 0 AND q.n > 0 ORDER BY share, first";
    let apps: Vec<String> = query_all(db, apps, [], |row| Ok(row.get(0)?))?;
    let of_app =
        "SELECT n FROM casts INDEXED BY casts_waiting WHERE state = 0 AND app = ? AND queue_until_ms > ?
                  ORDER BY n LIMIT ?";
    let mut queue: Vec<i64> = Vec::new();
    for app in apps {
        let params = params![app, shared.clock.fleet_ms(), MAX_CANDIDATES_PER_APP];
        queue.extend(query_all(db, of_app, params, |row| Ok(row.get::<_, i64>(0)?))?);
        if queue.len() >= MAX_CANDIDATES {
            queue.truncate(MAX_CANDIDATES);
            break;
        }
    }
    Ok(queue)
}

/// Reads casts of the queue without their injected data; `None` for one that cannot be read.
pub(super) fn read_queued(
    db: &Connection,
    shared: &Shared,
    rows: &[i64],
) -> Result<Vec<(i64, Option<Cast>)>, TxError> {
    let mut casts = Vec::with_capacity(rows.len());
    for n in rows {
        match get_listed(db, shared, *n) {
            Ok(Some(cast)) if cast.state == CastState::Queued => casts.push((*n, Some(cast))),
            Ok(_) => {}
            Err(TxError::Fleet(Error::Unreadable { .. })) => casts.push((*n, None)),
            Err(fail) => return Err(fail),
        }
    }
    Ok(casts)
}

/// Claims a queued cast, unless another worker was faster.
pub(super) fn claim_queued(
    tx: &mut Tx<'_>,
    worker: &WorkerId,
    lease: Duration,
    n: i64,
) -> Result<Option<Claim>, TxError> {
    let sql =
        format!("SELECT {} FROM casts WHERE n = ? AND state = 0 AND queue_until_ms > ?", CastRow::COLUMNS);
    match query_one(tx.db, &sql, [n, tx.fleet_now], CastRow::from_row)? {
        Some(row) => assign_owner(tx, worker, lease, &row),
        None => Ok(None),
    }
}

/// Makes a worker the owner of a cast. A cast that cannot be read is failed, because it would block every
/// claim.
fn assign_owner(
    tx: &mut Tx<'_>,
    worker: &WorkerId,
    lease: Duration,
    row: &CastRow,
) -> Result<Option<Claim>, TxError> {
    let spec = match read_with_injected(tx, row.rowid) {
        Ok(cast) => cast.spec,
        Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
            tracing::warn!(cast = %row.id, %error, "cast failed, stored description unreadable");
            fail_and_close(tx, row, "its stored description cannot be read")?;
            return Ok(None);
        }
        Err(fail) => return Err(fail),
    };
    let sql = "UPDATE casts SET worker = ?, epoch = epoch + 1, lease_until_ms = ? WHERE n = ?";
    execute(tx.db, sql, params![worker.0, deadline_after(tx.fleet_now, lease), row.rowid])?;
    match row.state {
        CastState::Queued => {
            let sql = "UPDATE casts SET state = 1, started_ms = ? WHERE n = ?";
            execute(tx.db, sql, params![tx.now, row.rowid])?;
            append_event(tx, row, &EventKind::Started)?;
        }
        CastState::Starting | CastState::Live => append_event(tx, row, &EventKind::Resumed)?,
        CastState::Ended => {}
    }
    let cast =
        get_by_rowid(tx.db, tx.shared, row.rowid)?.ok_or_else(|| Error::CastNotFound(row.id.clone()))?;
    let cast = Cast { spec, ..cast };
    tx.owner_changed(cast.id.clone(), Owner { worker: worker.clone(), epoch: cast.epoch });
    let ticket = Ticket { cast: cast.id.clone(), worker: worker.clone(), epoch: cast.epoch };
    Ok(Some(Claim { ticket, cast }))
}

/// Reads a cast with its injected data.
fn read_with_injected(tx: &Tx<'_>, n: i64) -> Result<Cast, TxError> {
    let gone =
        || TxError::Fleet(Error::Unreadable { what: format!("cast {n}"), why: "it was deleted".to_owned() });
    let mut cast = get_by_rowid(tx.db, tx.shared, n)?.ok_or_else(gone)?;
    let sql = "SELECT what FROM injected WHERE whose = ?";
    if let Some(sealed) = query_one(tx.db, sql, [n], |row| Ok(row.get::<_, Vec<u8>>(0)?))? {
        let injected: Injected = tx.shared.open(&seal_context(&cast.id, "injected"), &sealed)?;
        injected.put_into(&mut cast.spec);
    }
    Ok(cast)
}

/// Fleet time at which `time` from now has passed.
pub(super) fn deadline_after(now: i64, time: Duration) -> i64 {
    now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn renew(tx: &Tx<'_>, ticket: &Ticket, lease: Duration) -> Result<(), TxError> {
    let row = verify_ticket(tx.db, ticket)?;
    let sql = "UPDATE casts SET lease_until_ms = ? WHERE n = ?";
    execute(tx.db, sql, params![deadline_after(tx.fleet_now, lease), row.rowid])?;
    Ok(())
}

pub(super) fn commands(
    db: &Connection,
    shared: &Shared,
    ticket: &Ticket,
) -> Result<Vec<(u64, Command)>, TxError> {
    let row = verify_ticket(db, ticket)?;
    let context = seal_context(&row.id, "command");
    query_all(db, "SELECT n, command FROM commands WHERE whose = ? ORDER BY n", [row.rowid], |row| {
        let sealed: Vec<u8> = row.get(1)?;
        Ok((row.get::<_, i64>(0)?.unsigned_abs(), shared.open(&context, &sealed)?))
    })
}

pub(super) fn ack_commands(tx: &Tx<'_>, ticket: &Ticket, upto: u64) -> Result<(), TxError> {
    let row = verify_ticket(tx.db, ticket)?;
    execute(
        tx.db,
        "DELETE FROM commands WHERE whose = ? AND n <= ?",
        params![row.rowid, to_sql_integer(upto)],
    )?;
    Ok(())
}

pub(super) fn close(tx: &mut Tx<'_>, ticket: &Ticket, report: Option<&Value>) -> Result<(), TxError> {
    let row = verify_ticket(tx.db, ticket)?;
    let sealed = report.map(|report| tx.shared.seal(&seal_context(&row.id, "report"), report)).transpose()?;
    if row.state != CastState::Ended {
        let message = Some("the worker closed it without reporting an end".to_owned());
        end_cast(tx, &row, CastEnd { reason: EndReason::OutputFailed, message, cause: None })?;
    }
    mark_closed(tx, &row, sealed)
}

/// Marks a cast as closed, and stores the worker's report.
pub(super) fn mark_closed(tx: &mut Tx<'_>, row: &CastRow, report: Option<Vec<u8>>) -> Result<(), TxError> {
    let sql = "SELECT length(what) FROM injected WHERE whose = ?";
    let injected = query_one(tx.db, sql, [row.rowid], |row| Ok(row.get::<_, i64>(0)?))?.unwrap_or(0);
    // The page will not be opened again.
    execute(tx.db, "DELETE FROM injected WHERE whose = ?", [row.rowid])?;
    let grown = report.as_ref().map_or(0, |report| report.len() as i64) - injected;
    let sql = "UPDATE casts SET closed = 1, worker = NULL, report = ?, bytes = bytes + ? WHERE n = ?";
    execute(tx.db, sql, params![report, grown, row.rowid])?;
    tx.owner_cleared(row.id.clone());
    tx.notify_changes();
    Ok(())
}

pub(super) fn release(tx: &mut Tx<'_>, ticket: &Ticket) -> Result<(), TxError> {
    let row = verify_ticket(tx.db, ticket)?;
    clear_owner(tx, &row)
}

/// Frees a cast: any worker may claim it, and its former owner is fenced.
fn clear_owner(tx: &mut Tx<'_>, row: &CastRow) -> Result<(), TxError> {
    execute(tx.db, "UPDATE casts SET worker = NULL, lease_until_ms = 0 WHERE n = ?", [row.rowid])?;
    tx.owner_cleared(row.id.clone());
    tx.notify_changes();
    Ok(())
}

/// Ends and closes a cast that no worker runs.
pub(super) fn fail_and_close(tx: &mut Tx<'_>, row: &CastRow, why: &str) -> Result<(), TxError> {
    let reason = match row.state {
        CastState::Queued => EndReason::StartFailed,
        CastState::Starting | CastState::Live | CastState::Ended => EndReason::OutputFailed,
    };
    if row.state != CastState::Ended {
        // No worker runs it that would log the end.
        tracing::warn!(cast = %row.id, error = why, "cast failed");
        end_cast(tx, row, CastEnd { reason, message: Some(why.to_owned()), cause: None })?;
    }
    mark_closed(tx, row, None)
}
