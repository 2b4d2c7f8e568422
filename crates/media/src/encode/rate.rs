//! Bitrate and frame rate limits of a running video encoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pagecast_core::Fps;

/// Sets the limits of a video encoder from its next tick on.
#[derive(Debug, Clone)]
pub struct RateTarget(Arc<AtomicU64>);

/// Limits of a video encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateLimit {
    /// Bitrate limit in bit/s; 0: the encoder is paused.
    pub(super) bitrate_bps: u32,
    /// Frame rate limit, in frames per second.
    pub(super) fps: u32,
}

impl RateTarget {
    pub(super) fn new(bitrate_bps: u32, fps: Fps) -> Self {
        let rate = Self(Arc::default());
        rate.set(bitrate_bps, fps.get());
        rate
    }

    /// Sets the limits of bitrate, in bit/s, and frame rate, at least 1 fps. A bitrate of 0 pauses the
    /// encoder; it continues with a keyframe when another bitrate is set.
    pub fn set(&self, bitrate_bps: u32, fps: u32) {
        self.0.store(u64::from(bitrate_bps) << 32 | u64::from(fps.max(1)), Ordering::Release);
    }

    /// The limits that were set last.
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
