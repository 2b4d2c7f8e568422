//! Logging: lines on standard error and, for a service built with the feature `otlp`, spans for a collector.

use std::env;
use std::io;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};

use crate::cli::{Command, LogFormat};
use crate::console;
#[cfg(feature = "otlp")]
use crate::otlp::TraceExporter;

/// OpenTelemetry's variables with the address of the collector: either one switches traces on.
const COLLECTOR_ENV: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Writes lines to standard error.
struct StderrWriter {
    /// Whether the cursor may be at the start of the status line, whose end would stay visible behind a
    /// shorter line.
    over_status_line: bool,
}

impl io::Write for StderrWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let erase: &[u8] = if self.over_status_line { b"\x1b[K" } else { b"" };
        // In one write, as other processes of the cast write there, too.
        io::stderr().write_all(&[erase, line].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Without the feature `otlp` there is no exporter.
#[cfg(not(feature = "otlp"))]
pub(crate) enum TraceExporter {}

#[cfg(not(feature = "otlp"))]
impl TraceExporter {
    pub(crate) fn shutdown(self) {
        match self {}
    }
}

/// Starts the log, and the export of traces if it is configured, which is to be shut down at the end.
/// `RUST_LOG` overrides the command's level.
pub(crate) fn init(command: &Command) -> Option<TraceExporter> {
    let level = command.log_level();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},smithay=warn")));
    let over_status_line = console::stderr_is_terminal();
    let lines = fmt::layer().with_writer(move || StderrWriter { over_status_line });
    let lines = match command {
        Command::Serve(args) if args.log == LogFormat::Json => lines.json().flatten_event(true).boxed(),
        _ => lines.with_target(false).with_ansi(console::stderr_is_terminal()).boxed(),
    };
    let lines = registry().with(lines.with_filter(filter));
    let configured =
        COLLECTOR_ENV.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !matches!(command, Command::Serve(_)) || !configured {
        lines.init();
        return None;
    }
    init_with_traces(lines)
}

#[cfg(feature = "otlp")]
fn init_with_traces<S>(lines: S) -> Option<TraceExporter>
where
    S: tracing::Subscriber + Send + Sync + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    match TraceExporter::start() {
        Ok(traces) => {
            lines.with(traces.layer()).init();
            Some(traces)
        }
        Err(error) => {
            lines.init();
            tracing::warn!(error = format!("{error:#}"), "trace export disabled");
            None
        }
    }
}

#[cfg(not(feature = "otlp"))]
fn init_with_traces(lines: impl tracing_subscriber::util::SubscriberInitExt) -> Option<TraceExporter> {
    lines.init();
    tracing::warn!(variable = COLLECTOR_ENV[1], "variable has no effect, built without feature otlp");
    None
}
