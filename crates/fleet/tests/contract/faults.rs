//! PostgreSQL fails, and several nodes share it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pagecast_fleet::postgres::{Config, Error as OpenError, PostgresFleet};
use pagecast_fleet::*;
use pagecast_testkit::{Cut, PgBouncer, Postgres, PostgresProxy};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinSet;

use super::fixture::*;
use super::postgres::{Database, PostgresBackend, config, open, server, tls};

const LEASE: Duration = Duration::from_secs(60);

fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn worker() -> WorkerId {
    WorkerId("w".to_owned())
}

/// Asserts that a cast has these events, each once, and that those behind `delivered` are in the outbox.
async fn assert_history(fleet: &dyn Fleet, id: &CastId, expected: &[&str], context: &str) {
    assert_eq!(event_names(fleet, id).await, expected, "{context}");
}

/// The life of a cast, with a confirmation of each step; `disturb` runs before each operation.
async fn live_a_life(fleet: &dyn Fleet, disturb: impl Fn(), context: &str) {
    let key = format!("key of {context}");
    let new = new_cast_with_key(now(), &key, KeyRetention::UntilEnded);
    let id = new.id.clone();
    disturb();
    let made = fleet.create(new).await.unwrap();
    assert!(matches!(&made, CreateOutcome::New(cast) if cast.id == id), "{context}: {made:?}");
    let other = new_cast_with_key(now(), &key, KeyRetention::UntilEnded);
    disturb();
    let again = fleet.create(other).await.unwrap();
    assert!(matches!(&again, CreateOutcome::Exists(cast) if cast.id == id), "{context}: {again:?}");
    disturb();
    let claim = fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap();
    assert_eq!((&claim.cast.id, claim.ticket.epoch), (&id, 1), "{context}");
    disturb();
    fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
    disturb();
    fleet.send_command(&id, Command::Snapshot).await.unwrap();
    disturb();
    let renewals = fleet.renew_all(std::slice::from_ref(&claim.ticket), LEASE).await.unwrap();
    let [Renewal::Renewed { commands }] = &renewals[..] else { panic!("{context}: {renewals:?}") };
    assert_eq!(commands.len(), 1, "{context}: {commands:?}");
    disturb();
    fleet.ack_commands(&claim.ticket, commands[0].0).await.unwrap();
    disturb();
    fleet.report_event(&claim.ticket, EventKind::Restarted).await.unwrap();
    for seq in 1..=2 {
        disturb();
        let due = due_entries(fleet, 10).await;
        let due: Vec<_> = due.iter().map(|entry| (&entry.cast.id, entry.event.seq, entry.attempts)).collect();
        assert_eq!(due, [(&id, seq, 0)], "{context}");
        disturb();
        fleet.settle(&id, seq, DeliveryOutcome::Delivered, None).await.unwrap();
    }
    disturb();
    fleet.settle(&id, 3, DeliveryOutcome::RetryAfter(Duration::from_secs(300)), None).await.unwrap();
    disturb();
    fleet.close(&claim.ticket, Some(ended_event()), None).await.unwrap();
    disturb();
    let waiting = fleet.redeliver(&id, None).await.unwrap();
    assert_eq!((waiting.requeued, waiting.pending), (0, 3), "{context}");
    let first = due_entries(fleet, 10).await.remove(0);
    assert_eq!((first.event.seq, first.attempts), (3, 1), "{context}: settled once");
    for seq in 3..=5 {
        fleet.settle(&id, seq, DeliveryOutcome::Delivered, None).await.unwrap();
    }
    assert_history(fleet, &id, &["queued", "started", "live", "restarted", "ended"], context).await;
    let cast = get_cast(fleet, &id).await;
    assert_eq!((cast.state, cast.closed, cast.epoch), (CastState::Ended, true, 1), "{context}");
    assert_eq!(fleet.backlog().await.unwrap(), Backlog::default(), "{context}");
}

#[test]
fn operations_survive_cut_connections_and_happen_once() {
    let database = Database::new();
    let proxy = PostgresProxy::start(server().socket()).unwrap();
    block_on(async {
        let fleet = open(proxy.url(database.name()), "node").await.unwrap();
        let commits = [Cut::BeforeCommit, Cut::CommitSent, Cut::AfterCommit];
        for (cut, skips) in [(Cut::BeforeStatement, 6), (Cut::AfterStatement, 6)]
            .into_iter()
            .chain(commits.map(|cut| (cut, 1)))
        {
            for skip in 0..skips {
                let before = proxy.cuts();
                live_a_life(&*fleet, || proxy.cut(cut, skip), &format!("{cut:?} {skip}")).await;
                // Few operations have six statements: two at least.
                assert!(proxy.cuts() >= before + 2, "{cut:?} {skip}: {} cuts", proxy.cuts() - before);
            }
        }
    });
}

#[test]
fn casts_are_claimed_once_whenever_the_connection_is_cut() {
    let database = Database::new();
    let proxy = PostgresProxy::start(server().socket()).unwrap();
    block_on(async {
        let fleet = open(proxy.url(database.name()), "node").await.unwrap();
        let commits = [Cut::BeforeCommit, Cut::CommitSent, Cut::AfterCommit];
        let statements = [Cut::BeforeStatement, Cut::AfterStatement];
        let statements = statements.into_iter().flat_map(|cut| (0..8).map(move |skip| (cut, skip)));
        for (cut, skip) in statements.chain(commits.map(|cut| (cut, 0))) {
            let mut made = Vec::new();
            for _ in 0..4 {
                made.push(create_cast(&*fleet, new_cast(now())).await);
            }
            let cuts = proxy.cuts();
            proxy.cut(cut, skip);
            let node = NodeInfo::default();
            let claims = fleet.claim_queued(&worker(), &node, LEASE, 4, &|_, _| true).await.unwrap();
            assert!(proxy.cuts() > cuts || skip > 4, "{cut:?} {skip}");
            let claimed: Vec<_> = claims.iter().map(|claim| claim.cast.id.clone()).collect();
            assert_eq!(claimed, made, "{cut:?} {skip}");
            for Claim { ticket, .. } in claims {
                assert_eq!(ticket.epoch, 1, "{cut:?} {skip}");
                assert_history(&*fleet, &ticket.cast, &["queued", "started"], "claimed").await;
                fleet.close(&ticket, None, None).await.unwrap();
            }
        }
    });
}

#[test]
fn an_operation_waits_for_a_database_that_is_away() {
    let database = Database::new();
    let proxy = PostgresProxy::start(server().socket()).unwrap();
    block_on(async {
        let fleet = open(proxy.url(database.name()), "node").await.unwrap();
        proxy.set_down(true);
        let came_back = AtomicBool::new(false);
        let create = async {
            let id = create_cast(&*fleet, new_cast(now())).await;
            assert!(came_back.load(Ordering::SeqCst));
            id
        };
        let come_back = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            came_back.store(true, Ordering::SeqCst);
            proxy.set_down(false);
        };
        let (id, ()) = tokio::join!(create, come_back);
        assert_history(&*fleet, &id, &["queued"], "after the outage").await;
        assert_eq!(fleet.count(None).await.unwrap()[0], (CastState::Queued, 1));
    });
}

/// Confirmed events of a cast.
#[derive(Debug)]
struct Confirmed {
    id: CastId,
    events: Vec<&'static str>,
    /// Whether an operation failed after all its attempts: then it may have happened or not.
    is_uncertain: bool,
}

/// Creates and runs casts until told to stop, and returns what was confirmed.
async fn run_casts(fleet: Arc<PostgresFleet>, name: String, stop: Arc<AtomicBool>) -> Vec<Confirmed> {
    let mut all = Vec::new();
    let worker = WorkerId(name.clone());
    while !stop.load(Ordering::SeqCst) {
        let new = NewCast { app: name.clone(), ..new_cast(now()) };
        let id = new.id.clone();
        // A cast whose creation failed after all attempts may exist or not.
        let Ok(CreateOutcome::New(_)) = fleet.create(new).await else { continue };
        let mut confirmed = Confirmed { id: id.clone(), events: vec!["queued"], is_uncertain: false };
        let own = |cast: &QueuedCast| cast.id == id;
        let lease = Duration::from_secs(600);
        match fleet.claim(&worker, &NodeInfo::default(), lease, &own).await {
            Ok(claim) => {
                let claim = claim.unwrap();
                assert_eq!(claim.cast.id, confirmed.id);
                confirmed.events.push("started");
                for (event, name) in [(EventKind::Live, "live"), (EventKind::Restarted, "restarted")] {
                    fleet.report_event(&claim.ticket, event).await.unwrap();
                    confirmed.events.push(name);
                }
                fleet.settle(&confirmed.id, 1, DeliveryOutcome::Delivered, None).await.unwrap();
                fleet.close(&claim.ticket, Some(ended_event()), None).await.unwrap();
                confirmed.events.push("ended");
            }
            Err(_) => confirmed.is_uncertain = true,
        }
        all.push(confirmed);
    }
    all
}

/// Asserts that all that was confirmed is there, once and in order.
async fn assert_kept(fleet: &dyn Fleet, confirmed: &[Confirmed]) {
    for Confirmed { id, events, is_uncertain } in confirmed {
        let names = event_names(fleet, id).await;
        assert_eq!(&names[..events.len()], events, "{id}");
        assert!(names.len() <= events.len() + usize::from(*is_uncertain), "{id}: {names:?}");
        let due = fleet.redeliver(id, None).await.unwrap();
        // All but the first event are still to be delivered.
        let delivered = usize::from(events.len() > 1);
        assert_eq!(due.pending as usize, names.len() - delivered, "{id}: {names:?}");
    }
}

/// Runs casts on two nodes while `disturb` runs.
async fn run_and_disturb(
    urls: [String; 2],
    disturb: impl FnOnce() + Send + 'static,
) -> (Arc<PostgresFleet>, Vec<Confirmed>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut tasks, mut nodes) = (JoinSet::new(), Vec::new());
    for (n, url) in urls.into_iter().enumerate() {
        let fleet = open(url, &format!("node {n}")).await.unwrap();
        for task in 0..2 {
            tasks.spawn(run_casts(Arc::clone(&fleet), format!("w{n}-{task}"), Arc::clone(&stop)));
        }
        nodes.push(fleet);
    }
    tokio::task::spawn_blocking(disturb).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    let confirmed = tasks.join_all().await.into_iter().flatten().collect();
    (nodes.remove(0), confirmed)
}

#[test]
fn nothing_confirmed_is_lost_or_doubled_when_backends_are_terminated() {
    let database = Database::new();
    let name = database.name().to_owned();
    block_on(async {
        let terminate = move || {
            for _ in 0..40 {
                let sql = format!(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
                );
                server().sql("postgres", &sql).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let (fleet, confirmed) = run_and_disturb([database.url(), database.url()], terminate).await;
        assert!(confirmed.len() > 8, "{}", confirmed.len());
        assert_kept(&*fleet, &confirmed).await;
    });
}

#[test]
fn nothing_confirmed_is_lost_or_doubled_when_the_server_is_killed() {
    let postgres = Arc::new(Mutex::new(Postgres::start().unwrap()));
    let url = postgres.lock().unwrap().url("postgres");
    block_on(async {
        let server = Arc::clone(&postgres);
        let kill = move || {
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(700));
                let mut server = server.lock().unwrap();
                server.kill();
                server.restart().unwrap();
            }
            std::thread::sleep(Duration::from_millis(300));
        };
        let (fleet, confirmed) = run_and_disturb([url.clone(), url], kill).await;
        assert!(confirmed.len() > 8, "{}", confirmed.len());
        assert_kept(&*fleet, &confirmed).await;
    });
}

#[test]
fn one_node_at_a_time_delivers_the_events_of_a_cast() {
    block_on(async {
        let backend = PostgresBackend::new().await;
        let first = backend.fleet();
        let id = create_cast(&*first, new_cast(backend.now())).await;
        let claim = claim_next::<PostgresBackend>(&*first, "w").await.unwrap();
        let second = backend.other_node("other").await;
        let seqs = async |fleet: &dyn Fleet| {
            due_entries(fleet, 10).await.iter().map(|entry| entry.event.seq).collect::<Vec<_>>()
        };
        assert_eq!(seqs(&*first).await, [1]);
        assert!(seqs(&*second).await.is_empty(), "the first node delivers it");
        backend.advance(Duration::from_secs(29));
        assert_eq!(seqs(&*first).await, [1], "a node gets again what it has claimed");
        backend.advance(Duration::from_secs(29));
        assert!(seqs(&*second).await.is_empty());
        backend.advance(Duration::from_secs(1));
        assert_eq!(seqs(&*second).await, [1], "the first node was too slow");
        first.settle(&id, 1, DeliveryOutcome::GivenUp, None).await.unwrap();
        assert!(seqs(&*first).await.is_empty(), "it must not settle what another one delivers");
        // An earlier event waits for the one that is being delivered.
        second.settle(&id, 1, DeliveryOutcome::Delivered, None).await.unwrap();
        assert_eq!(seqs(&*second).await, [2]);
        first.report_event(&claim.ticket, EventKind::Restarted).await.unwrap();
        first.redeliver(&id, Some(1)).await.unwrap();
        assert!(seqs(&*first).await.is_empty());
        second.settle(&id, 2, DeliveryOutcome::Delivered, None).await.unwrap();
        assert_eq!(seqs(&*first).await, [1]);
        first.settle(&id, 1, DeliveryOutcome::Delivered, None).await.unwrap();
        assert_eq!(seqs(&*second).await, [3]);
    });
}

#[test]
fn a_node_that_was_paused_does_not_change_the_clock() {
    const HOUR_MS: i64 = 3_600_000;
    block_on(async {
        let backend = PostgresBackend::new().await;
        let first = backend.fleet();
        let paused = backend.paused_node().await;
        for fleet in [&first, &paused] {
            assert_eq!(fleet.next_due_in().await.unwrap(), None);
        }
        backend.advance(Duration::from_secs(60));
        for fleet in [&first, &paused, &first] {
            assert_eq!(fleet.next_due_in().await.unwrap(), None);
            assert_eq!(backend.clock_offset_ms(), 0, "others have found the clock steady");
        }
        backend.set_clock(HOUR_MS);
        for fleet in [&paused, &first, &paused] {
            assert_eq!(fleet.next_due_in().await.unwrap(), None);
            assert_eq!(backend.clock_offset_ms(), -HOUR_MS, "whoever notices a jump corrects it, once");
        }
    });
}

#[test]
fn nodes_see_the_statistics_of_each_other() {
    block_on(async {
        let backend = PostgresBackend::new().await;
        let first = backend.fleet();
        let claim = create_and_claim::<PostgresBackend>(&*first, "w", new_cast(backend.now())).await;
        let second = backend.other_node("other").await;
        let stats = CastStats { bytes: 7, ..CastStats::default() };
        first.put_stats(&claim.ticket, stats.clone()).await;
        assert!(second.stats(&claim.cast.id).await.is_none());
        let status = WorkerStatus { casts: 1, ..WorkerStatus::default() };
        first.heartbeat(&worker(), status.clone()).await.unwrap();
        assert_eq!(second.stats(&claim.cast.id).await, Some(stats.clone()));
        assert_eq!(
            second.stats_of(std::slice::from_ref(&claim.cast.id)).await,
            [(claim.cast.id.clone(), stats)].into()
        );
        let workers = second.workers().await.into_iter();
        let workers: Vec<_> =
            workers.map(|(id, seen)| (id, WorkerStatus { heartbeat_age_ms: 0, ..seen })).collect();
        assert_eq!(workers, [(worker(), status)]);
        second.register_worker(&worker(), &NodeInfo::default()).await.unwrap();
        let taken = claim_next::<PostgresBackend>(&*second, "v").await.unwrap();
        assert_eq!(taken.cast.id, claim.cast.id);
        for fleet in [&first, &second] {
            assert!(fleet.stats(&claim.cast.id).await.is_none(), "the new owner has sent none yet");
            assert!(fleet.stats_of(std::slice::from_ref(&claim.cast.id)).await.is_empty());
        }
        assert_eq!(first.renew_all(&[claim.ticket], LEASE).await.unwrap(), [Renewal::Lost]);
    });
}

#[test]
fn a_change_wakes_other_processes_before_they_poll() {
    let database = Database::new();
    block_on(async {
        let (first, second) = tokio::join!(open(database.url(), "a"), open(database.url(), "b"));
        let (first, second) = (first.unwrap(), second.unwrap());
        let mut changes = second.changes();
        let mut woken = 0;
        for _ in 0..5 {
            // Right after a poll, the next one is at least a second away.
            changes.changed().await.unwrap();
            first.put_document("kind", "name", None, None).await.unwrap();
            let changed = tokio::time::timeout(Duration::from_millis(600), changes.changed()).await;
            woken += usize::from(changed.is_ok());
        }
        assert!(woken >= 3, "{woken} of 5");
    });
}

#[test]
fn a_process_has_at_most_four_connections() {
    let database = Database::new();
    block_on(async {
        let fleet = open(database.url(), "node").await.unwrap();
        let mut tasks = JoinSet::new();
        for _ in 0..60 {
            let fleet = Arc::clone(&fleet);
            tasks.spawn(async move {
                create_cast(&*fleet, new_cast(now())).await;
                fleet.count(None).await.unwrap();
            });
        }
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'", database.name());
        let mut most = 0;
        while !tasks.is_empty() {
            let found = tokio::task::spawn_blocking({
                let sql = sql.clone();
                move || server().sql("postgres", &sql).unwrap()
            });
            most = most.max(found.await.unwrap().parse::<u32>().unwrap());
            while tasks.try_join_next().is_some() {}
        }
        assert!((2..=4).contains(&most), "{most}");
        assert_eq!(fleet.count(None).await.unwrap()[0], (CastState::Queued, 60));
    });
}

#[test]
fn a_pooler_may_change_the_server_connection_between_transactions() {
    let database = Database::new();
    let pooler = PgBouncer::start(server()).unwrap();
    block_on(async {
        let pooled =
            Config { direct_url: Some(database.url()), ..config(pooler.url(database.name()), "node") };
        let fleet = PostgresFleet::open(pooled).await.unwrap();
        live_a_life(&*fleet, || {}, "through the pooler").await;
        // Many at once share two connections to the server.
        let mut tasks = JoinSet::new();
        for _ in 0..60 {
            let fleet = Arc::clone(&fleet);
            tasks.spawn(async move { create_cast(&*fleet, new_cast(now())).await });
        }
        tasks.join_all().await;
        assert_eq!(fleet.count(None).await.unwrap()[0], (CastState::Queued, 60));
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'", database.name());
        let connections: u32 = server().sql("postgres", &sql).unwrap().parse().unwrap();
        assert!(connections <= 3, "{connections} connections, one of which listens: {}", pooler.log());
    });
}

#[test]
fn renewals_stay_within_their_page() {
    let database = Database::new();
    block_on(async {
        let fleet = open(database.url(), "node").await.unwrap();
        let mut tickets = Vec::new();
        for _ in 0..20 {
            create_cast(&*fleet, new_cast(now())).await;
            tickets.push(
                fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap().ticket,
            );
        }
        for _ in 0..50 {
            fleet.renew_all(&tickets, LEASE).await.unwrap();
        }
        // The server counts with some delay.
        let sql = "SELECT n_tup_hot_upd * 100 >= n_tup_upd * 90 AND n_tup_upd \
            >= 1000 FROM pg_stat_user_tables WHERE relname = 'leases'";
        let began = Instant::now();
        while database.sql(sql) != "t" {
            assert!(began.elapsed() < Duration::from_secs(30), "renewals are no HOT updates");
            fleet.renew_all(&tickets, LEASE).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// Otherwise the planner expects so many rows that it compiles statements, which takes 100 ms each time.
#[test]
fn the_planner_knows_the_tables_of_one_row() {
    let database = Database::new();
    block_on(async {
        let _fleet = open(database.url(), "node").await.unwrap();
        for table in ["clock", "document_version"] {
            let sql = format!("SELECT reltuples FROM pg_class WHERE relname = '{table}'");
            assert_eq!(database.sql(&sql), "1", "{table}");
        }
    });
}

#[test]
fn statements_are_not_compiled() {
    let database = Database::new();
    let pooler = PgBouncer::start(server()).unwrap();
    block_on(async {
        let pooled =
            Config { direct_url: Some(database.url()), ..config(pooler.url(database.name()), "node") };
        let fleet = PostgresFleet::open(pooled).await.unwrap();
        assert_eq!(database.sql("SHOW jit"), "off", "connections that a pooler opens have it, too");
        drop(fleet);
        drop(open(database.url(), "node").await.unwrap());
    });
}

#[test]
fn answered_requests_reach_all_nodes_once() {
    let request = |n: u8| AnsweredRequest { at_ms: n.into(), signature: [n; 32] };
    let keep = Duration::from_secs(3600);
    block_on(async {
        let backend = PostgresBackend::new().await;
        let table = backend.answered();
        let mut cursor = AnsweredCursor::default();
        let read = async |cursor: &mut AnsweredCursor| table.read_answered(cursor).await.unwrap();
        assert!(read(&mut cursor).await.is_empty());
        table.put_answered(&[request(1), request(2)], keep).await.unwrap();
        assert_eq!(read(&mut cursor).await, [request(1), request(2)]);
        backend.advance(Duration::from_secs(1));
        // The clock of the database counts, not the times of the requests.
        table.put_answered(&[request(0)], keep).await.unwrap();
        assert_eq!(read(&mut cursor).await, [request(0)]);
        assert!(read(&mut cursor).await.is_empty());
        assert_eq!(read(&mut AnsweredCursor::default()).await, [request(1), request(2), request(0)]);
        let count = || backend.sql("SELECT count(*) FROM answered_requests");
        assert_eq!(count(), "2");
        backend.advance(keep);
        backend.fleet().sweep().await.unwrap();
        assert_eq!(count(), "1");
        backend.advance(Duration::from_secs(700));
        backend.fleet().sweep().await.unwrap();
        assert_eq!(count(), "0");
    });
}

#[test]
fn unusable_databases_are_refused_with_a_reason() {
    let database = Database::new();
    block_on(async {
        let refused = async || open(database.url(), "node").await.unwrap_err();
        database.sql("CREATE TABLE of_another_program (n integer)");
        assert!(matches!(refused().await, OpenError::UnknownDatabase));
        database.sql("DROP TABLE of_another_program");
        drop(open(database.url(), "node").await.unwrap());

        let vault = vault::Vault::from_text("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        let other = Config { vault, ..config(database.url(), "node") };
        let other = PostgresFleet::open(other).await.unwrap_err();
        assert!(matches!(other, OpenError::WrongKey(_)) && other.to_string().contains("key"), "{other}");

        database.sql("UPDATE schema_version SET version = 9, oldest_program = 1");
        drop(open(database.url(), "node").await.unwrap());
        database.sql("UPDATE schema_version SET oldest_program = 9");
        assert!(matches!(refused().await, OpenError::SchemaTooNew { found: 9, .. }));
        database.sql("UPDATE schema_version SET version = 1, oldest_program = 1");

        let name = database.name();
        database.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
        assert!(matches!(refused().await, OpenError::ReadOnly));
        server()
            .sql("postgres", &format!("ALTER DATABASE {name} RESET default_transaction_read_only"))
            .unwrap();

        let malformed = open("postgres://user:secret@[".to_owned(), "node").await.unwrap_err();
        assert!(matches!(malformed, OpenError::InvalidUrl) && !malformed.to_string().contains("secret"));
    });
}

#[test]
fn many_processes_create_the_schema_once() {
    let database = Database::new();
    block_on(async {
        let mut tasks = JoinSet::new();
        for n in 0..6 {
            let url = database.url();
            tasks.spawn(async move { open(url, &format!("node {n}")).await });
        }
        for opened in tasks.join_all().await {
            create_cast(&*opened.unwrap(), new_cast(now())).await;
        }
        assert_eq!(database.sql("SELECT count(*) FROM casts"), "6");
    });
}

#[test]
fn nothing_secret_is_readable_in_the_database() {
    let database = Database::new();
    block_on(async {
        let fleet = open(database.url(), "node").await.unwrap();
        let mut new = new_cast(now());
        new.request = serde_json::json!({ "Url": "planted-in-request" });
        new.spec.pushes.push(pagecast_core::spec::Push {
            url: pagecast_core::spec::PushUrl::parse("rtmp://a.example/app/planted-stream").unwrap(),
            reconnect_timeout: None,
        });
        new.spec.source.context.css = Some("planted-css".to_owned());
        let id = create_cast(&*fleet, new).await;
        fleet.send_command(&id, Command::AddPush(push(1))).await.unwrap();
        let claim = fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap();
        let stats = CastStats { upload_error: Some("planted-stats".to_owned()), ..CastStats::default() };
        fleet.put_stats(&claim.ticket, stats).await;
        fleet.heartbeat(&worker(), WorkerStatus::default()).await.unwrap();
        fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
        let report = serde_json::json!({ "note": "planted-report" });
        fleet.put_document("app", "name", None, Some("planted-document".into())).await.unwrap();
        let attempt = DeliveryAttempt {
            seq: 1,
            part: 0,
            at_ms: now(),
            took_ms: 1,
            url: "https://hook.example/planted-path".to_owned(),
            status: None,
            answer: None,
            error: Some("planted-error".to_owned()),
        };
        fleet.settle(&id, 1, DeliveryOutcome::GivenUp, Some(attempt)).await.unwrap();
        let plain = |database: &Database| {
            let tables = database.sql(
                "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' AND \
                relnamespace = 'public'::regnamespace",
            );
            let rows = |table| database.sql(&format!("SELECT t::text FROM {table} t"));
            let all: String = tables.split(' ').map(rows).collect();
            assert!(tables.contains("documents") && all.contains(id.as_str()), "{tables}");
            all
        };
        // A row shows its bytes as hexadecimal digits.
        let planted: String = b"planted".iter().map(|byte| format!("{byte:02x}")).collect();
        let before = plain(&database);
        fleet.close(&claim.ticket, None, Some(report)).await.unwrap();
        for all in [before, plain(&database)] {
            assert!(!all.contains("planted") && !all.contains(&planted), "{all}");
        }
    });
}

#[test]
fn connections_are_encrypted_and_the_certificate_is_checked() {
    let (server, authority) = Postgres::start_with_tls().unwrap();
    block_on(async {
        let url = format!("{}?sslmode=require", server.tcp_url("postgres"));
        let untrusted = open(url.clone(), "node").await.unwrap_err();
        assert!(matches!(untrusted, OpenError::Pool(_)), "{untrusted}");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let trusting = Config { tls: tls(roots), ..config(url, "node") };
        let fleet = PostgresFleet::open(trusting).await.unwrap();
        create_cast(&*fleet, new_cast(now())).await;
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE \
            application_name = 'pagecast'";
        assert_eq!(server.sql("postgres", encrypted).unwrap(), "t");
    });
}

#[test]
fn events_are_stored_in_the_partition_of_their_month() {
    let database = Database::new();
    block_on(async {
        let fleet = open(database.url(), "node").await.unwrap();
        create_cast(&*fleet, new_cast(now())).await;
        let partition = database.sql("SELECT DISTINCT tableoid::regclass FROM events");
        let month = database.sql("SELECT 'events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')");
        assert_eq!(partition, month);
        // An old partition is dropped once it is empty.
        database.sql(
            "CREATE TABLE events_2020_01 PARTITION OF events
                 FOR VALUES FROM (1577836800000) TO (1580515200000);
             INSERT INTO events VALUES (1, 100, 1577836800000, '')",
        );
        let maintain = || {
            database.sql("SELECT maintain_event_partitions(1000)");
            database.sql("SELECT to_regclass('events_2020_01') IS NOT NULL")
        };
        assert_eq!(maintain(), "t");
        database.sql("DELETE FROM events WHERE seq = 100");
        assert_eq!(maintain(), "f");
        assert_eq!(fleet.count(None).await.unwrap()[0], (CastState::Queued, 1));
    });
}

#[test]
fn skipped_casts_are_not_claimed_for_delivery() {
    let database = Database::new();
    block_on(async {
        let (first, second) =
            (open(database.url(), "a").await.unwrap(), open(database.url(), "b").await.unwrap());
        let ids = [create_cast(&*first, new_cast(now())).await, create_cast(&*first, new_cast(now())).await];
        let skip = HashSet::from([ids[0].clone()]);
        let due =
            |entries: Vec<OutboxEntry>| entries.into_iter().map(|entry| entry.cast.id).collect::<Vec<_>>();
        assert_eq!(due(first.due_entries(10, &skip).await.unwrap()), ids[1..]);
        assert_eq!(due(second.due_entries(10, &HashSet::new()).await.unwrap()), ids[..1]);
    });
}
