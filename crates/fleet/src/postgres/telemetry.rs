//! Statistics: the [`crate::Telemetry`] part of the backend.
//!
//! Each process keeps the statistics and snapshots of its own casts in memory. With the heartbeat of a
//! worker, its statistics go to the worker's row, where other processes read them. Snapshots stay in the
//! process that runs the cast.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Row;

use super::row::nonce_to_bigint;
use super::row::read_cast_id;
use super::sql::{TxError, execute, params, query_all, query_one};
use super::transaction::Db;
use crate::telemetry_table::{Owner, WORKER_TIMEOUT_MS};
use crate::{CastId, CastStats, Error, HeartbeatResponse, WorkerId, WorkerStatus};

/// Statistics of a worker's casts, each with epoch and nonce of its owner.
type WorkerStats = HashMap<CastId, (u64, u64, CastStats)>;

/// Context in which a value of a worker is sealed.
fn context(worker: &WorkerId, what: &str) -> String {
    format!("worker/{}/{what}", worker.0)
}

/// A worker's heartbeat.
pub(super) struct Heartbeat {
    pub worker: WorkerId,
    pub status: WorkerStatus,
}

pub(super) async fn heartbeat(db: &Db<'_>, args: &Heartbeat) -> Result<HeartbeatResponse, TxError> {
    let Heartbeat { worker, status } = args;
    let stats = db.shared.telemetry.stats_of(worker);
    let stats: WorkerStats =
        stats.into_iter().map(|(id, owner, stats)| (id, (owner.epoch, owner.nonce, stats))).collect();
    let instance = nonce_to_bigint(status.node.instance);
    let status = db.shared.seal(&context(worker, "status"), status)?;
    let stats = db.shared.seal(&context(worker, "stats"), &stats)?;
    let sql = format!(
        "WITH sent AS (
             INSERT INTO workers (worker, at_ms, status, stats)
             SELECT $2, wall_ms() + offset_ms, $3, $4 FROM clock
             WHERE NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.worker = $2 AND instance <> $5)
             ON CONFLICT (worker) DO UPDATE
             SET at_ms = excluded.at_ms, status = excluded.status, stats = excluded.stats
             RETURNING drain_requested)
         SELECT sent.drain_requested AS own_drain_requested, others.*
         FROM sent LEFT JOIN ({SELECT_WORKERS} AND worker <> $2) AS others ON true ORDER BY worker"
    );
    let params = params![WORKER_TIMEOUT_MS, worker.0.as_str(), status, stats, instance];
    let rows = query_all(db.client, &sql, params, |row| {
        let other = row.try_get::<_, Option<&str>>("worker")?.map(|_| read_worker(db, row)).transpose()?;
        Ok((row.try_get("own_drain_requested")?, other.flatten()))
    })
    .await?;
    let drain_requested = rows.first().map(|(drain_requested, _)| *drain_requested);
    let drain_requested = drain_requested.ok_or_else(|| Error::Replaced(worker.clone()))?;
    Ok(HeartbeatResponse {
        drain_requested,
        others: rows.into_iter().filter_map(|(_, other)| other).collect(),
    })
}

/// How long the workers of a heartbeat are known, in milliseconds: two intervals of heartbeats.
const KNOWN_WORKERS_MS: i64 = 4000;

/// The workers that this process learned of by its last heartbeat.
#[derive(Debug, Default)]
pub(super) struct KnownWorkers(Mutex<KnownSince>);

#[derive(Debug, Default)]
struct KnownSince {
    /// Monotonic time of the heartbeat.
    at_ms: Option<i64>,
    workers: Vec<(WorkerId, WorkerStatus)>,
}

impl KnownWorkers {
    /// Remembers the workers of a heartbeat.
    pub(super) fn learn(&self, now_ms: i64, sent: Heartbeat, response: &HeartbeatResponse) {
        let Heartbeat { worker, mut status } = sent;
        status.draining |= response.drain_requested;
        let mut workers = response.others.clone();
        workers.push((worker, status));
        workers.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = KnownSince { at_ms: Some(now_ms), workers };
    }

    /// The workers, if the heartbeat was not long ago.
    pub(super) fn recent(&self, now_ms: i64) -> Option<Vec<(WorkerId, WorkerStatus)>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age_ms = now_ms.saturating_sub(known.at_ms?);
        let mut workers = (age_ms <= KNOWN_WORKERS_MS).then(|| known.workers.clone())?;
        workers.iter_mut().for_each(|(_, status)| status.heartbeat_age_ms += age_ms.max(0).unsigned_abs());
        Some(workers)
    }
}

/// Query for [`read_worker`]: workers with a heartbeat within `$1` milliseconds.
const SELECT_WORKERS: &str =
    "SELECT worker, status, drain_requested, wall_ms() + offset_ms - at_ms AS age_ms FROM workers, clock
     WHERE at_ms >= wall_ms() + offset_ms - $1";

/// Reads the status of a worker; `None` if it cannot be read, which must not hide the others.
fn read_worker(db: &Db<'_>, row: &Row) -> Result<Option<(WorkerId, WorkerStatus)>, TxError> {
    let worker = WorkerId(row.try_get("worker")?);
    let mut status: WorkerStatus = match db.shared.open(&context(&worker, "status"), row.try_get("status")?) {
        Ok(status) => status,
        Err(error) => {
            tracing::debug!(node = worker.0, ?error, "status of a node unreadable, left out");
            return Ok(None);
        }
    };
    status.draining |= row.try_get::<_, bool>("drain_requested")?;
    status.heartbeat_age_ms = row.try_get::<_, i64>("age_ms")?.max(0).unsigned_abs();
    Ok(Some((worker, status)))
}

/// Asks a worker with a recent heartbeat to drain, and returns whether there is one. It may be repeated.
pub(super) async fn request_drain(db: &Db<'_>, worker: &WorkerId) -> Result<bool, TxError> {
    let sql = "UPDATE workers SET drain_requested = true FROM clock
               WHERE worker = $1 AND at_ms >= wall_ms() + offset_ms - $2";
    Ok(execute(db.client, sql, params![worker.0.as_str(), WORKER_TIMEOUT_MS]).await? > 0)
}

/// Workers with a recent heartbeat, ordered by name.
pub(super) async fn workers(db: &Db<'_>, _: &()) -> Result<Vec<(WorkerId, WorkerStatus)>, TxError> {
    let sql = format!("{SELECT_WORKERS} ORDER BY worker");
    let found = query_all(db.client, &sql, params![WORKER_TIMEOUT_MS], |row| read_worker(db, row)).await?;
    Ok(found.into_iter().flatten().collect())
}

/// The owner of a cast, if it has one.
pub(super) async fn owner(db: &Db<'_>, id: &CastId) -> Result<Option<Owner>, TxError> {
    let sql = "SELECT worker, epoch, nonce FROM casts WHERE id = $1 AND worker IS NOT NULL";
    query_one(db.client, sql, params![id.as_str()], |row| {
        let (worker, epoch) = (WorkerId(row.try_get(0)?), row.try_get::<_, i64>(1)?.unsigned_abs());
        Ok(Owner { worker, epoch, nonce: row.try_get::<_, i64>(2)?.cast_unsigned() })
    })
    .await
}

/// Statistics of a cast that has an owner.
pub(super) async fn stats(db: &Db<'_>, id: &CastId) -> Result<Option<CastStats>, TxError> {
    let Some(owner) = owner(db, id).await? else { return Ok(None) };
    if db.shared.telemetry.is_owner(id, &owner) {
        return Ok(db.shared.telemetry.stats(id));
    }
    let sql = "SELECT stats FROM workers WHERE worker = $1";
    let sealed: Option<Vec<u8>> =
        query_one(db.client, sql, params![owner.worker.0.as_str()], |row| Ok(row.try_get(0)?)).await?;
    let Some(sealed) = sealed else { return Ok(None) };
    let mut stats: WorkerStats = db.shared.open(&context(&owner.worker, "stats"), &sealed)?;
    let of_owner = |(epoch, nonce, _): &(u64, u64, _)| (*epoch, *nonce) == (owner.epoch, owner.nonce);
    Ok(stats.remove(id).filter(of_owner).map(|(.., stats)| stats))
}

/// Statistics of those of these casts that have an owner.
pub(super) async fn stats_of(db: &Db<'_>, casts: &[CastId]) -> Result<HashMap<CastId, CastStats>, TxError> {
    let ids: Vec<&str> = casts.iter().map(CastId::as_str).collect();
    let sql = "SELECT id, worker, epoch, nonce FROM casts WHERE id = ANY($1) AND worker IS NOT NULL";
    let owners: Vec<(CastId, Owner)> = query_all(db.client, sql, params![ids], |row| {
        let worker = WorkerId(row.try_get("worker")?);
        let epoch = row.try_get::<_, i64>("epoch")?.unsigned_abs();
        let nonce = row.try_get::<_, i64>("nonce")?.cast_unsigned();
        Ok((read_cast_id(row)?, Owner { worker, epoch, nonce }))
    })
    .await?;
    let (own, others): (Vec<_>, Vec<_>) =
        owners.into_iter().partition(|(id, owner)| db.shared.telemetry.is_owner(id, owner));
    let mut all: HashMap<CastId, CastStats> =
        own.into_iter().filter_map(|(id, _)| Some((id.clone(), db.shared.telemetry.stats(&id)?))).collect();
    if others.is_empty() {
        return Ok(all);
    }
    let mut workers: Vec<&str> = others.iter().map(|(_, owner)| owner.worker.0.as_str()).collect();
    workers.sort_unstable();
    workers.dedup();
    let sql = "SELECT worker, stats FROM workers WHERE worker = ANY($1)";
    let mut stats: HashMap<WorkerId, WorkerStats> = query_all(db.client, sql, params![workers], |row| {
        let worker = WorkerId(row.try_get("worker")?);
        let stats = db.shared.open(&context(&worker, "stats"), row.try_get("stats")?)?;
        Ok((worker, stats))
    })
    .await?
    .into_iter()
    .collect();
    all.extend(others.into_iter().filter_map(|(id, owner)| {
        let (epoch, nonce, of_cast) = stats.get_mut(&owner.worker)?.remove(&id)?;
        ((epoch, nonce) == (owner.epoch, owner.nonce)).then_some((id, of_cast))
    }));
    Ok(all)
}
