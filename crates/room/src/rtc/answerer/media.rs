//! Media sections of an answering connection, their codecs, tracks and packets.

use std::sync::Arc;
use std::time::Duration;

use str0m::format::{Codec as RtcCodec, PayloadParams};
use str0m::media::{Mid, Pt, Rid};
use str0m::rtp::{Ssrc, Vp8Descriptor, Vp8Patch};

/// Codec of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Opus audio.
    Opus,
    /// H.264 video, with the first two bytes of SDP's profile-level-id (the level is left out).
    H264(u16),
    /// VP8 video.
    Vp8,
}

/// A track of a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    /// The audio.
    Audio,
    /// A layer of the video, by its index in the offer.
    Video(usize),
}

/// A packet from a publisher.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    /// Track that it belongs to.
    pub(crate) track: Track,
    /// Codec of the payload.
    pub(crate) codec: Codec,
    /// Extended sequence number.
    pub(crate) seq: u64,
    /// RTP time stamp.
    pub(crate) timestamp: u32,
    /// RTP marker bit: the last packet of a video frame.
    pub(crate) marker: bool,
    /// RTP payload.
    pub(crate) payload: Arc<[u8]>,
}

/// RTCP sender report: the wall-clock time of one RTP time stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SenderReport {
    /// Time by the publisher's clock, since 1970.
    pub(crate) wall_clock: Duration,
    /// RTP time stamp at that time.
    pub(crate) timestamp: u32,
}

/// A negotiated media section.
#[derive(Debug)]
pub(crate) struct Media {
    /// Media identifier.
    pub(crate) mid: Mid,
    /// The rids of the received layers; a single `None` without simulcast.
    pub(crate) rids: Vec<Option<Rid>>,
    /// SSRCs of the outgoing stream and of its retransmissions.
    pub(crate) ssrc: Option<(Ssrc, Option<Ssrc>)>,
    /// Whether a packet was sent.
    pub(crate) started: bool,
    codecs: Vec<(Pt, Codec)>,
}

impl Media {
    /// A media section with the payload types that both sides know.
    pub(super) fn new(mid: Mid, rids: Vec<Option<Rid>>, agreed: &[Pt], params: &[PayloadParams]) -> Self {
        let mut codecs = Vec::new();
        for agreed in agreed {
            let codec = params.iter().find(|p| p.pt() == *agreed).and_then(codec_of);
            codecs.extend(codec.map(|codec| (*agreed, codec)));
        }
        Self { mid, rids, ssrc: None, started: false, codecs }
    }

    /// The codec of a payload type.
    pub(super) fn codec(&self, payload_type: Pt) -> Option<Codec> {
        self.codecs.iter().find(|(known, _)| *known == payload_type).map(|(_, codec)| *codec)
    }

    /// The payload type of a codec. Any profile of H.264 will do, because decoders read it from the stream.
    pub(super) fn payload_type(&self, codec: Codec) -> Option<Pt> {
        let exact = self.codecs.iter().find(|(_, known)| *known == codec);
        let same_codec = || {
            let is_same = |known: &Codec| std::mem::discriminant(known) == std::mem::discriminant(&codec);
            self.codecs.iter().find(|(_, known)| is_same(known))
        };
        exact.or_else(same_codec).map(|(payload_type, _)| *payload_type)
    }
}

fn codec_of(params: &PayloadParams) -> Option<Codec> {
    let spec = params.spec();
    match spec.codec {
        RtcCodec::Opus => Some(Codec::Opus),
        RtcCodec::Vp8 => Some(Codec::Vp8),
        // Mode 0 has no fragments, and frames of a page do not fit into one packet.
        RtcCodec::H264 if spec.format.packetization_mode == Some(1) => {
            let profile = spec.format.profile_level_id.unwrap_or(0x42_001f) >> 8;
            Some(Codec::H264(u16::try_from(profile & 0xffff).unwrap_or(0)))
        }
        _ => None,
    }
}

/// A patch of the VP8 descriptor in this payload that sets the identifiers that it has.
pub(super) fn vp8_patch(payload: &[u8], picture_id: u16, tl0_pic_idx: u8) -> Option<Vp8Patch> {
    let descriptor = Vp8Descriptor::parse(payload).ok()?;
    let patch = |picture_id| {
        let mut patch = descriptor.patch();
        if descriptor.picture_id().is_some() {
            patch = patch.picture_id(picture_id);
        }
        if descriptor.tl0_pic_idx().is_some() {
            patch = patch.tl0_pic_idx(tl0_pic_idx);
        }
        patch.build().ok()
    };
    // Picture identifiers have 15 bits or 7.
    patch(picture_id).or_else(|| patch(picture_id & 0x7f))
}
