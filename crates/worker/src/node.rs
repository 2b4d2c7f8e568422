//! Takes casts out of a fleet, runs each in a process of its own, reports what happens, and keeps the leases.
//!
//! One task does it all ([`Node::run`]); each cast has a thread that listens to its process, and a task that
//! reports. A cast whose lease is lost is killed; what it recorded is left to whoever has it now.

mod admission;
mod event_mapper;
mod housekeeping;
mod job;
mod load;
mod span;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pagecast_core::CastSpec;
use pagecast_fleet::{Cast, CastId, Error, Fleet, WorkerId};
use pagecast_media::disk;
use tokio::sync::watch;

use crate::process::{self, Pool};
use admission::{Admission, Reservations, RunningCast};
use job::Job;
use load::Meter;

/// How often everything is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Casts whose pages are gone and whose recordings are still being stored, at most; more wait for their turn.
const MAX_UPLOADING: usize = 1000;
/// Shortest time between two looks, however much happens.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How a node works.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program that runs casts: `pagecast`.
    pub program: PathBuf,
    /// Names this node in the fleet.
    pub worker: WorkerId,
    /// How long a cast is ours without being renewed.
    pub lease: Duration,
    /// How much of the machine casts may use.
    pub admission: admission::Config,
    /// Browsers that are kept ready, for casts like this one.
    pub warm_browsers: Option<(usize, CastSpec)>,
    /// A folder for pictures on their way.
    pub scratch: PathBuf,
    /// Folders that recordings expect to be there.
    pub folders: Vec<PathBuf>,
    /// Where evidence and logs are, in a folder for each cast; they go when the fleet forgets the cast.
    pub evidence: PathBuf,
    /// Folders on all the disks that casts use: where they record, and where their browsers write.
    pub disks: Vec<PathBuf>,
    /// Files of which nothing that is appended may fail because others have filled the disk: the log of the
    /// fleet's database.
    pub reserved: Vec<PathBuf>,
    /// How long running casts may go on when the node is asked to end.
    pub drain_timeout: Duration,
}

pub use admission::Config as AdmissionConfig;

/// Why a node cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A folder cannot be made.
    #[error("cannot make the folder {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// The fleet does not take it.
    #[error("cannot join the fleet")]
    Fleet(#[source] Error),
    /// No browsers can be kept ready.
    #[error("cannot keep browsers ready")]
    Pool(#[source] process::Error),
}

/// A worker.
#[derive(Debug)]
pub struct Node {
    config: Config,
    fleet: Arc<dyn Fleet>,
    pool: Option<Arc<Pool>>,
    jobs: Vec<Job>,
    meter: Meter,
    admission: Admission,
    reservations: Mutex<Reservations>,
}

impl Node {
    /// Joins the fleet; what an earlier node of the same name left is cleared up, and its casts are free
    /// again.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn join(config: Config, fleet: Arc<dyn Fleet>) -> Result<Self, StartError> {
        process::remove_leftovers();
        for folder in config.folders.iter().chain([&config.scratch, &config.evidence]) {
            std::fs::create_dir_all(folder).map_err(|e| StartError::Folder(folder.clone(), e))?;
        }
        fleet.register_worker(&config.worker).await.map_err(StartError::Fleet)?;
        let pool = config.warm_browsers.clone().filter(|(size, _)| *size > 0);
        let pool = pool.map(|(size, like)| Pool::start(config.program.clone(), size, like)).transpose();
        let pool = pool.map_err(StartError::Pool)?.map(Arc::new);
        let admission = Admission::new(config.admission.clone());
        let (meter, queue) = (Meter::default(), Mutex::default());
        Ok(Self { config, fleet, pool, jobs: Vec::new(), meter, admission, reservations: queue })
    }

    /// Works until asked to end; then running casts have [`Config::drain_timeout`] to come to their own ends, and
    /// what still runs is left to the next node.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let tidying = tokio::spawn(housekeeping::run(Arc::clone(&self.fleet), self.config.evidence.clone()));
        let reserving = tokio::spawn(housekeeping::reserve_disk_space(self.config.reserved.clone()));
        let mut changes = self.fleet.changes();
        let mut looked: Option<Instant> = None;
        let mut drain_until: Option<Instant> = None;
        loop {
            if *stop.borrow() && drain_until.is_none() {
                drain_until = Some(Instant::now() + self.config.drain_timeout);
            }
            let draining = drain_until.is_some();
            if looked.is_none_or(|at| at.elapsed() >= POLL_INTERVAL) {
                looked = Some(Instant::now());
                self.heartbeat(draining).await;
            }
            self.remove_finished_jobs().await;
            self.renew_leases().await;
            if drain_until.is_some_and(|until| Instant::now() >= until || self.jobs.is_empty()) {
                break;
            }
            if !draining {
                self.claim_casts().await;
            }
            tokio::time::sleep(MIN_POLL_INTERVAL).await;
            tokio::select! {
                _ = changes.changed() => {}
                _ = stop.changed(), if !draining => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
        for job in &self.jobs {
            job.abandon();
        }
        for job in self.jobs.drain(..) {
            job.join_and_release(self.fleet.as_ref()).await;
        }
        for task in [tidying, reserving] {
            task.abort();
            // It was aborted, as a rule.
            let _ended = task.await;
        }
    }

    /// Lets go of casts that are over, or somebody else's. One that was not closed, whatever its thread died
    /// of, is free again.
    async fn remove_finished_jobs(&mut self) {
        let (over, jobs) = self.jobs.drain(..).partition::<Vec<_>, _>(Job::is_finished);
        self.jobs = jobs;
        for job in over {
            job.join_and_release(self.fleet.as_ref()).await;
        }
    }

    /// What is due every second.
    async fn heartbeat(&mut self, draining: bool) {
        let load = self.meter.measure(self.jobs.len(), draining);
        self.admission.set_worker_status(&load);
        // A disk that cannot be looked at is not known to be full.
        let disks = self.config.disks.iter().filter_map(|folder| disk::space(folder).ok());
        self.admission.set_disk_space(disks);
        self.admission.update_estimates(&self.jobs.iter().map(Job::running_cast).collect::<Vec<_>>());
        self.fleet.heartbeat(&self.config.worker, load).await;
    }

    /// Renews leases and carries out commands.
    async fn renew_leases(&mut self) {
        for job in &mut self.jobs {
            match job.renew(self.fleet.as_ref(), self.config.lease).await {
                Ok(()) => {}
                Err(Error::Fenced(_)) => {
                    tracing::warn!(cast = %job.id(), "another worker has this cast now");
                    job.abandon();
                    continue;
                }
                // From a fleet that is ours alone nobody else can take the cast, however long its storage
                // fails.
                Err(_) if self.fleet.is_shared() && job.time_since_renewal() > self.config.lease => {
                    tracing::warn!(cast = %job.id(), "the lease cannot be renewed: the cast is left to others");
                    job.abandon();
                    continue;
                }
                Err(error) => tracing::warn!(error = crate::chain(&error), "a lease is not renewed"),
            }
            match job.run_commands(self.fleet.as_ref()).await {
                Ok(()) => {}
                Err(Error::Fenced(_)) => job.abandon(),
                Err(error) => tracing::debug!(error = crate::chain(&error), "commands wait"),
            }
        }
    }

    /// Takes casts while there is room for them.
    async fn claim_casts(&mut self) {
        loop {
            let running: Vec<RunningCast> = self.jobs.iter().map(Job::running_cast).collect();
            let storing = running.iter().filter(|cast| cast.is_uploading).count();
            if running.len() - storing >= self.config.admission.max_casts || storing >= MAX_UPLOADING {
                return;
            }
            let (never, is_roomiest) = (self.admission.never_fits_reason(), self.has_most_free_cores().await);
            let hopeless: Mutex<Vec<CastId>> = Mutex::default();
            let fits = |cast: &Cast| {
                if never.is_some() {
                    hopeless.lock().unwrap_or_else(PoisonError::into_inner).push(cast.id.clone());
                    return false;
                }
                let mut queue = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
                let fits = || self.admission.fits(&running, &cast.spec);
                let may_reserve = || is_roomiest && self.admission.fits_empty_machine(&cast.spec);
                queue.admits(Instant::now(), &cast.id, fits, may_reserve)
            };
            let claimed = self.fleet.claim(&self.config.worker, self.config.lease, &fits).await;
            self.fail_queued(hopeless.into_inner().unwrap_or_else(PoisonError::into_inner), never).await;
            if let Ok(claim) = &claimed {
                let mut queue = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
                queue.end_scan(claim.as_ref().map(|claim| &claim.cast.id));
            }
            match claimed {
                Ok(Some(claim)) => {
                    let ticket = claim.ticket.clone();
                    match Job::start(&self.config, &self.fleet, self.pool.clone(), claim) {
                        Ok(job) => self.jobs.push(job),
                        Err(error) => {
                            tracing::error!(%error, "no thread for a cast");
                            job::release_ticket(self.fleet.as_ref(), &ticket).await;
                            return;
                        }
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = crate::chain(&error), "no cast can be taken");
                    return;
                }
            }
        }
    }

    /// Whether no other worker has more cores free: then this one keeps room for those that fit nowhere.
    async fn has_most_free_cores(&self) -> bool {
        let free = |cores: f64, used: f64| cores - used;
        let workers = self.fleet.workers().await;
        let own = workers.iter().find(|(id, _)| *id == self.config.worker);
        let own = own.map_or(0.0, |(_, load)| free(load.cores, load.cores_used));
        let others = workers.iter().filter(|(id, load)| *id != self.config.worker && !load.draining);
        others.map(|(_, load)| free(load.cores, load.cores_used)).all(|other| other <= own)
    }

    /// Ends casts that can be taken neither here nor anywhere else.
    async fn fail_queued(&self, casts: Vec<CastId>, why: Option<String>) {
        let Some(why) = why.filter(|_| !casts.is_empty()) else { return };
        // Another one may be larger.
        if self.fleet.is_shared() {
            return;
        }
        for cast in casts {
            tracing::warn!(%cast, why, "a cast can never be begun on this machine");
            if let Err(error) = self.fleet.fail_queued(&cast, &why).await {
                tracing::warn!(%cast, error = crate::chain(&error), "it is not ended either");
            }
        }
    }
}
