//! Finds short tone bursts to a fraction of a sample.
//!
//! A correlation window has the length of the burst and its frequency. Its amplitude rises and falls as a
//! triangle around the end of the burst. So the middle between the half-height points dates the burst,
//! independently of its level and of what a codec does to its edges.

use std::collections::VecDeque;
use std::f64::consts::TAU;

use anyhow::Result;

use super::{Pcm, SAMPLE_RATE};

/// A short tone to be found.
#[derive(Debug, Clone, Copy)]
pub struct ToneBurst {
    /// Frequency in Hz. The burst must have an integer number of periods.
    pub hz: f64,
    /// Length of the burst in seconds.
    pub duration_s: f64,
    /// Channel: 0 for left, 1 for right.
    pub channel: usize,
}

/// Quietest burst that counts, as the amplitude of its sine.
const MIN_AMPLITUDE: f64 = 0.02;
/// Largest relative deviation of the width of the triangle. A wider one is a longer tone, a narrower one a
/// click.
const WIDTH_TOLERANCE: f64 = 0.3;

/// Onsets of all bursts of `tone`, in seconds of the recording.
///
/// # Errors
/// The sound does not decode.
pub fn onsets(pcm: Pcm, tone: ToneBurst) -> Result<Vec<f64>> {
    let [one] = onsets_of_each(pcm, [tone])?;
    Ok(one)
}

/// Onsets of all bursts of several tones, in seconds of the recording.
///
/// # Errors
/// The sound does not decode.
pub fn onsets_of_each<const N: usize>(pcm: Pcm, tones: [ToneBurst; N]) -> Result<[Vec<f64>; N]> {
    let start_s = pcm.start_s;
    let mut detectors = tones.map(ToneDetector::new);
    for chunk in pcm {
        for pair in chunk?.chunks_exact(2) {
            for detector in &mut detectors {
                detector.push_sample(f64::from(pair[detector.tone.channel]));
            }
        }
    }
    Ok(detectors.map(|detector| detector.finish().into_iter().map(|s| start_s + s).collect()))
}

/// Detects one tone, sample by sample.
#[derive(Debug)]
struct ToneDetector {
    tone: ToneBurst,
    /// Samples in the window, each multiplied by cosine and sine.
    window: VecDeque<(f64, f64)>,
    sum: (f64, f64),
    window_len: usize,
    sample_count: u64,
    /// Amplitudes since they rose above the minimum; at most [`ToneDetector::max_envelope_len`].
    envelope: Vec<f64>,
    envelope_overflowed: bool,
    onsets_s: Vec<f64>,
}

impl ToneDetector {
    fn new(tone: ToneBurst) -> Self {
        let length = (tone.duration_s * f64::from(SAMPLE_RATE)).round() as usize;
        let window = VecDeque::from(vec![(0.0, 0.0); length]);
        Self {
            tone,
            window,
            sum: (0.0, 0.0),
            window_len: length,
            sample_count: 0,
            envelope: Vec::new(),
            envelope_overflowed: false,
            onsets_s: Vec::new(),
        }
    }

    fn max_envelope_len(&self) -> usize {
        4 * self.window_len
    }

    fn push_sample(&mut self, sample: f64) {
        let phase = (self.sample_count as f64 * self.tone.hz / f64::from(SAMPLE_RATE)).fract() * TAU;
        let new = (sample * phase.cos(), sample * phase.sin());
        self.window.push_back(new);
        let old = self.window.pop_front().unwrap_or_default();
        self.sum = (self.sum.0 + new.0 - old.0, self.sum.1 + new.1 - old.1);
        let amplitude = 2.0 * self.sum.0.hypot(self.sum.1) / self.window_len as f64;
        self.sample_count += 1;
        if amplitude < MIN_AMPLITUDE {
            self.end_burst();
        } else if self.envelope.len() < self.max_envelope_len() {
            self.envelope.push(amplitude);
        } else {
            self.envelope_overflowed = true;
        }
    }

    /// Ends an envelope and records an onset if it has the shape of a burst.
    fn end_burst(&mut self) {
        let envelope = std::mem::take(&mut self.envelope);
        if std::mem::take(&mut self.envelope_overflowed) || envelope.is_empty() {
            return;
        }
        let half = envelope.iter().copied().fold(0.0, f64::max) / 2.0;
        let Some((rise, fall)) = crossings(&envelope, half) else { return };
        let ideal = self.window_len as f64;
        if ((fall - rise) / ideal - 1.0).abs() > WIDTH_TOLERANCE {
            return;
        }
        let begin = (self.sample_count - 1 - envelope.len() as u64) as f64;
        // The window of the sample at index i ends after it, hence the one.
        let end_of_burst = begin + (rise + fall) / 2.0 + 1.0;
        self.onsets_s.push((end_of_burst - ideal) / f64::from(SAMPLE_RATE));
    }

    fn finish(mut self) -> Vec<f64> {
        self.end_burst();
        self.onsets_s
    }
}

/// Interpolated positions at which the curve first rises through `level` and last falls through it.
fn crossings(curve: &[f64], level: f64) -> Option<(f64, f64)> {
    let between = |a: f64, b: f64| (level - a) / (b - a);
    let rise = curve.windows(2).position(|w| w[0] < level && w[1] >= level)?;
    let fall = curve.windows(2).rposition(|w| w[0] >= level && w[1] < level)?;
    Some((
        rise as f64 + between(curve[rise], curve[rise + 1]),
        fall as f64 + between(curve[fall], curve[fall + 1]),
    ))
}

/// Amplitude of the sine of `hz` in a run of samples: 1.0 for full scale.
#[must_use]
pub fn tone_amplitude(samples: &[f32], hz: f64) -> f64 {
    let step = TAU * hz / f64::from(SAMPLE_RATE);
    let sum = samples.iter().enumerate().fold((0.0, 0.0), |(c, s), (i, v)| {
        let phase = step * i as f64;
        (c + f64::from(*v) * phase.cos(), s + f64::from(*v) * phase.sin())
    });
    2.0 * sum.0.hypot(sum.1) / samples.len().max(1) as f64
}

/// Root mean square of a run of samples.
#[must_use]
pub fn rms(samples: &[f32]) -> f64 {
    let sum: f64 = samples.iter().map(|v| f64::from(*v).powi(2)).sum();
    (sum / samples.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TONE: ToneBurst = ToneBurst { hz: 1000.0, duration_s: 0.02, channel: 0 };

    fn detect(sound: &[f64]) -> Vec<f64> {
        let mut detector = ToneDetector::new(TONE);
        sound.iter().for_each(|s| detector.push_sample(*s));
        detector.finish()
    }

    fn sine(hz: f64, amplitude: f64) -> impl Fn(usize) -> f64 {
        move |i| amplitude * (TAU * hz * i as f64 / 48_000.0).sin()
    }

    #[test]
    fn onsets_are_exact_at_any_level() {
        for amplitude in [0.05, 0.5, 1.0] {
            let mut sound = vec![0.0; 48_000];
            let starts = [5_000, 20_011, 40_007];
            for start in starts {
                (0..960).for_each(|i| sound[start + i] = sine(1000.0, amplitude)(i));
            }
            let found = detect(&sound);
            assert_eq!(found.len(), starts.len());
            for (found, start) in found.iter().zip(starts) {
                assert!((found * 48_000.0 - start as f64).abs() < 2.0, "{found} for {start}");
            }
        }
    }

    #[test]
    fn other_sounds_are_no_beeps() {
        let quiet: Vec<_> = (0..48_000).map(sine(1000.0, 0.01)).collect();
        let long: Vec<_> = (0..48_000).map(sine(1000.0, 0.5)).collect();
        let mut other = vec![0.0; 48_000];
        (0..960).for_each(|i| other[9_000 + i] = sine(3000.0, 0.5)(i));
        let mut click = vec![0.0; 48_000];
        click[9_000] = 1.0;
        for sound in [quiet, long, click] {
            assert_eq!(detect(&sound), Vec::<f64>::new());
        }
    }

    #[test]
    fn level_of_a_sine_is_its_amplitude() {
        let sine: Vec<f32> = (0..4800).map(|i| sine(440.0, 0.3)(i) as f32).collect();
        assert!((tone_amplitude(&sine, 440.0) - 0.3).abs() < 1e-3);
        assert!(tone_amplitude(&sine, 880.0) < 1e-3);
        assert!((rms(&sine) - 0.3 / 2.0_f64.sqrt()).abs() < 1e-3);
    }
}
