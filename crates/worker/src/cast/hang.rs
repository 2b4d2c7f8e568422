//! Hang detection: the page's scripts are pinged again and again, and long silences are recorded.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Time between an answer and the next ping. A ping costs a page at rest a fraction of a millisecond.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest silence that counts as a hang: shorter ones are the ordinary work of a heavy page.
const MIN_HANG_DURATION: Duration = Duration::from_secs(2);
/// Most hangs kept for the report: a page with more of them repeats itself.
const MAX_HANGS: usize = 100;

/// A period in which the page's scripts did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    /// Milliseconds from the start of the cast to the ping that was not answered, up to a second after the
    /// scripts stopped.
    pub at_ms: u64,
    /// Milliseconds until the answer, or until the page was reloaded or the cast ended.
    pub duration_ms: u64,
}

/// Pings a page and records its silences; `P` is a pending ping.
#[derive(Debug)]
pub(super) struct HangDetector<P> {
    /// Start of the cast.
    began: Instant,
    /// The ping that is not answered yet, and when it was sent.
    pending_ping: Option<(Instant, P)>,
    next_ping_at: Instant,
    /// Whether the last of the hangs continues.
    is_hanging: bool,
    hangs: Vec<Hang>,
}

impl<P> HangDetector<P> {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, pending_ping: None, next_ping_at: began, is_hanging: false, hangs: Vec::new() }
    }

    /// Checks whether the ping was answered, and sends the next one when it is due.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        is_answered: impl Fn(&P) -> bool,
        send_ping: impl FnOnce() -> Option<P>,
    ) {
        if let Some((at, ping)) = &self.pending_ping {
            let (at, answered) = (*at, is_answered(ping));
            self.record_hang(at, now);
            if !answered {
                return;
            }
            (self.pending_ping, self.is_hanging, self.next_ping_at) = (None, false, now + PING_INTERVAL);
        }
        if now >= self.next_ping_at
            && let Some(ping) = send_ping()
        {
            self.pending_ping = Some((now, ping));
        }
    }

    /// Returns how long the scripts have been silent.
    pub(super) fn unresponsive_for(&self, now: Instant) -> Duration {
        self.pending_ping.as_ref().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at))
    }

    /// Forgets the pending ping: the page was replaced and will not answer it.
    pub(super) fn reset(&mut self, now: Instant) {
        if let Some((at, _)) = self.pending_ping.take() {
            self.record_hang(at, now);
        }
        (self.is_hanging, self.next_ping_at) = (false, now);
    }

    /// Returns all hangs so far, in order.
    pub(super) fn take_hangs(&mut self, now: Instant) -> Vec<Hang> {
        self.reset(now);
        std::mem::take(&mut self.hangs)
    }

    fn record_hang(&mut self, since: Instant, now: Instant) {
        let silence = now.saturating_duration_since(since);
        if silence < MIN_HANG_DURATION {
            return;
        }
        let ms = super::driver::millis(silence);
        if self.is_hanging {
            if let Some(last) = self.hangs.last_mut() {
                last.duration_ms = ms;
            }
        } else if self.hangs.len() < MAX_HANGS {
            let at_ms = super::driver::millis(since.saturating_duration_since(self.began));
            self.hangs.push(Hang { at_ms, duration_ms: ms });
            self.is_hanging = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls every 50 ms; the page answers except during these hangs, given as start and length in
    /// milliseconds.
    fn detect(hangs: &[(u64, u64)], until_ms: u64) -> Vec<Hang> {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut detector = HangDetector::new(began);
        for ms in (0..until_ms).step_by(50) {
            let runs = !hangs.iter().any(|(from, length)| (*from..from + length).contains(&ms));
            detector.poll(at(ms), |()| runs, || Some(()));
            assert!(detector.unresponsive_for(at(ms)) <= Duration::from_millis(ms));
        }
        detector.take_hangs(at(until_ms))
    }

    #[test]
    fn long_hangs_are_recorded_with_their_length() {
        assert_eq!(detect(&[], 60_000), []);
        assert_eq!(detect(&[(10_000, 1900)], 60_000), [], "hangs below 2 s are not recorded");
        let hangs = detect(&[(10_000, 5000), (30_000, 12_000)], 60_000);
        assert_eq!(hangs.len(), 2);
        for (hang, (at_ms, ms)) in hangs.iter().zip([(10_000, 5000), (30_000, 12_000)]) {
            assert!((at_ms..=at_ms + 1050).contains(&hang.at_ms), "{hang:?}");
            assert!((ms - 1050..=ms + 50).contains(&hang.duration_ms), "{hang:?}");
        }
        let last = detect(&[(10_000, 90_000)], 20_000);
        assert!(last.len() == 1 && last[0].duration_ms >= 8900, "a hang that lasts to the end: {last:?}");
    }

    #[test]
    fn the_number_of_recorded_hangs_is_bounded() {
        let hangs: Vec<_> = (0..300).map(|n| (n * 10_000, 5000)).collect();
        assert_eq!(detect(&hangs, 3_000_000).len(), MAX_HANGS);
    }

    #[test]
    fn a_new_page_need_not_answer_for_the_previous_one() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut detector = HangDetector::new(began);
        detector.poll(at(0), |()| false, || Some(()));
        detector.poll(at(3000), |()| false, || Some(()));
        assert_eq!(detector.unresponsive_for(at(3000)), Duration::from_secs(3));
        detector.reset(at(4000));
        assert_eq!(detector.unresponsive_for(at(4000)), Duration::ZERO);
        detector.poll(at(4050), |()| false, || Some(()));
        assert_eq!(detector.unresponsive_for(at(4100)), Duration::from_millis(50));
        assert_eq!(detector.take_hangs(at(4100)), [Hang { at_ms: 0, duration_ms: 4000 }]);
    }
}
