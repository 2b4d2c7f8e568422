//! The cast's side: what `pagecast run-cast` does.

use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use pagecast_core::{CastSpec, HostTime};
use pagecast_page::clock;
use rustix::process::{Signal, kill_current_process_group};

use super::{
    FailureInfo, HEARTBEAT_INTERVAL, MAX_QUEUED_CHANGES, Message, Outcome, ProcessCommand, STOP_TIMEOUT,
    next_line,
};
use crate::cast::{self, CastEvent, Change, Failure, StopToken, WarmBrowser};
use crate::chain;

/// Runs the cast that standard input describes, and tells standard output about it. `stop` ends it, as the
/// supervisor does.
#[must_use]
pub fn run(stop: &StopToken) -> ExitCode {
    let (orders, todo) = sync_channel(1);
    let (change, changes) = sync_channel(MAX_QUEUED_CHANGES);
    let listener = std::thread::Builder::new().name("orders".into()).spawn({
        let stop = stop.clone();
        move || read_commands(orders, change, &stop)
    });
    if let Err(error) = listener {
        tracing::error!(%error, "cannot listen to the supervisor");
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
    let tell = |news: CastEvent| send_message(&Message::Event(news));
    let done = match receive_assignment(&todo) {
        Some(Assignment::Run(spec, started, warm)) => {
            cast::run(&spec, to_instant(started), stop, warm.map(|warm| *warm), &changes, tell)
        }
        Some(Assignment::Finish(spec)) => cast::finish(&spec, stop, tell),
        None => return ExitCode::FAILURE,
    };
    let outcome = match done {
        Ok(report) => Outcome { report: Some(report), failure: None },
        Err(Failure { error, report }) => {
            let cause = error.load_error();
            let failed = FailureInfo { cause, ..FailureInfo::new(error.kind(), chain(&error)) };
            Outcome { report: report.map(|r| *r), failure: Some(failed) }
        }
    };
    send_message(&Message::Done(Box::new(outcome)));
    ExitCode::SUCCESS
}

/// What this process is for.
enum Assignment {
    Run(Box<CastSpec>, HostTime, Option<Box<WarmBrowser>>),
    Finish(Box<CastSpec>),
}

/// Waits for the cast, with a warm browser if that is ordered first.
fn receive_assignment(todo: &Receiver<ProcessCommand>) -> Option<Assignment> {
    let mut warm = None;
    loop {
        match todo.recv().ok()? {
            ProcessCommand::WarmUp(spec) => match WarmBrowser::start(&spec) {
                Ok(ready) => {
                    warm = Some(Box::new(ready));
                    send_message(&Message::BrowserReady);
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "no warm browser");
                    return None;
                }
            },
            ProcessCommand::Run(spec, started) => {
                return Some(Assignment::Run(spec, HostTime(started), warm));
            }
            ProcessCommand::Finish(spec) => return Some(Assignment::Finish(spec)),
            ProcessCommand::Stop | ProcessCommand::Change(_) | ProcessCommand::ExitOnDisconnect => {
                return None;
            }
        }
    }
}

/// Hands on orders; a stop takes effect at once. The cast ends when nobody is there to give orders.
fn read_commands(orders: SyncSender<ProcessCommand>, changes: SyncSender<Change>, stop: &StopToken) {
    let mut lines = BufReader::new(io::stdin());
    let mut leaves = false;
    while let Some(line) = next_line(&mut lines) {
        match serde_json::from_slice(&line) {
            Ok(ProcessCommand::Stop) => stop.request(),
            Ok(ProcessCommand::ExitOnDisconnect) => leaves = true,
            Ok(ProcessCommand::Change(change)) => {
                if changes.try_send(change).is_err() {
                    tracing::warn!("a change comes too late, or too many do");
                }
            }
            Ok(order) => {
                // A second cast is not ours to run.
                let _late = orders.try_send(order);
            }
            Err(error) => tracing::error!(%error, "an order that is none"),
        }
    }
    if leaves {
        // The janitor sees to the browser.
        let _gone = kill_current_process_group(Signal::KILL);
    }
    // Whoever waits for a cast waits in vain.
    drop((orders, changes));
    stop.request();
    std::thread::sleep(STOP_TIMEOUT);
    tracing::error!("nobody watches this cast any more, and it does not stop");
    std::process::abort();
}

/// Reports that the process runs, and how long ago its main loop last looked whether it should stop.
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
    // Nobody listens: the end of the orders says so, too.
    let _unheard = io::stdout().lock().write_all(&line).and_then(|()| io::stdout().flush());
}

fn to_instant(at: HostTime) -> Instant {
    let now = Instant::now();
    now.checked_sub(clock::now().since(at)).unwrap_or(now)
}
