//! Pushes a live stream in real time and compares what servers recorded with what was sent.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::connection::State;
use pagecast_core::spec::{Push, PushUrl};
use pagecast_core::{Fps, Packet, SAMPLE_RATE, Samples, Tick, Track};
use pagecast_media::encode::Tracks;
use pagecast_media::encode::{EndTime, audio, video};
use pagecast_media::fanout::{FanOut, QueueLimit, Subscription};
use pagecast_media::push::{Config, Id, Pushes, Status, TargetEvent};
use pagecast_testkit::flv::{self, TagKind};
use pagecast_testkit::wait_until;

use super::stream;

pub(crate) const FPS: u32 = 30;
/// Longest wait, much longer than needed, for busy machines.
const WAIT_TIMEOUT: Duration = Duration::from_secs(90);
/// A queue that holds all packets of a test.
const UNLIMITED: QueueLimit = QueueLimit { bytes: usize::MAX, duration: Duration::MAX };

/// A running stream with pushes; ends with [`PushFixture::finish`].
pub(crate) struct PushFixture {
    pub(crate) pushes: Pushes,
    events: Receiver<TargetEvent>,
    all_packets: Subscription,
    stop: Arc<AtomicBool>,
    feeder: JoinHandle<Result<()>>,
    fan_out: FanOut,
}

/// Results of a stream.
pub(crate) struct PushResults {
    pub(crate) statuses: Vec<Status>,
    /// Packets that the encoders sent.
    pub(crate) sent: Vec<Packet>,
    pub(crate) events: Vec<TargetEvent>,
}

impl PushFixture {
    /// Starts the encoders and feeds them. `padding` bytes are added to each encoded picture, to fill buffers
    /// quickly.
    pub(crate) fn start(config: Config, padding: usize) -> Result<Self> {
        let (video, audio) =
            (video::Encoder::open(stream::config(FPS)?)?, audio::Encoder::open(audio::Config::FILES)?);
        let fps = Fps::new(FPS).context("a rate")?;
        let tracks = Tracks { video: Some((video.parameters(), fps)), audio: audio.parameters() };
        let (packets, fan_out) = FanOut::spawn(Track::Video)?;
        let all_packets = fan_out.subscribe("all", UNLIMITED);
        let (pushes, events) = Pushes::start(tracks, fan_out.handle(), video.keyframe_request(), config)?;
        let (ticks, ticks_out) = sync_channel(4);
        let (samples, samples_out) = sync_channel(256);
        let (coded, coded_out) = sync_channel::<Packet>(256);
        // The encoders end with their input, so their threads are not joined.
        video.spawn(ticks_out, EndTime::new(None), coded.clone())?;
        audio.spawn(samples_out, EndTime::new(None), coded)?;
        std::thread::spawn(move || {
            for packet in coded_out {
                let pad = if packet.track == Track::Video { padding } else { 0 };
                let data = [&packet.data[..], &vec![0xff; pad]].concat().into();
                if packets.send(Packet { data, ..packet }).is_err() {
                    break;
                }
            }
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let feeder = std::thread::spawn(move || feed(&ticks, &samples, &stopped));
        Ok(Self { pushes, events, all_packets, stop, feeder, fan_out })
    }

    /// Adds a push.
    pub(crate) fn add_push(&self, url: &str) -> Result<Id> {
        Ok(self.pushes.add(Push { url: PushUrl::parse(url)?, reconnect_timeout: None })?)
    }

    pub(crate) fn status(&self, id: Id) -> Result<Status> {
        self.pushes.statuses().into_iter().find(|status| status.id == id).context("a target")
    }

    /// Waits until a target has this state.
    pub(crate) fn wait_for_state(&self, id: Id, state: State) -> Result<Status> {
        self.wait_for(id, &format!("{state:?}"), |status| status.state == state)
    }

    /// Waits until this many more packets were sent to a target.
    pub(crate) fn wait_for_packets(&self, id: Id, packets: u64) -> Result<Status> {
        let goal = self.status(id)?.packets + packets;
        self.wait_for(id, "more packets", |status| status.state == State::Running && status.packets >= goal)
    }

    pub(crate) fn wait_for(&self, id: Id, what: &str, good: impl Fn(&Status) -> bool) -> Result<Status> {
        let began = Instant::now();
        loop {
            let status = self.status(id)?;
            if good(&status) {
                return Ok(status);
            }
            ensure!(began.elapsed() < WAIT_TIMEOUT, "no {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the stream as a cast does: first the encoders, then the pushes.
    pub(crate) fn finish(self) -> Result<PushResults> {
        self.stop.store(true, Ordering::Release);
        self.feeder.join().ok().context("the feeder panicked")??;
        ensure!(self.fan_out.finish(), "the fan-out panicked");
        let statuses = self.pushes.finish();
        Ok(PushResults {
            statuses,
            sent: self.all_packets.collect(),
            events: self.events.try_iter().collect(),
        })
    }
}

/// Feeds ticks and samples in real time.
fn feed(ticks: &SyncSender<Tick>, samples: &SyncSender<Samples>, stop: &AtomicBool) -> Result<()> {
    let (began, per_tick) = (Instant::now(), (SAMPLE_RATE / FPS) as usize);
    for index in 0_u32.. {
        let due = began + Duration::from_secs_f64(f64::from(index) / f64::from(FPS));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Acquire) {
            break;
        }
        let level = (index * 37 % 100) as f32 / 200.0;
        samples.send(stream::sample_run(u64::from(index) * per_tick as u64, per_tick, level))?;
        ticks.send(stream::tick(FPS, i64::from(index), true)?)?;
    }
    Ok(())
}

impl PushResults {
    /// The reported states of a target, in order, without repetitions.
    pub(crate) fn states(&self, id: Id) -> Vec<State> {
        let events = self.events.iter().filter(|event| event.id == id);
        let mut states: Vec<_> = events.map(|event| event.event.state).collect();
        states.dedup();
        states
    }

    /// Waits until a server's recording has the last picture: when a connection is closed, the server may
    /// still have to read what was sent. Compares the recording, and returns the index of the first picture.
    pub(crate) fn wait_for_recording(&self, file: &Path) -> Result<usize> {
        wait_until("the server has recorded the last picture", WAIT_TIMEOUT, || {
            let (first, last) = self.compare_recording(file)?;
            ensure!(last == self.picture_count() - 1, "({first}, {last}) of {}", self.picture_count());
            Ok(first)
        })
    }

    /// Compares a server's recording with the sent packets, contents and time stamps: each track must be
    /// without gaps. Returns the indexes of the first and last picture.
    pub(crate) fn compare_recording(&self, file: &Path) -> Result<(usize, usize)> {
        let tags = flv::tags(file)?;
        let headers = |kind| tags.iter().filter(|tag| tag.kind == kind).count();
        // The server may write a sequence header more than once.
        ensure!(
            headers(TagKind::AvcSequenceHeader) > 0 && headers(TagKind::AacSequenceHeader) > 0,
            "headers are missing"
        );
        let first_picture = tags.iter().find(|tag| matches!(tag.kind, TagKind::Video { .. }));
        ensure!(
            first_picture.is_some_and(|tag| tag.kind == TagKind::Video { keyframe: true }),
            "no keyframe first"
        );
        let mut ranges = Vec::new();
        for track in [Track::Video, Track::Audio] {
            let sent: Vec<_> = self.sent.iter().filter(|packet| packet.track == track).collect();
            let units: Vec<_> = sent.iter().map(|packet| payload_units(packet)).collect();
            let got: Vec<_> = tags.iter().filter(|tag| is_track(tag.kind, track)).collect();
            let first = got.first().with_context(|| format!("no {track:?}"))?;
            let at = sent.iter().position(|packet| packet.dts.to_index(1000) == first.timestamp_ms);
            let at = at.context("its first packet was not sent")?;
            for (i, tag) in got.iter().enumerate() {
                ensure!(
                    units.get(at + i) == Some(&tag.units),
                    "{track:?} packet {i} of {} differs",
                    got.len()
                );
                // The headers have time 0, so the server's times equal ours, on each connection.
                ensure!(
                    tag.timestamp_ms == sent[at + i].dts.to_index(1000),
                    "{track:?} packet {i} is at {} ms",
                    tag.timestamp_ms
                );
                if let TagKind::Video { keyframe } = tag.kind {
                    ensure!(keyframe == sent[at + i].keyframe);
                }
            }
            ranges.push((at, at + got.len() - 1));
        }
        Ok(ranges[0])
    }

    /// Number of sent pictures.
    pub(crate) fn picture_count(&self) -> usize {
        self.sent.iter().filter(|packet| packet.track == Track::Video).count()
    }
}

fn is_track(kind: TagKind, track: Track) -> bool {
    match track {
        Track::Video => matches!(kind, TagKind::Video { .. }),
        Track::Audio => kind == TagKind::Audio,
    }
}

fn payload_units(packet: &Packet) -> Vec<Vec<u8>> {
    match packet.track {
        Track::Video => flv::parse_annex_b(&packet.data),
        Track::Audio => vec![packet.data.to_vec()],
    }
}
