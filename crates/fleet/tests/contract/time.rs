//! What time does to casts.

use pagecast_core::cast::EndReason;
use pagecast_fleet::*;

use super::make::*;

/// All of its events are told.
async fn settle_all(fleet: &dyn Fleet, settled: Settled) {
    while let Some(notice) = fleet.due(1).await.unwrap().pop() {
        fleet.settle(&notice.cast.id, notice.event.seq, settled, None).await.unwrap();
    }
}

/// A cast that ended and is closed.
async fn closed<B: Backend>(fleet: &dyn Fleet, new: NewCast) -> CastId {
    let claim = begun::<B>(fleet, "w", new).await;
    fleet.report(&claim.ticket, over()).await.unwrap();
    fleet.close(&claim.ticket, None, None).await.unwrap();
    claim.cast.id
}

pub(crate) async fn one_that_nobody_began_in_time_has_failed<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let until = backend.now() + i64::try_from(B::QUEUE.as_millis()).unwrap();
    let new = || NewCast { queue_until_ms: until, ..wish(backend.now()) };
    let begun = begun::<B>(&*fleet, "w", new()).await;
    let mut late = Vec::new();
    for n in 0..120 {
        let key = (n == 0).then(|| Key("key".to_owned()));
        late.push(put(&*fleet, NewCast { key, ..new() }).await);
    }
    let patient = NewCast { queue_until_ms: i64::MAX, ..wish(backend.now()) };
    let patient = put(&*fleet, patient).await;
    fleet.sweep().await.unwrap();
    assert_eq!(fleet.count(None).await.unwrap()[0], (State::Queued, 121));
    backend.pass(B::QUEUE);
    fleet.renew(&begun.ticket, B::LEASE).await.unwrap();
    let next = take::<B>(&*fleet, "w").await.unwrap();
    assert_eq!(next.cast.id, patient, "one that is too late is not begun, swept or not");
    fleet.sweep().await.unwrap();
    for id in &late {
        let cast = get(&*fleet, id).await;
        assert_eq!((cast.state, cast.closed, cast.started_ms), (State::Ended, true, None));
        let end = cast.end.unwrap();
        assert_eq!(end.reason, EndReason::StartFailed);
        assert!(end.message.unwrap().contains("room"));
    }
    assert_eq!(story(&*fleet, &late[0]).await, ["queued", "ended"]);
    assert_eq!(get(&*fleet, &begun.cast.id).await.state, State::Starting);
    assert!(take::<B>(&*fleet, "w").await.is_none());
    put(&*fleet, keyed(backend.now(), "key", Hold::WhileLive)).await;
}

pub(crate) async fn what_is_old_is_forgotten<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut old = Vec::new();
    for _ in 0..120 {
        old.push(closed::<B>(&*fleet, keyed(backend.now(), "key", Hold::WhileLive)).await);
    }
    let open = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    fleet.report(&open.ticket, over()).await.unwrap();
    let live = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    settle_all(&*fleet, Settled::Done).await;
    backend.pass(B::HISTORY / 2);
    for claim in [&open, &live] {
        fleet.renew(&claim.ticket, B::LEASE).await.unwrap();
    }
    let young = closed::<B>(&*fleet, wish(backend.now())).await;
    settle_all(&*fleet, Settled::GivenUp).await;
    fleet.sweep().await.unwrap();
    assert_eq!(fleet.count(None).await.unwrap()[3], (State::Ended, 122), "none is old enough");
    backend.pass(B::HISTORY / 2 + TICK);
    fleet.sweep().await.unwrap();
    for id in &old {
        assert!(fleet.get(id).await.unwrap().is_none());
        assert!(matches!(fleet.events(id, 0, 1).await, Err(Error::NoCast(_))));
    }
    assert!(fleet.find(&Key("key".to_owned())).await.unwrap().is_none());
    for id in [&open.cast.id, &live.cast.id, &young] {
        assert!(fleet.get(id).await.unwrap().is_some(), "not closed, not ended, not old enough");
    }
    let count = |n| (State::Ended, n);
    assert_eq!(fleet.count(None).await.unwrap()[3], count(2));
    assert_eq!(fleet.count(Some("app")).await.unwrap()[3], count(2));
    assert_eq!(fleet.list(&Filter { limit: 100, ..Filter::default() }).await.unwrap().casts.len(), 3);
    backend.pass(B::HISTORY);
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&young).await.unwrap().is_none(), "what was given up keeps nothing");
    assert_eq!(fleet.backlog().await.unwrap().given_up, 0);
}

pub(crate) async fn what_has_yet_to_be_told_is_not_forgotten<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let id = closed::<B>(&*fleet, wish(backend.now())).await;
    backend.pass(B::HISTORY + TICK);
    fleet.sweep().await.unwrap();
    for seq in 1..=3 {
        fleet.sweep().await.unwrap();
        assert!(fleet.get(&id).await.unwrap().is_some());
        fleet.settle(&id, seq, Settled::Done, None).await.unwrap();
    }
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&id).await.unwrap().is_none());
}

pub(crate) async fn a_key_that_is_held_is_not_forgotten<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let until = backend.now() + 3 * i64::try_from(B::HISTORY.as_millis()).unwrap();
    let id = closed::<B>(&*fleet, keyed(backend.now(), "key", Hold::Until(until))).await;
    settle_all(&*fleet, Settled::Done).await;
    backend.pass(B::HISTORY * 2);
    fleet.sweep().await.unwrap();
    let again = fleet.create(keyed(backend.now(), "key", Hold::WhileLive)).await.unwrap();
    assert!(matches!(again, Created::Exists(cast) if cast.id == id));
    backend.pass(B::HISTORY * 2);
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&id).await.unwrap().is_none());
}
