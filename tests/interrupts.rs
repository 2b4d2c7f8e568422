//! Recordings that are stopped by signals or kills keep their content, and leave no processes.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::probe;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{MachineLock, Outcome, PageServer, PagecastCommand, PagecastProcess, Signal};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(20);
/// Age of the page when the test interferes, in seconds.
const PAGE_AGE_S: u32 = 6;

/// Starts a recording of the counter page and waits until the page is [`PAGE_AGE_S`] old.
fn start_recording(server: &PageServer) -> Result<PagecastProcess> {
    let run = PagecastCommand::record(PAGECAST, &server.url("counter.html?report")).start()?;
    server.wait_for_request(
        &format!("/report/second-{PAGE_AGE_S}"),
        Duration::from_secs(u64::from(PAGE_AGE_S) + 20),
    )?;
    Ok(run)
}

/// Checks that the file plays and lacks at most `lost_s` before the test interfered.
fn verify_kept(outcome: &Outcome, lost_s: f64) -> Result<()> {
    let file = outcome.partial_recording()?;
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let timecodes: Vec<_> = pictures.iter().filter_map(|p| p.timecode).collect();
    ensure!(timecodes.is_sorted_by_key(|s| s.counter), "frames are out of order");
    let last = timecodes.last().context("no picture shows the page")?;
    println!("the last picture was drawn at {:.2} s, {} pictures", last.page_s(), pictures.len());
    ensure!(
        last.page_s() > f64::from(PAGE_AGE_S) - lost_s,
        "the last picture was drawn at {:.2} s",
        last.page_s()
    );
    let sound_s = file.pcm()?.channels()?[0].len() as f64 / 48_000.0;
    ensure!(
        (sound_s - file.end_s()).abs() < 2.5,
        "{sound_s:.2} s of sound, {:.2} s of picture",
        file.end_s()
    );
    Ok(())
}

/// Checks that the signal finishes the recording.
fn verify_ends_on(signal: Signal) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let run = start_recording(&server)?;
    run.signal(signal)?;
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    ensure!(outcome.elapsed < Duration::from_secs(5), "it took {:?} to end", outcome.elapsed);
    // The recording starts when the page has drawn.
    ensure!(report.duration_ms > 1000.0 * f64::from(PAGE_AGE_S - 1), "{report:?}");
    let boxes = probe::top_level_boxes(&outcome.output)?;
    ensure!(!boxes.contains(&"moof".to_owned()), "not finished: {boxes:?}");
    verify_kept(&outcome, 0.2)
}

#[test]
fn ctrl_c_finishes_the_file() -> Result<()> {
    verify_ends_on(Signal::INT)
}

#[test]
fn sigterm_finishes_the_file() -> Result<()> {
    verify_ends_on(Signal::TERM)
}

#[test]
fn a_signal_before_the_page_is_loaded_stops_the_run() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?.with_route("/slow", pagecast_testkit::PageResponse::NoResponse);
    let run = PagecastCommand::record(PAGECAST, &server.url("slow")).start()?;
    server.wait_for_request("/slow", TIMEOUT)?;
    run.signal(Signal::TERM)?;
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(3, &["nothing was recorded"])?;
    ensure!(outcome.elapsed < Duration::from_secs(5), "it took {:?} to end", outcome.elapsed);
    ensure!(!outcome.output.exists(), "a file was left although nothing was recorded");
    Ok(())
}

#[test]
fn a_supervisor_that_is_killed_loses_nothing() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let run = start_recording(&server)?;
    run.signal(Signal::KILL)?;
    let outcome = run.finish(TIMEOUT)?;
    let boxes = probe::top_level_boxes(&outcome.output)?;
    ensure!(!boxes.contains(&"moof".to_owned()), "not finished: {boxes:?}");
    verify_kept(&outcome, 0.5)
}

#[test]
fn a_cast_that_is_killed_resumes_in_another_process() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = start_recording(&server)?;
    run.kill_matching("run-cast")?;
    server.wait_for_requests("/report/second-3", 2, Duration::from_secs(30))?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    ensure!(report.restarts == 1 && report.end == "stopped", "{report:?}");
    let file = outcome.recording()?;
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    let pages: Vec<_> =
        file.timecodes(TimecodePosition::PAGE)?.iter().filter_map(|p| Some(p.timecode?.page_s())).collect();
    let seam = pages.windows(2).position(|pair| pair[1] < pair[0]).context("no second page")?;
    println!(
        "the first page was recorded until {:.2} s, the second until {:.2} s",
        pages[seam],
        pages[pages.len() - 1]
    );
    ensure!(
        pages[seam] > f64::from(PAGE_AGE_S) - 3.0,
        "the first page was recorded until {:.2} s",
        pages[seam]
    );
    ensure!(pages[seam + 1..].is_sorted() && pages[pages.len() - 1] > 2.5, "{:?}", &pages[seam..]);
    ensure!((report.duration_ms / 1000.0 - file.end_s()).abs() < 0.2, "{report:?}, {} s", file.end_s());
    Ok(())
}

#[test]
fn everything_killed_at_once_leaves_a_spool_and_the_next_cast_cleans_up() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = start_recording(&server)?;
    let temp = run.temp_folder().to_owned();
    // The janitor first, as it would clean up after the others.
    run.kill_matching("pagecast-janitor")?;
    run.kill_all();
    ensure!(std::fs::read_dir(&temp)?.count() > 0, "nothing was left behind");
    pagecast_testkit::pagecast::record_one_second(PAGECAST, &server.url("counter.html"), &temp)?;
    let left: Vec<_> = std::fs::read_dir(&temp)?.flatten().map(|e| e.path()).collect();
    ensure!(left.is_empty(), "not removed: {left:?}");
    let outcome = run.finish(TIMEOUT)?;
    ensure!(!outcome.output.exists(), "an incomplete file was left");
    outcome.recover(PAGECAST)?;
    verify_kept(&outcome, 3.0)
}

#[test]
fn a_second_signal_kills_the_cast() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = start_recording(&server)?;
    run.pause_matching("run-cast")?;
    // Signals in quick succession may be merged into one, so they are half a second apart.
    while run.is_running() {
        run.signal(Signal::INT)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(1, &["ended unexpectedly"])?;
    verify_kept(&outcome, 3.0)
}

/// Sends `wl_registry.bind` without a name, at which the Wayland library is known to panic.
#[test]
fn a_display_that_dies_ends_the_cast_and_keeps_the_file() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let run = start_recording(&server)?;
    let folders = std::fs::read_dir(run.temp_folder())?.flatten().map(|e| e.path().join("wayland"));
    let socket = folders.into_iter().find(|path| path.exists()).context("no display socket")?;
    let get_registry = [1_u32, 12 << 16 | 1, 2];
    let bind = [2_u32, 24 << 16, 1, 0, 1, 3];
    let bytes: Vec<u8> = get_registry.iter().chain(&bind).flat_map(|word| word.to_ne_bytes()).collect();
    std::os::unix::net::UnixStream::connect(socket)?.write_all(&bytes)?;
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_code(1)?;
    ensure!(outcome.elapsed < Duration::from_secs(10), "the cast ended after {:?}", outcome.elapsed);
    verify_kept(&outcome, 3.0)
}

#[test]
fn a_cast_that_hangs_resumes_in_another_process() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = start_recording(&server)?;
    run.pause_matching("run-cast")?;
    server.wait_for_requests("/report/second-3", 2, Duration::from_secs(60))?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    ensure!(report.restarts == 1 && report.end == "stopped", "{report:?}");
    let file = outcome.recording()?;
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);
    let pages: Vec<_> =
        file.timecodes(TimecodePosition::PAGE)?.iter().filter_map(|p| Some(p.timecode?.page_s())).collect();
    let seam = pages.windows(2).position(|pair| pair[1] < pair[0]).context("no second page")?;
    ensure!(
        pages[seam] > f64::from(PAGE_AGE_S) - 3.0,
        "the first page was recorded until {:.2} s",
        pages[seam]
    );
    ensure!(pages[seam + 1..].is_sorted() && pages[pages.len() - 1] > 2.5, "{:?}", &pages[seam..]);
    Ok(())
}

#[test]
fn one_signal_stops_a_cast_that_hangs() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = start_recording(&server)?;
    run.pause_matching("run-cast")?;
    run.signal(Signal::INT)?;
    let outcome = run.finish(Duration::from_secs(40))?;
    println!("it took {:?} to end", outcome.elapsed);
    let report = outcome.report()?;
    ensure!(report.end == "stopped" && report.restarts == 0, "{report:?}");
    verify_kept(&outcome, 3.0)
}

#[test]
fn the_maximum_running_time_holds_for_a_cast_that_hangs() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = PagecastCommand::record(PAGECAST, &server.url("counter.html?report"))
        .option("max-time", "10s")
        .start()?;
    server.wait_for_request("/report/second-3", TIMEOUT)?;
    run.pause_matching("run-cast")?;
    let outcome = run.finish(Duration::from_secs(60))?;
    println!("it took {:?} to end", outcome.elapsed);
    let report = outcome.report()?;
    ensure!(report.end == "max-time" && report.restarts == 0, "{report:?}");
    let pictures = outcome.partial_recording()?.timecodes(TimecodePosition::PAGE)?;
    let last = pictures.iter().rev().find_map(|p| p.timecode).context("no picture shows the page")?;
    ensure!(last.page_s() > 1.0, "the last picture was drawn at {:.2} s", last.page_s());
    Ok(())
}
