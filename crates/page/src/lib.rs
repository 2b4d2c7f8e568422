//! Opens a web page in Chromium and captures it as [`Tick`](pagecast_core::Tick)s with frames and as
//! [`Samples`](pagecast_core::Samples) of sound. Pagecast itself is the display and the sound card of the
//! browser.
//!
//! Begin with [`Page::start`]; ticks and samples leave through the channels given to it. [`display`] and
//! [`sound`] have one thread and one socket each. [`browser`] starts Chromium and drives it over a pipe.
//! [`egress`] is the browser's only way to the network. [`clock`] is the clock they share, [`av_sync`] aligns
//! picture and sound.
//!
//! Deliberately absent: encoding, files, and decisions about pages that misbehave.

pub mod av_sync;
pub mod browser;
pub mod child;
pub mod clock;
mod disk;
pub mod display;
pub mod egress;
mod page;
pub mod sound;

pub use disk::DiskUsage;
pub use page::{Config, Error, Page};
