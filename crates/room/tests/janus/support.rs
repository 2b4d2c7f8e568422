//! How a room gets on: as its publisher sees it, and as a browser does that watches it.

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
/// How often it is looked at how a room gets on.
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

/// Waits until a room gets on like that.
pub(crate) fn wait_for_status(
    publisher: &Publisher,
    what: &str,
    fits: impl Fn(&Status) -> bool,
) -> Result<Status> {
    let began = Instant::now();
    loop {
        let status = publisher.status();
        if fits(&status) {
            return Ok(status);
        }
        ensure!(began.elapsed() < TIMEOUT && !publisher.is_finished(), "{what} took too long: {status:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until a room is given up; why.
pub(crate) fn wait_for_failure(publisher: &Publisher) -> Result<String> {
    let began = Instant::now();
    while !publisher.is_finished() {
        let status = publisher.status();
        let tried_again = status.state == State::Recovering;
        ensure!(began.elapsed() < TIMEOUT && !tried_again, "it is not given up: {status:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
    publisher.status().error.context("there is no error")
}

/// Why a room is given up at once.
pub(crate) fn refusal_error(room: Room) -> Result<String> {
    wait_for_failure(&Publisher::start(room)?)
}

pub(crate) fn is_running(status: &Status) -> bool {
    status.state == State::Running
}

/// A publisher that runs.
pub(crate) fn start_running(room: Room) -> Result<Publisher> {
    let publisher = Publisher::start(room)?;
    wait_for_status(&publisher, "connecting", is_running)?;
    Ok(publisher)
}

/// What the page says that it sees.
#[derive(Debug, Deserialize)]
struct PageReport {
    frames: u64,
    width: u32,
    height: u32,
    energy: f64,
    state: String,
}

/// What a browser sees of a user in a room.
struct BrowserViewer {
    pages: PageServer,
    _viewer: Viewer,
}

impl BrowserViewer {
    fn new(janus: &JanusServer, query: &str) -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = PageServer::start()?.with_folder("/pages/", &here.join("tests/pages"));
        pages.set_route("/choice", PageResponse::Html(200, String::new()));
        let viewer =
            Viewer::open(&pages.url(&format!("pages/janus.html?server={}&{query}", janus.ws_url())))?;
        Ok(Self { pages, _viewer: viewer })
    }

    fn choose_substream(&self, substream: u32) {
        self.pages.set_route("/choice", PageResponse::Html(200, substream.to_string()));
    }

    /// Waits until frames of this size advance, after the `from`th thing that was said; its place.
    fn wait_for_size(&self, from: usize, (width, height): (u32, u32)) -> Result<usize> {
        let (at, first) =
            page_reports::wait_until(&self.pages, "seen", from, TIMEOUT, |seen: &PageReport| {
                (seen.width, seen.height) == (width, height)
            })?;
        let (at, seen) = page_reports::wait_until(&self.pages, "seen", at, TIMEOUT, |seen: &PageReport| {
            seen.frames >= first.frames + 30 && (seen.width, seen.height) == (width, height)
        })?;
        println!("{first:?}, later {seen:?}");
        ensure!(seen.state == "connected", "{seen:?}");
        Ok(at)
    }

    fn wait_for_audio(&self) -> Result<()> {
        let (_, seen) = page_reports::wait_until(&self.pages, "seen", 0, TIMEOUT, |seen: &PageReport| {
            seen.energy > 0.001
        })?;
        println!("energy {}", seen.energy);
        Ok(())
    }
}

/// A browser watches both layers, as it chooses.
pub(crate) fn both_layers_are_watched(janus: &JanusServer, published: Room, query: &str) -> Result<()> {
    let publisher = Publisher::start(published)?;
    let (_feeder, feed, encoders) = Feeder::start()?;
    publisher.set_feed(feed, encoders);
    wait_for_status(&publisher, "connecting", is_running)?;
    let watched = BrowserViewer::new(janus, query)?;
    watched.choose_substream(1);
    let at = watched.wait_for_size(0, SIZES[0])?;
    watched.wait_for_audio()?;
    watched.choose_substream(0);
    let at = watched.wait_for_size(at, SIZES[1])?;
    watched.choose_substream(1);
    watched.wait_for_size(at, SIZES[0])?;
    let status = publisher.status();
    println!("{status:?}");
    ensure!(is_running(&status) && status.reconnects == 0, "{status:?}");
    let (status, _) = publisher.finish().context("the thread panicked")?;
    ensure!(status.error.is_none(), "{status:?}");
    Ok(())
}
