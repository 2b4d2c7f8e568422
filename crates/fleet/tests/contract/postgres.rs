//! [`PostgresFleet`] under test: one server for all tests, and a database for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use pagecast_fleet::postgres::{Clock, Config, Error, PostgresFleet, monotonic_clock};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{AnsweredRequests, Fleet, Rooms, UnixMs};
use pagecast_testkit::Postgres;
use rustls::{ClientConfig, RootCertStore};

use super::fixture::Backend;

/// The vault's key of all test databases.
pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Name of the node under test.
const NODE: &str = "node";
/// Retention of ended casts.
pub(crate) const RETENTION: Duration = Duration::from_secs(72 * 3600);

/// The server that all tests share, which ends with the process, and the databases that no test uses.
static SERVER: OnceLock<Postgres> = OnceLock::new();
static FREE_DATABASES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static NEXT_DATABASE: AtomicU32 = AtomicU32::new(0);

/// The server that all tests share.
pub(crate) fn server() -> &'static Postgres {
    SERVER.get_or_init(|| Postgres::start().unwrap())
}

/// An empty database on the shared server. It is emptied again when dropped, for the next test.
#[derive(Debug)]
pub(crate) struct Database(String);

impl Database {
    pub(crate) fn new() -> Self {
        if let Some(free) = FREE_DATABASES.lock().unwrap().pop() {
            return Self(free);
        }
        let name = format!("test{}", NEXT_DATABASE.fetch_add(1, Ordering::SeqCst));
        server().sql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        Self(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn url(&self) -> String {
        server().url(&self.0)
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        server().sql(&self.0, sql).unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A database that cannot be emptied is not used again; the test has failed anyway.
        if server().sql(&self.0, "DROP SCHEMA public CASCADE; CREATE SCHEMA public").is_ok() {
            FREE_DATABASES.lock().unwrap().push(std::mem::take(&mut self.0));
        }
    }
}

/// TLS that trusts these certificates.
pub(crate) fn tls(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// Configuration of a fleet as a node would have it.
pub(crate) fn config(url: String, node: &str) -> Config {
    Config {
        url,
        direct_url: None,
        tls: tls(RootCertStore::empty()),
        vault: Vault::from_text(KEY).unwrap(),
        retention: RETENTION,
        node: node.to_owned(),
        monotonic_clock: monotonic_clock(),
    }
}

/// Opens a fleet as a node would.
pub(crate) async fn open(url: String, node: &str) -> Result<Arc<PostgresFleet>, Error> {
    PostgresFleet::open(config(url, node)).await
}

/// [`PostgresFleet`] in its own database, with clocks that only tests advance.
///
/// The database's clock is the function `wall_ms`, which the fixture replaces by one that reads a file.
#[derive(Debug)]
pub(crate) struct PostgresBackend {
    // Fields drop in this order: the database is emptied once nobody uses it.
    fleet: Option<Arc<PostgresFleet>>,
    database: Database,
    wall: WallClock,
    monotonic: Arc<AtomicI64>,
}

/// A file with the time of the database's clock.
#[derive(Debug)]
struct WallClock {
    file: PathBuf,
    ms: AtomicI64,
}

impl WallClock {
    fn add(&self, ms: i64) {
        let now = self.ms.fetch_add(ms, Ordering::SeqCst) + ms;
        // Renamed, so that the server never reads half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, now.to_string()).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    fn install(&self, database: &Database) {
        let path = Path::display(&self.file);
        database.sql(&format!(
            "CREATE OR REPLACE FUNCTION wall_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
                 $$ SELECT pg_read_file('{path}')::bigint $$;
             UPDATE clock SET offset_ms = 0, seen_ms = wall_ms(), swept_offset_ms = 0, trusted_from_ms = 0"
        ));
    }
}

impl PostgresBackend {
    async fn open(database: &Database, monotonic: &Arc<AtomicI64>, node: &str) -> Arc<PostgresFleet> {
        let clock = Arc::clone(monotonic);
        let monotonic_clock: Clock = Arc::new(move || clock.load(Ordering::SeqCst));
        PostgresFleet::open(Config { monotonic_clock, ..config(database.url(), node) }).await.unwrap()
    }

    /// The same fleet, as another node opens it.
    pub(crate) async fn other_node(&self, node: &str) -> Arc<dyn Fleet> {
        Self::open(&self.database, &self.monotonic, node).await
    }

    /// The same fleet, as a node opens it whose monotonic clock stands still.
    pub(crate) async fn paused_node(&self) -> Arc<dyn Fleet> {
        Self::open(&self.database, &Arc::new(AtomicI64::new(7)), "paused").await
    }

    /// Its table of answered requests.
    pub(crate) fn answered(&self) -> Arc<dyn AnsweredRequests> {
        self.fleet.clone().unwrap()
    }

    /// Runs SQL in its database.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.database.sql(sql)
    }

    /// Fleet time minus wall time.
    pub(crate) fn clock_offset_ms(&self) -> i64 {
        self.query("SELECT offset_ms FROM clock").parse().unwrap()
    }

    /// Runs SQL in the database, and returns what it prints.
    pub(crate) fn query(&self, sql: &str) -> String {
        self.database.sql(sql)
    }
}

impl Backend for PostgresBackend {
    const LEASE: Duration = Duration::from_secs(30);
    const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);
    const RETENTION: Duration = RETENTION;
    // Each takes seconds, because an operation takes several round trips.
    const MODEL_CASES: u32 = 24;

    async fn new() -> Self {
        let database = Database::new();
        let monotonic = Arc::new(AtomicI64::new(5_000));
        let file = server().folder().join(format!("clock-{}", database.name()));
        let wall = WallClock { file, ms: AtomicI64::new(1_760_000_000_000) };
        wall.add(0);
        let fleet = Some(Self::open(&database, &monotonic, NODE).await);
        wall.install(&database);
        Self { fleet, database, wall, monotonic }
    }

    fn fleet(&self) -> Arc<dyn Fleet> {
        self.fleet.clone().unwrap()
    }

    fn rooms(&self) -> Arc<dyn Rooms> {
        self.fleet.clone().unwrap()
    }

    async fn restart(&mut self) {
        let fleet = self.fleet.take().unwrap();
        assert_eq!(Arc::strong_count(&fleet), 1, "the test still uses the fleet");
        drop(fleet);
        // The monotonic clock of a new process has another origin.
        self.monotonic.store(1, Ordering::SeqCst);
        self.fleet = Some(Self::open(&self.database, &self.monotonic, NODE).await);
    }

    fn now(&self) -> UnixMs {
        self.wall.ms.load(Ordering::SeqCst)
    }

    fn advance(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        self.wall.add(ms);
        self.monotonic.fetch_add(ms, Ordering::SeqCst);
    }

    fn set_clock(&self, by_ms: i64) {
        self.wall.add(by_ms);
    }
}
