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
use pagecast_testkit::media::beeps;
use pagecast_testkit::rtmp::Nginx;
use pagecast_testkit::strip::Place;
use pagecast_testkit::sync::{self, median};
use pagecast_testkit::{Outcome, Pagecast, Recording, Run, Scratch, Server, Signal, flv};

/// Time between two looks at the casts.
const LOOK: Duration = Duration::from_millis(200);
/// Time between two samples of memory and descriptors.
const SAMPLE: Duration = Duration::from_secs(10);
/// What a cast may take beyond its length.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a recording with several files is called.
const NAME: &str = "soak";
/// What a stream or a playlist may lack of the cast's length, in seconds: a stream begins when the server has answered.
const LACK_S: f64 = 2.0;
/// Troubles that the page makes itself; an empty one is none.
const TROUBLES: [&str; 6] = ["", "freeze", "blank", "loop", "memory", "reload"];

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
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A cast that runs.
struct Cast {
    run: Run,
    started: Instant,
    next_fault: Instant,
    next_sample: Instant,
    /// When a browser that stands still may go on.
    resume: Option<Instant>,
    /// Resident bytes and descriptors of the cast's process, over time.
    samples: Vec<(u64, usize)>,
    faults: u32,
    trouble: &'static str,
    /// Where it goes, unless to a file alone.
    outputs: Option<Outputs>,
}

/// The outputs of a cast that has several.
struct Outputs {
    folder: Scratch,
    /// Name of its stream.
    key: String,
}

/// What casts talk to.
struct Servers {
    pages: Server,
    nginx: Nginx,
}

/// What all casts came to.
#[derive(Default)]
struct Total {
    casts: u32,
    wrong: Vec<String>,
    faults: u32,
    reloads: u32,
    moves: u32,
    seconds: f64,
    late: u64,
    pushed: u32,
    lost: u64,
    reconnects: u64,
    offsets_ms: Vec<f64>,
    drift: Vec<f64>,
    memory_growth: Vec<f64>,
    fd_growth: Vec<i64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("pagecast"));
    let program = args.pagecast.clone().map_or_else(beside, Ok)?;
    ensure!(program.is_file(), "{} is missing: cargo build --release", program.display());
    let servers = Servers { pages: Server::start()?, nginx: Nginx::start(None)? };
    let mut started = 0;
    let mut dice = Dice(args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (begin, mut total, mut running) = (Instant::now(), Total::default(), Vec::new());
    let until = begin + Duration::from_secs(60 * args.minutes);
    let length = Duration::from_secs(60 * args.length);
    loop {
        while running.len() < args.casts && Instant::now() + length <= until + LOOK {
            running.push(start(&args, &program, &servers, started, &mut dice)?);
            started += 1;
        }
        if running.is_empty() {
            break;
        }
        for cast in &mut running {
            disturb(cast, &args, &mut dice);
        }
        let over = |cast: &mut Cast| cast.started.elapsed() >= length || !cast.run.is_running();
        while let Some(at) = running.iter_mut().position(over) {
            let cast = running.swap_remove(at);
            finish(cast, length, &servers.nginx, &mut total);
            println!(
                "{:>4.0} min: {} casts done, {} faults, {} reloads, {} fresh browsers, {} wrong",
                begin.elapsed().as_secs_f64() / 60.0,
                total.casts,
                total.faults,
                total.reloads,
                total.moves,
                total.wrong.len()
            );
        }
        std::thread::sleep(LOOK);
    }
    report(&args, &total, begin.elapsed())
}

fn start(args: &Args, program: &Path, servers: &Servers, number: u32, dice: &mut Dice) -> Result<Cast> {
    let trouble = TROUBLES[dice.roll(TROUBLES.len() as u64) as usize];
    let after_ms = 10_000 + dice.roll(60_000);
    let url = servers
        .pages
        .url(&format!("sync.html?do={trouble}&after={after_ms}&loads=1&id={}", dice.roll(1 << 40)));
    let mut cast = Pagecast::record(program, &url)
        .with("size", "640x360")
        .with("duration", format!("{}s", 60 * args.length))
        .with("attempts", 10)
        .with("freeze-check", "3s")
        .with("blank-check", "3s")
        .with("crash-check", "3s")
        .with("max-memory", "1500M");
    let mut outputs = None;
    if number % 2 == 1 {
        let (folder, key) = (Scratch::new()?, format!("soak{number}"));
        cast = cast.with("push", servers.nginx.url(&key)).with("format", "both").with("name", NAME);
        cast = cast.output(folder.join("kept"));
        outputs = Some(Outputs { folder, key });
    }
    let run = cast.start()?;
    let now = Instant::now();
    Ok(Cast {
        run,
        started: now,
        next_fault: now + pause(args, dice),
        next_sample: now + SAMPLE,
        resume: None,
        samples: Vec::new(),
        faults: u32::from(!trouble.is_empty()),
        trouble,
        outputs,
    })
}

fn pause(args: &Args, dice: &mut Dice) -> Duration {
    Duration::from_secs(args.every / 2 + dice.roll(args.every.max(1)))
}

/// Lets something go wrong, if it is time to, and samples the cast.
fn disturb(cast: &mut Cast, args: &Args, dice: &mut Dice) {
    let now = Instant::now();
    if cast.next_sample <= now {
        cast.next_sample = now + SAMPLE;
        cast.samples.extend(cast.run.cast_process().and_then(sample));
    }
    // What cannot be found just now is not hit: the cast is in the middle of healing.
    if cast.resume.is_some_and(|at| at <= now) {
        cast.resume = None;
        let _gone = cast.run.signal_browser(Signal::CONT);
    }
    if cast.next_fault <= now && cast.resume.is_none() {
        cast.next_fault = now + pause(args, dice);
        let hit = match dice.roll(4) {
            0 => cast.run.kill_browser(),
            1 => cast.run.kill_those_with("--type=renderer"),
            2 => cast.run.kill_those_with("--type=utility"),
            _ => {
                cast.resume = Some(now + Duration::from_secs(1 + dice.roll(8)));
                cast.run.signal_browser(Signal::STOP)
            }
        };
        cast.faults += u32::from(hit.is_ok());
    }
}

/// Resident bytes and descriptors of a process.
fn sample(pid: u32) -> Option<(u64, usize)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some((1024 * kib, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
}

fn finish(mut cast: Cast, length: Duration, nginx: &Nginx, total: &mut Total) {
    let _gone = cast.run.signal_browser(Signal::CONT);
    total.casts += 1;
    total.faults += cast.faults;
    let (trouble, samples) = (cast.trouble, std::mem::take(&mut cast.samples));
    if let Err(error) = judge(cast.run, cast.outputs.as_ref(), nginx, length, total) {
        total.wrong.push(format!("cast {} (page: {trouble:?}): {error:#}", total.casts));
    }
    // The first minute is for warming up.
    let warm = samples.get(6..).unwrap_or_default();
    if let [first, .., last] = warm {
        total.memory_growth.push(last.0 as f64 / first.0 as f64 - 1.0);
        total.fd_growth.push(last.1 as i64 - first.1 as i64);
    }
}

/// That the cast ended as it should, left nothing, and that its file is whole.
fn judge(
    run: Run,
    outputs: Option<&Outputs>,
    nginx: &Nginx,
    length: Duration,
    total: &mut Total,
) -> Result<()> {
    let outcome = run.finish(PATIENCE)?;
    let report = outcome.report()?;
    total.reloads += report.reloads;
    total.moves += report.moves;
    total.late += report.frames_dropped;
    let file = match outputs {
        None => outcome.recording()?,
        Some(outputs) => judge_outputs(&outcome, outputs, nginx, length, total)?,
    };
    ensure!((file.end_s() - length.as_secs_f64()).abs() < 0.1, "{} s of picture", file.end_s());
    let complaints = file.complaints()?;
    ensure!(complaints.is_empty(), "does not decode: {complaints}");
    let pictures = file.strips(Place::PAGE)?;
    let [onsets] = beeps::onsets_of(file.pcm()?, [sync::PAGE_BEEP])?;
    let offsets = sync::page(&pictures, &onsets);
    ensure!(offsets.len() > 20, "only {} beeps", offsets.len());
    total.seconds += file.end_s();
    total.offsets_ms.extend(offsets.all.iter().map(|(_, ms)| *ms));
    total.drift.push(offsets.drift_ms_per_min());
    if let Some(folder) = &report.evidence {
        fs::remove_dir_all(folder).context("cannot remove the evidence")?;
    }
    Ok(())
}

/// That what was sent and what was cut are as long as the cast; gives its MP4.
fn judge_outputs(
    outcome: &Outcome,
    outputs: &Outputs,
    nginx: &Nginx,
    length: Duration,
    total: &mut Total,
) -> Result<Recording> {
    let report = outcome.report()?;
    let [push] = &report.pushes[..] else { bail!("pushes: {:?}", report.pushes) };
    total.pushed += 1;
    total.lost += push.lost;
    total.reconnects += push.reconnects;
    ensure!(push.bytes > 0 && push.state == "idle", "{push:?}");
    let least_s = length.as_secs_f64() - LACK_S;
    let mut sent_s = 0.0;
    for path in nginx.recorded(&outputs.key)? {
        let tags = flv::tags(&path)?;
        let ms = tags.last().zip(tags.first()).map_or(0, |(last, first)| last.ms - first.ms);
        sent_s += ms as f64 / 1000.0;
        fs::remove_file(path)?;
    }
    ensure!(sent_s > least_s, "the server got {sent_s:.1} s");
    let folder = outputs.folder.join("kept").join(NAME);
    let playlist = fs::read_to_string(folder.join(format!("{NAME}.m3u8"))).context("no playlist")?;
    let lengths =
        playlist.lines().filter_map(|l| l.strip_prefix("#EXTINF:")?.split(',').next()?.parse::<f64>().ok());
    let cut_s: f64 = lengths.sum();
    ensure!(cut_s > least_s && playlist.contains("#EXT-X-ENDLIST"), "the playlist has {cut_s:.1} s");
    Recording::open(&folder.join(format!("{NAME}_0.mp4")))
}

fn report(args: &Args, total: &Total, took: Duration) -> Result<()> {
    let within = |ms: f64| {
        let good = total.offsets_ms.iter().filter(|o| o.abs() <= ms).count();
        100.0 * good as f64 / total.offsets_ms.len().max(1) as f64
    };
    println!("\n{} casts at a time for {:.0} min, seed {}", args.casts, took.as_secs_f64() / 60.0, args.seed);
    println!("casts                    {} ({:.0} s recorded)", total.casts, total.seconds);
    println!("faults                   {}", total.faults);
    println!("healed                   {} reloads, {} fresh browsers", total.reloads, total.moves);
    println!("changes told late        {}", total.late);
    println!(
        "pushes                   {}, {} packets lost, {} connections made again",
        total.pushed, total.lost, total.reconnects
    );
    println!(
        "sound against picture    median {:+.1} ms; {:.1} % of {} beeps within 40 ms, {:.1} % within 15 ms",
        median(total.offsets_ms.clone()),
        within(40.0),
        total.offsets_ms.len(),
        within(15.0)
    );
    println!("drift                    {:+.2} ms/min", median(total.drift.clone()));
    println!(
        "growth after a minute    memory {:+.1} % (most {:+.1} %), descriptors at most {:+}",
        100.0 * median(total.memory_growth.clone()),
        100.0 * total.memory_growth.iter().copied().fold(f64::MIN, f64::max),
        total.fd_growth.iter().copied().max().unwrap_or(0)
    );
    println!(
        "left behind              {}",
        if total.wrong.is_empty() { "no process, no file" } else { "see below" }
    );
    total.wrong.iter().for_each(|wrong| println!("WRONG  {wrong}"));
    ensure!(total.wrong.is_empty(), "{} of {} casts went wrong", total.wrong.len(), total.casts);
    Ok(())
}
