//! What did not come through, and why.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagecast_core::spec::Refusal;

use super::socks::Target;

/// Places remembered of each kind, refused and failed; the one that was longest ago is forgotten.
const MAX_PLACES: usize = 100;
/// Places warned of in the log: a page that tries out all ports would fill it.
const MAX_WARNINGS: usize = 100;

/// Why a connection was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The page has no business there.
    Refused {
        /// There.
        address: IpAddr,
        /// Why not.
        why: Refusal,
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
pub struct Refused {
    /// The name, or the address as it was written.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What the name means, the last time it was asked for.
    pub address: IpAddr,
    /// Why not.
    pub why: Refusal,
    /// How often it was tried.
    pub count: u64,
}

/// A place that was not reached.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) verdict: Verdict,
    count: u64,
    /// When it was tried last, in tries.
    last: u64,
}

#[cfg(test)]
impl Place {
    /// A place that was tried once.
    pub(crate) fn of(host: &str, port: u16, verdict: Verdict) -> Self {
        Self { host: host.to_owned(), port, verdict, count: 1, last: 1 }
    }
}

/// Everything that was not reached lately.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// In the order in which they were tried last.
    refused: VecDeque<Place>,
    failed: VecDeque<Place>,
    tries: u64,
    warnings: usize,
}

impl Journal {
    pub(super) fn note(&self, target: &Target, verdict: Verdict) {
        let mut book = self.lock();
        book.tries += 1;
        let last = book.tries;
        let refused = matches!(verdict, Verdict::Refused { .. });
        let places = if refused { &mut book.refused } else { &mut book.failed };
        let known = places.iter().position(|p| p.port == target.port && p.host == target.host);
        let known = known.and_then(|at| places.remove(at));
        let first = known.is_none();
        if places.len() == MAX_PLACES {
            places.pop_front();
        }
        let count = known.map_or(0, |p| p.count) + 1;
        places.push_back(Place { host: target.host.clone(), port: target.port, verdict, count, last });
        let warn = refused && first && book.warnings < MAX_WARNINGS;
        book.warnings += usize::from(warn);
        drop(book);
        match verdict {
            Verdict::Refused { address, why } if warn => {
                tracing::warn!(host = target.host, port = target.port, %address, ?why, "kept the page from");
            }
            verdict => tracing::debug!(host = target.host, port = target.port, ?verdict, "not reached"),
        }
    }

    /// A moment, for [`Journal::since`].
    pub(crate) fn now(&self) -> u64 {
        self.lock().tries
    }

    /// What was not reached since `moment`, the last try if there were several: of `host`, or else of those
    /// refused, or else of all.
    pub(crate) fn since(&self, moment: u64, host: &str) -> Option<Place> {
        let book = self.lock();
        let host = host.trim_matches(['[', ']']);
        let rank = |p: &&Place| {
            (p.host.eq_ignore_ascii_case(host), matches!(p.verdict, Verdict::Refused { .. }), p.last)
        };
        let lately = book.refused.iter().chain(&book.failed).filter(|p| p.last > moment);
        lately.max_by_key(rank).cloned()
    }

    pub(super) fn verdict(&self, host: &str, port: u16) -> Option<Verdict> {
        let book = self.lock();
        let all = book.refused.iter().chain(&book.failed);
        all.filter(|p| p.port == port && p.host == host).max_by_key(|p| p.last).map(|p| p.verdict)
    }

    pub(super) fn refusals(&self) -> Vec<Refused> {
        let read = |p: &Place| match p.verdict {
            Verdict::Refused { address, why } => {
                Some(Refused { host: p.host.clone(), port: p.port, address, why, count: p.count })
            }
            _ => None,
        };
        self.lock().refused.iter().filter_map(read).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const REFUSED: Verdict =
        Verdict::Refused { address: IpAddr::V4(Ipv4Addr::LOCALHOST), why: Refusal::NotPublic };

    fn target(host: &str, port: u16) -> Target {
        Target { host: host.to_owned(), literal: None, port }
    }

    #[test]
    fn tries_are_counted_by_place() {
        let journal = Journal::default();
        for (host, port) in [("a", 1), ("b", 1), ("a", 2), ("a", 1)] {
            journal.note(&target(host, port), REFUSED);
        }
        journal.note(&target("c", 1), Verdict::NoSuchHost);
        let told: Vec<_> =
            journal.refusals().into_iter().map(|r| format!("{}:{} {}", r.host, r.port, r.count)).collect();
        assert_eq!(told, ["b:1 1", "a:2 1", "a:1 2"]);
        assert_eq!(journal.verdict("c", 1), Some(Verdict::NoSuchHost));
        assert_eq!(journal.verdict("c", 2), None);
    }

    #[test]
    fn the_last_verdict_counts() {
        let journal = Journal::default();
        journal.note(&target("a", 1), REFUSED);
        journal.note(&target("a", 1), Verdict::TimedOut);
        assert_eq!(journal.verdict("a", 1), Some(Verdict::TimedOut));
        journal.note(&target("a", 1), REFUSED);
        assert_eq!(journal.verdict("a", 1), Some(REFUSED));
    }

    #[test]
    fn a_scan_of_all_ports_is_not_remembered_nor_told() {
        let journal = Journal::default();
        for port in 0..=u16::MAX {
            journal.note(&target("a", port), REFUSED);
        }
        journal.note(&target("b", 1), Verdict::NoSuchHost);
        let refusals = journal.refusals();
        assert_eq!((refusals.len(), refusals[0].port), (MAX_PLACES, u16::MAX - 99));
        assert_eq!(journal.lock().warnings, MAX_WARNINGS);
        assert_eq!(journal.verdict("b", 1), Some(Verdict::NoSuchHost), "the refused do not push out others");
    }

    #[test]
    fn what_happened_since() {
        let journal = Journal::default();
        let said = |moment| journal.since(moment, "[::1]").map(|p| (p.host, p.port, p.verdict));
        journal.note(&target("::1", 1), Verdict::TimedOut);
        let moment = journal.now();
        assert_eq!(said(moment), None);
        journal.note(&target("elsewhere", 1), REFUSED);
        journal.note(&target("elsewhere", 2), REFUSED);
        journal.note(&target("nowhere", 1), Verdict::NoSuchHost);
        assert_eq!(said(moment), Some(("elsewhere".to_owned(), 2, REFUSED)));
        journal.note(&target("::1", 1), Verdict::NoSuchHost);
        journal.note(&target("elsewhere", 1), REFUSED);
        assert_eq!(said(moment), Some(("::1".to_owned(), 1, Verdict::NoSuchHost)));
    }
}
