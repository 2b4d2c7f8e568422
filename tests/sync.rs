//! Sound and picture agree, and stay together.
#![expect(clippy::print_stdout, reason = "what was measured is shown beside a failure")]

use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::media::beeps;
use pagecast_testkit::strip::Place;
use pagecast_testkit::sync::{self, Offsets};
use pagecast_testkit::{Pagecast, Server, Turn, flash};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Where `sync.html` shows the video's strip, twice as large as in the file.
const VIDEO: Place = Place { x: 0, y: 360, cell: 16 };

struct Measured {
    /// WebAudio beeps against the page's clock.
    page: Offsets,
    /// Beeps of a `<video>` against its pictures.
    video: Offsets,
}

/// Records one page that beeps by WebAudio on the left and by a video on the right.
fn measure(fps: u32, seconds: u32) -> Result<Measured> {
    let file = flash::video(seconds + 5)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let server = Server::start()?.folder("/media/", &flash::folder());
    let outcome = Pagecast::record(PAGECAST, &server.url(&format!("sync.html?video=/media/{name}")))
        .with("fps", fps)
        .with("duration", format!("{seconds}s"))
        .finish(Duration::from_secs(u64::from(seconds) + 30))?;
    let recording = outcome.recording()?;
    let (mut pictures, mut video) = (Vec::new(), Vec::new());
    for (pts_s, strips) in recording.strips_at(&[Place::PAGE, VIDEO])? {
        pictures.push(pagecast_testkit::media::Seen { pts_s, strip: strips[0] });
        video.push(pagecast_testkit::media::Seen { pts_s, strip: strips[1] });
    }
    let [ours, theirs] = beeps::onsets_of(recording.pcm()?, [sync::PAGE_BEEP, flash::BEEP])?;
    let measured = Measured { page: sync::page(&pictures, &ours), video: sync::video(&video, fps, &theirs) };
    println!("{fps} fps, page by its clock:   {}", measured.page);
    println!("{fps} fps, page by its flash:   {}", sync::visible(&pictures, sync::FLASH, &ours));
    println!("{fps} fps, page by naive flash: {}", sync::visible(&pictures, sync::NAIVE_FLASH, &ours));
    println!("{fps} fps, video:               {}", measured.video);
    Ok(measured)
}

fn within(what: &str, offsets: &Offsets, events: usize, median_ms: f64, spread_ms: f64) -> Result<()> {
    ensure!(offsets.len() >= events, "{what}: only {} of {events} beeps seen and heard", offsets.len());
    ensure!(offsets.median_ms().abs() <= median_ms, "{what}: {offsets}");
    ensure!(offsets.spread_ms() < spread_ms, "{what}: {offsets}");
    Ok(())
}

/// The page starts late in the first second and beeps from 1.5 s on; the first and last video beep lack a neighbour.
fn check(fps: u32, seconds: u32, median_ms: f64) -> Result<Measured> {
    let _turn = Turn::alone()?;
    let measured = measure(fps, seconds)?;
    let events = seconds as usize - 4;
    // The browser may be one tick ahead or behind for as long as it draws, see `page::sync`; it must not be more, and what
    // it is must not be off the grid. On a page that draws all the time it shows a video two intervals ahead of its sound;
    // a page that only plays is exact, see `third_party.rs`.
    let tick_ms = 1000.0 / f64::from(fps);
    let page = &measured.page;
    let off_grid_ms = page.median_ms() - (page.median_ms() / tick_ms).round() * tick_ms;
    ensure!(page.len() >= events, "page: only {} of {events} beeps seen and heard", page.len());
    ensure!(off_grid_ms.abs() <= median_ms, "page: {page}");
    ensure!(page.median_ms().abs() <= tick_ms + median_ms, "page: {page}");
    ensure!(page.spread_ms() < 20.0 + 2.0 * tick_ms, "page: {page}");
    within("video", &measured.video, events, median_ms + 2.0 * tick_ms, 20.0 + tick_ms)?;
    Ok(measured)
}

#[test]
fn sound_and_picture_agree_at_15_fps() -> Result<()> {
    check(15, 12, 25.0).map(drop)
}

#[test]
fn sound_and_picture_agree_at_60_fps() -> Result<()> {
    check(60, 12, 15.0).map(drop)
}

#[test]
fn sound_and_picture_agree_at_30_fps_and_stay_together_for_two_minutes() -> Result<()> {
    let measured = check(30, 120, 15.0)?;
    for (what, offsets) in [("page", measured.page), ("video", measured.video)] {
        // A change by a tick within two minutes is not drift: it would be twenty times as much.
        ensure!(offsets.drift_ms_per_min().abs() < 20.0, "{what}: {offsets}");
    }
    Ok(())
}
