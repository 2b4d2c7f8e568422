//! Mixes the channels of a stream to stereo, and applies its volume.

use pulseaudio::protocol::{ChannelMap, ChannelPosition, ChannelVolume};

/// −3 dB: the gain of centre and surround channels in a stereo mix (ITU-R BS.775).
const MINUS_3_DB: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// How the channels of a stream map to stereo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RemixMode {
    /// Channels are mixed into left and right by their position.
    Mix,
    /// Only front left and front right are used.
    MatchName,
    /// The first channel is left, the second is right, regardless of their names.
    MatchIndex,
}

/// Left and right gain of each channel.
#[derive(Debug, Clone)]
pub(super) struct RemixMatrix(Vec<[f32; 2]>);

impl RemixMatrix {
    pub(super) fn new(map: &ChannelMap, mode: RemixMode, volume: &ChannelVolume, muted: bool) -> Self {
        let mono = map.num_channels() == 1;
        let gain = |i: usize| match volume.channels() {
            _ if muted => 0.0,
            [all] => all.to_linear(),
            each => each.get(i).map_or(0.0, |v| v.to_linear()),
        };
        let share = |(i, position)| match mode {
            _ if mono => [1.0, 1.0],
            RemixMode::Mix => stereo_gains(position),
            RemixMode::MatchName if position == ChannelPosition::FrontLeft => [1.0, 0.0],
            RemixMode::MatchName if position == ChannelPosition::FrontRight => [0.0, 1.0],
            RemixMode::MatchIndex if i == 0 => [1.0, 0.0],
            RemixMode::MatchIndex if i == 1 => [0.0, 1.0],
            RemixMode::MatchName | RemixMode::MatchIndex => [0.0, 0.0],
        };
        Self(map.into_iter().enumerate().map(|(i, p)| share((i, p)).map(|s| s * gain(i))).collect())
    }

    /// Appends one left/right pair for each frame of `samples`.
    pub(super) fn apply(&self, samples: &[f32], out: &mut Vec<[f32; 2]>) {
        // Plain stereo is the common case: it must be cheap and bit-exact.
        if let [[1.0, 0.0], [0.0, 1.0]] = self.0[..] {
            out.extend_from_slice(samples.as_chunks().0);
            return;
        }
        out.extend(samples.chunks_exact(self.0.len().max(1)).map(|frame| {
            frame
                .iter()
                .zip(&self.0)
                .fold([0.0, 0.0], |[l, r], (s, [to_l, to_r])| [l + s * to_l, r + s * to_r])
        }));
    }
}

/// Left and right gain of a speaker position (ITU-R BS.775). The low frequency channel is omitted, as in
/// standard mixes.
fn stereo_gains(position: ChannelPosition) -> [f32; 2] {
    use ChannelPosition as P;
    match position {
        P::FrontLeft => [1.0, 0.0],
        P::FrontRight => [0.0, 1.0],
        P::Mono => [1.0, 1.0],
        P::FrontCenter => [MINUS_3_DB, MINUS_3_DB],
        P::RearCenter | P::TopCenter | P::TopFrontCenter | P::TopRearCenter => [0.5, 0.5],
        P::Lfe => [0.0, 0.0],
        P::RearLeft | P::SideLeft | P::FrontLeftOfCenter | P::TopFrontLeft | P::TopRearLeft => {
            [MINUS_3_DB, 0.0]
        }
        P::RearRight | P::SideRight | P::FrontRightOfCenter | P::TopFrontRight | P::TopRearRight => {
            [0.0, MINUS_3_DB]
        }
        // Auxiliary channels have no position: they alternate.
        aux if (aux as u8).is_multiple_of(2) => [1.0, 0.0],
        _ => [0.0, 1.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulseaudio::protocol::Volume;

    fn remix_frame(map: &ChannelMap, mode: RemixMode, frame: &[f32]) -> [f32; 2] {
        let mut out = Vec::new();
        RemixMatrix::new(map, mode, &ChannelVolume::norm(map.num_channels()), false).apply(frame, &mut out);
        assert_eq!(out.len(), 1);
        out[0]
    }

    #[test]
    fn surround_becomes_stereo() {
        use ChannelPosition as P;
        let five_one =
            ChannelMap::new([P::FrontLeft, P::FrontRight, P::FrontCenter, P::Lfe, P::RearLeft, P::RearRight]);
        let h = MINUS_3_DB;
        for (channel, expected) in
            [[1.0, 0.0], [0.0, 1.0], [h, h], [0.0, 0.0], [h, 0.0], [0.0, h]].into_iter().enumerate()
        {
            let mut frame = [0.0; 6];
            frame[channel] = 1.0;
            assert_eq!(remix_frame(&five_one, RemixMode::Mix, &frame), expected, "channel {channel}");
        }
        let seven_one = ChannelMap::new(five_one.into_iter().chain([P::SideLeft, P::SideRight]));
        assert_eq!(
            remix_frame(&seven_one, RemixMode::Mix, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0]),
            [h, -h]
        );
        assert_eq!(
            remix_frame(&seven_one, RemixMode::MatchName, &[0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
            [0.25, 0.5]
        );
    }

    #[test]
    fn one_channel_is_played_on_both_sides_regardless_of_its_name() {
        for map in [ChannelMap::mono(), ChannelMap::new([ChannelPosition::FrontLeft])] {
            assert_eq!(remix_frame(&map, RemixMode::Mix, &[0.5]), [0.5, 0.5]);
        }
    }

    #[test]
    fn swapped_stereo_is_corrected_unless_names_are_ignored() {
        let swapped = ChannelMap::new([ChannelPosition::FrontRight, ChannelPosition::FrontLeft]);
        assert_eq!(remix_frame(&swapped, RemixMode::Mix, &[0.25, 0.5]), [0.5, 0.25]);
        assert_eq!(remix_frame(&swapped, RemixMode::MatchIndex, &[0.25, 0.5]), [0.25, 0.5]);
    }

    #[test]
    fn volume_is_cubic_and_mute_is_silence() {
        let mut volume = ChannelVolume::empty();
        volume.push(Volume::from_u32_clamped(0x8000));
        volume.push(Volume::NORM);
        let mut out = Vec::new();
        RemixMatrix::new(&ChannelMap::stereo(), RemixMode::Mix, &volume, false).apply(&[1.0, 1.0], &mut out);
        RemixMatrix::new(&ChannelMap::stereo(), RemixMode::Mix, &volume, true).apply(&[1.0, 1.0], &mut out);
        assert_eq!(out, [[0.125, 1.0], [0.0, 0.0]]);
    }
}
