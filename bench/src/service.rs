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
use pagecast_testkit::command::{program, run_for_stdout};

use crate::usage::{CpuUsage, kill_descendants};
use calls::{RequestSigner, get_task, list_casts, start_webcast};
pub(crate) use load::LatencyStats;
use load::{send_at_rate, send_concurrently};
use server::{CastRunner, MeasuredService};

/// Casts asked for, a second.
pub(crate) const REQUESTS_PER_S: u32 = 150;
/// Nearly all of them (99 %) are accepted within this time, in milliseconds.
pub(crate) const MAX_P99_MS: f64 = 50.0;
const HISTORY_SIZES: [usize; 3] = [10, 1_000, 100_000];
const LOAD_DURATION_S: u32 = 20;
/// Seconds of a first impression, which leaves out the longest history.
const QUICK_LOAD_DURATION_S: u32 = 5;
/// Questions about tasks, and lists.
const QUERY_COUNT: usize = 300;
/// Calls that are signed at once, when a history is made: fewer than 150 with each key.
const SIGNING_BATCH: usize = 4_500;
/// That ask at the same time, when a history is made.
pub(crate) const FILL_CONCURRENCY: usize = 32;

/// All that was found out about the service.
#[derive(Debug, Default)]
pub(crate) struct ServiceResults {
    /// How long casts were asked for, in seconds.
    pub(crate) duration_s: u32,
    /// One for each history, the shortest one first.
    pub(crate) histories: Vec<HistoryResult>,
}

/// What was found out with a history of this length.
#[derive(Debug, Default)]
pub(crate) struct HistoryResult {
    pub(crate) cast_count: usize,
    /// How fast it came to be, in casts a second.
    pub(crate) filled_per_s: f64,
    /// Casts that nobody begins, and casts that the stub runs.
    pub(crate) queued: LoadResult,
    pub(crate) executed: LoadResult,
    /// Casts of the second round that the stub ran.
    pub(crate) executed_count: usize,
    /// `GetWebCastTask`, and the REST API's newest 50 casts, asked for one by one.
    pub(crate) get: LatencyStats,
    pub(crate) list: LatencyStats,
}

/// Casts asked for at [`REQUESTS_PER_S`].
#[derive(Debug, Default)]
pub(crate) struct LoadResult {
    pub(crate) latency: LatencyStats,
    /// Cores in use by the service, and by all that it started.
    pub(crate) cores: f64,
}

impl ServiceResults {
    pub(crate) fn measure(program: &Path, quick: bool) -> Result<Self> {
        let length_s = if quick { QUICK_LOAD_DURATION_S } else { LOAD_DURATION_S };
        let lengths = if quick { &HISTORY_SIZES[..2] } else { &HISTORY_SIZES[..] };
        let histories = lengths.iter().map(|casts| HistoryResult::measure(program, *casts, length_s));
        Ok(Self { duration_s: length_s, histories: histories.collect::<Result<_>>()? })
    }
}

impl HistoryResult {
    fn measure(program: &Path, casts: usize, length_s: u32) -> Result<Self> {
        let mut server = MeasuredService::start(program)?;
        let mut asker = RequestSigner::new(server.host());
        let filled_per_s = fill_history(&server, &mut asker, casts)?;
        eprintln!("service, {casts} casts in the history: {filled_per_s:.0} a second to fill it");
        let date = signature_date()?;
        let every = (casts / QUERY_COUNT).max(1);
        let questions = (0..QUERY_COUNT).map(|n| asker.sign(&get_task(n * every % casts), &date));
        let get = load::send_sequentially(&server.url(), &questions.collect::<Result<Vec<_>>>()?);
        let list = load::send_sequentially(&server.url(), &vec![list_casts(); QUERY_COUNT]);
        eprintln!("service, {casts} casts in the history: a task {get}; a list {list}");
        let queued = run_load(&server, &mut asker, casts, length_s)?;
        server.wait_until_all_ended()?;
        server.restart(CastRunner::Stub)?;
        let first = casts + cast_count(length_s);
        let run = run_load(&server, &mut asker, first, length_s)?;
        server.wait_until_all_ended()?;
        let ran = count_executed(&server, &mut asker, first..first + cast_count(length_s))?;
        eprintln!("service, {casts} casts in the history: the stub ran {ran} casts");
        ensure!(ran > 0, "no cast was run: the stub does not speak as casts do any more");
        drop(server);
        kill_descendants()?;
        Ok(Self { cast_count: casts, filled_per_s, queued, executed: run, executed_count: ran, get, list })
    }
}

fn cast_count(length_s: u32) -> usize {
    (REQUESTS_PER_S * length_s) as usize
}

/// Asks for so many casts, and waits until they are over.
fn fill_history(server: &MeasuredService, asker: &mut RequestSigner, casts: usize) -> Result<f64> {
    let (mut from, mut seconds) = (0, 0.0);
    while from < casts {
        let (date, to) = (signature_date()?, casts.min(from + SIGNING_BATCH));
        let calls = (from..to).map(|n| asker.sign(&start_webcast(n), &date)).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let times = send_concurrently(&server.url(), &calls, FILL_CONCURRENCY);
        seconds += begun.elapsed().as_secs_f64();
        ensure!(times.errors == 0, "the history cannot be made: {times}");
        // Each key may ask 150 times a second.
        thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        from = to;
    }
    server.wait_until_all_ended()?;
    Ok(casts as f64 / seconds)
}

fn run_load(
    server: &MeasuredService,
    asker: &mut RequestSigner,
    first: usize,
    length_s: u32,
) -> Result<LoadResult> {
    let date = signature_date()?;
    let calls = (first..first + cast_count(length_s)).map(|n| asker.sign(&start_webcast(n), &date));
    let calls = calls.collect::<Result<Vec<_>>>()?;
    let (before, begun) = (CpuUsage::now()?, Instant::now());
    let times = send_at_rate(&server.url(), &calls, REQUESTS_PER_S);
    let cores = (CpuUsage::now()? - before).per_second_of(begun.elapsed()).total();
    eprintln!("  {REQUESTS_PER_S} casts a second: {times}; {cores:.2} cores");
    Ok(LoadResult { latency: times, cores })
}

/// How many of these tasks came to their own end.
fn count_executed(server: &MeasuredService, asker: &mut RequestSigner, tasks: Range<usize>) -> Result<usize> {
    let date = signature_date()?;
    let mut ran = 0;
    for task in tasks {
        let answer = asker.sign(&get_task(task), &date)?.send(&server.url())?.json()?;
        ran += usize::from(answer["Result"]["WebCastTask"]["Status"] == 3);
    }
    Ok(ran)
}

/// The time, as signatures have it.
fn signature_date() -> Result<String> {
    let text = run_for_stdout(program("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))?;
    Ok(String::from_utf8(text)?.trim().to_owned())
}
