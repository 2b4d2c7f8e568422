//! The embedded backend: SQLite in the data folder.
//!
//! One thread writes ([`writer`]): it takes all that waits into one transaction, and answers when that is on the disk, so that many
//! who write at once pay for one `fsync`. Two threads read ([`reader`]) what is committed. What a cast is, what is told of it and
//! what is said about it is sealed ([`crate::vault`]); times, states, names and keys are not, because they are searched for.
//!
//! No SQL is anywhere but in the modules of this one.

mod casts;
mod claims;
mod documents;
mod history;
mod lock;
mod memory;
mod outbox;
mod reader;
mod row;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::spec::Push;
use serde_json::Value;
use tokio::sync::watch;

use crate::vault::{self, Vault};
use crate::{
    Attempt, Backlog, Cast, CastId, Claim, Command, Created, Error as FleetError, Event, Filter, Fleet,
    Happening, Key, Load, NewCast, Notice, Page, Settled, State, Ticket, UnixMs, Vitals, WorkerId,
};
use claims::Next;
use memory::Memory;
use writer::Tx;

/// Tells the time in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// Where casts are kept, and how.
pub struct Config {
    /// The database. Files of the same name with `-wal`, `-shm` and `.lock` behind it stand beside it.
    pub path: PathBuf,
    /// Seals what nobody may read there.
    pub vault: Vault,
    /// How long casts that ended are remembered.
    pub history: Duration,
    /// The time.
    pub clock: Clock,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("path", &self.path)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("another service uses {}: stop it first, or give this one a data folder of its own", .0.display())]
    Taken(PathBuf),
    /// Its schema is not known.
    #[error(
        "{} was written by a later version of pagecast (schema {found}, this one knows {known}): update pagecast, or bring back an older copy", path.display()
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The latest known.
        known: i64,
    },
    /// Not one of ours.
    #[error("{} is a database, but not one of pagecast: name another file", .0.display())]
    Foreign(PathBuf),
    /// It needs another key.
    #[error("{} cannot be read with this key: use the one that it was made with", path.display())]
    Vault {
        /// Which.
        path: PathBuf,
        /// What the vault said.
        #[source]
        source: vault::Error,
    },
    /// Its file system cannot do what WAL needs.
    #[error("cannot use {} in WAL mode: put the data folder on a local file system", .0.display())]
    Wal(PathBuf),
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
    clock: Clock,
    history_ms: i64,
    memory: Memory,
    changes: watch::Sender<u64>,
}

/// All casts, in one file.
///
/// Dropped, it waits for its threads, and the file is free.
pub struct Sqlite {
    // In this order: the lock goes when nobody uses the file any more.
    writer: writer::Writer,
    reader: reader::Reader,
    shared: Arc<Shared>,
    _lock: lock::Lock,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sqlite")
    }
}

impl Sqlite {
    /// Opens the database, or makes it.
    ///
    /// # Errors
    /// Another has it, it was made by a later version or with another key, or it cannot be used.
    pub fn open(config: Config) -> Result<Arc<Self>, Error> {
        let Config { path, vault, history, clock } = config;
        let lock = lock::Lock::take(&path)?;
        let db = schema::open(&path, &vault)?;
        let failed = |source| Error::Database { path: path.clone(), source };
        let memory = Memory::default();
        claims::owners(&db, |id, owner| memory.owns(id, owner)).map_err(failed)?;
        let shared = Arc::new(Shared {
            vault,
            clock,
            history_ms: i64::try_from(history.as_millis()).unwrap_or(i64::MAX),
            memory,
            changes: watch::Sender::new(0),
        });
        let reader = reader::Reader::start(|| schema::connect(&path), &shared)?;
        let writer = writer::Writer::start(db, Arc::clone(&shared))?;
        Ok(Arc::new(Self { writer, reader, shared, _lock: lock }))
    }
}

#[async_trait]
impl Fleet for Sqlite {
    async fn create(&self, new: NewCast) -> Result<Created, FleetError> {
        let doing = "taking a cast";
        let new = casts::Sealed::new(&self.shared, new).map_err(|fail| fail.told(doing))?;
        self.writer.write(doing, move |tx| casts::create(tx, new)).await
    }

    async fn get(&self, id: &CastId) -> Result<Option<Cast>, FleetError> {
        let id = id.clone();
        self.reader.read("looking for a cast", move |db, shared| casts::get(db, shared, &id)).await
    }

    async fn find(&self, key: &Key) -> Result<Option<Cast>, FleetError> {
        let key = key.clone();
        self.reader.read("looking for a key", move |db, shared| casts::find(db, shared, &key)).await
    }

    async fn list(&self, filter: &Filter) -> Result<Page, FleetError> {
        let filter = filter.clone();
        self.reader.read("listing casts", move |db, shared| casts::list(db, shared, &filter)).await
    }

    async fn count(&self, app: Option<&str>) -> Result<Vec<(State, u64)>, FleetError> {
        let app = app.map(str::to_owned);
        self.reader.read("counting casts", move |db, _| casts::count(db, app.as_deref())).await
    }

    async fn order(&self, id: &CastId, command: Command) -> Result<(), FleetError> {
        let id = id.clone();
        self.writer.write("taking a command", move |tx| casts::order(tx, &id, &command)).await
    }

    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, FleetError> {
        let id = id.clone();
        let read = move |db: &_, shared: &_| history::events(db, shared, &id, after, limit);
        self.reader.read("looking for events", read).await
    }

    async fn vitals(&self, id: &CastId) -> Option<Vitals> {
        self.shared.memory.vitals(id)
    }

    async fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)> {
        self.shared.memory.snapshot(id)
    }

    async fn workers(&self) -> Vec<(WorkerId, Load)> {
        self.shared.memory.workers(self.shared.now())
    }

    async fn adopt(&self, worker: &WorkerId) -> Result<(), FleetError> {
        let worker = worker.clone();
        self.writer.write("freeing the casts of a worker", move |tx| claims::adopt(tx, &worker)).await
    }

    async fn claim(
        &self,
        worker: &WorkerId,
        lease: Duration,
        fits: &(dyn for<'a> Fn(&'a Cast) -> bool + Sync),
    ) -> Result<Option<Claim>, FleetError> {
        let mut fitting = None;
        loop {
            let worker = worker.clone();
            let take = move |tx: &mut writer::Tx<'_>| claims::claim(tx, &worker, lease, fitting);
            match self.writer.write("handing out a cast", take).await? {
                Next::Nothing => return Ok(None),
                Next::Taken(claim) => return Ok(Some(*claim)),
                // Asked here, because `fits` cannot go to the writer; if somebody is faster, the next one is asked about.
                Next::Ask(n, cast) if fits(&cast) => fitting = Some(n),
                Next::Ask(..) => return Ok(None),
            }
        }
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

    async fn obeyed(&self, ticket: &Ticket, upto: u64) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("removing commands", move |tx| claims::obeyed(tx, &ticket, upto)).await
    }

    async fn report(&self, ticket: &Ticket, happening: Happening) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("keeping an event", move |tx| history::report(tx, &ticket, happening)).await
    }

    async fn put_pushes(&self, ticket: &Ticket, pushes: Vec<Push>) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        self.writer.write("keeping pushes", move |tx| casts::put_pushes(tx, &ticket, pushes)).await
    }

    async fn close(
        &self,
        ticket: &Ticket,
        last: Option<Happening>,
        report: Option<Value>,
    ) -> Result<(), FleetError> {
        let ticket = ticket.clone();
        let close = move |tx: &mut Tx<'_>| {
            if let Some(last) = &last {
                history::report(tx, &ticket, last.clone())?;
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

    async fn tell(&self, ticket: &Ticket, vitals: Vitals) {
        self.shared.memory.tell(ticket, vitals);
    }

    async fn put_snapshot(&self, ticket: &Ticket, jpeg: Bytes) {
        self.shared.memory.put_snapshot(ticket, self.shared.now(), jpeg);
    }

    async fn beat(&self, worker: &WorkerId, load: Load) {
        self.shared.memory.beat(worker, self.shared.now(), load);
    }

    async fn due(&self, limit: usize) -> Result<Vec<Notice>, FleetError> {
        self.reader.read("looking for what is due", move |db, shared| outbox::due(db, shared, limit)).await
    }

    async fn next_due(&self) -> Result<Option<UnixMs>, FleetError> {
        self.reader.read("looking for what will be due", outbox::next_due).await
    }

    async fn settle(
        &self,
        cast: &CastId,
        seq: u64,
        settled: Settled,
        attempt: Option<Attempt>,
    ) -> Result<(), FleetError> {
        let cast = cast.clone();
        let write = move |tx: &mut writer::Tx<'_>| outbox::settle(tx, &cast, seq, settled, attempt.as_ref());
        self.writer.write("settling an event", write).await
    }

    async fn attempts(&self, cast: &CastId) -> Result<Vec<Attempt>, FleetError> {
        let cast = cast.clone();
        let read = move |db: &_, shared: &_| outbox::attempts(db, shared, &cast);
        self.reader.read("looking for attempts", read).await
    }

    async fn redeliver(&self, cast: &CastId, seq: Option<u64>) -> Result<u64, FleetError> {
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
        self.reader
            .read("looking for documents", move |db, shared| documents::all_of(db, shared, &kind))
            .await
    }

    async fn sweep(&self) -> Result<(), FleetError> {
        // In small steps, so that nobody waits for long behind one.
        while self.writer.write("ending casts that waited too long", sweep::overdue).await? {}
        while self.writer.write("forgetting old casts", sweep::forget).await? {}
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    async fn check(&self) -> Result<(), FleetError> {
        self.writer.write("trying to store something", schema::touch).await
    }
}

impl Shared {
    fn now(&self) -> UnixMs {
        (self.clock)()
    }
}
