//! Wakes the thread that looks after something when that has changed, or when its thread has ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

/// Who is woken at a change. Clones share it; until a waker is set, changes wake nobody.
///
/// Whoever sets a waker looks at the state once afterwards: a change before that wakes nobody.
#[derive(Debug, Clone, Default)]
pub struct SharedWaker(Arc<Mutex<Option<Waker>>>);

impl From<Waker> for SharedWaker {
    fn from(waker: Waker) -> Self {
        Self(Arc::new(Mutex::new(Some(waker))))
    }
}

impl SharedWaker {
    /// Wakes by `waker` from now on.
    pub fn set(&self, waker: Waker) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// Wakes. Call it after the change.
    pub fn wake(&self) {
        if let Some(waker) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }
}

/// Whether a thread has ended, by itself or by a panic. Clones share it.
///
/// In contrast to [`JoinHandle::is_finished`](std::thread::JoinHandle::is_finished), it is true before
/// anybody is woken.
#[derive(Debug, Clone, Default)]
pub struct ThreadEnd {
    ended: Arc<AtomicBool>,
    waker: SharedWaker,
}

impl ThreadEnd {
    /// Wakes by `waker` when the thread ends.
    #[must_use]
    pub fn new(waker: &SharedWaker) -> Self {
        Self { ended: Arc::default(), waker: waker.clone() }
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Returns what the thread drops last.
    #[must_use]
    pub fn guard(&self) -> ThreadEndGuard {
        ThreadEndGuard(self.clone())
    }
}

/// Reports the end of the thread that holds it when it is dropped.
#[derive(Debug)]
pub struct ThreadEndGuard(ThreadEnd);

impl Drop for ThreadEndGuard {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU32);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_waker_is_woken_by_all_clones_from_when_it_is_set() {
        let (counter, shared) = (Arc::new(Counter::default()), SharedWaker::default());
        let other = shared.clone();
        shared.wake();
        other.set(Arc::clone(&counter).into());
        shared.wake();
        other.wake();
        assert_eq!(counter.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_thread_has_ended_when_its_end_wakes_even_by_a_panic() {
        let shared = SharedWaker::default();
        let (end, counter) = (ThreadEnd::new(&shared), Arc::new(Counter::default()));
        shared.set(Arc::clone(&counter).into());
        let guard = end.guard();
        assert!(!end.has_ended());
        let panicked = std::panic::catch_unwind(move || {
            let _guard = guard;
            panic!("a bug");
        });
        assert!(panicked.is_err() && end.has_ended());
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
    }
}
