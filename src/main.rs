//! `pagecast`: the command line. Everything it does is done by the crates under `crates/`.

mod cli;
mod demo;
mod doctor;
mod failure;
mod live;
mod record;
mod recover;
mod screen;

use std::process::ExitCode;

use clap::Parser;
use pagecast_worker::process;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let started = process::now();
    let cli = Cli::parse();
    pagecast_media::quieten();
    log_to_stderr(cli.command.log_level());
    let done = match cli.command {
        Command::Record(args) => record::run(&args, started),
        Command::Cast(args) => live::run(&args, started),
        Command::Recover(args) => recover::run(&args),
        Command::Demo(args) => demo::run(&args, started),
        Command::RunCast => Ok(process::run_inside(&record::stop_by_signals())),
        Command::Doctor => doctor::run(),
    };
    done.unwrap_or_else(|failure| {
        screen::say(&format!("error: {failure}"));
        failure.exit_code()
    })
}

/// `RUST_LOG` beats what the command wants.
fn log_to_stderr(level: &str) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},smithay=warn")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(screen::stderr_is_terminal())
        .init();
}
