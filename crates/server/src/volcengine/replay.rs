//! Replay protection: remembers the signatures of accepted requests.
//!
//! A signature is valid from 15 minutes before its date to an hour after it. Dates count whole seconds and
//! nothing in a request is random, so two equal calls in one second are the same bytes, and so are retries
//! below an SDK. The same signature is therefore accepted again for a minute, which is harmless because start
//! and stop are idempotent. No SDK repeats it later, when it could restart a task that was stopped meanwhile.
//!
//! [`SeenSignatures::open`] keeps the signatures on disk, so that a restart does not make old requests valid
//! again. In a fleet, each node tells the others which signatures it has accepted ([`sharing`]).

mod log;
pub(super) mod sharing;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;

use pagecast_fleet::UnixMs;

use super::signature::{MAX_CLOCK_SKEW_MS, MAX_EXPIRES_MS};
use log::SignatureLog;
use sharing::SharedSignatures;

/// Time after its first use in which a signature is accepted again, in milliseconds.
pub(super) const REPEAT_WINDOW_MS: i64 = 60_000;
/// Most signatures in memory: those that one key can send at the full rate of both changing actions while
/// they are valid. When several keys exceed that, the oldest are dropped.
const MAX_SIGNATURES: usize = 300 * 2 * 900;
/// Longest time that a signature is valid, in milliseconds: the clock skew before its date and the longest
/// expiry after it.
const MAX_SIGNATURE_AGE_MS: i64 = MAX_CLOCK_SKEW_MS + MAX_EXPIRES_MS;

/// Signature in binary.
pub(super) type Signature = [u8; 32];

/// Whether a request may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is new, or the repetition of a new one.
    Admitted,
    /// Its signature was used too long ago.
    Replayed,
    /// The database of the fleet is away, so another node may have answered it.
    Unknown,
}

/// Signatures with the time of their first use.
#[derive(Debug, Default)]
pub(super) struct SeenSignatures {
    by_time: VecDeque<(UnixMs, Signature)>,
    first_seen: HashMap<Signature, UnixMs>,
    /// Log on disk; `None` in tests that need no disk.
    log: Option<SignatureLog>,
    /// What the other nodes of the fleet know and are told; `None` if there are none.
    shared: Option<SharedSignatures>,
}

impl SeenSignatures {
    /// Reads the log in this folder, and writes new signatures to it.
    ///
    /// If the files in the folder cannot be read or written.
    pub(super) fn open(folder: &Path, now: UnixMs) -> io::Result<Self> {
        let (log, records) = SignatureLog::open(folder, MAX_SIGNATURES)?;
        let mut seen = Self::default();
        for (at, signature) in records {
            // A clock that was set back must not extend a signature.
            seen.remember(signature, at.min(now), now);
        }
        seen.log = Some(log);
        Ok(seen)
    }

    /// Records a verified signature, and decides whether its request may run.
    pub(super) fn admit(&mut self, signature: Signature, now: UnixMs) -> Admission {
        if self.shared.as_ref().is_some_and(|shared| !shared.is_current()) {
            return Admission::Unknown;
        }
        if let Some(at) = self.remember(signature, now, now) {
            let is_repeat = now - at <= REPEAT_WINDOW_MS;
            return if is_repeat { Admission::Admitted } else { Admission::Replayed };
        }
        if let Some(log) = &mut self.log {
            log.append(now, signature);
        }
        if let Some(shared) = &mut self.shared {
            shared.push(signature, now);
        }
        Admission::Admitted
    }

    /// Records a signature first used at this time. Returns the time of its first use if it was known before.
    fn remember(&mut self, signature: Signature, at: UnixMs, now: UnixMs) -> Option<UnixMs> {
        while self.by_time.front().is_some_and(|(at, _)| now - at > MAX_SIGNATURE_AGE_MS)
            || self.by_time.len() >= MAX_SIGNATURES
        {
            let Some((_, old)) = self.by_time.pop_front() else { break };
            self.first_seen.remove(&old);
        }
        if let Some(first) = self.first_seen.get(&signature) {
            return Some(*first);
        }
        self.first_seen.insert(signature, at);
        self.by_time.push_back((at, signature));
        None
    }
}

#[cfg(test)]
mod tests {
    use pagecast_testkit::scratch::ScratchDir;

    use super::*;

    impl SeenSignatures {
        fn admits(&mut self, signature: Signature, now: UnixMs) -> bool {
            self.admit(signature, now) == Admission::Admitted
        }
    }

    #[test]
    fn a_repeated_signature_is_admitted_for_a_minute() {
        let mut seen = SeenSignatures::default();
        for (signature, now, good) in [
            (1, 0, true),
            (1, 0, true),
            (1, REPEAT_WINDOW_MS, true),
            (2, REPEAT_WINDOW_MS, true),
            (1, REPEAT_WINDOW_MS + 1, false),
            (2, REPEAT_WINDOW_MS + 1, true),
            (1, MAX_SIGNATURE_AGE_MS, false),
        ] {
            assert_eq!(seen.admits([signature; 32], now), good, "{signature} at {now}");
        }
        assert!(seen.admits([1; 32], MAX_SIGNATURE_AGE_MS + 1), "an expired date is refused elsewhere");
    }

    #[test]
    fn signatures_are_remembered_over_a_restart() {
        let folder = ScratchDir::new().unwrap();
        let mut seen = SeenSignatures::open(folder.path(), 0).unwrap();
        assert!(seen.admits([1; 32], 0) && seen.admits([2; 32], 1000) && seen.admits([1; 32], 2000));
        drop(seen);
        let mut seen = SeenSignatures::open(folder.path(), 5000).unwrap();
        assert!(seen.admits([1; 32], REPEAT_WINDOW_MS), "a minute from its first use");
        assert!(!seen.admits([1; 32], REPEAT_WINDOW_MS + 1) && seen.admits([2; 32], REPEAT_WINDOW_MS + 1));
        assert!(seen.admits([3; 32], REPEAT_WINDOW_MS + 2), "a new signature");
        drop(seen);
        let mut seen = SeenSignatures::open(folder.path(), 0).unwrap();
        assert!(
            !seen.admits([3; 32], REPEAT_WINDOW_MS + 1),
            "the clock was set back, but the signature is known"
        );
        drop(seen);
        let mut seen = SeenSignatures::open(folder.path(), MAX_SIGNATURE_AGE_MS + REPEAT_WINDOW_MS).unwrap();
        assert!(
            seen.admits([1; 32], MAX_SIGNATURE_AGE_MS + REPEAT_WINDOW_MS),
            "an expired date is refused elsewhere"
        );
        assert!(!seen.admits([3; 32], MAX_SIGNATURE_AGE_MS + REPEAT_WINDOW_MS));
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = SeenSignatures::default();
        let signature = |number: usize| {
            let mut signature = [0; 32];
            signature[..8].copy_from_slice(&number.to_le_bytes());
            signature
        };
        assert!((0..=MAX_SIGNATURES).all(|number| seen.admits(signature(number), 0)));
        assert_eq!((seen.first_seen.len(), seen.by_time.len()), (MAX_SIGNATURES, MAX_SIGNATURES));
        assert!(
            seen.admits(signature(0), REPEAT_WINDOW_MS + 1)
                && !seen.admits(signature(MAX_SIGNATURES), REPEAT_WINDOW_MS + 1)
        );
    }
}
