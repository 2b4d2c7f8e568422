//! Starts child processes of tests and describes their failures.

use std::ffi::OsStr;
use std::process::{Child, Command, Output};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A command to be started; `program` is looked up in PATH.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the ban is for the product, and this crate is for tests only")]
pub fn program(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs a command to its end and returns stdout.
///
/// # Errors
/// The program is missing or fails. The message has its stderr, or how to install it.
pub fn run_for_stdout(command: &mut Command) -> Result<Vec<u8>> {
    Ok(run_for_output(command)?.stdout)
}

/// Runs a command to its end and returns stdout and stderr.
///
/// # Errors
/// As [`run_for_stdout`].
pub fn run_for_output(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| install_hint(&name))?;
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// Kills a server, if it runs.
pub(crate) fn kill_child(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ended = child.kill();
        let _reaped = child.wait();
    }
}

/// Sends a signal to a server; `name` is for the error.
pub(crate) fn signal_child(child: Option<&Child>, name: &str, signal: Signal) -> Result<()> {
    signal_pid(child.with_context(|| format!("{name} does not run"))?.id(), signal)
}

/// Sends a signal to a process.
///
/// # Errors
/// The process has ended.
pub fn signal_pid(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no such process id")?;
    kill_process(pid, signal).with_context(|| format!("cannot send {signal:?}"))
}

/// Error message for a program that cannot be started, with the Debian package that has it.
#[must_use]
pub fn install_hint(name: &str) -> String {
    let package = match name {
        "ffmpeg" | "ffprobe" => "ffmpeg",
        "janus" => "janus",
        "turnserver" => "coturn",
        "node" | "npm" => "npm",
        "openssl" => "openssl",
        "pgbouncer" => "pgbouncer",
        "postgres" => "postgresql",
        "python3" => "python3",
        "systemd-analyze" => "systemd",
        "nginx" => "nginx-light libnginx-mod-rtmp libnginx-mod-stream",
        other if other.contains("chromium") => "chromium",
        _ => return format!("cannot start {name}"),
    };
    format!("cannot start {name}: install it with `apt-get install {package}`")
}
