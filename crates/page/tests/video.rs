//! Detection of videos that are larger than the page may play.

#[path = "live/browser_fixture.rs"]
mod browser_fixture;

use std::time::Duration;

use anyhow::{Result, ensure};
use browser_fixture::BrowserFixture;
use pagecast_core::spec::{ReadySignal, Size};
use pagecast_page::browser::PagePolicy;

const TIMEOUT: Duration = Duration::from_secs(20);
/// Long enough for a video to be reported.
const OBSERVATION_TIME: Duration = Duration::from_secs(2);

/// A page that can play videos of any size.
const PLAYER: &str = r#"<body>A player<script>
    function play(parent, width, height) {
        const canvas = Object.assign(document.createElement("canvas"), { width, height });
        const context = canvas.getContext("2d");
        setInterval(() => context.fillRect(Math.random() * width, 0, 9, 9), 50);
        const video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
        parent.append(video);
        video.srcObject = canvas.captureStream();
        return new Promise((resolve) => { video.onplaying = () => resolve(video.videoWidth); });
    }
    function shadow() {
        const host = document.body.appendChild(document.createElement("div"));
        return host.attachShadow({ mode: "closed" });
    }
    function inFrame(width, height) {
        const frame = document.createElement("iframe");
        // Another origin, so in its own process.
        const html = `<body><script>${play}; play(document.body, ${width}, ${height})<\/script>`;
        frame.src = "data:text/html," + encodeURIComponent(html);
        document.body.append(frame);
    }
</script>"#;

fn open(max_video: Option<Size>) -> Result<BrowserFixture> {
    BrowserFixture::open_with_policy(
        PagePolicy { max_video_size: max_video, ..PagePolicy::default() },
        PLAYER,
    )
}

#[test]
fn a_large_video_is_detected_wherever_it_is() -> Result<()> {
    for expression in [
        "play(document.body, 1284, 720).then(() => true)",
        "play(document.body, 726, 900).then(() => true)",
        "play(shadow(), 1284, 720).then(() => true)",
        "inFrame(1284, 720)",
    ] {
        let live = open(Some(Size::HD))?;
        live.evaluate(expression)?;
        let state = live.page.browser()?.wait_until(TIMEOUT, |state| state.oversized_video.is_some())?;
        ensure!(matches!(state.oversized_video, Some((1284 | 726, 720 | 900))), "{expression}: {state:?}");
    }
    Ok(())
}

#[test]
fn smaller_videos_are_not_reported() -> Result<()> {
    for (limit, expression) in [
        (
            Some(Size::HD),
            "Promise.all([play(document.body, 1280, 720), play(shadow(), 720, 1280)]).then(() => true)",
        ),
        (None, "play(document.body, 1284, 720).then(() => true)"),
    ] {
        let live = open(limit)?;
        ensure!(live.evaluate(expression)? == true, "the video does not play");
        let state =
            live.page.browser()?.wait_until(OBSERVATION_TIME, |state| state.oversized_video.is_some())?;
        ensure!(state.oversized_video.is_none(), "{expression}: {state:?}");
    }
    Ok(())
}

#[test]
fn a_page_finds_only_the_agreed_functions() -> Result<()> {
    let policy =
        PagePolicy { signal: ReadySignal::Webcast, max_video_size: Some(Size::HD), ..PagePolicy::default() };
    // The page may use the names that our own scripts use.
    let names = "const report = 1, value = 2, watch = 3, check = 4, FUNCTIONS = 5, BINDING = 6, \
                 functions = 7, binding = 8;";
    let live = BrowserFixture::open_with_policy(
        policy,
        &format!("<body>A page<script>{names}; window.fine = report + binding;</script>"),
    )?;
    ensure!(live.evaluate("window.fine")? == 9, "our scripts occupy its names");
    let ours = "Object.keys(window).filter((name) => name.includes('pagecast')).join()";
    ensure!(live.evaluate(ours)? == "", "{}", live.evaluate(ours)?);
    let types = "typeof onWebcastStart + typeof onWebcastEnd + typeof notifyReady";
    ensure!(live.evaluate(types)? == "functionfunctionundefined", "{}", live.evaluate(types)?);
    live.evaluate("onWebcastStart()")?;
    let state = live.page.browser()?.wait_until(TIMEOUT, |state| state.signalled_ready)?;
    ensure!(state.signalled_ready && !state.signalled_end, "{state:?}");
    Ok(())
}
