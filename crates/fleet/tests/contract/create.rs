//! Servers create casts.

use std::time::Duration;

use pagecast_fleet::*;
use serde_json::json;
use tokio::task::JoinSet;

use super::fixture::*;

pub(crate) async fn a_cast_is_queued_as_requested<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut new = new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded);
    new.request = json!({ "a": [1, null, "ü"], "b": { "c": 1.5 } });
    let before = backend.now();
    let CreateOutcome::New(made) = fleet.create(new.clone()).await.unwrap() else { panic!("it is new") };
    let found = get_cast(&*fleet, &new.id).await;
    for cast in [&made, &found, &fleet.find_by_key(new.key.as_ref().unwrap()).await.unwrap().unwrap()] {
        assert_eq!((&cast.id, &cast.app, &cast.api), (&new.id, &new.app, &new.api));
        assert_eq!((&cast.key, &cast.request, &cast.spec), (&new.key, &new.request, &new.spec));
        assert_eq!((cast.state, &cast.end, cast.epoch), (CastState::Queued, &None, 0));
        assert_eq!((cast.started_ms, cast.live_ms, cast.ended_ms), (None, None, None));
        assert_eq!((cast.stop_requested, cast.closed), (false, false));
        assert_eq!((&cast.worker, &cast.report), (&None, &None));
        assert!((before..=backend.now()).contains(&cast.created_ms), "{}", cast.created_ms);
    }
    assert_eq!(event_names(&*fleet, &new.id).await, ["queued"]);
    assert!(matches!(fleet.create(new).await.unwrap(), CreateOutcome::Exists(cast) if cast.id == found.id));
    let other = new_cast(backend.now());
    assert!(fleet.get(&other.id).await.unwrap().is_none());
    assert!(fleet.find_by_key(&CastKey("other".to_owned())).await.unwrap().is_none());
}

pub(crate) async fn a_key_has_one_cast_until_that_has_ended<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let key = CastKey("key".to_owned());
    let again = || fleet.create(new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded));
    let first = create_cast(&*fleet, new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded)).await;
    let exists = |created: CreateOutcome| matches!(created, CreateOutcome::Exists(cast) if cast.id == first);
    assert!(exists(again().await.unwrap()), "queued");
    create_cast(&*fleet, new_cast_with_key(backend.now(), "another", KeyRetention::UntilEnded)).await;
    let claim = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert!(exists(again().await.unwrap()), "starting");
    fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
    assert!(exists(again().await.unwrap()), "live");
    fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    assert_eq!(fleet.find_by_key(&key).await.unwrap().unwrap().id, first, "it held the key last");
    backend.advance(TIME_STEP);
    let CreateOutcome::New(second) = again().await.unwrap() else { panic!("the first one has ended") };
    assert_eq!(fleet.find_by_key(&key).await.unwrap().unwrap().id, second.id);
    fleet.close(&claim.ticket, None, None).await.unwrap();
    assert!(matches!(again().await.unwrap(), CreateOutcome::Exists(cast) if cast.id == second.id));
}

pub(crate) async fn a_key_is_held_until_its_time<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
    let until = KeyRetention::Until(backend.now() + 3_600_000);
    let claim =
        create_and_claim::<B>(&*fleet, "w", new_cast_with_key(backend.now(), "ends early", until)).await;
    fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    fleet.close(&claim.ticket, None, None).await.unwrap();
    let late =
        create_and_claim::<B>(&*fleet, "w", new_cast_with_key(backend.now(), "ends late", until)).await;
    let create = |key: &str| fleet.create(new_cast_with_key(backend.now(), key, KeyRetention::UntilEnded));
    assert!(
        matches!(create("ends early").await.unwrap(), CreateOutcome::Exists(cast) if cast.id == claim.cast.id)
    );
    backend.advance(hour - minute);
    assert!(
        matches!(create("ends early").await.unwrap(), CreateOutcome::Exists(_)),
        "its time has not passed"
    );
    backend.advance(minute);
    assert!(matches!(create("ends early").await.unwrap(), CreateOutcome::New(_)), "its time has passed");
    assert!(
        matches!(create("ends late").await.unwrap(), CreateOutcome::Exists(_)),
        "its time has passed, but it has not ended"
    );
    fleet.report_event(&late.ticket, ended_event()).await.unwrap();
    assert!(matches!(create("ends late").await.unwrap(), CreateOutcome::New(_)));
}

pub(crate) async fn an_application_has_its_quota<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let of = |app: &str| NewCast { app: app.to_owned(), quota: 2, ..new_cast(backend.now()) };
    let first = create_and_claim::<B>(&*fleet, "w", of("a")).await;
    let second = create_cast(&*fleet, NewCast { key: Some(CastKey("key".to_owned())), ..of("a") }).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), CreateOutcome::QuotaExceeded));
    let again = NewCast { key: Some(CastKey("key".to_owned())), ..of("a") };
    assert!(matches!(fleet.create(again).await.unwrap(), CreateOutcome::Exists(cast) if cast.id == second));
    create_cast(&*fleet, of("b")).await;
    fleet.report_event(&first.ticket, ended_event()).await.unwrap();
    create_cast(&*fleet, of("a")).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), CreateOutcome::QuotaExceeded));
    fleet.send_command(&second, Command::Stop).await.unwrap();
    create_cast(&*fleet, of("a")).await;
    assert!(matches!(
        fleet.create(NewCast { quota: 0, ..of("c") }).await.unwrap(),
        CreateOutcome::QuotaExceeded
    ));
}

pub(crate) async fn recent_unstarted_casts_count_towards_the_quota<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let of = |app: &str, quota| NewCast {
        quota,
        queue_timeout: Duration::ZERO,
        app: app.to_owned(),
        ..new_cast(backend.now())
    };
    let mut made = 0;
    for n in 0..40 {
        match fleet.create(of("a", 4)).await.unwrap() {
            // Alternately, a cast is stopped, and its queue timeout passes.
            CreateOutcome::New(cast) if n % 2 == 0 => {
                fleet.send_command(&cast.id, Command::Stop).await.unwrap();
            }
            CreateOutcome::New(_) => fleet.sweep().await.unwrap(),
            CreateOutcome::QuotaExceeded => continue,
            other => panic!("{other:?}"),
        }
        made += 1;
    }
    assert_eq!(made, 8, "twice the quota");
    create_cast(&*fleet, of("b", 4)).await;
    backend.advance(Duration::from_secs(60));
    create_cast(&*fleet, of("a", 4)).await;
    // A started cast counts only while it runs.
    for _ in 0..20 {
        let claim = create_and_claim::<B>(
            &*fleet,
            "w",
            NewCast { app: "c".to_owned(), quota: 1, ..new_cast(backend.now()) },
        )
        .await;
        fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    }
}

pub(crate) async fn an_application_has_a_storage_limit<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let of = |app: &str| {
        let mut new =
            NewCast { app: app.to_owned(), max_bytes: 450_000, notify: false, ..new_cast(backend.now()) };
        new.spec.source.context.css = Some("x".repeat(100_000));
        new
    };
    let mut made = Vec::new();
    let kept = loop {
        match fleet.create(of("a")).await.unwrap() {
            CreateOutcome::New(cast) => made.push(cast.id),
            CreateOutcome::BytesExceeded(kept) => break kept,
            other => panic!("{other:?}"),
        }
    };
    assert!(made.len() == 4 && (400_000..450_000).contains(&kept), "{kept} for {}", made.len());
    create_cast(&*fleet, of("b")).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), CreateOutcome::BytesExceeded(_)));
    // The injected data of an ended cast is deleted.
    fleet.send_command(&made[0], Command::Stop).await.unwrap();
    backend.advance(TIME_STEP);
    create_cast(&*fleet, of("a")).await;
    // Ended casts are deleted to make room, the oldest first.
    let over =
        create_cast(&*fleet, NewCast { app: "c".to_owned(), notify: false, ..new_cast(backend.now()) }).await;
    fleet.send_command(&over, Command::Stop).await.unwrap();
    let before = fleet.get(&over).await.unwrap();
    let small = NewCast { app: "c".to_owned(), max_bytes: 2500, notify: false, ..new_cast(backend.now()) };
    let mut held = 0;
    for _ in 0..10 {
        let id = create_cast(&*fleet, NewCast { id: new_cast(backend.now()).id, ..small.clone() }).await;
        fleet.send_command(&id, Command::Stop).await.unwrap();
        held += 1;
        backend.advance(TIME_STEP);
    }
    assert!(before.is_some() && held == 10 && fleet.get(&over).await.unwrap().is_none());
    let left = fleet.count(Some("c")).await.unwrap()[3].1;
    assert!((1..6).contains(&left), "{left}");
    let too_large = NewCast { max_bytes: 10, ..of("d") };
    assert!(matches!(fleet.create(too_large).await.unwrap(), CreateOutcome::BytesExceeded(0)));
}

pub(crate) async fn the_queue_is_limited<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let of = |app: &str| NewCast { app: app.to_owned(), queue_limit: 2, ..new_cast(backend.now()) };
    create_cast(&*fleet, of("a")).await;
    create_cast(&*fleet, of("b")).await;
    assert!(matches!(fleet.create(of("c")).await.unwrap(), CreateOutcome::QueueFull));
    claim_next::<B>(&*fleet, "w").await.unwrap();
    create_cast(&*fleet, of("c")).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), CreateOutcome::QueueFull));
}

pub(crate) async fn a_full_queue_has_room_for_others<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let of =
        |app: &str| NewCast { app: app.to_owned(), queue_limit: 20, quota: 100, ..new_cast(backend.now()) };
    for _ in 0..20 {
        create_cast(&*fleet, of("greedy")).await;
    }
    assert!(matches!(fleet.create(of("greedy")).await.unwrap(), CreateOutcome::QueueFull));
    for app in ["a", "b"] {
        for _ in 0..2 {
            create_cast(&*fleet, of(app)).await;
        }
        assert!(matches!(fleet.create(of(app)).await.unwrap(), CreateOutcome::QueueFull));
    }
}

pub(crate) async fn a_contended_key_is_granted_once<B: Backend>() {
    let backend = B::new().await;
    let mut tasks = JoinSet::new();
    for n in 0..90 {
        let (fleet, new) = (
            backend.fleet(),
            new_cast_with_key(backend.now(), &format!("key {}", n % 3), KeyRetention::UntilEnded),
        );
        tasks.spawn(async move { fleet.create(new).await.unwrap() });
    }
    let (mut new, mut existing) = (Vec::new(), Vec::new());
    for created in tasks.join_all().await {
        match created {
            CreateOutcome::New(cast) => new.push((cast.key, cast.id)),
            CreateOutcome::Exists(cast) => existing.push((cast.key, cast.id)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((new.len(), existing.len()), (3, 87));
    assert!(existing.iter().all(|cast| new.contains(cast)), "all others get the holder of the key");
    let counts = backend.fleet().count(None).await.unwrap();
    assert_eq!(counts[0], (CastState::Queued, 3));
}

pub(crate) async fn everything_is_there_after_a_restart<B: Backend>() {
    let mut backend = B::new().await;
    let queued =
        create_cast(&*backend.fleet(), new_cast_with_key(backend.now(), "queued", KeyRetention::UntilEnded))
            .await;
    let (ticket, ended) = {
        let fleet = backend.fleet();
        let first = claim_next::<B>(&*fleet, "w").await.unwrap();
        assert_eq!(first.cast.id, queued);
        fleet.release(&first.ticket).await.unwrap();
        let again = claim_next::<B>(&*fleet, "w").await.unwrap();
        assert_eq!(again.ticket.epoch, 2);
        fleet.report_event(&again.ticket, EventKind::Live).await.unwrap();
        fleet.send_command(&queued, Command::Snapshot).await.unwrap();
        let mut ended = create_and_claim::<B>(
            &*fleet,
            "w",
            new_cast_with_key(backend.now(), "ended", KeyRetention::UntilEnded),
        )
        .await;
        fleet.report_event(&ended.ticket, ended_event()).await.unwrap();
        fleet.close(&ended.ticket, None, Some(json!({ "note": "kept" }))).await.unwrap();
        ended.cast = get_cast(&*fleet, &ended.cast.id).await;
        (again.ticket, ended)
    };
    let before = dump(&*backend.fleet(), &[&queued, &ended.cast.id]).await;
    backend.restart().await;
    let fleet = backend.fleet();
    assert_eq!(dump(&*fleet, &[&queued, &ended.cast.id]).await, before);
    assert_eq!(renew::<B>(&*fleet, &ticket).await.unwrap().len(), 1, "tickets are valid after a restart");
    assert!(claim_next::<B>(&*fleet, "v").await.is_none(), "its lease has not expired");
    fleet.put_stats(&ticket, CastStats { bytes: 7, ..CastStats::default() }).await;
    assert_eq!(fleet.stats(&queued).await.unwrap().bytes, 7);
    fleet.register_worker(&ticket.worker, &NodeInfo::default()).await.unwrap();
    assert_eq!(claim_next::<B>(&*fleet, "w").await.unwrap().ticket.epoch, 3);
}

/// Everything that a fleet returns about some casts.
async fn dump(fleet: &dyn Fleet, ids: &[&CastId]) -> String {
    let mut dump = String::new();
    for id in ids {
        let cast = get_cast(fleet, id).await;
        dump += &format!(
            "{cast:?} {:?} {:?}\n",
            events(fleet, id).await,
            fleet.find_by_key(cast.key.as_ref().unwrap()).await
        );
    }
    let due = due_entries(fleet, 100).await;
    dump + &format!("{due:?} {:?} {:?}", fleet.backlog().await.unwrap(), fleet.count(None).await.unwrap())
}
