//! Signatures that were seen before.
//!
//! A signature holds for 15 minutes before its date and up to an hour behind it, which counts whole seconds,
//! and nothing in it is random: two equal calls in the same second are the same bytes, and what repeats a
//! request below an SDK repeats its signature too. So the same signature is answered again for a minute,
//! which does no harm because starting and stopping can be repeated; later than that, no SDK sends it, and it
//! could start a task again that was stopped meanwhile.
//!
//! [`Seen::open`] keeps them on the disk ([`log`]), so that a restart of the service makes no old request
//! good again.

mod log;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

use pagecast_fleet::UnixMs;

use super::sign::{MAX_EXPIRES_MS, WINDOW_MS};
use log::SignatureLog;

/// How long after it was first seen the same signature is answered again.
pub(super) const REPEAT_MS: i64 = 60_000;
/// Signatures that are remembered: what a key can send while they hold, of both actions that change
/// something, at their full rates. Full, because several keys do: the oldest is forgotten.
const MAX_SEEN: usize = 300 * 2 * 900;
/// Longest time that a signature holds: from the end of the window before its date to the end of that behind
/// it.
const KEPT_MS: i64 = WINDOW_MS + MAX_EXPIRES_MS;

/// A signature in binary.
pub(super) type Mark = [u8; 32];

/// What was seen, and when first.
#[derive(Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<(UnixMs, Mark)>,
    first: HashMap<Mark, UnixMs>,
    /// Where it is kept over a restart; `None` in tests that need no disk.
    log: Option<SignatureLog>,
}

impl Seen {
    /// Reads what a service that had this folder before has seen, and keeps there what is seen from now on.
    ///
    /// # Errors
    /// The files in the folder cannot be read or written.
    pub(super) fn open(folder: &Path, now: UnixMs) -> io::Result<Self> {
        let (log, records) = SignatureLog::open(folder, MAX_SEEN)?;
        let mut seen = Self::default();
        for (at, mark) in records {
            // A clock that was set back must not make a signature good for longer.
            seen.note(mark, at.min(now), now);
        }
        seen.log = Some(log);
        Ok(seen)
    }

    /// Takes a signature that is good, and says whether it may be answered.
    pub(super) fn admit(&mut self, mark: Mark, now: UnixMs) -> bool {
        if let Some(at) = self.note(mark, now, now) {
            return now - at <= REPEAT_MS;
        }
        if let Some(log) = &mut self.log {
            log.append(now, mark);
        }
        true
    }

    /// Remembers a signature that was seen at this time; when it was first seen, if it was before.
    fn note(&mut self, mark: Mark, at: UnixMs, now: UnixMs) -> Option<UnixMs> {
        while self.order.front().is_some_and(|(at, _)| now - at > KEPT_MS) || self.order.len() >= MAX_SEEN {
            let Some((_, old)) = self.order.pop_front() else { break };
            self.first.remove(&old);
        }
        if let Some(first) = self.first.get(&mark) {
            return Some(*first);
        }
        self.first.insert(mark, at);
        self.order.push_back((at, mark));
        None
    }
}

#[cfg(test)]
mod tests {
    use pagecast_testkit::scratch::Scratch;

    use super::*;

    #[test]
    fn the_same_bytes_are_answered_for_a_minute() {
        let mut seen = Seen::default();
        for (mark, now, good) in [
            (1, 0, true),
            (1, 0, true),
            (1, REPEAT_MS, true),
            (2, REPEAT_MS, true),
            (1, REPEAT_MS + 1, false),
            (2, REPEAT_MS + 1, true),
            (1, KEPT_MS, false),
        ] {
            assert_eq!(seen.admit([mark; 32], now), good, "{mark} at {now}");
        }
        assert!(seen.admit([1; 32], KEPT_MS + 1), "its date alone refuses it now");
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let folder = Scratch::new().unwrap();
        let mut seen = Seen::open(folder.path(), 0).unwrap();
        assert!(seen.admit([1; 32], 0) && seen.admit([2; 32], 1000) && seen.admit([1; 32], 2000));
        drop(seen);
        let mut seen = Seen::open(folder.path(), 5000).unwrap();
        assert!(seen.admit([1; 32], REPEAT_MS), "for a minute from when it was first seen");
        assert!(!seen.admit([1; 32], REPEAT_MS + 1) && seen.admit([2; 32], REPEAT_MS + 1));
        assert!(seen.admit([3; 32], REPEAT_MS + 2), "one that is new");
        drop(seen);
        let mut seen = Seen::open(folder.path(), 0).unwrap();
        assert!(!seen.admit([3; 32], REPEAT_MS + 1), "though the clock was set back meanwhile");
        drop(seen);
        let mut seen = Seen::open(folder.path(), KEPT_MS + REPEAT_MS).unwrap();
        assert!(seen.admit([1; 32], KEPT_MS + REPEAT_MS), "its date alone refuses it now");
        assert!(!seen.admit([3; 32], KEPT_MS + REPEAT_MS));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        let mark = |number: usize| {
            let mut mark = [0; 32];
            mark[..8].copy_from_slice(&number.to_le_bytes());
            mark
        };
        assert!((0..=MAX_SEEN).all(|number| seen.admit(mark(number), 0)));
        assert_eq!((seen.first.len(), seen.order.len()), (MAX_SEEN, MAX_SEEN));
        assert!(seen.admit(mark(0), REPEAT_MS + 1) && !seen.admit(mark(MAX_SEEN), REPEAT_MS + 1));
    }
}
