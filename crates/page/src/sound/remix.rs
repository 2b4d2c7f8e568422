//! Channels of a stream become left and right, its volume included.

use pulseaudio::protocol::{ChannelMap, ChannelPosition, ChannelVolume};

/// −3 dB, what ITU-R BS.775 gives centre and surround channels in a stereo mix.
const MINUS_3_DB: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// How channels that do not exist in stereo are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Mixed into left and right by their place in the room.
    Mix,
    /// Left out; front left and front right only.
    SameName,
    /// The first is left, the second is right, whatever they are called.
    SameIndex,
}

/// How much of each channel is heard left and right.
#[derive(Debug, Clone)]
pub(super) struct Remix(Vec<[f32; 2]>);

impl Remix {
    pub(super) fn new(map: &ChannelMap, rule: Rule, volume: &ChannelVolume, muted: bool) -> Self {
        let mono = map.num_channels() == 1;
        let gain = |i: usize| match volume.channels() {
            _ if muted => 0.0,
            [all] => all.to_linear(),
            each => each.get(i).map_or(0.0, |v| v.to_linear()),
        };
        let share = |(i, position)| match rule {
            _ if mono => [1.0, 1.0],
            Rule::Mix => place(position),
            Rule::SameName if position == ChannelPosition::FrontLeft => [1.0, 0.0],
            Rule::SameName if position == ChannelPosition::FrontRight => [0.0, 1.0],
            Rule::SameIndex if i == 0 => [1.0, 0.0],
            Rule::SameIndex if i == 1 => [0.0, 1.0],
            Rule::SameName | Rule::SameIndex => [0.0, 0.0],
        };
        Self(map.into_iter().enumerate().map(|(i, p)| share((i, p)).map(|s| s * gain(i))).collect())
    }

    /// Appends one left/right pair for each frame of `samples`.
    pub(super) fn apply(&self, samples: &[f32], out: &mut Vec<[f32; 2]>) {
        // The common case is also the one that must not cost anything, and the one that must be exact to the bit.
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

/// Where a speaker is heard in stereo (ITU-R BS.775): the low frequency channel is left out, as in every standard mix.
fn place(position: ChannelPosition) -> [f32; 2] {
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
        // Auxiliary channels have no place: they alternate.
        aux if (aux as u8).is_multiple_of(2) => [1.0, 0.0],
        _ => [0.0, 1.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulseaudio::protocol::Volume;

    fn heard(map: &ChannelMap, rule: Rule, frame: &[f32]) -> [f32; 2] {
        let mut out = Vec::new();
        Remix::new(map, rule, &ChannelVolume::norm(map.num_channels()), false).apply(frame, &mut out);
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
            assert_eq!(heard(&five_one, Rule::Mix, &frame), expected, "channel {channel}");
        }
        let seven_one = ChannelMap::new(five_one.into_iter().chain([P::SideLeft, P::SideRight]));
        assert_eq!(heard(&seven_one, Rule::Mix, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0]), [h, -h]);
        assert_eq!(
            heard(&seven_one, Rule::SameName, &[0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
            [0.25, 0.5]
        );
    }

    #[test]
    fn one_channel_is_heard_on_both_sides_whatever_its_name() {
        for map in [ChannelMap::mono(), ChannelMap::new([ChannelPosition::FrontLeft])] {
            assert_eq!(heard(&map, Rule::Mix, &[0.5]), [0.5, 0.5]);
        }
    }

    #[test]
    fn swapped_stereo_is_put_right_unless_names_do_not_count() {
        let swapped = ChannelMap::new([ChannelPosition::FrontRight, ChannelPosition::FrontLeft]);
        assert_eq!(heard(&swapped, Rule::Mix, &[0.25, 0.5]), [0.5, 0.25]);
        assert_eq!(heard(&swapped, Rule::SameIndex, &[0.25, 0.5]), [0.25, 0.5]);
    }

    #[test]
    fn volume_is_cubic_and_mute_is_silence() {
        let mut volume = ChannelVolume::empty();
        volume.push(Volume::from_u32_clamped(0x8000));
        volume.push(Volume::NORM);
        let mut out = Vec::new();
        Remix::new(&ChannelMap::stereo(), Rule::Mix, &volume, false).apply(&[1.0, 1.0], &mut out);
        Remix::new(&ChannelMap::stereo(), Rule::Mix, &volume, true).apply(&[1.0, 1.0], &mut out);
        assert_eq!(out, [[0.125, 1.0], [0.0, 0.0]]);
    }
}
