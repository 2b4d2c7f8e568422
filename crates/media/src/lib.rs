//! Frames and samples become packets, and packets become files.
//!
//! [`encode_mjpeg`] takes [`Tick`](pagecast_core::Tick)s and [`Samples`](pagecast_core::Samples) and gives
//! [`PacketBytes`](pagecast_core::Packet)s; [`fanout`] hands them to the sinks. [`record`] writes them to
//! segments, makes files of those, and has [`store`] bring them to where recordings are kept; [`connection`] sends
//! them to servers. libav lives here and nowhere else.
//!
//! Deliberately absent: where frames come from, and when a cast begins or ends.

pub mod contact_sheet;
pub mod convert;
pub mod disk;
pub mod encode;
pub mod fanout;
mod jpeg;
mod local_addresses;
mod mux;
pub mod push;
pub mod record;
pub mod scale;
mod split_points;
pub mod still;
pub mod store;
pub mod thumbnail;

pub use pagecast_core::error_text::chain;

/// Keeps libav from writing to standard error, errors aside; call once, before anything else here.
pub fn init_libav_logging() {
    ffmpeg_the_third::log::set_level(ffmpeg_the_third::log::Level::Error);
}
