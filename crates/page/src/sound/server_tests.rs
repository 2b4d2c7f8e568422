//! The sound card on a clock that only moves when it is told to.

use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use pulseaudio::protocol::stream::{BufferAttr, StreamFlags};
use pulseaudio::protocol::{
    AuthParams, AuthReply, ChannelMap, CommandReply, CorkStreamParams, CreatePlaybackStreamReply,
    LatencyParams, PlaybackLatency, PlaybackStreamParams, Props, RecordStreamParams, SampleFormat,
    SampleSpec, SetDeviceMuteParams, SetStreamMuteParams, SetStreamVolumeParams, SinkInfo, TagStructReader,
    Underflow, Volume, read_reply_message, write_command_message, write_memblock,
};

use super::super::client::Inbox;
use super::super::stream::GRACE;
use super::*;
use crate::sync::{Depth, PlayerDelay};

const START: HostTime = HostTime(5_000_000_123);
const STEREO: SampleSpec = SampleSpec { format: SampleFormat::Float32Le, channels: 2, sample_rate: 48_000 };

/// A client of a sound card of its own.
struct Rig {
    core: Core,
    id: u32,
    now: HostTime,
    seq: u32,
    /// What was told so far, from sample 0 on.
    heard: Vec<[f32; 2]>,
    /// What the client was sent and has not looked at.
    messages: Vec<Vec<u8>>,
}

impl Rig {
    /// A client that has said hello, on a card that has told some samples.
    fn new() -> Self {
        let mut core = Core::new(START, PlayerDelay::default());
        let id = core.connect().unwrap();
        let mut rig = Self { core, id, now: START, seq: 0, heard: Vec::new(), messages: Vec::new() };
        rig.core.go_live(START + Duration::from_millis(1), START);
        let hello =
            AuthParams { version: 35, supports_shm: true, supports_memfd: true, cookie: vec![0; 256] };
        let reply: AuthReply = rig.ask(Command::Auth(hello));
        assert_eq!(reply, AuthReply { version: 35, use_memfd: false, use_shm: false });
        rig.pass(Duration::from_nanos(54_321_987));
        rig
    }

    fn receive(&mut self, bytes: &[u8]) {
        let moment = Moment { host: self.now, wall: UNIX_EPOCH + Duration::from_nanos(self.now.0 as u64) };
        self.core.receive(self.id, bytes, moment).unwrap();
        self.collect();
    }

    fn collect(&mut self) {
        for samples in self.core.ready() {
            assert_eq!(samples.start, self.heard.len() as u64, "samples are contiguous");
            self.heard.extend(samples.pcm.as_chunks::<2>().0);
        }
        let mut inbox = Inbox::default();
        inbox.push(self.core.outgoing(self.id));
        let mut used = 0;
        while let Some(Message::Command(payload)) = inbox.next().unwrap() {
            self.messages.push(payload.to_vec());
            used += 20 + payload.len();
        }
        self.core.has_sent(self.id, used);
    }

    /// Time passes as it does in the real loop: turn by turn.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.core.next_wake() <= end {
            self.now = self.core.next_wake();
            self.core.advance(self.now);
            self.collect();
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

    /// The answer with this number, taken out of the messages.
    fn answer(&mut self, seq: u32) -> Option<Result<Vec<u8>, u32>> {
        let number = |m: &[u8], at: usize| u32::from_be_bytes(m[at..at + 4].try_into().unwrap());
        let at = self.messages.iter().position(|m| number(m, 1) != 61 && number(m, 6) == seq)?;
        let message = self.messages.remove(at);
        match number(&message, 1) {
            0 => Some(Err(number(&message, 11))),
            2 => Some(Ok(message)),
            tag => panic!("answer with tag {tag}"),
        }
    }

    fn ask<R: CommandReply>(&mut self, command: Command) -> R {
        let seq = self.send(&command);
        let payload = self.answer(seq).unwrap().unwrap();
        TagStructReader::new(&mut &payload[10..], 35).read().unwrap()
    }

    fn done(&mut self, command: Command) {
        let seq = self.send(&command);
        assert_eq!(self.answer(seq).map(|a| a.map(|_| ())), Some(Ok(())), "{command:?}");
    }

    fn refused(&mut self, command: Command) -> u32 {
        let seq = self.send(&command);
        self.answer(seq).unwrap().unwrap_err()
    }

    /// What the client was told on its own account since the last call.
    fn events(&mut self) -> Vec<Command> {
        let events = self.messages.extract_if(.., |m| m[6..10] == [0xff; 4]);
        events.map(|m| Command::read_tag_prefixed(&mut m.as_slice(), 35).unwrap().1).collect()
    }

    fn open(&mut self, spec: SampleSpec, attr: BufferAttr, corked: bool) -> u32 {
        self.ask::<CreatePlaybackStreamReply>(open(spec, attr, corked)).channel
    }

    fn cork(&mut self, channel: u32, cork: bool) {
        self.done(Command::CorkPlaybackStream(CorkStreamParams { channel, cork }));
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
        self.ask(Command::GetPlaybackLatency(LatencyParams { channel, now: UNIX_EPOCH }))
    }

    /// The sample heard now.
    fn index(&self) -> usize {
        let passed = self.now.0 - (START + Duration::from_millis(1)).0;
        (i128::from(passed) * 48_000 / 1_000_000_000) as usize
    }
}

fn open(spec: SampleSpec, attr: BufferAttr, corked: bool) -> Command {
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

/// Starts as soon as there is anything.
fn eager() -> BufferAttr {
    BufferAttr { pre_buffering: 8, ..Default::default() }
}

fn beep(silence: usize, len: usize) -> Vec<[f32; 2]> {
    [vec![[0.0; 2]; silence], vec![[0.75, -0.5]; len]].concat()
}

fn only(heard: &[[f32; 2]], range: std::ops::Range<usize>, value: [f32; 2]) {
    let first = heard.iter().position(|f| *f != [0.0; 2]);
    assert_eq!(first, Some(range.start));
    assert!(heard[range.clone()].iter().all(|f| *f == value));
    assert!(heard[range.end..].iter().all(|f| *f == [0.0; 2]));
}

#[test]
fn a_beep_is_heard_at_its_sample() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, eager(), true);
    rig.write(stream, &beep(1000, 7));
    rig.pass(Duration::from_nanos(123_456_789));
    let start = rig.index();
    rig.cork(stream, false);
    rig.pass(Duration::from_secs(1));
    only(&rig.heard, start + 1000..start + 1007, [0.75, -0.5]);
}

#[test]
fn streams_mix_and_one_that_runs_dry_does_not_move_the_other() {
    let mut rig = Rig::new();
    let (one, two) = (rig.open(STEREO, eager(), true), rig.open(STEREO, eager(), true));
    rig.write(one, &[[0.25, 0.5]; 24_000]);
    rig.write(two, &[[0.5, -0.25]; 480]);
    let start = rig.index();
    rig.cork(one, false);
    rig.cork(two, false);
    rig.pass(Duration::from_millis(300));
    let resumed = rig.index();
    rig.write(two, &[[1.0, 1.0]; 480]);
    rig.pass(Duration::from_secs(1));
    let at = |i: usize| rig.heard[i];
    assert_eq!((at(start), at(start + 479), at(start + 480)), ([0.75, 0.25], [0.75, 0.25], [0.25, 0.5]));
    assert_eq!((at(resumed - 1), at(resumed), at(resumed + 479)), ([0.25, 0.5], [1.25, 1.5], [1.25, 1.5]));
    assert_eq!((at(start + 23_999), at(start + 24_000)), ([0.25, 0.5], [0.0, 0.0]));
    assert_eq!(rig.core.counts().underruns, 3);
}

#[test]
fn an_underrun_is_told_and_waits_for_prebuf() {
    let mut rig = Rig::new();
    let attr = BufferAttr { pre_buffering: 8 * 960, ..Default::default() };
    let stream = rig.open(STEREO, attr, false);
    rig.write(stream, &[[0.5; 2]; 959]);
    rig.pass(Duration::from_millis(100));
    assert!(rig.heard.iter().all(|f| *f == [0.0; 2]), "959 frames are not enough");
    rig.write(stream, &[[0.5; 2]; 1]);
    rig.pass(Duration::from_millis(300));
    let events = rig.events();
    assert!(events.contains(&Command::Started(stream)), "{events:?}");
    assert!(
        events.contains(&Command::Underflow(Underflow { channel: stream, offset: 960 * 8 })),
        "{events:?}"
    );
    rig.write(stream, &[[0.5; 2]; 480]);
    rig.pass(Duration::from_millis(100));
    assert!(!rig.latency(stream).playing);
    rig.done(Command::TriggerPlaybackStream(stream));
    rig.pass(Duration::from_millis(5));
    assert!(rig.latency(stream).playing);
}

#[test]
fn without_prebuf_time_goes_on_and_late_sound_is_lost() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, BufferAttr { pre_buffering: 0, ..Default::default() }, true);
    let start = rig.index();
    rig.cork(stream, false);
    rig.pass(Duration::from_millis(20));
    rig.write(stream, &beep(960, 10));
    rig.pass(Duration::from_millis(400));
    only(&rig.heard, start + 960..start + 970, [0.75, -0.5]);
}

#[test]
fn cork_pauses_and_flush_forgets() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, eager(), true);
    rig.write(stream, &beep(960, 480));
    rig.cork(stream, false);
    rig.pass(Duration::from_millis(10));
    rig.cork(stream, true);
    rig.pass(Duration::from_millis(500));
    assert_eq!(rig.latency(stream).read_offset, 480 * 8);
    let resumed = rig.index();
    rig.cork(stream, false);
    rig.pass(Duration::from_millis(15));
    rig.done(Command::FlushPlaybackStream(stream));
    rig.pass(Duration::from_millis(100));
    only(&rig.heard, resumed + 480..resumed + 720, [0.75, -0.5]);
    let latency = rig.latency(stream);
    assert_eq!((latency.write_offset, latency.read_offset), (1200 * 8, 1200 * 8));
}

#[test]
fn drain_is_answered_when_the_last_sample_was_heard() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, BufferAttr { pre_buffering: u32::MAX, ..Default::default() }, false);
    rig.write(stream, &[[0.5; 2]; 960]);
    rig.pass(Duration::from_millis(50));
    let seq = rig.send(&Command::DrainPlaybackStream(stream));
    assert_eq!(rig.answer(seq), None, "too little to start by itself, but draining plays it");
    rig.pass(Duration::from_millis(19));
    assert_eq!(rig.answer(seq), None);
    rig.pass(Duration::from_millis(11));
    assert!(rig.answer(seq).is_some_and(|a| a.is_ok()));
    assert!(!rig.events().iter().any(|e| matches!(e, Command::Underflow(_))), "this end was expected");
    rig.done(Command::DrainPlaybackStream(stream));
}

#[test]
fn latency_is_the_truth_at_any_moment() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, eager(), true);
    rig.write(stream, &[[0.5; 2]; 10_000]);
    rig.cork(stream, false);
    let start = rig.index();
    for step in [1, 333, 7_777_777, 20_833, 3_000_001] {
        rig.pass(Duration::from_nanos(step));
        let latency = rig.latency(stream);
        assert_eq!(latency.read_offset, (rig.index() - start) as i64 * 8);
        assert_eq!((latency.write_offset, latency.sink_usec), (80_000, 0));
        assert_eq!(latency.local_time, UNIX_EPOCH);
        assert_eq!(latency.remote_time, UNIX_EPOCH + Duration::from_micros(rig.now.0 as u64 / 1000));
    }
}

#[test]
fn a_player_hears_of_another_delay_at_once_and_others_do_not() {
    let depth = Depth::default();
    let mut rig = Rig::new();
    rig.core.player_delay = PlayerDelay::new(&depth, pagecast_core::Fps::new(50).unwrap());
    let lengths = |ms: u32| BufferAttr { target_length: ms * 48 * 8, ..eager() };
    let [player, page] = [64, 32].map(|ms| rig.open(STEREO, lengths(ms), false));
    for stream in [player, page] {
        rig.write(stream, &[[0.5; 2]; 4_000]);
    }
    rig.pass(Duration::from_millis(10));
    assert_eq!([player, page].map(|stream| rig.latency(stream).sink_usec), [40_000, 0]);
    rig.events();
    depth.set(2);
    assert_eq!([player, page].map(|stream| rig.latency(stream).sink_usec), [60_000, 0]);
    let restarts = rig.events().into_iter().filter_map(|event| match event {
        Command::Underflow(Underflow { channel, .. }) => Some((channel, "ends")),
        Command::Started(channel) => Some((channel, "starts")),
        _ => None,
    });
    assert_eq!(restarts.collect::<Vec<_>>(), [(player, "ends"), (player, "starts")]);
}

#[test]
fn a_44100_hz_sine_stays_that_sine_and_its_delay_is_reported() {
    let mut rig = Rig::new();
    let spec = SampleSpec { format: SampleFormat::Float32Le, channels: 1, sample_rate: 44_100 };
    let stream = rig.open(spec, BufferAttr { pre_buffering: 4, ..Default::default() }, true);
    let wave = |t: f64| (2.0 * std::f64::consts::PI * 1000.0 * t).sin();
    let data: Vec<u8> =
        (0..44_100).flat_map(|i| (wave(f64::from(i) / 44_100.0) as f32).to_le_bytes()).collect();
    rig.write_bytes(stream, &data);
    let start = rig.index();
    rig.cork(stream, false);
    rig.pass(Duration::from_millis(900));
    let latency = rig.latency(stream);
    assert_eq!(latency.sink_usec, 48 * 1_000_000 / 44_100);
    let delay = 48.0 / 44_100.0;
    for (n, [left, right]) in rig.heard[start + 200..start + 43_000].iter().enumerate() {
        let expected = wave((n + 200) as f64 / 48_000.0 - delay);
        assert!((f64::from(*left) - expected).abs() < 2e-4 && left == right, "sample {n}: {left} {expected}");
    }
    rig.pass(Duration::from_secs(1));
    assert!(rig.core.next_wake().since(rig.now) > Duration::from_millis(10), "it does not ring for ever");
}

/// Writes what is asked for, when it is asked for, as Chromium does: always whole buffers.
fn chromium(rig: &mut Rig, stream: u32, buffer: usize, time: Duration) -> usize {
    let (end, mut written) = (rig.now + time, 0);
    while rig.now < end {
        rig.pass(Duration::from_millis(1));
        for event in rig.events() {
            if let Command::Request(request) = event {
                let mut wanted = i64::from(request.length);
                while wanted > 0 {
                    rig.write(stream, &vec![[0.5; 2]; buffer]);
                    wanted -= buffer as i64 * 8;
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
        let mut rig = Rig::new();
        let bytes = buffer as u32 * 8;
        let attr = BufferAttr {
            max_length: u32::MAX,
            target_length: 3 * bytes,
            pre_buffering: 2 * bytes,
            minimum_request_length: bytes / 2,
            fragment_size: u32::MAX,
        };
        let reply: CreatePlaybackStreamReply = rig.ask(open(STEREO, attr, true));
        assert_eq!(reply.requested_bytes, reply.buffer_attr.target_length);
        rig.write(reply.channel, &vec![[0.5; 2]; reply.requested_bytes as usize / 8]);
        rig.cork(reply.channel, false);
        let start = rig.index();
        let written = chromium(&mut rig, reply.channel, buffer, Duration::from_secs(10)) as i64;
        assert_eq!(rig.core.counts().underruns, 0, "buffer of {buffer}");
        assert!(
            (written - 480_000).abs() <= 3 * buffer as i64 + 480,
            "buffer of {buffer}: {written} frames in 10 s"
        );
        assert!(
            rig.heard[start..start + 470_000].iter().all(|f| *f == [0.5; 2]),
            "no sample is missing or doubled"
        );
    }
}

#[test]
fn late_sound_is_heard_in_its_place() {
    let mut rig = Rig::new();
    let (late, steady) = (rig.open(STEREO, eager(), true), rig.open(STEREO, eager(), true));
    let ramp: Vec<[f32; 2]> = (1..=24_000_u16).map(|i| [f32::from(i), -f32::from(i)]).collect();
    rig.write(steady, &[[0.5; 2]; 24_000]);
    rig.write(late, &ramp[..480]);
    let start = rig.index();
    rig.cork(steady, false);
    rig.cork(late, false);
    rig.pass(Duration::from_millis(150));
    assert!(rig.heard.len() <= start + 480, "what may still change is held");
    rig.write(late, &ramp[480..5000]);
    rig.pass(Duration::from_millis(10));
    rig.write(late, &ramp[5000..]);
    rig.pass(Duration::from_secs(1));
    let expected = ramp.iter().map(|[l, r]| [l + 0.5, r + 0.5]);
    assert!(rig.heard[start..start + 24_000].iter().copied().eq(expected), "as if it had never been late");
}

#[test]
fn a_player_that_stutters_is_asked_to_catch_up() {
    let mut rig = Rig::new();
    let attr = BufferAttr { target_length: 8 * 1440, minimum_request_length: 8 * 240, ..eager() };
    let stream = rig.open(STEREO, attr, true);
    rig.write(stream, &[[0.5; 2]; 1440]);
    let start = rig.index();
    rig.cork(stream, false);
    for stutter_ms in [5, 60, 190, 0, 120] {
        rig.pass(Duration::from_millis(stutter_ms));
        chromium(&mut rig, stream, 480, Duration::from_millis(100));
    }
    assert_eq!(rig.core.counts().underruns, 0);
    assert!(rig.heard[start..start + 40_000].iter().all(|f| *f == [0.5; 2]));
    assert!(rig.latency(stream).write_offset - rig.latency(stream).read_offset <= 3 * 480 * 8 + 480 * 8);
    rig.pass(Duration::from_secs(1));
    assert_eq!(
        (rig.core.counts().underruns, rig.heard.len() + 4800 > rig.index()),
        (1, true),
        "nobody waits for ever"
    );
}

#[test]
fn volume_and_mute_are_honoured() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, eager(), true);
    let mut volume = ChannelVolume::empty();
    volume.push(Volume::from_u32_clamped(0x8000));
    rig.done(Command::SetSinkInputVolume(SetStreamVolumeParams { index: stream, volume }));
    rig.write(stream, &[[1.0; 2]; 4800]);
    let start = rig.index();
    rig.cork(stream, false);
    rig.pass(Duration::from_millis(10));
    rig.done(Command::SetSinkInputMute(SetStreamMuteParams { index: stream, mute: true }));
    rig.pass(Duration::from_millis(10));
    rig.done(Command::SetSinkInputMute(SetStreamMuteParams { index: stream, mute: false }));
    rig.done(Command::SetSinkMute(SetDeviceMuteParams {
        device_index: Some(0),
        device_name: None,
        mute: true,
    }));
    rig.pass(Duration::from_millis(10));
    rig.done(Command::SetSinkMute(SetDeviceMuteParams {
        device_index: None,
        device_name: None,
        mute: false,
    }));
    rig.pass(Duration::from_millis(20));
    let levels: Vec<f32> = [0, 480, 960, 1440].map(|at| rig.heard[start + at + 240][0]).into();
    assert_eq!(levels, [0.125, 0.0, 0.0, 0.125]);
}

#[test]
fn too_much_is_an_overflow() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, BufferAttr { max_length: 80_000, ..eager() }, true);
    rig.write(stream, &[[0.5; 2]; 10_001]);
    assert!(rig.events().contains(&Command::Overflow(stream)));
    assert_eq!(rig.latency(stream).write_offset, 80_000);
}

#[test]
fn rate_changes_need_leave() {
    let mut rig = Rig::new();
    let stream = rig.open(STEREO, eager(), true);
    let change = |sample_rate| {
        Command::UpdatePlaybackStreamSampleRate(pulseaudio::protocol::UpdateSampleRateParams {
            index: stream,
            sample_rate,
        })
    };
    rig.done(change(44_100));
    assert!(rig.latency(stream).sink_usec > 0);
    assert_eq!(rig.refused(change(0)), PulseError::Invalid as u32);
    assert_eq!(rig.refused(Command::DeletePlaybackStream(99)), PulseError::NoEntity as u32);
}

#[test]
fn every_text_of_the_sink_is_set() {
    let mut rig = Rig::new();
    let sinks: Vec<SinkInfo> = rig.ask(Command::GetSinkInfoList);
    let [sink] = &sinks[..] else { panic!("one sink") };
    assert_eq!(sink.sample_spec, STEREO);
    for text in [&sink.description, &sink.driver, &sink.monitor_source_name, &sink.ports[0].description] {
        assert!(text.as_ref().is_some_and(|t| !t.is_empty()), "{sink:?}");
    }
    let sources: Vec<pulseaudio::protocol::SourceInfo> = rig.ask(Command::GetSourceInfoList);
    assert!(sources.iter().all(|s| s.monitor_of_sink_index == Some(0)), "a page finds no microphone");
}

#[test]
fn what_is_not_allowed_is_refused_by_number() {
    let mut rig = Rig::new();
    let record = Command::CreateRecordStream(RecordStreamParams::default());
    assert_eq!(rig.refused(record), PulseError::AccessDenied as u32);
    assert_eq!(rig.refused(Command::GetModuleInfo(3)), PulseError::NoEntity as u32);
    for (tag, error) in
        [(103, PulseError::NotSupported), (104, PulseError::NotSupported), (250, PulseError::Command)]
    {
        let payload = [&b"L"[..], &u32::to_be_bytes(tag), b"L", &77_u32.to_be_bytes()].concat();
        let header = [10_u32.to_be_bytes(), [0xff; 4], [0; 4], [0; 4], [0; 4]].concat();
        rig.receive(&[header, payload].concat());
        assert_eq!(rig.answer(77), Some(Err(error as u32)));
    }
    rig.id = rig.core.connect().unwrap();
    assert_eq!(rig.refused(Command::GetServerInfo), PulseError::AccessDenied as u32);
}

#[test]
fn limits_hold() {
    let mut rig = Rig::new();
    for index in 0..MAX_STREAMS {
        assert_eq!(rig.open(STEREO, eager(), true), index as u32);
    }
    assert_eq!(rig.refused(open(STEREO, eager(), true)), PulseError::TooLarge as u32);
    let others: Vec<u32> = std::iter::from_fn(|| rig.core.connect()).collect();
    assert_eq!(others.len(), MAX_CLIENTS - 1);
    rig.core.disconnect(rig.id, rig.now);
    assert_eq!(rig.core.counts().streams_open, 0);
    assert!(rig.core.connect().is_some());
}

#[test]
fn one_who_asks_and_never_reads_is_made_to_wait() {
    let mut rig = Rig::new();
    let mut bytes = Vec::new();
    (0..10_000)
        .for_each(|seq| write_command_message(&mut bytes, seq, &Command::GetSinkInfoList, 35).unwrap());
    let moment = Moment { host: rig.now, wall: UNIX_EPOCH };
    rig.core.receive(rig.id, &bytes, moment).unwrap();
    assert!(!rig.core.wants_input(rig.id) && rig.core.outgoing(rig.id).len() < 128 * 1024);
    let mut answered = 0;
    while answered < 10_000 {
        let sent = rig.core.outgoing(rig.id).to_vec();
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (seq, _) = read_reply_message::<Vec<SinkInfo>>(&mut rest, 35).unwrap();
            assert_eq!(seq, answered);
            answered += 1;
        }
        rig.core.has_sent(rig.id, sent.len());
        rig.core.receive(rig.id, &[], moment).unwrap();
    }
}

#[test]
fn standing_still_costs_a_gap_and_not_the_index() {
    let mut rig = Rig::new();
    rig.now = rig.now + Duration::from_secs(3600);
    rig.core.advance(rig.now);
    let told: u64 = rig.core.ready().map(|s| s.len() as u64).sum();
    assert!(told <= MAX_CATCH_UP as u64);
    rig.now = rig.now + Duration::from_millis(20);
    rig.core.advance(rig.now);
    let next = rig.core.ready().next().unwrap();
    assert_eq!(next.start + next.len() as u64, rig.index() as u64);
    assert!(rig.core.counts().skipped > 3590 * 48_000);
}

#[derive(Debug, Clone)]
enum Op {
    Pass(u64),
    Write(u32, i64, u32, Vec<u8>),
    Command(Box<Command>),
    Raw(Vec<u8>),
}

fn op() -> impl Strategy<Value = Op> {
    let spec = (0_u8..13, 1_u8..=3, prop_oneof![Just(48_000_u32), 8_000_u32..=192_000]);
    let attr = proptest::array::uniform4(prop_oneof![Just(u32::MAX), Just(0), 0_u32..20_000]);
    let create = (spec, attr, any::<bool>()).prop_map(|((format, channels, sample_rate), a, corked)| {
        let format = super::super::shape::FORMATS[usize::from(format)].0;
        let spec = SampleSpec { format, channels: channels.min(2), sample_rate };
        let [max_length, target_length, pre_buffering, minimum_request_length] = a;
        let attr =
            BufferAttr { max_length, target_length, pre_buffering, minimum_request_length, fragment_size: 0 };
        open(spec, attr, corked)
    });
    let on_stream = (0_u32..4, 0_u8..9, any::<bool>()).prop_map(|(i, what, cork)| match what {
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
        4 => (0_u64..30_000_000).prop_map(Op::Pass),
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
    fn nothing_a_client_does_hurts(ops in proptest::collection::vec(op(), 0..80)) {
        let mut rig = Rig::new();
        rig.done(Command::SetClientName(Props::new()));
        for op in ops {
            let bytes = match op {
                Op::Pass(nanos) => {
                    rig.pass(Duration::from_nanos(nanos));
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
            let moment = Moment { host: rig.now, wall: UNIX_EPOCH };
            if rig.core.receive(rig.id, &bytes, moment).is_err() {
                rig.core.disconnect(rig.id, rig.now);
                break;
            }
            rig.collect();
        }
        rig.pass(Duration::from_millis(100));
        prop_assert!(rig.heard.as_flattened().iter().all(|v| v.is_finite()));
        prop_assert!(rig.heard.len() + GRACE + 4800 + 480 > rig.index(), "silence is told as well");
    }
}
