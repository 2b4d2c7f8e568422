//! What is told while a command runs: lines on standard error and, of a service that is built for it, spans for a collector.

use std::env;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};

use crate::cli::{Command, LogFormat};
use crate::screen;
#[cfg(feature = "otlp")]
use crate::traces::Traces;

/// Variables of OpenTelemetry that say where traces go: either switches them on.
const COLLECTOR: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Without the feature there is nothing to send.
#[cfg(not(feature = "otlp"))]
struct Traces;

/// What is to be ended when the command has.
pub(crate) struct Log(Option<Traces>);

/// Begins to log. `RUST_LOG` beats what the command wants.
pub(crate) fn start(command: &Command) -> Log {
    let level = command.log_level();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},smithay=warn")));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match command {
        Command::Serve(args) if args.log == LogFormat::Json => lines.json().flatten_event(true).boxed(),
        _ => lines.with_target(false).with_ansi(screen::stderr_is_terminal()).boxed(),
    };
    let lines = registry().with(lines.with_filter(filter));
    let wanted = COLLECTOR.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()));
    if !matches!(command, Command::Serve(_)) || !wanted {
        lines.init();
        return Log(None);
    }
    with_traces(lines)
}

#[cfg(feature = "otlp")]
fn with_traces<S>(lines: S) -> Log
where
    S: tracing::Subscriber + Send + Sync + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    match Traces::begin() {
        Ok(traces) => {
            lines.with(traces.layer()).init();
            Log(Some(traces))
        }
        Err(error) => {
            lines.init();
            tracing::warn!("there are no traces: {error:#}");
            Log(None)
        }
    }
}

#[cfg(not(feature = "otlp"))]
fn with_traces(lines: impl SubscriberInitExt) -> Log {
    lines.init();
    tracing::warn!(
        "this program was built without traces, so {} has no effect: build it with --features otlp, or unset it",
        COLLECTOR[1]
    );
    Log(None)
}

impl Log {
    /// Sends what is left to be sent.
    #[cfg_attr(not(feature = "otlp"), expect(clippy::unused_self, reason = "there is nothing to send"))]
    pub(crate) fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.0 {
            traces.end();
        }
    }
}
