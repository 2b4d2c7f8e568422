//! Memory use of operations on many casts with large injected data.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unsafe_code, reason = "counts allocations")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pagecast_core::CastSpec;
use pagecast_core::spec::{Source, SourceUrl};
use pagecast_fleet::sqlite::{Config, SqliteFleet, monotonic_clock};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{
    CastId, Casts, CreateOutcome, Filter, KeyRetention, Leases, NewCast, NodeInfo, Outbox, UnixMs, WorkerId,
};
use pagecast_testkit::ScratchDir;
use serde_json::json;

/// Number of casts, and the size of the style sheet of each.
const CASTS: u64 = 200;
const CSS_BYTES: usize = 1 << 20;
/// Limit of the peak: reading all style sheets at once would take more than 200 MiB.
const MAX_PEAK_BYTES: usize = 16 << 20;

struct CountingAllocator;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls are forwarded to the system's allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller fulfils the contract of the same method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller fulfils the contract of the same method.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn now() -> UnixMs {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn new_cast(n: u64) -> NewCast {
    let n = n.to_be_bytes();
    let mut spec = CastSpec::new(Source::new(SourceUrl::parse("http://a.example/").unwrap()));
    spec.source.context.css = Some("a".repeat(CSS_BYTES));
    NewCast {
        id: CastId::new(now(), [0, 0, n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]]),
        app: "app".to_owned(),
        api: "test".to_owned(),
        key: None,
        key_retention: KeyRetention::UntilEnded,
        request: json!({}),
        spec,
        queue_timeout: Duration::from_secs(3600),
        quota: 1000,
        max_bytes: 1 << 40,
        queue_limit: 1000,
        notify: true,
    }
}

/// Peak of the additional memory in use while `work` ran, in bytes.
async fn measure_peak<T>(work: impl Future<Output = T>) -> (T, usize) {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = work.await;
    (done, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

#[test]
fn injected_data_of_many_casts_is_not_read_at_once() {
    let scratch = ScratchDir::new().unwrap();
    let vault = Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let fleet = SqliteFleet::open(Config {
        path: scratch.join("fleet.db"),
        vault,
        retention: Duration::from_secs(3600),
        wall_clock: Arc::new(now),
        monotonic_clock: monotonic_clock(),
        max_bytes: 1 << 40,
    })
    .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for n in 0..CASTS {
            assert!(matches!(fleet.create(new_cast(n)).await.unwrap(), CreateOutcome::New(_)));
        }
        let all = Filter { limit: 1000, ..Filter::default() };
        let (page, list) = measure_peak(fleet.list(&all)).await;
        assert_eq!(
            (page.unwrap().casts.len() as u64, list < MAX_PEAK_BYTES),
            (CASTS, true),
            "a list took {list} bytes"
        );
        let skip = HashSet::new();
        let (entries, due) = measure_peak(fleet.due_entries(4096, &skip)).await;
        assert_eq!(
            (entries.unwrap().len() as u64, due < MAX_PEAK_BYTES),
            (CASTS, true),
            "the outbox took {due} bytes"
        );
        let worker = WorkerId("w".to_owned());
        let lease = Duration::from_secs(60);
        let (claim, search) =
            measure_peak(fleet.claim(&worker, &NodeInfo::default(), lease, &|_| false)).await;
        assert!(
            claim.unwrap().is_none() && search < MAX_PEAK_BYTES,
            "searching for a cast that fits took {search} bytes"
        );
        let (claim, one) = measure_peak(fleet.claim(&worker, &NodeInfo::default(), lease, &|_| true)).await;
        let claim = claim.unwrap().unwrap();
        assert_eq!(claim.cast.spec.source.context.css.unwrap().len(), CSS_BYTES);
        assert!(one < MAX_PEAK_BYTES, "claiming a cast took {one} bytes");
        let (_, get) = measure_peak(fleet.get(&claim.ticket.cast)).await;
        assert!(get < CSS_BYTES, "reading a cast took {get} bytes");
    });
}
