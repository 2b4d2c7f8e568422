//! From process start to the first captured frame that shows the page.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pagecast_testkit::Recording;
use pagecast_testkit::command::missing;
use pagecast_testkit::media::Gray;
use pagecast_testkit::strip::{Place, Strip};

use crate::casts::{Cast, Side};
use crate::page::Page;
use crate::peers::Peers;
use crate::site::{STRIP, Site};
use crate::usage::sweep;

/// Seconds until `side` has captured the page.
pub(crate) fn first_frame_s(side: Side, site: &Site, program: &Path) -> Result<f64> {
    let seconds = match side {
        Side::Pagecast => {
            Cast::start(side, site, Page::Animation, program).and_then(|cast| shown_s(cast, site))
        }
        Side::Recipe => of_recipe(site),
    };
    sweep()?;
    seconds
}

/// Seconds from the start command until Pagecast has captured the page with a browser that was started before.
pub(crate) fn warm_first_frame_s(site: &Site, program: &Path) -> Result<f64> {
    let seconds = Cast::start_warm(site, Page::Animation, program).and_then(|cast| shown_s(cast, site));
    sweep()?;
    seconds
}

/// What it says about itself, and what its file shows before the page appears.
fn shown_s(mut cast: Cast, site: &Site) -> Result<f64> {
    cast.shown(site)?;
    std::thread::sleep(Duration::from_secs(3));
    cast.interrupt()?;
    let finished = cast.finish()?;
    let claims = finished.claims.context("pagecast says nothing about itself")?;
    let pictures = Recording::open(&finished.file)?.strips(Place::PAGE)?;
    let shown = pictures.iter().find(|p| p.strip.is_some()).context("the page was not recorded")?;
    Ok(claims.first_frame_s + shown.pts_s)
}

/// Grabs from the start, and looks at each frame as it comes: the recipe's users wait a fixed time instead.
fn of_recipe(site: &Site) -> Result<f64> {
    let started = Instant::now();
    let peers = Peers::start(&site.page(Page::Animation, 0))?;
    let (width, height) = STRIP;
    let mut ffmpeg = peers.grab();
    ffmpeg.args(["-vf", &format!("crop={width}:{height}:0:0,format=gray"), "-f", "rawvideo", "-"]);
    let ffmpeg = ffmpeg.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = ffmpeg.spawn().context(missing("ffmpeg"))?;
    let mut frames = child.stdout.take().context("ffmpeg has no output")?;
    let mut picture = Gray::new(width, height);
    let seconds = loop {
        if let Err(e) = frames.read_exact(&mut picture.data) {
            break Err(e).context("ffmpeg ended before the page was shown");
        }
        if Strip::read(&picture, Place::PAGE).is_some() {
            break Ok(started.elapsed().as_secs_f64());
        }
        if started.elapsed() > Duration::from_secs(30) {
            break Err(anyhow::anyhow!("the recipe shows no page"));
        }
    };
    child.kill().ok();
    child.wait()?;
    seconds
}
