//! The one thread that writes.
//!
//! It takes all that waits into one transaction, each in a savepoint of its own, and answers when the
//! transaction is on the disk. What fails or panics is undone alone; if the transaction as a whole fails, all
//! of it is undone, and all hear so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::row::TxError;
use super::telemetry::Owner;
use super::{Error as OpenError, Shared, schema};
use crate::{CastId, Error, UnixMs};

/// Writes that wait. Full: callers wait for [`PATIENCE`], then hear that the fleet is not available.
const MAX_QUEUED_WRITES: usize = 1024;
/// Most writes in one transaction.
const MAX_BATCH: usize = 256;
/// How long a caller waits for room in the queue, and then for the disk.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(15);

/// What a write finds.
pub(super) struct Tx<'a> {
    /// Within a transaction.
    pub db: &'a Connection,
    /// The vault, mainly.
    pub shared: &'a Shared,
    /// The time that people read, in milliseconds since 1970.
    pub now: UnixMs,
    /// The time that is waited by ([`super::time`]), in milliseconds.
    pub fleet_now: i64,
    effects: Vec<Effect>,
}

/// What follows from a write once it is committed.
enum Effect {
    OwnerChanged(CastId, Owner),
    OwnerCleared(CastId),
    Changed,
}

impl Tx<'_> {
    /// A cast has another owner.
    pub(super) fn owner_changed(&mut self, id: CastId, owner: Owner) {
        self.effects.push(Effect::OwnerChanged(id, owner));
    }

    /// A cast has no owner.
    pub(super) fn owner_cleared(&mut self, id: CastId) {
        self.effects.push(Effect::OwnerCleared(id));
    }

    /// Whoever waits for something is to look again.
    pub(super) fn notify_changes(&mut self) {
        self.effects.push(Effect::Changed);
    }
}

/// Why a write is undone though nothing was wrong with it.
#[derive(Debug, thiserror::Error)]
enum RolledBack {
    #[error("the transaction was undone: {0}")]
    Commit(String),
    #[error("it panicked")]
    Panic,
}

/// A write that waits.
trait WriteJob: Send {
    /// Whether it is to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Tells the caller; `undone` says why all of the transaction was undone, if it was.
    fn reply(self: Box<Self>, undone: Option<&str>);
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

    fn reply(self: Box<Self>, undone: Option<&str>) {
        let doing = self.operation;
        let storage = |undone: RolledBack| Err(Error::Storage { operation: doing, source: undone.into() });
        let answer = match (self.result, undone) {
            (Some(Ok(_)), Some(why)) | (None, Some(why)) => storage(RolledBack::Commit(why.to_owned())),
            (Some(Ok(value)), None) => Ok(value),
            (Some(Err(fail)), _) => Err(fail.into_fleet_error(doing)),
            (None, None) => storage(RolledBack::Panic),
        };
        // A caller that went away has its write all the same.
        let _gone = self.reply.send(answer);
    }
}

/// Hands writes to the thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn WriteJob>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: Connection, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(MAX_QUEUED_WRITES);
        let serve = move || writer_loop(&db, &shared, queue);
        let thread =
            thread::Builder::new().name("fleet-writer".to_owned()).spawn(serve).map_err(OpenError::Thread)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has something written, and waits until it is on the disk.
    pub(super) async fn write<T, F>(&self, doing: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, TxError> + Send + 'static,
    {
        let jobs = self.jobs.as_ref().ok_or(Error::Unavailable)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(PendingWrite { operation: doing, work: Some(work), result: None, reply });
        jobs.send_timeout(job, OPERATION_TIMEOUT).await.map_err(|_| Error::Unavailable)?;
        match timeout(OPERATION_TIMEOUT, answer).await {
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
        let undone = match commit(db, shared, &mut batch) {
            Ok(effects) => {
                apply_effects(shared, effects);
                None
            }
            Err(error) => {
                if !db.is_autocommit()
                    && let Err(error) = db.execute_batch("ROLLBACK")
                {
                    tracing::warn!(%error, "a transaction of the fleet cannot be undone");
                }
                tracing::warn!(%error, writes = batch.len(), "the fleet cannot store anything");
                Some(error.to_string())
            }
        };
        batch.into_iter().for_each(|job| job.reply(undone.as_deref()));
    }
    if let Err(error) = schema::save_clocks(db, shared.clock.clocks_to_save()) {
        tracing::warn!(%error, "the clocks are not noted");
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
            // If the failure undid the transaction with all that was before it, there is no such savepoint,
            // and this fails too.
            run("ROLLBACK TO write")?;
        }
        run("RELEASE write")?;
    }
    run("COMMIT")?;
    Ok(effects)
}

fn apply_effects(shared: &Shared, effects: Vec<Effect>) {
    let mut news = false;
    for effect in effects {
        match effect {
            Effect::OwnerChanged(id, owner) => shared.telemetry.set_owner(id, owner),
            Effect::OwnerCleared(id) => shared.telemetry.clear_owner(&id),
            Effect::Changed => news = true,
        }
    }
    if news {
        shared.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}
