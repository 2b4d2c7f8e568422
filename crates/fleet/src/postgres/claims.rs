//! Claims, leases and commands: the [`crate::Leases`] part of the backend.
//!
//! Whoever changes a cast locks its row first and its lease afterwards. A ticket is checked on the locked
//! row, so that a worker that lost its lease is fenced whatever happens at the same time. Renewals change
//! only the narrow table `leases`.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Row;

use super::clock::Reading;
use super::daily_use;
use super::history::{NewEvents, end_cast, insert_events, report_locked};
use super::row::{CastRow, nonce_to_bigint, read_cast, read_cast_id, to_bigint};
use super::sql::{Params, TxError, execute, params, query_all, query_one};
use super::transaction::{Db, Tx};
use crate::daily_use::CastUse;
use crate::delivery::deadline_after;
use crate::injected::Injected;
use crate::lifecycle::{UNREADABLE_MESSAGE, failed_end, on_claim, unreported_end};
use crate::queue::{MAX_CANDIDATES, MAX_CANDIDATES_PER_APP, OfferedApp, QueueRow, QueuedGroup, fair_order};
use crate::sealing::cast_context;
use crate::telemetry_table::Owner;
use crate::{
    Cast, CastId, CastState, Claim, Error, EventKind, ExpiredLease, MAX_EXPIRED, QueuedCast, Renewal, Ticket,
    WorkerId,
};

/// Longest lease, in milliseconds, so that its end can be computed.
const MAX_LEASE_MS: i64 = 1 << 52;

/// Locks the cast of a valid ticket, or fails with [`Error::Fenced`].
pub(super) async fn lock_owned(tx: &Tx<'_>, ticket: &Ticket) -> Result<CastRow, TxError> {
    let sql = format!(
        "SELECT {} FROM casts WHERE id = $1 AND worker = $2 AND epoch = $3 AND nonce = $4 AND NOT closed
         FOR NO KEY UPDATE",
        CastRow::COLUMNS
    );
    let Ticket { cast, worker, epoch, nonce } = ticket;
    let params = params![cast.as_str(), worker.0.as_str(), to_bigint(*epoch), nonce_to_bigint(*nonce)];
    let found = query_one(tx.db(), &sql, params, CastRow::from_row).await?;
    found.ok_or_else(|| Error::Fenced(cast.clone()).into())
}

/// A worker that registers.
pub(super) struct Register {
    pub worker: WorkerId,
    pub instance: u64,
}

pub(super) async fn register_worker(tx: &mut Tx<'_>, args: &Register) -> Result<(), TxError> {
    let name = args.worker.0.as_str();
    // Locks the row, so that claims of an earlier process are over when its casts are freed.
    let sql = "INSERT INTO nodes (worker, instance, registered_ms) VALUES ($1, $2, $3)
               ON CONFLICT (worker)
               DO UPDATE SET instance = excluded.instance, registered_ms = excluded.registered_ms";
    execute(tx.db(), sql, params![name, nonce_to_bigint(args.instance), tx.fleet_now]).await?;
    let sql = "UPDATE casts SET worker = NULL WHERE worker = $1 RETURNING id";
    let freed: Vec<String> = query_all(tx.db(), sql, params![name], |row| Ok(row.try_get(0)?)).await?;
    let sql = "WITH gone AS (DELETE FROM workers WHERE worker = $1)
               UPDATE leases SET worker = NULL, until_ms = 0 WHERE worker = $1";
    execute(tx.db(), sql, params![name]).await?;
    for id in freed {
        if let Ok(id) = CastId::parse(&id) {
            tx.owner_cleared(id);
        }
        tx.notify_changes();
    }
    Ok(())
}

/// A worker that claims a cast.
#[derive(Debug, Clone)]
pub(super) struct Claimant {
    pub worker: WorkerId,
    /// Number of its process.
    pub instance: u64,
    pub labels: Vec<String>,
    pub lease: Duration,
    /// Nonce of the ticket.
    pub nonce: u64,
}

impl AsRef<Claimant> for Claimant {
    fn as_ref(&self) -> &Claimant {
        self
    }
}

/// Started casts whose leases have expired, or that have no owner, for a worker with these labels.
pub(super) async fn expired_leases(
    db: &Db<'_>,
    (worker, labels): &(WorkerId, Vec<String>),
) -> Result<Vec<ExpiredLease>, TxError> {
    // Usually there is none, which the statement that reads the clock finds out.
    let columns = "EXISTS (SELECT 1 FROM leases WHERE until_ms <= fleet_ms AND worker IS DISTINCT FROM $1
                 AND string_to_array(labels, ',') <@ $2) AS expired";
    let read = |row: &Row| Ok(row.try_get("expired")?);
    let params = params![worker.0.as_str(), labels.clone()];
    let (now, expired): (_, bool) = db.clock_and(columns, params, read).await?;
    if !expired {
        return Ok(Vec::new());
    }
    let sql = "SELECT id, leases.worker, leases.epoch, weight FROM leases JOIN casts USING (id)
               WHERE until_ms <= $1 AND leases.worker IS DISTINCT FROM $2
                 AND string_to_array(leases.labels, ',') <@ $3 ORDER BY until_ms, id LIMIT $4";
    let params = params![now.fleet_ms(), worker.0.as_str(), labels.clone(), MAX_EXPIRED as i64];
    let found = query_all(db.client, sql, params, |row| {
        let id: String = row.try_get(0)?;
        let owner = row.try_get::<_, Option<String>>(1)?.map(WorkerId);
        let owner = owner.zip(Some(row.try_get::<_, i64>(2)?.unsigned_abs()));
        let weight = to_weight(row.try_get(3)?);
        Ok(CastId::parse(&id).ok().map(|cast| ExpiredLease { cast, owner, weight }))
    });
    Ok(found.await?.into_iter().flatten().collect())
}

/// A weight as the database stores it.
fn to_weight(weight: i64) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX)
}

/// Reads the queue in the order in which casts are offered, without descriptions.
pub(super) async fn read_queue(db: &Db<'_>, by: &Claimant) -> Result<Vec<QueueRow>, TxError> {
    let columns = "EXISTS (SELECT 1 FROM casts WHERE state = 0) AS queued,
         EXISTS (SELECT 1 FROM nodes WHERE worker = $1 AND instance <> $2) AS replaced";
    let read = |row: &Row| Ok((row.try_get("queued")?, row.try_get("replaced")?));
    let params = params![by.worker.0.as_str(), nonce_to_bigint(by.instance)];
    let (now, (queued, replaced)): (_, (bool, bool)) = db.clock_and(columns, params, read).await?;
    if replaced {
        return Err(Error::Replaced(by.worker.clone()).into());
    }
    if queued { queue_order(db, now.fleet_ms(), Some(&by.labels)).await } else { Ok(Vec::new()) }
}

/// Rows of the queue in the order in which casts are offered to a worker with these labels
/// ([`crate::queue`]), the oldest of an application first. `None` stands for all labels.
pub(super) async fn queue_order(
    db: &Db<'_>,
    fleet_now: i64,
    labels: Option<&[String]>,
) -> Result<Vec<QueueRow>, TxError> {
    // Each step finds the next application and set of labels in the index.
    let sql = "WITH RECURSIVE groups AS (
                   (SELECT app, labels, n FROM casts WHERE state = 0 ORDER BY app, labels, n LIMIT 1)
                   UNION ALL
                   SELECT next.* FROM groups, LATERAL (
                       SELECT app, labels, n FROM casts
                       WHERE state = 0 AND (app, labels) > (groups.app, groups.labels)
                       ORDER BY app, labels, n LIMIT 1) AS next)
               SELECT app, groups.labels, n, running_weight FROM groups JOIN tallies USING (app)";
    let groups = query_all(db.client, sql, params![], |row| {
        let (app, labels) = (row.try_get("app")?, row.try_get("labels")?);
        Ok(QueuedGroup {
            app,
            labels,
            first: row.try_get("n")?,
            running_weight: row.try_get("running_weight")?,
        })
    })
    .await?;
    let offered = fair_order(groups, labels);
    let apps: Vec<&str> = offered.iter().map(|offered| offered.app.as_str()).collect();
    let (mut group_places, mut group_labels) = (Vec::new(), Vec::new());
    for (place, OfferedApp { labels, .. }) in (1_i64..).zip(&offered) {
        group_places.extend(labels.iter().map(|_| place));
        group_labels.extend(labels.iter().map(String::as_str));
    }
    let sql = "SELECT apps.place, queued.* FROM unnest($1) WITH ORDINALITY AS apps (app, place),
                 LATERAL (SELECT of_group.* FROM unnest($2, $3) AS groups (place, labels),
                              LATERAL (SELECT n, id, weight, bytes FROM casts
                                       WHERE state = 0 AND casts.app = apps.app
                                         AND casts.labels = groups.labels
                                         -- Not by the index of overdue casts, which has those of all.
                                         AND queue_until_ms + 0 > $4
                                       ORDER BY n LIMIT $5) AS of_group
                          WHERE groups.place = apps.place ORDER BY of_group.n LIMIT $5) AS queued
               ORDER BY apps.place, queued.n LIMIT $6";
    let most = MAX_CANDIDATES as i64;
    let params = params![apps, group_places, group_labels, fleet_now, MAX_CANDIDATES_PER_APP, most];
    query_all(db.client, sql, params, |row| {
        let place: i64 = row.try_get("place")?;
        let of = usize::try_from(place - 1).ok().and_then(|place| offered.get(place));
        let OfferedApp { app, running_weight, .. } = of.ok_or(TxError::Conflict)?;
        let weight = to_weight(row.try_get("weight")?);
        let cast = QueuedCast { id: read_cast_id(row)?, app: app.clone(), weight };
        Ok(QueueRow {
            n: row.try_get("n")?,
            cast,
            bytes: row.try_get("bytes")?,
            running_weight: *running_weight,
        })
    })
    .await
}

/// A started cast that a worker takes over.
pub(super) struct TakeOver {
    pub by: Claimant,
    pub cast: CastId,
}

impl AsRef<Claimant> for TakeOver {
    fn as_ref(&self) -> &Claimant {
        &self.by
    }
}

/// Claims a started cast that has no owner, or whose lease has expired.
pub(super) async fn take_over(tx: &mut Tx<'_>, args: &TakeOver) -> Result<Vec<Claim>, TxError> {
    let sql = format!("{SELECT_WHOLE} WHERE id = $1 AND NOT closed FOR NO KEY UPDATE OF casts SKIP LOCKED");
    let found = read_locked(tx, &sql, params![args.cast.as_str()]).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    // Its lease may have been renewed since it was found.
    let check = "SELECT 1 FROM leases WHERE id = $1 AND until_ms <= $2 AND worker IS DISTINCT FROM $3
                 FOR UPDATE";
    let params = params![args.cast.as_str(), tx.fleet_now, args.by.worker.0.as_str()];
    match query_one(tx.db(), check, params, |_| Ok(())).await? {
        Some(()) => assign_owner(tx, &args.by, found).await,
        None => Ok(Vec::new()),
    }
}

/// Queued casts that a worker claims.
pub(super) struct ClaimQueued {
    pub by: Claimant,
    /// Rows of the casts, in the order of the claims.
    pub rows: Vec<i64>,
}

impl AsRef<Claimant> for ClaimQueued {
    fn as_ref(&self) -> &Claimant {
        &self.by
    }
}

/// Claims queued casts, but not those for which other workers were faster.
pub(super) async fn claim_queued(tx: &mut Tx<'_>, args: &ClaimQueued) -> Result<Vec<Claim>, TxError> {
    let sql = format!(
        "{SELECT_WHOLE} WHERE n = ANY ($1) AND state = 0 AND queue_until_ms > $2
         ORDER BY array_position($1, n) FOR NO KEY UPDATE OF casts SKIP LOCKED"
    );
    let found = read_locked(tx, &sql, params![args.rows.clone(), tx.fleet_now]).await?;
    if found.is_empty() {
        tx.set_unchanged();
    }
    assign_owner(tx, &args.by, found).await
}

/// A cast whose row is locked, with its injected data, or why it cannot be read.
type LockedCast = (CastRow, Result<Cast, Error>);

/// Locks and reads casts with their injected data.
async fn read_locked(tx: &Tx<'_>, sql: &str, params: &Params<'_>) -> Result<Vec<LockedCast>, TxError> {
    query_all(tx.db(), sql, params, |row| match read_whole(tx, row) {
        Ok(cast) => Ok((CastRow::from_row(row)?, Ok(cast))),
        Err(TxError::Fleet(error @ Error::Unreadable { .. })) => Ok((CastRow::from_row(row)?, Err(error))),
        Err(error) => Err(error),
    })
    .await
}

/// Makes a worker the owner of casts. A cast that cannot be read is failed, because it would block every
/// claim.
async fn assign_owner(tx: &mut Tx<'_>, by: &Claimant, found: Vec<LockedCast>) -> Result<Vec<Claim>, TxError> {
    lock_tallies(tx, found.iter().map(|(row, _)| row.n).collect()).await?;
    let (mut casts, mut events) = (Vec::new(), NewEvents::default());
    let (mut rows, mut states, mut last_seqs, mut grown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (mut row, cast) in found {
        let mut cast = match cast {
            Ok(cast) => cast,
            Err(error) => {
                tracing::warn!(cast = %row.id, %error, "cast failed, stored description unreadable");
                fail_and_close(tx, &mut row, UNREADABLE_MESSAGE).await?;
                continue;
            }
        };
        let mut bytes = 0;
        for event in on_claim(row.state, cast.worker.take(), &by.worker) {
            bytes += events.add(tx, &mut row, &event)?;
        }
        cast.state = if row.state == CastState::Queued { CastState::Starting } else { row.state };
        rows.push(row.n);
        states.push(cast.state.to_number());
        last_seqs.push(row.last_seq);
        grown.push(bytes);
        casts.push(cast);
    }
    if casts.is_empty() {
        return Ok(Vec::new());
    }
    let (worker, instance) = (by.worker.0.as_str(), nonce_to_bigint(by.instance));
    // The lock keeps another process from registering under the name until this claim is committed.
    let sql = "WITH registered AS (SELECT instance FROM nodes WHERE worker = $5 FOR SHARE),
               claimed AS (SELECT * FROM unnest($1, $2, $3, $4) AS claimed (n, state, last_seq, grown)),
               changed AS (
                   UPDATE casts SET worker = $5, epoch = epoch + 1, nonce = $6, state = claimed.state,
                                    started_ms = coalesce(started_ms, $7), last_seq = claimed.last_seq,
                                    bytes = bytes + claimed.grown
                   FROM claimed WHERE casts.n = claimed.n
                     AND NOT EXISTS (SELECT 1 FROM registered WHERE instance <> $9)
                   RETURNING id, worker, epoch, nonce, labels),
               leased AS (
                   INSERT INTO leases (id, worker, epoch, nonce, until_ms, labels)
                   SELECT id, worker, epoch, nonce, $8, labels FROM changed
                   ON CONFLICT (id) DO UPDATE SET worker = excluded.worker, epoch = excluded.epoch,
                       nonce = excluded.nonce, until_ms = excluded.until_ms)
               SELECT id, epoch FROM changed";
    let until = deadline_after(tx.fleet_now, by.lease);
    let nonce = nonce_to_bigint(by.nonce);
    let params = params![rows, states, last_seqs, grown, worker, nonce, tx.now, until, instance];
    let read = |row: &Row| Ok((read_cast_id(row)?, row.try_get::<_, i64>("epoch")?.unsigned_abs()));
    // Sent together, so that they take one round trip.
    let (epochs, inserted) =
        tokio::join!(biased; query_all(tx.db(), sql, params, read), insert_events(tx, &events));
    let epochs: HashMap<CastId, u64> = epochs?.into_iter().collect();
    inserted?;
    let mut claims = Vec::with_capacity(casts.len());
    for mut cast in casts {
        cast.epoch = *epochs.get(&cast.id).ok_or_else(|| Error::Replaced(by.worker.clone()))?;
        cast.worker = Some(by.worker.clone());
        cast.started_ms = cast.started_ms.or(Some(tx.now));
        claims.push(claim(tx, by, cast));
    }
    tx.notify_changes();
    Ok(claims)
}

/// The claim of a cast that a worker owns now.
fn claim(tx: &mut Tx<'_>, by: &Claimant, cast: Cast) -> Claim {
    let (worker, epoch) = (by.worker.clone(), cast.epoch);
    let ticket = Ticket { cast: cast.id.clone(), worker, epoch, nonce: by.nonce };
    tx.owner_changed(cast.id.clone(), Owner::of(&ticket));
    Claim { ticket, cast }
}

/// Locks the tallies of the applications that own these casts, which the transaction will change: always in
/// the same order, so that two transactions cannot wait for each other.
pub(super) async fn lock_tallies(tx: &Tx<'_>, rows: Vec<i64>) -> Result<(), TxError> {
    let sql = "SELECT 1 FROM tallies WHERE app IN (SELECT app FROM casts WHERE n = ANY ($1)) ORDER BY app
               FOR NO KEY UPDATE";
    // One of them is locked by the change itself.
    if rows.len() > 1 {
        query_all(tx.db(), sql, params![rows], |_| Ok(())).await?;
    }
    Ok(())
}

/// Query for [`read_whole`].
const SELECT_WHOLE: &str =
    "SELECT casts.*, content AS injected FROM casts LEFT JOIN injected ON cast_n = casts.n";

/// Reads a cast with its injected data.
fn read_whole(tx: &Tx<'_>, row: &Row) -> Result<Cast, TxError> {
    let mut cast = read_cast(tx.shared, row)?;
    if let Some(sealed) = row.try_get::<_, Option<&[u8]>>("injected")? {
        let injected: Injected = tx.shared.open(&cast_context(&cast.id, "injected"), sealed)?;
        injected.put_into(&mut cast.spec);
    }
    Ok(cast)
}

/// Finds the claims of a transaction by their nonce, after its result was lost.
pub(super) async fn find_claims(tx: &mut Tx<'_>, by: &Claimant) -> Result<Vec<Claim>, TxError> {
    let sql = format!("{SELECT_WHOLE} WHERE worker = $1 AND nonce = $2 ORDER BY n");
    let params = params![by.worker.0.as_str(), nonce_to_bigint(by.nonce)];
    let casts: Vec<Cast> = query_all(tx.db(), &sql, params, |row| read_whole(tx, row)).await?;
    Ok(casts.into_iter().map(|cast| claim(tx, by, cast)).collect())
}

/// Tickets to renew.
pub(super) struct Renew {
    pub tickets: Vec<Ticket>,
    pub lease: Duration,
}

/// Clock, place of a renewed ticket, and number and content of a pending command.
type RenewedRow = (Reading, Option<usize>, Option<i64>, Option<Vec<u8>>);

/// Renews all tickets in one statement. It may be repeated.
pub(super) async fn renew_all(db: &Db<'_>, args: &Renew) -> Result<Vec<Renewal>, TxError> {
    let Renew { tickets, lease } = args;
    let sql = format!(
        "WITH tickets AS (
             SELECT * FROM unnest($1, $2, $3, $4)
             WITH ORDINALITY AS tickets (id, worker, epoch, nonce, place)),
         renewed AS (
             UPDATE leases SET until_ms = wall_ms() + offset_ms + $5 FROM tickets, clock
             WHERE leases.id = tickets.id AND leases.worker = tickets.worker
               AND leases.epoch = tickets.epoch AND leases.nonce = tickets.nonce
             RETURNING place)
         SELECT {}, place, commands.n, content
         FROM clock LEFT JOIN (tickets JOIN renewed USING (place) LEFT JOIN commands USING (id)) ON true
         ORDER BY place, commands.n",
        Reading::COLUMNS
    );
    let ids: Vec<_> = tickets.iter().map(|ticket| ticket.cast.as_str()).collect();
    let workers: Vec<_> = tickets.iter().map(|ticket| ticket.worker.0.as_str()).collect();
    let epochs: Vec<_> = tickets.iter().map(|ticket| to_bigint(ticket.epoch)).collect();
    let nonces: Vec<_> = tickets.iter().map(|ticket| nonce_to_bigint(ticket.nonce)).collect();
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(MAX_LEASE_MS).min(MAX_LEASE_MS);
    let params = params![ids, workers, epochs, nonces, lease_ms];
    let before_ms = db.shared.clock.monotonic_ms();
    let rows: Vec<RenewedRow> = query_all(db.client, &sql, params, |row| {
        let place = row.try_get::<_, Option<i64>>("place")?.and_then(|place| usize::try_from(place - 1).ok());
        let (n, content) = (row.try_get::<_, Option<i64>>("n")?, row.try_get("content")?);
        Ok((Reading::from_row(row)?, place, n, content))
    })
    .await?;
    // After a jump of the clock, the leases are renewed again.
    if let Some((reading, ..)) = rows.first() {
        db.check_clock(*reading, before_ms).await?;
    }
    let mut renewals = vec![Renewal::Lost; tickets.len()];
    for (_, place, n, content) in rows {
        let place = place.unwrap_or(usize::MAX);
        let (Some(renewal), Some(ticket)) = (renewals.get_mut(place), tickets.get(place)) else { continue };
        if *renewal == Renewal::Lost {
            *renewal = Renewal::Renewed { commands: Vec::new() };
        }
        if let (Renewal::Renewed { commands }, Some(n), Some(content)) = (renewal, n, content) {
            let command = db.shared.open(&cast_context(&ticket.cast, "command"), &content)?;
            commands.push((n.unsigned_abs(), command));
        }
    }
    Ok(renewals)
}

/// Commands that were carried out.
pub(super) struct Ack {
    pub ticket: Ticket,
    pub upto: u64,
}

pub(super) async fn ack_commands(tx: &Tx<'_>, args: &Ack) -> Result<(), TxError> {
    let row = lock_owned(tx, &args.ticket).await?;
    let sql = "DELETE FROM commands WHERE id = $1 AND n <= $2";
    execute(tx.db(), sql, params![row.id.as_str(), to_bigint(args.upto)]).await?;
    Ok(())
}

/// What a worker reports when it closes a cast.
pub(super) struct Close {
    pub ticket: Ticket,
    pub last: Option<EventKind>,
    pub report: Option<Value>,
}

pub(super) async fn close(tx: &mut Tx<'_>, args: &Close) -> Result<(), TxError> {
    let mut row = lock_owned(tx, &args.ticket).await?;
    if let Some(last) = &args.last {
        report_locked(tx, &mut row, last).await?;
    }
    let seal = |report| tx.shared.seal(&cast_context(&row.id, "report"), report);
    let sealed = args.report.as_ref().map(seal).transpose()?;
    if row.state != CastState::Ended {
        end_cast(tx, &mut row, unreported_end()).await?;
    }
    mark_closed(tx, &row, args.report.as_ref(), sealed).await
}

/// Marks a cast as closed, stores the worker's report, and counts what the cast used. Its page will not be
/// opened again.
pub(super) async fn mark_closed(
    tx: &mut Tx<'_>,
    row: &CastRow,
    report: Option<&Value>,
    sealed: Option<Vec<u8>>,
) -> Result<(), TxError> {
    let sql =
        "WITH gone AS (DELETE FROM injected WHERE cast_n = $1 RETURNING octet_length(content) AS bytes),
                    freed AS (DELETE FROM leases WHERE id = $2),
                    finished AS (DELETE FROM ledger WHERE cast_n = $1)
               UPDATE casts SET closed = true, worker = NULL, report = $3,
                                bytes = bytes + $4 - coalesce((SELECT sum(gone.bytes) FROM gone), 0)
               WHERE n = $1 RETURNING app, started_ms, ended_ms";
    let grown = sealed.as_ref().map_or(0, |sealed| sealed.len() as i64);
    let params = params![row.n, row.id.as_str(), sealed, grown];
    let closed = query_one(tx.db(), sql, params, |row| {
        let times: (Option<i64>, Option<i64>) = (row.try_get("started_ms")?, row.try_get("ended_ms")?);
        Ok((row.try_get::<_, String>("app")?, times))
    });
    // A cast that no worker had started used nothing.
    if let Some((app, (Some(started_ms), Some(ended_ms)))) = closed.await? {
        daily_use::count_cast(tx, &app, &CastUse::new(started_ms, ended_ms, report)).await?;
    }
    tx.owner_cleared(row.id.clone());
    tx.notify_changes();
    Ok(())
}

/// Frees a cast: any worker may claim it, and its former owner is fenced.
pub(super) async fn release(tx: &mut Tx<'_>, ticket: &Ticket) -> Result<(), TxError> {
    let row = lock_owned(tx, ticket).await?;
    let sql = "WITH freed AS (UPDATE leases SET worker = NULL, until_ms = 0 WHERE id = $2)
               UPDATE casts SET worker = NULL WHERE n = $1";
    execute(tx.db(), sql, params![row.n, row.id.as_str()]).await?;
    tx.owner_cleared(row.id.clone());
    tx.notify_changes();
    Ok(())
}

/// A queued cast that no worker can run.
pub(super) struct FailQueued {
    pub id: CastId,
    pub message: String,
}

pub(super) async fn fail_queued(tx: &mut Tx<'_>, args: &FailQueued) -> Result<(), TxError> {
    let mut row = CastRow::lock(tx.db(), &args.id).await?;
    if row.state == CastState::Queued { fail_and_close(tx, &mut row, &args.message).await } else { Ok(()) }
}

/// Ends and closes a cast that no worker runs.
pub(super) async fn fail_and_close(tx: &mut Tx<'_>, row: &mut CastRow, why: &str) -> Result<(), TxError> {
    if row.state != CastState::Ended {
        // No worker runs it that would log the end.
        tracing::warn!(cast = %row.id, error = why, "cast failed");
        end_cast(tx, row, failed_end(row.state, why)).await?;
    }
    mark_closed(tx, row, None, None).await
}

/// Whether a ticket is valid.
pub(super) async fn is_valid(db: &Db<'_>, ticket: &Ticket) -> Result<bool, TxError> {
    let sql = "SELECT 1 FROM casts
               WHERE id = $1 AND worker = $2 AND epoch = $3 AND nonce = $4 AND NOT closed";
    let Ticket { cast, worker, epoch, nonce } = ticket;
    let params = params![cast.as_str(), worker.0.as_str(), to_bigint(*epoch), nonce_to_bigint(*nonce)];
    Ok(query_one(db.client, sql, params, |_| Ok(())).await?.is_some())
}
