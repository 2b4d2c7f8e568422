//! Handles the commands of clients.

use std::time::{Duration, SystemTime};

use pulseaudio::protocol::props::PropsUpdateMode;
use pulseaudio::protocol::{
    AuthParams, AuthReply, Command, CreatePlaybackStreamReply, LatencyParams, MAX_VERSION, MIN_VERSION,
    PlaybackLatency, PlaybackStreamParams, Prop, Props, PulseError, SetClientNameReply,
    SetPlaybackStreamBufferAttrParams, SetPlaybackStreamBufferAttrReply, SetStreamVolumeParams,
    SubscriptionEventFacility as Facility, SubscriptionEventType as Change, UpdateSampleRateParams,
};
use pulseaudio::protocol::{SetDeviceMuteParams, SetDeviceVolumeParams};

use super::client::{Client, is_proplist_in_limit};
use super::introspect::{SINK_INDEX, SINK_NAME};
use super::server::PulseServer;
use super::stream::{Stream, StreamConfig, StreamEvent, is_playable};
use super::stream_config::{is_sink, is_volume_valid};

type CommandResult = Result<(), PulseError>;

impl PulseServer {
    /// Executes a command and sends the reply. `wall` is the time of the wall clock.
    ///
    /// # Errors
    /// The error to send instead.
    pub(super) fn handle_command(
        &mut self,
        id: u32,
        seq: u32,
        command: Command,
        wall: SystemTime,
    ) -> CommandResult {
        match command {
            Command::Auth(p) => return self.authorise(id, seq, &p),
            _ if !self.clients.get(&id).is_some_and(|c| c.authorised) => {
                return Err(PulseError::AccessDenied);
            }
            Command::SetClientName(props) => return self.set_client_name(id, seq, props),
            Command::CreatePlaybackStream(p) => return self.create_stream(id, seq, p),
            Command::GetPlaybackLatency(p) => return self.reply_latency(id, seq, &p, wall),
            Command::SetPlaybackStreamBufferAttr(p) => return self.set_buffer_attr(id, seq, &p),
            Command::DrainPlaybackStream(i) => return self.drain_stream(id, seq, i),

            Command::DeletePlaybackStream(i) => self.delete_stream(id, i)?,
            Command::CorkPlaybackStream(p) => self.change_stream(id, p.channel, |s, _| s.cork(p.cork))?,
            Command::FlushPlaybackStream(i) => self.change_stream(id, i, Stream::flush)?,
            Command::PrebufPlaybackStream(i) => self.change_stream(id, i, |s, _| s.prebuffer())?,
            Command::TriggerPlaybackStream(i) => self.change_stream(id, i, |s, _| s.trigger())?,
            Command::UpdatePlaybackStreamSampleRate(p) => self.set_stream_rate(id, p)?,
            Command::SetPlaybackStreamName(p) => {
                let mut name = Props::new();
                name.set(Prop::MediaName, p.name);
                self.update_stream_props(id, p.index, PropsUpdateMode::Replace, name)?;
            }
            Command::UpdatePlaybackStreamProplist(p) => {
                self.update_stream_props(id, p.index, p.mode, p.props)?;
            }
            Command::UpdateClientProplist(p) => {
                let client = self.clients.get_mut(&id).ok_or(PulseError::NoEntity)?;
                client.props = update_proplist(&client.props, p.mode, p.props)?;
                self.notify_subscribers(Facility::Client, Change::Changed, id);
            }
            Command::Subscribe(interests) => {
                let client = self.clients.get_mut(&id).ok_or(PulseError::NoEntity)?;
                client.subscription = interests;
            }
            Command::SetSinkInputVolume(p) => self.set_stream_volume(&p)?,
            Command::SetSinkInputMute(p) => {
                let stream = self.streams.get_mut(&p.index).ok_or(PulseError::NoEntity)?;
                stream.set_volume(stream.config().volume, p.mute);
                self.notify_subscribers(Facility::SinkInput, Change::Changed, p.index);
            }
            Command::SetSinkVolume(p) => self.set_sink_volume(&p)?,
            Command::SetSinkMute(p) => self.set_sink_mute(&p)?,
            // There is only one sink, so selecting it changes nothing.
            Command::SetDefaultSink(name) if is_sink(None, Some(&name)) => {}
            Command::MoveSinkInput(p) if is_sink(p.device_index, p.device_name.as_deref()) => {}

            // A page gets no microphone, and cannot record its own sound either.
            Command::CreateRecordStream(_) => return Err(PulseError::AccessDenied),
            Command::CreateUploadStream(_)
            | Command::LoadModule(_)
            | Command::UnloadModule(_)
            | Command::KillClient(_)
            | Command::KillSinkInput(_)
            | Command::SuspendSink(_)
            | Command::Exit => return Err(PulseError::AccessDenied),
            other => return self.introspect(id, seq, other),
        }
        self.with_client(id, |c| c.ack(seq));
        Ok(())
    }

    fn authorise(&mut self, id: u32, seq: u32, params: &AuthParams) -> CommandResult {
        if params.version < MIN_VERSION {
            return Err(PulseError::Version);
        }
        self.with_client(id, |c| {
            c.authorised = true;
            c.version = params.version.min(MAX_VERSION);
            // Access to the socket is enough. Shared memory is never used, whatever the client offers.
            c.reply(seq, &AuthReply { version: c.version, use_memfd: false, use_shm: false });
        });
        Ok(())
    }

    fn set_client_name(&mut self, id: u32, seq: u32, props: Props) -> CommandResult {
        if !is_proplist_in_limit(&props) {
            return Err(PulseError::TooLarge);
        }
        self.with_client(id, |c| {
            c.props = props;
            c.reply(seq, &SetClientNameReply { client_id: id });
        });
        self.notify_subscribers(Facility::Client, Change::Changed, id);
        Ok(())
    }

    fn create_stream(&mut self, id: u32, seq: u32, params: PlaybackStreamParams) -> CommandResult {
        let config = StreamConfig::from_params(&params)?;
        let index =
            self.add_stream(Stream::new(id, params.props, config.clone())).ok_or(PulseError::TooLarge)?;
        let stream = self.streams.get_mut(&index).ok_or(PulseError::Internal)?;
        let mut events = Vec::new();
        stream.request_data(&mut events);
        // The reply carries the first request for data.
        let requested_bytes = events.iter().find_map(|e| match e {
            StreamEvent::Request(bytes) => Some(*bytes),
            _ => None,
        });
        let reply = CreatePlaybackStreamReply {
            channel: index,
            stream_index: index,
            requested_bytes: requested_bytes.unwrap_or(0),
            buffer_attr: config.buffer_attr,
            sample_spec: config.sample_spec,
            channel_map: config.channel_map,
            stream_latency: 0,
            sink_index: SINK_INDEX,
            sink_name: Some(SINK_NAME.into()),
            suspended: false,
            format: config.format_info(),
        };
        self.with_client(id, |c| c.reply(seq, &reply));
        Ok(())
    }

    fn delete_stream(&mut self, id: u32, index: u32) -> CommandResult {
        self.streams.get(&index).filter(|s| s.owner == id).ok_or(PulseError::NoEntity)?;
        self.remove_stream(index);
        Ok(())
    }

    /// Changes a stream of the client, and requests more data if that made room.
    fn change_stream(
        &mut self,
        id: u32,
        index: u32,
        change: impl FnOnce(&mut Stream, &mut Vec<StreamEvent>),
    ) -> CommandResult {
        self.with_stream(id, index, |stream, events| {
            change(stream, events);
            stream.request_data(events);
        })
        .ok_or(PulseError::NoEntity)?;
        self.notify_subscribers(Facility::SinkInput, Change::Changed, index);
        Ok(())
    }

    fn drain_stream(&mut self, id: u32, seq: u32, index: u32) -> CommandResult {
        let is_accepted = self
            .with_stream(id, index, |stream, events| stream.drain(seq, events))
            .ok_or(PulseError::NoEntity)?;
        if is_accepted { Ok(()) } else { Err(PulseError::Busy) }
    }

    fn reply_latency(
        &mut self,
        id: u32,
        seq: u32,
        params: &LatencyParams,
        wall: SystemTime,
    ) -> CommandResult {
        let media_element_delay = self.media_element_delay.get();
        let reported = self.with_stream(id, params.channel, |stream, events| {
            let delay = if stream.config().is_media_element() { media_element_delay } else { Duration::ZERO };
            stream.report_delay(delay, events);
            (stream.latency(), delay)
        });
        let (latency, delay) = reported.ok_or(PulseError::NoEntity)?;
        let reply = PlaybackLatency {
            sink_usec: latency.sink_usec + u64::try_from(delay.as_micros()).unwrap_or(0),
            source_usec: 0,
            playing: latency.playing,
            local_time: params.now,
            remote_time: wall.max(std::time::UNIX_EPOCH),
            write_offset: latency.write_index,
            read_offset: latency.read_index,
            underrun_for: latency.underrun_for,
            playing_for: latency.playing_for,
        };
        self.with_client(id, |c| c.reply(seq, &reply));
        Ok(())
    }

    fn set_buffer_attr(
        &mut self,
        id: u32,
        seq: u32,
        params: &SetPlaybackStreamBufferAttrParams,
    ) -> CommandResult {
        let negotiated = self
            .with_stream(id, params.index, |stream, _| {
                stream.set_buffer_attr(params.buffer_attr, params.adjust_latency);
                stream.config().buffer_attr
            })
            .ok_or(PulseError::NoEntity)?;
        let reply = SetPlaybackStreamBufferAttrReply { buffer_attr: negotiated, configured_sink_latency: 0 };
        self.with_client(id, |c| c.reply(seq, &reply));
        // After the reply, so that the client knows the new sizes when it gets a request.
        self.with_stream(id, params.index, Stream::request_data);
        Ok(())
    }

    fn set_stream_rate(&mut self, id: u32, params: UpdateSampleRateParams) -> CommandResult {
        let changed = self.with_stream(id, params.index, |stream, _| {
            let config = stream.config();
            let mut spec = config.sample_spec;
            spec.sample_rate = params.sample_rate;
            if !config.variable_rate {
                return Err(PulseError::BadState);
            }
            if !is_playable(&spec, &config.channel_map) {
                return Err(PulseError::Invalid);
            }
            stream.set_rate(params.sample_rate);
            Ok(())
        });
        changed.ok_or(PulseError::NoEntity)?
    }

    fn update_stream_props(
        &mut self,
        id: u32,
        index: u32,
        mode: PropsUpdateMode,
        update: Props,
    ) -> CommandResult {
        let apply = |stream: &mut Stream, _: &mut Vec<StreamEvent>| {
            stream.props = update_proplist(&stream.props, mode, update)?;
            Ok(())
        };
        self.with_stream(id, index, apply).ok_or(PulseError::NoEntity)??;
        self.notify_subscribers(Facility::SinkInput, Change::Changed, index);
        Ok(())
    }

    fn set_stream_volume(&mut self, params: &SetStreamVolumeParams) -> CommandResult {
        let stream = self.streams.get_mut(&params.index).ok_or(PulseError::NoEntity)?;
        let config = stream.config();
        if !is_volume_valid(&params.volume, &config.sample_spec) {
            return Err(PulseError::Invalid);
        }
        stream.set_volume(params.volume, config.muted);
        self.notify_subscribers(Facility::SinkInput, Change::Changed, params.index);
        Ok(())
    }

    fn set_sink_volume(&mut self, params: &SetDeviceVolumeParams) -> CommandResult {
        if !is_sink(params.device_index, params.device_name.as_deref()) {
            return Err(PulseError::NoEntity);
        }
        let mut volume = pulseaudio::protocol::ChannelVolume::empty();
        let (left, right) = match params.volume.channels() {
            [all] => (all, all),
            [left, right] => (left, right),
            _ => return Err(PulseError::Invalid),
        };
        volume.push(*left);
        volume.push(*right);
        self.volume = volume;
        self.notify_subscribers(Facility::Sink, Change::Changed, SINK_INDEX);
        Ok(())
    }

    fn set_sink_mute(&mut self, params: &SetDeviceMuteParams) -> CommandResult {
        if !is_sink(params.device_index, params.device_name.as_deref()) {
            return Err(PulseError::NoEntity);
        }
        self.muted = params.mute;
        self.notify_subscribers(Facility::Sink, Change::Changed, SINK_INDEX);
        Ok(())
    }

    fn with_client(&mut self, id: u32, act: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.get_mut(&id) {
            act(client);
        }
    }
}

/// Applies an update to a property list.
///
/// # Errors
/// The result would be too long.
fn update_proplist(old: &Props, mode: PropsUpdateMode, update: Props) -> Result<Props, PulseError> {
    let mut props = if mode == PropsUpdateMode::Set { Props::new() } else { old.clone() };
    for (key, value) in update.iter() {
        if mode != PropsUpdateMode::Merge || props.get_bytes(key).is_none() {
            props.set_bytes(key, value);
        }
    }
    if is_proplist_in_limit(&props) { Ok(props) } else { Err(PulseError::TooLarge) }
}
