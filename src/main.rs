//! `pagecast`: the command line. Everything it does is done by the crates under `crates/`.

mod call;
mod cli;
mod demo;
mod doctor;
mod failure;
mod live;
mod record;
mod recover;
mod screen;
mod serve;

use std::process::ExitCode;

use clap::Parser;
use pagecast_worker::process;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let started = process::now();
    let cli = Cli::parse();
    pagecast_media::quieten();
    log_to_stderr(&cli.command);
    let done = match cli.command {
        Command::Record(args) => record::run(&args, started),
        Command::Cast(args) => live::run(&args, started),
        Command::Serve(args) => serve::run(&args),
        Command::Call(args) => call::run(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::RunCast => Ok(process::run_inside(&record::stop_by_signals())),
        Command::Doctor => doctor::run(),
    };
    done.unwrap_or_else(|failure| {
        screen::say(&format!("error: {failure}"));
        failure.exit_code()
    })
}

/// `RUST_LOG` beats what the command wants.
fn log_to_stderr(command: &Command) {
    let level = command.log_level();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},smithay=warn")));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if matches!(command, Command::Serve(args) if args.log == cli::LogFormat::Json) {
        log.json().flatten_event(true).init();
    } else {
        log.with_target(false).with_ansi(screen::stderr_is_terminal()).init();
    }
}
