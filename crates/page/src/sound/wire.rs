//! Validates messages on the wire before they are parsed.
//!
//! A message is a 20-byte header and a payload: either a *tagstruct* (a command) or raw samples for one
//! stream. A tagstruct is a flat sequence of tagged values, so one pass checks that every length stays within
//! the payload. Only then is it passed to the `pulseaudio` crate, whose readers trust the length of a blob
//! and overflow on invalid times.

use thiserror::Error;

/// Length of a header, in bytes.
pub(super) const HEADER_LEN: usize = 20;
/// Longest command, in bytes: libpulse sends a few hundred. A longer one disconnects the client.
pub(super) const MAX_COMMAND_LEN: usize = 64 * 1024;
/// Longest block of samples, in bytes, as in PulseAudio. A longer one disconnects the client. Blocks are
/// processed as they arrive.
pub(super) const MAX_BLOCK_LEN: u32 = 16 * 1024 * 1024;

/// Channel number that marks a command.
const COMMAND_CHANNEL: u32 = u32::MAX;
const SEEK_MASK: u32 = 0xff;
const MICROS_PER_SECOND: u32 = 1_000_000;

/// Why a client is disconnected.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolViolation {
    /// The length in a header exceeds [`MAX_COMMAND_LEN`] or [`MAX_BLOCK_LEN`].
    #[error("message of {0} bytes")]
    MessageTooLong(u32),
    /// A header has flags that were not negotiated: shared memory, or an unknown seek mode.
    #[error("message with flags {0:#x}")]
    InvalidFlags(u32),
    /// A payload is not a tagstruct, or does not begin with a command and its sequence number.
    #[error("malformed command")]
    Malformed,
    /// The client does not read its replies.
    #[error("too many unread replies")]
    TooManyUnreadReplies,
}

/// Reference point of a block's offset in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seek {
    /// The write position.
    Write,
    /// The beginning of the stream.
    Absolute,
    /// The read position.
    Read,
    /// The end of the stream.
    End,
}

/// Kind and length of the payload after a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Command { len: usize },
    Block { channel: u32, seek: Seek, offset: i64, len: usize },
}

impl Header {
    pub(super) fn parse(raw: &[u8; HEADER_LEN]) -> Result<Self, ProtocolViolation> {
        let mut fields = TagstructReader(raw);
        let (len, channel) = (fields.u32()?, fields.u32()?);
        let (high, low, flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
        if channel == COMMAND_CHANNEL {
            return match (flags, len as usize) {
                (0, len @ ..=MAX_COMMAND_LEN) => Ok(Self::Command { len }),
                (0, _) => Err(ProtocolViolation::MessageTooLong(len)),
                _ => Err(ProtocolViolation::InvalidFlags(flags)),
            };
        }
        if len > MAX_BLOCK_LEN {
            return Err(ProtocolViolation::MessageTooLong(len));
        }
        let seek = match flags & SEEK_MASK {
            _ if flags & !SEEK_MASK != 0 => return Err(ProtocolViolation::InvalidFlags(flags)),
            0 => Seek::Write,
            1 => Seek::Absolute,
            2 => Seek::Read,
            3 => Seek::End,
            _ => return Err(ProtocolViolation::InvalidFlags(flags)),
        };
        let offset = (u64::from(high) << 32 | u64::from(low)).cast_signed();
        Ok(Self::Block { channel, seek, offset, len: len as usize })
    }
}

/// Checks that a payload is a well-formed tagstruct, and returns its command and sequence number.
pub(super) fn validate_tagstruct(payload: &[u8]) -> Result<(u32, u32), ProtocolViolation> {
    let mut rest = TagstructReader(payload);
    let (command, seq) = (rest.tagged_u32()?, rest.tagged_u32()?);
    while let Some(tag) = rest.next() {
        match tag {
            // Property lists and formats are a tag followed by tagged values.
            b'1' | b'0' | b'N' | b'P' | b'f' => {}
            b't' => rest.string()?,
            b'B' => rest.skip(1)?,
            b'L' | b'V' => rest.skip(4)?,
            b'a' => rest.skip(6)?,
            b'R' | b'r' | b'U' => rest.skip(8)?,
            b'm' => {
                let channels = rest.next().ok_or(ProtocolViolation::Malformed)?;
                rest.skip(usize::from(channels))?;
            }
            b'v' => {
                let channels = rest.next().ok_or(ProtocolViolation::Malformed)?;
                rest.skip(usize::from(channels) * 4)?;
            }
            b'x' => {
                let len = rest.u32()?;
                rest.skip(len as usize)?;
            }
            b'T' => {
                rest.skip(4)?;
                if rest.u32()? >= MICROS_PER_SECOND {
                    return Err(ProtocolViolation::Malformed);
                }
            }
            _ => return Err(ProtocolViolation::Malformed),
        }
    }
    Ok((command, seq))
}

struct TagstructReader<'a>(&'a [u8]);

impl TagstructReader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, n: usize) -> Result<(), ProtocolViolation> {
        self.0 = self.0.get(n..).ok_or(ProtocolViolation::Malformed)?;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, ProtocolViolation> {
        let (value, rest) = self.0.split_first_chunk().ok_or(ProtocolViolation::Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*value))
    }

    fn tagged_u32(&mut self) -> Result<u32, ProtocolViolation> {
        if self.next() != Some(b'L') {
            return Err(ProtocolViolation::Malformed);
        }
        self.u32()
    }

    fn string(&mut self) -> Result<(), ProtocolViolation> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(ProtocolViolation::Malformed)?;
        self.skip(end + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulseaudio::protocol::{AuthParams, Command, LatencyParams, PlaybackStreamParams};

    fn header(len: u32, channel: u32, offset: i64, flags: u32) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        raw[0..4].copy_from_slice(&len.to_be_bytes());
        raw[4..8].copy_from_slice(&channel.to_be_bytes());
        raw[8..16].copy_from_slice(&offset.to_be_bytes());
        raw[16..20].copy_from_slice(&flags.to_be_bytes());
        raw
    }

    fn payload(seq: u32, command: &Command) -> Vec<u8> {
        let mut out = Vec::new();
        command.write_tag_prefixed(seq, &mut out, 35).unwrap();
        out
    }

    #[test]
    fn headers() {
        assert_eq!(Header::parse(&header(9, u32::MAX, 0, 0)), Ok(Header::Command { len: 9 }));
        assert_eq!(
            Header::parse(&header(8, 3, -16, 2)),
            Ok(Header::Block { channel: 3, seek: Seek::Read, offset: -16, len: 8 })
        );
        assert_eq!(
            Header::parse(&header(u32::MAX, u32::MAX, 0, 0)),
            Err(ProtocolViolation::MessageTooLong(u32::MAX))
        );
        assert_eq!(
            Header::parse(&header(u32::MAX, 0, 0, 0)),
            Err(ProtocolViolation::MessageTooLong(u32::MAX))
        );
        for shared_memory in [0x8000_0000, 0x4000_0000, 0xc000_0000, 0xa000_0000, 4] {
            assert_eq!(
                Header::parse(&header(8, 0, 0, shared_memory)),
                Err(ProtocolViolation::InvalidFlags(shared_memory))
            );
        }
    }

    #[test]
    fn real_commands_pass_validation() {
        for (command, tag) in [
            (Command::GetServerInfo, 20),
            (Command::Auth(AuthParams { version: 35, cookie: vec![1; 256], ..Default::default() }), 8),
            (Command::CreatePlaybackStream(PlaybackStreamParams::default()), 3),
            (
                Command::GetPlaybackLatency(LatencyParams { channel: 0, now: std::time::SystemTime::now() }),
                14,
            ),
        ] {
            assert_eq!(validate_tagstruct(&payload(7, &command)), Ok((tag, 7)), "{command:?}");
        }
    }

    #[test]
    fn wrong_lengths_are_rejected() {
        let mut auth = payload(0, &Command::Auth(AuthParams { cookie: vec![1; 4], ..Default::default() }));
        let at = auth.len() - 8;
        auth[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(validate_tagstruct(&auth), Err(ProtocolViolation::Malformed));

        let now = std::time::SystemTime::now();
        let mut latency = payload(0, &Command::GetPlaybackLatency(LatencyParams { channel: 0, now }));
        let at = latency.len() - 4;
        latency[at..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(validate_tagstruct(&latency), Err(ProtocolViolation::Malformed));
    }

    proptest! {
        #[test]
        fn validated_payloads_are_safe_to_read(
            command in 0_u8..=105,
            rest in proptest::collection::vec(
                prop_oneof![
                    Just(vec![b'N']),
                    Just(vec![b'P']),
                    Just(vec![b'f', b'B', 1]),
                    Just(vec![b'1']),
                    Just(b"tx\0".to_vec()),
                    any::<u32>().prop_map(|v| [&b"L"[..], &v.to_be_bytes()].concat()),
                    any::<u64>().prop_map(|v| [&b"T"[..], &v.to_be_bytes()].concat()),
                    any::<u32>().prop_map(|v| [&b"x"[..], &v.to_be_bytes()].concat()),
                    proptest::collection::vec(any::<u8>(), 0..12),
                ],
                0..24,
            ),
        ) {
            let mut payload = vec![b'L', 0, 0, 0, command, b'L', 0, 0, 0, 9];
            rest.iter().for_each(|part| payload.extend(part));
            if let Ok((tag, seq)) = validate_tagstruct(&payload) {
                prop_assert_eq!((tag, seq), (u32::from(command), 9));
                let read = Command::read_tag_prefixed(&mut payload.as_slice(), 35);
                prop_assert!(read.is_err() || read.is_ok_and(|(seq, _)| seq == 9));
            }
        }
    }
}
