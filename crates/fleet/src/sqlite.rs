//! The embedded backend: SQLite in the data folder.
//!
//! One thread writes ([`writer`]): it takes all that waits into one transaction, and answers when that is on
//! the disk, so that many who write at once pay for one `fsync`. Two threads read ([`reader`]) what is
//! committed. What a cast is, what is told of it and what is said about it is sealed ([`crate::vault`]);
//! times, states, names and keys are not, because they are searched for.
//!
//! No SQL is anywhere but in the modules of this one.

mod casts;
mod claims;
mod clock;
mod data_migration;
mod documents;
mod history;
mod lock;
mod outbox;
mod reader;
mod row;
mod schema;
mod sweep;
mod telemetry;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::spec::Push;
use serde_json::Value;
use tokio::sync::watch;

use crate::vault::{self, Vault};
use crate::{
    Backlog, Cast, CastId, CastKey, CastPage, CastState, CastStats, Claim, Command, CreateOutcome,
    DeliveryAttempt, DeliveryOutcome, Error as FleetError, Event, EventKind, Filter, Fleet, NewCast,
    OutboxEntry, RedeliverOutcome, Ticket, UnixMs, WorkerId, WorkerStatus,
};
use clock::FleetClock;
use telemetry::Telemetry;
use writer::Tx;

/// Casts of the queue that are read at once while a worker is asked which fits: often the first one does.
const CANDIDATE_BATCH: usize = 16;

/// Tells the time in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// Where casts are kept, and how.
pub struct Config {
    /// The database. Files of the same name with `-wal`, `-shm` and `.lock` behind it stand beside it.
    pub path: PathBuf,
    /// Seals what nobody may read there.
    pub vault: Vault,
    /// How long casts that ended are remembered.
    pub retention: Duration,
    /// The time that people read.
    pub wall_clock: Clock,
    /// The time that is waited by: milliseconds from any origin, of a clock that nobody sets
    /// ([`monotonic_clock`]).
    pub monotonic_clock: Clock,
    /// Bytes that the database may hold. Beyond them the casts that ended first are forgotten, however young
    /// they are.
    pub max_bytes: u64,
}

/// A clock for [`Config::monotonic_clock`] that begins now.
#[must_use]
pub fn monotonic_clock() -> Clock {
    let begin = Instant::now();
    Arc::new(move || UnixMs::try_from(begin.elapsed().as_millis()).unwrap_or(UnixMs::MAX))
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("history", &self.retention)
            .finish_non_exhaustive()
    }
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be used.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("another service uses {}: stop it first, or give this one a data folder of its own", .0.display())]
    Locked(PathBuf),
    /// Its schema is not known.
    #[error(
        "{} was written by a later version of pagecast (schema {found}, this one knows {known}): update pagecast, or bring back an older copy", path.display()
    )]
    SchemaTooNew {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The latest known.
        known: i64,
    },
    /// Not one of ours.
    #[error("{} is a database, but not one of pagecast: name another file", .0.display())]
    UnknownDatabase(PathBuf),
    /// It needs another key.
    #[error("{} cannot be read with this key: use the one that it was made with", path.display())]
    WrongKey {
        /// Which.
        path: PathBuf,
        /// What the vault said.
        #[source]
        source: vault::Error,
    },
    /// Its file system cannot do what WAL needs.
    #[error("cannot use {} in WAL mode: put the data folder on a local file system", .0.display())]
    WalUnsupported(PathBuf),
    /// Anything else.
    #[error("cannot open the database {}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// No more threads.
    #[error("cannot start a thread for the database")]
    Thread(#[source] std::io::Error),
}

/// What all threads need.
struct Shared {
    vault: Vault,
    clock: FleetClock,
    retention_ms: i64,
    max_bytes: u64,
    /// When a full database that nothing could be done about is looked at again, in fleet time.
    next_shrink_ms: AtomicI64,
    telemetry: Telemetry,
    changes: watch::Sender<u64>,
}

/// All casts, in one file.
///
/// Dropped, it waits for its threads, and the file is free.
pub struct SqliteFleet {
    // In this order: the lock goes when nobody uses the file any more.
    writer: writer::Writer,
    reader: reader::Reader,
    shared: Arc<Shared>,
    _lock: lock::Lock,
}

impl fmt::Debug for SqliteFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sqlite")
    }
}

impl SqliteFleet {
    /// Opens the database, or makes it.
    ///
    /// # Errors
    /// Another has it, it was made by a later version or with another key, or it cannot be used.
    pub fn open(config: Config) -> Result<Arc<Self>, Error> {
        let Config { path, vault, retention: history, wall_clock: clock, monotonic_clock: steady, max_bytes } =
            config;
        let lock = lock::Lock::acquire(&path)?;
        let schema::OpenedDatabase { db, is_new, saved_clocks: noted } = schema::open(&path, &vault)?;
        let failed = |source| Error::Database { path: path.clone(), source };
        let memory = Telemetry::default();
        claims::for_each_owner(&db, |id, owner| memory.set_owner(id, owner)).map_err(failed)?;
        let shared = Arc::new(Shared {
            vault,
            clock: FleetClock::resume(clock, steady, noted, is_new),
            retention_ms: i64::try_from(history.as_millis()).unwrap_or(i64::MAX),
            max_bytes,
            next_shrink_ms: AtomicI64::new(i64::MIN),
            telemetry: memory,
            changes: watch::Sender::new(0),
        });
        // On a full disk it can do without.
        if let Err(error) = schema::save_clocks(&db, shared.clock.clocks_to_save()) {
            tracing::warn!(%error, "the clocks are not noted");
        }
        schema::clamp_future_times(&db, &shared).map_err(failed)?;
        let reader = reader::Reader::start(|| schema::connect(&path), &shared)?;
        let writer = writer::Writer::start(db, Arc::clone(&shared))?;
        Ok(Arc::new(Self { writer, reader, shared, _lock: lock }))
    }
}

#[async_trait]
impl Fleet for SqliteFleet {
    async fn create(&self, new: NewCast) -> Result<CreateOutcome, FleetError> {
        let doing = "taking a cast";
        let new = casts::SealedCast::new(&self.shared, new).map_err(|fail| fail.into_fleet_error(doing))?;
        self.writer.write(doing, move |tx| casts::create(tx, new)).await
    }

    async fn get(&self, id: &CastId) -> Result<Option<Cast>, FleetError> {
        let id = id.clone();
        self.reader.read("looking for a cast", move |db, shared| casts::get(db, shared, &id)).await
    }

    async fn find_by_key(&self, key: &CastKey) -> Result<Option<Cast>, FleetError> {
        let key = key.clone();
        self.reader.read("looking for a key", move |db, shared| casts::find_by_key(db, shared, &key)).await
    }

    async fn list(&self, filter: &Filter) -> Result<CastPage, FleetError> {
        let filter = filter.clone();
        self.reader.read("listing casts", move |db, shared| casts::list(db, shared, &filter)).await
    }

    async fn count(&self, app: Option<&str>) -> Result<Vec<(CastState, u64)>, FleetError> {
        let app = app.map(str::to_owned);
        self.reader.read("counting casts", move |db, _| casts::count(db, app.as_deref())).await
    }

    async fn send_command(&self, id: &CastId, command: Command) -> Result<(), FleetError> {
        let id = id.clone();
        self.writer.write("taking a command", move |tx| casts::send_command(tx, &id, &command)).await
    }

    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, FleetError> {
        let id = id.clone();
        let read = move |db: &_, shared: &_| history::events(db, shared, &id, after, limit);
        self.reader.read("looking for events", read).await
    }

    async fn stats(&self, id: &CastId) -> Option<CastStats> {
        self.shared.telemetry.stats(id)
    }

    async fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        self.shared.telemetry.snapshot(id)
    }

    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        self.shared.telemetry.workers(self.shared.clock.fleet_ms())
    }

    async fn register_worker(&self, worker: &WorkerId) -> Result<(), FleetError> {
        let worker = worker.clone();
        self.writer
            .write("freeing the casts of a worker", move |tx| claims::register_worker(tx, &worker))
            .await
    }

    async fn claim(
        &self,
        worker: &WorkerId,
        lease: Duration,
        fits: &(dyn for<'a> Fn(&'a Cast) -> bool + Sync),
    ) -> Result<Option<Claim>, FleetError> {
        let doing = "handing out a cast";
        let id = worker.clone();
        let take_up = move |tx: &mut Tx<'_>| claims::claim_expired(tx, &id, lease);
        if let Some(claim) = self.writer.write(doing, take_up).await? {
            return Ok(Some(claim));
        }
        let queue = self.reader.read(doing, claims::queue_order).await?;
        for rows in queue.chunks(CANDIDATE_BATCH) {
            let rows = rows.to_vec();
            let read = move |db: &_, shared: &_| claims::read_queued(db, shared, &rows);
            for (n, cast) in self.reader.read(doing, read).await? {
                // Asked here, because `fits` cannot go to another thread.
                if cast.is_some_and(|cast| !fits(&cast)) {
                    continue;
                }
                let id = worker.clone();
                let begin = move |tx: &mut Tx<'_>| claims::claim_queued(tx, &id, lease, n);
                // Somebody may have been faster, or it cannot be read: then it is the next one's turn.
                if let Some(claim) = self.writer.write(doing, begin).await? {
                    return Ok(Some(claim));
                }
            }
        }
        Ok(None)
    }

    async fn fail_queued(&self, id: &CastId, message: &str) -> Result<(), FleetError> {
        let (id, message) = (id.clone(), message.to_owned());
        let fail = move |tx: &mut Tx<'_>| casts::fail_queued(tx, &id, &message);
        self.writer.write("ending a cast that nobody can run", fail).await
    }

    async fn renew(&self, ticket: &Ticket, lease: Duration) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("renewing a lease", move |tx| claims::renew(tx, &ticket, lease)).await
    }

    async fn commands(&self, ticket: &Ticket) -> Result<Vec<(u64, Command)>, FleetError> {
        let ticket = ticket.clone();
        let read = move |db: &_, shared: &_| claims::commands(db, shared, &ticket);
        self.reader.read("looking for commands", read).await
    }

    async fn ack_commands(&self, ticket: &Ticket, upto: u64) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("removing commands", move |tx| claims::ack_commands(tx, &ticket, upto)).await
    }

    async fn report_event(&self, ticket: &Ticket, happening: EventKind) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("keeping an event", move |tx| history::report_event(tx, &ticket, happening)).await
    }

    async fn put_pushes(&self, ticket: &Ticket, pushes: Vec<Push>) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("keeping pushes", move |tx| casts::put_pushes(tx, &ticket, pushes)).await
    }

    async fn close(
        &self,
        ticket: &Ticket,
        last: Option<EventKind>,
        report: Option<Value>,
    ) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        let close = move |tx: &mut Tx<'_>| {
            if let Some(last) = &last {
                history::report_event(tx, &ticket, last.clone())?;
            }
            claims::close(tx, &ticket, report.as_ref())
        };
        self.writer.write("closing a cast", close).await
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn release(&self, ticket: &Ticket) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("giving a cast back", move |tx| claims::release(tx, &ticket)).await
    }

    async fn put_stats(&self, ticket: &Ticket, vitals: CastStats) {
        self.shared.telemetry.put_stats(ticket, vitals);
    }

    async fn put_snapshot(&self, ticket: &Ticket, jpeg: Bytes) {
        self.shared.telemetry.put_snapshot(ticket, self.shared.clock.wall_ms(), jpeg);
    }

    async fn heartbeat(&self, worker: &WorkerId, load: WorkerStatus) {
        self.shared.telemetry.heartbeat(worker, self.shared.clock.fleet_ms(), load);
    }

    async fn due_entries(
        &self,
        limit: usize,
        skip: &HashSet<CastId>,
    ) -> Result<Vec<OutboxEntry>, FleetError> {
        let skip = skip.clone();
        let read = move |db: &_, shared: &_| outbox::due_entries(db, shared, limit, &skip);
        self.reader.read("looking for what is due", read).await
    }

    async fn next_due_in(&self) -> Result<Option<Duration>, FleetError> {
        self.reader.read("looking for what will be due", outbox::next_due_in).await
    }

    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        settled: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) -> Result<(), FleetError> {
        let cast = cast.clone();
        let write = move |tx: &mut writer::Tx<'_>| outbox::settle(tx, &cast, seq, settled, attempt.as_ref());
        self.writer.write("settling an event", write).await
    }

    async fn attempts(&self, cast: &CastId) -> Result<Vec<DeliveryAttempt>, FleetError> {
        let cast = cast.clone();
        let read = move |db: &_, shared: &_| outbox::attempts(db, shared, &cast);
        self.reader.read("looking for attempts", read).await
    }

    async fn redeliver(&self, cast: &CastId, seq: Option<u64>) -> Result<RedeliverOutcome, FleetError> {
        let cast = cast.clone();
        self.writer.write("having events told again", move |tx| outbox::redeliver(tx, &cast, seq)).await
    }

    async fn backlog(&self) -> Result<Backlog, FleetError> {
        self.reader.read("counting what waits", |db, _| outbox::backlog(db)).await
    }

    async fn put_document(&self, kind: &str, name: &str, document: Option<Value>) -> Result<(), FleetError> {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        let write = move |tx: &mut writer::Tx<'_>| documents::put(tx, &kind, &name, document.as_ref());
        self.writer.write("keeping a document", write).await
    }

    async fn documents(&self, kind: &str) -> Result<Vec<(String, Value)>, FleetError> {
        let kind = kind.to_owned();
        self.reader.read("looking for documents", move |db, shared| documents::list(db, shared, &kind)).await
    }

    async fn sweep(&self) -> Result<(), FleetError> {
        // In small steps, so that nobody waits for long behind one.
        while self.writer.write("ending casts that waited too long", sweep::fail_overdue).await? {}
        while self.writer.write("forgetting old casts", sweep::delete_expired).await? {}
        while self.writer.write("keeping the database small", sweep::shrink).await? {}
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    async fn check_writable(&self) -> Result<(), FleetError> {
        self.writer.write("trying to store something", schema::write_probe).await
    }
}
