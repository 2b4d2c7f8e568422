//! Signatures that were seen before.
//!
//! A signature holds for 15 minutes before its date and up to an hour behind it, which counts whole seconds,
//! and nothing in it is random: two equal calls in the same second are the same bytes, and what repeats a
//! request below an SDK repeats its signature too. So the same signature is answered again for a minute,
//! which does no harm because starting and stopping can be repeated; later than that, no SDK sends it, and it
//! could start a task again that was stopped meanwhile.
//!
//! [`Seen::open`] keeps them on the disk ([`log_failures`]), so that a restart of the service makes no old request
//! good again.

mod log;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

use pagecast_fleet::UnixMs;

use super::signature::{MAX_CLOCK_SKEW_MS, MAX_EXPIRES_MS};
use log::SignatureLog;

/// How long after it was first seen the same signature is answered again.
pub(super) const REPEAT_WINDOW_MS: i64 = 60_000;
/// Signatures that are remembered: what a key can send while they hold, of both actions that change
/// something, at their full rates. Full, because several keys do: the oldest is forgotten.
const MAX_SIGNATURES: usize = 300 * 2 * 900;
/// Longest time that a signature holds: from the end of the window before its date to the end of that behind
/// it.
const MAX_SIGNATURE_AGE_MS: i64 = MAX_CLOCK_SKEW_MS + MAX_EXPIRES_MS;

/// A signature in binary.
pub(super) type Signature = [u8; 32];

/// What was seen, and when first.
#[derive(Debug, Default)]
pub(super) struct SeenSignatures {
    by_time: VecDeque<(UnixMs, Signature)>,
    first_seen: HashMap<Signature, UnixMs>,
    /// Where it is kept over a restart; `None` in tests that need no disk.
    log: Option<SignatureLog>,
}

impl SeenSignatures {
    /// Reads what a service that had this folder before has seen, and keeps there what is seen from now on.
    ///
    /// # Errors
    /// The files in the folder cannot be read or written.
    pub(super) fn open(folder: &Path, now: UnixMs) -> io::Result<Self> {
        let (log, records) = SignatureLog::open(folder, MAX_SIGNATURES)?;
        let mut seen = Self::default();
        for (at, mark) in records {
            // A clock that was set back must not make a signature good for longer.
            seen.remember(mark, at.min(now), now);
        }
        seen.log = Some(log);
        Ok(seen)
    }

    /// Takes a signature that is good, and says whether it may be answered.
    pub(super) fn admit(&mut self, mark: Signature, now: UnixMs) -> bool {
        if let Some(at) = self.remember(mark, now, now) {
            return now - at <= REPEAT_WINDOW_MS;
        }
        if let Some(log) = &mut self.log {
            log.append(now, mark);
        }
        true
    }

    /// Remembers a signature that was seen at this time; when it was first seen, if it was before.
    fn remember(&mut self, mark: Signature, at: UnixMs, now: UnixMs) -> Option<UnixMs> {
        while self.by_time.front().is_some_and(|(at, _)| now - at > MAX_SIGNATURE_AGE_MS)
            || self.by_time.len() >= MAX_SIGNATURES
        {
            let Some((_, old)) = self.by_time.pop_front() else { break };
            self.first_seen.remove(&old);
        }
        if let Some(first) = self.first_seen.get(&mark) {
            return Some(*first);
        }
        self.first_seen.insert(mark, at);
        self.by_time.push_back((at, mark));
        None
    }
}

#[cfg(test)]
mod tests {
    use pagecast_testkit::scratch::ScratchDir;

    use super::*;

    #[test]
    fn the_same_bytes_are_answered_for_a_minute() {
        let mut seen = SeenSignatures::default();
        for (mark, now, good) in [
            (1, 0, true),
            (1, 0, true),
            (1, REPEAT_WINDOW_MS, true),
            (2, REPEAT_WINDOW_MS, true),
            (1, REPEAT_WINDOW_MS + 1, false),
            (2, REPEAT_WINDOW_MS + 1, true),
            (1, MAX_SIGNATURE_AGE_MS, false),
        ] {
            assert_eq!(seen.admit([mark; 32], now), good, "{mark} at {now}");
        }
        assert!(seen.admit([1; 32], MAX_SIGNATURE_AGE_MS + 1), "its date alone refuses it now");
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let folder = ScratchDir::new().unwrap();
        let mut seen = SeenSignatures::open(folder.path(), 0).unwrap();
        assert!(seen.admit([1; 32], 0) && seen.admit([2; 32], 1000) && seen.admit([1; 32], 2000));
        drop(seen);
        let mut seen = SeenSignatures::open(folder.path(), 5000).unwrap();
        assert!(seen.admit([1; 32], REPEAT_WINDOW_MS), "for a minute from when it was first seen");
        assert!(!seen.admit([1; 32], REPEAT_WINDOW_MS + 1) && seen.admit([2; 32], REPEAT_WINDOW_MS + 1));
        assert!(seen.admit([3; 32], REPEAT_WINDOW_MS + 2), "one that is new");
        drop(seen);
        let mut seen = SeenSignatures::open(folder.path(), 0).unwrap();
        assert!(!seen.admit([3; 32], REPEAT_WINDOW_MS + 1), "though the clock was set back meanwhile");
        drop(seen);
        let mut seen = SeenSignatures::open(folder.path(), MAX_SIGNATURE_AGE_MS + REPEAT_WINDOW_MS).unwrap();
        assert!(
            seen.admit([1; 32], MAX_SIGNATURE_AGE_MS + REPEAT_WINDOW_MS),
            "its date alone refuses it now"
        );
        assert!(!seen.admit([3; 32], MAX_SIGNATURE_AGE_MS + REPEAT_WINDOW_MS));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = SeenSignatures::default();
        let mark = |number: usize| {
            let mut mark = [0; 32];
            mark[..8].copy_from_slice(&number.to_le_bytes());
            mark
        };
        assert!((0..=MAX_SIGNATURES).all(|number| seen.admit(mark(number), 0)));
        assert_eq!((seen.first_seen.len(), seen.by_time.len()), (MAX_SIGNATURES, MAX_SIGNATURES));
        assert!(
            seen.admit(mark(0), REPEAT_WINDOW_MS + 1)
                && !seen.admit(mark(MAX_SIGNATURES), REPEAT_WINDOW_MS + 1)
        );
    }
}
