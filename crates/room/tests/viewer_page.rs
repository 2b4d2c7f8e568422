//! Tests the viewer page in Chromium: a test page publishes with WHIP, and the viewer page shows it.

#[path = "peers/http.rs"]
mod http;
#[path = "peers/peer.rs"]
#[expect(dead_code, reason = "for other tests, too")]
mod peer;

use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_room::embedded::{Config, Server};
use pagecast_testkit::{Browser, MachineLock, Page, PageResponse};
use peer::{Peer, SessionRequest};

const TIMEOUT: Duration = Duration::from_secs(60);
/// A page that publishes a counter and a tone, in two layers.
const PUBLISH_HTML: &str = include_str!("viewer_page/publish.html");

struct Fixture {
    server: Server,
    pages: pagecast_testkit::PageServer,
    browser: Browser,
    _lock: MachineLock,
}

impl Fixture {
    fn new() -> Result<Self> {
        let lock = MachineLock::shared()?;
        let server = Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?;
        let pages = pagecast_testkit::PageServer::start()?
            .with_route("/publish", PageResponse::Html(200, PUBLISH_HTML.to_owned()));
        Ok(Self { server, pages, browser: Browser::start()?, _lock: lock })
    }

    fn publish(&self, codec: &str) -> Result<Page> {
        let to = format!("http://{}/rooms/demo/whip?user=page", self.server.http_addr());
        let mut page = self.browser.open(&self.pages.url(&format!("/publish?codec={codec}&to={to}")))?;
        page.wait_until("the publisher to connect", TIMEOUT, "window.state === 'connected'")?;
        Ok(page)
    }

    fn watch(&self, query: &str) -> Result<Page> {
        self.browser.open(&format!("http://{}/rooms/demo{query}", self.server.http_addr()))
    }
}

/// Waits until 20 more frames are shown and the condition holds.
fn wait_until_playing(page: &mut Page, what: &str, condition: &str) -> Result<()> {
    let before = page.evaluate("viewer.stats.frames || 0")?;
    let expression =
        format!("viewer.state === 'playing' && viewer.stats.frames > {before} + 20 && ({condition})");
    page.wait_until(what, TIMEOUT, &expression).map(drop)
}

#[test]
fn a_page_is_watched_on_the_rooms_page() -> Result<()> {
    for codec in ["H264", "VP8"] {
        let fixture = Fixture::new()?;
        let mut viewer = fixture.watch("")?;
        viewer.wait_until("the waiting state", TIMEOUT, "viewer.state === 'waiting'")?;
        let _publisher = fixture.publish(codec)?;
        wait_until_playing(&mut viewer, "frames", &format!("viewer.stats.codec === '{codec}'"))?;
        viewer.evaluate("document.getElementById('sound').click()")?;
        wait_until_playing(
            &mut viewer,
            "audio",
            "viewer.stats.level > 0.001 && !document.getElementById('video').muted",
        )?;
        // The counter that the publisher draws advances in the shown frames.
        let read = "(() => {
            const v = document.getElementById('video'), c = document.createElement('canvas');
            c.width = 16; c.height = 1;
            const g = c.getContext('2d');
            g.drawImage(v, 0, 0, v.videoWidth, v.videoHeight * 0.1, 0, 0, 16, 1);
            const red = [...g.getImageData(0, 0, 16, 1).data].filter((_, i) => i % 4 === 0);
            return red.reduce((n, x) => n * 2 + (x > 127), 0);
        })()";
        let first = viewer.evaluate(read)?.as_u64().unwrap_or(0);
        let later = viewer.wait_until(
            "the counter to advance",
            TIMEOUT,
            &format!("(() => {{ const n = {read}; return n !== {first} && n; }})()"),
        )?;
        let ahead = (later.as_u64().unwrap_or(0) + 65_536 - first) % 65_536;
        ensure!((1..10_000).contains(&ahead), "the counter goes from {first} to {later}");
        viewer.wait_until("two layers", TIMEOUT, "viewer.layers && viewer.layers.layers.length === 2")?;
        viewer.evaluate("document.querySelector('[data-layer=m]').click()")?;
        wait_until_playing(
            &mut viewer,
            "the small layer",
            "viewer.stats.width <= 640 && viewer.layers.requested_layer === 'm'",
        )?;
        viewer.evaluate("document.querySelector('[data-layer=h]').click()")?;
        wait_until_playing(&mut viewer, "the large layer", "viewer.stats.width > 640")?;
        viewer.navigate(&format!("http://{}/rooms/demo", fixture.server.http_addr()))?;
        wait_until_playing(&mut viewer, "frames after a reload", "true")?;
        // The page ended its previous session.
        viewer.wait_until("one viewer", TIMEOUT, "viewer.viewers === 1")?;
    }
    Ok(())
}

#[test]
fn the_page_reconnects() -> Result<()> {
    let fixture = Fixture::new()?;
    let publisher = fixture.publish("VP8")?;
    let mut viewer = fixture.watch("")?;
    wait_until_playing(&mut viewer, "frames", "true")?;
    let (http, media) = (fixture.server.http_addr(), fixture.server.media_addr());
    let Fixture { server, pages, browser, _lock } = fixture;
    server.stop();
    viewer.wait_until("the reconnecting state", TIMEOUT, "viewer.state === 'reconnecting'")?;
    let server = Server::start(Config { http, media, ..Config::default() })?;
    drop(publisher);
    let fixture = Fixture { server, pages, browser, _lock };
    let _publisher = fixture.publish("VP8")?;
    wait_until_playing(&mut viewer, "frames again", "true")?;
    // A publisher other than this browser works, too.
    let _other = Peer::publish(fixture.server.http_addr(), &SessionRequest::room("demo").user("page"))?;
    viewer.wait_until(
        "frames of the other publisher",
        TIMEOUT,
        "viewer.stats.codec === 'H264' || viewer.layers.layers.some(l => l.rid === 'h')",
    )?;
    Ok(())
}
