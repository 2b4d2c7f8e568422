//! Claims, leases and commands: the [`crate::Leases`] part of the backend.

use std::time::Duration;

use rusqlite::{Connection, params};
use serde_json::Value;

use super::history::{append_event, end_cast};
use super::row::{
    CastRow, TxError, execute, get_by_rowid, query_all, query_one, read_cast_id, to_sql_integer,
};
use super::writer::Tx;
use super::{Shared, daily_use};
use crate::delivery::deadline_after;
use crate::injected::Injected;
use crate::lifecycle::{UNREADABLE_MESSAGE, failed_end, on_claim, unreported_end};
use crate::queue::{
    MAX_CANDIDATES, MAX_CANDIDATES_PER_APP, OfferedApp, QueueRow, QueuedGroup, fair_order, has_labels,
};
use crate::sealing::cast_context;
use crate::telemetry_table::Owner;
use crate::{
    Cast, CastId, CastState, Claim, Command, Error, ExpiredLease, MAX_EXPIRED, QueuedCast, Renewal, Ticket,
    WorkerId,
};

/// Nonce of all tickets: this database never forgets an epoch that it confirmed.
const NONCE: u64 = 0;

/// Calls `found` for each cast that has an owner.
pub(super) fn for_each_owner(db: &Connection, mut found: impl FnMut(CastId, Owner)) -> rusqlite::Result<()> {
    let sql = "SELECT id, worker, epoch FROM casts INDEXED BY casts_begun
               WHERE closed = 0 AND state > 0 AND worker IS NOT NULL";
    let mut select = db.prepare(sql)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let epoch = row.get::<_, i64>(2)?.unsigned_abs();
        let owner = Owner { worker: WorkerId(row.get(1)?), epoch, nonce: NONCE };
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
    let found = query_one(db, &sql, params, CastRow::from_row)?.filter(|_| ticket.nonce == NONCE);
    found.ok_or_else(|| Error::Fenced(ticket.cast.clone()).into())
}

pub(super) fn register_worker(tx: &mut Tx<'_>, worker: &WorkerId, instance: u64) -> Result<(), TxError> {
    let sql = format!(
        "SELECT {} FROM casts INDEXED BY casts_begun WHERE closed = 0 AND state > 0 AND worker = ?",
        CastRow::COLUMNS
    );
    for row in query_all(tx.db, &sql, [&worker.0], CastRow::from_row)? {
        clear_owner(tx, &row)?;
    }
    tx.shared.telemetry.set_instance(worker, instance);
    Ok(())
}

/// A worker that claims a cast.
#[derive(Debug, Clone)]
pub(super) struct Claimant {
    pub worker: WorkerId,
    pub instance: u64,
    pub lease: Duration,
}

/// Started casts whose leases have expired, or that have no owner, for a worker.
pub(super) fn expired_leases(
    db: &Connection,
    shared: &Shared,
    worker: &WorkerId,
    node_labels: &[String],
) -> Result<Vec<ExpiredLease>, TxError> {
    let now = shared.clock.fleet_ms();
    let sql = "SELECT DISTINCT labels FROM casts INDEXED BY casts_begun
               WHERE closed = 0 AND state > 0 AND lease_until_ms <= ? AND worker IS NOT ?";
    let labels: Vec<String> = query_all(db, sql, params![now, worker.0], |row| Ok(row.get(0)?))?;
    let sql = "SELECT lease_until_ms, n, id, worker, epoch, weight FROM casts INDEXED BY casts_begun
               WHERE closed = 0 AND state > 0 AND lease_until_ms <= ? AND worker IS NOT ? AND labels = ?
               ORDER BY lease_until_ms, n LIMIT ?";
    let mut found = Vec::new();
    for labels in labels.iter().filter(|labels| has_labels(node_labels, labels)) {
        let params = params![now, worker.0, labels, MAX_EXPIRED as i64];
        found.extend(query_all(db, sql, params, |row| {
            let place: (i64, i64) = (row.get(0)?, row.get(1)?);
            let owner = row.get::<_, Option<String>>(3)?.map(WorkerId);
            let owner = owner.zip(Some(row.get::<_, i64>(4)?.unsigned_abs()));
            let (cast, weight) = (CastId::parse(&row.get::<_, String>(2)?).ok(), to_weight(row.get(5)?));
            Ok((place, cast.map(|cast| ExpiredLease { cast, owner, weight })))
        })?);
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().filter_map(|(_, lease)| lease).take(MAX_EXPIRED).collect())
}

/// A weight as the database stores it.
fn to_weight(weight: i64) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX)
}

/// Claims a started cast whose lease has expired.
pub(super) fn take_over(tx: &mut Tx<'_>, by: &Claimant, cast: &CastId) -> Result<Option<Claim>, TxError> {
    let sql = format!(
        "SELECT {} FROM casts WHERE id = ? AND closed = 0 AND state > 0 AND lease_until_ms <= ?
         AND worker IS NOT ?",
        CastRow::COLUMNS
    );
    match query_one(tx.db, &sql, params![cast.as_str(), tx.fleet_now, by.worker.0], CastRow::from_row)? {
        Some(row) => assign_owner(tx, by, &row),
        None => Ok(None),
    }
}

/// Rows of the queue in the order in which casts are offered to a worker with these labels
/// ([`crate::queue`]), the oldest of an application first. `None` stands for all labels. Descriptions are not
/// read.
pub(super) fn queue_order(
    db: &Connection,
    shared: &Shared,
    labels: Option<&[String]>,
) -> Result<Vec<QueueRow>, TxError> {
    // Each step finds the next application and set of labels in the index.
    let groups = "WITH RECURSIVE groups (app, labels, first) AS (
             SELECT * FROM (SELECT app, labels, n FROM casts INDEXED BY casts_waiting WHERE state = 0
                            ORDER BY app, labels, n LIMIT 1)
             UNION ALL
             SELECT next.app, next.labels, next.n FROM groups JOIN casts next ON next.n = ifnull(
                 (SELECT n FROM casts INDEXED BY casts_waiting
                  WHERE state = 0 AND app = groups.app AND labels > groups.labels
                  ORDER BY labels, n LIMIT 1),
                 (SELECT n FROM casts INDEXED BY casts_waiting WHERE state = 0 AND app > groups.app
                  ORDER BY app, labels, n LIMIT 1)))
         SELECT app, labels, first, (SELECT ifnull(sum(weight), 0) FROM tally
                                     WHERE state IN (1, 2) AND tally.app = groups.app) FROM groups";
    let groups = query_all(db, groups, [], |row| {
        let (app, labels) = (row.get(0)?, row.get(1)?);
        Ok(QueuedGroup { app, labels, first: row.get(2)?, running_weight: row.get(3)? })
    })?;
    let of_group = "SELECT n, id, weight, bytes FROM casts INDEXED BY casts_waiting
                    WHERE state = 0 AND app = ? AND labels = ? AND queue_until_ms > ? ORDER BY n LIMIT ?";
    let mut queue: Vec<QueueRow> = Vec::new();
    for OfferedApp { app, running_weight, labels } in fair_order(groups, labels) {
        let mut rows = Vec::new();
        for labels in labels {
            let params = params![app, labels, shared.clock.fleet_ms(), MAX_CANDIDATES_PER_APP];
            rows.extend(query_all(db, of_group, params, |row| {
                let (id, weight) = (read_cast_id(row)?, to_weight(row.get("weight")?));
                let cast = QueuedCast { id, app: app.clone(), weight };
                Ok(QueueRow { n: row.get("n")?, cast, bytes: row.get("bytes")?, running_weight })
            })?);
        }
        rows.sort_unstable_by_key(|row| row.n);
        rows.truncate(MAX_CANDIDATES_PER_APP as usize);
        queue.extend(rows);
        if queue.len() >= MAX_CANDIDATES {
            queue.truncate(MAX_CANDIDATES);
            break;
        }
    }
    Ok(queue)
}

/// Claims queued casts, but not those for which another worker was faster.
pub(super) fn claim_queued(tx: &mut Tx<'_>, by: &Claimant, rows: &[i64]) -> Result<Vec<Claim>, TxError> {
    let sql =
        format!("SELECT {} FROM casts WHERE n = ? AND state = 0 AND queue_until_ms > ?", CastRow::COLUMNS);
    let mut claims = Vec::with_capacity(rows.len());
    for n in rows {
        if let Some(row) = query_one(tx.db, &sql, [*n, tx.fleet_now], CastRow::from_row)? {
            claims.extend(assign_owner(tx, by, &row)?);
        }
    }
    Ok(claims)
}

/// Makes a worker the owner of a cast. A cast that cannot be read is failed, because it would block every
/// claim.
fn assign_owner(tx: &mut Tx<'_>, by: &Claimant, row: &CastRow) -> Result<Option<Claim>, TxError> {
    let Claimant { worker, lease, .. } = by;
    tx.shared.telemetry.check_instance(worker, by.instance)?;
    let (spec, lost) = match read_with_injected(tx, row.rowid) {
        Ok(cast) => (cast.spec, cast.worker),
        Err(TxError::Fleet(error @ Error::Unreadable { .. })) => {
            tracing::warn!(cast = %row.id, %error, "cast failed, stored description unreadable");
            fail_and_close(tx, row, UNREADABLE_MESSAGE)?;
            return Ok(None);
        }
        Err(fail) => return Err(fail),
    };
    let sql = "UPDATE casts SET worker = ?, epoch = epoch + 1, lease_until_ms = ? WHERE n = ?";
    execute(tx.db, sql, params![worker.0, deadline_after(tx.fleet_now, *lease), row.rowid])?;
    if row.state == CastState::Queued {
        let sql = "UPDATE casts SET state = 1, started_ms = ? WHERE n = ?";
        execute(tx.db, sql, params![tx.now, row.rowid])?;
    }
    for event in on_claim(row.state, lost, worker) {
        append_event(tx, row, &event)?;
    }
    let cast =
        get_by_rowid(tx.db, tx.shared, row.rowid)?.ok_or_else(|| Error::CastNotFound(row.id.clone()))?;
    let cast = Cast { spec, ..cast };
    let ticket = Ticket { cast: cast.id.clone(), worker: worker.clone(), epoch: cast.epoch, nonce: NONCE };
    tx.owner_changed(cast.id.clone(), Owner::of(&ticket));
    Ok(Some(Claim { ticket, cast }))
}

/// Reads a cast with its injected data.
fn read_with_injected(tx: &Tx<'_>, n: i64) -> Result<Cast, TxError> {
    let gone =
        || TxError::Fleet(Error::Unreadable { what: format!("cast {n}"), why: "it was deleted".to_owned() });
    let mut cast = get_by_rowid(tx.db, tx.shared, n)?.ok_or_else(gone)?;
    let sql = "SELECT what FROM injected WHERE whose = ?";
    if let Some(sealed) = query_one(tx.db, sql, [n], |row| Ok(row.get::<_, Vec<u8>>(0)?))? {
        let injected: Injected = tx.shared.open(&cast_context(&cast.id, "injected"), &sealed)?;
        injected.put_into(&mut cast.spec);
    }
    Ok(cast)
}

pub(super) fn renew_all(tx: &Tx<'_>, tickets: &[Ticket], lease: Duration) -> Result<Vec<Renewal>, TxError> {
    // Only leases of which a third is over are written, so that looking for commands writes nothing.
    let due_before = deadline_after(tx.fleet_now, lease * 2 / 3);
    let renew_due = |ticket| -> Result<CastRow, TxError> {
        let row = verify_ticket(tx.db, ticket)?;
        let sql = "UPDATE casts SET lease_until_ms = ? WHERE n = ? AND lease_until_ms < ?";
        execute(tx.db, sql, params![deadline_after(tx.fleet_now, lease), row.rowid, due_before])?;
        Ok(row)
    };
    let renew_one = |ticket| match renew_due(ticket) {
        Ok(row) => Ok(Renewal::Renewed { commands: commands(tx.db, tx.shared, &row)? }),
        Err(TxError::Fleet(Error::Fenced(_))) => Ok(Renewal::Lost),
        Err(error) => Err(error),
    };
    tickets.iter().map(renew_one).collect()
}

/// Pending commands of a cast.
fn commands(db: &Connection, shared: &Shared, row: &CastRow) -> Result<Vec<(u64, Command)>, TxError> {
    let context = cast_context(&row.id, "command");
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
    let sealed = report.map(|report| tx.shared.seal(&cast_context(&row.id, "report"), report)).transpose()?;
    if row.state != CastState::Ended {
        end_cast(tx, &row, unreported_end())?;
    }
    daily_use::count_cast(tx, row.rowid, report)?;
    mark_closed(tx, &row, sealed)
}

/// Marks a cast as closed, and stores the worker's report.
pub(super) fn mark_closed(tx: &mut Tx<'_>, row: &CastRow, report: Option<Vec<u8>>) -> Result<(), TxError> {
    let sql = "SELECT length(what) FROM injected WHERE whose = ?";
    let injected = query_one(tx.db, sql, [row.rowid], |row| Ok(row.get::<_, i64>(0)?))?.unwrap_or(0);
    // The page will not be opened again.
    execute(tx.db, "DELETE FROM injected WHERE whose = ?", [row.rowid])?;
    execute(tx.db, "DELETE FROM ledger WHERE whose = ?", [row.rowid])?;
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
    if row.state != CastState::Ended {
        // No worker runs it that would log the end.
        tracing::warn!(cast = %row.id, error = why, "cast failed");
        end_cast(tx, row, failed_end(row.state, why))?;
    }
    daily_use::count_cast(tx, row.rowid, None)?;
    mark_closed(tx, row, None)
}
