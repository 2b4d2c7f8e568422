//! Sound and picture are in sync, and do not drift.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::av_sync::{self, AvOffsets};
use pagecast_testkit::media::beeps;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{MachineLock, PageServer, PagecastCommand, flash_beep};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
/// Position of the video's timecode in `sync.html`, which shows the video in twice its size.
const VIDEO_TIMECODE: TimecodePosition = TimecodePosition { x: 0, y: 360, cell_size: 16 };

struct SyncResult {
    /// Offsets of WebAudio beeps against page time.
    page: AvOffsets,
    /// Offsets of the beeps of a `<video>` against its pictures.
    video: AvOffsets,
}

/// Records a page with WebAudio beeps on the left channel and those of a video on the right.
fn measure_sync(fps: u32, seconds: u32) -> Result<SyncResult> {
    let file = flash_beep::mp4(seconds + 5)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let server = PageServer::start()?.with_folder("/media/", &flash_beep::media_folder());
    let outcome = PagecastCommand::record(PAGECAST, &server.url(&format!("sync.html?video=/media/{name}")))
        .option("fps", fps)
        .option("duration", format!("{seconds}s"))
        .finish(Duration::from_secs(u64::from(seconds) + 30))?;
    let recording = outcome.recording()?;
    let (mut pictures, mut video) = (Vec::new(), Vec::new());
    for (pts_s, timecodes) in recording.timecodes_at(&[TimecodePosition::PAGE, VIDEO_TIMECODE])? {
        pictures.push(pagecast_testkit::media::FrameTimecode { pts_s, timecode: timecodes[0] });
        video.push(pagecast_testkit::media::FrameTimecode { pts_s, timecode: timecodes[1] });
    }
    let [ours, theirs] = beeps::onsets_of_each(recording.pcm()?, [av_sync::PAGE_BEEP, flash_beep::BEEP])?;
    let measured = SyncResult {
        page: av_sync::page_offsets(&pictures, &ours),
        video: av_sync::video_offsets(&video, fps, &theirs),
    };
    println!("{fps} fps, page by its clock:   {}", measured.page);
    println!(
        "{fps} fps, page by its flash:   {}",
        av_sync::visible_offsets(&pictures, av_sync::FLASH_BIT, &ours)
    );
    println!(
        "{fps} fps, page by naive flash: {}",
        av_sync::visible_offsets(&pictures, av_sync::NAIVE_FLASH_BIT, &ours)
    );
    println!("{fps} fps, video:               {}", measured.video);
    Ok(measured)
}

fn verify_offsets(
    what: &str,
    offsets: &AvOffsets,
    events: usize,
    median_ms: f64,
    spread_ms: f64,
) -> Result<()> {
    ensure!(offsets.len() >= events, "{what}: only {} of {events} beeps were measured", offsets.len());
    ensure!(offsets.median_ms().abs() <= median_ms, "{what}: {offsets}");
    ensure!(offsets.spread_ms() < spread_ms, "{what}: {offsets}");
    Ok(())
}

/// Checks the offsets. Four beeps may be missing: the page beeps from 1.5 s on, and the first and last beep
/// of the video have too few pictures around them.
fn check_sync(fps: u32, seconds: u32, median_ms: f64, spread_ms: f64) -> Result<SyncResult> {
    let _turn = MachineLock::exclusive()?;
    let measured = measure_sync(fps, seconds)?;
    let events = seconds as usize - 4;
    verify_offsets("page", &measured.page, events, median_ms, spread_ms)?;
    verify_offsets("video", &measured.video, events, median_ms, spread_ms)?;
    Ok(measured)
}

/// Tests that measure time, so they need the machine for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn sound_and_picture_agree_at_15_fps() -> Result<()> {
        check_sync(15, 20, 25.0, 25.0).map(drop)
    }

    #[test]
    fn sound_and_picture_agree_at_60_fps() -> Result<()> {
        check_sync(60, 12, 15.0, 20.0).map(drop)
    }

    #[test]
    fn sound_and_picture_agree_at_30_fps_and_stay_together_for_two_minutes() -> Result<()> {
        let measured = check_sync(30, 120, 15.0, 20.0)?;
        for (what, offsets) in [("page", measured.page), ("video", measured.video)] {
            ensure!(offsets.drift_ms_per_min().abs() < 2.0, "{what}: {offsets}");
        }
        Ok(())
    }
}
