//! The process of a cast: what `pagecast run-cast` does.

use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pagecast_core::{CastSpec, HostTime};
use rustix::process::{Signal, kill_current_process_group};

use super::{FailureInfo, HEARTBEAT_INTERVAL, Message, Outcome, ProcessCommand, STOP_TIMEOUT, next_line};
use crate::cast::{self, Assignment, CastEvent, ChangeSender, Failure, StopToken, WarmBrowser};
use crate::{chain, dry_run};

/// Runs the cast that the supervisor sends on standard input, and reports on standard output. `stop` stops
/// it, as the supervisor can.
#[must_use]
pub fn run(stop: &StopToken) -> ExitCode {
    let (assignment_sender, assignments) = sync_channel(1);
    let (change_sender, changes) = cast::change_queue();
    let reader = std::thread::Builder::new().name("commands".into()).spawn({
        let stop = stop.clone();
        move || read_commands(assignment_sender, change_sender, &stop)
    });
    if let Err(error) = reader {
        tracing::error!(%error, "cannot start the commands thread");
        return ExitCode::FAILURE;
    }
    let heartbeat = std::thread::Builder::new().name("heartbeat".into()).spawn({
        let stop = stop.clone();
        move || send_heartbeats(&stop)
    });
    if let Err(error) = heartbeat {
        tracing::error!(%error, "cannot start the heartbeat thread");
        return ExitCode::FAILURE;
    }
    let on_event = |event: CastEvent| send_message(&Message::Event(event));
    let result = match receive_assignment(&assignments) {
        Some(Work::Run(assignment, started, warm)) => {
            cast::run(&assignment, started, stop, warm.map(|warm| *warm), &changes, on_event)
        }
        Some(Work::Finish(assignment)) => cast::finish(&assignment, stop, on_event),
        Some(Work::DryRun(spec)) => {
            send_message(&Message::DryRunDone(Box::new(dry_run::run(&spec))));
            return ExitCode::SUCCESS;
        }
        None => return ExitCode::FAILURE,
    };
    let outcome = match result {
        Ok(report) => Outcome { report: Some(report), failure: None },
        Err(Failure { error, report }) => {
            let cause = error.load_error();
            let failure = FailureInfo { cause, ..FailureInfo::new(error.kind(), chain(&error)) };
            Outcome { report: report.map(|r| *r), failure: Some(failure) }
        }
    };
    send_message(&Message::Done(Box::new(outcome)));
    ExitCode::SUCCESS
}

/// What this process has to do.
enum Work {
    Run(Box<Assignment>, HostTime, Option<Box<WarmBrowser>>),
    Finish(Box<Assignment>),
    DryRun(Box<CastSpec>),
}

/// Waits for the assignment, and starts a warm browser first if told to.
fn receive_assignment(commands: &Receiver<ProcessCommand>) -> Option<Work> {
    let mut warm = None;
    loop {
        match commands.recv().ok()? {
            ProcessCommand::WarmUp(spec) => match WarmBrowser::start(&spec) {
                Ok(ready) => {
                    warm = Some(Box::new(ready));
                    send_message(&Message::BrowserReady);
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "cannot start warm browser");
                    return None;
                }
            },
            ProcessCommand::Run(assignment, started) => {
                return Some(Work::Run(assignment, HostTime(started), warm));
            }
            ProcessCommand::Finish(assignment) => return Some(Work::Finish(assignment)),
            ProcessCommand::DryRun(spec) => return Some(Work::DryRun(spec)),
            ProcessCommand::Stop | ProcessCommand::Change(_) | ProcessCommand::ExitOnDisconnect => {
                return None;
            }
        }
    }
}

/// Reads commands and passes them on; a stop takes effect at once. The cast stops when the commands end.
fn read_commands(assignments: SyncSender<ProcessCommand>, changes: ChangeSender, stop: &StopToken) {
    let mut lines = BufReader::new(io::stdin());
    let mut exit_on_disconnect = false;
    while let Some(line) = next_line(&mut lines) {
        match serde_json::from_slice(&line) {
            Ok(ProcessCommand::Stop) => stop.request(),
            Ok(ProcessCommand::ExitOnDisconnect) => exit_on_disconnect = true,
            Ok(ProcessCommand::Change(change)) => {
                if !changes.send(change) {
                    tracing::warn!("change dropped: queue full or cast ended");
                }
            }
            Ok(command) => {
                // A process runs one cast; a second assignment is ignored.
                let _ignored = assignments.try_send(command);
            }
            Err(error) => tracing::error!(%error, "malformed command from supervisor"),
        }
    }
    if exit_on_disconnect {
        // The janitor kills the browser.
        let _gone = kill_current_process_group(Signal::KILL);
    }
    // Wakes the main thread if it still waits for an assignment.
    drop((assignments, changes));
    stop.request();
    std::thread::sleep(STOP_TIMEOUT);
    tracing::error!("cast did not stop after losing its supervisor, aborting");
    std::process::abort();
}

/// Sends heartbeats with the time since the main loop last checked for a stop request.
fn send_heartbeats(stop: &StopToken) {
    loop {
        let idle_ms = u64::try_from(stop.time_since_check().as_millis()).unwrap_or(u64::MAX);
        send_message(&Message::Heartbeat { idle_ms });
        std::thread::sleep(HEARTBEAT_INTERVAL);
    }
}

fn send_message(message: &Message) {
    let Ok(mut line) = serde_json::to_vec(message) else { return };
    line.push(b'\n');
    // That the supervisor is gone also shows at the end of the commands.
    let _disconnected = io::stdout().lock().write_all(&line).and_then(|()| io::stdout().flush());
}
