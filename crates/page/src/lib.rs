//! A URL becomes [`Tick`](pagecast_core::Tick)s and [`Samples`](pagecast_core::Samples): Pagecast is itself the display
//! and the sound card of the browser.
//!
//! Deliberately absent: encoding, files, and the decision what to do when a page misbehaves.

pub mod clock;
pub mod sound;
