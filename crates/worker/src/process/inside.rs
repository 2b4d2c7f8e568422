//! The cast's side: what `pagecast run-cast` does.

use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use pagecast_core::{CastSpec, HostTime};
use pagecast_page::clock;
use rustix::process::{Signal, kill_current_process_group};

use super::{CHANGES, Failed, HEARTBEAT_INTERVAL, Message, Order, Outcome, STOP_GRACE, next_line};
use crate::cast::{self, Change, Failure, News, Stop, Warm};
use crate::chain;

/// Runs the cast that standard input describes, and tells standard output about it. `stop` ends it, as the
/// supervisor does.
#[must_use]
pub fn run(stop: &Stop) -> ExitCode {
    let (orders, todo) = sync_channel(1);
    let (change, changes) = sync_channel(CHANGES);
    let listener = std::thread::Builder::new().name("orders".into()).spawn({
        let stop = stop.clone();
        move || listen(orders, change, &stop)
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
    let tell = |news: News| say(&Message::News(news));
    let done = match prepare(&todo) {
        Some(Job::Run(spec, started, warm)) => {
            cast::run(&spec, instant(started), stop, warm.map(|warm| *warm), &changes, tell)
        }
        Some(Job::Finish(spec)) => cast::finish(&spec, stop, tell),
        None => return ExitCode::FAILURE,
    };
    let outcome = match done {
        Ok(report) => Outcome { report: Some(report), failure: None },
        Err(Failure { error, report }) => {
            let cause = error.load_error();
            let failed = Failed { cause, ..Failed::new(error.kind(), chain(&error)) };
            Outcome { report: report.map(|r| *r), failure: Some(failed) }
        }
    };
    say(&Message::Done(Box::new(outcome)));
    ExitCode::SUCCESS
}

/// What this process is for.
enum Job {
    Run(Box<CastSpec>, HostTime, Option<Box<Warm>>),
    Finish(Box<CastSpec>),
}

/// Waits for the cast, with a warm browser if that is ordered first.
fn prepare(todo: &Receiver<Order>) -> Option<Job> {
    let mut warm = None;
    loop {
        match todo.recv().ok()? {
            Order::Warm(spec) => match Warm::start(&spec) {
                Ok(ready) => {
                    warm = Some(Box::new(ready));
                    say(&Message::Warm);
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "no warm browser");
                    return None;
                }
            },
            Order::Run(spec, started) => return Some(Job::Run(spec, HostTime(started), warm)),
            Order::Finish(spec) => return Some(Job::Finish(spec)),
            Order::Stop | Order::Change(_) | Order::LeaveWhenAlone => return None,
        }
    }
}

/// Hands on orders; a stop takes effect at once. The cast ends when nobody is there to give orders.
fn listen(orders: SyncSender<Order>, changes: SyncSender<Change>, stop: &Stop) {
    let mut lines = BufReader::new(io::stdin());
    let mut leaves = false;
    while let Some(line) = next_line(&mut lines) {
        match serde_json::from_slice(&line) {
            Ok(Order::Stop) => stop.ask(),
            Ok(Order::LeaveWhenAlone) => leaves = true,
            Ok(Order::Change(change)) => {
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
    stop.ask();
    std::thread::sleep(STOP_GRACE);
    tracing::error!("nobody watches this cast any more, and it does not stop");
    std::process::abort();
}

/// Reports that the process runs, and how long ago its main loop last looked whether it should stop.
fn send_heartbeats(stop: &Stop) {
    loop {
        let idle_ms = u64::try_from(stop.unasked_for().as_millis()).unwrap_or(u64::MAX);
        say(&Message::Heartbeat { idle_ms });
        std::thread::sleep(HEARTBEAT_INTERVAL);
    }
}

fn say(message: &Message) {
    let Ok(mut line) = serde_json::to_vec(message) else { return };
    line.push(b'\n');
    // Nobody listens: the end of the orders says so, too.
    let _unheard = io::stdout().lock().write_all(&line).and_then(|()| io::stdout().flush());
}

fn instant(at: HostTime) -> Instant {
    let now = Instant::now();
    now.checked_sub(clock::now().since(at)).unwrap_or(now)
}
