//! When a publisher's packets were made, by our clock.
//!
//! Picture and sound come with time stamps of their own, and the publisher says now and then what they mean by its clock. Ours is
//! laid beside it so that nothing was made later than it came. Viewers get the moments as sender reports, and hold picture and sound
//! together by them.

use std::time::{Duration, Instant};

use crate::rtc::answerer::media::{SenderReport, Track};

/// What comes later than this after it was made says that the clocks were laid wrong.
const MAX_LAG: Duration = Duration::from_secs(2);
/// How often the lag is looked at, and how much of it is taken back then: clocks drift apart by less.
const DRIFT_CHECK_INTERVAL: Duration = Duration::from_secs(10);
const MAX_DRIFT_CORRECTION: Duration = Duration::from_millis(2);

/// The clock of one publisher.
#[derive(Debug, Default)]
pub(super) struct PublisherClock {
    tracks: Vec<(Track, TrackTiming)>,
    /// A moment of the publisher's, and of ours.
    anchor: Option<(Duration, Instant)>,
    /// Since when the lag is watched, and the smallest one.
    min_lag: Option<(Instant, Duration)>,
}

/// What is known of a stream's time stamps.
#[derive(Debug, Default)]
struct TrackTiming {
    sender_report: Option<SenderReport>,
    /// Before the first report: a time stamp, and our moment for it.
    provisional: Option<(u32, Instant)>,
}

impl PublisherClock {
    /// The publisher says when a time stamp was.
    pub(super) fn on_sender_report(&mut self, track: Track, report: SenderReport) {
        self.timing(track).sender_report = Some(report);
    }

    /// When what has this time stamp was made. `rate` is ticks a second; `now` is when it came.
    pub(super) fn capture_time(&mut self, now: Instant, track: Track, rate: u32, timestamp: u32) -> Instant {
        let sayings = self.timing(track);
        let Some(report) = sayings.sender_report else {
            let (first, moment) = *sayings.provisional.get_or_insert((timestamp, now));
            let made = offset_instant(moment, timestamp_diff_ns(timestamp, first, rate));
            let held = clamp_to_now(now, made);
            if held != made {
                sayings.provisional = Some((timestamp, held));
            }
            return held;
        };
        let since = timestamp_diff_ns(timestamp, report.timestamp, rate);
        let wall = i128::try_from(report.wall_clock.as_nanos()).unwrap_or(0) + i128::from(since);
        let wall = Duration::from_nanos(u64::try_from(wall).unwrap_or(0));
        let (their, our) = *self.anchor.get_or_insert((wall, now));
        let apart = if wall >= their { signed_nanos(wall - their) } else { -signed_nanos(their - wall) };
        let made = offset_instant(our, apart);
        let held = clamp_to_now(now, made);
        if held != made {
            self.anchor = Some((wall, held));
            self.min_lag = None;
        }
        self.correct_drift(now, now.saturating_duration_since(held));
        held
    }

    /// A publisher whose clock is slow would lag ever more.
    fn correct_drift(&mut self, now: Instant, lag: Duration) {
        let (since, smallest) = self.min_lag.get_or_insert((now, lag));
        *smallest = lag.min(*smallest);
        if now.saturating_duration_since(*since) < DRIFT_CHECK_INTERVAL {
            return;
        }
        if let Some((_, our)) = &mut self.anchor {
            *our += MAX_DRIFT_CORRECTION.min(*smallest);
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

/// Nothing is made in the future, and what is said to be too long ago was not.
fn clamp_to_now(now: Instant, made: Instant) -> Instant {
    if made > now || now - made > MAX_LAG { now } else { made }
}

/// Nanoseconds from one time stamp to another.
fn timestamp_diff_ns(timestamp: u32, since: u32, rate: u32) -> i64 {
    i64::from(timestamp.wrapping_sub(since).cast_signed()) * 1_000_000_000 / i64::from(rate)
}

fn offset_instant(moment: Instant, nanos: i64) -> Instant {
    let by = Duration::from_nanos(nanos.unsigned_abs());
    let shifted = if nanos < 0 { moment.checked_sub(by) } else { moment.checked_add(by) };
    shifted.unwrap_or(moment)
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
    fn picture_and_sound_made_together_are_made_together() {
        let (mut clock, start) = (PublisherClock::default(), Instant::now());
        // Before any report: by arrival.
        assert_eq!(clock.capture_time(start, Track::Audio, 48_000, 7), start);
        let wall = ms(1_700_000_000_000);
        clock.on_sender_report(Track::Audio, SenderReport { wall_clock: wall, timestamp: u32::MAX });
        clock.on_sender_report(VIDEO, SenderReport { wall_clock: wall + ms(100), timestamp: 9000 });
        // Made a second after the audio's report, and 30 ms on the way; the picture took 80 ms.
        let audio = clock.capture_time(start + ms(1030), Track::Audio, 48_000, 47_999);
        let video = clock.capture_time(start + ms(1080), VIDEO, 90_000, 9000 + 81_000);
        assert_eq!(audio, video);
        // One that was faster on its way shows that all were made earlier.
        let audio = clock.capture_time(start + ms(1040), Track::Audio, 48_000, 47_999 + 960);
        assert_eq!(audio, start + ms(1040));
        assert_eq!(clock.capture_time(start + ms(1100), VIDEO, 90_000, 9000 + 82_800), audio);
    }

    #[test]
    fn nonsense_is_not_believed() {
        let (mut clock, start) = (PublisherClock::default(), Instant::now());
        clock.on_sender_report(VIDEO, SenderReport { wall_clock: Duration::ZERO, timestamp: 0 });
        for timestamp in [0, 0x8000_0000, 0x7fff_ffff, 1, u32::MAX] {
            let made = clock.capture_time(start, VIDEO, 90_000, timestamp);
            assert!(made <= start && start - made <= MAX_LAG);
        }
    }

    #[test]
    fn a_slow_clock_does_not_lag_for_ever() {
        let (mut clock, start) = (PublisherClock::default(), Instant::now());
        clock.on_sender_report(VIDEO, SenderReport { wall_clock: ms(1_000_000), timestamp: 0 });
        let mut lag = Duration::ZERO;
        for second in 0..36_000_u32 {
            let now = start + Duration::from_secs(second.into());
            // 100 parts in a million too slow.
            let made = clock.capture_time(now, VIDEO, 90_000, second * (90_000 - 9));
            lag = lag.max(now - made);
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
