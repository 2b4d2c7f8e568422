//! The section about rooms.

use std::fmt::Write as _;

use anyhow::Result;
use pagecast_testkit::sync::median;

use super::yes_or_no;
use crate::rooms::{DELAY_GOAL_MS, FIRST_GOAL_S, Rooms, VIEWER_GOAL, VIEWERS};

/// How it was measured.
pub(super) const METHOD: &str = "\
- Rooms: `pagecast cast` of the small animation to its own room, which is in its process and counted; those who watch are one headless \
Chromium with as many connections, which is not. Delay: a page that writes the machine's clock into its strip, read from each \
picture when the viewer expects to show it (`requestVideoFrameCallback`). First picture: from Enter with `--standby`, for a viewer that \
is there already.
";

pub(super) fn markdown(text: &mut String, rooms: &Rooms) -> Result<()> {
    text.push_str("\n## Rooms\n\n| | cores | memory |\n|---|---:|---:|\n");
    let rows = [
        ("one layer, 1280x720", &rooms.layers[0]),
        ("two layers, 640x360 too", &rooms.layers[1]),
        ("one layer, five viewers", &rooms.watched),
    ];
    for (what, costs) in rows {
        writeln!(text, "| {what} | {:.3} | {:.0} MiB |", costs.cores(), costs.mib())?;
    }
    let each = rooms.each_viewer();
    let ([middle, most], first) = (rooms.delay_ms(), median(rooms.first_s.clone()));
    text.push_str("\n| | measured | goal | goal met |\n|---|---:|---:|---|\n");
    let met = yes_or_no(each <= VIEWER_GOAL);
    writeln!(
        text,
        "| cores added by each of {VIEWERS} viewers | **{each:.3}** | ≤ {VIEWER_GOAL:.2} | {met} |"
    )?;
    for (what, ms, goal) in [("half", middle, DELAY_GOAL_MS[0]), ("95 %", most, DELAY_GOAL_MS[1])] {
        let met = yes_or_no(ms <= goal);
        writeln!(text, "| {what} of the pictures shown within | **{ms:.0} ms** | ≤ {goal:.0} ms | {met} |")?;
    }
    let met = yes_or_no(first <= FIRST_GOAL_S);
    writeln!(text, "| first picture at a viewer, warm | **{first:.2} s** | ≤ {FIRST_GOAL_S:.1} s | {met} |")?;
    Ok(())
}
