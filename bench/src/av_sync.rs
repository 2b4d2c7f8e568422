//! Offset between sound and picture in the recordings of each recorder.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::Recording;
use pagecast_testkit::av_sync::{AvOffsets, PAGE_BEEP, page_offsets};
use pagecast_testkit::media::beeps;
use pagecast_testkit::timecode::TimecodePosition;

use crate::cast::{Cast, Recorder};
use crate::site::BenchSite;
use crate::usage::kill_descendants;

/// Records the testkit's page with beeps and measures their offsets, corrected by the clock in the picture.
pub(crate) fn measure_offsets(
    recorder: Recorder,
    site: &BenchSite,
    program: &Path,
    length: Duration,
) -> Result<AvOffsets> {
    let cast = Cast::start_flash_beep(recorder, site, program)?;
    std::thread::sleep(length);
    cast.interrupt()?;
    let finished = cast.finish()?;
    kill_descendants()?;
    let recording = Recording::open(&finished.file)?;
    let onsets = beeps::onsets(recording.pcm()?, PAGE_BEEP)?;
    let offsets = page_offsets(&recording.timecodes(TimecodePosition::PAGE)?, &onsets);
    ensure!(offsets.len() > 2, "{}: beeps or timecodes are missing", finished.file.display());
    Ok(offsets)
}
