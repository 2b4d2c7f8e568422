//! Every tick of the output has a new frame of the page, in order, exactly on the grid.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{MachineLock, PageServer, PagecastCommand};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Longest time from the first recorded picture to the first picture with a timecode, in seconds, for a page
/// of a few kilobytes.
const MAX_PAGE_START_S: f64 = 0.5;

/// Records the counter page and checks that at least 99 % of the ticks show a new frame.
fn check_pacing(fps: u32, seconds: u32) -> Result<()> {
    let _turn = MachineLock::exclusive()?;
    let server = PageServer::start()?;
    let outcome = PagecastCommand::record(PAGECAST, &server.url("counter.html"))
        .option("fps", fps)
        .option("duration", format!("{seconds}s"))
        .finish(Duration::from_secs(u64::from(seconds) + 30))?;
    let (report, file) = (outcome.report()?, outcome.recording()?);

    let ticks = file.ticks(fps)?;
    let all = i64::from(fps * seconds);
    ensure!(ticks[0] == 0, "the first picture is at tick {}", ticks[0]);
    ensure!(ticks.is_sorted_by(|a, b| a < b), "two pictures share a tick");
    ensure!(
        (all - 2..all + 2).contains(&ticks[ticks.len() - 1]),
        "the last of {all} ticks is {:?}",
        ticks.last()
    );

    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let first = pictures.iter().position(|p| p.timecode.is_some()).unwrap_or(pictures.len());
    ensure!(first < pictures.len(), "no picture shows the page");
    ensure!(pictures[first].pts_s <= MAX_PAGE_START_S, "the page starts at {} s", pictures[first].pts_s);
    let unreadable = pictures[first..].iter().filter(|p| p.timecode.is_none()).count();
    ensure!(unreadable == 0, "{unreadable} pictures have a damaged timecode");
    let counters: Vec<_> = pictures.iter().filter_map(|p| Some(p.timecode?.counter)).collect();
    ensure!(counters.is_sorted(), "frames are out of order: {counters:?}");

    let new = 1 + counters.windows(2).filter(|w| w[0] != w[1]).count();
    let possible = (all - ticks[first]) as f64;
    println!("{fps} fps: {new} new frames in {possible} ticks, {report:?}");
    ensure!(new as f64 >= 0.99 * possible, "only {new} of {possible} ticks have a new frame");
    ensure!(
        report.frames_encoded == pictures.len() as u64,
        "{} pictures in the file, {report:?}",
        pictures.len()
    );
    ensure!(report.frames_captured >= new as u64, "fewer frames captured than recorded: {report:?}");
    Ok(())
}

/// Tests that measure time, so they need the machine for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn every_tick_is_new_at_30_fps() -> Result<()> {
        check_pacing(30, 20)
    }

    #[test]
    fn every_tick_is_new_at_15_fps() -> Result<()> {
        check_pacing(15, 10)
    }

    #[test]
    fn every_tick_is_new_at_60_fps() -> Result<()> {
        check_pacing(60, 10)
    }
}
