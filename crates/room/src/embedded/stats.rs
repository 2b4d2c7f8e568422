//! Statistics of rooms, as `/rooms/{room}/stats` returns them.

use serde::Serialize;

/// Statistics of a room.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RoomStats {
    /// Room name.
    pub room: String,
    /// Publishers, the earliest first.
    pub publishers: Vec<PublisherStats>,
    /// Viewers of the room.
    pub viewers: Vec<ViewerStats>,
}

/// Statistics of a publisher.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PublisherStats {
    /// User name.
    pub user: String,
    /// Start of publishing, in milliseconds since 1970.
    pub published_since_ms: u64,
    /// Whether packets arrive.
    pub active: bool,
    /// Layers of the video, the largest first.
    pub layers: Vec<LayerStats>,
    /// Bitrate of the audio, in bit/s.
    pub audio_bps: u64,
    /// Round-trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Packet loss of the last second, 0 to 1.
    pub loss: Option<f64>,
    /// Keyframes requested from the publisher.
    pub keyframe_requests: u64,
}

/// Statistics of a video layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LayerStats {
    /// Layer name. `None` without simulcast.
    pub rid: Option<String>,
    /// Width in pixels. `None` before the first keyframe.
    pub width: Option<u32>,
    /// Height in pixels. `None` before the first keyframe.
    pub height: Option<u32>,
    /// Received bitrate, in bit/s.
    pub bitrate_bps: u64,
    /// Frames per second.
    pub fps: f64,
    /// Number of viewers that get this layer.
    pub viewers: usize,
}

/// Statistics of a viewer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ViewerStats {
    /// Number of the viewer, unique in the lifetime of the rooms.
    pub id: u64,
    /// User whose stream the viewer gets. `None` if there is no publisher.
    pub publisher: Option<String>,
    /// Sent layer: its name, or its index from `0` on. `None` while no video is sent.
    pub layer: Option<String>,
    /// Layer that the viewer requested. `None` for automatic selection.
    pub requested_layer: Option<String>,
    /// Sent bitrate, in bit/s.
    pub bitrate_bps: u64,
    /// Estimated bandwidth of the link, in bit/s.
    pub estimate_bps: Option<u64>,
    /// Round-trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Packet loss of the last second, 0 to 1.
    pub loss: Option<f64>,
}
