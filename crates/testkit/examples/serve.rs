//! Serves the test pages and a video of one minute until stdin ends:
//! `cargo run -p pagecast-testkit --example serve`.
#![allow(clippy::print_stdout, reason = "a command-line program prints")]

use std::io::Read as _;

use anyhow::Result;
use pagecast_testkit::{PageServer, flash_beep};

fn main() -> Result<()> {
    let video = flash_beep::mp4(60)?;
    let server = PageServer::start()?.with_folder("/media/", &flash_beep::media_folder());
    let name = video.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for page in ["counter.html", "static.html", "state.html", &format!("sync.html?video=/media/{name}")] {
        println!("{}", server.url(page));
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
