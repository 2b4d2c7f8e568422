//! What must be known of Chromium so that its pictures and its sound agree in the recording.
//!
//! A picture belongs to the tick on which the page began to draw it; what it drew in `requestAnimationFrame` is then exactly
//! as old as its time stamp says. How many ticks lie between that and the commit is Chromium's own affair: it keeps the
//! same [`RenderLatency`] for minutes and changes it when the page was too busy for once. Nothing in the commits tells, so
//! [`probe`] asks the browser now and then.

mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pagecast_core::Fps;

pub(crate) use probe::LatencyProbe;

/// What Chromium settles on unless it was disturbed.
const DEFAULT_LATENCY_TICKS: u8 = 1;
/// A page deeper than this cannot draw every tick, and has no depth.
const MAX_LATENCY_TICKS: u8 = 3;

/// Ticks from the moment when the page begins to draw until the slot in which it commits. Shared by all who must know.
#[derive(Debug, Clone)]
pub struct RenderLatency(Arc<AtomicU8>);

impl Default for RenderLatency {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(DEFAULT_LATENCY_TICKS)))
    }
}

impl RenderLatency {
    /// What was known was of another browser.
    pub(crate) fn reset(&self) {
        self.set_ticks(DEFAULT_LATENCY_TICKS);
    }

    /// As far as is known now: 0 to 3.
    #[must_use]
    pub fn ticks(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// From now on; what is too much to be true is cut.
    pub fn set_ticks(&self, ticks: u8) {
        self.0.store(ticks.min(MAX_LATENCY_TICKS), Ordering::Relaxed);
    }
}

/// How much later than it is a media element must believe that it is heard, so that its pictures fit.
///
/// Chromium chooses a video's picture for the tick after the one on which it composes it, and commits it in that tick's
/// slot, whatever the page around it does.
#[derive(Debug, Clone, Default)]
pub struct MediaElementDelay(Option<(RenderLatency, Duration)>);

impl MediaElementDelay {
    /// For pages at this rate whose pictures are dated by `depth`.
    #[must_use]
    pub fn new(depth: &RenderLatency, fps: Fps) -> Self {
        Self(Some((depth.clone(), fps.interval())))
    }

    /// As of now; none by default.
    #[must_use]
    pub fn get(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |(depth, interval)| *interval * (u32::from(depth.ticks()) + 1))
    }
}
