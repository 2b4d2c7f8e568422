//! Changes to a running cast, queued by another thread.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::Waker;

use pagecast_core::HostTime;
use pagecast_core::spec::{Push, PushUrl};
use pagecast_core::wake::SharedWaker;
use serde::{Deserialize, Serialize};

/// Changes queued for a cast: more than a cast may have pushes. When full, changes are refused.
const MAX_QUEUED_CHANGES: usize = 16;

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
    waker: SharedWaker,
}

/// Receives the changes of a [`ChangeSender`].
#[derive(Debug)]
pub struct ChangeReceiver {
    queue: Receiver<Change>,
    waker: SharedWaker,
}

/// Creates a queue of changes.
#[must_use]
pub fn change_queue() -> (ChangeSender, ChangeReceiver) {
    let (sender, receiver) = sync_channel(MAX_QUEUED_CHANGES);
    let waker = SharedWaker::default();
    (ChangeSender { queue: sender, waker: waker.clone() }, ChangeReceiver { queue: receiver, waker })
}

impl ChangeSender {
    /// Queues a change, whose result comes as an event. Returns false if the cast is over or the queue is
    /// full.
    #[must_use]
    pub fn send(&self, change: Change) -> bool {
        let queued = self.queue.try_send(change).is_ok();
        self.waker.wake();
        queued
    }
}

impl ChangeReceiver {
    /// Sets who is woken by each change.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.waker.set(waker);
    }

    /// Returns the next change, if one is queued.
    pub(crate) fn try_recv(&self) -> Option<Change> {
        self.queue.try_recv().ok()
    }
}
