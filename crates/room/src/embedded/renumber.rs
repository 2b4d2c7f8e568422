//! What a viewer gets is one stream, whatever it is taken from: sequence numbers, time stamps and picture numbers go on.

use std::time::Instant;

use super::frame::Vp8;
use crate::rtc::serve::media::Packet;

/// Sequence number of the first packet.
const FIRST_SEQ: u64 = 1;
/// Bits of a picture's number (RFC 7741).
const PICTURE_BITS: u16 = 0x7fff;

/// Renumbers the packets of one stream of a viewer.
#[derive(Debug)]
pub(super) struct Renumber {
    /// Ticks a second.
    rate: u32,
    /// What it is taken from, and how that differs.
    source: Option<Source>,
    /// The latest of what was sent.
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    first: u64,
    seq: u64,
    timestamp: u32,
    picture: u16,
    base: u8,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    seq: u64,
    timestamp: u32,
    made: Instant,
    picture: u16,
    base: u8,
}

/// The numbers of a packet on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Sequence number, counted on.
    pub(super) seq: u64,
    /// RTP time stamp.
    pub(super) timestamp: u32,
    /// Number of the VP8 picture, and of its base layer.
    pub(super) vp8: Option<(u16, u8)>,
}

impl Renumber {
    /// For a stream of `rate` ticks a second.
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, source: None, last: None }
    }

    /// What comes from now on is taken from somewhere else, or after a pause; the next packet is the first of it.
    pub(super) fn cut(&mut self) {
        self.source = None;
    }

    /// The numbers for a packet; none if it is older than the one that the source began with.
    pub(super) fn next(&mut self, packet: &Packet, made: Instant, vp8: Option<Vp8>) -> Option<Numbers> {
        let vp8 = vp8.unwrap_or_default();
        let (picture, base) = (vp8.picture.unwrap_or(0), vp8.base.unwrap_or(0));
        let source = match self.source {
            Some(source) => source,
            None => *self.source.insert(self.begin(packet, made, picture, base)),
        };
        if packet.seq < source.first {
            return None;
        }
        let seq = source.seq + (packet.seq - source.first);
        let timestamp = packet.timestamp.wrapping_add(source.timestamp);
        let picture = picture.wrapping_add(source.picture) & PICTURE_BITS;
        let base = base.wrapping_add(source.base);
        if self.last.is_none_or(|last| last.seq < seq) {
            self.last = Some(Last { seq, timestamp, made, picture, base });
        }
        Some(Numbers {
            seq,
            timestamp,
            vp8: vp8.picture.or(vp8.base.map(u16::from)).map(|_| (picture, base)),
        })
    }

    fn begin(&self, packet: &Packet, made: Instant, picture: u16, base: u8) -> Source {
        let first = packet.seq;
        let Some(last) = self.last else {
            return Source { first, seq: FIRST_SEQ, timestamp: 0, picture: 0, base: 0 };
        };
        // The time that went by, by the moments at which both were made; never back, and never the same picture.
        let passed =
            made.saturating_duration_since(last.made).as_nanos() * u128::from(self.rate) / 1_000_000_000;
        let passed = u32::try_from(passed).unwrap_or(self.rate).max(1);
        Source {
            first,
            seq: last.seq + 1,
            timestamp: last.timestamp.wrapping_add(passed).wrapping_sub(packet.timestamp),
            picture: last.picture.wrapping_add(1).wrapping_sub(picture) & PICTURE_BITS,
            base: last.base.wrapping_add(1).wrapping_sub(base),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtc::serve::media::{Codec, Track};
    use std::time::Duration;

    fn packet(seq: u64, timestamp: u32) -> Packet {
        let (track, codec) = (Track::Video(0), Codec::Vp8);
        Packet { track, codec, seq, timestamp, marker: false, payload: Vec::new().into() }
    }

    fn vp8(picture: u16, base: u8) -> Option<Vp8> {
        Some(Vp8 { picture: Some(picture), base: Some(base) })
    }

    #[test]
    fn numbers_go_on_across_sources() {
        let (mut out, start) = (Renumber::new(90_000), Instant::now());
        let later = |ms| start + Duration::from_millis(ms);
        let first = out.next(&packet(70_000, 5), start, vp8(0x7fff, 255)).unwrap();
        assert_eq!(first, Numbers { seq: 1, timestamp: 5, vp8: Some((0x7fff, 255)) });
        // Out of order, and lost: gaps stay where they are.
        let third = out.next(&packet(70_002, 3005), later(33), vp8(0, 0)).unwrap();
        assert_eq!(third, Numbers { seq: 3, timestamp: 3005, vp8: Some((0, 0)) });
        assert_eq!(out.next(&packet(70_001, 5), later(34), vp8(0x7fff, 255)).unwrap().seq, 2);
        assert_eq!(out.next(&packet(69_999, 5), later(34), None), None);
        // Another layer, with numbers of its own.
        out.cut();
        let next = out.next(&packet(12, 4_000_000_000), later(133), vp8(500, 9)).unwrap();
        assert_eq!(next, Numbers { seq: 4, timestamp: 3005 + 9000, vp8: Some((1, 1)) });
        let next = out.next(&packet(13, 4_000_003_000), later(166), vp8(501, 10)).unwrap();
        assert_eq!(next, Numbers { seq: 5, timestamp: 3005 + 12_000, vp8: Some((2, 2)) });
        assert_eq!(out.next(&packet(11, 4_000_000_000), later(166), None), None);
    }

    #[test]
    fn time_never_goes_back() {
        let (mut out, start) = (Renumber::new(48_000), Instant::now());
        let first = out.next(&packet(1, 1000), start + Duration::from_secs(1), None).unwrap();
        out.cut();
        let second = out.next(&packet(1, 77), start, None).unwrap();
        assert_eq!((first.timestamp + 1, second.vp8), (second.timestamp, None));
    }
}
