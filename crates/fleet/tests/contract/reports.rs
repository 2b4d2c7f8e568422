//! Owners report events, statistics and snapshots.

use bytes::Bytes;
use pagecast_core::cast::{EndReason, HealthFault};
use pagecast_core::connection::State as Connection;
use pagecast_fleet::*;
use serde_json::json;

use super::fixture::*;

pub(crate) async fn the_state_follows_the_events<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let (id, ticket) = (&claim.cast.id, &claim.ticket);
    let pushed = EventKind::Push {
        id: 1,
        url: "rtmp://a/b".to_owned(),
        state: Connection::Recovering,
        error: Some("connection lost".to_owned()),
    };
    fleet.report_event(ticket, pushed.clone()).await.unwrap();
    assert_eq!(get_cast(&*fleet, id).await.state, CastState::Starting);
    backend.advance(TIME_STEP);
    fleet.report_event(ticket, EventKind::Live).await.unwrap();
    let live = get_cast(&*fleet, id).await;
    assert_eq!(live.state, CastState::Live);
    assert!(live.live_ms.unwrap() > live.started_ms.unwrap());
    backend.advance(TIME_STEP);
    fleet.report_event(ticket, EventKind::Reloaded { fault: HealthFault::Freeze }).await.unwrap();
    fleet.report_event(ticket, EventKind::Live).await.unwrap();
    let still = get_cast(&*fleet, id).await;
    assert_eq!((still.state, still.live_ms), (CastState::Live, live.live_ms), "going live again is ignored");
    backend.advance(TIME_STEP);
    fleet.report_event(ticket, ended_event()).await.unwrap();
    let ended = get_cast(&*fleet, id).await;
    let message = Some("the page ended the cast".to_owned());
    assert_eq!((ended.state, ended.closed), (CastState::Ended, false));
    assert_eq!(ended.end, Some(CastEnd { reason: EndReason::PageEnded, message, cause: None }));
    assert!(ended.ended_ms.unwrap() > ended.live_ms.unwrap());
    assert_eq!(event_names(&*fleet, id).await, ["queued", "started", "push", "live", "reloaded", "ended"]);
    let events = events(&*fleet, id).await;
    assert_eq!(events[2].kind, pushed);
    assert_eq!(events[5].at_ms, ended.ended_ms.unwrap());
    assert!(events.is_sorted_by_key(|event| event.at_ms));
    let some = fleet.events(id, 2, 3).await.unwrap();
    assert_eq!(some, events[2..5]);
    assert!(fleet.events(id, 6, 10).await.unwrap().is_empty());
    assert!(fleet.events(id, u64::MAX, 10).await.unwrap().is_empty());
}

pub(crate) async fn the_end_comes_once<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let (id, ticket) = (&claim.cast.id, &claim.ticket);
    let end = |reason| EventKind::Ended { reason, message: None, cause: None };
    fleet.report_event(ticket, end(EndReason::PageFailed(HealthFault::Crash))).await.unwrap();
    let ended = get_cast(&*fleet, id).await;
    backend.advance(TIME_STEP);
    fleet.report_event(ticket, end(EndReason::Stopped)).await.unwrap();
    fleet.report_event(ticket, EventKind::Live).await.unwrap();
    fleet.report_event(ticket, EventKind::Upload { failing: true, pending: 1, error: None }).await.unwrap();
    let still = get_cast(&*fleet, id).await;
    assert_eq!((still.state, still.ended_ms, still.live_ms), (CastState::Ended, ended.ended_ms, None));
    assert_eq!(still.end.unwrap().reason, EndReason::PageFailed(HealthFault::Crash));
    let file = StoredFile {
        name: "a.mp4".to_owned(),
        bytes: 1 << 40,
        begin_ms: 1,
        end_ms: 2,
        media_id: None,
        url: Some("https://a/b".to_owned()),
    };
    let stored = EventKind::Stored { files: vec![file], complete: true, backup: false, error: None };
    fleet.close(ticket, Some(stored.clone()), Some(json!({ "files": 1 }))).await.unwrap();
    let names = event_names(&*fleet, id).await;
    assert_eq!(names.iter().filter(|name| *name == "ended").count(), 1);
    assert_eq!(events(&*fleet, id).await.last().unwrap().kind, stored);
    let closed = get_cast(&*fleet, id).await;
    assert_eq!((closed.closed, closed.report, closed.worker), (true, Some(json!({ "files": 1 })), None));
}

pub(crate) async fn events_beyond_the_limit_are_counted<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim =
        create_and_claim::<B>(&*fleet, "w", NewCast { notify: false, ..new_cast(backend.now()) }).await;
    let (id, ticket) = (&claim.cast.id, &claim.ticket);
    // Two events exist already.
    let mut reports = tokio::task::JoinSet::new();
    for _ in 2..MAX_EVENTS + 100 {
        let (fleet, ticket) = (backend.fleet(), ticket.clone());
        reports.spawn(async move { fleet.report_event(&ticket, EventKind::Restarted).await.unwrap() });
        // No more than the writer's queue holds.
        if reports.len() >= 500 {
            reports.join_next().await;
        }
    }
    reports.join_all().await;
    fleet.report_event(ticket, EventKind::Live).await.unwrap();
    let live = get_cast(&*fleet, id).await;
    assert_eq!((live.state, live.events_dropped), (CastState::Live, 101), "the state still changes");
    fleet.report_event(ticket, ended_event()).await.unwrap();
    let stored = EventKind::Stored { files: Vec::new(), complete: true, backup: false, error: None };
    fleet.close(ticket, Some(stored.clone()), None).await.unwrap();
    let last = fleet.events(id, MAX_EVENTS as u64, 100).await.unwrap();
    let last: Vec<_> = last.into_iter().map(|event| (event.seq, event.kind)).collect();
    let max = MAX_EVENTS as u64;
    assert_eq!(last, [(max + 1, ended_event()), (max + 2, stored)], "the end is stored, without a gap");
    assert_eq!(get_cast(&*fleet, id).await.events_dropped, 101);
}

pub(crate) async fn a_cast_that_is_closed_without_an_end_ends<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(
        &*fleet,
        "w",
        new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded),
    )
    .await;
    fleet.close(&claim.ticket, None, None).await.unwrap();
    let cast = get_cast(&*fleet, &claim.cast.id).await;
    assert_eq!((cast.state, cast.closed), (CastState::Ended, true));
    assert_eq!(cast.end.unwrap().reason, EndReason::OutputFailed);
    assert_eq!(event_names(&*fleet, &cast.id).await, ["queued", "started", "ended"]);
    create_cast(&*fleet, new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded)).await;
}

pub(crate) async fn pushes_are_replaced<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    for pushes in [vec![push(1), push(2)], vec![push(2)], Vec::new()] {
        fleet.put_pushes(&claim.ticket, pushes.clone()).await.unwrap();
        let mut spec = claim.cast.spec.clone();
        spec.pushes = pushes;
        assert_eq!(get_cast(&*fleet, &claim.cast.id).await.spec, spec);
    }
}

pub(crate) async fn stats_and_snapshots_belong_to_an_owner<B: Backend>() {
    let mut backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let (id, ticket) = (claim.cast.id, claim.ticket);
    assert!(fleet.stats(&id).await.is_none() && fleet.snapshot(&id).await.is_none());
    for bytes in [1, 2] {
        let stats = CastStats { bytes, peak: [0.5, 1.5], ..CastStats::default() };
        fleet.put_stats(&ticket, stats.clone()).await;
        assert_eq!(fleet.stats(&id).await, Some(stats.clone()));
        let of_all = fleet.stats_of(&[new_cast(backend.now()).id, id.clone()]).await;
        assert_eq!(of_all, [(id.clone(), stats)].into());
    }
    fleet.put_snapshot(&ticket, Bytes::from_static(b"jpeg")).await;
    assert_eq!(fleet.snapshot(&id).await.unwrap(), (backend.now(), Bytes::from_static(b"jpeg")));
    fleet.put_snapshot(&ticket, Bytes::from(vec![0; MAX_SNAPSHOT_BYTES + 1])).await;
    assert_eq!(fleet.snapshot(&id).await.unwrap().1.len(), 4, "one that is too large is not kept");
    fleet.report_event(&ticket, ended_event()).await.unwrap();
    assert!(fleet.stats(&id).await.is_some(), "uploads continue");
    fleet.close(&ticket, None, None).await.unwrap();
    assert!(fleet.stats(&id).await.is_none() && fleet.snapshot(&id).await.is_none());

    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let (id, ticket) = (claim.cast.id, claim.ticket);
    fleet.put_stats(&ticket, CastStats::default()).await;
    fleet.release(&ticket).await.unwrap();
    assert!(fleet.stats(&id).await.is_none());
    let ticket = claim_next::<B>(&*fleet, "w").await.unwrap().ticket;
    fleet.put_stats(&ticket, CastStats::default()).await;
    drop(fleet);
    backend.restart().await;
    assert!(backend.fleet().stats(&id).await.is_none(), "they are not kept over a restart");
}

pub(crate) async fn workers_without_heartbeat_disappear<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    assert!(fleet.workers().await.is_empty());
    for (worker, casts) in [("w", 1), ("v", 2), ("w", 3)] {
        let status = WorkerStatus { at_ms: backend.now(), casts, ..WorkerStatus::default() };
        fleet.heartbeat(&WorkerId(worker.to_owned()), status).await.unwrap();
    }
    let workers: Vec<_> =
        fleet.workers().await.into_iter().map(|(id, status)| (id.0, status.casts)).collect();
    assert_eq!(workers, [("v".to_owned(), 2), ("w".to_owned(), 3)]);
    let w = WorkerId("w".to_owned());
    let response = fleet.heartbeat(&w, WorkerStatus::default()).await.unwrap();
    let others: Vec<_> = response.others.into_iter().map(|(id, status)| (id.0, status.casts)).collect();
    assert_eq!(others, [("v".to_owned(), 2)], "a heartbeat returns the others");
    backend.advance(std::time::Duration::from_secs(3600));
    assert!(fleet.workers().await.is_empty());
    assert!(fleet.heartbeat(&w, WorkerStatus::default()).await.unwrap().others.is_empty());
}

pub(crate) async fn a_worker_is_asked_to_drain<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let (v, w) = (WorkerId("v".to_owned()), WorkerId("w".to_owned()));
    assert!(!fleet.request_drain(&w).await.unwrap(), "there is no such worker");
    let drains = |response: HeartbeatResponse| response.drain_requested;
    for worker in [&v, &w] {
        assert!(!drains(fleet.heartbeat(worker, WorkerStatus::default()).await.unwrap()));
    }
    assert!(fleet.request_drain(&w).await.unwrap() && fleet.request_drain(&w).await.unwrap());
    let draining: Vec<_> = fleet.workers().await.into_iter().map(|(id, s)| (id.0, s.draining)).collect();
    assert_eq!(draining, [("v".to_owned(), false), ("w".to_owned(), true)]);
    assert!(!drains(fleet.heartbeat(&v, WorkerStatus::default()).await.unwrap()));
    for _ in 0..2 {
        assert!(
            drains(fleet.heartbeat(&w, WorkerStatus::default()).await.unwrap()),
            "until the process ends"
        );
    }
    fleet.register_worker(&w, &NodeInfo::default()).await.unwrap();
    assert!(
        !drains(fleet.heartbeat(&w, WorkerStatus::default()).await.unwrap()),
        "its next process is not asked"
    );
    backend.advance(std::time::Duration::from_secs(3600));
    assert!(!fleet.request_drain(&w).await.unwrap(), "it is gone");
}

pub(crate) async fn heartbeats_have_an_age<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let status = WorkerStatus { renewal_age_ms: Some(7), ..WorkerStatus::default() };
    fleet.heartbeat(&WorkerId("w".to_owned()), status).await.unwrap();
    backend.advance(std::time::Duration::from_secs(5));
    let (_, status) = fleet.workers().await.remove(0);
    assert_eq!(status.renewal_age_ms, Some(7));
    assert!((5000..15_000).contains(&status.heartbeat_age_ms), "{}", status.heartbeat_age_ms);
}

pub(crate) async fn changes_wake_waiters<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut changes = fleet.changes();
    let id = create_cast(&*fleet, new_cast(backend.now())).await;
    changes.changed().await.unwrap();
    let claim = claim_next::<B>(&*fleet, "w").await.unwrap();
    changes.mark_unchanged();
    fleet.send_command(&id, Command::Stop).await.unwrap();
    changes.changed().await.unwrap();
    changes.mark_unchanged();
    fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
    changes.changed().await.unwrap();
    changes.mark_unchanged();
    fleet.release(&claim.ticket).await.unwrap();
    changes.changed().await.unwrap();
    fleet.check_writable().await.unwrap();
}

pub(crate) async fn unknown_casts_are_reported<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let id = new_cast(backend.now()).id;
    let no = |error: Error| matches!(error, Error::CastNotFound(of) if of == id);
    assert!(no(fleet.events(&id, 0, 1).await.unwrap_err()));
    assert!(no(fleet.attempts(&id).await.unwrap_err()));
    assert!(no(fleet.redeliver(&id, None).await.unwrap_err()));
    assert!(no(fleet.settle(&id, 1, DeliveryOutcome::Delivered, None).await.unwrap_err()));
    assert!(no(fleet.send_command(&id, Command::Snapshot).await.unwrap_err()));
    assert!(no(fleet.fail_queued(&id, "why").await.unwrap_err()));
    assert!(fleet.stats(&id).await.is_none() && fleet.snapshot(&id).await.is_none());
    let ticket = Ticket { cast: id, worker: WorkerId("w".to_owned()), epoch: 1, nonce: 0 };
    super::claims::assert_fenced(&*fleet, &ticket).await;
}

pub(crate) async fn a_part_that_was_away_is_reported_after_the_close<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let id = &claim.cast.id;
    let stored = || EventKind::Stored { files: Vec::new(), complete: true, backup: false, error: None };
    fleet.report_stored_later(id, stored()).await.unwrap();
    assert_eq!(event_names(&*fleet, id).await, ["queued", "started"], "the owner reports it itself");
    fleet.close(&claim.ticket, Some(ended_event()), None).await.unwrap();
    let before = format!("{:?}", get_cast(&*fleet, id).await);
    fleet.report_stored_later(id, EventKind::Restarted).await.unwrap();
    assert_eq!(event_names(&*fleet, id).await, ["queued", "started", "ended"], "no other event follows");
    fleet.report_stored_later(id, stored()).await.unwrap();
    let last = fleet.events(id, 3, 10).await.unwrap();
    assert_eq!(last.into_iter().map(|event| (event.seq, event.kind)).collect::<Vec<_>>(), [(4, stored())]);
    assert_eq!(format!("{:?}", get_cast(&*fleet, id).await), before, "the cast stays as it is");
    let pending = fleet.redeliver(id, None).await.unwrap().pending;
    assert_eq!(pending, 4, "the receiver is told, too");
    let unknown = new_cast(backend.now()).id;
    let result = fleet.report_stored_later(&unknown, stored()).await;
    assert!(matches!(result, Err(Error::CastNotFound(id)) if id == unknown));
}
