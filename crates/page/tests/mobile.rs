//! Emulated phones and tablets: what a page detects, and that each of its pixels is one pixel of the picture.

#[path = "live/browser_fixture.rs"]
mod browser_fixture;

use anyhow::{Result, ensure};
use pagecast_core::Picture;
use pagecast_core::spec::{BrowserContext, Device, Mobile, Orientation};
use serde_json::json;

use browser_fixture::{BrowserFixture, count_other_pixels, rgb};

const HD: (u32, u32) = (1280, 720);
const BLACK: u32 = 0;
const WHITE: u32 = 0xff_ffff;
const RED: u32 = 0xff_0000;
const TEAL: u32 = 0x0f_766e;

/// A page whose viewport is a canvas with a checkerboard of single black and white pixels.
const CHECKERBOARD: &str = "<meta name=viewport content='width=device-width'><style>body { margin: 0 }
    canvas { position: fixed; inset: 0; width: 100%; height: 100% }</style><canvas id=c></canvas><script>
    new ResizeObserver(([seen]) => {
      const {inlineSize: w, blockSize: h} = seen.devicePixelContentBoxSize[0];
      c.width = w, c.height = h;
      const context = c.getContext('2d'), data = context.createImageData(w, h);
      for (let y = 0; y < h; y++) for (let x = 0; x < w; x++)
        data.data.set((x + y) % 2 ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * (y * w + x));
      context.putImageData(data, 0, 0);
    }).observe(c, {box: 'device-pixel-content-box'})</script>";

fn device_context(device: Device, orientation: Orientation) -> BrowserContext {
    BrowserContext { mobile: Some(Mobile { device, orientation }), ..BrowserContext::default() }
}

/// Whether the picture is a checkerboard of pixels in `x0,y0 .. x1,y1`, and black outside of it.
fn is_checkerboard(p: &Picture, (x0, y0, x1, y1): (u32, u32, u32, u32)) -> bool {
    let inside = |x, y| (x0..x1).contains(&x) && (y0..y1).contains(&y);
    let expected = |x, y| {
        if inside(x, y) && (x - x0 + y - y0) % 2 == 1 { WHITE } else { BLACK }
    };
    (0..p.height()).all(|y| (0..p.width()).all(|x| rgb(p, x, y) == expected(x, y)))
}

#[test]
fn every_pixel_of_the_device_is_one_pixel_of_the_picture() -> Result<()> {
    use Device::{Phone, Tablet};
    use Orientation::{Landscape, Portrait};
    for (size, device, orientation, area) in [
        (HD, Phone, Portrait, (474, 1, 806, 719)),
        (HD, Tablet, Landscape, (123, 1, 1156, 719)),
        ((720, 1280), Phone, Portrait, (65, 3, 654, 1277)),
        ((720, 1280), Phone, Landscape, (1, 474, 719, 806)),
        ((1170, 2532), Phone, Portrait, (0, 0, 1170, 2532)),
    ] {
        let mut live =
            BrowserFixture::open_with_context(device_context(device, orientation), size, 1.0, CHECKERBOARD)?;
        live.wait_for_picture(&format!("{device:?} {orientation:?} on {size:?}"), |p| {
            is_checkerboard(p, area)
        })?;
    }
    Ok(())
}

#[test]
fn a_page_detects_the_device() -> Result<()> {
    for (device, orientation, size, kind) in [
        (Device::Phone, Orientation::Portrait, (390, 844), "portrait-primary"),
        (Device::Tablet, Orientation::Landscape, (1180, 820), "landscape-primary"),
    ] {
        let live =
            BrowserFixture::open_with_context(device_context(device, orientation), HD, 1.0, CHECKERBOARD)?;
        let phone = device == Device::Phone;
        for (expression, expected) in [
            ("[innerWidth, innerHeight]", json!([size.0, size.1])),
            ("[screen.width, screen.height]", json!([size.0, size.1])),
            ("screen.orientation.type", json!(kind)),
            ("navigator.maxTouchPoints", json!(5)),
            ("'ontouchstart' in window", json!(true)),
            ("matchMedia('(pointer: coarse) and (hover: none)').matches", json!(true)),
            ("/Android .* Chrome\\/\\d+\\.0\\.0\\.0 /.test(navigator.userAgent)", json!(true)),
            ("/ Mobile /.test(navigator.userAgent)", json!(phone)),
            ("navigator.userAgentData.mobile", json!(phone)),
            ("navigator.userAgentData.platform", json!("Android")),
        ] {
            let value = live.evaluate(expression)?;
            ensure!(value == expected, "{device:?}: {expression} is {value} instead of {expected}");
        }
    }
    Ok(())
}

#[test]
fn a_page_without_a_viewport_is_980_pixels_wide() -> Result<()> {
    let live = BrowserFixture::open_with_context(
        device_context(Device::Phone, Orientation::Portrait),
        HD,
        1.0,
        "<p>No viewport",
    )?;
    let width = live.evaluate("document.documentElement.clientWidth")?;
    ensure!(width == 980, "without a viewport of its own the page is {width} wide");
    Ok(())
}

#[test]
fn an_open_select_is_in_place() -> Result<()> {
    let html = format!(
        "<meta name=viewport content='width=device-width'><style>html {{ background: #0f766e; height: 100% }}
        body {{ margin: 0 }}</style><select id=s style='position:absolute; left:40px; top:80px; width:300px;
        font-size:20px'>{}</select>",
        "<option style='background:#ff0000'>One of many</option>".repeat(8)
    );
    let mut live = BrowserFixture::open_with_context(
        device_context(Device::Phone, Orientation::Portrait),
        HD,
        1.0,
        &html,
    )?;
    // 474 + 0.85 * 40, and so on.
    let below = (520, 110, 750, 230);
    live.wait_for_picture("a closed list", |p| {
        count_other_pixels(p, below, TEAL) == 0 && rgb(p, 520, 80) != TEAL
    })?;
    live.evaluate("s.showPicker()")?;
    live.wait_for_picture("the options", |p| count_other_pixels(p, below, RED) < 230 * 120 / 3)?;
    live.wait_for_picture("nothing beside the device", |p| {
        count_other_pixels(p, (0, 0, 474, 720), BLACK) == 0
    })
}
