//! The thread that writes.
//!
//! It takes all queued writes into one transaction, each in its own savepoint, and replies when the
//! transaction is on the disk. A write that fails or panics is rolled back alone. If the commit fails, all
//! writes are rolled back, and all callers get an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::row::TxError;
use super::{Error as OpenError, Shared, schema};
use crate::telemetry_table::Owner;
use crate::time_limit::OperationTimer;
use crate::{CastId, Error, UnixMs};

/// Maximum number of queued writes. When the queue is full, callers wait up to [`OPERATION_TIMEOUT`] and then
/// get [`Error::Unavailable`].
const MAX_QUEUED_WRITES: usize = 1024;
/// Maximum number of writes in one transaction, which limits the time until the first of them is answered.
const MAX_BATCH: usize = 256;
/// Longest time that a caller waits for room in the queue and the reply: longer than a slow disk takes, and
/// shorter than HTTP clients wait.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Context of a write.
pub(super) struct Tx<'a> {
    /// Connection, within a transaction.
    pub db: &'a Connection,
    /// State shared by all threads.
    pub shared: &'a Shared,
    /// Wall time, in milliseconds since 1970.
    pub now: UnixMs,
    /// Fleet time ([`super::clock`]), in milliseconds.
    pub fleet_now: i64,
    effects: Vec<Effect>,
}

/// Effect of a write on shared state, applied after the commit.
enum Effect {
    OwnerChanged(CastId, Owner),
    OwnerCleared(CastId),
    Changed,
}

impl Tx<'_> {
    /// Records that a cast has another owner.
    pub(super) fn owner_changed(&mut self, id: CastId, owner: Owner) {
        self.effects.push(Effect::OwnerChanged(id, owner));
    }

    /// Records that a cast has no owner.
    pub(super) fn owner_cleared(&mut self, id: CastId) {
        self.effects.push(Effect::OwnerCleared(id));
    }

    /// Notifies all subscribers of [`crate::Casts::changes`].
    pub(super) fn notify_changes(&mut self) {
        self.effects.push(Effect::Changed);
    }
}

/// Reason why a valid write was rolled back.
#[derive(Debug, thiserror::Error)]
enum RolledBack {
    #[error("the transaction was rolled back: {0}")]
    Commit(String),
    #[error("the write panicked")]
    Panic,
}

/// A queued write.
trait WriteJob: Send {
    /// Runs the write, and returns whether to keep it.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Replies to the caller; `rolled_back` is the reason if the whole transaction was rolled back.
    fn reply(self: Box<Self>, rolled_back: Option<&str>);
}

struct PendingWrite<T, F> {
    operation: &'static str,
    work: Option<F>,
    result: Option<Result<T, TxError>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, F: FnOnce(&mut Tx<'_>) -> Result<T, TxError> + Send> WriteJob for PendingWrite<T, F> {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        self.result = self.work.take().map(|work| work(tx));
        matches!(self.result, Some(Ok(_)))
    }

    fn reply(self: Box<Self>, rolled_back: Option<&str>) {
        let operation = self.operation;
        let storage = |error: RolledBack| Err(Error::Storage { operation, source: error.into() });
        let answer = match (self.result, rolled_back) {
            (Some(Ok(_)), Some(why)) | (None, Some(why)) => storage(RolledBack::Commit(why.to_owned())),
            (Some(Ok(value)), None) => Ok(value),
            (Some(Err(error)), _) => Err(error.into_fleet_error(operation)),
            (None, None) => storage(RolledBack::Panic),
        };
        // The write is committed even if the caller is gone.
        let _caller_is_gone = self.reply.send(answer);
    }
}

/// Handle that sends writes to the thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn WriteJob>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: Connection, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(MAX_QUEUED_WRITES);
        let run = move || writer_loop(&db, &shared, queue);
        let thread =
            thread::Builder::new().name("fleet-writer".to_owned()).spawn(run).map_err(OpenError::Thread)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs a write, and waits until it is on the disk.
    pub(super) async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, TxError> + Send + 'static,
    {
        let jobs = self.jobs.as_ref().ok_or(Error::Unavailable)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(PendingWrite { operation, work: Some(work), result: None, reply });
        let timer = OperationTimer::start(OPERATION_TIMEOUT);
        let queued = timeout_at(timer.deadline, jobs.send(job)).await;
        queued.ok().and_then(Result::ok).ok_or(Error::Unavailable)?;
        match timeout_at(timer.deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn writer_loop(db: &Connection, shared: &Shared, mut queue: mpsc::Receiver<Box<dyn WriteJob>>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(job) = queue.try_recv()
        {
            batch.push(job);
        }
        let rolled_back = match commit(db, shared, &mut batch) {
            Ok(effects) => {
                apply_effects(shared, effects);
                None
            }
            Err(error) => {
                if !db.is_autocommit()
                    && let Err(error) = db.execute_batch("ROLLBACK")
                {
                    tracing::warn!(%error, "transaction rollback failed");
                }
                tracing::warn!(%error, writes = batch.len(), "transaction commit failed");
                Some(error.to_string())
            }
        };
        batch.into_iter().for_each(|job| job.reply(rolled_back.as_deref()));
    }
    if let Err(error) = schema::save_clocks(db, shared.clock.clocks_to_save()) {
        tracing::warn!(%error, "saving the clocks failed");
    }
}

fn commit(
    db: &Connection,
    shared: &Shared,
    batch: &mut [Box<dyn WriteJob>],
) -> rusqlite::Result<Vec<Effect>> {
    let run = |sql| db.prepare_cached(sql)?.execute([]);
    run("BEGIN IMMEDIATE")?;
    let mut effects = Vec::new();
    for job in batch {
        run("SAVEPOINT write")?;
        let (now, fleet_now) = (shared.clock.wall_ms(), shared.clock.fleet_ms());
        let mut tx = Tx { db, shared, now, fleet_now, effects: Vec::new() };
        let kept = catch_unwind(AssertUnwindSafe(|| job.run(&mut tx))).unwrap_or(false);
        if kept {
            effects.append(&mut tx.effects);
        } else {
            // If SQLite rolled back the whole transaction, the savepoint does not exist, and this fails too.
            run("ROLLBACK TO write")?;
        }
        run("RELEASE write")?;
    }
    run("COMMIT")?;
    Ok(effects)
}

fn apply_effects(shared: &Shared, effects: Vec<Effect>) {
    let mut changed = false;
    for effect in effects {
        match effect {
            Effect::OwnerChanged(id, owner) => shared.telemetry.set_owner(id, owner),
            Effect::OwnerCleared(id) => shared.telemetry.clear_owner(&id),
            Effect::Changed => changed = true,
        }
    }
    if changed {
        shared.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}
