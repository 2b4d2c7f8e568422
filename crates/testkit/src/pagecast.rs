//! A run of the `pagecast` program: starts it, controls it, and checks that it leaves nothing behind.

pub mod processes;

use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;

use crate::command::{program, run_for_stdout, signal_pid};
use crate::media::Recording;
use crate::scratch::ScratchDir;
use processes::ProcessTree;

/// Environment variable that marks every process of a run.
pub const RUN_MARKER_ENV: &str = "PAGECAST_TEST_RUN";
/// Longest time until all processes and files of a run are gone after the program has ended. A loaded machine
/// takes seconds to reap a browser.
pub const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const PROCESS_SCAN_INTERVAL: Duration = Duration::from_millis(500);

/// Builder of a command line of `pagecast record` or `pagecast cast`.
#[derive(Debug)]
pub struct PagecastCommand {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    output: Option<PathBuf>,
    writes_recording: bool,
    loopback_denied: bool,
}

/// Report that `--json` prints.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "documented in the reference of the command line")]
pub struct Report {
    pub end: String,
    pub timeline: Vec<TimelineEvent>,
    pub fault: Option<String>,
    pub reloads: u32,
    pub moves: u32,
    pub evidence: Option<PathBuf>,
    pub frames_captured: u64,
    pub frames_encoded: u64,
    pub frames_unchanged: u64,
    pub frames_dropped: u64,
    pub first_frame_ms: f64,
    pub duration_ms: f64,
    pub bytes: u64,
    pub cpu_ms: CpuMs,
    pub peak_rss_bytes: PeakRss,
    #[serde(default)]
    pub restarts: u32,
    pub recording: Option<serde_json::Value>,
    #[serde(default)]
    pub pushes: Vec<Push>,
    pub room: Option<serde_json::Value>,
    #[serde(default)]
    pub hangs: Vec<Hang>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A time during which the page's scripts did not run.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in the reference of the command line")]
pub struct Hang {
    pub at_ms: u64,
    pub duration_ms: u64,
}

/// Final state of a push.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in the reference of the command line")]
pub struct Push {
    pub id: u32,
    pub url: String,
    pub state: String,
    pub bytes: u64,
    pub lost: u64,
    pub reconnects: u64,
    pub error: Option<String>,
    pub interruption: Option<String>,
}

/// An event of a cast and its time.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in the reference of the command line")]
pub struct TimelineEvent {
    pub at_ms: u64,
    pub event: serde_json::Value,
}

/// CPU time by part, in milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in the reference of the command line")]
pub struct CpuMs {
    pub browser: u64,
    pub display: u64,
    pub encode: u64,
    pub total: u64,
}

/// Largest resident set size, in bytes.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "documented in the reference of the command line")]
pub struct PeakRss {
    pub browser: u64,
    pub pagecast: u64,
}

impl PagecastCommand {
    /// Builds `program record url --json` with a scratch file as output and loopback allowed for pages. Pass
    /// `env!("CARGO_BIN_EXE_pagecast")` as program.
    #[must_use]
    pub fn record(program: impl Into<PathBuf>, url: &str) -> Self {
        let arguments = ["record", url, "--json"].map(str::to_owned).into();
        Self {
            program: program.into(),
            arguments,
            environment: Vec::new(),
            output: None,
            writes_recording: true,
            loopback_denied: false,
        }
    }

    /// Builds `program cast url --json` likewise. It records only if [`PagecastCommand::output`] is set.
    #[must_use]
    pub fn cast(program: impl Into<PathBuf>, url: &str) -> Self {
        let arguments = ["cast", url, "--json"].map(str::to_owned).into();
        Self { arguments, writes_recording: false, ..Self::record(program, url) }
    }

    /// Builds `program check url --json` likewise. It writes a picture only if [`PagecastCommand::output`] is
    /// set.
    #[must_use]
    pub fn check(program: impl Into<PathBuf>, url: &str) -> Self {
        let arguments = ["check", url, "--json"].map(str::to_owned).into();
        Self { arguments, writes_recording: false, ..Self::record(program, url) }
    }

    /// Removes `--json`, so that the program prints for people.
    #[must_use]
    pub fn without_json(mut self) -> Self {
        self.arguments.retain(|argument| argument != "--json");
        self
    }

    /// Keeps the default network rules: pages reach loopback only if `--allow-net` allows it.
    #[must_use]
    pub fn deny_loopback(mut self) -> Self {
        self.loopback_denied = true;
        self
    }

    /// Adds `--name value`.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        self.arguments.extend([format!("--{name}"), value.to_string()]);
        self
    }

    /// Adds `--name`.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.arguments.push(format!("--{name}"));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Records to this file instead of one in the run's scratch folder.
    #[must_use]
    pub fn output(mut self, path: PathBuf) -> Self {
        (self.output, self.writes_recording) = (Some(path), true);
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(self) -> Result<PagecastProcess> {
        let scratch = Arc::new(ScratchDir::new()?);
        let (temp, runtime) = (scratch.world_writable_folder("tmp")?, scratch.world_writable_folder("run")?);
        let output = self.output.unwrap_or_else(|| scratch.join("out.mp4"));
        let mut command = program(&self.program);
        command.args(&self.arguments);
        if self.writes_recording {
            command.arg("-o").arg(&output);
        }
        if !self.loopback_denied {
            command.args(["--allow-net", "127.0.0.0/8", "--allow-net", "[::1]"]);
        }
        command.env(RUN_MARKER_ENV, scratch.path()).env("TMPDIR", &temp).env("XDG_RUNTIME_DIR", &runtime);
        command.envs(self.environment);
        // Its own process group, so that Ctrl-C in the terminal of the tests does not stop the run first.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let stdout = OutputReader::spawn(child.stdout.take())?;
        let stderr = OutputReader::spawn(child.stderr.take())?;
        let tree = ProcessTree::new(child.id(), scratch.path());
        Ok(PagecastProcess {
            processes: ProcessGuard { child, tree },
            stdout,
            stderr,
            output,
            scratch,
            folders: [temp, runtime],
        })
    }

    /// Starts the program and waits until it has ended and all its processes are gone.
    ///
    /// # Errors
    /// The program cannot be started, takes longer than `limit`, or leaves something behind.
    pub fn finish(self, limit: Duration) -> Result<Outcome> {
        self.start()?.finish(limit)
    }
}

/// A running `pagecast`; killed when dropped.
#[derive(Debug)]
pub struct PagecastProcess {
    processes: ProcessGuard,
    stdout: OutputReader,
    stderr: OutputReader,
    output: PathBuf,
    scratch: Arc<ScratchDir>,
    folders: [PathBuf; 2],
}

/// The processes of a run; killed when dropped, because processes left by a failed test disturb the next one.
#[derive(Debug)]
struct ProcessGuard {
    child: Child,
    tree: ProcessTree,
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        self.tree.kill();
        let _reaped = self.child.wait();
    }
}

impl PagecastProcess {
    /// Path of the recording.
    #[must_use]
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// Text that was written to standard error so far.
    #[must_use]
    pub fn stderr_so_far(&self) -> String {
        self.stderr.text_so_far()
    }

    /// Waits until the viewer URL of the room is printed on standard error, and returns it.
    ///
    /// # Errors
    /// As [`PagecastProcess::wait_until`].
    pub fn wait_for_room(&mut self, limit: Duration) -> Result<String> {
        let address = |run: &Self| {
            let stderr = run.stderr_so_far();
            let (_, after) = stderr.split_once("viewer URL: ")?;
            Some(after.split_once('\n')?.0.to_owned())
        };
        self.wait_until("the viewer URL was printed", limit, |run| address(run).is_some())?;
        address(self).context("no viewer URL")
    }

    /// Process id of the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.processes.child.id()
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// The program has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_pid(self.processes.child.id(), signal)
    }

    /// Kills the main process of the browser.
    ///
    /// # Errors
    /// The run has no browser.
    pub fn kill_browser(&mut self) -> Result<()> {
        self.processes.tree.refresh();
        // Helper processes have a `--type=`.
        let is_main = |all: &[&str]| {
            all.contains(&"--remote-debugging-pipe") && !all.iter().any(|a| a.starts_with("--type="))
        };
        let browsers = self.processes.tree.with_arguments(is_main);
        signal_pid(*browsers.last().context("the run has no browser")?, Signal::KILL)
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.processes.child.try_wait(), Ok(None))
    }

    /// Process id of the process that runs the cast.
    pub fn cast_pid(&mut self) -> Option<u32> {
        self.processes.tree.refresh();
        self.processes.tree.with_argument("run-cast").first().copied()
    }

    /// Sends a signal to all processes of the browser.
    ///
    /// # Errors
    /// The run has no browser.
    pub fn signal_browser(&mut self, signal: Signal) -> Result<()> {
        self.processes.tree.refresh();
        let found = self.processes.tree.with_arguments(|all| all[0].ends_with("/chromium"));
        ensure!(!found.is_empty(), "the run has no browser");
        // A process may end in between.
        found.into_iter().for_each(|pid| drop(signal_pid(pid, signal)));
        Ok(())
    }

    /// Folder of the temporary files of the run.
    #[must_use]
    pub fn temp_folder(&self) -> &Path {
        &self.folders[0]
    }

    /// Kills all processes of the run at once, including those that clean up after others.
    pub fn kill_all(&mut self) {
        self.processes.tree.kill();
    }

    /// Pauses (SIGSTOP) all processes of the run with the argument `word`.
    ///
    /// # Errors
    /// There is no such process.
    pub fn pause_matching(&mut self, word: &str) -> Result<()> {
        self.signal_matching(word, Signal::STOP)
    }

    /// Kills all processes of the run with the argument `word`, like `run-cast` or `--type=renderer`.
    ///
    /// # Errors
    /// There is no such process.
    pub fn kill_matching(&mut self, word: &str) -> Result<()> {
        self.signal_matching(word, Signal::KILL)
    }

    fn signal_matching(&mut self, word: &str, signal: Signal) -> Result<()> {
        self.processes.tree.refresh();
        let found = self.processes.tree.with_argument(word);
        ensure!(!found.is_empty(), "the run has no process with {word}");
        found.into_iter().try_for_each(|pid| signal_pid(pid, signal))
    }

    /// Waits until `condition` holds; `what` describes it in the error.
    ///
    /// # Errors
    /// The condition does not hold within `limit`, or the program ends first.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !condition(self) {
            if let Some(status) = self.processes.child.try_wait()? {
                bail!("pagecast ended with {status} before {what}");
            }
            ensure!(Instant::now() < deadline, "not within {limit:?}: {what}");
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits until the recording on disk has at least `bytes`.
    ///
    /// # Errors
    /// As [`PagecastProcess::wait_until`].
    pub fn wait_for_spooled_bytes(&mut self, bytes: u64, limit: Duration) -> Result<()> {
        let large_enough = move |run: &Self| {
            let files = fs::read_dir(spool_path(&run.output)).into_iter().flatten().flatten();
            files.filter_map(|entry| entry.metadata().ok()).map(|m| m.len()).sum::<u64>() >= bytes
        };
        self.wait_until(&format!("the recording had {bytes} bytes"), limit, large_enough)
    }

    /// Waits until the program has ended and all processes of the run are gone.
    ///
    /// # Errors
    /// The program takes longer than `limit`, or leaves a process or a file behind.
    pub fn finish(mut self, limit: Duration) -> Result<Outcome> {
        let begin = Instant::now();
        let mut next_scan = begin;
        let status = loop {
            if Instant::now() >= next_scan {
                self.processes.tree.refresh();
                next_scan = Instant::now() + PROCESS_SCAN_INTERVAL;
            }
            if let Some(status) = self.processes.child.try_wait()? {
                break status;
            }
            ensure!(begin.elapsed() < limit, "pagecast still runs after {limit:?}");
            std::thread::sleep(POLL_INTERVAL);
        };
        let elapsed = begin.elapsed();
        self.wait_until_clean()?;
        let Self { processes: _gone, stdout, stderr, output, scratch, .. } = self;
        let (stdout, stderr) = (stdout.into_text()?, stderr.into_text()?);
        Ok(Outcome { status, elapsed, stdout, stderr, output, scratch })
    }

    fn wait_until_clean(&mut self) -> Result<()> {
        let deadline = Instant::now() + CLEANUP_TIMEOUT;
        loop {
            let mut left = self.processes.tree.describe_alive();
            for folder in &self.folders {
                left.extend(fs::read_dir(folder)?.flatten().map(|e| e.path().display().to_string()));
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "left behind {CLEANUP_TIMEOUT:?} after the end: {left:#?}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Records one second of `url` with `temp` as the folder for temporary files.
///
/// # Errors
/// The recording fails.
pub fn record_one_second(pagecast: &str, url: &str, temp: &Path) -> Result<()> {
    let run = PagecastCommand::record(pagecast, url)
        .option("duration", "1s")
        .env("TMPDIR", &temp.display().to_string());
    run.finish(Duration::from_secs(30))?.expect_code(0)
}

/// Folder with the segments of an unfinished recording.
fn spool_path(output: &Path) -> PathBuf {
    let mut spool = output.as_os_str().to_owned();
    spool.push(".spool");
    spool.into()
}

/// Result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status of the program.
    pub status: ExitStatus,
    /// Time spent waiting for the end.
    pub elapsed: Duration,
    /// Text written to stdout.
    pub stdout: String,
    /// Text written to stderr.
    pub stderr: String,
    /// Path of the recording.
    pub output: PathBuf,
    scratch: Arc<ScratchDir>,
}

impl Outcome {
    /// Runs `pagecast recover` on the spool that the run left.
    ///
    /// # Errors
    /// `pagecast recover` fails.
    pub fn recover(&self, pagecast: &str) -> Result<()> {
        run_for_stdout(program(pagecast).arg("recover").arg(spool_path(&self.output))).map(drop)
    }

    /// The report of a successful run.
    ///
    /// # Errors
    /// The run failed, or stdout is not exactly one report.
    pub fn report(&self) -> Result<Report> {
        self.expect_code(0)?;
        serde_json::from_str(&self.stdout).with_context(|| format!("stdout is not a report: {}", self.stdout))
    }

    /// Checks that there is no file and that the report, if there is one, counts no bytes and no frames.
    ///
    /// # Errors
    /// Something was recorded.
    pub fn expect_nothing_recorded(&self) -> Result<()> {
        ensure!(!self.output.exists(), "a file was left although nothing was recorded");
        if !self.stdout.is_empty() {
            let report = self.parse_report()?;
            ensure!((report.bytes, report.frames_encoded) == (0, 0), "{report:?}");
        }
        Ok(())
    }

    /// The report of a run, successful or not.
    ///
    /// # Errors
    /// Stdout is not exactly one report.
    pub fn parse_report(&self) -> Result<Report> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("stdout is not a report: {}{}", self.stdout, self.stderr))
    }

    /// The recording of a successful run.
    ///
    /// # Errors
    /// The run failed, or the file cannot be played.
    pub fn recording(&self) -> Result<Recording> {
        self.expect_code(0)?;
        self.partial_recording()
    }

    /// The recording of a run, successful or not.
    ///
    /// # Errors
    /// There is no file, or it cannot be played.
    pub fn partial_recording(&self) -> Result<Recording> {
        Ok(Recording::open(&self.output)?.keep_scratch(Arc::clone(&self.scratch)))
    }

    /// Checks the exit code.
    ///
    /// # Errors
    /// The exit code is a different one; the message has the text of stderr.
    pub fn expect_code(&self, code: i32) -> Result<()> {
        let signal = self.status.signal();
        ensure!(
            self.status.code() == Some(code),
            "exit code is {:?} (signal {signal:?}), expected {code}: {}",
            self.status.code(),
            self.stderr
        );
        Ok(())
    }

    /// Checks that the run failed with `code` and that its error message contains all of `words`.
    ///
    /// # Errors
    /// The exit code or the message is a different one.
    pub fn expect_failure(&self, code: i32, words: &[&str]) -> Result<()> {
        self.expect_code(code)?;
        let stderr = self.stderr.to_lowercase();
        for word in words {
            ensure!(stderr.contains(&word.to_lowercase()), "{word:?} is missing in: {}", self.stderr);
        }
        ensure!(!stderr.contains("panicked"), "a panic instead of an error message: {}", self.stderr);
        Ok(())
    }
}

/// Collects the output of a program on a thread.
#[derive(Debug)]
struct OutputReader {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl OutputReader {
    fn spawn(from: Option<impl Read + Send + 'static>) -> Result<Self> {
        let mut from = from.context("the output is not piped")?;
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let buffered = Arc::clone(&bytes);
        let read = move || {
            let mut buffer = [0; 4096];
            // Output from before a read error is kept for messages.
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                buffered.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
            }
        };
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn(read);
        Ok(Self { bytes, thread: thread.context("cannot start a thread")? })
    }

    fn text_so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn into_text(self) -> Result<String> {
        let Self { bytes, thread } = self;
        thread.join().ok().context("a reader panicked")?;
        let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
