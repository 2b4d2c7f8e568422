//! What did not come through, and why.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagecast_core::spec::NetworkRefusal;

use super::socks::Target;

/// Places remembered of each kind, refused and failed; the one that was longest ago is forgotten.
const MAX_TARGETS: usize = 100;
/// Places warned of in the log: a page that tries out all ports would fill it.
const MAX_LOGGED_WARNINGS: usize = 100;

/// Why a connection was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// The page has no business there.
    AddressDenied {
        /// There.
        address: IpAddr,
        /// Why not.
        reason: NetworkRefusal,
    },
    /// The name has no address.
    NoSuchHost,
    /// Nothing listens there.
    ConnectionRefused,
    /// There was no answer in time, of the name server or the host.
    TimedOut,
    /// There is no way there.
    Unreachable,
}

/// A place that the page wanted to reach and may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedTarget {
    /// The name, or the address as it was written.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What the name means, the last time it was asked for.
    pub address: IpAddr,
    /// Why not.
    pub reason: NetworkRefusal,
    /// How often it was tried.
    pub attempts: u64,
}

/// A place that was not reached.
#[derive(Debug, Clone)]
pub(crate) struct FailedTarget {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) error: ConnectError,
    attempts: u64,
    /// When it was tried last, in tries.
    last_attempt: u64,
}

#[cfg(test)]
impl FailedTarget {
    /// A place that was tried once.
    pub(crate) fn of(host: &str, port: u16, verdict: ConnectError) -> Self {
        Self { host: host.to_owned(), port, error: verdict, attempts: 1, last_attempt: 1 }
    }
}

/// Everything that was not reached lately.
#[derive(Debug, Default)]
pub(crate) struct ConnectionFailures(Mutex<FailureTable>);

#[derive(Debug, Default)]
struct FailureTable {
    /// In the order in which they were tried last.
    denied: VecDeque<FailedTarget>,
    failed: VecDeque<FailedTarget>,
    attempts: u64,
    warnings: usize,
}

impl ConnectionFailures {
    pub(super) fn record(&self, target: &Target, verdict: ConnectError) {
        let mut book = self.lock();
        book.attempts += 1;
        let last = book.attempts;
        let refused = matches!(verdict, ConnectError::AddressDenied { .. });
        let places = if refused { &mut book.denied } else { &mut book.failed };
        let known = places.iter().position(|p| p.port == target.port && p.host == target.host);
        let known = known.and_then(|at| places.remove(at));
        let first = known.is_none();
        if places.len() == MAX_TARGETS {
            places.pop_front();
        }
        let count = known.map_or(0, |p| p.attempts) + 1;
        places.push_back(FailedTarget {
            host: target.host.clone(),
            port: target.port,
            error: verdict,
            attempts: count,
            last_attempt: last,
        });
        let warn = refused && first && book.warnings < MAX_LOGGED_WARNINGS;
        book.warnings += usize::from(warn);
        drop(book);
        match verdict {
            ConnectError::AddressDenied { address, reason: why } if warn => {
                tracing::warn!(host = target.host, port = target.port, %address, ?why, "kept the page from");
            }
            verdict => tracing::debug!(host = target.host, port = target.port, ?verdict, "not reached"),
        }
    }

    /// A moment, for [`ConnectionFailures::failure_since`].
    pub(crate) fn attempt_count(&self) -> u64 {
        self.lock().attempts
    }

    /// What was not reached since `moment`, the last try if there were several: of `host`, or else of those
    /// refused, or else of all.
    pub(crate) fn failure_since(&self, moment: u64, host: &str) -> Option<FailedTarget> {
        let book = self.lock();
        let host = host.trim_matches(['[', ']']);
        let rank = |p: &&FailedTarget| {
            (
                p.host.eq_ignore_ascii_case(host),
                matches!(p.error, ConnectError::AddressDenied { .. }),
                p.last_attempt,
            )
        };
        let lately = book.denied.iter().chain(&book.failed).filter(|p| p.last_attempt > moment);
        lately.max_by_key(rank).cloned()
    }

    pub(super) fn last_error(&self, host: &str, port: u16) -> Option<ConnectError> {
        let book = self.lock();
        let all = book.denied.iter().chain(&book.failed);
        all.filter(|p| p.port == port && p.host == host).max_by_key(|p| p.last_attempt).map(|p| p.error)
    }

    pub(super) fn denied_targets(&self) -> Vec<DeniedTarget> {
        let read = |p: &FailedTarget| match p.error {
            ConnectError::AddressDenied { address, reason: why } => Some(DeniedTarget {
                host: p.host.clone(),
                port: p.port,
                address,
                reason: why,
                attempts: p.attempts,
            }),
            _ => None,
        };
        self.lock().denied.iter().filter_map(read).collect()
    }

    fn lock(&self) -> MutexGuard<'_, FailureTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const REFUSED: ConnectError = ConnectError::AddressDenied {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        reason: NetworkRefusal::NotPublic,
    };

    fn target(host: &str, port: u16) -> Target {
        Target { host: host.to_owned(), literal: None, port }
    }

    #[test]
    fn tries_are_counted_by_place() {
        let journal = ConnectionFailures::default();
        for (host, port) in [("a", 1), ("b", 1), ("a", 2), ("a", 1)] {
            journal.record(&target(host, port), REFUSED);
        }
        journal.record(&target("c", 1), ConnectError::NoSuchHost);
        let told: Vec<_> = journal
            .denied_targets()
            .into_iter()
            .map(|r| format!("{}:{} {}", r.host, r.port, r.attempts))
            .collect();
        assert_eq!(told, ["b:1 1", "a:2 1", "a:1 2"]);
        assert_eq!(journal.last_error("c", 1), Some(ConnectError::NoSuchHost));
        assert_eq!(journal.last_error("c", 2), None);
    }

    #[test]
    fn the_last_verdict_counts() {
        let journal = ConnectionFailures::default();
        journal.record(&target("a", 1), REFUSED);
        journal.record(&target("a", 1), ConnectError::TimedOut);
        assert_eq!(journal.last_error("a", 1), Some(ConnectError::TimedOut));
        journal.record(&target("a", 1), REFUSED);
        assert_eq!(journal.last_error("a", 1), Some(REFUSED));
    }

    #[test]
    fn a_scan_of_all_ports_is_not_remembered_nor_told() {
        let journal = ConnectionFailures::default();
        for port in 0..=u16::MAX {
            journal.record(&target("a", port), REFUSED);
        }
        journal.record(&target("b", 1), ConnectError::NoSuchHost);
        let refusals = journal.denied_targets();
        assert_eq!((refusals.len(), refusals[0].port), (MAX_TARGETS, u16::MAX - 99));
        assert_eq!(journal.lock().warnings, MAX_LOGGED_WARNINGS);
        assert_eq!(
            journal.last_error("b", 1),
            Some(ConnectError::NoSuchHost),
            "the refused do not push out others"
        );
    }

    #[test]
    fn what_happened_since() {
        let journal = ConnectionFailures::default();
        let said = |moment| journal.failure_since(moment, "[::1]").map(|p| (p.host, p.port, p.error));
        journal.record(&target("::1", 1), ConnectError::TimedOut);
        let moment = journal.attempt_count();
        assert_eq!(said(moment), None);
        journal.record(&target("elsewhere", 1), REFUSED);
        journal.record(&target("elsewhere", 2), REFUSED);
        journal.record(&target("nowhere", 1), ConnectError::NoSuchHost);
        assert_eq!(said(moment), Some(("elsewhere".to_owned(), 2, REFUSED)));
        journal.record(&target("::1", 1), ConnectError::NoSuchHost);
        journal.record(&target("elsewhere", 1), REFUSED);
        assert_eq!(said(moment), Some(("::1".to_owned(), 1, ConnectError::NoSuchHost)));
    }
}
