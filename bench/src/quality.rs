//! What a recording is worth: how many of its pictures are new, and how close they are to what the page drew.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::Recording;
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::media::FrameTimecode;
use pagecast_testkit::timecode::TimecodePosition;

use crate::cast::{FPS, HEIGHT, Recorder, WIDTH};
use crate::page::BenchPage;
use crate::reference::{ReferenceFrames, TIMECODE_HEIGHT};

/// The last pictures of a file may come from a page that is being closed.
const IGNORED_TAIL_S: f64 = 0.5;
/// Pictures compared with what the page drew.
const SSIM_SAMPLES: u32 = 12;

/// What is in the last part of a file.
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
    /// Of the brightness.
    pub(crate) luma: f64,
    /// Of all planes, by their size.
    pub(crate) all: f64,
}

impl MeasuredFile {
    /// Looks at the last `seconds` of a file but for its tail.
    pub(crate) fn open(file: &Path, seconds: f64) -> Result<Self> {
        let recording = Recording::open(file)?;
        let end = recording.end_s() - IGNORED_TAIL_S;
        ensure!(end > seconds, "{} is too short", file.display());
        let pictures = recording.timecodes(TimecodePosition::PAGE)?;
        Ok(Self { recording, frames: pictures, window_s: end - seconds..end })
    }

    /// New pictures of the page in each second.
    pub(crate) fn distinct_fps(&self) -> f64 {
        let mut counters: Vec<_> = self.frames_with_counter().map(|(_, counter)| counter).collect();
        counters.sort_unstable();
        counters.dedup();
        counters.len() as f64 / (self.window_s.end - self.window_s.start)
    }

    /// Pictures that the file holds for each second.
    pub(crate) fn coded_fps(&self) -> f64 {
        let coded = self.frames.iter().filter(|p| self.window_s.contains(&p.pts_s)).count();
        coded as f64 / (self.window_s.end - self.window_s.start)
    }

    /// Size of the file for each second, in kbit/s, sound included.
    pub(crate) fn kbps(&self) -> Result<f64> {
        let bytes = std::fs::metadata(self.recording.path())?.len();
        Ok(bytes as f64 * 8.0 / 1000.0 / self.recording.end_s())
    }

    /// Compares some pictures with what the page drew, drawn again without loss.
    pub(crate) fn ssim(
        &self,
        page: BenchPage,
        side: Recorder,
        drawn: &mut ReferenceFrames<'_>,
    ) -> Result<Ssim> {
        let chosen = if page.is_animated() { self.sample_by_counter(page)? } else { self.sample_by_time() };
        ensure!(!chosen.is_empty(), "{} has no picture to compare", self.recording.path().display());
        let references =
            drawn.write_raw_rgb(page, &chosen.iter().map(|(_, counter)| *counter).collect::<Vec<_>>())?;
        let select: Vec<_> = chosen.iter().map(|(index, _)| format!("eq(n\\,{index})")).collect();
        // ffmpeg's x11grab converts with its default, BT.601; Pagecast uses BT.709. Each is judged by its own.
        let matrix = match side {
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
        let said = String::from_utf8_lossy(&run_for_output(&mut ffmpeg)?.stderr).into_owned();
        parse_ssim(&said).with_context(|| format!("ffmpeg did not say how similar the pictures are: {said}"))
    }

    /// Pictures of the window whose strip was read: their index in the file and their counter.
    fn frames_with_counter(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let inside = |(_, p): &(usize, &FrameTimecode)| self.window_s.contains(&p.pts_s);
        let counted = |(i, p): (usize, &FrameTimecode)| Some((i, p.timecode?.counter));
        self.frames.iter().enumerate().filter(inside).filter_map(counted)
    }

    /// The same moments of the page in every file.
    fn sample_by_counter(&self, page: BenchPage) -> Result<Vec<(usize, u32)>> {
        let per_second = if page == BenchPage::Video { FPS } else { 60 };
        let length = (self.window_s.end - self.window_s.start) as u32;
        let first = self
            .frames_with_counter()
            .map(|(_, counter)| counter)
            .min()
            .context("the window has no strip")?;
        // Whole seconds, because the two sides do not start at the same picture.
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
        let text = "frame= 12\n[Parsed_ssim_9 @ 0x55] SSIM Y:0.991234 (20.5) U:0.98 (17) V:0.97 (15) All:0.985 (18.2)\n";
        let ssim = parse_ssim(text).expect("a line");
        assert!((ssim.luma - 0.991_234).abs() < 1e-9 && (ssim.all - 0.985).abs() < 1e-9);
        assert!(parse_ssim("nothing").is_none());
    }
}
