//! Casts are taken by workers.

use std::collections::HashSet;
use std::sync::Mutex;

use bytes::Bytes;
use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::{Secret, Size};
use pagecast_fleet::*;
use tokio::task::JoinSet;

use super::make::*;

pub(crate) async fn casts_are_taken_in_order<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(put(&*fleet, wish(backend.now())).await);
    }
    for id in &made {
        backend.pass(TICK);
        let before = backend.now();
        let Claim { ticket, cast } = take::<B>(&*fleet, "w").await.unwrap();
        assert_eq!((&cast.id, &ticket.cast), (id, id));
        assert_eq!((ticket.epoch, &ticket.worker.0[..]), (1, "w"));
        assert_eq!((cast.state, cast.epoch, &cast.worker), (State::Starting, 1, &Some(ticket.worker)));
        assert!((before..=backend.now()).contains(&cast.started_ms.unwrap()));
        assert_eq!(story(&*fleet, id).await, ["queued", "started"]);
        let found = get(&*fleet, id).await;
        assert_eq!(format!("{found:?}"), format!("{cast:?}"));
    }
    assert!(take::<B>(&*fleet, "w").await.is_none());
}

pub(crate) async fn one_that_does_not_fit_holds_up_nobody<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let worker = WorkerId("w".to_owned());
    let begun = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    let of = |app: &str| NewCast { app: app.to_owned(), ..wish(backend.now()) };
    let large = put(&*fleet, of("large")).await;
    let also_large = put(&*fleet, of("large")).await;
    let small = put(&*fleet, of("small")).await;
    let asked = Mutex::new(Vec::new());
    let fits = |cast: &Cast| {
        assert_eq!(cast.state, State::Queued);
        asked.lock().unwrap().push(cast.id.clone());
        cast.app != "large"
    };
    assert_eq!(fleet.claim(&worker, B::LEASE, &fits).await.unwrap().unwrap().cast.id, small);
    assert_eq!(asked.lock().unwrap()[..], [large.clone(), also_large.clone(), small], "in their order");
    assert!(fleet.claim(&worker, B::LEASE, &fits).await.unwrap().is_none());
    assert_eq!(get(&*fleet, &large).await.state, State::Queued);
    fleet.release(&begun.ticket).await.unwrap();
    let again = fleet.claim(&worker, B::LEASE, &|_| false).await.unwrap().unwrap();
    assert_eq!(again.cast.id, begun.cast.id, "what was begun goes first, and nobody is asked");
    assert_eq!(take::<B>(&*fleet, "w").await.unwrap().cast.id, large);
    assert_eq!(take::<B>(&*fleet, "w").await.unwrap().cast.id, also_large);
}

pub(crate) async fn applications_take_turns<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let of = |app: &str| NewCast { app: app.to_owned(), ..wish(backend.now()) };
    let mut many = Vec::new();
    for _ in 0..6 {
        many.push(put(&*fleet, of("many")).await);
    }
    let mut few = Vec::new();
    for _ in 0..2 {
        few.push(put(&*fleet, of("few")).await);
    }
    let mut order = Vec::new();
    let mut tickets = Vec::new();
    while let Some(claim) = take::<B>(&*fleet, "w").await {
        order.push(claim.cast.id.clone());
        tickets.push(claim.ticket);
    }
    let expected = [&many[0], &few[0], &many[1], &few[1]].map(Clone::clone);
    assert_eq!((&order[..4], &order[4..]), (&expected[..], &many[2..]), "each has its turn, the older first");
    // What ended counts no more, and what takes more counts more.
    for ticket in tickets {
        fleet.report(&ticket, over()).await.unwrap();
    }
    let mut large = of("few");
    large.spec.source.size = Size::FULL_HD;
    begun::<B>(&*fleet, "w", large).await;
    for app in ["few", "few", "many", "many", "many"] {
        put(&*fleet, of(app)).await;
    }
    let mut apps = Vec::new();
    while let Some(claim) = take::<B>(&*fleet, "w").await {
        apps.push(claim.cast.app);
    }
    assert_eq!(apps, ["many", "many", "few", "many", "few"], "the large one counts nearly twice");
}

pub(crate) async fn only_a_claim_has_what_is_put_into_the_page<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let mut new = keyed(backend.now(), "key", Hold::WhileLive);
    let plain = new.spec.clone();
    let context = &mut new.spec.source.context;
    (context.css, context.script) = (Some("css".to_owned()), Some("script".to_owned()));
    context.headers = vec![("X-A".to_owned(), Secret::new("header"))];
    context.cookies = vec![("a".to_owned(), Secret::new("cookie"))];
    let whole = new.spec.clone();
    let Created::New(made) = fleet.create(new.clone()).await.unwrap() else { panic!("it is new") };
    let found = fleet.find(new.key.as_ref().unwrap()).await.unwrap().unwrap();
    let listed = fleet.list(&Filter { limit: 1, ..Filter::default() }).await.unwrap().casts.remove(0);
    let told = due(&*fleet, 1).await.remove(0).cast;
    for cast in [made, get(&*fleet, &new.id).await, found, listed, told] {
        assert_eq!(cast.spec, plain);
    }
    let seen = |cast: &Cast| {
        assert_eq!(cast.spec, plain);
        true
    };
    let claim = fleet.claim(&WorkerId("w".to_owned()), B::LEASE, &seen).await.unwrap().unwrap();
    assert_eq!(claim.cast.spec, whole);
    fleet.put_pushes(&claim.ticket, vec![push(1)]).await.unwrap();
    fleet.release(&claim.ticket).await.unwrap();
    let again = take::<B>(&*fleet, "w").await.unwrap();
    assert_eq!(again.cast.spec, CastSpec { pushes: vec![push(1)], ..whole });
}

pub(crate) async fn one_that_nobody_can_run_fails_at_once<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let id = put(&*fleet, wish(backend.now())).await;
    fleet.fail_queued(&id, "it is too large for any machine").await.unwrap();
    let cast = get(&*fleet, &id).await;
    assert_eq!((cast.state, cast.closed, cast.started_ms), (State::Ended, true, None));
    let message = Some("it is too large for any machine".to_owned());
    assert_eq!(cast.end, Some(End { reason: EndReason::StartFailed, message, cause: None }));
    assert_eq!(story(&*fleet, &id).await, ["queued", "ended"]);
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    fleet.fail_queued(&claim.cast.id, "it runs").await.unwrap();
    fleet.fail_queued(&id, "it is over").await.unwrap();
    assert_eq!(get(&*fleet, &claim.cast.id).await.state, State::Starting, "one that runs, runs on");
    assert_eq!(story(&*fleet, &id).await.len(), 2);
}

pub(crate) async fn a_lease_that_is_over_is_taken_up_and_the_old_owner_fenced<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let old = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    let id = old.cast.id.clone();
    fleet.report(&old.ticket, Happening::Live).await.unwrap();
    fleet.tell(&old.ticket, Vitals { bytes: 1, ..Vitals::default() }).await;
    fleet.put_snapshot(&old.ticket, Bytes::from_static(b"old")).await;
    assert!(take::<B>(&*fleet, "w").await.is_none());
    backend.pass(B::LEASE);
    let new = take::<B>(&*fleet, "w").await.unwrap();
    assert_eq!(
        (&new.cast.id, new.ticket.epoch, new.cast.state),
        (&id, 2, State::Live),
        "the state is what it was"
    );
    assert_eq!(new.cast.worker.as_ref().unwrap().0, "w");
    assert!(
        fleet.vitals(&id).await.is_none() && fleet.snapshot(&id).await.is_none(),
        "a new owner begins anew"
    );
    let before = format!("{:?}", get(&*fleet, &id).await);
    all_is_refused(&*fleet, &old.ticket).await;
    let forged = Ticket { worker: old.ticket.worker.clone(), ..new.ticket.clone() };
    all_is_refused(&*fleet, &forged).await;
    assert_eq!(format!("{:?}", get(&*fleet, &id).await), before);
    assert!(fleet.vitals(&id).await.is_none() && fleet.snapshot(&id).await.is_none());
    assert_eq!(story(&*fleet, &id).await, ["queued", "started", "live", "taken-up"]);
    fleet.renew(&new.ticket, B::LEASE).await.unwrap();
}

/// Nothing can be done with a ticket.
pub(crate) async fn all_is_refused(fleet: &dyn Fleet, ticket: &Ticket) {
    let (id, lease) = (&ticket.cast, std::time::Duration::from_secs(1));
    assert!(is_fenced(&fleet.renew(ticket, lease).await, id));
    assert!(is_fenced(&fleet.commands(ticket).await, id));
    assert!(is_fenced(&fleet.obeyed(ticket, u64::MAX).await, id));
    assert!(is_fenced(&fleet.report(ticket, Happening::Restarted).await, id));
    assert!(is_fenced(&fleet.report(ticket, over()).await, id));
    assert!(is_fenced(&fleet.put_pushes(ticket, Vec::new()).await, id));
    assert!(is_fenced(&fleet.close(ticket, None, None).await, id));
    assert!(is_fenced(&fleet.release(ticket).await, id));
    fleet.tell(ticket, Vitals { bytes: 666, ..Vitals::default() }).await;
    assert_ne!(fleet.vitals(id).await.map(|vitals| vitals.bytes), Some(666));
    fleet.put_snapshot(ticket, Bytes::from_static(b"fenced")).await;
    assert_ne!(fleet.snapshot(id).await.map(|(_, jpeg)| jpeg), Some(Bytes::from_static(b"fenced")));
}

pub(crate) async fn a_renewed_lease_lasts<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    for _ in 0..3 {
        backend.pass(B::LEASE * 2 / 3);
        fleet.renew(&claim.ticket, B::LEASE).await.unwrap();
        assert!(take::<B>(&*fleet, "w").await.is_none());
    }
    backend.pass(B::LEASE);
    assert!(take::<B>(&*fleet, "w").await.is_some());
    assert!(is_fenced(&fleet.renew(&claim.ticket, B::LEASE).await, &claim.cast.id));
}

pub(crate) async fn a_ticket_that_nobody_took_over_is_good<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    backend.pass(B::LEASE * 3);
    fleet.report(&claim.ticket, Happening::Live).await.unwrap();
    fleet.renew(&claim.ticket, B::LEASE).await.unwrap();
    assert!(take::<B>(&*fleet, "w").await.is_none());
}

pub(crate) async fn one_that_is_given_back_is_free_at_once<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    fleet.release(&claim.ticket).await.unwrap();
    assert_eq!(get(&*fleet, &claim.cast.id).await.worker, None);
    all_is_refused(&*fleet, &claim.ticket).await;
    let again = take::<B>(&*fleet, "v").await.unwrap();
    assert_eq!((again.cast.id, again.ticket.epoch), (claim.cast.id.clone(), 2));
    all_is_refused(&*fleet, &claim.ticket).await;
    assert_eq!(story(&*fleet, &claim.cast.id).await, ["queued", "started", "taken-up"]);
}

pub(crate) async fn a_worker_that_begins_frees_what_it_had<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let first = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    let second = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    let other = begun::<B>(&*fleet, "other", wish(backend.now())).await;
    let queued = put(&*fleet, wish(backend.now())).await;
    fleet.adopt(&WorkerId("v".to_owned())).await.unwrap();
    fleet.adopt(&WorkerId("nobody".to_owned())).await.unwrap();
    for old in [&first, &second] {
        all_is_refused(&*fleet, &old.ticket).await;
    }
    fleet.renew(&other.ticket, B::LEASE).await.unwrap();
    for (id, epoch) in [(first.cast.id, 2), (second.cast.id, 2), (queued, 1)] {
        let claim = take::<B>(&*fleet, "w").await.unwrap();
        assert_eq!((claim.cast.id, claim.ticket.epoch), (id, epoch));
    }
    assert!(take::<B>(&*fleet, "w").await.is_none());
}

pub(crate) async fn one_that_ended_is_taken_up_until_it_is_closed<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let old = begun::<B>(&*fleet, "v", wish(backend.now())).await;
    fleet.report(&old.ticket, over()).await.unwrap();
    backend.pass(B::LEASE);
    let new = take::<B>(&*fleet, "w").await.unwrap();
    assert_eq!((&new.cast.id, new.cast.state, new.ticket.epoch), (&old.cast.id, State::Ended, 2));
    assert!(is_fenced(&fleet.close(&old.ticket, None, None).await, &old.cast.id));
    let stored = Happening::Stored { files: Vec::new(), complete: true, backup: false, problem: None };
    fleet.report(&new.ticket, stored).await.unwrap();
    fleet.close(&new.ticket, None, None).await.unwrap();
    assert_eq!(story(&*fleet, &old.cast.id).await, ["queued", "started", "ended", "stored"]);
    all_is_refused(&*fleet, &new.ticket).await;
    backend.pass(B::LEASE * 2);
    assert!(take::<B>(&*fleet, "w").await.is_none(), "nothing is left to do");
    assert_eq!(get(&*fleet, &old.cast.id).await.worker, None);
}

pub(crate) async fn many_workers_take_each_cast_once<B: Backend>() {
    let backend = B::make();
    let mut made = HashSet::new();
    for _ in 0..60 {
        made.insert(put(&*backend.fleet(), wish(backend.now())).await);
    }
    let mut tasks = JoinSet::new();
    for n in 0..12 {
        let fleet = backend.fleet();
        tasks.spawn(async move {
            let mut taken = Vec::new();
            while let Some(claim) = take::<B>(&*fleet, &format!("w{n}")).await {
                assert_eq!(claim.ticket.epoch, 1);
                taken.push(claim.cast.id);
            }
            taken
        });
    }
    let taken: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), made.len());
    assert_eq!(taken.into_iter().collect::<HashSet<_>>(), made);
}
