//! The results as a page of Markdown.

mod outputs;
mod rooms;
mod service;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use pagecast_testkit::command::{program, stdout_of};
use pagecast_testkit::sync::{Offsets, median};

use crate::casts::{FPS, HEIGHT, Side, WIDTH};
use crate::density::{Crowd, FULL};
use crate::machine;
use crate::plan::Args;
use crate::results::{
    FIRST_FRAME_GOAL_S, PageResult, Pair, Results, SSIM_SLACK, WARM_FIRST_FRAME_GOAL_S, most,
};
use crate::usage::Part;

const PARTS: [(Part, &str); 5] = [
    (Part::Browser, "browser"),
    (Part::Display, "display"),
    (Part::Sound, "sound"),
    (Part::Encode, "encode"),
    (Part::Other, "other"),
];

pub(crate) fn markdown(args: &Args, pagecast: &Path, results: &Results) -> Result<String> {
    let mut text = String::from("# Pagecast against the usual recipe\n\n");
    intro(&mut text, args, pagecast)?;
    if !results.pages.is_empty() {
        cost(&mut text, results)?;
        parts(&mut text, results)?;
        worth(&mut text, results)?;
    }
    if !results.warm_first_frames_s.is_empty() {
        times(&mut text, results)?;
    }
    if let Some((page, crowds)) = &results.crowds {
        density(&mut text, page.title(), crowds)?;
    }
    if let Some(outputs) = &results.outputs {
        outputs::markdown(&mut text, outputs)?;
    }
    if let Some(rooms) = &results.rooms {
        rooms::markdown(&mut text, rooms)?;
    }
    if let Some(service) = &results.service {
        service::markdown(&mut text, service)?;
    }
    method(&mut text, args)?;
    if results.outputs.is_some() {
        text.push_str(outputs::METHOD);
    }
    if results.rooms.is_some() {
        text.push_str(rooms::METHOD);
    }
    if results.service.is_some() {
        text.push_str(service::METHOD);
    }
    Ok(text)
}

fn intro(text: &mut String, args: &Args, pagecast: &Path) -> Result<()> {
    writeln!(
        text,
        "Written by `make bench`. Both sides recorded the same pages at {WIDTH}x{HEIGHT} and {FPS} frames a second, in turn, \
         each alone on the machine.\nThe recipe is Xvfb + PulseAudio + Chromium in kiosk mode + ffmpeg (x11grab, libx264 \
         veryfast, 4500 kbit/s), as LiveKit Egress configures it.\nValues are medians of {} casts, measured over {} s after \
         a warm-up.\n",
        args.repeat(),
        args.window().as_secs()
    )?;
    let version = stdout_of(program(pagecast).arg("--version"))?;
    writeln!(text, "- pagecast: {}", String::from_utf8_lossy(&version).trim())?;
    for (key, value) in machine::describe()? {
        writeln!(text, "- {key}: {value}")?;
    }
    Ok(())
}

fn cost(text: &mut String, results: &Results) -> Result<()> {
    text.push_str(
        "\n## What a cast costs\n\nCores in use by everything that a cast needs, browser included.\n\n",
    );
    text.push_str("| page | Pagecast | recipe | ratio | goal | SSIM Pagecast | SSIM recipe | goal met |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---:|---|\n");
    for result in &results.pages {
        let goal = result.page.goal().map_or_else(|| "none".to_owned(), |goal| format!("≤ {goal:.2}"));
        writeln!(
            text,
            "| {} | {:.2} | {:.2} | **{:.2}** | {goal} | {:.4} | {:.4} | {} |",
            result.page.title(),
            result.total_cores(Side::Pagecast),
            result.total_cores(Side::Recipe),
            result.ratio(),
            result.ssim(Side::Pagecast).0,
            result.ssim(Side::Recipe).0,
            result.meets_goal().map_or("–", yes_or_no),
        )?;
    }
    writeln!(
        text,
        "\nA goal is met only if Pagecast's pictures are no worse (SSIM of the brightness, −{SSIM_SLACK} allowed)."
    )?;
    Ok(())
}

fn parts(text: &mut String, results: &Results) -> Result<()> {
    text.push_str("\n## Cores by part\n\n");
    text.push_str(
        "For the recipe: Chromium, Xvfb, PulseAudio, ffmpeg. For Pagecast: Chromium and its own threads.\n\n",
    );
    let names: Vec<_> = PARTS.iter().map(|(_, name)| *name).collect();
    writeln!(text, "| page | side | {} | total | memory |", names.join(" | "))?;
    writeln!(text, "|---|---|{}---:|---:|", "---:|".repeat(PARTS.len()))?;
    each_side(results, |result, side| {
        let cores: Vec<_> =
            PARTS.iter().map(|(part, _)| format!("{:.3}", result.cores(side, *part))).collect();
        let memory = result.middle(side, |m| m.pss_bytes as f64) / 1024.0 / 1024.0;
        let total = result.total_cores(side);
        Ok(writeln!(text, "{} | {} | {total:.3} | {memory:.0} MiB |", head(result, side), cores.join(" | "))?)
    })?;
    text.push_str("\nMemory is the largest sum of proportional set sizes seen.\n");
    let casts = results.pages.iter().flat_map(|result| result.casts.of(Side::Pagecast));
    let claimed = median(casts.filter_map(|m| m.claimed).collect());
    writeln!(
        text,
        "What Pagecast says about its own CPU time is {:.0} % of what was seen from outside.",
        claimed * 100.0
    )?;
    Ok(())
}

fn worth(text: &mut String, results: &Results) -> Result<()> {
    text.push_str("\n## What is in the files\n\n");
    text.push_str(
        "| page | side | new pictures/s | coded pictures/s | kbit/s | SSIM brightness | SSIM all |\n",
    );
    text.push_str("|---|---|---:|---:|---:|---:|---:|\n");
    each_side(results, |result, side| {
        let distinct = match result.page.moves() {
            true => format!("{:.1}", result.middle(side, |m| m.distinct_fps)),
            false => "–".to_owned(),
        };
        let (luma, all) = result.ssim(side);
        let coded = result.middle(side, |m| m.coded_fps);
        let kbps = result.middle(side, |m| m.kbps);
        Ok(writeln!(
            text,
            "{} | {distinct} | {coded:.1} | {kbps:.0} | {luma:.4} | {all:.4} |",
            head(result, side)
        )?)
    })?;
    Ok(())
}

fn times(text: &mut String, results: &Results) -> Result<()> {
    text.push_str("\n## Start, and sound against picture\n\n");
    text.push_str(
        "| side | first frame with the page | sound late by, median | spread within a recording |\n",
    );
    text.push_str("|---|---:|---:|---:|\n");
    for side in Side::BOTH {
        let over = |value: fn(&Offsets) -> f64| median(results.offsets.of(side).iter().map(value).collect());
        writeln!(
            text,
            "| {} | {:.2} s | {:+.1} ms | {:.1} ms |",
            side.name(),
            results.first_frame_s(side),
            over(Offsets::median_ms),
            over(Offsets::spread_ms)
        )?;
    }
    let met = yes_or_no(results.first_frame_s(Side::Pagecast) <= FIRST_FRAME_GOAL_S);
    writeln!(text, "\nGoal for Pagecast's first frame: ≤ {FIRST_FRAME_GOAL_S} s; met: {met}.")?;
    let warm = results.warm_first_frame_s();
    writeln!(
        text,
        "With a browser that was started before (`--standby`): {warm:.2} s from the start command; goal ≤ \
         {WARM_FIRST_FRAME_GOAL_S} s; met: {}.",
        yes_or_no(warm <= WARM_FIRST_FRAME_GOAL_S)
    )?;
    Ok(())
}

fn density(text: &mut String, page: &str, crowds: &Pair<Vec<Crowd>>) -> Result<()> {
    text.push_str("\n## How many at once\n\n");
    writeln!(
        text,
        "Casts of the page \"{page}\" at once, while the slowest of them still records at least {:.0} % of {FPS} new pictures a \
         second.\n",
        FULL * 100.0
    )?;
    text.push_str("| side | casts at full rate | cores they used | slowest cast with one more |\n|---|---:|---:|---:|\n");
    for side in Side::BOTH {
        let climbed = crowds.of(side);
        let count = most(climbed);
        let cores = climbed.iter().find(|c| c.casts == count).map_or(0.0, |c| c.cores);
        let next = climbed.iter().find(|c| c.casts == count + 1);
        let next = next.map_or_else(|| "not tried".to_owned(), Crowd::worst);
        writeln!(text, "| {} | **{count}** | {cores:.2} | {next} |", side.name())?;
    }
    Ok(())
}

fn method(text: &mut String, args: &Args) -> Result<()> {
    writeln!(
        text,
        "\n## How it was measured\n\n\
         - CPU: user and system time of every process below the bench, from /proc, over the window. Thread names split \
         Pagecast's own time.\n\
         - Both browsers are the same binary, sandboxed, run by an unprivileged user, and draw WebGL with SwiftShader.\n\
         - The moving pages draw picture *k* at *k*/60 s of their own clock and say which in a strip of black and white blocks. \
         New pictures are different strips in the file.\n\
         - SSIM: up to 12 pictures of each file against the same pictures drawn again by headless Chromium without loss (video \
         page: the decoded source), converted to YUV as the side itself does it, without the strip.\n\
         - First frame: for Pagecast `first_frame_ms` plus the time until its file shows a strip; for the recipe, from starting \
         Xvfb until a grabbed frame shows one. The recipe's users add a fixed wait, which is not counted.\n\
         - Sound against picture: beeps in the file against the clock burnt into the picture; a positive value is late sound.\n\
         - Window {} s, {} casts of each page and side, alternating.",
        args.window().as_secs(),
        args.repeat()
    )?;
    Ok(())
}

fn each_side(results: &Results, mut row: impl FnMut(&PageResult, Side) -> Result<()>) -> Result<()> {
    results.pages.iter().try_for_each(|result| Side::BOTH.into_iter().try_for_each(|side| row(result, side)))
}

fn head(result: &PageResult, side: Side) -> String {
    format!("| {} | {}", result.page.title(), side.name())
}

fn yes_or_no(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measured;
    use crate::page::Page;
    use crate::usage::Cpu;
    use crate::verdict::Ssim;

    fn measured(browser: f64, encode: f64, luma: f64) -> Measured {
        Measured {
            cores: Cpu([(Part::Browser, browser), (Part::Encode, encode)].into()),
            pss_bytes: 300 << 20,
            distinct_fps: 29.9,
            coded_fps: 30.0,
            kbps: 800.0,
            ssim: Some(Ssim { luma, all: luma - 0.001 }),
            claimed: Some(1.0),
        }
    }

    fn results(pagecast: [Measured; 3], recipe: Measured) -> Results {
        let casts = Pair { pagecast: pagecast.into(), recipe: vec![recipe] };
        Results { pages: vec![PageResult { page: Page::Scroll, casts }], ..Results::default() }
    }

    #[test]
    fn the_middle_cast_counts() {
        let pagecast = [measured(0.3, 0.2, 0.99), measured(9.0, 9.0, 0.99), measured(0.1, 0.1, 0.99)];
        let mut text = String::new();
        cost(&mut text, &results(pagecast, measured(0.7, 0.3, 0.99))).expect("text");
        let row = "| Scrolling text | 0.50 | 1.00 | **0.50** | ≤ 0.60 | 0.9900 | 0.9900 | yes |";
        assert!(text.contains(row), "{text}");
        let mut text = String::new();
        let pagecast = [0.99; 3].map(|luma| measured(0.3, 0.2, luma));
        parts(&mut text, &results(pagecast, measured(0.7, 0.3, 0.99))).expect("text");
        let row = "| Scrolling text | recipe | 0.700 | 0.000 | 0.000 | 0.300 | 0.000 | 1.000 | 300 MiB |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn worse_pictures_meet_no_goal() {
        let met = |luma| {
            results([luma; 3].map(|l| measured(0.1, 0.1, l)), measured(0.7, 0.3, 0.99)).pages[0].meets_goal()
        };
        assert_eq!((met(0.9871), met(0.9869)), (Some(true), Some(false)));
    }
}
