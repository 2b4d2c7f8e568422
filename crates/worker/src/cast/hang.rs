//! Hang detection: the page's scripts are pinged again and again, and long silences are recorded.

use std::time::Duration;

use pagecast_core::HostTime;
use serde::{Deserialize, Serialize};

/// Time between two pings. A ping costs a page at rest a fraction of a millisecond.
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

/// Input of the [`HangDetector`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The pending ping was answered at this time.
    Answered(HostTime),
    /// The page is replaced, and will not answer the pending ping.
    PageReplaced,
}

/// Output of the [`HangDetector`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Ping the page; [`Input::Answered`] is its answer.
    SendPing,
    /// The page has not answered for as long as it may.
    Unresponsive,
}

/// A ping that is not answered.
#[derive(Debug, Clone, Copy)]
struct PendingPing {
    sent_at: HostTime,
    /// [`Output::Unresponsive`] was returned.
    reported: bool,
}

/// Decides when a page is pinged, and records its silences. Sans-IO, like the cast's state machine.
#[derive(Debug)]
pub(super) struct HangDetector {
    /// Start of the cast.
    began: HostTime,
    /// How long a page may be silent; `None` pings it never.
    limit: Option<Duration>,
    pending: Option<PendingPing>,
    /// When the next ping is sent, or the pending one is checked.
    next_check_at: HostTime,
    hangs: Vec<Hang>,
}

impl HangDetector {
    pub(super) fn new(began: HostTime, limit: Option<Duration>) -> Self {
        Self { began, limit, pending: None, next_check_at: began, hangs: Vec::new() }
    }

    /// Processes an input at time `now`.
    pub(super) fn handle(&mut self, now: HostTime, input: Input) {
        let until = match input {
            Input::Answered(at) => at,
            Input::PageReplaced => {
                self.next_check_at = now;
                now
            }
        };
        if let Some(ping) = self.pending.take() {
            self.record_silence(ping.sent_at, until);
        }
    }

    /// Returns what to do at `now`, if anything.
    pub(super) fn poll(&mut self, now: HostTime) -> Option<Output> {
        let limit = self.limit?;
        if let Some(ping) = &mut self.pending
            && !ping.reported
            && ping.sent_at + limit <= now
        {
            ping.reported = true;
            return Some(Output::Unresponsive);
        }
        if now < self.next_check_at {
            return None;
        }
        self.next_check_at = now + PING_INTERVAL;
        if self.pending.is_some() {
            return None;
        }
        self.pending = Some(PendingPing { sent_at: now, reported: false });
        Some(Output::SendPing)
    }

    /// When to call [`HangDetector::poll`] next, after an answer was handed in if there is one.
    pub(super) fn deadline(&self) -> Option<HostTime> {
        let limit = self.limit?;
        let unreported = self.pending.filter(|ping| !ping.reported);
        Some(unreported.map_or(self.next_check_at, |ping| self.next_check_at.min(ping.sent_at + limit)))
    }

    /// Returns how long the scripts have been silent.
    pub(super) fn unresponsive_for(&self, now: HostTime) -> Duration {
        self.pending.map_or(Duration::ZERO, |ping| now.since(ping.sent_at))
    }

    /// Returns all hangs so far, in order.
    pub(super) fn take_hangs(&mut self, now: HostTime) -> Vec<Hang> {
        self.handle(now, Input::PageReplaced);
        std::mem::take(&mut self.hangs)
    }

    fn record_silence(&mut self, since: HostTime, until: HostTime) {
        let silence = until.since(since);
        if silence >= MIN_HANG_DURATION && self.hangs.len() < MAX_HANGS {
            let at_ms = super::driver::millis(since.since(self.began));
            self.hangs.push(Hang { at_ms, duration_ms: super::driver::millis(silence) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> HostTime {
        HostTime(1234) + Duration::from_millis(ms)
    }

    /// Calls the detector at its deadlines; the page answers except during these hangs, given as start and
    /// length in milliseconds.
    fn detect(hangs: &[(u64, u64)], until_ms: u64) -> Vec<Hang> {
        let mut detector = HangDetector::new(at(0), Some(Duration::from_secs(3600)));
        let mut answered_at = None;
        loop {
            let now = detector.deadline().unwrap();
            if now >= at(until_ms) {
                return detector.take_hangs(at(until_ms));
            }
            if let Some(answer) = answered_at.take_if(|answer| *answer <= now) {
                detector.handle(now, Input::Answered(answer));
            }
            while let Some(output) = detector.poll(now) {
                assert_eq!(output, Output::SendPing);
                let hang = hangs.iter().find(|(from, length)| (at(*from)..at(from + length)).contains(&now));
                answered_at = Some(hang.map_or(now, |(from, length)| at(from + length)));
            }
            assert!(detector.deadline().is_some_and(|next| next > now), "it wakes nobody for nothing");
        }
    }

    #[test]
    fn long_hangs_are_recorded_with_their_length() {
        assert_eq!(detect(&[], 60_000), []);
        assert_eq!(detect(&[(10_000, 1900)], 60_000), [], "hangs below 2 s are not recorded");
        let hangs = detect(&[(10_000, 5000), (30_000, 12_000)], 60_000);
        assert_eq!(hangs.len(), 2);
        for (hang, (at_ms, ms)) in hangs.iter().zip([(10_000, 5000), (30_000, 12_000)]) {
            assert!((at_ms..=at_ms + 1000).contains(&hang.at_ms), "{hang:?}");
            assert_eq!(hang.at_ms + hang.duration_ms, at_ms + ms, "the answer's own time counts");
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
    fn a_page_that_is_silent_too_long_is_reported_once_and_on_time() {
        let mut detector = HangDetector::new(at(0), Some(Duration::from_millis(2500)));
        assert_eq!(detector.poll(at(0)), Some(Output::SendPing));
        let mut reports = Vec::new();
        for _ in 0..10 {
            let now = detector.deadline().unwrap();
            while let Some(output) = detector.poll(now) {
                reports.push((now, output));
            }
        }
        assert_eq!(reports, [(at(2500), Output::Unresponsive)]);
        let mut unlimited = HangDetector::new(at(0), None);
        assert_eq!((unlimited.deadline(), unlimited.poll(at(5000))), (None, None));
    }

    #[test]
    fn a_new_page_need_not_answer_for_the_previous_one() {
        let mut detector = HangDetector::new(at(0), Some(Duration::from_secs(60)));
        assert_eq!(detector.poll(at(0)), Some(Output::SendPing));
        assert_eq!(detector.unresponsive_for(at(3000)), Duration::from_secs(3));
        detector.handle(at(4000), Input::PageReplaced);
        assert_eq!(detector.unresponsive_for(at(4000)), Duration::ZERO);
        assert_eq!(detector.poll(at(4050)), Some(Output::SendPing));
        assert_eq!(detector.unresponsive_for(at(4100)), Duration::from_millis(50));
        assert_eq!(detector.take_hangs(at(4100)), [Hang { at_ms: 0, duration_ms: 4000 }]);
    }
}
