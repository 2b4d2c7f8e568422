//! Rewrites packets of changing sources into one stream with continuous sequence numbers, time stamps and
//! picture identifiers.

use std::time::Instant;

use super::payload::Vp8Ids;
use crate::rtc::answerer::media::Packet;

/// Sequence number of the first packet.
const FIRST_SEQ: u64 = 1;
/// Bits of a picture identifier (RFC 7741).
const PICTURE_ID_MASK: u16 = 0x7fff;

/// Rewriter of one stream of a viewer.
#[derive(Debug)]
pub(super) struct RtpRewriter {
    /// RTP clock rate, in ticks per second.
    clock_rate: u32,
    /// Offsets of the current source.
    source: Option<SourceOffsets>,
    /// Values of the latest sent packet.
    last: Option<LastSent>,
}

#[derive(Debug, Clone, Copy)]
struct SourceOffsets {
    first_seq: u64,
    start_seq: u64,
    timestamp_offset: u32,
    picture_id_offset: u16,
    tl0_pic_idx_offset: u8,
}

#[derive(Debug, Clone, Copy)]
struct LastSent {
    seq: u64,
    timestamp: u32,
    captured_at: Instant,
    picture_id: u16,
    tl0_pic_idx: u8,
}

/// Rewritten values of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RtpIds {
    /// Extended sequence number.
    pub(super) seq: u64,
    /// RTP time stamp.
    pub(super) timestamp: u32,
    /// VP8 picture identifier and base layer index.
    pub(super) vp8_ids: Option<(u16, u8)>,
}

impl RtpRewriter {
    /// A rewriter for a stream with this clock rate, in ticks per second.
    pub(super) fn new(clock_rate: u32) -> Self {
        Self { clock_rate, source: None, last: None }
    }

    /// Starts a new source, or the same one after a pause, with the next packet.
    pub(super) fn switch_source(&mut self) {
        self.source = None;
    }

    /// Rewrites the values of a packet. `None` if it is older than the first packet of its source.
    pub(super) fn rewrite(
        &mut self,
        packet: &Packet,
        captured_at: Instant,
        vp8: Option<Vp8Ids>,
    ) -> Option<RtpIds> {
        let vp8 = vp8.unwrap_or_default();
        let (picture_id, tl0_pic_idx) = (vp8.picture_id.unwrap_or(0), vp8.tl0_pic_idx.unwrap_or(0));
        let source = match self.source {
            Some(source) => source,
            None => *self.source.insert(self.start_source(packet, captured_at, picture_id, tl0_pic_idx)),
        };
        if packet.seq < source.first_seq {
            return None;
        }
        let seq = source.start_seq + (packet.seq - source.first_seq);
        let timestamp = packet.timestamp.wrapping_add(source.timestamp_offset);
        let picture_id = picture_id.wrapping_add(source.picture_id_offset) & PICTURE_ID_MASK;
        let tl0_pic_idx = tl0_pic_idx.wrapping_add(source.tl0_pic_idx_offset);
        if self.last.is_none_or(|last| last.seq < seq) {
            self.last = Some(LastSent { seq, timestamp, captured_at, picture_id, tl0_pic_idx });
        }
        Some(RtpIds {
            seq,
            timestamp,
            vp8_ids: vp8.picture_id.or(vp8.tl0_pic_idx.map(u16::from)).map(|_| (picture_id, tl0_pic_idx)),
        })
    }

    fn start_source(
        &self,
        packet: &Packet,
        captured_at: Instant,
        picture_id: u16,
        tl0_pic_idx: u8,
    ) -> SourceOffsets {
        let first = packet.seq;
        let Some(last) = self.last else {
            return SourceOffsets {
                first_seq: first,
                start_seq: FIRST_SEQ,
                timestamp_offset: 0,
                picture_id_offset: 0,
                tl0_pic_idx_offset: 0,
            };
        };
        // The time between both captures, and at least one tick: each frame needs its own time stamp.
        let passed = captured_at.saturating_duration_since(last.captured_at).as_nanos()
            * u128::from(self.clock_rate)
            / 1_000_000_000;
        let passed = u32::try_from(passed).unwrap_or(self.clock_rate).max(1);
        SourceOffsets {
            first_seq: first,
            start_seq: last.seq + 1,
            timestamp_offset: last.timestamp.wrapping_add(passed).wrapping_sub(packet.timestamp),
            picture_id_offset: last.picture_id.wrapping_add(1).wrapping_sub(picture_id) & PICTURE_ID_MASK,
            tl0_pic_idx_offset: last.tl0_pic_idx.wrapping_add(1).wrapping_sub(tl0_pic_idx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtc::answerer::media::{Codec, Track};
    use std::time::Duration;

    fn packet(seq: u64, timestamp: u32) -> Packet {
        let (track, codec) = (Track::Video(0), Codec::Vp8);
        Packet { track, codec, seq, timestamp, marker: false, payload: Vec::new().into() }
    }

    fn vp8(picture_id: u16, tl0_pic_idx: u8) -> Option<Vp8Ids> {
        Some(Vp8Ids { picture_id: Some(picture_id), tl0_pic_idx: Some(tl0_pic_idx) })
    }

    #[test]
    fn values_are_continuous_across_sources() {
        let (mut out, start) = (RtpRewriter::new(90_000), Instant::now());
        let later = |ms| start + Duration::from_millis(ms);
        let first = out.rewrite(&packet(70_000, 5), start, vp8(0x7fff, 255)).unwrap();
        assert_eq!(first, RtpIds { seq: 1, timestamp: 5, vp8_ids: Some((0x7fff, 255)) });
        // Reordered and lost packets: gaps are kept.
        let third = out.rewrite(&packet(70_002, 3005), later(33), vp8(0, 0)).unwrap();
        assert_eq!(third, RtpIds { seq: 3, timestamp: 3005, vp8_ids: Some((0, 0)) });
        assert_eq!(out.rewrite(&packet(70_001, 5), later(34), vp8(0x7fff, 255)).unwrap().seq, 2);
        assert_eq!(out.rewrite(&packet(69_999, 5), later(34), None), None);
        // Another layer, with its own values.
        out.switch_source();
        let next = out.rewrite(&packet(12, 4_000_000_000), later(133), vp8(500, 9)).unwrap();
        assert_eq!(next, RtpIds { seq: 4, timestamp: 3005 + 9000, vp8_ids: Some((1, 1)) });
        let next = out.rewrite(&packet(13, 4_000_003_000), later(166), vp8(501, 10)).unwrap();
        assert_eq!(next, RtpIds { seq: 5, timestamp: 3005 + 12_000, vp8_ids: Some((2, 2)) });
        assert_eq!(out.rewrite(&packet(11, 4_000_000_000), later(166), None), None);
    }

    #[test]
    fn time_never_goes_back() {
        let (mut out, start) = (RtpRewriter::new(48_000), Instant::now());
        let first = out.rewrite(&packet(1, 1000), start + Duration::from_secs(1), None).unwrap();
        out.switch_source();
        let second = out.rewrite(&packet(1, 77), start, None).unwrap();
        assert_eq!((first.timestamp + 1, second.vp8_ids), (second.timestamp, None));
    }
}
