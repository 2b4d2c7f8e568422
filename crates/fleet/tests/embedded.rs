//! Properties of the embedded backend that the contract does not cover: its files, durability and migrations.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::{Push, PushUrl, Source, SourceUrl};
use pagecast_fleet::sqlite::{self, Config, SqliteFleet};
use pagecast_fleet::vault::Vault;
use pagecast_fleet::{
    CastId, CastKey, CastState, Casts, Command, CreateOutcome, DeliveryAttempt, DeliveryOutcome, Documents,
    Error, EventKind, Filter, Fleet, KeyRetention, Leases, NewCast, NodeInfo, Outbox, Renewal, UnixMs,
    WorkerId,
};
use pagecast_testkit::{ScratchDir, Tmpfs, command};
use serde_json::json;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const LEASE: Duration = Duration::from_secs(60);
/// Longest wait for something that takes a moment, on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

fn now() -> UnixMs {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn open_with(path: PathBuf, key: &str) -> Result<Arc<SqliteFleet>, sqlite::Error> {
    let vault = Vault::from_text(key).unwrap();
    SqliteFleet::open(Config {
        path,
        vault,
        retention: Duration::from_secs(3600),
        wall_clock: Arc::new(now),
        monotonic_clock: sqlite::monotonic_clock(),
        max_bytes: 1 << 40,
    })
}

fn open(path: PathBuf) -> Arc<SqliteFleet> {
    open_with(path, KEY).unwrap()
}

fn new_cast(n: u64) -> NewCast {
    let n = n.to_be_bytes();
    let url = SourceUrl::parse("https://planted-user:planted-word@a.example/b?token=planted-token").unwrap();
    let pid = std::process::id().to_be_bytes();
    NewCast {
        id: CastId::new(now(), [pid[2], pid[3], n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]]),
        app: "app".to_owned(),
        api: "test".to_owned(),
        key: None,
        key_retention: KeyRetention::UntilEnded,
        request: json!({ "Url": "planted-in-request" }),
        spec: CastSpec::new(Source::new(url)),
        queue_timeout: Duration::from_secs(3600),
        quota: 1_000_000,
        max_bytes: 1 << 40,
        queue_limit: 1_000_000,
        notify: true,
    }
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test)
}

async fn create_cast(fleet: &dyn Fleet, new: NewCast) -> CastId {
    match fleet.create(new).await.unwrap() {
        CreateOutcome::New(cast) => cast.id,
        other => panic!("a new cast is expected, not {other:?}"),
    }
}

fn worker() -> WorkerId {
    WorkerId("w".to_owned())
}

#[test]
fn a_lease_expires_in_real_time() {
    let scratch = ScratchDir::new().unwrap();
    let fleet = open(scratch.join("fleet.db"));
    block_on(async {
        create_cast(&*fleet, new_cast(0)).await;
        let (start, lease) = (Instant::now(), Duration::from_millis(300));
        let first = fleet.claim(&worker(), &NodeInfo::default(), lease, &|_| true).await.unwrap().unwrap();
        let other = WorkerId("other".to_owned());
        let second = loop {
            let own = fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap();
            assert!(own.is_none(), "a worker does not claim its own cast");
            if let Some(claim) = fleet.claim(&other, &NodeInfo::default(), LEASE, &|_| true).await.unwrap() {
                break claim;
            }
            assert!(start.elapsed() < TEST_TIMEOUT, "the lease never expires");
            tokio::task::yield_now().await;
        };
        // The clock of the fleet counts milliseconds.
        assert!(start.elapsed() + Duration::from_millis(2) >= lease, "{:?}", start.elapsed());
        assert_eq!((&second.ticket.cast, second.ticket.epoch), (&first.ticket.cast, 2));
        assert_eq!(fleet.renew_all(&[first.ticket], LEASE).await.unwrap(), [Renewal::Lost]);
    });
}

#[test]
fn nothing_secret_is_readable_in_the_files() {
    let scratch = ScratchDir::new().unwrap();
    let folder = scratch.join("data");
    let path = folder.join("fleet.db");
    let fleet = open(path);
    let push = |key| Push {
        url: PushUrl::parse(&format!("rtmp://a.example/app/planted-{key}")).unwrap(),
        reconnect_timeout: None,
    };
    block_on(async {
        let mut new = new_cast(0);
        new.spec.pushes.push(push("stream"));
        let id = create_cast(&*fleet, new).await;
        fleet.send_command(&id, Command::AddPush(push("added"))).await.unwrap();
        let claim = fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap();
        fleet.send_command(&id, Command::AddPush(push("added-later"))).await.unwrap();
        fleet.put_pushes(&claim.ticket, vec![push("replaced")]).await.unwrap();
        let message = Some("planted-message".to_owned());
        fleet
            .report_event(
                &claim.ticket,
                EventKind::Ended { reason: EndReason::OutputFailed, message, cause: None },
            )
            .await
            .unwrap();
        fleet.close(&claim.ticket, None, Some(json!({ "note": "planted-report" }))).await.unwrap();
        fleet.put_document("app", "name", None, Some(json!({ "secret": "planted-document" }))).await.unwrap();
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
        let cast = fleet.get(&id).await.unwrap().unwrap();
        assert!(format!("{:?}", cast.report).contains("planted-report"), "the values are stored");
    });
    assert!(assert_no_plaintext(&folder) >= 4, "the database, its WAL and index, and the lock");
    drop(fleet);
    assert_no_plaintext(&folder);
    for file in fs::read_dir(&folder).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "only the owner may read it");
    }
}

/// Asserts that no file contains a planted text, and returns the number of files.
fn assert_no_plaintext(folder: &Path) -> usize {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    for file in &files {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"planted"), "{}", file.display());
    }
    files.len()
}

#[test]
fn unusable_databases_are_refused_with_a_reason() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("fleet.db");
    let refused = |key| open_with(path.clone(), key).unwrap_err();
    let fleet = open(path.clone());
    let taken = refused(KEY);
    assert!(
        matches!(taken, sqlite::Error::Locked(_)) && taken.to_string().contains("another service"),
        "{taken}"
    );
    drop(fleet);
    drop(open(path.clone()));

    let other = refused("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert!(matches!(other, sqlite::Error::WrongKey { .. }) && other.to_string().contains("key"), "{other}");
    drop(open(path.clone()));

    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 1000).unwrap();
    drop(raw);
    let newer = refused(KEY);
    assert!(matches!(newer, sqlite::Error::SchemaTooNew { found: 1000, .. }), "{newer}");
    assert!(newer.to_string().contains("update pagecast"), "{newer}");

    fs::remove_file(&path).unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch("CREATE TABLE other_program (x)").unwrap();
    drop(raw);
    assert!(matches!(refused(KEY), sqlite::Error::UnknownDatabase(_)));

    fs::write(&path, vec![b'x'; 10_000]).unwrap();
    assert!(matches!(refused(KEY), sqlite::Error::Database { .. }));
    assert_eq!(fs::read(&path).unwrap(), vec![b'x'; 10_000], "the file is not changed");

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(refused(KEY), sqlite::Error::File { .. }));
}

#[test]
fn a_damaged_cast_blocks_no_other() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("fleet.db");
    let fleet = open(path.clone());
    let (bad, begun, good) = block_on(async {
        let begun = create_cast(&*fleet, new_cast(0)).await;
        let claim = fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap();
        fleet.release(&claim.ticket).await.unwrap();
        (create_cast(&*fleet, new_cast(1)).await, begun, create_cast(&*fleet, new_cast(2)).await)
    });
    drop(fleet);
    let raw = rusqlite::Connection::open(&path).unwrap();
    let swap = "UPDATE casts SET spec = (SELECT spec FROM casts WHERE id = ?1) WHERE id <> ?1";
    assert_eq!(raw.execute(swap, [good.as_str()]).unwrap(), 2, "values are swapped between casts");
    drop(raw);
    let fleet = open(path);
    block_on(async {
        for id in [&bad, &begun] {
            let error = fleet.get(id).await.unwrap_err();
            assert!(matches!(error, Error::Unreadable { .. }), "{error}");
        }
        let page = fleet.list(&Filter { limit: 10, ..Filter::default() }).await.unwrap();
        assert_eq!(page.casts.iter().map(|cast| &cast.id).collect::<Vec<_>>(), [&good]);
        let claim = fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap();
        assert_eq!(claim.cast.id, good);
        for (id, reason) in [(&bad, EndReason::StartFailed), (&begun, EndReason::OutputFailed)] {
            let last = fleet.events(id, 0, 10).await.unwrap().pop().unwrap();
            assert!(matches!(last.kind, EventKind::Ended { reason: of, .. } if of == reason), "{last:?}");
        }
        let due = fleet.due_entries(10, &HashSet::new()).await.unwrap();
        assert_eq!(due.len(), 1, "{due:?}");
        assert_eq!(due[0].cast.id, good);
    });
}

#[test]
fn a_full_disk_rolls_back_only_refused_writes() {
    if !Tmpfs::is_supported_or_skip() {
        return;
    }
    let scratch = ScratchDir::new().unwrap();
    let disk = Tmpfs::mount(scratch.join("disk"), 1 << 20).unwrap();
    let fleet = open(disk.path().join("fleet.db"));
    block_on(async {
        let mut kept = Vec::new();
        let refused = loop {
            let new = NewCast { request: json!("x".repeat(20_000)), ..new_cast(kept.len() as u64) };
            let id = new.id.clone();
            match fleet.create(new).await {
                Ok(_) => kept.push(id),
                Err(error) => {
                    assert!(matches!(error, Error::Storage { .. }), "{error:?}");
                    break id;
                }
            }
        };
        assert!(kept.len() > 3);
        assert!(fleet.check_writable().await.is_err() || fleet.get(&refused).await.unwrap().is_none());
        disk.resize(64 << 20).unwrap();
        fleet.check_writable().await.unwrap();
        assert!(fleet.get(&refused).await.unwrap().is_none(), "nothing is half written");
        create_cast(&*fleet, new_cast(1000)).await;
        for id in &kept {
            assert_eq!(fleet.events(id, 0, 10).await.unwrap().len(), 1);
        }
        let queued = fleet.count(None).await.unwrap()[0];
        assert_eq!(queued, (CastState::Queued, kept.len() as u64 + 1));
    });
    drop(fleet);
}

/// Path of the database for the child of [`confirmed_writes_survive_a_kill`].
const CHILD_ENV: &str = "PAGECAST_FLEET_TEST_CHILD";

/// Not a test by itself: writes to the database until it is killed, and prints each confirmed write.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD_ENV) else { return };
    let fleet = open(path.into());
    let mut out = std::io::stdout();
    let mut print = |line: String| writeln!(out, "\n#{line}").and_then(|()| out.flush()).unwrap();
    block_on(async {
        fleet.register_worker(&worker(), &NodeInfo::default()).await.unwrap();
        for n in 0.. {
            let key = format!("{}-{n}", std::process::id());
            let new = NewCast { key: Some(CastKey(key)), ..new_cast(n) };
            let id = create_cast(&*fleet, new).await;
            print(format!("created {id} 1"));
            let claim =
                fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap();
            let id = &claim.cast.id;
            print(format!("claimed {id} {}", claim.ticket.epoch));
            fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
            print(format!("live {id} 1"));
            fleet.settle(id, 1, DeliveryOutcome::Delivered, None).await.unwrap();
            print(format!("delivered {id} 1"));
            if n % 3 == 0 {
                fleet
                    .report_event(
                        &claim.ticket,
                        EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None },
                    )
                    .await
                    .unwrap();
                print(format!("ended {id} 1"));
                fleet.close(&claim.ticket, None, None).await.unwrap();
                print(format!("closed {id} 1"));
            }
        }
    });
}

#[test]
fn confirmed_writes_survive_a_kill() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("fleet.db");
    let mut confirmed: HashMap<(String, String), u64> = HashMap::new();
    for round in 0..10_usize {
        let mut child = command::program(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(CHILD_ENV, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Each round kills the child after another number of confirmed writes.
        let lines = read_confirmations(&mut child, 3 + round * 17 % 41);
        for line in lines {
            let mut fields = line.split(' ').map(str::to_owned);
            let (write, id, n) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
            confirmed.insert((write, id), n.parse().unwrap());
        }
        let fleet = open(path.clone());
        block_on(assert_durable(&*fleet, &confirmed));
    }
    assert!(confirmed.len() > 100, "{}", confirmed.len());
}

/// Reads confirmed writes from the child, and kills it after this many.
fn read_confirmations(child: &mut Child, count: usize) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut complete = Vec::new();
    for line in lines.map_while(Result::ok) {
        // The last line may be cut off; then its write was not confirmed.
        if let Some(line) = line.strip_prefix('#')
            && line.split(' ').count() == 3
        {
            complete.push(line.to_owned());
        }
        if complete.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(complete.len() >= count, "the child exited after {complete:?}");
    complete
}

/// Asserts that all confirmed writes are stored.
async fn assert_durable(fleet: &dyn Fleet, confirmed: &HashMap<(String, String), u64>) {
    for ((write, id), n) in confirmed {
        let id = CastId::parse(id).unwrap();
        let cast = fleet.get(&id).await.unwrap().unwrap_or_else(|| panic!("{write} {id} is lost"));
        let holds = match &write[..] {
            "created" => fleet.find_by_key(cast.key.as_ref().unwrap()).await.unwrap().unwrap().id == id,
            "claimed" => cast.epoch >= *n && cast.state != CastState::Queued,
            "live" => cast.live_ms.is_some(),
            "ended" => cast.state == CastState::Ended && cast.end.is_some(),
            "closed" => cast.closed,
            _ => true,
        };
        assert!(holds, "{write} {id}: {cast:?}");
        let events = fleet.events(&id, 0, 1000).await.unwrap();
        assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64), "{events:?}");
        let ends = events.iter().filter(|event| matches!(event.kind, EventKind::Ended { .. })).count();
        assert_eq!(ends, usize::from(cast.state == CastState::Ended), "state and history agree");
    }
    let due = fleet.due_entries(10_000, &HashSet::new()).await.unwrap();
    for ((_, id), _) in confirmed.iter().filter(|((write, _), _)| write == "delivered") {
        let entry = due.iter().find(|entry| entry.cast.id.as_str() == id);
        assert!(
            entry.is_some_and(|entry| entry.event.seq > 1),
            "delivered events are not due again, but the next one is"
        );
    }
    let listed = fleet.list(&Filter { limit: 1000, ..Filter::default() }).await.unwrap().casts.len();
    let counted: u64 = fleet.count(None).await.unwrap().iter().map(|(_, n)| n).sum();
    assert_eq!(listed as u64, counted);
}

/// Creates a database of schema version 1 with a queued, a running and an ended cast, each with a style
/// sheet.
fn create_version_1(path: &Path) -> [CastId; 3] {
    let vault = Vault::from_text(KEY).unwrap();
    let db = rusqlite::Connection::open(path).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.execute_batch(include_str!("../src/sqlite/1.sql")).unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    db.execute("INSERT INTO meta VALUES ('vault', ?)", [vault.seal("meta/vault", b"")]).unwrap();
    [0, 1, 3].map(|state: i64| {
        let NewCast { id, mut spec, request, .. } = new_cast(state.unsigned_abs());
        spec.source.context.css = Some("x".repeat(100_000));
        let seal = |value: &str, json: String| vault.seal(&format!("cast/{id}/{value}"), json.as_bytes());
        let request = seal("request", request.to_string());
        let spec = seal("spec", serde_json::to_string(&spec).unwrap());
        db.execute(
            "INSERT INTO casts (id, app, origin, key, held, notify, request, spec, state, queue_until_ms, \
            created_ms,
                                started_ms, ended_ms, closed, worker, lease_until_ms, epoch, last_seq)
             VALUES (?1, 'app', 'test', NULL, 0, 1, ?2, ?3, ?4, ?5, ?6, iif(?4 > 0, ?6, NULL), iif(?4 > 2, \
             ?6, NULL),
                     ?4 > 2, iif(?4 = 1, 'w', NULL), 0, ?4 > 0, 1)",
            (id.as_str(), request, spec, state, now() + 60_000, now()),
        )
        .unwrap();
        let event = seal("event/1", "{\"event\":\"queued\"}".to_owned());
        let row = db.last_insert_rowid();
        db.execute("INSERT INTO events VALUES (?, 1, ?, ?)", (row, now(), event)).unwrap();
        // Its retry was scheduled by a clock that has been set back since.
        let sql = "INSERT INTO outbox (whose, seq, at_ms, next_ms, tries, first_try_ms) VALUES (?1, 1, ?2, \
            ?2, 1, ?2)";
        db.execute(sql, (row, now() + 7_200_000)).unwrap();
        id
    })
}

#[test]
fn a_database_of_version_1_is_migrated() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("fleet.db");
    let [queued, running, ended] = create_version_1(&path);
    drop(open_with(path.clone(), "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap_err());
    let fleet = open(path.clone());
    block_on(async {
        for id in [&queued, &running, &ended] {
            let cast = fleet.get(id).await.unwrap().unwrap();
            assert!(
                cast.spec.source.context.css.is_none()
                    && cast.spec.source.url.to_string().contains("a.example")
            );
            assert_eq!(cast.request, json!({ "Url": "planted-in-request" }));
        }
        let due = fleet.due_entries(10, &HashSet::new()).await.unwrap();
        assert_eq!(due.len(), 3, "implausibly late retries are due at once: {due:?}");
        assert!(
            due.iter().all(|entry| entry.attempts == 1 && entry.since_first_attempt.unwrap() < TEST_TIMEOUT)
        );
        fleet.register_worker(&worker(), &NodeInfo::default()).await.unwrap();
        for id in [&running, &queued] {
            let claim =
                fleet.claim(&worker(), &NodeInfo::default(), LEASE, &|_| true).await.unwrap().unwrap();
            assert_eq!(&claim.cast.id, id);
            assert_eq!(claim.cast.spec.source.context.css.unwrap().len(), 100_000);
        }
        let one_more = NewCast { max_bytes: 200_000, ..new_cast(9) };
        assert!(matches!(fleet.create(one_more).await.unwrap(), CreateOutcome::BytesExceeded(
            kept) if kept > 200_000));
        assert_eq!(fleet.count(Some("app")).await.unwrap().iter().map(|(_, n)| n).sum::<u64>(), 3);
    });
    drop(fleet);
    let raw = rusqlite::Connection::open(&path).unwrap();
    let number = |sql: &str| raw.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("PRAGMA user_version"), 4);
    assert_eq!(number("SELECT count(*) FROM injected"), 2, "the ended cast needs none");
    let sum = "SELECT sum(length(request) + length(spec)) + (SELECT sum(length(what)) FROM injected)
                      + (SELECT sum(length(what)) FROM events) FROM casts";
    assert_eq!(number("SELECT bytes FROM kept"), number(sum));
    assert_eq!(number("SELECT sum(weight) FROM tally WHERE state IN (1, 2)"), 2000);
    drop(open(path));
}

#[test]
fn the_oldest_casts_are_deleted_when_the_database_is_full() {
    let scratch = ScratchDir::new().unwrap();
    let path = scratch.join("fleet.db");
    let vault = Vault::from_text(KEY).unwrap();
    let fleet = SqliteFleet::open(Config {
        path,
        vault,
        retention: Duration::from_secs(3600),
        wall_clock: Arc::new(now),
        monotonic_clock: sqlite::monotonic_clock(),
        max_bytes: 1 << 20,
    })
    .unwrap();
    block_on(async {
        let large = |n| NewCast { request: json!("x".repeat(20_000)), ..new_cast(n) };
        let queued = create_cast(&*fleet, large(0)).await;
        let mut closed = Vec::new();
        for n in 1..=80 {
            let id = create_cast(&*fleet, large(n)).await;
            fleet.send_command(&id, Command::Stop).await.unwrap();
            // The first two keep undelivered events.
            if n > 2 {
                for seq in [1, 2] {
                    fleet.settle(&id, seq, DeliveryOutcome::Delivered, None).await.unwrap();
                }
            }
            closed.push(id);
        }
        fleet.sweep().await.unwrap();
        let mut left = Vec::new();
        for id in &closed {
            left.push(fleet.get(id).await.unwrap().is_some());
        }
        assert!(left[0] && left[1], "casts with undelivered events are kept");
        assert!(!left[2] && left.ends_with(&[true; 10]), "{left:?}");
        assert!(left[2..].is_sorted(), "the oldest are deleted first: {left:?}");
        assert!(fleet.get(&queued).await.unwrap().is_some());
        // A second sweep deletes nothing more.
        let count = fleet.count(None).await.unwrap();
        fleet.sweep().await.unwrap();
        assert_eq!(fleet.count(None).await.unwrap(), count);
    });
}
