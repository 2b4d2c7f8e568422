//! Deadlines, retention, and changes of the system clock.

use std::time::Duration;

use pagecast_core::cast::EndReason;
use pagecast_fleet::*;

use super::fixture::*;

/// Settles all due entries with this outcome.
async fn settle_all(fleet: &dyn Fleet, outcome: DeliveryOutcome) {
    while let Some(entry) = due_entries(fleet, 1).await.pop() {
        fleet.settle(&entry.cast.id, entry.event.seq, outcome, None).await.unwrap();
    }
}

/// Creates a cast, and ends and closes it.
async fn create_closed<B: Backend>(fleet: &dyn Fleet, new: NewCast) -> CastId {
    let claim = create_and_claim::<B>(fleet, "w", new).await;
    fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    fleet.close(&claim.ticket, None, None).await.unwrap();
    claim.cast.id
}

pub(crate) async fn overdue_casts_fail<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let new = || NewCast { queue_timeout: B::QUEUE_TIMEOUT, ..new_cast(backend.now()) };
    let begun = create_and_claim::<B>(&*fleet, "w", new()).await;
    let mut late = Vec::new();
    for n in 0..120 {
        let key = (n == 0).then(|| CastKey("key".to_owned()));
        late.push(create_cast(&*fleet, NewCast { key, ..new() }).await);
    }
    let without_timeout = NewCast { queue_timeout: Duration::MAX, ..new_cast(backend.now()) };
    let without_timeout = create_cast(&*fleet, without_timeout).await;
    fleet.sweep().await.unwrap();
    assert_eq!(fleet.count(None).await.unwrap()[0], (CastState::Queued, 121));
    backend.advance(B::QUEUE_TIMEOUT);
    renew::<B>(&*fleet, &begun.ticket).await.unwrap();
    let next = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert_eq!(next.cast.id, without_timeout, "an overdue cast is not claimed, swept or not");
    fleet.sweep().await.unwrap();
    for id in &late {
        let cast = get_cast(&*fleet, id).await;
        assert_eq!((cast.state, cast.closed, cast.started_ms), (CastState::Ended, true, None));
        let end = cast.end.unwrap();
        assert_eq!(end.reason, EndReason::StartFailed);
        assert!(end.message.unwrap().contains("room"));
    }
    assert_eq!(event_names(&*fleet, &late[0]).await, ["queued", "ended"]);
    assert_eq!(get_cast(&*fleet, &begun.cast.id).await.state, CastState::Starting);
    assert!(claim_next::<B>(&*fleet, "w").await.is_none());
    create_cast(&*fleet, new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded)).await;
}

pub(crate) async fn expired_casts_are_deleted<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut old = Vec::new();
    for _ in 0..120 {
        old.push(
            create_closed::<B>(&*fleet, new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded))
                .await,
        );
    }
    let open = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    fleet.report_event(&open.ticket, ended_event()).await.unwrap();
    let live = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    settle_all(&*fleet, DeliveryOutcome::Delivered).await;
    backend.advance(B::RETENTION / 2);
    for claim in [&open, &live] {
        renew::<B>(&*fleet, &claim.ticket).await.unwrap();
    }
    let young = create_closed::<B>(&*fleet, new_cast(backend.now())).await;
    settle_all(&*fleet, DeliveryOutcome::GivenUp).await;
    fleet.sweep().await.unwrap();
    assert_eq!(fleet.count(None).await.unwrap()[3], (CastState::Ended, 122), "none has expired");
    backend.advance(B::RETENTION / 2 + TIME_STEP);
    fleet.sweep().await.unwrap();
    for id in &old {
        assert!(fleet.get(id).await.unwrap().is_none());
        assert!(matches!(fleet.events(id, 0, 1).await, Err(Error::CastNotFound(_))));
    }
    assert!(fleet.find_by_key(&CastKey("key".to_owned())).await.unwrap().is_none());
    for id in [&open.cast.id, &live.cast.id, &young] {
        assert!(fleet.get(id).await.unwrap().is_some(), "not closed, not ended, or not expired");
    }
    let count = |n| (CastState::Ended, n);
    assert_eq!(fleet.count(None).await.unwrap()[3], count(2));
    assert_eq!(fleet.count(Some("app")).await.unwrap()[3], count(2));
    assert_eq!(fleet.list(&Filter { limit: 100, ..Filter::default() }).await.unwrap().casts.len(), 3);
    backend.advance(B::RETENTION);
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&young).await.unwrap().is_none(), "events that were given up do not keep a cast");
    assert_eq!(fleet.backlog().await.unwrap().given_up, 0);
}

pub(crate) async fn undelivered_events_keep_their_cast<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let id = create_closed::<B>(&*fleet, new_cast(backend.now())).await;
    backend.advance(B::RETENTION + TIME_STEP);
    fleet.sweep().await.unwrap();
    for seq in 1..=3 {
        fleet.sweep().await.unwrap();
        assert!(fleet.get(&id).await.unwrap().is_some());
        fleet.settle(&id, seq, DeliveryOutcome::Delivered, None).await.unwrap();
    }
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&id).await.unwrap().is_none());
}

pub(crate) async fn casts_that_hold_a_key_are_kept<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let until = backend.now() + 3 * i64::try_from(B::RETENTION.as_millis()).unwrap();
    let id = create_closed::<B>(&*fleet, new_cast_with_key(backend.now(), "key", KeyRetention::Until(until)))
        .await;
    settle_all(&*fleet, DeliveryOutcome::Delivered).await;
    backend.advance(B::RETENTION * 2);
    fleet.sweep().await.unwrap();
    let again =
        fleet.create(new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded)).await.unwrap();
    assert!(matches!(again, CreateOutcome::Exists(cast) if cast.id == id));
    backend.advance(B::RETENTION * 2);
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&id).await.unwrap().is_none());
}

pub(crate) async fn a_key_that_was_freed_stays_free<B: Backend>() {
    let backend = B::new().await;
    let until = backend.now() + HOUR_MS;
    let new = |now| new_cast_with_key(now, "key", KeyRetention::Until(until));
    let id = create_cast(&*backend.fleet(), new(backend.now())).await;
    backend.advance(2 * HOUR);
    backend.fleet().send_command(&id, Command::Stop).await.unwrap();
    backend.set_clock(-2 * HOUR_MS);
    let again = backend.fleet().create(new(backend.now())).await.unwrap();
    assert!(matches!(again, CreateOutcome::New(_)), "the cast ended after its key's retention");
}

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_MS: i64 = 3_600_000;
/// Longer than any delay, lease or deadline.
const EIGHT_DAYS_MS: i64 = 8 * 24 * HOUR_MS;

pub(crate) async fn a_clock_that_is_set_back_stops_no_callbacks<B: Backend>() {
    let mut backend = B::new().await;
    let id = create_cast(&*backend.fleet(), new_cast(backend.now())).await;
    let delay = Duration::from_secs(10);
    backend.fleet().settle(&id, 1, DeliveryOutcome::RetryAfter(delay), None).await.unwrap();
    backend.set_clock(-2 * HOUR_MS);
    assert!(due_entries(&*backend.fleet(), 1).await.is_empty());
    assert_eq!(backend.fleet().next_due_in().await.unwrap(), Some(delay));
    backend.advance(delay);
    assert_eq!(
        due_entries(&*backend.fleet(), 1).await[0].since_first_attempt,
        Some(delay),
        "the change has no effect"
    );
    // The clock is set back again while the service restarts.
    backend.fleet().settle(&id, 1, DeliveryOutcome::RetryAfter(delay), None).await.unwrap();
    backend.set_clock(-2 * HOUR_MS);
    backend.restart().await;
    backend.advance(delay);
    let due = due_entries(&*backend.fleet(), 1).await;
    assert_eq!((due.len(), due[0].attempts), (1, 2));
}

pub(crate) async fn retry_delays_are_capped<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let id = create_cast(&*fleet, new_cast(backend.now())).await;
    fleet.settle(&id, 1, DeliveryOutcome::RetryAfter(Duration::MAX), None).await.unwrap();
    assert_eq!(fleet.next_due_in().await.unwrap(), Some(MAX_RETRY_DELAY));
    backend.advance(MAX_RETRY_DELAY);
    assert_eq!(due_entries(&*fleet, 1).await.len(), 1);
}

pub(crate) async fn leases_and_deadlines_ignore_clock_changes<B: Backend>() {
    for by_ms in [EIGHT_DAYS_MS, -EIGHT_DAYS_MS] {
        let backend = B::new().await;
        let fleet = backend.fleet();
        let owned = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
        let queued =
            create_cast(&*fleet, NewCast { queue_timeout: B::QUEUE_TIMEOUT, ..new_cast(backend.now()) })
                .await;
        fleet.heartbeat(&WorkerId("v".to_owned()), WorkerStatus::default()).await.unwrap();
        backend.set_clock(by_ms);
        fleet.sweep().await.unwrap();
        assert_eq!(get_cast(&*fleet, &queued).await.state, CastState::Queued, "it is not overdue");
        assert_eq!(fleet.workers().await.len(), 1);
        let claim = claim_next::<B>(&*fleet, "w").await.unwrap();
        assert_eq!(claim.cast.id, queued, "the other's lease has not expired");
        let late =
            create_cast(&*fleet, NewCast { queue_timeout: B::QUEUE_TIMEOUT, ..new_cast(backend.now()) })
                .await;
        backend.advance(B::LEASE.max(B::QUEUE_TIMEOUT));
        fleet.sweep().await.unwrap();
        assert_eq!(get_cast(&*fleet, &late).await.state, CastState::Ended, "it is overdue");
        assert_eq!(
            claim_next::<B>(&*fleet, "w").await.unwrap().cast.id,
            owned.cast.id,
            "its lease has expired"
        );
    }
}

pub(crate) async fn nothing_is_deleted_right_after_a_clock_change<B: Backend>() {
    let mut backend = B::new().await;
    let id = create_closed::<B>(&*backend.fleet(), new_cast(backend.now())).await;
    settle_all(&*backend.fleet(), DeliveryOutcome::Delivered).await;
    let is_there = async |backend: &B| {
        backend.fleet().sweep().await.unwrap();
        backend.fleet().get(&id).await.unwrap().is_some()
    };
    assert!(is_there(&backend).await);
    // The clock is eight days ahead for three seconds.
    backend.set_clock(EIGHT_DAYS_MS);
    assert!(is_there(&backend).await);
    backend.advance(Duration::from_secs(3));
    assert!(is_there(&backend).await);
    backend.set_clock(-EIGHT_DAYS_MS);
    backend.advance(HOUR * 2);
    assert!(is_there(&backend).await, "it has not expired");
    // The clock changes just before a restart.
    backend.set_clock(EIGHT_DAYS_MS);
    backend.restart().await;
    assert!(is_there(&backend).await);
    backend.advance(HOUR - TIME_STEP);
    assert!(is_there(&backend).await);
    backend.restart().await;
    assert!(is_there(&backend).await, "the waiting time continues after a restart");
    backend.advance(TIME_STEP);
    assert!(!is_there(&backend).await, "an hour after its change the clock is trusted");
}
