//! Casts are listed and counted.

use std::time::Duration;

use pagecast_fleet::*;

use super::make::*;

async fn ids(fleet: &dyn Fleet, filter: Filter) -> Vec<CastId> {
    let page = fleet.list(&Filter { limit: 100, ..filter }).await.unwrap();
    assert!(!page.more);
    page.casts.into_iter().map(|cast| cast.id).collect()
}

pub(crate) async fn the_newest_come_first_page_by_page<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for n in 0..25 {
        made.push(put(&*fleet, wish(backend.now())).await);
        // Several are of the same millisecond.
        if n % 4 == 0 {
            backend.pass(TICK);
        }
    }
    // Some are in other states, which must not matter.
    for _ in 0..10 {
        let claim = take::<B>(&*fleet, "w").await.unwrap();
        fleet.report(&claim.ticket, over()).await.unwrap();
    }
    made.reverse();
    let mut listed = Vec::new();
    let mut filter = Filter { limit: 10, ..Filter::default() };
    for (len, more) in [(10, true), (10, true), (5, false)] {
        let page = fleet.list(&filter).await.unwrap();
        assert_eq!((page.casts.len(), page.more), (len, more));
        filter.after = page.casts.last().map(|cast| cast.id.clone());
        listed.extend(page.casts.into_iter().map(|cast| cast.id));
    }
    assert_eq!(listed, made);
    assert!(fleet.list(&filter).await.unwrap().casts.is_empty());
    let all = fleet.list(&Filter { limit: 25, ..Filter::default() }).await.unwrap();
    assert_eq!((all.casts.len(), all.more), (25, false));
    // A page goes on behind a cast that is not there any more.
    let after = CastId::new(backend.now(), [0xff; 10]);
    assert_eq!(ids(&*fleet, Filter { after: Some(after), ..Filter::default() }).await, made);
    assert_eq!(fleet.list(&Filter::default()).await.unwrap().casts.len(), 1, "there is no empty page");
}

pub(crate) async fn filters_leave_out_what_is_not_asked_for<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for (app, origin) in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")] {
        let new = NewCast { app: app.to_owned(), origin: origin.to_owned(), ..wish(backend.now()) };
        made.push((put(&*fleet, new).await, backend.now()));
        backend.pass(Duration::from_millis(10));
    }
    let ended = take::<B>(&*fleet, "w").await.unwrap();
    fleet.report(&ended.ticket, over()).await.unwrap();
    let live = take::<B>(&*fleet, "w").await.unwrap();
    fleet.report(&live.ticket, Happening::Live).await.unwrap();
    take::<B>(&*fleet, "w").await.unwrap();
    let any = Filter::default;
    let of = |app: &str| Filter { app: Some(app.to_owned()), ..any() };
    let by = |origin: &str| Filter { origin: Some(origin.to_owned()), ..any() };
    for (filter, expected) in [
        (any(), &[3, 2, 1, 0][..]),
        (of("a"), &[1, 0]),
        (of("c"), &[]),
        (by("x"), &[2, 0]),
        (Filter { origin: Some("y".to_owned()), ..of("b") }, &[3]),
        (Filter { states: vec![State::Ended], ..any() }, &[0]),
        (Filter { states: vec![State::Live, State::Queued, State::Live], ..any() }, &[3, 1]),
        (Filter { states: vec![State::Starting], ..of("b") }, &[2]),
        (Filter { states: vec![State::Starting], ..of("a") }, &[]),
        (Filter { since_ms: Some(made[2].1), ..any() }, &[3, 2]),
        (Filter { before_ms: Some(made[2].1), ..any() }, &[1, 0]),
        (Filter { since_ms: Some(made[1].1), before_ms: Some(made[3].1), ..any() }, &[2, 1]),
        (Filter { before_ms: Some(made[2].1), after: Some(made[1].0.clone()), ..any() }, &[0]),
        (Filter { before_ms: Some(made[1].1), after: Some(made[3].0.clone()), ..any() }, &[0]),
        (Filter { since_ms: Some(i64::MAX), ..any() }, &[]),
        (Filter { before_ms: Some(i64::MIN), ..any() }, &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|n| made[*n].0.clone()).collect();
        assert_eq!(ids(&*fleet, filter.clone()).await, expected, "{filter:?}");
    }
}

pub(crate) async fn casts_are_counted<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let count = async |app: Option<&str>| {
        let count = fleet.count(app).await.unwrap();
        State::ALL.map(|state| count.iter().find(|(of, _)| *of == state).unwrap().1)
    };
    assert_eq!(count(None).await, [0; 4]);
    for app in ["a", "a", "a", "b", "b"] {
        put(&*fleet, NewCast { app: app.to_owned(), ..wish(backend.now()) }).await;
    }
    assert_eq!((count(None).await, count(Some("a")).await), ([5, 0, 0, 0], [3, 0, 0, 0]));
    let worker = WorkerId("w".to_owned());
    let of_a = |cast: &Cast| cast.app == "a";
    let first = fleet.claim(&worker, B::LEASE, &of_a).await.unwrap().unwrap();
    fleet.claim(&worker, B::LEASE, &of_a).await.unwrap().unwrap();
    fleet.report(&first.ticket, Happening::Live).await.unwrap();
    assert_eq!((count(None).await, count(Some("a")).await), ([3, 1, 1, 0], [1, 1, 1, 0]));
    fleet.report(&first.ticket, over()).await.unwrap();
    fleet.close(&first.ticket, None, None).await.unwrap();
    assert_eq!((count(None).await, count(Some("b")).await), ([3, 1, 0, 1], [2, 0, 0, 0]));
    assert_eq!(count(Some("c")).await, [0; 4]);
}
