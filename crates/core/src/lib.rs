//! The words of Pagecast as types: what a cast is asked to do, and what flows through it.
//!
//! The media path is `page → Tick(Frame) / Samples → encode → Packet → sink`; every crate speaks these types.
//! [`spec`] describes a cast and is the one place where its values are checked.
//!
//! Deliberately absent: IO, clocks, threads, libav, and anything a vendor calls by another name.

pub mod cast;
pub mod connection;
pub mod error_text;
pub mod picture;
pub mod spec;
pub mod time;

pub use picture::{Frame, Picture, TILE_HEIGHT, TILE_WIDTH, Tick, Tiles};
pub use spec::{CastSpec, SpecError};
pub use time::{Fps, HostTime, MediaTime};

use std::sync::Arc;

/// Sample rate of every [`Samples`], in Hz.
pub const SAMPLE_RATE: u32 = 48_000;
/// Channels of every [`Samples`]: left, right.
pub const CHANNELS: usize = 2;

/// A run of sound: interleaved left/right float samples at 48 kHz, nominal range −1.0 to 1.0.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// Index of the first sample pair since the cast's first frame; runs are contiguous.
    pub start: u64,
    /// `2 * n` values: left, right, left, right …
    pub pcm: Arc<[f32]>,
}

impl Samples {
    /// Number of sample pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pcm.len() / CHANNELS
    }

    /// Whether the run holds no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pcm.is_empty()
    }
}

/// Which elementary stream a [`PacketBytes`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// The picture.
    Video,
    /// The sound.
    Audio,
}

/// One encoded unit: an H.264 access unit (Annex B), a VP8 frame, an AAC frame (raw, no ADTS) or an Opus
/// packet.
#[derive(Debug, Clone)]
pub struct Packet {
    /// The stream it belongs to.
    pub track: Track,
    /// The encoded bytes.
    pub data: Arc<[u8]>,
    /// When it is shown or heard.
    pub pts: MediaTime,
    /// When it is decoded; never after `pts`, never going back within a track.
    pub dts: MediaTime,
    /// How long it lasts if nothing follows.
    pub duration: MediaTime,
    /// Whether decoding can start here.
    pub keyframe: bool,
}
