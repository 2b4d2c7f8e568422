//! A URL becomes [`Tick`](pagecast_core::Tick)s and [`Samples`](pagecast_core::Samples): Pagecast is itself the display
//! and the sound card of the browser.
//!
//! [`Page::start`] is the way in; ticks and samples leave through the channels given to it. [`display`] and [`sound`] are
//! each one thread and one socket, [`browser_usage`] is Chromium and the pipe that drives it, [`guard`] is its only way to the
//! network, [`publisher_clock`] is the time they share, [`av_sync`] is what makes picture and sound agree.
//!
//! Deliberately absent: encoding, files, and the decision what to do when a page misbehaves.

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
