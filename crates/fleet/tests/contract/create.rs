//! Casts are asked for.

use std::time::Duration;

use pagecast_fleet::*;
use serde_json::json;
use tokio::task::JoinSet;

use super::make::*;

pub(crate) async fn a_cast_waits_as_it_was_asked_for<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut new = keyed(backend.now(), "key", Hold::WhileLive);
    new.request = json!({ "a": [1, null, "ü"], "b": { "c": 1.5 } });
    let before = backend.now();
    let Created::New(made) = fleet.create(new.clone()).await.unwrap() else { panic!("it is new") };
    let found = get(&*fleet, &new.id).await;
    for cast in [&made, &found, &fleet.find(new.key.as_ref().unwrap()).await.unwrap().unwrap()] {
        assert_eq!((&cast.id, &cast.app, &cast.origin), (&new.id, &new.app, &new.origin));
        assert_eq!((&cast.key, &cast.request, &cast.spec), (&new.key, &new.request, &new.spec));
        assert_eq!((cast.state, &cast.end, cast.epoch), (State::Queued, &None, 0));
        assert_eq!((cast.started_ms, cast.live_ms, cast.ended_ms), (None, None, None));
        assert_eq!((cast.stop_asked, cast.closed), (false, false));
        assert_eq!((&cast.worker, &cast.report), (&None, &None));
        assert!((before..=backend.now()).contains(&cast.created_ms), "{}", cast.created_ms);
    }
    assert_eq!(story(&*fleet, &new.id).await, ["queued"]);
    assert!(matches!(fleet.create(new).await.unwrap(), Created::Exists(cast) if cast.id == found.id));
    let other = wish(backend.now());
    assert!(fleet.get(&other.id).await.unwrap().is_none());
    assert!(fleet.find(&Key("other".to_owned())).await.unwrap().is_none());
}

pub(crate) async fn a_key_has_one_cast_until_that_has_ended<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let key = Key("key".to_owned());
    let again = || fleet.create(keyed(backend.now(), "key", Hold::WhileLive));
    let first = put(&*fleet, keyed(backend.now(), "key", Hold::WhileLive)).await;
    let exists = |created: Created| matches!(created, Created::Exists(cast) if cast.id == first);
    assert!(exists(again().await.unwrap()), "queued");
    put(&*fleet, keyed(backend.now(), "another", Hold::WhileLive)).await;
    let claim = take::<B>(&*fleet, "w").await.unwrap();
    assert!(exists(again().await.unwrap()), "starting");
    fleet.report(&claim.ticket, Happening::Live).await.unwrap();
    assert!(exists(again().await.unwrap()), "live");
    fleet.report(&claim.ticket, over()).await.unwrap();
    assert_eq!(fleet.find(&key).await.unwrap().unwrap().id, first, "it had it last");
    backend.pass(TICK);
    let Created::New(second) = again().await.unwrap() else { panic!("the first one has ended") };
    assert_eq!(fleet.find(&key).await.unwrap().unwrap().id, second.id);
    fleet.close(&claim.ticket, None, None).await.unwrap();
    assert!(matches!(again().await.unwrap(), Created::Exists(cast) if cast.id == second.id));
}

pub(crate) async fn a_key_is_held_until_its_time<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
    let until = Hold::Until(backend.now() + 3_600_000);
    let claim = begun::<B>(&*fleet, "w", keyed(backend.now(), "ends early", until)).await;
    fleet.report(&claim.ticket, over()).await.unwrap();
    fleet.close(&claim.ticket, None, None).await.unwrap();
    let late = begun::<B>(&*fleet, "w", keyed(backend.now(), "ends late", until)).await;
    let create = |key: &str| fleet.create(keyed(backend.now(), key, Hold::WhileLive));
    assert!(matches!(create("ends early").await.unwrap(), Created::Exists(cast) if cast.id == claim.cast.id));
    backend.pass(hour - minute);
    assert!(matches!(create("ends early").await.unwrap(), Created::Exists(_)), "its time is not over");
    backend.pass(minute);
    assert!(matches!(create("ends early").await.unwrap(), Created::New(_)), "its time is over");
    assert!(
        matches!(create("ends late").await.unwrap(), Created::Exists(_)),
        "its time is over, but not itself"
    );
    fleet.report(&late.ticket, over()).await.unwrap();
    assert!(matches!(create("ends late").await.unwrap(), Created::New(_)));
}

pub(crate) async fn an_application_has_its_quota<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let of = |app: &str| NewCast { app: app.to_owned(), quota: 2, ..wish(backend.now()) };
    let first = begun::<B>(&*fleet, "w", of("a")).await;
    let second = put(&*fleet, NewCast { key: Some(Key("key".to_owned())), ..of("a") }).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), Created::TooMany));
    let again = NewCast { key: Some(Key("key".to_owned())), ..of("a") };
    assert!(matches!(fleet.create(again).await.unwrap(), Created::Exists(cast) if cast.id == second));
    put(&*fleet, of("b")).await;
    fleet.report(&first.ticket, over()).await.unwrap();
    put(&*fleet, of("a")).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), Created::TooMany));
    fleet.order(&second, Command::Stop).await.unwrap();
    put(&*fleet, of("a")).await;
    assert!(matches!(fleet.create(NewCast { quota: 0, ..of("c") }).await.unwrap(), Created::TooMany));
}

pub(crate) async fn what_was_asked_for_lately_takes_places<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let of = |app: &str, quota| NewCast {
        quota,
        queue: Duration::ZERO,
        app: app.to_owned(),
        ..wish(backend.now())
    };
    let mut made = 0;
    for n in 0..40 {
        match fleet.create(of("a", 4)).await.unwrap() {
            // One does not wait, and another is stopped.
            Created::New(cast) if n % 2 == 0 => fleet.order(&cast.id, Command::Stop).await.unwrap(),
            Created::New(_) => fleet.sweep().await.unwrap(),
            Created::TooMany => continue,
            other => panic!("{other:?}"),
        }
        made += 1;
    }
    assert_eq!(made, 8, "as many as may run, and as many again");
    put(&*fleet, of("b", 4)).await;
    backend.pass(Duration::from_secs(60));
    put(&*fleet, of("a", 4)).await;
    // What was begun takes a place as long as it runs.
    for _ in 0..20 {
        let claim =
            begun::<B>(&*fleet, "w", NewCast { app: "c".to_owned(), quota: 1, ..wish(backend.now()) }).await;
        fleet.report(&claim.ticket, over()).await.unwrap();
    }
}

pub(crate) async fn an_application_keeps_as_much_as_it_may<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let of = |app: &str| {
        let mut new =
            NewCast { app: app.to_owned(), max_bytes: 450_000, notify: false, ..wish(backend.now()) };
        new.spec.source.context.css = Some("x".repeat(100_000));
        new
    };
    let mut made = Vec::new();
    let kept = loop {
        match fleet.create(of("a")).await.unwrap() {
            Created::New(cast) => made.push(cast.id),
            Created::OverBytes(kept) => break kept,
            other => panic!("{other:?}"),
        }
    };
    assert!(made.len() == 4 && (400_000..450_000).contains(&kept), "{kept} for {}", made.len());
    put(&*fleet, of("b")).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), Created::OverBytes(_)));
    // What is put into the page of one that is over is not needed any more.
    fleet.order(&made[0], Command::Stop).await.unwrap();
    backend.pass(TICK);
    put(&*fleet, of("a")).await;
    // What is over makes room, the oldest first.
    let over = put(&*fleet, NewCast { app: "c".to_owned(), notify: false, ..wish(backend.now()) }).await;
    fleet.order(&over, Command::Stop).await.unwrap();
    let before = fleet.get(&over).await.unwrap();
    let small = NewCast { app: "c".to_owned(), max_bytes: 2500, notify: false, ..wish(backend.now()) };
    let mut held = 0;
    for _ in 0..10 {
        let id = put(&*fleet, NewCast { id: wish(backend.now()).id, ..small.clone() }).await;
        fleet.order(&id, Command::Stop).await.unwrap();
        held += 1;
        backend.pass(TICK);
    }
    assert!(before.is_some() && held == 10 && fleet.get(&over).await.unwrap().is_none());
    let left = fleet.count(Some("c")).await.unwrap()[3].1;
    assert!((1..6).contains(&left), "{left}");
    let too_large = NewCast { max_bytes: 10, ..of("d") };
    assert!(matches!(fleet.create(too_large).await.unwrap(), Created::OverBytes(0)));
}

pub(crate) async fn the_queue_has_an_end<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let of = |app: &str| NewCast { app: app.to_owned(), queue_limit: 2, ..wish(backend.now()) };
    put(&*fleet, of("a")).await;
    put(&*fleet, of("b")).await;
    assert!(matches!(fleet.create(of("c")).await.unwrap(), Created::Full));
    take::<B>(&*fleet, "w").await.unwrap();
    put(&*fleet, of("c")).await;
    assert!(matches!(fleet.create(of("a")).await.unwrap(), Created::Full));
}

pub(crate) async fn of_many_who_want_a_key_one_gets_it<B: Backend>() {
    let backend = B::make();
    let mut tasks = JoinSet::new();
    for n in 0..90 {
        let (fleet, new) =
            (backend.fleet(), keyed(backend.now(), &format!("key {}", n % 3), Hold::WhileLive));
        tasks.spawn(async move { fleet.create(new).await.unwrap() });
    }
    let (mut new, mut existing) = (Vec::new(), Vec::new());
    for created in tasks.join_all().await {
        match created {
            Created::New(cast) => new.push((cast.key, cast.id)),
            Created::Exists(cast) => existing.push((cast.key, cast.id)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((new.len(), existing.len()), (3, 87));
    assert!(existing.iter().all(|cast| new.contains(cast)), "all hear of the one that has the key");
    let waiting = backend.fleet().count(None).await.unwrap();
    assert_eq!(waiting[0], (State::Queued, 3));
}

pub(crate) async fn everything_is_there_after_a_restart<B: Backend>() {
    let mut backend = B::make();
    let queued = put(&*backend.fleet(), keyed(backend.now(), "queued", Hold::WhileLive)).await;
    let ended = {
        let fleet = backend.fleet();
        let first = take::<B>(&*fleet, "w").await.unwrap();
        assert_eq!(first.cast.id, queued);
        fleet.release(&first.ticket).await.unwrap();
        let again = take::<B>(&*fleet, "w").await.unwrap();
        fleet.report(&again.ticket, Happening::Live).await.unwrap();
        fleet.order(&queued, Command::Snapshot).await.unwrap();
        let mut ended = begun::<B>(&*fleet, "w", keyed(backend.now(), "ended", Hold::WhileLive)).await;
        fleet.report(&ended.ticket, over()).await.unwrap();
        fleet.close(&ended.ticket, None, Some(json!({ "how": "well" }))).await.unwrap();
        ended.cast = get(&*fleet, &ended.cast.id).await;
        ended
    };
    let before = everything(&*backend.fleet(), &[&queued, &ended.cast.id]).await;
    backend.restart();
    let fleet = backend.fleet();
    assert_eq!(everything(&*fleet, &[&queued, &ended.cast.id]).await, before);
    let ticket = Ticket { cast: queued.clone(), worker: WorkerId("w".to_owned()), epoch: 2 };
    assert_eq!(fleet.commands(&ticket).await.unwrap().len(), 1, "tickets are good after a restart");
    assert!(take::<B>(&*fleet, "v").await.is_none(), "its lease is not over");
    fleet.tell(&ticket, Vitals { bytes: 7, ..Vitals::default() }).await;
    assert_eq!(fleet.vitals(&queued).await.unwrap().bytes, 7);
    fleet.adopt(&ticket.worker).await.unwrap();
    assert_eq!(take::<B>(&*fleet, "w").await.unwrap().ticket.epoch, 3);
}

/// All that a fleet says of some casts.
async fn everything(fleet: &dyn Fleet, ids: &[&CastId]) -> String {
    let mut said = String::new();
    for id in ids {
        let cast = get(fleet, id).await;
        said += &format!(
            "{cast:?} {:?} {:?}\n",
            events(fleet, id).await,
            fleet.find(cast.key.as_ref().unwrap()).await
        );
    }
    let due = due(fleet, 100).await;
    said + &format!("{due:?} {:?} {:?}", fleet.backlog().await.unwrap(), fleet.count(None).await.unwrap())
}
