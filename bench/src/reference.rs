//! Single pictures of the pages, drawn again without loss, as references.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::media::RgbImage;
use pagecast_testkit::screenshot;

use crate::cast::{HEIGHT, WIDTH};
use crate::page::BenchPage;
use crate::site::{BenchSite, TIMECODE_SIZE};

/// Height of the timecode at the top of the picture, which references do not have, in pixels.
pub(crate) const TIMECODE_HEIGHT: usize = TIMECODE_SIZE.1;

/// References by page and counter, each drawn once.
#[derive(Debug)]
pub(crate) struct ReferenceFrames<'a> {
    site: &'a BenchSite,
    rendered: HashMap<(&'static str, u32), RgbImage>,
}

impl<'a> ReferenceFrames<'a> {
    pub(crate) fn new(site: &'a BenchSite) -> Self {
        Self { site, rendered: HashMap::new() }
    }

    /// Writes a file with these pictures of a page in raw RGB, in ascending order of `counters`.
    pub(crate) fn write_raw_rgb(&mut self, page: BenchPage, counters: &[u32]) -> Result<PathBuf> {
        let path = self.site.output_path("references.rgb");
        if page == BenchPage::Video {
            // The page draws the video pixel by pixel.
            decode_frames(&self.site.video_path(), counters, &path)?;
            return Ok(path);
        }
        let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        for counter in counters {
            file.write_all(&self.frame(page, *counter)?.data)?;
        }
        Ok(path)
    }

    fn frame(&mut self, page: BenchPage, counter: u32) -> Result<&RgbImage> {
        let key = (page.file(), counter);
        if !self.rendered.contains_key(&key) {
            let settle = Duration::from_millis(500);
            let picture = screenshot(&self.site.still_url(page, counter), WIDTH, HEIGHT, settle)?;
            ensure!((picture.width, picture.height) == (WIDTH, HEIGHT), "a reference has the wrong size");
            self.rendered.insert(key, picture);
        }
        Ok(&self.rendered[&key])
    }
}

/// Writes some pictures of a video as raw RGB.
fn decode_frames(video: &Path, counters: &[u32], to: &Path) -> Result<()> {
    let select: Vec<_> = counters.iter().map(|counter| format!("eq(n\\,{counter})")).collect();
    let mut ffmpeg = program("ffmpeg");
    ffmpeg.args(["-y", "-v", "error", "-nostdin", "-i"]).arg(video);
    ffmpeg.args([
        "-map",
        "0:v",
        "-vf",
        &format!("select='{}'", select.join("+")),
        "-fps_mode",
        "passthrough",
    ]);
    ffmpeg
        .args(["-sws_flags", "accurate_rnd+full_chroma_int", "-f", "rawvideo", "-pix_fmt", "rgb24"])
        .arg(to);
    run_for_output(&mut ffmpeg).map(drop)
}
