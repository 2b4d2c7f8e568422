//! Backend of the fleet for many machines: PostgreSQL, version 14 or newer.
//!
//! All processes of a fleet use one database. Each has at most four connections, one of which listens for
//! changes ([`wakeup`]); the others may go through a pooler such as PgBouncer, in transaction mode. An
//! operation that loses its connection is attempted again, so that a failover of the database is a delay
//! ([`transaction`]). Only the database's clock counts ([`clock`]). Values are sealed as in SQLite
//! ([`crate::vault`]).
//!
//! SQL is used only in this module and its submodules.

mod answered;
mod audit;
mod casts;
mod claims;
mod clock;
mod connections;
mod daily_use;
mod documents;
mod history;
mod ledger;
mod outbox;
mod pending_work;
mod queue;
mod rooms;
mod row;
mod schema;
mod sql;
mod sweep;
mod telemetry;
mod tls;
mod transaction;
mod wakeup;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::Push;
use serde_json::Value;
use tokio::sync::watch;

use crate::queue::BatchClaim;
use crate::sealing::SealedCast;
use crate::telemetry_table::{Owner, TelemetryTable};
use crate::vault::{self, Vault, random_bytes, random_u64};
use crate::{
    Accounting, AuditEntry, AuditFilter, AuditPage, AuditTrail, Backlog, Cast, CastId, CastKey, CastPage,
    CastState, CastStats, Casts, Claim, Command, CreateOutcome, DailyUse, DeliveryAttempt, DeliveryOutcome,
    DocumentList, Documents, Error as FleetError, Event, EventKind, ExpiredLease, Filter, Fits,
    HeartbeatResponse, Leases, MAX_AUDIT_APPEND, NewCast, NodeInfo, Outbox, OutboxEntry, PendingWork,
    QueueState, RedeliverOutcome, Renewal, Telemetry, Ticket, UnixMs, WorkerId, WorkerStatus,
};
use claims::{Ack, ClaimQueued, Claimant, Close, FailQueued, Renew, TakeOver};
use connections::Connections;
use pending_work::LastFound;
use sql::TxError;
use telemetry::KnownWorkers;
use tls::TlsConnector;
use transaction::{OPERATION_TIMEOUT, REPORT_TIMEOUT, Read, Write};
use wakeup::{Wakeup, WakeupTasks};

pub use crate::clock::{Clock, monotonic_clock};
pub use tls::tls_config;

/// Longest retention, in milliseconds: a thousand years, so that PostgreSQL can compute with it.
const MAX_RETENTION_MS: i64 = 31_557_600_000_000;

/// Configuration of the database.
pub struct Config {
    /// URL of the database: `postgres://user:password@host:port/name`, or `key=value` pairs as of libpq. With
    /// `sslmode=disable` there is no TLS; otherwise servers on other machines must have it.
    pub url: String,
    /// URL for the connection that listens, if [`Self::url`] leads to a pooler.
    pub direct_url: Option<String>,
    /// Certificates and keys for TLS.
    pub tls: Arc<rustls::ClientConfig>,
    /// Vault that seals confidential values.
    pub vault: Vault,
    /// How long ended casts are kept.
    pub retention: Duration,
    /// Name of this node, which no other process has.
    pub node: String,
    /// Monotonic clock, to notice when the database's clock is set ([`monotonic_clock`]).
    pub monotonic_clock: Clock,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node", &self.node)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// Reason why the database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is malformed. It is not quoted, because it may contain a password.
    #[error("the URL of the database is malformed: write postgres://user:password@host:port/name")]
    InvalidUrl,
    /// The certificates for TLS cannot be used.
    #[error("the certificates of the database's authorities cannot be used: {0}")]
    InvalidCa(String),
    /// There is no connection.
    #[error("cannot connect to the database: {0}")]
    Pool(String),
    /// The server is too old.
    #[error("the database server has version {0}: version 14 or newer is needed")]
    ServerTooOld(String),
    /// The server is a standby or read-only.
    #[error("the database server only allows reading: name the primary server")]
    ReadOnly,
    /// A later version of the program wrote the schema, and this one cannot use it.
    #[error(
        "the database was written by a later version of pagecast (schema {found}, this one knows {known}): \
        update pagecast"
    )]
    SchemaTooNew {
        /// Schema version of the database.
        found: i64,
        /// Latest schema version that this program supports.
        known: i64,
    },
    /// The database has tables of another program.
    #[error("the database has tables of another program: give pagecast a database of its own")]
    UnknownDatabase,
    /// The database was sealed with another key.
    #[error("the database cannot be read with this key: use the key that it was created with")]
    WrongKey(#[source] vault::Error),
    /// PostgreSQL failed.
    #[error("cannot open the database")]
    Database(#[source] tokio_postgres::Error),
    /// The database does not have what it should have.
    #[error("the database is damaged")]
    Damaged,
}

impl Error {
    /// Whether another attempt may succeed, because the server cannot be reached or is starting.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Pool(_) | Self::ReadOnly => true,
            Self::Database(error) => sql::is_transient(error),
            _ => false,
        }
    }

    fn from_tx(error: TxError) -> Self {
        match error {
            TxError::Sql(error) => Self::Database(error),
            TxError::Pool(error) => Self::Pool(error.to_string()),
            TxError::Json(_) | TxError::Conflict | TxError::ClockJumped | TxError::Fleet(_) => Self::Damaged,
        }
    }
}

/// A worker that claims a cast, with the nonce of a new ticket.
fn claimant(worker: &WorkerId, node: &NodeInfo, lease: Duration) -> Claimant {
    let (worker, labels) = (worker.clone(), node.labels.clone());
    Claimant { worker, instance: node.instance, labels, lease, nonce: random_u64() }
}

/// State shared by all operations.
struct Shared {
    vault: Vault,
    clock: clock::ClockCheck,
    retention_ms: i64,
    node: String,
    telemetry: TelemetryTable,
    wakeup: Wakeup,
    last_found: LastFound,
    known_workers: KnownWorkers,
    /// Monotonic time of the next upkeep of partitions.
    next_partitions_ms: AtomicI64,
}

/// A fleet in a PostgreSQL database.
pub struct PostgresFleet {
    connections: Arc<Connections>,
    shared: Arc<Shared>,
    _tasks: WakeupTasks,
}

impl fmt::Debug for PostgresFleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresFleet")
    }
}

impl PostgresFleet {
    /// Connects to the database, and creates or migrates its schema. Call it within a Tokio runtime.
    ///
    /// # Errors
    /// The database cannot be reached, is a standby or too old, or a later version or another key wrote it.
    pub async fn open(config: Config) -> Result<Arc<Self>, Error> {
        let Config { url, direct_url, tls, vault, retention, node, monotonic_clock } = config;
        let pooled = connections::parse_url(&url)?;
        let listener = direct_url.map_or_else(|| Ok(pooled.clone()), |url| connections::parse_url(&url))?;
        let connections = Arc::new(Connections::new(pooled, listener, TlsConnector::new(tls))?);
        let retention_ms =
            i64::try_from(retention.as_millis()).unwrap_or(MAX_RETENTION_MS).min(MAX_RETENTION_MS);
        let mut connection = connections.get().await.map_err(Error::from_tx)?;
        let client = connection.client();
        schema::prepare(client, &vault).await?;
        clock::resume(client).await.map_err(Error::from_tx)?;
        // Events go to the default partition until it succeeds.
        if let Err(error) = schema::create_partitions(client, retention_ms).await {
            tracing::warn!(?error, "creating partitions for events failed, retrying");
        }
        schema::release_deliveries(client, &node).await?;
        if !schema::disable_jit(client).await? {
            connection.reuse();
        }
        let clock = clock::ClockCheck::new(monotonic_clock);
        let next_partitions_ms = AtomicI64::new(clock.monotonic_ms() + sweep::PARTITION_INTERVAL_MS);
        let telemetry = TelemetryTable::default();
        let (wakeup, last_found) = (Wakeup::new(), LastFound::default());
        let known_workers = KnownWorkers::default();
        let shared = Shared {
            vault,
            clock,
            retention_ms,
            node,
            telemetry,
            wakeup,
            last_found,
            known_workers,
            next_partitions_ms,
        };
        let shared = Arc::new(shared);
        let tasks = WakeupTasks::start(&shared, &connections);
        Ok(Arc::new(Self { connections, shared, _tasks: tasks }))
    }

    /// Repeats a step of the sweep until there is no more to do.
    async fn sweep_step(&self, operation: &'static str, step: Write<bool, ()>) -> Result<(), FleetError> {
        while self.write(operation, OPERATION_TIMEOUT, &(), step).await?.unwrap_or(true) {}
        Ok(())
    }

    /// Runs a transaction that claims casts, and finds the claims by their nonce if its result is lost.
    async fn claim_with<A: AsRef<Claimant> + Sync>(
        &self,
        args: &A,
        claim: Write<Vec<Claim>, A>,
    ) -> Result<Vec<Claim>, FleetError> {
        let operation = "claiming casts";
        match self.write(operation, OPERATION_TIMEOUT, args, claim).await? {
            Some(claims) => Ok(claims),
            None => {
                let find: Write<_, A> = |tx, args| Box::pin(claims::find_claims(tx, args.as_ref()));
                Ok(self.write(operation, OPERATION_TIMEOUT, args, find).await?.unwrap_or_default())
            }
        }
    }
}

#[async_trait]
impl Casts for PostgresFleet {
    async fn create(&self, new: NewCast) -> Result<CreateOutcome, FleetError> {
        let operation = "creating a cast";
        let new = SealedCast::new(&self.shared.vault, new)
            .map_err(|source| FleetError::Storage { operation, source: source.into() })?;
        loop {
            let create: Write<_, _> = |tx, new| Box::pin(casts::create(tx, new));
            if let Some(outcome) = self.write(operation, OPERATION_TIMEOUT, &new, create).await? {
                return Ok(outcome);
            }
            // Something was committed: the cast, or a refusal, which is then repeated.
            if let Some(cast) = self.get(&new.new.id).await? {
                return Ok(CreateOutcome::New(cast));
            }
        }
    }

    async fn get(&self, id: &CastId) -> Result<Option<Cast>, FleetError> {
        self.read("reading a cast", id, |db, id| Box::pin(casts::get(db, id))).await
    }

    async fn find_by_key(&self, key: &CastKey) -> Result<Option<Cast>, FleetError> {
        self.read("finding a cast by key", key, |db, key| Box::pin(casts::find_by_key(db, key))).await
    }

    async fn list(&self, filter: &Filter) -> Result<CastPage, FleetError> {
        self.read("listing casts", filter, |db, filter| Box::pin(casts::list(db, filter))).await
    }

    async fn count(&self, app: Option<&str>) -> Result<Vec<(CastState, u64)>, FleetError> {
        let app = app.map(str::to_owned);
        self.read("counting casts", &app, |db, app| Box::pin(casts::count(db, app))).await
    }

    async fn queue(&self) -> Result<QueueState, FleetError> {
        self.read("reading the queue", &(), |db, ()| Box::pin(queue::state(db, &()))).await
    }

    async fn send_command(&self, id: &CastId, command: Command) -> Result<(), FleetError> {
        let args = casts::SendCommand { id: id.clone(), command };
        let send: Write<_, _> = |tx, args| Box::pin(casts::send_command(tx, args));
        self.write("queueing a command", OPERATION_TIMEOUT, &args, send).await.map(drop)
    }

    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, FleetError> {
        let args = history::ReadEvents { id: id.clone(), after, limit };
        self.read("reading events", &args, |db, args| Box::pin(history::events(db, args))).await
    }

    async fn sweep(&self) -> Result<(), FleetError> {
        let operation = "looking for work to sweep";
        let (fleet_now, due) = self.read(operation, &(), |db, ()| Box::pin(sweep::due(db, &()))).await?;
        if due.has_overdue(fleet_now) {
            self.sweep_step("failing overdue casts", |tx, ()| Box::pin(sweep::fail_overdue(tx, &()))).await?;
        }
        if due.expired {
            self.sweep_step("deleting expired casts", |tx, ()| Box::pin(sweep::delete_expired(tx, &())))
                .await?;
        }
        if due.stale {
            self.sweep_step("deleting stale rows", |tx, ()| Box::pin(sweep::delete_stale(tx, &()))).await?;
        }
        let now = self.shared.clock.monotonic_ms();
        if now >= self.shared.next_partitions_ms.load(Ordering::Relaxed) {
            let next = now.saturating_add(sweep::PARTITION_INTERVAL_MS);
            self.shared.next_partitions_ms.store(next, Ordering::Relaxed);
            self.sweep_step("maintaining partitions", |tx, ()| Box::pin(sweep::maintain_partitions(tx, &())))
                .await?;
        }
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.wakeup.subscribe()
    }

    async fn pending_work(&self) -> Result<PendingWork, FleetError> {
        self.read_pending_work().await
    }

    async fn check_writable(&self) -> Result<(), FleetError> {
        // Each transaction writes its nonce.
        let nothing: Write<(), ()> = |_, ()| Box::pin(async { Ok(()) });
        self.write("checking that the database is writable", OPERATION_TIMEOUT, &(), nothing).await.map(drop)
    }
}

#[async_trait]
impl Leases for PostgresFleet {
    async fn register_worker(&self, worker: &WorkerId, node: &NodeInfo) -> Result<(), FleetError> {
        let args = claims::Register { worker: worker.clone(), instance: node.instance };
        let register: Write<_, _> = |tx, args| Box::pin(claims::register_worker(tx, args));
        self.write("registering a worker", OPERATION_TIMEOUT, &args, register).await.map(drop)
    }

    async fn expired_leases(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
    ) -> Result<Vec<ExpiredLease>, FleetError> {
        let args = (worker.clone(), node.labels.clone());
        let read: Read<_, _> = |db, args| Box::pin(claims::expired_leases(db, args));
        self.read("reading expired leases", &args, read).await
    }

    async fn take_over(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
        lease: Duration,
        cast: &CastId,
    ) -> Result<Option<Claim>, FleetError> {
        let args = TakeOver { by: claimant(worker, node, lease), cast: cast.clone() };
        let claims = self.claim_with(&args, |tx, args| Box::pin(claims::take_over(tx, args))).await?;
        Ok(claims.into_iter().next())
    }

    async fn claim_queued(
        &self,
        worker: &WorkerId,
        node: &NodeInfo,
        lease: Duration,
        limit: usize,
        fits: &Fits<'_>,
    ) -> Result<Vec<Claim>, FleetError> {
        let operation = "looking for casts to claim";
        let by = claimant(worker, node, lease);
        let queue = self.read(operation, &by, |db, by| Box::pin(claims::read_queue(db, by))).await?;
        let mut batch = BatchClaim::new(queue, limit);
        loop {
            let rows = batch.choose(fits);
            if rows.is_empty() {
                return Ok(batch.into_claims());
            }
            let args = ClaimQueued { by: claimant(worker, node, lease), rows };
            batch.add(self.claim_with(&args, |tx, args| Box::pin(claims::claim_queued(tx, args))).await)?;
        }
    }

    async fn fail_queued(&self, id: &CastId, message: &str) -> Result<(), FleetError> {
        let args = FailQueued { id: id.clone(), message: message.to_owned() };
        let fail: Write<_, _> = |tx, args| Box::pin(claims::fail_queued(tx, args));
        self.write("failing a queued cast", OPERATION_TIMEOUT, &args, fail).await.map(drop)
    }

    async fn renew_all(&self, tickets: &[Ticket], lease: Duration) -> Result<Vec<Renewal>, FleetError> {
        let args = Renew { tickets: tickets.to_vec(), lease };
        let renewals =
            self.read("renewing leases", &args, |db, args| Box::pin(claims::renew_all(db, args))).await?;
        for (ticket, renewal) in tickets.iter().zip(&renewals) {
            if *renewal == Renewal::Lost && self.shared.telemetry.is_owner(&ticket.cast, &Owner::of(ticket)) {
                self.shared.telemetry.clear_owner(&ticket.cast);
            }
        }
        Ok(renewals)
    }

    async fn ack_commands(&self, ticket: &Ticket, upto: u64) -> Result<(), FleetError> {
        let args = Ack { ticket: ticket.clone(), upto };
        let ack: Write<_, _> = |tx, args| Box::pin(claims::ack_commands(tx, args));
        self.write("acknowledging commands", OPERATION_TIMEOUT, &args, ack).await.map(drop)
    }

    async fn report_event(&self, ticket: &Ticket, event: EventKind) -> Result<(), FleetError> {
        let args = history::Report { ticket: ticket.clone(), event };
        let report: Write<_, _> = |tx, args| Box::pin(history::report_event(tx, args));
        self.write("reporting an event", REPORT_TIMEOUT, &args, report).await.map(drop)
    }

    async fn report_stored_later(&self, id: &CastId, event: EventKind) -> Result<(), FleetError> {
        let args = history::StoredLater { id: id.clone(), event };
        let report: Write<_, _> = |tx, args| Box::pin(history::report_stored_later(tx, args));
        self.write("reporting a stored part", REPORT_TIMEOUT, &args, report).await.map(drop)
    }

    async fn put_pushes(&self, ticket: &Ticket, pushes: Vec<Push>) -> Result<(), FleetError> {
        let args = casts::PutPushes { ticket: ticket.clone(), pushes };
        let put: Write<_, _> = |tx, args| Box::pin(casts::put_pushes(tx, args));
        self.write("updating pushes", OPERATION_TIMEOUT, &args, put).await.map(drop)
    }

    async fn put_ledger(&self, ticket: &Ticket, rows: Vec<LedgerRow>) -> Result<(), FleetError> {
        let args = ledger::Put { ticket: ticket.clone(), rows };
        let put: Write<_, _> = |tx, args| Box::pin(ledger::put(tx, args));
        self.write("writing the ledger", REPORT_TIMEOUT, &args, put).await.map(drop)
    }

    async fn ledger(&self, ticket: &Ticket) -> Result<Vec<LedgerRow>, FleetError> {
        let read: Write<_, _> = |tx, ticket| Box::pin(ledger::read(tx, ticket));
        loop {
            // Reading again changes nothing.
            if let Some(rows) = self.write("reading the ledger", OPERATION_TIMEOUT, ticket, read).await? {
                return Ok(rows);
            }
        }
    }

    async fn close(
        &self,
        ticket: &Ticket,
        last: Option<EventKind>,
        report: Option<Value>,
    ) -> Result<(), FleetError> {
        let args = Close { ticket: ticket.clone(), last, report };
        let close: Write<_, _> = |tx, args| Box::pin(claims::close(tx, args));
        self.write("closing a cast", REPORT_TIMEOUT, &args, close).await.map(drop)
    }

    async fn release(&self, ticket: &Ticket) -> Result<(), FleetError> {
        let release: Write<_, _> = |tx, ticket| Box::pin(claims::release(tx, ticket));
        self.write("releasing a lease", OPERATION_TIMEOUT, ticket, release).await.map(drop)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[async_trait]
impl Outbox for PostgresFleet {
    async fn due_entries(
        &self,
        limit: usize,
        skip: &HashSet<CastId>,
    ) -> Result<Vec<OutboxEntry>, FleetError> {
        let operation = "claiming due outbox entries";
        // Usually nothing is due, which a read finds out.
        if !self.read(operation, &(), |db, ()| Box::pin(outbox::is_any_due(db, &()))).await? {
            return Ok(Vec::new());
        }
        let args = outbox::ClaimDue { node: self.shared.node.clone(), limit, skip: skip.clone() };
        let claim: Write<_, _> = |tx, args| Box::pin(outbox::claim_due(tx, args));
        loop {
            // If a result is lost, this node has claimed the entries and gets them again.
            if let Some(entries) = self.write(operation, OPERATION_TIMEOUT, &args, claim).await? {
                return Ok(entries);
            }
        }
    }

    async fn next_due_in(&self) -> Result<Option<Duration>, FleetError> {
        self.read("reading the next due time", &(), |db, ()| Box::pin(outbox::next_due_in(db, &()))).await
    }

    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        outcome: DeliveryOutcome,
        attempt: Option<DeliveryAttempt>,
    ) -> Result<(), FleetError> {
        let node = self.shared.node.clone();
        let args = outbox::Settle { node, cast: cast.clone(), seq, outcome, attempt };
        let settle: Write<_, _> = |tx, args| Box::pin(outbox::settle(tx, args));
        self.write("settling an outbox entry", REPORT_TIMEOUT, &args, settle).await.map(drop)
    }

    async fn attempts(&self, cast: &CastId) -> Result<Vec<DeliveryAttempt>, FleetError> {
        self.read("reading delivery attempts", cast, |db, cast| Box::pin(outbox::attempts(db, cast))).await
    }

    async fn redeliver(&self, cast: &CastId, seq: Option<u64>) -> Result<RedeliverOutcome, FleetError> {
        let args = outbox::Redeliver { cast: cast.clone(), seq };
        let redeliver: Write<_, _> = |tx, args| Box::pin(outbox::redeliver(tx, args));
        loop {
            // If a result is lost, the request is repeated, which changes nothing.
            let done = self.write("redelivering events", OPERATION_TIMEOUT, &args, redeliver).await?;
            if let Some(outcome) = done {
                return Ok(outcome);
            }
        }
    }

    async fn backlog(&self) -> Result<Backlog, FleetError> {
        self.read("reading the outbox backlog", &(), |db, ()| Box::pin(outbox::backlog(db, &()))).await
    }
}

#[async_trait]
impl Documents for PostgresFleet {
    async fn put_document(
        &self,
        kind: &str,
        name: &str,
        expected: Option<u64>,
        content: Option<Value>,
    ) -> Result<(), FleetError> {
        let args = documents::Put { kind: kind.to_owned(), name: name.to_owned(), expected, content };
        let put: Write<_, _> = |tx, args| Box::pin(documents::put(tx, args));
        self.write("writing a document", OPERATION_TIMEOUT, &args, put).await.map(drop)
    }

    async fn documents(&self, kind: &str) -> Result<DocumentList, FleetError> {
        let kind = kind.to_owned();
        self.read("reading documents", &kind, |db, kind| Box::pin(documents::list(db, kind))).await
    }

    async fn documents_version(&self) -> Result<u64, FleetError> {
        let operation = "reading the version of documents";
        self.read(operation, &(), |db, ()| Box::pin(documents::version(db, &()))).await
    }
}

impl PostgresFleet {
    /// Whether a ticket is valid, as far as this process knows or the database says.
    async fn is_owner(&self, ticket: &Ticket) -> bool {
        let owner = Owner::of(ticket);
        if self.shared.telemetry.is_owner(&ticket.cast, &owner) {
            return true;
        }
        let valid =
            self.read("checking a ticket", ticket, |db, ticket| Box::pin(claims::is_valid(db, ticket))).await;
        let valid = valid.unwrap_or(false);
        if valid {
            self.shared.telemetry.set_owner(ticket.cast.clone(), owner);
        }
        valid
    }

    /// Whether the owner that this process knows is still the owner of a cast.
    async fn owns(&self, id: &CastId) -> bool {
        let owner = self.read("reading an owner", id, |db, id| Box::pin(telemetry::owner(db, id))).await;
        matches!(owner, Ok(Some(owner)) if self.shared.telemetry.is_owner(id, &owner))
    }
}

#[async_trait]
impl Telemetry for PostgresFleet {
    async fn stats(&self, id: &CastId) -> Option<CastStats> {
        let stats = self.read("reading statistics", id, |db, id| Box::pin(telemetry::stats(db, id))).await;
        stats.unwrap_or_else(|error| {
            tracing::debug!(cast = %id, %error, "cannot read statistics");
            None
        })
    }

    async fn stats_of(&self, casts: &[CastId]) -> HashMap<CastId, CastStats> {
        let casts = casts.to_vec();
        let stats = self
            .read("reading statistics", &casts, |db, casts| Box::pin(telemetry::stats_of(db, casts)))
            .await;
        stats.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot read statistics");
            HashMap::new()
        })
    }

    async fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        let snapshot = self.shared.telemetry.snapshot(id)?;
        self.owns(id).await.then_some(snapshot)
    }

    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        let workers = self.read("reading workers", &(), |db, ()| Box::pin(telemetry::workers(db, &()))).await;
        workers.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot read workers");
            Vec::new()
        })
    }

    async fn recent_workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        match self.shared.known_workers.recent(self.shared.clock.monotonic_ms()) {
            Some(workers) => workers,
            None => self.workers().await,
        }
    }

    async fn put_stats(&self, ticket: &Ticket, stats: CastStats) {
        if self.is_owner(ticket).await {
            self.shared.telemetry.put_stats(ticket, stats);
        }
    }

    async fn put_snapshot(&self, ticket: &Ticket, jpeg: Bytes) {
        if self.is_owner(ticket).await
            && let Ok(now) = self
                .read("reading the clock", &(), |db, ()| Box::pin(async { Ok(db.clock().await?.wall_ms) }))
                .await
        {
            self.shared.telemetry.put_snapshot(ticket, now, jpeg);
        }
    }

    async fn heartbeat(
        &self,
        worker: &WorkerId,
        status: WorkerStatus,
    ) -> Result<HeartbeatResponse, FleetError> {
        let args = telemetry::Heartbeat { worker: worker.clone(), status };
        let send: Read<_, _> = |db, args| Box::pin(telemetry::heartbeat(db, args));
        let response = self.read("sending a heartbeat", &args, send).await?;
        self.shared.known_workers.learn(self.shared.clock.monotonic_ms(), args, &response);
        Ok(response)
    }

    async fn request_drain(&self, worker: &WorkerId) -> Result<bool, FleetError> {
        self.read("asking a node to drain", worker, |db, worker| {
            Box::pin(telemetry::request_drain(db, worker))
        })
        .await
    }
}

#[async_trait]
impl AuditTrail for PostgresFleet {
    async fn append_audit(&self, mut entries: Vec<AuditEntry>) -> Result<(), FleetError> {
        entries.truncate(MAX_AUDIT_APPEND);
        let append: Write<_, Vec<AuditEntry>> = |tx, entries| Box::pin(audit::append(tx, entries));
        self.write("adding audit entries", OPERATION_TIMEOUT, &entries, append).await.map(drop)
    }

    async fn audit_entries(&self, filter: &AuditFilter) -> Result<AuditPage, FleetError> {
        self.read("reading audit entries", filter, |db, filter| Box::pin(audit::list(db, filter))).await
    }
}

#[async_trait]
impl Accounting for PostgresFleet {
    async fn daily_use(
        &self,
        app: Option<&str>,
        days: RangeInclusive<i64>,
    ) -> Result<Vec<DailyUse>, FleetError> {
        let args = daily_use::ReadUse { app: app.map(str::to_owned), days };
        self.read("reading the use by day", &args, |db, args| Box::pin(daily_use::list(db, args))).await
    }
}
