//! Viewer of an embedded room that notes each picture it shows: when it was shown, and its timecode.
//!
//! Pages with timecodes of the machine's clock (`?absolute`) are expected, so that times of page, viewer and
//! test can be compared.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::browser::{Browser, Page};
use crate::timecode::Timecode;

/// Longest time until the room's page is there.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Notes the time at which each picture was shown, and the 16 bytes of its timecode, as words.
const SCRIPT: &str = r#"(() => {
  const video = document.querySelector("video");
  const small = Object.assign(document.createElement("canvas"), { width: 32, height: 4 });
  const context = small.getContext("2d", { willReadFrequently: true });
  window.shownFrames = [];
  video.requestVideoFrameCallback(function shown(now, { presentationTime }) {
    context.drawImage(video, 0, 0, 256, 32, 0, 0, 32, 4);
    const { data } = context.getImageData(0, 0, 32, 4);
    const bits = Array.from({ length: 128 }, (_, bit) => (data[4 * bit] > 127 ? 1 : 0));
    const words = [0, 32, 64, 96].map((at) => bits.slice(at, at + 32).reduce((all, bit) => all * 2 + bit, 0));
    window.shownFrames.push([performance.timeOrigin + presentationTime, ...words]);
    video.requestVideoFrameCallback(shown);
  });
  return true;
})()"#;

/// A picture that a viewer has shown.
#[derive(Debug, Clone, Copy)]
pub struct ShownFrame {
    /// When it was shown, in milliseconds since 1970.
    pub shown_ms: f64,
    /// Its timecode.
    pub timecode: Timecode,
}

/// A viewer page of a room in a browser; closed when dropped.
#[derive(Debug)]
pub struct RoomViewer {
    page: Page,
    #[expect(dead_code, reason = "is killed when dropped")]
    browser: Browser,
    frames: Vec<ShownFrame>,
}

impl RoomViewer {
    /// Opens the viewer page of a room.
    ///
    /// # Errors
    /// Chromium is missing, or the page cannot be opened.
    pub fn open(watch_url: &str) -> Result<Self> {
        let browser = Browser::start()?;
        let mut page = browser.open(watch_url)?;
        page.wait_until("the room's page is there", OPEN_TIMEOUT, "!!document.querySelector('video')")?;
        page.evaluate(SCRIPT)?;
        Ok(Self { page, browser, frames: Vec::new() })
    }

    /// All pictures with a readable timecode so far, in order.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn frames(&mut self) -> Result<&[ShownFrame]> {
        let new = self.page.evaluate("window.shownFrames.splice(0)")?;
        for frame in new.as_array().context("the page notes no pictures")? {
            let values: Vec<f64> = frame.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            let [shown_ms, words @ ..] = values.as_slice() else { continue };
            let bytes: Vec<u8> = words.iter().flat_map(|word| (*word as u32).to_be_bytes()).collect();
            if let Some(timecode) = Timecode::from_bytes(&bytes) {
                self.frames.push(ShownFrame { shown_ms: *shown_ms, timecode });
            }
        }
        Ok(&self.frames)
    }

    /// Text of the page: what a person reads while there is no picture.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn text(&mut self) -> Result<String> {
        let text = self.page.evaluate("document.body.innerText")?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Screenshot of the page, as PNG.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        self.page.screenshot()
    }
}

/// The machine's clock, in milliseconds since 1970.
#[must_use]
pub fn clock_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}
