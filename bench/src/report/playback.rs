//! Section about gaps at viewers that join rooms.

use std::fmt::Write as _;

use anyhow::Result;
use pagecast_testkit::av_sync::median;

use super::format_met;
use crate::playback::{Join, MAX_GAP_MS, PlaybackResults};

/// Method of the measurements.
pub(super) const METHOD_TEXT: &str = concat!(
    "- Playback: headless Chromium joins a room with a cast of 1280x720, measures its first 20 s and ",
    "leaves, several times. A gap is the time between two pictures that the browser presented ",
    "(`requestVideoFrameCallback`). The part of a gap that the RTP time stamps do not explain was added ",
    "by the room, the rest by the page. Page, encoder and viewer share this machine. Links of limited ",
    "bandwidth queue for up to 200 ms, then drop.\n",
);

pub(super) fn markdown(text: &mut String, results: &PlaybackResults) -> Result<()> {
    text.push_str("\n## Viewers that join a room\n\n");
    text.push_str(
        "| room | page | second layer | link | joins | first picture | longest gap, median \
         | longest gap, worst | added by the room | pictures per second | goal | goal met |\n\
         |---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|\n",
    );
    for (scenario, joins) in &results.0 {
        let of = |value: fn(&Join) -> f64| median(joins.iter().map(value).collect());
        // A viewer that saw nothing counts as one that waited for 20 s.
        let first = |join: &Join| join.first_picture_ms.unwrap_or(20_000.0) / 1000.0;
        let worst = joins.iter().map(|join| join.worst_gap_ms).fold(0.0, f64::max);
        let added = joins.iter().map(|join| join.worst_added_ms).fold(0.0, f64::max);
        let (goal, met) = if scenario.has_goal() {
            (format!("≤ {MAX_GAP_MS:.0} ms"), format_met(worst <= MAX_GAP_MS))
        } else {
            ("".to_owned(), "")
        };
        writeln!(
            text,
            "| {} | {} | {:.1} s | {:.0} ms | **{worst:.0} ms** | {added:.0} ms | {:.1} | {goal} | {met} |",
            scenario.title(),
            joins.len(),
            of(first),
            of(|join| join.worst_gap_ms),
            of(|join| join.pictures as f64 / 20.0),
        )?;
    }
    Ok(())
}
