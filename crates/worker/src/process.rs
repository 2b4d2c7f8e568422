//! One process for each cast: the supervisor starts `pagecast run-cast`, sends it the description, receives
//! its events, asks it to stop, and kills it if it does not. A crash in a codec takes one cast with it.
//!
//! Both sides exchange lines of JSON: [`ProcessCommand`]s on the cast's standard input, [`Message`]s on its
//! standard output. When its input ends, the cast ends: nothing runs without a supervisor.

mod cgroup;
mod child_main;
pub(crate) mod log_forwarder;
mod pool;
mod supervisor;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::cast::LoadError;
use pagecast_core::dry_run::DryRunReport;
use pagecast_core::{CastSpec, HostTime};
use pagecast_page::{child, clock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

pub use crate::cast::ChangeSender;
use crate::cast::{
    Assignment, CastEvent, Change, ChangeReceiver, FailureKind, Report, StopToken, change_queue,
};
use crate::dry_run::{DryRunError, DryRunOutcome};
use cgroup::Cgroup;
pub use child_main::run as run_inside;
use log_forwarder::LogForwarder;
pub use pool::Pool;
use supervisor::Supervisor;

/// Longest line that either side accepts, in bytes: far above the largest description, which holds a style
/// sheet and a script of 1 MiB each.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;
/// Messages queued for the supervisor: half a minute of progress and room status. When full, the cast waits.
const MAX_QUEUED_MESSAGES: usize = 64;
/// Longest time for a process to start its browser, on a machine that starts many at once.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the supervisor checks for stop requests and silence.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Longest time for a cast to stop, uploads aside: the index of a recording of a day is moved to its front.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// How often the process of a cast sends a heartbeat.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest silence of a process before it is killed as hanging. Ten heartbeats: on a machine with four times
/// more work than cores, a thread that needs microseconds a second was never seen to wait for half as long.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest dry run: it ends by itself before, unless the browser does not answer.
const DRY_RUN_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest time for a process that has reported its outcome to exit: it has nothing left to do.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A command of the supervisor to the cast's process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ProcessCommand {
    /// Start a browser and keep it ready for a cast like this one.
    WarmUp(Box<CastSpec>),
    /// Run this cast; the time is when the user requested it.
    Run(Box<Assignment>, i64),
    /// Finish and upload what an earlier process recorded for this cast.
    Finish(Box<Assignment>),
    /// Open the page of this cast without outputs, and report what it is like.
    DryRun(Box<CastSpec>),
    /// Apply this change to the running cast.
    Change(Change),
    /// Stop the cast.
    Stop,
    /// Exit at once when the commands end: another process will resume the cast.
    ExitOnDisconnect,
}

/// A message of the cast's process to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    /// The browser is ready.
    BrowserReady,
    /// The process runs. Sent every [`HEARTBEAT_INTERVAL`]; `idle_ms` is the time since the last turn of its
    /// main loop.
    Heartbeat { idle_ms: u64 },
    /// Something happened to the cast.
    Event(CastEvent),
    /// The cast is over: the last message.
    Done(Box<Outcome>),
    /// The dry run is over: the last message.
    DryRunDone(Box<DryRunOutcome>),
}

/// The result of a cast.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Report of the cast, if it got as far as its outputs.
    pub report: Option<Report>,
    /// Why the cast failed, if it did.
    pub failure: Option<FailureInfo>,
}

/// Why a cast failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureInfo {
    /// What kind of thing failed.
    pub kind: FailureKind,
    /// What was tried and why it failed, for people.
    pub message: String,
    /// Why the page could not be loaded, if that is the failure. Each front end adds its own advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<LoadError>,
}

impl FailureInfo {
    /// A failure with this message and no load error.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }
}

/// Why a process for a cast is not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process could not be started.
    #[error("cannot start a process for the cast")]
    Start(#[source] std::io::Error),
    /// The process ended before it was given a cast.
    #[error("the cast's process ended before the cast began ({0})")]
    Ended(String),
}

/// When a process last sent something, shared with the thread that reads its messages.
#[derive(Debug)]
struct Liveness {
    /// Lines received so far.
    lines: AtomicU64,
    /// Time of the last line, on the clock of [`now`].
    last_line_at: AtomicI64,
    /// Time since the last turn of the process's main loop, in milliseconds, by the last heartbeat.
    idle_ms: AtomicU64,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { lines: AtomicU64::new(0), last_line_at: AtomicI64::new(now().0), idle_ms: AtomicU64::new(0) }
    }
}

impl Liveness {
    fn record_line(&self) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.last_line_at.store(now().0, Ordering::Relaxed);
    }

    fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms.load(Ordering::Relaxed))
    }

    fn is_recent(&self) -> bool {
        now().since(HostTime(self.last_line_at.load(Ordering::Relaxed))) < HEARTBEAT_TIMEOUT
    }
}

/// The process of one cast. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Message>,
    liveness: Arc<Liveness>,
    changes: (ChangeSender, ChangeReceiver),
    reader: Option<JoinHandle<()>>,
    cgroup: Option<Cgroup>,
    exit_on_disconnect: bool,
    /// Forwards the process's log, unless it writes to our own standard error.
    log_forwarder: Option<LogForwarder>,
}

impl Process {
    /// Starts a process that waits for its cast. The program is `pagecast`, usually the caller itself.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(program: &Path) -> Result<Self, Error> {
        Self::spawn(program, None)
    }

    /// Starts a process whose log is forwarded into ours, line by line, instead of going to standard error.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start_with_log(program: &Path) -> Result<Self, Error> {
        Self::spawn(program, Some(LogForwarder::default()))
    }

    fn spawn(program: &Path, log_forwarder: Option<LogForwarder>) -> Result<Self, Error> {
        let forwards_log = log_forwarder.is_some();
        let arguments: &[&str] = if forwards_log { &["run-cast", "--forward-log"] } else { &["run-cast"] };
        let mut child = child::spawn_cast(program, arguments, forwards_log).map_err(Error::Start)?;
        if let (Some(forwarder), Some(stderr)) = (&log_forwarder, child.stderr.take()) {
            forwarder.spawn(stderr).map_err(Error::Start)?;
        }
        // The process starts nothing before its first command, so everything it starts is in the group.
        let cgroup = Cgroup::enter(child.id());
        let missing = || Error::Start(std::io::ErrorKind::BrokenPipe.into());
        let (commands, lines) = (child.stdin.take(), child.stdout.take().ok_or_else(missing)?);
        if let Some(commands) = &commands {
            // A process that hangs reads nothing, and must not block us.
            let flags = fcntl_getfl(commands).map_err(|e| Error::Start(e.into()))?;
            fcntl_setfl(commands, flags | OFlags::NONBLOCK).map_err(|e| Error::Start(e.into()))?;
        }
        let (message_sender, messages) = sync_channel(MAX_QUEUED_MESSAGES);
        let liveness = Arc::new(Liveness::default());
        let reader = std::thread::Builder::new()
            .name("cast-messages".into())
            .spawn({
                let liveness = Arc::clone(&liveness);
                move || read_messages(lines, &message_sender, &liveness)
            })
            .map_err(Error::Start)?;
        let changes = change_queue();
        Ok(Self {
            program: program.to_owned(),
            child,
            commands,
            messages,
            liveness,
            changes,
            reader: Some(reader),
            cgroup,
            exit_on_disconnect: false,
            log_forwarder,
        })
    }

    /// Also writes the log of a process [started with its log](Self::start_with_log) to a file beside the
    /// cast's evidence, for the owner of this epoch.
    pub fn keep_log(&self, cast: &str, evidence: &Path, epoch: u64) {
        if let Some(forwarder) = &self.log_forwarder {
            forwarder.open_file(cast, &log_forwarder::log_path(evidence, epoch));
        }
    }

    /// Makes the cast exit at once when its supervisor dies, as if it were killed, instead of finishing and
    /// uploading its recording: for supervisors that restart and resume the cast.
    #[must_use]
    pub fn exiting_on_disconnect(mut self) -> Self {
        self.set_exit_on_disconnect();
        self
    }

    fn set_exit_on_disconnect(&mut self) {
        self.exit_on_disconnect = true;
        self.send_command(&ProcessCommand::ExitOnDisconnect);
    }

    /// Finishes and uploads what an earlier process recorded for this cast.
    pub fn finish(
        self,
        assignment: &Assignment,
        stop: &StopToken,
        on_event: impl FnMut(CastEvent),
    ) -> Outcome {
        Supervisor::new(assignment, now(), stop, on_event).finish(self)
    }

    /// Starts a browser for a cast like this one, and waits until it is ready.
    ///
    /// # Errors
    /// [`Error::Ended`] if the browser could not be started in time.
    pub fn warm_up(&mut self, spec: &CastSpec) -> Result<(), Error> {
        self.send_command(&ProcessCommand::WarmUp(Box::new(spec.clone())));
        match self.messages.recv_timeout(WARM_UP_TIMEOUT) {
            Ok(Message::BrowserReady) => Ok(()),
            _ => Err(Error::Ended(self.kill_and_wait())),
        }
    }

    /// Returns a sender of changes, for another thread to use while the cast runs.
    #[must_use]
    pub fn change_sender(&self) -> ChangeSender {
        self.changes.0.clone()
    }

    /// Runs the cast until it ends or `stop` requests it. `started` is when the user requested the cast.
    pub fn run(
        self,
        assignment: &Assignment,
        started: HostTime,
        stop: &StopToken,
        on_event: impl FnMut(CastEvent),
    ) -> Outcome {
        Supervisor::new(assignment, started, stop, on_event).run(self)
    }

    /// Opens the page of this cast without outputs, and returns what it is like, after 25 s at most.
    #[must_use]
    pub fn dry_run(mut self, spec: &CastSpec) -> DryRunOutcome {
        if let Some(group) = &self.cgroup {
            group.set_limits(&spec.limits);
        }
        // Nothing is left to finish if the caller dies.
        self.set_exit_on_disconnect();
        self.send_command(&ProcessCommand::DryRun(Box::new(spec.clone())));
        let deadline = Instant::now() + DRY_RUN_TIMEOUT;
        let error = loop {
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::DryRunDone(outcome)) => {
                    self.wait_for_exit();
                    return *outcome;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => break DryRunError::Unresponsive,
                Err(RecvTimeoutError::Disconnected) => break DryRunError::Ended(self.kill_and_wait()),
            }
        };
        let report = DryRunReport { url: spec.source.url.to_string(), ..DryRunReport::default() };
        DryRunOutcome::failed(report, &error)
    }

    /// Replaces the dead process by a new one; returns false if that fails.
    fn restart(&mut self) -> bool {
        match Self::spawn(&self.program, self.log_forwarder.clone()) {
            Ok(mut next) => {
                // The senders of changes are not aware of the restart.
                std::mem::swap(&mut next.changes, &mut self.changes);
                if self.exit_on_disconnect {
                    next.set_exit_on_disconnect();
                }
                *self = next;
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot restart cast process");
                false
            }
        }
    }

    /// Returns whether the process still runs and has sent something recently.
    fn is_alive(&self) -> bool {
        !child::has_exited(&self.child) && self.liveness.is_recent()
    }

    fn send_command(&mut self, command: &ProcessCommand) {
        let Ok(mut line) = serde_json::to_vec(command) else { return };
        line.push(b'\n');
        let Some(commands) = &mut self.commands else { return };
        // That a process is gone shows at the end of its messages.
        if write_within(commands, &line, HEARTBEAT_TIMEOUT)
            .is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
        {
            tracing::warn!("cast process does not read commands, killing it");
            self.kill();
        }
    }

    /// Waits for the process, which has nothing left to do, to exit, and kills it if it does not.
    fn wait_for_exit(&mut self) {
        self.commands = None;
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while !child::has_exited(&self.child) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill_and_wait();
    }

    /// Kills the process if it still runs; returns its exit status.
    fn kill_and_wait(&mut self) -> String {
        self.kill();
        self.child.wait().map_or_else(|e| e.to_string(), |status: ExitStatus| status.to_string())
    }

    fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Fails if all processes of the group are gone already.
            let _gone = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "waiting for cast process failed");
        }
        // A reader blocked on the full queue must see that the receiver is gone.
        self.messages = sync_channel(0).1;
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("cast-messages thread panicked");
        }
    }
}

/// Writes all bytes to a non-blocking pipe, waiting for its reader up to `timeout` at a time.
fn write_within(mut pipe: &ChildStdin, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match pipe.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
                let mut fds = [PollFd::new(pipe, PollFlags::OUT)];
                match poll(&mut fds, Some(&timeout)) {
                    Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads messages until the process ends, its output is malformed, or the receiver is gone.
fn read_messages(lines: impl Read, messages: &SyncSender<Message>, liveness: &Liveness) {
    let mut lines = BufReader::new(lines);
    while let Some(line) = next_line(&mut lines) {
        liveness.record_line();
        match serde_json::from_slice(&line) {
            // Heartbeats bypass the queue: a busy supervisor must not take its casts for dead.
            Ok(Message::Heartbeat { idle_ms }) => liveness.idle_ms.store(idle_ms, Ordering::Relaxed),
            Ok(message) => {
                // The supervisor dropped the process.
                if messages.send(message).is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!(%error, "malformed message from cast process"),
        }
    }
}

/// Reads the next line; `None` at the end, or if the line is too long.
fn next_line(lines: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = lines.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).ok()?;
    (read > 0 && line.pop() == Some(b'\n')).then_some(line)
}

/// Sets the range of user ids for the browsers of casts started from now on, one id for each cast, if we are
/// root. Call once at most; the default is what the environment names, or the usual range.
pub fn use_browser_uids(first: u32, last: u32) {
    child::set_browser_uid_range(first, last);
}

/// Hides a folder, the service's data, from the browsers of all casts started from now on.
pub fn hide_from_browsers(folder: &Path) {
    child::set_private_folder(folder);
}

/// Removes what casts left whose processes were all killed at once. Call when a supervisor starts.
pub fn remove_leftovers() {
    for folder in child::remove_stale_run_folders(Path::new(&std::env::temp_dir())) {
        tracing::info!(folder = %folder.display(), "removed leftover folder of an earlier cast");
    }
}

/// Returns the time on the clock of `started` in [`Process::run`].
#[must_use]
pub fn now() -> HostTime {
    clock::now()
}
