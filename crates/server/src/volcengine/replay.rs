//! Signatures that were seen before.
//!
//! A signature holds for 15 minutes before its date and up to an hour behind it, which counts whole seconds, and nothing in it is random: two equal
//! calls in the same second are the same bytes, and what repeats a request below an SDK repeats its signature too. So the same
//! signature is answered again for a minute, which does no harm because starting and stopping can be repeated; later than that, no
//! SDK sends it, and it could start a task again that was stopped meanwhile.

use std::collections::{HashMap, VecDeque};

use pagecast_fleet::UnixMs;

use super::sign::{MAX_EXPIRES_MS, WINDOW_MS};

/// How long after it was first seen the same signature is answered again.
pub(super) const REPEAT_MS: i64 = 60_000;
/// Signatures that are remembered: what a key can send while they hold, of both actions that change something, at their full rates. Full,
/// because several keys do: the oldest is forgotten.
const MAX_SEEN: usize = 300 * 2 * 900;
/// Longest time that a signature holds: from the end of the window before its date to the end of that behind it.
const KEPT_MS: i64 = WINDOW_MS + MAX_EXPIRES_MS;

/// A signature in binary.
pub(super) type Mark = [u8; 32];

/// What was seen, and when first. Not kept over a restart.
#[derive(Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<(UnixMs, Mark)>,
    first: HashMap<Mark, UnixMs>,
}

impl Seen {
    /// Takes a signature that is good, and says whether it may be answered.
    pub(super) fn admit(&mut self, mark: Mark, now: UnixMs) -> bool {
        while self.order.front().is_some_and(|(at, _)| now - at > KEPT_MS) || self.order.len() >= MAX_SEEN {
            let Some((_, old)) = self.order.pop_front() else { break };
            self.first.remove(&old);
        }
        if let Some(at) = self.first.get(&mark) {
            return now - at <= REPEAT_MS;
        }
        self.first.insert(mark, now);
        self.order.push_back((now, mark));
        true
    }
}

#[cfg(test)]
mod tests {
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
