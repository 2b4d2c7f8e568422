//! A real browser with one page on our display, for tests of both together.

#![allow(dead_code, reason = "each test file needs a part of it")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use pagecast_core::spec::{BrowserContext, NetworkPolicy, NetworkRule, Size, Source, SourceUrl};
use pagecast_core::{Fps, Picture, Samples, Tick};
use pagecast_page::browser::PagePolicy;
use pagecast_page::{Config, Page, clock};
use pagecast_testkit::{MachineLock, PageResponse, PageServer};
use serde_json::{Value, json};

/// How long anything may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A page, and its last picture on the display.
pub(crate) struct BrowserFixture {
    pub(crate) page: Page,
    config: Config,
    ticks: Receiver<Tick>,
    picture: Option<Arc<Picture>>,
    _samples: Receiver<Samples>,
    _server: PageServer,
    _turn: MachineLock,
}

impl BrowserFixture {
    /// Opens a page with this HTML on a display of `size` in pixels, with `scale` pixels per CSS pixel.
    pub(crate) fn open(size: (u32, u32), scale: f64, html: &str) -> Result<Self> {
        Self::open_with_context(BrowserContext::default(), size, scale, html)
    }

    /// Opens a page with a browser context.
    pub(crate) fn open_with_context(
        context: BrowserContext,
        size: (u32, u32),
        scale: f64,
        html: &str,
    ) -> Result<Self> {
        Self::start(PagePolicy::default(), context, size, scale, html)
    }

    /// Opens a page with a policy.
    pub(crate) fn open_with_policy(policy: PagePolicy, html: &str) -> Result<Self> {
        Self::start(policy, BrowserContext::default(), (320, 180), 1.0, html)
    }

    /// Opens a page with a disk limit, in bytes.
    pub(crate) fn open_with_disk(disk_bytes: u64, html: &str) -> Result<Self> {
        Self::start_with(
            disk_bytes,
            PagePolicy::default(),
            BrowserContext::default(),
            ((320, 180), 1.0),
            html,
        )
    }

    /// Starts another browser with the same configuration and an empty page.
    pub(crate) fn start_another_page(&self) -> Result<Page> {
        Ok(Page::start(self.config.clone(), sync_channel(4).0, sync_channel(4).0)?)
    }

    fn start(
        policy: PagePolicy,
        context: BrowserContext,
        size: (u32, u32),
        scale: f64,
        html: &str,
    ) -> Result<Self> {
        Self::start_with(1 << 30, policy, context, (size, scale), html)
    }

    fn start_with(
        disk_bytes: u64,
        policy: PagePolicy,
        context: BrowserContext,
        ((width, height), scale): ((u32, u32), f64),
        html: &str,
    ) -> Result<Self> {
        let turn = MachineLock::shared()?;
        let page = format!("<!doctype html><meta charset=utf-8><title>Live</title>{html}");
        let server = PageServer::start()?.with_route("/", PageResponse::Html(200, page));
        let source = Source {
            // By name, as some interfaces do not work for IP addresses.
            url: SourceUrl::parse(&server.url("/").replace("127.0.0.1", "localhost"))?,
            size: Size::new(width, height)?,
            fps: Fps::new(30).context("30 fps")?,
            scale_factor: scale,
            context,
        };
        let (ticks_in, ticks) = sync_channel(4);
        let (samples_in, samples) = sync_channel(4);
        let allow = ["127.0.0.0/8", "[::1]"].into_iter().map(NetworkRule::parse).collect::<Result<_, _>>()?;
        let network = NetworkPolicy { allow, ..NetworkPolicy::default() };
        let config = Config { source: source.clone(), policy, network, max_disk_bytes: disk_bytes };
        let page = Page::start(config.clone(), ticks_in, samples_in)?;
        open_page(&page, &source.url)?;
        page.browser()?.wait_until(TIMEOUT, |state| state.painted)?;
        page.start_capture();
        Ok(Self { page, config, ticks, picture: None, _samples: samples, _server: server, _turn: turn })
    }

    /// Evaluates JavaScript as if a person had just clicked, and awaits a returned promise.
    pub(crate) fn evaluate(&self, expression: &str) -> Result<Value> {
        let params = json!({
            "expression": expression,
            "returnByValue": true,
            "awaitPromise": true,
            "userGesture": true,
        });
        let answer = self.page.browser()?.call("Runtime.evaluate", params)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until `holds` is true for the picture.
    pub(crate) fn wait_for_picture(
        &mut self,
        expected: &str,
        holds: impl Fn(&Picture) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if self.picture.as_deref().is_some_and(&holds) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the picture never shows {expected}; at its corners: {:x?}", self.corners());
            }
            self.receive_tick()?;
        }
    }

    /// Checks that `holds` stays true for the picture during `time`.
    pub(crate) fn assert_picture_stays(
        &mut self,
        time: Duration,
        expected: &str,
        holds: impl Fn(&Picture) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.receive_tick()?;
            if !self.picture.as_deref().is_some_and(&holds) {
                bail!("the picture shows more than {expected}; at its corners: {:x?}", self.corners());
            }
        }
        Ok(())
    }

    fn receive_tick(&mut self) -> Result<()> {
        let tick = self.ticks.recv_timeout(TIMEOUT).context("no more ticks")?;
        if let Some(frame) = tick.frame {
            self.picture = Some(frame.picture);
        }
        Ok(())
    }

    fn corners(&self) -> Option<[u32; 4]> {
        let picture = self.picture.as_deref()?;
        let (right, bottom) = (picture.width() - 1, picture.height() - 1);
        Some([(0, 0), (right, 0), (0, bottom), (right, bottom)].map(|(x, y)| rgb(picture, x, y)))
    }
}

/// Unparks a thread when it is woken.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Opens a URL and waits until its server has answered.
fn open_page(page: &Page, url: &SourceUrl) -> Result<()> {
    page.set_waker(&Arc::new(Unpark(thread::current())).into());
    let browser = page.browser()?;
    let mut load = browser.open(url);
    loop {
        if let Some(opened) = load.poll(browser) {
            return Ok(opened?);
        }
        thread::park_timeout(load.deadline().since(clock::now()));
    }
}

/// A pixel as 0xRRGGBB.
pub(crate) fn rgb(picture: &Picture, x: u32, y: u32) -> u32 {
    let at = y as usize * picture.stride() + x as usize * 4;
    let bgrx = &picture.bgrx()[at..at + 4];
    u32::from_le_bytes([bgrx[0], bgrx[1], bgrx[2], 0])
}

/// Number of pixels within `x0,y0 .. x1,y1` whose colour is not `colour`.
pub(crate) fn count_other_pixels(
    picture: &Picture,
    (x0, y0, x1, y1): (u32, u32, u32, u32),
    colour: u32,
) -> usize {
    (y0..y1)
        .flat_map(|y| (x0..x1).map(move |x| (x, y)))
        .filter(|(x, y)| rgb(picture, *x, *y) != colour)
        .count()
}

/// Whether every pixel has this colour.
pub(crate) fn is_uniform(picture: &Picture, colour: u32) -> bool {
    count_other_pixels(picture, (0, 0, picture.width(), picture.height()), colour) == 0
}
