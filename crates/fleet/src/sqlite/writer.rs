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

use super::memory::Owner;
use super::row::Fail;
use super::{Error as OpenError, Shared, schema};
use crate::{CastId, Error, UnixMs};

/// Writes that wait. Full: callers wait for [`PATIENCE`], then hear that the fleet is not available.
const QUEUE: usize = 1024;
/// Most writes in one transaction.
const BATCH: usize = 256;
/// How long a caller waits for room in the queue, and then for the disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

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
    Owned(CastId, Owner),
    Freed(CastId),
    News,
}

impl Tx<'_> {
    /// A cast has another owner.
    pub(super) fn owned(&mut self, id: CastId, owner: Owner) {
        self.effects.push(Effect::Owned(id, owner));
    }

    /// A cast has no owner.
    pub(super) fn freed(&mut self, id: CastId) {
        self.effects.push(Effect::Freed(id));
    }

    /// Whoever waits for something is to look again.
    pub(super) fn news(&mut self) {
        self.effects.push(Effect::News);
    }
}

/// Why a write is undone though nothing was wrong with it.
#[derive(Debug, thiserror::Error)]
enum Undone {
    #[error("the transaction was undone: {0}")]
    Commit(String),
    #[error("it panicked")]
    Panic,
}

/// A write that waits.
trait Job: Send {
    /// Whether it is to be kept.
    fn run(&mut self, tx: &mut Tx<'_>) -> bool;
    /// Tells the caller; `undone` says why all of the transaction was undone, if it was.
    fn answer(self: Box<Self>, undone: Option<&str>);
}

struct Write<T, F> {
    doing: &'static str,
    work: Option<F>,
    done: Option<Result<T, Fail>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, F: FnOnce(&mut Tx<'_>) -> Result<T, Fail> + Send> Job for Write<T, F> {
    fn run(&mut self, tx: &mut Tx<'_>) -> bool {
        self.done = self.work.take().map(|work| work(tx));
        matches!(self.done, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, undone: Option<&str>) {
        let doing = self.doing;
        let storage = |undone: Undone| Err(Error::Storage { doing, source: undone.into() });
        let answer = match (self.done, undone) {
            (Some(Ok(_)), Some(why)) | (None, Some(why)) => storage(Undone::Commit(why.to_owned())),
            (Some(Ok(value)), None) => Ok(value),
            (Some(Err(fail)), _) => Err(fail.told(doing)),
            (None, None) => storage(Undone::Panic),
        };
        // A caller that went away has its write all the same.
        let _gone = self.reply.send(answer);
    }
}

/// Hands writes to the thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: Connection, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let serve = move || serve(&db, &shared, queue);
        let thread =
            thread::Builder::new().name("fleet-writer".to_owned()).spawn(serve).map_err(OpenError::Thread)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has something written, and waits until it is on the disk.
    pub(super) async fn write<T, F>(&self, doing: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T, Fail> + Send + 'static,
    {
        let jobs = self.jobs.as_ref().ok_or(Error::Unavailable)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Write { doing, work: Some(work), done: None, reply });
        jobs.send_timeout(job, PATIENCE).await.map_err(|_| Error::Unavailable)?;
        match timeout(PATIENCE, answer).await {
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

fn serve(db: &Connection, shared: &Shared, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = queue.try_recv()
        {
            batch.push(job);
        }
        let undone = match commit(db, shared, &mut batch) {
            Ok(effects) => {
                apply(shared, effects);
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
        batch.into_iter().for_each(|job| job.answer(undone.as_deref()));
    }
    if let Err(error) = schema::note(db, shared.time.note()) {
        tracing::warn!(%error, "the clocks are not noted");
    }
}

fn commit(db: &Connection, shared: &Shared, batch: &mut [Box<dyn Job>]) -> rusqlite::Result<Vec<Effect>> {
    let run = |sql| db.prepare_cached(sql)?.execute([]);
    run("BEGIN IMMEDIATE")?;
    let mut effects = Vec::new();
    for job in batch {
        run("SAVEPOINT write")?;
        let (now, fleet_now) = (shared.time.wall(), shared.time.fleet());
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

fn apply(shared: &Shared, effects: Vec<Effect>) {
    let mut news = false;
    for effect in effects {
        match effect {
            Effect::Owned(id, owner) => shared.memory.owns(id, owner),
            Effect::Freed(id) => shared.memory.free(&id),
            Effect::News => news = true,
        }
    }
    if news {
        shared.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}
