//! Inputs and events of an answering connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::media::{Codec, Packet, SenderReport, Track};
use crate::rtc::{LinkStats, Protocol};

/// A received datagram with its addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram<'a> {
    /// UDP or TCP.
    pub(crate) protocol: Protocol,
    /// Address of the sender.
    pub(crate) source: SocketAddr,
    /// Local address that it was sent to, as advertised to the remote peer.
    pub(crate) destination: SocketAddr,
    /// Payload of the packet.
    pub(crate) data: &'a [u8],
}

/// Event of a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// A datagram must be sent to this address.
    Transmit(Protocol, SocketAddr, Vec<u8>),
    /// The connection is established.
    Connected,
    /// A packet was received.
    Packet(Packet),
    /// A sender report of a stream was received.
    SenderReport(Track, SenderReport),
    /// The viewer requests a keyframe.
    KeyframeRequested,
    /// Estimated bandwidth of the link, in bit/s.
    BandwidthEstimate(u64),
    /// The link was measured.
    LinkMeasured(LinkStats),
    /// The remote peer is gone or the connection has ended.
    Disconnected,
}

/// A packet to send, with its outgoing sequence number and time stamp.
#[derive(Debug)]
pub(crate) struct OutgoingPacket {
    /// Whether it is audio rather than video.
    pub(crate) is_audio: bool,
    /// Codec of the payload.
    pub(crate) codec: Codec,
    /// Extended sequence number.
    pub(crate) seq: u64,
    /// RTP time stamp.
    pub(crate) timestamp: u32,
    /// Capture time by the local clock; never in the future.
    pub(crate) captured_at: Instant,
    /// RTP marker bit: the last packet of a video frame.
    pub(crate) marker: bool,
    /// RTP payload.
    pub(crate) payload: Arc<[u8]>,
    /// Whether the video switches to another layer or publisher, so that no earlier packet is needed.
    pub(crate) source_changed: bool,
    /// VP8 picture identifier and base layer index, to replace those in the payload.
    pub(crate) vp8_ids: Option<(u16, u8)>,
}
