//! Deadlines of a push thread. libavformat checks them about ten times a second while it waits for the
//! network.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

const NEVER: i64 = i64::MAX;

/// The deadlines of one thread.
#[derive(Debug)]
pub(super) struct IoDeadline {
    started_at: Instant,
    /// Deadline of the current operation, in nanoseconds since `started_at`.
    operation_deadline_ns: AtomicI64,
    /// When the thread must have ended, in nanoseconds since `started_at`; [`NEVER`] without a stop.
    stop_deadline_ns: AtomicI64,
    /// Whether a stop interrupts at once, as there is no connection to close in order.
    stop_immediately: AtomicBool,
}

impl IoDeadline {
    pub(super) fn new() -> Self {
        let (operation, stop) = (AtomicI64::new(NEVER), AtomicI64::new(NEVER));
        Self {
            started_at: Instant::now(),
            operation_deadline_ns: operation,
            stop_deadline_ns: stop,
            stop_immediately: AtomicBool::new(true),
        }
    }

    /// Starts connecting, with this time limit.
    pub(super) fn begin_connecting(&self, limit: Duration) {
        self.stop_immediately.store(true, Ordering::Release);
        self.set_deadline(limit);
    }

    /// Starts an operation on the open connection, with this time limit.
    pub(super) fn begin_operation(&self, limit: Duration) {
        self.stop_immediately.store(false, Ordering::Release);
        self.set_deadline(limit);
    }

    fn set_deadline(&self, limit: Duration) {
        self.operation_deadline_ns
            .store(self.elapsed_ns().saturating_add(duration_ns(limit)), Ordering::Release);
    }

    /// Requests a stop: interrupts connecting at once; an open connection may close in order within this
    /// time.
    pub(super) fn stop(&self, within: Duration) {
        self.stop_deadline_ns
            .fetch_min(self.elapsed_ns().saturating_add(duration_ns(within)), Ordering::AcqRel);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop_deadline_ns.load(Ordering::Acquire) != NEVER
    }

    /// Whether the current operation has timed out.
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

    /// Pointer for [`interrupt_callback`], valid as long as `self` is.
    pub(super) fn as_opaque(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

fn duration_ns(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(NEVER)
}

/// Interrupt callback of libavformat: a result other than 0 aborts the blocking call.
///
/// # Safety
/// `opaque` comes from [`IoDeadline::as_opaque`] of a value that is still alive.
#[expect(unsafe_code, reason = "called by libavformat")]
pub(super) unsafe extern "C" fn interrupt_callback(opaque: *mut c_void) -> c_int {
    // SAFETY: the caller's promise; the value is only read, and consists of atomics.
    let deadline = unsafe { &*opaque.cast::<IoDeadline>() };
    c_int::from(deadline.is_interrupted())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_TIMEOUT: Duration = Duration::from_secs(3600);

    #[test]
    fn a_stop_interrupts_connecting_but_lets_a_connection_close() {
        let deadline = IoDeadline::new();
        deadline.begin_connecting(LONG_TIMEOUT);
        assert!(!deadline.is_interrupted() && !deadline.is_stopped());
        deadline.stop(LONG_TIMEOUT);
        assert!(deadline.is_interrupted() && deadline.is_stopped() && !deadline.is_expired());
        deadline.begin_operation(LONG_TIMEOUT);
        assert!(!deadline.is_interrupted());
        deadline.stop(Duration::ZERO);
        assert!(deadline.is_interrupted(), "the earlier moment counts");
    }

    #[test]
    fn an_expired_operation_is_interrupted() {
        let deadline = IoDeadline::new();
        deadline.begin_operation(Duration::ZERO);
        assert!(deadline.is_interrupted() && deadline.is_expired());
        deadline.begin_operation(LONG_TIMEOUT);
        assert!(!deadline.is_interrupted());
    }
}
