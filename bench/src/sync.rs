//! How far sound and picture are apart in what each side records.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::Recording;
use pagecast_testkit::media::beeps;
use pagecast_testkit::strip::Place;
use pagecast_testkit::sync::{Offsets, PAGE_BEEP, page};

use crate::casts::{Cast, Side};
use crate::site::Site;
use crate::usage::sweep;

/// Offsets of the beeps of testkit's page, corrected by the clock in the picture.
pub(crate) fn offsets(side: Side, site: &Site, program: &Path, length: Duration) -> Result<Offsets> {
    let cast = Cast::of_flash_and_beep(side, site, program)?;
    std::thread::sleep(length);
    cast.interrupt()?;
    let finished = cast.finish()?;
    sweep()?;
    let recording = Recording::open(&finished.file)?;
    let onsets = beeps::onsets(recording.pcm()?, PAGE_BEEP)?;
    let offsets = page(&recording.strips(Place::PAGE)?, &onsets);
    ensure!(offsets.len() > 2, "{}: beeps or strips are missing", finished.file.display());
    Ok(offsets)
}
