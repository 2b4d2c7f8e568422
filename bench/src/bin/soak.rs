//! `make soak`: casts that run side by side for a long time while things go wrong at random, and what is left of memory,
//! descriptors, processes, files, frames and synchrony.
//!
//! The faults: the renderer or the browser is killed, the whole browser stands still for seconds, the page freezes, turns white,
//! hangs, eats memory or loads itself again. The same seed gives the same faults.
//!
//! Every other cast is sent to a local nginx and makes HLS beside its MP4: both must be as long as it was.
#![expect(clippy::print_stdout, reason = "the result is for the terminal")]

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

/// Time between two looks at the casts.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two samples of memory and descriptors.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// What a cast may take beyond its length.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);
/// What a recording with several files is called.
const RECORDING_NAME: &str = "soak";
/// What a stream or a playlist may lack of the cast's length, in seconds: a stream begins when the server has answered.
const MAX_MISSING_S: f64 = 2.0;
/// Troubles that the page makes itself; an empty one is none.
const PAGE_FAULTS: [&str; 6] = ["", "freeze", "blank", "loop", "memory", "reload"];

/// Runs casts for a long time while things go wrong at random.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// Casts side by side
    #[arg(long, default_value_t = 2)]
    casts: usize,
    /// Minutes in all
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Minutes of each cast
    #[arg(long, default_value_t = 5)]
    length: u64,
    /// Seconds between two faults of a cast, on average
    #[arg(long, default_value_t = 45)]
    every: u64,
    /// Which faults come when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program [default: `pagecast` beside this one]
    #[arg(long)]
    pagecast: Option<PathBuf>,
}

/// Numbers that look random (xorshift64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A cast that runs.
struct SoakCast {
    run: PagecastProcess,
    started: Instant,
    next_fault: Instant,
    next_sample: Instant,
    /// When a browser that stands still may go on.
    resume_at: Option<Instant>,
    /// Resident bytes and descriptors of the cast's process, over time.
    samples: Vec<(u64, usize)>,
    fault_count: u32,
    page_fault: &'static str,
    /// Where it goes, unless to a file alone.
    outputs: Option<CastOutputs>,
}

/// The outputs of a cast that has several.
struct CastOutputs {
    folder: ScratchDir,
    /// Name of its stream.
    key: String,
}

/// What casts talk to.
struct Servers {
    pages: PageServer,
    nginx: NginxRtmp,
}

/// What all casts came to.
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
    let mut dice = Rng(args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (begin, mut total, mut running) = (Instant::now(), Totals::default(), Vec::new());
    let until = begin + Duration::from_secs(60 * args.minutes);
    let length = Duration::from_secs(60 * args.length);
    loop {
        while running.len() < args.casts && Instant::now() + length <= until + POLL_INTERVAL {
            running.push(start(&args, &program, &servers, started, &mut dice)?);
            started += 1;
        }
        if running.is_empty() {
            break;
        }
        for cast in &mut running {
            inject_fault(cast, &args, &mut dice);
        }
        let over = |cast: &mut SoakCast| cast.started.elapsed() >= length || !cast.run.is_running();
        while let Some(at) = running.iter_mut().position(over) {
            let cast = running.swap_remove(at);
            finish(cast, length, &servers.nginx, &mut total);
            println!(
                "{:>4.0} min: {} casts done, {} faults, {} reloads, {} fresh browsers, {} wrong",
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

fn start(args: &Args, program: &Path, servers: &Servers, number: u32, dice: &mut Rng) -> Result<SoakCast> {
    let trouble = PAGE_FAULTS[dice.below(PAGE_FAULTS.len() as u64) as usize];
    let after_ms = 10_000 + dice.below(60_000);
    let url = servers
        .pages
        .url(&format!("sync.html?do={trouble}&after={after_ms}&loads=1&id={}", dice.below(1 << 40)));
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
        next_fault: now + next_pause(args, dice),
        next_sample: now + SAMPLE_INTERVAL,
        resume_at: None,
        samples: Vec::new(),
        fault_count: u32::from(!trouble.is_empty()),
        page_fault: trouble,
        outputs,
    })
}

fn next_pause(args: &Args, dice: &mut Rng) -> Duration {
    Duration::from_secs(args.every / 2 + dice.below(args.every.max(1)))
}

/// Lets something go wrong, if it is time to, and samples the cast.
fn inject_fault(cast: &mut SoakCast, args: &Args, dice: &mut Rng) {
    let now = Instant::now();
    if cast.next_sample <= now {
        cast.next_sample = now + SAMPLE_INTERVAL;
        cast.samples.extend(cast.run.cast_pid().and_then(sample_process));
    }
    // What cannot be found just now is not hit: the cast is in the middle of healing.
    if cast.resume_at.is_some_and(|at| at <= now) {
        cast.resume_at = None;
        let _gone = cast.run.signal_browser(Signal::CONT);
    }
    if cast.next_fault <= now && cast.resume_at.is_none() {
        cast.next_fault = now + next_pause(args, dice);
        let hit = match dice.below(4) {
            0 => cast.run.kill_browser(),
            1 => cast.run.kill_matching("--type=renderer"),
            2 => cast.run.kill_matching("--type=utility"),
            _ => {
                cast.resume_at = Some(now + Duration::from_secs(1 + dice.below(8)));
                cast.run.signal_browser(Signal::STOP)
            }
        };
        cast.fault_count += u32::from(hit.is_ok());
    }
}

/// Resident bytes and descriptors of a process.
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
    let (trouble, samples) = (cast.page_fault, std::mem::take(&mut cast.samples));
    if let Err(error) = verify_cast(cast.run, cast.outputs.as_ref(), nginx, length, total) {
        total.failures.push(format!("cast {} (page: {trouble:?}): {error:#}", total.casts));
    }
    // The first minute is for warming up.
    let warm = samples.get(6..).unwrap_or_default();
    if let [first, .., last] = warm {
        total.memory_growth_shares.push(last.0 as f64 / first.0 as f64 - 1.0);
        total.fd_growth.push(last.1 as i64 - first.1 as i64);
    }
}

/// That the cast ended as it should, left nothing, and that its file is whole.
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
    let complaints = file.decoder_warnings()?;
    ensure!(complaints.is_empty(), "does not decode: {complaints}");
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

/// That what was sent and what was cut are as long as the cast; gives its MP4.
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
    ensure!(sent_s > least_s, "the server got {sent_s:.1} s");
    let folder = outputs.folder.join("kept").join(RECORDING_NAME);
    let playlist =
        fs::read_to_string(folder.join(format!("{RECORDING_NAME}.m3u8"))).context("no playlist")?;
    let lengths =
        playlist.lines().filter_map(|l| l.strip_prefix("#EXTINF:")?.split(',').next()?.parse::<f64>().ok());
    let cut_s: f64 = lengths.sum();
    ensure!(cut_s > least_s && playlist.contains("#EXT-X-ENDLIST"), "the playlist has {cut_s:.1} s");
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
    println!("healed                   {} reloads, {} fresh browsers", total.reloads, total.moves);
    println!("changes told late        {}", total.dropped_frames);
    println!(
        "pushes                   {}, {} packets lost, {} connections made again",
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
        "left behind              {}",
        if total.failures.is_empty() { "no process, no file" } else { "see below" }
    );
    total.failures.iter().for_each(|wrong| println!("WRONG  {wrong}"));
    ensure!(total.failures.is_empty(), "{} of {} casts went wrong", total.failures.len(), total.casts);
    Ok(())
}
