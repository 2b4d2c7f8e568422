//! The sound card over its real socket, in real time.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use pagecast_core::{HostTime, Samples};
use pagecast_page::av_sync::MediaElementDelay;
use pagecast_page::clock::{self, Origin, OutputMute};
use pagecast_page::sound::{self, Config, SoundCard};
use pagecast_testkit::wait_until;
use pulseaudio::protocol::stream::{BufferAttr, StreamFlags};
use pulseaudio::protocol::{
    AuthParams, AuthReply, ChannelMap, Command, CorkStreamParams, CreatePlaybackStreamReply, LatencyParams,
    PlaybackLatency, PlaybackStreamParams, SampleFormat, SampleSpec, ServerInfo, read_ack_message,
    read_command_message, read_reply_message, write_command_message, write_memblock,
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A sound card in its own folder.
struct Fixture {
    sound: Option<SoundCard>,
    out: Receiver<Samples>,
    origin: Origin,
    folder: PathBuf,
}

impl Fixture {
    fn new(name: &str, queue: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("pagecast-sound-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (sender, out) = sync_channel(queue);
        let origin = Origin::unset();
        let config = Config {
            socket: folder.join("native"),
            origin: origin.clone(),
            output_mute: OutputMute::default(),
            media_element_delay: MediaElementDelay::default(),
            client_uid: None,
        };
        Self { sound: Some(sound::start(config, sender).unwrap()), out, origin, folder }
    }

    fn sound(&self) -> &SoundCard {
        self.sound.as_ref().unwrap()
    }

    fn start_capture(&self) -> HostTime {
        let origin = clock::now() + Duration::from_millis(30);
        self.origin.set(origin);
        origin
    }

    fn connect(&self) -> Client {
        let socket = UnixStream::connect(self.sound().socket()).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Client { reader: BufReader::new(socket.try_clone().unwrap()), socket, seq: 0 }
    }

    /// Receives all samples from sample 0 to at least `end`.
    fn receive_samples(&self, end: usize) -> Vec<[f32; 2]> {
        let mut all = Vec::new();
        while all.len() < end {
            let samples = self.out.recv_timeout(TIMEOUT).expect("no samples within 10 s");
            assert_eq!(samples.start, all.len() as u64);
            all.extend(samples.pcm.as_chunks::<2>().0);
        }
        all
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let socket = self.sound().socket().to_owned();
        drop(self.sound.take());
        assert!(!socket.exists(), "the socket is removed");
        std::fs::remove_dir(&self.folder).unwrap();
    }
}

struct Client {
    socket: UnixStream,
    reader: BufReader<UnixStream>,
    seq: u32,
}

impl Client {
    fn send(&mut self, command: &Command) {
        self.seq += 1;
        write_command_message(&mut self.socket, self.seq, command, 35).unwrap();
    }

    fn authenticate(&mut self) {
        self.send(&Command::Auth(AuthParams { version: 35, cookie: vec![0; 256], ..Default::default() }));
        read_reply_message::<AuthReply>(&mut self.reader, 35).unwrap();
    }

    /// A stereo stream at 48 kHz that starts corked, filled with `frames`.
    fn create_stream(&mut self, frames: &[[f32; 2]]) -> u32 {
        self.send(&Command::CreatePlaybackStream(PlaybackStreamParams {
            sample_spec: SampleSpec { format: SampleFormat::Float32Le, channels: 2, sample_rate: 48_000 },
            channel_map: ChannelMap::stereo(),
            buffer_attr: BufferAttr { pre_buffering: 8, ..Default::default() },
            flags: StreamFlags { start_corked: true, ..Default::default() },
            ..Default::default()
        }));
        let (_, reply) = read_reply_message::<CreatePlaybackStreamReply>(&mut self.reader, 35).unwrap();
        let data: Vec<u8> = frames.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect();
        write_memblock(&mut self.socket, reply.channel, &data, 0).unwrap();
        reply.channel
    }

    fn uncork(&mut self, channel: u32) {
        self.send(&Command::CorkPlaybackStream(CorkStreamParams { channel, cork: false }));
        read_ack_message(&mut self.reader).unwrap();
    }

    /// Whether the server closes the connection.
    fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => e.kind() == ErrorKind::ConnectionReset,
        }
    }

    fn is_served(&mut self) -> bool {
        self.send(&Command::GetServerInfo);
        read_reply_message::<ServerInfo>(&mut self.reader, 35).is_ok_and(|(seq, _)| seq == self.seq)
    }
}

#[test]
fn a_beep_is_heard_where_the_reported_latency_says() {
    let card = Fixture::new("beep", 1000);
    let mut client = card.connect();
    client.authenticate();
    let mut frames = vec![[0.0; 2]; 48_000];
    frames[24_000..24_048].fill([0.5, -0.25]);
    let channel = client.create_stream(&frames);
    let origin = card.start_capture();
    // The stream starts some time after the origin.
    std::thread::sleep(Duration::from_millis(50));
    client.uncork(channel);
    // The first mixing period reports the start of the stream.
    assert_eq!(read_command_message(&mut client.reader, 35).unwrap().1, Command::Started(channel));
    let before = clock::now();
    client.send(&Command::GetPlaybackLatency(LatencyParams { channel, now: UNIX_EPOCH }));
    let (_, latency) = read_reply_message::<PlaybackLatency>(&mut client.reader, 35).unwrap();
    let after = clock::now();
    let samples = card.receive_samples(48_000);
    let first = samples.iter().position(|f| *f != [0.0; 2]).unwrap();
    let left = 24_000 - (latency.read_offset / 8) as usize;
    let index = |t: HostTime| (t.since(origin).as_nanos() * 48_000 / 1_000_000_000) as usize;
    let range = index(before) + left..=index(after) + left;
    assert!(latency.playing && latency.sink_usec == 0);
    assert!(range.contains(&first), "heard at {first}, expected within {range:?}");
    assert!(samples[first..first + 48].iter().all(|f| *f == [0.5, -0.25]));
    let stats = card.sound().stats();
    assert_eq!((stats.streams_open, stats.peak, stats.dropped_samples), (1, [0.5, 0.25], 0));
    assert_eq!(card.sound().stats().peak, [0.0, 0.0], "reading the peak resets it");
}

#[test]
fn silence_is_emitted_in_real_time() {
    let card = Fixture::new("silence", 1000);
    std::thread::sleep(Duration::from_millis(30));
    assert!(card.out.try_recv().is_err(), "no samples before the origin");
    let origin = card.start_capture();
    let samples = card.receive_samples(24_000);
    let late = clock::now().since(origin + Duration::from_millis(samples.len() as u64 / 48));
    assert!(samples.iter().all(|f| *f == [0.0; 2]));
    assert!(late < Duration::from_millis(100), "{late:?} late");
}

#[test]
fn a_slow_receiver_gets_the_right_index_after_a_gap() {
    let card = Fixture::new("slow", 2);
    card.start_capture();
    wait_until("samples are dropped", TIMEOUT, || {
        let dropped = card.sound().stats().dropped_samples;
        anyhow::ensure!(dropped >= 9600, "{dropped} samples");
        Ok(())
    })
    .unwrap();
    let starts: Vec<Samples> = (0..3).map(|_| card.out.recv_timeout(TIMEOUT).unwrap()).collect();
    let end = |s: &Samples| s.start + s.len() as u64;
    assert_eq!((starts[0].start, end(&starts[0])), (0, starts[1].start));
    let gap = starts[2].start - end(&starts[1]);
    assert!(gap >= 9600 && gap <= card.sound().stats().dropped_samples, "a gap of {gap} samples");
}

#[test]
fn one_bad_client_does_not_disturb_another() {
    let card = Fixture::new("hostile", 1000);
    let mut good = card.connect();
    good.authenticate();
    let command = |len: u32| [len.to_be_bytes(), [0xff; 4], [0; 4], [0; 4], [0; 4]].concat();
    let block =
        |len: u32, flags: u32| [len.to_be_bytes(), [0; 4], [0; 4], [0; 4], flags.to_be_bytes()].concat();
    let bad: [(&str, Vec<u8>); 6] = [
        ("noise", (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("a huge command", command(u32::MAX)),
        ("a huge block", block(u32::MAX, 0)),
        ("shared memory", block(16, 0x8000_0000)),
        ("an empty command", command(0)),
        ("a cut off string", [command(12), b"L\0\0\0\x0aL\0\0\0\x01tx".to_vec()].concat()),
    ];
    for (name, bytes) in bad {
        let mut client = card.connect();
        client.socket.write_all(&bytes).unwrap();
        assert!(client.is_closed(), "{name} ends the connection");
        assert!(good.is_served(), "{name} affects another client");
    }
    let mut cut_off = card.connect();
    cut_off.socket.write_all(&command(100)).unwrap();
    drop(cut_off);
    assert!(good.is_served());
}

#[test]
fn ten_thousand_requests_without_reading() {
    let card = Fixture::new("requests", 1000);
    let (mut good, mut hostile) = (card.connect(), card.connect());
    good.authenticate();
    hostile.authenticate();
    let mut bytes = Vec::new();
    (0..10_000)
        .for_each(|seq| write_command_message(&mut bytes, seq, &Command::GetSinkInfoList, 35).unwrap());
    hostile.socket.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(n) = hostile.socket.write(&bytes[written..]) {
        written += n;
        assert!(good.is_served());
        if written == bytes.len() {
            break;
        }
    }
    assert!(good.is_served());
    hostile.socket.set_nonblocking(false).unwrap();
    let mut rest = bytes.split_off(written);
    let mut writer = hostile.socket.try_clone().unwrap();
    let sending = std::thread::spawn(move || writer.write_all(&std::mem::take(&mut rest)));
    for seq in 0..10_000 {
        let (answered, _) =
            read_reply_message::<Vec<pulseaudio::protocol::SinkInfo>>(&mut hostile.reader, 35).unwrap();
        assert_eq!(answered, seq, "once it reads, it gets every reply");
    }
    sending.join().unwrap().unwrap();
}

#[test]
fn a_thousand_connections() {
    let card = Fixture::new("crowd", 1000);
    let mut good = card.connect();
    good.authenticate();
    let crowd: Vec<UnixStream> =
        (0..1000).filter_map(|_| UnixStream::connect(card.sound().socket()).ok()).collect();
    assert!(crowd.len() > 500 && good.is_served());
    drop(crowd);
    assert!(good.is_served());
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let mut client = card.connect();
        let auth = Command::Auth(AuthParams { version: 35, ..Default::default() });
        if write_command_message(&mut client.socket, 0, &auth, 35).is_ok()
            && read_reply_message::<AuthReply>(&mut client.reader, 35).is_ok()
        {
            break;
        }
        assert!(Instant::now() < deadline, "new clients are accepted once the others are gone");
    }
}

#[test]
fn a_socket_in_use_is_an_error() {
    let card = Fixture::new("twice", 1);
    let config = Config {
        socket: card.sound().socket().to_owned(),
        origin: Origin::unset(),
        output_mute: OutputMute::default(),
        media_element_delay: MediaElementDelay::default(),
        client_uid: None,
    };
    let error = sound::start(config, sync_channel(1).0).unwrap_err();
    assert!(error.to_string().starts_with("cannot listen on "), "{error}");
    assert!(card.sound().socket().exists());
}
