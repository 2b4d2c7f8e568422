//! Encoded pictures and sound, split into access units and packets, for tests that send them.

use anyhow::{Context as _, Result, ensure};

use crate::command::{program, run_for_output};

/// Samples in an Opus packet of 20 ms, at 48 kHz.
pub const OPUS_PACKET_SAMPLES: u32 = 960;

/// An encoded picture.
#[derive(Debug, Clone)]
pub struct AccessUnit {
    /// H.264 with start codes (ITU-T H.264, annex B); keyframes carry their parameter sets.
    pub data: Vec<u8>,
    /// Whether decoding can start here.
    pub keyframe: bool,
}

/// A moving test pattern in H.264 constrained baseline, with a keyframe each second.
///
/// # Errors
/// `ffmpeg` is missing or fails.
pub fn h264_access_units(width: u32, height: u32, fps: u32, seconds: u32) -> Result<Vec<AccessUnit>> {
    let source = format!("testsrc2=s={width}x{height}:r={fps}:d={seconds}");
    let mut ffmpeg = program("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", &source, "-pix_fmt", "yuv420p"]);
    ffmpeg.args(["-c:v", "libx264", "-profile:v", "baseline", "-preset", "veryfast", "-tune", "zerolatency"]);
    ffmpeg.args(["-g", &fps.to_string(), "-crf", "30"]);
    // Access unit delimiters mark where pictures start.
    ffmpeg.args(["-x264-params", "aud=1:repeat-headers=1:scenecut=0", "-f", "h264", "-"]);
    let stream = run_for_output(&mut ffmpeg)?.stdout;
    let starts: Vec<usize> = stream
        .windows(5)
        .enumerate()
        .filter(|(_, w)| w[..3] == [0, 0, 1] && w[3] & 31 == 9)
        .map(|(at, _)| at)
        .collect();
    ensure!(starts.len() == (fps * seconds) as usize, "{} pictures were encoded", starts.len());
    let ends = starts.iter().skip(1).copied().chain([stream.len()]);
    let cut = starts.iter().zip(ends).map(|(start, end)| {
        let data = stream[*start..end].to_vec();
        let keyframe = data.windows(4).any(|w| w[..3] == [0, 0, 1] && w[3] & 31 == 5);
        AccessUnit { data, keyframe }
    });
    Ok(cut.collect())
}

/// A tone of 440 Hz in stereo Opus, in packets of 20 ms.
///
/// # Errors
/// `ffmpeg` is missing or fails.
pub fn opus_packets(seconds: u32) -> Result<Vec<Vec<u8>>> {
    let source = format!("sine=f=440:r=48000:d={seconds}");
    let mut ffmpeg = program("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", &source, "-ac", "2", "-c:a", "libopus"]);
    ffmpeg.args(["-frame_duration", "20", "-f", "ogg", "-"]);
    let mut packets = ogg_packets(&run_for_output(&mut ffmpeg)?.stdout)?;
    ensure!(packets.len() > 2, "no sound was encoded");
    // The first two packets are headers (RFC 7845, section 3).
    packets.drain(..2);
    Ok(packets)
}

/// The packets of an Ogg stream (RFC 3533, section 6).
fn ogg_packets(mut stream: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (mut packets, mut packet) = (Vec::new(), Vec::new());
    while !stream.is_empty() {
        ensure!(stream.starts_with(b"OggS"), "this is not an Ogg page");
        let count = usize::from(*stream.get(26).context("a page ends early")?);
        let lengths = stream.get(27..27 + count).context("a page ends early")?;
        let mut body = &stream[27 + count..];
        for length in lengths {
            let (part, rest) = body.split_at_checked(usize::from(*length)).context("a page ends early")?;
            packet.extend_from_slice(part);
            body = rest;
            if *length < 255 {
                packets.push(std::mem::take(&mut packet));
            }
        }
        stream = body;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_is_split_into_access_units_and_packets() -> Result<()> {
        let pictures = h264_access_units(160, 90, 10, 2)?;
        let keyframes: Vec<_> = (0..).zip(&pictures).filter(|(_, p)| p.keyframe).map(|(i, _)| i).collect();
        assert_eq!((pictures.len(), keyframes), (20, vec![0, 10]));
        let tone = opus_packets(1)?;
        // The encoder's pre-skip may need one more packet.
        assert!((50..=51).contains(&tone.len()), "{}", tone.len());
        Ok(())
    }
}
