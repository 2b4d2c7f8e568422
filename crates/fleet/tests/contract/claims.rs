//! Workers claim casts.

use std::collections::HashSet;
use std::sync::Mutex;

use bytes::Bytes;
use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::{Secret, Size};
use pagecast_fleet::*;
use tokio::task::JoinSet;

use super::fixture::*;

pub(crate) async fn casts_are_claimed_in_order<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(create_cast(&*fleet, new_cast(backend.now())).await);
    }
    for id in &made {
        backend.advance(TIME_STEP);
        let before = backend.now();
        let Claim { ticket, cast } = claim_next::<B>(&*fleet, "w").await.unwrap();
        assert_eq!((&cast.id, &ticket.cast), (id, id));
        assert_eq!((ticket.epoch, &ticket.worker.0[..]), (1, "w"));
        assert_eq!((cast.state, cast.epoch, &cast.worker), (CastState::Starting, 1, &Some(ticket.worker)));
        assert!((before..=backend.now()).contains(&cast.started_ms.unwrap()));
        assert_eq!(event_names(&*fleet, id).await, ["queued", "started"]);
        let found = get_cast(&*fleet, id).await;
        assert_eq!(format!("{found:?}"), format!("{cast:?}"));
    }
    assert!(claim_next::<B>(&*fleet, "w").await.is_none());
}

pub(crate) async fn a_cast_that_does_not_fit_blocks_no_other<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let worker = WorkerId("w".to_owned());
    let begun = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    let of = |app: &str| NewCast { app: app.to_owned(), ..new_cast(backend.now()) };
    let large = create_cast(&*fleet, of("large")).await;
    let also_large = create_cast(&*fleet, of("large")).await;
    let small = create_cast(&*fleet, of("small")).await;
    let offered = Mutex::new(Vec::new());
    let fits = |cast: &QueuedCast| {
        offered.lock().unwrap().push(cast.id.clone());
        cast.app != "large"
    };
    assert_eq!(
        fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &fits).await.unwrap().unwrap().cast.id,
        small
    );
    assert_eq!(
        offered.lock().unwrap()[..],
        [large.clone(), also_large.clone(), small],
        "in the order of creation"
    );
    assert!(fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &fits).await.unwrap().is_none());
    assert_eq!(get_cast(&*fleet, &large).await.state, CastState::Queued);
    fleet.release(&begun.ticket).await.unwrap();
    let again = fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &|_| false).await.unwrap().unwrap();
    assert_eq!(again.cast.id, begun.cast.id, "started casts go first, whether they fit or not");
    assert_eq!(claim_next::<B>(&*fleet, "w").await.unwrap().cast.id, large);
    assert_eq!(claim_next::<B>(&*fleet, "w").await.unwrap().cast.id, also_large);
}

pub(crate) async fn applications_take_turns<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let of = |app: &str| NewCast { app: app.to_owned(), ..new_cast(backend.now()) };
    let mut many = Vec::new();
    for _ in 0..6 {
        many.push(create_cast(&*fleet, of("many")).await);
    }
    let mut few = Vec::new();
    for _ in 0..2 {
        few.push(create_cast(&*fleet, of("few")).await);
    }
    let mut order = Vec::new();
    let mut tickets = Vec::new();
    while let Some(claim) = claim_next::<B>(&*fleet, "w").await {
        order.push(claim.cast.id.clone());
        tickets.push(claim.ticket);
    }
    let expected = [&many[0], &few[0], &many[1], &few[1]].map(Clone::clone);
    assert_eq!(
        (&order[..4], &order[4..]),
        (&expected[..], &many[2..]),
        "applications alternate, the oldest cast first"
    );
    // Ended casts do not count, and larger ones count more.
    for ticket in tickets {
        fleet.report_event(&ticket, ended_event()).await.unwrap();
    }
    let mut large = of("few");
    large.spec.source.size = Size::FULL_HD;
    create_and_claim::<B>(&*fleet, "w", large).await;
    for app in ["few", "few", "many", "many", "many"] {
        create_cast(&*fleet, of(app)).await;
    }
    let mut apps = Vec::new();
    while let Some(claim) = claim_next::<B>(&*fleet, "w").await {
        apps.push(claim.cast.app);
    }
    assert_eq!(apps, ["many", "many", "few", "many", "few"], "the large one counts nearly twice");
}

pub(crate) async fn several_are_claimed_at_once_in_the_order_of_single_claims<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let create = async |app: &str, size: Size| {
        let mut new = NewCast { app: app.to_owned(), ..new_cast(backend.now()) };
        new.spec.source.size = size;
        create_cast(&*fleet, new).await
    };
    let hd = Size::new(1280, 720).unwrap();
    let mut many = Vec::new();
    for _ in 0..6 {
        many.push(create("many", hd).await);
    }
    let large = create("large", Size::FULL_HD).await;
    let after_large = create("large", hd).await;
    let worker = WorkerId("w".to_owned());
    let node = NodeInfo::default();
    let taken = Mutex::new(Vec::new());
    let fits = |before: &[QueuedCast], cast: &QueuedCast| {
        assert_eq!(before.iter().map(|cast| cast.id.clone()).collect::<Vec<_>>(), *taken.lock().unwrap());
        // One that does not fit is passed over.
        let is_taken = cast.id != many[1];
        taken.lock().unwrap().extend(is_taken.then(|| cast.id.clone()));
        is_taken
    };
    let claims = fleet.claim_queued(&worker, &node, B::LEASE, 5, &fits).await.unwrap();
    let claimed: Vec<_> = claims.iter().map(|claim| claim.cast.id.clone()).collect();
    let expected = [&many[0], &large, &many[2], &after_large, &many[3]];
    assert_eq!(claimed.iter().collect::<Vec<_>>(), expected, "the large one counts nearly twice");
    assert_eq!(claimed, *taken.lock().unwrap());
    for Claim { ticket, cast } in &claims {
        assert_eq!((&ticket.cast, ticket.epoch, &ticket.worker), (&cast.id, 1, &worker));
        assert_eq!(format!("{:?}", get_cast(&*fleet, &cast.id).await), format!("{cast:?}"));
        assert_eq!(event_names(&*fleet, &cast.id).await, ["queued", "started"]);
        fleet.report_event(ticket, EventKind::Live).await.unwrap();
    }
    let due: Vec<_> = due_entries(&*fleet, 100).await.iter().map(|entry| entry.event.seq).collect();
    assert_eq!(due, [1; 8], "events are delivered in order");
    assert!(fleet.claim_queued(&worker, &node, B::LEASE, 0, &|_, _| true).await.unwrap().is_empty());
    let rest = fleet.claim_queued(&worker, &node, B::LEASE, 100, &|_, _| true).await.unwrap();
    assert_eq!(rest.iter().map(|claim| &claim.cast.id).collect::<Vec<_>>(), [&many[1], &many[4], &many[5]]);
}

pub(crate) async fn only_a_claim_has_the_injected_data<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut new = new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded);
    let plain = new.spec.clone();
    let context = &mut new.spec.source.context;
    (context.css, context.script) = (Some("css".to_owned()), Some("script".to_owned()));
    context.headers = vec![("X-A".to_owned(), Secret::new("header"))];
    context.cookies = vec![("a".to_owned(), Secret::new("cookie"))];
    let whole = new.spec.clone();
    let CreateOutcome::New(made) = fleet.create(new.clone()).await.unwrap() else { panic!("it is new") };
    let found = fleet.find_by_key(new.key.as_ref().unwrap()).await.unwrap().unwrap();
    let listed = fleet.list(&Filter { limit: 1, ..Filter::default() }).await.unwrap().casts.remove(0);
    let due = due_entries(&*fleet, 1).await.remove(0).cast;
    assert!(listed.request.is_null(), "lists omit requests");
    for cast in [made, get_cast(&*fleet, &new.id).await, found, due] {
        assert_eq!((cast.spec, cast.request), (plain.clone(), new.request.clone()));
    }
    assert_eq!(listed.spec, plain);
    let claim = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert_eq!((&claim.cast.spec, &claim.cast.request), (&whole, &new.request));
    fleet.put_pushes(&claim.ticket, vec![push(1)]).await.unwrap();
    fleet.release(&claim.ticket).await.unwrap();
    let again = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert_eq!(again.cast.spec, CastSpec { pushes: vec![push(1)], ..whole });
}

pub(crate) async fn a_cast_that_no_worker_can_run_fails_at_once<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let id = create_cast(&*fleet, new_cast(backend.now())).await;
    fleet.fail_queued(&id, "it is too large for any machine").await.unwrap();
    let cast = get_cast(&*fleet, &id).await;
    assert_eq!((cast.state, cast.closed, cast.started_ms), (CastState::Ended, true, None));
    let message = Some("it is too large for any machine".to_owned());
    assert_eq!(cast.end, Some(CastEnd { reason: EndReason::StartFailed, message, cause: None }));
    assert_eq!(event_names(&*fleet, &id).await, ["queued", "ended"]);
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    fleet.fail_queued(&claim.cast.id, "a running cast").await.unwrap();
    fleet.fail_queued(&id, "an ended cast").await.unwrap();
    assert_eq!(
        get_cast(&*fleet, &claim.cast.id).await.state,
        CastState::Starting,
        "a running cast is not changed"
    );
    assert_eq!(event_names(&*fleet, &id).await.len(), 2);
}

pub(crate) async fn an_expired_lease_is_claimed_and_the_old_owner_fenced<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let old = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    let id = old.cast.id.clone();
    fleet.report_event(&old.ticket, EventKind::Live).await.unwrap();
    fleet.put_stats(&old.ticket, CastStats { bytes: 1, ..CastStats::default() }).await;
    fleet.put_snapshot(&old.ticket, Bytes::from_static(b"old")).await;
    assert!(claim_next::<B>(&*fleet, "w").await.is_none());
    backend.advance(B::LEASE);
    let new = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert_eq!(
        (&new.cast.id, new.ticket.epoch, new.cast.state),
        (&id, 2, CastState::Live),
        "the state is unchanged"
    );
    assert_eq!(new.cast.worker.as_ref().unwrap().0, "w");
    assert!(
        fleet.stats(&id).await.is_none() && fleet.snapshot(&id).await.is_none(),
        "a new owner starts without statistics"
    );
    let before = format!("{:?}", get_cast(&*fleet, &id).await);
    assert_fenced(&*fleet, &old.ticket).await;
    let by_name = Ticket { worker: old.ticket.worker.clone(), ..new.ticket.clone() };
    let by_nonce = Ticket { nonce: new.ticket.nonce + 1, ..new.ticket.clone() };
    for forged in [by_name, by_nonce] {
        assert_fenced(&*fleet, &forged).await;
    }
    assert_eq!(format!("{:?}", get_cast(&*fleet, &id).await), before);
    assert!(fleet.stats(&id).await.is_none() && fleet.snapshot(&id).await.is_none());
    assert_eq!(event_names(&*fleet, &id).await, ["queued", "started", "live", "lost-node", "resumed"]);
    let events = fleet.events(&id, 3, 10).await.unwrap();
    let kinds: Vec<_> = events.into_iter().map(|event| event.kind).collect();
    let lost = EventKind::LostNode { node: "v".to_owned() };
    assert_eq!(kinds, [lost, EventKind::Resumed { node: Some("w".to_owned()) }]);
    renew::<B>(&*fleet, &new.ticket).await.unwrap();
}

/// Asserts that every operation with this ticket is refused.
pub(crate) async fn assert_fenced(fleet: &dyn Fleet, ticket: &Ticket) {
    let (id, lease) = (&ticket.cast, std::time::Duration::from_secs(1));
    let renewals = fleet.renew_all(std::slice::from_ref(ticket), lease).await.unwrap();
    assert_eq!(renewals, [Renewal::Lost]);
    assert!(is_fenced(&fleet.ack_commands(ticket, u64::MAX).await, id));
    assert!(is_fenced(&fleet.report_event(ticket, EventKind::Restarted).await, id));
    assert!(is_fenced(&fleet.report_event(ticket, ended_event()).await, id));
    assert!(is_fenced(&fleet.put_pushes(ticket, Vec::new()).await, id));
    assert!(is_fenced(&fleet.put_ledger(ticket, Vec::new()).await, id));
    assert!(is_fenced(&fleet.ledger(ticket).await, id));
    assert!(is_fenced(&fleet.close(ticket, None, None).await, id));
    assert!(is_fenced(&fleet.release(ticket).await, id));
    fleet.put_stats(ticket, CastStats { bytes: 666, ..CastStats::default() }).await;
    assert_ne!(fleet.stats(id).await.map(|stats| stats.bytes), Some(666));
    fleet.put_snapshot(ticket, Bytes::from_static(b"fenced")).await;
    assert_ne!(fleet.snapshot(id).await.map(|(_, jpeg)| jpeg), Some(Bytes::from_static(b"fenced")));
}

pub(crate) async fn a_renewed_lease_lasts<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    for _ in 0..3 {
        backend.advance(B::LEASE * 2 / 3);
        renew::<B>(&*fleet, &claim.ticket).await.unwrap();
        assert!(claim_next::<B>(&*fleet, "w").await.is_none());
    }
    backend.advance(B::LEASE);
    assert!(claim_next::<B>(&*fleet, "w").await.is_some());
    assert!(is_fenced(&renew::<B>(&*fleet, &claim.ticket).await, &claim.cast.id));
}

pub(crate) async fn all_tickets_of_a_worker_are_renewed_at_once<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let mut tickets = Vec::new();
    for _ in 0..5 {
        tickets.push(create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await.ticket);
    }
    let [released, closed, commanded] = [&tickets[1], &tickets[3], &tickets[4]];
    fleet.release(released).await.unwrap();
    fleet.close(closed, None, None).await.unwrap();
    for command in [Command::Snapshot, Command::Stop] {
        fleet.send_command(&commanded.cast, command).await.unwrap();
    }
    backend.advance(B::LEASE / 2);
    let renewals = fleet.renew_all(&tickets, B::LEASE).await.unwrap();
    let commands = renew::<B>(&*fleet, commanded).await.unwrap();
    let sent: Vec<_> = commands.iter().map(|(_, command)| command.clone()).collect();
    assert_eq!(sent, [Command::Snapshot, Command::Stop]);
    let idle = || Renewal::Renewed { commands: Vec::new() };
    let expected = [idle(), Renewal::Lost, idle(), Renewal::Lost, Renewal::Renewed { commands }];
    assert_eq!(renewals, expected);
    backend.advance(B::LEASE * 3 / 4);
    let free = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert_eq!(free.cast.id, released.cast, "only the released one can be claimed");
    assert!(claim_next::<B>(&*fleet, "w").await.is_none());
    assert!(fleet.renew_all(&[], B::LEASE).await.unwrap().is_empty());
}

pub(crate) async fn a_ticket_is_valid_until_another_claim<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    backend.advance(B::LEASE * 3);
    fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
    renew::<B>(&*fleet, &claim.ticket).await.unwrap();
    assert!(claim_next::<B>(&*fleet, "w").await.is_none());
}

pub(crate) async fn a_released_cast_is_free_at_once<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    fleet.release(&claim.ticket).await.unwrap();
    assert_eq!(get_cast(&*fleet, &claim.cast.id).await.worker, None);
    assert_fenced(&*fleet, &claim.ticket).await;
    let again = claim_next::<B>(&*fleet, "v").await.unwrap();
    assert_eq!((again.cast.id, again.ticket.epoch), (claim.cast.id.clone(), 2));
    assert_fenced(&*fleet, &claim.ticket).await;
    assert_eq!(event_names(&*fleet, &claim.cast.id).await, ["queued", "started", "resumed"]);
}

pub(crate) async fn registering_a_worker_frees_its_casts<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let first = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    let second = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    let other = create_and_claim::<B>(&*fleet, "other", new_cast(backend.now())).await;
    let queued = create_cast(&*fleet, new_cast(backend.now())).await;
    fleet.register_worker(&WorkerId("v".to_owned()), &NodeInfo::default()).await.unwrap();
    fleet.register_worker(&WorkerId("nobody".to_owned()), &NodeInfo::default()).await.unwrap();
    for old in [&first, &second] {
        assert_fenced(&*fleet, &old.ticket).await;
    }
    renew::<B>(&*fleet, &other.ticket).await.unwrap();
    for (id, epoch) in [(first.cast.id, 2), (second.cast.id, 2), (queued, 1)] {
        let claim = claim_next::<B>(&*fleet, "w").await.unwrap();
        assert_eq!((claim.cast.id, claim.ticket.epoch), (id, epoch));
    }
    assert!(claim_next::<B>(&*fleet, "w").await.is_none());
}

pub(crate) async fn an_ended_cast_is_claimed_until_it_is_closed<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let old = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    fleet.report_event(&old.ticket, ended_event()).await.unwrap();
    backend.advance(B::LEASE);
    let new = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert_eq!((&new.cast.id, new.cast.state, new.ticket.epoch), (&old.cast.id, CastState::Ended, 2));
    assert!(is_fenced(&fleet.close(&old.ticket, None, None).await, &old.cast.id));
    let stored = EventKind::Stored { files: Vec::new(), complete: true, backup: false, error: None };
    fleet.report_event(&new.ticket, stored).await.unwrap();
    fleet.close(&new.ticket, None, None).await.unwrap();
    assert_eq!(event_names(&*fleet, &old.cast.id).await, ["queued", "started", "ended", "stored"]);
    assert_fenced(&*fleet, &new.ticket).await;
    backend.advance(B::LEASE * 2);
    assert!(claim_next::<B>(&*fleet, "w").await.is_none(), "nothing is left to do");
    assert_eq!(get_cast(&*fleet, &old.cast.id).await.worker, None);
}

pub(crate) async fn many_workers_claim_each_cast_once<B: Backend>() {
    let backend = B::new().await;
    let mut made = HashSet::new();
    for _ in 0..60 {
        made.insert(create_cast(&*backend.fleet(), new_cast(backend.now())).await);
    }
    let mut tasks = JoinSet::new();
    for n in 0..12 {
        let (fleet, worker, limit) = (backend.fleet(), WorkerId(format!("w{n}")), 1 + n % 4);
        tasks.spawn(async move {
            let (node, mut claimed) = (NodeInfo::default(), Vec::new());
            loop {
                let claims = fleet.claim_queued(&worker, &node, B::LEASE, limit, &|_, _| true).await.unwrap();
                if claims.is_empty() {
                    return claimed;
                }
                for claim in claims {
                    assert_eq!((claim.ticket.epoch, claim.cast.worker.as_ref()), (1, Some(&worker)));
                    claimed.push(claim.cast.id);
                }
            }
        });
    }
    let claimed: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), made.len());
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), made);
}
