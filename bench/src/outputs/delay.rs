//! How long a picture is on its way from the page to whoever watches it at the RTMP server.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{missing, program};
use pagecast_testkit::media::Gray;
use pagecast_testkit::rtmp::Nginx;
use pagecast_testkit::strip::{Place, Strip};

use super::stream::{Clock, Stream};
use crate::casts::{PATIENCE, Side};
use crate::measure::WARM_UP;
use crate::site::{STRIP, Site};
use crate::usage::Apart;

/// A viewer needs a moment until it shows pictures as they come.
const SETTLE: Duration = Duration::from_secs(2);
/// For how many microseconds of stream it looks for pictures, which nginx sends from a keyframe on: both sides make one every
/// four seconds. What it saw meanwhile it does not keep.
const LOOK_US: &str = "6000000";
/// Pictures that wait to be looked at; more wait in the pipe.
const QUEUE: usize = 64;
/// What strips count in.
const PER_MS: f64 = 10.0;

/// Delays of the pictures of one cast.
#[derive(Debug)]
pub(crate) struct Delay {
    /// In milliseconds, the smallest first.
    sorted_ms: Vec<f64>,
}

impl Delay {
    fn new(mut all_ms: Vec<f64>) -> Self {
        all_ms.sort_by(f64::total_cmp);
        Self { sorted_ms: all_ms }
    }

    pub(crate) fn median_ms(&self) -> f64 {
        self.percentile_ms(0.5)
    }

    /// 95 % of the pictures come earlier.
    pub(crate) fn p95_ms(&self) -> f64 {
        self.percentile_ms(0.95)
    }

    fn percentile_ms(&self, part: f64) -> f64 {
        let at = (part * self.sorted_ms.len() as f64) as usize;
        self.sorted_ms.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Watches what one cast sends for the length of `window`.
pub(super) fn measure(
    side: Side,
    site: &Site,
    pagecast: &Path,
    nginx: &Nginx,
    window: Duration,
) -> Result<Delay> {
    let stream = Stream::start(side, site, pagecast, Clock::Machine, nginx, 1)?;
    std::thread::sleep(WARM_UP);
    let log = site.file("viewer.log");
    let viewer = Viewer::start(&stream.url()?, &log)?;
    viewer.delay_ms(PATIENCE).with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    let shown = Instant::now();
    while shown.elapsed() < SETTLE {
        viewer.delay_ms(PATIENCE)?;
    }
    let mut all_ms = Vec::new();
    while shown.elapsed() < SETTLE + window {
        all_ms.extend(viewer.delay_ms(PATIENCE)?);
    }
    drop(viewer);
    stream.finish(window)?;
    ensure!(!all_ms.is_empty(), "nothing of the page came from the server");
    Ok(Delay::new(all_ms))
}

/// `ffmpeg` as a player that keeps nothing back; ended when dropped.
#[derive(Debug)]
struct Viewer {
    child: Child,
    pictures: Option<Receiver<Option<f64>>>,
    reader: Option<JoinHandle<()>>,
    _apart: Apart,
}

impl Viewer {
    /// Plays `url`; what it complains about goes to `log`.
    fn start(url: &str, log: &Path) -> Result<Self> {
        let (width, height) = STRIP;
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-nostdin", "-v", "error", "-fflags", "nobuffer", "-flags", "low_delay"]);
        // Threads would each keep a picture back.
        ffmpeg.args(["-analyzeduration", LOOK_US, "-threads", "1"]);
        ffmpeg.args(["-rtmp_live", "live", "-i", url, "-map", "0:v"]);
        ffmpeg.args(["-vf", &format!("crop={width}:{height}:0:0,format=gray"), "-fps_mode", "passthrough"]);
        ffmpeg.args(["-flush_packets", "1", "-f", "rawvideo", "-"]);
        ffmpeg.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let mut child = ffmpeg.spawn().context(missing("ffmpeg"))?;
        let apart = Apart::new(child.id());
        let pipe = child.stdout.take();
        let mut viewer = Self { child, pictures: None, reader: None, _apart: apart };
        let (pipe, (sender, receiver)) = (pipe.context("ffmpeg has no output")?, sync_channel(QUEUE));
        viewer.pictures = Some(receiver);
        viewer.reader = Some(std::thread::Builder::new().spawn(move || read(pipe, &sender))?);
        Ok(viewer)
    }

    /// Delay of the next picture, if its strip can be read.
    fn delay_ms(&self, limit: Duration) -> Result<Option<f64>> {
        let pictures = self.pictures.as_ref().context("nobody watches")?;
        pictures.recv_timeout(limit).context("the server sends no pictures")
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // Without a receiver the reader ends, whatever it was about to tell.
        self.pictures = None;
        self.reader.take().map(JoinHandle::join);
    }
}

fn read(mut pipe: ChildStdout, sender: &SyncSender<Option<f64>>) {
    let mut picture = Gray::new(STRIP.0, STRIP.1);
    while pipe.read_exact(&mut picture.data).is_ok() {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0;
        let delay_ms =
            Strip::read(&picture, Place::PAGE).map(|strip| since_ms(f64::from(strip.page_time), now_ms));
        if sender.send(delay_ms).is_err() {
            return;
        }
    }
}

/// From what a strip tells, in its units and without the bits above 32, to now.
fn since_ms(strip: f64, now_ms: f64) -> f64 {
    const TURN: f64 = 4_294_967_296.0;
    let behind = (now_ms * PER_MS - strip).rem_euclid(TURN);
    // A clock that is a little ahead is no delay of five days.
    let behind = if behind > TURN / 2.0 { behind - TURN } else { behind };
    behind / PER_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_without_its_upper_bits_tells_the_time() {
        let now_ms: f64 = 1_795_000_000_123.0;
        for late_ms in [150.0, 0.0, -3.5] {
            let strip = ((now_ms - late_ms) * PER_MS).rem_euclid(4_294_967_296.0);
            assert!((since_ms(strip, now_ms) - late_ms).abs() < 0.01);
        }
    }

    #[test]
    fn the_slowest_twentieth_is_above() {
        let delay = Delay::new((0..100).rev().map(f64::from).collect());
        assert!((delay.median_ms() - 50.0).abs() < 0.1 && (delay.p95_ms() - 95.0).abs() < 0.1);
        assert!(Delay::new(Vec::new()).p95_ms().is_nan());
    }
}
