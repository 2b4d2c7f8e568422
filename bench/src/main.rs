//! `pagecast-bench`: Pagecast against the recipe that everybody else uses (Xvfb, PulseAudio, x11grab, ffmpeg).
//!
//! Both record the same pages in turn, each alone on the machine; everything is measured from outside, in the same way:
//! [`usage`] reads /proc, [`quality`] decodes the files, [`mod@reference`] draws single pictures again without loss.
//! [`plan`] holds the order of the work and [`report`] the page that comes out of it.
//!
//! [`service`] asks `pagecast serve`, beside which there is no recipe.
//!
//! Deliberately absent: anything of Pagecast but its command line, its APIs, and what the process of a cast says first and last.

#![expect(clippy::print_stderr, reason = "it tells the person at the terminal how far it is")]

mod av_sync;
mod baseline;
mod cast;
mod density;
mod first_frame;
mod machine;
mod measure;
mod outputs;
mod page;
mod pagecast;
mod plan;
mod quality;
mod reference;
mod report;
mod results;
mod rooms;
mod service;
mod site;
mod usage;

use anyhow::Result;
use clap::Parser as _;

fn main() -> Result<()> {
    plan::run(&plan::Args::parse())
}
