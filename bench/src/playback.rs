//! Longest gap between pictures at viewers that join a room, for each server, page, number of layers and
//! link.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::browser::{Browser, Page};
use pagecast_testkit::{
    JanusServer, LinkConditions, LinkEmulator, LiveKitServer, PagecastCommand, PagecastProcess, Signal, janus,
};

use crate::cast::{FPS, HEIGHT, START_TIMEOUT, WIDTH, next_cast_number};
use crate::measure::WARM_UP;
use crate::page::BenchPage;
use crate::site::BenchSite;
use crate::usage::kill_descendants;

/// Goal: longest gap between two pictures, in milliseconds, unless the link is too narrow.
pub(crate) const MAX_GAP_MS: f64 = 150.0;
/// Time for a viewer to measure its first 20 s.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Room on the server; Janus needs a number.
const ROOM: &str = "1234";

/// Page that the viewers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShownPage {
    Bench(BenchPage),
    /// The page of `make demo`, which changes all the time.
    Demo,
}

/// Server of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RoomServer {
    Embedded,
    LiveKit,
    Janus,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    server: RoomServer,
    page: ShownPage,
    /// Size of the smaller of two layers, and its bitrate in kbit/s; `None` for one layer.
    second_layer: Option<(&'static str, u32)>,
    /// Bandwidth of the viewer's link; `None` for no limit.
    bits_per_second: Option<u64>,
}

/// What one viewer measured in its first 20 s.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// `None` if no picture came within 20 s.
    pub(crate) first_picture_ms: Option<f64>,
    pub(crate) worst_gap_ms: f64,
    /// Largest part of a gap that the RTP time stamps of the pictures do not explain: the room added it.
    pub(crate) worst_added_ms: f64,
    pub(crate) pictures: u64,
}

/// Measurements of all scenarios.
#[derive(Debug, Default)]
pub(crate) struct PlaybackResults(pub(crate) Vec<(Scenario, Vec<Join>)>);

const VIDEO: ShownPage = ShownPage::Bench(BenchPage::Video);
const ANIMATION: ShownPage = ShownPage::Bench(BenchPage::Animation);

const HALF: Option<(&str, u32)> = Some(("640x360", 600));
/// Fits through 300 kbit/s together with the sound.
const QUARTER: Option<(&str, u32)> = Some(("320x180", 150));
/// Bitrate of the large layer, in kbit/s.
const LARGE_KBPS: u32 = 1200;

const SCENARIOS: [Scenario; 11] = [
    Scenario::new(RoomServer::Embedded, VIDEO, None, None),
    Scenario::new(RoomServer::Embedded, VIDEO, HALF, None),
    Scenario::new(RoomServer::Embedded, ANIMATION, None, None),
    Scenario::new(RoomServer::Embedded, ANIMATION, HALF, None),
    Scenario::new(RoomServer::Embedded, ShownPage::Demo, None, None),
    Scenario::new(RoomServer::Embedded, ShownPage::Demo, HALF, None),
    Scenario::new(RoomServer::LiveKit, VIDEO, HALF, None),
    Scenario::new(RoomServer::Janus, VIDEO, HALF, None),
    Scenario::new(RoomServer::Embedded, VIDEO, HALF, Some(1_000_000)),
    Scenario::new(RoomServer::Embedded, VIDEO, HALF, Some(300_000)),
    Scenario::new(RoomServer::Embedded, VIDEO, QUARTER, Some(300_000)),
];

impl Scenario {
    const fn new(
        server: RoomServer,
        page: ShownPage,
        second_layer: Option<(&'static str, u32)>,
        bits_per_second: Option<u64>,
    ) -> Self {
        Self { server, page, second_layer, bits_per_second }
    }

    pub(crate) fn title(self) -> String {
        let server = match self.server {
            RoomServer::Embedded => "embedded",
            RoomServer::LiveKit => "LiveKit",
            RoomServer::Janus => "Janus",
        };
        let page = match self.page {
            ShownPage::Bench(page) => page.title(),
            ShownPage::Demo => "Demo page",
        };
        let link = self
            .bits_per_second
            .map_or_else(|| "loopback".to_owned(), |bps| format!("{} kbit/s", bps / 1000));
        let second = self
            .second_layer
            .map_or_else(|| "none".to_owned(), |(size, kbps)| format!("{size} at {kbps} kbit/s"));
        format!("{server} | {page} | {second} | {link}")
    }

    /// Whether the pictures fit through the link, so that the goal holds.
    pub(crate) fn has_goal(self) -> bool {
        self.bits_per_second.is_none()
    }

    fn measure(self, site: &BenchSite, program: &Path, joins: u32) -> Result<Option<Vec<Join>>> {
        let Some(watched) = WatchedCast::start(self, site, program)? else { return Ok(None) };
        let browser = Browser::start()?;
        let mut page = browser.open("about:blank")?;
        let mut results = Vec::new();
        for number in 1..=joins {
            let join = watched.join(site, &mut page, number)?;
            eprintln!("{} | {number}/{joins}: {join:?}", self.title());
            results.push(join);
            page.navigate("about:blank")?;
        }
        drop(browser);
        watched.finish()?;
        Ok(Some(results))
    }
}

impl PlaybackResults {
    /// Measures all scenarios whose title contains `filter`.
    pub(crate) fn measure(site: &BenchSite, program: &Path, joins: u32, filter: &str) -> Result<Self> {
        let mut results = Self::default();
        for scenario in SCENARIOS.into_iter().filter(|scenario| scenario.title().contains(filter)) {
            if let Some(joins) = scenario.measure(site, program, joins)? {
                results.0.push((scenario, joins));
            }
        }
        Ok(results)
    }
}

/// A cast to a room, and where viewers find it.
struct WatchedCast {
    process: PagecastProcess,
    /// Query of the viewer page, without the viewer's token.
    query: String,
    livekit: Option<LiveKitServer>,
    _janus: Option<JanusServer>,
    link: Option<(LinkEmulator, u64)>,
}

impl WatchedCast {
    /// Starts the server and the cast; `None` if the server is not on this machine.
    fn start(scenario: Scenario, site: &BenchSite, program: &Path) -> Result<Option<Self>> {
        let url = match scenario.page {
            ShownPage::Bench(page) => site.page_url(page, next_cast_number()),
            ShownPage::Demo => site.demo_url(),
        };
        let mut command = PagecastCommand::cast(program, &url)
            .option("size", format!("{WIDTH}x{HEIGHT}"))
            .option("fps", FPS)
            .option("room", ROOM);
        if let Some((size, kbps)) = scenario.second_layer {
            command = command.option("layer", size).option("room-bitrate", format!("{LARGE_KBPS},{kbps}"));
        }
        let (mut livekit, mut janus, mut link) = (None, None, None);
        match scenario.server {
            RoomServer::Embedded => {
                command = command.option("listen", "127.0.0.1:0");
                if let Some(bps) = scenario.bits_per_second {
                    let media = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
                    let emulator = LinkEmulator::start_for_viewers(media)?;
                    command =
                        command.option("listen-media", media).option("public-address", emulator.address());
                    link = Some((emulator, bps));
                }
            }
            RoomServer::LiveKit => {
                let Some(server) = LiveKitServer::start()? else { return Ok(None) };
                command = command
                    .option("livekit", server.url())
                    .env("LIVEKIT_API_KEY", LiveKitServer::API_KEY)
                    .env("LIVEKIT_API_SECRET", LiveKitServer::API_SECRET);
                livekit = Some(server);
            }
            RoomServer::Janus => {
                let room = janus::Room { id: ROOM.to_owned(), ..janus::Room::default() };
                let server =
                    JanusServer::start(janus::Config { rooms: vec![room], ..janus::Config::default() })?;
                command = command.option("janus", server.ws_url());
                janus = Some(server);
            }
        }
        let mut process = command.start()?;
        let query = match (&livekit, &janus) {
            (Some(server), _) => format!("server=livekit&url={}", server.url()),
            (None, Some(server)) => format!("server=janus&room={ROOM}&url={}", server.ws_url()),
            (None, None) => format!("server=whep&url={}/whep", process.wait_for_room(START_TIMEOUT)?),
        };
        let is_live = |cast: &PagecastProcess| cast.stderr_so_far().contains("page live");
        process.wait_until("the page is live", START_TIMEOUT, is_live)?;
        std::thread::sleep(WARM_UP);
        Ok(Some(Self { process, query, livekit, _janus: janus, link }))
    }

    /// Lets a viewer join and measure its first 20 s.
    fn join(&self, site: &BenchSite, page: &mut Page, number: u32) -> Result<Join> {
        if let Some((link, bps)) = &self.link {
            link.set_conditions(LinkConditions { bits_per_second: Some(*bps), ..LinkConditions::default() });
        }
        let token = match &self.livekit {
            Some(server) => format!("&token={}", server.viewer_token(ROOM, &format!("viewer-{number}"))?),
            None => String::new(),
        };
        page.navigate(&site.watch_url(&format!("{}{token}", self.query)))?;
        let measured = page.wait_until(
            "20 s of pictures",
            JOIN_TIMEOUT,
            "(measured.done || measured.error) && measured",
        )?;
        ensure!(measured["error"].is_null(), "the viewer failed: {}", measured["error"]);
        let gap = measured["worst_gap_ms"].as_f64();
        Ok(Join {
            first_picture_ms: measured["joined_ms"].as_f64(),
            worst_gap_ms: gap.with_context(|| format!("no gap in {measured}"))?,
            worst_added_ms: measured["worst_added_ms"].as_f64().unwrap_or(0.0),
            pictures: measured["pictures"].as_u64().unwrap_or(0),
        })
    }

    fn finish(self) -> Result<()> {
        self.process.signal(Signal::INT)?;
        self.process.finish(START_TIMEOUT)?.expect_code(0)?;
        drop((self.livekit, self._janus));
        kill_descendants()
    }
}
