//! What it costs to show a page in a room, and how late and how soon it is there.
//!
//! The room is Pagecast's own, in the process of the cast, so it is counted; those who watch are a browser that is set apart.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::program;
use pagecast_testkit::pages::get;
use pagecast_testkit::{Viewer, sync};
use rustix::process::{Pid, Signal, kill_process};

use crate::casts::{FPS, HEIGHT, PATIENCE, WIDTH, next_number};
use crate::measure::WARM_UP;
use crate::outputs::Costs;
use crate::page::Page;
use crate::site::Site;
use crate::usage::{Apart, sweep};

/// How many watch at once.
pub(crate) const VIEWERS: usize = 5;
/// The most CPU that one more viewer may cost, in cores.
pub(crate) const VIEWER_GOAL: f64 = 0.02;
/// The longest from the start of a cast whose browser waits to the first picture that a viewer has.
pub(crate) const FIRST_GOAL_S: f64 = 1.5;
/// How late a picture may be, in the middle and for all but a twentieth, in milliseconds.
pub(crate) const DELAY_GOAL_MS: [f64; 2] = [150.0, 250.0];
const LOOK: Duration = Duration::from_millis(20);
/// A browser that has just come up still has things to do.
const SETTLE: Duration = Duration::from_secs(2);

/// All that was found out about rooms.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    /// What the small animation costs with one layer and with two.
    pub(crate) layers: [Costs; 2],
    /// The same with one layer and [`VIEWERS`] viewers.
    pub(crate) watched: Costs,
    /// Milliseconds from a picture's drawing to its being shown, of each cast: the middle, and 95 % within.
    pub(crate) delays_ms: Vec<[f64; 2]>,
    /// Seconds from the start to a viewer's first picture, with a browser that was started before.
    pub(crate) first_s: Vec<f64>,
}

impl Rooms {
    pub(crate) fn measure(site: &Site, program: &Path, window: Duration, repeat: u32) -> Result<Self> {
        let mut rooms = Self::default();
        for _ in 0..repeat {
            for layers in [1, 2] {
                let cast =
                    Cast::start(site, program, &site.page(Page::Animation, next_number()), layers, false)?;
                cast.settle()?;
                rooms.layers[layers - 1].watch(&format!("in a room, {layers} layers"), window)?;
                cast.finish()?;
            }
            rooms.watched(site, program, window)?;
            rooms.late(site, program, window)?;
            rooms.soon(site, program)?;
        }
        Ok(rooms)
    }

    /// Cores that each viewer adds.
    pub(crate) fn each_viewer(&self) -> f64 {
        (self.watched.cores() - self.layers[0].cores()) / VIEWERS as f64
    }

    fn watched(&mut self, site: &Site, program: &Path, window: Duration) -> Result<()> {
        let cast = Cast::start(site, program, &site.page(Page::Animation, next_number()), 1, false)?;
        cast.settle()?;
        let watch = Watch::open(site, &cast, VIEWERS)?;
        watch.wait(site, "playing")?;
        std::thread::sleep(WARM_UP);
        self.watched.watch(&format!("in a room, {VIEWERS} viewers"), window)?;
        drop(watch);
        cast.finish()
    }

    fn late(&mut self, site: &Site, program: &Path, window: Duration) -> Result<()> {
        let url = format!("{}&absolute", site.flash_and_beep(next_number()));
        let cast = Cast::start(site, program, &url, 1, false)?;
        cast.settle()?;
        let watch = Watch::open(site, &cast, 1)?;
        watch.wait(site, "playing")?;
        std::thread::sleep(WARM_UP);
        let before = watch.delays_ms(site).len();
        std::thread::sleep(window);
        let mut delays = watch.delays_ms(site).split_off(before);
        drop(watch);
        cast.finish()?;
        delays.sort_by(f64::total_cmp);
        let at = |part: f64| delays.get((delays.len() as f64 * part) as usize).copied();
        let found = at(0.5).zip(at(0.95)).context("the viewer saw nothing")?;
        eprintln!("in a room: {:.0} ms late, 95 % within {:.0} ms", found.0, found.1);
        self.delays_ms.push([found.0, found.1]);
        Ok(())
    }

    fn soon(&mut self, site: &Site, program: &Path) -> Result<()> {
        let mut cast = Cast::start(site, program, &site.page(Page::Animation, next_number()), 1, true)?;
        let watch = Watch::open(site, &cast, 1)?;
        watch.wait(site, "connection-connected")?;
        std::thread::sleep(SETTLE);
        let begun = Instant::now();
        cast.child.stdin.as_mut().context("pagecast has no input")?.write_all(b"\n")?;
        watch.wait(site, "playing")?;
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("in a room: first picture after {seconds:.2} s");
        self.first_s.push(seconds);
        drop(watch);
        cast.finish()
    }

    /// The middle of all casts: late by so much, and 95 % within.
    pub(crate) fn delay_ms(&self) -> [f64; 2] {
        [0, 1].map(|part| sync::median(self.delays_ms.iter().map(|delay| delay[part]).collect()))
    }
}

/// `pagecast cast` with a room of its own.
struct Cast {
    child: Child,
    room: String,
    log: PathBuf,
}

impl Cast {
    fn start(site: &Site, pagecast: &Path, url: &str, layers: usize, standby: bool) -> Result<Self> {
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = site.file("room.log");
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
        cast.wait_until("the room is open", |_| get(&format!("{}/stats", cast.room)).is_ok())?;
        if standby {
            cast.wait_until("a browser waits", |log| log.contains("ready"))?;
            std::thread::sleep(SETTLE);
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
            ensure!(begun.elapsed() < PATIENCE, "{what}: not in time: {log}");
            std::thread::sleep(LOOK);
        }
    }

    fn settle(&self) -> Result<()> {
        self.wait_until("the page is live", |log| log.contains("the page is live"))?;
        std::thread::sleep(WARM_UP);
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("pagecast ended early")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "pagecast ended with {status}: {}", fs::read_to_string(&self.log)?);
        sweep()
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        // After `finish` there is nothing left to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Some who watch, in one browser.
struct Watch {
    id: u32,
    _viewer: Viewer,
    _apart: Apart,
}

impl Watch {
    fn open(site: &Site, cast: &Cast, count: usize) -> Result<Self> {
        let id = next_number();
        let viewer = Viewer::open(&site.watch(&format!("{}/whep", cast.room), id, count))?;
        let apart = Apart::new(viewer.pid());
        Ok(Self { id, _viewer: viewer, _apart: apart })
    }

    fn wait(&self, site: &Site, what: &str) -> Result<()> {
        site.wait_until_said(&format!("{what}-{}", self.id), PATIENCE)
    }

    fn delays_ms(&self, site: &Site) -> Vec<f64> {
        let said = site.said(&format!("delays-{}?", self.id));
        said.iter().flat_map(|delays| delays.split(',').filter_map(|ms| ms.parse().ok())).collect()
    }
}
