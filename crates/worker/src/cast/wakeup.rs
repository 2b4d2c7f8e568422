//! What the main loop of a cast waits for: a change that another thread reports, or a deadline.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Wake, Waker};

use pagecast_core::HostTime;
use pagecast_page::clock;

/// Waits for changes. Whoever reports one has a [`Waker`].
#[derive(Debug)]
pub(super) struct Wakeup {
    changes: Receiver<()>,
    waker: Waker,
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitResult {
    /// Something has changed since the last wait.
    Changed,
    /// The deadline has passed.
    DeadlinePassed,
}

/// Sends a change to the main loop.
struct ChangeSignal(SyncSender<()>);

impl Wake for ChangeSignal {
    fn wake(self: Arc<Self>) {
        // Full: a change is pending already, and the main loop then looks at everything.
        let _pending = self.0.try_send(());
    }
}

impl Wakeup {
    pub(super) fn new() -> Self {
        let (sender, changes) = sync_channel(1);
        Self { changes, waker: Arc::new(ChangeSignal(sender)).into() }
    }

    /// Returns what ends the wait, now or the next one.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Waits for a change, until the deadline at most.
    pub(super) fn wait_until(&self, deadline: HostTime) -> WaitResult {
        match self.changes.recv_timeout(deadline.since(clock::now())) {
            Ok(()) => WaitResult::Changed,
            Err(_) => WaitResult::DeadlinePassed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Change, StopToken, change_queue};
    use super::*;

    /// Far enough that a test which reaches it fails.
    const FAR: Duration = Duration::from_secs(60);

    /// Checks that `act`, on another thread and during the wait, ends the wait at once.
    fn check_wakes(wakeup: &Wakeup, act: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                act();
            });
            let before = clock::now();
            assert_eq!(wakeup.wait_until(before + FAR), WaitResult::Changed);
            assert!(clock::now().since(before) < FAR / 2);
        });
    }

    #[test]
    fn a_stop_request_and_a_change_end_the_wait() {
        let (wakeup, stop, (sender, changes)) = (Wakeup::new(), StopToken::default(), change_queue());
        stop.set_waker(wakeup.waker().clone());
        changes.set_waker(wakeup.waker().clone());
        check_wakes(&wakeup, || stop.request());
        assert!(stop.is_requested());
        check_wakes(&wakeup, || stop.abandon());
        check_wakes(&wakeup, || assert!(sender.send(Change::Snapshot("a.jpg".into()))));
        assert!(changes.try_recv().is_some() && changes.try_recv().is_none());
    }

    #[test]
    fn a_change_before_the_wait_is_not_lost_and_many_are_one() {
        let wakeup = Wakeup::new();
        (0..10).for_each(|_| wakeup.waker().wake_by_ref());
        assert_eq!(wakeup.wait_until(clock::now() + FAR), WaitResult::Changed);
        let deadline = clock::now() + Duration::from_millis(5);
        assert_eq!(wakeup.wait_until(deadline), WaitResult::DeadlinePassed);
        assert!(clock::now() >= deadline);
    }
}
