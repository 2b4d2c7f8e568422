//! Inputs and outputs of an answering connection.

use std::sync::Arc;
use std::time::Instant;

use super::media::{Codec, Packet, SenderReport, Track};
use crate::rtc::{Datagram, LinkStats, Transmit};

/// Input of a [`PeerConnection`](super::PeerConnection).
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// A datagram arrived.
    Datagram(Datagram<'a>),
    /// A packet is to be sent to the viewer. It is dropped if the viewer does not receive its codec.
    Packet(OutgoingPacket),
    /// A keyframe of this layer is to be requested from the publisher.
    RequestKeyframe(usize),
    /// The remote peer has a further candidate, `candidate:…`. One that cannot be parsed is ignored.
    RemoteCandidate(&'a str),
    /// This bitrate could be sent to the viewer, in bit/s. str0m probes the link up to it, now and later.
    DesiredBitrate(u64),
    /// The link shows neither loss nor delay, or does again. On a clear link the pacer does not delay
    /// packets, however low the estimate is.
    LinkClear(bool),
    /// The bandwidth estimator is to restart from this estimate, in bit/s.
    ResetEstimate(u64),
    /// The connection is to be closed.
    Close,
    /// Time has passed; see [`PeerConnection::deadline`](super::PeerConnection::deadline).
    Timeout,
}

/// Output of a [`PeerConnection`](super::PeerConnection) that the caller carries out.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send a datagram.
    Transmit(Transmit),
    /// Process an event.
    Event(Event),
}

/// Event of a connection.
#[derive(Debug)]
pub(crate) enum Event {
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
