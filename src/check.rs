//! `pagecast check`: opens a page once, and prints what was found.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pagecast_core::dry_run::{Codecs, DryRunReport};
use pagecast_server::PageCheck;
use pagecast_worker::cast;

use crate::cli::check::CheckArgs;
use crate::console::{self, printable};
use crate::error::CommandError;
use crate::record;

/// Beginning of the picture in a report.
const PICTURE_PREFIX: &str = "data:image/jpeg;base64,";

pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode, CommandError> {
    let spec = args.spec().map_err(cast::Error::from)?;
    // Invalid values are reported before a browser is started.
    spec.validate().map_err(cast::Error::from)?;
    let outcome = record::start_process()?.dry_run(&spec);
    let picture = outcome.report.picture.clone();
    if args.json {
        let json = serde_json::to_string(&PageCheck::from(outcome.report));
        console::print_result(&json.context("cannot write the report as JSON")?);
    } else {
        describe(&outcome.report).iter().for_each(|line| console::print_result(line));
    }
    if let (Some(path), Some(picture)) = (&args.output, picture) {
        write_picture(path, &picture)?;
    }
    outcome.failure.map_or(Ok(ExitCode::SUCCESS), |failure| Err(failure.into()))
}

fn write_picture(path: &Path, picture: &str) -> Result<(), CommandError> {
    let jpeg =
        STANDARD.decode(picture.trim_start_matches(PICTURE_PREFIX)).context("cannot decode the picture")?;
    std::fs::write(path, jpeg).map_err(|error| {
        CommandError::output_failed(anyhow!(error).context(format!("cannot write {}", path.display())))
    })
}

/// The report as lines of text. What comes from the page cannot control the terminal.
fn describe(report: &DryRunReport) -> Vec<String> {
    let mut lines = Vec::new();
    let title = if report.title.is_empty() { "(no title)" } else { &report.title };
    let status = report.http_status.map(|status| format!(" (HTTP {status})")).unwrap_or_default();
    lines.push(printable(title));
    lines.push(format!("{}{status}", printable(&report.url)));
    let mut row = |name: &str, value: String| lines.push(format!("{name:<12}{value}"));
    let seconds =
        |ms: Option<u64>| ms.map_or("no".to_owned(), |ms| format!("after {:.1} s", ms as f64 / 1000.0));
    row("loaded", seconds(report.load_ms));
    row("ready", seconds(report.ready_ms));
    if report.ready_ms.is_some() {
        row("drawing", format!("{:.1} pictures per second", report.fps));
        row("CPU", format!("{:.2} cores, encoders not included", report.cpu_cores));
        row("memory", format!("{} MB", report.memory_bytes / 1_000_000));
        row("sound", describe_sound(report));
        row("autoplay", if report.autoplay { "allowed" } else { "not allowed" }.to_owned());
    }
    row("codecs", describe_codecs(report.codecs));
    for warning in &report.warnings {
        row("warning", printable(&warning.message));
    }
    for request in &report.failed_requests {
        let text = format!("{} {}: {}", request.resource_type, request.url, request.reason);
        row("failed", printable(&text));
    }
    for message in &report.console {
        let first_line = message.text.lines().next().unwrap_or_default();
        row("console", printable(&format!("{}: {first_line}", message.level)));
    }
    lines
}

fn describe_sound(report: &DryRunReport) -> String {
    let decibels =
        |peak: f32| if peak > 0.0 { format!("{:.0} dB", 20.0 * peak.log10()) } else { "silent".into() };
    match report.sound.streams {
        0 => "none".to_owned(),
        streams => {
            let [left, right] = report.sound.peak.map(decibels);
            let streams = if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams") };
            format!("{streams}, loudest {left} left, {right} right")
        }
    }
}

fn describe_codecs(codecs: Codecs) -> String {
    let Codecs { h264, vp8, vp9, av1, aac, opus } = codecs;
    let all = [(h264, "H.264"), (vp8, "VP8"), (vp9, "VP9"), (av1, "AV1"), (aac, "AAC"), (opus, "Opus")];
    let played: Vec<&str> = all.into_iter().filter(|(plays, _)| *plays).map(|(_, name)| name).collect();
    if played.is_empty() { "none".to_owned() } else { played.join(", ") }
}

#[cfg(test)]
mod tests {
    use pagecast_core::dry_run::{ConsoleMessage, FailedRequest, SoundStats};

    use super::*;

    #[test]
    fn the_report_is_readable_and_cannot_control_the_terminal() {
        let report = DryRunReport {
            url: "http://a.example/".to_owned(),
            title: "A\u{1b}[2J title".to_owned(),
            http_status: Some(200),
            load_ms: Some(1234),
            ready_ms: Some(900),
            failed_requests: vec![FailedRequest {
                url: "http://a.example/x.js".to_owned(),
                reason: "the server answered HTTP 404".to_owned(),
                status: Some(404),
                resource_type: "script".to_owned(),
            }],
            console: vec![ConsoleMessage { level: "error".to_owned(), text: "one\ntwo".to_owned() }],
            codecs: Codecs { h264: true, opus: true, ..Codecs::default() },
            sound: SoundStats { streams: 1, peak: [0.1, 0.0] },
            fps: 29.97,
            cpu_cores: 0.256,
            memory_bytes: 210_000_000,
            autoplay: true,
            ..DryRunReport::default()
        };
        let expected = "A?[2J title\n\
                        http://a.example/ (HTTP 200)\n\
                        loaded      after 1.2 s\n\
                        ready       after 0.9 s\n\
                        drawing     30.0 pictures per second\n\
                        CPU         0.26 cores, encoders not included\n\
                        memory      210 MB\n\
                        sound       1 stream, loudest -20 dB left, silent right\n\
                        autoplay    allowed\n\
                        codecs      H.264, Opus\n\
                        failed      script http://a.example/x.js: the server answered HTTP 404\n\
                        console     error: one";
        assert_eq!(describe(&report).join("\n"), expected);
        let empty = describe(&DryRunReport::default()).join("\n");
        assert!(empty.contains("(no title)") && empty.contains("loaded      no"), "{empty}");
    }
}
