//! Dispatchers deliver events.

use std::collections::HashSet;
use std::time::Duration;

use pagecast_fleet::*;

use super::fixture::*;

/// Due entries: cast, and number of the event.
async fn due_ids(fleet: &dyn Fleet) -> Vec<(CastId, u64)> {
    let due = super::fixture::due_entries(fleet, 100).await;
    due.into_iter().map(|entry| (entry.cast.id, entry.event.seq)).collect()
}

/// The first due entry.
async fn first_due(fleet: &dyn Fleet) -> OutboxEntry {
    super::fixture::due_entries(fleet, 10).await.remove(0)
}

/// Creates a cast with this many events.
async fn create_with_events(fleet: &dyn Fleet, now: UnixMs, events: u64) -> CastId {
    let id = create_cast(fleet, new_cast(now)).await;
    if events > 1 {
        let worker = WorkerId("w".to_owned());
        let claim = fleet
            .claim(&worker, &NodeInfo::default(), Duration::from_secs(3600), &|_| true)
            .await
            .unwrap()
            .unwrap();
        for _ in 2..events {
            fleet.report_event(&claim.ticket, EventKind::Restarted).await.unwrap();
        }
    }
    id
}

fn attempt(seq: u64, at_ms: UnixMs) -> DeliveryAttempt {
    let url = "https://receiver.example.com/hook".to_owned();
    DeliveryAttempt {
        seq,
        part: 0,
        at_ms,
        took_ms: 7,
        url,
        status: Some(500),
        answer: None,
        error: Some("HTTP 500".to_owned()),
    }
}

pub(crate) async fn events_of_a_cast_are_delivered_in_order<B: Backend>() {
    let mut backend = B::new().await;
    let a = create_with_events(&*backend.fleet(), backend.now(), 3).await;
    backend.advance(TIME_STEP);
    let Claim { ticket, cast } = create_and_claim::<B>(&*backend.fleet(), "w", new_cast(backend.now())).await;
    let b = cast.id;
    backend.advance(TIME_STEP);
    for (expected, done) in [
        (vec![(&a, 1), (&b, 1)], (&a, 1)),
        (vec![(&b, 1), (&a, 2)], (&a, 2)),
        (vec![(&b, 1), (&a, 3)], (&b, 1)),
        (vec![(&a, 3), (&b, 2)], (&b, 2)),
        (vec![(&a, 3)], (&a, 3)),
        (vec![], (&a, 3)),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|(id, seq)| (id.clone(), seq)).collect();
        let mut found = due_ids(&*backend.fleet()).await;
        backend.restart().await;
        assert_eq!(due_ids(&*backend.fleet()).await, found, "a restart changes nothing");
        found.sort();
        let mut sorted = expected;
        sorted.sort();
        assert_eq!(found, sorted);
        backend.fleet().settle(done.0, done.1, DeliveryOutcome::Delivered, None).await.unwrap();
        backend.advance(TIME_STEP);
    }
    let fleet = backend.fleet();
    assert_eq!(fleet.backlog().await.unwrap(), Backlog::default());
    fleet.report_event(&ticket, ended_event()).await.unwrap();
    let entry = first_due(&*fleet).await;
    assert_eq!((entry.cast.id, entry.event.seq, entry.attempts), (b.clone(), 3, 0));
    assert_eq!(
        (entry.cast.state, entry.since_first_attempt, entry.parts_delivered),
        (CastState::Ended, None, 0)
    );
    assert_eq!(entry.event.kind, ended_event());
    assert_eq!(entry.event.id(&b), format!("{b}-3"));
}

pub(crate) async fn a_retried_event_delays_those_behind_it<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let a = create_with_events(&*fleet, backend.now(), 3).await;
    assert_eq!(fleet.next_due_in().await.unwrap(), None, "due entries do not count");
    let delay = Duration::from_secs(10);
    for attempts in 0..3 {
        let entry = first_due(&*fleet).await;
        assert_eq!((entry.event.seq, entry.attempts), (1, attempts));
        let took = Duration::from_millis(7);
        assert_eq!(entry.since_first_attempt, (attempts > 0).then(|| took + delay * attempts));
        let log = Some(attempt(1, backend.now()));
        fleet.settle(&a, 1, DeliveryOutcome::RetryAfter(delay), log).await.unwrap();
        assert!(due_ids(&*fleet).await.is_empty(), "those behind it wait too");
        assert_eq!(fleet.next_due_in().await.unwrap(), Some(delay));
        backend.advance(delay - TIME_STEP);
        assert!(due_ids(&*fleet).await.is_empty());
        backend.advance(TIME_STEP);
    }
    let backlog = fleet.backlog().await.unwrap();
    assert_eq!((backlog.pending, backlog.given_up), (3, 0));
    assert_eq!(backlog.oldest_event_ms, Some(events(&*fleet, &a).await[0].at_ms));
    fleet.settle(&a, 1, DeliveryOutcome::Delivered, None).await.unwrap();
    assert_eq!(due_ids(&*fleet).await, [(a.clone(), 2)]);
    assert_eq!(fleet.attempts(&a).await.unwrap().len(), 3);
}

pub(crate) async fn parts_of_an_event_are_counted<B: Backend>() {
    let mut backend = B::new().await;
    let a = create_with_events(&*backend.fleet(), backend.now(), 2).await;
    backend.fleet().settle(&a, 1, DeliveryOutcome::RetryAfter(Duration::ZERO), None).await.unwrap();
    backend
        .fleet()
        .settle(&a, 1, DeliveryOutcome::PartDelivered(1), Some(attempt(1, backend.now())))
        .await
        .unwrap();
    backend.restart().await;
    let fleet = backend.fleet();
    let entry = first_due(&*fleet).await;
    assert_eq!(
        (entry.event.seq, entry.parts_delivered, entry.attempts),
        (1, 1, 0),
        "attempts are counted per message"
    );
    assert_eq!(entry.since_first_attempt, None);
    fleet.settle(&a, 1, DeliveryOutcome::RetryAfter(Duration::ZERO), None).await.unwrap();
    let entry = first_due(&*fleet).await;
    assert_eq!((entry.event.seq, entry.parts_delivered, entry.attempts), (1, 1, 1));
    fleet.settle(&a, 1, DeliveryOutcome::Delivered, None).await.unwrap();
    assert_eq!(due_ids(&*fleet).await, [(a, 2)]);
}

pub(crate) async fn given_up_events_are_redelivered_on_request<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let a = create_with_events(&*fleet, backend.now(), 4).await;
    for seq in [1, 2] {
        assert_eq!(due_ids(&*fleet).await, [(a.clone(), seq)]);
        fleet.settle(&a, seq, DeliveryOutcome::PartDelivered(1), None).await.unwrap();
        fleet.settle(&a, seq, DeliveryOutcome::GivenUp, Some(attempt(seq, backend.now()))).await.unwrap();
    }
    assert_eq!(due_ids(&*fleet).await, [(a.clone(), 3)], "an event that was given up blocks no other");
    let backlog = fleet.backlog().await.unwrap();
    assert_eq!((backlog.pending, backlog.given_up), (2, 2));
    fleet.settle(&a, 3, DeliveryOutcome::RetryAfter(Duration::from_secs(60)), None).await.unwrap();
    assert_eq!(fleet.redeliver(&a, Some(1)).await.unwrap().requeued, 1);
    let entry = first_due(&*fleet).await;
    assert_eq!((entry.event.seq, entry.attempts, entry.parts_delivered), (1, 0, 0), "as if never attempted");
    assert_eq!(fleet.redeliver(&a, None).await.unwrap().requeued, 1, "the other one");
    assert_eq!(fleet.redeliver(&a, None).await.unwrap().requeued, 0);
    for seq in 1..=4 {
        assert_eq!(due_ids(&*fleet).await, [(a.clone(), seq)]);
        fleet.settle(&a, seq, DeliveryOutcome::Delivered, None).await.unwrap();
    }
    assert_eq!(fleet.backlog().await.unwrap(), Backlog::default());
}

pub(crate) async fn delivered_events_are_redelivered_on_request<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let a = create_with_events(&*fleet, backend.now(), 2).await;
    fleet.settle(&a, 1, DeliveryOutcome::Delivered, None).await.unwrap();
    fleet.settle(&a, 2, DeliveryOutcome::RetryAfter(Duration::from_secs(60)), None).await.unwrap();
    assert_eq!(fleet.redeliver(&a, Some(2)).await.unwrap().requeued, 1);
    assert_eq!(due_ids(&*fleet).await, [(a.clone(), 2)], "an event that waits for a retry is due at once");
    fleet.settle(&a, 2, DeliveryOutcome::Delivered, None).await.unwrap();
    assert!(due_ids(&*fleet).await.is_empty());
    let mut changes = fleet.changes();
    changes.mark_unchanged();
    assert_eq!(fleet.redeliver(&a, Some(1)).await.unwrap().requeued, 1);
    changes.changed().await.unwrap();
    assert_eq!(due_ids(&*fleet).await, [(a.clone(), 1)]);
    for seq in [0, 3, u64::MAX] {
        assert_eq!(fleet.redeliver(&a, Some(seq)).await.unwrap().requeued, 0, "there is no event {seq}");
    }
}

pub(crate) async fn redeliver_reports_what_is_pending<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let a = create_with_events(&*fleet, backend.now(), 4).await;
    fleet.settle(&a, 1, DeliveryOutcome::GivenUp, None).await.unwrap();
    let minute = Duration::from_secs(60);
    fleet.settle(&a, 2, DeliveryOutcome::RetryAfter(minute), None).await.unwrap();
    let result = fleet.redeliver(&a, Some(4)).await.unwrap();
    assert_eq!(
        result,
        RedeliverOutcome { requeued: 1, pending: 3, next_due_in: Some(minute) },
        "the first event blocks the others"
    );
    assert!(due_ids(&*fleet).await.is_empty());
    let result = fleet.redeliver(&a, None).await.unwrap();
    assert_eq!(result, RedeliverOutcome { requeued: 1, pending: 4, next_due_in: Some(Duration::ZERO) });
    for seq in 1..=4 {
        assert_eq!(due_ids(&*fleet).await, [(a.clone(), seq)], "retries are due at once");
        fleet.settle(&a, seq, DeliveryOutcome::Delivered, None).await.unwrap();
    }
    assert_eq!(fleet.redeliver(&a, None).await.unwrap(), RedeliverOutcome::default());
}

pub(crate) async fn the_longest_waiting_comes_first<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for _ in 0..6 {
        made.push((create_with_events(&*fleet, backend.now(), 1).await, 1));
        backend.advance(TIME_STEP);
    }
    assert_eq!(due_ids(&*fleet).await, made);
    let some: Vec<_> =
        super::fixture::due_entries(&*fleet, 2).await.into_iter().map(|entry| entry.cast.id).collect();
    assert_eq!(some, [made[0].0.clone(), made[1].0.clone()]);
    fleet.settle(&made[0].0, 1, DeliveryOutcome::RetryAfter(Duration::ZERO), None).await.unwrap();
    made.rotate_left(1);
    assert_eq!(due_ids(&*fleet).await, made, "a retried event goes to the end");
    assert!(super::fixture::due_entries(&*fleet, 0).await.is_empty());
    let skip = HashSet::from([made[0].0.clone(), made[2].0.clone()]);
    let some: Vec<_> =
        fleet.due_entries(2, &skip).await.unwrap().into_iter().map(|entry| entry.cast.id).collect();
    assert_eq!(some, [made[1].0.clone(), made[3].0.clone()], "skipped casts are left out");
}

pub(crate) async fn casts_without_notifications_have_no_entries<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let new = NewCast { notify: false, ..new_cast(backend.now()) };
    let claim = create_and_claim::<B>(&*fleet, "w", new).await;
    fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    assert_eq!(event_names(&*fleet, &claim.cast.id).await.len(), 3);
    assert!(due_ids(&*fleet).await.is_empty());
    assert_eq!(fleet.redeliver(&claim.cast.id, Some(1)).await.unwrap().requeued, 0);
    assert_eq!(fleet.redeliver(&claim.cast.id, None).await.unwrap().requeued, 0);
    assert_eq!(fleet.backlog().await.unwrap(), Backlog::default());
}

pub(crate) async fn attempts_are_logged<B: Backend>() {
    let mut backend = B::new().await;
    let a = create_with_events(&*backend.fleet(), backend.now(), 1).await;
    let b = create_with_events(&*backend.fleet(), backend.now(), 1).await;
    let fleet = backend.fleet();
    assert!(fleet.attempts(&a).await.unwrap().is_empty());
    for n in 0..1010 {
        let log = Some(attempt(1, n));
        fleet.settle(&a, 1, DeliveryOutcome::RetryAfter(Duration::ZERO), log).await.unwrap();
    }
    let only = attempt(1, 5);
    fleet.settle(&b, 1, DeliveryOutcome::Delivered, Some(only.clone())).await.unwrap();
    drop(fleet);
    backend.restart().await;
    let fleet = backend.fleet();
    let attempts = fleet.attempts(&a).await.unwrap();
    assert!(attempts.iter().map(|attempt| attempt.at_ms).eq(10..1010), "the last 1000, in order");
    assert_eq!(fleet.attempts(&b).await.unwrap(), [only]);
}
