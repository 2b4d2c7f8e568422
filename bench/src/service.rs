//! How soon the service answers, and whether a long history makes it slower.
//!
//! The casts are asked for as Volcengine's customers do, each on a connection of its own. No browser runs: casts are left in the queue,
//! or run by a stub that is live and over at once ([`server`]).

mod calls;
mod load;
mod server;

use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_testkit::command::{program, stdout_of};

use crate::usage::{Cpu, sweep};
use calls::{Asker, get, list, start};
pub(crate) use load::Times;
use load::{at_once, at_rate};
use server::{Runs, Server};

/// Casts asked for, a second.
pub(crate) const RATE: u32 = 150;
/// Nearly all of them (99 %) are accepted within this time, in milliseconds.
pub(crate) const GOAL_MS: f64 = 50.0;
const HISTORIES: [usize; 3] = [10, 1_000, 100_000];
const LENGTH_S: u32 = 20;
/// Seconds of a first impression, which leaves out the longest history.
const QUICK_S: u32 = 5;
/// Questions about tasks, and lists.
const QUESTIONS: usize = 300;
/// Calls that are signed at once, when a history is made: fewer than 150 with each key.
const CHUNK: usize = 4_500;
/// That ask at the same time, when a history is made.
pub(crate) const FILLERS: usize = 32;

/// All that was found out about the service.
#[derive(Debug, Default)]
pub(crate) struct Service {
    /// How long casts were asked for, in seconds.
    pub(crate) length_s: u32,
    /// One for each history, the shortest one first.
    pub(crate) histories: Vec<History>,
}

/// What was found out with a history of this length.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) casts: usize,
    /// How fast it came to be, in casts a second.
    pub(crate) filled_per_s: f64,
    /// Casts that nobody begins, and casts that the stub runs.
    pub(crate) queued: Round,
    pub(crate) run: Round,
    /// Casts of the second round that the stub ran.
    pub(crate) ran: usize,
    /// `GetWebCastTask`, and the REST API's newest 50 casts, asked for one by one.
    pub(crate) get: Times,
    pub(crate) list: Times,
}

/// Casts asked for at [`RATE`].
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) times: Times,
    /// Cores in use by the service, and by all that it started.
    pub(crate) cores: f64,
}

impl Service {
    pub(crate) fn measure(program: &Path, quick: bool) -> Result<Self> {
        let length_s = if quick { QUICK_S } else { LENGTH_S };
        let lengths = if quick { &HISTORIES[..2] } else { &HISTORIES[..] };
        let histories = lengths.iter().map(|casts| History::measure(program, *casts, length_s));
        Ok(Self { length_s, histories: histories.collect::<Result<_>>()? })
    }
}

impl History {
    fn measure(program: &Path, casts: usize, length_s: u32) -> Result<Self> {
        let mut server = Server::start(program)?;
        let mut asker = Asker::new(server.host());
        let filled_per_s = fill(&server, &mut asker, casts)?;
        eprintln!("service, {casts} casts in the history: {filled_per_s:.0} a second to fill it");
        let date = now()?;
        let every = (casts / QUESTIONS).max(1);
        let questions = (0..QUESTIONS).map(|n| asker.call(&get(n * every % casts), &date));
        let get = load::one_by_one(&server.url(), &questions.collect::<Result<Vec<_>>>()?);
        let list = load::one_by_one(&server.url(), &vec![list(); QUESTIONS]);
        eprintln!("service, {casts} casts in the history: a task {get}; a list {list}");
        let queued = round(&server, &mut asker, casts, length_s)?;
        server.wait_until_all_are_over()?;
        server.restart(Runs::ByStub)?;
        let first = casts + count(length_s);
        let run = round(&server, &mut asker, first, length_s)?;
        server.wait_until_all_are_over()?;
        let ran = ran(&server, &mut asker, first..first + count(length_s))?;
        eprintln!("service, {casts} casts in the history: the stub ran {ran} casts");
        ensure!(ran > 0, "no cast was run: the stub does not speak as casts do any more");
        drop(server);
        sweep()?;
        Ok(Self { casts, filled_per_s, queued, run, ran, get, list })
    }
}

fn count(length_s: u32) -> usize {
    (RATE * length_s) as usize
}

/// Asks for so many casts, and waits until they are over.
fn fill(server: &Server, asker: &mut Asker, casts: usize) -> Result<f64> {
    let (mut from, mut seconds) = (0, 0.0);
    while from < casts {
        let (date, to) = (now()?, casts.min(from + CHUNK));
        let calls = (from..to).map(|n| asker.call(&start(n), &date)).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let times = at_once(&server.url(), &calls, FILLERS);
        seconds += begun.elapsed().as_secs_f64();
        ensure!(times.errors == 0, "the history cannot be made: {times}");
        // Each key may ask 150 times a second.
        thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        from = to;
    }
    server.wait_until_all_are_over()?;
    Ok(casts as f64 / seconds)
}

fn round(server: &Server, asker: &mut Asker, first: usize, length_s: u32) -> Result<Round> {
    let date = now()?;
    let calls = (first..first + count(length_s)).map(|n| asker.call(&start(n), &date));
    let calls = calls.collect::<Result<Vec<_>>>()?;
    let (before, begun) = (Cpu::now()?, Instant::now());
    let times = at_rate(&server.url(), &calls, RATE);
    let cores = (Cpu::now()? - before).over(begun.elapsed()).total();
    eprintln!("  {RATE} casts a second: {times}; {cores:.2} cores");
    Ok(Round { times, cores })
}

/// How many of these tasks came to their own end.
fn ran(server: &Server, asker: &mut Asker, tasks: Range<usize>) -> Result<usize> {
    let date = now()?;
    let mut ran = 0;
    for task in tasks {
        let answer = asker.call(&get(task), &date)?.ask(&server.url())?.json()?;
        ran += usize::from(answer["Result"]["WebCastTask"]["Status"] == 3);
    }
    Ok(ran)
}

/// The time, as signatures have it.
fn now() -> Result<String> {
    let text = stdout_of(program("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))?;
    Ok(String::from_utf8(text)?.trim().to_owned())
}
