//! Events are told.

use std::collections::HashSet;
use std::time::Duration;

use pagecast_fleet::*;

use super::make::*;

/// What is due: cast and event.
async fn due(fleet: &dyn Fleet) -> Vec<(CastId, u64)> {
    let due = super::make::due(fleet, 100).await;
    due.into_iter().map(|notice| (notice.cast.id, notice.event.seq)).collect()
}

/// The first that is due.
async fn first(fleet: &dyn Fleet) -> Notice {
    super::make::due(fleet, 10).await.remove(0)
}

/// A cast with so many events.
async fn with_events(fleet: &dyn Fleet, now: UnixMs, events: u64) -> CastId {
    let id = put(fleet, wish(now)).await;
    if events > 1 {
        let worker = WorkerId("w".to_owned());
        let claim = fleet.claim(&worker, Duration::from_secs(3600), &|_| true).await.unwrap().unwrap();
        for _ in 2..events {
            fleet.report(&claim.ticket, Happening::Restarted).await.unwrap();
        }
    }
    id
}

fn attempt(seq: u64, at_ms: UnixMs) -> Attempt {
    let url = "https://receiver.example.com/hook".to_owned();
    Attempt { seq, part: 0, at_ms, took_ms: 7, url, status: Some(500), error: Some("HTTP 500".to_owned()) }
}

pub(crate) async fn events_of_a_cast_are_told_in_order<B: Backend>() {
    let mut backend = B::make();
    let a = with_events(&*backend.fleet(), backend.now(), 3).await;
    backend.pass(TICK);
    let b = with_events(&*backend.fleet(), backend.now(), 2).await;
    backend.pass(TICK);
    for (expected, done) in [
        (vec![(&a, 1), (&b, 1)], (&a, 1)),
        (vec![(&b, 1), (&a, 2)], (&a, 2)),
        (vec![(&b, 1), (&a, 3)], (&b, 1)),
        (vec![(&a, 3), (&b, 2)], (&b, 2)),
        (vec![(&a, 3)], (&a, 3)),
        (vec![], (&a, 3)),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|(id, seq)| (id.clone(), seq)).collect();
        let mut found = due(&*backend.fleet()).await;
        backend.restart();
        assert_eq!(due(&*backend.fleet()).await, found, "after a restart it is the same");
        found.sort();
        let mut sorted = expected;
        sorted.sort();
        assert_eq!(found, sorted);
        backend.fleet().settle(done.0, done.1, Settled::Done, None).await.unwrap();
        backend.pass(TICK);
    }
    let fleet = backend.fleet();
    assert_eq!(fleet.backlog().await.unwrap(), Backlog::default());
    let ticket = Ticket { cast: b.clone(), worker: WorkerId("w".to_owned()), epoch: 1 };
    fleet.report(&ticket, over()).await.unwrap();
    let notice = first(&*fleet).await;
    assert_eq!((notice.cast.id, notice.event.seq, notice.tries), (b.clone(), 3, 0));
    assert_eq!((notice.cast.state, notice.age, notice.parts_done), (State::Ended, None, 0));
    assert_eq!(notice.event.what, over());
    assert_eq!(notice.event.id(&b), format!("{b}-3"));
}

pub(crate) async fn one_that_is_tried_again_holds_up_those_behind_it<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let a = with_events(&*fleet, backend.now(), 3).await;
    assert_eq!(fleet.next_due().await.unwrap(), None, "what is due is not to be waited for");
    let pause = Duration::from_secs(10);
    for tries in 0..3 {
        let notice = first(&*fleet).await;
        assert_eq!((notice.event.seq, notice.tries), (1, tries));
        let took = Duration::from_millis(7);
        assert_eq!(notice.age, (tries > 0).then(|| took + pause * tries));
        let log = Some(attempt(1, backend.now()));
        fleet.settle(&a, 1, Settled::Again(pause), log).await.unwrap();
        assert!(due(&*fleet).await.is_empty(), "those behind it wait too");
        assert_eq!(fleet.next_due().await.unwrap(), Some(pause));
        backend.pass(pause - TICK);
        assert!(due(&*fleet).await.is_empty());
        backend.pass(TICK);
    }
    let backlog = fleet.backlog().await.unwrap();
    assert_eq!((backlog.waiting, backlog.given_up), (3, 0));
    assert_eq!(backlog.oldest_ms, Some(events(&*fleet, &a).await[0].at_ms));
    fleet.settle(&a, 1, Settled::Done, None).await.unwrap();
    assert_eq!(due(&*fleet).await, [(a.clone(), 2)]);
    assert_eq!(fleet.attempts(&a).await.unwrap().len(), 3);
}

pub(crate) async fn parts_of_an_event_are_counted<B: Backend>() {
    let mut backend = B::make();
    let a = with_events(&*backend.fleet(), backend.now(), 2).await;
    backend.fleet().settle(&a, 1, Settled::Again(Duration::ZERO), None).await.unwrap();
    backend.fleet().settle(&a, 1, Settled::Part(1), Some(attempt(1, backend.now()))).await.unwrap();
    backend.restart();
    let fleet = backend.fleet();
    let notice = first(&*fleet).await;
    assert_eq!(
        (notice.event.seq, notice.parts_done, notice.tries),
        (1, 1, 0),
        "the next one has all its tries"
    );
    assert_eq!(notice.age, None);
    fleet.settle(&a, 1, Settled::Again(Duration::ZERO), None).await.unwrap();
    let notice = first(&*fleet).await;
    assert_eq!((notice.event.seq, notice.parts_done, notice.tries), (1, 1, 1));
    fleet.settle(&a, 1, Settled::Done, None).await.unwrap();
    assert_eq!(due(&*fleet).await, [(a, 2)]);
}

pub(crate) async fn what_was_given_up_is_told_when_asked_for<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let a = with_events(&*fleet, backend.now(), 4).await;
    for seq in [1, 2] {
        assert_eq!(due(&*fleet).await, [(a.clone(), seq)]);
        fleet.settle(&a, seq, Settled::Part(1), None).await.unwrap();
        fleet.settle(&a, seq, Settled::GivenUp, Some(attempt(seq, backend.now()))).await.unwrap();
    }
    assert_eq!(due(&*fleet).await, [(a.clone(), 3)], "what was given up holds up nothing");
    let backlog = fleet.backlog().await.unwrap();
    assert_eq!((backlog.waiting, backlog.given_up), (2, 2));
    fleet.settle(&a, 3, Settled::Again(Duration::from_secs(60)), None).await.unwrap();
    assert_eq!(fleet.redeliver(&a, Some(1)).await.unwrap().again, 1);
    let notice = first(&*fleet).await;
    assert_eq!((notice.event.seq, notice.tries, notice.parts_done), (1, 0, 0), "as if never tried");
    assert_eq!(fleet.redeliver(&a, None).await.unwrap().again, 1, "the other one");
    assert_eq!(fleet.redeliver(&a, None).await.unwrap().again, 0);
    for seq in 1..=4 {
        assert_eq!(due(&*fleet).await, [(a.clone(), seq)]);
        fleet.settle(&a, seq, Settled::Done, None).await.unwrap();
    }
    assert_eq!(fleet.backlog().await.unwrap(), Backlog::default());
}

pub(crate) async fn what_was_told_is_told_again_when_asked_for<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let a = with_events(&*fleet, backend.now(), 2).await;
    fleet.settle(&a, 1, Settled::Done, None).await.unwrap();
    fleet.settle(&a, 2, Settled::Again(Duration::from_secs(60)), None).await.unwrap();
    assert_eq!(fleet.redeliver(&a, Some(2)).await.unwrap().again, 1);
    assert_eq!(due(&*fleet).await, [(a.clone(), 2)], "one that waits is told at once");
    fleet.settle(&a, 2, Settled::Done, None).await.unwrap();
    assert!(due(&*fleet).await.is_empty());
    let mut changes = fleet.changes();
    changes.mark_unchanged();
    assert_eq!(fleet.redeliver(&a, Some(1)).await.unwrap().again, 1);
    changes.changed().await.unwrap();
    assert_eq!(due(&*fleet).await, [(a.clone(), 1)]);
    for seq in [0, 3, u64::MAX] {
        assert_eq!(fleet.redeliver(&a, Some(seq)).await.unwrap().again, 0, "there is no event {seq}");
    }
}

pub(crate) async fn whoever_asks_hears_what_waits<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let a = with_events(&*fleet, backend.now(), 4).await;
    fleet.settle(&a, 1, Settled::GivenUp, None).await.unwrap();
    let minute = Duration::from_secs(60);
    fleet.settle(&a, 2, Settled::Again(minute), None).await.unwrap();
    let asked = fleet.redeliver(&a, Some(4)).await.unwrap();
    assert_eq!(
        asked,
        Redelivered { again: 1, waiting: 3, next: Some(minute) },
        "the first one holds up the rest"
    );
    assert!(due(&*fleet).await.is_empty());
    let asked = fleet.redeliver(&a, None).await.unwrap();
    assert_eq!(asked, Redelivered { again: 1, waiting: 4, next: Some(Duration::ZERO) });
    for seq in 1..=4 {
        assert_eq!(due(&*fleet).await, [(a.clone(), seq)], "what waited is told at once");
        fleet.settle(&a, seq, Settled::Done, None).await.unwrap();
    }
    assert_eq!(fleet.redeliver(&a, None).await.unwrap(), Redelivered::default());
}

pub(crate) async fn who_waited_longest_comes_first<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for _ in 0..6 {
        made.push((with_events(&*fleet, backend.now(), 1).await, 1));
        backend.pass(TICK);
    }
    assert_eq!(due(&*fleet).await, made);
    let some: Vec<_> = super::make::due(&*fleet, 2).await.into_iter().map(|notice| notice.cast.id).collect();
    assert_eq!(some, [made[0].0.clone(), made[1].0.clone()]);
    fleet.settle(&made[0].0, 1, Settled::Again(Duration::ZERO), None).await.unwrap();
    made.rotate_left(1);
    assert_eq!(due(&*fleet).await, made, "one that was tried goes to the end");
    assert!(super::make::due(&*fleet, 0).await.is_empty());
    let skip = HashSet::from([made[0].0.clone(), made[2].0.clone()]);
    let some: Vec<_> = fleet.due(2, &skip).await.unwrap().into_iter().map(|notice| notice.cast.id).collect();
    assert_eq!(some, [made[1].0.clone(), made[3].0.clone()], "whoever tells of some of them asks for others");
}

pub(crate) async fn casts_that_nobody_is_told_of<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let new = NewCast { notify: false, ..wish(backend.now()) };
    let claim = begun::<B>(&*fleet, "w", new).await;
    fleet.report(&claim.ticket, over()).await.unwrap();
    assert_eq!(story(&*fleet, &claim.cast.id).await.len(), 3);
    assert!(due(&*fleet).await.is_empty());
    assert_eq!(fleet.redeliver(&claim.cast.id, Some(1)).await.unwrap().again, 0);
    assert_eq!(fleet.redeliver(&claim.cast.id, None).await.unwrap().again, 0);
    assert_eq!(fleet.backlog().await.unwrap(), Backlog::default());
}

pub(crate) async fn attempts_are_remembered<B: Backend>() {
    let mut backend = B::make();
    let a = with_events(&*backend.fleet(), backend.now(), 1).await;
    let b = with_events(&*backend.fleet(), backend.now(), 1).await;
    let fleet = backend.fleet();
    assert!(fleet.attempts(&a).await.unwrap().is_empty());
    for n in 0..1010 {
        let log = Some(attempt(1, n));
        fleet.settle(&a, 1, Settled::Again(Duration::ZERO), log).await.unwrap();
    }
    let only = attempt(1, 5);
    fleet.settle(&b, 1, Settled::Done, Some(only.clone())).await.unwrap();
    drop(fleet);
    backend.restart();
    let fleet = backend.fleet();
    let attempts = fleet.attempts(&a).await.unwrap();
    assert!(attempts.iter().map(|attempt| attempt.at_ms).eq(10..1010), "the last 1000, in order");
    assert_eq!(fleet.attempts(&b).await.unwrap(), [only]);
}
