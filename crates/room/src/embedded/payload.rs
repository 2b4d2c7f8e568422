//! Inspects RTP payloads of video for keyframes and frame sizes, without decoding.
//!
//! RFC 6184 for H.264 (single NAL units, STAP-A, FU-A), RFC 7741 for VP8. Payloads are untrusted: one that
//! does not parse is not a keyframe.

use crate::rtc::answerer::media::Codec;

/// NAL unit types (H.264, table 7-1; RFC 6184, table 1).
const NAL_IDR: u8 = 5;
const NAL_SPS: u8 = 7;
const NAL_STAP_A: u8 = 24;
const NAL_FU_A: u8 = 28;
/// Largest plausible width or height of a frame, in pixels.
const MAX_DIMENSION: u32 = 16_384;

/// Result of inspecting a payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PayloadInfo {
    /// Whether a keyframe starts here, so that a decoder can start with this packet.
    pub(super) keyframe: bool,
    /// Width and height of the frame, if the payload contains them.
    pub(super) size: Option<(u32, u32)>,
    /// Identifiers of a VP8 picture.
    pub(super) vp8_ids: Option<Vp8Ids>,
}

/// Identifiers of a VP8 picture, which must be continuous when the source changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vp8Ids {
    /// Picture identifier, of 7 or 15 bits.
    pub(super) picture_id: Option<u16>,
    /// Index of its base layer.
    pub(super) tl0_pic_idx: Option<u8>,
}

/// Inspects a payload.
pub(super) fn inspect(codec: Codec, payload: &[u8]) -> PayloadInfo {
    match codec {
        // An audio decoder can start with any packet.
        Codec::Opus => PayloadInfo { keyframe: true, ..PayloadInfo::default() },
        Codec::H264(_) => inspect_h264(payload).unwrap_or_default(),
        Codec::Vp8 => inspect_vp8(payload).unwrap_or_default(),
    }
}

fn inspect_h264(payload: &[u8]) -> Option<PayloadInfo> {
    let kind = payload.first()? & 0x1f;
    match kind {
        NAL_STAP_A => {
            let (mut rest, mut info) = (&payload[1..], PayloadInfo::default());
            while let [high, low, after @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some(unit) = after.get(..length) else { break };
                let unit_info = inspect_nal_unit(unit);
                info.keyframe |= unit_info.keyframe;
                info.size = info.size.or(unit_info.size);
                rest = &after[length..];
            }
            Some(info)
        }
        NAL_FU_A => {
            let header = *payload.get(1)?;
            let keyframe = header & 0x80 != 0 && matches!(header & 0x1f, NAL_IDR | NAL_SPS);
            Some(PayloadInfo { keyframe, ..PayloadInfo::default() })
        }
        _ => Some(inspect_nal_unit(payload)),
    }
}

fn inspect_nal_unit(unit: &[u8]) -> PayloadInfo {
    match unit.first().map(|first| first & 0x1f) {
        Some(NAL_SPS) => PayloadInfo { keyframe: true, size: sps_resolution(&unit[1..]), vp8_ids: None },
        Some(NAL_IDR) => PayloadInfo { keyframe: true, ..PayloadInfo::default() },
        _ => PayloadInfo::default(),
    }
}

fn inspect_vp8(payload: &[u8]) -> Option<PayloadInfo> {
    let (first, mut at, mut vp8) = (*payload.first()?, 1, Vp8Ids::default());
    if first & 0x80 != 0 {
        let extended = *payload.get(1)?;
        at = 2;
        if extended & 0x80 != 0 {
            let high = *payload.get(at)?;
            at += 1;
            if high & 0x80 == 0 {
                vp8.picture_id = Some(u16::from(high));
            } else {
                vp8.picture_id = Some(u16::from_be_bytes([high & 0x7f, *payload.get(at)?]));
                at += 1;
            }
        }
        if extended & 0x40 != 0 {
            vp8.tl0_pic_idx = Some(*payload.get(at)?);
            at += 1;
        }
        at += usize::from(extended & 0x30 != 0);
    }
    let starts_frame = first & 0x17 == 0x10;
    let frame = payload.get(at..).unwrap_or_default();
    let keyframe = starts_frame && frame.first().is_some_and(|tag| tag & 1 == 0);
    let size = match frame {
        [_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] if keyframe => {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((side(*w0, *w1), side(*h0, *h1)))
        }
        _ => None,
    };
    Some(PayloadInfo { keyframe, size, vp8_ids: Some(vp8) })
}

/// Width and height in a sequence parameter set (H.264, 7.3.2.1.1). `sps` lacks the NAL unit header.
fn sps_resolution(sps: &[u8]) -> Option<(u32, u32)> {
    let mut bits = BitReader::new(sps);
    let profile = bits.read_bits(8)?;
    bits.read_bits(16)?;
    bits.read_ue()?;
    let (mut chroma, mut planes) = (1, false);
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.read_ue()?;
        planes = chroma == 3 && bits.read_bits(1)? == 1;
        bits.read_ue()?;
        bits.read_ue()?;
        bits.read_bits(1)?;
        if bits.read_bits(1)? == 1 {
            // Scaling matrices are not parsed; no encoder that is expected here writes them.
            return None;
        }
    }
    bits.read_ue()?;
    match bits.read_ue()? {
        0 => drop(bits.read_ue()?),
        1 => {
            bits.read_bits(1)?;
            bits.read_ue()?;
            bits.read_ue()?;
            for _ in 0..bits.read_ue()?.min(255) {
                bits.read_ue()?;
            }
        }
        _ => {}
    }
    bits.read_ue()?;
    bits.read_bits(1)?;
    let (width, height) = (bits.read_ue()?.checked_add(1)?, bits.read_ue()?.checked_add(1)?);
    let frames_only = bits.read_bits(1)?;
    if frames_only == 0 {
        bits.read_bits(1)?;
    }
    bits.read_bits(1)?;
    let (mut crop_x, mut crop_y) = (0, 0);
    if bits.read_bits(1)? == 1 {
        let (x, y) =
            if planes || chroma == 0 || chroma == 3 { (1, 1) } else { (2, if chroma == 1 { 2 } else { 1 }) };
        crop_x = bits.read_ue()?.checked_add(bits.read_ue()?)?.checked_mul(x)?;
        crop_y = bits.read_ue()?.checked_add(bits.read_ue()?)?.checked_mul(y * (2 - frames_only))?;
    }
    let width = width.checked_mul(16)?.checked_sub(crop_x)?;
    let height = height.checked_mul(16 * (2 - frames_only))?.checked_sub(crop_y)?;
    let possible = 1..=MAX_DIMENSION;
    (possible.contains(&width) && possible.contains(&height)).then_some((width, height))
}

/// Reads the bits of a NAL unit and skips emulation prevention bytes.
struct BitReader<'a> {
    bytes: &'a [u8],
    /// Index of the current byte, and the number of its bits that were read.
    position: (usize, u32),
}

impl<'a> BitReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: (0, 0) }
    }

    fn read_bit(&mut self) -> Option<u32> {
        let (byte, bit) = self.position;
        let value = u32::from(*self.bytes.get(byte)? >> (7 - bit)) & 1;
        self.position = if bit < 7 { (byte, bit + 1) } else { (byte + 1, 0) };
        if self.position.1 == 0
            && self.position.0 >= 2
            && self.bytes.get(self.position.0 - 2..=self.position.0) == Some(&[0, 0, 3])
        {
            self.position.0 += 1;
        }
        Some(value)
    }

    fn read_bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | self.read_bit()?))
    }

    /// An Exp-Golomb number (H.264, 9.1).
    fn read_ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.read_bit()? == 0 {
            zeros += 1;
            if zeros > 20 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.read_bits(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter sets of x264: constrained baseline 640x360, high 1280x720.
    const SPS_360: [u8; 23] = [
        0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00,
        0x00, 0x03, 0x00, 0xf0, 0x3c, 0x58,
    ];
    const SPS_720: [u8; 24] = [
        0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10,
        0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83,
    ];

    fn h264(payload: &[u8]) -> PayloadInfo {
        inspect(Codec::H264(0x42e0), payload)
    }

    #[test]
    fn keyframes_of_h264_are_found_in_all_packetizations() {
        assert_eq!(h264(&SPS_360), PayloadInfo { keyframe: true, size: Some((640, 360)), vp8_ids: None });
        assert_eq!(h264(&SPS_720).size, Some((1280, 720)));
        let mut stap = vec![0x78, 0, 23];
        stap.extend(SPS_360);
        stap.extend([0, 2, 0x68, 0xce]);
        assert_eq!(h264(&stap), PayloadInfo { keyframe: true, size: Some((640, 360)), vp8_ids: None });
        assert!(h264(&[0x65, 0x88]).keyframe);
        assert!(h264(&[0x7c, 0x85, 1]).keyframe);
        for other in [
            &[][..],
            &[0x41, 1],
            &[0x7c, 0x05],
            &[0x7c, 0x45],
            &[0x7c],
            &[0x78, 0, 9, 0x67],
            &[0x68, 1],
            &[0x06],
        ] {
            assert!(!h264(other).keyframe, "{other:?}");
        }
    }

    #[test]
    fn vp8_descriptors_are_parsed() {
        let inspect_vp8 = |payload: &[u8]| inspect(Codec::Vp8, payload);
        let frame = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01];
        let mut payload = vec![0x90, 0xe0, 0x81, 0x02, 0x07, 0x00];
        payload.extend(frame);
        let ids = Vp8Ids { picture_id: Some(0x102), tl0_pic_idx: Some(7) };
        assert_eq!(
            inspect_vp8(&payload),
            PayloadInfo { keyframe: true, size: Some((640, 360)), vp8_ids: Some(ids) }
        );
        payload[0] = 0x80;
        assert!(!inspect_vp8(&payload).keyframe);
        assert_eq!(
            inspect_vp8(&[0x90, 0x80, 0x05, 0x01]).vp8_ids,
            Some(Vp8Ids { picture_id: Some(5), tl0_pic_idx: None })
        );
        assert!(inspect_vp8(&[0x10, 0x10]).keyframe);
        assert_eq!(inspect_vp8(&[0x90, 0xff]), PayloadInfo::default());
    }

    #[test]
    fn truncated_and_corrupt_payloads_do_not_panic() {
        for sps in [&SPS_360[..], &SPS_720] {
            for length in 0..sps.len() {
                h264(&sps[..length]);
                for value in [0, 0x55, 0xff] {
                    let mut wrong = sps.to_vec();
                    wrong[length] = value;
                    h264(&wrong);
                }
            }
        }
    }
}
