//! Readiness conditions: visible elements, and an idle network.

#[path = "live/browser_fixture.rs"]
mod browser_fixture;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::task::Wake;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_page::browser::CallError;
use rustix::process::{Pid, Signal, kill_process};

use browser_fixture::BrowserFixture;

const SIZE: (u32, u32) = (400, 300);
/// How long the network may take to become idle.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than twice the half second after which the network counts as idle.
const OBSERVATION_TIME: Duration = Duration::from_millis(1200);

#[test]
fn only_visible_elements_match() -> Result<()> {
    let html = "<p id=shown>x</p><p id=none style='display:none'>x</p>
        <p id=hidden style='visibility:hidden'>x</p><p id=empty></p>
        <div id=contents style='display:contents'></div><div class=two hidden></div><div class=two>x</div>";
    let live = BrowserFixture::open(SIZE, 1.0, html)?;
    for (selector, visible) in [
        ("#shown", true),
        ("p:first-of-type", true),
        (".two", true),
        ("#none", false),
        ("#hidden", false),
        ("#contents", false),
        ("#nowhere", false),
        ("[title='\"\\\\']", false),
    ] {
        ensure!(live.page.browser()?.has_visible_match(selector)? == visible, "{selector} is not {visible}");
    }
    live.evaluate("document.getElementById('none').style.display = ''")?;
    ensure!(live.page.browser()?.has_visible_match("#none")?, "an element that appeared does not match");
    for wrong in ["[[", "", "p:", "\"); alert(\""] {
        match live.page.browser()?.has_visible_match(wrong) {
            Err(CallError::InvalidSelector(selector)) => ensure!(selector == wrong, "{selector}"),
            other => anyhow::bail!("{wrong:?} gives {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_busy_page_times_out() -> Result<()> {
    let live = BrowserFixture::open(SIZE, 1.0, "<p>x")?;
    live.evaluate(
        "setTimeout(() => { const end = performance.now() + 3000; while (performance.now() < end); }, 0), 0",
    )?;
    let answer = live.page.browser()?.has_visible_match("p");
    ensure!(matches!(answer, Err(CallError::Timeout { .. })), "{answer:?}");
    Ok(())
}

#[test]
fn the_network_is_idle_once_nothing_is_loaded() -> Result<()> {
    let silent = TcpListener::bind(("127.0.0.1", 0))?;
    let html = format!("<p>x</p><img src='http://{}/'>", silent.local_addr()?);
    let live = BrowserFixture::open(SIZE, 1.0, &html)?;
    let state = live.page.browser()?.wait_until(OBSERVATION_TIME, |s| s.network_idle)?;
    ensure!(!state.network_idle, "an image is still loading");
    drop(silent);
    let state = live.page.browser()?.wait_until(TIMEOUT, |s| s.network_idle)?;
    ensure!(state.network_idle, "the image failed, but the network is never idle");
    live.evaluate("location.reload()")?;
    let state = live.page.browser()?.wait_until(TIMEOUT, |s| !s.network_idle)?;
    ensure!(!state.network_idle, "a page that reloads counts as idle");
    let state = live.page.browser()?.wait_until(TIMEOUT, |s| s.network_idle)?;
    ensure!(state.network_idle, "after the reload, the network is never idle");
    Ok(())
}

/// Reports each wake-up.
struct Woken(SyncSender<()>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let _pending = self.0.try_send(());
    }
}

#[test]
fn a_signal_of_the_page_and_the_end_of_the_browser_wake() -> Result<()> {
    let live = BrowserFixture::open(SIZE, 1.0, "<p>x")?;
    let browser = live.page.browser()?;
    let (sender, woken) = sync_channel(1);
    live.page.set_waker(&Arc::new(Woken(sender)).into());
    live.evaluate("location.reload()")?;
    woken.recv_timeout(TIMEOUT)?;
    let pid = i32::try_from(browser.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(pid, Signal::KILL)?;
    while !browser.state().closed {
        woken.recv_timeout(TIMEOUT)?;
    }
    Ok(())
}
