//! What time does to casts.

use std::time::Duration;

use pagecast_core::cast::EndReason;
use pagecast_fleet::*;

use super::make::*;

/// All of its events are told.
async fn settle_all(fleet: &dyn Fleet, settled: Settled) {
    while let Some(notice) = due(fleet, 1).await.pop() {
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
    let new = || NewCast { queue: B::QUEUE, ..wish(backend.now()) };
    let begun = begun::<B>(&*fleet, "w", new()).await;
    let mut late = Vec::new();
    for n in 0..120 {
        let key = (n == 0).then(|| Key("key".to_owned()));
        late.push(put(&*fleet, NewCast { key, ..new() }).await);
    }
    let patient = NewCast { queue: Duration::MAX, ..wish(backend.now()) };
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

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_MS: i64 = 3_600_000;
/// Further than any pause, lease or deadline.
const EIGHT_DAYS_MS: i64 = 8 * 24 * HOUR_MS;

pub(crate) async fn a_clock_that_is_set_back_stops_no_callbacks<B: Backend>() {
    let mut backend = B::make();
    let id = put(&*backend.fleet(), wish(backend.now())).await;
    let pause = Duration::from_secs(10);
    backend.fleet().settle(&id, 1, Settled::Again(pause), None).await.unwrap();
    backend.set_clock(-2 * HOUR_MS);
    assert!(due(&*backend.fleet(), 1).await.is_empty());
    assert_eq!(backend.fleet().next_due().await.unwrap(), Some(pause));
    backend.pass(pause);
    assert_eq!(due(&*backend.fleet(), 1).await[0].age, Some(pause), "as if nothing had been");
    // The service ends, the clock is set back once more, and it begins again.
    backend.fleet().settle(&id, 1, Settled::Again(pause), None).await.unwrap();
    backend.set_clock(-2 * HOUR_MS);
    backend.restart();
    backend.pass(pause);
    let told = due(&*backend.fleet(), 1).await;
    assert_eq!((told.len(), told[0].tries), (1, 2));
}

pub(crate) async fn no_pause_is_longer_than_the_longest<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let id = put(&*fleet, wish(backend.now())).await;
    fleet.settle(&id, 1, Settled::Again(Duration::MAX), None).await.unwrap();
    assert_eq!(fleet.next_due().await.unwrap(), Some(MAX_RETRY_PAUSE));
    backend.pass(MAX_RETRY_PAUSE);
    assert_eq!(due(&*fleet, 1).await.len(), 1);
}

pub(crate) async fn leases_and_deadlines_do_not_mind_clocks_that_are_set<B: Backend>() {
    for by_ms in [EIGHT_DAYS_MS, -EIGHT_DAYS_MS] {
        let backend = B::make();
        let fleet = backend.fleet();
        let owned = begun::<B>(&*fleet, "v", wish(backend.now())).await;
        let queued = put(&*fleet, NewCast { queue: B::QUEUE, ..wish(backend.now()) }).await;
        fleet.beat(&WorkerId("v".to_owned()), Load::default()).await;
        backend.set_clock(by_ms);
        fleet.sweep().await.unwrap();
        assert_eq!(get(&*fleet, &queued).await.state, State::Queued, "its deadline is not over");
        assert_eq!(fleet.workers().await.len(), 1);
        let claim = take::<B>(&*fleet, "w").await.unwrap();
        assert_eq!(claim.cast.id, queued, "the other one's lease is not over");
        let late = put(&*fleet, NewCast { queue: B::QUEUE, ..wish(backend.now()) }).await;
        backend.pass(B::LEASE.max(B::QUEUE));
        fleet.sweep().await.unwrap();
        assert_eq!(get(&*fleet, &late).await.state, State::Ended, "its deadline is");
        assert_eq!(take::<B>(&*fleet, "w").await.unwrap().cast.id, owned.cast.id, "its lease is");
    }
}

pub(crate) async fn nothing_is_forgotten_right_after_the_clock_was_set<B: Backend>() {
    let mut backend = B::make();
    let id = closed::<B>(&*backend.fleet(), wish(backend.now())).await;
    settle_all(&*backend.fleet(), Settled::Done).await;
    let is_there = async |backend: &B| {
        backend.fleet().sweep().await.unwrap();
        backend.fleet().get(&id).await.unwrap().is_some()
    };
    assert!(is_there(&backend).await);
    // Eight days ahead, for three seconds.
    backend.set_clock(EIGHT_DAYS_MS);
    assert!(is_there(&backend).await);
    backend.pass(Duration::from_secs(3));
    assert!(is_there(&backend).await);
    backend.set_clock(-EIGHT_DAYS_MS);
    backend.pass(HOUR * 2);
    assert!(is_there(&backend).await, "it is not old");
    // While the service is off, or just before it ends.
    backend.set_clock(EIGHT_DAYS_MS);
    backend.restart();
    assert!(is_there(&backend).await);
    backend.pass(HOUR - TICK);
    assert!(is_there(&backend).await);
    backend.restart();
    assert!(is_there(&backend).await, "the doubt outlives a restart");
    backend.pass(TICK);
    assert!(!is_there(&backend).await, "a clock that stays as it is set is right");
}
