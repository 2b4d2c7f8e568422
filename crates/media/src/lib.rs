//! Encodes frames and samples to packets, and records, uploads or pushes the packets.
//!
//! [`encode`] takes [`Tick`](pagecast_core::Tick)s and [`Samples`](pagecast_core::Samples) and emits
//! [`Packet`](pagecast_core::Packet)s; [`fanout`] distributes them to the sinks. [`record`] writes them to
//! segments, assembles files and uploads these through [`store`]; [`push`] sends them to RTMP and SRT
//! servers. Only this crate uses libav.
//!
//! Deliberately absent: where frames come from, and when a cast begins or ends.

pub mod contact_sheet;
pub mod convert;
pub mod disk;
pub mod encode;
pub mod fanout;
mod jpeg;
mod mux;
pub mod push;
pub mod record;
pub mod scale;
mod split_points;
pub mod still;
pub mod store;
pub mod thumbnail;

pub use pagecast_core::error_text::chain;

/// Limits libav's output on standard error to errors. Call it once, before anything else in this crate.
pub fn init_libav_logging() {
    ffmpeg_the_third::log::set_level(ffmpeg_the_third::log::Level::Error);
}
