//! The command line: commands, their options, and the parsers of values.

pub(crate) mod cast;
pub(crate) mod check;

mod health;
mod location;
mod output;
mod page;
pub(crate) mod room;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pagecast_core::spec::Size;
use pagecast_core::{Fps, SpecError};

use crate::console;

const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  done, also when ended by Ctrl-C or SIGTERM
  1  unexpected: a bug, or an encoder failed
  2  a value on the command line is invalid
  3  the page cannot be opened: unknown host, no answer, HTTP error, certificate, not reachable;
     or it was never ready, or the cast ended before it was shown, and nothing was recorded
  4  the recording cannot be written or stored: it exists, no folder, read-only, disk full, wrong keys;
     or the room refuses the page, another publisher took over, or its port is in use
  5  the browser is missing or cannot start, or the page failed its health checks too often";

const CALL_HELP: &str = r#"Examples:
  pagecast call StartWebcast '{"AppId":"demo","RoomId":"room1","TaskId":"task1","UserId":"webcast_1","SourceURL":"https://example.com"}'
  pagecast call GetWebCastTask '{"AppId":"demo","RoomId":"room1","TaskId":"task1"}'
  pagecast call "GET /v1/casts"

Exit codes:
  0  the call succeeded
  1  no answer, or no keys
  2  the service answered with an error, which is printed"#;

const LISTING_HELP: &str = "\
Exit codes:
  0  the list is complete
  1  no answer, or no token
  2  the service answered with an error, which is printed";

const CONSOLE_HELP: &str = "\
Exit codes:
  0  the browser was started, or the link is printed
  1  no answer, or no token
  2  the service answered with an error, which is printed";

/// Turns a web page into live video and recordings
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Record a page to a file, a folder or a bucket, and push it to servers, until Ctrl-C or for a given
    /// time
    #[command(after_help = EXIT_CODES_HELP)]
    Record(Box<RecordArgs>),
    /// Show a page live in a room (WebRTC): in one that Pagecast opens itself, or on a WHIP, LiveKit or Janus
    /// server; with -o and --push, record and push it at the same time
    #[command(after_help = EXIT_CODES_HELP)]
    Cast(Box<CastArgs>),
    /// Open a page once for some seconds without outputs, and report what it shows: load time, failed
    /// requests, console, codecs, sound, CPU
    #[command(after_help = EXIT_CODES_HELP)]
    Check(Box<check::CheckArgs>),
    /// Run the service: the APIs of Volcengine (StartWebcast) and Tencent (StartWebRecord), a REST API,
    /// rooms, callbacks
    Serve(ServeArgs),
    /// Call a service as the vendors' SDKs do: StartWebcast, StopWebcast, GetWebCastTask, StartWebRecord,
    /// StopWebRecord, DescribeWebRecord; or its REST API, as in "GET /v1/casts"
    Call(CallArgs),
    /// List the nodes of a service: their load, roles and leases. Only with the administrator's token
    #[command(after_help = LISTING_HELP)]
    Nodes(NodesArgs),
    /// List the casts of a service, newest first; with the administrator's token those of all applications
    #[command(after_help = LISTING_HELP)]
    Casts(CastsArgs),
    /// Open the console of a service in the browser, signed in with the token; without a display, print a
    /// link that is valid once, for ten minutes
    #[command(after_help = CONSOLE_HELP)]
    Console(ConsoleArgs),
    /// Finish and upload recordings that were interrupted or could not be stored
    #[command(after_help = EXIT_CODES_HELP)]
    Recover(RecoverArgs),
    /// Show and record the demo page through both vendors' APIs, and create a contact sheet of the recording
    Demo(DemoArgs),
    /// Run the cast that standard input describes; started by Pagecast itself
    #[command(hide = true)]
    RunCast {
        /// Log at info level; the supervisor collects the log
        #[arg(long)]
        forward_log: bool,
    },
    /// Check whether this machine has everything a recording needs, and print how to fix what is missing
    Doctor,
}

/// Options of `pagecast record`.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    pub(crate) options: cast::CastOptions,
    #[command(flatten)]
    pub(crate) output: output::OutputOptions,
}

/// Options of `pagecast cast`.
#[derive(Debug, Args)]
pub(crate) struct CastArgs {
    #[command(flatten)]
    pub(crate) options: cast::CastOptions,
    #[command(flatten)]
    pub(crate) room: room::RoomOptions,
    #[command(flatten)]
    pub(crate) output: output::OutputOptions,
}

/// Options of `pagecast serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file [default: pagecast.toml in the current folder, if it exists]; its keys are
    /// documented in docs/reference/config.md
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address and port of the APIs; overrides the configuration [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Folder for casts, recordings and keys; overrides the configuration [default: pagecast-data]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// Check the configuration, print all problems, and exit
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Format of the log on standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log: LogFormat,
}

/// Format of a service's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Human-readable lines
    #[default]
    Pretty,
    /// One JSON object per line
    Json,
}

/// Options of `pagecast call`.
#[derive(Debug, Args)]
#[command(after_help = CALL_HELP)]
pub(crate) struct CallArgs {
    /// An action of either vendor, or a method and a path of the REST API
    pub(crate) action: String,
    /// Parameters of the action, or body of the REST request, as JSON
    pub(crate) body: Option<String>,
    /// Address of the service
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) endpoint: String,
    /// File with the keys; not needed if PAGECAST_CALL_KEY and PAGECAST_CALL_SECRET (for the REST API
    /// PAGECAST_CALL_TOKEN) are set
    #[arg(long, default_value = "pagecast-data/credentials.json", value_name = "FILE")]
    pub(crate) credentials: PathBuf,
}

/// Options of commands that ask a service.
#[derive(Debug, Args)]
pub(crate) struct ServiceOptions {
    /// Address of the service
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// File with the token; not needed if PAGECAST_CALL_TOKEN is set
    #[arg(long, default_value = "pagecast-data/credentials.json", value_name = "FILE")]
    pub(crate) credentials: PathBuf,
    /// Print one JSON object for each entry instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `pagecast nodes`.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    pub(crate) service: ServiceOptions,
}

/// Options of `pagecast casts`.
#[derive(Debug, Args)]
pub(crate) struct CastsArgs {
    #[command(flatten)]
    pub(crate) service: ServiceOptions,
    /// Only casts in these states: queued, starting, live, ended; several with commas
    #[arg(long, default_value = "queued,starting,live", value_name = "STATES")]
    pub(crate) state: String,
}

/// Options of `pagecast console`.
#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// Address of the service
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) url: String,
    /// File with the token; not needed if PAGECAST_CALL_TOKEN is set
    #[arg(long, default_value = "pagecast-data/credentials.json", value_name = "FILE")]
    pub(crate) credentials: PathBuf,
    /// Print the link instead of starting a browser
    #[arg(long)]
    pub(crate) print: bool,
}

/// Options of `pagecast recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The spool of a recording (NAME.spool), or a folder with spools at any depth
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// How long to wait for a storage that does not answer, for each recording
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) upload_timeout: Duration,
    /// Print the result as one JSON object for each recording on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `pagecast demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder for demo.mp4 and demo.png
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// How long to record
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

impl Command {
    /// Returns the log level, which `RUST_LOG` overrides. On a terminal, the status line replaces info
    /// messages.
    pub(crate) fn log_level(&self) -> &'static str {
        let quiet = match self {
            Self::Record(args) => args.options.quiet || console::stderr_is_terminal(),
            Self::Cast(args) => args.options.quiet || console::stderr_is_terminal(),
            Self::Recover(_) | Self::Serve(_) => false,
            Self::Demo(_) => console::stderr_is_terminal(),
            Self::RunCast { forward_log } => !forward_log,
            Self::Doctor
            | Self::Check(_)
            | Self::Call(_)
            | Self::Nodes(_)
            | Self::Casts(_)
            | Self::Console(_) => true,
        };
        if quiet { "warn" } else { "info" }
    }
}

fn parse_size(text: &str) -> Result<Size, String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let (width, height) = sides.ok_or("write width and height like 1280x720")?;
    Size::new(width, height).map_err(|e| e.to_string())
}

fn parse_fps(text: &str) -> Result<Fps, String> {
    let fps: u32 = text.parse().map_err(|_| "write a whole number from 1 to 60")?;
    Fps::new(fps).ok_or_else(|| SpecError::Fps(fps).to_string())
}

/// Parses a bitrate to kbit/s: `3M`, `2500k`, `1.5Mbit/s` or `2500`, which without a unit is kbit/s.
fn parse_kbps(text: &str) -> Result<u32, String> {
    const HELP: &str = "write a bitrate like 3M, 2500k or 2500 (kbit/s)";
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bits_per_s = match unit {
        "" | "k" | "K" | "kbit" | "Kbit" | "kbit/s" | "Kbit/s" | "kbps" | "Kbps" => 1e3,
        "M" | "m" | "Mbit" | "mbit" | "Mbit/s" | "mbit/s" | "Mbps" | "mbps" => 1e6,
        "bit" | "bit/s" | "bps" => 1.0,
        _ => return Err(HELP.into()),
    };
    let number: f64 = number.parse().map_err(|_| HELP)?;
    // Saturates: a value beyond the type is also out of the range that is checked later.
    Ok((number * bits_per_s / 1e3).round() as u32)
}

/// Parses a size to bytes: `800M`, `2G`, or a plain number of bytes.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let help = || "write a size like 800M or 2G".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" => 0,
        "M" => 20,
        "G" => 30,
        _ => return Err(help()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(help)
}

/// Parses a time: `90` (seconds), `10s`, `1m30s`, `1.5h`, `500ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "write a time like 10s, 1m30s or 2h";
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let factor = match unit {
            "ms" => 0.001,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(HELP.into()),
        };
        seconds += number.parse::<f64>().map_err(|_| HELP)? * factor;
        rest = next;
    }
    if text.is_empty() {
        Err(HELP.into())
    } else {
        Duration::try_from_secs_f64(seconds).map_err(|_| HELP.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn times() {
        for (text, ms) in
            [("10s", 10_000), ("90", 90_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("500ms", 500)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "10x", "-5s", "1..5s", "10 s", "1e999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bitrates() {
        for (text, kbps) in [
            ("3M", 3000),
            ("3m", 3000),
            ("2500k", 2500),
            ("2500", 2500),
            ("1.5Mbit/s", 1500),
            ("3Mbit", 3000),
            ("800kbps", 800),
            ("2500000bit/s", 2500),
            ("0", 0),
            ("99999999999M", u32::MAX),
        ] {
            assert_eq!(parse_kbps(text), Ok(kbps), "{text}");
        }
        for bad in ["", "M", "3MB", "3 M", "-3M", "3G", "1..5M", "3MiB", "x", "NaN", "inf", "1e3"] {
            assert!(parse_kbps(bad).is_err_and(|message| message.contains("3M")), "{bad}");
        }
    }

    #[test]
    fn bytes() {
        for (text, bytes) in [("800M", 800 << 20), ("2G", 2 << 30), ("5", 5)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "2T", "-1G", "99999999999999999G", "1.5G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1920x1080").unwrap().to_string(), "1920x1080");
        for bad in ["", "1280", "1280x", "1281x720", "10x10", "1280x720x3", "-1x5", "99999999999x2"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
