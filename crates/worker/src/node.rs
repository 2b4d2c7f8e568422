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
mod fleet_store;
mod housekeeping;
mod job;
mod left_spools;
mod load;
mod peers;
mod span;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pagecast_core::CastSpec;
use pagecast_core::spec::Storage;
use pagecast_fleet::{CastId, Error, Fleet, NodeInfo, Renewal, RunningCasts, Ticket, WorkerId};
use pagecast_media::disk;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::process::{self, Pool};
use claimer::{Claimed, Claimer};
use data_folder::DataFolder;
use job::Job;
use load::Meter;
use peers::Decision;

/// How often the node sends its heartbeat, renews leases and looks for casts to claim, at most: often enough
/// for limits and gauges, and three times in a lease ([`Node::renewal_interval`]).
const MAX_RENEWAL_INTERVAL: Duration = Duration::from_secs(2);
/// Most casts that are only uploading, each a process of its own. While there are more, no cast is claimed.
const MAX_UPLOADING: usize = 1000;
/// Shortest time between two turns of the main loop, however often the fleet changes: for a database in this
/// process, and for one that all nodes share, to which each turn is a statement.
const MIN_TURN_INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
/// How long the node waits at its end until its casts are released: longer than a database is slow.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the other nodes are read, which a node asks when it cannot renew its leases.
const OTHERS_INTERVAL: Duration = Duration::from_secs(10);

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
    claimer: Arc<Claimer>,
    /// When all leases were last renewed.
    renewed_at: Instant,
    /// Since when the database has answered without a break.
    database_since: Option<Instant>,
    /// The other nodes, and when they were read.
    others: (Vec<WorkerId>, Option<Instant>),
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
            claimer,
            renewed_at: now,
            database_since: Some(now),
            others: (Vec::new(), None),
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
            let began = Instant::now();
            self.renew_leases().await;
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
            if !draining && self.config.runs_casts && claiming.is_none() && self.database_since.is_some() {
                claiming = Some(self.start_claiming());
            }
            tokio::time::sleep(min_turn).await;
            let pause = self.renewal_interval().saturating_sub(began.elapsed());
            // Leases of a shared database end if it does not answer soon.
            let is_urgent = self.fleet.is_shared() && self.database_since.is_none();
            let pause = if is_urgent { Duration::ZERO } else { pause };
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
            Ok(Ok(response)) => {
                if response.drain_requested && !std::mem::replace(&mut self.drain_requested, true) {
                    tracing::info!("drain requested");
                }
            }
            // The next heartbeat replaces one that takes too long.
            Err(_) => {}
        }
        if self.fleet.is_shared() && self.others.1.is_none_or(|at| at.elapsed() >= OTHERS_INTERVAL) {
            self.read_others().await;
        }
    }

    /// Reads which other nodes there are. If the database does not answer, the known ones stay.
    async fn read_others(&mut self) {
        let Ok(workers) = timeout(self.answer_timeout(), self.fleet.workers()).await else { return };
        // At least this node is among them, if they could be read.
        if workers.iter().any(|(id, _)| *id == self.config.worker) {
            let others = workers.into_iter().map(|(id, _)| id).filter(|id| *id != self.config.worker);
            self.others = (others.collect(), Some(Instant::now()));
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
                self.config.running.set_database_answers(true);
                for (ticket, renewal) in tickets.iter().zip(renewals) {
                    self.apply_renewal(ticket, renewal, began + lease).await;
                }
                return;
            }
            Ok(Err(error)) => crate::chain(&error),
            Err(_) => "the database does not answer".to_owned(),
        };
        self.config.running.set_database_answers(false);
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
        let reports = peers::ask(self.config.peers.as_deref(), &self.others.0, &casts).await;
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
    fn start_claiming(&self) -> JoinHandle<Vec<Claimed>> {
        let running = self.jobs.iter().map(Job::running_cast).collect();
        // After an outage of the database, owners need the time of a lease to renew theirs.
        let may_take_over = !self.fleet.is_shared()
            || self.database_since.is_some_and(|since| since.elapsed() >= self.config.lease);
        tokio::spawn(Arc::clone(&self.claimer).claim_batch(running, may_take_over))
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
