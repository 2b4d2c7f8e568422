//! Resamples any rate to 48 kHz with a windowed sinc.
//!
//! Output `n` lies at input position `n · rate / 48000`, computed in integers, so that no error accumulates,
//! however long a stream runs and however it is cut into chunks. The filter is causal: input is heard
//! [`Resampler::delay_frames`] later.

use std::f64::consts::PI;
use std::sync::LazyLock;

use pagecast_core::SAMPLE_RATE;

/// Zero crossings of the sinc on each side. 48 pass 19 kHz of a 44.1 kHz stream and attenuate its images by
/// 90 dB.
const HALF_WIDTH: usize = 48;
/// Points of the kernel between two crossings. The error of linear interpolation between them is below −110
/// dB.
const KERNEL_STEPS: usize = 512;
/// Beta of the Kaiser window: 90 dB of stop band attenuation.
const KAISER_BETA: f64 = 9.0;
/// Half-amplitude point as a fraction of the lower sample rate; the transition band ends at one half.
const CUTOFF: f64 = 0.468;

/// Right half of the kernel, indexed by the distance in input frames times [`KERNEL_STEPS`].
static KERNEL: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let point = |i: usize| {
        let x = i as f64 / KERNEL_STEPS as f64;
        let window = bessel_i0(KAISER_BETA * (1.0 - (x / HALF_WIDTH as f64).powi(2)).max(0.0).sqrt())
            / bessel_i0(KAISER_BETA);
        let angle = 2.0 * PI * CUTOFF * x;
        let sinc = if i == 0 { 1.0 } else { angle.sin() / angle };
        (2.0 * CUTOFF * sinc * window) as f32
    };
    let mut kernel: Vec<f32> = (0..=HALF_WIDTH * KERNEL_STEPS).map(point).collect();
    kernel.push(0.0);
    kernel
});

/// Converts one stream from its rate to 48 kHz.
#[derive(Debug, Clone)]
pub(super) struct Resampler {
    rate: u32,
    /// Half width of the kernel, in input frames.
    half_width_frames: usize,
    /// Fractional part of the input position of the next output, in 1/48000 of a frame.
    phase: u32,
    /// Number of input frames taken beyond the integer part of that position: 0 or 1.
    lead: usize,
    /// The last `2 * half_width_frames` input frames; more during [`Resampler::process`].
    frames: Vec<[f32; 2]>,
    /// Number of silent frames at the end of `frames`.
    silent_frames: usize,
}

impl Resampler {
    pub(super) fn new(rate: u32) -> Self {
        let half = (HALF_WIDTH * rate as usize).div_ceil(SAMPLE_RATE as usize).max(HALF_WIDTH);
        Self {
            rate,
            half_width_frames: half,
            phase: 0,
            lead: 0,
            frames: vec![[0.0; 2]; 2 * half],
            silent_frames: 2 * half,
        }
    }

    /// Delay from input to output, in input frames.
    pub(super) fn delay_frames(&self) -> usize {
        self.half_width_frames
    }

    /// Whether earlier input still affects the output.
    pub(super) fn is_ringing(&self) -> bool {
        self.silent_frames < 2 * self.half_width_frames
    }

    /// Number of input frames that the next `outputs` output frames need.
    pub(super) fn input_frames_for(&self, outputs: usize) -> usize {
        let end = u64::from(self.phase) + outputs as u64 * u64::from(self.rate);
        end.div_ceil(u64::from(SAMPLE_RATE)) as usize - self.lead
    }

    /// Resamples [`Resampler::input_frames_for`] frames of `input` into `out`. All input after the first
    /// `sounding` frames must be silence.
    pub(super) fn process(&mut self, input: &[[f32; 2]], sounding: usize, out: &mut [[f32; 2]]) {
        debug_assert_eq!(
            input.len(),
            self.input_frames_for(out.len()),
            "the caller passes as many frames as needed"
        );
        self.silent_frames =
            if sounding > 0 { input.len() - sounding } else { self.silent_frames + input.len() }
                .min(2 * self.half_width_frames);
        // Index in `frames` of the integer part of the position.
        let mut whole = self.frames.len() - self.lead;
        self.frames.extend_from_slice(input);
        let stretch = (f64::from(self.rate) / f64::from(SAMPLE_RATE)).max(1.0);
        for frame in out {
            *frame = self.interpolate(whole, stretch);
            self.phase += self.rate;
            whole += (self.phase / SAMPLE_RATE) as usize;
            self.phase %= SAMPLE_RATE;
        }
        self.lead = self.frames.len() - whole;
        let keep_from = self.frames.len() - 2 * self.half_width_frames;
        self.frames.drain(..keep_from);
    }

    /// The output at input position `whole + phase`, minus the delay.
    fn interpolate(&self, whole: usize, stretch: f64) -> [f32; 2] {
        let fraction = f64::from(self.phase) / f64::from(SAMPLE_RATE);
        let end = whole + usize::from(self.phase > 0);
        let first = whole + 1 - 2 * self.half_width_frames;
        let kernel = KERNEL.as_slice();
        let scale = KERNEL_STEPS as f64 / stretch;
        // Distance of the first frame from the centre, which is half a kernel width before the position.
        let mut distance = 1.0 - self.half_width_frames as f64 - fraction;
        let mut sum = [0.0; 2];
        for [l, r] in &self.frames[first..end] {
            let x = distance.abs() * scale;
            let i = (x as usize).min(kernel.len() - 2);
            let coefficient = kernel[i] + (kernel[i + 1] - kernel[i]) * (x - i as f64).min(1.0) as f32;
            sum[0] += l * coefficient;
            sum[1] += r * coefficient;
            distance += 1.0;
        }
        sum.map(|s: f32| s / stretch as f32)
    }
}

/// Modified Bessel function of the first kind, order zero.
fn bessel_i0(x: f64) -> f64 {
    let quarter = x * x / 4.0;
    let (mut sum, mut term, mut k) = (1.0, 1.0, 1.0);
    while term > sum * 1e-12 {
        term *= quarter / (k * k);
        sum += term;
        k += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sine(rate: u32, hz: f64, frames: usize) -> Vec<[f32; 2]> {
        let at = |i: usize| (2.0 * PI * hz * i as f64 / f64::from(rate)).sin() as f32;
        (0..frames).map(|i| [at(i), 0.5 * at(i)]).collect()
    }

    fn convert(rate: u32, input: &[[f32; 2]], cuts: impl Iterator<Item = usize>) -> Vec<[f32; 2]> {
        let (mut resampler, mut rest, mut out) = (Resampler::new(rate), input, Vec::new());
        for outputs in cuts {
            let needed = resampler.input_frames_for(outputs);
            if needed > rest.len() {
                break;
            }
            let mut chunk = vec![[0.0; 2]; outputs];
            resampler.process(&rest[..needed], needed, &mut chunk);
            rest = &rest[needed..];
            out.extend(chunk);
        }
        out
    }

    /// Signal-to-noise ratio of a resampled sine, in dB.
    fn snr_db(rate: u32, hz: f64) -> f64 {
        let out = convert(rate, &sine(rate, hz, rate as usize / 2), std::iter::repeat(480));
        let delay = Resampler::new(rate).delay_frames() as f64 / f64::from(rate);
        let skip = (delay * 48_000.0) as usize * 2 + 1;
        let (mut signal, mut noise) = (0.0, 0.0);
        for (n, frame) in out.iter().enumerate().skip(skip) {
            let expected = (2.0 * PI * hz * (n as f64 / 48_000.0 - delay)).sin();
            signal += expected * expected;
            noise += (f64::from(frame[0]) - expected).powi(2);
        }
        10.0 * (signal / noise).log10()
    }

    #[test]
    fn a_sine_stays_clean() {
        for (rate, hz) in [
            (44_100, 440.0),
            (44_100, 15_000.0),
            (44_101, 997.0),
            (8_000, 1_000.0),
            (22_050, 5_000.0),
            (96_000, 10_000.0),
            (192_000, 18_000.0),
        ] {
            let snr = snr_db(rate, hz);
            assert!(snr > 75.0, "{hz} Hz at {rate} Hz has an SNR of only {snr:.1} dB");
        }
    }

    #[test]
    fn frequencies_above_24_khz_are_filtered_out() {
        let out = convert(96_000, &sine(96_000, 30_000.0, 48_000), std::iter::repeat(480));
        let peak = out[480..].iter().map(|f| f[0].abs()).fold(0.0, f32::max);
        assert!(peak < 1e-4, "30 kHz folds back at {peak}");
    }

    #[test]
    fn rings_until_the_input_has_left_the_filter() {
        let mut resampler = Resampler::new(44_100);
        assert!(!resampler.is_ringing());
        let mut out = vec![[0.0; 2]; 480];
        let one = |r: &mut Resampler, sounding: f32, out: &mut [[f32; 2]]| {
            let input = vec![[sounding; 2]; r.input_frames_for(480)];
            r.process(&input, if sounding > 0.0 { input.len() } else { 0 }, out);
        };
        one(&mut resampler, 1.0, &mut out);
        assert!(resampler.is_ringing());
        one(&mut resampler, 0.0, &mut out);
        assert!(!resampler.is_ringing(), "441 quiet frames fill the 96 that are held");
        one(&mut resampler, 0.0, &mut out);
        assert!(out.iter().flatten().all(|v| *v == 0.0));
    }

    proptest! {
        #[test]
        fn output_does_not_depend_on_chunks(
            rate in 8_000_u32..=192_000,
            cuts in proptest::collection::vec(1_usize..700, 1..12),
        ) {
            let input = sine(rate, 1_234.5, rate as usize / 10);
            let cut = convert(rate, &input, cuts.iter().copied());
            let whole = convert(rate, &input, std::iter::repeat(1));
            prop_assert_eq!(&cut[..], &whole[..cut.len()]);
        }

        #[test]
        fn time_never_drifts(
            rate in 8_000_u32..=192_000,
            chunks in proptest::collection::vec(0_usize..700, 0..40),
        ) {
            let (mut resampler, mut taken, mut made) = (Resampler::new(rate), 0_u64, 0_u64);
            for outputs in chunks {
                let needed = resampler.input_frames_for(outputs);
                resampler.process(&vec![[0.0; 2]; needed], 0, &mut vec![[0.0; 2]; outputs]);
                taken += needed as u64;
                made += outputs as u64;
            }
            prop_assert_eq!(taken, (made * u64::from(rate)).div_ceil(48_000));
        }
    }
}
