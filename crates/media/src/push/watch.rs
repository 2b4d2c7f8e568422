//! How long a target may keep its thread: asked by libavformat about ten times a second while it waits for the network.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

const NEVER: i64 = i64::MAX;

/// The deadlines of one thread.
#[derive(Debug)]
pub(super) struct Watch {
    base: Instant,
    /// When what the thread does now has taken too long, in nanoseconds since `base`.
    due: AtomicI64,
    /// When the thread must have ended, once it shall.
    stop_by: AtomicI64,
    /// There is nothing to put in order: to stop is to stop at once.
    at_once: AtomicBool,
}

impl Watch {
    pub(super) fn new() -> Self {
        let (due, stop_by) = (AtomicI64::new(NEVER), AtomicI64::new(NEVER));
        Self { base: Instant::now(), due, stop_by, at_once: AtomicBool::new(true) }
    }

    /// A connection is made, for so long.
    pub(super) fn connecting(&self, limit: Duration) {
        self.at_once.store(true, Ordering::Release);
        self.allow(limit);
    }

    /// There is a connection, and the next thing takes so long.
    pub(super) fn connected(&self, limit: Duration) {
        self.at_once.store(false, Ordering::Release);
        self.allow(limit);
    }

    fn allow(&self, limit: Duration) {
        self.due.store(self.now().saturating_add(nanos(limit)), Ordering::Release);
    }

    /// Ends what the thread does; a connection may be put in order for so long.
    pub(super) fn stop(&self, within: Duration) {
        self.stop_by.fetch_min(self.now().saturating_add(nanos(within)), Ordering::AcqRel);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop_by.load(Ordering::Acquire) != NEVER
    }

    /// Whether it took too long.
    pub(super) fn is_late(&self) -> bool {
        self.now() >= self.due.load(Ordering::Acquire)
    }

    fn is_interrupted(&self) -> bool {
        let stop = self.is_stopped()
            && (self.at_once.load(Ordering::Acquire) || self.now() >= self.stop_by.load(Ordering::Acquire));
        stop || self.is_late()
    }

    fn now(&self) -> i64 {
        nanos(self.base.elapsed())
    }

    /// What to hand to [`interrupt`]: valid as long as the watch is.
    pub(super) fn as_opaque(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(NEVER)
}

/// What libavformat calls: other than 0 ends what it waits for.
///
/// # Safety
/// `opaque` comes from [`Watch::as_opaque`] of a watch that still is.
#[expect(unsafe_code, reason = "called by libavformat")]
pub(super) unsafe extern "C" fn interrupt(opaque: *mut c_void) -> c_int {
    // SAFETY: the caller's promise; a watch is only read, and made of atomics.
    let watch = unsafe { &*opaque.cast::<Watch>() };
    c_int::from(watch.is_interrupted())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_connection_is_put_in_order_an_attempt_is_not() {
        let watch = Watch::new();
        watch.connecting(LONG);
        assert!(!watch.is_interrupted() && !watch.is_stopped());
        watch.stop(LONG);
        assert!(watch.is_interrupted() && watch.is_stopped() && !watch.is_late());
        watch.connected(LONG);
        assert!(!watch.is_interrupted());
        watch.stop(Duration::ZERO);
        assert!(watch.is_interrupted(), "the earlier moment counts");
    }

    #[test]
    fn what_takes_too_long_ends() {
        let watch = Watch::new();
        watch.connected(Duration::ZERO);
        assert!(watch.is_interrupted() && watch.is_late());
        watch.connected(LONG);
        assert!(!watch.is_interrupted());
    }
}
