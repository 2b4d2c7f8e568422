//! What an encoder may spend, told while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pagecast_core::Fps;

/// Tells a video encoder what it may spend from its next tick on.
#[derive(Debug, Clone)]
pub struct RateTarget(Arc<AtomicU64>);

/// What a video encoder may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateLimit {
    /// Cap on the bitrate in bit/s; 0: nothing is encoded.
    pub(super) bitrate_bps: u32,
    /// Most frames per second.
    pub(super) fps: u32,
}

impl RateTarget {
    pub(super) fn new(bitrate_bps: u32, fps: Fps) -> Self {
        let rate = Self(Arc::default());
        rate.set(bitrate_bps, fps.get());
        rate
    }

    /// Sets the cap on the bitrate, in bit/s, and the most frames per second, at least 1. A cap of 0 pauses the encoder: nothing is
    /// encoded until there is another, and it then begins with a keyframe.
    pub fn set(&self, bitrate_bps: u32, fps: u32) {
        self.0.store(u64::from(bitrate_bps) << 32 | u64::from(fps.max(1)), Ordering::Release);
    }

    /// What was set last.
    pub(super) fn get(&self) -> RateLimit {
        let both = self.0.load(Ordering::Acquire);
        RateLimit { bitrate_bps: (both >> 32) as u32, fps: both as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_values_are_set_at_once() {
        let rate = RateTarget::new(u32::MAX, Fps::DEFAULT);
        assert_eq!(rate.get(), RateLimit { bitrate_bps: u32::MAX, fps: 30 });
        let other = rate.clone();
        other.set(0, 0);
        assert_eq!(rate.get(), RateLimit { bitrate_bps: 0, fps: 1 });
    }
}
