//! What must be known of Chromium so that its pictures and its sound agree in the recording.
//!
//! A picture belongs to the tick on which the page began to draw it; what it drew in `requestAnimationFrame` is then exactly
//! as old as its time stamp says. How many ticks lie between that and the commit is Chromium's own affair: it keeps the
//! same [`Depth`] for minutes and changes it when the page was too busy for once. Nothing in the commits tells, so
//! [`probe`] asks the browser now and then.

mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use pagecast_core::Fps;

pub(crate) use probe::Probe;

/// What Chromium settles on unless it was disturbed.
const USUAL: u8 = 1;
/// A page deeper than this cannot draw every tick, and has no depth.
const DEEPEST: u8 = 3;

/// Ticks from the moment when the page begins to draw until the slot in which it commits. Shared by all who must know.
#[derive(Debug, Clone)]
pub struct Depth(Arc<AtomicU8>);

impl Default for Depth {
    fn default() -> Self {
        Self(Arc::new(AtomicU8::new(USUAL)))
    }
}

impl Depth {
    /// What was known was of another browser.
    pub(crate) fn forget(&self) {
        self.set(USUAL);
    }

    /// As far as is known now: 0 to 3.
    #[must_use]
    pub fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// From now on; what is too much to be true is cut.
    pub fn set(&self, ticks: u8) {
        self.0.store(ticks.min(DEEPEST), Ordering::Relaxed);
    }
}

/// How much later than it is a media element must believe that it is heard, so that its pictures fit.
///
/// Chromium chooses a video's picture for the tick after the one on which it composes it, and commits it in that tick's
/// slot, whatever the page around it does.
#[derive(Debug, Clone, Default)]
pub struct PlayerDelay(Option<(Depth, Duration)>);

impl PlayerDelay {
    /// For pages at this rate whose pictures are dated by `depth`.
    #[must_use]
    pub fn new(depth: &Depth, fps: Fps) -> Self {
        Self(Some((depth.clone(), fps.interval())))
    }

    /// As of now; none by default.
    #[must_use]
    pub fn get(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |(depth, interval)| *interval * (u32::from(depth.get()) + 1))
    }
}
