//! `pagecast record`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use pagecast_core::CastSpec;
use pagecast_core::spec::{Checks, Limits, Network, Recording, Source, SourceUrl};
use pagecast_worker::cast::{self, Report, Stop};

use crate::cli;
use crate::failure::Failure;
use crate::screen::{self, LiveLine};

pub(crate) fn run(args: &cli::Record, started: Instant) -> Result<ExitCode, Failure> {
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
        readiness: args.page.readiness(),
        checks: Checks::default(),
        limits: Limits::default(),
        network: Network::default(),
    };
    let outcome = cast(&spec, started, args.quiet || args.json);
    let report = match &outcome {
        Ok(report) => Some(report),
        Err(failure) => failure.report.as_deref(),
    };
    if let Some(report) = report {
        if args.json {
            screen::print(&serde_json::to_string(report).context("the report cannot be written as JSON")?);
        } else if !args.quiet {
            screen::say(&screen::summary(&spec.source, report));
        }
    }
    outcome.map(|_| ExitCode::SUCCESS).map_err(|failure| failure.error.into())
}

/// Runs a cast until it is over or a signal ends it, with a live line meanwhile.
pub(crate) fn cast(spec: &CastSpec, started: Instant, quiet: bool) -> Result<Report, cast::Failure> {
    let stop = Stop::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal ends the program at once: the file plays to its last fragment.
        for registered in [
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.flag()),
            signal_hook::flag::register(signal, stop.flag()),
        ] {
            if let Err(error) = registered {
                tracing::warn!(%error, signal, "this signal will not end the recording properly");
            }
        }
    }
    let mut line = LiveLine::new(quiet);
    let outcome = cast::run(spec, started, &stop, |progress| line.show(progress));
    line.clear();
    outcome
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
