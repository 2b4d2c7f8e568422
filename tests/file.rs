//! The MP4 file: format, size, duration and report, as players, editors and upload services expect them.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::program;
use pagecast_testkit::media::probe;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{MachineLock, PageServer, PagecastCommand, ScratchDir};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(40);

#[test]
fn a_faststart_mp4_of_tagged_h264_and_aac() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = PagecastCommand::record(PAGECAST, &server.url("counter.html"))
        .option("duration", "4s")
        .finish(TIMEOUT)?;
    let (report, file) = (outcome.report()?, outcome.recording()?);

    let boxes = probe::top_level_boxes(file.path())?;
    let position = |kind: &str| boxes.iter().position(|b| b == kind);
    ensure!(position("moov") < position("mdat") && position("moof").is_none(), "not faststart: {boxes:?}");
    ensure!(file.decoder_warnings()?.is_empty(), "{}", file.decoder_warnings()?);

    let video = &file.video;
    ensure!((video.codec.as_str(), video.width, video.height) == ("h264", 1280, 720), "{video:?}");
    for (key, value) in [("pix_fmt", "yuv420p"), ("color_range", "tv"), ("color_space", "bt709")] {
        ensure!(video.text(key) == value, "{key} is {:?}", video.text(key));
    }
    for key in ["color_primaries", "color_transfer"] {
        ensure!(video.text(key) == "bt709", "{key} is {:?}", video.text(key));
    }
    let audio = file.audio.as_ref().context("no sound")?;
    ensure!((audio.codec.as_str(), audio.profile.as_str()) == ("aac", "LC"), "{audio:?}");
    ensure!(audio.text("sample_rate") == "48000" && audio.json["channels"] == 2, "{audio:?}");

    let pcm = file.pcm()?;
    ensure!(pcm.start_s.abs() < 0.001, "the sound starts at {} s", pcm.start_s);
    let sound_s = pcm.channels()?[0].len() as f64 / 48_000.0;
    ensure!(
        (sound_s - 4.0).abs() < 0.1 && (file.end_s() - 4.0).abs() < 0.1,
        "{sound_s} s, {} s",
        file.end_s()
    );
    ensure!((report.duration_ms - 4000.0).abs() < 100.0, "{report:?}");
    ensure!(report.bytes == fs::metadata(file.path())?.len(), "{report:?}");
    let recording = report.recording.clone().context("no recording")?;
    ensure!(recording["files"][0]["name"] == "out.mp4" && recording["spool"].is_null(), "{recording}");
    let folder = file.path().parent().context("no folder")?.display().to_string();
    ensure!(recording["location"] == folder && recording["status"]["state"] == "stored", "{recording}");
    ensure!(recording["duration_ms"] == report.duration_ms, "{recording}");
    ensure!(report.cpu_ms.total > 100 && report.cpu_ms.browser < report.cpu_ms.total, "{report:?}");
    verify_times_are_in_ms(&serde_json::from_str(&outcome.stdout)?)
}

/// Checks that all fields with a time have names that end with `_ms`.
fn verify_times_are_in_ms(value: &serde_json::Value) -> Result<()> {
    for (name, value) in value.as_object().into_iter().flatten() {
        let is_time = ["duration", "cpu", "second", "elapsed"].iter().any(|word| name.contains(word));
        ensure!(!is_time || name.ends_with("_ms"), "{name} is a time without `_ms`: {value}");
    }
    let inner = value.as_object().into_iter().flatten().map(|(_, value)| value);
    inner.chain(value.as_array().into_iter().flatten()).try_for_each(verify_times_are_in_ms)
}

#[test]
fn the_report_of_a_relative_file_has_its_path() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let output = program(PAGECAST)
        .args(["record", &server.url("empty.html"), "--json", "--duration", "1s", "-o", "talk.mp4"])
        .args(["--allow-net", "127.0.0.0/8"])
        .current_dir(scratch.path())
        .output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["recording"]["location"] == scratch.path().display().to_string(), "{report}");
    ensure!(scratch.join("talk.mp4").exists());
    Ok(())
}

#[test]
fn sizes_are_kept() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    for (width, height) in [(50, 50), (320, 568), (854, 480), (1920, 1080), (3840, 2160)] {
        let file = PagecastCommand::record(PAGECAST, &server.url("counter.html"))
            .option("size", format!("{width}x{height}"))
            .option("fps", 10)
            .option("duration", "2s")
            .finish(TIMEOUT)?
            .recording()?;
        ensure!((file.video.width, file.video.height) == (width, height), "{:?}", file.video);
        let pictures = file.timecodes(TimecodePosition::PAGE)?;
        let counters = pictures.iter().filter_map(|p| Some(p.timecode?.counter)).collect::<Vec<_>>();
        // The smallest picture is too small for the timecode.
        let enough = width < 256 || counters.len() >= 10 && counters.is_sorted();
        ensure!(enough, "{width}x{height}: {counters:?}");
    }
    Ok(())
}

#[test]
fn the_scale_factor_is_a_device_pixel_ratio() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let file = PagecastCommand::record(PAGECAST, &server.url("state.html"))
        .option("scale-factor", 2)
        .option("duration", "3s")
        .finish(TIMEOUT)?
        .recording()?;
    ensure!((file.video.width, file.video.height) == (1280, 720), "{:?}", file.video);
    let pictures = file.timecodes(TimecodePosition { cell_size: 16, ..TimecodePosition::PAGE })?;
    let timecode = pictures.iter().rev().find_map(|p| p.timecode).context("no timecode at twice the size")?;
    ensure!(
        timecode.event_time == Some(2000),
        "the page sees a ratio of {:?} thousandths",
        timecode.event_time
    );
    Ok(())
}

#[test]
fn an_existing_file_is_kept_without_overwrite() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (server, scratch) = (PageServer::start()?, ScratchDir::new()?);
    let path = scratch.join("mine.mp4");
    fs::write(&path, "precious")?;
    let record = || {
        PagecastCommand::record(PAGECAST, &server.url("empty.html"))
            .option("duration", "1s")
            .output(path.clone())
    };
    record().finish(TIMEOUT)?.expect_failure(4, &["exists", "mine.mp4", "--overwrite"])?;
    ensure!(fs::read_to_string(&path)? == "precious", "the file was changed");
    ensure!(fs::read_dir(scratch.path())?.count() == 1, "there is another file in the folder");
    ensure!(server.requests().is_empty(), "the page was opened");
    record().flag("overwrite").finish(TIMEOUT)?.recording()?;
    ensure!(fs::read_dir(scratch.path())?.count() == 1, "there is another file in the folder");
    Ok(())
}

#[test]
fn quiet_prints_nothing() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let outcome = PagecastCommand::record(PAGECAST, &server.url("empty.html"))
        .option("duration", "1s")
        .flag("quiet")
        .finish(TIMEOUT)?;
    outcome.report()?;
    ensure!(outcome.stderr.is_empty(), "{}", outcome.stderr);
    Ok(())
}
