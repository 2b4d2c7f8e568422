//! Fleets to be tested, and casts to put into them.

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
    Cast, CastId, CastKey, Claim, CreateOutcome, Error, Event, EventKind, Fleet, KeyRetention, NewCast,
    OutboxEntry, UnixMs, WorkerId,
};
use pagecast_testkit::ScratchDir;
use serde_json::json;

/// A kind of fleet, with a place where it keeps things.
pub(crate) trait Backend: Sized {
    /// A lease that is not over by chance.
    const LEASE: Duration;
    /// How long casts wait to be begun.
    const QUEUE_TIMEOUT: Duration;
    /// How long casts that ended are remembered.
    const RETENTION: Duration;

    /// A fleet that remembers nothing.
    fn new() -> Self;
    /// The fleet.
    fn fleet(&self) -> Arc<dyn Fleet>;
    /// The same again, as after its process ended and another one began.
    fn restart(&mut self);
    /// The time.
    fn now(&self) -> UnixMs;
    /// Lets so much time pass: really, or so that the fleet believes it.
    fn advance(&self, time: Duration);
    /// Sets the system clock, by so many milliseconds: no time passes.
    fn set_clock(&self, by_ms: i64);
}

/// [`SqliteFleet`] in a folder of its own, with clocks that stand until they are moved.
#[derive(Debug)]
pub(crate) struct SqliteBackend {
    fleet: Option<Arc<SqliteFleet>>,
    clock: Arc<AtomicI64>,
    /// Moves with the other one, and nobody sets it.
    monotonic: Arc<AtomicI64>,
    scratch: ScratchDir,
}

impl SqliteBackend {
    fn open(path: PathBuf, clock: &Arc<AtomicI64>, steady: &Arc<AtomicI64>) -> Arc<SqliteFleet> {
        let vault = Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let reads = |clock: &Arc<AtomicI64>| {
            let clock = Arc::clone(clock);
            Arc::new(move || clock.load(Ordering::SeqCst))
        };
        let (clock, steady) = (reads(clock), reads(steady));
        let history = Self::RETENTION;
        SqliteFleet::open(Config {
            path,
            vault,
            retention: history,
            wall_clock: clock,
            monotonic_clock: steady,
            max_bytes: 1 << 40,
        })
        .unwrap()
    }
}

impl Backend for SqliteBackend {
    const LEASE: Duration = Duration::from_secs(30);
    const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);
    const RETENTION: Duration = Duration::from_secs(72 * 3600);

    fn new() -> Self {
        let scratch = ScratchDir::new().unwrap();
        let clock = Arc::new(AtomicI64::new(1_760_000_000_000));
        let steady = Arc::new(AtomicI64::new(5_000));
        let fleet = Some(Self::open(scratch.join("fleet.db"), &clock, &steady));
        Self { fleet, clock, monotonic: steady, scratch }
    }

    fn fleet(&self) -> Arc<dyn Fleet> {
        self.fleet.clone().unwrap()
    }

    fn restart(&mut self) {
        let fleet = self.fleet.take().unwrap();
        assert_eq!(Arc::strong_count(&fleet), 1, "nobody else uses it");
        drop(fleet);
        // Another process's clock has another origin.
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

/// A little time, so that what comes next is later.
pub(crate) const TIME_STEP: Duration = Duration::from_millis(2);

static NEXT_CAST_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A cast of the application `app`, without a key, of this moment.
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

/// The same with a key.
pub(crate) fn new_cast_with_key(now: UnixMs, key: &str, hold: KeyRetention) -> NewCast {
    NewCast { key: Some(CastKey(key.to_owned())), key_retention: hold, ..new_cast(now) }
}

/// One of many servers that take a stream.
pub(crate) fn push(n: usize) -> Push {
    let url = PushUrl::parse(&format!("rtmp://live.example.com/app/stream{n}")).unwrap();
    Push { url, reconnect_timeout: None }
}

/// Puts a cast in, as a new one.
pub(crate) async fn create_cast(fleet: &dyn Fleet, new: NewCast) -> CastId {
    match fleet.create(new).await.unwrap() {
        CreateOutcome::New(cast) => cast.id,
        other => panic!("a new cast is expected, not {other:?}"),
    }
}

/// Takes the next cast, whatever it is.
pub(crate) async fn claim_next<B: Backend>(fleet: &dyn Fleet, worker: &str) -> Option<Claim> {
    fleet.claim(&WorkerId(worker.to_owned()), B::LEASE, &|_| true).await.unwrap()
}

/// A cast that somebody has begun.
pub(crate) async fn create_and_claim<B: Backend>(fleet: &dyn Fleet, worker: &str, new: NewCast) -> Claim {
    let id = create_cast(fleet, new).await;
    let claim = claim_next::<B>(fleet, worker).await.unwrap();
    assert_eq!(claim.cast.id, id);
    claim
}

/// A cast that is there.
pub(crate) async fn get_cast(fleet: &dyn Fleet, id: &CastId) -> Cast {
    fleet.get(id).await.unwrap().unwrap()
}

/// The end of a cast.
pub(crate) fn ended_event() -> EventKind {
    EventKind::Ended {
        reason: EndReason::PageEnded,
        message: Some("the page said so".to_owned()),
        cause: None,
    }
}

/// What is due.
pub(crate) async fn due_entries(fleet: &dyn Fleet, limit: usize) -> Vec<OutboxEntry> {
    fleet.due_entries(limit, &HashSet::new()).await.unwrap()
}

/// All that happened to a cast.
pub(crate) async fn events(fleet: &dyn Fleet, id: &CastId) -> Vec<Event> {
    fleet.events(id, 0, 1000).await.unwrap()
}

/// The words of all that happened to a cast.
pub(crate) async fn event_names(fleet: &dyn Fleet, id: &CastId) -> Vec<String> {
    let events = events(fleet, id).await;
    assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64), "{events:?}");
    events
        .iter()
        .map(|event| serde_json::to_value(event).unwrap()["event"].as_str().unwrap().to_owned())
        .collect()
}

/// Whether somebody else owns the cast.
pub(crate) fn is_fenced<T: std::fmt::Debug>(result: &Result<T, Error>, id: &CastId) -> bool {
    matches!(result, Err(Error::Fenced(of)) if of == id)
}

/// Runs a test as the service would: with time.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
}
