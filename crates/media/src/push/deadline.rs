//! How long a target may keep its thread: asked by libavformat about ten times a second while it waits for the network.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

const NEVER: i64 = i64::MAX;

/// The deadlines of one thread.
#[derive(Debug)]
pub(super) struct IoDeadline {
    started_at: Instant,
    /// When what the thread does now has taken too long, in nanoseconds since `base`.
    operation_deadline_ns: AtomicI64,
    /// When the thread must have ended, once it shall.
    stop_deadline_ns: AtomicI64,
    /// There is nothing to put in order: to stop is to stop at once.
    stop_immediately: AtomicBool,
}

impl IoDeadline {
    pub(super) fn new() -> Self {
        let (due, stop_by) = (AtomicI64::new(NEVER), AtomicI64::new(NEVER));
        Self {
            started_at: Instant::now(),
            operation_deadline_ns: due,
            stop_deadline_ns: stop_by,
            stop_immediately: AtomicBool::new(true),
        }
    }

    /// A connection is made, for so long.
    pub(super) fn begin_connecting(&self, limit: Duration) {
        self.stop_immediately.store(true, Ordering::Release);
        self.set_deadline(limit);
    }

    /// There is a connection, and the next thing takes so long.
    pub(super) fn begin_operation(&self, limit: Duration) {
        self.stop_immediately.store(false, Ordering::Release);
        self.set_deadline(limit);
    }

    fn set_deadline(&self, limit: Duration) {
        self.operation_deadline_ns
            .store(self.elapsed_ns().saturating_add(duration_ns(limit)), Ordering::Release);
    }

    /// Ends what the thread does; a connection may be put in order for so long.
    pub(super) fn stop(&self, within: Duration) {
        self.stop_deadline_ns
            .fetch_min(self.elapsed_ns().saturating_add(duration_ns(within)), Ordering::AcqRel);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop_deadline_ns.load(Ordering::Acquire) != NEVER
    }

    /// Whether it took too long.
    pub(super) fn is_expired(&self) -> bool {
        self.elapsed_ns() >= self.operation_deadline_ns.load(Ordering::Acquire)
    }

    fn is_interrupted(&self) -> bool {
        let stop = self.is_stopped()
            && (self.stop_immediately.load(Ordering::Acquire)
                || self.elapsed_ns() >= self.stop_deadline_ns.load(Ordering::Acquire));
        stop || self.is_expired()
    }

    fn elapsed_ns(&self) -> i64 {
        duration_ns(self.started_at.elapsed())
    }

    /// What to hand to [`interrupt_callback`]: valid as long as the watch is.
    pub(super) fn as_opaque(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

fn duration_ns(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(NEVER)
}

/// What libavformat calls: other than 0 ends what it waits for.
///
/// # Safety
/// `opaque` comes from [`Watch::as_opaque`] of a watch that still is.
#[expect(unsafe_code, reason = "called by libavformat")]
pub(super) unsafe extern "C" fn interrupt_callback(opaque: *mut c_void) -> c_int {
    // SAFETY: the caller's promise; a watch is only read, and made of atomics.
    let watch = unsafe { &*opaque.cast::<IoDeadline>() };
    c_int::from(watch.is_interrupted())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_TIMEOUT: Duration = Duration::from_secs(3600);

    #[test]
    fn a_connection_is_put_in_order_an_attempt_is_not() {
        let watch = IoDeadline::new();
        watch.begin_connecting(LONG_TIMEOUT);
        assert!(!watch.is_interrupted() && !watch.is_stopped());
        watch.stop(LONG_TIMEOUT);
        assert!(watch.is_interrupted() && watch.is_stopped() && !watch.is_expired());
        watch.begin_operation(LONG_TIMEOUT);
        assert!(!watch.is_interrupted());
        watch.stop(Duration::ZERO);
        assert!(watch.is_interrupted(), "the earlier moment counts");
    }

    #[test]
    fn what_takes_too_long_ends() {
        let watch = IoDeadline::new();
        watch.begin_operation(Duration::ZERO);
        assert!(watch.is_interrupted() && watch.is_expired());
        watch.begin_operation(LONG_TIMEOUT);
        assert!(!watch.is_interrupted());
    }
}
