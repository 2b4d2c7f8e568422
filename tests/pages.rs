//! Pages that ask for things, make noise, fall silent or go elsewhere: all are recorded sensibly.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::beeps::{level, rms};
use pagecast_testkit::media::picture::Area;
use pagecast_testkit::media::{SAMPLE_RATE, Seen};
use pagecast_testkit::strip::Place;
use pagecast_testkit::{Pagecast, Recording, Server, Turn};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(40);
/// Background of asks.html: red, green, blue.
const BROWN: [f64; 3] = [124.0, 45.0, 18.0];
/// All of the picture but the strip.
const BELOW_STRIP: Area = Area { x: 0, y: 48, width: 1280, height: 672 };

fn record(url: &str, seconds: u32) -> Result<Recording> {
    Pagecast::record(PAGECAST, url).with("duration", format!("{seconds}s")).finish(LIMIT)?.recording()
}

/// When the pictures with this note begin and end, in seconds.
fn phase(pictures: &[Seen], note: u16) -> Result<(f64, f64)> {
    let with_note: Vec<_> =
        pictures.iter().filter(|p| p.strip.is_some_and(|s| s.note == note)).map(|p| p.pts_s).collect();
    let first = with_note.first().with_context(|| format!("no picture with note {note}"))?;
    Ok((*first, with_note[with_note.len() - 1]))
}

fn between(samples: &[f32], from_s: f64, to_s: f64) -> &[f32] {
    let at = |s: f64| (s * f64::from(SAMPLE_RATE)) as usize;
    &samples[at(from_s).min(samples.len())..at(to_s).min(samples.len())]
}

/// The page asks, gets one of `answers`, and goes on as if nothing had happened.
fn asks(what: &str, answers: &[&str]) -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let file = record(&server.url(&format!("asks.html?{what}")), 4)?;
    let said = server.requests().into_iter().find_map(|r| r.strip_prefix("/said/").map(str::to_owned));
    let said = said.with_context(|| format!("{what} was never answered"))?;
    let known = answers.iter().any(|answer| said == format!("{what}-{answer}"));
    ensure!(known, "the page was told {said:?}");
    let pictures = file.strips(Place::PAGE)?;
    let (begin, end) = phase(&pictures, 1)?;
    ensure!(begin < 2.5 && end > 3.8, "the page drew from {begin} s to {end} s after it asked");
    let counters: Vec<_> = pictures.iter().filter_map(|p| Some(p.strip?.counter)).collect();
    ensure!(counters.is_sorted() && counters[counters.len() - 1] > 80, "{counters:?}");
    for tenths in (10..40).step_by(3) {
        let page = file.picture_at(f64::from(tenths) / 10.0)?.crop(BELOW_STRIP);
        let colour = page.mean(Area { x: 0, y: 0, ..BELOW_STRIP });
        let near = colour.iter().zip(BROWN).all(|(is, was)| (is - was).abs() < 3.0);
        ensure!(near && page.detail() < 1e-6, "something covers the page at {tenths} tenths: {colour:?}");
    }
    let requests = server.requests();
    ensure!(!requests.iter().any(|r| r.contains("empty.html")), "another page was opened: {requests:?}");
    Ok(())
}

#[test]
fn alert_is_dismissed() -> Result<()> {
    asks("alert", &["undefined"])
}

#[test]
fn confirm_and_prompt_are_declined() -> Result<()> {
    asks("confirm", &["false"])?;
    asks("prompt", &["null"])
}

#[test]
fn new_windows_are_refused() -> Result<()> {
    asks("window", &["refused"])
}

#[test]
fn fullscreen_is_answered() -> Result<()> {
    // Chromium wants a person's gesture first; either answer is fine as long as the page goes on.
    asks("fullscreen", &["refused", "granted"])
}

#[test]
fn devices_are_refused() -> Result<()> {
    for what in ["microphone", "camera", "geolocation"] {
        asks(what, &["refused"])?;
    }
    asks("notification", &["denied", "default"])
}

#[test]
fn downloads_come_to_nothing() -> Result<()> {
    asks("download", &["undefined"])
}

#[test]
fn printing_comes_to_nothing() -> Result<()> {
    asks("print", &["undefined"])
}

#[test]
fn everything_at_once_comes_to_nothing() -> Result<()> {
    asks("everything", &["undefined"])
}

#[test]
fn the_page_believes_that_it_is_watched() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let pictures = record(&server.url("state.html"), 3)?.strips(Place::PAGE)?;
    let note = pictures.iter().rev().find_map(|p| Some(p.strip?.note)).context("no strip")?;
    for (bit, fact) in ["visible", "focused", "no scroll bars", "WebGL", "fills the window", "H.264 and AAC"]
        .iter()
        .enumerate()
    {
        ensure!(note & 1 << bit != 0, "the page does not find itself: {fact}");
    }
    Ok(())
}

#[test]
fn a_page_without_sound_has_a_silent_track() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let [left, right] = record(&server.url("counter.html"), 3)?.pcm()?.channels()?;
    ensure!(left.len() > 2 * SAMPLE_RATE as usize, "{} samples", left.len());
    let loudest = rms(&left).max(rms(&right));
    ensure!(loudest < 1e-4, "silence of {loudest}");
    Ok(())
}

#[test]
fn five_elements_sound_together() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let [left, right] = record(&server.url("sounds.html"), 5)?.pcm()?.channels()?;
    for hz in [300, 500, 700, 1100, 1300] {
        ensure!(
            server.requests().contains(&format!("/said/playing-{hz}")),
            "{hz} Hz was not allowed to play"
        );
        for side in [&left, &right] {
            let heard = level(between(side, 3.0, 4.0), f64::from(hz));
            ensure!((0.09..0.11).contains(&heard), "{hz} Hz at {heard:.3} instead of 0.1");
        }
    }
    let nothing = level(between(&left, 3.0, 4.0), 900.0);
    ensure!(nothing < 0.005, "900 Hz at {nothing:.3}, nobody plays it");
    Ok(())
}

#[test]
fn a_page_may_change_its_sample_rate() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let file = record(&server.url("rate.html"), 9)?;
    let pictures = file.strips(Place::PAGE)?;
    let [left, _] = file.pcm()?.channels()?;
    for (step, hz) in [(1, 500.0), (2, 700.0), (3, 900.0), (4, 1100.0)] {
        let (begin, end) = phase(&pictures, step)?;
        let sound = between(&left, begin + 0.6, (end - 0.2).min(begin + 1.6));
        let (heard, all) = (level(sound, hz), rms(sound) * 2.0_f64.sqrt());
        ensure!((0.36..0.44).contains(&heard), "step {step}: {hz} Hz at {heard:.3} instead of 0.4");
        ensure!((heard / all - 1.0).abs() < 0.02, "step {step}: {heard:.3} of {all:.3} is the tone");
    }
    Ok(())
}

#[test]
fn an_empty_page_is_white_and_silent() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    let file = record(&server.url("empty.html"), 3)?;
    let picture = file.picture_at(2.0)?;
    ensure!(picture.detail() < 1e-6, "an empty page shows something: {}", picture.detail());
    ensure!(picture.at(640, 360).iter().all(|c| *c >= 252), "white is {:?}", picture.at(640, 360));
    ensure!((file.end_s() - 3.0).abs() < 0.1, "it lasts {} s", file.end_s());
    Ok(())
}

#[test]
fn a_page_may_go_to_another_origin() -> Result<()> {
    let _turn = Turn::shared()?;
    let (here, there) = (Server::start()?, Server::start()?);
    let to = there.url("leaves.html?note=2&hz=900");
    // Characters that would end the parameter are escaped.
    let to = to.replace('&', "%26");
    let file = record(&here.url(&format!("leaves.html?note=1&hz=500&after=3&to={to}")), 8)?;
    file.ticks(30)?;
    let pictures = file.strips(Place::PAGE)?;
    let ((_, left_at), (arrived_at, end)) = (phase(&pictures, 1)?, phase(&pictures, 2)?);
    ensure!(
        arrived_at > left_at && arrived_at - left_at < 1.5,
        "left at {left_at} s, arrived at {arrived_at} s"
    );
    ensure!(end > 7.8, "the second page ends at {end} s");
    let [sound, _] = file.pcm()?.channels()?;
    for (from, hz, other) in [(left_at - 1.2, 500.0, 900.0), (arrived_at + 1.0, 900.0, 500.0)] {
        let part = between(&sound, from, from + 1.0);
        let (heard, not) = (level(part, hz), level(part, other));
        ensure!((0.36..0.44).contains(&heard) && not < 0.01, "{hz} Hz at {heard:.3}, {other} Hz at {not:.3}");
    }
    Ok(())
}
