//! Reads the packets of an FLV file, as servers record RTMP streams.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Length of the file header with the size field after it, in bytes.
const FILE_HEADER_LEN: usize = 13;
/// Length of the header of a tag, in bytes.
const TAG_HEADER_LEN: usize = 11;
/// Length of the size field after each tag, in bytes.
const PREVIOUS_TAG_SIZE_LEN: usize = 4;

/// Content of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagKind {
    /// H.264 parameter sets (avcC).
    AvcSequenceHeader,
    /// A picture.
    Video {
        /// Whether decoding can start here.
        keyframe: bool,
    },
    /// AAC configuration.
    AacSequenceHeader,
    /// A frame of sound.
    Audio,
    /// Any other content.
    Other,
}

/// A tag of an FLV file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Content of the tag.
    pub kind: TagKind,
    /// Time stamp in milliseconds.
    pub timestamp_ms: i64,
    /// NAL units without their lengths, or a frame of sound.
    pub units: Vec<Vec<u8>>,
}

/// All complete tags of a file.
///
/// # Errors
/// The file is not an FLV file.
pub fn tags(path: &Path) -> Result<Vec<Tag>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.starts_with(b"FLV"), "{} is not an FLV file", path.display());
    let (mut rest, mut tags) = (bytes.get(FILE_HEADER_LEN..).unwrap_or_default(), Vec::new());
    while let Some((head, after)) = rest.split_at_checked(TAG_HEADER_LEN) {
        let Some((body, after)) = after.split_at_checked(read_be(&head[1..4])) else { break };
        let ms = read_be(&head[4..7]) | usize::from(head[7]) << 24;
        tags.push(parse_tag(head[0], i64::try_from(ms)?, body)?);
        rest = after.get(PREVIOUS_TAG_SIZE_LEN..).unwrap_or_default();
    }
    Ok(tags)
}

fn parse_tag(kind: u8, ms: i64, body: &[u8]) -> Result<Tag> {
    let (kind, data) = match (kind, body) {
        (9, [_, 0, _, _, _, config @ ..]) => (TagKind::AvcSequenceHeader, vec![config.to_vec()]),
        (9, [first, 1, _, _, _, nals @ ..]) => {
            (TagKind::Video { keyframe: first >> 4 == 1 }, parse_avcc(nals)?)
        }
        (8, [_, 0, config @ ..]) => (TagKind::AacSequenceHeader, vec![config.to_vec()]),
        (8, [_, 1, frame @ ..]) => (TagKind::Audio, vec![frame.to_vec()]),
        _ => (TagKind::Other, vec![body.to_vec()]),
    };
    Ok(Tag { kind, timestamp_ms: ms, units: data })
}

/// NAL units, each after its length.
fn parse_avcc(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_at_checked(4).context("a NAL unit without a length")?;
        let (unit, rest) = rest.split_at_checked(read_be(length)).context("a torn NAL unit")?;
        all.push(unit.to_vec());
        bytes = rest;
    }
    Ok(all)
}

/// NAL units of an access unit with start codes (Annex B).
#[must_use]
pub fn parse_annex_b(bytes: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<_> = (0..bytes.len()).filter(|i| bytes[*i..].starts_with(&[0, 0, 1])).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let unit = |(start, end): (&usize, usize)| {
        let mut unit = &bytes[start + 3..end];
        // The zero of a longer start code belongs to the next unit.
        while let Some(shorter) = unit.strip_suffix(&[0]).filter(|_| end < bytes.len()) {
            unit = shorter;
        }
        unit.to_vec()
    };
    starts.iter().zip(ends).map(unit).collect()
}

fn read_be(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annex_b_and_avcc_have_the_same_units() {
        let units_of = |bytes: &[u8]| parse_avcc(bytes).unwrap();
        let coded = [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65, 9, 0];
        let lengths = [0, 0, 0, 2, 0x67, 1, 0, 0, 0, 1, 0x68, 0, 0, 0, 3, 0x65, 9, 0];
        assert_eq!(parse_annex_b(&coded), units_of(&lengths));
    }
}
