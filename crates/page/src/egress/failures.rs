//! Records failed connections of the page, and why they failed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagecast_core::spec::NetworkRefusal;

use super::socks::Target;

/// Targets that are kept of each kind, denied and failed; a new one replaces the one tried longest ago.
const MAX_TARGETS: usize = 100;
/// Most warnings in the log: a page that scans all ports would fill it.
const MAX_LOGGED_WARNINGS: usize = 100;

/// Why a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// The network policy denies the address.
    AddressDenied {
        /// The denied address.
        address: IpAddr,
        /// Why the policy denies it.
        reason: NetworkRefusal,
    },
    /// The name has no address.
    NoSuchHost,
    /// Nothing listens on the port.
    ConnectionRefused,
    /// The name server or the host did not answer in time.
    TimedOut,
    /// The host is unreachable.
    Unreachable,
}

/// A target that the network policy denied to the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedTarget {
    /// The name, or the address as it was written.
    pub host: String,
    /// Port of the target.
    pub port: u16,
    /// Address that the name resolved to last.
    pub address: IpAddr,
    /// Why the policy denies it.
    pub reason: NetworkRefusal,
    /// Number of attempts.
    pub attempts: u64,
}

/// A target that the page could not connect to.
#[derive(Debug, Clone)]
pub(crate) struct FailedTarget {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) error: ConnectError,
    attempts: u64,
    /// Number of the last attempt, counted over all targets.
    last_attempt: u64,
}

#[cfg(test)]
impl FailedTarget {
    /// A target that was tried once.
    pub(crate) fn of(host: &str, port: u16, error: ConnectError) -> Self {
        Self { host: host.to_owned(), port, error, attempts: 1, last_attempt: 1 }
    }
}

#[cfg(test)]
impl ConnectionFailures {
    /// The failures of a page that could not connect to one target.
    pub(crate) fn of(host: &str, port: u16, error: ConnectError) -> Self {
        let failures = Self::default();
        failures.record(&Target { host: host.to_owned(), literal: None, port }, error);
        failures
    }
}

/// Recent failed connections of a page.
#[derive(Debug, Default)]
pub(crate) struct ConnectionFailures(Mutex<FailureTable>);

#[derive(Debug, Default)]
struct FailureTable {
    /// In the order of their last attempts.
    denied: VecDeque<FailedTarget>,
    failed: VecDeque<FailedTarget>,
    attempts: u64,
    warnings: usize,
}

impl ConnectionFailures {
    pub(super) fn record(&self, target: &Target, error: ConnectError) {
        let mut table = self.lock();
        table.attempts += 1;
        let last = table.attempts;
        let denied = matches!(error, ConnectError::AddressDenied { .. });
        let targets = if denied { &mut table.denied } else { &mut table.failed };
        let known = targets.iter().position(|p| p.port == target.port && p.host == target.host);
        let known = known.and_then(|at| targets.remove(at));
        let first = known.is_none();
        if targets.len() == MAX_TARGETS {
            targets.pop_front();
        }
        let count = known.map_or(0, |p| p.attempts) + 1;
        targets.push_back(FailedTarget {
            host: target.host.clone(),
            port: target.port,
            error,
            attempts: count,
            last_attempt: last,
        });
        let warn = denied && first && table.warnings < MAX_LOGGED_WARNINGS;
        table.warnings += usize::from(warn);
        drop(table);
        match error {
            ConnectError::AddressDenied { address, reason } if warn => {
                let (host, port) = (&target.host, target.port);
                tracing::warn!(host, port, %address, ?reason, "page connection denied");
            }
            error => {
                tracing::debug!(host = target.host, port = target.port, ?error, "page connection failed");
            }
        }
    }

    /// Number of attempts so far, as the start for [`ConnectionFailures::failure_since`].
    pub(crate) fn attempt_count(&self) -> u64 {
        self.lock().attempts
    }

    /// The last failure after attempt `since`: of `host`, or else of the denied targets, or else of all.
    pub(crate) fn failure_since(&self, since: u64, host: &str) -> Option<FailedTarget> {
        let table = self.lock();
        let host = host.trim_matches(['[', ']']);
        let rank = |p: &&FailedTarget| {
            (
                p.host.eq_ignore_ascii_case(host),
                matches!(p.error, ConnectError::AddressDenied { .. }),
                p.last_attempt,
            )
        };
        let recent = table.denied.iter().chain(&table.failed).filter(|p| p.last_attempt > since);
        recent.max_by_key(rank).cloned()
    }

    pub(crate) fn last_error(&self, host: &str, port: u16) -> Option<ConnectError> {
        let table = self.lock();
        let all = table.denied.iter().chain(&table.failed);
        all.filter(|p| p.port == port && p.host == host).max_by_key(|p| p.last_attempt).map(|p| p.error)
    }

    pub(super) fn denied_targets(&self) -> Vec<DeniedTarget> {
        let read = |p: &FailedTarget| match p.error {
            ConnectError::AddressDenied { address, reason } => Some(DeniedTarget {
                host: p.host.clone(),
                port: p.port,
                address,
                reason,
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

    const DENIED: ConnectError = ConnectError::AddressDenied {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        reason: NetworkRefusal::NotPublic,
    };

    fn target(host: &str, port: u16) -> Target {
        Target { host: host.to_owned(), literal: None, port }
    }

    #[test]
    fn attempts_are_counted_by_target() {
        let failures = ConnectionFailures::default();
        for (host, port) in [("a", 1), ("b", 1), ("a", 2), ("a", 1)] {
            failures.record(&target(host, port), DENIED);
        }
        failures.record(&target("c", 1), ConnectError::NoSuchHost);
        let denied: Vec<_> = failures
            .denied_targets()
            .into_iter()
            .map(|r| format!("{}:{} {}", r.host, r.port, r.attempts))
            .collect();
        assert_eq!(denied, ["b:1 1", "a:2 1", "a:1 2"]);
        assert_eq!(failures.last_error("c", 1), Some(ConnectError::NoSuchHost));
        assert_eq!(failures.last_error("c", 2), None);
    }

    #[test]
    fn the_last_error_counts() {
        let failures = ConnectionFailures::default();
        failures.record(&target("a", 1), DENIED);
        failures.record(&target("a", 1), ConnectError::TimedOut);
        assert_eq!(failures.last_error("a", 1), Some(ConnectError::TimedOut));
        failures.record(&target("a", 1), DENIED);
        assert_eq!(failures.last_error("a", 1), Some(DENIED));
    }

    #[test]
    fn a_scan_of_all_ports_is_bounded_in_memory_and_log() {
        let failures = ConnectionFailures::default();
        for port in 0..=u16::MAX {
            failures.record(&target("a", port), DENIED);
        }
        failures.record(&target("b", 1), ConnectError::NoSuchHost);
        let denied = failures.denied_targets();
        assert_eq!((denied.len(), denied[0].port), (MAX_TARGETS, u16::MAX - 99));
        assert_eq!(failures.lock().warnings, MAX_LOGGED_WARNINGS);
        assert_eq!(
            failures.last_error("b", 1),
            Some(ConnectError::NoSuchHost),
            "denied targets do not replace failed ones"
        );
    }

    #[test]
    fn failures_since_an_attempt() {
        let failures = ConnectionFailures::default();
        let latest = |since| failures.failure_since(since, "[::1]").map(|p| (p.host, p.port, p.error));
        failures.record(&target("::1", 1), ConnectError::TimedOut);
        let since = failures.attempt_count();
        assert_eq!(latest(since), None);
        failures.record(&target("elsewhere", 1), DENIED);
        failures.record(&target("elsewhere", 2), DENIED);
        failures.record(&target("nowhere", 1), ConnectError::NoSuchHost);
        assert_eq!(latest(since), Some(("elsewhere".to_owned(), 2, DENIED)));
        failures.record(&target("::1", 1), ConnectError::NoSuchHost);
        failures.record(&target("elsewhere", 1), DENIED);
        assert_eq!(latest(since), Some(("::1".to_owned(), 1, ConnectError::NoSuchHost)));
    }
}
