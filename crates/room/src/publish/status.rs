//! How a room gets on.

use pagecast_core::connection::State;
use serde::{Deserialize, Serialize};

/// How a room gets on; numbers are of the last second, counters of the connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The server, without secrets.
    pub server: String,
    /// Where it stands: `failed` for one that was given up.
    pub state: State,
    /// What went wrong last, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Connections after the first one.
    pub reconnects: u64,
    /// The time a packet takes there and back, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// What the line carries, in kbit/s, if the server lets that be estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_kbps: Option<u32>,
    /// What the sound takes, in kbit/s.
    pub audio_kbps: u32,
    /// The picture's layers, the larger one first.
    pub layers: Vec<LayerStatus>,
}

/// How a layer gets on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerStatus {
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// Most frames per second at the moment.
    pub fps: u32,
    /// Cap on the bitrate at the moment, in kbit/s; 0 for a layer that is paused.
    pub target_kbps: u32,
    /// What is sent, in kbit/s.
    pub bitrate_kbps: u32,
    /// Part of the packets that was lost lately, 0 to 1.
    pub loss: f32,
    /// Packets asked for again.
    pub nacks: u64,
    /// Keyframes asked for.
    pub keyframe_requests: u64,
}
