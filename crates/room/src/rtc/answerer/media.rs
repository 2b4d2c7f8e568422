//! Media of a connection, and the words for what flows in them.

use std::sync::Arc;
use std::time::Duration;

use str0m::format::{Codec as RtcCodec, PayloadParams};
use str0m::media::{Mid, Pt, Rid};
use str0m::rtp::{Ssrc, Vp8Descriptor, Vp8Patch};

/// What a packet is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Sound.
    Opus,
    /// Pictures; the profile as SDP has it, without the level.
    H264(u16),
    /// Pictures.
    Vp8,
}

/// A stream of a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    /// Its sound.
    Audio,
    /// A layer of its picture, by its place in the offer.
    Video(usize),
}

/// A packet of a publisher.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    /// Which stream it is of.
    pub(crate) track: Track,
    /// What it is made of.
    pub(crate) codec: Codec,
    /// Sequence number, counted on.
    pub(crate) seq: u64,
    /// RTP time stamp.
    pub(crate) timestamp: u32,
    /// The last of a picture.
    pub(crate) marker: bool,
    /// What it carries.
    pub(crate) payload: Arc<[u8]>,
}

/// A publisher's word on when one of its time stamps was (RTCP sender report).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SenderReport {
    /// By the publisher's clock, since 1970.
    pub(crate) wall_clock: Duration,
    /// The time stamp.
    pub(crate) timestamp: u32,
}

/// A medium that was agreed on.
#[derive(Debug)]
pub(crate) struct Media {
    /// Its name.
    pub(crate) mid: Mid,
    /// The layers that come in; one without a name if there is only one.
    pub(crate) rids: Vec<Option<Rid>>,
    /// The outgoing stream and the one for what is sent again.
    pub(crate) ssrc: Option<(Ssrc, Option<Ssrc>)>,
    /// Whether anything was sent.
    pub(crate) started: bool,
    codecs: Vec<(Pt, Codec)>,
}

impl Media {
    /// A medium with the payload types that both sides know.
    pub(super) fn new(mid: Mid, rids: Vec<Option<Rid>>, agreed: &[Pt], params: &[PayloadParams]) -> Self {
        let mut codecs = Vec::new();
        for agreed in agreed {
            let codec = params.iter().find(|p| p.pt() == *agreed).and_then(codec_of);
            codecs.extend(codec.map(|codec| (*agreed, codec)));
        }
        Self { mid, rids, ssrc: None, started: false, codecs }
    }

    /// What a payload type means.
    pub(super) fn codec(&self, payload_type: Pt) -> Option<Codec> {
        self.codecs.iter().find(|(known, _)| *known == payload_type).map(|(_, codec)| *codec)
    }

    /// How this codec is called here. Decoders look at the stream itself, so another profile of H.264 will do.
    pub(super) fn payload_type(&self, codec: Codec) -> Option<Pt> {
        let exactly = self.codecs.iter().find(|(_, known)| *known == codec);
        let roughly = || {
            let of_same = |known: &Codec| std::mem::discriminant(known) == std::mem::discriminant(&codec);
            self.codecs.iter().find(|(_, known)| of_same(known))
        };
        exactly.or_else(roughly).map(|(payload_type, _)| *payload_type)
    }
}

fn codec_of(params: &PayloadParams) -> Option<Codec> {
    let spec = params.spec();
    match spec.codec {
        RtcCodec::Opus => Some(Codec::Opus),
        RtcCodec::Vp8 => Some(Codec::Vp8),
        // Mode 0 knows no fragments, and pictures of a page do not fit one packet.
        RtcCodec::H264 if spec.format.packetization_mode == Some(1) => {
            let profile = spec.format.profile_level_id.unwrap_or(0x42_001f) >> 8;
            Some(Codec::H264(u16::try_from(profile & 0xffff).unwrap_or(0)))
        }
        _ => None,
    }
}

/// What makes other numbers of the VP8 picture in this payload, as far as it has any.
pub(super) fn vp8_patch(payload: &[u8], picture: u16, base: u8) -> Option<Vp8Patch> {
    let descriptor = Vp8Descriptor::parse(payload).ok()?;
    let patch = |picture| {
        let mut patch = descriptor.patch();
        if descriptor.picture_id().is_some() {
            patch = patch.picture_id(picture);
        }
        if descriptor.tl0_pic_idx().is_some() {
            patch = patch.tl0_pic_idx(base);
        }
        patch.build().ok()
    };
    // Numbers have 15 bits, or 7.
    patch(picture).or_else(|| patch(picture & 0x7f))
}
