//! The media times at which the MP4 files of a recording end.

use std::time::Duration;

use pagecast_core::MediaTime;

/// Split points: the multiples of one length, counted from the start of the recording, rounded to a tick.
///
/// The encoder forces a keyframe there, the recorder ends a segment, and the splitter ends a file. All three
/// use this type, so that rounding never makes them disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitPoints {
    interval: MediaTime,
    /// Tolerance: a picture belongs to the split point that is less than half a tick away.
    half_tick: MediaTime,
}

impl SplitPoints {
    /// Split points of files of `length`; `tick` is the interval of pictures or audio frames.
    pub(crate) fn new(length: Duration, tick: MediaTime) -> Self {
        Self { interval: MediaTime(MediaTime::from(length).0.max(1)), half_tick: MediaTime(tick.0 / 2) }
    }

    /// Number of split points up to `at`, a time of the recording. Priming samples of the decoder lie before
    /// zero.
    pub(crate) fn count_until(&self, at: MediaTime) -> i64 {
        (at + self.half_tick).0.max(0) / self.interval.0
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::Fps;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_split_point_belongs_to_the_nearest_tick() {
        let splits = SplitPoints::new(Duration::from_millis(5500), MediaTime::from_index(1, 7));
        let first = (0..100).find(|i| splits.count_until(MediaTime::from_index(*i, 7)) == 1);
        assert_eq!(first, Some(38), "5.43 s is nearer than 5.57 s, or as near");
        assert_eq!(splits.count_until(MediaTime::ZERO), 0);
        assert_eq!(splits.count_until(MediaTime(-1_000_000_000)), 0, "no cut before the beginning");
    }

    proptest! {
        /// A resumed recording starts at any time, which is rounded.
        #[test]
        fn a_resumed_recording_is_split_to_a_tick(
            fps in 1_u32..=60,
            every_ms in 5000_u64..100_000,
            began in 0_i64..100_000,
        ) {
            let fps = Fps::new(fps).unwrap();
            let tick = MediaTime::from(fps.interval());
            let splits = SplitPoints::new(Duration::from_millis(every_ms), tick);
            let base = fps.time_of(began);
            let at = |i: i64| base + fps.time_of(i);
            let is_first = |i: &i64| splits.count_until(at(*i)) > splits.count_until(at(i - 1));
            let first = (1..20_000).find(is_first).unwrap();
            let cut = MediaTime(splits.count_until(at(first)) * every_ms as i64 * 1_000_000);
            prop_assert!((at(first) - cut).0.abs() <= tick.0 / 2 + 1);
        }
    }
}
