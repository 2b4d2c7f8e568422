//! Changes to a running cast, queued by another thread.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use pagecast_core::HostTime;
use pagecast_core::spec::{Push, PushUrl};
use pagecast_core::wake::SharedWaker;
use serde::{Deserialize, Serialize};

/// Changes queued for a cast: more than a cast may have pushes. When full, changes are refused, except for
/// [`Change::PublishUntil`], which is not queued.
const MAX_QUEUED_CHANGES: usize = 16;

/// The newest time of a [`Change::PublishUntil`]. Earlier ones do not matter, so however long a cast is busy
/// with the start of its browser, no renewal of its lease is lost.
type PublishUntil = Arc<Mutex<Option<HostTime>>>;

/// A change to a running cast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Adds a push.
    AddPush(Push),
    /// Removes the push to this URL.
    RemovePush(PushUrl),
    /// Writes a picture of the page (JPEG) to this file; the result is a
    /// [`CastEvent::Snapshot`](super::CastEvent::Snapshot).
    Snapshot(PathBuf),
    /// Publishes and stores until this time, unless a later change says otherwise. Then the cast closes its
    /// pushes and its room and leaves what it records in its spool, because another node may own it.
    PublishUntil(HostTime),
}

/// Sends changes to a cast that runs or is about to.
#[derive(Debug, Clone)]
pub struct ChangeSender {
    queue: SyncSender<Change>,
    publish_until: PublishUntil,
    waker: SharedWaker,
}

/// Receives the changes of a [`ChangeSender`].
#[derive(Debug)]
pub struct ChangeReceiver {
    queue: Receiver<Change>,
    publish_until: PublishUntil,
    waker: SharedWaker,
}

/// Creates a queue of changes.
#[must_use]
pub fn change_queue() -> (ChangeSender, ChangeReceiver) {
    let (sender, receiver) = sync_channel(MAX_QUEUED_CHANGES);
    let (waker, publish_until) = (SharedWaker::default(), PublishUntil::default());
    let sender =
        ChangeSender { queue: sender, publish_until: Arc::clone(&publish_until), waker: waker.clone() };
    (sender, ChangeReceiver { queue: receiver, publish_until, waker })
}

impl ChangeSender {
    /// Queues a change, whose result comes as an event. Returns false if it is lost, because the cast is over
    /// or the queue is full.
    #[must_use]
    pub fn send(&self, change: Change) -> bool {
        let sent = match change {
            Change::PublishUntil(until) => {
                *self.publish_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
                true
            }
            change => self.queue.try_send(change).is_ok(),
        };
        self.waker.wake();
        sent
    }
}

impl ChangeReceiver {
    /// Sets who is woken by each change.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.waker.set(waker);
    }

    /// Returns the next change, if there is one.
    pub(crate) fn try_recv(&self) -> Option<Change> {
        let publish_until = || self.publish_until.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.queue.try_recv().ok().or_else(|| publish_until().map(Change::PublishUntil))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_keeps_the_newest_end_of_the_lease() {
        let (sender, receiver) = change_queue();
        let until = |ns: i64| Change::PublishUntil(HostTime(ns));
        for number in 0..3 * MAX_QUEUED_CHANGES {
            let is_sent = sender.send(Change::Snapshot(PathBuf::from(number.to_string())));
            assert_eq!(is_sent, number < MAX_QUEUED_CHANGES, "{number}");
            assert!(sender.send(until(number as i64)));
        }
        let changes: Vec<_> = std::iter::from_fn(|| receiver.try_recv()).collect();
        assert_eq!(changes.len(), MAX_QUEUED_CHANGES + 1);
        assert_eq!(changes.last(), Some(&until(3 * MAX_QUEUED_CHANGES as i64 - 1)));
    }
}
