//! `pagecast`: the command line. Everything it does is done by the crates under `crates/`.

mod call;
mod cli;
mod demo;
mod doctor;
mod failure;
mod live;
mod log;
mod record;
mod recover;
mod screen;
mod serve;
#[cfg(feature = "otlp")]
mod traces;

use std::process::ExitCode;

use clap::Parser;
use pagecast_worker::process;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let started = process::now();
    let cli = Cli::parse();
    pagecast_media::quieten();
    let traces = log::start(&cli.command);
    let done = match cli.command {
        Command::Record(args) => record::run(&args, started),
        Command::Cast(args) => live::run(&args, started),
        Command::Serve(args) => serve::run(&args),
        Command::Call(args) => call::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::RunCast { .. } => Ok(process::run_inside(&record::stop_by_signals())),
        Command::Doctor => doctor::run(),
    };
    if let Some(traces) = traces {
        traces.end();
    }
    done.unwrap_or_else(|failure| {
        screen::say(&format!("error: {failure}"));
        failure.exit_code()
    })
}
