//! Types and decisions that all crates of Pagecast share: the description of a cast, its frames, samples and
//! packets, and its state machines.
//!
//! Begin with [`CastSpec`], which describes a cast; [`spec`] is the only place where its values are
//! validated. [`cast::StateMachine`] decides what happens to it. The media path is
//! `page → Tick(Frame) / Samples → encode → Packet → sink`.
//!
//! Deliberately absent: IO, clocks, threads, libav, and the vocabulary of the vendors' APIs.

pub mod backoff;
pub mod cast;
pub mod connection;
pub mod dry_run;
pub mod error_text;
pub mod ledger;
pub mod picture;
pub mod spec;
pub mod time;
pub mod wake;

pub use picture::{Frame, Picture, TILE_HEIGHT, TILE_WIDTH, Tick, Tiles};
pub use spec::{CastSpec, SpecError};
pub use time::{Fps, HostTime, MediaTime};

use std::sync::Arc;

/// Sample rate of all [`Samples`], in Hz.
pub const SAMPLE_RATE: u32 = 48_000;
/// Number of channels of all [`Samples`]: left, right.
pub const CHANNELS: usize = 2;

/// A block of audio: interleaved left/right float samples at 48 kHz, nominal range −1.0 to 1.0.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// Index of the first sample pair, counted from the cast's first frame; blocks are contiguous.
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

    /// Whether the block holds no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pcm.is_empty()
    }
}

/// Elementary stream that a [`Packet`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// The video stream.
    Video,
    /// The audio stream.
    Audio,
}

/// One encoded unit: an H.264 access unit (Annex B), a VP8 frame, an AAC frame (raw, no ADTS) or an Opus
/// packet.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Stream that the packet belongs to.
    pub track: Track,
    /// The encoded bytes.
    pub data: Arc<[u8]>,
    /// Presentation time.
    pub pts: MediaTime,
    /// Decoding time: never after `pts`, and never decreasing within a track.
    pub dts: MediaTime,
    /// Duration of the packet if no other follows.
    pub duration: MediaTime,
    /// Whether decoding can start here.
    pub keyframe: bool,
}
