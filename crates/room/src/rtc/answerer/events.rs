//! What goes into a connection, and what comes out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::media::{Codec, Packet, SenderReport, Track};
use crate::rtc::{LinkStats, Protocol};

/// A datagram, and the way it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    /// UDP or TCP.
    pub(crate) protocol: Protocol,
    /// Who sent it.
    pub(crate) source: SocketAddr,
    /// The address of ours that it was sent to, as the other side knows it.
    pub(crate) destination: SocketAddr,
    /// What it says.
    pub(crate) data: &'a [u8],
}

/// What a connection has to say.
#[derive(Debug)]
pub(crate) enum Event {
    /// Send this.
    Transmit(Protocol, SocketAddr, Vec<u8>),
    /// Media flow from now on.
    Connected,
    /// A packet came.
    Packet(Packet),
    /// When a stream's time stamps were.
    SenderReport(Track, SenderReport),
    /// A keyframe is needed to go on.
    KeyframeRequested,
    /// What the line carries, in bit/s.
    BandwidthEstimate(u64),
    /// How the line is.
    LinkMeasured(LinkStats),
    /// The other side is gone.
    Disconnected,
}

/// A packet to send, renumbered already.
#[derive(Debug)]
pub(crate) struct OutgoingPacket {
    /// Sound or picture.
    pub(crate) is_audio: bool,
    /// What it is made of.
    pub(crate) codec: Codec,
    /// Sequence number, counted on.
    pub(crate) seq: u64,
    /// RTP time stamp.
    pub(crate) timestamp: u32,
    /// When it was made, by our clock; not in the future.
    pub(crate) captured_at: Instant,
    /// The last of a picture.
    pub(crate) marker: bool,
    /// What it carries.
    pub(crate) payload: Arc<[u8]>,
    /// Nothing before it is needed any more: the picture comes from elsewhere.
    pub(crate) source_changed: bool,
    /// Numbers of a VP8 picture and of its base layer, to write over those in the payload.
    pub(crate) vp8_ids: Option<(u16, u8)>,
}
