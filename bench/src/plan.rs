//! Command line and order of the work. The recorders take turns, so that other load of the machine affects
//! both alike.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum, value_parser};
use pagecast_testkit::MachineLock;

use crate::av_sync::measure_offsets;
use crate::cast::Recorder;
use crate::density;
use crate::first_frame::{first_frame_s, warm_first_frame_s};
use crate::fleet::FleetResults;
use crate::machine;
use crate::measure::{WARM_UP, measure_cast};
use crate::outputs::OutputResults;
use crate::page::BenchPage;
use crate::playback::PlaybackResults;
use crate::reference::ReferenceFrames;
use crate::report;
use crate::results::{PageResult, PerRecorder, Results};
use crate::rooms::RoomResults;
use crate::service::ServiceResults;
use crate::service::console::ConsoleResults;
use crate::site::BenchSite;
use crate::take_over::TakeOverResults;
use crate::usage::{become_subreaper, kill_descendants};

const DEFAULT_WINDOW_S: u32 = 10;
const DEFAULT_REPEAT: u32 = 3;
const DEFAULT_JOINS: u32 = 20;
const DEFAULT_KILLS: u32 = 10;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Cost of a cast of each page, and quality of its file
    Pages,
    /// The first frame, and sound against picture
    Times,
    /// Number of simultaneous casts
    Density,
    /// Pushes, their delay, and recordings to a bucket
    Outputs,
    /// Rooms: cost, delay, and time to the first picture
    Rooms,
    /// Longest gap between pictures at viewers that join rooms
    Playback,
    /// Latency of the service, also with a long history
    Service,
    /// The service while consoles are open
    Console,
    /// SQLite and PostgreSQL: latency of the service, claims of many nodes, cost of leases
    Fleet,
    /// Time without pictures when the node of a cast is killed, and when the database is
    TakeOver,
}

/// Compares Pagecast with a baseline (Xvfb, PulseAudio, x11grab, ffmpeg) and writes a report.
#[derive(Debug, Parser)]
#[command(name = "pagecast-bench")]
pub(crate) struct Args {
    /// Parts of the benchmark, separated by commas [default: all, quick all but density]
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Section>,
    /// Pages to record, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pages: Vec<BenchPage>,
    /// Casts of each page and recorder; medians are reported [default: 3, quick 1]
    #[arg(long, value_parser = value_parser!(u32).range(1..=99))]
    repeat: Option<u32>,
    /// Seconds over which a cast is measured, after its start [default: 10, quick 5]
    #[arg(long, value_parser = value_parser!(u32).range(3..=300))]
    seconds: Option<u32>,
    /// Viewers that join one after the other, in each scenario of playback [default: 20, quick 2]
    #[arg(long, value_parser = value_parser!(u32).range(1..=99))]
    joins: Option<u32>,
    /// How often the node of a cast is killed, for the take-over [default: 10, quick 2]
    #[arg(long, value_parser = value_parser!(u32).range(1..=99))]
    kills: Option<u32>,
    /// Measure only scenarios of playback whose row contains this text
    #[arg(long, default_value = "", hide_default_value = true)]
    scenario: String,
    /// One short cast each, no simultaneous casts
    #[arg(long)]
    quick: bool,
    /// Page for simultaneous casts
    #[arg(long, value_enum, default_value = "animation")]
    density: BenchPage,
    /// Program to measure [default: `pagecast` beside this one]
    #[arg(long)]
    pagecast: Option<PathBuf>,
    /// File for the results
    #[arg(long, default_value = "docs/bench.md")]
    output: PathBuf,
}

impl Args {
    pub(crate) fn repeat(&self) -> u32 {
        self.repeat.unwrap_or(if self.quick { 1 } else { DEFAULT_REPEAT })
    }

    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(
            self.seconds.unwrap_or(if self.quick { DEFAULT_WINDOW_S / 2 } else { DEFAULT_WINDOW_S }).into(),
        )
    }

    fn joins(&self) -> u32 {
        self.joins.unwrap_or(if self.quick { 2 } else { DEFAULT_JOINS })
    }

    fn kills(&self) -> u32 {
        self.kills.unwrap_or(if self.quick { 2 } else { DEFAULT_KILLS })
    }

    fn has(&self, part: Section) -> bool {
        if self.parts.is_empty() {
            return !(self.quick && part == Section::Density);
        }
        self.parts.contains(&part)
    }

    fn pages(&self) -> &[BenchPage] {
        const ALL: [BenchPage; 5] =
            [BenchPage::Still, BenchPage::Animation, BenchPage::Scroll, BenchPage::Video, BenchPage::Webgl];
        if self.pages.is_empty() { &ALL } else { &self.pages }
    }

    fn program(&self) -> Result<PathBuf> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("pagecast"));
        let program = self.pagecast.clone().map_or_else(beside, Ok)?;
        ensure!(program.is_file(), "{} is missing: cargo build --release", program.display());
        Ok(program)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    machine::check_dependencies(args.has(Section::Outputs))?;
    let program = args.program()?;
    ensure!(args.density.is_animated(), "frames of a still page cannot be counted");
    become_subreaper()?;
    // Tests on this machine would disturb the measurements.
    let _lock = MachineLock::exclusive()?;
    let length_s = (WARM_UP + args.window()).as_secs() as u32;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let site = BenchSite::open(&folder, length_s.next_multiple_of(30))?;
    let results = run_sections(args, &site, &program);
    // Also after a failure, no process may be left.
    kill_descendants()?;
    let results = results?;
    let text = report::markdown(args, &program, &results)?;
    if let Some(folder) = args.output.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&args.output, text).with_context(|| format!("cannot write {}", args.output.display()))?;
    eprintln!("written: {}", args.output.display());
    Ok(())
}

fn run_sections(args: &Args, site: &BenchSite, program: &Path) -> Result<Results> {
    let mut results = Results::default();
    if args.has(Section::Pages) {
        measure_pages(args, site, program, &mut results)?;
    }
    if args.has(Section::Times) {
        measure_times(args, site, program, &mut results)?;
    }
    if args.has(Section::Density) {
        let mut steps = PerRecorder::default();
        for recorder in Recorder::ALL {
            *steps.get_mut(recorder) =
                density::measure_density(recorder, site, args.density, program, args.window())?;
        }
        results.density = Some((args.density, steps));
    }
    if args.has(Section::Outputs) {
        results.outputs = Some(OutputResults::measure(site, program, args.window(), args.repeat())?);
    }
    if args.has(Section::Rooms) {
        results.rooms = Some(RoomResults::measure(site, program, args.window(), args.repeat())?);
    }
    if args.has(Section::Playback) {
        results.playback = Some(PlaybackResults::measure(site, program, args.joins(), &args.scenario)?);
    }
    if args.has(Section::Service) {
        results.service = Some(ServiceResults::measure(program, args.quick)?);
    }
    if args.has(Section::Console) {
        results.console = Some(ConsoleResults::measure(program, args.quick)?);
    }
    if args.has(Section::Fleet) {
        results.fleet = Some(FleetResults::measure(program, args.quick)?);
    }
    if args.has(Section::TakeOver) {
        results.take_over = Some(TakeOverResults::measure(program, args.kills())?);
    }
    Ok(results)
}

fn measure_pages(args: &Args, site: &BenchSite, program: &Path, results: &mut Results) -> Result<()> {
    let mut references = ReferenceFrames::new(site);
    for page in args.pages() {
        let mut casts = PerRecorder::<Vec<_>>::default();
        for round in 1..=args.repeat() {
            for recorder in Recorder::ALL {
                eprint!("{}, {} {round}/{}: ", page.title(), recorder.name(), args.repeat());
                let measured =
                    measure_cast(recorder, site, *page, program, args.window(), Some(&mut references))?;
                let ssim = measured.ssim.map_or(f64::NAN, |ssim| ssim.luma);
                eprintln!(
                    "{:.2} cores, {:.1} new fps, SSIM {ssim:.4}",
                    measured.cores.total(),
                    measured.distinct_fps
                );
                casts.get_mut(recorder).push(measured);
            }
        }
        results.pages.push(PageResult { page: *page, casts });
    }
    Ok(())
}

fn measure_times(args: &Args, site: &BenchSite, program: &Path, results: &mut Results) -> Result<()> {
    for _ in 0..args.repeat() {
        for recorder in Recorder::ALL {
            let seconds = first_frame_s(recorder, site, program)?;
            eprintln!("first frame, {}: {seconds:.2} s", recorder.name());
            results.first_frames_s.get_mut(recorder).push(seconds);
            let offsets = measure_offsets(recorder, site, program, args.window())?;
            eprintln!("sound against picture, {}: {offsets}", recorder.name());
            results.offsets.get_mut(recorder).push(offsets);
        }
    }
    for _ in 0..args.repeat() {
        let seconds = warm_first_frame_s(site, program)?;
        eprintln!("first frame, Pagecast with a warm browser: {seconds:.2} s");
        results.warm_first_frames_s.push(seconds);
    }
    Ok(())
}
