//! One cast of a node: a thread that listens to its process, and a task that reports.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::{MAX_TIME_RANGE, Push};
use pagecast_core::{CastSpec, HostTime};
use pagecast_fleet::{
    Cast, CastId, Claim, Command, Error, Fleet, Happening, MAX_SNAPSHOT_BYTES, Ticket, Vitals,
};
use serde_json::Value;
use tokio::sync::mpsc;

use super::Config;
use super::admission::{Running, scale};
use super::life::Life;
use super::load::unix_ms;
use super::told::Told;
use crate::cast::{Change, News, Stop, change_pushes};
use crate::process::{self, Changes, Failed, Outcome, Pool, Process};

/// Things to report that wait for the fleet. Full, because its storage has been failing for long: the cast's
/// news wait.
const REPORTS: usize = 1024;
/// First pause after the fleet did not take a report; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Time between two tries to store what could not be stored.
const STORE_AGAIN: Duration = Duration::from_secs(600);
/// How often a thread that waits looks whether it should go on waiting.
const LOOK: Duration = Duration::from_millis(100);

/// What a thread has to report.
enum Report {
    Happening(Happening),
    Vitals(Box<Vitals>),
    Picture(Bytes),
    /// The last one: what happened last, what became of the cast, and a receipt that nobody needs afterwards.
    Close {
        last: Option<Happening>,
        report: Option<Value>,
        receipt: Option<PathBuf>,
    },
}

/// A cast that runs here.
#[derive(Debug)]
pub(super) struct Job {
    ticket: Ticket,
    spec: CastSpec,
    stop: Stop,
    changes: Arc<Mutex<Option<Changes>>>,
    scratch: PathBuf,
    began: Instant,
    renewed: Instant,
    /// When the lease is to be renewed again.
    renew_at: Instant,
    measured: Arc<Measured>,
    stop_passed_on: bool,
    thread: JoinHandle<()>,
    reporter: tokio::task::JoinHandle<()>,
}

/// What the cast takes, for the node.
#[derive(Debug, Default)]
struct Measured {
    millicores: AtomicU64,
    memory_bytes: AtomicU64,
    /// Its page is gone.
    is_over: AtomicBool,
}

impl Job {
    /// Goes on with a cast from wherever it stands.
    pub(super) fn start(
        config: &Config,
        fleet: &Arc<dyn Fleet>,
        pool: Option<Arc<Pool>>,
        claim: Claim,
    ) -> std::io::Result<Self> {
        let Claim { ticket, cast } = claim;
        let (spec, stop) = (cast.spec.clone(), Stop::default());
        let (reports, queue) = mpsc::channel(REPORTS);
        let reporter = tokio::spawn(report(Arc::clone(fleet), ticket.clone(), queue, stop.clone()));
        let changes = Arc::new(Mutex::new(None));
        let measured = Arc::new(Measured::default());
        let runner = Runner {
            life: Life::begin(&cast),
            cast,
            stop: stop.clone(),
            changes: Arc::clone(&changes),
            measured: Arc::clone(&measured),
            program: config.program.clone(),
            pool,
            reports,
        };
        // The last digits tell casts of the same moment apart.
        let id = ticket.cast.as_str();
        let name = format!("cast-{}", &id[id.len() - 8..]);
        let thread = std::thread::Builder::new().name(name).spawn(move || runner.run())?;
        let now = Instant::now();
        let renew_at = now + config.lease / 3;
        Ok(Self {
            ticket,
            spec,
            stop,
            changes,
            scratch: config.scratch.clone(),
            began: now,
            renewed: now,
            renew_at,
            measured,
            stop_passed_on: false,
            thread,
            reporter,
        })
    }

    pub(super) fn id(&self) -> &CastId {
        &self.ticket.cast
    }

    /// What it takes.
    pub(super) fn running(&self) -> Running {
        let millicores = self.measured.millicores.load(Ordering::Relaxed);
        let memory_bytes = self.measured.memory_bytes.load(Ordering::Relaxed);
        Running {
            age: self.began.elapsed(),
            scale: scale(&self.spec),
            measured: (memory_bytes > 0).then_some((millicores as f64 / 1000.0, memory_bytes)),
            is_over: self.measured.is_over.load(Ordering::Relaxed),
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished() && self.reporter.is_finished()
    }

    /// How long its lease has not been renewed.
    pub(super) fn unrenewed_for(&self) -> Duration {
        self.renewed.elapsed()
    }

    /// Renews the lease, when that is due.
    pub(super) async fn renew(&mut self, fleet: &dyn Fleet, lease: Duration) -> Result<(), Error> {
        if Instant::now() < self.renew_at || self.reporter.is_finished() {
            return Ok(());
        }
        fleet.renew(&self.ticket, lease).await?;
        self.renewed = Instant::now();
        self.renew_at = self.renewed + lease / 3;
        Ok(())
    }

    /// Carries out what the cast is to do.
    pub(super) async fn obey(&mut self, fleet: &dyn Fleet) -> Result<(), Error> {
        if self.thread.is_finished() || self.stop.is_abandoned() {
            return Ok(());
        }
        let commands = fleet.commands(&self.ticket).await?;
        let mut done = None;
        // One that cannot be carried out now waits, and so do those behind it.
        for (number, command) in commands {
            if matches!(command, Command::AddPush(_) | Command::RemovePush(_)) && !self.takes_changes() {
                break;
            }
            match command {
                Command::Stop => self.ask_to_stop(),
                Command::Snapshot => {
                    let path = self.scratch.join(format!("{}.jpg", self.id()));
                    // Who waits for a picture asks again.
                    let _full = self.change(Change::Snapshot(path));
                }
                Command::AddPush(push) => {
                    if !self.change_pushes(fleet, Change::AddPush(push)).await? {
                        break;
                    }
                }
                Command::RemovePush(url) => {
                    if !self.change_pushes(fleet, Change::RemovePush(url)).await? {
                        break;
                    }
                }
            }
            done = Some(number);
        }
        match done {
            Some(number) => fleet.obeyed(&self.ticket, number).await,
            None => Ok(()),
        }
    }

    /// Whether changes reach the cast, or never will.
    fn takes_changes(&self) -> bool {
        let is_over = self.measured.is_over.load(Ordering::Acquire);
        is_over || self.changes.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn ask_to_stop(&mut self) {
        // Asked again, it would be killed.
        if !std::mem::replace(&mut self.stop_passed_on, true)
            && !self.measured.is_over.load(Ordering::Acquire)
        {
            self.stop.ask();
        }
    }

    /// False if the cast has too many changes to make already.
    async fn change_pushes(&mut self, fleet: &dyn Fleet, change: Change) -> Result<bool, Error> {
        let mut pushes: Vec<Push> = self.spec.pushes.clone();
        // The process tells if it cannot be made.
        let _refused = change_pushes(&mut pushes, change.clone());
        if pushes != self.spec.pushes {
            fleet.put_pushes(&self.ticket, pushes.clone()).await?;
            self.spec.pushes = pushes;
        }
        Ok(self.change(change) || self.measured.is_over.load(Ordering::Acquire))
    }

    fn change(&self, change: Change) -> bool {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.as_ref().is_some_and(|changes| changes.order(change))
    }

    /// Has the process killed, and everything left to the next owner.
    pub(super) fn abandon(&self) {
        self.stop.abandon();
    }

    /// When it is over, or after [`Self::abandon`]: the next owner may begin.
    pub(super) async fn hand_over(self, fleet: &dyn Fleet) {
        let thread = self.thread;
        if !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
            tracing::error!("a cast's thread panicked");
        }
        // What was said before is reported first.
        let _reported = self.reporter.await;
        release(fleet, &self.ticket).await;
    }
}

/// Lets anybody go on with a cast. One that is closed, or somebody else's, is left alone.
pub(super) async fn release(fleet: &dyn Fleet, ticket: &Ticket) {
    match fleet.release(ticket).await {
        Ok(()) | Err(Error::Fenced(_) | Error::NoCast(_)) => {}
        Err(error) => tracing::warn!(error = crate::chain(&error), "a cast is not handed over"),
    }
}

/// Reports, one thing after the other, until the fleet has taken it.
async fn report(fleet: Arc<dyn Fleet>, ticket: Ticket, mut reports: mpsc::Receiver<Report>, stop: Stop) {
    while let Some(report) = reports.recv().await {
        let mut pause = FIRST_PAUSE;
        loop {
            let done = match &report {
                Report::Happening(happening) => fleet.report(&ticket, happening.clone()).await,
                Report::Close { last, report, .. } => {
                    fleet.close(&ticket, last.clone(), report.clone()).await
                }
                Report::Vitals(vitals) => {
                    fleet.tell(&ticket, (**vitals).clone()).await;
                    Ok(())
                }
                Report::Picture(jpeg) => {
                    fleet.put_snapshot(&ticket, jpeg.clone()).await;
                    Ok(())
                }
            };
            match done {
                Ok(()) => break,
                Err(Error::Fenced(_) | Error::NoCast(_)) => {
                    stop.abandon();
                    return;
                }
                // Whoever goes on finds out for himself.
                Err(_) if stop.is_abandoned() => return,
                Err(error) => {
                    tracing::warn!(cast = %ticket.cast, error = crate::chain(&error), "a report waits");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        if let Report::Close { receipt: Some(receipt), .. } = report {
            // There is none if nothing was stored.
            let _gone = std::fs::remove_file(receipt);
        }
    }
}

/// The thread of a cast.
struct Runner {
    cast: Cast,
    life: Life,
    stop: Stop,
    changes: Arc<Mutex<Option<Changes>>>,
    measured: Arc<Measured>,
    program: PathBuf,
    pool: Option<Arc<Pool>>,
    reports: mpsc::Sender<Report>,
}

impl Runner {
    fn run(self) {
        let mut told = Told::new(&self.cast);
        let taken_up = self.cast.epoch > 1;
        if taken_up {
            self.settle_what_is_clear(&mut told);
        }
        let mut outcome = if told.has_ended() {
            self.measured.is_over.store(true, Ordering::Release);
            self.finish(&mut told)
        } else {
            self.show(&mut told, taken_up)
        };
        self.measured.is_over.store(true, Ordering::Release);
        let deadline = Instant::now() + self.patience();
        loop {
            if self.stop.is_abandoned() {
                return;
            }
            let mut happened = told.conclude(&outcome);
            if !self.is_left(&outcome) {
                // What is stored is told when nobody can take the cast up again: once.
                let last = happened.pop_if(|last| matches!(last, Happening::Stored { .. }));
                happened.into_iter().for_each(|happening| self.say(Report::Happening(happening)));
                return self.close(&outcome, last);
            }
            happened.into_iter().for_each(|happening| self.say(Report::Happening(happening)));
            if !self.pause(deadline) {
                return self.close(&outcome, None);
            }
            outcome = self.finish(&mut told);
        }
    }

    fn close(&self, outcome: &Outcome, last: Option<Happening>) {
        if self.stop.is_abandoned() {
            return;
        }
        let report = outcome.report.as_ref().and_then(|report| serde_json::to_value(report).ok());
        let receipt = self.cast.spec.recording.as_ref().and_then(|recording| recording.receipt.clone());
        self.say(Report::Close { last, report, receipt });
    }

    /// A cast that another process was to end, or whose time is over, or whose recording is stored, needs no
    /// page any more.
    fn settle_what_is_clear(&self, told: &mut Told) {
        let spec = &self.cast.spec;
        let stored = spec.recording.as_ref().is_some_and(|recording| {
            !recording.spool.exists() && recording.receipt.as_ref().is_some_and(|receipt| receipt.exists())
        });
        let reason = if self.cast.stop_asked {
            EndReason::Stopped
        } else if self.left().is_zero() {
            EndReason::MaxTime
        } else if stored {
            EndReason::Complete
        } else {
            return;
        };
        // One that never was live has nothing to be finished: it is as if it had not begun.
        if let Some(end) = told.end(reason, None, None) {
            self.say(Report::Happening(end));
        }
    }

    /// What is left of its running time, or of the time that it may take until its page is shown.
    fn left(&self) -> Duration {
        let since =
            self.cast.live_ms.or(self.cast.started_ms).map_or(0, |at| unix_ms().saturating_sub(at).max(0));
        self.cast.spec.limits.max_time.saturating_sub(Duration::from_millis(since.unsigned_abs()))
    }

    fn process(&self) -> Result<Process, process::Error> {
        let process = match &self.pool {
            Some(pool) => pool.take(&self.cast.spec),
            None => Process::start_heard(&self.program),
        };
        let process = process.map(Process::leaving_when_alone)?;
        if let Some(evidence) = &self.cast.spec.evidence {
            process.keep_log(self.cast.id.as_str(), evidence);
        }
        Ok(process)
    }

    fn show(&self, told: &mut Told, taken_up: bool) -> Outcome {
        let mut spec = self.cast.spec.clone();
        if taken_up {
            // The running time of a page that was never shown has not begun.
            spec.resumed = self.cast.live_ms.is_some();
            if spec.resumed {
                spec.limits.max_time = self.left().max(*MAX_TIME_RANGE.start());
            }
            if let Some(recording) = &mut spec.recording {
                recording.resume = true;
            }
        }
        let process = match self.process() {
            Ok(process) => process,
            Err(error) => return failed(&error),
        };
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.changes());
        let started: HostTime = process::now();
        process.run(&spec, started, &self.stop, |news| self.hear(told, news))
    }

    fn finish(&self, told: &mut Told) -> Outcome {
        match self.process() {
            Ok(process) => process.finish(&self.cast.spec, &self.stop, |news| self.hear(told, news)),
            Err(error) => failed(&error),
        }
    }

    fn hear(&self, told: &mut Told, news: News) {
        if let News::Snapshot(path, taken) = &news {
            self.picture(path, *taken);
        }
        let is_progress = matches!(news, News::Progress(_) | News::Delivery(_));
        if let Some(happening) = told.hear(news) {
            if matches!(happening, Happening::Ended { .. }) {
                self.measured.is_over.store(true, Ordering::Release);
            }
            self.say(Report::Happening(happening));
        }
        if is_progress {
            let vitals = told.vitals(unix_ms());
            self.measured.millicores.store((vitals.cpu_cores * 1000.0) as u64, Ordering::Relaxed);
            self.measured.memory_bytes.store(vitals.memory_bytes, Ordering::Relaxed);
            // The next ones are as good.
            let _full = self.reports.try_send(Report::Vitals(Box::new(vitals)));
        }
    }

    fn picture(&self, path: &Path, taken: bool) {
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        if taken
            && size <= MAX_SNAPSHOT_BYTES as u64
            && let Ok(jpeg) = std::fs::read(path)
        {
            let _full = self.reports.try_send(Report::Picture(jpeg.into()));
        }
        let _gone = std::fs::remove_file(path);
    }

    fn say(&self, report: Report) {
        if let Report::Happening(happening) = &report {
            self.life.hear(happening);
        }
        // Nobody listens once the cast is somebody else's.
        let _fenced = self.reports.blocking_send(report);
    }

    fn patience(&self) -> Duration {
        self.cast.spec.recording.as_ref().map_or(Duration::ZERO, |recording| recording.patience)
    }

    /// Whether something is in the spool that may be stored later.
    fn is_left(&self, outcome: &Outcome) -> bool {
        let stored = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
        let spool = self.cast.spec.recording.as_ref().map(|recording| &recording.spool);
        stored.is_none_or(|stored| stored.spool.is_some()) && spool.is_some_and(|spool| spool.exists())
    }

    /// Waits before storing is tried again. False if it is not.
    fn pause(&self, deadline: Instant) -> bool {
        let until = Instant::now() + STORE_AGAIN;
        if until > deadline {
            return false;
        }
        while Instant::now() < until {
            if self.stop.is_abandoned() {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }
}

fn failed(error: &process::Error) -> Outcome {
    let message = crate::chain(error);
    Outcome { report: None, failure: Some(Failed::new(crate::cast::Kind::Unexpected, message)) }
}
