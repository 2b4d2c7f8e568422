//! Quality of a recording: number of new pictures, and their similarity to the page.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::Recording;
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::media::FrameTimecode;
use pagecast_testkit::timecode::TimecodePosition;

use crate::cast::{FPS, HEIGHT, Recorder, WIDTH};
use crate::page::BenchPage;
use crate::reference::{ReferenceFrames, TIMECODE_HEIGHT};

/// End of a file that is ignored, in seconds: its pictures may be of a page that is being closed.
const IGNORED_TAIL_S: f64 = 0.5;
/// Number of pictures that are compared with references: SSIM varies little between them.
const SSIM_SAMPLES: u32 = 12;

/// The measured part of a file, at its end.
#[derive(Debug)]
pub(crate) struct MeasuredFile {
    recording: Recording,
    /// Every picture of the file.
    frames: Vec<FrameTimecode>,
    window_s: std::ops::Range<f64>,
}

/// Structural similarity, 1 for the same picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ssim {
    /// SSIM of luma.
    pub(crate) luma: f64,
    /// SSIM of all planes, weighted by size.
    pub(crate) all: f64,
}

impl MeasuredFile {
    /// Opens a file to measure its last `seconds`, without the ignored end.
    pub(crate) fn open(file: &Path, seconds: f64) -> Result<Self> {
        let recording = Recording::open(file)?;
        let end = recording.end_s() - IGNORED_TAIL_S;
        ensure!(end > seconds, "{} is too short", file.display());
        let pictures = recording.timecodes(TimecodePosition::PAGE)?;
        Ok(Self { recording, frames: pictures, window_s: end - seconds..end })
    }

    /// New pictures of the page per second.
    pub(crate) fn distinct_fps(&self) -> f64 {
        let mut counters: Vec<_> = self.frames_with_counter().map(|(_, counter)| counter).collect();
        counters.sort_unstable();
        counters.dedup();
        counters.len() as f64 / (self.window_s.end - self.window_s.start)
    }

    /// Coded pictures per second.
    pub(crate) fn coded_fps(&self) -> f64 {
        let coded = self.frames.iter().filter(|p| self.window_s.contains(&p.pts_s)).count();
        coded as f64 / (self.window_s.end - self.window_s.start)
    }

    /// Bitrate of the file with sound, in kbit/s.
    pub(crate) fn kbps(&self) -> Result<f64> {
        let bytes = std::fs::metadata(self.recording.path())?.len();
        Ok(bytes as f64 * 8.0 / 1000.0 / self.recording.end_s())
    }

    /// Compares some pictures with references drawn without loss.
    pub(crate) fn ssim(
        &self,
        page: BenchPage,
        recorder: Recorder,
        source: &mut ReferenceFrames<'_>,
    ) -> Result<Ssim> {
        let chosen = if page.is_animated() { self.sample_by_counter(page)? } else { self.sample_by_time() };
        ensure!(!chosen.is_empty(), "{} has no picture to compare", self.recording.path().display());
        let references =
            source.write_raw_rgb(page, &chosen.iter().map(|(_, counter)| *counter).collect::<Vec<_>>())?;
        let select: Vec<_> = chosen.iter().map(|(index, _)| format!("eq(n\\,{index})")).collect();
        // x11grab converts with ffmpeg's default, BT.601; Pagecast uses BT.709. References are converted
        // alike.
        let matrix = match recorder {
            Recorder::Pagecast => "bt709",
            Recorder::Baseline => "bt601",
        };
        let crop = format!("crop={WIDTH}:{}:0:{TIMECODE_HEIGHT}", HEIGHT - TIMECODE_HEIGHT);
        let graph = format!(
            "[0:v]scale=out_color_matrix={matrix}:out_range=tv,format=yuv420p,{crop},setpts=N/30/TB[r];\
             [1:v]select='{}',format=yuv420p,{crop},setpts=N/30/TB[v];[v][r]ssim",
            select.join("+")
        );
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-nostdin", "-f", "rawvideo", "-pix_fmt", "rgb24", "-framerate", "30"]);
        ffmpeg.args(["-video_size", &format!("{WIDTH}x{HEIGHT}"), "-i"]).arg(&references);
        ffmpeg.arg("-i").arg(self.recording.path());
        ffmpeg.args(["-lavfi", &graph, "-fps_mode", "passthrough", "-f", "null", "-"]);
        let log = String::from_utf8_lossy(&run_for_output(&mut ffmpeg)?.stderr).into_owned();
        parse_ssim(&log).with_context(|| format!("ffmpeg printed no SSIM: {log}"))
    }

    /// Index in the file and counter of each picture of the window with a timecode.
    fn frames_with_counter(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let inside = |(_, p): &(usize, &FrameTimecode)| self.window_s.contains(&p.pts_s);
        let counted = |(i, p): (usize, &FrameTimecode)| Some((i, p.timecode?.counter));
        self.frames.iter().enumerate().filter(inside).filter_map(counted)
    }

    /// Index and counter of pictures at the same page times in each file.
    fn sample_by_counter(&self, page: BenchPage) -> Result<Vec<(usize, u32)>> {
        let per_second = if page == BenchPage::Video { FPS } else { 60 };
        let length = (self.window_s.end - self.window_s.start) as u32;
        let first = self
            .frames_with_counter()
            .map(|(_, counter)| counter)
            .min()
            .context("the window has no timecode")?;
        // Whole seconds, as the recorders do not start at the same picture.
        let from = first.next_multiple_of(per_second);
        let step = (length.saturating_sub(1).max(1) * per_second / SSIM_SAMPLES).max(1);
        let near =
            |target: u32| self.frames_with_counter().min_by_key(|(_, counter)| counter.abs_diff(target));
        let mut chosen: Vec<_> = (0..SSIM_SAMPLES).filter_map(|i| near(from + i * step)).collect();
        chosen.sort_unstable();
        chosen.dedup_by_key(|(_, counter)| *counter);
        Ok(chosen)
    }

    fn sample_by_time(&self) -> Vec<(usize, u32)> {
        let inside: Vec<_> =
            (0..self.frames.len()).filter(|i| self.window_s.contains(&self.frames[*i].pts_s)).collect();
        let step = inside.len().div_ceil(SSIM_SAMPLES as usize).max(1);
        inside.into_iter().step_by(step).map(|i| (i, 0)).collect()
    }
}

fn parse_ssim(text: &str) -> Option<Ssim> {
    let line = text.lines().rfind(|line| line.contains("SSIM Y:"))?;
    let value = |key: &str| line.split_once(key)?.1.split_whitespace().next()?.parse().ok();
    Some(Ssim { luma: value("SSIM Y:")?, all: value("All:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ssim_output_is_parsed() {
        let text = "frame= 12\n[Parsed_ssim_9 @ 0x55] SSIM Y:0.991234 (20.5) U:0.98 (17) V:0.97 (15) \
            All:0.985 (18.2)\n";
        let ssim = parse_ssim(text).expect("a line");
        assert!((ssim.luma - 0.991_234).abs() < 1e-9 && (ssim.all - 0.985).abs() < 1e-9);
        assert!(parse_ssim("nothing").is_none());
    }
}
