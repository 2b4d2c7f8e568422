//! Time in nanoseconds: on the host's monotonic clock ([`HostTime`]), or since the cast's first frame
//! ([`MediaTime`]).

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::SpecError;

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A point in time on the host's monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostTime(pub i64);

impl Add<Duration> for HostTime {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(by)))
    }
}

impl HostTime {
    /// Duration from `earlier` to this time; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A point in a cast's media timeline, in nanoseconds since its first frame; negative only for encoder
/// priming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaTime(pub i64);

impl MediaTime {
    /// Time of the first frame.
    pub const ZERO: Self = Self(0);

    /// Time of unit `index` of a stream with `per_second` units per second, rounded to the nearest
    /// nanosecond.
    #[must_use]
    pub fn from_index(index: i64, per_second: u32) -> Self {
        let (n, d) = (i128::from(index) * NANOS_PER_SECOND, i128::from(per_second));
        Self(saturating_i64((2 * n + d).div_euclid(2 * d)))
    }

    /// Index of the nearest unit of a stream with `per_second` units per second. Inverse of
    /// [`MediaTime::from_index`].
    #[must_use]
    pub fn to_index(self, per_second: u32) -> i64 {
        saturating_i64(
            (2 * i128::from(self.0) * i128::from(per_second) + NANOS_PER_SECOND)
                .div_euclid(2 * NANOS_PER_SECOND),
        )
    }

    /// The time in milliseconds, rounded down.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The time in seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl From<Duration> for MediaTime {
    fn from(d: Duration) -> Self {
        Self(saturating_nanos(d))
    }
}

impl Add for MediaTime {
    type Output = Self;
    fn add(self, by: Self) -> Self {
        Self(self.0.saturating_add(by.0))
    }
}

impl Sub for MediaTime {
    type Output = Self;
    fn sub(self, by: Self) -> Self {
        Self(self.0.saturating_sub(by.0))
    }
}

impl fmt::Display for MediaTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.as_millis();
        write!(f, "{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
    }
}

/// Frame rate in frames per second, 1 to 60: the rate of the display, and therefore of every output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Fps(u32);

impl TryFrom<u32> for Fps {
    type Error = SpecError;
    fn try_from(per_second: u32) -> Result<Self, SpecError> {
        Self::new(per_second).ok_or(SpecError::Fps(per_second))
    }
}

impl From<Fps> for u32 {
    fn from(fps: Fps) -> Self {
        fps.0
    }
}

impl Fps {
    /// The smallest and largest rate.
    pub const RANGE: std::ops::RangeInclusive<u32> = 1..=60;

    /// 30 frames per second.
    pub const DEFAULT: Self = Self(30);

    /// Creates a frame rate; `None` outside of [`Fps::RANGE`].
    #[must_use]
    pub fn new(per_second: u32) -> Option<Self> {
        Self::RANGE.contains(&per_second).then_some(Self(per_second))
    }

    /// The rate in frames per second.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Duration of a frame, rounded up to a whole nanosecond.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_nanos(u64::from(1_000_000_000_u32.div_ceil(self.0)))
    }

    /// Time at which frame `index` is shown, computed by multiplication so that rounding errors do not
    /// accumulate.
    #[must_use]
    pub fn time_of(self, index: i64) -> MediaTime {
        MediaTime::from_index(index, self.0)
    }

    /// Index of the last frame shown at or before `t`.
    #[must_use]
    pub fn index_at(self, t: MediaTime) -> i64 {
        let near = t.to_index(self.0);
        if self.time_of(near) > t { near - 1 } else { near }
    }
}

fn saturating_nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

fn saturating_i64(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_day_of_frames_does_not_drift() {
        let fps = Fps::new(30).unwrap();
        assert_eq!(fps.time_of(30 * 86_400), MediaTime(86_400 * 1_000_000_000));
        assert_eq!(Fps::new(7).unwrap().time_of(7 * 86_400), MediaTime(86_400 * 1_000_000_000));
    }

    #[test]
    fn prints_as_a_clock() {
        assert_eq!(MediaTime::from_index(3_723_045, 1000).to_string(), "01:02:03.045");
    }

    proptest! {
        #[test]
        fn index_survives_the_round_trip(i in -1_000_000_i64..10_000_000_000, rate in 1_u32..=48_000) {
            prop_assert_eq!(MediaTime::from_index(i, rate).to_index(rate), i);
        }

        #[test]
        fn index_at_is_the_frame_on_screen(t in 0_i64..1_000_000_000_000, rate in 1_u32..=60) {
            let fps = Fps::new(rate).unwrap();
            let k = fps.index_at(MediaTime(t));
            prop_assert!(fps.time_of(k).0 <= t && t < fps.time_of(k + 1).0);
        }
    }
}
