//! What is told while a command runs: lines on standard error and, of a service that is built for it, spans
//! for a collector.

use std::env;
use std::io;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};

use crate::cli::{Command, LogFormat};
use crate::console;
#[cfg(feature = "otlp")]
use crate::otlp::TraceExporter;

/// Variables of OpenTelemetry that say where traces go: either switches them on.
const COLLECTOR_ENV: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Standard error, line by line.
struct StderrWriter {
    /// Whether the cursor may stand at the beginning of the live line, which a shorter line would not cover.
    over_status_line: bool,
}

impl io::Write for StderrWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let erase: &[u8] = if self.over_status_line { b"\x1b[K" } else { b"" };
        // In one piece: other processes of the cast write there, too.
        io::stderr().write_all(&[erase, line].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Without the feature there are none.
#[cfg(not(feature = "otlp"))]
pub(crate) enum TraceExporter {}

#[cfg(not(feature = "otlp"))]
impl TraceExporter {
    pub(crate) fn shutdown(self) {
        match self {}
    }
}

/// Begins to log, and to send traces if there are any: they are to be ended. `RUST_LOG` beats what the
/// command wants.
pub(crate) fn init(command: &Command) -> Option<TraceExporter> {
    let level = command.log_level();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},smithay=warn")));
    let over_live_line = console::stderr_is_terminal();
    let lines = fmt::layer().with_writer(move || StderrWriter { over_status_line: over_live_line });
    let lines = match command {
        Command::Serve(args) if args.log == LogFormat::Json => lines.json().flatten_event(true).boxed(),
        _ => lines.with_target(false).with_ansi(console::stderr_is_terminal()).boxed(),
    };
    let lines = registry().with(lines.with_filter(filter));
    let wanted = COLLECTOR_ENV.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !matches!(command, Command::Serve(_)) || !wanted {
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
            tracing::warn!("there are no traces: {error:#}");
            None
        }
    }
}

#[cfg(not(feature = "otlp"))]
fn init_with_traces(lines: impl tracing_subscriber::util::SubscriberInitExt) -> Option<TraceExporter> {
    lines.init();
    tracing::warn!(
        "this program was built without traces, so {} has no effect: build it with --features otlp, or unset it",
        COLLECTOR_ENV[1]
    );
    None
}
