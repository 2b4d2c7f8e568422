//! A worker node: claims casts of a fleet, runs each in a process of its own, reports its events, and renews
//! its lease.
//!
//! One task runs the node ([`Node::run`]); another one claims casts, because a claim may take long. Each cast
//! has a thread that supervises its process, and a task that reports to the fleet. A cast whose lease is lost
//! is killed; its recording is left to the worker that has the lease now. When leases cannot be renewed,
//! [`peers`] says who may go on.

mod admission;
mod claimer;
mod data_folder;
mod event_mapper;
mod evidence_copier;
mod fleet_store;
mod housekeeping;
mod job;
mod left_spools;
mod load;
mod peers;
mod span;
mod stats_history;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pagecast_core::CastSpec;
use pagecast_core::spec::Storage;
use pagecast_fleet::{
    CastId, DatabaseState, Error, Fleet, HeartbeatResponse, NodeInfo, PendingWork, Renewal, RunningCasts,
    Ticket, WorkerId, WorkerStatus,
};
use pagecast_media::disk;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::process::{self, Pool};
use claimer::{Claimed, Claimer, Situation};
use data_folder::DataFolder;
use job::Job;
use load::Meter;
use peers::Decision;

/// How often the node sends its heartbeat and renews leases, at least: often enough for limits and gauges,
/// and three times in a lease ([`Node::renewal_interval`]).
const MAX_RENEWAL_INTERVAL: Duration = Duration::from_secs(2);
/// Most casts that are only uploading, each a process of its own. While there are more, no cast is claimed.
const MAX_UPLOADING: usize = 1000;
/// Shortest time between two turns of the main loop, however often the fleet changes: for a database in this
/// process, and for one that all nodes share, to which each turn may be a statement.
const MIN_TURN_INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
/// How long the node waits at its end until its casts are released: longer than a database is slow.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program that runs casts: `pagecast`.
    pub program: PathBuf,
    /// Name of this node in the fleet.
    pub worker: WorkerId,
    /// What this node is, for its heartbeat.
    pub info: NodeInfo,
    /// Whether this node runs casts. Otherwise it only sends heartbeats and sweeps the fleet.
    pub runs_casts: bool,
    /// How long a lease lasts without being renewed.
    pub lease: Duration,
    /// How much of the machine casts may use.
    pub admission: admission::Config,
    /// Number of warm browsers, and a description of the casts they are for.
    pub warm_browsers: Option<(usize, CastSpec)>,
    /// Data folder of this machine. Its subfolders hold the casts' spools, receipts, snapshots until they are
    /// sent to the fleet, and evidence until the fleet deletes the cast. Relative folders of recordings are
    /// below it.
    pub data: PathBuf,
    /// Store of the fleet, a bucket or a folder that all nodes share: copies of what running casts record.
    pub store: Option<Storage>,
    /// A folder on each disk that casts use: where they record, and where their browsers write.
    pub disks: Vec<PathBuf>,
    /// Files that must stay appendable on a full disk: the log of the fleet's database.
    pub reserved: Vec<PathBuf>,
    /// How long running casts may continue when the node is asked to stop.
    pub drain_timeout: Duration,
    /// Completes the description of each cast that the node claims.
    pub spec_completer: Option<Arc<dyn CompleteSpec>>,
    /// The other nodes, which are asked who may go on when the database does not answer.
    pub peers: Option<Arc<dyn Peers>>,
    /// The casts that run on this node, which it keeps current for other nodes that ask.
    pub running: RunningCasts,
    /// Whether the database answers this node, which it keeps current for other nodes that ask.
    pub database: DatabaseState,
    /// Viewers in the embedded rooms of this node, for its heartbeat.
    pub viewers: Arc<AtomicUsize>,
}

/// Completes descriptions of casts with what is known only when they are claimed, like an address that
/// changes when the service restarts.
pub trait CompleteSpec: fmt::Debug + Send + Sync {
    /// Completes a description.
    fn complete(&self, spec: &mut CastSpec);
}

pub use admission::Config as AdmissionConfig;
pub use peers::{Owners, PeerStatus, Peers};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A folder could not be created.
    #[error("cannot create the folder {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// The node could not register in the fleet.
    #[error("cannot join the fleet")]
    Fleet(#[source] Error),
    /// The pool of warm browsers could not be started.
    #[error("cannot start the pool of warm browsers")]
    Pool(#[source] process::Error),
}

/// Why a node has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeEnd {
    /// It was asked to stop.
    Stopped,
    /// The fleet asked it to drain, and its casts have ended.
    Drained,
    /// Another process has its name now.
    Replaced,
}

/// A worker node.
#[derive(Debug)]
pub struct Node {
    config: Config,
    fleet: Arc<dyn Fleet>,
    pool: Option<Arc<Pool>>,
    jobs: Vec<Job>,
    meter: Meter,
    /// Load of this machine at the last heartbeat.
    load: WorkerStatus,
    claimer: Arc<Claimer>,
    /// When all leases were last renewed.
    renewed_at: Instant,
    /// Since when the database has answered without a break.
    database_since: Option<Instant>,
    /// The other nodes, as of the last heartbeat that was answered.
    others: Vec<(WorkerId, WorkerStatus)>,
    /// Jobs that have ended, until their tickets are released.
    releases: JoinSet<()>,
    /// A later process has registered under the name of this node.
    replaced: bool,
    /// Whether the fleet has asked the node to drain.
    drain_requested: bool,
}

impl Node {
    /// Registers in the fleet. Removes what an earlier node of the same name left, and releases its casts.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn join(config: Config, fleet: Arc<dyn Fleet>) -> Result<Self, StartError> {
        process::remove_leftovers();
        DataFolder::new(config.data.clone()).create().map_err(|(folder, e)| StartError::Folder(folder, e))?;
        fleet.register_worker(&config.worker, &config.info).await.map_err(StartError::Fleet)?;
        let pool = config.warm_browsers.clone().filter(|(size, _)| *size > 0);
        let pool =
            pool.map(|(size, template)| Pool::start(config.program.clone(), size, template)).transpose();
        let pool = pool.map_err(StartError::Pool)?.map(Arc::new);
        let claimer = Arc::new(Claimer::new(&config, &fleet));
        let now = Instant::now();
        Ok(Self {
            config,
            fleet,
            pool,
            jobs: Vec::new(),
            meter: Meter::default(),
            load: WorkerStatus::default(),
            claimer,
            renewed_at: now,
            database_since: Some(now),
            others: Vec::new(),
            releases: JoinSet::new(),
            replaced: false,
            drain_requested: false,
        })
    }

    /// Runs until asked to stop, or until another process replaces this node. Then running casts have
    /// [`Config::drain_timeout`] to end by themselves, and what still runs is left to the next node. When the
    /// fleet asks it to drain, it claims no more casts, and runs until its casts have ended.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> NodeEnd {
        let evidence = DataFolder::new(self.config.data.clone()).evidence();
        let housekeeping = tokio::spawn(housekeeping::run(Arc::clone(&self.fleet), evidence));
        let left_spools = tokio::spawn(left_spools::run(self.config.clone(), Arc::clone(&self.fleet)));
        let clearing = tokio::spawn(fleet_store::run(self.config.store.clone(), Arc::clone(&self.fleet)));
        let reserving = tokio::spawn(housekeeping::reserve_disk_space(self.config.reserved.clone()));
        let mut changes = self.fleet.changes();
        let mut last_heartbeat: Option<Instant> = None;
        let mut drain_until: Option<Instant> = None;
        let mut claiming: Option<JoinHandle<Vec<Claimed>>> = None;
        let (local, shared) = MIN_TURN_INTERVALS;
        let min_turn = if self.fleet.is_shared() { shared } else { local };
        loop {
            if *stop.borrow() && drain_until.is_none() {
                drain_until = Some(Instant::now() + self.config.drain_timeout);
            }
            let draining = drain_until.is_some() || self.drain_requested;
            self.release_finished_jobs();
            let work = self.renew_when_due().await;
            let is_due = last_heartbeat.is_none_or(|at| at.elapsed() >= self.renewal_interval());
            // A database that does not answer must not keep the node from what is due before its leases end.
            if is_due && (self.database_since.is_some() || !self.fleet.is_shared()) {
                last_heartbeat = Some(Instant::now());
                self.heartbeat(draining).await;
            }
            let has_casts = claiming.is_some() || !self.jobs.is_empty();
            let is_late = drain_until.is_some_and(|until| Instant::now() >= until);
            if self.replaced || is_late || draining && !has_casts {
                break;
            }
            let may_claim = !draining && self.config.runs_casts && self.database_since.is_some();
            if may_claim && claiming.is_none() && (work.has_queued || work.has_expired_leases) {
                claiming = Some(self.start_claiming(work));
            }
            tokio::time::sleep(min_turn).await;
            let pause = self.pause(work);
            let claimed = tokio::select! {
                _ = changes.changed() => None,
                _ = stop.changed(), if drain_until.is_none() => None,
                claimed = finished(&mut claiming) => Some(claimed),
                () = tokio::time::sleep(pause) => None,
            };
            if let Some(claimed) = claimed {
                claiming = None;
                self.start_jobs(claimed);
            }
        }
        let unstarted = if claiming.is_some() { finished(&mut claiming).await } else { Vec::new() };
        self.leave_casts(unstarted).await;
        for task in [housekeeping, reserving, left_spools, clearing] {
            task.abort();
            // Cancelled, unless the task panicked before.
            let _cancelled = task.await;
        }
        match (self.replaced, drain_until) {
            (true, _) => NodeEnd::Replaced,
            (false, Some(_)) => NodeEnd::Stopped,
            (false, None) => NodeEnd::Drained,
        }
    }

    /// Ends all jobs, and leaves their casts, and claimed ones that were not started, to other owners.
    async fn leave_casts(&mut self, unstarted: Vec<Claimed>) {
        for (claim, _) in unstarted {
            self.release(claim.ticket);
        }
        for job in &self.jobs {
            job.abandon();
        }
        for job in self.jobs.drain(..) {
            self.releases.spawn(job.join_and_release(Arc::clone(&self.fleet)));
        }
        // What cannot be released is freed by the next process of this node, or when its lease ends.
        let released = async { while self.releases.join_next().await.is_some() {} };
        let _late = timeout(RELEASE_TIMEOUT, released).await;
    }

    /// Starts to release a cast that has no job.
    fn release(&mut self, ticket: Ticket) {
        let fleet = Arc::clone(&self.fleet);
        self.releases.spawn(async move { job::release_ticket(fleet.as_ref(), &ticket).await });
    }

    /// How long an answer of the database is waited for: two attempts and the answers of other nodes fit into
    /// the last half of a lease.
    fn answer_timeout(&self) -> Duration {
        self.config.lease / 6
    }

    /// How often leases are renewed.
    fn renewal_interval(&self) -> Duration {
        MAX_RENEWAL_INTERVAL.min(self.config.lease / 3)
    }

    /// Removes jobs that are over, or whose lease is lost. A cast that was not closed, even by a panic, is
    /// released.
    fn release_finished_jobs(&mut self) {
        let (finished, running) = self.jobs.drain(..).partition::<Vec<_>, _>(Job::is_finished);
        self.jobs = running;
        for job in finished {
            let can_go_on_elsewhere = || {
                let mut others =
                    self.others.iter().filter(|(_, load)| load.node.runs_casts() && !load.draining);
                others.any(|(_, load)| load.node.has_labels(job.labels()))
            };
            if job.is_moving() && can_go_on_elsewhere() {
                self.claimer.leave_to_others(job.ticket().cast.clone());
            }
            self.releases.spawn(job.join_and_release(Arc::clone(&self.fleet)));
        }
        while self.releases.try_join_next().is_some() {}
    }

    /// Measures the machine, updates the admission, and sends the heartbeat.
    async fn heartbeat(&mut self, draining: bool) {
        let mut load = self.meter.measure(self.jobs.len(), draining, self.config.info.clone());
        let renewal_age_ms = u64::try_from(self.renewed_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        load.renewal_age_ms = (!self.jobs.is_empty()).then_some(renewal_age_ms);
        load.viewers = self.config.viewers.load(Ordering::Relaxed);
        self.load.clone_from(&load);
        {
            let mut admission = self.claimer.admission();
            admission.set_worker_status(&load);
            // A disk that cannot be measured does not count as full.
            let disks = self.config.disks.iter().filter_map(|folder| disk::space(folder).ok());
            admission.set_disk_space(disks);
            admission.update_estimates(&self.jobs.iter().map(Job::running_cast).collect::<Vec<_>>());
        }
        match timeout(self.answer_timeout(), self.fleet.heartbeat(&self.config.worker, load)).await {
            Ok(Err(error @ Error::Replaced(_))) => {
                tracing::error!(error = crate::chain(&error), "node stopped");
                self.replaced = true;
            }
            Ok(Err(error)) => tracing::debug!(error = crate::chain(&error), "cannot send heartbeat"),
            Ok(Ok(HeartbeatResponse { drain_requested, others })) => {
                self.others = others;
                if drain_requested && !std::mem::replace(&mut self.drain_requested, true) {
                    tracing::info!("drain requested");
                }
            }
            // The next heartbeat replaces one that takes too long.
            Err(_) => {}
        }
    }

    /// Renews leases when they are due or commands are pending, and looks what else there is to do. Without
    /// an answer, there may be anything.
    async fn renew_when_due(&mut self) -> PendingWork {
        let is_due = self.renewed_at.elapsed() >= self.renewal_interval() || self.database_since.is_none();
        if is_due {
            self.renew_leases().await;
        }
        if self.database_since.is_none() && self.fleet.is_shared() {
            return PendingWork::UNKNOWN;
        }
        // A renewal must not come much later if the database does not answer.
        let work = timeout(self.answer_timeout() / 4, self.fleet.pending_work()).await;
        let work = work.ok().and_then(Result::ok).unwrap_or(PendingWork::UNKNOWN);
        if work.has_commands && !is_due {
            self.renew_leases().await;
        }
        work
    }

    /// How long the node may wait if nothing changes.
    fn pause(&self, work: PendingWork) -> Duration {
        // Leases of a shared database end if it does not answer soon.
        if self.fleet.is_shared() && self.database_since.is_none() {
            return Duration::ZERO;
        }
        // A cast that is being moved is released as soon as its process has ended.
        if self.jobs.iter().any(Job::is_moving) {
            return Duration::ZERO;
        }
        let until_renewal = self.renewal_interval().saturating_sub(self.renewed_at.elapsed());
        // One that has ended already is left to others, or does not fit.
        match work.next_lease_end_in.filter(|left| !left.is_zero()) {
            Some(left) if self.config.runs_casts => until_renewal.min(left),
            _ => until_renewal,
        }
    }

    /// Renews leases and carries out the fleet's commands.
    async fn renew_leases(&mut self) {
        let tickets: Vec<Ticket> =
            self.jobs.iter().filter(|job| job.needs_lease()).map(|job| job.ticket().clone()).collect();
        let (fleet, lease) = (Arc::clone(&self.fleet), self.config.lease);
        let limit = if fleet.is_shared() { self.answer_timeout() } else { self.renewal_interval() };
        let began = Instant::now();
        let renewed = timeout(limit, fleet.renew_all(&tickets, lease)).await;
        let error = match renewed {
            Ok(Ok(renewals)) => {
                self.renewed_at = began;
                self.database_since.get_or_insert(began);
                self.config.database.set_answers(true);
                for (ticket, renewal) in tickets.iter().zip(renewals) {
                    self.apply_renewal(ticket, renewal, began + lease).await;
                }
                return;
            }
            Ok(Err(error)) => crate::chain(&error),
            Err(_) => "the database does not answer".to_owned(),
        };
        self.config.database.set_answers(false);
        if self.database_since.take().is_some() {
            tracing::warn!(error, "lease renewal failed, retrying");
        }
        // In a fleet of one worker nobody else can claim its casts, however long its storage fails.
        if fleet.is_shared() && !tickets.is_empty() && self.renewed_at.elapsed() + 2 * limit >= lease {
            self.decide_without_database(&tickets).await;
        }
    }

    async fn apply_renewal(&mut self, ticket: &Ticket, renewal: Renewal, until: Instant) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.ticket() == ticket) else { return };
        let Renewal::Renewed { commands } = renewal else {
            tracing::warn!(cast = %ticket.cast, "lease lost to another worker");
            return job.abandon();
        };
        if self.fleet.is_shared() {
            job.publish_until(until);
        }
        match timeout(self.config.lease / 3, job.run_commands(self.fleet.as_ref(), commands)).await {
            Ok(Ok(())) => {}
            Ok(Err(Error::Fenced(_))) => job.abandon(),
            Ok(Err(error)) => {
                let error = crate::chain(&error);
                tracing::debug!(cast = %ticket.cast, error, "cannot run commands, retrying");
            }
            Err(_) => tracing::debug!(cast = %ticket.cast, "commands take too long, retrying"),
        }
    }

    /// Decides by the other nodes which casts may go on, as their leases are about to expire.
    async fn decide_without_database(&mut self, tickets: &[Ticket]) {
        let casts: Vec<CastId> = tickets.iter().map(|ticket| ticket.cast.clone()).collect();
        let began = Instant::now();
        let others: Vec<WorkerId> = self.others.iter().map(|(id, _)| id.clone()).collect();
        let reports = peers::ask(self.config.peers.as_deref(), &others, &casts).await;
        for ticket in tickets {
            let Some(job) = self.jobs.iter_mut().find(|job| job.ticket() == ticket) else { continue };
            match peers::decide(&reports, ticket) {
                Decision::GoOn => job.publish_until(began + self.config.lease),
                Decision::Abandon => {
                    tracing::warn!(cast = %ticket.cast, "lease lost to another worker, says another node");
                    job.abandon();
                }
                // Another node may be about to write the final files.
                Decision::Isolate if job.is_uploading() => job.abandon(),
                // It stops publishing by itself at the end of its lease.
                Decision::Isolate => tracing::debug!(cast = %ticket.cast, "no other node answers"),
            }
        }
    }

    /// Starts to claim casts while the admission allows it.
    fn start_claiming(&self, work: PendingWork) -> JoinHandle<Vec<Claimed>> {
        // After an outage of the database, owners need the time of a lease to renew theirs.
        let may_take_over = !self.fleet.is_shared()
            || self.database_since.is_some_and(|since| since.elapsed() >= self.config.lease);
        let situation = Situation {
            running: self.jobs.iter().map(Job::running_cast).collect(),
            has_queued: work.has_queued,
            has_expired_leases: work.has_expired_leases,
            may_take_over,
            has_most_free_cores: has_most_free_cores(&self.load, &self.others),
        };
        tokio::spawn(Arc::clone(&self.claimer).claim_batch(situation))
    }

    /// Starts claimed casts.
    fn start_jobs(&mut self, claimed: Vec<Claimed>) {
        for (claim, earlier) in claimed {
            let ticket = claim.ticket.clone();
            match Job::start(&self.config, &self.fleet, self.pool.clone(), claim, earlier) {
                Ok(job) => self.jobs.push(job),
                Err(error) => {
                    tracing::error!(cast = %ticket.cast, %error, "cannot start cast thread");
                    self.release(ticket);
                }
            }
        }
    }
}

/// Returns whether no other node that claims casts has more free cores than one with this load.
fn has_most_free_cores(own: &WorkerStatus, others: &[(WorkerId, WorkerStatus)]) -> bool {
    let free = |load: &WorkerStatus| load.cores - load.cores_used;
    let claims = |load: &&WorkerStatus| load.node.runs_casts() && !load.draining;
    others.iter().map(|(_, load)| load).filter(claims).all(|other| free(other) <= free(own))
}

/// Waits until claiming has finished, for ever if there is none.
async fn finished(claiming: &mut Option<JoinHandle<Vec<Claimed>>>) -> Vec<Claimed> {
    match claiming {
        Some(task) => task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "claiming failed");
            Vec::new()
        }),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_emptiest_of_the_nodes_that_claim_casts_reserves_room() {
        let load = |free| WorkerStatus { cores: 8.0, cores_used: 8.0 - free, ..WorkerStatus::default() };
        let is_emptiest = |other| has_most_free_cores(&load(3.0), &[(WorkerId("b".to_owned()), other)]);
        assert!(has_most_free_cores(&load(0.0), &[]), "it is alone");
        assert!(is_emptiest(load(2.5)) && is_emptiest(load(3.0)) && !is_emptiest(load(3.5)));
        assert!(is_emptiest(WorkerStatus { draining: true, ..load(3.5) }));
        let node = NodeInfo { roles: vec!["api".to_owned()], ..NodeInfo::default() };
        assert!(is_emptiest(WorkerStatus { node, ..load(3.5) }), "it runs no casts");
    }
}
