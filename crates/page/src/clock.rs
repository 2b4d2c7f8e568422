//! The clock that a cast shares, and the moment when its picture and sound begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pagecast_core::HostTime;
use rustix::time::{ClockId, clock_gettime};

/// Marks an origin that is not set.
const UNSET: i64 = i64::MIN;

/// Reads the monotonic clock of the host, which Wayland presentation times and the sound card use.
#[must_use]
pub fn now() -> HostTime {
    let t = clock_gettime(ClockId::Monotonic);
    HostTime(t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec))
}

/// When the first frame of the cast is shown. The display sets it once, always to a moment in the future; the
/// sound card reads it, so that both count from the same moment. Clones share it.
#[derive(Debug, Clone)]
pub struct Origin(Arc<AtomicI64>);

impl Origin {
    /// An origin that is not set yet.
    #[must_use]
    pub fn unset() -> Self {
        Self(Arc::new(AtomicI64::new(UNSET)))
    }

    /// Sets the origin; later calls change nothing.
    pub fn set(&self, at: HostTime) {
        let _already_set = self.0.compare_exchange(UNSET, at.0, Ordering::Release, Ordering::Relaxed);
    }

    /// The origin; `None` until it is set.
    #[must_use]
    pub fn get(&self) -> Option<HostTime> {
        match self.0.load(Ordering::Acquire) {
            UNSET => None,
            ns => Some(HostTime(ns)),
        }
    }
}

/// Switch that keeps the page out of the outputs: while muted, they repeat the last frame and are silent.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct OutputMute(Arc<AtomicBool>);

impl OutputMute {
    /// Keeps the page out of the outputs from now on.
    pub fn mute(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Lets the page into the outputs from now on, which is also the initial state.
    pub fn unmute(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether the page is kept out of the outputs.
    #[must_use]
    pub fn is_muted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
