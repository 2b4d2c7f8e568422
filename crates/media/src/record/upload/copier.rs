//! Copies closed segments to the store of the fleet, beside all other uploads and without delaying any.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_core::backoff::exponential;
use tokio::task::JoinSet;

use super::super::spool::Spool;
use super::fetch::OpenFleetStore;
use super::ledger::Ledger;
use crate::chain;
use crate::store::{Error, ErrorClass};

/// Time that the recording's own storage has for a segment before it is copied: most are stored by then and
/// need no copy.
const OWN_STORAGE_TIME: Duration = Duration::from_secs(5);
/// Copies in flight at a time: enough to catch up after an outage.
const MAX_CONCURRENT_COPIES: usize = 2;
/// Half of the first pause after a failure, and the longest pause.
const BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Copies the segments of one spool.
#[derive(Debug)]
pub(super) struct Copier {
    target: OpenFleetStore,
    /// Indexes of segments to copy, and when.
    queue: VecDeque<(u32, HostTime)>,
    in_flight: JoinSet<(u32, Result<(), Error>)>,
    failures: u32,
    retry_at: Option<HostTime>,
}

impl Copier {
    pub(super) fn new(target: OpenFleetStore) -> Self {
        Self { target, queue: VecDeque::new(), in_flight: JoinSet::new(), failures: 0, retry_at: None }
    }

    /// Queues a segment that was closed.
    pub(super) fn push(&mut self, index: u32, now: HostTime, ledger: &Ledger) {
        let delay = if ledger.keeps_segments_readable() { OWN_STORAGE_TIME } else { Duration::ZERO };
        self.queue.push_back((index, now + delay));
    }

    /// Starts the copies that are due.
    pub(super) fn poll(&mut self, now: HostTime, ledger: &Ledger, spool: &Arc<Spool>) {
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        while self.in_flight.len() < MAX_CONCURRENT_COPIES
            && let Some((index, _)) = self.queue.pop_front_if(|(_, due)| *due <= now)
        {
            let Some(segment) = ledger.segment(index).filter(|_| ledger.needs_copy(index)) else { continue };
            let name = spool.names().segment(segment.epoch, index);
            let (path, target) = (spool.path(&name), self.target.clone());
            self.in_flight.spawn(async move {
                let put = target.store.put(&target.object_name(&name), &path, "video/mp4").await;
                (index, put.map(drop))
            });
        }
    }

    /// When [`Self::poll`] may have something new to do.
    pub(super) fn deadline(&self) -> Option<HostTime> {
        let due = self.queue.front().map(|(_, due)| *due)?;
        if self.in_flight.len() >= MAX_CONCURRENT_COPIES {
            return None;
        }
        Some(self.retry_at.map_or(due, |retry_at| retry_at.max(due)))
    }

    /// Waits until a copy has ended; forever if none is in flight. Cancel safe.
    pub(super) async fn ended(&mut self) -> (u32, Result<(), Error>) {
        loop {
            match self.in_flight.join_next().await {
                Some(Ok(ended)) => return ended,
                Some(Err(error)) => tracing::error!(%error, "copy task panicked"),
                None => std::future::pending().await,
            }
        }
    }

    /// Handles the end of a copy. Returns whether the segment is copied.
    pub(super) fn on_ended(&mut self, now: HostTime, index: u32, result: Result<(), Error>) -> bool {
        let Err(error) = result else {
            (self.failures, self.retry_at) = (0, None);
            return true;
        };
        // A segment that has left the spool meanwhile is stored.
        if error.class() == ErrorClass::Local {
            tracing::debug!(index, error = chain(&error), "segment not copied to the fleet's store");
            return false;
        }
        if self.failures == 0 {
            tracing::warn!(error = chain(&error), "copy to the fleet's store failed, retrying");
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + exponential(BACKOFF, MAX_BACKOFF, self.failures));
        self.queue.push_front((index, now));
        false
    }
}
