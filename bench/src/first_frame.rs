//! Time from process start to the first captured frame of the page.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pagecast_testkit::Recording;
use pagecast_testkit::command::install_hint;
use pagecast_testkit::media::GrayImage;
use pagecast_testkit::timecode::{Timecode, TimecodePosition};

use crate::baseline::BaselineRecorder;
use crate::cast::{Cast, Recorder};
use crate::page::BenchPage;
use crate::site::{BenchSite, TIMECODE_SIZE};
use crate::usage::kill_descendants;

/// Seconds until the recorder has captured the page.
pub(crate) fn first_frame_s(recorder: Recorder, site: &BenchSite, program: &Path) -> Result<f64> {
    let seconds = match recorder {
        Recorder::Pagecast => Cast::start(recorder, site, BenchPage::Animation, program)
            .and_then(|cast| captured_after_s(cast, site)),
        Recorder::Baseline => baseline_first_frame_s(site),
    };
    kill_descendants()?;
    seconds
}

/// Seconds from the start command until Pagecast has captured the page, with a warm browser.
pub(crate) fn warm_first_frame_s(site: &BenchSite, program: &Path) -> Result<f64> {
    let seconds =
        Cast::start_warm(site, BenchPage::Animation, program).and_then(|cast| captured_after_s(cast, site));
    kill_descendants()?;
    seconds
}

/// First frame in Pagecast's report, plus the time until its file shows the page.
fn captured_after_s(mut cast: Cast, site: &BenchSite) -> Result<f64> {
    cast.wait_until_shown(site)?;
    std::thread::sleep(Duration::from_secs(3));
    cast.interrupt()?;
    let finished = cast.finish()?;
    let report = finished.self_report.context("pagecast printed no report")?;
    let pictures = Recording::open(&finished.file)?.timecodes(TimecodePosition::PAGE)?;
    let shown = pictures.iter().find(|p| p.timecode.is_some()).context("the page was not recorded")?;
    Ok(report.first_frame_s + shown.pts_s)
}

/// Grabs from the start and checks each frame. Users of the baseline wait a fixed time instead.
fn baseline_first_frame_s(site: &BenchSite) -> Result<f64> {
    let started = Instant::now();
    let baseline = BaselineRecorder::start(&site.page_url(BenchPage::Animation, 0))?;
    let (width, height) = TIMECODE_SIZE;
    let mut ffmpeg = baseline.grab_command();
    ffmpeg.args(["-vf", &format!("crop={width}:{height}:0:0,format=gray"), "-f", "rawvideo", "-"]);
    let ffmpeg = ffmpeg.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = ffmpeg.spawn().context(install_hint("ffmpeg"))?;
    let mut frames = child.stdout.take().context("ffmpeg has no output")?;
    let mut picture = GrayImage::new(width, height);
    let seconds = loop {
        if let Err(e) = frames.read_exact(&mut picture.data) {
            break Err(e).context("ffmpeg ended before the page was shown");
        }
        if Timecode::read(&picture, TimecodePosition::PAGE).is_some() {
            break Ok(started.elapsed().as_secs_f64());
        }
        if started.elapsed() > Duration::from_secs(30) {
            break Err(anyhow::anyhow!("the baseline does not show the page"));
        }
    };
    child.kill().ok();
    child.wait()?;
    seconds
}
