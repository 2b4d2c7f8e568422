//! Prints measurements of a recording of a test page:
//! `cargo run -p pagecast-testkit --example measure -- FILE [FPS [X,Y,CELL]]`.
#![allow(clippy::print_stdout, reason = "a command-line program prints")]

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use pagecast_testkit::media::beeps;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{Recording, av_sync, flash_beep};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("usage: measure FILE [FPS [X,Y,CELL]]")?;
    let fps: u32 = arguments.next().map_or(Ok(30), |a| a.parse())?;
    let file = Recording::open(Path::new(&path))?;
    println!("{} {} {}x{}", file.video.codec, file.video.profile, file.video.width, file.video.height);
    println!("{} pictures, last ends at {:.3} s", file.video_packets.len(), file.end_s());
    match file.ticks(fps) {
        Ok(ticks) => println!("on the grid of {fps} fps, ticks {:?} to {:?}", ticks.first(), ticks.last()),
        Err(error) => println!("{error}"),
    }
    let page = file.timecodes(TimecodePosition::PAGE)?;
    let counters: Vec<_> = page.iter().filter_map(|s| Some(s.timecode?.counter)).collect();
    let new = counters.windows(2).filter(|w| w[1] != w[0]).count();
    let lost: u32 = counters.windows(2).map(|w| w[1].saturating_sub(w[0]).saturating_sub(1)).sum();
    let back = counters.windows(2).filter(|w| w[1] < w[0]).count();
    println!("{} timecodes: {new} new, {lost} lost, {back} going back", counters.len());
    if file.audio.is_some() {
        let [ours, theirs] = beeps::onsets_of_each(file.pcm()?, [av_sync::PAGE_BEEP, flash_beep::BEEP])?;
        println!("page, by its clock:   {}", av_sync::page_offsets(&page, &ours));
        println!("page, flash by stamp: {}", av_sync::visible_offsets(&page, av_sync::FLASH_BIT, &ours));
        println!(
            "page, naive flash:    {}",
            av_sync::visible_offsets(&page, av_sync::NAIVE_FLASH_BIT, &ours)
        );
        let position = match arguments.next() {
            Some(position) => {
                let [x, y, cell] = position.split(',').map(str::parse).collect::<Result<Vec<_>, _>>()?[..]
                else {
                    bail!("{position:?} is not X,Y,CELL")
                };
                TimecodePosition { x, y, cell_size: cell }
            }
            None => TimecodePosition { x: 0, y: 360, cell_size: 16 },
        };
        let video = av_sync::hold_to_ticks(&file.timecodes(position)?, fps, file.end_s());
        println!("video:                {}", av_sync::video_offsets(&video, fps, &theirs));
        for (name, offsets) in [
            ("page", av_sync::page_offsets(&page, &ours)),
            ("video", av_sync::video_offsets(&video, fps, &theirs)),
        ] {
            let late: Vec<_> = offsets.measurements.iter().map(|(_, ms)| format!("{ms:+.0}")).collect();
            println!("{name}, each beep: {}", late.join(" "));
        }
    }
    Ok(())
}
