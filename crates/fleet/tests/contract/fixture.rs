//! Backends under test, and test casts.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::{Push, PushUrl, Source, SourceUrl};
use pagecast_fleet::sqlite::{Config, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{
    Cast, CastId, CastKey, Claim, Command, CreateOutcome, Error, Event, EventKind, Fleet, KeyRetention,
    NewCast, NodeInfo, OutboxEntry, Renewal, Rooms, Ticket, UnixMs, WorkerId,
};
use pagecast_testkit::ScratchDir;
use serde_json::json;

/// A backend under test, with its storage and clocks.
pub(crate) trait Backend: Sized {
    /// A lease that does not expire by accident.
    const LEASE: Duration;
    /// Queue timeout of test casts.
    const QUEUE_TIMEOUT: Duration;
    /// Retention of ended casts.
    const RETENTION: Duration;
    /// Number of random sequences of operations that are compared with the model.
    const MODEL_CASES: u32;

    /// Creates an empty fleet.
    async fn new() -> Self;
    /// The fleet under test.
    fn fleet(&self) -> Arc<dyn Fleet>;
    /// Its table of rooms.
    fn rooms(&self) -> Arc<dyn Rooms>;
    /// Closes and reopens the fleet, as a new process would.
    async fn restart(&mut self);
    /// The system time.
    fn now(&self) -> UnixMs;
    /// Lets time pass, in reality or by the fleet's clocks.
    fn advance(&self, time: Duration);
    /// Changes the system clock by this many milliseconds without letting time pass.
    fn set_clock(&self, by_ms: i64);
}

/// [`SqliteFleet`] in its own folder, with clocks that only tests advance.
#[derive(Debug)]
pub(crate) struct SqliteBackend {
    fleet: Option<Arc<SqliteFleet>>,
    clock: Arc<AtomicI64>,
    /// Advances with the system clock, but ignores changes of it.
    monotonic: Arc<AtomicI64>,
    scratch: ScratchDir,
}

impl SqliteBackend {
    fn open(path: PathBuf, clock: &Arc<AtomicI64>, monotonic: &Arc<AtomicI64>) -> Arc<SqliteFleet> {
        let vault = Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let reads = |clock: &Arc<AtomicI64>| {
            let clock = Arc::clone(clock);
            Arc::new(move || clock.load(Ordering::SeqCst))
        };
        let (wall_clock, monotonic_clock) = (reads(clock), reads(monotonic));
        SqliteFleet::open(Config {
            path,
            vault,
            retention: Self::RETENTION,
            wall_clock,
            monotonic_clock,
            max_bytes: 1 << 40,
        })
        .unwrap()
    }
}

impl Backend for SqliteBackend {
    const LEASE: Duration = Duration::from_secs(30);
    const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);
    const RETENTION: Duration = Duration::from_secs(72 * 3600);
    const MODEL_CASES: u32 = 48;

    async fn new() -> Self {
        let scratch = ScratchDir::new().unwrap();
        let clock = Arc::new(AtomicI64::new(1_760_000_000_000));
        let monotonic = Arc::new(AtomicI64::new(5_000));
        let fleet = Some(Self::open(scratch.join("fleet.db"), &clock, &monotonic));
        Self { fleet, clock, monotonic, scratch }
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
        self.fleet = Some(Self::open(self.scratch.join("fleet.db"), &self.clock, &self.monotonic));
    }

    fn now(&self) -> UnixMs {
        self.clock.load(Ordering::SeqCst)
    }

    fn advance(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        self.clock.fetch_add(ms, Ordering::SeqCst);
        self.monotonic.fetch_add(ms, Ordering::SeqCst);
    }

    fn set_clock(&self, by_ms: i64) {
        self.clock.fetch_add(by_ms, Ordering::SeqCst);
    }
}

/// A short time, so that the next event has a later time.
pub(crate) const TIME_STEP: Duration = Duration::from_millis(2);

static NEXT_CAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A cast of the application `app` without a key, created now.
pub(crate) fn new_cast(now: UnixMs) -> NewCast {
    let url = SourceUrl::parse("https://example.com/page?token=1").unwrap();
    let n = NEXT_CAST_NUMBER.fetch_add(1, Ordering::SeqCst).to_be_bytes();
    NewCast {
        id: CastId::new(now, [0, 0, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]]),
        app: "app".to_owned(),
        api: "test".to_owned(),
        key: None,
        key_retention: KeyRetention::UntilEnded,
        request: json!({ "Url": "https://example.com/page" }),
        spec: CastSpec::new(Source::new(url)),
        queue_timeout: Duration::from_secs(60),
        quota: 1_000_000,
        max_bytes: 1 << 40,
        queue_limit: 1_000_000,
        notify: true,
    }
}

/// A cast like [`new_cast`], with a key.
pub(crate) fn new_cast_with_key(now: UnixMs, key: &str, retention: KeyRetention) -> NewCast {
    NewCast { key: Some(CastKey(key.to_owned())), key_retention: retention, ..new_cast(now) }
}

/// One of many push targets.
pub(crate) fn push(n: usize) -> Push {
    let url = PushUrl::parse(&format!("rtmp://live.example.com/app/stream{n}")).unwrap();
    Push { url, reconnect_timeout: None }
}

/// Creates a cast, which must be new.
pub(crate) async fn create_cast(fleet: &dyn Fleet, new: NewCast) -> CastId {
    match fleet.create(new).await.unwrap() {
        CreateOutcome::New(cast) => cast.id,
        other => panic!("a new cast is expected, not {other:?}"),
    }
}

/// Claims the next cast; any cast fits.
pub(crate) async fn claim_next<B: Backend>(fleet: &dyn Fleet, worker: &str) -> Option<Claim> {
    fleet.claim(&WorkerId(worker.to_owned()), &NodeInfo::default(), B::LEASE, &|_| true).await.unwrap()
}

/// Renews the lease of a ticket, and returns the pending commands of the cast.
pub(crate) async fn renew<B: Backend>(
    fleet: &dyn Fleet,
    ticket: &Ticket,
) -> Result<Vec<(u64, Command)>, Error> {
    match fleet.renew_all(std::slice::from_ref(ticket), B::LEASE).await?.pop() {
        Some(Renewal::Renewed { commands }) => Ok(commands),
        Some(Renewal::Lost) | None => Err(Error::Fenced(ticket.cast.clone())),
    }
}

/// Creates and claims a cast.
pub(crate) async fn create_and_claim<B: Backend>(fleet: &dyn Fleet, worker: &str, new: NewCast) -> Claim {
    let id = create_cast(fleet, new).await;
    let claim = claim_next::<B>(fleet, worker).await.unwrap();
    assert_eq!(claim.cast.id, id);
    claim
}

/// Reads a cast, which must exist.
pub(crate) async fn get_cast(fleet: &dyn Fleet, id: &CastId) -> Cast {
    fleet.get(id).await.unwrap().unwrap()
}

/// An event that ends a cast.
pub(crate) fn ended_event() -> EventKind {
    EventKind::Ended {
        reason: EndReason::PageEnded,
        message: Some("the page ended the cast".to_owned()),
        cause: None,
    }
}

/// Entries that are due.
pub(crate) async fn due_entries(fleet: &dyn Fleet, limit: usize) -> Vec<OutboxEntry> {
    fleet.due_entries(limit, &HashSet::new()).await.unwrap()
}

/// All events of a cast.
pub(crate) async fn events(fleet: &dyn Fleet, id: &CastId) -> Vec<Event> {
    fleet.events(id, 0, 1000).await.unwrap()
}

/// Names of all events of a cast.
pub(crate) async fn event_names(fleet: &dyn Fleet, id: &CastId) -> Vec<String> {
    let events = events(fleet, id).await;
    assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64), "{events:?}");
    events
        .iter()
        .map(|event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned())
        .collect()
}

/// Whether the result is [`Error::Fenced`] for this cast.
pub(crate) fn is_fenced<T: std::fmt::Debug>(result: &Result<T, Error>, id: &CastId) -> bool {
    matches!(result, Err(Error::Fenced(of)) if of == id)
}

/// Runs a test in an async runtime with timers and sockets.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}
