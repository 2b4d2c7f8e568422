//! The embedded room with real Chromium: a page publishes by WHIP, and the room's own page shows it.

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
/// Publishes a counter and a tone, in two layers.
const PUBLISH_HTML: &str = include_str!("viewer/publish.html");

struct Fixture {
    server: Server,
    pages: pagecast_testkit::PageServer,
    browser: Browser,
    _turn: MachineLock,
}

impl Fixture {
    fn new() -> Result<Self> {
        let turn = MachineLock::shared()?;
        let server = Server::start(Config { http: "127.0.0.1:0".parse()?, ..Config::default() })?;
        let pages = pagecast_testkit::PageServer::start()?
            .with_route("/publish", PageResponse::Html(200, PUBLISH_HTML.to_owned()));
        Ok(Self { server, pages, browser: Browser::start()?, _turn: turn })
    }

    fn publish(&self, codec: &str) -> Result<Page> {
        let to = format!("http://{}/rooms/demo/whip?user=page", self.server.http_addr());
        let mut page = self.browser.open(&self.pages.url(&format!("/publish?codec={codec}&to={to}")))?;
        page.wait_until("it publishes", TIMEOUT, "window.state === 'connected'")?;
        Ok(page)
    }

    fn watch(&self, query: &str) -> Result<Page> {
        self.browser.open(&format!("http://{}/rooms/demo{query}", self.server.http_addr()))
    }
}

/// Waits until pictures go on, and what they are.
fn wait_until_playing(page: &mut Page, what: &str, condition: &str) -> Result<()> {
    let before = page.evaluate("viewer.stats.frames || 0")?;
    let more = format!("viewer.state === 'playing' && viewer.stats.frames > {before} + 20 && ({condition})");
    page.wait_until(what, TIMEOUT, &more).map(drop)
}

#[test]
fn a_page_is_watched_on_the_rooms_page() -> Result<()> {
    for codec in ["H264", "VP8"] {
        let rig = Fixture::new()?;
        let mut viewer = rig.watch("")?;
        viewer.wait_until("it waits", TIMEOUT, "viewer.state === 'waiting'")?;
        let _publisher = rig.publish(codec)?;
        wait_until_playing(&mut viewer, "pictures", &format!("viewer.stats.codec === '{codec}'"))?;
        viewer.evaluate("document.getElementById('sound').click()")?;
        wait_until_playing(
            &mut viewer,
            "sound",
            "viewer.stats.level > 0.001 && !document.getElementById('video').muted",
        )?;
        // The counter that the page draws goes on in what is seen.
        let read = "(() => { const v = document.getElementById('video'), c = document.createElement('canvas'); c.width = 16; c.height = 1;
            const g = c.getContext('2d'); g.drawImage(v, 0, 0, v.videoWidth, v.videoHeight * 0.1, 0, 0, 16, 1);
            return [...g.getImageData(0, 0, 16, 1).data].filter((_, i) => i % 4 === 0).reduce((n, x) => n * 2 + (x > 127), 0); })()";
        let first = viewer.evaluate(read)?.as_u64().unwrap_or(0);
        let later = viewer.wait_until(
            "the counter goes on",
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
            "viewer.stats.width <= 640 && viewer.layers.wish === 'm'",
        )?;
        viewer.evaluate("document.querySelector('[data-layer=h]').click()")?;
        wait_until_playing(&mut viewer, "the large layer", "viewer.stats.width > 640")?;
        viewer.navigate(&format!("http://{}/rooms/demo", rig.server.http_addr()))?;
        wait_until_playing(&mut viewer, "pictures after a reload", "true")?;
        // The one from before has said goodbye.
        viewer.wait_until("one viewer", TIMEOUT, "viewer.viewers === 1")?;
    }
    Ok(())
}

#[test]
fn the_page_comes_back_by_itself() -> Result<()> {
    let rig = Fixture::new()?;
    let publisher = rig.publish("VP8")?;
    let mut viewer = rig.watch("")?;
    wait_until_playing(&mut viewer, "pictures", "true")?;
    let (http, media) = (rig.server.http_addr(), rig.server.media_addr());
    let Fixture { server, pages, browser, _turn } = rig;
    server.stop();
    viewer.wait_until("it notices", TIMEOUT, "viewer.state === 'reconnecting'")?;
    let server = Server::start(Config { http, media, ..Config::default() })?;
    drop(publisher);
    let rig = Fixture { server, pages, browser, _turn };
    let _publisher = rig.publish("VP8")?;
    wait_until_playing(&mut viewer, "pictures again", "true")?;
    // Publishers that are not of this browser, too.
    let _other = Peer::publish(rig.server.http_addr(), &SessionRequest::room("demo").user("page"))?;
    viewer.wait_until(
        "another one",
        TIMEOUT,
        "viewer.stats.codec === 'H264' || viewer.layers.layers.some(l => l.rid === 'h')",
    )?;
    Ok(())
}

#[test]
#[ignore = "for people: pictures of the page in /tmp/viewer-*.png"]
fn screenshots() -> Result<()> {
    let rig = Fixture::new()?;
    for (name, width, height, mobile) in [("desktop", 1280, 800, false), ("phone", 390, 844, true)] {
        let mut viewer = rig.watch("")?;
        viewer.emulate_device(width, height, mobile)?;
        viewer.wait_until("it waits", TIMEOUT, "viewer.state === 'waiting'")?;
        std::fs::write(format!("/tmp/viewer-{name}-waiting.png"), viewer.screenshot()?)?;
        let publisher = rig.publish("VP8")?;
        wait_until_playing(&mut viewer, "pictures", "viewer.layers.layers.length === 2")?;
        viewer.evaluate("document.getElementById('more').click(), document.body.classList.remove('idle')")?;
        std::thread::sleep(Duration::from_secs(1));
        std::fs::write(format!("/tmp/viewer-{name}-playing.png"), viewer.screenshot()?)?;
        drop(publisher);
        viewer.navigate(&format!("http://{}/rooms/demo", rig.server.http_addr()))?;
        wait_until_playing(&mut viewer, "pictures", "true")?;
    }
    Ok(())
}
