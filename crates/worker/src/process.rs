//! One cast, one process: the supervisor starts `pagecast run-cast`, hands it the description, hears how it
//! gets on, asks it to stop, and kills it if it does not. A crash in a codec takes one cast with it.
//!
//! The two speak in lines of JSON: [`ProcessCommand`]s on the cast's standard input, [`WebhookMessage`]s on its standard
//! output. When its input ends, the cast ends: nothing runs without somebody who watches it.

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
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::cast::LoadError;
use pagecast_core::{CastSpec, HostTime};
use pagecast_page::{child, clock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::cast::{CastEvent, Change, FailureKind, Report, StopToken};
use cgroup::Cgroup;
pub use child_main::run as run_inside;
use log_forwarder::LogForwarder;
pub use pool::Pool;
use supervisor::Supervisor;

/// Longest line that either side takes.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;
/// Messages that wait for the supervisor. Full: the cast waits.
const MAX_QUEUED_MESSAGES: usize = 64;
/// Changes that wait for the cast. Full: they are refused.
const MAX_QUEUED_CHANGES: usize = 16;
/// Time for a process to start a browser.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the supervisor looks whether it should stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time for a cast that was asked to stop, beside that for storage: the index of a day's recording is moved
/// to its front.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// How often the process of a cast reports that it runs.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A process that has reported nothing for so long hangs, and is killed. Ten heartbeats: on a machine with
/// four times more work than cores, a thread that needs microseconds a second was never seen to wait for half
/// as long.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a process that has nothing left to do to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the supervisor wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ProcessCommand {
    /// Start a browser and keep it ready for a cast like this one.
    WarmUp(Box<CastSpec>),
    /// Run this; the moment is when the user asked for it.
    Run(Box<CastSpec>, i64),
    /// Finish and store what an earlier process recorded for it.
    Finish(Box<CastSpec>),
    /// Change something about the one that runs.
    Change(Change),
    /// End it.
    Stop,
    /// When the orders end, go at once: somebody will go on.
    ExitOnDisconnect,
}

/// What the cast says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    /// The browser is ready.
    BrowserReady,
    /// The process runs. Sent every [`HEARTBEAT_INTERVAL`]; `idle_ms` is how long ago its main loop last
    /// turned.
    Heartbeat {
        idle_ms: u64,
    },
    Event(CastEvent),
    /// The last message.
    Done(Box<Outcome>),
}

/// What became of a cast.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// What was recorded, if anything was.
    pub report: Option<Report>,
    /// Why the cast ended too early, if it did.
    pub failure: Option<FailureInfo>,
}

/// Why a cast ended too early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureInfo {
    /// What kind of thing failed.
    pub kind: FailureKind,
    /// For people: what was tried and why it failed.
    pub message: String,
    /// Why the page could not be loaded, if that is what failed. Whoever asked is told in its own words what
    /// to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<LoadError>,
}

impl FailureInfo {
    /// For this reason.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }
}

/// Why a cast's process cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be started.
    #[error("cannot start a process for the cast")]
    Start(#[source] std::io::Error),
    /// It ended before it was asked anything.
    #[error("the cast's process ended before the cast began ({0})")]
    Ended(String),
}

/// Changes a cast that runs, or will.
#[derive(Debug, Clone)]
pub struct ChangeSender(SyncSender<Change>);

impl ChangeSender {
    /// Hands on a change; news tell what came of it. False if the cast is over, or has too many to make
    /// already.
    #[must_use]
    pub fn send(&self, change: Change) -> bool {
        self.0.try_send(change).is_ok()
    }
}

/// What the thread that reads a process's messages knows of its life.
#[derive(Debug)]
struct Liveness {
    /// Lines received so far.
    lines: AtomicU64,
    /// When the last one was, on the clock of [`now`].
    last_line_at: AtomicI64,
    /// How long the process's main loop had not turned by the last heartbeat, in milliseconds.
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

/// A process for one cast. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Message>,
    liveness: Arc<Liveness>,
    changes: (SyncSender<Change>, Receiver<Change>),
    reader: Option<JoinHandle<()>>,
    cgroup: Option<Cgroup>,
    exit_on_disconnect: bool,
    /// Where it is heard, if it does not write to our own standard error.
    log_forwarder: Option<LogForwarder>,
}

impl Process {
    /// Starts a process that waits for its cast. The program is `pagecast`, which as a rule is the caller.
    ///
    /// # Errors
    /// [`ErrorBody::Spawn`].
    pub fn start(program: &Path) -> Result<Self, Error> {
        Self::spawn(program, None)
    }

    /// Starts one whose log goes into ours, line by line, rather than past it to standard error.
    ///
    /// # Errors
    /// [`ErrorBody::Spawn`].
    pub fn start_with_log(program: &Path) -> Result<Self, Error> {
        Self::spawn(program, Some(LogForwarder::default()))
    }

    fn spawn(program: &Path, ear: Option<LogForwarder>) -> Result<Self, Error> {
        let arguments: &[&str] = if ear.is_some() { &["run-cast", "--heard"] } else { &["run-cast"] };
        let mut child = child::spawn_cast(program, arguments, ear.is_some()).map_err(Error::Start)?;
        if let (Some(ear), Some(stderr)) = (&ear, child.stderr.take()) {
            ear.spawn(stderr).map_err(Error::Start)?;
        }
        // Before it is told anything it starts nothing, so all that it starts is in the group.
        let cgroup = Cgroup::enter(child.id());
        let missing = || Error::Start(std::io::ErrorKind::BrokenPipe.into());
        let (orders, lines) = (child.stdin.take(), child.stdout.take().ok_or_else(missing)?);
        if let Some(orders) = &orders {
            // A process that hangs reads nothing, and must not make us wait.
            let flags = fcntl_getfl(orders).map_err(|e| Error::Start(e.into()))?;
            fcntl_setfl(orders, flags | OFlags::NONBLOCK).map_err(|e| Error::Start(e.into()))?;
        }
        let (tell, messages) = sync_channel(MAX_QUEUED_MESSAGES);
        let life_signs = Arc::new(Liveness::default());
        let reader = std::thread::Builder::new()
            .name("cast-messages".into())
            .spawn({
                let life_signs = Arc::clone(&life_signs);
                move || read_messages(lines, &tell, &life_signs)
            })
            .map_err(Error::Start)?;
        let changes = sync_channel(MAX_QUEUED_CHANGES);
        Ok(Self {
            program: program.to_owned(),
            child,
            commands: orders,
            messages,
            liveness: life_signs,
            changes,
            reader: Some(reader),
            cgroup,
            exit_on_disconnect: false,
            log_forwarder: ear,
        })
    }

    /// Keeps the log of one that is [heard](Self::start_heard) beside its evidence, under the cast's name.
    pub fn keep_log(&self, cast: &str, evidence: &Path) {
        if let Some(ear) = &self.log_forwarder {
            ear.open_file(cast, &log_forwarder::log_path(evidence));
        }
    }

    /// When its supervisor dies, the cast goes at once, as it would if it were killed, rather than to finish
    /// and store its recording: for supervisors that will be there again, and go on with it.
    #[must_use]
    pub fn exiting_on_disconnect(mut self) -> Self {
        self.set_exit_on_disconnect();
        self
    }

    fn set_exit_on_disconnect(&mut self) {
        self.exit_on_disconnect = true;
        self.send_command(&ProcessCommand::ExitOnDisconnect);
    }

    /// Finishes and stores what an earlier process recorded for this cast.
    pub fn finish(self, spec: &CastSpec, stop: &StopToken, tell: impl FnMut(CastEvent)) -> Outcome {
        Supervisor::new(spec, now(), stop, tell).finish(self)
    }

    /// Starts a browser for a cast like this one, and waits until it is ready.
    ///
    /// # Errors
    /// [`ErrorBody::FinishedOutputs`] if it cannot be.
    pub fn warm_up(&mut self, spec: &CastSpec) -> Result<(), Error> {
        self.send_command(&ProcessCommand::WarmUp(Box::new(spec.clone())));
        match self.messages.recv_timeout(WARM_UP_TIMEOUT) {
            Ok(Message::BrowserReady) => Ok(()),
            _ => Err(Error::Ended(self.kill_and_wait())),
        }
    }

    /// Where changes can be ordered while the cast runs, by another thread.
    #[must_use]
    pub fn change_sender(&self) -> ChangeSender {
        ChangeSender(self.changes.0.clone())
    }

    /// Runs the cast until it is over or `stop` asks for it. `started` is when the user asked for it.
    pub fn run(
        self,
        spec: &CastSpec,
        started: HostTime,
        stop: &StopToken,
        tell: impl FnMut(CastEvent),
    ) -> Outcome {
        Supervisor::new(spec, started, stop, tell).run(self)
    }

    /// Starts the program anew, in place of the process that is gone. False if that is not possible.
    fn restart(&mut self) -> bool {
        match Self::spawn(&self.program, self.log_forwarder.clone()) {
            Ok(mut next) => {
                // Whoever orders changes knows nothing of it.
                std::mem::swap(&mut next.changes, &mut self.changes);
                if self.exit_on_disconnect {
                    next.set_exit_on_disconnect();
                }
                *self = next;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "no process goes on with the cast");
                false
            }
        }
    }

    /// Whether it has neither ended nor stopped to report.
    fn is_alive(&self) -> bool {
        !child::has_exited(&self.child) && self.liveness.is_recent()
    }

    fn send_command(&mut self, order: &ProcessCommand) {
        let Ok(mut line) = serde_json::to_vec(order) else { return };
        line.push(b'\n');
        let Some(orders) = &mut self.commands else { return };
        // A process that is gone is seen by the end of its messages.
        if write_within(orders, &line, HEARTBEAT_TIMEOUT).is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
        {
            tracing::warn!("the cast's process takes no orders: it is killed");
            self.kill();
        }
    }

    /// The process has nothing left to do: it ends, or is killed.
    fn wait_for_exit(&mut self) {
        self.commands = None;
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while !child::has_exited(&self.child) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill_and_wait();
    }

    /// The process is gone, or must be. Its status.
    fn kill_and_wait(&mut self) -> String {
        self.kill();
        self.child.wait().map_or_else(|e| e.to_string(), |status: ExitStatus| status.to_string())
    }

    fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Fails when all of them are gone already.
            let _gone = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "cannot tell whether the cast's process has ended");
        }
        // A reader with more to say than there is room for must see that nobody listens.
        self.messages = sync_channel(0).1;
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("the thread cast-messages panicked");
        }
    }
}

/// Writes all of it to a pipe that does not block, waiting for its reader no longer than `timeout` at a time.
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

/// Reads messages until the process ends or says nonsense.
fn read_messages(lines: impl Read, tell: &SyncSender<Message>, life_signs: &Liveness) {
    let mut lines = BufReader::new(lines);
    while let Some(line) = next_line(&mut lines) {
        life_signs.record_line();
        match serde_json::from_slice(&line) {
            // These are never waited with: a supervisor that is busy must not take its casts for dead.
            Ok(Message::Heartbeat { idle_ms }) => life_signs.idle_ms.store(idle_ms, Ordering::Relaxed),
            // Nobody listens any more.
            Ok(message) => {
                if tell.send(message).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "the cast's process said something else"),
        }
    }
}

/// The next line; `None` at the end, or when it is too long.
fn next_line(lines: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let read = lines.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).ok()?;
    (read > 0 && line.pop() == Some(b'\n')).then_some(line)
}

/// Casts that are started from now on run their browsers as users of this range, one for each cast, if we are
/// root. Said once; without it, they take what the environment names or the usual range.
pub fn use_browser_uids(first: u32, last: u32) {
    child::set_browser_uid_range(first, last);
}

/// Hides a folder, the service's data, from the browsers of all casts that are started from now on.
pub fn hide_from_browsers(folder: &Path) {
    child::set_private_folder(folder);
}

/// Removes what casts left behind whose processes were all killed at once. Call when a supervisor starts.
pub fn remove_leftovers() {
    for folder in child::remove_stale_run_folders(Path::new(&std::env::temp_dir())) {
        tracing::info!(folder = %folder.display(), "removed what an earlier cast left behind");
    }
}

/// The clock that `started` is read on.
#[must_use]
pub fn now() -> HostTime {
    clock::now()
}
