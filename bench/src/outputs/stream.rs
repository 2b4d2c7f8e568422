//! A page that either side sends to RTMP servers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::flv;
use pagecast_testkit::rtmp::Nginx;

use crate::casts::{FPS, PATIENCE, Side, next_number};
use crate::page::Page;
use crate::pagecast::{More, Pagecast};
use crate::peers::Peers;
use crate::site::Site;
use crate::usage::sweep;

/// Part of the asked rate that each server must have got.
const ENOUGH: f64 = 0.5;

/// What strips tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    Page,
    Machine,
}

/// A cast with some servers. Pagecast records a file meanwhile, the recipe does not.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    nginx: &'a Nginx,
    keys: Vec<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Pagecast(Pagecast),
    Recipe(Peers),
}

impl<'a> Stream<'a> {
    /// Starts everything and waits until the small animation is shown; `servers` are as many names at the same nginx.
    pub(super) fn start(
        side: Side,
        site: &Site,
        program: &Path,
        clock: Clock,
        nginx: &'a Nginx,
        servers: usize,
    ) -> Result<Self> {
        let number = next_number();
        let page = match clock {
            Clock::Page => site.page(Page::Animation, number),
            Clock::Machine => site.page_with_clock(Page::Animation, number),
        };
        let keys: Vec<_> = (0..servers).map(|n| format!("{number}x{n}")).collect();
        let urls: Vec<_> = keys.iter().map(|key| nginx.url(key)).collect();
        let kind = match side {
            Side::Pagecast => {
                let file = site.file(&format!("pushed-{number}.mp4"));
                let arguments = urls.into_iter().flat_map(|url| ["--push".to_owned(), url]).collect();
                let more = More { arguments, ..More::default() };
                let output = file.to_string_lossy();
                let cast = Pagecast::start_with(program, &page, &output, &file, &more)?;
                site.wait_until_drawn(number, PATIENCE)?;
                Kind::Pagecast(cast)
            }
            Side::Recipe => {
                let mut peers = Peers::start(&page)?;
                site.wait_until_drawn(number, PATIENCE)?;
                peers.stream(&urls)?;
                Kind::Recipe(peers)
            }
        };
        Ok(Self { nginx, keys, kind })
    }

    /// Where its first server can be watched.
    pub(super) fn url(&self) -> Result<String> {
        Ok(self.nginx.url(self.keys.first().context("it is sent nowhere")?))
    }

    /// Ends it, and checks that every server got pictures for at least `length`.
    pub(super) fn finish(self, length: Duration) -> Result<()> {
        match self.kind {
            Kind::Pagecast(cast) => {
                cast.interrupt()?;
                let whole = cast.finish()?.whole_pushes;
                ensure!(whole == self.keys.len(), "only {whole} of {} pushes are whole", self.keys.len());
            }
            Kind::Recipe(peers) => {
                peers.interrupt()?;
                peers.finish()?;
            }
        }
        sweep()?;
        let least = (ENOUGH * f64::from(FPS) * length.as_secs_f64()) as usize;
        for key in &self.keys {
            let mut pictures = 0;
            for path in self.nginx.recorded(key)? {
                let tags = flv::tags(&path)?;
                pictures += tags.iter().filter(|tag| matches!(tag.kind, flv::Kind::Video { .. })).count();
                fs::remove_file(path)?;
            }
            ensure!(pictures >= least, "a server got {pictures} pictures instead of {least}");
        }
        Ok(())
    }
}
