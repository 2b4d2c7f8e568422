//! One cast of a node: a thread that supervises its process, and a task that reports to the fleet.

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

/// Updates queued for the fleet: more than a cast has events in hours. When full, because the fleet's storage
/// has failed for long, the cast's thread waits.
const MAX_QUEUED_REPORTS: usize = 1024;
/// First pause after the fleet refused a report; it doubles up to [`MAX_RETRY_DELAY`].
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Longest pause between two attempts, well below the lease.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// Time between two attempts to upload a recording whose storage failed: each starts a process and asks the
/// storage.
const UPLOAD_RETRY_INTERVAL: Duration = Duration::from_secs(600);
/// How often a waiting thread checks whether its cast was abandoned.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// An update for the fleet.
enum FleetUpdate {
    Event(EventKind),
    Stats(Box<CastStats>),
    Snapshot(Bytes),
    /// The last update: the last event, the report, and the receipt, whose file is not needed afterwards.
    Close {
        last: Option<EventKind>,
        report: Option<Value>,
        receipt: Option<PathBuf>,
    },
}

/// A cast that runs on this node.
#[derive(Debug)]
pub(super) struct Job {
    ticket: Ticket,
    spec: CastSpec,
    stop: StopToken,
    changes: Arc<Mutex<Option<ChangeSender>>>,
    scratch: PathBuf,
    began: Instant,
    renewed_at: Instant,
    /// When the next renewal of the lease is due.
    renew_at: Instant,
    usage: Arc<CastUsage>,
    stop_requested: bool,
    thread: JoinHandle<()>,
    reporter: tokio::task::JoinHandle<()>,
}

/// What the cast uses, shared with its thread.
#[derive(Debug, Default)]
struct CastUsage {
    millicores: AtomicU64,
    memory_bytes: AtomicU64,
    /// The page has ended; only the upload is left.
    page_closed: AtomicBool,
}

impl Job {
    /// Starts or resumes a cast from the state it is in.
    pub(super) fn start(
        config: &Config,
        fleet: &Arc<dyn Fleet>,
        pool: Option<Arc<Pool>>,
        claim: Claim,
    ) -> std::io::Result<Self> {
        let Claim { ticket, cast } = claim;
        let (spec, stop) = (cast.spec.clone(), StopToken::default());
        let (updates, queue) = mpsc::channel(MAX_QUEUED_REPORTS);
        let reporter = tokio::spawn(send_updates(Arc::clone(fleet), ticket.clone(), queue, stop.clone()));
        let changes = Arc::new(Mutex::new(None));
        let usage = Arc::new(CastUsage::default());
        let runner = Runner {
            span: CastSpan::start(&cast),
            cast,
            stop: stop.clone(),
            changes: Arc::clone(&changes),
            usage: Arc::clone(&usage),
            program: config.program.clone(),
            pool,
            updates,
        };
        // The last digits differ between casts of the same moment.
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
            usage,
            stop_requested: false,
            thread,
            reporter,
        })
    }

    pub(super) fn id(&self) -> &CastId {
        &self.ticket.cast
    }

    /// Returns what the cast uses, for the admission.
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

    /// Returns whether thread and reporter have ended.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished() && self.reporter.is_finished()
    }

    /// Returns the time since the last renewal of the lease.
    pub(super) fn time_since_renewal(&self) -> Duration {
        self.renewed_at.elapsed()
    }

    /// Renews the lease, if that is due.
    pub(super) async fn renew(&mut self, fleet: &dyn Fleet, lease: Duration) -> Result<(), Error> {
        if Instant::now() < self.renew_at || self.reporter.is_finished() {
            return Ok(());
        }
        fleet.renew(&self.ticket, lease).await?;
        self.renewed_at = Instant::now();
        self.renew_at = self.renewed_at + lease / 3;
        Ok(())
    }

    /// Carries out the fleet's commands for this cast.
    pub(super) async fn run_commands(&mut self, fleet: &dyn Fleet) -> Result<(), Error> {
        if self.thread.is_finished() || self.stop.is_abandoned() {
            return Ok(());
        }
        let commands = fleet.commands(&self.ticket).await?;
        let mut done = None;
        // A command that cannot be carried out yet holds back those behind it, to keep their order.
        for (number, command) in commands {
            if matches!(command, Command::AddPush(_) | Command::RemovePush(_)) && !self.accepts_changes() {
                break;
            }
            match command {
                Command::Stop => self.request_stop(),
                Command::Snapshot => {
                    let path = self.scratch.join(format!("{}.jpg", self.id()));
                    // A client that waits for a snapshot asks again.
                    let _queue_full = self.send_change(Change::Snapshot(path));
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

    /// Returns whether the cast takes changes, or never will again.
    fn accepts_changes(&self) -> bool {
        let is_over = self.usage.page_closed.load(Ordering::Acquire);
        is_over || self.changes.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn request_stop(&mut self) {
        // A second request would kill the process.
        if !std::mem::replace(&mut self.stop_requested, true)
            && !self.usage.page_closed.load(Ordering::Acquire)
        {
            self.stop.request();
        }
    }

    /// Stores the changed pushes and sends the change to the cast; returns false if its queue is full.
    async fn change_pushes(&mut self, fleet: &dyn Fleet, change: Change) -> Result<bool, Error> {
        let mut pushes: Vec<Push> = self.spec.pushes.clone();
        // A refusal is reported by the process.
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

    /// Requests that the process be killed and the cast left to the next owner.
    pub(super) fn abandon(&self) {
        self.stop.abandon();
    }

    /// Waits for the end and releases the ticket for the next owner. Call when the job is finished or
    /// abandoned.
    pub(super) async fn join_and_release(self, fleet: &dyn Fleet) {
        let thread = self.thread;
        if !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
            tracing::error!(cast = %self.ticket.cast, "cast thread panicked");
        }
        // The queued updates are reported first.
        let _reported = self.reporter.await;
        release_ticket(fleet, &self.ticket).await;
    }
}

/// Releases a cast for the next owner; does nothing if it is closed or owned by another worker.
pub(super) async fn release_ticket(fleet: &dyn Fleet, ticket: &Ticket) {
    match fleet.release(ticket).await {
        Ok(()) | Err(Error::Fenced(_) | Error::CastNotFound(_)) => {}
        Err(error) => {
            tracing::warn!(cast = %ticket.cast, error = crate::chain(&error), "cannot release ticket");
        }
    }
}

/// Sends updates to the fleet in order, each until the fleet has taken it.
async fn send_updates(
    fleet: Arc<dyn Fleet>,
    ticket: Ticket,
    mut updates: mpsc::Receiver<FleetUpdate>,
    stop: StopToken,
) {
    while let Some(report) = updates.recv().await {
        let mut pause = MIN_RETRY_DELAY;
        loop {
            let done = match &report {
                FleetUpdate::Event(event) => fleet.report_event(&ticket, event.clone()).await,
                FleetUpdate::Close { last, report, .. } => {
                    fleet.close(&ticket, last.clone(), report.clone()).await
                }
                FleetUpdate::Stats(stats) => {
                    fleet.put_stats(&ticket, (**stats).clone()).await;
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
                // The next owner finds out by itself.
                Err(_) if stop.is_abandoned() => return,
                Err(error) => {
                    tracing::warn!(cast = %ticket.cast, error = crate::chain(&error), "report failed, \
                        retrying");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_RETRY_DELAY);
                }
            }
        }
        if let FleetUpdate::Close { receipt: Some(receipt), .. } = report {
            // There is no receipt if nothing was uploaded.
            let _missing = std::fs::remove_file(receipt);
        }
    }
}

/// What the thread of a cast works with.
struct Runner {
    cast: Cast,
    span: CastSpan,
    stop: StopToken,
    changes: Arc<Mutex<Option<ChangeSender>>>,
    usage: Arc<CastUsage>,
    program: PathBuf,
    pool: Option<Arc<Pool>>,
    updates: mpsc::Sender<FleetUpdate>,
}

impl Runner {
    fn run(self) {
        let mut mapper = EventMapper::new(&self.cast);
        let resumed = self.cast.epoch > 1;
        if resumed {
            self.end_if_decided(&mut mapper);
        }
        let mut outcome = if mapper.has_ended() {
            self.usage.page_closed.store(true, Ordering::Release);
            self.finish(&mut mapper)
        } else {
            self.run_process(&mut mapper, resumed)
        };
        self.usage.page_closed.store(true, Ordering::Release);
        let deadline = Instant::now() + self.upload_timeout();
        loop {
            if self.stop.is_abandoned() {
                return;
            }
            let mut events = mapper.map_outcome(&outcome);
            if !self.has_pending_upload(&outcome) {
                // The stored event goes with the close, after which nobody can resume the cast: it is sent
                // once.
                let last = events.pop_if(|last| matches!(last, EventKind::Stored { .. }));
                events.into_iter().for_each(|event| self.send_update(FleetUpdate::Event(event)));
                return self.close(&outcome, last);
            }
            events.into_iter().for_each(|event| self.send_update(FleetUpdate::Event(event)));
            if !self.wait_before_retry(deadline) {
                return self.close(&outcome, None);
            }
            outcome = self.finish(&mut mapper);
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

    /// Ends a resumed cast that needs no page any more: its stop was requested, its time is over, or its
    /// recording is uploaded.
    fn end_if_decided(&self, mapper: &mut EventMapper) {
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
        // A cast that was never live has nothing to finish.
        if let Some(end) = mapper.end_event(reason, None, None) {
            self.send_update(FleetUpdate::Event(end));
        }
    }

    /// Returns what is left of the maximum time, which counts from the start until the page is shown, then
    /// anew.
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

    fn run_process(&self, mapper: &mut EventMapper, resumed: bool) -> Outcome {
        let mut spec = self.cast.spec.clone();
        if resumed {
            // The running time of a page that was never shown has not started.
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
        process.run(&spec, started, &self.stop, |event| self.handle_event(mapper, event))
    }

    fn finish(&self, mapper: &mut EventMapper) -> Outcome {
        match self.start_process() {
            Ok(process) => {
                process.finish(&self.cast.spec, &self.stop, |event| self.handle_event(mapper, event))
            }
            Err(error) => failed_outcome(&error),
        }
    }

    fn handle_event(&self, mapper: &mut EventMapper, cast_event: CastEvent) {
        if let CastEvent::Snapshot(path, taken) = &cast_event {
            self.send_snapshot(path, *taken);
        }
        let is_progress = matches!(cast_event, CastEvent::Progress(_) | CastEvent::Upload(_));
        if let Some(event) = mapper.map(cast_event) {
            if matches!(event, EventKind::Ended { .. }) {
                self.usage.page_closed.store(true, Ordering::Release);
            }
            self.send_update(FleetUpdate::Event(event));
        }
        if is_progress {
            let stats = mapper.stats(unix_ms());
            self.usage.millicores.store((stats.cpu_cores * 1000.0) as u64, Ordering::Relaxed);
            self.usage.memory_bytes.store(stats.memory_bytes, Ordering::Relaxed);
            // The statistics of the next second replace these.
            let _queue_full = self.updates.try_send(FleetUpdate::Stats(Box::new(stats)));
        }
    }

    fn send_snapshot(&self, path: &Path, taken: bool) {
        let size = std::fs::metadata(path).map_or(0, |m| m.len());
        if taken
            && size <= MAX_SNAPSHOT_BYTES as u64
            && let Ok(jpeg) = std::fs::read(path)
        {
            let _queue_full = self.updates.try_send(FleetUpdate::Snapshot(jpeg.into()));
        }
        let _missing = std::fs::remove_file(path);
    }

    fn send_update(&self, update: FleetUpdate) {
        if let FleetUpdate::Event(event) = &update {
            self.span.record(event);
        }
        // The reporter ends once another worker owns the cast.
        let _fenced = self.updates.blocking_send(update);
    }

    fn upload_timeout(&self) -> Duration {
        self.cast.spec.recording.as_ref().map_or(Duration::ZERO, |recording| recording.upload_timeout)
    }

    /// Returns whether the spool still holds something to upload.
    fn has_pending_upload(&self, outcome: &Outcome) -> bool {
        let stored = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
        let spool = self.cast.spec.recording.as_ref().map(|recording| &recording.spool);
        stored.is_none_or(|stored| stored.spool.is_some()) && spool.is_some_and(|spool| spool.exists())
    }

    /// Waits before the next attempt to upload; returns false if there is none.
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
