//! One cast of a node: a thread that supervises its process, and a task that reports to the fleet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pagecast_core::cast::EndReason;
use pagecast_core::ledger::{FIRST_EPOCH, LedgerRow};
use pagecast_core::spec::{MAX_TIME_RANGE, Push, Storage};
use pagecast_core::{CastSpec, HostTime};
use pagecast_fleet::{
    Cast, CastStats, Claim, Command, Error, EventKind, Fleet, MAX_SNAPSHOT_BYTES, RunningCastGuard, Ticket,
    cast::weight,
};
use pagecast_media::record::FleetStore;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Config;
use super::admission::RunningCast;
use super::data_folder::DataFolder;
use super::event_mapper::EventMapper;
use super::evidence_copier::EvidenceCopier;
use super::fleet_store;
use super::load::unix_ms;
use super::span::CastSpan;
use super::stats_history::StatsHistory;
use crate::cast::{Assignment, CastEvent, Change, StopToken, change_pushes};
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
    Ledger(Vec<LedgerRow>),
    Stats(Box<CastStats>),
    Snapshot(Bytes),
    /// The last update: the last event, the report, and the receipt, whose file is not needed afterwards.
    Close {
        last: Option<EventKind>,
        report: Option<Value>,
        receipt: Option<PathBuf>,
        /// Copies in the fleet's store, if they are not needed afterwards either.
        copies: Option<Box<FleetStore>>,
    },
}

/// A cast that runs on this node.
#[derive(Debug)]
pub(super) struct Job {
    ticket: Ticket,
    spec: CastSpec,
    stop: StopToken,
    changes: Arc<Mutex<Option<ChangeSender>>>,
    /// When the lease ends, in a fleet of several nodes.
    lease_end: Arc<Mutex<Option<HostTime>>>,
    snapshot: PathBuf,
    began: Instant,
    usage: Arc<CastUsage>,
    stop_requested: bool,
    /// The cast is left to another node, as was requested.
    is_moving: bool,
    thread: JoinHandle<()>,
    reporter: tokio::task::JoinHandle<()>,
    /// Copies evidence and log, if the fleet has a store.
    evidence: Option<EvidenceCopier>,
}

/// What the cast uses, shared with its thread.
#[derive(Debug, Default)]
struct CastUsage {
    millicores: AtomicU64,
    memory_bytes: AtomicU64,
    /// The page has ended; only the upload is left.
    page_closed: AtomicBool,
    /// The cast has stopped publishing and storing at the end of its lease.
    is_isolated: AtomicBool,
}

impl Job {
    /// Starts or resumes a cast from the state it is in. `earlier` is the ledger of what its earlier owners
    /// recorded.
    pub(super) fn start(
        config: &Config,
        fleet: &Arc<dyn Fleet>,
        pool: Option<Arc<Pool>>,
        claim: Claim,
        earlier: Vec<LedgerRow>,
    ) -> std::io::Result<Self> {
        let Claim { ticket, cast } = claim;
        let (spec, stop) = (cast.spec.clone(), StopToken::default());
        let data = DataFolder::new(config.data.clone());
        let (updates, queue) = mpsc::channel(MAX_QUEUED_REPORTS);
        let reporter = tokio::spawn(send_updates(Arc::clone(fleet), ticket.clone(), queue, stop.clone()));
        let changes = Arc::new(Mutex::new(None));
        let usage = Arc::new(CastUsage::default());
        let lease_end = fleet.is_shared().then(|| process::now() + config.lease);
        let lease_end = Arc::new(Mutex::new(lease_end));
        let runner = Runner {
            _running: config.running.add(&ticket),
            span: CastSpan::start(&cast),
            assignment: Assignment {
                store: config.store.clone().map(|store| fleet_store::of_cast(store, &ticket.cast)),
                ..assignment(&data, &cast, earlier)
            },
            cast,
            stop: stop.clone(),
            changes: Arc::clone(&changes),
            lease_end: Arc::clone(&lease_end),
            usage: Arc::clone(&usage),
            program: config.program.clone(),
            pool,
            updates,
            history: Mutex::new(StatsHistory::new(data.evidence().join(ticket.cast.as_str()), ticket.epoch)),
        };
        // The last digits differ between casts of the same moment.
        let id = &ticket.cast;
        let name = format!("cast-{}", &id.as_str()[id.as_str().len() - 8..]);
        let thread = std::thread::Builder::new().name(name).spawn(move || runner.run())?;
        let snapshot = data.snapshot(id);
        let folder = data.cast_paths(id).evidence;
        let evidence = config.store.as_ref().zip(folder);
        let evidence = evidence.and_then(|(store, folder)| EvidenceCopier::start(store, id, folder));
        Ok(Self {
            ticket,
            spec,
            stop,
            changes,
            lease_end,
            snapshot,
            began: Instant::now(),
            usage,
            stop_requested: false,
            is_moving: false,
            thread,
            reporter,
            evidence,
        })
    }

    /// Returns what the cast uses, for the admission.
    pub(super) fn running_cast(&self) -> RunningCast {
        let millicores = self.usage.millicores.load(Ordering::Relaxed);
        let memory_bytes = self.usage.memory_bytes.load(Ordering::Relaxed);
        RunningCast {
            age: self.began.elapsed(),
            weight: weight(&self.spec),
            measured: (memory_bytes > 0).then_some((millicores as f64 / 1000.0, memory_bytes)),
            is_uploading: self.usage.page_closed.load(Ordering::Relaxed),
        }
    }

    /// Returns whether thread and reporter have ended.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished() && self.reporter.is_finished()
    }

    /// The ticket of the cast.
    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Returns whether the lease is to be renewed: the cast was not abandoned, and the fleet has not all of
    /// its reports.
    pub(super) fn needs_lease(&self) -> bool {
        !self.stop.is_abandoned() && !self.reporter.is_finished()
    }

    /// Allows the cast to publish and to store until this time, at which its lease ends. A cast that stopped
    /// doing so is restarted.
    pub(super) fn publish_until(&self, until: Instant) {
        let until = process::now() + until.saturating_duration_since(Instant::now());
        *self.lease_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        if self.usage.is_isolated.swap(false, Ordering::AcqRel) {
            tracing::info!(cast = %self.ticket.cast, "lease renewed, cast restarted to publish again");
            self.stop.request_restart();
        }
        // If the queue is full, the next renewal follows in time.
        let _queue_full = self.send_change(Change::PublishUntil(until));
    }

    /// Carries out the fleet's commands for this cast.
    pub(super) async fn run_commands(
        &mut self,
        fleet: &dyn Fleet,
        commands: Vec<(u64, Command)>,
    ) -> Result<(), Error> {
        if self.thread.is_finished() || self.stop.is_abandoned() {
            return Ok(());
        }
        let (mut done, mut is_moving) = (None, false);
        // A command that cannot be carried out yet holds back those behind it, to keep their order.
        for (number, command) in commands {
            if matches!(command, Command::AddPush(_) | Command::RemovePush(_)) && !self.accepts_changes() {
                break;
            }
            match command {
                Command::Stop => self.request_stop(),
                Command::Snapshot => {
                    // A client that waits for a snapshot asks again.
                    let _queue_full = self.send_change(Change::Snapshot(self.snapshot.clone()));
                }
                // A stop goes on here, and so does an upload.
                Command::Move => is_moving = !self.stop_requested && !self.is_uploading(),
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
        if let Some(number) = done {
            // Before the end: the next owner must not move the cast again.
            fleet.ack_commands(&self.ticket, number).await?;
        }
        if is_moving {
            tracing::info!(cast = %self.ticket.cast, "move requested, cast left to another node");
            self.is_moving = true;
            self.abandon();
        }
        Ok(())
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

    /// Returns whether the page has ended and only the upload is left.
    pub(super) fn is_uploading(&self) -> bool {
        self.usage.page_closed.load(Ordering::Acquire)
    }

    /// Returns whether the cast is being left to another node, as was requested.
    pub(super) fn is_moving(&self) -> bool {
        self.is_moving
    }

    /// Labels of which a node must have all to run the cast.
    pub(super) fn labels(&self) -> &[String] {
        &self.spec.placement.labels
    }

    /// Requests that the process be killed and the cast left to the next owner.
    pub(super) fn abandon(&self) {
        self.stop.abandon();
    }

    /// Waits for the end and releases the ticket for the next owner. Call when the job is finished or
    /// abandoned.
    pub(super) async fn join_and_release(self, fleet: Arc<dyn Fleet>) {
        let thread = self.thread;
        if !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
            tracing::error!(cast = %self.ticket.cast, "cast thread panicked");
        }
        // The queued updates are reported first.
        let _reported = self.reporter.await;
        release_ticket(fleet.as_ref(), &self.ticket).await;
        if let Some(evidence) = self.evidence {
            evidence.finish().await;
        }
    }
}

/// Returns what this machine has to do for a claimed cast. Its pages' running time, and its recording, go on
/// where earlier owners left them.
pub(super) fn assignment(data: &DataFolder, cast: &Cast, earlier: Vec<LedgerRow>) -> Assignment {
    let mut spec = cast.spec.clone();
    if let Some(recording) = &mut spec.recording {
        recording.resume = cast.epoch > FIRST_EPOCH;
        for storage in [Some(&mut recording.to), recording.backup.as_mut()].into_iter().flatten() {
            if let Storage::Folder(path) = storage {
                *path = data.resolve(path);
            }
        }
    }
    // The running time of a page that was never shown has not started.
    spec.resumed = cast.epoch > FIRST_EPOCH && cast.live_ms.is_some();
    let epoch = cast.epoch;
    Assignment { epoch, earlier, ..Assignment::new(spec, data.cast_paths(&cast.id)) }
}

/// Releases a cast for the next owner, however long the fleet's storage fails; does nothing if it is closed
/// or owned by another worker.
pub(super) async fn release_ticket(fleet: &dyn Fleet, ticket: &Ticket) {
    let mut pause = MIN_RETRY_DELAY;
    loop {
        match fleet.release(ticket).await {
            Ok(()) | Err(Error::Fenced(_) | Error::CastNotFound(_)) => return,
            Err(error) => {
                let error = crate::chain(&error);
                tracing::warn!(cast = %ticket.cast, error, "cannot release ticket, retrying");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY_DELAY);
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
                FleetUpdate::Ledger(rows) => fleet.put_ledger(&ticket, rows.clone()).await,
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
        if let FleetUpdate::Close { receipt, copies, .. } = report {
            // There is no receipt if nothing was uploaded.
            let _missing = receipt.map(std::fs::remove_file);
            if let Some(copies) = copies {
                fleet_store::clear(&copies).await;
            }
        }
    }
}

/// What the thread of a cast works with.
struct Runner {
    /// Says to other nodes that the cast runs here, until its thread ends.
    _running: RunningCastGuard,
    cast: Cast,
    assignment: Assignment,
    span: CastSpan,
    stop: StopToken,
    changes: Arc<Mutex<Option<ChangeSender>>>,
    lease_end: Arc<Mutex<Option<HostTime>>>,
    usage: Arc<CastUsage>,
    program: PathBuf,
    pool: Option<Arc<Pool>>,
    updates: mpsc::Sender<FleetUpdate>,
    history: Mutex<StatsHistory>,
}

impl Runner {
    fn run(self) {
        let own = self.cast.worker.as_ref().map(|worker| worker.0.as_str());
        let mut nodes: Vec<_> = self.assignment.earlier.iter().filter_map(recording_node).collect();
        nodes.dedup();
        nodes.retain(|node| Some(*node) != own);
        let mut mapper = EventMapper::new(&self.cast).with_earlier_nodes(&nodes);
        if self.cast.epoch > FIRST_EPOCH {
            self.end_if_decided(&mut mapper);
        }
        let mut outcome = if mapper.has_ended() {
            self.usage.page_closed.store(true, Ordering::Release);
            self.finish(&mut mapper)
        } else {
            self.run_process(&mut mapper)
        };
        self.usage.page_closed.store(true, Ordering::Release);
        let deadline = Instant::now() + self.upload_timeout();
        let mut retried = false;
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
            // A process that reported nothing of its recording left it to the next one.
            let is_known = outcome.report.as_ref().is_some_and(|report| report.recording.is_some());
            if (is_known || retried) && !self.wait_before_retry(deadline) {
                return self.close(&outcome, None);
            }
            retried = true;
            outcome = self.finish(&mut mapper);
        }
    }

    fn close(&self, outcome: &Outcome, last: Option<EventKind>) {
        if self.stop.is_abandoned() {
            return;
        }
        let report = outcome.report.as_ref().and_then(|report| serde_json::to_value(report).ok());
        let receipt = self.assignment.paths.receipt.clone();
        // What is not stored yet may still need them.
        let is_stored = is_stored(outcome);
        let copies = self.assignment.store.clone().filter(|_| is_stored).map(Box::new);
        self.send_update(FleetUpdate::Close { last, report, receipt, copies });
    }

    /// Ends a resumed cast that needs no page any more: its stop was requested, its time is over, or its
    /// recording is uploaded.
    fn end_if_decided(&self, mapper: &mut EventMapper) {
        let paths = &self.assignment.paths;
        let has_receipt = paths.receipt.as_ref().is_some_and(|receipt| receipt.exists());
        let stored = self.cast.spec.recording.is_some() && !paths.spool.exists() && has_receipt;
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
        if let Some(evidence) = &self.assignment.paths.evidence {
            process.keep_log(self.cast.id.as_str(), evidence, self.cast.epoch);
        }
        Ok(process)
    }

    fn run_process(&self, mapper: &mut EventMapper) -> Outcome {
        let mut assignment = self.assignment.clone();
        if assignment.spec.resumed {
            assignment.spec.limits.max_time = self.time_left().max(*MAX_TIME_RANGE.start());
        }
        let process = match self.start_process() {
            Ok(process) => process,
            Err(error) => return failed_outcome(&error),
        };
        let changes = process.change_sender();
        if let Some(until) = *self.lease_end.lock().unwrap_or_else(PoisonError::into_inner) {
            // The queue is empty.
            let _sent = changes.send(Change::PublishUntil(until));
        }
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = Some(changes);
        let started: HostTime = process::now();
        process.run(&assignment, started, &self.stop, |event| self.handle_event(mapper, event))
    }

    fn finish(&self, mapper: &mut EventMapper) -> Outcome {
        match self.start_process() {
            Ok(process) => {
                process.finish(&self.assignment, &self.stop, |event| self.handle_event(mapper, event))
            }
            Err(error) => failed_outcome(&error),
        }
    }

    fn handle_event(&self, mapper: &mut EventMapper, cast_event: CastEvent) {
        match &cast_event {
            CastEvent::Snapshot(path, taken) => self.send_snapshot(path, *taken),
            CastEvent::Isolated { is_recording: true } => {
                tracing::warn!(cast = %self.cast.id, "lease expired, cast only records to its spool");
                self.usage.is_isolated.store(true, Ordering::Release);
            }
            CastEvent::Isolated { is_recording: false } => {
                tracing::warn!(cast = %self.cast.id, "lease expired, cast left to the next owner");
                self.stop.abandon();
            }
            CastEvent::Restarted => self.usage.is_isolated.store(false, Ordering::Release),
            CastEvent::Ledger(rows) => {
                let rows = rows.iter().map(|row| self.with_node(row.clone())).collect();
                self.send_update(FleetUpdate::Ledger(rows));
            }
            _ => {}
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
            self.history.lock().unwrap_or_else(PoisonError::into_inner).add(&stats);
            // The statistics of the next second replace these.
            let _queue_full = self.updates.try_send(FleetUpdate::Stats(Box::new(stats)));
        }
    }

    /// Adds the name of the node that recorded a run.
    fn with_node(&self, row: LedgerRow) -> LedgerRow {
        let key = row.key();
        let LedgerRow::Run { run, init, init_segment, .. } = row else { return row };
        let node = if run.epoch == self.cast.epoch {
            self.cast.worker.as_ref().map(|worker| worker.0.clone())
        } else {
            let same = |earlier: &&LedgerRow| earlier.key() == key;
            self.assignment.earlier.iter().find(same).and_then(recording_node).map(str::to_owned)
        };
        LedgerRow::Run { run, init, node, init_segment }
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

    /// Returns whether something is left to upload, or what is uploaded is not known.
    fn has_pending_upload(&self, outcome: &Outcome) -> bool {
        let stored = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
        stored.is_none_or(|stored| stored.spool.is_some()) && self.assignment.has_unfinished_recording()
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

/// Returns the node that recorded the run of this row.
fn recording_node(row: &LedgerRow) -> Option<&str> {
    match row {
        LedgerRow::Run { node, .. } => node.as_deref(),
        _ => None,
    }
}

/// Returns whether nothing of the recording is left to store.
fn is_stored(outcome: &Outcome) -> bool {
    let recording = outcome.report.as_ref().and_then(|report| report.recording.as_ref());
    recording.is_none_or(|recording| recording.spool.is_none())
}

fn failed_outcome(error: &process::Error) -> Outcome {
    let message = crate::chain(error);
    Outcome { report: None, failure: Some(FailureInfo::new(crate::cast::FailureKind::Unexpected, message)) }
}
