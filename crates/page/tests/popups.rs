//! The picture holds all of the page, popups included, and nothing else.

#[path = "live/browser_fixture.rs"]
mod browser_fixture;

use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_core::Picture;
use serde_json::json;

use browser_fixture::{BrowserFixture, count_other_pixels, is_uniform, rgb};

const HD: (u32, u32) = (1280, 720);
const TEAL: u32 = 0x0f_766e;
const RED: u32 = 0xff_0000;
/// A page of one colour, which no part of the browser's own interface has.
const PLAIN: &str = "<style>html { background: #0f766e; height: 100% } body { margin: 0 }</style><body>";

/// How long the picture must stay unchanged.
const OBSERVATION_TIME: Duration = Duration::from_millis(1500);

/// Moves or clicks the mouse, at a position in CSS pixels.
fn send_mouse_event(live: &BrowserFixture, kind: &str, x: i32, y: i32) -> Result<()> {
    let button = if kind == "mouseMoved" { "none" } else { "left" };
    let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": 1});
    live.page.browser()?.call("Input.dispatchMouseEvent", event)?;
    Ok(())
}

#[test]
fn an_open_select_is_on_top_of_the_page() -> Result<()> {
    let html = format!(
        "{PLAIN}<select id=s style='position:absolute; left:100px; top:100px; width:300px; font-size:20px'>
        {}</select>",
        "<option style='background:#ff0000'>One of many</option>".repeat(8)
    );
    let mut live = BrowserFixture::open(HD, 1.0, &html)?;
    let below = (120, 150, 380, 300);
    live.wait_for_picture("a closed list", |p| {
        count_other_pixels(p, below, TEAL) == 0 && rgb(p, 110, 110) != TEAL
    })?;
    live.evaluate("s.showPicker()")?;
    live.wait_for_picture("the options", |p| count_other_pixels(p, below, RED) < 260 * 150 / 3)?;
    live.evaluate("s.blur()")?;
    send_mouse_event(&live, "mousePressed", 900, 600)?;
    send_mouse_event(&live, "mouseReleased", 900, 600)?;
    live.wait_for_picture("the page again", |p| count_other_pixels(p, below, TEAL) == 0)
}

#[test]
fn a_mouse_that_hovers_has_no_cursor() -> Result<()> {
    let html = format!(
        "{PLAIN}<style>div {{ position:absolute; inset:0; cursor:crosshair }}
        div:hover {{ border-right:100px solid #ff0000 }}</style><div title='What a person would read'></div>"
    );
    let mut live = BrowserFixture::open(HD, 1.0, &html)?;
    live.wait_for_picture("the page", |p| is_uniform(p, TEAL))?;
    send_mouse_event(&live, "mouseMoved", 600, 300)?;
    send_mouse_event(&live, "mouseMoved", 604, 302)?;
    live.wait_for_picture("the hover style", |p| count_other_pixels(p, (1180, 0, 1280, 720), RED) == 0)?;
    live.assert_picture_stays(OBSERVATION_TIME, "the page", |p| {
        count_other_pixels(p, (0, 0, 1180, 720), TEAL) == 0
    })
}

#[test]
fn the_page_detects_focus_and_a_mouse() -> Result<()> {
    let live = BrowserFixture::open(HD, 1.0, PLAIN)?;
    for (expression, expected) in [
        ("document.hasFocus()", true),
        ("document.visibilityState === 'visible'", true),
        ("matchMedia('(hover: hover)').matches", true),
        ("matchMedia('(pointer: fine)').matches", true),
        ("matchMedia('(prefers-reduced-motion: reduce)').matches", false),
    ] {
        ensure!(live.evaluate(expression)? == expected, "{expression} is not {expected}");
    }
    Ok(())
}

/// Whether the picture has a border of one pixel, and only the page within.
fn is_framed(p: &Picture) -> bool {
    let (w, h) = (p.width(), p.height());
    let edges = [(0, 0, w, 1), (0, h - 1, w, h), (0, 0, 1, h), (w - 1, 0, w, h)];
    edges.iter().all(|edge| count_other_pixels(p, *edge, RED) == 0)
        && count_other_pixels(p, (1, 1, w - 1, h - 1), TEAL) == 0
}

/// Checks that the page fills the display exactly.
fn assert_fills_display(size: (u32, u32), scale: f64) -> Result<()> {
    let frame =
        format!("position:fixed; inset:0; border:{}px solid #ff0000; box-sizing:border-box", 1.0 / scale);
    let mut live = BrowserFixture::open(size, scale, &format!("{PLAIN}<div style='{frame}'></div>"))?;
    let css = |side: u32| (f64::from(side) / scale).ceil();
    for (expression, expected) in [
        ("devicePixelRatio", scale),
        ("innerWidth", css(size.0)),
        ("innerHeight", css(size.1)),
        ("screen.width", css(size.0)),
        ("screen.height", css(size.1)),
    ] {
        let value = live.evaluate(expression)?;
        ensure!(
            value.as_f64() == Some(expected),
            "{size:?} at {scale}: {expression} is {value} instead of {expected}"
        );
    }
    live.wait_for_picture(&format!("a whole page of {size:?} at {scale}"), is_framed)
}

#[test]
fn every_size_is_filled_to_its_edges() -> Result<()> {
    for size in [(50, 50), (1080, 1920), (1920, 1080), (3840, 2160)] {
        assert_fills_display(size, 1.0)?;
    }
    Ok(())
}

#[test]
fn every_scale_is_filled_to_its_edges() -> Result<()> {
    for (size, scale) in [(HD, 1.0), (HD, 2.0), ((1920, 1080), 1.5)] {
        assert_fills_display(size, scale)?;
    }
    Ok(())
}
