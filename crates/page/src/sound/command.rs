//! What clients may ask for, and what is refused.

use std::time::Duration;

use pulseaudio::protocol::props::PropsUpdateMode;
use pulseaudio::protocol::{
    AuthParams, AuthReply, Command, CreatePlaybackStreamReply, LatencyParams, MAX_VERSION, MIN_VERSION,
    PlaybackLatency, PlaybackStreamParams, Prop, Props, PulseError, SetClientNameReply,
    SetPlaybackStreamBufferAttrParams, SetPlaybackStreamBufferAttrReply, SetStreamVolumeParams,
    SubscriptionEventFacility as Facility, SubscriptionEventType as Change, UpdateSampleRateParams,
};
use pulseaudio::protocol::{SetDeviceMuteParams, SetDeviceVolumeParams};

use super::client::{Client, is_short};
use super::introspect::{SINK_INDEX, SINK_NAME};
use super::server::{Core, Moment};
use super::shape::{fits, is_sink};
use super::stream::{Event, Shape, Stream, is_playable};

type Done = Result<(), PulseError>;

impl Core {
    /// Does what a client asks and answers it, or says why not.
    pub(super) fn carry_out(&mut self, id: u32, seq: u32, command: Command, now: Moment) -> Done {
        match command {
            Command::Auth(p) => return self.authorise(id, seq, &p),
            _ if !self.clients.get(&id).is_some_and(|c| c.authorised) => {
                return Err(PulseError::AccessDenied);
            }
            Command::SetClientName(props) => return self.name_client(id, seq, props),
            Command::CreatePlaybackStream(p) => return self.create_stream(id, seq, p),
            Command::GetPlaybackLatency(p) => return self.tell_latency(id, seq, &p, now),
            Command::SetPlaybackStreamBufferAttr(p) => return self.set_attr(id, seq, &p),
            Command::DrainPlaybackStream(i) => return self.drain(id, seq, i),

            Command::DeletePlaybackStream(i) => self.delete_stream(id, i)?,
            Command::CorkPlaybackStream(p) => self.on_stream(id, p.channel, |s, _| s.cork(p.cork))?,
            Command::FlushPlaybackStream(i) => self.on_stream(id, i, Stream::flush)?,
            Command::PrebufPlaybackStream(i) => self.on_stream(id, i, |s, _| s.prebuffer())?,
            Command::TriggerPlaybackStream(i) => self.on_stream(id, i, |s, _| s.trigger())?,
            Command::UpdatePlaybackStreamSampleRate(p) => self.set_rate(id, p)?,
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
                client.props = updated(&client.props, p.mode, p.props)?;
                self.announce(Facility::Client, Change::Changed, id);
            }
            Command::Subscribe(interests) => {
                let client = self.clients.get_mut(&id).ok_or(PulseError::NoEntity)?;
                client.interests = interests;
            }
            Command::SetSinkInputVolume(p) => self.set_stream_volume(&p)?,
            Command::SetSinkInputMute(p) => {
                let stream = self.streams.get_mut(&p.index).ok_or(PulseError::NoEntity)?;
                stream.set_volume(stream.shape().volume, p.mute);
                self.announce(Facility::SinkInput, Change::Changed, p.index);
            }
            Command::SetSinkVolume(p) => self.set_sink_volume(&p)?,
            Command::SetSinkMute(p) => self.set_sink_mute(&p)?,
            // There is one sink: choosing it changes nothing.
            Command::SetDefaultSink(name) if is_sink(None, Some(&name)) => {}
            Command::MoveSinkInput(p) if is_sink(p.device_index, p.device_name.as_deref()) => {}

            // A page is never given a microphone, not even its own sound.
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

    fn authorise(&mut self, id: u32, seq: u32, params: &AuthParams) -> Done {
        if params.version < MIN_VERSION {
            return Err(PulseError::Version);
        }
        self.with_client(id, |c| {
            c.authorised = true;
            c.version = params.version.min(MAX_VERSION);
            // Whoever may open the socket may play; shared memory is never taken, whatever the client offers.
            c.reply(seq, &AuthReply { version: c.version, use_memfd: false, use_shm: false });
        });
        Ok(())
    }

    fn name_client(&mut self, id: u32, seq: u32, props: Props) -> Done {
        if !is_short(&props) {
            return Err(PulseError::TooLarge);
        }
        self.with_client(id, |c| {
            c.props = props;
            c.reply(seq, &SetClientNameReply { client_id: id });
        });
        self.announce(Facility::Client, Change::Changed, id);
        Ok(())
    }

    fn create_stream(&mut self, id: u32, seq: u32, params: PlaybackStreamParams) -> Done {
        let shape = Shape::of(&params)?;
        let index =
            self.add_stream(Stream::new(id, params.props, shape.clone())).ok_or(PulseError::TooLarge)?;
        let stream = self.streams.get_mut(&index).ok_or(PulseError::Internal)?;
        let mut events = Vec::new();
        stream.request(&mut events);
        // The first request travels in the reply.
        let requested_bytes = events.iter().find_map(|e| match e {
            Event::Request(bytes) => Some(*bytes),
            _ => None,
        });
        let reply = CreatePlaybackStreamReply {
            channel: index,
            stream_index: index,
            requested_bytes: requested_bytes.unwrap_or(0),
            buffer_attr: shape.attr,
            sample_spec: shape.spec,
            channel_map: shape.map,
            stream_latency: 0,
            sink_index: SINK_INDEX,
            sink_name: Some(SINK_NAME.into()),
            suspended: false,
            format: shape.format_info(),
        };
        self.with_client(id, |c| c.reply(seq, &reply));
        Ok(())
    }

    fn delete_stream(&mut self, id: u32, index: u32) -> Done {
        self.streams.get(&index).filter(|s| s.owner == id).ok_or(PulseError::NoEntity)?;
        self.remove_stream(index);
        Ok(())
    }

    /// Changes a stream of the client; if that makes room, it is told at once.
    fn on_stream(&mut self, id: u32, index: u32, change: impl FnOnce(&mut Stream, &mut Vec<Event>)) -> Done {
        self.serve(id, index, |stream, events| {
            change(stream, events);
            stream.request(events);
        })
        .ok_or(PulseError::NoEntity)?;
        self.announce(Facility::SinkInput, Change::Changed, index);
        Ok(())
    }

    fn drain(&mut self, id: u32, seq: u32, index: u32) -> Done {
        let waits =
            self.serve(id, index, |stream, events| stream.drain(seq, events)).ok_or(PulseError::NoEntity)?;
        if waits { Ok(()) } else { Err(PulseError::Busy) }
    }

    fn tell_latency(&mut self, id: u32, seq: u32, params: &LatencyParams, now: Moment) -> Done {
        let player_delay = self.player_delay.get();
        let told = self.serve(id, params.channel, |stream, events| {
            let delay = if stream.shape().is_player() { player_delay } else { Duration::ZERO };
            stream.tell_delay(delay, events);
            (stream.latency(), delay)
        });
        let (latency, delay) = told.ok_or(PulseError::NoEntity)?;
        let reply = PlaybackLatency {
            sink_usec: latency.sink_usec + u64::try_from(delay.as_micros()).unwrap_or(0),
            source_usec: 0,
            playing: latency.playing,
            local_time: params.now,
            remote_time: now.wall.max(std::time::UNIX_EPOCH),
            write_offset: latency.write_position,
            read_offset: latency.read_position,
            underrun_for: latency.underrun_for,
            playing_for: latency.playing_for,
        };
        self.with_client(id, |c| c.reply(seq, &reply));
        Ok(())
    }

    fn set_attr(&mut self, id: u32, seq: u32, params: &SetPlaybackStreamBufferAttrParams) -> Done {
        let settled = self
            .serve(id, params.index, |stream, _| {
                stream.set_attr(params.buffer_attr, params.adjust_latency);
                stream.shape().attr
            })
            .ok_or(PulseError::NoEntity)?;
        let reply = SetPlaybackStreamBufferAttrReply { buffer_attr: settled, configured_sink_latency: 0 };
        self.with_client(id, |c| c.reply(seq, &reply));
        // After the reply, so that the client sees a request in the light of what it asked for.
        self.serve(id, params.index, Stream::request);
        Ok(())
    }

    fn set_rate(&mut self, id: u32, params: UpdateSampleRateParams) -> Done {
        let changed = self.serve(id, params.index, |stream, _| {
            let shape = stream.shape();
            let mut spec = shape.spec;
            spec.sample_rate = params.sample_rate;
            if !shape.variable_rate {
                return Err(PulseError::BadState);
            }
            if !is_playable(&spec, &shape.map) {
                return Err(PulseError::Invalid);
            }
            stream.set_rate(params.sample_rate);
            Ok(())
        });
        changed.ok_or(PulseError::NoEntity)?
    }

    fn update_stream_props(&mut self, id: u32, index: u32, mode: PropsUpdateMode, with: Props) -> Done {
        let update = |stream: &mut Stream, _: &mut Vec<Event>| {
            stream.props = updated(&stream.props, mode, with)?;
            Ok(())
        };
        self.serve(id, index, update).ok_or(PulseError::NoEntity)??;
        self.announce(Facility::SinkInput, Change::Changed, index);
        Ok(())
    }

    fn set_stream_volume(&mut self, params: &SetStreamVolumeParams) -> Done {
        let stream = self.streams.get_mut(&params.index).ok_or(PulseError::NoEntity)?;
        let shape = stream.shape();
        if !fits(&params.volume, &shape.spec) {
            return Err(PulseError::Invalid);
        }
        stream.set_volume(params.volume, shape.muted);
        self.announce(Facility::SinkInput, Change::Changed, params.index);
        Ok(())
    }

    fn set_sink_volume(&mut self, params: &SetDeviceVolumeParams) -> Done {
        if !is_sink(params.device_index, params.device_name.as_deref()) {
            return Err(PulseError::NoEntity);
        }
        let mut both = pulseaudio::protocol::ChannelVolume::empty();
        let (left, right) = match params.volume.channels() {
            [all] => (all, all),
            [left, right] => (left, right),
            _ => return Err(PulseError::Invalid),
        };
        both.push(*left);
        both.push(*right);
        self.volume = both;
        self.announce(Facility::Sink, Change::Changed, SINK_INDEX);
        Ok(())
    }

    fn set_sink_mute(&mut self, params: &SetDeviceMuteParams) -> Done {
        if !is_sink(params.device_index, params.device_name.as_deref()) {
            return Err(PulseError::NoEntity);
        }
        self.muted = params.mute;
        self.announce(Facility::Sink, Change::Changed, SINK_INDEX);
        Ok(())
    }

    fn with_client(&mut self, id: u32, act: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.get_mut(&id) {
            act(client);
        }
    }
}

/// A property list after an update, if it is not too long.
fn updated(old: &Props, mode: PropsUpdateMode, with: Props) -> Result<Props, PulseError> {
    let mut props = if mode == PropsUpdateMode::Set { Props::new() } else { old.clone() };
    for (key, value) in with.iter() {
        if mode != PropsUpdateMode::Merge || props.get_bytes(key).is_none() {
            props.set_bytes(key, value);
        }
    }
    if is_short(&props) { Ok(props) } else { Err(PulseError::TooLarge) }
}
