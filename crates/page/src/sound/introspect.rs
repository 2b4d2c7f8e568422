//! Replies to queries about the sound card. There is one sink and its monitor; nothing can be recorded.
//!
//! Every text of the sink is set, because Chromium's audio process crashes if one is missing.

use std::ffi::{CStr, CString};

use pulseaudio::protocol::port_info::{PortAvailable, PortDirection, PortInfo, PortType};
use pulseaudio::protocol::{
    ChannelMap, ChannelPosition, ClientInfo, Command, FormatEncoding, FormatInfo, LookupReply, Prop, Props,
    PulseError, SampleFormat, SampleSpec, ServerInfo, SinkFlags, SinkInfo, SinkInputInfo, SinkState,
    SourceFlags, SourceInfo, SourceState, StatInfo, Volume,
};

use super::buffer_attr::duration_usec;
use super::client::{Client, prop_text};
use super::server::PulseServer;
use super::stream::Stream;
use super::stream_config::is_sink;

pub(super) const SINK_INDEX: u32 = 0;
pub(super) const SINK_NAME: &CStr = c"pagecast";
/// Sample format that the sound card plays without conversion.
pub(super) const SINK_SPEC: SampleSpec =
    SampleSpec { format: SampleFormat::Float32Le, channels: 2, sample_rate: pagecast_core::SAMPLE_RATE };
pub(super) const SINK_MAP: [ChannelPosition; 2] = [ChannelPosition::FrontLeft, ChannelPosition::FrontRight];

const MONITOR_INDEX: u32 = 0;
const MONITOR_NAME: &CStr = c"pagecast.monitor";
const DRIVER: &CStr = c"pagecast";
/// A version that libpulse knows.
const SERVER_VERSION: &CStr = c"15.0.0";
const VOLUME_STEPS: u32 = 65_537;

impl PulseServer {
    /// Replies to commands that change nothing.
    ///
    /// # Errors
    /// The error to send instead.
    pub(super) fn introspect(&mut self, id: u32, seq: u32, command: Command) -> Result<(), PulseError> {
        let (sink, monitor) = (self.sink_info(), self.monitor_info());
        let inputs = || self.streams.iter().map(|(index, stream)| stream_info(*index, stream));
        let clients = || self.clients.iter().map(|(index, client)| client_info(*index, client));
        // The replies have many types: each is written by its own closure, once the rest of the server is no
        // longer borrowed.
        let write: Box<dyn FnOnce(&mut Client)> = match command {
            Command::GetServerInfo => Box::new(move |c| c.reply(seq, &server_info())),
            Command::GetSinkInfoList => Box::new(move |c| c.reply(seq, &vec![sink])),
            Command::GetSinkInfo(p) if is_sink(p.index, p.name.as_deref()) => {
                Box::new(move |c| c.reply(seq, &sink))
            }
            Command::LookupSink(name) if is_sink(None, Some(&name)) => {
                Box::new(move |c| c.reply(seq, &LookupReply(SINK_INDEX)))
            }
            Command::GetSourceInfoList => Box::new(move |c| c.reply(seq, &vec![monitor])),
            Command::GetSourceInfo(p) if is_monitor(p.index, p.name.as_deref()) => {
                Box::new(move |c| c.reply(seq, &monitor))
            }
            Command::LookupSource(name) if is_monitor(None, Some(&name)) => {
                Box::new(move |c| c.reply(seq, &LookupReply(MONITOR_INDEX)))
            }
            Command::GetSinkInputInfoList => {
                let list: Vec<_> = inputs().collect();
                Box::new(move |c| c.reply(seq, &list))
            }
            Command::GetSinkInputInfo(index) => {
                let info = inputs().find(|i| i.index == index).ok_or(PulseError::NoEntity)?;
                Box::new(move |c| c.reply(seq, &info))
            }
            Command::GetClientInfoList => {
                let list: Vec<_> = clients().collect();
                Box::new(move |c| c.reply(seq, &list))
            }
            Command::GetClientInfo(index) => {
                let info = clients().find(|c| c.index == index).ok_or(PulseError::NoEntity)?;
                Box::new(move |c| c.reply(seq, &info))
            }
            Command::Stat => {
                let stat = self.stat_info();
                Box::new(move |c| c.reply(seq, &stat))
            }
            // An empty list is an empty reply.
            Command::GetModuleInfoList
            | Command::GetCardInfoList
            | Command::GetSourceOutputInfoList
            | Command::GetSampleInfoList => Box::new(move |c| c.ack(seq)),
            Command::Extension(_) => return Err(PulseError::NoExtension),
            _ => return Err(PulseError::NoEntity),
        };
        self.clients.get_mut(&id).map(write);
        Ok(())
    }

    fn sink_info(&self) -> SinkInfo {
        let playing = self.streams.values().any(Stream::is_active);
        SinkInfo {
            index: SINK_INDEX,
            name: SINK_NAME.into(),
            description: Some(c"Pagecast".into()),
            props: device_props(c"sound"),
            state: if playing { SinkState::Running } else { SinkState::Idle },
            sample_spec: SINK_SPEC,
            channel_map: ChannelMap::new(SINK_MAP),
            owner_module_index: None,
            cvolume: self.volume,
            muted: self.muted,
            monitor_source_index: Some(MONITOR_INDEX),
            monitor_source_name: Some(MONITOR_NAME.into()),
            flags: SinkFlags::LATENCY | SinkFlags::DECIBEL_VOLUME,
            actual_latency: 0,
            configured_latency: 0,
            driver: Some(DRIVER.into()),
            base_volume: Volume::NORM,
            volume_steps: Some(VOLUME_STEPS),
            card_index: None,
            ports: vec![PortInfo {
                name: c"output".into(),
                port_type: PortType::Speaker,
                description: Some(c"Recording".into()),
                dir: PortDirection::Output,
                priority: 0,
                available: PortAvailable::Yes,
                availability_group: Some(c"Pagecast".into()),
            }],
            active_port: 0,
            formats: vec![FormatInfo::new(FormatEncoding::Pcm)],
        }
    }

    fn monitor_info(&self) -> SourceInfo {
        SourceInfo {
            index: MONITOR_INDEX,
            name: MONITOR_NAME.into(),
            description: Some(c"Monitor of Pagecast".into()),
            props: device_props(c"monitor"),
            state: SourceState::Idle,
            sample_spec: SINK_SPEC,
            channel_map: ChannelMap::new(SINK_MAP),
            cvolume: self.volume,
            base_volume: Volume::NORM,
            volume_steps: Some(VOLUME_STEPS),
            muted: self.muted,
            monitor_of_sink_index: Some(SINK_INDEX),
            monitor_of_sink_name: Some(SINK_NAME.into()),
            flags: SourceFlags::LATENCY | SourceFlags::DECIBEL_VOLUME,
            driver: Some(DRIVER.into()),
            formats: vec![FormatInfo::new(FormatEncoding::Pcm)],
            ..SourceInfo::default()
        }
    }

    fn stat_info(&self) -> StatInfo {
        let streams = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        let bytes: i64 = self.streams.values().map(Stream::queued_bytes).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        StatInfo {
            memblock_total: streams,
            memblock_total_size: bytes,
            memblock_allocated: streams,
            memblock_allocated_size: bytes,
            sample_cache_size: 0,
        }
    }
}

fn server_info() -> ServerInfo {
    ServerInfo {
        // Client libraries check these two to choose their behaviour.
        server_name: Some(c"pulseaudio".into()),
        server_version: Some(SERVER_VERSION.into()),
        user_name: Some(c"pagecast".into()),
        host_name: Some(c"localhost".into()),
        sample_spec: SINK_SPEC,
        cookie: 0,
        default_sink_name: Some(SINK_NAME.into()),
        default_source_name: Some(MONITOR_NAME.into()),
        channel_map: ChannelMap::new(SINK_MAP),
    }
}

fn stream_info(index: u32, stream: &Stream) -> SinkInputInfo {
    let (config, latency) = (stream.config(), stream.latency());
    SinkInputInfo {
        index,
        name: prop_text(&stream.props, Prop::MediaName),
        owner_module_index: None,
        client_index: Some(stream.owner),
        sink_index: SINK_INDEX,
        sample_spec: config.sample_spec,
        channel_map: config.channel_map,
        cvolume: config.volume,
        buffer_latency: duration_usec(u64::try_from(stream.queued_bytes()).unwrap_or(0), &config.sample_spec),
        sink_latency: latency.sink_usec,
        resample_method: Some(if latency.sink_usec > 0 { c"sinc".into() } else { c"copy".into() }),
        driver: Some(DRIVER.into()),
        props: stream.props.clone(),
        muted: config.muted,
        corked: config.corked,
        has_volume: true,
        volume_writable: true,
        format: config.format_info(),
    }
}

fn client_info(index: u32, client: &Client) -> ClientInfo {
    ClientInfo {
        index,
        name: client.name(),
        owner_module_index: None,
        driver: Some(DRIVER.into()),
        props: client.props.clone(),
    }
}

fn device_props(class: &CStr) -> Props {
    let mut props = Props::new();
    for (prop, value) in [
        (Prop::DeviceDescription, c"Pagecast"),
        (Prop::DeviceClass, class),
        (Prop::DeviceApi, c"pagecast"),
        (Prop::DeviceString, c"pagecast"),
        (Prop::DeviceVendorName, c"Pagecast"),
        (Prop::DeviceProductName, c"Pagecast"),
    ] {
        props.set(prop, CString::from(value));
    }
    props
}

fn is_monitor(index: Option<u32>, name: Option<&CStr>) -> bool {
    match (index, name) {
        (Some(index), _) => index == MONITOR_INDEX,
        (None, Some(name)) => name == MONITOR_NAME || name == pulseaudio::protocol::DEFAULT_SOURCE,
        (None, None) => true,
    }
}
