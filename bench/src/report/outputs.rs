//! The section about servers and buckets.

use std::fmt::Write as _;

use anyhow::Result;
use pagecast_testkit::av_sync::median;

use super::format_met;
use crate::cast::Recorder;
use crate::outputs::delay::DelayStats;
use crate::outputs::upload::{Destination, Format, MP4_DURATION};
use crate::outputs::{MAX_CORES_PER_PUSH, OutputResults};

/// How it was measured.
pub(super) const METHOD_TEXT: &str = "\
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

pub(super) fn markdown(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("\n## Outputs\n\n");
    push_table(text, outputs)?;
    push_comparison_table(text, outputs)?;
    delay_table(text, outputs)?;
    upload_table(text, outputs)
}

fn push_table(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("What a recording costs that is sent to RTMP servers as well.\n\n");
    text.push_str(
        "| servers | cores | in push threads | memory | cores added by each | memory added by each | goal | goal met |\n",
    );
    text.push_str("|---:|---:|---:|---:|---:|---:|---:|---|\n");
    for (servers, costs) in &outputs.pushes.0.pagecast {
        let pushing = costs.push_cores();
        write!(text, "| {servers} | {:.3} | {pushing:.3} | {:.0} MiB |", costs.cores(), costs.memory_mib())?;
        match outputs.pushes.cost_per_server(*servers) {
            None => text.push_str(" – | – | – | – |\n"),
            Some((cores, mib)) => {
                let met = outputs.pushes.meets_goal(*servers).map_or("–", format_met);
                writeln!(text, " **{cores:.3}** | {mib:.1} MiB | ≤ {MAX_CORES_PER_PUSH:.2} | {met} |")?;
            }
        }
    }
    Ok(())
}

fn push_comparison_table(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("\n| servers | Pagecast | recipe | ratio |\n|---:|---:|---:|---:|\n");
    for (servers, recipe) in &outputs.pushes.0.baseline {
        let Some(ours) = outputs.pushes.0.pagecast.get(servers) else { continue };
        let (ours, theirs) = (ours.cores(), recipe.cores());
        writeln!(text, "| {servers} | {ours:.2} | {theirs:.2} | **{:.2}** |", ours / theirs)?;
    }
    Ok(())
}

fn delay_table(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("\nFrom the page drawing a picture to a viewer of the RTMP server having it:\n\n");
    text.push_str("| side | median | 95 % within |\n|---|---:|---:|\n");
    for side in Recorder::ALL {
        let over =
            |value: fn(&DelayStats) -> f64| median(outputs.delays.get(side).iter().map(value).collect());
        writeln!(
            text,
            "| {} | {:.0} ms | {:.0} ms |",
            side.name(),
            over(DelayStats::median_ms),
            over(DelayStats::p95_ms)
        )?;
    }
    Ok(())
}

fn upload_table(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("\nWhat a recording costs that is stored in a bucket while it is made.\n\n");
    text.push_str("| format | to | cores | memory | cores added | memory added |\n");
    text.push_str("|---|---|---:|---:|---:|---:|\n");
    for kept in &outputs.uploads.0 {
        let costs = &kept.costs;
        let local = outputs
            .uploads
            .find(kept.format, Destination::Folder)
            .filter(|_| kept.destination == Destination::Bucket);
        let added = local.map_or_else(
            || "– | –".to_owned(),
            |local| {
                let cores = costs.cores() - local.costs.cores();
                format!("**{cores:+.3}** | {:+.0} MiB", costs.memory_mib() - local.costs.memory_mib())
            },
        );
        writeln!(
            text,
            "| {} | {} | {:.3} | {:.0} MiB | {added} |",
            kept.format.name().to_uppercase(),
            kept.destination.name(),
            costs.cores(),
            costs.memory_mib()
        )?;
    }
    let end_s = |place| {
        median(
            outputs
                .uploads
                .find(Format::Mp4, place)
                .map_or_else(Vec::new, |kept| kept.completion_times_s.clone()),
        )
    };
    writeln!(
        text,
        "\nAn MP4 of {} s was complete in the folder {:.2} s after the end of the cast, in the bucket {:.2} s after it.",
        MP4_DURATION.as_secs(),
        end_s(Destination::Folder),
        end_s(Destination::Bucket)
    )?;
    Ok(())
}
