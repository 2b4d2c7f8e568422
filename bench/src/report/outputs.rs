//! Section about pushes and uploads.

use std::fmt::Write as _;

use anyhow::Result;
use pagecast_testkit::av_sync::median;

use super::format_met;
use crate::cast::Recorder;
use crate::outputs::delay::DelayStats;
use crate::outputs::upload::{Destination, Format, MP4_DURATION};
use crate::outputs::{MAX_CORES_PER_PUSH, OutputResults};

/// Method of the measurements.
pub(super) const METHOD_TEXT: &str = concat!(
    "- Pushes: a recording of the small animation, sent to several stream names at one nginx on the same ",
    "machine, which is not counted. The cost of each is the difference to the recording without pushes, ",
    "which varies from cast to cast; the CPU of the push threads is in its own column. A cast counts only ",
    "if it lost nothing. The baseline is one ffmpeg with LiveKit Egress' settings for streams (a keyframe ",
    "every 4 s, constant bitrate), `-f flv` to one server, `-f tee` to several. Pagecast also records a ",
    "file, the baseline does not.\n",
    "- Delay: the page draws the machine's clock in its timecode. ffmpeg, without buffering, plays the ",
    "stream from nginx, and each decoded timecode is compared with the clock.\n",
    "- Buckets: the full-screen video, recorded to a folder and to an S3 storage on the same machine, ",
    "which is not counted. The time after the end is from the signal until pagecast and its browser have ",
    "ended.\n",
);

pub(super) fn markdown(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("\n## Outputs\n\n");
    push_table(text, outputs)?;
    push_comparison_table(text, outputs)?;
    delay_table(text, outputs)?;
    upload_table(text, outputs)
}

fn push_table(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("Cost of a recording with pushes to RTMP servers.\n\n");
    text.push_str(
        "| servers | cores | in push threads | memory | cores added by each | memory added by each | goal \
         | goal met |\n",
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
    text.push_str("\n| servers | Pagecast | baseline | ratio |\n|---:|---:|---:|---:|\n");
    for (servers, baseline) in &outputs.pushes.0.baseline {
        let Some(ours) = outputs.pushes.0.pagecast.get(servers) else { continue };
        let (ours, theirs) = (ours.cores(), baseline.cores());
        writeln!(text, "| {servers} | {ours:.2} | {theirs:.2} | **{:.2}** |", ours / theirs)?;
    }
    Ok(())
}

fn delay_table(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("\nDelay from drawing a picture on the page to a viewer of the RTMP server:\n\n");
    text.push_str("| recorder | median | 95 % within |\n|---|---:|---:|\n");
    for recorder in Recorder::ALL {
        let over =
            |value: fn(&DelayStats) -> f64| median(outputs.delays.get(recorder).iter().map(value).collect());
        writeln!(
            text,
            "| {} | {:.0} ms | {:.0} ms |",
            recorder.name(),
            over(DelayStats::median_ms),
            over(DelayStats::p95_ms)
        )?;
    }
    Ok(())
}

fn upload_table(text: &mut String, outputs: &OutputResults) -> Result<()> {
    text.push_str("\nCost of a recording to a bucket.\n\n");
    text.push_str("| format | to | cores | memory | cores added | memory added |\n");
    text.push_str("|---|---|---:|---:|---:|---:|\n");
    for result in &outputs.uploads.0 {
        let costs = &result.costs;
        let local = outputs
            .uploads
            .find(result.format, Destination::Folder)
            .filter(|_| result.destination == Destination::Bucket);
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
            result.format.name().to_uppercase(),
            result.destination.name(),
            costs.cores(),
            costs.memory_mib()
        )?;
    }
    let end_s = |place| {
        median(
            outputs
                .uploads
                .find(Format::Mp4, place)
                .map_or_else(Vec::new, |result| result.completion_times_s.clone()),
        )
    };
    writeln!(
        text,
        "\nAn MP4 of {} s was stored in the folder {:.2} s after the end of the cast, in the bucket after \
         {:.2} s.",
        MP4_DURATION.as_secs(),
        end_s(Destination::Folder),
        end_s(Destination::Bucket)
    )?;
    Ok(())
}
