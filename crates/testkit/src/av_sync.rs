//! Measures the offset between sound and picture.

use crate::media::FrameTimecode;
use crate::media::beeps::ToneBurst;
use crate::timecode::Timecode;

/// The beep of `sync.html`, on the left channel.
pub const PAGE_BEEP: ToneBurst = ToneBurst { hz: 1000.0, duration_s: 0.02, channel: 0 };
/// User bits in the timecode of `sync.html` with the number of the last beep.
pub const BEEP_NUMBER_MASK: u16 = 0x0fff;
/// User bit: the page shows its flash, timed by the time stamp of the audio output.
pub const FLASH_BIT: u16 = 0x1000;
/// User bit: the page would show its flash if it used only the time of the audio context.
pub const NAIVE_FLASH_BIT: u16 = 0x2000;

// A beep further than this from the time in the picture is another beep: beeps are a second apart.
const MAX_BEEP_DISTANCE_S: f64 = 0.3;
// Pictures this close to a beep date the video: one second in all, in which the beat of video rate and
// display rate passes once and averages out.
const AVERAGING_HALF_WINDOW_S: f64 = 0.5;

/// Offsets of sound against picture over a recording.
#[derive(Debug, Clone, Default)]
pub struct AvOffsets {
    /// Time in the recording, in seconds, and lag of the sound, in milliseconds.
    pub measurements: Vec<(f64, f64)>,
}

impl AvOffsets {
    /// Number of events measured.
    #[must_use]
    pub fn len(&self) -> usize {
        self.measurements.len()
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.measurements.is_empty()
    }

    /// Median offset in milliseconds; positive if the sound is late. NaN if nothing was measured.
    #[must_use]
    pub fn median_ms(&self) -> f64 {
        median(self.measurements.iter().map(|(_, ms)| *ms).collect())
    }

    /// Largest minus smallest offset in milliseconds, of the three quarters that agree best: on a busy
    /// machine a picture may be a tick off for a few seconds. NaN if nothing was measured.
    #[must_use]
    pub fn spread_ms(&self) -> f64 {
        let mut values: Vec<f64> = self.measurements.iter().map(|(_, ms)| *ms).collect();
        values.sort_by(f64::total_cmp);
        let most = (3 * values.len()).div_ceil(4).max(1);
        values.windows(most).map(|w| w[most - 1] - w[0]).min_by(f64::total_cmp).unwrap_or(f64::NAN)
    }

    /// Slope in milliseconds per minute: the median over all pairs of events (Theil and Sen). NaN below two
    /// events.
    #[must_use]
    pub fn drift_ms_per_min(&self) -> f64 {
        let slope = |a: &(f64, f64), b: &(f64, f64)| 60.0 * (b.1 - a.1) / (b.0 - a.0);
        let from = |i: usize| self.measurements[i + 1..].iter().map(move |b| slope(&self.measurements[i], b));
        median((0..self.len()).flat_map(from).collect())
    }
}

impl std::fmt::Display for AvOffsets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (median, spread) = (self.median_ms(), self.spread_ms());
        let drift = self.drift_ms_per_min();
        write!(
            f,
            "{} events, median {median:+.1} ms, spread {spread:.1} ms, drift {drift:+.2} ms/min",
            self.len()
        )
    }
}

/// Offsets of the beeps of `sync.html`, corrected by the clock in the picture: if a picture was drawn at page
/// time T and is shown at P, a beep due at page time B is due in the recording at P + B − T.
#[must_use]
pub fn page_offsets(pictures: &[FrameTimecode], onsets: &[f64]) -> AvOffsets {
    let mut by_beep: Vec<(u16, f64, Vec<f64>)> = Vec::new();
    for (pts_s, timecode) in with_timecode(pictures) {
        let Some(event_s) = timecode.event_s() else { continue };
        let due = pts_s + event_s - timecode.page_s();
        let Some(onset) = nearest_onset(onsets, due) else { continue };
        let number = timecode.user_bits & BEEP_NUMBER_MASK;
        if by_beep.last().is_none_or(|(last, ..)| *last != number) {
            by_beep.push((number, onset, Vec::new()));
        }
        if let Some((_, _, late)) = by_beep.last_mut() {
            late.push(1000.0 * (onset - due));
        }
    }
    AvOffsets { measurements: by_beep.into_iter().map(|(_, onset, late)| (onset, median(late))).collect() }
}

/// Offsets of the same beeps as viewers perceive them: from the first picture with the user bit `flash` to
/// the beep. Rounded to whole pictures, so for information only.
#[must_use]
pub fn visible_offsets(pictures: &[FrameTimecode], flash: u16, onsets: &[f64]) -> AvOffsets {
    let mut was_lit = true;
    let mut offsets = AvOffsets::default();
    for (pts_s, timecode) in with_timecode(pictures) {
        let lit = timecode.user_bits & flash != 0;
        if lit
            && !was_lit
            && let Some(onset) = nearest_onset(onsets, pts_s)
        {
            offsets.measurements.push((onset, 1000.0 * (onset - pts_s)));
        }
        was_lit = lit;
    }
    offsets
}

/// The picture shown at every tick up to `end_s`: an encoder skips pictures equal to the one before.
#[must_use]
pub fn hold_to_ticks(pictures: &[FrameTimecode], fps: u32, end_s: f64) -> Vec<FrameTimecode> {
    let ticks = (0_u32..).map(|tick| f64::from(tick) / f64::from(fps)).take_while(|at| *at < end_s - 1e-6);
    ticks
        .filter_map(|at| {
            let shown = pictures.partition_point(|p| p.pts_s <= at + 1e-6).checked_sub(1)?;
            Some(FrameTimecode { pts_s: at, timecode: pictures[shown].timecode })
        })
        .collect()
}

/// Offsets of the beeps of a [`flash_beep`](crate::flash_beep) video in the page; `pictures` have the
/// timecodes of the video. Compares the middle of a video frame with the middle of the time for which it is
/// shown, over all pictures around a beep.
#[must_use]
pub fn video_offsets(pictures: &[FrameTimecode], fps: u32, onsets: &[f64]) -> AvOffsets {
    let (tick, picture) = (1.0 / f64::from(fps), 1.0 / f64::from(crate::flash_beep::FPS));
    let lags: Vec<_> = with_timecode(pictures)
        .map(|(pts_s, timecode)| (pts_s, pts_s + tick / 2.0 - timecode.page_s() - picture / 2.0))
        .collect();
    let usual = median(lags.iter().map(|l| l.1).collect());
    let measured = onsets.iter().filter_map(|onset| {
        let beep_s = (onset - usual).round();
        let near: Vec<_> =
            lags.iter().filter(|l| (l.0 - onset).abs() < AVERAGING_HALF_WINDOW_S).map(|l| l.1).collect();
        let shown_at = beep_s + near.iter().sum::<f64>() / near.len() as f64;
        let complete = near.len() as f64 * tick > 1.9 * AVERAGING_HALF_WINDOW_S;
        complete.then_some((*onset, 1000.0 * (onset - shown_at)))
    });
    AvOffsets { measurements: measured.collect() }
}

fn with_timecode(pictures: &[FrameTimecode]) -> impl Iterator<Item = (f64, Timecode)> + '_ {
    pictures.iter().filter_map(|frame| Some((frame.pts_s, frame.timecode?)))
}

fn nearest_onset(onsets: &[f64], to: f64) -> Option<f64> {
    let distance = |onset: &f64| (onset - to).abs();
    onsets
        .iter()
        .copied()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .filter(|o| distance(o) < MAX_BEEP_DISTANCE_S)
}

/// Median; NaN if there are no values.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pts_s: f64, page_s: f64, event_s: f64, user_bits: u16) -> FrameTimecode {
        let (page_time, event_time) = ((page_s * 1e4).round() as u32, Some((event_s * 1e4).round() as u32));
        FrameTimecode { pts_s, timecode: Some(Timecode { counter: 0, page_time, event_time, user_bits }) }
    }

    /// 60 s at 30 fps: the page's clock is 2 s ahead, with a beep each second, drawn up to a tick late.
    fn frames() -> Vec<FrameTimecode> {
        let picture = |n: i32| {
            let pts = f64::from(n) / 30.0;
            let beep = pts.floor();
            let user_bits = if pts - beep < 0.1 { FLASH_BIT } else { 0 } | beep as u16;
            frame(pts, pts + 2.0, beep + 2.0, user_bits)
        };
        (0..1800).map(picture).collect()
    }

    #[test]
    fn late_and_drifting_sound_is_measured() {
        let onsets: Vec<_> = (0..60).map(|k| f64::from(k) * (1.0 + 0.003 / 60.0) + 0.010).collect();
        let offsets = page_offsets(&frames(), &onsets);
        assert_eq!(offsets.len(), 60);
        assert!((offsets.median_ms() - 11.5).abs() < 0.2, "{offsets}");
        assert!((offsets.drift_ms_per_min() - 3.0).abs() < 0.1, "{offsets}");
        assert!((offsets.spread_ms() - 2.2).abs() < 0.2, "{offsets}");
        assert_eq!(visible_offsets(&frames(), FLASH_BIT, &onsets).len(), 59);
    }

    #[test]
    fn a_short_shift_is_no_drift_but_half_a_recording_is() {
        let stepped = |from: u32| AvOffsets {
            measurements: (0..20).map(|k| (f64::from(k), if k < from { 0.0 } else { 66.7 })).collect(),
        };
        assert!(stepped(15).spread_ms() < 1.0 && stepped(15).drift_ms_per_min().abs() < 1.0);
        assert!(stepped(10).spread_ms() > 66.0);
    }

    #[test]
    fn a_missing_beep_is_not_invented() {
        assert!(page_offsets(&frames(), &[]).is_empty());
        assert_eq!(page_offsets(&frames(), &[5.02]).len(), 1);
        assert!(AvOffsets::default().median_ms().is_nan() && AvOffsets::default().spread_ms().is_nan());
    }

    #[test]
    fn video_on_a_display_of_another_rate() {
        for fps in [15, 30, 60] {
            // The video starts at 0.5 s, each tick shows the video frame at its middle, the sound is 4 ms
            // late.
            let shown = |n: u32| {
                let pts = f64::from(n) / f64::from(fps);
                let middle = pts + 0.5 / f64::from(fps) - 0.5;
                (middle > 0.0).then(|| frame(pts, (middle * 23.0).floor() / 23.0, 0.0, 0))
            };
            let pictures: Vec<_> = (0..20 * fps).filter_map(shown).collect();
            let onsets: Vec<_> = (1..19).map(|k| f64::from(k) + 0.504).collect();
            let offsets = video_offsets(&pictures, fps, &onsets);
            assert!(offsets.len() >= 17, "{fps} fps: {offsets}");
            assert!((offsets.median_ms() - 4.0).abs() < 2.0, "{fps} fps: {offsets}");
            assert!(offsets.spread_ms() < 5.0, "{fps} fps: {offsets}");
        }
    }
}
