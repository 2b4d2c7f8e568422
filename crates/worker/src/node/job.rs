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
    Cast, CastId, CastStats, Claim, Command, Error, EventKind, Fleet, MAX_SNAPSHOT_BYTES, Ticket,
};
use serde_json::Value;
use tokio::sync::mpsc;

use super::Config;
use super::admission::{RunningCast, relative_pixel_rate};
use super::event_mapper::EventMapper;
use super::load::unix_ms;
use super::span::CastSpan;
use crate::cast::{CastEvent, Change, StopToken, change_pushes};
use crate::process::{self, ChangeSender, FailureInfo, Outcome, Pool, Process};

/// Things to report that wait for the fleet. Full, because its storage has been failing for long: the cast's
/// news wait.
const MAX_QUEUED_REPORTS: usize = 1024;
/// First pause after the fleet did not take a report; it doubles up to the longest.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// Time between two tries to store what could not be stored.
const UPLOAD_RETRY_INTERVAL: Duration = Duration::from_secs(600);
/// How often a thread that waits looks whether it should go on waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What a thread has to report.
enum FleetUpdate {
    Event(EventKind),
    Stats(Box<CastStats>),
    Snapshot(Bytes),
    /// The last one: what happened last, what became of the cast, and a receipt that nobody needs afterwards.
    Close {
        last: Option<EventKind>,
        report: Option<Value>,
        receipt: Option<PathBuf>,
    },
}

/// A cast that runs here.
#[derive(Debug)]
pub(super) struct Job {
    ticket: Ticket,
    spec: CastSpec,
    stop: StopToken,
    changes: Arc<Mutex<Option<ChangeSender>>>,
    scratch: PathBuf,
    began: Instant,
    renewed_at: Instant,
    /// When the lease is to be renewed again.
    renew_at: Instant,
    usage: Arc<CastUsage>,
    stop_requested: bool,
    thread: JoinHandle<()>,
    reporter: tokio::task::JoinHandle<()>,
}

/// What the cast takes, for the node.
#[derive(Debug, Default)]
struct CastUsage {
    millicores: AtomicU64,
    memory_bytes: AtomicU64,
    /// Its page is gone.
    page_closed: AtomicBool,
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
        let (spec, stop) = (cast.spec.clone(), StopToken::default());
        let (reports, queue) = mpsc::channel(MAX_QUEUED_REPORTS);
        let reporter = tokio::spawn(send_updates(Arc::clone(fleet), ticket.clone(), queue, stop.clone()));
        let changes = Arc::new(Mutex::new(None));
        let measured = Arc::new(CastUsage::default());
        let runner = Runner {
            span: CastSpan::start(&cast),
            cast,
            stop: stop.clone(),
            changes: Arc::clone(&changes),
            usage: Arc::clone(&measured),
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
            renewed_at: now,
            renew_at,
            usage: measured,
            stop_requested: false,
            thread,
            reporter,
        })
    }

    pub(super) fn id(&self) -> &CastId {
        &self.ticket.cast
    }

    /// What it takes.
    pub(super) fn running_cast(&self) -> RunningCast {
        let millicores = self.usage.millicores.load(Ordering::Relaxed);
        let memory_bytes = self.usage.memory_bytes.load(Ordering::Relaxed);
        RunningCast {
            age: self.began.elapsed(),
            relative_pixel_rate: relative_pixel_rate(&self.spec),
            measured: (memory_bytes > 0).then_some((millicores as f64 / 1000.0, memory_bytes)),
            is_uploading: self.usage.page_closed.load(Ordering::Relaxed),
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished() && self.reporter.is_finished()
    }

    /// How long its lease has not been renewed.
    pub(super) fn time_since_renewal(&self) -> Duration {
        self.renewed_at.elapsed()
    }

    /// Renews the lease, when that is due.
    pub(super) async fn renew(&mut self, fleet: &dyn Fleet, lease: Duration) -> Result<(), Error> {
        if Instant::now() < self.renew_at || self.reporter.is_finished() {
            return Ok(());
        }
        fleet.renew(&self.ticket, lease).await?;
        self.renewed_at = Instant::now();
        self.renew_at = self.renewed_at + lease / 3;
        Ok(())
    }

    /// Carries out what the cast is to do.
    pub(super) async fn run_commands(&mut self, fleet: &dyn Fleet) -> Result<(), Error> {
        if self.thread.is_finished() || self.stop.is_abandoned() {
            return Ok(());
        }
        let commands = fleet.commands(&self.ticket).await?;
        let mut done = None;
        // One that cannot be carried out now waits, and so do those behind it.
        for (number, command) in commands {
            if matches!(command, Command::AddPush(_) | Command::RemovePush(_)) && !self.accepts_changes() {
                break;
            }
            match command {
                Command::Stop => self.request_stop(),
                Command::Snapshot => {
                    let path = self.scratch.join(format!("{}.jpg", self.id()));
                    // Who waits for a picture asks again.
                    let _full = self.send_change(Change::Snapshot(path));
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
            Some(number) => fleet.ack_commands(&self.ticket, number).await,
            None => Ok(()),
        }
    }

    /// Whether changes reach the cast, or never will.
    fn accepts_changes(&self) -> bool {
        let is_over = self.usage.page_closed.load(Ordering::Acquire);
        is_over || self.changes.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn request_stop(&mut self) {
        // Asked again, it would be killed.
        if !std::mem::replace(&mut self.stop_requested, true)
            && !self.usage.page_closed.load(Ordering::Acquire)
        {
            self.stop.request();
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
        Ok(self.send_change(change) || self.usage.page_closed.load(Ordering::Acquire))
    }

    fn send_change(&self, change: Change) -> bool {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.as_ref().is_some_and(|changes| changes.send(change))
    }

    /// Has the process killed, and everything left to the next owner.
    pub(super) fn abandon(&self) {
        self.stop.abandon();
    }

    /// When it is over, or after [`Self::abandon`]: the next owner may begin.
    pub(super) async fn join_and_release(self, fleet: &dyn Fleet) {
        let thread = self.thread;
        if !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
            tracing::error!("a cast's thread panicked");
        }
        // What was said before is reported first.
        let _reported = self.reporter.await;
        release_ticket(fleet, &self.ticket).await;
    }
}

/// Lets anybody go on with a cast. One that is closed, or somebody else's, is left alone.
pub(super) async fn release_ticket(fleet: &dyn Fleet, ticket: &Ticket) {
    match fleet.release(ticket).await {
        Ok(()) | Err(Error::Fenced(_) | Error::CastNotFound(_)) => {}
        Err(error) => tracing::warn!(error = crate::chain(&error), "a cast is not handed over"),
    }
}

/// Reports, one thing after the other, until the fleet has taken it.
async fn send_updates(
    fleet: Arc<dyn Fleet>,
    ticket: Ticket,
    mut reports: mpsc::Receiver<FleetUpdate>,
    stop: StopToken,
) {
    while let Some(report) = reports.recv().await {
        let mut pause = MIN_RETRY_DELAY;
        loop {
            let done = match &report {
                FleetUpdate::Event(happening) => fleet.report_event(&ticket, happening.clone()).await,
                FleetUpdate::Close { last, report, .. } => {
                    fleet.close(&ticket, last.clone(), report.clone()).await
                }
                FleetUpdate::Stats(vitals) => {
                    fleet.put_stats(&ticket, (**vitals).clone()).await;
                    Ok(())
                }
                FleetUpdate::Snapshot(jpeg) => {
                    fleet.put_snapshot(&ticket, jpeg.clone()).await;
                    Ok(())
                }
            };
            match done {
                Ok(()) => break,
                Err(Error::Fenced(_) | Error::CastNotFound(_)) => {
                    stop.abandon();
                    return;
                }
                // Whoever goes on finds out for himself.
                Err(_) if stop.is_abandoned() => return,
                Err(error) => {
                    tracing::warn!(cast = %ticket.cast, error = crate::chain(&error), "a report waits");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_RETRY_DELAY);
                }
            }
        }
        if let FleetUpdate::Close { receipt: Some(receipt), .. } = report {
            // There is none if nothing was stored.
            let _gone = std::fs::remove_file(receipt);
        }
    }
}

/// The thread of a cast.
struct Runner {
    cast: Cast,
    span: CastSpan,
    stop: StopToken,
    changes: Arc<Mutex<Option<ChangeSender>>>,
    usage: Arc<CastUsage>,
    program: PathBuf,
    pool: Option<Arc<Pool>>,
    reports: mpsc::Sender<FleetUpdate>,
}

impl Runner {
    fn run(self) {
        let mut told = EventMapper::new(&self.cast);
        let taken_up = self.cast.epoch > 1;
        if taken_up {
            self.end_if_decided(&mut told);
        }
        let mut outcome = if told.has_ended() {
            self.usage.page_closed.store(true, Ordering::Release);
            self.finish(&mut told)
        } else {
            self.run_process(&mut told, taken_up)
        };
        self.usage.page_closed.store(true, Ordering::Release);
        let deadline = Instant::now() + self.upload_timeout();
        loop {
            if self.stop.is_abandoned() {
                return;
            }
            let mut happened = told.map_outcome(&outcome);
            if !self.has_pending_upload(&outcome) {
                // What is stored is told when nobody can take the cast up again: once.
                let last = happened.pop_if(|last| matches!(last, EventKind::Stored { .. }));
                happened.into_iter().for_each(|happening| self.send_update(FleetUpdate::Event(happening)));
                return self.close(&outcome, last);
            }
            happened.into_iter().for_each(|happening| self.send_update(FleetUpdate::Event(happening)));
            if !self.wait_before_retry(deadline) {
                return self.close(&outcome, None);
            }
            outcome = self.finish(&mut told);
        }
    }

    fn close(&self, outcome: &Outcome, last: Option<EventKind>) {
        if self.stop.is_abandoned() {
            return;
        }
        let report = outcome.report.as_ref().and_then(|report| serde_json::to_value(report).ok());
        let receipt = self.cast.spec.recording.as_ref().and_then(|recording| recording.receipt.clone());
        self.send_update(FleetUpdate::Close { last, report, receipt });
    }

    /// A cast that another process was to end, or whose time is over, or whose recording is stored, needs no
    /// page any more.
    fn end_if_decided(&self, told: &mut EventMapper) {
        let spec = &self.cast.spec;
        let stored = spec.recording.as_ref().is_some_and(|recording| {
            !recording.spool.exists() && recording.receipt.as_ref().is_some_and(|receipt| receipt.exists())
        });
        let reason = if self.cast.stop_requested {
            EndReason::Stopped
        } else if self.time_left().is_zero() {
            EndReason::MaxTime
        } else if stored {
            EndReason::Complete
        } else {
            return;
        };
        // One that never was live has nothing to be finished: it is as if it had not begun.
        if let Some(end) = told.end_event(reason, None, None) {
            self.send_update(FleetUpdate::Event(end));
        }
    }

    /// What is left of its running time, or of the time that it may take until its page is shown.
    fn time_left(&self) -> Duration {
        let since =
            self.cast.live_ms.or(self.cast.started_ms).map_or(0, |at| unix_ms().saturating_sub(at).max(0));
        self.cast.spec.limits.max_time.saturating_sub(Duration::from_millis(since.unsigned_abs()))
    }

    fn start_process(&self) -> Result<Process, process::Error> {
        let process = match &self.pool {
            Some(pool) => pool.take(&self.cast.spec),
            None => Process::start_with_log(&self.program),
        };
        let process = process.map(Process::exiting_on_disconnect)?;
        if let Some(evidence) = &self.cast.spec.evidence {
            process.keep_log(self.cast.id.as_str(), evidence);
        }
        Ok(process)
    }

    fn run_process(&self, told: &mut EventMapper, taken_up: bool) -> Outcome {
        let mut spec = self.cast.spec.clone();
        if taken_up {
            // The running time of a page that was never shown has not begun.
            spec.resumed = self.cast.live_ms.is_some();
            if spec.resumed {
                spec.limits.max_time = self.time_left().max(*MAX_TIME_RANGE.start());
            }
            if let Some(recording) = &mut spec.recording {
                recording.resume = true;
            }
        }
        let process = match self.start_process() {
            Ok(process) => process,
            Err(error) => return failed_outcome(&error),
        };
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.change_sender());
        let started: HostTime = process::now();
        process.run(&spec, started, &self.stop, |news| self.handle_event(told, news))
    }

    fn finish(&self, told: &mut EventMapper) -> Outcome {
        match self.start_process() {
            Ok(process) => process.finish(&self.cast.spec, &self.stop, |news| self.handle_event(told, news)),
            Err(error) => failed_outcome(&error),
        }
    }

    fn handle_event(&self, told: &mut EventMapper, news: CastEvent) {
        if let CastEvent::Snapshot(path, taken) = &news {
            self.send_snapshot(path, *taken);
        }
        let is_progress = matches!(news, CastEvent::Progress(_) | CastEvent::Upload(_));
        if let Some(happening) = told.map(news) {
            if matches!(happening, EventKind::Ended { .. }) {
                self.usage.page_closed.store(true, Ordering::Release);
            }
            self.send_update(FleetUpdate::Event(happening));
        }
        if is_progress {
            let vitals = told.stats(unix_ms());
            self.usage.millicores.store((vitals.cpu_cores * 1000.0) as u64, Ordering::Relaxed);
            self.usage.memory_bytes.store(vitals.memory_bytes, Ordering::Relaxed);
            // The next ones are as good.
            let _full = self.reports.try_send(FleetUpdate::Stats(Box::new(vitals)));
        }
    }

    fn send_snapshot(&self, path: &Path, taken: bool) {
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        if taken
            && size <= MAX_SNAPSHOT_BYTES as u64
            && let Ok(jpeg) = std::fs::read(path)
        {
            let _full = self.reports.try_send(FleetUpdate::Snapshot(jpeg.into()));
        }
        let _gone = std::fs::remove_file(path);
    }

    fn send_update(&self, report: FleetUpdate) {
        if let FleetUpdate::Event(happening) = &report {
            self.span.record(happening);
        }
        // Nobody listens once the cast is somebody else's.
        let _fenced = self.reports.blocking_send(report);
    }

    fn upload_timeout(&self) -> Duration {
        self.cast.spec.recording.as_ref().map_or(Duration::ZERO, |recording| recording.upload_timeout)
    }

    /// Whether something is in the spool that may be stored later.
    fn has_pending_upload(&self, outcome: &Outcome) -> bool {
        let stored = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
        let spool = self.cast.spec.recording.as_ref().map(|recording| &recording.spool);
        stored.is_none_or(|stored| stored.spool.is_some()) && spool.is_some_and(|spool| spool.exists())
    }

    /// Waits before storing is tried again. False if it is not.
    fn wait_before_retry(&self, deadline: Instant) -> bool {
        let until = Instant::now() + UPLOAD_RETRY_INTERVAL;
        if until > deadline {
            return false;
        }
        while Instant::now() < until {
            if self.stop.is_abandoned() {
                return false;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        true
    }
}

fn failed_outcome(error: &process::Error) -> Outcome {
    let message = crate::chain(error);
    Outcome { report: None, failure: Some(FailureInfo::new(crate::cast::FailureKind::Unexpected, message)) }
}
