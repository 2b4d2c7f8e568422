//! Shares signatures with the other nodes of a fleet.
//!
//! A signature is accepted again for a minute after its first use, on whichever node. So it is early enough
//! if the others learn of it within that minute, and no request waits for it: new signatures are put into a
//! table of the fleet once a second, many in one row, and new rows are read as often. A node that could not
//! read the table for [`MAX_AGE`] refuses requests; without the database it could not carry them out anyway.
//! Only signatures of the last second are unknown to others if a node is lost together with its disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pagecast_fleet::{AnsweredCursor, AnsweredRequest, AnsweredRequests, Error, MAX_ANSWERED, UnixMs};
use tokio::time::Instant;

use super::{MAX_SIGNATURE_AGE_MS, MAX_SIGNATURES, REPEAT_WINDOW_MS, SeenSignatures, Signature};
use crate::service::{Clock, error_chain};

/// Interval at which signatures are put and read.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time since the table was read. With as much for the node that puts a signature there, it stays
/// within [`REPEAT_WINDOW_MS`].
const MAX_AGE: Duration = Duration::from_secs(25);

/// What the other nodes are told, and when they were last heard.
#[derive(Debug, Default)]
pub(super) struct SharedSignatures {
    /// New signatures. When there are too many, because the database is away, the oldest are dropped.
    unshared: VecDeque<AnsweredRequest>,
    read_at: Option<Instant>,
}

impl SharedSignatures {
    /// Whether the other nodes were heard lately.
    pub(super) fn is_current(&self) -> bool {
        self.read_at.is_some_and(|at| at.elapsed() <= MAX_AGE)
    }

    /// Adds a new signature.
    pub(super) fn push(&mut self, signature: Signature, at_ms: UnixMs) {
        if self.unshared.len() >= MAX_SIGNATURES {
            self.unshared.pop_front();
        }
        self.unshared.push_back(AnsweredRequest { at_ms, signature });
    }
}

impl SeenSignatures {
    /// Begins to share signatures: from now on, requests are refused until [`Sharing::exchange`] has
    /// succeeded. Signatures of the last minute may not have been shared by an earlier process.
    pub(in crate::volcengine) fn share(&mut self, now: UnixMs) {
        let mut shared = SharedSignatures::default();
        for (at_ms, signature) in self.by_time.iter().filter(|(at, _)| now - at <= REPEAT_WINDOW_MS) {
            shared.push(*signature, *at_ms);
        }
        self.shared = Some(shared);
    }
}

fn lock(seen: &Mutex<SeenSignatures>) -> MutexGuard<'_, SeenSignatures> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shares the signatures of one process.
pub(in crate::volcengine) struct Sharing<'a> {
    seen: &'a Mutex<SeenSignatures>,
    table: Arc<dyn AnsweredRequests>,
    clock: Clock,
    cursor: AnsweredCursor,
    /// Whether the last exchange failed, so that only the first failure is logged.
    is_failing: bool,
}

impl<'a> Sharing<'a> {
    pub(in crate::volcengine) fn new(
        seen: &'a Mutex<SeenSignatures>,
        table: Arc<dyn AnsweredRequests>,
        clock: Clock,
    ) -> Self {
        Self { seen, table, clock, cursor: AnsweredCursor::default(), is_failing: false }
    }

    /// Exchanges signatures with the other nodes each second, until aborted.
    pub(in crate::volcengine) async fn run(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.exchange_or_log().await;
        }
    }

    /// Exchanges signatures with the other nodes. A failure is logged, and repeated with the next exchange.
    pub(in crate::volcengine) async fn exchange_or_log(&mut self) {
        let failed = self.exchange().await.err();
        if let Some(error) = failed.as_ref().filter(|_| !self.is_failing) {
            tracing::warn!(error = error_chain(error), "cannot share signatures, retrying");
        }
        self.is_failing = failed.is_some();
    }

    /// Tells the other nodes which signatures are new here, and learns theirs.
    pub(in crate::volcengine) async fn exchange(&mut self) -> Result<(), Error> {
        self.put().await?;
        self.read().await
    }

    /// Puts all new signatures.
    async fn put(&self) -> Result<(), Error> {
        loop {
            let new: Vec<AnsweredRequest> = {
                let seen = lock(self.seen);
                let unshared = seen.shared.iter().flat_map(|shared| &shared.unshared);
                unshared.take(MAX_ANSWERED).copied().collect()
            };
            let Some(last) = new.last() else { return Ok(()) };
            let keep = Duration::from_millis(MAX_SIGNATURE_AGE_MS.unsigned_abs());
            self.table.put_answered(&new, keep).await?;
            // They have moved if the oldest were dropped meanwhile.
            if let Some(shared) = &mut lock(self.seen).shared
                && let Some(place) = shared.unshared.iter().position(|request| request == last)
            {
                shared.unshared.drain(..=place);
            }
        }
    }

    /// Reads what other nodes have put.
    async fn read(&mut self) -> Result<(), Error> {
        loop {
            // What is put from now on may be missing.
            let began = Instant::now();
            let requests = self.table.read_answered(&mut self.cursor).await?;
            let mut seen = lock(self.seen);
            if requests.is_empty() {
                if let Some(shared) = &mut seen.shared {
                    shared.read_at = Some(began);
                }
                return Ok(());
            }
            let now = (self.clock)();
            for AnsweredRequest { at_ms, signature } in requests {
                // The clock of another node must not extend a signature.
                let at_ms = at_ms.min(now);
                if now - at_ms <= MAX_SIGNATURE_AGE_MS {
                    seen.remember(signature, at_ms, now);
                }
            }
        }
    }
}
