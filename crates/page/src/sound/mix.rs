//! Decides when samples are mixed and sent. Sans-IO: the caller passes the time, and mixes the streams.

use pagecast_core::{HostTime, SAMPLE_RATE, Samples};
use std::time::Duration;

/// Mixing period while a stream plays, in samples: 10 ms.
pub(super) const MIX_PERIOD_SAMPLES: i64 = 480;
/// Mixing period while no stream plays, in samples: 100 ms.
const IDLE_PERIOD_SAMPLES: i64 = 4800;
/// Samples that are kept before the origin is known: half a second, so that no sample is lost if the origin
/// is read late.
const MAX_PRE_ORIGIN_SAMPLES: usize = 24_000;
/// Longest time that is mixed late, in samples: 5 s. If the process was stalled for longer, the rest is
/// skipped.
pub(super) const MAX_CATCH_UP_SAMPLES: usize = 5 * SAMPLE_RATE as usize;
/// Most samples that are mixed at once, to bound the memory.
const MIX_BLOCK_SAMPLES: usize = 4800;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Input of the [`Mixer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The capture starts: sample 0 is at this time. Everything up to now must be mixed: see [`Mixer::poll`].
    StartCapture { origin: HostTime },
    /// Whether a stream plays, and how many of the last mixed samples may still change, because a stream is
    /// late. Handed in after [`Output::MixBlock`], and whenever it may have changed.
    Streams { active: bool, held: usize },
}

/// Output of the [`Mixer`].
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Output {
    /// Mix all streams into the last samples, so many: see [`Mixer::last_mixed`]. They are silent.
    MixBlock(usize),
    /// Samples that are complete, in order.
    Samples(Samples),
    /// So many samples were skipped after a stall, and are never sent; no earlier sample may change.
    Skipped(usize),
    /// Another [`MIX_PERIOD_SAMPLES`] has passed: streams may request data.
    PeriodPassed,
}

/// The sample grid of the sound card. Sample `i` lasts from `anchor + i/48000 s` to `anchor + (i+1)/48000 s`.
#[derive(Debug)]
pub(super) struct Mixer {
    anchor: HostTime,
    capturing: bool,
    /// See [`Input::Streams`].
    active: bool,
    held: usize,
    /// Index of the next sample to mix.
    cursor: i64,
    /// Mixed samples that were not taken, up to `cursor`.
    mixed: Vec<[f32; 2]>,
    next_period: i64,
    /// Samples that were mixed since the mixer was last up to date.
    caught_up: usize,
    /// Whether there may be complete samples.
    take_due: bool,
}

impl Mixer {
    pub(super) fn new(now: HostTime) -> Self {
        Self {
            anchor: now,
            capturing: false,
            active: false,
            held: 0,
            cursor: 0,
            mixed: Vec::new(),
            next_period: MIX_PERIOD_SAMPLES,
            caught_up: 0,
            take_due: false,
        }
    }

    pub(super) fn is_capturing(&self) -> bool {
        self.capturing
    }

    /// Processes an input at time `now`.
    pub(super) fn handle(&mut self, now: HostTime, input: Input) {
        match input {
            Input::StartCapture { origin } => self.start_capture(origin, now),
            Input::Streams { active, held } => (self.active, self.held) = (active, held),
        }
    }

    /// Returns the next output. After the last one, everything up to `now` is mixed.
    pub(super) fn poll(&mut self, now: HostTime) -> Option<Output> {
        if std::mem::take(&mut self.take_due)
            && let Some(samples) = self.take_samples()
        {
            return Some(Output::Samples(samples));
        }
        let due = self.due_samples(now);
        if due == 0 {
            self.caught_up = 0;
            return self.enter_period().then_some(Output::PeriodPassed);
        }
        if self.caught_up >= MAX_CATCH_UP_SAMPLES {
            return Some(self.skip(due));
        }
        let block = due.min(MIX_BLOCK_SAMPLES).min(MAX_CATCH_UP_SAMPLES - self.caught_up);
        self.extend(block);
        self.caught_up += block;
        self.take_due = true;
        Some(Output::MixBlock(block))
    }

    /// When the next period ends.
    pub(super) fn deadline(&self) -> Option<HostTime> {
        let period = if self.active { MIX_PERIOD_SAMPLES } else { IDLE_PERIOD_SAMPLES };
        Some(self.time_of((self.cursor.div_euclid(period) + 1) * period))
    }

    /// The last `n` mixed samples, or fewer if some were taken.
    pub(super) fn last_mixed(&mut self, n: usize) -> &mut [[f32; 2]] {
        let from = self.mixed.len().saturating_sub(n);
        &mut self.mixed[from..]
    }

    /// Number of samples up to `now` that are not mixed.
    fn due_samples(&self, now: HostTime) -> usize {
        usize::try_from(self.index_at(now) - self.cursor).unwrap_or(0)
    }

    /// Appends `n` silent samples.
    fn extend(&mut self, n: usize) {
        let is_before_origin = !self.capturing || self.cursor < 0;
        if is_before_origin && self.mixed.len() + n > 2 * MAX_PRE_ORIGIN_SAMPLES {
            self.mixed.drain(..self.mixed.len().saturating_sub(MAX_PRE_ORIGIN_SAMPLES));
        }
        self.cursor += n as i64;
        self.mixed.resize(self.mixed.len() + n, [0.0; 2]);
    }

    /// Skips `n` samples, after those that were mixed are sent.
    fn skip(&mut self, n: usize) -> Output {
        self.held = 0;
        if let Some(samples) = self.take_samples() {
            return Output::Samples(samples);
        }
        self.cursor += n as i64;
        self.mixed.clear();
        self.caught_up = 0;
        Output::Skipped(n)
    }

    /// Starts the capture: sample 0 is at `origin`. The last `held` samples may still change.
    fn start_capture(&mut self, origin: HostTime, now: HostTime) {
        (self.anchor, self.capturing) = (origin, true);
        self.cursor = self.index_at(now);
        self.next_period = self.cursor;
        let due = usize::try_from(self.cursor).unwrap_or(0);
        let missing = due.saturating_sub(self.mixed.len());
        self.mixed.drain(..self.mixed.len().saturating_sub(due.max(self.held)));
        self.mixed.splice(0..0, std::iter::repeat_n([0.0; 2], missing));
        self.take_due = true;
    }

    /// Takes all mixed samples except for the last `held`. `None` before the origin, or if there is less than
    /// one period.
    fn take_samples(&mut self) -> Option<Samples> {
        let cursor = u64::try_from(self.cursor).ok().filter(|_| self.capturing)?;
        let past_origin = usize::try_from(cursor).unwrap_or(usize::MAX).max(self.held);
        self.mixed.drain(..self.mixed.len().saturating_sub(past_origin));
        let start = cursor.checked_sub(self.mixed.len() as u64)?;
        let ready = self.mixed.len().saturating_sub(self.held);
        if (ready as i64) < MIX_PERIOD_SAMPLES {
            return None;
        }
        let samples = Samples { start, pcm: self.mixed[..ready].as_flattened().into() };
        self.mixed.drain(..ready);
        Some(samples)
    }

    /// Whether another [`MIX_PERIOD_SAMPLES`] has passed since the last call that returned true.
    fn enter_period(&mut self) -> bool {
        let is_due = self.cursor >= self.next_period;
        if is_due {
            self.next_period = (self.cursor.div_euclid(MIX_PERIOD_SAMPLES) + 1) * MIX_PERIOD_SAMPLES;
        }
        is_due
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

    /// Mixes `value` up to `to`, and returns the samples that are complete.
    fn advance(mixer: &mut Mixer, to: HostTime, value: f32) -> Vec<Samples> {
        let mut complete = Vec::new();
        while let Some(output) = mixer.poll(to) {
            match output {
                Output::MixBlock(n) => mixer.last_mixed(n).fill([value; 2]),
                Output::Samples(samples) => complete.push(samples),
                Output::Skipped(_) | Output::PeriodPassed => {}
            }
        }
        complete
    }

    fn start_capture(mixer: &mut Mixer, origin: i64, now: i64) {
        mixer.handle(HostTime(now), Input::StartCapture { origin: HostTime(origin) });
    }

    #[test]
    fn time_and_samples_agree_after_an_hour() {
        let mixer = Mixer::new(HostTime(7));
        assert_eq!(mixer.due_samples(HostTime(7) + Duration::from_secs(3600)), 3600 * 48_000);
        assert_eq!(mixer.time_of(3600 * 48_000), HostTime(7) + Duration::from_secs(3600));
    }

    #[test]
    fn samples_are_complete_from_the_origin_on() {
        let mut mixer = Mixer::new(HostTime(0));
        assert_eq!(advance(&mut mixer, HostTime(1_000_000_000), 0.1), []);
        start_capture(&mut mixer, 1_050_000_000, 1_000_000_000);
        assert_eq!(advance(&mut mixer, HostTime(1_049_000_000), 0.2), []);
        let first = advance(&mut mixer, HostTime(1_060_000_000), 0.3);
        assert_eq!((first.len(), first[0].start, first[0].len()), (1, 0, 480));
    }

    #[test]
    fn an_origin_that_is_set_late_loses_nothing() {
        let mut mixer = Mixer::new(HostTime(0));
        advance(&mut mixer, HostTime(980_000_000), 0.1);
        advance(&mut mixer, HostTime(1_000_000_000), 0.2);
        start_capture(&mut mixer, 980_000_000, 1_000_000_000);
        let first = advance(&mut mixer, HostTime(1_000_000_000), 0.3);
        assert_eq!((first.len(), first[0].start, first[0].len()), (1, 0, 960));
        assert!(first[0].pcm.iter().all(|v| *v == 0.2));
    }

    #[test]
    fn an_origin_before_the_first_sample_begins_with_silence() {
        let mut mixer = Mixer::new(HostTime(1_000_000_000));
        advance(&mut mixer, HostTime(1_010_000_000), 0.5);
        start_capture(&mut mixer, 990_000_000, 1_010_000_000);
        let first = &advance(&mut mixer, HostTime(1_010_000_000), 0.3)[0];
        assert_eq!((first.start, first.len(), first.pcm[959], first.pcm[960]), (0, 960, 0.0, 0.5));
    }

    #[test]
    fn samples_that_may_change_are_held() {
        let mut mixer = Mixer::new(HostTime(0));
        start_capture(&mut mixer, 0, 0);
        mixer.handle(HostTime(0), Input::Streams { active: true, held: 480 });
        let first = advance(&mut mixer, HostTime(20_000_000), 0.1);
        assert_eq!((first.len(), first[0].len()), (1, 480));
        mixer.last_mixed(480).fill([0.7; 2]);
        mixer.handle(HostTime(20_000_000), Input::Streams { active: true, held: 0 });
        let second = &advance(&mut mixer, HostTime(30_000_000), 0.2)[0];
        assert_eq!((second.start, second.len(), second.pcm[0], second.pcm[960]), (480, 960, 0.7, 0.2));
    }

    #[test]
    fn after_a_stall_the_rest_is_skipped() {
        let mut mixer = Mixer::new(HostTime(0));
        start_capture(&mut mixer, 0, 0);
        let outputs: Vec<_> = std::iter::from_fn(|| mixer.poll(HostTime(60_000_000_000))).collect();
        let samples = |output: &Output| if let Output::Samples(samples) = output { samples.len() } else { 0 };
        assert_eq!(outputs.iter().map(samples).sum::<usize>(), MAX_CATCH_UP_SAMPLES);
        assert_eq!(outputs[outputs.len() - 2..], [Output::Skipped(55 * 48_000), Output::PeriodPassed]);
        let next = &advance(&mut mixer, HostTime(60_010_000_000), 0.1)[0];
        assert_eq!((next.start, next.len()), (60 * 48_000, 480));
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
            mixer.handle(HostTime(anchor), Input::Streams { active, held: 0 });
            let wake = mixer.deadline().unwrap();
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
                for samples in advance(&mut mixer, HostTime(now), 0.5) {
                    prop_assert_eq!(samples.start, expected);
                    expected += samples.len() as u64;
                }
                if !mixer.is_capturing() && now + 50_000_000 > origin {
                    start_capture(&mut mixer, origin, now);
                }
            }
        }
    }
}
