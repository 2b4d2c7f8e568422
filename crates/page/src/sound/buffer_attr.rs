//! How much of a stream is kept ahead: what a client asks for, made to fit.

use pagecast_core::SAMPLE_RATE;
use pulseaudio::protocol::SampleSpec;
use pulseaudio::protocol::stream::BufferAttr;

/// Most bytes a stream holds; more is refused and reported as an overflow. Two seconds of anything a browser plays.
pub(super) const MAX_STREAM_BYTES: u32 = 2 * 1024 * 1024;
/// What the server chooses for a client that asks for low latency and names no figure.
const LOW_LATENCY_MS: u32 = 40;
/// What it chooses for one that does not care, and the most it grants.
const MAX_TARGET_MS: u32 = 2000;
/// Two mixing periods: with less, every stream would run dry between two of them.
const MIN_TARGET_MS: u32 = 20;
/// Largest request unit chosen by the server.
const MAX_DEFAULT_REQUEST_MS: u32 = 20;
const SERVER_DEFAULT: u32 = u32::MAX;

/// Bytes of one frame.
pub(super) fn frame_bytes(spec: &SampleSpec) -> u32 {
    spec.format.bytes_per_sample() as u32 * u32::from(spec.channels)
}

/// Turns what was asked for into what holds: whole frames, `0 < minreq <= tlength / 2`, `tlength <= maxlength`,
/// `prebuf <= tlength - minreq + 1 frame`.
pub(super) fn negotiate(asked: BufferAttr, spec: &SampleSpec, low_latency: bool) -> BufferAttr {
    let frame = frame_bytes(spec).max(1);
    let whole = |bytes: u32| bytes - bytes % frame;
    let of_ms = |ms: u32| {
        whole(u32::try_from(u64::from(spec.sample_rate) * u64::from(ms) / 1000).unwrap_or(0) * frame)
    };

    let least = of_ms(MIN_TARGET_MS).max(2 * frame);
    let max_length = whole(asked.max_length.clamp(2 * least, MAX_STREAM_BYTES));
    let most = of_ms(MAX_TARGET_MS).clamp(least, max_length);
    let target_length = match asked.target_length {
        SERVER_DEFAULT if low_latency => of_ms(LOW_LATENCY_MS).clamp(least, most),
        SERVER_DEFAULT => most,
        bytes => whole(bytes).clamp(least, most),
    };
    let half = whole(target_length / 2).max(frame);
    let minimum_request_length = match asked.minimum_request_length {
        SERVER_DEFAULT => whole(target_length / 4).min(of_ms(MAX_DEFAULT_REQUEST_MS)).clamp(frame, half),
        bytes => whole(bytes).clamp(frame, half),
    };
    let pre_buffering = whole(asked.pre_buffering).min(target_length + frame - minimum_request_length);
    BufferAttr { max_length, target_length, pre_buffering, minimum_request_length, fragment_size: 0 }
}

/// How long `bytes` of a stream last, in microseconds.
pub(super) fn duration_usec(bytes: u64, spec: &SampleSpec) -> u64 {
    let frames = u128::from(bytes) / u128::from(frame_bytes(spec).max(1));
    u64::try_from(frames * 1_000_000 / u128::from(spec.sample_rate.max(1))).unwrap_or(u64::MAX)
}

/// Whether the sound card needs no conversion of the rate.
pub(super) fn is_native_rate(spec: &SampleSpec) -> bool {
    spec.sample_rate == SAMPLE_RATE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pulseaudio::protocol::SampleFormat;

    const STEREO: SampleSpec =
        SampleSpec { format: SampleFormat::Float32Le, channels: 2, sample_rate: 48_000 };

    #[test]
    fn chromium_gets_what_it_asks_for() {
        let buffer = 480 * 8;
        let asked = BufferAttr {
            max_length: u32::MAX,
            target_length: 3 * buffer,
            pre_buffering: 2 * buffer,
            minimum_request_length: buffer / 2,
            fragment_size: u32::MAX,
        };
        let expected = BufferAttr { max_length: MAX_STREAM_BYTES, fragment_size: 0, ..asked };
        assert_eq!(negotiate(asked, &STEREO, true), expected);
    }

    #[test]
    fn defaults_are_low_for_those_who_ask_and_long_for_those_who_do_not() {
        let ms = |low| {
            duration_usec(negotiate(BufferAttr::default(), &STEREO, low).target_length.into(), &STEREO) / 1000
        };
        assert_eq!((ms(true), ms(false)), (40, 2000));
    }

    proptest! {
        #[test]
        fn anything_asked_for_settles(
            asked in proptest::array::uniform4(prop_oneof![Just(u32::MAX), Just(0), any::<u32>(), 0_u32..100_000]),
            rate in 8_000_u32..=192_000,
            channels in 1_u8..=32,
            low: bool,
        ) {
            let spec = SampleSpec { format: SampleFormat::S24Le, channels, sample_rate: rate };
            let [max_length, target_length, pre_buffering, minimum_request_length] = asked;
            let asked = BufferAttr { max_length, target_length, pre_buffering, minimum_request_length, fragment_size: 0 };
            let a = negotiate(asked, &spec, low);
            let frame = frame_bytes(&spec);
            for bytes in [a.max_length, a.target_length, a.pre_buffering, a.minimum_request_length] {
                prop_assert_eq!(bytes % frame, 0);
            }
            prop_assert!(a.max_length <= MAX_STREAM_BYTES && a.target_length <= a.max_length);
            prop_assert!(frame <= a.minimum_request_length && a.minimum_request_length <= a.target_length / 2);
            prop_assert!(a.pre_buffering <= a.target_length);
            prop_assert!(duration_usec(a.target_length.into(), &spec) >= 19_000);
        }
    }
}
