//! `pagecast record`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use pagecast_core::spec::{Network, Recording, Source, SourceUrl};
use pagecast_core::{CastSpec, HostTime};
use pagecast_worker::cast::{self, News, Stop};
use pagecast_worker::process::{self, Outcome, Process};

use crate::cli;
use crate::failure::Failure;
use crate::screen::{self, LiveLine};

pub(crate) fn run(args: &cli::Record, started: HostTime) -> Result<ExitCode, Failure> {
    let path = args.output.clone().unwrap_or_else(|| free_name(&args.url));
    let spec = CastSpec {
        source: Source {
            url: args.url.clone(),
            size: args.size,
            fps: args.fps,
            scale_factor: args.scale_factor,
            context: args.page.context().map_err(cast::Error::from)?,
        },
        recording: Recording {
            path,
            overwrite: args.overwrite,
            bitrate_kbps: args.bitrate,
            duration: args.duration,
        },
        readiness: args.care.readiness(),
        checks: args.care.checks(),
        limits: args.care.limits(),
        network: Network { allow: args.allow_net.clone(), deny: args.deny_net.clone(), udp: args.allow_udp },
    };
    let outcome = cast(&spec, started, args.quiet || args.json)?;
    if let Some(report) = &outcome.report {
        if args.json {
            screen::print(&serde_json::to_string(report).context("the report cannot be written as JSON")?);
        } else if !args.quiet && report.bytes > 0 {
            screen::say(&screen::summary(&spec.source, report));
        }
    }
    outcome.failure.map_or(Ok(ExitCode::SUCCESS), |failed| Err(failed.into()))
}

/// Runs a cast until it is over or a signal ends it, with a live line meanwhile.
pub(crate) fn cast(spec: &CastSpec, started: HostTime, quiet: bool) -> Result<Outcome, Failure> {
    // Wrong values are told before anything is started.
    spec.check().map_err(cast::Error::from)?;
    process::clear_leftovers();
    let stop = Stop::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second one kills the cast: the file plays to its last fragment.
        if let Err(error) = signal_hook::flag::register(signal, stop.flag()) {
            tracing::warn!(%error, signal, "this signal will not end the recording properly");
        }
    }
    let process = Process::start().context("cannot run a cast")?;
    let mut line = LiveLine::new(quiet);
    let outcome = process.run(spec, started, &stop, |news| match news {
        News::Progress(progress) => line.show(&progress),
        News::Event(event) => line.note(event),
    });
    line.clear();
    Ok(outcome)
}

/// The page's host with `.mp4`; a number is added until there is no such file.
fn free_name(url: &SourceUrl) -> PathBuf {
    let host: String = url
        .host()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' })
        .collect();
    let named =
        |n: u32| PathBuf::from(if n == 1 { format!("{host}.mp4") } else { format!("{host}-{n}.mp4") });
    (1..10_000).map(named).find(|p| !p.exists()).unwrap_or_else(|| named(1))
}
