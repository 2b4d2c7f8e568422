//! What can be typed.

pub(crate) mod cast;

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
  1  unexpected: a bug, or an encoder that failed
  2  a value on the command line is wrong
  3  the page cannot be opened: unknown host, no answer, HTTP error, certificate, out of reach;
     or it never became ready, or the end came before it was there, and nothing was recorded
  4  the recording cannot be written or stored: it exists, no folder, read-only, disk full, wrong keys;
     or the room refuses the page, somebody else took its place, or its port is in use
  5  the browser is missing or cannot start, or the page was in trouble too often";

const CALL_HELP: &str = "\
Examples:
  pagecast call StartWebcast '{\"AppId\":\"demo\",\"RoomId\":\"room1\",\"TaskId\":\"task1\",\"UserId\":\"webcast_1\",\"SourceURL\":\"https://example.com\"}'
  pagecast call GetWebCastTask '{\"AppId\":\"demo\",\"RoomId\":\"room1\",\"TaskId\":\"task1\"}'
  pagecast call \"GET /v1/casts\"

Exit codes:
  0  the service did it
  1  no answer, or no keys
  2  the service answered with an error, which is printed";

/// Turns a web page into live video and recordings
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Record a page to a file, a folder or a bucket, and push it to servers, until Ctrl-C or for a given
    /// time
    #[command(after_help = EXIT_CODES_HELP)]
    Record(Box<RecordArgs>),
    /// Show a page live in a room (WebRTC): in one that Pagecast opens itself, or on a server that speaks
    /// WHIP, LiveKit or Janus; with -o and --push, record and push it meanwhile
    #[command(after_help = EXIT_CODES_HELP)]
    Cast(Box<CastArgs>),
    /// Run casts for others: the APIs of Volcengine (StartWebcast) and Tencent (StartWebRecord), a REST API,
    /// rooms, callbacks
    Serve(ServeArgs),
    /// Ask a service as the clouds' own SDKs do: StartWebcast, StopWebcast, GetWebCastTask, StartWebRecord,
    /// StopWebRecord, DescribeWebRecord; or its REST API, as in "GET /v1/casts"
    Call(CallArgs),
    /// Finish and store recordings that were broken off, or could not be stored
    #[command(after_help = EXIT_CODES_HELP)]
    Recover(RecoverArgs),
    /// Show and record the page that comes with Pagecast, by both clouds' APIs, and make a picture of what
    /// came out
    Demo(DemoArgs),
    /// Run the cast that standard input describes; started by Pagecast itself
    #[command(hide = true)]
    RunCast {
        /// Somebody keeps what is logged
        #[arg(long)]
        forward_log: bool,
    },
    /// Check that everything a recording needs is there, and say how to mend what is not
    Doctor,
}

/// `pagecast record`.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    pub(crate) options: cast::CastOptions,
    #[command(flatten)]
    pub(crate) output: output::OutputOptions,
}

/// `pagecast cast`.
#[derive(Debug, Args)]
pub(crate) struct CastArgs {
    #[command(flatten)]
    pub(crate) options: cast::CastOptions,
    #[command(flatten)]
    pub(crate) room: room::RoomOptions,
    #[command(flatten)]
    pub(crate) output: output::OutputOptions,
}

/// `pagecast serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file [default: pagecast.toml in the current folder, if there is one]; its keys are in
    /// docs/reference/config.md
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address and port of the APIs, instead of the configuration's [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Folder for casts, recordings and keys, instead of the configuration's [default: pagecast-data]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// Check the configuration, print all that is wrong with it, and exit
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Format of the log on standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log: LogFormat,
}

/// How a service logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Pretty,
    /// One JSON object per line
    Json,
}

/// `pagecast call`.
#[derive(Debug, Args)]
#[command(after_help = CALL_HELP)]
pub(crate) struct CallArgs {
    /// An action of either cloud, or a method and a path of the REST API
    pub(crate) action: String,
    /// Parameters of the action, or body of the request, as JSON
    pub(crate) body: Option<String>,
    /// Address of the service
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) endpoint: String,
    /// File with the keys, unless PAGECAST_CALL_KEY and PAGECAST_CALL_SECRET (PAGECAST_CALL_TOKEN for the
    /// REST API) are set
    #[arg(long, default_value = "pagecast-data/credentials.json", value_name = "FILE")]
    pub(crate) credentials: PathBuf,
}

/// `pagecast recover`.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// The spool of a recording (NAME.spool), or a folder with some in it or in the folders below it
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// How long to wait for a storage that does not answer
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) upload_timeout: Duration,
    /// Print the result as one JSON object for each recording on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// `pagecast demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where to put demo.mp4 and demo.png
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// How long to record
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Duration,
}

impl Command {
    /// What is logged unless `RUST_LOG` says otherwise. On a terminal the live line tells the usual things.
    pub(crate) fn log_level(&self) -> &'static str {
        let quiet = match self {
            Self::Record(args) => args.options.quiet || console::stderr_is_terminal(),
            Self::Cast(args) => args.options.quiet || console::stderr_is_terminal(),
            Self::Recover(_) | Self::Serve(_) => false,
            Self::Demo(_) => console::stderr_is_terminal(),
            Self::RunCast { forward_log: heard } => !heard,
            Self::Doctor | Self::Call(_) => true,
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

/// A bitrate in kbit/s, of `3M`, `2500k`, `1.5Mbit/s` or `2500`: without a unit it is kbit/s.
fn parse_kbps(text: &str) -> Result<u32, String> {
    const HELP: &str = "write a bitrate like 3M, 2500k or 2500, which is in kbit/s";
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bits_per_s = match unit {
        "" | "k" | "K" | "kbit" | "Kbit" | "kbit/s" | "Kbit/s" | "kbps" | "Kbps" => 1e3,
        "M" | "m" | "Mbit" | "mbit" | "Mbit/s" | "mbit/s" | "Mbps" | "mbps" => 1e6,
        "bit" | "bit/s" | "bps" => 1.0,
        _ => return Err(HELP.into()),
    };
    let number: f64 = number.parse().map_err(|_| HELP)?;
    // What is larger than the type is out of the range that is checked later, too.
    Ok((number * bits_per_s / 1e3).round() as u32)
}

/// `800M`, `2G`, or bytes.
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

/// `90`, `10s`, `1m30s`, `1.5h`, `500ms`.
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
    fn the_command_line_is_sound() {
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
            assert!(parse_kbps(bad).is_err_and(|said| said.contains("3M")), "{bad}");
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
