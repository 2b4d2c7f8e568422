//! Recovery of pages that freeze, turn white, hang, crash or never start: the order of actions, and that the
//! recording plays without a gap.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::av_sync::{self, AvOffsets};
use pagecast_testkit::media::beeps;
use pagecast_testkit::pagecast::Report;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    MachineLock, Outcome, PageResponse, PageServer, PagecastCommand, PagecastProcess, flash_beep,
};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);
const EXIT_PAGE: i32 = 3;
const EXIT_BROWSER: i32 = 5;
const EXIT_INVALID_VALUE: i32 = 2;

fn record_command(server: &PageServer, page: &str) -> PagecastCommand {
    PagecastCommand::record(PAGECAST, &server.url(page)).option("size", "640x360")
}

/// The events of a cast as text, like `live` and `reloaded freeze`.
fn event_names(report: &Report) -> Vec<String> {
    let text = |event: &serde_json::Value| event.to_string().replace(['{', '}', '"'], "").replace(':', " ");
    report.timeline.iter().map(|entry| text(&entry.event)).collect()
}

fn expect_events(report: &Report, expected: &[&str]) -> Result<()> {
    let events = event_names(report);
    println!("{:?}", report.timeline);
    ensure!(events == expected, "events are {events:?}, expected {expected:?}");
    Ok(())
}

/// Checks how many milliseconds after the previous event an event happened.
fn expect_event_after(report: &Report, event: usize, ms: RangeInclusive<u64>) -> Result<()> {
    let [before, this] = [event - 1, event].map(|i| report.timeline[i].at_ms);
    ensure!(
        ms.contains(&(this - before)),
        "event {event} is {} ms after the previous one, expected {ms:?}",
        this - before
    );
    Ok(())
}

/// Kinds of faults with evidence, in order. Checks that each one has a picture.
fn evidence_kinds(report: &Report) -> Result<Vec<String>> {
    let Some(folder) = &report.evidence else { return Ok(Vec::new()) };
    let mut names: Vec<String> =
        std::fs::read_dir(folder)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let logs: Vec<_> = names.iter().filter_map(|n| n.strip_suffix(".log")).collect();
    for log in &logs {
        ensure!(names.contains(&format!("{log}.png")), "no picture of {log}");
    }
    Ok(logs.into_iter().filter_map(|n| n.split_once('-')).map(|(_, kind)| kind.to_owned()).collect())
}

/// Checks that the file has this duration, decodes, and has its pictures in order.
fn verify_plays(outcome: &Outcome, seconds: f64) -> Result<()> {
    let file = outcome.partial_recording()?;
    ensure!((file.end_s() - seconds).abs() < 0.1, "{} s of picture, not {seconds}", file.end_s());
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    ensure!(pictures.is_sorted_by(|a, b| a.pts_s < b.pts_s), "pictures go back in time");
    let sound_s = file.pcm()?.channels()?[0].len() as f64 / 48_000.0;
    ensure!((sound_s - seconds).abs() < 0.1, "{sound_s} s of sound, not {seconds}");
    Ok(())
}

/// Checks that all pictures but `exceptions` show the page, and none its loading.
fn verify_shows_only_the_page(outcome: &Outcome, exceptions: usize) -> Result<()> {
    let pictures = outcome.partial_recording()?.timecodes(TimecodePosition::PAGE)?;
    let empty: Vec<f64> = pictures.iter().filter(|p| p.timecode.is_none()).map(|p| p.pts_s).collect();
    ensure!(empty.len() <= exceptions, "pictures without the page at {empty:.2?} s");
    Ok(())
}

/// Offsets of sound against picture in a recording of `sync.html`.
fn av_offsets(outcome: &Outcome) -> Result<AvOffsets> {
    let file = outcome.partial_recording()?;
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let [onsets] = beeps::onsets_of_each(file.pcm()?, [av_sync::PAGE_BEEP])?;
    let offsets = av_sync::page_offsets(&pictures, &onsets);
    println!("{offsets}");
    Ok(offsets)
}

/// Checks that at least three quarters of all beeps are within 40 ms.
fn verify_in_sync(offsets: &AvOffsets, events: usize) -> Result<()> {
    ensure!(offsets.len() >= events, "only {} of {events} beeps were measured", offsets.len());
    let good = offsets.measurements.iter().filter(|(_, ms)| ms.abs() <= 40.0).count();
    ensure!(
        good * 4 >= offsets.len() * 3,
        "{good} of {} beeps within 40 ms: {:?}",
        offsets.len(),
        offsets.measurements
    );
    Ok(())
}

#[test]
fn a_frozen_page_is_reloaded_and_then_moved() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?do=freeze&after=500&loads=2")
        .option("freeze-check", "2s")
        .option("duration", "20s")
        .finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "reloaded freeze", "moved freeze", "ended complete"])?;
    // The first check sees pictures from before the freeze, the next two see none.
    expect_event_after(&report, 1, 3900..=8500)?;
    expect_event_after(&report, 2, 3900..=12_000)?;
    ensure!(evidence_kinds(&report)? == ["freeze"; 4], "{:?}", evidence_kinds(&report)?);
    verify_shows_only_the_page(&outcome, 0)?;
    verify_plays(&outcome, 20.0)
}

#[test]
fn a_page_that_freezes_a_while_after_each_load_is_moved_too() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    // At least four checks pass before it freezes again.
    let outcome = record_command(&server, "counter.html?do=freeze&after=9000&loads=2")
        .option("freeze-check", "2s")
        .option("duration", "36s")
        .finish(TIMEOUT)?;
    expect_events(&outcome.report()?, &["live", "reloaded freeze", "moved freeze", "ended complete"])
}

#[test]
fn repainting_the_same_picture_is_a_freeze() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?do=repaint&loads=1")
        .option("freeze-check", "2s")
        .option("duration", "12s")
        .finish(TIMEOUT)?;
    expect_events(&outcome.report()?, &["live", "reloaded freeze", "ended complete"])
}

#[test]
fn a_white_page_is_reloaded() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?do=blank&after=500&loads=1")
        .option("blank-check", "2s")
        .option("duration", "10s")
        .finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "reloaded blank", "ended complete"])?;
    expect_event_after(&report, 1, 3900..=6900)?;
    ensure!(evidence_kinds(&report)? == ["blank"; 2]);
    verify_plays(&outcome, 10.0)
}

#[test]
fn a_page_that_hangs_is_moved() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?do=loop&after=1000&loads=1")
        .option("crash-check", "2s")
        .option("duration", "12s")
        .finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "moved crash", "ended complete"])?;
    // Two check intervals, and the load of the machine.
    expect_event_after(&report, 1, 1900..=7500)?;
    verify_plays(&outcome, 12.0)
}

#[test]
fn a_page_that_hangs_is_reported_and_replaced_by_default() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let run = record_command(&server, "counter.html?do=loop&after=1000&loads=1").option("duration", "22s");
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "moved crash", "ended complete"])?;
    let [hang] = report.hangs.as_slice() else { anyhow::bail!("{:?}", report.hangs) };
    let moved = report.timeline[1].at_ms;
    ensure!(
        hang.duration_ms >= 15_000 && (hang.at_ms + hang.duration_ms).abs_diff(moved) < 2500,
        "{hang:?}, moved at {moved}"
    );
    verify_plays(&outcome, 22.0)
}

#[test]
fn a_page_that_needs_too_much_memory_is_moved() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?do=memory&after=500&loads=1")
        .option("max-memory", "1200M")
        .option("duration", "8s")
        .finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "moved crash", "ended complete"])?;
    ensure!(report.peak_rss_bytes.browser < 4 << 30, "{:?}", report.peak_rss_bytes);
    verify_plays(&outcome, 8.0)
}

#[test]
fn a_browser_that_fills_the_disk_is_replaced() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = record_command(&server, "counter.html")
        .option("max-disk", "256M")
        .option("duration", "12s")
        .start()?;
    run.wait_for_spooled_bytes(20_000, TIMEOUT)?;
    // Like a page that circumvents the quota of the browser.
    let folders = std::fs::read_dir(run.temp_folder())?.flatten().map(|e| e.path().join("browser-1/tmp"));
    let folder = folders.into_iter().find(|path| path.exists()).context("there is no browser")?;
    std::fs::write(folder.join("large"), vec![1; 300 << 20])?;
    run.wait_until("the large file was removed", TIMEOUT, |_| !folder.exists())?;
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "moved crash", "ended complete"])?;
    ensure!(evidence_kinds(&report)? == ["crash"]);
    verify_plays(&outcome, 12.0)
}

/// Starts a recording of the page with beeps and waits until it has a second or two.
fn start_beeping_page(server: &PageServer, seconds: u32) -> Result<PagecastProcess> {
    let mut run = record_command(server, "sync.html").option("duration", format!("{seconds}s")).start()?;
    run.wait_for_spooled_bytes(20_000, TIMEOUT)?;
    Ok(run)
}

#[test]
fn a_page_that_dies_before_it_is_live_is_replaced_and_seen() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = record_command(&server, "counter.html?start=2000")
        .flag("wait-for-start")
        .option("duration", "3s")
        .start()?;
    server.wait_for_request("/loads", TIMEOUT)?;
    run.kill_matching("--type=renderer")?;
    let outcome = run.finish(TIMEOUT)?;
    expect_events(&outcome.report()?, &["moved crash", "live", "ended complete"])?;
    let seen = outcome
        .recording()?
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .filter(|p| p.timecode.is_some())
        .count();
    ensure!(seen > 60, "only {seen} pictures of the page");
    verify_plays(&outcome, 3.0)
}

#[test]
fn a_browser_that_dies_is_replaced() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = start_beeping_page(&server, 9)?;
    run.kill_browser()?;
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "moved crash", "ended complete"])?;
    ensure!(evidence_kinds(&report)? == ["crash"]);
    verify_plays(&outcome, 9.0)
}

#[test]
fn helpers_of_the_browser_may_die() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = start_beeping_page(&server, 9)?;
    run.kill_matching("--type=utility")?;
    run.kill_matching("--type=gpu-process")?;
    let outcome = run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    println!("{:?}", report.timeline);
    ensure!(report.end == "complete", "{}", report.end);
    verify_plays(&outcome, 9.0)?;
    let file = outcome.partial_recording()?;
    let last = file
        .timecodes(TimecodePosition::PAGE)?
        .iter()
        .rev()
        .find_map(|p| p.timecode.map(|_| p.pts_s))
        .context("no timecode")?;
    ensure!(last > 8.0, "the last picture of the page is at {last} s");
    Ok(())
}

#[test]
fn attempts_are_limited() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let mut run = record_command(&server, "sync.html").option("attempts", 2).start()?;
    run.wait_for_spooled_bytes(20_000, TIMEOUT)?;
    run.kill_browser()?;
    let loaded_twice = |server: &PageServer| server.requests().iter().filter(|r| *r == "/loads").count() >= 2;
    run.wait_until("the page was reloaded", TIMEOUT, |_| loaded_twice(&server))?;
    run.kill_browser()?;
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_BROWSER, &["crashed repeatedly", "2 browsers"])?;
    let report = outcome.parse_report()?;
    expect_events(&report, &["live", "moved crash", "ended page-failed crash"])?;
    ensure!((report.end.as_str(), report.fault.as_deref()) == ("page-failed", Some("crash")));
    verify_plays(&outcome, report.duration_ms / 1000.0)
}

#[test]
fn a_page_that_never_calls_is_reloaded_then_moved_then_given_up() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html")
        .flag("wait-for-start")
        .option("ready-timeout", "2s")
        .option("attempts", 2)
        .finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_PAGE, &["never reported that it was ready", "2 browsers"])?;
    let report = outcome.parse_report()?;
    let again = "reloaded start-timeout";
    expect_events(&report, &[again, "moved start-timeout", again, "ended page-failed start-timeout"])?;
    expect_event_after(&report, 1, 2000..=6000)?;
    ensure!(!outcome.output.exists(), "a file was left although nothing was recorded");
    ensure!(evidence_kinds(&report)? == ["start-timeout"; 4]);
    Ok(())
}

#[test]
fn notify_ready_is_missed_twice_only() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html")
        .flag("wait-for-start=ready")
        .option("ready-timeout", "2s")
        .finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_PAGE, &["never reported that it was ready"])?;
    expect_events(&outcome.parse_report()?, &["reloaded start-timeout", "ended page-failed start-timeout"])
}

#[test]
fn nothing_is_recorded_before_the_page_calls_start() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?start=2500&end=5500")
        .flag("wait-for-start")
        .option("freeze-check", "2s")
        .finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "ended page-ended"])?;
    ensure!((1500.0..4500.0).contains(&report.duration_ms), "{} ms", report.duration_ms);
    let pictures = outcome.partial_recording()?.timecodes(TimecodePosition::PAGE)?;
    let first = pictures.iter().find_map(|p| p.timecode).context("no picture shows the page")?;
    ensure!((2.4..5.0).contains(&first.page_s()), "the first picture was drawn at {} s", first.page_s());
    ensure!(pictures[0].timecode.is_some(), "something else was recorded first");
    Ok(())
}

#[test]
fn a_page_that_ends_early_records_nothing() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?end=500").flag("wait-for-start").finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_PAGE, &["the page ended the cast before it was shown"])?;
    expect_events(&outcome.parse_report()?, &["ended page-ended"])
}

#[test]
fn the_functions_exist_only_with_the_flag_and_after_a_reload_too() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let page = "counter.html?start=300&ready=300&do=reload&after=1500&loads=1";
    record_command(&server, page).option("duration", "2s").finish(TIMEOUT)?.report()?;
    let count = |server: &PageServer, path: &str| server.requests().iter().filter(|r| *r == path).count();
    ensure!(
        count(&server, "/report/onWebcastStart-undefined") >= 1
            && count(&server, "/report/notifyReady-undefined") >= 1
    );
    let server = PageServer::start()?;
    let outcome =
        record_command(&server, page).flag("wait-for-start").option("duration", "4s").finish(TIMEOUT)?;
    expect_events(&outcome.report()?, &["live", "ended complete"])?;
    ensure!(count(&server, "/report/onWebcastStart-function") == 2, "{:?}", server.requests());
    ensure!(count(&server, "/report/notifyReady-undefined") == 2, "{:?}", server.requests());
    let server = PageServer::start()?;
    record_command(&server, page)
        .flag("wait-for-start=ready")
        .option("duration", "1s")
        .finish(TIMEOUT)?
        .report()?;
    ensure!(
        count(&server, "/report/notifyReady-function") == 1
            && count(&server, "/report/onWebcastStart-undefined") == 1
    );
    Ok(())
}

#[test]
fn a_frame_of_another_site_may_call_start_and_end() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let script = "setTimeout(() => onWebcastStart(), 1500); setTimeout(() => onWebcastEnd(), 3500);";
    let server = PageServer::start()?
        .with_route("/frame", PageResponse::Html(200, format!("<script>{script}</script>in here")));
    // Another site than 127.0.0.1, so that its frame has its own process.
    let frame = server.url("/frame").replace("127.0.0.1", "localhost");
    let outer = PageServer::start()?
        .with_route("/", PageResponse::Html(200, format!("<iframe src='{frame}'></iframe>")));
    let outcome = record_command(&outer, "/")
        .flag("wait-for-start")
        .option("allow-net", "localhost")
        .finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "ended page-ended"])?;
    ensure!((1000.0..4000.0).contains(&report.duration_ms), "{} ms", report.duration_ms);
    Ok(())
}

#[test]
fn the_maximum_running_time_is_kept() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html").option("max-time", "10s").finish(TIMEOUT)?;
    let report = outcome.report()?;
    expect_events(&report, &["live", "ended max-time"])?;
    // The time counts from the first frame, so the recording is as long.
    let ended = report.timeline[1].at_ms - report.timeline[0].at_ms;
    ensure!((10_000..12_500).contains(&ended), "ended after {ended} ms");
    ensure!((9900.0..10_500.0).contains(&report.duration_ms), "{} ms were recorded", report.duration_ms);
    Ok(())
}

/// Checks that a page with this fault of `misbehave.js` is recorded to the end.
fn verify_survives(server: &PageServer, fault: &str) -> Result<()> {
    let outcome = record_command(server, &format!("counter.html?after=500&do={fault}"))
        .option("duration", "6s")
        .finish(TIMEOUT)?;
    let report = outcome.report()?;
    println!("{fault}: {:?}, {} MB", report.timeline, report.peak_rss_bytes.browser >> 20);
    ensure!(report.end == "complete", "{}", report.end);
    verify_plays(&outcome, 6.0)
}

#[test]
fn a_canvas_that_is_far_too_large() -> Result<()> {
    let _turn = MachineLock::shared()?;
    verify_survives(&PageServer::start()?, "canvas")
}

#[test]
fn forty_videos() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let file = flash_beep::mp4(10)?;
    let name = file.file_name().context("the video has no name")?.to_string_lossy().into_owned();
    let server = PageServer::start()?.with_folder("/media/", &flash_beep::media_folder());
    verify_survives(&server, &format!("videos&video=/media/{name}"))?;
    let playing = server.requests().iter().filter(|r| *r == "/report/plays").count();
    ensure!(playing >= 40, "only {playing} videos play");
    Ok(())
}

#[test]
fn readiness_conditions_are_awaited() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = record_command(&server, "counter.html?do=appear&after=2000")
        .option("wait-for-selector", "p#late")
        .flag("wait-for-network-idle")
        .option("duration", "1s")
        .finish(TIMEOUT)?;
    let pictures = outcome.recording()?.timecodes(TimecodePosition::PAGE)?;
    let first = pictures.iter().find_map(|p| p.timecode).context("no picture shows the page")?;
    ensure!((1.9..6.0).contains(&first.page_s()), "the first picture was drawn at {} s", first.page_s());

    let never =
        record_command(&server, "counter.html").option("wait-for-selector", "p#never").option("attempts", 1);
    let outcome = never.option("ready-timeout", "2s").finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_PAGE, &["ready"])?;
    expect_events(&outcome.parse_report()?, &["reloaded start-timeout", "ended page-failed start-timeout"])?;

    let outcome =
        record_command(&server, "counter.html").option("wait-for-selector", "p[").finish(TIMEOUT)?;
    outcome.expect_failure(EXIT_INVALID_VALUE, &["p["])
}

/// Tests that measure time, so they need the machine for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn a_renderer_that_dies_is_replaced_and_stays_in_sync() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let server = PageServer::start()?;
        let mut run = start_beeping_page(&server, 16)?;
        run.kill_matching("--type=renderer")?;
        let outcome = run.finish(TIMEOUT)?;
        let report = outcome.report()?;
        expect_events(&report, &["live", "moved crash", "ended complete"])?;
        verify_plays(&outcome, 16.0)?;
        // The browser may draw one picture of the crash before it reports the crash.
        verify_shows_only_the_page(&outcome, 1)?;
        verify_in_sync(&av_offsets(&outcome)?, 10)
    }

    #[test]
    fn a_page_that_reloads_itself_stays_in_sync() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let server = PageServer::start()?;
        let outcome = record_command(&server, "sync.html?do=reload&after=4000&loads=1")
            .option("duration", "16s")
            .finish(TIMEOUT)?;
        expect_events(&outcome.report()?, &["live", "ended complete"])?;
        verify_plays(&outcome, 16.0)?;
        verify_in_sync(&av_offsets(&outcome)?, 11)
    }
}
