//! Whether a line shows that it carries less than what is sent. Sans-IO.
//!
//! A bandwidth estimate alone is no evidence. It is made of packet timings, and it falls to a fraction of
//! what the line carries when the receiver is busy, when a probe is stretched on its way, or when little was
//! sent before. A line that really is too narrow loses packets or holds them up, within a fraction of a
//! second. So an estimate below what is sent is believed only then.

use std::time::{Duration, Instant};

/// Part of the packets of the last second whose loss is evidence, and strong evidence. One lost packet a
/// second of sound alone is 2 %; 10 % is where Google's congestion control (draft-ietf-rmcat-gcc-02, section
/// 6) lowers the rate.
const WEAK_LOSS: f32 = 0.02;
const STRONG_LOSS: f32 = 0.10;
/// How much longer than usual the round trip must take to be evidence, and strong evidence, in two
/// measurements in a row. Schedulers of busy machines delay a packet by up to 50 ms; the queue of a narrow
/// line holds 100 ms and more.
const WEAK_DELAY: Duration = Duration::from_millis(50);
const STRONG_DELAY: Duration = Duration::from_millis(200);
/// How long evidence counts. Strong evidence counts for longer than a picture takes to be paused, as what is
/// sent shrinks meanwhile and the line looks good again; weak evidence for less, as it passes.
const WEAK_EVIDENCE_HOLD: Duration = Duration::from_secs(1);
const STRONG_EVIDENCE_HOLD: Duration = Duration::from_secs(3);
/// The usual round trip is the shortest of one to two such windows, so that a new route is accepted after a
/// minute at most.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(30);

/// What losses and round trips say about one line.
#[derive(Debug)]
pub(crate) struct CongestionDetector {
    /// Whether packets of the last second were acknowledged.
    has_feedback: bool,
    /// Until when there is evidence, and strong evidence.
    congested_until: Option<Instant>,
    severe_until: Option<Instant>,
    /// Since when there is none.
    clear_since: Option<Instant>,
    /// By how much the last round trip was longer than usual.
    last_queuing_delay: Duration,
    /// The shortest round trip of the window before and of this one, and when this one began.
    min_rtts: [Option<Duration>; 2],
    window_started_at: Option<Instant>,
}

impl CongestionDetector {
    /// A line of which nothing was measured. Whether it is `clear` until then is up to the caller.
    pub(crate) fn new(clear: bool) -> Self {
        Self {
            has_feedback: clear,
            congested_until: None,
            severe_until: None,
            clear_since: None,
            last_queuing_delay: Duration::ZERO,
            min_rtts: [None; 2],
            window_started_at: None,
        }
    }

    /// Takes the latest round trip and the part of the last second's packets that was lost, 0 to 1. No loss
    /// is known if no packet of the last second was acknowledged.
    pub(crate) fn record(&mut self, now: Instant, rtt: Option<Duration>, loss: Option<f32>) {
        self.has_feedback = loss.is_some();
        let delay =
            rtt.filter(|_| self.has_feedback).map_or(Duration::ZERO, |rtt| self.queuing_delay(now, rtt));
        let (loss, twice) = (loss.unwrap_or(0.0), delay.min(self.last_queuing_delay));
        self.last_queuing_delay = delay;
        let evidence = if loss >= STRONG_LOSS || twice >= STRONG_DELAY {
            Some(STRONG_EVIDENCE_HOLD)
        } else if loss >= WEAK_LOSS || twice >= WEAK_DELAY {
            Some(WEAK_EVIDENCE_HOLD)
        } else {
            None
        };
        if let Some(lasts) = evidence {
            self.congested_until = self.congested_until.max(Some(now + lasts));
        }
        if evidence == Some(STRONG_EVIDENCE_HOLD) {
            self.severe_until = Some(now + STRONG_EVIDENCE_HOLD);
        }
        if self.is_clear(now) {
            self.clear_since.get_or_insert(now);
        } else {
            self.clear_since = None;
        }
    }

    /// Whether the line carries what is sent, as far as it shows: nothing is lost, and nothing is held up.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.has_feedback && self.congested_until.is_none_or(|until| now >= until)
    }

    /// Whether packets of the last second were acknowledged, so that it is known how the line is.
    pub(crate) fn has_feedback(&self) -> bool {
        self.has_feedback
    }

    /// Whether much is lost, or held up for long: enough to take a picture away rather than to make it
    /// smaller.
    pub(crate) fn is_severe(&self, now: Instant) -> bool {
        self.severe_until.is_some_and(|until| now < until)
    }

    /// How long it has been clear.
    pub(crate) fn clear_duration(&self, now: Instant) -> Duration {
        let since = self.clear_since.filter(|_| self.is_clear(now));
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn queuing_delay(&mut self, now: Instant, rtt: Duration) -> Duration {
        if self.window_started_at.is_none_or(|began| now.saturating_duration_since(began) >= MIN_RTT_WINDOW) {
            (self.min_rtts, self.window_started_at) = ([self.min_rtts[1], None], Some(now));
        }
        let this = self.min_rtts[1].map_or(rtt, |shortest| shortest.min(rtt));
        self.min_rtts[1] = Some(this);
        rtt.saturating_sub(self.min_rtts[0].map_or(this, |before| before.min(this)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measurements in ms and percent, one each 250 ms, and how the line is after each of them: clear,
    /// congested or jammed.
    fn check(measured: &[(u64, Option<u32>)], clear: &str) {
        let (mut line, mut now, mut found) = (CongestionDetector::new(true), Instant::now(), String::new());
        for (rtt, loss) in measured {
            now += Duration::from_millis(250);
            line.record(now, Some(Duration::from_millis(*rtt)), loss.map(|percent| percent as f32 / 100.0));
            found.push(match (line.is_clear(now), line.is_severe(now)) {
                (true, _) => '.',
                (false, false) => 'x',
                (false, true) => 'X',
            });
        }
        assert_eq!(found, clear, "{measured:?}");
    }

    #[test]
    fn losses_and_growing_delays_are_evidence() {
        let good = (5, Some(0));
        check(&[good; 8], "........");
        // A busy scheduler: once is nothing.
        check(&[good, (90, Some(0)), good, (60, Some(0)), good], ".....");
        // It lasts: a second after the last time.
        check(&[good, (90, Some(0)), (90, Some(0)), good, good, good, good, good], "..xxxx..");
        check(&[good, (5, Some(3)), good, good, good, good, good], ".xxxx..");
        // A queue that is full, or overflows: long enough for a picture to be paused.
        let mut full = vec![good, (300, Some(0)), (300, Some(0))];
        full.extend([good; 13]);
        check(&full, "..XXXXXXXXXXXX..");
        let mut overflows = vec![good, (5, Some(40))];
        overflows.extend([good; 13]);
        check(&overflows, ".XXXXXXXXXXXX..");
        // Nobody acknowledges anything.
        check(&[good, (5, None), (5, None), good], ".xx.");
    }

    #[test]
    fn a_longer_route_becomes_the_usual_one() {
        let (mut line, mut now) = (CongestionDetector::new(false), Instant::now());
        assert!(!line.is_clear(now));
        let mut pass = |line: &mut CongestionDetector, rtt: u64, seconds: u64| {
            for _ in 0..seconds * 4 {
                now += Duration::from_millis(250);
                line.record(now, Some(Duration::from_millis(rtt)), Some(0.0));
            }
            (line.is_clear(now), line.clear_duration(now).as_secs())
        };
        assert_eq!(pass(&mut line, 10, 5), (true, 4));
        assert_eq!(pass(&mut line, 110, 10), (false, 0));
        assert!(pass(&mut line, 110, 61).0);
    }
}
