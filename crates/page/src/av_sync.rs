//! Alignment of picture and sound: measures how long Chromium takes to render.
//!
//! A frame belongs to the tick on which the page began to draw it: then its time stamp matches what
//! `requestAnimationFrame` gave the page. Chromium chooses the number of ticks from there to the commit. It
//! keeps this [`RenderLatency`] for minutes and changes it after the page was too busy once. The commits do
//! not show it, so [`probe`] reads it from the browser's trace from time to time.

mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pagecast_core::Fps;

pub(crate) use probe::LatencyProbe;

/// Render latency of Chromium when nothing has disturbed it, in ticks.
const DEFAULT_LATENCY_TICKS: u8 = 1;
/// Largest render latency that is measured, in ticks. A slower page cannot draw on every tick.
const MAX_LATENCY_TICKS: u8 = 3;

/// Number of ticks from when the page begins to draw a frame until the slot in which it commits it. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct RenderLatency(Arc<AtomicU8>);

impl Default for RenderLatency {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(DEFAULT_LATENCY_TICKS)))
    }
}

impl RenderLatency {
    /// Resets to the default, for a new browser.
    pub(crate) fn reset(&self) {
        self.set_ticks(DEFAULT_LATENCY_TICKS);
    }

    /// The latency measured last, in ticks: 0 to 3.
    #[must_use]
    pub fn ticks(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the latency in ticks; values above 3 are cut to 3.
    pub fn set_ticks(&self, ticks: u8) {
        self.0.store(ticks.min(MAX_LATENCY_TICKS), Ordering::Relaxed);
    }
}

/// Extra sound latency that media elements are told, so that their video matches their sound.
///
/// Chromium chooses the frame of a video for the tick after the one on which it composes the page, and
/// commits it in that tick's slot, regardless of the page around it.
#[derive(Debug, Clone, Default)]
pub struct MediaElementDelay(Option<(RenderLatency, Duration)>);

impl MediaElementDelay {
    /// The delay for pages at `fps` whose frames are dated by `latency`.
    #[must_use]
    pub fn new(latency: &RenderLatency, fps: Fps) -> Self {
        Self(Some((latency.clone(), fps.interval())))
    }

    /// The current delay; zero by default.
    #[must_use]
    pub fn get(&self) -> Duration {
        self.0
            .as_ref()
            .map_or(Duration::ZERO, |(latency, interval)| *interval * (u32::from(latency.ticks()) + 1))
    }
}
