//! Threads that read committed data.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::row::TxError;
use super::writer::OPERATION_TIMEOUT;
use super::{Error as OpenError, Shared};
use crate::Error;
use crate::time_limit::OperationTimer;

/// Number of reader threads: two, so that a long list does not block all other reads.
const READER_THREADS: usize = 2;
/// Maximum number of queued reads. When the queue is full, callers wait up to [`OPERATION_TIMEOUT`] and then
/// get [`Error::Unavailable`].
const MAX_QUEUED_READS: usize = 1024;

type ReadJob = Box<dyn FnOnce(&Connection, &Shared) + Send>;
type ReadQueue = Mutex<mpsc::Receiver<ReadJob>>;

/// Handle that sends reads to the threads.
pub(super) struct Reader {
    jobs: Option<mpsc::Sender<ReadJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl Reader {
    pub(super) fn start(
        connect: impl Fn() -> Result<Connection, OpenError>,
        shared: &Arc<Shared>,
    ) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(MAX_QUEUED_READS);
        let queue = Arc::new(ReadQueue::new(queue));
        let mut reader = Self { jobs: Some(jobs), threads: Vec::new() };
        for n in 1..=READER_THREADS {
            let (db, shared, queue) = (connect()?, Arc::clone(shared), Arc::clone(&queue));
            let thread = thread::Builder::new().name(format!("fleet-reader-{n}"));
            let thread =
                thread.spawn(move || reader_loop(&db, &shared, &queue)).map_err(OpenError::Thread)?;
            reader.threads.push(thread);
        }
        Ok(reader)
    }

    /// Runs a read on a consistent snapshot of the database.
    pub(super) async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &Shared) -> Result<T, TxError> + Send + 'static,
    {
        let jobs = self.jobs.as_ref().ok_or(Error::Unavailable)?;
        let (reply, answer) = oneshot::channel();
        let job = move |db: &Connection, shared: &Shared| {
            let read = || {
                let snapshot = db.unchecked_transaction()?;
                work(&snapshot, shared)
            };
            let _caller_is_gone = reply.send(read().map_err(|error| error.into_fleet_error(operation)));
        };
        let timer = OperationTimer::start(OPERATION_TIMEOUT);
        let queued = timeout_at(timer.deadline, jobs.send(Box::new(job))).await;
        queued.ok().and_then(Result::ok).ok_or(Error::Unavailable)?;
        match timeout_at(timer.deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

fn reader_loop(db: &Connection, shared: &Shared, queue: &ReadQueue) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
    while let Some(job) = next() {
        if catch_unwind(AssertUnwindSafe(|| job(db, shared))).is_err() {
            tracing::error!("database read panicked");
        }
    }
}
