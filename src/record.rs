//! `pagecast record`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pagecast_core::SpecError;
use pagecast_core::{CastSpec, HostTime};
use pagecast_worker::cast::{self, News, Stop};
use pagecast_worker::process::{self, Outcome, Process};

use crate::cli;
use crate::failure::Failure;
use crate::screen::{self, LiveLine};

pub(crate) fn run(args: &cli::Record, started: HostTime) -> Result<ExitCode, Failure> {
    let mut spec = args.cast.spec().map_err(cast::Error::from)?;
    let (recording, evidence) = args
        .output
        .recording(&args.cast.url, unix_s())
        .map_err(SpecError::from)
        .map_err(cast::Error::from)?;
    (spec.recording, spec.evidence) = (Some(recording), Some(evidence));
    let Some((process, started)) = begin(&args.cast, &spec, started)? else { return Ok(ExitCode::SUCCESS) };
    let outcome = cast(process, &spec, started, LiveLine::new(args.cast.quiet || args.cast.json))?;
    finish(&args.cast, &spec, outcome)
}

/// A process that is ready for the cast, and when it began; nothing if nobody is there to press Enter.
pub(crate) fn begin(
    args: &cli::cast::Cast,
    spec: &CastSpec,
    started: HostTime,
) -> Result<Option<(Process, HostTime)>, Failure> {
    let mut process = start()?;
    if !args.standby {
        return Ok(Some((process, started)));
    }
    // Wrong values are told before anybody waits.
    spec.check().map_err(cast::Error::from)?;
    process.warm(spec).context("cannot start the browser")?;
    screen::say("ready, press Enter to begin");
    if std::io::stdin().read_line(&mut String::new()).unwrap_or(0) == 0 {
        return Ok(None);
    }
    Ok(Some((process, process::now())))
}

/// Tells what became of it.
pub(crate) fn finish(args: &cli::cast::Cast, spec: &CastSpec, outcome: Outcome) -> Result<ExitCode, Failure> {
    if let Some(report) = &outcome.report {
        if args.json {
            screen::print(&serde_json::to_string(report).context("the report cannot be written as JSON")?);
        } else if !args.quiet && report.duration_ms > 0 {
            // Of a cast that never began there is nothing to sum up but why, which is told anyway.
            screen::say(&screen::summary(&spec.source, report));
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
pub(crate) fn start() -> Result<Process, Failure> {
    process::clear_leftovers();
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(Process::start(&program).context("cannot run a cast")?)
}

/// Runs a cast until it is over or a signal ends it, with a live line meanwhile.
pub(crate) fn cast(
    process: Process,
    spec: &CastSpec,
    started: HostTime,
    mut line: LiveLine,
) -> Result<Outcome, Failure> {
    // Wrong values are told before a browser is started.
    spec.check().map_err(cast::Error::from)?;
    // The second signal kills the cast: what was recorded is stored by another process, if nobody asks a
    // third time.
    let stop = stop_by_signals();
    let mut retrying = None;
    let outcome = process.run(spec, started, &stop, |news| match news {
        News::Progress(progress) => line.show(&progress),
        News::Event(event) => line.note(event),
        News::Push(news) => line.note_push(&news),
        News::Room(status) => line.note_room(&status),
        News::Delivery(status) => line.note_delivery(&status),
        News::Restarted => line.warn("the cast's process died: another one goes on with the recording"),
        News::Warning(warning) => line.warn(screen::warning(warning)),
        // Said once, however often it is tried.
        News::Retrying(why) if retrying.as_ref() == Some(&why) => {}
        News::Retrying(why) => {
            line.warn(&format!("{why}; trying again"));
            retrying = Some(why);
        }
        News::Snapshot(..) | News::Failing(..) => {}
        News::Unrecorded => line.warn("nothing is recorded any more; everything else goes on"),
    });
    line.clear();
    Ok(outcome)
}

/// Set by Ctrl-C and SIGTERM.
pub(crate) fn stop_by_signals() -> Stop {
    let stop = Stop::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, stop.flag()) {
            tracing::warn!(%error, signal, "this signal will not end the recording properly");
        }
    }
    stop
}
