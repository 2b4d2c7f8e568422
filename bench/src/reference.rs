//! Single pictures of the pages, drawn again without loss.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::command::{output_of, program};
use pagecast_testkit::media::Rgb;
use pagecast_testkit::screenshot;

use crate::casts::{HEIGHT, WIDTH};
use crate::page::Page;
use crate::site::{STRIP, Site};

/// The top of the picture belongs to the strip, which tells the page's time and is not drawn again.
pub(crate) const STRIP_HEIGHT: usize = STRIP.1;

/// Pictures by page and counter, each drawn once.
#[derive(Debug)]
pub(crate) struct Pictures<'a> {
    site: &'a Site,
    drawn: HashMap<(&'static str, u32), Rgb>,
}

impl<'a> Pictures<'a> {
    pub(crate) fn new(site: &'a Site) -> Self {
        Self { site, drawn: HashMap::new() }
    }

    /// A file with these pictures of a page, as raw RGB one after the other; counters go up.
    pub(crate) fn file(&mut self, page: Page, counters: &[u32]) -> Result<PathBuf> {
        let path = self.site.file("references.rgb");
        if page == Page::Video {
            // What the page is given is what it draws, pixel for pixel.
            decode(&self.site.video(), counters, &path)?;
            return Ok(path);
        }
        let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        for counter in counters {
            file.write_all(&self.picture(page, *counter)?.data)?;
        }
        Ok(path)
    }

    fn picture(&mut self, page: Page, counter: u32) -> Result<&Rgb> {
        let key = (page.file(), counter);
        if !self.drawn.contains_key(&key) {
            let settle = Duration::from_millis(500);
            let picture = screenshot(&self.site.still(page, counter), WIDTH, HEIGHT, settle)?;
            ensure!((picture.width, picture.height) == (WIDTH, HEIGHT), "a reference has the wrong size");
            self.drawn.insert(key, picture);
        }
        Ok(&self.drawn[&key])
    }
}

/// Writes some pictures of a video as raw RGB.
fn decode(video: &Path, counters: &[u32], to: &Path) -> Result<()> {
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
    output_of(&mut ffmpeg).map(drop)
}
