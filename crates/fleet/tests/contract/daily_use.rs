//! What applications use is counted by day.

use std::time::Duration;

use pagecast_fleet::{
    Claim, DailyUse, DeliveryOutcome, Fleet, NewCast, NodeInfo, USE_RETENTION_DAYS, WorkerId,
};
use serde_json::json;

use super::fixture::*;

const DAY_MS: i64 = 86_400_000;

/// Use of all days.
async fn all(fleet: &dyn Fleet, app: Option<&str>) -> Vec<DailyUse> {
    fleet.daily_use(app, 0..=i64::MAX / DAY_MS).await.unwrap()
}

/// Sum of days: casts, their time, CPU time, bytes.
fn sum(days: &[DailyUse]) -> (u64, u64, u64, u64) {
    days.iter().fold((0, 0, 0, 0), |(casts, cast_ms, core_ms, bytes), of| {
        (casts + of.casts, cast_ms + of.cast_ms, core_ms + of.core_ms, bytes + of.bytes)
    })
}

async fn close_with<B: Backend>(fleet: &dyn Fleet, claim: &Claim, core_ms: u64, bytes: u64) {
    renew::<B>(fleet, &claim.ticket).await.unwrap();
    let report = json!({"cpu_ms": {"total": core_ms}, "bytes": bytes});
    fleet.close(&claim.ticket, Some(ended_event()), Some(report)).await.unwrap();
}

pub(crate) async fn a_cast_counts_on_the_days_on_which_it_ran<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    assert!(all(&*fleet, None).await.is_empty());
    let long = NewCast { app: "b".to_owned(), ..new_cast(backend.now()) };
    let long = create_and_claim::<B>(&*fleet, "w", long).await;
    let started_ms = get_cast(&*fleet, &long.cast.id).await.started_ms.unwrap();
    // From here to the middle of the next day but one.
    let first = started_ms.div_euclid(DAY_MS);
    backend.advance(Duration::from_millis(((first + 2) * DAY_MS + DAY_MS / 2 - started_ms).unsigned_abs()));
    let short = NewCast { app: "a".to_owned(), ..new_cast(backend.now()) };
    let short = create_and_claim::<B>(&*fleet, "w", short).await;
    backend.advance(Duration::from_secs(2));
    close_with::<B>(&*fleet, &short, 1500, 77).await;

    let open = all(&*fleet, Some("b")).await;
    let days: Vec<_> = open.iter().map(|of| (of.day - first, of.casts)).collect();
    assert_eq!(days, [(0, 1), (1, 0), (2, 0)], "what runs is counted up to now");
    assert_eq!((open[1].cast_ms, sum(&open).2), (DAY_MS as u64, 0));
    // The lease of the cast is over: another node takes it, and it still counts once.
    let by = WorkerId("v".to_owned());
    let taken = fleet.take_over(&by, &NodeInfo::default(), B::LEASE, &long.cast.id).await.unwrap().unwrap();
    assert!(fleet.close(&long.ticket, Some(ended_event()), Some(json!({"bytes": 1_000_000}))).await.is_err());
    close_with::<B>(&*fleet, &taken, 5_000_001, 1001).await;
    assert!(fleet.close(&taken.ticket, None, Some(json!({"bytes": 5}))).await.is_err());

    let used = all(&*fleet, Some("b")).await;
    let ended_ms = get_cast(&*fleet, &long.cast.id).await.ended_ms.unwrap();
    assert_eq!(sum(&used), (1, (ended_ms - started_ms).unsigned_abs(), 5_000_001, 1001));
    let days: Vec<_> = used.iter().map(|of| (of.day - first, of.casts)).collect();
    assert_eq!(days, [(0, 1), (1, 0), (2, 0)]);
    assert_eq!(used[1].cast_ms, DAY_MS as u64);
    assert!(used.iter().all(|of| of.app == "b"));

    let both = fleet.daily_use(None, first + 2..=first + 2).await.unwrap();
    let apps: Vec<_> = both.iter().map(|of| (of.app.as_str(), of.casts)).collect();
    assert_eq!(apps, [("a", 1), ("b", 0)]);
    let short = get_cast(&*fleet, &short.cast.id).await;
    let short_ms = (short.ended_ms.unwrap() - short.started_ms.unwrap()).unsigned_abs();
    assert_eq!(
        both[0],
        DailyUse {
            day: first + 2,
            app: "a".to_owned(),
            casts: 1,
            cast_ms: short_ms,
            core_ms: 1500,
            bytes: 77
        }
    );
    assert!(fleet.daily_use(Some("a"), first..=first + 1).await.unwrap().is_empty());
}

pub(crate) async fn use_adds_up_and_outlives_casts<B: Backend>() {
    let mut backend = B::new().await;
    let fleet = backend.fleet();
    for n in 0..20 {
        let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
        backend.advance(Duration::from_secs(1));
        close_with::<B>(&*fleet, &claim, n, 10).await;
    }
    // A cast that nobody started uses nothing.
    let queued = create_cast(&*fleet, new_cast(backend.now())).await;
    fleet.send_command(&queued, pagecast_fleet::Command::Stop).await.unwrap();
    let used = all(&*fleet, None).await;
    let (casts, cast_ms, core_ms, bytes) = sum(&used);
    assert_eq!((casts, core_ms, bytes), (20, 190, 200));
    assert!((20_000..60_000).contains(&cast_ms), "{cast_ms}");
    while let Some(entry) = due_entries(&*fleet, 1).await.pop() {
        fleet.settle(&entry.cast.id, entry.event.seq, DeliveryOutcome::Delivered, None).await.unwrap();
    }
    backend.advance(B::RETENTION + Duration::from_secs(10));
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&queued).await.unwrap().is_none());
    drop(fleet);
    backend.restart().await;
    let fleet = backend.fleet();
    assert_eq!(all(&*fleet, None).await, used);
    // Something must be there to be deleted.
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    close_with::<B>(&*fleet, &claim, 0, 0).await;
    while let Some(entry) = due_entries(&*fleet, 1).await.pop() {
        fleet.settle(&entry.cast.id, entry.event.seq, DeliveryOutcome::Delivered, None).await.unwrap();
    }
    let days = u64::try_from(USE_RETENTION_DAYS + 1).unwrap();
    backend.advance(Duration::from_secs(days * 86_400));
    fleet.sweep().await.unwrap();
    let left = all(&*fleet, None).await;
    assert!(left.iter().all(|of| !used.contains(of)), "it is kept for {USE_RETENTION_DAYS} days: {left:?}");
}

pub(crate) async fn a_cast_that_is_stopped_while_closing_counts_once<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    let cast = get_cast(&*fleet, &claim.cast.id).await;
    let ran_ms = (cast.ended_ms.unwrap() - cast.started_ms.unwrap()).unsigned_abs();
    // Its upload takes a while, which is not the cast's time.
    backend.advance(Duration::from_secs(5));
    assert_eq!(sum(&all(&*fleet, None).await), (1, ran_ms, 0, 0));
    renew::<B>(&*fleet, &claim.ticket).await.unwrap();
    fleet.close(&claim.ticket, None, Some(json!({"bytes": 3}))).await.unwrap();
    assert_eq!(sum(&all(&*fleet, None).await), (1, ran_ms, 0, 3));
}
