use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

use pagecast_core::CastSpec;
use pagecast_core::spec::{Source, SourceUrl};
use pagecast_testkit::ScratchDir;
use rusqlite::Connection;
use serde_json::json;
use tokio::task::JoinSet;

use super::row::{TxError, execute};
use super::writer::Tx;
use super::*;
use crate::KeyRetention;

const NOW: UnixMs = 1_760_000_000_000;
const LEASE: Duration = Duration::from_secs(60);

fn open(scratch: &ScratchDir) -> Arc<SqliteFleet> {
    SqliteFleet::open(Config {
        path: scratch.join("fleet.db"),
        vault: Vault::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap(),
        retention: Duration::from_secs(3600),
        wall_clock: Arc::new(|| NOW),
        monotonic_clock: Arc::new(|| 0),
        max_bytes: 1 << 40,
    })
    .unwrap()
}

fn new_cast(n: u8) -> NewCast {
    NewCast {
        id: CastId::new(NOW, [n, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        app: "app".to_owned(),
        api: "test".to_owned(),
        key: Some(CastKey(format!("key {n}"))),
        key_retention: KeyRetention::UntilEnded,
        request: json!({}),
        spec: CastSpec::new(Source::new(SourceUrl::parse("http://a.example/").unwrap())),
        queue_timeout: Duration::from_secs(60),
        quota: 1000,
        max_bytes: 1 << 40,
        queue_limit: 1000,
        notify: true,
    }
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
}

/// Blocks the writer until `n` writes are queued, so that they share a transaction, and returns their
/// results.
fn run_in_one_transaction(
    fleet: &Arc<SqliteFleet>,
    all: impl Fn(&SqliteFleet, u8) -> Box<dyn Future<Output = Result<(), FleetError>> + Send + '_>
    + Copy
    + Send
    + 'static,
    n: u8,
) -> Vec<Result<(), FleetError>> {
    let (resume, resumed) = sync_channel::<()>(0);
    let resumed = Mutex::new(resumed);
    block_on(async {
        let mut tasks = JoinSet::new();
        let first = Arc::clone(fleet);
        tasks.spawn(async move {
            let block = move |_: &mut Tx<'_>| {
                resumed.lock().unwrap().recv().unwrap();
                Ok(())
            };
            first.writer.write("waiting", block).await
        });
        tokio::task::yield_now().await;
        for n in 0..n {
            let fleet = Arc::clone(fleet);
            tasks.spawn(async move { Box::into_pin(all(&fleet, n)).await });
        }
        // Each task runs until it waits for its reply.
        tokio::task::yield_now().await;
        resume.send(()).unwrap();
        tasks.join_all().await
    })
}

#[test]
fn a_failed_or_panicked_write_is_rolled_back_alone() {
    let scratch = ScratchDir::new().unwrap();
    let fleet = open(&scratch);
    let put = |tx: &Tx<'_>, n: u8| {
        execute(
            tx.db,
            "INSERT INTO documents (kind, name, document) VALUES ('kind', ?, x'00')",
            [n.to_string()],
        )
        .map(drop)
    };
    let results = run_in_one_transaction(
        &fleet,
        move |fleet, n| {
            Box::new(fleet.writer.write("testing", move |tx| {
                put(tx, n)?;
                tx.notify_changes();
                match n {
                    3 => execute(tx.db, "INSERT INTO nowhere VALUES (1)", []).map(drop),
                    5 => panic!("this panic is intended"),
                    7 => put(tx, 0),
                    _ => Ok(()),
                }
            }))
        },
        10,
    );
    let failed = results.iter().filter(|result| result.is_err()).count();
    assert_eq!((results.len(), failed), (11, 3));
    let is_expected = |result: &Result<(), _>| matches!(result, Ok(()) | Err(FleetError::Storage { .. }));
    assert!(results.iter().all(is_expected), "{results:?}");
    let names = block_on(fleet.reader.read("testing", |db, _| {
        row::query_all(db, "SELECT name FROM documents ORDER BY name", [], |row| Ok(row.get::<_, String>(0)?))
    }));
    assert_eq!(names.unwrap(), ["0", "1", "2", "4", "6", "8", "9"]);
}

#[test]
fn a_lost_transaction_fails_all_its_writes_and_the_next_one_works() {
    let scratch = ScratchDir::new().unwrap();
    let fleet = open(&scratch);
    let results = run_in_one_transaction(
        &fleet,
        |fleet, n| {
            Box::new(fleet.writer.write("testing", move |tx| {
                // SQLite itself rolls back when the disk is full.
                let sql = if n == 2 { "ROLLBACK" } else { "INSERT INTO meta VALUES (random(), NULL)" };
                execute(tx.db, sql, [])?;
                if n == 2 { Err(FleetError::Unavailable.into()) } else { Ok(()) }
            }))
        },
        4,
    );
    let lost = results.iter().filter(|result| matches!(result, Err(FleetError::Storage { .. }))).count();
    let own = results.iter().filter(|result| matches!(result, Err(FleetError::Unavailable))).count();
    // The first write may have been committed before the others were queued.
    assert!(lost >= 3 && own == 1, "{results:?}");
    block_on(fleet.check_writable()).unwrap();
    let rows = block_on(fleet.reader.read("testing", |db, _| {
        row::query_one(db, "SELECT count(*) FROM meta", [], |row| Ok(row.get::<_, i64>(0)?))
    }));
    assert_eq!(rows.unwrap(), Some(3), "the key check, the clocks, and the write probe");
}

/// Number of SQLite virtual machine steps that `work` takes.
fn count_steps<T>(db: &Connection, work: impl FnOnce() -> Result<T, TxError>) -> (T, u64) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let step = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    db.progress_handler(1, Some(step)).unwrap();
    let done = work().map_err(|fail| fail.into_fleet_error("testing")).unwrap();
    db.progress_handler(0, None::<fn() -> bool>).unwrap();
    (done, count.load(Ordering::Relaxed))
}

/// Inserts `?1` casts that ended long ago, with keys that are shared.
const INSERT_HISTORY: &str = "
    WITH RECURSIVE past (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM past WHERE i < ?1)
    INSERT INTO casts (n, id, app, origin, key, held, notify, request, spec, state, queue_until_ms,
                       created_ms, started_ms, ended_ms, closed, last_seq)
    SELECT i, printf('%032x', i), 'app', 'test', 'key ' || (i % 100), 0, 1, x'', x'', 3, ?2 + i,
           ?2 + i, ?2 + i, ?2 + i, 1, 2 FROM past";

/// Filters whose lists contain no old casts.
fn list_filters() -> [(&'static str, Filter); 4] {
    let open = Filter { states: CastState::ALL[..3].to_vec(), limit: 10, ..Filter::default() };
    let of = |app: &str| Filter { app: Some(app.to_owned()), limit: 10, ..Filter::default() };
    [
        ("list", open.clone()),
        ("list of one application", Filter { states: open.states, ..of("app") }),
        ("list of another application", of("other")),
        ("list of recent casts", Filter { since_ms: Some(NOW), ..of("app") }),
    ]
}

fn delivery_attempt() -> DeliveryAttempt {
    DeliveryAttempt {
        seq: 1,
        part: 0,
        at_ms: NOW,
        took_ms: 1,
        url: String::new(),
        status: None,
        answer: None,
        error: None,
    }
}

/// Number of steps of each operation with this many ended casts.
fn measure_costs(history: i64) -> Vec<(&'static str, u64)> {
    let scratch = ScratchDir::new().unwrap();
    let fleet = open(&scratch);
    let work = move |tx: &mut Tx<'_>| {
        let (db, shared) = (tx.db, tx.shared);
        db.execute(INSERT_HISTORY, (history, NOW - 3_000_000))?;
        db.execute(
            "INSERT INTO events SELECT n, s.value, created_ms, x'' FROM casts, json_each('[1,2]') s",
            [],
        )?;
        db.execute("INSERT INTO attempts (whose, attempt) SELECT n, x'' FROM casts", [])?;
        let mut costs = Vec::new();
        let mut cost = |operation, steps| costs.push((operation, steps));
        let sealed = |n| SealedCast::new(&shared.vault, new_cast(n)).map_err(TxError::Json);
        for n in 0..3 {
            let new = sealed(n)?;
            cost("create", count_steps(db, || casts::create(tx, new)).1);
        }
        let new = sealed(0)?;
        cost("create again", count_steps(db, || casts::create(tx, new)).1);
        let worker = WorkerId("w".to_owned());
        let by = claims::Claimant { worker: worker.clone(), instance: 0, lease: LEASE };
        let first = db.query_row("SELECT max(n) - 2 FROM casts", [], |row| row.get(0))?;
        cost("claim expired", count_steps(db, || claims::expired_leases(db, shared, &worker, &[])).1);
        cost("queue", count_steps(db, || claims::queue_order(db, shared, Some(&[]))).1);
        let (mut claims, steps) = count_steps(db, || claims::claim_queued(tx, &by, &[first]));
        cost("claim", steps);
        let Some(Claim { ticket, cast }) = claims.pop() else { panic!("the cast is claimed") };
        cost("send command", count_steps(db, || casts::send_command(tx, &cast.id, &Command::Snapshot)).1);
        let tickets = [ticket.clone()];
        cost("renew", count_steps(db, || claims::renew_all(tx, &tickets, LEASE)).1);
        cost("report", count_steps(db, || history::report_event(tx, &ticket, &EventKind::Live)).1);
        cost("get", count_steps(db, || casts::get(db, shared, &cast.id)).1);
        cost("find", count_steps(db, || casts::find_by_key(db, shared, &CastKey("key 0".to_owned()))).1);
        cost(
            "find unknown key",
            count_steps(db, || casts::find_by_key(db, shared, &CastKey("unknown".to_owned()))).1,
        );
        cost("events", count_steps(db, || history::events(db, shared, &cast.id, 0, 100)).1);
        cost("count", count_steps(db, || casts::count(db, None)).1);
        for (name, filter) in list_filters() {
            cost(name, count_steps(db, || casts::list(db, shared, &filter)).1);
        }
        cost("due", count_steps(db, || outbox::due_entries(db, shared, 10, &HashSet::new())).1);
        cost("next due", count_steps(db, || outbox::next_due_in(db, shared)).1);
        let attempt = delivery_attempt();
        cost(
            "settle",
            count_steps(db, || outbox::settle(tx, &cast.id, 1, DeliveryOutcome::Delivered, Some(&attempt))).1,
        );
        cost("redeliver", count_steps(db, || outbox::redeliver(tx, &cast.id, None)).1);
        cost("attempts", count_steps(db, || outbox::attempts(db, shared, &cast.id)).1);
        cost("backlog", count_steps(db, || outbox::backlog(db)).1);
        cost("register worker", count_steps(db, || claims::register_worker(tx, &worker, 0)).1);
        cost("fail overdue", count_steps(db, || sweep::fail_overdue(tx)).1);
        cost("delete expired", count_steps(db, || sweep::delete_expired(tx)).1);
        cost("shrink", count_steps(db, || sweep::shrink(tx)).1);
        db.execute("UPDATE casts SET ended_ms = 0 WHERE n % ?1 = 0", [history / 10])?;
        let (more, steps) = count_steps(db, || sweep::delete_expired(tx));
        assert!(
            !more
                && db.query_row("SELECT count(*) FROM casts WHERE ended_ms = 0", [], |row| row
                    .get::<_, i64>(0))?
                    == 0
        );
        cost("delete ten", steps);
        Ok(costs)
    };
    block_on(fleet.writer.write("testing", work)).unwrap()
}

#[test]
fn no_operation_takes_longer_because_of_a_long_history() {
    let (short, long) = (measure_costs(200), measure_costs(20_000));
    for ((operation, short), (_, long)) in short.into_iter().zip(long) {
        assert!(short > 0 && long <= short + short / 4 + 20, "{operation}: {short} steps, then {long}");
    }
}

/// Number of steps that the order of the queue takes with this many casts for other nodes, and its length.
fn measure_queue(casts_for_others: i64) -> (u64, usize) {
    let scratch = ScratchDir::new().unwrap();
    let fleet = open(&scratch);
    let work = move |tx: &mut Tx<'_>| {
        let sql = "
            WITH RECURSIVE others (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM others WHERE i < ?1)
            INSERT INTO casts (id, app, origin, held, notify, request, spec, queue_until_ms, queued_ms,
                               created_ms, labels)
            SELECT printf('%032x', i), 'app ' || (i % 2), 'test', 0, 0, x'', x'', ?2, 0, 0,
                   iif(i % 3 = 0, 'gpu', 'gpu,zone-a') FROM others";
        tx.db.execute(sql, (casts_for_others, i64::MAX))?;
        tx.db.execute("UPDATE casts SET labels = '' WHERE n IN (1, 2, 7)", [])?;
        let (queue, steps) =
            count_steps(tx.db, || claims::queue_order(tx.db, tx.shared, Some(&["zone-b".to_owned()])));
        Ok((steps, queue.len()))
    };
    block_on(fleet.writer.write("testing", work)).unwrap()
}

#[test]
fn casts_for_other_nodes_cost_nothing() {
    let ((few, found), (many, also_found)) = (measure_queue(12), measure_queue(5000));
    assert_eq!((found, also_found), (3, 3));
    assert!(few > 0 && many <= few + few / 4, "{few} steps, then {many}");
}
