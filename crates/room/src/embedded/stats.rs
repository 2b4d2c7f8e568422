//! What a room tells of itself.

use serde::Serialize;

/// A room.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RoomStats {
    /// Its name.
    pub room: String,
    /// Who publishes in it, the earliest first.
    pub publishers: Vec<PublisherStats>,
    /// Who watches.
    pub viewers: Vec<ViewerStats>,
}

/// Who publishes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PublisherStats {
    /// As whom.
    pub user: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whether anything comes.
    pub active: bool,
    /// The layers of the picture, the largest one first.
    pub layers: Vec<LayerStats>,
    /// What comes of sound, in bit/s.
    pub audio_bps: u64,
    /// The time a packet takes there and back.
    pub rtt_ms: Option<f64>,
    /// Part of the packets that was lost in the last second, 0 to 1.
    pub loss: Option<f64>,
    /// Keyframes that were asked for.
    pub keyframe_requests: u64,
}

/// A layer of a picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LayerStats {
    /// Its name; none if there is only one.
    pub rid: Option<String>,
    /// Pixels, once a keyframe has said so.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// What comes of it, in bit/s.
    pub bitrate_bps: u64,
    /// Pictures a second.
    pub fps: f64,
    /// How many get it.
    pub viewers: usize,
}

/// Who watches.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ViewerStats {
    /// A number in this room's lifetime.
    pub id: u64,
    /// Whom, if somebody publishes.
    pub watches: Option<String>,
    /// The layer that is sent: its name, or its place from `0` on; none while there is no picture.
    pub layer: Option<String>,
    /// The layer that was asked for; none: whatever the line carries.
    pub wish: Option<String>,
    /// What is sent, in bit/s.
    pub bitrate_bps: u64,
    /// What the line is believed to carry, in bit/s.
    pub estimate_bps: Option<u64>,
    /// The time a packet takes there and back.
    pub rtt_ms: Option<f64>,
    /// Part of the packets that was lost in the last second, 0 to 1.
    pub loss: Option<f64>,
}
