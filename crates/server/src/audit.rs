//! The record of requests that change something: who sent them, from where, and how they were answered.
//!
//! A request only leaves its entry in a queue. One task stores the entries of the queue together, so that
//! nobody waits for it. A refused request is no news if it comes again and again: of those of one sender, the
//! first in a minute have entries of their own, and one more counts the rest.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pagecast_fleet::{AuditEntry, Error, Fleet, MAX_AUDIT_APPEND, UnixMs};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::service::Clock;

/// Most entries that wait to be stored. When full, because the database is away, further ones are lost, and
/// the log says how many.
const MAX_QUEUED_ENTRIES: usize = 8192;
/// Refused requests of one sender that have entries of their own, in a minute.
const MAX_REFUSED_PER_MINUTE: u32 = 10;
/// Most senders whose refused requests are counted at the same time; further ones count as one.
const MAX_SENDERS: usize = 500;
/// Time after which the counted requests of a sender are stored, in milliseconds.
const COUNTING_TIME_MS: i64 = 60_000;
/// Shortest time between two writes to the fleet, so that a busy service writes once for many requests.
const MIN_WRITE_INTERVAL: Duration = Duration::from_millis(500);
/// How often the counters of senders are looked at.
const COUNTER_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two attempts to store the queue while the fleet's database is away.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Longest time for storing the queue at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Entries that wait to be stored.
#[derive(Default)]
pub struct AuditLog {
    state: Mutex<AuditState>,
    has_new: Notify,
    /// Held while entries are stored, so that they stay in order.
    storing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct AuditState {
    queue: Vec<AuditEntry>,
    /// Entries that were lost because the queue was full.
    lost: u64,
    refused: HashMap<String, RefusedRequests>,
}

/// Refused requests of one sender.
struct RefusedRequests {
    since_ms: UnixMs,
    recorded: u32,
    /// The last request without an entry of its own; it counts the others.
    counted: Option<AuditEntry>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("queued", &self.lock().queue.len()).finish_non_exhaustive()
    }
}

impl AuditState {
    fn push(&mut self, entry: AuditEntry) {
        if self.queue.len() < MAX_QUEUED_ENTRIES {
            self.queue.push(entry);
        } else {
            self.lost += 1;
        }
    }

    /// Queues the counters that began before this time.
    fn end_counters(&mut self, before_ms: UnixMs) {
        let over: Vec<_> = self.refused.extract_if(|_, refused| refused.since_ms <= before_ms).collect();
        over.into_iter().filter_map(|(_, refused)| refused.counted).for_each(|entry| self.push(entry));
    }
}

impl AuditLog {
    fn lock(&self) -> MutexGuard<'_, AuditState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request that was carried out.
    pub(crate) fn record(&self, entry: AuditEntry) {
        self.lock().push(entry);
        self.has_new.notify_one();
    }

    /// Records a request that was refused or failed. `sender` tells those of one sender from others.
    pub(crate) fn record_refused(&self, sender: &str, entry: AuditEntry) {
        let mut state = self.lock();
        let now = entry.at_ms;
        state.end_counters(now.saturating_sub(COUNTING_TIME_MS));
        let is_known = state.refused.contains_key(sender);
        let sender = if is_known || state.refused.len() < MAX_SENDERS { sender } else { "" };
        let refused = state.refused.entry(sender.to_owned()).or_insert_with(|| RefusedRequests {
            since_ms: now,
            recorded: 0,
            counted: None,
        });
        if refused.recorded >= MAX_REFUSED_PER_MINUTE {
            let before = refused.counted.as_ref().map_or(0, |counted| counted.count);
            refused.counted = Some(AuditEntry { count: before.saturating_add(entry.count), ..entry });
            return;
        }
        refused.recorded += 1;
        state.push(entry);
        drop(state);
        self.has_new.notify_one();
    }

    /// Stores all entries of the queue.
    ///
    /// # Errors
    /// The storage of the fleet fails; the entries stay in the queue.
    pub(crate) async fn flush(&self, fleet: &dyn Fleet) -> Result<(), Error> {
        let _storing = self.storing.lock().await;
        loop {
            let (batch, lost) = {
                let mut state = self.lock();
                let len = state.queue.len().min(MAX_AUDIT_APPEND);
                (state.queue[..len].to_vec(), std::mem::take(&mut state.lost))
            };
            if lost > 0 {
                tracing::warn!(lost, "audit entries lost, the database was away for too long");
            }
            if batch.is_empty() {
                return Ok(());
            }
            let len = batch.len();
            fleet.append_audit(batch).await?;
            // Others only add behind them.
            self.lock().queue.drain(..len);
        }
    }

    /// Stores entries until `stop` is true, and what is left then.
    pub async fn run(&self, fleet: &dyn Fleet, clock: &Clock, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = self.has_new.notified() => {}
                () = sleep(COUNTER_INTERVAL) => {
                    self.lock().end_counters(clock().saturating_sub(COUNTING_TIME_MS));
                }
                _ = stop.wait_for(|stop| *stop) => break,
            }
            let wait = match self.flush(fleet).await {
                Ok(()) => MIN_WRITE_INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "storing audit entries failed, retrying");
                    self.has_new.notify_one();
                    RETRY_DELAY
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        self.lock().end_counters(UnixMs::MAX);
        match timeout(SHUTDOWN_TIMEOUT, self.flush(fleet)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "storing audit entries failed, entries lost"),
            Err(_) => tracing::warn!("storing audit entries took too long, entries lost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pagecast_fleet::AuditRole;

    use super::*;
    use crate::callback::testing::FakeFleet;

    fn entry(at_ms: UnixMs, request_id: &str) -> AuditEntry {
        AuditEntry {
            id: 0,
            at_ms,
            role: AuditRole::Unknown,
            app: None,
            actor: String::new(),
            via: "api".to_owned(),
            address: None,
            action: "createCast".to_owned(),
            target: None,
            status: 401,
            request_id: request_id.to_owned(),
            count: 1,
        }
    }

    fn queued(log: &AuditLog) -> Vec<(String, u32)> {
        log.lock().queue.iter().map(|entry| (entry.request_id.clone(), entry.count)).collect()
    }

    #[test]
    fn a_flood_of_refused_requests_is_counted() {
        let log = AuditLog::default();
        for n in 0..1000 {
            log.record_refused("192.0.2.1", entry(n, &n.to_string()));
        }
        log.record_refused("192.0.2.2", entry(1000, "other"));
        let own: Vec<_> = (0..10).map(|n| (n.to_string(), 1)).chain([("other".to_owned(), 1)]).collect();
        assert_eq!(queued(&log), own);
        log.lock().end_counters(59_999 - COUNTING_TIME_MS);
        assert_eq!(queued(&log), own, "the minute is not over");
        log.record_refused("192.0.2.1", entry(60_000, "next minute"));
        assert_eq!(queued(&log)[11..], [("999".to_owned(), 990), ("next minute".to_owned(), 1)]);
    }

    #[test]
    fn many_senders_count_as_one() {
        let log = AuditLog::default();
        for n in 0..5000 {
            log.record_refused(&n.to_string(), entry(n, "r"));
        }
        assert_eq!(log.lock().refused.len(), MAX_SENDERS + 1);
        assert_eq!(queued(&log).len(), MAX_SENDERS + MAX_REFUSED_PER_MINUTE as usize);
        log.lock().end_counters(UnixMs::MAX);
        let all = queued(&log).iter().map(|(_, count)| count).sum::<u32>();
        assert_eq!((all, log.lock().refused.len()), (5000, 0));
    }

    #[tokio::test]
    async fn the_queue_is_bounded_while_the_database_is_away() {
        let log = AuditLog::default();
        for n in 0..MAX_QUEUED_ENTRIES + 7 {
            log.record(entry(0, &n.to_string()));
        }
        let fleet: Arc<dyn Fleet> = FakeFleet::new();
        log.flush(&*fleet).await.unwrap_err();
        assert_eq!((queued(&log).len(), log.lock().lost), (MAX_QUEUED_ENTRIES, 0));
    }
}
