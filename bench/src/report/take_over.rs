//! Section about casts whose node dies.

use std::fmt::Write as _;

use anyhow::Result;
use pagecast_testkit::av_sync::median;
use pagecast_testkit::fleet::LEASE_S;

use super::format_met;
use crate::cast::{FPS, HEIGHT, WIDTH};
use crate::take_over::{MAX_TAKE_OVER_S, NODE_COUNT, OUTAGE_S, TakeOver, TakeOverResults};

/// Method of the measurements.
pub(super) const METHOD_TEXT: &str = concat!(
    "- Take-over: nodes, PostgreSQL, the S3 server and the viewer share this machine. A cast of a page with ",
    "a counter is in an embedded room and recorded to a bucket, with copies in the fleet's store. Its node ",
    "is killed with SIGKILL: the service, the process of the cast, the browser. The page draws the ",
    "machine's clock with each picture, so the recording says when the first picture of the page in its ",
    "new browser was drawn. The viewer is headless Chromium with the room's page, through a node that is ",
    "not killed; the time is that at which it presents this picture (`requestVideoFrameCallback`). ",
    "All take-overs are in one recording, one MP4 file. A node that was killed is started again before the ",
    "next one is killed, and deaths are spread over the time between two renewals of a lease.\n",
);

/// A row of the table: what was measured, and whether the goal is for it.
type Row = (&'static str, fn(&TakeOver) -> f64, bool);

const ROWS: [Row; 4] = [
    ("claimed by another node", |take_over| take_over.claimed_s, false),
    ("next picture in the recording", |take_over| take_over.recorded_s, true),
    ("next picture at a viewer of the room", |take_over| take_over.shown_s, true),
    ("missing in the recording", |take_over| take_over.missing_s, false),
];

pub(super) fn markdown(text: &mut String, results: &TakeOverResults) -> Result<()> {
    let TakeOverResults { take_overs, outage } = results;
    writeln!(
        text,
        "\n## Take-over\n\nThe node that runs a cast of {WIDTH}x{HEIGHT} at {FPS} frames per second is \
         killed {} times; {NODE_COUNT} nodes, leases of {LEASE_S} s. Seconds after its death.\n",
        take_overs.len()
    )?;
    text.push_str("| | median | worst | goal for the worst | goal met |\n|---|---:|---:|---|---|\n");
    for (what, value, has_goal) in ROWS {
        row(text, what, &take_overs.iter().map(value).collect::<Vec<_>>(), has_goal)?;
    }
    let with_room = take_overs.iter().filter(|take_over| take_over.had_room);
    let shown: Vec<f64> = with_room.map(|take_over| take_over.shown_s).collect();
    if !shown.is_empty() {
        let what = format!("the same, the room was on this node, too ({} times)", shown.len());
        row(text, &what, &shown, false)?;
    }
    text.push_str("\n| | measured | goal | goal met |\n|---|---:|---|---|\n");
    let stopped = u32::from(!outage.same_process);
    writeln!(
        text,
        "| database killed for {OUTAGE_S} s: casts stopped or started again | **{stopped}** | 0 | {} |\n\
         | longest time between two pictures meanwhile, in the recording | {:.2} s | none | – |\n\
         | longest time between two pictures meanwhile, at a viewer of the room | {:.2} s | none | – |",
        format_met(outage.same_process),
        outage.recorded_gap_s,
        outage.shown_gap_s
    )?;
    Ok(())
}

fn row(text: &mut String, what: &str, seconds: &[f64], has_goal: bool) -> Result<()> {
    let worst = seconds.iter().copied().fold(0.0, f64::max);
    let (goal, met) = match has_goal {
        true => (format!("≤ {MAX_TAKE_OVER_S:.0} s"), format_met(worst <= MAX_TAKE_OVER_S)),
        false => ("none".to_owned(), "–"),
    };
    writeln!(text, "| {what} | {:.1} s | **{worst:.1} s** | {goal} | {met} |", median(seconds.to_vec()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::take_over::Outage;

    #[test]
    fn the_worst_take_over_counts() {
        let take_over = |recorded_s, had_room| TakeOver {
            claimed_s: 6.0,
            recorded_s,
            shown_s: recorded_s + 1.0,
            missing_s: recorded_s + 2.0,
            had_room,
        };
        let take_overs = vec![take_over(7.0, false), take_over(9.5, true), take_over(8.0, false)];
        let outage = Outage { same_process: true, recorded_gap_s: 0.034, shown_gap_s: 0.1 };
        let mut text = String::new();
        markdown(&mut text, &TakeOverResults { take_overs, outage }).expect("text");
        for line in [
            "| claimed by another node | 6.0 s | **6.0 s** | none | – |",
            "| next picture in the recording | 8.0 s | **9.5 s** | ≤ 10 s | yes |",
            "| next picture at a viewer of the room | 9.0 s | **10.5 s** | ≤ 10 s | **no** |",
            "| the same, the room was on this node, too (1 times) | 10.5 s | **10.5 s** | none | – |",
            "| database killed for 20 s: casts stopped or started again | **0** | 0 | yes |",
        ] {
            assert!(text.lines().any(|of| of == line), "{line}\n{text}");
        }
    }
}
