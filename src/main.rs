//! The program `pagecast`: its command line, signals, logging and exit codes. The crates under `crates/` do
//! the work.

mod call;
mod cast;
mod check;
mod cli;
mod console;
mod demo;
mod doctor;
mod error;
mod listing;
mod log;
#[cfg(feature = "otlp")]
mod otlp;
mod record;
mod recover;
mod serve;
mod web_console;

use std::process::ExitCode;

use clap::Parser;
use pagecast_worker::process;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let started = process::now();
    let cli = Cli::parse();
    pagecast_media::init_libav_logging();
    let traces = log::init(&cli.command);
    let result = match cli.command {
        Command::Record(args) => record::run(&args, started),
        Command::Cast(args) => cast::run(&args, started),
        Command::Check(args) => check::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Call(args) => call::run(&args),
        Command::Nodes(args) => listing::nodes(&args),
        Command::Casts(args) => listing::casts(&args),
        Command::Console(args) => web_console::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::RunCast { .. } => Ok(process::run_inside(&record::stop_on_signals())),
        Command::Doctor => doctor::run(),
    };
    if let Some(traces) = traces {
        traces.shutdown();
    }
    result.unwrap_or_else(|failure| {
        console::print_message(&format!("error: {failure}"));
        failure.exit_code()
    })
}
