//! Casts go to nodes that have their labels, and each name has one live process.

use std::collections::HashSet;

use pagecast_core::spec::Placement;
use pagecast_fleet::*;

use super::claims::assert_fenced;
use super::fixture::*;

/// Number of casts that fit nowhere: more than are offered of one application at once.
const UNFIT_CASTS: usize = 150;

fn node(labels: &[&str]) -> NodeInfo {
    NodeInfo { labels: strings(labels), ..NodeInfo::default() }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn cast_for(now: UnixMs, app: &str, labels: &[&str]) -> NewCast {
    let mut new = NewCast { app: app.to_owned(), ..new_cast(now) };
    new.spec.placement = Placement { labels: strings(labels) };
    new
}

/// Claims a cast for a worker on this node.
async fn claim_on<B: Backend>(fleet: &dyn Fleet, worker: &str, node: &NodeInfo) -> Option<Claim> {
    fleet.claim(&WorkerId(worker.to_owned()), node, B::LEASE, &|_| true).await.unwrap()
}

pub(crate) async fn a_cast_goes_to_a_node_that_has_all_its_labels<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let create =
        async |app, labels: &[&str]| create_cast(&*fleet, cast_for(backend.now(), app, labels)).await;
    let both = create("one", &["zone-a", "gpu"]).await;
    let gpu = create("one", &["gpu"]).await;
    let any = create("one", &[]).await;
    let gpu_too = create("two", &["gpu", "gpu"]).await;
    assert_eq!(get_cast(&*fleet, &both).await.spec.placement.labels, strings(&["zone-a", "gpu"]));
    let claim = async |labels: &[&str]| {
        let claim = claim_on::<B>(&*fleet, "w", &node(labels)).await;
        claim.map(|claim| claim.cast.id)
    };
    assert_eq!(claim(&["zone-b"]).await, Some(any), "older casts are for other nodes");
    assert_eq!(claim(&[]).await, None);
    assert_eq!(claim(&["gp", "gpu2", "zone-a"]).await, None);
    // The other application has no running cast.
    assert_eq!(claim(&["gpu"]).await, Some(gpu_too));
    assert_eq!(claim(&["gpu", "x"]).await, Some(gpu), "in the order of creation among those that fit");
    assert_eq!(claim(&["gpu"]).await, None);
    assert_eq!(claim(&["x", "zone-a", "gpu"]).await, Some(both));
}

pub(crate) async fn a_started_cast_is_only_taken_over_by_a_node_that_has_its_labels<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let id = create_cast(&*fleet, cast_for(backend.now(), "app", &["gpu"])).await;
    let first = claim_on::<B>(&*fleet, "v", &node(&["gpu"])).await.unwrap();
    let plain = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    backend.advance(B::LEASE);
    let taken = claim_on::<B>(&*fleet, "w", &node(&["zone-a"])).await.unwrap();
    assert_eq!(taken.cast.id, plain.cast.id);
    assert!(claim_on::<B>(&*fleet, "w", &node(&["zone-a"])).await.is_none());
    let taken = claim_on::<B>(&*fleet, "w", &node(&["zone-a", "gpu"])).await.unwrap();
    assert_eq!((&taken.cast.id, taken.ticket.epoch), (&id, 2));
    assert_fenced(&*fleet, &first.ticket).await;
    fleet.release(&taken.ticket).await.unwrap();
    assert!(claim_on::<B>(&*fleet, "w", &node(&[])).await.is_none(), "a released one likewise");
    assert!(claim_on::<B>(&*fleet, "w", &node(&["gpu"])).await.is_some());
}

/// One application fills the queue with casts that no node can run.
pub(crate) async fn casts_that_fit_nowhere_delay_no_other_application<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let (mut unfit, mut served) = (Vec::new(), HashSet::new());
    for n in 0..UNFIT_CASTS {
        // Half of them ask for labels that no node has, and the others are too large.
        let labels: &[&str] = if n % 2 == 0 { &["none"] } else { &[] };
        unfit.push(create_cast(&*fleet, cast_for(backend.now(), "greedy", labels)).await);
        unfit.push(create_cast(&*fleet, cast_for(backend.now(), "greedy", &[])).await);
    }
    for _ in 0..3 {
        served.insert(create_cast(&*fleet, cast_for(backend.now(), "other", &[])).await);
    }
    // It also has running casts of its own, so that it is not last in turn.
    create_cast(&*fleet, cast_for(backend.now(), "busy", &["gpu"])).await;
    claim_on::<B>(&*fleet, "v", &node(&["gpu"])).await.unwrap();
    let worker = WorkerId("w".to_owned());
    let fits = |cast: &QueuedCast| cast.app != "greedy";
    for _ in 0..3 {
        let claim = fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &fits).await.unwrap().unwrap();
        assert!(served.remove(&claim.cast.id), "{:?}", claim.cast.app);
    }
    assert!(fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &fits).await.unwrap().is_none());
    // The next ones are served as well.
    let late = create_cast(&*fleet, cast_for(backend.now(), "other", &[])).await;
    let claim = fleet.claim(&worker, &NodeInfo::default(), B::LEASE, &fits).await.unwrap().unwrap();
    assert_eq!(claim.cast.id, late);
    for id in [&unfit[0], &unfit[2 * UNFIT_CASTS - 1]] {
        assert_eq!(get_cast(&*fleet, id).await.state, CastState::Queued);
    }
}

pub(crate) async fn a_process_is_replaced_by_a_later_one_of_its_name<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let name = WorkerId("v".to_owned());
    let process = |instance| NodeInfo { instance, ..NodeInfo::default() };
    let status = |instance| WorkerStatus { casts: 7, node: process(instance), ..WorkerStatus::default() };
    let (old, new) = (process(1), process(2));
    fleet.register_worker(&name, &old).await.unwrap();
    fleet.heartbeat(&name, status(1)).await.unwrap();
    create_cast(&*fleet, new_cast(backend.now())).await;
    let claim = claim_on::<B>(&*fleet, "v", &old).await.unwrap();
    fleet.register_worker(&name, &new).await.unwrap();
    assert!(fleet.workers().await.iter().all(|(_, status)| status.node.instance != 1));
    assert_fenced(&*fleet, &claim.ticket).await;
    fleet.heartbeat(&name, status(2)).await.unwrap();

    let is_replaced = |result: Result<(), Error>| matches!(result, Err(Error::Replaced(of)) if of == name);
    assert!(is_replaced(fleet.heartbeat(&name, status(1)).await.map(drop)));
    assert!(is_replaced(fleet.claim(&name, &old, B::LEASE, &|_| true).await.map(drop)));
    let workers = fleet.workers().await.into_iter();
    let workers: Vec<_> =
        workers.map(|(id, seen)| (id, WorkerStatus { heartbeat_age_ms: 0, ..seen })).collect();
    assert_eq!(workers, [(name.clone(), status(2))], "the earlier one changes nothing");
    let again = claim_on::<B>(&*fleet, "v", &new).await.unwrap();
    assert_eq!((again.cast.id, again.ticket.epoch), (claim.cast.id, 2));
    assert!(is_replaced(fleet.claim(&name, &old, B::LEASE, &|_| true).await.map(drop)), "nothing is left");
    // Others are not affected.
    fleet.heartbeat(&WorkerId("w".to_owned()), status(1)).await.unwrap();
}
