//! A viewer watches through one node while others die.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::fleet::{NodeConfig, TAKE_OVER_TIMEOUT, TIMEOUT};
use pagecast_testkit::{Browser, FleetConfig, MachineLock, Page, Signal, TestFleet};
use serde_json::json;

use crate::PAGECAST;

/// Counts the frames that the viewer page shows, and keeps the longest time without one, in milliseconds. The
/// page keeps its video element for all its connections.
const COUNT_FRAMES: &str = "
    window.shown = { frames: 0, last: performance.now(), longestGap: 0 };
    const video = document.getElementById('video');
    video.requestVideoFrameCallback(function count(now) {
        shown.frames += 1;
        shown.longestGap = Math.max(shown.longestGap, now - shown.last);
        shown.last = now;
        video.requestVideoFrameCallback(count);
    });
    true";

/// The page of a room in a browser.
struct Viewer {
    page: Page,
    _browser: Browser,
}

impl Viewer {
    fn open(url: &str) -> Result<Self> {
        let browser = Browser::start()?;
        let mut page = browser.open(url)?;
        page.evaluate(COUNT_FRAMES)?;
        let mut viewer = Self { page, _browser: browser };
        viewer.wait_for_frames(TIMEOUT)?;
        Ok(viewer)
    }

    /// Waits until the page shows 20 more frames.
    fn wait_for_frames(&mut self, limit: Duration) -> Result<()> {
        let before = self.page.evaluate("shown.frames")?;
        let more = format!("viewer.state === 'playing' && shown.frames > {before} + 20");
        self.page.wait_until("more frames are shown", limit, &more).map(drop)
    }

    /// Kills a node and waits until the cast is live on another one and the page shows it. Returns the
    /// longest time without a frame, in seconds.
    fn outlive(&mut self, fleet: &mut TestFleet, victim: usize, heir: usize, id: &str) -> Result<f64> {
        self.page.evaluate("shown.longestGap = 0")?;
        fleet.kill_node(victim)?;
        let heir = format!("n{heir}");
        fleet.nodes[2].wait_until_cast(id, "it is live elsewhere", TAKE_OVER_TIMEOUT, |cast| {
            cast["node"] == heir.as_str() && cast["state"] == "live"
        })?;
        self.wait_for_frames(TAKE_OVER_TIMEOUT)?;
        let gap = self.page.evaluate("shown.longestGap")?.as_f64().context("no gap")? / 1000.0;
        ensure!(gap < TAKE_OVER_TIMEOUT.as_secs_f64(), "{gap:.1} s without a frame");
        Ok(gap)
    }
}

#[test]
fn a_viewer_sees_the_page_again_when_a_node_dies() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let with_roles =
        |roles: &str| NodeConfig { fleet_toml: format!("roles = {roles}\n"), ..NodeConfig::default() };
    let nodes = vec![
        with_roles(r#"["api", "worker"]"#),
        with_roles(r#"["api", "worker", "rooms"]"#),
        with_roles(r#"["api"]"#),
    ];
    let mut fleet = TestFleet::start(PAGECAST, &FleetConfig { nodes, ..FleetConfig::of_nodes(0) })?;
    let request = json!({
        "url": fleet.page.url("counter.html"), "width": 640, "height": 360, "fps": 15,
        "room": { "room": "lecture", "user": "page" },
    });
    // The cast starts on the first node, because the second one is paused. The room is on the second one,
    // because no other carries rooms.
    fleet.nodes[1].signal(Signal::STOP)?;
    let id = fleet.create_cast(2, &request)?;
    fleet.nodes[2].wait_until_cast(&id, "it is claimed", TIMEOUT, |cast| cast["node"] == "n0")?;
    fleet.nodes[1].signal(Signal::CONT)?;
    let cast = fleet.nodes[2].wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    let watch = cast["room"]["watch_url"].as_str().with_context(|| format!("no room in {cast:#}"))?;
    ensure!(watch.starts_with(&fleet.nodes[2].url("/rooms/")), "{watch}");
    let mut viewer = Viewer::open(watch)?;

    let gap = viewer.outlive(&mut fleet, 0, 1, &id)?;
    println!("{gap:.1} s without a frame after the death of the cast's node");

    // The first node comes back and carries rooms, too. Now the second one has the cast and the room.
    fleet.nodes[0].environment = vec![("PAGECAST__FLEET__ROLES", r#"["api", "worker", "rooms"]"#.to_owned())];
    fleet.nodes[0].restart()?;
    let gap = viewer.outlive(&mut fleet, 1, 0, &id)?;
    println!("{gap:.1} s without a frame after the death of the node with cast and room");
    let attempts = viewer.page.evaluate("viewer.attempts")?;
    ensure!(attempts.as_u64() > Some(1), "the viewer connected {attempts} times");
    fleet.stop_cast(2, &id)?;
    fleet.wait_for_callbacks(
        &id,
        &["queued", "started", "live", "lost-node", "resumed", "lost-node", "resumed", "ended"],
    )
}
