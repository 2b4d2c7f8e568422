//! What a server recorded of an RTMP stream: the packets in an FLV file, byte by byte.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Lengths of the file's header with the number after it, of a tag's header, and of the number after a tag.
const HEADER: usize = 13;
const TAG: usize = 11;
const TRAILER: usize = 4;

/// What a tag holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Parameter sets of the picture (avcC).
    VideoHeader,
    /// A picture.
    Video {
        /// Decoding can start here.
        keyframe: bool,
    },
    /// The sound's configuration.
    AudioHeader,
    /// A frame of sound.
    Audio,
    /// Anything else.
    Other,
}

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// What it holds.
    pub kind: Kind,
    /// Its time in milliseconds.
    pub ms: i64,
    /// NAL units without their lengths, or a frame of sound.
    pub data: Vec<Vec<u8>>,
}

/// All whole tags of a file.
///
/// # Errors
/// It is not an FLV file.
pub fn tags(path: &Path) -> Result<Vec<Tag>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.starts_with(b"FLV"), "{} is not an FLV file", path.display());
    let (mut rest, mut tags) = (bytes.get(HEADER..).unwrap_or_default(), Vec::new());
    while let Some((head, after)) = rest.split_at_checked(TAG) {
        let Some((body, after)) = after.split_at_checked(number(&head[1..4])) else { break };
        let ms = number(&head[4..7]) | usize::from(head[7]) << 24;
        tags.push(tag(head[0], i64::try_from(ms)?, body)?);
        rest = after.get(TRAILER..).unwrap_or_default();
    }
    Ok(tags)
}

fn tag(kind: u8, ms: i64, body: &[u8]) -> Result<Tag> {
    let (kind, data) = match (kind, body) {
        (9, [_, 0, _, _, _, config @ ..]) => (Kind::VideoHeader, vec![config.to_vec()]),
        (9, [first, 1, _, _, _, nals @ ..]) => (Kind::Video { keyframe: first >> 4 == 1 }, units(nals)?),
        (8, [_, 0, config @ ..]) => (Kind::AudioHeader, vec![config.to_vec()]),
        (8, [_, 1, frame @ ..]) => (Kind::Audio, vec![frame.to_vec()]),
        _ => (Kind::Other, vec![body.to_vec()]),
    };
    Ok(Tag { kind, ms, data })
}

/// NAL units, each after its length.
fn units(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_at_checked(4).context("a NAL unit without a length")?;
        let (unit, rest) = rest.split_at_checked(number(length)).context("a torn NAL unit")?;
        all.push(unit.to_vec());
        bytes = rest;
    }
    Ok(all)
}

/// NAL units of an access unit with start codes (Annex B).
#[must_use]
pub fn annex_b(bytes: &[u8]) -> Vec<Vec<u8>> {
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

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_codes_and_lengths_say_the_same() {
        let units_of = |bytes: &[u8]| units(bytes).unwrap();
        let coded = [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 0, 0, 0, 1, 0x65, 9, 0];
        let lengths = [0, 0, 0, 2, 0x67, 1, 0, 0, 0, 1, 0x68, 0, 0, 0, 3, 0x65, 9, 0];
        assert_eq!(annex_b(&coded), units_of(&lengths));
    }
}
