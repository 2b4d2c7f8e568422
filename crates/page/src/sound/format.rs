//! Decodes the sample formats of clients to floats.

use pulseaudio::protocol::SampleFormat;

/// Largest sample value of a client: far above any sound, and low enough that no volume makes a sum infinite.
const MAX_SAMPLE: f32 = 1e6;

/// The byte that represents silence when repeated.
pub(super) fn silence_byte(format: SampleFormat) -> u8 {
    match format {
        SampleFormat::U8 => 0x80,
        SampleFormat::Alaw => 0xd5,
        SampleFormat::Ulaw => 0xff,
        _ => 0,
    }
}

/// Decodes `bytes` and appends the samples to `out`, with a nominal range of −1.0 to 1.0. Ignores an
/// incomplete sample at the end. Floats stay unchanged up to [`MAX_SAMPLE`]; non-finite ones become silence.
pub(super) fn decode(format: SampleFormat, bytes: &[u8], out: &mut Vec<f32>) {
    match format {
        SampleFormat::Invalid => {}
        SampleFormat::U8 => out.extend(bytes.iter().map(|b| (f32::from(*b) - 128.0) / 128.0)),
        SampleFormat::Alaw => out.extend(bytes.iter().map(|b| from_i16(decode_alaw(*b)))),
        SampleFormat::Ulaw => out.extend(bytes.iter().map(|b| from_i16(decode_ulaw(*b)))),
        SampleFormat::S16Le => decode_each(bytes, out, |b| from_i16(i16::from_le_bytes(b))),
        SampleFormat::S16Be => decode_each(bytes, out, |b| from_i16(i16::from_be_bytes(b))),
        SampleFormat::Float32Le => decode_each(bytes, out, |b| sanitize(f32::from_le_bytes(b))),
        SampleFormat::Float32Be => decode_each(bytes, out, |b| sanitize(f32::from_be_bytes(b))),
        SampleFormat::S32Le => decode_each(bytes, out, |b| from_i32(i32::from_le_bytes(b))),
        SampleFormat::S32Be => decode_each(bytes, out, |b| from_i32(i32::from_be_bytes(b))),
        SampleFormat::S24Le => {
            decode_each(bytes, out, |[a, b, c]| from_i32(i32::from_le_bytes([0, a, b, c])));
        }
        SampleFormat::S24Be => {
            decode_each(bytes, out, |[a, b, c]| from_i32(i32::from_be_bytes([a, b, c, 0])));
        }
        SampleFormat::S24In32Le => decode_each(bytes, out, |b| from_i32(i32::from_le_bytes(b) << 8)),
        SampleFormat::S24In32Be => decode_each(bytes, out, |b| from_i32(i32::from_be_bytes(b) << 8)),
    }
}

fn decode_each<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, sample: impl Fn([u8; N]) -> f32) {
    let (samples, _part) = bytes.as_chunks();
    out.extend(samples.iter().map(|b| sample(*b)));
}

fn sanitize(v: f32) -> f32 {
    if v.is_finite() { v.clamp(-MAX_SAMPLE, MAX_SAMPLE) } else { 0.0 }
}

fn from_i16(v: i16) -> f32 {
    f32::from(v) / 32_768.0
}

fn from_i32(v: i32) -> f32 {
    v as f32 / 2_147_483_648.0
}

/// Decodes ITU-T G.711 A-law.
fn decode_alaw(byte: u8) -> i16 {
    let v = byte ^ 0x55;
    let (exponent, mantissa) = ((v >> 4) & 7, i16::from(v & 15));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        e => ((mantissa << 4) + 0x108) << (e - 1),
    };
    if v & 0x80 != 0 { magnitude } else { -magnitude }
}

/// Decodes ITU-T G.711 µ-law.
fn decode_ulaw(byte: u8) -> i16 {
    let v = !byte;
    let magnitude = (((i16::from(v & 15) << 3) + 0x84) << ((v >> 4) & 7)) - 0x84;
    if v & 0x80 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(format: SampleFormat, bytes: &[u8]) -> f32 {
        let mut out = Vec::new();
        decode(format, bytes, &mut out);
        assert_eq!(out.len(), 1, "{format:?}");
        out[0]
    }

    #[test]
    fn half_scale_in_every_format() {
        for (format, bytes) in [
            (SampleFormat::U8, &[0xc0][..]),
            (SampleFormat::S16Le, &[0, 0x40]),
            (SampleFormat::S16Be, &[0x40, 0]),
            (SampleFormat::S24Le, &[0, 0, 0x40]),
            (SampleFormat::S24Be, &[0x40, 0, 0]),
            (SampleFormat::S24In32Le, &[0, 0, 0x40, 0]),
            (SampleFormat::S24In32Be, &[0, 0x40, 0, 0]),
            (SampleFormat::S32Le, &[0, 0, 0, 0x40]),
            (SampleFormat::S32Be, &[0x40, 0, 0, 0]),
            (SampleFormat::Float32Le, &0.5_f32.to_le_bytes()),
            (SampleFormat::Float32Be, &0.5_f32.to_be_bytes()),
        ] {
            assert_eq!(one(format, bytes), 0.5, "{format:?}");
        }
    }

    #[test]
    fn negative_values_keep_their_sign() {
        assert_eq!(one(SampleFormat::U8, &[0x40]), -0.5);
        assert_eq!(one(SampleFormat::S16Le, &[0, 0xc0]), -0.5);
        assert_eq!(one(SampleFormat::S24Be, &[0xc0, 0, 0]), -0.5);
        assert_eq!(one(SampleFormat::S24In32Le, &[0, 0, 0xc0, 0]), -0.5);
    }

    #[test]
    fn companding_follows_g711() {
        for (byte, value) in [(0xff, 0), (0x7f, 0), (0x80, 32_124), (0x00, -32_124), (0xef, 132)] {
            assert_eq!(decode_ulaw(byte), value, "µ-law {byte:#x}");
        }
        for (byte, value) in [(0xd5, 8), (0x55, -8), (0xaa, 32_256), (0x2a, -32_256), (0xc5, 264)] {
            assert_eq!(decode_alaw(byte), value, "A-law {byte:#x}");
        }
    }

    #[test]
    fn silence_is_zero_and_extreme_values_are_limited() {
        for format in [SampleFormat::U8, SampleFormat::Ulaw, SampleFormat::S24Le, SampleFormat::Float32Be] {
            assert_eq!(
                one(format, &vec![silence_byte(format); format.bytes_per_sample()]),
                0.0,
                "{format:?}"
            );
        }
        assert!(one(SampleFormat::Alaw, &[silence_byte(SampleFormat::Alaw)]).abs() < 0.001);
        for (bad, limited) in [(f32::NAN, 0.0), (f32::INFINITY, 0.0), (-f32::MAX, -MAX_SAMPLE), (1.5, 1.5)] {
            assert_eq!(one(SampleFormat::Float32Le, &bad.to_le_bytes()), limited);
        }
    }
}
