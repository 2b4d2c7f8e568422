//! What is told while a command runs: lines on standard error and, of a service that is built for it, spans
//! for a collector.

use std::env;
use std::io;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};

use crate::cli::{Command, LogFormat};
use crate::screen;
#[cfg(feature = "otlp")]
use crate::traces::Traces;

/// Variables of OpenTelemetry that say where traces go: either switches them on.
const COLLECTOR: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Standard error, line by line.
struct Lines {
    /// Whether the cursor may stand at the beginning of the live line, which a shorter line would not cover.
    over_live_line: bool,
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let erase: &[u8] = if self.over_live_line { b"\x1b[K" } else { b"" };
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
pub(crate) enum Traces {}

#[cfg(not(feature = "otlp"))]
impl Traces {
    pub(crate) fn end(self) {
        match self {}
    }
}

/// Begins to log, and to send traces if there are any: they are to be ended. `RUST_LOG` beats what the
/// command wants.
pub(crate) fn start(command: &Command) -> Option<Traces> {
    let level = command.log_level();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},smithay=warn")));
    let over_live_line = screen::stderr_is_terminal();
    let lines = fmt::layer().with_writer(move || Lines { over_live_line });
    let lines = match command {
        Command::Serve(args) if args.log == LogFormat::Json => lines.json().flatten_event(true).boxed(),
        _ => lines.with_target(false).with_ansi(screen::stderr_is_terminal()).boxed(),
    };
    let lines = registry().with(lines.with_filter(filter));
    let wanted = COLLECTOR.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !matches!(command, Command::Serve(_)) || !wanted {
        lines.init();
        return None;
    }
    with_traces(lines)
}

#[cfg(feature = "otlp")]
fn with_traces<S>(lines: S) -> Option<Traces>
where
    S: tracing::Subscriber + Send + Sync + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    match Traces::begin() {
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
fn with_traces(lines: impl tracing_subscriber::util::SubscriberInitExt) -> Option<Traces> {
    lines.init();
    tracing::warn!(
        "this program was built without traces, so {} has no effect: build it with --features otlp, or unset it",
        COLLECTOR[1]
    );
    None
}
