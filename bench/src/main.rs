//! `pagecast-bench`: Pagecast against a baseline (Xvfb, PulseAudio, x11grab, ffmpeg).
//!
//! Both record the same pages in turn, each alone on the machine, and both are measured from outside:
//! [`usage`] reads /proc, [`quality`] decodes the files, [`mod@reference`] draws single pictures again
//! without loss. [`plan`] has the order of the work and [`report`] writes the results.
//!
//! [`service`] measures `pagecast serve`, which has no baseline, [`mod@fleet`] compares its two databases,
//! and [`take_over`] kills nodes of a fleet.
//!
//! Deliberately absent: the crates of Pagecast, except the databases in [`mod@fleet`]. The bench uses its
//! command line, its APIs, and the first and last messages of the process of a cast.

#![expect(clippy::print_stderr, reason = "progress is printed on the terminal")]

mod av_sync;
mod baseline;
mod cast;
mod density;
mod first_frame;
mod fleet;
mod machine;
mod measure;
mod outputs;
mod page;
mod pagecast;
mod plan;
mod playback;
mod quality;
mod reference;
mod report;
mod results;
mod rooms;
mod service;
mod site;
mod take_over;
mod usage;

use anyhow::Result;
use clap::Parser as _;

fn main() -> Result<()> {
    plan::run(&plan::Args::parse())
}
