//! A process of a PostgreSQL fleet learns by one statement what there is to do.

use std::time::Duration;

use pagecast_fleet::*;
use pagecast_testkit::PgBouncer;

use super::fixture::*;
use super::postgres::{Database, PostgresBackend, config, open, server};

type B = PostgresBackend;

const NOTHING: PendingWork = PendingWork {
    has_queued: false,
    has_expired_leases: false,
    next_lease_end_in: None,
    has_commands: false,
    needs_sweep: false,
    next_delivery_in: None,
    documents_version: Some(1),
};

/// Waits until a process learns something.
async fn wait_for(fleet: &dyn Fleet, is_met: impl Fn(PendingWork) -> bool) -> PendingWork {
    let mut changes = fleet.changes();
    loop {
        let work = fleet.pending_work().await.unwrap();
        if is_met(work) {
            return work;
        }
        changes.changed().await.unwrap();
    }
}

#[test]
fn a_process_learns_what_there_is_to_do() {
    block_on(async {
        let backend = B::new().await;
        let (first, second) = (backend.fleet(), backend.other_node("other").await);
        assert_eq!(first.pending_work().await.unwrap(), NOTHING);
        let id = create_cast(&*first, new_cast(backend.now())).await;
        let found = first.pending_work().await.unwrap();
        let due = Some(Duration::ZERO);
        assert_eq!(found, PendingWork { has_queued: true, next_delivery_in: due, ..NOTHING });
        wait_for(&*second, |work| work.has_queued && work.next_delivery_in == due).await;

        let claim = claim_next::<B>(&*first, "node").await.unwrap();
        let delay = Duration::from_secs(300);
        for (seq, outcome) in [(1, DeliveryOutcome::Delivered), (2, DeliveryOutcome::RetryAfter(delay))] {
            first.settle(&id, seq, outcome, None).await.unwrap();
        }
        let found = first.pending_work().await.unwrap();
        assert_eq!(
            found,
            PendingWork { next_delivery_in: Some(delay), ..NOTHING },
            "its own lease does not count"
        );
        first.send_command(&id, Command::Snapshot).await.unwrap();
        assert!(first.pending_work().await.unwrap().has_commands);
        let of_other = wait_for(&*second, |work| work.next_lease_end_in.is_some()).await;
        assert_eq!((of_other.has_commands, of_other.next_lease_end_in), (false, Some(B::LEASE)));
        first.ack_commands(&claim.ticket, u64::MAX).await.unwrap();
        // An acknowledgement wakes nobody; the next wake-up comes anyway.
        wait_for(&*first, |work| !work.has_commands).await;

        first.put_document("kind", "name", None, Some("content".into())).await.unwrap();
        assert_eq!(first.pending_work().await.unwrap().documents_version, Some(2));
        wait_for(&*second, |work| work.documents_version == Some(2)).await;
    });
}

#[test]
fn what_becomes_due_needs_no_wake_up() {
    block_on(async {
        let backend = B::new().await;
        let (first, second) = (backend.fleet(), backend.other_node("other").await);
        create_and_claim::<B>(&*first, "node", new_cast(backend.now())).await;
        let late = NewCast { queue_timeout: B::QUEUE_TIMEOUT, notify: false, ..new_cast(backend.now()) };
        create_cast(&*first, late).await;
        wait_for(&*second, |work| work.has_queued && work.next_lease_end_in.is_some()).await;
        backend.advance(B::LEASE);
        let found = second.pending_work().await.unwrap();
        assert!(found.has_expired_leases && !found.needs_sweep, "{found:?}");
        assert!(!first.pending_work().await.unwrap().has_expired_leases, "it is its own");
        backend.advance(B::QUEUE_TIMEOUT - B::LEASE);
        assert!(second.pending_work().await.unwrap().needs_sweep);
        first.sweep().await.unwrap();
        let found = first.pending_work().await.unwrap();
        assert!(!found.needs_sweep && !found.has_queued, "{found:?}");
    });
}

#[test]
fn partitions_are_maintained_every_hour() {
    block_on(async {
        let backend = B::new().await;
        let fleet = backend.fleet();
        backend.query(
            "CREATE TABLE events_2020_01 PARTITION OF events
             FOR VALUES FROM (1577836800000) TO (1580515200000)",
        );
        let sweep = async |after| {
            backend.advance(after);
            let is_needed = fleet.pending_work().await.unwrap().needs_sweep;
            fleet.sweep().await.unwrap();
            (is_needed, backend.query("SELECT to_regclass('events_2020_01') IS NULL"))
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(sweep(hour - Duration::from_secs(1)).await, (false, "f".to_owned()));
        assert_eq!(sweep(Duration::from_secs(1)).await, (true, "t".to_owned()), "it is old and empty");
        assert_eq!(sweep(Duration::from_secs(1)).await, (false, "t".to_owned()));
    });
}

#[test]
fn changes_are_found_without_notifications() {
    let database = Database::new();
    let pooler = PgBouncer::start(server()).unwrap();
    block_on(async {
        // A pooler passes no notifications on.
        let pooled = postgres::PostgresFleet::open(config(pooler.url(database.name()), "a")).await.unwrap();
        let other = open(database.url(), "b").await.unwrap();
        assert!(!pooled.pending_work().await.unwrap().has_queued);
        create_cast(&*other, new_cast(0)).await;
        wait_for(&*pooled, |work| work.has_queued).await;
    });
}
