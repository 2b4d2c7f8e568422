//! Cost of a room, delay at a viewer, and time to the first picture.
//!
//! The embedded room is in the process of the cast, so it is counted. The browser of the viewers is not.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::program;
use pagecast_testkit::page_server::http_get;
use pagecast_testkit::{Viewer, av_sync};
use rustix::process::{Pid, Signal, kill_process};

use crate::cast::{FPS, HEIGHT, START_TIMEOUT, WIDTH, next_cast_number};
use crate::measure::WARM_UP;
use crate::outputs::CastCosts;
use crate::page::BenchPage;
use crate::site::BenchSite;
use crate::usage::{ExcludedProcess, kill_descendants};

/// Number of simultaneous viewers.
pub(crate) const VIEWER_COUNT: usize = 5;
/// Goal: most CPU cores that one more viewer may cost.
pub(crate) const MAX_CORES_PER_VIEWER: f64 = 0.02;
/// Goal: longest time from the start of a cast with a warm browser to a viewer's first picture, in seconds.
pub(crate) const MAX_FIRST_FRAME_S: f64 = 1.5;
/// Goal: largest delay of pictures, median and 95th percentile, in milliseconds.
pub(crate) const MAX_DELAY_MS: [f64; 2] = [150.0, 250.0];
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Time for the start-up work of a new browser.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Results on rooms.
#[derive(Debug, Default)]
pub(crate) struct RoomResults {
    /// Cost of the small animation with one layer and with two.
    pub(crate) layer_costs: [CastCosts; 2],
    /// Cost with one layer and [`VIEWER_COUNT`] viewers.
    pub(crate) watched_costs: CastCosts,
    /// Milliseconds from drawing to showing a picture, for each cast: median and 95th percentile.
    pub(crate) delays_ms: Vec<[f64; 2]>,
    /// Seconds from the start to a viewer's first picture, with a warm browser.
    pub(crate) first_frames_s: Vec<f64>,
}

impl RoomResults {
    pub(crate) fn measure(site: &BenchSite, program: &Path, window: Duration, repeat: u32) -> Result<Self> {
        let mut rooms = Self::default();
        for _ in 0..repeat {
            for layers in [1, 2] {
                let cast = RoomCast::start(
                    site,
                    program,
                    &site.page_url(BenchPage::Animation, next_cast_number()),
                    layers,
                    false,
                )?;
                cast.wait_until_settled()?;
                rooms.layer_costs[layers - 1].measure(&format!("in a room, {layers} layers"), window)?;
                cast.finish()?;
            }
            rooms.measure_watched(site, program, window)?;
            rooms.measure_delay(site, program, window)?;
            rooms.measure_first_frame(site, program)?;
        }
        Ok(rooms)
    }

    /// CPU cores that each viewer adds.
    pub(crate) fn cores_per_viewer(&self) -> f64 {
        (self.watched_costs.cores() - self.layer_costs[0].cores()) / VIEWER_COUNT as f64
    }

    fn measure_watched(&mut self, site: &BenchSite, program: &Path, window: Duration) -> Result<()> {
        let cast = RoomCast::start(
            site,
            program,
            &site.page_url(BenchPage::Animation, next_cast_number()),
            1,
            false,
        )?;
        cast.wait_until_settled()?;
        let viewers = ViewerBrowser::open(site, &cast, VIEWER_COUNT)?;
        viewers.wait_for_report(site, "playing")?;
        std::thread::sleep(WARM_UP);
        self.watched_costs.measure(&format!("in a room, {VIEWER_COUNT} viewers"), window)?;
        drop(viewers);
        cast.finish()
    }

    fn measure_delay(&mut self, site: &BenchSite, program: &Path, window: Duration) -> Result<()> {
        let url = format!("{}&absolute", site.flash_beep_url(next_cast_number()));
        let cast = RoomCast::start(site, program, &url, 1, false)?;
        cast.wait_until_settled()?;
        let viewers = ViewerBrowser::open(site, &cast, 1)?;
        viewers.wait_for_report(site, "playing")?;
        std::thread::sleep(WARM_UP);
        let before = viewers.delays_ms(site).len();
        std::thread::sleep(window);
        let mut delays = viewers.delays_ms(site).split_off(before);
        drop(viewers);
        cast.finish()?;
        delays.sort_by(f64::total_cmp);
        let at = |quantile: f64| delays.get((delays.len() as f64 * quantile) as usize).copied();
        let (median, p95) = at(0.5).zip(at(0.95)).context("the viewer showed no picture")?;
        eprintln!("in a room: delay {median:.0} ms, 95 % within {p95:.0} ms");
        self.delays_ms.push([median, p95]);
        Ok(())
    }

    fn measure_first_frame(&mut self, site: &BenchSite, program: &Path) -> Result<()> {
        let mut cast = RoomCast::start(
            site,
            program,
            &site.page_url(BenchPage::Animation, next_cast_number()),
            1,
            true,
        )?;
        let viewers = ViewerBrowser::open(site, &cast, 1)?;
        viewers.wait_for_report(site, "connection-connected")?;
        std::thread::sleep(SETTLE_TIME);
        let begun = Instant::now();
        cast.child.stdin.as_mut().context("pagecast has no input")?.write_all(b"\n")?;
        viewers.wait_for_report(site, "playing")?;
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("in a room: first picture after {seconds:.2} s");
        self.first_frames_s.push(seconds);
        drop(viewers);
        cast.finish()
    }

    /// Medians over all casts of the median and of the 95th percentile of the delay.
    pub(crate) fn delay_ms(&self) -> [f64; 2] {
        [0, 1].map(|part| av_sync::median(self.delays_ms.iter().map(|delay| delay[part]).collect()))
    }
}

/// Runs `pagecast cast` with an embedded room.
struct RoomCast {
    child: Child,
    room: String,
    log: PathBuf,
}

impl RoomCast {
    fn start(site: &BenchSite, pagecast: &Path, url: &str, layers: usize, standby: bool) -> Result<Self> {
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = site.output_path("room.log");
        let mut command = program(pagecast);
        command.args(["cast", url, "--json", "--room", "bench", "--listen", &listen.to_string()]);
        command.args(["--allow-net", "127.0.0.0/8", "--fps", &FPS.to_string()]);
        command.args(["--size", &format!("{WIDTH}x{HEIGHT}")]);
        if layers > 1 {
            command.args(["--layer", "640x360"]);
        }
        if standby {
            command.arg("--standby");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.spawn().context("cannot start pagecast")?;
        let cast = Self { child, room: format!("http://{listen}/rooms/bench"), log };
        cast.wait_until("the room is open", |_| http_get(&format!("{}/stats", cast.room)).is_ok())?;
        if standby {
            cast.wait_until("the browser is ready", |log| log.contains("ready"))?;
            std::thread::sleep(SETTLE_TIME);
        }
        Ok(cast)
    }

    fn wait_until(&self, what: &str, done: impl Fn(&str) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log)?;
            if done(&log) {
                return Ok(());
            }
            ensure!(begun.elapsed() < START_TIMEOUT, "not in time: {what}: {log}");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn wait_until_settled(&self) -> Result<()> {
        self.wait_until("the page is live", |log| log.contains("page live"))?;
        std::thread::sleep(WARM_UP);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("pagecast ended early")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "pagecast ended with {status}: {}", fs::read_to_string(&self.log)?);
        kill_descendants()
    }
}

impl Drop for RoomCast {
    fn drop(&mut self) {
        // After `finish` there is nothing left to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Viewers in one browser.
struct ViewerBrowser {
    id: u32,
    _viewer: Viewer,
    _excluded: ExcludedProcess,
}

impl ViewerBrowser {
    fn open(site: &BenchSite, cast: &RoomCast, count: usize) -> Result<Self> {
        let id = next_cast_number();
        let viewer = Viewer::open(&site.viewer_url(&format!("{}/whep", cast.room), id, count))?;
        let excluded = ExcludedProcess::exclude(viewer.pid());
        Ok(Self { id, _viewer: viewer, _excluded: excluded })
    }

    fn wait_for_report(&self, site: &BenchSite, what: &str) -> Result<()> {
        site.wait_until_reported(&format!("{what}-{}", self.id), START_TIMEOUT)
    }

    fn delays_ms(&self, site: &BenchSite) -> Vec<f64> {
        let reports = site.reported(&format!("delays-{}?", self.id));
        reports.iter().flat_map(|delays| delays.split(',').filter_map(|ms| ms.parse().ok())).collect()
    }
}
