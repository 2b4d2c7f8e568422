//! Where the MP4 files of a recording end.

use std::time::Duration;

use pagecast_core::MediaTime;

/// Files end at the multiples of one length, counted from the beginning of the recording: exact to a tick.
///
/// The encoder puts a keyframe there, the recorder ends a segment, and the files are made accordingly. All
/// three ask here, so that rounding never makes them disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitPoints {
    interval: MediaTime,
    /// A picture belongs to the cut that is less than half a tick away.
    half_tick: MediaTime,
}

impl SplitPoints {
    /// Files of this length, of pictures or sound that come every `tick`.
    pub(crate) fn new(every: Duration, tick: MediaTime) -> Self {
        Self { interval: MediaTime(MediaTime::from(every).0.max(1)), half_tick: MediaTime(tick.0 / 2) }
    }

    /// Number of cuts up to `at`, which is counted from the beginning of the recording. Sound that primes a
    /// decoder comes before that.
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
        let cuts = SplitPoints::new(Duration::from_millis(5500), MediaTime::from_index(1, 7));
        let first = (0..100).find(|i| cuts.count_until(MediaTime::from_index(*i, 7)) == 1);
        assert_eq!(first, Some(38), "5.43 s is nearer than 5.57 s, or as near");
        assert_eq!(cuts.count_until(MediaTime::ZERO), 0);
        assert_eq!(cuts.count_until(MediaTime(-1_000_000_000)), 0, "no cut before the beginning");
    }

    proptest! {
        /// A recording that goes on begins at any time, which is rounded.
        #[test]
        fn what_goes_on_is_cut_to_a_tick(fps in 1_u32..=60, every_ms in 5000_u64..100_000, began in 0_i64..100_000) {
            let fps = Fps::new(fps).unwrap();
            let tick = MediaTime::from(fps.interval());
            let (cuts, base) = (SplitPoints::new(Duration::from_millis(every_ms), tick), fps.time_of(began));
            let at = |i: i64| base + fps.time_of(i);
            let first = (1..20_000).find(|i| cuts.count_until(at(*i)) > cuts.count_until(at(i - 1))).unwrap();
            let cut = MediaTime(cuts.count_until(at(first)) * every_ms as i64 * 1_000_000);
            prop_assert!((at(first) - cut).0.abs() <= tick.0 / 2 + 1);
        }
    }
}
