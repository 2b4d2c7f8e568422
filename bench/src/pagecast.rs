//! Runs `pagecast record` as a child process.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::program;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cast::{FPS, HEIGHT, WIDTH};

/// Longest time for a browser to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time for the start-up work of a new browser.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// A running recorder.
#[derive(Debug)]
pub(crate) struct PagecastRecorder {
    child: Child,
    log: PathBuf,
}

/// Values of the report of `--json`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SelfReport {
    /// Time from process start to the first frame.
    pub(crate) first_frame_s: f64,
    /// CPU time of all processes over the whole run.
    pub(crate) cpu_s: f64,
    /// Number of pushes without losses.
    pub(crate) lossless_pushes: usize,
}

/// Options and environment of a recorder beside page, size and frame rate.
#[derive(Debug, Default)]
pub(crate) struct ExtraOptions {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
}

impl PagecastRecorder {
    pub(crate) fn start(pagecast: &Path, url: &str, file: &Path) -> Result<Self> {
        Self::start_with(pagecast, url, &file.to_string_lossy(), file, &ExtraOptions::default())
    }

    /// Starts a recorder with extra options. It records to `output`; `file` names its log and spool.
    pub(crate) fn start_with(
        pagecast: &Path,
        url: &str,
        output: &str,
        file: &Path,
        extra: &ExtraOptions,
    ) -> Result<Self> {
        Self::spawn(pagecast, url, output, file, extra, Stdio::null())
    }

    /// Starts a recorder with a warm browser, waits for the browser, and opens the page.
    pub(crate) fn start_warm(pagecast: &Path, url: &str, file: &Path) -> Result<Self> {
        let extra = ExtraOptions { arguments: vec!["--standby".to_owned()], ..ExtraOptions::default() };
        let mut warm = Self::spawn(pagecast, url, &file.to_string_lossy(), file, &extra, Stdio::piped())?;
        let begin = Instant::now();
        while !fs::read_to_string(&warm.log)?.contains("ready") {
            ensure!(
                begin.elapsed() < START_TIMEOUT,
                "the browser is not ready: {}",
                fs::read_to_string(&warm.log)?
            );
            std::thread::sleep(POLL_INTERVAL);
        }
        std::thread::sleep(SETTLE_TIME);
        warm.child.stdin.as_mut().context("pagecast has no input")?.write_all(b"\n")?;
        Ok(warm)
    }

    fn spawn(
        pagecast: &Path,
        url: &str,
        output: &str,
        file: &Path,
        extra: &ExtraOptions,
        stdin: Stdio,
    ) -> Result<Self> {
        let (log, spool) = (file.with_extension("log"), file.with_extension("spool"));
        // An interrupted bench leaves a spool.
        drop(fs::remove_dir_all(&spool));
        let mut command = program(pagecast);
        command.args(["record", url, "--json", "--overwrite", "-o", output]);
        command.args(["--allow-net", "127.0.0.0/8"]).args(&extra.arguments);
        command.arg("--spool").arg(&spool);
        command.envs(extra.environment.iter().copied());
        command.args(["--size", &format!("{WIDTH}x{HEIGHT}"), "--fps", &FPS.to_string()]);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let child = command.spawn().with_context(|| {
            format!("cannot start {}: build it with `cargo build --release`", pagecast.display())
        })?;
        Ok(Self { child, log })
    }

    pub(crate) fn interrupt(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("pagecast ended early")
    }

    pub(crate) fn finish(mut self) -> Result<SelfReport> {
        let mut json = String::new();
        self.child.stdout.take().context("pagecast has no output")?.read_to_string(&mut json)?;
        let status = self.child.wait()?;
        let log = || fs::read_to_string(&self.log).unwrap_or_default();
        ensure!(status.success(), "pagecast ended with {status}: {}", log());
        let value: Value = serde_json::from_str(&json).context("pagecast did not print JSON")?;
        let number = |pointer| {
            value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {json}"))
        };
        let pushes = value.pointer("/pushes").and_then(Value::as_array);
        let is_lossless =
            |push: &&Value| push["lost"] == 0 && push["reconnects"] == 0 && push["error"].is_null();
        Ok(SelfReport {
            lossless_pushes: pushes.map_or(0, |pushes| pushes.iter().filter(is_lossless).count()),
            first_frame_s: number("/first_frame_ms")? / 1000.0,
            cpu_s: number("/cpu_ms/total")? / 1000.0,
        })
    }
}

impl Drop for PagecastRecorder {
    fn drop(&mut self) {
        // After `finish` there is nothing left to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
