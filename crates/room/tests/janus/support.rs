//! Helpers for the tests with Janus: publishers, their status, and a browser that watches.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::Fps;
use pagecast_core::connection::State;
use pagecast_core::spec::{Layer, Room, RoomIds, RoomService, Size};
use pagecast_room::publish::{Publisher, Status};
use pagecast_testkit::{JanusServer, PageResponse, PageServer, Viewer, page_reports};
use serde::Deserialize;

use crate::feed::{FPS, Feeder, SIZES};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which a status is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A room with two layers.
pub(crate) fn room(service: RoomService, room: &str, user: &str) -> Result<Room> {
    let id = |text: &str| text.to_owned();
    let [large, small] = SIZES.map(|(width, height)| -> Result<Layer> {
        let fps = Fps::new(FPS).context("no frame rate")?;
        Ok(Layer { size: Size::new(width, height)?, fps, bitrate_kbps: Some(600) })
    });
    let ids = RoomIds { app: id("app"), room: id(room), user: id(user), task: id("task") };
    let mut room = Room::new(service, ids, large?);
    room.layers.push(small?);
    Ok(room)
}

/// Waits for a status that meets a condition.
pub(crate) fn wait_for_status(
    publisher: &Publisher,
    what: &str,
    condition: impl Fn(&Status) -> bool,
) -> Result<Status> {
    let began = Instant::now();
    loop {
        let status = publisher.status();
        if condition(&status) {
            return Ok(status);
        }
        ensure!(began.elapsed() < TIMEOUT && !publisher.is_finished(), "{what} took too long: {status:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until a publisher fails, and returns its error.
pub(crate) fn wait_for_failure(publisher: &Publisher) -> Result<String> {
    let began = Instant::now();
    while !publisher.is_finished() {
        let status = publisher.status();
        let is_retried = status.state == State::Recovering;
        ensure!(began.elapsed() < TIMEOUT && !is_retried, "it does not fail: {status:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
    publisher.status().error.context("there is no error")
}

/// The error with which a room is refused at once.
pub(crate) fn refusal_error(room: Room) -> Result<String> {
    wait_for_failure(&Publisher::start(room)?)
}

pub(crate) fn is_running(status: &Status) -> bool {
    status.state == State::Running
}

/// Starts a publisher and waits until it is connected.
pub(crate) fn start_running(room: Room) -> Result<Publisher> {
    let publisher = Publisher::start(room)?;
    wait_for_status(&publisher, "connecting", is_running)?;
    Ok(publisher)
}

/// Report of the page.
#[derive(Debug, Deserialize)]
struct PageReport {
    frames: u64,
    width: u32,
    height: u32,
    energy: f64,
    state: String,
}

/// A browser that watches a user in a room.
struct BrowserViewer {
    pages: PageServer,
    _viewer: Viewer,
}

impl BrowserViewer {
    fn new(janus: &JanusServer, query: &str) -> Result<Self> {
        let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = PageServer::start()?.with_folder("/pages/", &manifest_dir.join("tests/pages"));
        pages.set_route("/choice", PageResponse::Html(200, String::new()));
        let viewer =
            Viewer::open(&pages.url(&format!("pages/janus.html?server={}&{query}", janus.ws_url())))?;
        Ok(Self { pages, _viewer: viewer })
    }

    fn choose_substream(&self, substream: u32) {
        self.pages.set_route("/choice", PageResponse::Html(200, substream.to_string()));
    }

    /// Waits until frames of this size advance, from the `from`th report on. Returns the report's number.
    fn wait_for_size(&self, from: usize, (width, height): (u32, u32)) -> Result<usize> {
        let (at, first) =
            page_reports::wait_until(&self.pages, "seen", from, TIMEOUT, |report: &PageReport| {
                (report.width, report.height) == (width, height)
            })?;
        let (at, last) =
            page_reports::wait_until(&self.pages, "seen", at, TIMEOUT, |report: &PageReport| {
                report.frames >= first.frames + 30 && (report.width, report.height) == (width, height)
            })?;
        println!("{first:?}, later {last:?}");
        ensure!(last.state == "connected", "{last:?}");
        Ok(at)
    }

    fn wait_for_audio(&self) -> Result<()> {
        let (_, report) =
            page_reports::wait_until(&self.pages, "seen", 0, TIMEOUT, |report: &PageReport| {
                report.energy > 0.001
            })?;
        println!("energy {}", report.energy);
        Ok(())
    }
}

/// Publishes, and checks that a browser gets each layer that it selects.
pub(crate) fn both_layers_are_watched(janus: &JanusServer, published: Room, query: &str) -> Result<()> {
    let publisher = Publisher::start(published)?;
    let (_feeder, feed, encoders) = Feeder::start()?;
    publisher.set_feed(feed, encoders);
    wait_for_status(&publisher, "connecting", is_running)?;
    let browser = BrowserViewer::new(janus, query)?;
    browser.choose_substream(1);
    let at = browser.wait_for_size(0, SIZES[0])?;
    browser.wait_for_audio()?;
    browser.choose_substream(0);
    let at = browser.wait_for_size(at, SIZES[1])?;
    browser.choose_substream(1);
    browser.wait_for_size(at, SIZES[0])?;
    let status = publisher.status();
    println!("{status:?}");
    ensure!(is_running(&status) && status.reconnects == 0, "{status:?}");
    let (status, _) = publisher.finish().context("the thread panicked")?;
    ensure!(status.error.is_none(), "{status:?}");
    Ok(())
}
