//! Latency of the service, also with a long history.
//!
//! Casts are requested by Volcengine's API, each on its own connection. No browser runs: casts stay in the
//! queue, or are run by a stub that is live and ends at once ([`server`]).

mod calls;
pub(crate) mod console;
mod load;
mod server;

use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_testkit::command::{program, run_for_stdout};
use pagecast_testkit::service::Environment;

use crate::usage::{CpuUsage, kill_descendants};
use calls::{RequestSigner, get_task, list_casts, start_webcast};
pub(crate) use load::LatencyStats;
use load::{send_at_rate, send_concurrently};
use server::{CastRunner, MeasuredService};

/// Requested casts per second.
pub(crate) const REQUESTS_PER_S: u32 = 150;
/// Goal: longest time within which 99 % of requests are accepted, in milliseconds.
pub(crate) const MAX_P99_MS: f64 = 50.0;
const HISTORY_SIZES: [usize; 3] = [10, 1_000, 100_000];
const LOAD_DURATION_S: u32 = 20;
/// Duration of the load with `--quick`, which also skips the longest history.
const QUICK_LOAD_DURATION_S: u32 = 5;
/// Number of requests for tasks, and for lists.
const QUERY_COUNT: usize = 300;
/// Calls that are signed at once to fill the history: fewer than 150 with each key.
const SIGNING_BATCH: usize = 4_500;
/// Concurrent senders that fill the history.
pub(crate) const FILL_CONCURRENCY: usize = 32;

/// Results on the service.
#[derive(Debug, Default)]
pub(crate) struct ServiceResults {
    /// Duration of the load, in seconds.
    pub(crate) duration_s: u32,
    /// Results for each history, the shortest one first.
    pub(crate) histories: Vec<HistoryResult>,
}

/// Results with a history of this length.
#[derive(Debug, Default)]
pub(crate) struct HistoryResult {
    pub(crate) cast_count: usize,
    /// Rate at which the history was filled, in casts per second.
    pub(crate) filled_per_s: f64,
    /// Load with casts that stay queued.
    pub(crate) queued: LoadResult,
    /// Load with casts that the stub runs.
    pub(crate) executed: LoadResult,
    /// Number of casts that the stub ran.
    pub(crate) executed_count: usize,
    /// Latency of `GetWebCastTask`, sent one by one.
    pub(crate) get: LatencyStats,
    /// Latency of a list of the newest 50 casts by the REST API, sent one by one.
    pub(crate) list: LatencyStats,
}

/// Result of requests at [`REQUESTS_PER_S`].
#[derive(Debug, Default)]
pub(crate) struct LoadResult {
    pub(crate) latency: LatencyStats,
    /// CPU cores used by the service and its descendants.
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
        let mut server = MeasuredService::start(program, Environment::new())?;
        let mut signer = RequestSigner::new(server.host());
        let filled_per_s = fill_history(&server, &mut signer, casts)?;
        eprintln!("service, {casts} casts in the history: {filled_per_s:.0} a second to fill it");
        let date = signature_date()?;
        let every = (casts / QUERY_COUNT).max(1);
        let requests = (0..QUERY_COUNT).map(|n| signer.sign(&get_task(n * every % casts), &date));
        let get = load::send_sequentially(&server.url(), &requests.collect::<Result<Vec<_>>>()?);
        let list = load::send_sequentially(&server.url(), &vec![list_casts(); QUERY_COUNT]);
        eprintln!("service, {casts} casts in the history: a task {get}; a list {list}");
        let queued = run_load(&server, &mut signer, casts, length_s)?;
        server.wait_until_all_ended()?;
        server.restart(CastRunner::Stub)?;
        let first = casts + cast_count(length_s);
        let run = run_load(&server, &mut signer, first, length_s)?;
        server.wait_until_all_ended()?;
        let ran = count_executed(&server, &mut signer, first..first + cast_count(length_s))?;
        eprintln!("service, {casts} casts in the history: the stub ran {ran} casts");
        ensure!(ran > 0, "no cast was run: the stub's messages are not those of a cast");
        drop(server);
        kill_descendants()?;
        Ok(Self { cast_count: casts, filled_per_s, queued, executed: run, executed_count: ran, get, list })
    }
}

/// Latency of requests at [`REQUESTS_PER_S`] with an empty history, and a service with these environment
/// variables. Casts stay queued.
pub(crate) fn measure_starts(program: &Path, environment: Environment, length_s: u32) -> Result<LoadResult> {
    let server = MeasuredService::start(program, environment)?;
    let mut signer = RequestSigner::new(server.host());
    let starts = run_load(&server, &mut signer, 0, length_s)?;
    server.wait_until_all_ended()?;
    Ok(starts)
}

fn cast_count(length_s: u32) -> usize {
    (REQUESTS_PER_S * length_s) as usize
}

/// Starts this many casts and waits until they have ended. Returns the casts per second.
fn fill_history(server: &MeasuredService, signer: &mut RequestSigner, casts: usize) -> Result<f64> {
    let (mut from, mut seconds) = (0, 0.0);
    while from < casts {
        let (date, to) = (signature_date()?, casts.min(from + SIGNING_BATCH));
        let calls = (from..to).map(|n| signer.sign(&start_webcast(n), &date)).collect::<Result<Vec<_>>>()?;
        let begun = Instant::now();
        let times = send_concurrently(&server.url(), &calls, FILL_CONCURRENCY);
        seconds += begun.elapsed().as_secs_f64();
        ensure!(times.errors == 0, "the history cannot be filled: {times}");
        // The limit is 150 requests per second and key.
        thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        from = to;
    }
    server.wait_until_all_ended()?;
    Ok(casts as f64 / seconds)
}

fn run_load(
    server: &MeasuredService,
    signer: &mut RequestSigner,
    first: usize,
    length_s: u32,
) -> Result<LoadResult> {
    let date = signature_date()?;
    let calls = (first..first + cast_count(length_s)).map(|n| signer.sign(&start_webcast(n), &date));
    let calls = calls.collect::<Result<Vec<_>>>()?;
    let (before, begun) = (CpuUsage::now()?, Instant::now());
    let times = send_at_rate(&server.url(), &calls, REQUESTS_PER_S);
    let cores = (CpuUsage::now()? - before).per_second_of(begun.elapsed()).total();
    eprintln!("  {REQUESTS_PER_S} casts a second: {times}; {cores:.2} cores");
    Ok(LoadResult { latency: times, cores })
}

/// Number of these tasks that ended by themselves.
fn count_executed(
    server: &MeasuredService,
    signer: &mut RequestSigner,
    tasks: Range<usize>,
) -> Result<usize> {
    let date = signature_date()?;
    let mut ran = 0;
    for task in tasks {
        let answer = signer.sign(&get_task(task), &date)?.send(&server.url())?.json()?;
        ran += usize::from(answer["Result"]["WebCastTask"]["Status"] == 3);
    }
    Ok(ran)
}

/// The current time in the format of signatures.
fn signature_date() -> Result<String> {
    let text = run_for_stdout(program("date").args(["-u", "+%Y%m%dT%H%M%SZ"]))?;
    Ok(String::from_utf8(text)?.trim().to_owned())
}
