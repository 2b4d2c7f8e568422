//! Checks the parameters of a new stream.

use std::ffi::{CStr, CString};

use pulseaudio::protocol::{
    ChannelMap, ChannelPosition, ChannelVolume, DEFAULT_SINK, FormatEncoding, FormatInfo,
    PlaybackStreamParams, Prop, PulseError, SampleFormat, SampleSpec,
};

use super::buffer_attr;
use super::client::is_proplist_in_limit;
use super::introspect::{SINK_INDEX, SINK_MAP, SINK_NAME, SINK_SPEC};
use super::remix::RemixMode;
use super::stream::{StreamConfig, is_playable};

/// Smallest buffer of a media element, in microseconds. Chromium requests 64 ms for those, and 32 ms for
/// WebAudio.
const MIN_MEDIA_ELEMENT_BUFFER_USEC: u64 = 50_000;

/// Names of sample formats in format descriptions.
pub(super) const FORMAT_NAMES: [(SampleFormat, &str); 13] = [
    (SampleFormat::U8, "u8"),
    (SampleFormat::Alaw, "aLaw"),
    (SampleFormat::Ulaw, "uLaw"),
    (SampleFormat::S16Le, "s16le"),
    (SampleFormat::S16Be, "s16be"),
    (SampleFormat::Float32Le, "float32le"),
    (SampleFormat::Float32Be, "float32be"),
    (SampleFormat::S32Le, "s32le"),
    (SampleFormat::S32Be, "s32be"),
    (SampleFormat::S24Le, "s24le"),
    (SampleFormat::S24Be, "s24be"),
    (SampleFormat::S24In32Le, "s24-32le"),
    (SampleFormat::S24In32Be, "s24-32be"),
];

/// Names of channels in format descriptions.
const CHANNEL_NAMES: [(ChannelPosition, &str); 12] = [
    (ChannelPosition::Mono, "mono"),
    (ChannelPosition::FrontLeft, "front-left"),
    (ChannelPosition::FrontRight, "front-right"),
    (ChannelPosition::FrontCenter, "front-center"),
    (ChannelPosition::RearCenter, "rear-center"),
    (ChannelPosition::RearLeft, "rear-left"),
    (ChannelPosition::RearRight, "rear-right"),
    (ChannelPosition::Lfe, "lfe"),
    (ChannelPosition::FrontLeftOfCenter, "front-left-of-center"),
    (ChannelPosition::FrontRightOfCenter, "front-right-of-center"),
    (ChannelPosition::SideLeft, "side-left"),
    (ChannelPosition::SideRight, "side-right"),
];

impl StreamConfig {
    /// Whether the stream plays a media element, which has a longer buffer than generated sound.
    pub(super) fn is_media_element(&self) -> bool {
        buffer_attr::duration_usec(self.buffer_attr.target_length.into(), &self.sample_spec)
            >= MIN_MEDIA_ELEMENT_BUFFER_USEC
    }

    /// The configuration that a client requests.
    ///
    /// # Errors
    /// The sound card cannot play it, or a parameter is invalid.
    pub(super) fn from_params(params: &PlaybackStreamParams) -> Result<Self, PulseError> {
        if !is_sink(params.sink_index, params.sink_name.as_deref()) {
            return Err(PulseError::NoEntity);
        }
        let flags = &params.flags;
        if flags.passthrough {
            return Err(PulseError::NotSupported);
        }
        if !is_proplist_in_limit(&params.props) {
            return Err(PulseError::TooLarge);
        }
        let (mut spec, mut map) = (params.sample_spec, params.channel_map);
        if !params.formats.is_empty() {
            (spec, map) =
                params.formats.iter().find_map(parse_format_info).ok_or(PulseError::NotSupported)?;
        }
        if flags.fix_format {
            spec.format = SINK_SPEC.format;
        }
        if flags.fix_rate {
            spec.sample_rate = SINK_SPEC.sample_rate;
        }
        if flags.fix_channels {
            spec.channels = SINK_SPEC.channels;
            map = ChannelMap::new(SINK_MAP);
        }
        if !is_playable(&spec, &map) {
            return Err(PulseError::Invalid);
        }
        let volume = params.cvolume.unwrap_or_else(|| ChannelVolume::norm(spec.channels));
        if !is_volume_valid(&volume, &spec) {
            return Err(PulseError::Invalid);
        }
        let remix_mode = match (flags.no_remap_channels, flags.no_remix_channels) {
            (true, _) => RemixMode::MatchIndex,
            (false, true) => RemixMode::MatchName,
            (false, false) => RemixMode::Mix,
        };
        Ok(Self {
            buffer_attr: buffer_attr::negotiate(params.buffer_attr, &spec, flags.adjust_latency),
            muted: flags.start_muted.unwrap_or(false),
            corked: flags.start_corked,
            variable_rate: flags.variable_rate,
            sample_spec: spec,
            channel_map: map,
            remix_mode,
            volume,
        })
    }

    /// The configuration as a format description.
    pub(super) fn format_info(&self) -> FormatInfo {
        let mut info = FormatInfo::new(FormatEncoding::Pcm);
        let name =
            FORMAT_NAMES.iter().find(|(f, _)| *f == self.sample_spec.format).map_or("", |(_, name)| name);
        let pairs = [
            (Prop::FormatSampleFormat, format!("\"{name}\"")),
            (Prop::FormatRate, self.sample_spec.sample_rate.to_string()),
            (Prop::FormatChannels, self.sample_spec.channels.to_string()),
        ];
        for (prop, value) in pairs {
            info.props.set(prop, CString::new(value).unwrap_or_default());
        }
        info
    }
}

/// Whether a request refers to the only sink.
pub(super) fn is_sink(index: Option<u32>, name: Option<&CStr>) -> bool {
    match (index, name) {
        (Some(index), _) => index == SINK_INDEX,
        (None, Some(name)) => name == SINK_NAME || name == DEFAULT_SINK,
        (None, None) => true,
    }
}

/// Whether a volume has one value for all channels, or one for each.
pub(super) fn is_volume_valid(volume: &ChannelVolume, spec: &SampleSpec) -> bool {
    matches!(volume.channels().len(), n if n == 1 || n == usize::from(spec.channels))
}

/// Parses a format description; `None` if it is not PCM or is incomplete.
fn parse_format_info(info: &FormatInfo) -> Option<(SampleSpec, ChannelMap)> {
    let value = |prop| {
        let text = CStr::from_bytes_until_nul(info.props.get(prop)?).ok()?.to_str().ok()?;
        Some(text.trim_matches('"'))
    };
    if info.encoding != FormatEncoding::Pcm {
        return None;
    }
    let name = value(Prop::FormatSampleFormat)?;
    let (format, _) = FORMAT_NAMES.iter().find(|(_, n)| *n == name)?;
    let sample_rate = value(Prop::FormatRate)?.parse().ok()?;
    let channels = value(Prop::FormatChannels)?.parse().ok()?;
    let map = match value(Prop::FormatChannelMap) {
        Some(names) => parse_channel_map(names, channels)?,
        None if channels == 1 => ChannelMap::mono(),
        None if channels == 2 => ChannelMap::stereo(),
        None => return None,
    };
    Some((SampleSpec { format: *format, channels, sample_rate }, map))
}

fn parse_channel_map(names: &str, channels: u8) -> Option<ChannelMap> {
    let mut positions = Vec::new();
    for name in names.split(',').take(usize::from(channels.min(32)) + 1) {
        positions.push(CHANNEL_NAMES.iter().find(|(_, n)| *n == name)?.0);
    }
    (positions.len() == usize::from(channels)).then(|| ChannelMap::new(positions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulseaudio::protocol::Props;
    use pulseaudio::protocol::stream::StreamFlags;

    fn params() -> PlaybackStreamParams {
        PlaybackStreamParams {
            sample_spec: SINK_SPEC,
            channel_map: ChannelMap::stereo(),
            ..Default::default()
        }
    }

    #[test]
    fn invalid_parameters_are_refused() {
        let with = |change: &dyn Fn(&mut PlaybackStreamParams)| {
            let mut params = params();
            change(&mut params);
            StreamConfig::from_params(&params).map(|_| ())
        };
        assert_eq!(with(&|_| {}), Ok(()));
        assert_eq!(with(&|p| p.sink_name = Some(c"other".into())), Err(PulseError::NoEntity));
        assert_eq!(with(&|p| p.sink_index = Some(9)), Err(PulseError::NoEntity));
        assert_eq!(with(&|p| p.flags.passthrough = true), Err(PulseError::NotSupported));
        assert_eq!(with(&|p| p.sample_spec.format = SampleFormat::Invalid), Err(PulseError::Invalid));
        assert_eq!(with(&|p| p.sample_spec.channels = 0), Err(PulseError::Invalid));
        assert_eq!(with(&|p| p.sample_spec.channels = 3), Err(PulseError::Invalid));
        assert_eq!(with(&|p| p.sample_spec.sample_rate = 0), Err(PulseError::Invalid));
        assert_eq!(with(&|p| p.sample_spec.sample_rate = 192_001), Err(PulseError::Invalid));
        assert_eq!(with(&|p| p.cvolume = Some(ChannelVolume::norm(3))), Err(PulseError::Invalid));
        let mut props = Props::new();
        props.set_bytes(c"big", vec![0; 10_000]);
        assert_eq!(with(&|p| p.props = props.clone()), Err(PulseError::TooLarge));
    }

    #[test]
    fn the_sink_chooses_what_the_client_leaves_open() {
        let flags =
            StreamFlags { fix_format: true, fix_rate: true, fix_channels: true, ..Default::default() };
        let spec = SampleSpec { format: SampleFormat::U8, channels: 1, sample_rate: 8000 };
        let requested =
            PlaybackStreamParams { sample_spec: spec, channel_map: ChannelMap::mono(), flags, ..params() };
        assert_eq!(StreamConfig::from_params(&requested).unwrap().sample_spec, SINK_SPEC);
    }

    #[test]
    fn format_descriptions_are_parsed() {
        let mut info = FormatInfo::new(FormatEncoding::Pcm);
        info.props.set(Prop::FormatSampleFormat, c"\"s16le\"");
        info.props.set(Prop::FormatRate, c"44100");
        info.props.set(Prop::FormatChannels, c"3");
        info.props.set(Prop::FormatChannelMap, c"\"front-left,front-right,lfe\"");
        let ac3 = FormatInfo::new(FormatEncoding::Ac3Iec61937);
        let requested = PlaybackStreamParams { formats: vec![ac3.clone(), info], ..params() };
        let config = StreamConfig::from_params(&requested).unwrap();
        assert_eq!(
            config.sample_spec,
            SampleSpec { format: SampleFormat::S16Le, channels: 3, sample_rate: 44_100 }
        );
        assert_eq!(parse_format_info(&config.format_info()), None, "three channels without names");
        let only_ac3 = PlaybackStreamParams { formats: vec![ac3], ..params() };
        assert_eq!(StreamConfig::from_params(&only_ac3).map(|_| ()), Err(PulseError::NotSupported));
    }
}
