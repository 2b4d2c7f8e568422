//! A static page costs almost no encoding and is recorded sharply and with exact colours.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::RgbImage;
use pagecast_testkit::media::image::Rect;
use pagecast_testkit::{MachineLock, Outcome, PageServer, PagecastCommand, ScratchDir, Signal, screenshot};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const FPS: u32 = 30;
const DURATION_S: u32 = 8;
/// Time by which the page is loaded and its picture refined, in seconds.
const SETTLED_S: f64 = 3.0;
/// Colours of the bars of `static.html`.
const BAR_COLOURS: [[f64; 3]; 8] = [
    [192.0, 192.0, 192.0],
    [192.0, 192.0, 0.0],
    [0.0, 192.0, 192.0],
    [0.0, 192.0, 0.0],
    [192.0, 0.0, 192.0],
    [192.0, 0.0, 0.0],
    [0.0, 0.0, 192.0],
    [32.0, 64.0, 96.0],
];
const TEXT_AREA: Rect = Rect { x: 32, y: 216, width: 1216, height: 240 };

fn record(server: &PageServer) -> Result<Outcome> {
    PagecastCommand::record(PAGECAST, &server.url("static.html"))
        .option("fps", FPS)
        .option("duration", format!("{DURATION_S}s"))
        .finish(Duration::from_secs(40))
}

/// Mean difference between neighbouring pixels in a row. Falls when text blurs.
fn sharpness(picture: &RgbImage) -> f64 {
    let step =
        |row: &[u8]| -> u64 { row.windows(4).step_by(3).map(|w| u64::from(w[0].abs_diff(w[3]))).sum() };
    picture.data.chunks_exact(3 * picture.width).map(step).sum::<u64>() as f64 / picture.data.len() as f64
}

#[test]
fn only_heartbeats_are_encoded() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let outcome = record(&PageServer::start()?)?;
    let (report, file) = (outcome.report()?, outcome.recording()?);
    let ticks = file.ticks(FPS)?;
    println!("{report:?}\n{ticks:?}");
    ensure!(report.frames_encoded == ticks.len() as u64, "{} pictures in the file, {report:?}", ticks.len());
    let gaps: Vec<_> = ticks.windows(2).map(|w| w[1] - w[0]).collect();
    ensure!(gaps.iter().all(|g| *g <= i64::from(FPS)), "a second without a heartbeat: {ticks:?}");
    let settled = (SETTLED_S * f64::from(FPS)) as i64;
    let heartbeats = ticks.iter().filter(|t| **t >= settled).count() as u32;
    let expected = DURATION_S - SETTLED_S as u32;
    ensure!(
        (expected - 1..=expected + 1).contains(&heartbeats),
        "{heartbeats} pictures in {expected} s: {ticks:?}"
    );
    ensure!(report.frames_unchanged > u64::from(FPS * (DURATION_S - 2)), "{report:?}");
    ensure!(file.end_s() > f64::from(DURATION_S) - 0.1, "the last picture ends at {} s", file.end_s());
    Ok(())
}

/// How often the main thread of a process has gone to sleep so far.
fn sleeps(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(count.context("no count of sleeps")?.trim().parse()?)
}

#[test]
fn the_main_thread_of_a_cast_at_rest_wakes_only_for_what_is_due() -> Result<()> {
    /// Progress and a ping every second, a measurement every two; and as much again for what Chromium does.
    const MAX_WAKES_PER_S: f64 = 5.0;
    const WINDOW: Duration = Duration::from_secs(6);
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = PagecastCommand::record(PAGECAST, &server.url("static.html")).start()?;
    run.wait_until("the page was live", Duration::from_secs(30), |run| {
        run.stderr_so_far().contains("page live")
    })?;
    std::thread::sleep(Duration::from_secs_f64(SETTLED_S));
    let pid = run.cast_pid().context("no process of the cast")?;
    let before = sleeps(pid)?;
    std::thread::sleep(WINDOW);
    let wakes_per_s = (sleeps(pid)? - before) as f64 / WINDOW.as_secs_f64();
    run.signal(Signal::INT)?;
    run.finish(Duration::from_secs(20))?.report()?;
    println!("{wakes_per_s:.1} wakes per second");
    ensure!(wakes_per_s <= MAX_WAKES_PER_S, "{wakes_per_s:.1} wakes per second");
    ensure!(wakes_per_s >= 1.0, "{wakes_per_s:.1} wakes per second: progress alone is one");
    Ok(())
}

#[test]
fn thumbnails_have_the_colours_of_the_page() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let outcome = PagecastCommand::record(PAGECAST, &server.url("static.html"))
        .output(scratch.join("out"))
        .option("name", "still")
        .option("thumbnails", "1s")
        .option("duration", "5s")
        .finish(Duration::from_secs(40))?;
    outcome.report()?;
    let shown = RgbImage::open(&scratch.join("out/still/still_4.jpg"))?;
    for (n, expected) in BAR_COLOURS.into_iter().enumerate() {
        let bar = shown.mean_rgb(Rect { x: 160 * n + 20, y: 20, width: 120, height: 160 });
        let off = (0..3).map(|c| (bar[c] - expected[c]).abs()).fold(0.0, f64::max);
        ensure!(off <= 3.0, "bar {n} is {bar:.1?} instead of {expected:?}");
    }
    Ok(())
}

#[test]
fn the_picture_is_the_page() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let shown = record(&server)?.recording()?.frame_at(f64::from(DURATION_S) - 1.0)?;
    let expected = screenshot(&server.url("static.html"), 1280, 720, Duration::from_secs(2))?;

    let psnr = shown.psnr_db(&expected)?;
    let text = (shown.crop(TEXT_AREA), expected.crop(TEXT_AREA));
    let (text_psnr, sharp) = (text.0.psnr_db(&text.1)?, sharpness(&text.0) / sharpness(&text.1));
    println!("PSNR {psnr:.1} dB, text {text_psnr:.1} dB, sharpness {sharp:.3}");
    ensure!(psnr >= 40.0, "PSNR is {psnr:.1} dB");
    ensure!(text_psnr >= 35.0, "PSNR of the text is {text_psnr:.1} dB");
    ensure!((0.95..1.05).contains(&sharp), "the text has {sharp:.3} times the sharpness of the screenshot");
    for (n, expected) in BAR_COLOURS.into_iter().enumerate() {
        let bar = shown.mean_rgb(Rect { x: 160 * n + 20, y: 20, width: 120, height: 160 });
        let off = (0..3).map(|c| (bar[c] - expected[c]).abs()).fold(0.0, f64::max);
        ensure!(off <= 3.0, "bar {n} is {bar:.1?} instead of {expected:?}");
    }
    Ok(())
}
