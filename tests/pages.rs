//! Pages that open prompts, play sound, are silent or navigate are recorded correctly.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::beeps::{rms, tone_amplitude};
use pagecast_testkit::media::image::Rect;
use pagecast_testkit::media::{FrameTimecode, SAMPLE_RATE};
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{MachineLock, PageServer, PagecastCommand, Recording};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(40);
/// Background of `prompts.html`: red, green, blue.
const BACKGROUND_RGB: [f64; 3] = [124.0, 45.0, 18.0];
/// The picture without the timecode.
const BELOW_TIMECODE: Rect = Rect { x: 0, y: 48, width: 1280, height: 672 };

fn record_page(url: &str, seconds: u32) -> Result<Recording> {
    PagecastCommand::record(PAGECAST, url)
        .option("duration", format!("{seconds}s"))
        .finish(TIMEOUT)?
        .recording()
}

/// First and last time of pictures with these user bits, in seconds.
fn user_bits_interval_s(pictures: &[FrameTimecode], user_bits: u16) -> Result<(f64, f64)> {
    let times: Vec<_> = pictures
        .iter()
        .filter(|p| p.timecode.is_some_and(|s| s.user_bits == user_bits))
        .map(|p| p.pts_s)
        .collect();
    let first = times.first().with_context(|| format!("no picture with user bits {user_bits}"))?;
    Ok((*first, times[times.len() - 1]))
}

fn slice_s(samples: &[f32], from_s: f64, to_s: f64) -> &[f32] {
    let at = |s: f64| (s * f64::from(SAMPLE_RATE)) as usize;
    &samples[at(from_s).min(samples.len())..at(to_s).min(samples.len())]
}

/// Checks that the page opens this prompt, gets one of `answers`, and is recorded without interruption.
fn verify_prompt(prompt: &str, answers: &[&str]) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let file = record_page(&server.url(&format!("prompts.html?{prompt}")), 4)?;
    let report = server.requests().into_iter().find_map(|r| r.strip_prefix("/report/").map(str::to_owned));
    let report = report.with_context(|| format!("{prompt} was never answered"))?;
    let is_expected = answers.iter().any(|answer| report == format!("{prompt}-{answer}"));
    ensure!(is_expected, "the answer was {report:?}");
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let (begin, end) = user_bits_interval_s(&pictures, 1)?;
    ensure!(begin < 2.5 && end > 3.8, "the page drew from {begin} s to {end} s after the prompt");
    let counters: Vec<_> = pictures.iter().filter_map(|p| Some(p.timecode?.counter)).collect();
    ensure!(counters.is_sorted() && counters[counters.len() - 1] > 80, "{counters:?}");
    for tenths in (10..40).step_by(3) {
        let page = file.frame_at(f64::from(tenths) / 10.0)?.crop(BELOW_TIMECODE);
        let colour = page.mean_rgb(Rect { x: 0, y: 0, ..BELOW_TIMECODE });
        let near =
            colour.iter().zip(BACKGROUND_RGB).all(|(actual, expected)| (actual - expected).abs() < 3.0);
        ensure!(
            near && page.non_background_share() < 1e-6,
            "something covers the page at {tenths} tenths: {colour:?}"
        );
    }
    let requests = server.requests();
    ensure!(!requests.iter().any(|r| r.contains("empty.html")), "another page was opened: {requests:?}");
    Ok(())
}

#[test]
fn alert_is_dismissed() -> Result<()> {
    verify_prompt("alert", &["undefined"])
}

#[test]
fn confirm_and_prompt_are_declined() -> Result<()> {
    verify_prompt("confirm", &["false"])?;
    verify_prompt("prompt", &["null"])
}

#[test]
fn new_windows_are_refused() -> Result<()> {
    verify_prompt("window", &["refused"])
}

#[test]
fn fullscreen_is_answered() -> Result<()> {
    // Chromium requires a user gesture; either answer is fine if the page is still recorded.
    verify_prompt("fullscreen", &["refused", "granted"])
}

#[test]
fn devices_are_refused() -> Result<()> {
    for device in ["microphone", "camera", "geolocation"] {
        verify_prompt(device, &["refused"])?;
    }
    verify_prompt("notification", &["denied", "default"])
}

#[test]
fn downloads_are_discarded() -> Result<()> {
    verify_prompt("download", &["undefined"])
}

#[test]
fn printing_is_ignored() -> Result<()> {
    verify_prompt("print", &["undefined"])
}

#[test]
fn all_prompts_at_once_are_dismissed() -> Result<()> {
    verify_prompt("everything", &["undefined"])
}

#[test]
fn the_page_is_visible_and_focused() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let pictures = record_page(&server.url("state.html"), 3)?.timecodes(TimecodePosition::PAGE)?;
    let user_bits = pictures.iter().rev().find_map(|p| Some(p.timecode?.user_bits)).context("no timecode")?;
    for (bit, fact) in ["visible", "focused", "no scroll bars", "WebGL", "fills the window", "H.264 and AAC"]
        .iter()
        .enumerate()
    {
        ensure!(user_bits & 1 << bit != 0, "the page does not see: {fact}");
    }
    Ok(())
}

#[test]
fn a_page_without_sound_has_a_silent_track() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let [left, right] = record_page(&server.url("counter.html"), 3)?.pcm()?.channels()?;
    ensure!(left.len() > 2 * SAMPLE_RATE as usize, "{} samples", left.len());
    let loudest = rms(&left).max(rms(&right));
    ensure!(loudest < 1e-4, "silence of {loudest}");
    Ok(())
}

#[test]
fn five_media_elements_play_together() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let [left, right] = record_page(&server.url("tones.html"), 5)?.pcm()?.channels()?;
    for hz in [300, 500, 700, 1100, 1300] {
        ensure!(
            server.requests().contains(&format!("/report/playing-{hz}")),
            "{hz} Hz was not allowed to play"
        );
        for side in [&left, &right] {
            let amplitude = tone_amplitude(slice_s(side, 3.0, 4.0), f64::from(hz));
            ensure!((0.09..0.11).contains(&amplitude), "{hz} Hz at {amplitude:.3} instead of 0.1");
        }
    }
    let nothing = tone_amplitude(slice_s(&left, 3.0, 4.0), 900.0);
    ensure!(nothing < 0.005, "900 Hz at {nothing:.3}, although no element plays it");
    Ok(())
}

#[test]
fn a_page_may_change_its_sample_rate() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let file = record_page(&server.url("sample-rate.html"), 9)?;
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let [left, _] = file.pcm()?.channels()?;
    for (step, hz) in [(1, 500.0), (2, 700.0), (3, 900.0), (4, 1100.0)] {
        let (begin, end) = user_bits_interval_s(&pictures, step)?;
        let sound = slice_s(&left, begin + 0.6, (end - 0.2).min(begin + 1.6));
        let (amplitude, all) = (tone_amplitude(sound, hz), rms(sound) * 2.0_f64.sqrt());
        ensure!((0.36..0.44).contains(&amplitude), "step {step}: {hz} Hz at {amplitude:.3} instead of 0.4");
        ensure!((amplitude / all - 1.0).abs() < 0.02, "step {step}: {amplitude:.3} of {all:.3} is the tone");
    }
    Ok(())
}

#[test]
fn an_empty_page_is_white_and_silent() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    let file = record_page(&server.url("empty.html"), 3)?;
    let picture = file.frame_at(2.0)?;
    ensure!(
        picture.non_background_share() < 1e-6,
        "an empty page shows something: {}",
        picture.non_background_share()
    );
    ensure!(picture.pixel(640, 360).iter().all(|c| *c >= 252), "white is {:?}", picture.pixel(640, 360));
    ensure!((file.end_s() - 3.0).abs() < 0.1, "it lasts {} s", file.end_s());
    Ok(())
}

#[test]
fn a_page_may_navigate_to_another_origin() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (here, there) = (PageServer::start()?, PageServer::start()?);
    let to = there.url("navigate.html?user_bits=2&hz=900");
    // `&` would end the parameter.
    let to = to.replace('&', "%26");
    let file = record_page(&here.url(&format!("navigate.html?user_bits=1&hz=500&after=3&to={to}")), 8)?;
    file.ticks(30)?;
    let pictures = file.timecodes(TimecodePosition::PAGE)?;
    let ((_, left_at), (arrived_at, end)) =
        (user_bits_interval_s(&pictures, 1)?, user_bits_interval_s(&pictures, 2)?);
    ensure!(
        arrived_at > left_at && arrived_at - left_at < 1.5,
        "left at {left_at} s, arrived at {arrived_at} s"
    );
    ensure!(end > 7.8, "the second page ends at {end} s");
    let [sound, _] = file.pcm()?.channels()?;
    for (from, hz, other) in [(left_at - 1.2, 500.0, 900.0), (arrived_at + 1.0, 900.0, 500.0)] {
        let part = slice_s(&sound, from, from + 1.0);
        let (amplitude, absent) = (tone_amplitude(part, hz), tone_amplitude(part, other));
        ensure!(
            (0.36..0.44).contains(&amplitude) && absent < 0.01,
            "{hz} Hz at {amplitude:.3}, {other} Hz at {absent:.3}"
        );
    }
    Ok(())
}
