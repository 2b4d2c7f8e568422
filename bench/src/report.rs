//! Writes the results as Markdown.

mod console;
mod fleet;
mod outputs;
mod playback;
mod rooms;
mod service;
mod take_over;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use pagecast_testkit::av_sync::{AvOffsets, median};
use pagecast_testkit::command::{program, run_for_stdout};

use crate::cast::{FPS, HEIGHT, Recorder, WIDTH};
use crate::density::{DensityStep, FULL_RATE_SHARE};
use crate::machine;
use crate::plan::Args;
use crate::results::{
    MAX_FIRST_FRAME_S, MAX_SSIM_LOSS, MAX_WARM_FIRST_FRAME_S, PageResult, PerRecorder, Results,
    max_full_rate_casts,
};
use crate::usage::Component;

const COMPONENTS: [(Component, &str); 5] = [
    (Component::Browser, "browser"),
    (Component::Display, "display"),
    (Component::Sound, "sound"),
    (Component::Encode, "encode"),
    (Component::Other, "other"),
];

pub(crate) fn markdown(args: &Args, pagecast: &Path, results: &Results) -> Result<String> {
    let mut text = String::from("# Pagecast against a baseline\n\n");
    intro_section(&mut text, args, pagecast)?;
    if !results.pages.is_empty() {
        cost_section(&mut text, results)?;
        cpu_section(&mut text, results)?;
        quality_section(&mut text, results)?;
    }
    if !results.warm_first_frames_s.is_empty() {
        timing_section(&mut text, results)?;
    }
    if let Some((page, steps)) = &results.density {
        density_section(&mut text, page.title(), steps)?;
    }
    if let Some(outputs) = &results.outputs {
        outputs::markdown(&mut text, outputs)?;
    }
    if let Some(rooms) = &results.rooms {
        rooms::markdown(&mut text, rooms)?;
    }
    if let Some(playback) = &results.playback {
        playback::markdown(&mut text, playback)?;
    }
    if let Some(service) = &results.service {
        service::markdown(&mut text, service)?;
    }
    if let Some(console) = &results.console {
        console::markdown(&mut text, console)?;
    }
    if let Some(fleet) = &results.fleet {
        fleet::markdown(&mut text, fleet)?;
    }
    if let Some(results) = &results.take_over {
        take_over::markdown(&mut text, results)?;
    }
    method_section(&mut text, args)?;
    if results.outputs.is_some() {
        text.push_str(outputs::METHOD_TEXT);
    }
    if results.rooms.is_some() {
        text.push_str(rooms::METHOD_TEXT);
    }
    if results.playback.is_some() {
        text.push_str(playback::METHOD_TEXT);
    }
    if results.service.is_some() {
        text.push_str(service::METHOD_TEXT);
    }
    if results.console.is_some() {
        text.push_str(console::METHOD_TEXT);
    }
    if results.fleet.is_some() {
        text.push_str(fleet::METHOD_TEXT);
    }
    if results.take_over.is_some() {
        text.push_str(take_over::METHOD_TEXT);
    }
    Ok(text)
}

fn intro_section(text: &mut String, args: &Args, pagecast: &Path) -> Result<()> {
    writeln!(
        text,
        "Written by `make bench`. Both recorders recorded the same pages at {WIDTH}x{HEIGHT} and {FPS} \
         frames per second, in turn, each alone on the machine.\n\
         The baseline is the usual recipe: Xvfb + PulseAudio + Chromium in kiosk mode + ffmpeg (x11grab, \
         libx264 veryfast, 4500 kbit/s), as LiveKit Egress configures it.\n\
         Values are medians of {} casts, measured over {} s after a warm-up.\n",
        args.repeat(),
        args.window().as_secs()
    )?;
    let version = run_for_stdout(program(pagecast).arg("--version"))?;
    writeln!(text, "- pagecast: {}", String::from_utf8_lossy(&version).trim())?;
    for (key, value) in machine::machine_facts()? {
        writeln!(text, "- {key}: {value}")?;
    }
    Ok(())
}

fn cost_section(text: &mut String, results: &Results) -> Result<()> {
    text.push_str(
        "\n## Cost of a cast\n\nCPU cores used by all processes of a cast, including the browser.\n\n",
    );
    text.push_str(
        "| page | Pagecast | baseline | ratio | goal | SSIM Pagecast | SSIM baseline | goal met |\n",
    );
    text.push_str("|---|---:|---:|---:|---:|---:|---:|---|\n");
    for result in &results.pages {
        let goal =
            result.page.max_cpu_ratio().map_or_else(|| "none".to_owned(), |goal| format!("≤ {goal:.2}"));
        writeln!(
            text,
            "| {} | {:.2} | {:.2} | **{:.2}** | {goal} | {:.4} | {:.4} | {} |",
            result.page.title(),
            result.total_cores(Recorder::Pagecast),
            result.total_cores(Recorder::Baseline),
            result.ratio(),
            result.ssim(Recorder::Pagecast).0,
            result.ssim(Recorder::Baseline).0,
            result.meets_goal().map_or("–", format_met),
        )?;
    }
    writeln!(
        text,
        "\nA goal is met only if Pagecast's pictures are not worse (luma SSIM, a loss of {MAX_SSIM_LOSS} \
         is allowed)."
    )?;
    Ok(())
}

fn cpu_section(text: &mut String, results: &Results) -> Result<()> {
    text.push_str("\n## CPU cores by component\n\n");
    text.push_str(
        "For the baseline: Chromium, Xvfb, PulseAudio, ffmpeg. For Pagecast: Chromium and its own \
         threads.\n\n",
    );
    let names: Vec<_> = COMPONENTS.iter().map(|(_, name)| *name).collect();
    writeln!(text, "| page | recorder | {} | total | memory |", names.join(" | "))?;
    writeln!(text, "|---|---|{}---:|---:|", "---:|".repeat(COMPONENTS.len()))?;
    for_each_recorder(results, |result, recorder| {
        let cores: Vec<_> =
            COMPONENTS.iter().map(|(part, _)| format!("{:.3}", result.cores(recorder, *part))).collect();
        let memory = result.median(recorder, |m| m.pss_bytes as f64) / 1024.0 / 1024.0;
        let total = result.total_cores(recorder);
        Ok(writeln!(
            text,
            "{} | {} | {total:.3} | {memory:.0} MiB |",
            row_head(result, recorder),
            cores.join(" | ")
        )?)
    })?;
    text.push_str("\nMemory is the largest sum of proportional set sizes.\n");
    let casts = results.pages.iter().flat_map(|result| result.casts.get(Recorder::Pagecast));
    let ratio = median(casts.filter_map(|m| m.self_reported_cpu_ratio).collect());
    writeln!(
        text,
        "The CPU time in Pagecast's own report is {:.0} % of that measured from outside.",
        ratio * 100.0
    )?;
    Ok(())
}

fn quality_section(text: &mut String, results: &Results) -> Result<()> {
    text.push_str("\n## Quality of the files\n\n");
    text.push_str(
        "| page | recorder | new pictures/s | coded pictures/s | kbit/s | luma SSIM | SSIM all |\n",
    );
    text.push_str("|---|---|---:|---:|---:|---:|---:|\n");
    for_each_recorder(results, |result, recorder| {
        let distinct = match result.page.is_animated() {
            true => format!("{:.1}", result.median(recorder, |m| m.distinct_fps)),
            false => "–".to_owned(),
        };
        let (luma, all) = result.ssim(recorder);
        let coded = result.median(recorder, |m| m.coded_fps);
        let kbps = result.median(recorder, |m| m.kbps);
        Ok(writeln!(
            text,
            "{} | {distinct} | {coded:.1} | {kbps:.0} | {luma:.4} | {all:.4} |",
            row_head(result, recorder)
        )?)
    })?;
    Ok(())
}

fn timing_section(text: &mut String, results: &Results) -> Result<()> {
    text.push_str("\n## Start, and sound against picture\n\n");
    text.push_str(
        "| recorder | first frame with the page | lag of sound, median | spread within a recording |\n",
    );
    text.push_str("|---|---:|---:|---:|\n");
    for recorder in Recorder::ALL {
        let over =
            |value: fn(&AvOffsets) -> f64| median(results.offsets.get(recorder).iter().map(value).collect());
        writeln!(
            text,
            "| {} | {:.2} s | {:+.1} ms | {:.1} ms |",
            recorder.name(),
            results.first_frame_s(recorder),
            over(AvOffsets::median_ms),
            over(AvOffsets::spread_ms)
        )?;
    }
    let met = format_met(results.first_frame_s(Recorder::Pagecast) <= MAX_FIRST_FRAME_S);
    writeln!(text, "\nGoal for Pagecast's first frame: ≤ {MAX_FIRST_FRAME_S} s; met: {met}.")?;
    let warm = results.warm_first_frame_s();
    writeln!(
        text,
        "With a warm browser (`--standby`): {warm:.2} s from the start command; goal ≤ \
         {MAX_WARM_FIRST_FRAME_S} s; met: {}.",
        format_met(warm <= MAX_WARM_FIRST_FRAME_S)
    )?;
    Ok(())
}

fn density_section(text: &mut String, page: &str, steps: &PerRecorder<Vec<DensityStep>>) -> Result<()> {
    text.push_str("\n## Simultaneous casts\n\n");
    writeln!(
        text,
        "Most simultaneous casts of the page \"{page}\" of which the slowest records at least {:.0} % of \
         {FPS} new pictures per second.\n",
        FULL_RATE_SHARE * 100.0
    )?;
    text.push_str("| recorder | casts at full rate | CPU cores used | slowest cast with one more |\n");
    text.push_str("|---|---:|---:|---:|\n");
    for recorder in Recorder::ALL {
        let measured = steps.get(recorder);
        let count = max_full_rate_casts(measured);
        let cores = measured.iter().find(|c| c.casts == count).map_or(0.0, |c| c.cores);
        let next = measured.iter().find(|c| c.casts == count + 1);
        let next = next.map_or_else(|| "not tried".to_owned(), DensityStep::describe_worst);
        writeln!(text, "| {} | **{count}** | {cores:.2} | {next} |", recorder.name())?;
    }
    Ok(())
}

fn method_section(text: &mut String, args: &Args) -> Result<()> {
    writeln!(
        text,
        "\n## Method\n\n\
         - CPU: user and system time of all processes that the bench started, from /proc, over the window. \
         Thread names split Pagecast's own time.\n\
         - Both browsers are the same binary, sandboxed, run by an unprivileged user, and draw WebGL with \
         SwiftShader.\n\
         - The moving pages draw picture *k* at *k*/60 s of their own clock, with *k* in a timecode of \
         black and white blocks. New pictures are distinct timecodes in the file.\n\
         - SSIM: up to 12 pictures of each file against the same pictures drawn by headless Chromium \
         without loss (video page: the decoded source), converted to YUV as the recorder does it, without \
         the timecode.\n\
         - First frame: for Pagecast `first_frame_ms` plus the time until its file shows a timecode; for the \
         baseline, from the start of Xvfb until a grabbed frame shows one. Users of the baseline add a \
         fixed wait, which is not counted.\n\
         - Sound against picture: beeps in the file against the clock in the picture; positive if the \
         sound is late.\n\
         - Window {} s, {} casts of each page and recorder, alternating.",
        args.window().as_secs(),
        args.repeat()
    )?;
    Ok(())
}

fn for_each_recorder(
    results: &Results,
    mut row: impl FnMut(&PageResult, Recorder) -> Result<()>,
) -> Result<()> {
    results
        .pages
        .iter()
        .try_for_each(|result| Recorder::ALL.into_iter().try_for_each(|recorder| row(result, recorder)))
}

fn row_head(result: &PageResult, recorder: Recorder) -> String {
    format!("| {} | {}", result.page.title(), recorder.name())
}

fn format_met(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measurement;
    use crate::page::BenchPage;
    use crate::quality::Ssim;
    use crate::usage::CpuUsage;

    fn measurement(browser: f64, encode: f64, luma: f64) -> Measurement {
        Measurement {
            cores: CpuUsage([(Component::Browser, browser), (Component::Encode, encode)].into()),
            pss_bytes: 300 << 20,
            distinct_fps: 29.9,
            coded_fps: 30.0,
            kbps: 800.0,
            ssim: Some(Ssim { luma, all: luma - 0.001 }),
            self_reported_cpu_ratio: Some(1.0),
        }
    }

    fn results(pagecast: [Measurement; 3], baseline: Measurement) -> Results {
        let casts = PerRecorder { pagecast: pagecast.into(), baseline: vec![baseline] };
        Results { pages: vec![PageResult { page: BenchPage::Scroll, casts }], ..Results::default() }
    }

    #[test]
    fn the_median_cast_counts() {
        let pagecast =
            [measurement(0.3, 0.2, 0.99), measurement(9.0, 9.0, 0.99), measurement(0.1, 0.1, 0.99)];
        let mut text = String::new();
        cost_section(&mut text, &results(pagecast, measurement(0.7, 0.3, 0.99))).expect("text");
        let row = "| Scrolling text | 0.50 | 1.00 | **0.50** | ≤ 0.60 | 0.9900 | 0.9900 | yes |";
        assert!(text.contains(row), "{text}");
        let mut text = String::new();
        let pagecast = [0.99; 3].map(|luma| measurement(0.3, 0.2, luma));
        cpu_section(&mut text, &results(pagecast, measurement(0.7, 0.3, 0.99))).expect("text");
        let row = "| Scrolling text | baseline | 0.700 | 0.000 | 0.000 | 0.300 | 0.000 | 1.000 | 300 MiB |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn a_goal_is_not_met_with_worse_pictures() {
        let met = |luma| {
            results([luma; 3].map(|l| measurement(0.1, 0.1, l)), measurement(0.7, 0.3, 0.99)).pages[0]
                .meets_goal()
        };
        assert_eq!((met(0.9871), met(0.9869)), (Some(true), Some(false)));
    }
}
