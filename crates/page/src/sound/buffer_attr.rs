//! Negotiates the buffer sizes of a stream.

use pagecast_core::SAMPLE_RATE;
use pulseaudio::protocol::SampleSpec;
use pulseaudio::protocol::stream::BufferAttr;

/// Most bytes that a stream holds: two seconds of any format that a browser plays. More is dropped and
/// reported as an overflow.
pub(super) const MAX_STREAM_BYTES: u32 = 2 * 1024 * 1024;
/// Default target for a client that requests low latency, in milliseconds.
const LOW_LATENCY_MS: u32 = 40;
/// Default target for other clients, and the largest target, in milliseconds.
const MAX_TARGET_MS: u32 = 2000;
/// Smallest target, in milliseconds: two mixing periods, as with less every stream would underrun between
/// them.
const MIN_TARGET_MS: u32 = 20;
/// Largest default for the request size, in milliseconds.
const MAX_DEFAULT_REQUEST_MS: u32 = 20;
/// Value of a field that the client leaves to the server.
const SERVER_DEFAULT: u32 = u32::MAX;

/// Size of one frame, in bytes.
pub(super) fn frame_bytes(spec: &SampleSpec) -> u32 {
    spec.format.bytes_per_sample() as u32 * u32::from(spec.channels)
}

/// Turns requested sizes into valid ones: whole frames, `0 < minreq <= tlength / 2`, `tlength <= maxlength`,
/// and `prebuf <= tlength - minreq + 1 frame`.
pub(super) fn negotiate(requested: BufferAttr, spec: &SampleSpec, low_latency: bool) -> BufferAttr {
    let frame = frame_bytes(spec).max(1);
    let whole_frames = |bytes: u32| bytes - bytes % frame;
    let bytes_of_ms = |ms: u32| {
        whole_frames(u32::try_from(u64::from(spec.sample_rate) * u64::from(ms) / 1000).unwrap_or(0) * frame)
    };

    let least = bytes_of_ms(MIN_TARGET_MS).max(2 * frame);
    let max_length = whole_frames(requested.max_length.clamp(2 * least, MAX_STREAM_BYTES));
    let largest = bytes_of_ms(MAX_TARGET_MS).clamp(least, max_length);
    let target_length = match requested.target_length {
        SERVER_DEFAULT if low_latency => bytes_of_ms(LOW_LATENCY_MS).clamp(least, largest),
        SERVER_DEFAULT => largest,
        bytes => whole_frames(bytes).clamp(least, largest),
    };
    let half = whole_frames(target_length / 2).max(frame);
    let minimum_request_length = match requested.minimum_request_length {
        SERVER_DEFAULT => {
            whole_frames(target_length / 4).min(bytes_of_ms(MAX_DEFAULT_REQUEST_MS)).clamp(frame, half)
        }
        bytes => whole_frames(bytes).clamp(frame, half),
    };
    let pre_buffering =
        whole_frames(requested.pre_buffering).min(target_length + frame - minimum_request_length);
    BufferAttr { max_length, target_length, pre_buffering, minimum_request_length, fragment_size: 0 }
}

/// Duration of `bytes` of a stream, in microseconds.
pub(super) fn duration_usec(bytes: u64, spec: &SampleSpec) -> u64 {
    let frames = u128::from(bytes) / u128::from(frame_bytes(spec).max(1));
    u64::try_from(frames * 1_000_000 / u128::from(spec.sample_rate.max(1))).unwrap_or(u64::MAX)
}

/// Whether the stream has the sample rate of the sound card, and needs no resampling.
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
    fn chromium_gets_what_it_requests() {
        let buffer = 480 * 8;
        let requested = BufferAttr {
            max_length: u32::MAX,
            target_length: 3 * buffer,
            pre_buffering: 2 * buffer,
            minimum_request_length: buffer / 2,
            fragment_size: u32::MAX,
        };
        let expected = BufferAttr { max_length: MAX_STREAM_BYTES, fragment_size: 0, ..requested };
        assert_eq!(negotiate(requested, &STEREO, true), expected);
    }

    #[test]
    fn defaults_depend_on_the_request_for_low_latency() {
        let ms = |low| {
            duration_usec(negotiate(BufferAttr::default(), &STEREO, low).target_length.into(), &STEREO) / 1000
        };
        assert_eq!((ms(true), ms(false)), (40, 2000));
    }

    proptest! {
        #[test]
        fn any_request_becomes_valid(
            requested in proptest::array::uniform4(
                prop_oneof![Just(u32::MAX), Just(0), any::<u32>(), 0_u32..100_000]
            ),
            rate in 8_000_u32..=192_000,
            channels in 1_u8..=32,
            low: bool,
        ) {
            let spec = SampleSpec { format: SampleFormat::S24Le, channels, sample_rate: rate };
            let [max_length, target_length, pre_buffering, minimum_request_length] = requested;
            let requested = BufferAttr {
                max_length,
                target_length,
                pre_buffering,
                minimum_request_length,
                fragment_size: 0,
            };
            let a = negotiate(requested, &spec, low);
            let frame = frame_bytes(&spec);
            for bytes in [a.max_length, a.target_length, a.pre_buffering, a.minimum_request_length] {
                prop_assert_eq!(bytes % frame, 0);
            }
            prop_assert!(a.max_length <= MAX_STREAM_BYTES && a.target_length <= a.max_length);
            prop_assert!((frame..=a.target_length / 2).contains(&a.minimum_request_length));
            prop_assert!(a.pre_buffering <= a.target_length);
            prop_assert!(duration_usec(a.target_length.into(), &spec) >= 19_000);
        }
    }
}
