//! Servers list and count casts.

use std::time::Duration;

use pagecast_fleet::*;

use super::fixture::*;

async fn ids(fleet: &dyn Fleet, filter: Filter) -> Vec<CastId> {
    let page = fleet.list(&Filter { limit: 100, ..filter }).await.unwrap();
    assert!(!page.has_more);
    page.casts.into_iter().map(|cast| cast.id).collect()
}

pub(crate) async fn the_newest_come_first_page_by_page<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for n in 0..25 {
        made.push(create_cast(&*fleet, new_cast(backend.now())).await);
        // Several casts are created in the same millisecond.
        if n % 4 == 0 {
            backend.advance(TIME_STEP);
        }
    }
    // Some have other states, which must not change the order.
    for _ in 0..10 {
        let claim = claim_next::<B>(&*fleet, "w").await.unwrap();
        fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    }
    made.reverse();
    let mut listed = Vec::new();
    let mut filter = Filter { limit: 10, ..Filter::default() };
    for (len, more) in [(10, true), (10, true), (5, false)] {
        let page = fleet.list(&filter).await.unwrap();
        assert_eq!((page.casts.len(), page.has_more), (len, more));
        filter.after = page.casts.last().map(|cast| cast.id.clone());
        listed.extend(page.casts.into_iter().map(|cast| cast.id));
    }
    assert_eq!(listed, made);
    assert!(fleet.list(&filter).await.unwrap().casts.is_empty());
    let all = fleet.list(&Filter { limit: 25, ..Filter::default() }).await.unwrap();
    assert_eq!((all.casts.len(), all.has_more), (25, false));
    // A page may start behind a cast that was deleted.
    let after = CastId::new(backend.now(), [0xff; 10]);
    assert_eq!(ids(&*fleet, Filter { after: Some(after), ..Filter::default() }).await, made);
    assert_eq!(fleet.list(&Filter::default()).await.unwrap().casts.len(), 1, "there is no empty page");
}

pub(crate) async fn filters_select_casts<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for (app, api) in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")] {
        let new = NewCast { app: app.to_owned(), api: api.to_owned(), ..new_cast(backend.now()) };
        made.push((create_cast(&*fleet, new).await, backend.now()));
        backend.advance(Duration::from_millis(10));
    }
    let ended = claim_next::<B>(&*fleet, "w").await.unwrap();
    fleet.report_event(&ended.ticket, ended_event()).await.unwrap();
    let live = claim_next::<B>(&*fleet, "w").await.unwrap();
    fleet.report_event(&live.ticket, EventKind::Live).await.unwrap();
    claim_next::<B>(&*fleet, "w").await.unwrap();
    let any = Filter::default;
    let of = |app: &str| Filter { app: Some(app.to_owned()), ..any() };
    let by = |api: &str| Filter { api: Some(api.to_owned()), ..any() };
    for (filter, expected) in [
        (any(), &[3, 2, 1, 0][..]),
        (of("a"), &[1, 0]),
        (of("c"), &[]),
        (by("x"), &[2, 0]),
        (Filter { api: Some("y".to_owned()), ..of("b") }, &[3]),
        (Filter { states: vec![CastState::Ended], ..any() }, &[0]),
        (Filter { states: vec![CastState::Live, CastState::Queued, CastState::Live], ..any() }, &[3, 1]),
        (Filter { states: vec![CastState::Starting], ..of("b") }, &[2]),
        (Filter { states: vec![CastState::Starting], ..of("a") }, &[]),
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

pub(crate) async fn the_queue_has_an_order<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    assert_eq!(fleet.queue().await.unwrap(), QueueState::default());
    let running = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let (app, oldest) = (running.cast.app.clone(), backend.now());
    let mut queued = Vec::new();
    for _ in 0..2 {
        queued.push(create_cast(&*fleet, new_cast(backend.now())).await);
        backend.advance(std::time::Duration::from_secs(1));
    }
    let other = NewCast { app: format!("{app}-other"), ..new_cast(backend.now()) };
    let weight = u64::from(pagecast_fleet::cast::weight(&other.spec));
    queued.insert(0, create_cast(&*fleet, other).await);
    let queue = fleet.queue().await.unwrap();
    assert_eq!((queue.casts, queue.weight), (3, 3 * weight));
    assert_eq!(queue.order, queued, "the application without a running cast comes first");
    let age = queue.oldest_ms.unwrap() - oldest;
    assert!((0..1000).contains(&age), "{age}");
}

pub(crate) async fn casts_are_counted<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let count = async |app: Option<&str>| {
        let count = fleet.count(app).await.unwrap();
        CastState::ALL.map(|state| count.iter().find(|(of, _)| *of == state).unwrap().1)
    };
    assert_eq!(count(None).await, [0; 4]);
    for app in ["a", "a", "a", "b", "b"] {
        create_cast(&*fleet, NewCast { app: app.to_owned(), ..new_cast(backend.now()) }).await;
    }
    assert_eq!((count(None).await, count(Some("a")).await), ([5, 0, 0, 0], [3, 0, 0, 0]));
    let worker = WorkerId("w".to_owned());
    let of_a = |cast: &QueuedCast| cast.app == "a";
    let first = fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &of_a).await.unwrap().unwrap();
    fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &of_a).await.unwrap().unwrap();
    fleet.report_event(&first.ticket, EventKind::Live).await.unwrap();
    assert_eq!((count(None).await, count(Some("a")).await), ([3, 1, 1, 0], [1, 1, 1, 0]));
    fleet.report_event(&first.ticket, ended_event()).await.unwrap();
    fleet.close(&first.ticket, None, None).await.unwrap();
    assert_eq!((count(None).await, count(Some("b")).await), ([3, 1, 0, 1], [2, 0, 0, 0]));
    assert_eq!(count(Some("c")).await, [0; 4]);
}
