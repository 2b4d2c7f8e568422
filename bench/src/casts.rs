//! One cast of either side, driven in the same way.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::measure::WARM_UP;
use crate::page::Page;
use crate::pagecast::{Claims, Pagecast};
use crate::peers::Peers;
use crate::site::Site;

pub(crate) const WIDTH: usize = 1280;
pub(crate) const HEIGHT: usize = 720;
pub(crate) const FPS: u32 = 30;

/// A busy machine may take long to show a page.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Who records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Pagecast,
    Recipe,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Pagecast, Self::Recipe];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pagecast => "Pagecast",
            Self::Recipe => "recipe",
        }
    }
}

/// A page that is being recorded.
#[derive(Debug)]
pub(crate) struct Cast {
    number: u32,
    file: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Pagecast(Pagecast),
    Recipe(Peers),
}

impl Cast {
    /// Starts everything that a cast of `page` needs; `program` is the `pagecast` to run.
    pub(crate) fn start(side: Side, site: &Site, page: Page, program: &Path) -> Result<Self> {
        let number = next_number();
        Self::of_url(side, site, &site.page(page, number), number, program)
    }

    /// The same for the page that flashes and beeps, which does not say when it has drawn.
    pub(crate) fn of_flash_and_beep(side: Side, site: &Site, program: &Path) -> Result<Self> {
        let number = next_number();
        let mut cast = Self::of_url(side, site, &site.flash_and_beep(number), number, program)?;
        site.wait_until_asked(number, PATIENCE)?;
        // The recipe's sound is at its best when the browser already plays as its recording begins.
        std::thread::sleep(WARM_UP);
        cast.begin()?;
        Ok(cast)
    }

    /// A cast of Pagecast's whose browser was started before.
    pub(crate) fn start_warm(site: &Site, page: Page, program: &Path) -> Result<Self> {
        let number = next_number();
        let file = site.file(&format!("warm-{number}.mp4"));
        let pagecast = Pagecast::start_warm(program, &site.page(page, number), &file)?;
        Ok(Self { number, file, kind: Kind::Pagecast(pagecast) })
    }

    fn of_url(side: Side, site: &Site, url: &str, number: u32, program: &Path) -> Result<Self> {
        let file = site.file(&format!("{}-{number}.mp4", side.name()));
        let kind = match side {
            Side::Pagecast => Kind::Pagecast(Pagecast::start(program, url, &file)?),
            Side::Recipe => Kind::Recipe(Peers::start(url)?),
        };
        Ok(Self { number, file, kind })
    }

    /// Waits until the page has drawn; the recipe starts to record only then, as its users do.
    pub(crate) fn shown(&mut self, site: &Site) -> Result<()> {
        site.wait_until_drawn(self.number, PATIENCE)?;
        self.begin()
    }

    fn begin(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Pagecast(_) => Ok(()),
            Kind::Recipe(peers) => peers.record(&self.file),
        }
    }

    /// Asks for the end of the recording, without waiting for it.
    pub(crate) fn interrupt(&self) -> Result<()> {
        match &self.kind {
            Kind::Pagecast(pagecast) => pagecast.interrupt(),
            Kind::Recipe(peers) => peers.interrupt(),
        }
    }

    /// Waits until the file is complete and everything has ended.
    pub(crate) fn finish(self) -> Result<Finished> {
        let claims = match self.kind {
            Kind::Pagecast(pagecast) => Some(pagecast.finish()?),
            Kind::Recipe(peers) => peers.finish().map(|()| None)?,
        };
        Ok(Finished { file: self.file, claims })
    }
}

/// What a cast leaves.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) file: PathBuf,
    /// What Pagecast says about itself.
    pub(crate) claims: Option<Claims>,
}

/// A number that no other cast of this run has.
pub(crate) fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
