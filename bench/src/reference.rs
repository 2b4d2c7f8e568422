//! Single pictures of the pages, drawn again without loss.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::Rgb;
use pagecast_testkit::{Recording, screenshot};

use crate::casts::{FPS, HEIGHT, WIDTH};
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

    /// A file with these pictures of a page, as raw RGB one after the other.
    pub(crate) fn file(&mut self, page: Page, counters: &[u32]) -> Result<PathBuf> {
        let path = self.site.file("references.rgb");
        let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        for counter in counters {
            file.write_all(&self.picture(page, *counter)?.data)?;
        }
        Ok(path)
    }

    fn picture(&mut self, page: Page, counter: u32) -> Result<&Rgb> {
        let key = (page.file(), counter);
        if !self.drawn.contains_key(&key) {
            let picture = self.draw(page, counter)?;
            ensure!((picture.width, picture.height) == (WIDTH, HEIGHT), "a reference has the wrong size");
            self.drawn.insert(key, picture);
        }
        Ok(&self.drawn[&key])
    }

    fn draw(&self, page: Page, counter: u32) -> Result<Rgb> {
        if page == Page::Video {
            // What the page is given is what it draws, pixel for pixel.
            let middle = (f64::from(counter) + 0.5) / f64::from(FPS);
            return Recording::open(&self.site.video())?.picture_at(middle);
        }
        screenshot(&self.site.still(page, counter), WIDTH, HEIGHT, Duration::from_millis(500))
    }
}
