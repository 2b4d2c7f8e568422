//! `make soak`: runs casts side by side for a long time with random faults, and checks memory, file
//! descriptors, processes, files, frames and sync.
//!
//! The faults: the renderer or the browser is killed, the browser is paused for seconds, the page freezes,
//! turns white, hangs, leaks memory or reloads itself. The same seed gives the same faults.
//!
//! Every other cast is pushed to a local nginx and makes HLS beside its MP4. Both must be as long as the
//! cast.
#![expect(clippy::print_stdout, reason = "the result is printed on the terminal")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use pagecast_testkit::av_sync::{self, median};
use pagecast_testkit::media::beeps;
use pagecast_testkit::rtmp::NginxRtmp;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    Outcome, PageServer, PagecastCommand, PagecastProcess, Recording, ScratchDir, Signal, flv,
};

/// Pause between two checks of the casts.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two samples of memory and descriptors.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time that a cast may take beyond its duration.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);
/// Name of recordings with several files.
const RECORDING_NAME: &str = "soak";
/// Longest part of a cast that may be missing in a stream or a playlist, in seconds. A stream starts when the
/// server has accepted it.
const MAX_MISSING_S: f64 = 2.0;
/// Faults of the page (`misbehave.js`); an empty name means no fault.
const PAGE_FAULTS: [&str; 6] = ["", "freeze", "blank", "loop", "memory", "reload"];

/// Runs casts for a long time with random faults.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// Casts side by side
    #[arg(long, default_value_t = 2)]
    casts: usize,
    /// Duration of the whole run, in minutes
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Duration of each cast, in minutes
    #[arg(long, default_value_t = 5)]
    length: u64,
    /// Mean time between two faults of a cast, in seconds
    #[arg(long, default_value_t = 45)]
    fault_interval: u64,
    /// Seed of the sequence of faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Program to run [default: `pagecast` beside this one]
    #[arg(long)]
    pagecast: Option<PathBuf>,
}

/// Pseudo-random numbers (xorshift64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A running cast.
struct SoakCast {
    run: PagecastProcess,
    started: Instant,
    next_fault: Instant,
    next_sample: Instant,
    /// When a paused browser is resumed.
    resume_at: Option<Instant>,
    /// Resident bytes and file descriptors of the process of the cast, over time.
    samples: Vec<(u64, usize)>,
    fault_count: u32,
    page_fault: &'static str,
    /// Outputs of a cast with more than a file.
    outputs: Option<CastOutputs>,
}

/// Outputs of a cast that has several.
struct CastOutputs {
    folder: ScratchDir,
    /// Name of the stream.
    key: String,
}

/// Servers of the casts.
struct Servers {
    pages: PageServer,
    nginx: NginxRtmp,
}

/// Sums over all casts.
#[derive(Default)]
struct Totals {
    casts: u32,
    failures: Vec<String>,
    fault_count: u32,
    reloads: u32,
    moves: u32,
    recorded_s: f64,
    dropped_frames: u64,
    push_count: u32,
    lost_packets: u64,
    reconnects: u64,
    offsets_ms: Vec<f64>,
    drifts_ms_per_min: Vec<f64>,
    memory_growth_shares: Vec<f64>,
    fd_growth: Vec<i64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("pagecast"));
    let program = args.pagecast.clone().map_or_else(beside, Ok)?;
    ensure!(program.is_file(), "{} is missing: cargo build --release", program.display());
    let servers = Servers { pages: PageServer::start()?, nginx: NginxRtmp::start(None)? };
    let mut started = 0;
    let mut rng = Rng(args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (begin, mut total, mut running) = (Instant::now(), Totals::default(), Vec::new());
    let until = begin + Duration::from_secs(60 * args.minutes);
    let length = Duration::from_secs(60 * args.length);
    loop {
        while running.len() < args.casts && Instant::now() + length <= until + POLL_INTERVAL {
            running.push(start(&args, &program, &servers, started, &mut rng)?);
            started += 1;
        }
        if running.is_empty() {
            break;
        }
        for cast in &mut running {
            inject_fault(cast, &args, &mut rng);
        }
        let over = |cast: &mut SoakCast| cast.started.elapsed() >= length || !cast.run.is_running();
        while let Some(at) = running.iter_mut().position(over) {
            let cast = running.swap_remove(at);
            finish(cast, length, &servers.nginx, &mut total);
            println!(
                "{:>4.0} min: {} casts done, {} faults, {} reloads, {} new browsers, {} failed",
                begin.elapsed().as_secs_f64() / 60.0,
                total.casts,
                total.fault_count,
                total.reloads,
                total.moves,
                total.failures.len()
            );
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    report(&args, &total, begin.elapsed())
}

fn start(args: &Args, program: &Path, servers: &Servers, number: u32, rng: &mut Rng) -> Result<SoakCast> {
    let fault = PAGE_FAULTS[rng.below(PAGE_FAULTS.len() as u64) as usize];
    let after_ms = 10_000 + rng.below(60_000);
    let url = servers
        .pages
        .url(&format!("sync.html?do={fault}&after={after_ms}&loads=1&id={}", rng.below(1 << 40)));
    let mut cast = PagecastCommand::record(program, &url)
        .option("size", "640x360")
        .option("duration", format!("{}s", 60 * args.length))
        .option("attempts", 10)
        .option("freeze-check", "3s")
        .option("blank-check", "3s")
        .option("crash-check", "3s")
        .option("max-memory", "1500M");
    let mut outputs = None;
    if number % 2 == 1 {
        let (folder, key) = (ScratchDir::new()?, format!("soak{number}"));
        cast = cast
            .option("push", servers.nginx.url(&key))
            .option("format", "both")
            .option("name", RECORDING_NAME);
        cast = cast.output(folder.join("kept"));
        outputs = Some(CastOutputs { folder, key });
    }
    let run = cast.start()?;
    let now = Instant::now();
    Ok(SoakCast {
        run,
        started: now,
        next_fault: now + fault_delay(args, rng),
        next_sample: now + SAMPLE_INTERVAL,
        resume_at: None,
        samples: Vec::new(),
        fault_count: u32::from(!fault.is_empty()),
        page_fault: fault,
        outputs,
    })
}

fn fault_delay(args: &Args, rng: &mut Rng) -> Duration {
    Duration::from_secs(args.fault_interval / 2 + rng.below(args.fault_interval.max(1)))
}

/// Injects a fault if it is due, and samples the cast.
fn inject_fault(cast: &mut SoakCast, args: &Args, rng: &mut Rng) {
    let now = Instant::now();
    if cast.next_sample <= now {
        cast.next_sample = now + SAMPLE_INTERVAL;
        cast.samples.extend(cast.run.cast_pid().and_then(sample_process));
    }
    // A process that does not exist is not hit: the cast is recovering.
    if cast.resume_at.is_some_and(|at| at <= now) {
        cast.resume_at = None;
        let _gone = cast.run.signal_browser(Signal::CONT);
    }
    if cast.next_fault <= now && cast.resume_at.is_none() {
        cast.next_fault = now + fault_delay(args, rng);
        let hit = match rng.below(4) {
            0 => cast.run.kill_browser(),
            1 => cast.run.kill_matching("--type=renderer"),
            2 => cast.run.kill_matching("--type=utility"),
            _ => {
                cast.resume_at = Some(now + Duration::from_secs(1 + rng.below(8)));
                cast.run.signal_browser(Signal::STOP)
            }
        };
        cast.fault_count += u32::from(hit.is_ok());
    }
}

/// Resident bytes and file descriptors of a process.
fn sample_process(pid: u32) -> Option<(u64, usize)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some((1024 * kib, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
}

fn finish(mut cast: SoakCast, length: Duration, nginx: &NginxRtmp, total: &mut Totals) {
    let _gone = cast.run.signal_browser(Signal::CONT);
    total.casts += 1;
    total.fault_count += cast.fault_count;
    let (fault, samples) = (cast.page_fault, std::mem::take(&mut cast.samples));
    if let Err(error) = verify_cast(cast.run, cast.outputs.as_ref(), nginx, length, total) {
        total.failures.push(format!("cast {} (page: {fault:?}): {error:#}", total.casts));
    }
    // The first minute is the warm-up.
    let warm = samples.get(6..).unwrap_or_default();
    if let [first, .., last] = warm {
        total.memory_growth_shares.push(last.0 as f64 / first.0 as f64 - 1.0);
        total.fd_growth.push(last.1 as i64 - first.1 as i64);
    }
}

/// Checks that the cast ended normally, left nothing behind, and that its file is complete.
fn verify_cast(
    run: PagecastProcess,
    outputs: Option<&CastOutputs>,
    nginx: &NginxRtmp,
    length: Duration,
    total: &mut Totals,
) -> Result<()> {
    let outcome = run.finish(FINISH_TIMEOUT)?;
    let report = outcome.report()?;
    total.reloads += report.reloads;
    total.moves += report.moves;
    total.dropped_frames += report.frames_dropped;
    let file = match outputs {
        None => outcome.recording()?,
        Some(outputs) => verify_outputs(&outcome, outputs, nginx, length, total)?,
    };
    ensure!((file.end_s() - length.as_secs_f64()).abs() < 0.1, "{} s of picture", file.end_s());
    let warnings = file.decoder_warnings()?;
    ensure!(warnings.is_empty(), "does not decode: {warnings}");
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let [onsets] = beeps::onsets_of_each(file.pcm()?, [av_sync::PAGE_BEEP])?;
    let offsets = av_sync::page_offsets(&pictures, &onsets);
    ensure!(offsets.len() > 20, "only {} beeps", offsets.len());
    total.recorded_s += file.end_s();
    total.offsets_ms.extend(offsets.measurements.iter().map(|(_, ms)| *ms));
    total.drifts_ms_per_min.push(offsets.drift_ms_per_min());
    if let Some(folder) = &report.evidence {
        fs::remove_dir_all(folder).context("cannot remove the evidence")?;
    }
    Ok(())
}

/// Checks that the stream and the playlist are as long as the cast. Returns its MP4.
fn verify_outputs(
    outcome: &Outcome,
    outputs: &CastOutputs,
    nginx: &NginxRtmp,
    length: Duration,
    total: &mut Totals,
) -> Result<Recording> {
    let report = outcome.report()?;
    let [push] = &report.pushes[..] else { bail!("pushes: {:?}", report.pushes) };
    total.push_count += 1;
    total.lost_packets += push.lost;
    total.reconnects += push.reconnects;
    ensure!(push.bytes > 0 && push.state == "idle", "{push:?}");
    let least_s = length.as_secs_f64() - MAX_MISSING_S;
    let mut sent_s = 0.0;
    for path in nginx.recordings(&outputs.key)? {
        let tags = flv::tags(&path)?;
        let ms =
            tags.last().zip(tags.first()).map_or(0, |(last, first)| last.timestamp_ms - first.timestamp_ms);
        sent_s += ms as f64 / 1000.0;
        fs::remove_file(path)?;
    }
    ensure!(sent_s > least_s, "the server received {sent_s:.1} s");
    let folder = outputs.folder.join("kept").join(RECORDING_NAME);
    let playlist =
        fs::read_to_string(folder.join(format!("{RECORDING_NAME}.m3u8"))).context("no playlist")?;
    let lengths =
        playlist.lines().filter_map(|l| l.strip_prefix("#EXTINF:")?.split(',').next()?.parse::<f64>().ok());
    let playlist_s: f64 = lengths.sum();
    ensure!(
        playlist_s > least_s && playlist.contains("#EXT-X-ENDLIST"),
        "the playlist has {playlist_s:.1} s"
    );
    Recording::open(&folder.join(format!("{RECORDING_NAME}_0.mp4")))
}

fn report(args: &Args, total: &Totals, took: Duration) -> Result<()> {
    let within = |ms: f64| {
        let good = total.offsets_ms.iter().filter(|o| o.abs() <= ms).count();
        100.0 * good as f64 / total.offsets_ms.len().max(1) as f64
    };
    println!("\n{} casts at a time for {:.0} min, seed {}", args.casts, took.as_secs_f64() / 60.0, args.seed);
    println!("casts                    {} ({:.0} s recorded)", total.casts, total.recorded_s);
    println!("faults                   {}", total.fault_count);
    println!("restarts                 {} reloads, {} new browsers", total.reloads, total.moves);
    println!("frames dropped           {}", total.dropped_frames);
    println!(
        "pushes                   {}, {} packets lost, {} reconnects",
        total.push_count, total.lost_packets, total.reconnects
    );
    println!(
        "sound against picture    median {:+.1} ms; {:.1} % of {} beeps within 40 ms, {:.1} % within 15 ms",
        median(total.offsets_ms.clone()),
        within(40.0),
        total.offsets_ms.len(),
        within(15.0)
    );
    println!("drift                    {:+.2} ms/min", median(total.drifts_ms_per_min.clone()));
    println!(
        "growth after a minute    memory {:+.1} % (most {:+.1} %), descriptors at most {:+}",
        100.0 * median(total.memory_growth_shares.clone()),
        100.0 * total.memory_growth_shares.iter().copied().fold(f64::MIN, f64::max),
        total.fd_growth.iter().copied().max().unwrap_or(0)
    );
    println!(
        "leftovers                {}",
        if total.failures.is_empty() { "no process, no file" } else { "see below" }
    );
    total.failures.iter().for_each(|failure| println!("FAILED  {failure}"));
    ensure!(total.failures.is_empty(), "{} of {} casts failed", total.failures.len(), total.casts);
    Ok(())
}
