//! The section about servers and buckets.

use std::fmt::Write as _;

use anyhow::Result;
use pagecast_testkit::sync::median;

use super::yes_or_no;
use crate::casts::Side;
use crate::outputs::delay::Delay;
use crate::outputs::upload::{Format, LENGTH, Place};
use crate::outputs::{Outputs, PUSH_GOAL};

/// How it was measured.
pub(super) const METHOD: &str = "\
- Pushes: a recording of the small animation, sent to as many names at one nginx on the same machine, which is not counted. What \
each adds is the difference to the recording without pushes, which varies from cast to cast; what the \
threads that push used is in the other column. A cast counts only if nothing of it was lost. The recipe is one \
ffmpeg with LiveKit Egress' settings for streams (a keyframe every 4 s, constant bitrate), `-f flv` to one server, `-f tee` to \
some; Pagecast records a file as well, the recipe does not.
- Delay: the page writes the machine's clock into its strip as it draws; ffmpeg, told to keep nothing back, plays the stream \
from nginx, and each strip is compared with the clock when it has been decoded.
- Buckets: the full-screen video, recorded to a folder and to a storage that speaks S3 on the same machine, which is not \
counted. After the end: from the signal until pagecast has ended, its browser too.
";

pub(super) fn markdown(text: &mut String, outputs: &Outputs) -> Result<()> {
    text.push_str("\n## Outputs\n\n");
    pushes(text, outputs)?;
    beside(text, outputs)?;
    delays(text, outputs)?;
    uploads(text, outputs)
}

fn pushes(text: &mut String, outputs: &Outputs) -> Result<()> {
    text.push_str("What a recording costs that is sent to RTMP servers as well.\n\n");
    text.push_str(
        "| servers | cores | in push threads | memory | cores added by each | memory added by each | goal | goal met |\n",
    );
    text.push_str("|---:|---:|---:|---:|---:|---:|---:|---|\n");
    for (servers, costs) in &outputs.pushes.0.pagecast {
        let pushing = costs.pushing();
        write!(text, "| {servers} | {:.3} | {pushing:.3} | {:.0} MiB |", costs.cores(), costs.mib())?;
        match outputs.pushes.added(*servers) {
            None => text.push_str(" – | – | – | – |\n"),
            Some((cores, mib)) => {
                let met = outputs.pushes.meets_goal(*servers).map_or("–", yes_or_no);
                writeln!(text, " **{cores:.3}** | {mib:.1} MiB | ≤ {PUSH_GOAL:.2} | {met} |")?;
            }
        }
    }
    Ok(())
}

fn beside(text: &mut String, outputs: &Outputs) -> Result<()> {
    text.push_str("\n| servers | Pagecast | recipe | ratio |\n|---:|---:|---:|---:|\n");
    for (servers, recipe) in &outputs.pushes.0.recipe {
        let Some(ours) = outputs.pushes.0.pagecast.get(servers) else { continue };
        let (ours, theirs) = (ours.cores(), recipe.cores());
        writeln!(text, "| {servers} | {ours:.2} | {theirs:.2} | **{:.2}** |", ours / theirs)?;
    }
    Ok(())
}

fn delays(text: &mut String, outputs: &Outputs) -> Result<()> {
    text.push_str("\nFrom the page drawing a picture to a viewer of the RTMP server having it:\n\n");
    text.push_str("| side | median | 95 % within |\n|---|---:|---:|\n");
    for side in Side::BOTH {
        let over = |value: fn(&Delay) -> f64| median(outputs.delays.of(side).iter().map(value).collect());
        writeln!(
            text,
            "| {} | {:.0} ms | {:.0} ms |",
            side.name(),
            over(Delay::median_ms),
            over(Delay::p95_ms)
        )?;
    }
    Ok(())
}

fn uploads(text: &mut String, outputs: &Outputs) -> Result<()> {
    text.push_str("\nWhat a recording costs that is stored in a bucket while it is made.\n\n");
    text.push_str("| format | to | cores | memory | cores added | memory added |\n");
    text.push_str("|---|---|---:|---:|---:|---:|\n");
    for kept in &outputs.uploads.0 {
        let costs = &kept.costs;
        let local = outputs.uploads.of(kept.format, Place::Folder).filter(|_| kept.place == Place::Bucket);
        let added = local.map_or_else(
            || "– | –".to_owned(),
            |local| {
                let cores = costs.cores() - local.costs.cores();
                format!("**{cores:+.3}** | {:+.0} MiB", costs.mib() - local.costs.mib())
            },
        );
        writeln!(
            text,
            "| {} | {} | {:.3} | {:.0} MiB | {added} |",
            kept.format.name().to_uppercase(),
            kept.place.name(),
            costs.cores(),
            costs.mib()
        )?;
    }
    let end_s = |place| {
        median(outputs.uploads.of(Format::Mp4, place).map_or_else(Vec::new, |kept| kept.ends_s.clone()))
    };
    writeln!(
        text,
        "\nAn MP4 of {} s was complete in the folder {:.2} s after the end of the cast, in the bucket {:.2} s after it.",
        LENGTH.as_secs(),
        end_s(Place::Folder),
        end_s(Place::Bucket)
    )?;
    Ok(())
}
