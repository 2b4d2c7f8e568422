//! `pagecast record`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pagecast_core::SpecError;
use pagecast_core::{CastSpec, HostTime};
use pagecast_worker::cast::{self, CastEvent, StopToken};
use pagecast_worker::process::{self, Outcome, Process};

use crate::cli;
use crate::console::{self, StatusLine};
use crate::error::CommandError;

pub(crate) fn run(args: &cli::RecordArgs, started: HostTime) -> Result<ExitCode, CommandError> {
    let mut spec = args.options.spec().map_err(cast::Error::from)?;
    let (recording, evidence) = args
        .output
        .recording(&args.options.url, unix_s())
        .map_err(SpecError::from)
        .map_err(cast::Error::from)?;
    (spec.recording, spec.evidence) = (Some(recording), Some(evidence));
    let Some((process, started)) = start_or_standby(&args.options, &spec, started)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let outcome =
        run_cast(process, &spec, started, StatusLine::new(args.options.quiet || args.options.json))?;
    report_outcome(&args.options, &spec, outcome)
}

/// A process that is ready for the cast, and when it began; nothing if nobody is there to press Enter.
pub(crate) fn start_or_standby(
    args: &cli::cast::CastOptions,
    spec: &CastSpec,
    started: HostTime,
) -> Result<Option<(Process, HostTime)>, CommandError> {
    let mut process = start_process()?;
    if !args.standby {
        return Ok(Some((process, started)));
    }
    // Wrong values are told before anybody waits.
    spec.validate().map_err(cast::Error::from)?;
    process.warm_up(spec).context("cannot start the browser")?;
    console::print_message("ready, press Enter to begin");
    if std::io::stdin().read_line(&mut String::new()).unwrap_or(0) == 0 {
        return Ok(None);
    }
    Ok(Some((process, process::now())))
}

/// Tells what became of it.
pub(crate) fn report_outcome(
    args: &cli::cast::CastOptions,
    spec: &CastSpec,
    outcome: Outcome,
) -> Result<ExitCode, CommandError> {
    if let Some(report) = &outcome.report {
        if args.json {
            console::print_result(
                &serde_json::to_string(report).context("the report cannot be written as JSON")?,
            );
        } else if !args.quiet && report.duration_ms > 0 {
            // Of a cast that never began there is nothing to sum up but why, which is told anyway.
            console::print_message(&console::summary(&spec.source, report));
        }
    }
    outcome.failure.map_or(Ok(ExitCode::SUCCESS), |failed| Err(failed.into()))
}

/// Seconds since 1970.
pub(crate) fn unix_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(0)
}

/// A process for a cast. What earlier casts could not clear up is cleared up first.
pub(crate) fn start_process() -> Result<Process, CommandError> {
    process::remove_leftovers();
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(Process::start(&program).context("cannot run a cast")?)
}

/// Runs a cast until it is over or a signal ends it, with a live line meanwhile.
pub(crate) fn run_cast(
    process: Process,
    spec: &CastSpec,
    started: HostTime,
    mut line: StatusLine,
) -> Result<Outcome, CommandError> {
    // Wrong values are told before a browser is started.
    spec.validate().map_err(cast::Error::from)?;
    // The second signal kills the cast: what was recorded is stored by another process, if nobody asks a
    // third time.
    let stop = stop_on_signals();
    let mut retrying = None;
    let outcome = process.run(spec, started, &stop, |news| match news {
        CastEvent::Progress(progress) => line.update(&progress),
        CastEvent::Lifecycle(event) => line.report_event(event),
        CastEvent::Push(news) => line.report_push(&news),
        CastEvent::Room(status) => line.report_room(&status),
        CastEvent::Upload(status) => line.report_upload(&status),
        CastEvent::Restarted => line.warn("the cast's process died: another one goes on with the recording"),
        CastEvent::Warning(warning) => line.warn(console::warning_message(warning)),
        // Said once, however often it is tried.
        CastEvent::LoadRetry(why) if retrying.as_ref() == Some(&why) => {}
        CastEvent::LoadRetry(why) => {
            line.warn(&format!("{why}; trying again"));
            retrying = Some(why);
        }
        CastEvent::Snapshot(..) | CastEvent::FailureReason(..) => {}
        CastEvent::RecordingStopped => line.warn("nothing is recorded any more; everything else goes on"),
    });
    line.clear();
    Ok(outcome)
}

/// Set by Ctrl-C and SIGTERM.
pub(crate) fn stop_on_signals() -> StopToken {
    let stop = StopToken::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, stop.flag()) {
            tracing::warn!(%error, signal, "this signal will not end the recording properly");
        }
    }
    stop
}
