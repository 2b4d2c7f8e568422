//! Owners tell what happens.

use bytes::Bytes;
use pagecast_core::cast::{EndReason, Trouble};
use pagecast_core::push::State as Connection;
use pagecast_fleet::*;
use serde_json::json;

use super::make::*;

pub(crate) async fn the_state_follows<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    let (id, ticket) = (&claim.cast.id, &claim.ticket);
    let pushed = Happening::Push {
        id: 1,
        url: "rtmp://a/b".to_owned(),
        state: Connection::Recovering,
        error: Some("gone".to_owned()),
    };
    fleet.report(ticket, pushed.clone()).await.unwrap();
    assert_eq!(get(&*fleet, id).await.state, State::Starting);
    backend.pass(TICK);
    fleet.report(ticket, Happening::Live).await.unwrap();
    let live = get(&*fleet, id).await;
    assert_eq!(live.state, State::Live);
    assert!(live.live_ms.unwrap() > live.started_ms.unwrap());
    backend.pass(TICK);
    fleet.report(ticket, Happening::Reloaded { trouble: Trouble::Freeze }).await.unwrap();
    fleet.report(ticket, Happening::Live).await.unwrap();
    let still = get(&*fleet, id).await;
    assert_eq!(
        (still.state, still.live_ms),
        (State::Live, live.live_ms),
        "it is live for the first time once"
    );
    backend.pass(TICK);
    fleet.report(ticket, over()).await.unwrap();
    let ended = get(&*fleet, id).await;
    let message = Some("the page said so".to_owned());
    assert_eq!((ended.state, ended.closed), (State::Ended, false));
    assert_eq!(ended.end, Some(End { reason: EndReason::PageEnded, message, cause: None }));
    assert!(ended.ended_ms.unwrap() > ended.live_ms.unwrap());
    assert_eq!(story(&*fleet, id).await, ["queued", "started", "push", "live", "reloaded", "ended"]);
    let events = events(&*fleet, id).await;
    assert_eq!(events[2].what, pushed);
    assert_eq!(events[5].at_ms, ended.ended_ms.unwrap());
    assert!(events.is_sorted_by_key(|event| event.at_ms));
    let some = fleet.events(id, 2, 3).await.unwrap();
    assert_eq!(some, events[2..5]);
    assert!(fleet.events(id, 6, 10).await.unwrap().is_empty());
    assert!(fleet.events(id, u64::MAX, 10).await.unwrap().is_empty());
}

pub(crate) async fn the_end_comes_once<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    let (id, ticket) = (&claim.cast.id, &claim.ticket);
    let end = |reason| Happening::Ended { reason, message: None, cause: None };
    fleet.report(ticket, end(EndReason::GaveUp(Trouble::Crash))).await.unwrap();
    let ended = get(&*fleet, id).await;
    backend.pass(TICK);
    fleet.report(ticket, end(EndReason::Stopped)).await.unwrap();
    fleet.report(ticket, Happening::Live).await.unwrap();
    fleet.report(ticket, Happening::Storing { stuck: true, pending: 1, problem: None }).await.unwrap();
    let still = get(&*fleet, id).await;
    assert_eq!((still.state, still.ended_ms, still.live_ms), (State::Ended, ended.ended_ms, None));
    assert_eq!(still.end.unwrap().reason, EndReason::GaveUp(Trouble::Crash));
    let file = File {
        name: "a.mp4".to_owned(),
        bytes: 1 << 40,
        begin_ms: 1,
        end_ms: 2,
        media_id: None,
        url: Some("https://a/b".to_owned()),
    };
    let stored = Happening::Stored { files: vec![file], complete: true, backup: false, problem: None };
    fleet.close(ticket, Some(stored.clone()), Some(json!({ "files": 1 }))).await.unwrap();
    let story = story(&*fleet, id).await;
    assert_eq!(story.iter().filter(|word| *word == "ended").count(), 1);
    assert_eq!(events(&*fleet, id).await.last().unwrap().what, stored);
    let closed = get(&*fleet, id).await;
    assert_eq!((closed.closed, closed.report, closed.worker), (true, Some(json!({ "files": 1 })), None));
}

pub(crate) async fn events_beyond_the_most_are_counted<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", NewCast { notify: false, ..wish(backend.now()) }).await;
    let (id, ticket) = (&claim.cast.id, &claim.ticket);
    // The first two are there.
    let mut reports = tokio::task::JoinSet::new();
    for _ in 2..MAX_EVENTS + 100 {
        let (fleet, ticket) = (backend.fleet(), ticket.clone());
        reports.spawn(async move { fleet.report(&ticket, Happening::Restarted).await.unwrap() });
        // Not more at once than may wait.
        if reports.len() >= 500 {
            reports.join_next().await;
        }
    }
    reports.join_all().await;
    fleet.report(ticket, Happening::Live).await.unwrap();
    let live = get(&*fleet, id).await;
    assert_eq!((live.state, live.events_dropped), (State::Live, 101), "the state follows all the same");
    fleet.report(ticket, over()).await.unwrap();
    let stored = Happening::Stored { files: Vec::new(), complete: true, backup: false, problem: None };
    fleet.close(ticket, Some(stored.clone()), None).await.unwrap();
    let last = fleet.events(id, MAX_EVENTS as u64, 100).await.unwrap();
    let last: Vec<_> = last.into_iter().map(|event| (event.seq, event.what)).collect();
    let most = MAX_EVENTS as u64;
    assert_eq!(last, [(most + 1, over()), (most + 2, stored)], "how it ended is told, without a gap");
    assert_eq!(get(&*fleet, id).await.events_dropped, 101);
}

pub(crate) async fn a_cast_that_is_closed_without_an_end_ends<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", keyed(backend.now(), "key", Hold::WhileLive)).await;
    fleet.close(&claim.ticket, None, None).await.unwrap();
    let cast = get(&*fleet, &claim.cast.id).await;
    assert_eq!((cast.state, cast.closed), (State::Ended, true));
    assert_eq!(cast.end.unwrap().reason, EndReason::OutputFailed);
    assert_eq!(story(&*fleet, &cast.id).await, ["queued", "started", "ended"]);
    put(&*fleet, keyed(backend.now(), "key", Hold::WhileLive)).await;
}

pub(crate) async fn pushes_are_replaced<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    for pushes in [vec![push(1), push(2)], vec![push(2)], Vec::new()] {
        fleet.put_pushes(&claim.ticket, pushes.clone()).await.unwrap();
        let mut spec = claim.cast.spec.clone();
        spec.pushes = pushes;
        assert_eq!(get(&*fleet, &claim.cast.id).await.spec, spec);
    }
}

pub(crate) async fn vitals_and_snapshots_belong_to_an_owner<B: Backend>() {
    let mut backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    let (id, ticket) = (claim.cast.id, claim.ticket);
    assert!(fleet.vitals(&id).await.is_none() && fleet.snapshot(&id).await.is_none());
    for bytes in [1, 2] {
        let vitals = Vitals { bytes, peak: [0.5, 1.5], ..Vitals::default() };
        fleet.tell(&ticket, vitals.clone()).await;
        assert_eq!(fleet.vitals(&id).await, Some(vitals));
    }
    fleet.put_snapshot(&ticket, Bytes::from_static(b"jpeg")).await;
    assert_eq!(fleet.snapshot(&id).await.unwrap(), (backend.now(), Bytes::from_static(b"jpeg")));
    fleet.put_snapshot(&ticket, Bytes::from(vec![0; MAX_SNAPSHOT_BYTES + 1])).await;
    assert_eq!(fleet.snapshot(&id).await.unwrap().1.len(), 4, "one that is too large is not kept");
    fleet.report(&ticket, over()).await.unwrap();
    assert!(fleet.vitals(&id).await.is_some(), "storing goes on");
    fleet.close(&ticket, None, None).await.unwrap();
    assert!(fleet.vitals(&id).await.is_none() && fleet.snapshot(&id).await.is_none());

    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    let (id, ticket) = (claim.cast.id, claim.ticket);
    fleet.tell(&ticket, Vitals::default()).await;
    fleet.release(&ticket).await.unwrap();
    assert!(fleet.vitals(&id).await.is_none());
    let ticket = take::<B>(&*fleet, "w").await.unwrap().ticket;
    fleet.tell(&ticket, Vitals::default()).await;
    drop(fleet);
    backend.restart();
    assert!(backend.fleet().vitals(&id).await.is_none(), "they are not kept over a restart");
}

pub(crate) async fn workers_are_heard_of_lately<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    assert!(fleet.workers().await.is_empty());
    for (worker, casts) in [("w", 1), ("v", 2), ("w", 3)] {
        let load = Load { at_ms: backend.now(), casts, ..Load::default() };
        fleet.beat(&WorkerId(worker.to_owned()), load).await;
    }
    let heard: Vec<_> = fleet.workers().await.into_iter().map(|(id, load)| (id.0, load.casts)).collect();
    assert_eq!(heard, [("v".to_owned(), 2), ("w".to_owned(), 3)]);
    backend.pass(std::time::Duration::from_secs(3600));
    assert!(fleet.workers().await.is_empty());
}

pub(crate) async fn whoever_waits_is_woken<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut changes = fleet.changes();
    let id = put(&*fleet, wish(backend.now())).await;
    changes.changed().await.unwrap();
    let claim = take::<B>(&*fleet, "w").await.unwrap();
    changes.mark_unchanged();
    fleet.order(&id, Command::Stop).await.unwrap();
    changes.changed().await.unwrap();
    changes.mark_unchanged();
    fleet.report(&claim.ticket, Happening::Live).await.unwrap();
    changes.changed().await.unwrap();
    changes.mark_unchanged();
    fleet.release(&claim.ticket).await.unwrap();
    changes.changed().await.unwrap();
    fleet.check().await.unwrap();
}

pub(crate) async fn unknown_casts_are_told<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let id = wish(backend.now()).id;
    let no = |error: Error| matches!(error, Error::NoCast(of) if of == id);
    assert!(no(fleet.events(&id, 0, 1).await.unwrap_err()));
    assert!(no(fleet.attempts(&id).await.unwrap_err()));
    assert!(no(fleet.redeliver(&id, None).await.unwrap_err()));
    assert!(no(fleet.settle(&id, 1, Settled::Done, None).await.unwrap_err()));
    assert!(no(fleet.order(&id, Command::Snapshot).await.unwrap_err()));
    assert!(no(fleet.fail_queued(&id, "why").await.unwrap_err()));
    assert!(fleet.vitals(&id).await.is_none() && fleet.snapshot(&id).await.is_none());
    let ticket = Ticket { cast: id, worker: WorkerId("w".to_owned()), epoch: 1 };
    super::claims::all_is_refused(&*fleet, &ticket).await;
}
