//! Claims queued casts for a node, while the node goes on renewing leases.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagecast_core::ledger::{FIRST_EPOCH, LedgerRow};
use pagecast_fleet::{Cast, CastId, Claim, Error, ExpiredLease, Fleet};

use super::admission::{Admission, Reservations, RunningCast, relative_pixel_rate};
use super::peers::{PEER_TIMEOUT, Peers};
use super::{Config, MAX_UPLOADING, job};

/// Most casts that are claimed before they are started. A claim takes some milliseconds, so that none waits
/// long for the others.
const MAX_BATCH: usize = 32;
/// How long casts of a node that runs them, but cannot renew its leases, are left to it.
const MAX_SPARED: Duration = Duration::from_secs(60);

/// A claimed cast, and the ledger of what earlier owners recorded.
pub(super) type Claimed = (Claim, Vec<LedgerRow>);

/// Casts that are claimed before they are started.
struct Batch {
    /// All casts of the node, those of this batch included.
    running: Vec<RunningCast>,
    claimed: Vec<Claimed>,
    /// Most casts of the node.
    limit: usize,
}

impl Batch {
    /// Returns whether the batch is complete, or the node has as many casts as it may.
    fn is_full(&self) -> bool {
        let uploading = self.running.iter().filter(|cast| cast.is_uploading).count();
        self.claimed.len() >= MAX_BATCH
            || self.running.len() - uploading >= self.limit
            || uploading >= MAX_UPLOADING
    }
}

/// Claims casts that the admission allows.
#[derive(Debug)]
pub(super) struct Claimer {
    config: Config,
    fleet: Arc<dyn Fleet>,
    admission: Mutex<Admission>,
    reservations: Mutex<Reservations>,
    /// Casts that are left to owners whose leases have expired, and since when.
    spared_since: Mutex<HashMap<CastId, Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claimer {
    pub(super) fn new(config: &Config, fleet: &Arc<dyn Fleet>) -> Self {
        Self {
            config: config.clone(),
            fleet: Arc::clone(fleet),
            admission: Mutex::new(Admission::new(config.admission.clone())),
            reservations: Mutex::default(),
            spared_since: Mutex::default(),
        }
    }

    /// The admission, to hand it measurements.
    pub(super) fn admission(&self) -> MutexGuard<'_, Admission> {
        lock(&self.admission)
    }

    /// Takes over casts and claims queued ones, until there is none that fits or a batch is complete. Casts
    /// that have an owner are only taken over if `may_take_over`.
    pub(super) async fn claim_batch(
        self: Arc<Self>,
        running: Vec<RunningCast>,
        may_take_over: bool,
    ) -> Vec<Claimed> {
        let mut batch = Batch { running, claimed: Vec::new(), limit: self.config.admission.max_casts };
        let expired = self.casts_to_take_over(may_take_over).await;
        let may_reserve = !batch.is_full() && self.has_most_free_cores().await;
        for cast in expired {
            if batch.is_full() {
                break;
            }
            // Somebody must take it over, so the emptiest node does so in any case.
            if self.fleet.is_shared() && !may_reserve && !self.has_room(&cast, &batch.running).await {
                continue;
            }
            let taken = self.take_over(&cast).await;
            if !self.add_claim(&mut batch, taken, true).await {
                return batch.claimed;
            }
        }
        while !batch.is_full() {
            let claimed = self.claim_queued(&batch.running, may_reserve).await;
            if !self.add_claim(&mut batch, claimed, false).await {
                break;
            }
        }
        batch.claimed
    }

    async fn take_over(&self, cast: &CastId) -> Result<Option<Claim>, Error> {
        let Config { worker, info, lease, .. } = &self.config;
        self.fleet.take_over(worker, info, *lease, cast).await
    }

    /// Adds a claim to a batch. Returns whether to go on: the claim did not fail, and there was something to
    /// claim, or something else may be.
    async fn add_claim(
        &self,
        batch: &mut Batch,
        claim: Result<Option<Claim>, Error>,
        has_others: bool,
    ) -> bool {
        match claim {
            Ok(Some(mut claim)) => {
                if let Some(completer) = &self.config.spec_completer {
                    completer.complete(&mut claim.cast.spec);
                }
                batch.running.push(RunningCast {
                    age: Duration::ZERO,
                    relative_pixel_rate: relative_pixel_rate(&claim.cast.spec),
                    measured: None,
                    is_uploading: false,
                });
                batch.claimed.extend(self.with_ledger(claim).await);
                true
            }
            Ok(None) => has_others,
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "cannot claim cast");
                false
            }
        }
    }

    async fn claim_queued(&self, running: &[RunningCast], may_reserve: bool) -> Result<Option<Claim>, Error> {
        let never_fits = self.admission().never_fits_reason();
        let unfit: Mutex<Vec<CastId>> = Mutex::default();
        let fits = |cast: &Cast| {
            if never_fits.is_some() {
                lock(&unfit).push(cast.id.clone());
                return false;
            }
            let admission = self.admission();
            let fits = || admission.fits(running, &cast.spec);
            let may_reserve = || may_reserve && admission.fits_empty_machine(&cast.spec);
            lock(&self.reservations).admits(Instant::now(), &cast.id, fits, may_reserve)
        };
        let Config { worker, info, lease, .. } = &self.config;
        let claimed = self.fleet.claim_queued(worker, info, *lease, &fits).await;
        self.fail_queued(unfit.into_inner().unwrap_or_else(PoisonError::into_inner), never_fits).await;
        let claim = claimed?;
        lock(&self.reservations).end_scan(claim.as_ref().map(|claim| &claim.cast.id));
        Ok(claim)
    }

    /// Returns whether there is room for a started cast beside the running ones.
    async fn has_room(&self, cast: &CastId, running: &[RunningCast]) -> bool {
        match self.fleet.get(cast).await {
            Ok(Some(cast)) => self.admission().fits(running, &cast.spec),
            Ok(None) | Err(_) => false,
        }
    }

    /// Adds the ledger of earlier owners to a claim; releases the cast if it cannot be read.
    async fn with_ledger(&self, claim: Claim) -> Option<Claimed> {
        if claim.cast.spec.recording.is_none() || claim.ticket.epoch == FIRST_EPOCH {
            return Some((claim, Vec::new()));
        }
        match self.fleet.ledger(&claim.ticket).await {
            Ok(ledger) => Some((claim, ledger)),
            Err(error) => {
                let error = crate::chain(&error);
                tracing::warn!(cast = %claim.ticket.cast, error, "cannot read ledger, cast released");
                job::release_ticket(self.fleet.as_ref(), &claim.ticket).await;
                None
            }
        }
    }

    /// Casts without an owner, and those whose leases have expired and whose owners do not say that they run
    /// them: an owner that has lost the database keeps its casts for a while.
    async fn casts_to_take_over(&self, may_take_over: bool) -> Vec<CastId> {
        let mut expired = match self.fleet.expired_leases(&self.config.worker, &self.config.info).await {
            Ok(expired) => expired,
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "cannot read expired leases");
                return Vec::new();
            }
        };
        expired.retain(|lease| may_take_over || lease.owner.is_none());
        let spared = match &self.config.peers {
            Some(peers) if !expired.is_empty() => self.spared_casts(peers.as_ref(), &expired).await,
            _ => HashSet::new(),
        };
        expired.into_iter().map(|lease| lease.cast).filter(|cast| !spared.contains(cast)).collect()
    }

    /// Casts that their owners run though their leases have expired, for [`MAX_SPARED`] at most.
    async fn spared_casts(&self, peers: &dyn Peers, expired: &[ExpiredLease]) -> HashSet<CastId> {
        let mut owners: Vec<_> = expired.iter().filter_map(|lease| Some(&lease.owner.as_ref()?.0)).collect();
        owners.sort_by(|a, b| a.0.cmp(&b.0));
        owners.dedup();
        let ask = async |owner| {
            let answer = tokio::time::timeout(PEER_TIMEOUT, peers.status(owner)).await;
            (owner, answer.ok().flatten().map(|status| status.casts).unwrap_or_default())
        };
        let answers = futures_util::future::join_all(owners.into_iter().map(ask)).await;
        let is_running = |lease: &&ExpiredLease| {
            let Some((owner, epoch)) = &lease.owner else { return false };
            let answer = answers.iter().find(|(id, _)| *id == owner);
            answer.is_some_and(|(_, casts)| casts.get(&lease.cast) == Some(epoch))
        };
        let running: HashSet<_> = expired.iter().filter(is_running).map(|lease| lease.cast.clone()).collect();
        let (now, mut spared) = (Instant::now(), lock(&self.spared_since));
        spared.retain(|cast, _| running.contains(cast));
        for cast in running {
            spared.entry(cast).or_insert(now);
        }
        let lasting = spared.iter().filter(|(_, since)| now < **since + MAX_SPARED);
        lasting.map(|(cast, _)| cast.clone()).collect()
    }

    /// Returns whether no other worker has more free cores: then this one reserves room for casts that fit
    /// nowhere.
    async fn has_most_free_cores(&self) -> bool {
        let free = |cores: f64, used: f64| cores - used;
        let workers = self.fleet.workers().await;
        let own = workers.iter().find(|(id, _)| *id == self.config.worker);
        let own = own.map_or(0.0, |(_, load)| free(load.cores, load.cores_used));
        let others = workers
            .iter()
            .filter(|(id, load)| *id != self.config.worker && load.node.runs_casts() && !load.draining);
        others.map(|(_, load)| free(load.cores, load.cores_used)).all(|other| other <= own)
    }

    /// Fails queued casts that can never run on this machine, if there is no other worker.
    async fn fail_queued(&self, casts: Vec<CastId>, reason: Option<String>) {
        let Some(reason) = reason.filter(|_| !casts.is_empty()) else { return };
        // The machine of another worker may be larger.
        if self.fleet.is_shared() {
            return;
        }
        for cast in casts {
            tracing::warn!(%cast, reason, "queued cast can never fit this machine");
            if let Err(error) = self.fleet.fail_queued(&cast, &reason).await {
                tracing::warn!(%cast, error = crate::chain(&error), "cannot fail queued cast");
            }
        }
    }
}
