//! Converts time to samples, and tracks which samples are mixed and ready to send.

use pagecast_core::{HostTime, SAMPLE_RATE, Samples};
use std::time::Duration;

/// Mixing period while a stream plays, in samples: 10 ms.
pub(super) const MIX_PERIOD_SAMPLES: i64 = 480;
/// Mixing period while no stream plays, in samples: 100 ms.
const IDLE_PERIOD_SAMPLES: i64 = 4800;
/// Samples that are kept before the origin is known: half a second, so that no sample is lost if the origin
/// is read late.
const MAX_PRE_ORIGIN_SAMPLES: usize = 24_000;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// The sample grid of the sound card. Sample `i` lasts from `anchor + i/48000 s` to `anchor + (i+1)/48000 s`.
#[derive(Debug)]
pub(super) struct Mixer {
    anchor: HostTime,
    capturing: bool,
    /// Index of the next sample to mix.
    cursor: i64,
    /// Mixed samples that were not taken, up to `cursor`.
    mixed: Vec<[f32; 2]>,
    next_period: i64,
}

impl Mixer {
    pub(super) fn new(now: HostTime) -> Self {
        Self { anchor: now, capturing: false, cursor: 0, mixed: Vec::new(), next_period: MIX_PERIOD_SAMPLES }
    }

    pub(super) fn is_capturing(&self) -> bool {
        self.capturing
    }

    /// Number of samples up to `now` that are not mixed.
    pub(super) fn due_samples(&self, now: HostTime) -> usize {
        usize::try_from(self.index_at(now) - self.cursor).unwrap_or(0)
    }

    /// Appends `n` silent samples, and returns them for mixing.
    pub(super) fn extend(&mut self, n: usize) -> &mut [[f32; 2]] {
        let is_before_origin = !self.capturing || self.cursor < 0;
        if is_before_origin && self.mixed.len() + n > 2 * MAX_PRE_ORIGIN_SAMPLES {
            self.mixed.drain(..self.mixed.len().saturating_sub(MAX_PRE_ORIGIN_SAMPLES));
        }
        self.cursor += n as i64;
        let from = self.mixed.len();
        self.mixed.resize(from + n, [0.0; 2]);
        &mut self.mixed[from..]
    }

    /// Skips `n` samples, which are never sent.
    pub(super) fn skip(&mut self, n: usize) {
        self.cursor += n as i64;
        self.mixed.clear();
    }

    /// Starts the capture: sample 0 is at `origin`. Everything up to `now` must be mixed; the last `held`
    /// samples may still change.
    pub(super) fn start_capture(&mut self, origin: HostTime, now: HostTime, held: usize) {
        (self.anchor, self.capturing) = (origin, true);
        self.cursor = self.index_at(now);
        self.next_period = self.cursor;
        let due = usize::try_from(self.cursor).unwrap_or(0);
        let missing = due.saturating_sub(self.mixed.len());
        self.mixed.drain(..self.mixed.len().saturating_sub(due.max(held)));
        self.mixed.splice(0..0, std::iter::repeat_n([0.0; 2], missing));
    }

    /// The last `n` mixed samples, or fewer if some were taken.
    pub(super) fn last_mixed(&mut self, n: usize) -> &mut [[f32; 2]] {
        let from = self.mixed.len().saturating_sub(n);
        &mut self.mixed[from..]
    }

    /// Takes all mixed samples except for the last `held`. `None` before the origin, or if there is less than
    /// one period.
    pub(super) fn take_samples(&mut self, held: usize) -> Option<Samples> {
        let cursor = u64::try_from(self.cursor).ok().filter(|_| self.capturing)?;
        let past_origin = usize::try_from(cursor).unwrap_or(usize::MAX).max(held);
        self.mixed.drain(..self.mixed.len().saturating_sub(past_origin));
        let start = cursor.checked_sub(self.mixed.len() as u64)?;
        let ready = self.mixed.len().saturating_sub(held);
        if (ready as i64) < MIX_PERIOD_SAMPLES {
            return None;
        }
        let samples = Samples { start, pcm: self.mixed[..ready].as_flattened().into() };
        self.mixed.drain(..ready);
        Some(samples)
    }

    /// Whether another [`MIX_PERIOD_SAMPLES`] has passed since the last call that returned true.
    pub(super) fn enter_period(&mut self) -> bool {
        let is_due = self.cursor >= self.next_period;
        if is_due {
            self.next_period = (self.cursor.div_euclid(MIX_PERIOD_SAMPLES) + 1) * MIX_PERIOD_SAMPLES;
        }
        is_due
    }

    /// When the next period ends; `active` if a stream plays.
    pub(super) fn deadline(&self, active: bool) -> HostTime {
        let period = if active { MIX_PERIOD_SAMPLES } else { IDLE_PERIOD_SAMPLES };
        self.time_of((self.cursor.div_euclid(period) + 1) * period)
    }

    fn index_at(&self, now: HostTime) -> i64 {
        let passed = i128::from(now.0) - i128::from(self.anchor.0);
        (passed * i128::from(SAMPLE_RATE)).div_euclid(NANOS_PER_SECOND) as i64
    }

    /// The first nanosecond after `index` samples.
    fn time_of(&self, index: i64) -> HostTime {
        let nanos = -(-i128::from(index) * NANOS_PER_SECOND).div_euclid(i128::from(SAMPLE_RATE));
        match u64::try_from(nanos) {
            Ok(after) => self.anchor + Duration::from_nanos(after),
            Err(_) => HostTime(self.anchor.0.saturating_add(i64::try_from(nanos).unwrap_or(i64::MIN))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn advance(mixer: &mut Mixer, to: HostTime, value: f32) {
        let due = mixer.due_samples(to);
        mixer.extend(due).fill([value; 2]);
    }

    #[test]
    fn time_and_samples_agree_after_an_hour() {
        let mixer = Mixer::new(HostTime(7));
        assert_eq!(mixer.due_samples(HostTime(7) + Duration::from_secs(3600)), 3600 * 48_000);
        assert_eq!(mixer.time_of(3600 * 48_000), HostTime(7) + Duration::from_secs(3600));
    }

    #[test]
    fn samples_are_taken_from_the_origin_on() {
        let mut mixer = Mixer::new(HostTime(0));
        advance(&mut mixer, HostTime(1_000_000_000), 0.1);
        assert_eq!(mixer.take_samples(0), None);
        mixer.start_capture(HostTime(1_050_000_000), HostTime(1_000_000_000), 0);
        advance(&mut mixer, HostTime(1_049_000_000), 0.2);
        assert_eq!(mixer.take_samples(0), None);
        advance(&mut mixer, HostTime(1_060_000_000), 0.3);
        let first = mixer.take_samples(0).unwrap();
        assert_eq!((first.start, first.len()), (0, 480));
    }

    #[test]
    fn an_origin_that_is_set_late_loses_nothing() {
        let mut mixer = Mixer::new(HostTime(0));
        advance(&mut mixer, HostTime(980_000_000), 0.1);
        advance(&mut mixer, HostTime(1_000_000_000), 0.2);
        mixer.start_capture(HostTime(980_000_000), HostTime(1_000_000_000), 0);
        let first = mixer.take_samples(0).unwrap();
        assert_eq!((first.start, first.len()), (0, 960));
        assert!(first.pcm.iter().all(|v| *v == 0.2));
    }

    #[test]
    fn an_origin_before_the_first_sample_begins_with_silence() {
        let mut mixer = Mixer::new(HostTime(1_000_000_000));
        advance(&mut mixer, HostTime(1_010_000_000), 0.5);
        mixer.start_capture(HostTime(990_000_000), HostTime(1_010_000_000), 0);
        let first = mixer.take_samples(0).unwrap();
        assert_eq!((first.start, first.len(), first.pcm[959], first.pcm[960]), (0, 960, 0.0, 0.5));
    }

    #[test]
    fn memory_is_bounded_before_the_origin() {
        let mut mixer = Mixer::new(HostTime(0));
        for ms in 0..10_000 {
            advance(&mut mixer, HostTime(ms * 10_000_000), 0.1);
            assert!(mixer.mixed.len() <= 2 * MAX_PRE_ORIGIN_SAMPLES);
        }
    }

    proptest! {
        #[test]
        fn the_deadline_is_exactly_the_end_of_a_period(
            anchor in 0_i64..1 << 40,
            start in -100_000_i64..100_000,
            active: bool,
        ) {
            let mut mixer = Mixer::new(HostTime(anchor));
            mixer.cursor = start;
            let wake = mixer.deadline(active);
            let period = if active { MIX_PERIOD_SAMPLES } else { IDLE_PERIOD_SAMPLES };
            prop_assert_eq!((start + mixer.due_samples(wake) as i64) % period, 0);
            prop_assert_eq!((start + mixer.due_samples(HostTime(wake.0 - 1)) as i64 + 1) % period, 0);
        }

        #[test]
        fn runs_are_contiguous(
            steps in proptest::collection::vec(0_i64..40_000_000, 1..60),
            origin in 0_i64..200_000_000,
        ) {
            let (mut mixer, mut now, mut expected) = (Mixer::new(HostTime(0)), 0, 0);
            for step in steps {
                now += step;
                advance(&mut mixer, HostTime(now), 0.5);
                if !mixer.is_capturing() && now + 50_000_000 > origin {
                    mixer.start_capture(HostTime(origin), HostTime(now), 0);
                }
                if let Some(samples) = mixer.take_samples(0) {
                    prop_assert_eq!(samples.start, expected);
                    expected += samples.len() as u64;
                }
            }
        }
    }
}
