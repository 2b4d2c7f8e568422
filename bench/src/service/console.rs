//! What the console costs: CPU time of the service, and bytes that each open page receives, while nobody does
//! anything.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::service::Environment;

use super::calls::{RequestSigner, rest_token, start_webcast};
use super::load::send_concurrently;
use super::server::{CastRunner, MeasuredService};
use super::{FILL_CONCURRENCY, signature_date};
use crate::usage::kill_descendants;

/// Number of live casts.
pub(crate) const CAST_COUNT: usize = 100;
/// Numbers of consoles that are open.
const CONSOLE_COUNTS: [usize; 3] = [0, 1, 10];
/// Duration of each measurement.
const DURATION: Duration = Duration::from_secs(30);
/// The same with `--quick`.
const QUICK_DURATION: Duration = Duration::from_secs(10);
/// Time until consoles have all casts, and the service is idle.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// Longest silence of a stream: it sends a comment each 15 s.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What consoles cost without casts, and with [`CAST_COUNT`].
#[derive(Debug)]
pub(crate) struct ConsoleResults(pub(crate) Vec<ConsoleResult>);

/// What this many open consoles cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConsoleResult {
    /// Number of live casts.
    pub(crate) cast_count: usize,
    /// Number of open consoles.
    pub(crate) console_count: usize,
    /// CPU cores of the service, without the processes of its casts.
    pub(crate) cores: f64,
    /// Bytes that each console receives in a minute.
    pub(crate) bytes_per_min: Option<f64>,
}

impl ConsoleResults {
    pub(crate) fn measure(program: &Path, quick: bool) -> Result<Self> {
        let duration = if quick { QUICK_DURATION } else { DURATION };
        let mut server = MeasuredService::start(program, Environment::new())?;
        let mut results = Vec::new();
        for casts in [0, CAST_COUNT] {
            if casts > 0 {
                server.restart(CastRunner::LiveStub)?;
                start_casts(&server, casts)?;
            }
            for consoles in CONSOLE_COUNTS {
                let result = measure_consoles(&server, casts, consoles, duration)?;
                eprintln!("console: {result:?}");
                results.push(result);
            }
        }
        drop(server);
        kill_descendants()?;
        Ok(Self(results))
    }
}

fn start_casts(server: &MeasuredService, count: usize) -> Result<()> {
    let mut signer = RequestSigner::new(server.host());
    let date = signature_date()?;
    let calls: Vec<_> = (0..count).map(|n| signer.sign(&start_webcast(n), &date)).collect::<Result<_>>()?;
    let times = send_concurrently(&server.url(), &calls, FILL_CONCURRENCY);
    ensure!(times.errors == 0, "the casts cannot be started: {times}");
    server.wait_until_live(count)
}

fn measure_consoles(
    server: &MeasuredService,
    casts: usize,
    consoles: usize,
    duration: Duration,
) -> Result<ConsoleResult> {
    let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let streams: Vec<_> = (0..consoles)
        .map(|_| {
            let stream = open_stream(&server.host())?;
            let (bytes, stop) = (Arc::clone(&bytes), Arc::clone(&stop));
            Ok(thread::spawn(move || count_bytes(stream, &bytes, &stop)))
        })
        .collect::<Result<_>>()?;
    thread::sleep(SETTLE_TIME);
    let (cpu, received, begun) = (server.cpu_s()?, bytes.load(Ordering::Relaxed), Instant::now());
    thread::sleep(duration);
    let (cpu, passed) = (server.cpu_s()? - cpu, begun.elapsed().as_secs_f64());
    let received = bytes.load(Ordering::Relaxed) - received;
    stop.store(true, Ordering::Relaxed);
    for stream in streams {
        stream.join().ok().context("a reader panicked")??;
    }
    let per_min = received as f64 / passed * 60.0 / consoles as f64;
    Ok(ConsoleResult {
        cast_count: casts,
        console_count: consoles,
        cores: cpu / passed,
        bytes_per_min: (consoles > 0).then_some(per_min),
    })
}

/// Opens the stream of casts that each console reads.
fn open_stream(host: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(host).context("cannot connect to the service")?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let token = rest_token();
    let head = format!(
        "GET /v1/casts HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}

fn count_bytes(mut stream: TcpStream, bytes: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let length = stream.read(&mut buffer).context("the stream of casts is silent")?;
        ensure!(length > 0, "the service closed a stream of casts");
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
    Ok(())
}
