//! Embedded backend of the fleet: SQLite in the data folder.
//!
//! One thread writes ([`writer`]): it takes all pending writes into one transaction and replies once that is
//! on the disk, so that concurrent writers share one `fsync`. Two threads read ([`reader`]) committed data.
//! Descriptions, events, reports and documents are sealed ([`crate::vault`]); times, states, names and keys
//! are not, because they are searched for.
//!
//! SQL is used only in this module and its submodules.

mod audit;
mod casts;
mod claims;
mod clock;
mod daily_use;
mod data_migration;
mod documents;
mod history;
mod ledger;
mod lock;
mod outbox;
mod queue;
mod reader;
mod rooms;
mod row;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::Push;
use serde_json::Value;
use tokio::sync::watch;

pub use crate::clock::{Clock, monotonic_clock};
use crate::queue::BatchClaim;
use crate::rooms::RoomTable;
use crate::sealing::SealedCast;
use crate::telemetry_table::TelemetryTable;
use crate::vault::{self, Vault};
use crate::{
    Accounting, AuditEntry, AuditFilter, AuditPage, AuditTrail, Backlog, Cast, CastId, CastKey, CastPage,
    CastState, CastStats, Casts, Claim, Command, CreateOutcome, DailyUse, DeliveryAttempt, DeliveryOutcome,
    DocumentList, Documents, Error as FleetError, Event, EventKind, ExpiredLease, Filter, Fits,
    HeartbeatResponse, Leases, MAX_AUDIT_APPEND, NewCast, NodeInfo, Outbox, OutboxEntry, QueueState,
    RedeliverOutcome, Renewal, Telemetry, Ticket, UnixMs, WorkerId, WorkerStatus,
};
use clock::FleetClock;
use writer::Tx;

/// Configuration of the database.
pub struct Config {
    /// Path of the database. SQLite and the lock add files with the suffixes `-wal`, `-shm` and `.lock`.
    pub path: PathBuf,
    /// Vault that seals confidential values.
    pub vault: Vault,
    /// How long ended casts are kept.
    pub retention: Duration,
    /// System clock, in milliseconds since 1970.
    pub wall_clock: Clock,
    /// Monotonic clock for deadlines, in milliseconds from any origin ([`monotonic_clock`]).
    pub monotonic_clock: Clock,
    /// Size limit of the database, in bytes. Beyond it, the casts that ended first are deleted, whatever
    /// their age.
    pub max_bytes: u64,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// Reason why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// Operation that failed.
        operation: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the file system.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses the database.
    #[error("another service uses {}: stop it first, or give this one a data folder of its own",
        .0.display())]
    Locked(PathBuf),
    /// A later version wrote the database.
    #[error(
        "{} was written by a later version of pagecast (schema {found}, this one knows {known}): update \
        pagecast, or bring back an older copy", path.display()
    )]
    SchemaTooNew {
        /// Path of the file.
        path: PathBuf,
        /// Schema version of the database.
        found: i64,
        /// Latest schema version that this program supports.
        known: i64,
    },
    /// The file is a database of another program.
    #[error("{} is a database of another program: name another file", .0.display())]
    UnknownDatabase(PathBuf),
    /// The database was sealed with another key.
    #[error("{} cannot be read with this key: use the key that it was created with", path.display())]
    WrongKey {
        /// Path of the file.
        path: PathBuf,
        /// Error of the vault.
        #[source]
        source: vault::Error,
    },
    /// The file system does not support WAL mode.
    #[error("cannot use {} in WAL mode: put the data folder on a local file system", .0.display())]
    WalUnsupported(PathBuf),
    /// SQLite failed.
    #[error("cannot open the database {}", path.display())]
    Database {
        /// Path of the file.
        path: PathBuf,
        /// Error of SQLite.
        #[source]
        source: rusqlite::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for the database")]
    Thread(#[source] std::io::Error),
}

/// State shared by all threads.
struct Shared {
    vault: Vault,
    clock: FleetClock,
    retention_ms: i64,
    max_bytes: u64,
    /// Fleet time before which a full database without deletable casts is not shrunk again.
    next_shrink_ms: AtomicI64,
    telemetry: TelemetryTable,
    rooms: RoomTable,
    changes: watch::Sender<u64>,
}

/// A fleet in one SQLite database.
///
/// Dropping it waits for its threads and releases the file.
pub struct SqliteFleet {
    // Fields drop in this order: the lock is released once no thread uses the file.
    writer: writer::Writer,
    reader: reader::Reader,
    shared: Arc<Shared>,
    _lock: lock::Lock,
}

impl fmt::Debug for SqliteFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteFleet")
    }
}

impl SqliteFleet {
    /// Opens the database, or creates it.
    ///
    /// # Errors
    /// Another process uses it, a later version or another key wrote it, or it cannot be used.
    pub fn open(config: Config) -> Result<Arc<Self>, Error> {
        let Config { path, vault, retention, wall_clock, monotonic_clock, max_bytes } = config;
        let lock = lock::Lock::acquire(&path)?;
        let schema::OpenedDatabase { db, is_new, saved_clocks } = schema::open(&path, &vault)?;
        let failed = |source| Error::Database { path: path.clone(), source };
        let telemetry = TelemetryTable::default();
        claims::for_each_owner(&db, |id, owner| telemetry.set_owner(id, owner)).map_err(failed)?;
        let shared = Arc::new(Shared {
            vault,
            clock: FleetClock::resume(wall_clock, monotonic_clock, saved_clocks, is_new),
            retention_ms: i64::try_from(retention.as_millis()).unwrap_or(i64::MAX),
            max_bytes,
            next_shrink_ms: AtomicI64::new(i64::MIN),
            telemetry,
            rooms: RoomTable::default(),
            changes: watch::Sender::new(0),
        });
        // Not fatal: on a full disk the fleet must still start, to delete casts.
        if let Err(error) = schema::save_clocks(&db, shared.clock.clocks_to_save()) {
            tracing::warn!(%error, "saving the clocks failed");
        }
        schema::clamp_future_times(&db, &shared).map_err(failed)?;
        let reader = reader::Reader::start(|| schema::connect(&path), &shared)?;
        let writer = writer::Writer::start(db, Arc::clone(&shared))?;
        Ok(Arc::new(Self { writer, reader, shared, _lock: lock }))
    }
}

#[async_trait]
impl Casts for SqliteFleet {
    async fn create(&self, new: NewCast) -> Result<CreateOutcome, FleetError> {
        let operation = "creating a cast";
        let new = SealedCast::new(&self.shared.vault, new)
            .map_err(|source| FleetError::Storage { operation, source: source.into() })?;
        self.writer.write(operation, move |tx| casts::create(tx, new)).await
    }

    async fn get(&self, id: &CastId) -> Result<Option<Cast>, FleetError> {
        let id = id.clone();
        self.reader.read("reading a cast", move |db, shared| casts::get(db, shared, &id)).await
    }

    async fn find_by_key(&self, key: &CastKey) -> Result<Option<Cast>, FleetError> {
        let key = key.clone();
        self.reader
            .read("finding a cast by key", move |db, shared| casts::find_by_key(db, shared, &key))
            .await
    }

    async fn list(&self, filter: &Filter) -> Result<CastPage, FleetError> {
        let filter = filter.clone();
        self.reader.read("listing casts", move |db, shared| casts::list(db, shared, &filter)).await
    }

    async fn count(&self, app: Option<&str>) -> Result<Vec<(CastState, u64)>, FleetError> {
        let app = app.map(str::to_owned);
        self.reader.read("counting casts", move |db, _| casts::count(db, app.as_deref())).await
    }

    async fn queue(&self) -> Result<QueueState, FleetError> {
        self.reader.read("reading the queue", queue::state).await
    }

    async fn send_command(&self, id: &CastId, command: Command) -> Result<(), FleetError> {
        let id = id.clone();
        self.writer.write("queueing a command", move |tx| casts::send_command(tx, &id, &command)).await
    }

    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, FleetError> {
        let id = id.clone();
        let read = move |db: &_, shared: &_| history::events(db, shared, &id, after, limit);
        self.reader.read("reading events", read).await
    }

    async fn sweep(&self) -> Result<(), FleetError> {
        // In small steps, so that other writes do not wait for long.
        while self.writer.write("failing overdue casts", sweep::fail_overdue).await? {}
        while self.writer.write("deleting expired casts", sweep::delete_expired).await? {}
        while self.writer.write("shrinking the database", sweep::shrink).await? {}
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    async fn check_writable(&self) -> Result<(), FleetError> {
        self.writer.write("checking that the database is writable", schema::write_probe).await
    }
}

#[async_trait]
impl Leases for SqliteFleet {
    async fn register_worker(&self, worker: &WorkerId, node: &NodeInfo) -> Result<(), FleetError> {
        let (worker, instance) = (worker.clone(), node.instance);
        let register = move |tx: &mut Tx<'_>| claims::register_worker(tx, &worker, instance);
        self.writer.write("registering a worker", register).await
    }

    async fn expired_leases(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
    ) -> Result<Vec<ExpiredLease>, FleetError> {
        let (worker, labels) = (worker.clone(), node.labels.clone());
        let read = move |db: &_, shared: &_| claims::expired_leases(db, shared, &worker, &labels);
        self.reader.read("reading expired leases", read).await
    }

    async fn take_over(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
        lease: Duration,
        cast: &CastId,
    ) -> Result<Option<Claim>, FleetError> {
        self.shared.telemetry.check_instance(worker, node.instance)?;
        let cast = cast.clone();
        let by = claims::Claimant { worker: worker.clone(), instance: node.instance, lease };
        let take_over = move |tx: &mut Tx<'_>| claims::take_over(tx, &by, &cast);
        self.writer.write("taking over a cast", take_over).await
    }

    async fn claim_queued(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
        lease: Duration,
        limit: usize,
        fits: &Fits<'_>,
    ) -> Result<Vec<Claim>, FleetError> {
        let operation = "claiming casts";
        self.shared.telemetry.check_instance(worker, node.instance)?;
        let labels = node.labels.clone();
        let order = move |db: &_, shared: &_| claims::queue_order(db, shared, Some(&labels));
        let mut batch = BatchClaim::new(self.reader.read(operation, order).await?, limit);
        loop {
            // Decided here, because `fits` cannot be sent to another thread.
            let rows = batch.choose(fits);
            if rows.is_empty() {
                return Ok(batch.into_claims());
            }
            let by = claims::Claimant { worker: worker.clone(), instance: node.instance, lease };
            let claim = move |tx: &mut Tx<'_>| claims::claim_queued(tx, &by, &rows);
            batch.add(self.writer.write(operation, claim).await)?;
        }
    }

    async fn fail_queued(&self, id: &CastId, message: &str) -> Result<(), FleetError> {
        let (id, message) = (id.clone(), message.to_owned());
        let fail = move |tx: &mut Tx<'_>| casts::fail_queued(tx, &id, &message);
        self.writer.write("failing a queued cast", fail).await
    }

    async fn renew_all(&self, tickets: &[Ticket], lease: Duration) -> Result<Vec<Renewal>, FleetError> {
        let tickets = tickets.to_vec();
        self.writer.write("renewing leases", move |tx| claims::renew_all(tx, &tickets, lease)).await
    }

    async fn ack_commands(&self, ticket: &Ticket, upto: u64) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("acknowledging commands", move |tx| claims::ack_commands(tx, &ticket, upto)).await
    }

    async fn report_event(&self, ticket: &Ticket, event: EventKind) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("reporting an event", move |tx| history::report_event(tx, &ticket, &event)).await
    }

    async fn report_stored_later(&self, id: &CastId, event: EventKind) -> Result<(), FleetError> {
        let id = id.clone();
        let report = move |tx: &mut writer::Tx<'_>| history::report_stored_later(tx, &id, &event);
        self.writer.write("reporting a stored part", report).await
    }

    async fn put_pushes(&self, ticket: &Ticket, pushes: Vec<Push>) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("updating pushes", move |tx| casts::put_pushes(tx, &ticket, pushes)).await
    }

    async fn put_ledger(&self, ticket: &Ticket, rows: Vec<LedgerRow>) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("updating a ledger", move |tx| ledger::put(tx, &ticket, &rows)).await
    }

    async fn ledger(&self, ticket: &Ticket) -> Result<Vec<LedgerRow>, FleetError> {
        let ticket = ticket.clone();
        let read = move |db: &_, shared: &_| ledger::read(db, shared, &ticket);
        self.reader.read("reading a ledger", read).await
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
                history::report_event(tx, &ticket, last)?;
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
        self.writer.write("releasing a lease", move |tx| claims::release(tx, &ticket)).await
    }
}

#[async_trait]
impl Outbox for SqliteFleet {
    async fn due_entries(
        &self,
        limit: usize,
        skip: &HashSet<CastId>,
    ) -> Result<Vec<OutboxEntry>, FleetError> {
        let skip = skip.clone();
        let read = move |db: &_, shared: &_| outbox::due_entries(db, shared, limit, &skip);
        self.reader.read("reading due outbox entries", read).await
    }

    async fn next_due_in(&self) -> Result<Option<Duration>, FleetError> {
        self.reader.read("reading the next due time", outbox::next_due_in).await
    }

    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        outcome: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) -> Result<(), FleetError> {
        let cast = cast.clone();
        let write = move |tx: &mut Tx<'_>| outbox::settle(tx, &cast, seq, outcome, attempt.as_ref());
        self.writer.write("settling an outbox entry", write).await
    }

    async fn attempts(&self, cast: &CastId) -> Result<Vec<DeliveryAttempt>, FleetError> {
        let cast = cast.clone();
        let read = move |db: &_, shared: &_| outbox::attempts(db, shared, &cast);
        self.reader.read("reading delivery attempts", read).await
    }

    async fn redeliver(&self, cast: &CastId, seq: Option<u64>) -> Result<RedeliverOutcome, FleetError> {
        let cast = cast.clone();
        self.writer.write("redelivering events", move |tx| outbox::redeliver(tx, &cast, seq)).await
    }

    async fn backlog(&self) -> Result<Backlog, FleetError> {
        self.reader.read("reading the outbox backlog", |db, _| outbox::backlog(db)).await
    }
}

#[async_trait]
impl Documents for SqliteFleet {
    async fn put_document(
        &self,
        kind: &str,
        name: &str,
        expected: Option<u64>,
        content: Option<Value>,
    ) -> Result<(), FleetError> {
        let put = documents::Put { kind: kind.to_owned(), name: name.to_owned(), expected, content };
        self.writer.write("writing a document", move |tx| documents::put(tx, &put)).await
    }

    async fn documents(&self, kind: &str) -> Result<DocumentList, FleetError> {
        let kind = kind.to_owned();
        self.reader.read("reading documents", move |db, shared| documents::list(db, shared, &kind)).await
    }

    async fn documents_version(&self) -> Result<u64, FleetError> {
        self.reader.read("reading the version of documents", |db, _| documents::version(db)).await
    }
}

#[async_trait]
impl Telemetry for SqliteFleet {
    async fn stats(&self, id: &CastId) -> Option<CastStats> {
        self.shared.telemetry.stats(id)
    }

    async fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        self.shared.telemetry.snapshot(id)
    }

    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        self.shared.telemetry.workers(self.shared.clock.fleet_ms())
    }

    async fn put_stats(&self, ticket: &Ticket, stats: CastStats) {
        self.shared.telemetry.put_stats(ticket, stats);
    }

    async fn put_snapshot(&self, ticket: &Ticket, jpeg: Bytes) {
        self.shared.telemetry.put_snapshot(ticket, self.shared.clock.wall_ms(), jpeg);
    }

    async fn heartbeat(
        &self,
        worker: &WorkerId,
        status: WorkerStatus,
    ) -> Result<HeartbeatResponse, FleetError> {
        self.shared.telemetry.check_instance(worker, status.node.instance)?;
        Ok(self.shared.telemetry.heartbeat(worker, self.shared.clock.fleet_ms(), status))
    }

    async fn request_drain(&self, worker: &WorkerId) -> Result<bool, FleetError> {
        Ok(self.shared.telemetry.request_drain(worker, self.shared.clock.fleet_ms()))
    }
}

#[async_trait]
impl AuditTrail for SqliteFleet {
    async fn append_audit(&self, mut entries: Vec<AuditEntry>) -> Result<(), FleetError> {
        entries.truncate(MAX_AUDIT_APPEND);
        self.writer.write("adding audit entries", move |tx| audit::append(tx, &entries)).await
    }

    async fn audit_entries(&self, filter: &AuditFilter) -> Result<AuditPage, FleetError> {
        let filter = filter.clone();
        self.reader.read("reading audit entries", move |db, shared| audit::list(db, shared, &filter)).await
    }
}

#[async_trait]
impl Accounting for SqliteFleet {
    async fn daily_use(
        &self,
        app: Option<&str>,
        days: RangeInclusive<i64>,
    ) -> Result<Vec<DailyUse>, FleetError> {
        let app = app.map(str::to_owned);
        let read = move |db: &_, shared: &_| daily_use::list(db, shared, app.as_deref(), &days);
        self.reader.read("reading the use by day", read).await
    }
}
