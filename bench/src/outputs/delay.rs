//! Delay of pictures from the page to a viewer of the RTMP server.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{install_hint, program};
use pagecast_testkit::media::GrayImage;
use pagecast_testkit::rtmp::NginxRtmp;
use pagecast_testkit::timecode::{Timecode, TimecodePosition};

use super::pushed_cast::{PushedCast, TimecodeClock};
use crate::cast::{Recorder, START_TIMEOUT};
use crate::measure::WARM_UP;
use crate::site::{BenchSite, TIMECODE_SIZE};
use crate::usage::ExcludedProcess;

/// Time until a viewer shows pictures without start-up delay.
const SETTLE_TIME: Duration = Duration::from_secs(2);
/// ffmpeg's analysis of the stream, in microseconds. nginx sends pictures from a keyframe on, and both
/// recorders make one every four seconds. ffmpeg does not keep the analyzed part.
const ANALYZE_DURATION_US: &str = "6000000";
/// Most queued delays; more pictures wait in the pipe.
const MAX_QUEUED_FRAMES: usize = 64;
/// Units of page time per millisecond.
const TIMECODE_UNITS_PER_MS: f64 = 10.0;

/// Delays of the pictures of one cast.
#[derive(Debug)]
pub(crate) struct DelayStats {
    /// Delays in milliseconds, the smallest first.
    sorted_ms: Vec<f64>,
}

impl DelayStats {
    fn new(mut all_ms: Vec<f64>) -> Self {
        all_ms.sort_by(f64::total_cmp);
        Self { sorted_ms: all_ms }
    }

    pub(crate) fn median_ms(&self) -> f64 {
        self.percentile_ms(0.5)
    }

    /// 95th percentile of the delays.
    pub(crate) fn p95_ms(&self) -> f64 {
        self.percentile_ms(0.95)
    }

    fn percentile_ms(&self, quantile: f64) -> f64 {
        let at = (quantile * self.sorted_ms.len() as f64) as usize;
        self.sorted_ms.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Measures the delays of one cast over `window`.
pub(super) fn measure_delay(
    recorder: Recorder,
    site: &BenchSite,
    pagecast: &Path,
    nginx: &NginxRtmp,
    window: Duration,
) -> Result<DelayStats> {
    let stream = PushedCast::start(recorder, site, pagecast, TimecodeClock::Machine, nginx, 1)?;
    std::thread::sleep(WARM_UP);
    let log = site.output_path("viewer.log");
    let viewer = FfmpegViewer::start(&stream.url()?, &log)?;
    viewer.next_delay_ms(START_TIMEOUT).with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    let shown = Instant::now();
    while shown.elapsed() < SETTLE_TIME {
        viewer.next_delay_ms(START_TIMEOUT)?;
    }
    let mut all_ms = Vec::new();
    while shown.elapsed() < SETTLE_TIME + window {
        all_ms.extend(viewer.next_delay_ms(START_TIMEOUT)?);
    }
    drop(viewer);
    stream.finish(window)?;
    ensure!(!all_ms.is_empty(), "the stream does not show the page");
    Ok(DelayStats::new(all_ms))
}

/// `ffmpeg` as a player without buffering; killed when dropped.
#[derive(Debug)]
struct FfmpegViewer {
    child: Child,
    delays: Option<Receiver<Option<f64>>>,
    reader: Option<JoinHandle<()>>,
    _excluded: ExcludedProcess,
}

impl FfmpegViewer {
    /// Plays `url`; warnings are written to `log`.
    fn start(url: &str, log: &Path) -> Result<Self> {
        let (width, height) = TIMECODE_SIZE;
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-nostdin", "-v", "error", "-fflags", "nobuffer", "-flags", "low_delay"]);
        // Each decoder thread would delay by a picture.
        ffmpeg.args(["-analyzeduration", ANALYZE_DURATION_US, "-threads", "1"]);
        ffmpeg.args(["-rtmp_live", "live", "-i", url, "-map", "0:v"]);
        ffmpeg.args(["-vf", &format!("crop={width}:{height}:0:0,format=gray"), "-fps_mode", "passthrough"]);
        ffmpeg.args(["-flush_packets", "1", "-f", "rawvideo", "-"]);
        ffmpeg.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let mut child = ffmpeg.spawn().context(install_hint("ffmpeg"))?;
        let excluded = ExcludedProcess::exclude(child.id());
        let pipe = child.stdout.take();
        let mut viewer = Self { child, delays: None, reader: None, _excluded: excluded };
        let (pipe, (sender, receiver)) =
            (pipe.context("ffmpeg has no output")?, sync_channel(MAX_QUEUED_FRAMES));
        viewer.delays = Some(receiver);
        viewer.reader = Some(std::thread::Builder::new().spawn(move || read_frames(pipe, &sender))?);
        Ok(viewer)
    }

    /// Delay of the next picture, if its timecode is readable.
    fn next_delay_ms(&self, limit: Duration) -> Result<Option<f64>> {
        let pictures = self.delays.as_ref().context("the viewer has ended")?;
        pictures.recv_timeout(limit).context("the server sends no pictures")
    }
}

impl Drop for FfmpegViewer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // The reader ends when its channel has no receiver.
        self.delays = None;
        self.reader.take().map(JoinHandle::join);
    }
}

fn read_frames(mut pipe: ChildStdout, sender: &SyncSender<Option<f64>>) {
    let mut picture = GrayImage::new(TIMECODE_SIZE.0, TIMECODE_SIZE.1);
    while pipe.read_exact(&mut picture.data).is_ok() {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0;
        let delay_ms = Timecode::read(&picture, TimecodePosition::PAGE)
            .map(|timecode| delay_since_ms(f64::from(timecode.page_time), now_ms));
        if sender.send(delay_ms).is_err() {
            return;
        }
    }
}

/// Time since a page time, of which only the lower 32 bits are known.
fn delay_since_ms(page_time: f64, now_ms: f64) -> f64 {
    const WRAP: f64 = 4_294_967_296.0;
    let behind = (now_ms * TIMECODE_UNITS_PER_MS - page_time).rem_euclid(WRAP);
    // A page time slightly in the future would be a delay of five days.
    let behind = if behind > WRAP / 2.0 { behind - WRAP } else { behind };
    behind / TIMECODE_UNITS_PER_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_timecode_gives_the_delay() {
        let now_ms: f64 = 1_795_000_000_123.0;
        for late_ms in [150.0, 0.0, -3.5] {
            let page_time = ((now_ms - late_ms) * TIMECODE_UNITS_PER_MS).rem_euclid(4_294_967_296.0);
            assert!((delay_since_ms(page_time, now_ms) - late_ms).abs() < 0.01);
        }
    }

    #[test]
    fn the_slowest_twentieth_is_above() {
        let delay = DelayStats::new((0..100).rev().map(f64::from).collect());
        assert!((delay.median_ms() - 50.0).abs() < 0.1 && (delay.p95_ms() - 95.0).abs() < 0.1);
        assert!(DelayStats::new(Vec::new()).p95_ms().is_nan());
    }
}
