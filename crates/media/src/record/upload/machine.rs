//! Decides what the uploader does next: which task, when to retry, when to use the backup, and when
//! everything is done. Sans-IO: the [`Uploader`](super::uploader::Uploader) feeds it inputs and carries out
//! its outputs.

use std::collections::VecDeque;
use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_core::backoff::exponential;
use pagecast_core::ledger::LedgerRow;

use super::State;
use super::backoff::Backoff;
use super::ledger::{Ledger, Task};
use crate::record::manifest::RecordedFile;
use crate::record::playlist::PlaylistState;
use crate::record::splitter::FileSegments;
use crate::record::spool::{RecordedEntry, StoredFile, UploadEntry};
use crate::store::ErrorClass;

/// Jobs in flight at a time: enough to hide the latency of small segments, few enough for the memory of
/// parts.
const MAX_CONCURRENT_JOBS: usize = 4;
/// Rate limit of storing the playlist of the whole recording, in bytes per second, as it only grows.
const PLAYLIST_BYTES_PER_S: usize = 10_000;
/// Pauses of a task that fails because of its own file: half of the first one, and the longest.
const TASK_BACKOFF: Duration = Duration::from_secs(2);
const MAX_TASK_BACKOFF: Duration = Duration::from_secs(60);
/// Pause after an error of the spool, which usually needs an operator.
const SPOOL_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobError {
    pub(super) class: ErrorClass,
    pub(super) message: String,
    /// Whether a segment of an earlier owner could not be read, which says nothing about the storage.
    is_fetch: bool,
}

impl JobError {
    pub(super) fn new(class: ErrorClass, message: String) -> Self {
        Self { class, message, is_fetch: false }
    }

    /// A failure to read a segment of an earlier owner.
    pub(super) fn of_fetch(class: ErrorClass, message: String) -> Self {
        Self { class, message, is_fetch: true }
    }

    /// Whether only this task failed, so that others can still be carried out.
    fn is_of_task(&self) -> bool {
        self.is_fetch || matches!(self.class, ErrorClass::Local | ErrorClass::Permanent)
    }
}

/// An input of the [`Machine`].
#[derive(Debug)]
pub(super) enum Input {
    /// An entry of the upload log, from an earlier process. Comes before all recorded entries.
    Uploaded(UploadEntry),
    /// A new entry of the recorded log. `fits`: a segment has the decoder configuration of the previous one.
    Recorded { entry: RecordedEntry, fits: bool },
    /// Nothing more will be recorded.
    EndOfRecording,
    /// The logs were read, or could not be.
    SpoolRead(Result<(), JobError>),
    /// A problem to report that changes nothing else.
    Problem(JobError),
    /// A job has ended.
    Ended { job: Job, result: Result<Option<RecordedFile>, JobError> },
    /// An assembled file is not in the spool, so its upload cannot start.
    FileMissing(FileSegments),
    /// Segments of earlier owners are not where they were stored.
    SegmentsLost(Vec<u32>),
    /// Nothing is left of what a task should store.
    NothingLeft(Task),
    /// The store of the fleet has confirmed a copy of a segment.
    Copied(u32),
    /// The storage responded to a reachability check, or did not.
    Reachability { answered: bool, on_backup: bool },
    /// The switch to the backup is in the log.
    SwitchedToBackup,
}

/// Work of the uploader that takes time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Job {
    /// Check that the storage works and the recording's names are free.
    Probe,
    /// A task of the ledger.
    Task(Task),
    /// Store the live playlist, which lists so many segments.
    LivePlaylist(usize),
    /// Store the playlist of the whole recording, which lists so many segments.
    FullPlaylist(usize),
    /// Store the final playlists and the manifest, write the receipt and remove the spool.
    Finish,
}

/// An action for the uploader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Start a job; its end is an [`Input::Ended`].
    Start(Job),
    /// Append an entry to the upload log, then remove these files from the spool.
    Log { entry: UploadEntry, discard: Vec<String> },
    /// Send a reachability check.
    CheckReachability,
    /// Log the switch to the backup, then use it.
    SwitchToBackup,
}

/// Where the upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There may be more to upload.
    Uploading,
    /// Everything is stored, and [`Job::Finish`] is running.
    Finishing,
    /// The spool is removed.
    Finished,
}

/// Why nothing can be uploaded until an operator acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    /// Another recording has the same name in the storage.
    NameTaken,
    /// The spool could not be read or written; retried at this time.
    Spool(HostTime),
}

/// A task that failed because of its own file, while the storage works.
#[derive(Debug)]
struct TaskRetry {
    task: Task,
    attempts: u32,
    /// Whether it will fail until an operator acts.
    needs_operator: bool,
    /// `None` while it is running again.
    retry_at: Option<HostTime>,
}

/// The playlists in the storage.
#[derive(Debug, Default)]
struct StoredPlaylists {
    live_segments: usize,
    full_segments: usize,
    /// When the full playlist may be stored again.
    full_due: Option<HostTime>,
    in_flight: bool,
}

/// The state machine of an upload.
#[derive(Debug)]
pub(super) struct Machine {
    ledger: Ledger,
    backoff: Backoff,
    phase: Phase,
    blocked: Option<Blocked>,
    retries: Vec<TaskRetry>,
    playlists: StoredPlaylists,
    /// Jobs in flight.
    in_flight: usize,
    check_in_flight: bool,
    probe_pending: bool,
    has_backup: bool,
    on_backup: bool,
    log: VecDeque<Output>,
    problem: Option<String>,
}

impl Machine {
    /// A machine that has done nothing yet. `probe`: check the storage first, at the same time as uploading.
    pub(super) fn new(ledger: Ledger, backoff: Backoff, probe: bool, has_backup: bool) -> Self {
        Self {
            ledger,
            backoff,
            phase: Phase::Uploading,
            blocked: None,
            retries: Vec::new(),
            playlists: StoredPlaylists::default(),
            in_flight: 0,
            check_in_flight: false,
            probe_pending: probe,
            has_backup,
            on_backup: false,
            log: VecDeque::new(),
            problem: None,
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether rows of the fleet's ledger have changed.
    pub(super) fn has_changed_rows(&self) -> bool {
        self.ledger.has_changed_rows()
    }

    /// Takes at most `max` changed rows of the fleet's ledger.
    pub(super) fn take_changed_rows(&mut self, max: usize) -> Vec<LedgerRow> {
        self.ledger.take_changed_rows(max)
    }

    /// Whether everything is stored and the spool is removed.
    pub(super) fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Whether the backup is in use.
    pub(super) fn on_backup(&self) -> bool {
        self.on_backup
    }

    /// The last error, if it is not resolved.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The state to report.
    pub(super) fn state(&self, now: HostTime) -> State {
        // Everything that is left needs an operator.
        let failed = self.retries.iter().filter(|retry| retry.needs_operator).count();
        let only_retries = failed > 0 && self.ledger.pending() == failed;
        if self.blocked.is_some() || only_retries { State::Failed } else { self.backoff.state(now) }
    }

    /// Since when nothing could be stored, if that has lasted some seconds.
    pub(super) fn outage_since(&self, now: HostTime) -> Option<HostTime> {
        self.backoff.outage_since(now)
    }

    pub(super) fn handle(&mut self, now: HostTime, input: Input) {
        match input {
            Input::Uploaded(entry) => {
                if entry == UploadEntry::SwitchedToBackup {
                    self.switch_to_backup();
                }
                self.ledger.apply_upload_entry(entry);
            }
            Input::Recorded { entry, fits } => self.ledger.apply_recorded_entry(entry, fits),
            Input::EndOfRecording => self.ledger.end_input(),
            Input::SpoolRead(Ok(())) => {}
            Input::SpoolRead(Err(error)) => self.on_spool_error(now, error),
            Input::Problem(error) => self.problem = Some(error.message),
            Input::Ended { job, result } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.on_job_ended(now, job, result);
            }
            Input::FileMissing(segments) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.take_retry(Task::File(segments.index));
                self.ledger.reassemble(segments);
            }
            Input::SegmentsLost(indexes) => self.ledger.mark_lost(&indexes),
            Input::NothingLeft(task) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.take_retry(task);
                self.ledger.drop_task(task);
            }
            Input::Copied(index) => {
                if let Some(name) = self.ledger.mark_copied(index) {
                    let entry = UploadEntry::Copied { name };
                    self.log.push_back(Output::Log { entry, discard: Vec::new() });
                }
            }
            Input::Reachability { answered, on_backup } if on_backup == self.on_backup => {
                self.check_in_flight = false;
                self.backoff.on_check_result(now, answered);
            }
            // A late response of the first storage.
            Input::Reachability { .. } => {}
            Input::SwitchedToBackup => {
                self.switch_to_backup();
                self.ledger.restart_uploads();
            }
        }
    }

    /// The next thing to do now; `None` until [`Self::deadline`] or the next input.
    pub(super) fn poll(&mut self, now: HostTime) -> Option<Output> {
        if let Some(Blocked::Spool(retry_at)) = self.blocked {
            if retry_at > now {
                return None;
            }
            self.blocked = None;
        }
        if let Some(output) = self.log.pop_front() {
            return Some(output);
        }
        if std::mem::take(&mut self.probe_pending) {
            self.in_flight += 1;
            return Some(Output::Start(Job::Probe));
        }
        if !self.check_in_flight && self.backoff.check_at().is_some_and(|at| at <= now) {
            self.check_in_flight = true;
            return Some(Output::CheckReachability);
        }
        if self.should_fail_over(now) {
            return Some(Output::SwitchToBackup);
        }
        if self.phase != Phase::Uploading {
            return None;
        }
        let job = self.next_job(now)?;
        self.in_flight += 1;
        Some(Output::Start(job))
    }

    /// When [`Self::poll`] may have something new to do without an input.
    pub(super) fn deadline(&self) -> Option<HostTime> {
        if let Some(Blocked::Spool(retry_at)) = self.blocked {
            return Some(retry_at);
        }
        let retries = self.retries.iter().filter_map(|retry| retry.retry_at);
        let storage = self.backoff.retry_at().filter(|_| self.in_flight == 0);
        let check = self.backoff.check_at().filter(|_| !self.check_in_flight);
        retries.chain(storage).chain(check).min()
    }

    fn next_job(&mut self, now: HostTime) -> Option<Job> {
        let may_attempt =
            self.backoff.may_attempt(now, self.in_flight) && self.blocked != Some(Blocked::NameTaken);
        if may_attempt && self.in_flight < MAX_CONCURRENT_JOBS {
            if let Some(retry) = self.retries.iter_mut().find(|r| r.retry_at.is_some_and(|at| at <= now)) {
                retry.retry_at = None;
                return Some(Job::Task(retry.task));
            }
            if let Some(task) = self.ledger.next_task() {
                return Some(Job::Task(task));
            }
        }
        let idle = self.ledger.is_done() && !self.playlists.in_flight;
        // An empty recording needs no storage.
        if idle && (may_attempt || self.ledger.is_empty()) {
            self.phase = Phase::Finishing;
            return Some(Job::Finish);
        }
        if may_attempt { self.next_playlist(now) } else { None }
    }

    /// The playlist that has grown since it was stored, if one has.
    fn next_playlist(&mut self, now: HostTime) -> Option<Job> {
        let listed = self.ledger.growing_playlist_segments().filter(|_| !self.playlists.in_flight)?;
        if self.playlists.live_segments != listed {
            self.playlists.in_flight = true;
            return Some(Job::LivePlaylist(listed));
        }
        if self.playlists.full_segments != listed && self.playlists.full_due.is_none_or(|at| at <= now) {
            let length = self.ledger.whole_playlist(PlaylistState::Running).len();
            let pause = Duration::from_secs((length / PLAYLIST_BYTES_PER_S) as u64);
            self.playlists.full_due = Some(now + pause);
            self.playlists.in_flight = true;
            return Some(Job::FullPlaylist(listed));
        }
        None
    }

    fn on_job_ended(&mut self, now: HostTime, job: Job, result: Result<Option<RecordedFile>, JobError>) {
        match (job, result) {
            (Job::Task(task), result) => self.on_task_ended(now, task, result),
            (Job::Finish, Ok(_)) => self.phase = Phase::Finished,
            (Job::Finish, Err(error)) => {
                self.phase = Phase::Uploading;
                self.on_error(now, error);
            }
            (Job::Probe, Ok(_)) => {}
            (Job::Probe, Err(error)) => {
                if error.class == ErrorClass::Permanent {
                    self.blocked = Some(Blocked::NameTaken);
                }
                self.on_error(now, error);
            }
            (Job::LivePlaylist(listed), Ok(_)) => {
                self.playlists.in_flight = false;
                self.playlists.live_segments = listed;
                self.backoff.on_success();
            }
            (Job::FullPlaylist(listed), Ok(_)) => {
                self.playlists.in_flight = false;
                self.playlists.full_segments = listed;
            }
            (Job::LivePlaylist(_) | Job::FullPlaylist(_), Err(error)) => {
                self.playlists.in_flight = false;
                self.on_error(now, error);
            }
        }
    }

    fn on_task_ended(&mut self, now: HostTime, task: Task, result: Result<Option<RecordedFile>, JobError>) {
        let attempts = self.take_retry(task);
        let file = match result {
            Ok(file) => file,
            // The file itself is the problem, so others can still be stored.
            Err(error) if error.is_of_task() => {
                let (attempts, needs_operator) = (attempts + 1, error.class != ErrorClass::Transient);
                let retry_at = Some(now + exponential(TASK_BACKOFF, MAX_TASK_BACKOFF, attempts));
                self.retries.push(TaskRetry { task, attempts, needs_operator, retry_at });
                tracing::warn!(error = error.message, "upload of one file failed, retrying later");
                self.problem = Some(error.message);
                return;
            }
            Err(error) => {
                self.ledger.requeue(task);
                return self.on_error(now, error);
            }
        };
        let entry = if let Task::Assemble(segments) = task {
            UploadEntry::Assembled(segments)
        } else {
            self.backoff.on_success();
            if self.retries.is_empty() {
                self.problem = None;
            }
            UploadEntry::Stored(StoredFile { name: self.ledger.object_name(task), file: file.clone() })
        };
        let discard = self.ledger.complete_task(task, file);
        self.log.push_back(Output::Log { entry, discard });
    }

    /// Removes the retry of a task and returns its attempts so far.
    fn take_retry(&mut self, task: Task) -> u32 {
        let position = self.retries.iter().position(|retry| retry.task == task);
        position.map_or(0, |at| self.retries.swap_remove(at).attempts)
    }

    fn on_error(&mut self, now: HostTime, error: JobError) {
        if error.class == ErrorClass::Local {
            return self.on_spool_error(now, error);
        }
        let before = self.backoff.state(now);
        // Spreads the retries of many uploads that failed at the same time.
        let jitter = (now.0.unsigned_abs() % 1000) as f64 / 1000.0;
        self.backoff.on_failure(now, error.class, jitter);
        if before != self.backoff.state(now) {
            tracing::warn!(error = error.message, "upload failed, retrying");
        }
        self.problem = Some(error.message);
    }

    /// An error of the local disk, which does not count against the storage.
    fn on_spool_error(&mut self, now: HostTime, error: JobError) {
        tracing::debug!(error = error.message, "spool not readable, upload waits");
        if self.blocked != Some(Blocked::NameTaken) {
            self.blocked = Some(Blocked::Spool(now + SPOOL_RETRY_INTERVAL));
        }
        self.problem = Some(error.message);
    }

    /// Whether the first storage has failed for long enough to be given up.
    fn should_fail_over(&self, now: HostTime) -> bool {
        self.has_backup
            && !self.on_backup
            && self.in_flight == 0
            && self.backoff.state(now) != State::Uploading
    }

    fn switch_to_backup(&mut self) {
        if !self.has_backup {
            return;
        }
        self.on_backup = true;
        self.backoff.on_success();
        self.check_in_flight = false;
        self.retries.clear();
        self.blocked = None;
        self.playlists = StoredPlaylists::default();
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::MediaTime;
    use pagecast_core::ledger::{Run, Segment};
    use pagecast_core::spec::{Bucket, Format, Recording, Storage, StorageService};

    use super::*;
    use crate::record::file_names::FileNames;

    fn at(seconds: u64) -> HostTime {
        HostTime(0) + Duration::from_secs(seconds)
    }

    fn machine(has_backup: bool) -> Machine {
        machine_with_probe(false, has_backup)
    }

    fn machine_with_probe(probe: bool, has_backup: bool) -> Machine {
        let to = Storage::Bucket(Bucket::new(StorageService::S3, "rec"));
        let recording = Recording { format: Format::Both, ..Recording::new("rec", to) };
        let ledger = Ledger::new(&recording, FileNames::new("rec"), &crate::store::Layout::Folder);
        let backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1));
        let mut machine = Machine::new(ledger, backoff, probe, has_backup);
        let run = Run { index: 0, epoch: 1, unix_ms: 0, tick: MediaTime::ZERO };
        machine.handle(at(0), Input::Recorded { entry: RecordedEntry::Run(run), fits: true });
        machine
    }

    fn record_segment(machine: &mut Machine, index: u32) {
        let duration = MediaTime::from_index(4, 1);
        let start = MediaTime::from_index(4 * i64::from(index), 1);
        let segment = Segment { index, run: 0, epoch: 1, start, duration, bytes: 1000 };
        machine.handle(at(0), Input::Recorded { entry: RecordedEntry::Segment(segment), fits: true });
    }

    /// Everything that the machine wants to do now, as names of jobs.
    fn poll_all(machine: &mut Machine, now: HostTime) -> Vec<Output> {
        std::iter::from_fn(|| machine.poll(now)).collect()
    }

    fn jobs(outputs: Vec<Output>) -> Vec<Job> {
        let job = |output| if let Output::Start(job) = output { Some(job) } else { None };
        outputs.into_iter().filter_map(job).collect()
    }

    fn end(machine: &mut Machine, now: HostTime, job: Job, result: Result<(), ErrorClass>) {
        let error = |class| JobError::new(class, "failed".into());
        machine.handle(now, Input::Ended { job, result: result.map(|()| None).map_err(error) });
    }

    /// Completes all jobs until there is nothing to do; all jobs that ran.
    fn run_to_end(machine: &mut Machine, now: HostTime) -> Vec<Job> {
        let mut all = Vec::new();
        loop {
            let started = jobs(poll_all(machine, now));
            if started.is_empty() {
                return all;
            }
            for job in started {
                end(machine, now, job.clone(), Ok(()));
                all.push(job);
            }
        }
    }

    #[test]
    fn segments_are_uploaded_before_playlists_and_everything_before_the_finish() {
        let mut machine = machine(false);
        record_segment(&mut machine, 0);
        let first = jobs(poll_all(&mut machine, at(0)));
        assert_eq!(first, [Job::Task(Task::Init(0)), Job::Task(Task::Segment(0))]);
        for job in first {
            end(&mut machine, at(0), job, Ok(()));
        }
        assert_eq!(run_to_end(&mut machine, at(0)), [Job::LivePlaylist(1), Job::FullPlaylist(1)]);
        machine.handle(at(1), Input::EndOfRecording);
        let rest = run_to_end(&mut machine, at(1));
        let segments = FileSegments { index: 0, first: 0, last: 0 };
        assert_eq!(rest, [Job::Task(Task::Assemble(segments)), Job::Task(Task::File(0)), Job::Finish]);
        assert!(machine.is_finished() && machine.poll(at(2)).is_none());
    }

    #[test]
    fn a_stored_file_is_logged_before_its_segments_are_discarded() {
        let mut machine = machine(false);
        record_segment(&mut machine, 0);
        machine.handle(at(0), Input::EndOfRecording);
        let mut logged = Vec::new();
        loop {
            let outputs = poll_all(&mut machine, at(0));
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                match output {
                    Output::Start(job) => end(&mut machine, at(0), job, Ok(())),
                    Output::Log { discard, .. } => logged.push(discard),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(logged.last().unwrap(), &["rec_0.m4s", "rec_0.mp4"]);
    }

    #[test]
    fn an_outage_pauses_everything_and_one_job_at_a_time_tests_the_storage() {
        let mut machine = machine(false);
        (0..6).for_each(|index| record_segment(&mut machine, index));
        let started = jobs(poll_all(&mut machine, at(0)));
        assert_eq!(started.len(), MAX_CONCURRENT_JOBS);
        for job in started {
            end(&mut machine, at(0), job, Err(ErrorClass::Transient));
        }
        assert_eq!((machine.poll(at(0)), machine.state(at(0))), (None, State::Uploading));
        let retry_at = machine.deadline().unwrap();
        assert!(retry_at <= at(2));
        assert_eq!(jobs(poll_all(&mut machine, retry_at)).len(), 1);
        assert_eq!(machine.state(at(61)), State::Stuck);
        assert_eq!(machine.problem(), Some("failed"));
    }

    #[test]
    fn a_broken_file_does_not_stop_the_others() {
        let mut machine = machine(false);
        (0..2).for_each(|index| record_segment(&mut machine, index));
        for job in jobs(poll_all(&mut machine, at(0))) {
            let failed = job == Job::Task(Task::Segment(0));
            let result = if failed { Err(ErrorClass::Local) } else { Ok(()) };
            end(&mut machine, at(0), job, result);
        }
        poll_all(&mut machine, at(0));
        assert_eq!(machine.state(at(0)), State::Failed, "only the broken file is left");
        assert_eq!(machine.deadline(), Some(at(4)));
        assert!(run_to_end(&mut machine, at(4)).contains(&Job::Task(Task::Segment(0))));
        assert_eq!((machine.state(at(4)), machine.problem()), (State::Uploading, None));
    }

    #[test]
    fn a_storage_that_stays_away_is_replaced_by_the_backup() {
        let mut machine = machine(true);
        record_segment(&mut machine, 0);
        for job in jobs(poll_all(&mut machine, at(0))) {
            end(&mut machine, at(0), job, Err(ErrorClass::Denied));
        }
        assert_eq!(machine.poll(at(0)), Some(Output::SwitchToBackup));
        machine.handle(at(0), Input::SwitchedToBackup);
        assert!(machine.on_backup() && machine.state(at(0)) == State::Uploading);
        assert_eq!(run_to_end(&mut machine, at(0)).first(), Some(&Job::Task(Task::Init(0))));
    }

    #[test]
    fn a_taken_name_and_a_broken_spool_need_an_operator() {
        let mut taken = machine_with_probe(true, false);
        assert_eq!(taken.poll(at(0)), Some(Output::Start(Job::Probe)));
        end(&mut taken, at(0), Job::Probe, Err(ErrorClass::Permanent));
        record_segment(&mut taken, 0);
        assert!(jobs(poll_all(&mut taken, at(3600))).is_empty() && taken.state(at(3600)) == State::Failed);

        let mut broken = machine(false);
        record_segment(&mut broken, 0);
        let error = JobError::new(ErrorClass::Local, "unreadable".into());
        broken.handle(at(0), Input::SpoolRead(Err(error)));
        assert_eq!((broken.poll(at(0)), broken.state(at(0))), (None, State::Failed));
        assert_eq!(broken.deadline(), Some(at(5)));
        assert!(!run_to_end(&mut broken, at(5)).is_empty() && broken.state(at(5)) == State::Uploading);
    }

    #[test]
    fn nothing_recorded_needs_no_storage() {
        let mut machine = machine(false);
        machine.handle(at(0), Input::EndOfRecording);
        assert_eq!(run_to_end(&mut machine, at(0)), [Job::Finish]);
    }
}
