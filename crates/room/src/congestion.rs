//! Detects congestion of a link from packet loss and round-trip times. Sans-IO.
//!
//! A bandwidth estimate alone is no evidence. It is derived from packet timings and falls to a fraction of
//! the capacity when the receiver is busy, when a probe is stretched on its way, or when little was sent
//! before. A link that really is too narrow loses or delays packets within a fraction of a second. So an
//! estimate below the sent bitrate counts only together with loss or delay.

use std::time::{Duration, Instant};

/// Packet loss of the last second that is weak and strong evidence, 0 to 1. One lost packet per second of
/// audio alone is 2 %. At 10 %, Google's congestion control (draft-ietf-rmcat-gcc-02, section 6) lowers the
/// rate.
const WEAK_LOSS: f32 = 0.02;
const STRONG_LOSS: f32 = 0.10;
/// Queuing delay that is weak and strong evidence, if two measurements in a row have it. Schedulers of busy
/// machines delay a packet by up to 50 ms; the queue of a narrow link holds 100 ms and more.
const WEAK_DELAY: Duration = Duration::from_millis(50);
const STRONG_DELAY: Duration = Duration::from_millis(200);
/// How long evidence counts. Strong evidence outlasts the pausing of a video: less is sent during it, so the
/// link looks good again. Weak evidence counts for less time, because it is often over at once.
const WEAK_EVIDENCE_HOLD: Duration = Duration::from_secs(1);
const STRONG_EVIDENCE_HOLD: Duration = Duration::from_secs(3);
/// The usual round-trip time is the minimum of one to two such windows, so that a new route is accepted
/// after a minute at most.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(30);

/// Detects congestion of one link.
#[derive(Debug)]
pub(crate) struct CongestionDetector {
    /// Whether packets of the last second were acknowledged.
    has_feedback: bool,
    /// When the evidence, and the strong evidence, stops counting.
    congested_until: Option<Instant>,
    severe_until: Option<Instant>,
    /// When the link last became clear.
    clear_since: Option<Instant>,
    /// Queuing delay of the last measurement.
    last_queuing_delay: Duration,
    /// Minimum round-trip times of the previous and the current window, and the start of the current one.
    min_rtts: [Option<Duration>; 2],
    window_started_at: Option<Instant>,
}

impl CongestionDetector {
    /// A detector without measurements. `clear` says whether the link counts as clear until the first one.
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

    /// Records the latest round-trip time and the packet loss of the last second, 0 to 1. The loss is `None`
    /// if no packet of the last second was acknowledged.
    pub(crate) fn record(&mut self, now: Instant, rtt: Option<Duration>, loss: Option<f32>) {
        self.has_feedback = loss.is_some();
        let delay =
            rtt.filter(|_| self.has_feedback).map_or(Duration::ZERO, |rtt| self.queuing_delay(now, rtt));
        let (loss, lasting_delay) = (loss.unwrap_or(0.0), delay.min(self.last_queuing_delay));
        self.last_queuing_delay = delay;
        let evidence = if loss >= STRONG_LOSS || lasting_delay >= STRONG_DELAY {
            Some(STRONG_EVIDENCE_HOLD)
        } else if loss >= WEAK_LOSS || lasting_delay >= WEAK_DELAY {
            Some(WEAK_EVIDENCE_HOLD)
        } else {
            None
        };
        if let Some(hold) = evidence {
            self.congested_until = self.congested_until.max(Some(now + hold));
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

    /// Whether the link shows neither loss nor delay.
    pub(crate) fn is_clear(&self, now: Instant) -> bool {
        self.has_feedback && self.congested_until.is_none_or(|until| now >= until)
    }

    /// Whether packets of the last second were acknowledged, so that the state of the link is known.
    pub(crate) fn has_feedback(&self) -> bool {
        self.has_feedback
    }

    /// Whether loss or delay is so strong that the video should pause rather than use a smaller layer.
    pub(crate) fn is_severe(&self, now: Instant) -> bool {
        self.severe_until.is_some_and(|until| now < until)
    }

    /// How long the link has been clear.
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

    /// Takes measurements in ms and percent, one every 250 ms, and the expected state after each of them:
    /// `.` clear, `x` congested, `X` severe.
    fn check(measured: &[(u64, Option<u32>)], expected: &str) {
        let (mut detector, mut now) = (CongestionDetector::new(true), Instant::now());
        let mut found = String::new();
        for (rtt, loss) in measured {
            now += Duration::from_millis(250);
            let loss = loss.map(|percent| percent as f32 / 100.0);
            detector.record(now, Some(Duration::from_millis(*rtt)), loss);
            found.push(match (detector.is_clear(now), detector.is_severe(now)) {
                (true, _) => '.',
                (false, false) => 'x',
                (false, true) => 'X',
            });
        }
        assert_eq!(found, expected, "{measured:?}");
    }

    #[test]
    fn losses_and_growing_delays_are_evidence() {
        let good = (5, Some(0));
        check(&[good; 8], "........");
        // A busy scheduler: a single delay is no evidence.
        check(&[good, (90, Some(0)), good, (60, Some(0)), good], ".....");
        // Evidence counts for a second after the last measurement that shows it.
        check(&[good, (90, Some(0)), (90, Some(0)), good, good, good, good, good], "..xxxx..");
        check(&[good, (5, Some(3)), good, good, good, good, good], ".xxxx..");
        // A queue is full or overflows: the evidence lasts long enough to pause the video.
        let mut full = vec![good, (300, Some(0)), (300, Some(0))];
        full.extend([good; 13]);
        check(&full, "..XXXXXXXXXXXX..");
        let mut overflows = vec![good, (5, Some(40))];
        overflows.extend([good; 13]);
        check(&overflows, ".XXXXXXXXXXXX..");
        // No packet is acknowledged.
        check(&[good, (5, None), (5, None), good], ".xx.");
    }

    #[test]
    fn a_longer_route_becomes_the_usual_one() {
        let (mut detector, mut now) = (CongestionDetector::new(false), Instant::now());
        assert!(!detector.is_clear(now));
        let mut measure = |detector: &mut CongestionDetector, rtt: u64, seconds: u64| {
            for _ in 0..seconds * 4 {
                now += Duration::from_millis(250);
                detector.record(now, Some(Duration::from_millis(rtt)), Some(0.0));
            }
            (detector.is_clear(now), detector.clear_duration(now).as_secs())
        };
        assert_eq!(measure(&mut detector, 10, 5), (true, 4));
        assert_eq!(measure(&mut detector, 110, 10), (false, 0));
        assert!(measure(&mut detector, 110, 61).0);
    }
}
