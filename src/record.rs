//! `pagecast record`, and running a cast for the other commands.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pagecast_core::SpecError;
use pagecast_core::{CastSpec, HostTime};
use pagecast_worker::cast::{self, Assignment, CastEvent, StopToken};
use pagecast_worker::process::{self, Outcome, Process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli;
use crate::console::{self, StatusLine};
use crate::error::CommandError;

pub(crate) fn run(args: &cli::RecordArgs, started: HostTime) -> Result<ExitCode, CommandError> {
    let mut spec = args.options.spec().map_err(cast::Error::from)?;
    let (recording, paths) = args
        .output
        .recording(&args.options.url, unix_s())
        .map_err(SpecError::from)
        .map_err(cast::Error::from)?;
    spec.recording = Some(recording);
    let assignment = Assignment::new(spec, paths);
    let Some((process, started)) = start_or_standby(&args.options, &assignment, started)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let line = StatusLine::new(args.options.quiet || args.options.json);
    let outcome = run_cast(process, &assignment, started, line)?;
    report_outcome(&args.options, &assignment.spec, outcome)
}

/// Starts a process for the cast; with `--standby`, with a warm browser, and waits for Enter. Returns the
/// process and the start of the cast, or `None` if standard input ended before Enter.
pub(crate) fn start_or_standby(
    args: &cli::cast::CastOptions,
    assignment: &Assignment,
    started: HostTime,
) -> Result<Option<(Process, HostTime)>, CommandError> {
    let mut process = start_process()?;
    if !args.standby {
        return Ok(Some((process, started)));
    }
    // Invalid values are reported before the wait for Enter.
    assignment.validate().map_err(cast::Error::from)?;
    process.warm_up(&assignment.spec).context("cannot start the browser")?;
    console::print_message("browser ready, press Enter to start");
    if std::io::stdin().read_line(&mut String::new()).unwrap_or(0) == 0 {
        return Ok(None);
    }
    Ok(Some((process, process::now())))
}

/// Prints the report of a cast, and turns its failure into the command's error.
pub(crate) fn report_outcome(
    args: &cli::cast::CastOptions,
    spec: &CastSpec,
    outcome: Outcome,
) -> Result<ExitCode, CommandError> {
    if let Some(report) = &outcome.report {
        if args.json {
            console::print_result(&serde_json::to_string(report).context("cannot write the report as JSON")?);
        } else if !args.quiet && report.duration_ms > 0 {
            // A cast that recorded nothing has only its error, which is printed anyway.
            console::print_message(&console::summary(&spec.source, report));
        }
    }
    outcome.failure.map_or(Ok(ExitCode::SUCCESS), |failure| Err(failure.into()))
}

/// Returns the seconds since 1970.
pub(crate) fn unix_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(0)
}

/// Starts a process for a cast, after removing what earlier casts left behind.
pub(crate) fn start_process() -> Result<Process, CommandError> {
    process::remove_leftovers();
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    Ok(Process::start(&program).context("cannot run a cast")?)
}

/// Runs a cast until it ends or a signal stops it, and shows its progress on the status line.
pub(crate) fn run_cast(
    process: Process,
    assignment: &Assignment,
    started: HostTime,
    mut line: StatusLine,
) -> Result<Outcome, CommandError> {
    // Invalid values are reported before a browser is started.
    assignment.validate().map_err(cast::Error::from)?;
    // The second signal kills the cast, and a new process uploads what was recorded; a third one stops that.
    let stop = stop_on_signals();
    let mut last_retry = None;
    let outcome = process.run(assignment, started, &stop, |event| match event {
        CastEvent::Progress(progress) => line.update(&progress),
        CastEvent::Lifecycle(event) => line.report_event(event),
        CastEvent::Push(push) => line.report_push(&push),
        CastEvent::Room(status) => line.report_room(&status),
        CastEvent::Upload(status) => line.report_upload(&status),
        CastEvent::Restarted => {
            line.warn("cast process died, resumed by a new process", || {
                tracing::warn!("cast process died, resumed by a new process");
            });
        }
        CastEvent::Warning(warning) => line.report_warning(warning),
        // Each reason is shown once, however often the load is tried.
        CastEvent::LoadRetry(error) if last_retry.as_ref() == Some(&error) => {}
        CastEvent::LoadRetry(error) => {
            line.warn(&format!("page load failed, retrying: {error}"), || {
                tracing::warn!(error, "page load failed, retrying");
            });
            last_retry = Some(error);
        }
        CastEvent::Snapshot(..)
        | CastEvent::FailureReason(..)
        | CastEvent::Ledger(_)
        | CastEvent::Isolated { .. } => {}
        CastEvent::RecordingStopped => {
            line.warn("recording stopped, the cast continues", || {
                tracing::warn!("recording stopped, the cast continues");
            });
        }
    });
    line.clear();
    Ok(outcome)
}

/// Returns a stop token that Ctrl-C (SIGINT) and SIGTERM set, on the thread `signals`.
pub(crate) fn stop_on_signals() -> StopToken {
    let stop = StopToken::default();
    let requested = stop.clone();
    let listening = Signals::new([SIGINT, SIGTERM]).and_then(|mut signals| {
        let run = move || signals.forever().for_each(|_signal| requested.request());
        std::thread::Builder::new().name("signals".into()).spawn(run)
    });
    if let Err(error) = listening {
        tracing::warn!(%error, "signal handler registration failed");
    }
    stop
}
