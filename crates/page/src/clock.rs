//! The one clock of a cast, and the moment its picture and sound begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pagecast_core::HostTime;
use rustix::time::{ClockId, clock_gettime};

const UNSET: i64 = i64::MIN;

/// The host's monotonic clock, the one Wayland presentation time and the sound card count on.
#[must_use]
pub fn now() -> HostTime {
    let t = clock_gettime(ClockId::Monotonic);
    HostTime(t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec))
}

/// When the first frame of the cast is shown: set once by the display, read by the sound card, so that both count from
/// the same moment. It always lies in the future when it is set.
#[derive(Debug, Clone)]
pub struct Origin(Arc<AtomicI64>);

impl Origin {
    /// Not yet decided.
    #[must_use]
    pub fn unset() -> Self {
        Self(Arc::new(AtomicI64::new(UNSET)))
    }

    /// Decides it; later calls change nothing.
    pub fn set(&self, at: HostTime) {
        // Whoever comes first wins; the loser has nothing to undo.
        let _ignored = self.0.compare_exchange(UNSET, at.0, Ordering::Release, Ordering::Relaxed);
    }

    /// The moment, once decided.
    #[must_use]
    pub fn get(&self) -> Option<HostTime> {
        match self.0.load(Ordering::Acquire) {
            UNSET => None,
            ns => Some(HostTime(ns)),
        }
    }
}

/// Whether what the page shows and plays goes into the outputs. While it is shut, the last picture stays, and silence.
#[derive(Debug, Clone, Default)]
pub struct OutputMute(Arc<AtomicBool>);

impl OutputMute {
    /// Lets nothing through from now on.
    pub fn mute(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Lets everything through from now on; it is open at first.
    pub fn unmute(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether nothing gets through.
    #[must_use]
    pub fn is_muted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
