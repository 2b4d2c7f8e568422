//! Section about rooms.

use std::fmt::Write as _;

use anyhow::Result;
use pagecast_testkit::av_sync::median;

use super::format_met;
use crate::rooms::{MAX_CORES_PER_VIEWER, MAX_DELAY_MS, MAX_FIRST_FRAME_S, RoomResults, VIEWER_COUNT};

/// Method of the measurements.
pub(super) const METHOD_TEXT: &str = concat!(
    "- Rooms: `pagecast cast` of the small animation to an embedded room, which is in its process and ",
    "counted. The viewers are connections of one headless Chromium, which is not counted. Delay: a page ",
    "draws the machine's clock in its timecode, which the viewer reads from each picture at its expected ",
    "display time (`requestVideoFrameCallback`). First picture: from Enter with `--standby`, for a ",
    "connected viewer.\n",
);

pub(super) fn markdown(text: &mut String, rooms: &RoomResults) -> Result<()> {
    text.push_str("\n## Rooms\n\n| | cores | memory |\n|---|---:|---:|\n");
    let rows = [
        ("one layer, 1280x720", &rooms.layer_costs[0]),
        ("two layers, 640x360 too", &rooms.layer_costs[1]),
        ("one layer, five viewers", &rooms.watched_costs),
    ];
    for (what, costs) in rows {
        writeln!(text, "| {what} | {:.3} | {:.0} MiB |", costs.cores(), costs.memory_mib())?;
    }
    let cores_per_viewer = rooms.cores_per_viewer();
    let ([median_ms, p95_ms], first) = (rooms.delay_ms(), median(rooms.first_frames_s.clone()));
    text.push_str("\n| | measured | goal | goal met |\n|---|---:|---:|---|\n");
    let met = format_met(cores_per_viewer <= MAX_CORES_PER_VIEWER);
    writeln!(
        text,
        "| cores added by each of {VIEWER_COUNT} viewers | **{cores_per_viewer:.3}** \
         | ≤ {MAX_CORES_PER_VIEWER:.2} | {met} |"
    )?;
    for (share, ms, goal) in [("half", median_ms, MAX_DELAY_MS[0]), ("95 %", p95_ms, MAX_DELAY_MS[1])] {
        let met = format_met(ms <= goal);
        writeln!(text, "| {share} of the pictures shown within | **{ms:.0} ms** | ≤ {goal:.0} ms | {met} |")?;
    }
    let met = format_met(first <= MAX_FIRST_FRAME_S);
    writeln!(
        text,
        "| first picture at a viewer, warm | **{first:.2} s** | ≤ {MAX_FIRST_FRAME_S:.1} s | {met} |"
    )?;
    Ok(())
}
