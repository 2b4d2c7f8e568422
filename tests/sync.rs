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
fn check(fps: u32, seconds: u32, median_ms: f64, spread_ms: f64) -> Result<Measured> {
    let _turn = Turn::alone()?;
    let measured = measure(fps, seconds)?;
    let events = seconds as usize - 4;
    within("page", &measured.page, events, median_ms, spread_ms)?;
    within("video", &measured.video, events, median_ms, spread_ms)?;
    Ok(measured)
}

#[test]
fn sound_and_picture_agree_at_15_fps() -> Result<()> {
    check(15, 20, 25.0, 25.0).map(drop)
}

#[test]
fn sound_and_picture_agree_at_60_fps() -> Result<()> {
    check(60, 12, 15.0, 20.0).map(drop)
}

#[test]
fn sound_and_picture_agree_at_30_fps_and_stay_together_for_two_minutes() -> Result<()> {
    let measured = check(30, 120, 15.0, 20.0)?;
    for (what, offsets) in [("page", measured.page), ("video", measured.video)] {
        ensure!(offsets.drift_ms_per_min().abs() < 2.0, "{what}: {offsets}");
    }
    Ok(())
}
