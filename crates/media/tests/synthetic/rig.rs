//! A stream in real time, from live encoders to pushes, and what came of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::push::State;
use pagecast_core::spec::{Push, PushUrl};
use pagecast_core::{Fps, Packet, SAMPLE_RATE, Samples, Tick, Track};
use pagecast_media::encode::Tracks;
use pagecast_media::encode::{End, audio, video};
use pagecast_media::fanout::{FanOut, Limit, Tap};
use pagecast_media::push::{Config, Id, News, Pushes, Status};
use pagecast_testkit::flv::{self, Kind};

use super::stream;

pub(crate) const FPS: u32 = 30;
/// Longest wait for anything: much longer than it takes, for machines that are busy.
const LIMIT: Duration = Duration::from_secs(90);
/// A queue that holds all of a test.
const ALL: Limit = Limit { bytes: usize::MAX, span: Duration::MAX };

/// A stream that runs until [`Rig::end`].
pub(crate) struct Rig {
    pub(crate) pushes: Pushes,
    news: Receiver<News>,
    everything: Tap,
    stop: Arc<AtomicBool>,
    feeder: JoinHandle<Result<()>>,
    fan_out: FanOut,
}

/// What came of it.
pub(crate) struct Came {
    pub(crate) states: Vec<Status>,
    /// What the encoders sent.
    pub(crate) sent: Vec<Packet>,
    pub(crate) news: Vec<News>,
}

impl Rig {
    /// Starts the encoders and feeds them; `padding` bytes are added to each picture after encoding, to fill buffers quickly.
    pub(crate) fn start(config: Config, padding: usize) -> Result<Self> {
        let (video, audio) =
            (video::Encoder::open(stream::config(FPS)?)?, audio::Encoder::open(audio::Config::FILES)?);
        let fps = Fps::new(FPS).context("a rate")?;
        let tracks = Tracks { video: Some((video.parameters(), fps)), audio: audio.parameters() };
        let (packets, fan_out) = FanOut::spawn(Track::Video)?;
        let everything = fan_out.tap("everything", ALL);
        let (pushes, news) = Pushes::start(tracks, fan_out.taps(), video.keyframes(), config)?;
        let (ticks, ticks_out) = sync_channel(4);
        let (samples, samples_out) = sync_channel(256);
        let (coded, coded_out) = sync_channel::<Packet>(256);
        // Encoders end with their input.
        video.spawn(ticks_out, End::new(None), coded.clone())?;
        audio.spawn(samples_out, End::new(None), coded)?;
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
        Ok(Self { pushes, news, everything, stop, feeder, fan_out })
    }

    /// Sends the stream there too.
    pub(crate) fn push(&self, url: &str) -> Result<Id> {
        Ok(self.pushes.add(Push { url: PushUrl::parse(url)?, patience: None })?)
    }

    pub(crate) fn status(&self, id: Id) -> Result<Status> {
        self.pushes.states().into_iter().find(|status| status.id == id).context("a target")
    }

    /// Waits until a target is in this state.
    pub(crate) fn reach(&self, id: Id, state: State) -> Result<Status> {
        self.wait(id, &format!("{state:?}"), |status| status.state == state)
    }

    /// Waits until a target got so many packets more.
    pub(crate) fn some_more(&self, id: Id, packets: u64) -> Result<Status> {
        let goal = self.status(id)?.packets + packets;
        self.wait(id, "more packets", |status| status.state == State::Running && status.packets >= goal)
    }

    pub(crate) fn wait(&self, id: Id, what: &str, good: impl Fn(&Status) -> bool) -> Result<Status> {
        let began = Instant::now();
        loop {
            let status = self.status(id)?;
            if good(&status) {
                return Ok(status);
            }
            ensure!(began.elapsed() < LIMIT, "no {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the stream as a cast does: first what encodes, then what sends.
    pub(crate) fn end(self) -> Result<Came> {
        self.stop.store(true, Ordering::Release);
        self.feeder.join().ok().context("the feeder panicked")??;
        ensure!(self.fan_out.finish(), "the fan-out panicked");
        let states = self.pushes.finish();
        Ok(Came { states, sent: self.everything.collect(), news: self.news.try_iter().collect() })
    }
}

/// Ticks and samples at their time.
fn feed(ticks: &SyncSender<Tick>, samples: &SyncSender<Samples>, stop: &AtomicBool) -> Result<()> {
    let (began, per_tick) = (Instant::now(), (SAMPLE_RATE / FPS) as usize);
    for index in 0_u32.. {
        let due = began + Duration::from_secs_f64(f64::from(index) / f64::from(FPS));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Acquire) {
            break;
        }
        let level = (index * 37 % 100) as f32 / 200.0;
        samples.send(stream::run(u64::from(index) * per_tick as u64, per_tick, level))?;
        ticks.send(stream::tick(FPS, i64::from(index), true)?)?;
    }
    Ok(())
}

impl Came {
    /// The states that were told of a target, in order; those told again because they lasted are left out.
    pub(crate) fn told(&self, id: Id) -> Vec<State> {
        let news = self.news.iter().filter(|news| news.id == id);
        let mut states: Vec<_> = news.map(|news| news.event.state).collect();
        states.dedup();
        states
    }

    /// Compares a recording with what was sent, packet by packet and in time: each kind of packet must be there without a gap
    /// from its first to its last. Numbers of the first and the last picture.
    pub(crate) fn compare(&self, file: &Path) -> Result<(usize, usize)> {
        let tags = flv::tags(file)?;
        let headers = |kind| tags.iter().filter(|tag| tag.kind == kind).count();
        // The server may write what it keeps of a header before the header itself.
        ensure!(headers(Kind::VideoHeader) > 0 && headers(Kind::AudioHeader) > 0, "headers are missing");
        let first_picture = tags.iter().find(|tag| matches!(tag.kind, Kind::Video { .. }));
        ensure!(
            first_picture.is_some_and(|tag| tag.kind == Kind::Video { keyframe: true }),
            "no keyframe first"
        );
        let mut ranges = Vec::new();
        for track in [Track::Video, Track::Audio] {
            let sent: Vec<_> = self.sent.iter().filter(|packet| packet.track == track).collect();
            let units: Vec<_> = sent.iter().map(|packet| units(packet)).collect();
            let got: Vec<_> = tags.iter().filter(|tag| is_of(tag.kind, track)).collect();
            let first = got.first().with_context(|| format!("no {track:?}"))?;
            let at = sent.iter().position(|packet| packet.dts.to_index(1000) == first.ms);
            let at = at.context("its first packet was not sent")?;
            for (i, tag) in got.iter().enumerate() {
                ensure!(
                    units.get(at + i) == Some(&tag.data),
                    "{track:?} packet {i} of {} differs",
                    got.len()
                );
                // The headers have time 0, so the server counts as we do: this holds after each connection.
                ensure!(
                    tag.ms == sent[at + i].dts.to_index(1000),
                    "{track:?} packet {i} is at {} ms",
                    tag.ms
                );
                if let Kind::Video { keyframe } = tag.kind {
                    ensure!(keyframe == sent[at + i].keyframe);
                }
            }
            ranges.push((at, at + got.len() - 1));
        }
        Ok(ranges[0])
    }

    /// How many pictures were sent.
    pub(crate) fn pictures(&self) -> usize {
        self.sent.iter().filter(|packet| packet.track == Track::Video).count()
    }
}

fn is_of(kind: Kind, track: Track) -> bool {
    match track {
        Track::Video => matches!(kind, Kind::Video { .. }),
        Track::Audio => kind == Kind::Audio,
    }
}

fn units(packet: &Packet) -> Vec<Vec<u8>> {
    match packet.track {
        Track::Video => flv::annex_b(&packet.data),
        Track::Audio => vec![packet.data.to_vec()],
    }
}
