//! What is in the recording of the demo, and stills of it.

use std::path::Path;

use anyhow::{Context as _, Result};
use pagecast_testkit::Recording;
use pagecast_testkit::command::{program, run_for_stdout};
use pagecast_testkit::timecode::{Timecode, TimecodePosition, page_loads};

/// Stills on the contact sheet, and those from left to right.
const STILLS: usize = 9;
const COLUMNS: usize = 3;

/// What one browser drew.
pub(crate) struct Part {
    /// Timecodes of its first picture and of its last one.
    pub(crate) first: Timecode,
    pub(crate) last: Timecode,
    /// Where it ends in the file, in seconds.
    pub(crate) end_s: f64,
    /// Numbers of its pictures in the file.
    pictures: std::ops::Range<usize>,
}

/// The parts of a recording, in order.
pub(crate) fn read_parts(file: &Path) -> Result<Vec<Part>> {
    let recording = Recording::open(file)?;
    let pictures = recording.timecodes(TimecodePosition::PAGE)?;
    let (numbers, timecodes): (Vec<usize>, Vec<Timecode>) =
        pictures.iter().enumerate().filter_map(|(number, picture)| Some((number, picture.timecode?))).unzip();
    let mut begins = page_loads(&timecodes);
    begins.insert(0, 0);
    let ends = begins[1..].iter().copied().chain([timecodes.len()]);
    let part = |(begin, end): (usize, usize)| {
        let (first, last) = (*timecodes.get(begin)?, *timecodes.get(end.checked_sub(1)?)?);
        let end_s = pictures.get(numbers[end - 1] + 1).map_or(recording.end_s(), |next| next.pts_s);
        Some(Part { first, last, end_s, pictures: numbers[begin]..numbers[end - 1] + 1 })
    };
    let parts = begins.iter().copied().zip(ends).map(part).collect::<Option<Vec<_>>>();
    parts.context("the recording shows no page")
}

/// Writes stills of a recording to a PNG file, as many of each part, among them its first and last one.
/// Returns their number.
pub(crate) fn write_contact_sheet(file: &Path, sheet: &Path, parts: &[Part]) -> Result<usize> {
    let numbers = (0..STILLS).map(|still| {
        let part = still * parts.len() / STILLS;
        let of_part = |still: &usize| still * parts.len() / STILLS == part;
        let begin = (0..STILLS).take_while(|other| !of_part(other)).count();
        let count = (0..STILLS).filter(of_part).count();
        let pictures = &parts[part].pictures;
        pictures.start + (still - begin) * (pictures.len() - 1) / (count - 1).max(1)
    });
    let selected = numbers.map(|number| format!("eq(n\\,{number})")).collect::<Vec<_>>().join("+");
    let rows = STILLS.div_ceil(COLUMNS);
    let filter =
        format!("select={selected},scale=420:-2,tile={COLUMNS}x{rows}:padding=8:margin=8:color=0x181818");
    let mut ffmpeg = program("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(file);
    ffmpeg.args(["-vf", &filter, "-fps_mode", "passthrough", "-frames:v", "1"]).arg(sheet);
    run_for_stdout(&mut ffmpeg)?;
    Ok(STILLS)
}
