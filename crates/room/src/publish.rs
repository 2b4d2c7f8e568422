//! One cast's stream in a room.

use pagecast_core::Packet;
use tokio::sync::mpsc;

/// What the encoders of a room are told. Layers are counted from 0, the larger one first.
pub trait Encoders: Send + 'static {
    /// A keyframe is wanted, with the next tick.
    fn keyframe(&self, layer: usize);
    /// What a layer may cost from now on.
    fn target(&self, layer: usize, target: Target);
}

/// What a layer may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Cap on the bitrate in bit/s; 0: the layer is not wanted, and nothing is encoded.
    pub bitrate_bps: u32,
    /// Most frames per second.
    pub fps: u32,
}

/// Packets for a room, from the encoders.
#[derive(Debug)]
pub struct Feed {
    /// The picture's layers, the larger one first.
    pub video: Vec<mpsc::Receiver<Packet>>,
    /// Opus, 20 ms a packet.
    pub audio: mpsc::Receiver<Packet>,
}
