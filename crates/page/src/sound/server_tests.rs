//! Tests of the server with a simulated clock.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use pulseaudio::protocol::stream::{BufferAttr, StreamFlags};
use pulseaudio::protocol::{
    AuthParams, AuthReply, ChannelMap, CommandReply, CorkStreamParams, CreatePlaybackStreamReply,
    LatencyParams, PlaybackLatency, PlaybackStreamParams, Props, RecordStreamParams, SampleFormat,
    SampleSpec, SetDeviceMuteParams, SetStreamMuteParams, SetStreamVolumeParams, SinkInfo, TagStructReader,
    Underflow, Volume, read_reply_message, write_command_message, write_memblock,
};

use super::super::client::MessageReader;
use super::super::mix::MAX_CATCH_UP_SAMPLES;
use super::super::stream::MAX_LATE_SAMPLES;
use super::*;
use crate::av_sync::{MediaElementDelay, RenderLatency};

const START: HostTime = HostTime(5_000_000_123);
const STEREO: SampleSpec = SampleSpec { format: SampleFormat::Float32Le, channels: 2, sample_rate: 48_000 };

/// A server with one client.
struct Fixture {
    server: PulseServer,
    id: u32,
    now: HostTime,
    seq: u32,
    /// Samples so far, from sample 0 on.
    output: Vec<[f32; 2]>,
    /// Messages for the client that no test has taken.
    messages: Vec<Vec<u8>>,
}

impl Fixture {
    /// An authenticated client, on a server that has emitted some samples.
    fn new() -> Self {
        let mut server = PulseServer::new(START, MediaElementDelay::default());
        let id = connect(&mut server, START).unwrap();
        let mut fixture = Self { server, id, now: START, seq: 0, output: Vec::new(), messages: Vec::new() };
        let origin = START + Duration::from_millis(1);
        fixture.server.handle(START, Input::StartCapture { origin });
        let auth = AuthParams { version: 35, supports_shm: true, supports_memfd: true, cookie: vec![0; 256] };
        let reply: AuthReply = fixture.request(Command::Auth(auth));
        assert_eq!(reply, AuthReply { version: 35, use_memfd: false, use_shm: false });
        fixture.advance(Duration::from_nanos(54_321_987));
        fixture
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.now.0 as u64)
    }

    fn receive(&mut self, bytes: &[u8]) {
        let wall = self.wall();
        self.server.handle(self.now, Input::Received { client: self.id, bytes, wall });
        self.collect().unwrap();
    }

    /// Collects samples and messages, as the real loop does. The error is that of a client that was cut off.
    fn collect(&mut self) -> Result<(), ProtocolViolation> {
        while let Some(output) = self.server.poll(self.now) {
            match output {
                Output::Samples(samples) => {
                    assert_eq!(samples.start, self.output.len() as u64, "samples are contiguous");
                    self.output.extend(samples.pcm.as_chunks::<2>().0);
                }
                Output::Disconnect { client, reason } => {
                    assert_eq!(client, self.id);
                    return Err(reason);
                }
            }
        }
        let mut reader = MessageReader::default();
        reader.push(self.server.pending_output(self.id));
        let mut used = 0;
        while let Some(Message::Command(payload)) = reader.next().unwrap() {
            self.messages.push(payload.to_vec());
            used += 20 + payload.len();
        }
        let wall = self.wall();
        self.server.handle(self.now, Input::Sent { client: self.id, bytes: used, wall });
        Ok(())
    }

    /// The next time at which the server must be polled.
    fn deadline(&self) -> HostTime {
        self.server.deadline().unwrap()
    }

    /// Advances the time as the real loop does, from deadline to deadline.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.deadline() <= end {
            self.now = self.deadline();
            self.collect().unwrap();
        }
        self.now = end;
    }

    fn send(&mut self, command: &Command) -> u32 {
        self.seq += 1;
        let mut bytes = Vec::new();
        write_command_message(&mut bytes, self.seq, command, 35).unwrap();
        self.receive(&bytes);
        self.seq
    }

    /// Takes the reply with this sequence number out of the messages.
    fn take_reply(&mut self, seq: u32) -> Option<Result<Vec<u8>, u32>> {
        let number = |m: &[u8], at: usize| u32::from_be_bytes(m[at..at + 4].try_into().unwrap());
        let at = self.messages.iter().position(|m| number(m, 1) != 61 && number(m, 6) == seq)?;
        let message = self.messages.remove(at);
        match number(&message, 1) {
            0 => Some(Err(number(&message, 11))),
            2 => Some(Ok(message)),
            tag => panic!("reply with tag {tag}"),
        }
    }

    fn request<R: CommandReply>(&mut self, command: Command) -> R {
        let seq = self.send(&command);
        let payload = self.take_reply(seq).unwrap().unwrap();
        TagStructReader::new(&mut &payload[10..], 35).read().unwrap()
    }

    fn expect_ack(&mut self, command: Command) {
        let seq = self.send(&command);
        assert_eq!(self.take_reply(seq).map(|a| a.map(|_| ())), Some(Ok(())), "{command:?}");
    }

    fn expect_error(&mut self, command: Command) -> u32 {
        let seq = self.send(&command);
        self.take_reply(seq).unwrap().unwrap_err()
    }

    /// Takes the events that the server sent since the last call.
    fn take_events(&mut self) -> Vec<Command> {
        let events = self.messages.extract_if(.., |m| m[6..10] == [0xff; 4]);
        events.map(|m| Command::read_tag_prefixed(&mut m.as_slice(), 35).unwrap().1).collect()
    }

    fn create_stream(&mut self, spec: SampleSpec, attr: BufferAttr, corked: bool) -> u32 {
        self.request::<CreatePlaybackStreamReply>(create_stream_command(spec, attr, corked)).channel
    }

    fn cork(&mut self, channel: u32, cork: bool) {
        self.expect_ack(Command::CorkPlaybackStream(CorkStreamParams { channel, cork }));
    }

    fn write(&mut self, channel: u32, frames: &[[f32; 2]]) {
        let data: Vec<u8> = frames.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect();
        self.write_bytes(channel, &data);
    }

    fn write_bytes(&mut self, channel: u32, data: &[u8]) {
        let mut bytes = Vec::new();
        write_memblock(&mut bytes, channel, data, 0).unwrap();
        self.receive(&bytes);
    }

    fn latency(&mut self, channel: u32) -> PlaybackLatency {
        self.request(Command::GetPlaybackLatency(LatencyParams { channel, now: UNIX_EPOCH }))
    }

    /// Index of the current sample.
    fn current_sample(&self) -> usize {
        let passed = self.now.0 - (START + Duration::from_millis(1)).0;
        (i128::from(passed) * 48_000 / 1_000_000_000) as usize
    }
}

/// Connects a client; `None` if there are too many.
fn connect(server: &mut PulseServer, now: HostTime) -> Option<u32> {
    let id = server.free_client_id()?;
    server.handle(now, Input::Connected(id));
    Some(id)
}

fn create_stream_command(spec: SampleSpec, attr: BufferAttr, corked: bool) -> Command {
    let channel_map = match spec.channels {
        1 => ChannelMap::mono(),
        _ => ChannelMap::stereo(),
    };
    let flags =
        StreamFlags { start_corked: corked, adjust_latency: true, variable_rate: true, ..Default::default() };
    Command::CreatePlaybackStream(PlaybackStreamParams {
        sample_spec: spec,
        channel_map,
        buffer_attr: attr,
        flags,
        ..Default::default()
    })
}

/// Buffer sizes of a stream that starts with its first frame.
fn immediate_start() -> BufferAttr {
    BufferAttr { pre_buffering: 8, ..Default::default() }
}

fn beep(silence: usize, len: usize) -> Vec<[f32; 2]> {
    [vec![[0.0; 2]; silence], vec![[0.75, -0.5]; len]].concat()
}

fn assert_only(samples: &[[f32; 2]], range: std::ops::Range<usize>, value: [f32; 2]) {
    let first = samples.iter().position(|f| *f != [0.0; 2]);
    assert_eq!(first, Some(range.start));
    assert!(samples[range.clone()].iter().all(|f| *f == value));
    assert!(samples[range.end..].iter().all(|f| *f == [0.0; 2]));
}

#[test]
fn a_beep_is_heard_at_its_sample() {
    let mut fixture = Fixture::new();
    let stream = fixture.create_stream(STEREO, immediate_start(), true);
    fixture.write(stream, &beep(1000, 7));
    fixture.advance(Duration::from_nanos(123_456_789));
    let start = fixture.current_sample();
    fixture.cork(stream, false);
    fixture.advance(Duration::from_secs(1));
    assert_only(&fixture.output, start + 1000..start + 1007, [0.75, -0.5]);
}

#[test]
fn streams_mix_and_an_underrun_does_not_shift_other_streams() {
    let mut fixture = Fixture::new();
    let (one, two) = (
        fixture.create_stream(STEREO, immediate_start(), true),
        fixture.create_stream(STEREO, immediate_start(), true),
    );
    fixture.write(one, &[[0.25, 0.5]; 24_000]);
    fixture.write(two, &[[0.5, -0.25]; 480]);
    let start = fixture.current_sample();
    fixture.cork(one, false);
    fixture.cork(two, false);
    fixture.advance(Duration::from_millis(300));
    let resumed = fixture.current_sample();
    fixture.write(two, &[[1.0, 1.0]; 480]);
    fixture.advance(Duration::from_secs(1));
    let at = |i: usize| fixture.output[i];
    assert_eq!((at(start), at(start + 479), at(start + 480)), ([0.75, 0.25], [0.75, 0.25], [0.25, 0.5]));
    assert_eq!((at(resumed - 1), at(resumed), at(resumed + 479)), ([0.25, 0.5], [1.25, 1.5], [1.25, 1.5]));
    assert_eq!((at(start + 23_999), at(start + 24_000)), ([0.25, 0.5], [0.0, 0.0]));
    assert_eq!(fixture.server.stats().underruns, 3);
}

#[test]
fn an_underrun_is_reported_and_waits_for_prebuf() {
    let mut fixture = Fixture::new();
    let attr = BufferAttr { pre_buffering: 8 * 960, ..Default::default() };
    let stream = fixture.create_stream(STEREO, attr, false);
    fixture.write(stream, &[[0.5; 2]; 959]);
    fixture.advance(Duration::from_millis(100));
    assert!(fixture.output.iter().all(|f| *f == [0.0; 2]), "959 frames are not enough");
    fixture.write(stream, &[[0.5; 2]; 1]);
    fixture.advance(Duration::from_millis(300));
    let events = fixture.take_events();
    assert!(events.contains(&Command::Started(stream)), "{events:?}");
    assert!(
        events.contains(&Command::Underflow(Underflow { channel: stream, offset: 960 * 8 })),
        "{events:?}"
    );
    fixture.write(stream, &[[0.5; 2]; 480]);
    fixture.advance(Duration::from_millis(100));
    assert!(!fixture.latency(stream).playing);
    fixture.expect_ack(Command::TriggerPlaybackStream(stream));
    fixture.advance(Duration::from_millis(5));
    assert!(fixture.latency(stream).playing);
}

#[test]
fn without_prebuf_late_sound_is_lost() {
    let mut fixture = Fixture::new();
    let stream = fixture.create_stream(STEREO, BufferAttr { pre_buffering: 0, ..Default::default() }, true);
    let start = fixture.current_sample();
    fixture.cork(stream, false);
    fixture.advance(Duration::from_millis(20));
    fixture.write(stream, &beep(960, 10));
    fixture.advance(Duration::from_millis(400));
    assert_only(&fixture.output, start + 960..start + 970, [0.75, -0.5]);
}

#[test]
fn cork_pauses_and_flush_drops_data() {
    let mut fixture = Fixture::new();
    let stream = fixture.create_stream(STEREO, immediate_start(), true);
    fixture.write(stream, &beep(960, 480));
    fixture.cork(stream, false);
    fixture.advance(Duration::from_millis(10));
    fixture.cork(stream, true);
    fixture.advance(Duration::from_millis(500));
    assert_eq!(fixture.latency(stream).read_offset, 480 * 8);
    let resumed = fixture.current_sample();
    fixture.cork(stream, false);
    fixture.advance(Duration::from_millis(15));
    fixture.expect_ack(Command::FlushPlaybackStream(stream));
    fixture.advance(Duration::from_millis(100));
    assert_only(&fixture.output, resumed + 480..resumed + 720, [0.75, -0.5]);
    let latency = fixture.latency(stream);
    assert_eq!((latency.write_offset, latency.read_offset), (1200 * 8, 1200 * 8));
}

#[test]
fn drain_is_answered_after_the_last_sample() {
    let mut fixture = Fixture::new();
    let stream =
        fixture.create_stream(STEREO, BufferAttr { pre_buffering: u32::MAX, ..Default::default() }, false);
    fixture.write(stream, &[[0.5; 2]; 960]);
    fixture.advance(Duration::from_millis(50));
    let seq = fixture.send(&Command::DrainPlaybackStream(stream));
    assert_eq!(fixture.take_reply(seq), None, "too little to start by itself, but draining plays it");
    fixture.advance(Duration::from_millis(19));
    assert_eq!(fixture.take_reply(seq), None);
    fixture.advance(Duration::from_millis(11));
    assert!(fixture.take_reply(seq).is_some_and(|a| a.is_ok()));
    assert!(
        !fixture.take_events().iter().any(|e| matches!(e, Command::Underflow(_))),
        "a drained stream has no underrun"
    );
    fixture.expect_ack(Command::DrainPlaybackStream(stream));
}

#[test]
fn latency_is_exact_at_any_moment() {
    let mut fixture = Fixture::new();
    let stream = fixture.create_stream(STEREO, immediate_start(), true);
    fixture.write(stream, &[[0.5; 2]; 10_000]);
    fixture.cork(stream, false);
    let start = fixture.current_sample();
    for step in [1, 333, 7_777_777, 20_833, 3_000_001] {
        fixture.advance(Duration::from_nanos(step));
        let latency = fixture.latency(stream);
        assert_eq!(latency.read_offset, (fixture.current_sample() - start) as i64 * 8);
        assert_eq!((latency.write_offset, latency.sink_usec), (80_000, 0));
        assert_eq!(latency.local_time, UNIX_EPOCH);
        assert_eq!(latency.remote_time, UNIX_EPOCH + Duration::from_micros(fixture.now.0 as u64 / 1000));
    }
}

#[test]
fn only_media_elements_are_told_of_a_changed_delay() {
    let latency = RenderLatency::default();
    let mut fixture = Fixture::new();
    fixture.server.media_element_delay =
        MediaElementDelay::new(&latency, pagecast_core::Fps::new(50).unwrap());
    let lengths = |ms: u32| BufferAttr { target_length: ms * 48 * 8, ..immediate_start() };
    let [player, page] = [64, 32].map(|ms| fixture.create_stream(STEREO, lengths(ms), false));
    for stream in [player, page] {
        fixture.write(stream, &[[0.5; 2]; 4_000]);
    }
    fixture.advance(Duration::from_millis(10));
    assert_eq!([player, page].map(|stream| fixture.latency(stream).sink_usec), [40_000, 0]);
    fixture.take_events();
    latency.set_ticks(2);
    assert_eq!([player, page].map(|stream| fixture.latency(stream).sink_usec), [60_000, 0]);
    let restarts = fixture.take_events().into_iter().filter_map(|event| match event {
        Command::Underflow(Underflow { channel, .. }) => Some((channel, "ends")),
        Command::Started(channel) => Some((channel, "starts")),
        _ => None,
    });
    assert_eq!(restarts.collect::<Vec<_>>(), [(player, "ends"), (player, "starts")]);
}

#[test]
fn a_44100_hz_sine_is_resampled_and_its_delay_is_reported() {
    let mut fixture = Fixture::new();
    let spec = SampleSpec { format: SampleFormat::Float32Le, channels: 1, sample_rate: 44_100 };
    let stream = fixture.create_stream(spec, BufferAttr { pre_buffering: 4, ..Default::default() }, true);
    let wave = |t: f64| (2.0 * std::f64::consts::PI * 1000.0 * t).sin();
    let data: Vec<u8> =
        (0..44_100).flat_map(|i| (wave(f64::from(i) / 44_100.0) as f32).to_le_bytes()).collect();
    fixture.write_bytes(stream, &data);
    let start = fixture.current_sample();
    fixture.cork(stream, false);
    fixture.advance(Duration::from_millis(900));
    let latency = fixture.latency(stream);
    assert_eq!(latency.sink_usec, 48 * 1_000_000 / 44_100);
    let delay = 48.0 / 44_100.0;
    for (n, [left, right]) in fixture.output[start + 200..start + 43_000].iter().enumerate() {
        let expected = wave((n + 200) as f64 / 48_000.0 - delay);
        assert!((f64::from(*left) - expected).abs() < 2e-4 && left == right, "sample {n}: {left} {expected}");
    }
    fixture.advance(Duration::from_secs(1));
    assert!(fixture.deadline().since(fixture.now) > Duration::from_millis(10), "the resampler stops ringing");
}

/// Writes data when the server requests it, in whole buffers, as Chromium does. Returns the number of frames.
fn play_like_chromium(fixture: &mut Fixture, stream: u32, buffer: usize, time: Duration) -> usize {
    let (end, mut written) = (fixture.now + time, 0);
    while fixture.now < end {
        fixture.advance(Duration::from_millis(1));
        for event in fixture.take_events() {
            if let Command::Request(request) = event {
                let mut missing = i64::from(request.length);
                while missing > 0 {
                    fixture.write(stream, &vec![[0.5; 2]; buffer]);
                    missing -= buffer as i64 * 8;
                    written += buffer;
                }
            }
        }
    }
    written
}

#[test]
fn requests_pace_a_player_exactly() {
    for buffer in [256, 480, 512, 960, 2048] {
        let mut fixture = Fixture::new();
        let bytes = buffer as u32 * 8;
        let attr = BufferAttr {
            max_length: u32::MAX,
            target_length: 3 * bytes,
            pre_buffering: 2 * bytes,
            minimum_request_length: bytes / 2,
            fragment_size: u32::MAX,
        };
        let reply: CreatePlaybackStreamReply = fixture.request(create_stream_command(STEREO, attr, true));
        assert_eq!(reply.requested_bytes, reply.buffer_attr.target_length);
        fixture.write(reply.channel, &vec![[0.5; 2]; reply.requested_bytes as usize / 8]);
        fixture.cork(reply.channel, false);
        let start = fixture.current_sample();
        let written = play_like_chromium(&mut fixture, reply.channel, buffer, Duration::from_secs(10)) as i64;
        assert_eq!(fixture.server.stats().underruns, 0, "buffer of {buffer}");
        assert!(
            (written - 480_000).abs() <= 3 * buffer as i64 + 480,
            "buffer of {buffer}: {written} frames in 10 s"
        );
        assert!(
            fixture.output[start..start + 470_000].iter().all(|f| *f == [0.5; 2]),
            "no sample is missing or doubled"
        );
    }
}

#[test]
fn late_sound_is_mixed_in_place() {
    let mut fixture = Fixture::new();
    let (late, steady) = (
        fixture.create_stream(STEREO, immediate_start(), true),
        fixture.create_stream(STEREO, immediate_start(), true),
    );
    let ramp: Vec<[f32; 2]> = (1..=24_000_u16).map(|i| [f32::from(i), -f32::from(i)]).collect();
    fixture.write(steady, &[[0.5; 2]; 24_000]);
    fixture.write(late, &ramp[..480]);
    let start = fixture.current_sample();
    fixture.cork(steady, false);
    fixture.cork(late, false);
    fixture.advance(Duration::from_millis(150));
    assert!(fixture.output.len() <= start + 480, "samples that may still change are held");
    fixture.write(late, &ramp[480..5000]);
    fixture.advance(Duration::from_millis(10));
    fixture.write(late, &ramp[5000..]);
    fixture.advance(Duration::from_secs(1));
    let expected = ramp.iter().map(|[l, r]| [l + 0.5, r + 0.5]);
    assert!(fixture.output[start..start + 24_000].iter().copied().eq(expected), "the same as on time");
}

#[test]
fn a_late_client_is_requested_to_catch_up() {
    let mut fixture = Fixture::new();
    let attr = BufferAttr { target_length: 8 * 1440, minimum_request_length: 8 * 240, ..immediate_start() };
    let stream = fixture.create_stream(STEREO, attr, true);
    fixture.write(stream, &[[0.5; 2]; 1440]);
    let start = fixture.current_sample();
    fixture.cork(stream, false);
    for stutter_ms in [5, 60, 190, 0, 120] {
        fixture.advance(Duration::from_millis(stutter_ms));
        play_like_chromium(&mut fixture, stream, 480, Duration::from_millis(100));
    }
    assert_eq!(fixture.server.stats().underruns, 0);
    assert!(fixture.output[start..start + 40_000].iter().all(|f| *f == [0.5; 2]));
    assert!(
        fixture.latency(stream).write_offset - fixture.latency(stream).read_offset <= 3 * 480 * 8 + 480 * 8
    );
    fixture.advance(Duration::from_secs(1));
    assert_eq!(
        (fixture.server.stats().underruns, fixture.output.len() + 4800 > fixture.current_sample()),
        (1, true),
        "the wait is bounded"
    );
}

#[test]
fn volume_and_mute_are_honoured() {
    let mut fixture = Fixture::new();
    let stream = fixture.create_stream(STEREO, immediate_start(), true);
    let mut volume = ChannelVolume::empty();
    volume.push(Volume::from_u32_clamped(0x8000));
    fixture.expect_ack(Command::SetSinkInputVolume(SetStreamVolumeParams { index: stream, volume }));
    fixture.write(stream, &[[1.0; 2]; 4800]);
    let start = fixture.current_sample();
    fixture.cork(stream, false);
    fixture.advance(Duration::from_millis(10));
    fixture.expect_ack(Command::SetSinkInputMute(SetStreamMuteParams { index: stream, mute: true }));
    fixture.advance(Duration::from_millis(10));
    fixture.expect_ack(Command::SetSinkInputMute(SetStreamMuteParams { index: stream, mute: false }));
    fixture.expect_ack(Command::SetSinkMute(SetDeviceMuteParams {
        device_index: Some(0),
        device_name: None,
        mute: true,
    }));
    fixture.advance(Duration::from_millis(10));
    fixture.expect_ack(Command::SetSinkMute(SetDeviceMuteParams {
        device_index: None,
        device_name: None,
        mute: false,
    }));
    fixture.advance(Duration::from_millis(20));
    let levels: Vec<f32> = [0, 480, 960, 1440].map(|at| fixture.output[start + at + 240][0]).into();
    assert_eq!(levels, [0.125, 0.0, 0.0, 0.125]);
}

#[test]
fn too_much_data_is_an_overflow() {
    let mut fixture = Fixture::new();
    let stream = fixture.create_stream(STEREO, BufferAttr { max_length: 80_000, ..immediate_start() }, true);
    fixture.write(stream, &[[0.5; 2]; 10_001]);
    assert!(fixture.take_events().contains(&Command::Overflow(stream)));
    assert_eq!(fixture.latency(stream).write_offset, 80_000);
}

#[test]
fn rate_changes_are_checked() {
    let mut fixture = Fixture::new();
    let stream = fixture.create_stream(STEREO, immediate_start(), true);
    let change = |sample_rate| {
        Command::UpdatePlaybackStreamSampleRate(pulseaudio::protocol::UpdateSampleRateParams {
            index: stream,
            sample_rate,
        })
    };
    fixture.expect_ack(change(44_100));
    assert!(fixture.latency(stream).sink_usec > 0);
    assert_eq!(fixture.expect_error(change(0)), PulseError::Invalid as u32);
    assert_eq!(fixture.expect_error(Command::DeletePlaybackStream(99)), PulseError::NoEntity as u32);
}

#[test]
fn every_text_of_the_sink_is_set() {
    let mut fixture = Fixture::new();
    let sinks: Vec<SinkInfo> = fixture.request(Command::GetSinkInfoList);
    let [sink] = &sinks[..] else { panic!("one sink") };
    assert_eq!(sink.sample_spec, STEREO);
    for text in [&sink.description, &sink.driver, &sink.monitor_source_name, &sink.ports[0].description] {
        assert!(text.as_ref().is_some_and(|t| !t.is_empty()), "{sink:?}");
    }
    let sources: Vec<pulseaudio::protocol::SourceInfo> = fixture.request(Command::GetSourceInfoList);
    assert!(
        sources.iter().all(|s| s.monitor_of_sink_index == Some(0)),
        "every source is a monitor, so a page finds no microphone"
    );
}

#[test]
fn commands_are_refused_with_the_right_error() {
    let mut fixture = Fixture::new();
    let record = Command::CreateRecordStream(RecordStreamParams::default());
    assert_eq!(fixture.expect_error(record), PulseError::AccessDenied as u32);
    assert_eq!(fixture.expect_error(Command::GetModuleInfo(3)), PulseError::NoEntity as u32);
    for (tag, error) in
        [(103, PulseError::NotSupported), (104, PulseError::NotSupported), (250, PulseError::Command)]
    {
        let payload = [&b"L"[..], &u32::to_be_bytes(tag), b"L", &77_u32.to_be_bytes()].concat();
        let header = [10_u32.to_be_bytes(), [0xff; 4], [0; 4], [0; 4], [0; 4]].concat();
        fixture.receive(&[header, payload].concat());
        assert_eq!(fixture.take_reply(77), Some(Err(error as u32)));
    }
    fixture.id = connect(&mut fixture.server, fixture.now).unwrap();
    assert_eq!(fixture.expect_error(Command::GetServerInfo), PulseError::AccessDenied as u32);
}

#[test]
fn limits_hold() {
    let mut fixture = Fixture::new();
    for index in 0..MAX_STREAMS {
        assert_eq!(fixture.create_stream(STEREO, immediate_start(), true), index as u32);
    }
    assert_eq!(
        fixture.expect_error(create_stream_command(STEREO, immediate_start(), true)),
        PulseError::TooLarge as u32
    );
    let others: Vec<u32> = std::iter::from_fn(|| connect(&mut fixture.server, fixture.now)).collect();
    assert_eq!(others.len(), MAX_CLIENTS - 1);
    fixture.server.handle(fixture.now, Input::Disconnected(fixture.id));
    assert_eq!(fixture.server.stats().streams_open, 0);
    assert!(connect(&mut fixture.server, fixture.now).is_some());
}

#[test]
fn a_client_that_does_not_read_must_wait() {
    let mut fixture = Fixture::new();
    let mut bytes = Vec::new();
    (0..10_000)
        .for_each(|seq| write_command_message(&mut bytes, seq, &Command::GetSinkInfoList, 35).unwrap());
    let (client, wall) = (fixture.id, UNIX_EPOCH);
    fixture.server.handle(fixture.now, Input::Received { client, bytes: &bytes, wall });
    assert!(
        !fixture.server.wants_input(fixture.id)
            && fixture.server.pending_output(fixture.id).len() < 128 * 1024
    );
    let mut answered = 0;
    while answered < 10_000 {
        let sent = fixture.server.pending_output(fixture.id).to_vec();
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (seq, _) = read_reply_message::<Vec<SinkInfo>>(&mut rest, 35).unwrap();
            assert_eq!(seq, answered);
            answered += 1;
        }
        fixture.server.handle(fixture.now, Input::Sent { client, bytes: sent.len(), wall });
    }
}

#[test]
fn a_client_that_violates_the_protocol_is_disconnected() {
    let mut fixture = Fixture::new();
    fixture.create_stream(STEREO, immediate_start(), true);
    let (client, wall) = (fixture.id, UNIX_EPOCH);
    fixture.server.handle(fixture.now, Input::Received { client, bytes: &[0xff; 20], wall });
    assert_eq!(fixture.collect(), Err(ProtocolViolation::InvalidFlags(u32::MAX)));
    let stats = fixture.server.stats();
    assert!(stats.streams_open == 0 && !fixture.server.wants_input(client), "{stats:?}");
}

/// The samples up to now, contiguous or not.
fn poll_samples(fixture: &mut Fixture) -> Vec<Samples> {
    let outputs = std::iter::from_fn(|| fixture.server.poll(fixture.now));
    let samples = outputs.map(|output| match output {
        Output::Samples(samples) => samples,
        Output::Disconnect { reason, .. } => panic!("{reason}"),
    });
    samples.collect()
}

#[test]
fn a_stalled_process_skips_samples_and_keeps_the_index() {
    let mut fixture = Fixture::new();
    fixture.now = fixture.now + Duration::from_secs(3600);
    let emitted: usize = poll_samples(&mut fixture).iter().map(Samples::len).sum();
    assert!(emitted <= MAX_CATCH_UP_SAMPLES);
    fixture.now = fixture.now + Duration::from_millis(20);
    let next = poll_samples(&mut fixture).remove(0);
    assert_eq!(next.start + next.len() as u64, fixture.current_sample() as u64);
    assert!(fixture.server.stats().skipped_samples > 3590 * 48_000);
}

#[derive(Debug, Clone)]
enum Op {
    Advance(u64),
    Write(u32, i64, u32, Vec<u8>),
    Command(Box<Command>),
    Raw(Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    let spec = (0_u8..13, 1_u8..=3, prop_oneof![Just(48_000_u32), 8_000_u32..=192_000]);
    let attr = proptest::array::uniform4(prop_oneof![Just(u32::MAX), Just(0), 0_u32..20_000]);
    let create = (spec, attr, any::<bool>()).prop_map(|((format, channels, sample_rate), a, corked)| {
        let format = super::super::stream_config::FORMAT_NAMES[usize::from(format)].0;
        let spec = SampleSpec { format, channels: channels.min(2), sample_rate };
        let [max_length, target_length, pre_buffering, minimum_request_length] = a;
        let attr =
            BufferAttr { max_length, target_length, pre_buffering, minimum_request_length, fragment_size: 0 };
        create_stream_command(spec, attr, corked)
    });
    let on_stream = (0_u32..4, 0_u8..9, any::<bool>()).prop_map(|(i, kind, cork)| match kind {
        0 => Command::DeletePlaybackStream(i),
        1 => Command::FlushPlaybackStream(i),
        2 => Command::DrainPlaybackStream(i),
        3 => Command::TriggerPlaybackStream(i),
        4 => Command::PrebufPlaybackStream(i),
        5 => Command::GetPlaybackLatency(LatencyParams { channel: i, now: UNIX_EPOCH }),
        6 => Command::GetSinkInputInfoList,
        _ => Command::CorkPlaybackStream(CorkStreamParams { channel: i, cork }),
    });
    prop_oneof![
        4 => (0_u64..30_000_000).prop_map(Op::Advance),
        6 => (
            0_u32..4,
            prop_oneof![8 => Just(0), 1 => any::<i64>(), 2 => -500_i64..500],
            0_u32..4,
            proptest::collection::vec(any::<u8>(), 0..3000)
        )
            .prop_map(|(i, offset, seek, data)| Op::Write(i, offset, seek, data)),
        3 => create.prop_map(|c| Op::Command(Box::new(c))),
        6 => on_stream.prop_map(|c| Op::Command(Box::new(c))),
        1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(Op::Raw),
    ]
}

proptest! {
    #[test]
    fn any_client_behaviour_is_handled(ops in proptest::collection::vec(op(), 0..80)) {
        let mut fixture = Fixture::new();
        fixture.expect_ack(Command::SetClientName(Props::new()));
        for op in ops {
            let bytes = match op {
                Op::Advance(nanos) => {
                    fixture.advance(Duration::from_nanos(nanos));
                    continue;
                }
                Op::Write(channel, offset, seek, data) => {
                    let fields = [data.len() as u32, channel, (offset >> 32) as u32, offset as u32, seek];
                    [fields.map(u32::to_be_bytes).concat(), data].concat()
                }
                Op::Command(command) => {
                    let mut bytes = Vec::new();
                    write_command_message(&mut bytes, 1, &command, 35).unwrap();
                    bytes
                }
                Op::Raw(bytes) => bytes,
            };
            let input = Input::Received { client: fixture.id, bytes: &bytes, wall: UNIX_EPOCH };
            fixture.server.handle(fixture.now, input);
            if fixture.collect().is_err() {
                break;
            }
        }
        fixture.advance(Duration::from_millis(100));
        prop_assert!(fixture.output.as_flattened().iter().all(|v| v.is_finite()));
        let emitted = fixture.output.len() + MAX_LATE_SAMPLES + 4800 + 480;
        prop_assert!(emitted > fixture.current_sample(), "silence is emitted, too");
    }
}
