//! Fleets to be tested, and casts to put into them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::{Source, SourceUrl};
use pagecast_fleet::sqlite::{Config, Sqlite};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{CastId, Claim, Created, Fleet, Happening, Hold, Key, NewCast, UnixMs, WorkerId};
use pagecast_testkit::Scratch;
use serde_json::json;

/// When the tests begin: some day in 2025.
pub(crate) const BEGIN: UnixMs = 1_760_000_000_000;
/// A lease that is over when a test says so.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How long casts are remembered.
pub(crate) const HISTORY: Duration = Duration::from_secs(72 * 3600);

/// A clock that stands until it is moved.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(BEGIN)))
    }

    pub(crate) fn now(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

/// A kind of fleet, with a place where it keeps things.
pub(crate) trait Backend {
    /// A fleet that remembers nothing, with this clock.
    fn make(clock: &Clock) -> Self;
    /// The fleet.
    fn fleet(&self) -> &dyn Fleet;
    /// The same, for those who share it.
    fn shared(&self) -> Arc<dyn Fleet>;
    /// The same again, as after its process ended and another one began.
    fn restart(&mut self);
}

/// [`Sqlite`] in a folder of its own.
#[derive(Debug)]
pub(crate) struct Embedded {
    fleet: Option<Arc<Sqlite>>,
    clock: Clock,
    scratch: Scratch,
}

/// Opens the fleet in a file.
pub(crate) fn open(path: PathBuf, clock: &Clock) -> Arc<Sqlite> {
    let clock = clock.clone();
    let vault = Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    Sqlite::open(Config { path, vault, history: HISTORY, clock: Arc::new(move || clock.now()) }).unwrap()
}

impl Backend for Embedded {
    fn make(clock: &Clock) -> Self {
        let scratch = Scratch::new().unwrap();
        Self { fleet: Some(open(scratch.join("fleet.db"), clock)), clock: clock.clone(), scratch }
    }

    fn fleet(&self) -> &dyn Fleet {
        self.fleet.as_deref().unwrap()
    }

    fn shared(&self) -> Arc<dyn Fleet> {
        self.fleet.clone().unwrap()
    }

    fn restart(&mut self) {
        let fleet = self.fleet.take().unwrap();
        assert_eq!(Arc::strong_count(&fleet), 1, "nobody else uses it");
        drop(fleet);
        self.fleet = Some(open(self.scratch.join("fleet.db"), &self.clock));
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// An id that no other test has, of this moment.
pub(crate) fn id(now: UnixMs) -> CastId {
    let n = NEXT.fetch_add(1, Ordering::SeqCst).to_be_bytes();
    CastId::new(now, [0, 0, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]])
}

/// A cast of the application `app`, without a key.
pub(crate) fn wish(now: UnixMs) -> NewCast {
    let url = SourceUrl::parse("https://example.com/page?token=planted-in-spec").unwrap();
    NewCast {
        id: id(now),
        app: "app".to_owned(),
        origin: "test".to_owned(),
        key: None,
        hold: Hold::WhileLive,
        request: json!({ "Url": "planted-in-request" }),
        spec: CastSpec::new(Source::new(url)),
        queue_until_ms: now + 60_000,
        quota: 1_000_000,
        queue_limit: 1_000_000,
        notify: true,
    }
}

/// The same with a key.
pub(crate) fn keyed(now: UnixMs, key: &str, hold: Hold) -> NewCast {
    NewCast { key: Some(Key(key.to_owned())), hold, ..wish(now) }
}

/// Puts a cast in, as a new one.
pub(crate) async fn put(fleet: &dyn Fleet, new: NewCast) -> CastId {
    match fleet.create(new).await.unwrap() {
        Created::New(cast) => cast.id,
        other => panic!("a new cast is expected, not {other:?}"),
    }
}

/// Takes the next cast, whatever it is.
pub(crate) async fn take(fleet: &dyn Fleet, worker: &str) -> Option<Claim> {
    fleet.claim(&WorkerId(worker.to_owned()), LEASE, &|_| true).await.unwrap()
}

/// The end of a cast.
pub(crate) fn over() -> Happening {
    Happening::Ended { reason: EndReason::PageEnded, message: Some("planted-in-message".to_owned()) }
}

/// Runs a test as the service would: with time, and a thread.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}
