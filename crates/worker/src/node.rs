//! A worker node: claims casts of a fleet, runs each in a process of its own, reports its events, and renews
//! its lease.
//!
//! One task runs the node ([`Node::run`]). Each cast has a thread that supervises its process, and a task
//! that reports to the fleet. A cast whose lease is lost is killed; its recording is left to the worker that
//! has the lease now.

mod admission;
mod event_mapper;
mod housekeeping;
mod job;
mod load;
mod span;

use std::fmt;
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

/// How often the node sends its heartbeat, renews leases and looks for casts to claim.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Most casts that are only uploading, each a process of its own. While there are more, no cast is claimed.
const MAX_UPLOADING: usize = 1000;
/// Shortest time between two turns of the main loop, however often the fleet changes.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program that runs casts: `pagecast`.
    pub program: PathBuf,
    /// Name of this node in the fleet.
    pub worker: WorkerId,
    /// How long a lease lasts without being renewed.
    pub lease: Duration,
    /// How much of the machine casts may use.
    pub admission: admission::Config,
    /// Number of warm browsers, and a description of the casts they are for.
    pub warm_browsers: Option<(usize, CastSpec)>,
    /// Folder for snapshots until they are sent to the fleet.
    pub scratch: PathBuf,
    /// Folders that recordings expect to exist.
    pub folders: Vec<PathBuf>,
    /// Folder for evidence and logs, one subfolder for each cast, removed when the fleet deletes the cast.
    pub evidence: PathBuf,
    /// A folder on each disk that casts use: where they record, and where their browsers write.
    pub disks: Vec<PathBuf>,
    /// Files that must stay appendable on a full disk: the log of the fleet's database.
    pub reserved: Vec<PathBuf>,
    /// How long running casts may continue when the node is asked to stop.
    pub drain_timeout: Duration,
    /// Completes the description of each cast that the node claims.
    pub spec_completer: Option<Arc<dyn CompleteSpec>>,
}

/// Completes descriptions of casts with what is known only when they are claimed, like an address that
/// changes when the service restarts.
pub trait CompleteSpec: fmt::Debug + Send + Sync {
    /// Completes a description.
    fn complete(&self, spec: &mut CastSpec);
}

pub use admission::Config as AdmissionConfig;

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

/// A worker node.
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
    /// Registers in the fleet. Removes what an earlier node of the same name left, and releases its casts.
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
        let pool =
            pool.map(|(size, template)| Pool::start(config.program.clone(), size, template)).transpose();
        let pool = pool.map_err(StartError::Pool)?.map(Arc::new);
        let admission = Admission::new(config.admission.clone());
        let (meter, reservations) = (Meter::default(), Mutex::default());
        Ok(Self { config, fleet, pool, jobs: Vec::new(), meter, admission, reservations })
    }

    /// Runs until asked to stop. Then running casts have [`Config::drain_timeout`] to end by themselves, and
    /// what still runs is left to the next node.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let housekeeping =
            tokio::spawn(housekeeping::run(Arc::clone(&self.fleet), self.config.evidence.clone()));
        let reserving = tokio::spawn(housekeeping::reserve_disk_space(self.config.reserved.clone()));
        let mut changes = self.fleet.changes();
        let mut last_heartbeat: Option<Instant> = None;
        let mut drain_until: Option<Instant> = None;
        loop {
            if *stop.borrow() && drain_until.is_none() {
                drain_until = Some(Instant::now() + self.config.drain_timeout);
            }
            let draining = drain_until.is_some();
            if last_heartbeat.is_none_or(|at| at.elapsed() >= POLL_INTERVAL) {
                last_heartbeat = Some(Instant::now());
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
        for task in [housekeeping, reserving] {
            task.abort();
            // Cancelled, unless the task panicked before.
            let _cancelled = task.await;
        }
    }

    /// Removes jobs that are over, or whose lease is lost. A cast that was not closed, even by a panic, is
    /// released.
    async fn remove_finished_jobs(&mut self) {
        let (finished, running) = self.jobs.drain(..).partition::<Vec<_>, _>(Job::is_finished);
        self.jobs = running;
        for job in finished {
            job.join_and_release(self.fleet.as_ref()).await;
        }
    }

    /// Measures the machine, updates the admission, and sends the heartbeat.
    async fn heartbeat(&mut self, draining: bool) {
        let load = self.meter.measure(self.jobs.len(), draining);
        self.admission.set_worker_status(&load);
        // A disk that cannot be measured does not count as full.
        let disks = self.config.disks.iter().filter_map(|folder| disk::space(folder).ok());
        self.admission.set_disk_space(disks);
        self.admission.update_estimates(&self.jobs.iter().map(Job::running_cast).collect::<Vec<_>>());
        self.fleet.heartbeat(&self.config.worker, load).await;
    }

    /// Renews leases and carries out the fleet's commands.
    async fn renew_leases(&mut self) {
        for job in &mut self.jobs {
            match job.renew(self.fleet.as_ref(), self.config.lease).await {
                Ok(()) => {}
                Err(Error::Fenced(_)) => {
                    tracing::warn!(cast = %job.id(), "lease lost to another worker");
                    job.abandon();
                    continue;
                }
                // In a fleet of one worker nobody else can claim the cast, however long its storage fails.
                Err(_) if self.fleet.is_shared() && job.time_since_renewal() > self.config.lease => {
                    tracing::warn!(cast = %job.id(), "lease expired, cast released");
                    job.abandon();
                    continue;
                }
                Err(error) => {
                    tracing::warn!(cast = %job.id(), error = crate::chain(&error), "lease renewal failed");
                }
            }
            match job.run_commands(self.fleet.as_ref()).await {
                Ok(()) => {}
                Err(Error::Fenced(_)) => job.abandon(),
                Err(error) => {
                    tracing::debug!(cast = %job.id(), error = crate::chain(&error), "cannot run commands, \
                        retrying");
                }
            }
        }
    }

    /// Claims casts while the admission allows it.
    async fn claim_casts(&mut self) {
        loop {
            let running: Vec<RunningCast> = self.jobs.iter().map(Job::running_cast).collect();
            let uploading = running.iter().filter(|cast| cast.is_uploading).count();
            if running.len() - uploading >= self.config.admission.max_casts || uploading >= MAX_UPLOADING {
                return;
            }
            let (never_fits, may_reserve) =
                (self.admission.never_fits_reason(), self.has_most_free_cores().await);
            let unfit: Mutex<Vec<CastId>> = Mutex::default();
            let fits = |cast: &Cast| {
                if never_fits.is_some() {
                    unfit.lock().unwrap_or_else(PoisonError::into_inner).push(cast.id.clone());
                    return false;
                }
                let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
                let fits = || self.admission.fits(&running, &cast.spec);
                let may_reserve = || may_reserve && self.admission.fits_empty_machine(&cast.spec);
                reservations.admits(Instant::now(), &cast.id, fits, may_reserve)
            };
            let claimed = self.fleet.claim(&self.config.worker, self.config.lease, &fits).await;
            self.fail_queued(unfit.into_inner().unwrap_or_else(PoisonError::into_inner), never_fits).await;
            if let Ok(claim) = &claimed {
                let mut reservations = self.reservations.lock().unwrap_or_else(PoisonError::into_inner);
                reservations.end_scan(claim.as_ref().map(|claim| &claim.cast.id));
            }
            match claimed {
                Ok(Some(mut claim)) => {
                    if let Some(completer) = &self.config.spec_completer {
                        completer.complete(&mut claim.cast.spec);
                    }
                    let ticket = claim.ticket.clone();
                    match Job::start(&self.config, &self.fleet, self.pool.clone(), claim) {
                        Ok(job) => self.jobs.push(job),
                        Err(error) => {
                            tracing::error!(cast = %ticket.cast, %error, "cannot start cast thread");
                            job::release_ticket(self.fleet.as_ref(), &ticket).await;
                            return;
                        }
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(error = crate::chain(&error), "cannot claim cast");
                    return;
                }
            }
        }
    }

    /// Returns whether no other worker has more free cores: then this one reserves room for casts that fit
    /// nowhere.
    async fn has_most_free_cores(&self) -> bool {
        let free = |cores: f64, used: f64| cores - used;
        let workers = self.fleet.workers().await;
        let own = workers.iter().find(|(id, _)| *id == self.config.worker);
        let own = own.map_or(0.0, |(_, load)| free(load.cores, load.cores_used));
        let others = workers.iter().filter(|(id, load)| *id != self.config.worker && !load.draining);
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
