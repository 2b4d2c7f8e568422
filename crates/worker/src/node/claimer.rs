//! Claims queued casts for a node, while the node goes on renewing leases.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pagecast_core::ledger::{FIRST_EPOCH, LedgerRow};
use pagecast_fleet::cast::weight;
use pagecast_fleet::{CastId, Claim, Error, ExpiredLease, Fleet, QueuedCast};

use super::admission::{Admission, Reservations, RunningCast};
use super::peers::{PEER_TIMEOUT, Peers};
use super::{Config, MAX_UPLOADING, job};

/// Most casts that are claimed before they are started. Each is started by a process of its own, so that
/// none waits long for the others, and other nodes get some of a long queue.
const MAX_BATCH: usize = 32;
/// How long casts of a node that runs them, but cannot renew its leases, are left to it.
const MAX_SPARED: Duration = Duration::from_secs(60);

/// How long a cast that this node was asked to move is left to others: they look for casts without an owner
/// at least every two seconds.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Returns how many casts may still be claimed.
    fn room(&self) -> usize {
        let uploading = self.running.iter().filter(|cast| cast.is_uploading).count();
        let pages = self.running.len() - uploading;
        if uploading >= MAX_UPLOADING {
            return 0;
        }
        self.limit.saturating_sub(pages).min(MAX_BATCH.saturating_sub(self.claimed.len()))
    }
}

/// A claimed cast as it counts for the admission.
fn starting(weight: u32) -> RunningCast {
    RunningCast { age: Duration::ZERO, weight, measured: None, is_uploading: false }
}

/// What a node knows when it claims casts.
#[derive(Debug)]
pub(super) struct Situation {
    /// Casts that run on the node.
    pub(super) running: Vec<RunningCast>,
    /// Whether casts may be queued, and whether leases of other nodes may have expired.
    pub(super) has_queued: bool,
    pub(super) has_expired_leases: bool,
    /// Whether casts that have an owner may be taken over.
    pub(super) may_take_over: bool,
    /// Whether no other node has more free cores: then this one reserves room for casts that fit nowhere.
    pub(super) has_most_free_cores: bool,
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
    /// Casts that this node leaves to others, and until when.
    moved_until: Mutex<HashMap<CastId, Instant>>,
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
            moved_until: Mutex::default(),
        }
    }

    /// The admission, to hand it measurements.
    pub(super) fn admission(&self) -> MutexGuard<'_, Admission> {
        lock(&self.admission)
    }

    /// Leaves a cast to other nodes, unless none of them claims it within [`MOVE_TIMEOUT`].
    pub(super) fn leave_to_others(&self, cast: CastId) {
        lock(&self.moved_until).insert(cast, Instant::now() + MOVE_TIMEOUT);
    }

    /// Whether a cast is left to other nodes now.
    fn is_left_to_others(&self, cast: &CastId) -> bool {
        let mut moved = lock(&self.moved_until);
        let now = Instant::now();
        moved.retain(|_, until| now < *until);
        moved.contains_key(cast)
    }

    /// Takes over casts and claims queued ones, as many as fit and a batch has.
    pub(super) async fn claim_batch(self: Arc<Self>, situation: Situation) -> Vec<Claimed> {
        let Situation { running, has_queued, has_expired_leases, may_take_over, has_most_free_cores } =
            situation;
        let mut batch = Batch { running, claimed: Vec::new(), limit: self.config.admission.max_casts };
        let expired =
            if has_expired_leases { self.casts_to_take_over(may_take_over).await } else { Vec::new() };
        for lease in expired {
            if batch.room() == 0 {
                break;
            }
            // Somebody must take it over, so the emptiest node does so in any case.
            let must_take = !self.fleet.is_shared() || has_most_free_cores;
            if !must_take && !self.admission().fits(&batch.running, lease.weight) {
                continue;
            }
            match self.take_over(&lease.cast).await {
                Ok(claim) => self.add_claims(&mut batch, claim).await,
                Err(error) => {
                    tracing::warn!(error = crate::chain(&error), "cannot take over cast");
                    return batch.claimed;
                }
            }
        }
        let room = batch.room();
        if has_queued && room > 0 {
            match self.claim_queued(&batch.running, room, has_most_free_cores).await {
                Ok(claims) => self.add_claims(&mut batch, claims).await,
                Err(error) => tracing::warn!(error = crate::chain(&error), "cannot claim casts"),
            }
        }
        batch.claimed
    }

    async fn take_over(&self, cast: &CastId) -> Result<Option<Claim>, Error> {
        let Config { worker, info, lease, .. } = &self.config;
        self.fleet.take_over(worker, info, *lease, cast).await
    }

    /// Adds claims to a batch.
    async fn add_claims(&self, batch: &mut Batch, claims: impl IntoIterator<Item = Claim>) {
        for mut claim in claims {
            if let Some(completer) = &self.config.spec_completer {
                completer.complete(&mut claim.cast.spec);
            }
            batch.running.push(starting(weight(&claim.cast.spec)));
            batch.claimed.extend(self.with_ledger(claim).await);
        }
    }

    async fn claim_queued(
        &self,
        running: &[RunningCast],
        limit: usize,
        may_reserve: bool,
    ) -> Result<Vec<Claim>, Error> {
        let never_fits = self.admission().never_fits_reason();
        let unfit: Mutex<Vec<CastId>> = Mutex::default();
        let fits = |taken: &[QueuedCast], cast: &QueuedCast| {
            if never_fits.is_some() {
                lock(&unfit).push(cast.id.clone());
                return false;
            }
            let admission = self.admission();
            let taken = taken.iter().map(|cast| starting(cast.weight));
            let running: Vec<_> = running.iter().copied().chain(taken).collect();
            let fits = || admission.fits(&running, cast.weight);
            let may_reserve = || may_reserve && admission.fits_empty_machine(cast.weight);
            lock(&self.reservations).admits(Instant::now(), &cast.id, fits, may_reserve)
        };
        let Config { worker, info, lease, .. } = &self.config;
        let claimed = self.fleet.claim_queued(worker, info, *lease, limit, &fits).await;
        self.fail_queued(unfit.into_inner().unwrap_or_else(PoisonError::into_inner), never_fits).await;
        let claims = claimed?;
        lock(&self.reservations).end_scan(claims.iter().map(|claim| &claim.cast.id));
        Ok(claims)
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
    async fn casts_to_take_over(&self, may_take_over: bool) -> Vec<ExpiredLease> {
        let mut expired = match self.fleet.expired_leases(&self.config.worker, &self.config.info).await {
            Ok(expired) => expired,
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "cannot read expired leases");
                return Vec::new();
            }
        };
        expired.retain(|lease| may_take_over || lease.owner.is_none());
        expired.retain(|lease| !self.is_left_to_others(&lease.cast));
        let spared = match &self.config.peers {
            Some(peers) if !expired.is_empty() => self.spared_casts(peers.as_ref(), &expired).await,
            _ => HashSet::new(),
        };
        expired.retain(|lease| !spared.contains(&lease.cast));
        expired
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
