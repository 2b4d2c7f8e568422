//! `pagecast record`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use pagecast_core::SpecError;
use pagecast_core::spec::{Network, Push, Source};
use pagecast_core::{CastSpec, HostTime};
use pagecast_worker::cast::{self, News, Stop};
use pagecast_worker::process::{self, Outcome, Process};

use crate::cli;
use crate::failure::Failure;
use crate::screen::{self, LiveLine};

pub(crate) fn run(args: &cli::Record, started: HostTime) -> Result<ExitCode, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_s = i64::try_from(now.as_secs()).unwrap_or(0);
    let (recording, evidence) =
        args.output.recording(&args.url, unix_s).map_err(SpecError::from).map_err(cast::Error::from)?;
    let mut spec = CastSpec::new(Source {
        url: args.url.clone(),
        size: args.size,
        fps: args.fps,
        scale_factor: args.scale_factor,
        context: args.page.context().map_err(cast::Error::from)?,
    });
    spec.bitrate_kbps = args.bitrate;
    spec.duration = args.duration;
    spec.recording = Some(recording);
    spec.pushes = args.push.iter().map(|url| Push { url: url.clone(), patience: None }).collect();
    spec.evidence = Some(evidence);
    spec.readiness = args.care.readiness();
    spec.checks = args.care.checks();
    spec.limits = args.care.limits();
    spec.network =
        Network { allow: args.allow_net.clone(), deny: args.deny_net.clone(), udp: args.allow_udp };
    let mut process = start()?;
    let mut started = started;
    if args.standby {
        // Wrong values are told before anybody waits.
        spec.check().map_err(cast::Error::from)?;
        process.warm(&spec).context("cannot start the browser")?;
        screen::say("ready, press Enter to begin");
        if std::io::stdin().read_line(&mut String::new()).unwrap_or(0) == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        started = process::now();
    }
    let outcome = cast(process, &spec, started, args.quiet || args.json)?;
    if let Some(report) = &outcome.report {
        if args.json {
            screen::print(&serde_json::to_string(report).context("the report cannot be written as JSON")?);
        } else if !args.quiet && report.recording.is_some() {
            screen::say(&screen::summary(&spec.source, report));
        }
    }
    outcome.failure.map_or(Ok(ExitCode::SUCCESS), |failed| Err(failed.into()))
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
    quiet: bool,
) -> Result<Outcome, Failure> {
    // Wrong values are told before a browser is started.
    spec.check().map_err(cast::Error::from)?;
    // The second signal kills the cast: what was recorded is stored by another process, if nobody asks a third time.
    let stop = stop_by_signals();
    let mut line = LiveLine::new(quiet);
    let outcome = process.run(spec, started, &stop, |news| match news {
        News::Progress(progress) => line.show(&progress),
        News::Event(event) => line.note(event),
        News::Push(news) => line.note_push(&news),
        News::Delivery(status) => line.note_delivery(&status),
        News::Restarted => line.warn("the cast's process died: another one goes on with the recording"),
        News::Unrecorded => line.warn("nothing is recorded any more; the pushes go on"),
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
