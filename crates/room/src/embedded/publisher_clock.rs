//! Maps the RTP time stamps of a publisher to capture times by the local clock.
//!
//! Audio and video have separate RTP time stamps, and the publisher's sender reports relate them to its
//! clock. That clock is aligned with the local one so that no capture time is after the arrival. Viewers get
//! the capture times in sender reports and synchronize audio and video by them.

use std::time::{Duration, Instant};

use crate::rtc::answerer::media::{SenderReport, Track};

/// Longest plausible time from capture to arrival. A longer one means that the clocks are misaligned.
const MAX_LAG: Duration = Duration::from_secs(2);
/// Interval of drift corrections.
const DRIFT_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Largest drift correction per interval, 200 ppm: clocks drift apart by less.
const MAX_DRIFT_CORRECTION: Duration = Duration::from_millis(2);

/// The clock of one publisher.
#[derive(Debug, Default)]
pub(super) struct PublisherClock {
    tracks: Vec<(Track, TrackTiming)>,
    /// The same moment by the publisher's clock and by the local one.
    anchor: Option<(Duration, Instant)>,
    /// Start of the current drift interval, and the smallest lag in it.
    min_lag: Option<(Instant, Duration)>,
}

/// Timing of one track.
#[derive(Debug, Default)]
struct TrackTiming {
    sender_report: Option<SenderReport>,
    /// A time stamp and its local time, used before the first sender report.
    provisional: Option<(u32, Instant)>,
}

impl PublisherClock {
    /// Records a sender report.
    pub(super) fn on_sender_report(&mut self, track: Track, report: SenderReport) {
        self.timing(track).sender_report = Some(report);
    }

    /// The capture time of a time stamp that arrives `now`. `rate` is in ticks per second.
    pub(super) fn capture_time(&mut self, now: Instant, track: Track, rate: u32, timestamp: u32) -> Instant {
        let timing = self.timing(track);
        let Some(report) = timing.sender_report else {
            let (first, instant) = *timing.provisional.get_or_insert((timestamp, now));
            let captured_at = offset_instant(instant, timestamp_diff_ns(timestamp, first, rate));
            let clamped = clamp_to_now(now, captured_at);
            if clamped != captured_at {
                timing.provisional = Some((timestamp, clamped));
            }
            return clamped;
        };
        let since = timestamp_diff_ns(timestamp, report.timestamp, rate);
        let wall = i128::try_from(report.wall_clock.as_nanos()).unwrap_or(0) + i128::from(since);
        let wall = Duration::from_nanos(u64::try_from(wall).unwrap_or(0));
        let (remote, local) = *self.anchor.get_or_insert((wall, now));
        let offset = if wall >= remote { signed_nanos(wall - remote) } else { -signed_nanos(remote - wall) };
        let captured_at = offset_instant(local, offset);
        let clamped = clamp_to_now(now, captured_at);
        if clamped != captured_at {
            self.anchor = Some((wall, clamped));
            self.min_lag = None;
        }
        self.correct_drift(now, now.saturating_duration_since(clamped));
        clamped
    }

    /// Moves the anchor by the smallest lag, because the lag of a publisher with a slow clock would grow.
    fn correct_drift(&mut self, now: Instant, lag: Duration) {
        let (since, smallest) = self.min_lag.get_or_insert((now, lag));
        *smallest = lag.min(*smallest);
        if now.saturating_duration_since(*since) < DRIFT_CHECK_INTERVAL {
            return;
        }
        if let Some((_, local)) = &mut self.anchor {
            *local += MAX_DRIFT_CORRECTION.min(*smallest);
        }
        self.min_lag = None;
    }

    fn timing(&mut self, track: Track) -> &mut TrackTiming {
        let index = self.tracks.iter().position(|(known, _)| *known == track).unwrap_or_else(|| {
            self.tracks.push((track, TrackTiming::default()));
            self.tracks.len() - 1
        });
        &mut self.tracks[index].1
    }
}

/// The capture time, or `now` if it is in the future or more than [`MAX_LAG`] ago.
fn clamp_to_now(now: Instant, captured_at: Instant) -> Instant {
    if captured_at > now || now - captured_at > MAX_LAG { now } else { captured_at }
}

/// Nanoseconds from one time stamp to another.
fn timestamp_diff_ns(timestamp: u32, since: u32, rate: u32) -> i64 {
    i64::from(timestamp.wrapping_sub(since).cast_signed()) * 1_000_000_000 / i64::from(rate)
}

fn offset_instant(instant: Instant, nanos: i64) -> Instant {
    let by = Duration::from_nanos(nanos.unsigned_abs());
    let shifted = if nanos < 0 { instant.checked_sub(by) } else { instant.checked_add(by) };
    shifted.unwrap_or(instant)
}

fn signed_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: Track = Track::Video(0);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn audio_and_video_of_one_moment_get_one_capture_time() {
        let (mut clock, start) = (PublisherClock::default(), Instant::now());
        // Before the first report, the arrival counts.
        assert_eq!(clock.capture_time(start, Track::Audio, 48_000, 7), start);
        let wall = ms(1_700_000_000_000);
        clock.on_sender_report(Track::Audio, SenderReport { wall_clock: wall, timestamp: u32::MAX });
        clock.on_sender_report(VIDEO, SenderReport { wall_clock: wall + ms(100), timestamp: 9000 });
        // Captured a second after the audio's report. Audio took 30 ms on the way, video 80 ms.
        let audio = clock.capture_time(start + ms(1030), Track::Audio, 48_000, 47_999);
        let video = clock.capture_time(start + ms(1080), VIDEO, 90_000, 9000 + 81_000);
        assert_eq!(audio, video);
        // A packet with a shorter delay shows that all capture times are earlier.
        let audio = clock.capture_time(start + ms(1040), Track::Audio, 48_000, 47_999 + 960);
        assert_eq!(audio, start + ms(1040));
        assert_eq!(clock.capture_time(start + ms(1100), VIDEO, 90_000, 9000 + 82_800), audio);
    }

    #[test]
    fn implausible_time_stamps_are_clamped() {
        let (mut clock, start) = (PublisherClock::default(), Instant::now());
        clock.on_sender_report(VIDEO, SenderReport { wall_clock: Duration::ZERO, timestamp: 0 });
        for timestamp in [0, 0x8000_0000, 0x7fff_ffff, 1, u32::MAX] {
            let captured_at = clock.capture_time(start, VIDEO, 90_000, timestamp);
            assert!(captured_at <= start && start - captured_at <= MAX_LAG);
        }
    }

    #[test]
    fn a_slow_clock_does_not_lag_for_ever() {
        let (mut clock, start) = (PublisherClock::default(), Instant::now());
        clock.on_sender_report(VIDEO, SenderReport { wall_clock: ms(1_000_000), timestamp: 0 });
        let mut lag = Duration::ZERO;
        for second in 0..36_000_u32 {
            let now = start + Duration::from_secs(second.into());
            // The publisher's clock is 100 ppm too slow.
            let captured_at = clock.capture_time(now, VIDEO, 90_000, second * (90_000 - 9));
            lag = lag.max(now - captured_at);
            if second % 3600 == 0 {
                let wall = ms(1_000_000) + Duration::from_secs_f64(f64::from(second) * 0.9999);
                clock.on_sender_report(
                    VIDEO,
                    SenderReport { wall_clock: wall, timestamp: second * (90_000 - 9) },
                );
            }
        }
        assert!(lag < ms(20), "{lag:?}");
    }
}
