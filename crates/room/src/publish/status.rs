//! Status of a publisher.

use pagecast_core::connection::State;
use serde::{Deserialize, Serialize};

/// Status of a publisher. Rates are those of the last second, counters those of the connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// URL of the server, without secrets.
    pub server: String,
    /// State of the connection; `failed` if it is not retried any more.
    pub state: State,
    /// Last error, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Connections after the first one.
    pub reconnects: u64,
    /// Round-trip time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// Estimated bandwidth, in kbit/s, if the server sends the feedback for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_kbps: Option<u32>,
    /// Sent bitrate of the audio, in kbit/s.
    pub audio_kbps: u32,
    /// Status of the video layers, the larger one first.
    pub layers: Vec<LayerStatus>,
}

impl Status {
    /// Status of a publisher that has not connected yet to the server with this redacted URL.
    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            state: State::Idle,
            error: None,
            reconnects: 0,
            rtt_ms: None,
            estimate_kbps: None,
            audio_kbps: 0,
            layers: Vec::new(),
        }
    }
}

/// Status of a video layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerStatus {
    /// Width of the video, in pixels.
    pub width: u32,
    /// Height of the video, in pixels.
    pub height: u32,
    /// Current highest frame rate, in frames per second.
    pub fps: u32,
    /// Current bitrate cap, in kbit/s; 0 for a paused layer.
    pub target_kbps: u32,
    /// Sent bitrate, in kbit/s.
    pub bitrate_kbps: u32,
    /// Recent packet loss, 0 to 1.
    pub loss: f32,
    /// NACKs of the server.
    pub nacks: u64,
    /// Keyframe requests of the server.
    pub keyframe_requests: u64,
}
