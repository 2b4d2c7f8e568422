//! Tests a publisher over an emulated link: it keeps its bitrate on a good link and adapts to a narrow one.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Layer, Room, RoomIds, RoomService, RoomUrl, Size};
use pagecast_core::{Fps, MediaTime, Packet, Track};
use pagecast_room::embedded::{Config, Server};
use pagecast_room::publish::{EncoderControl, Feed, LayerTarget, Publisher};
use pagecast_testkit::{LinkConditions, LinkEmulator};
use tokio::sync::mpsc;

use super::{ESTIMATE_TIMEOUT, TIMEOUT, WATCH_DURATION};

/// All targets that an encoder got.
#[derive(Debug, Clone, Default)]
struct RecordedTargets(Arc<Mutex<Vec<(Instant, LayerTarget)>>>);

impl RecordedTargets {
    fn all(&self) -> Vec<(Instant, LayerTarget)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn last(&self) -> LayerTarget {
        self.all().last().map_or(LayerTarget { bitrate_bps: 0, fps: 0 }, |(_, target)| *target)
    }

    fn wait(&self, what: &str, limit: Duration, condition: impl Fn(LayerTarget) -> bool) -> Result<Duration> {
        let began = Instant::now();
        while !condition(self.last()) {
            ensure!(began.elapsed() < limit, "not within {limit:?}: {what}; {:?}", self.last());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(began.elapsed())
    }
}

impl EncoderControl for RecordedTargets {
    fn request_keyframe(&self, _layer: usize) {}

    fn set_target(&self, _layer: usize, target: LayerTarget) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), target));
    }
}

/// Sends frames by the encoder's targets, until it is dropped.
struct FakeEncoder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeEncoder {
    fn start(publisher: &Publisher, targets: &RecordedTargets) -> Self {
        let (video_sender, video) = mpsc::channel(64);
        let (audio_sender, audio) = mpsc::channel(25);
        publisher.set_feed(Feed { video: vec![video], audio }, Box::new(targets.clone()));
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, targets, began) = (Arc::clone(&stop), targets.clone(), Instant::now());
        let thread = std::thread::spawn(move || {
            let (mut next_frame, mut next_audio) = (began, began);
            while !stopped.load(Ordering::Acquire) {
                let (now, target) = (Instant::now(), targets.last());
                let pts = |at: Instant| MediaTime(i64::try_from((at - began).as_nanos()).unwrap_or(0));
                while next_audio <= now {
                    // A full queue drops packets, as with a real encoder.
                    let _full = audio_sender.try_send(packet(Track::Audio, pts(next_audio), 240, 20));
                    next_audio += Duration::from_millis(20);
                }
                if next_frame <= now && target.bitrate_bps > 0 {
                    let bytes = (target.bitrate_bps / 8 / target.fps.max(1)) as usize;
                    let _full = video_sender.try_send(packet(Track::Video, pts(now), bytes, 33));
                    next_frame = now + Duration::from_secs(1) / target.fps.max(1);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for FakeEncoder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn packet(track: Track, pts: MediaTime, bytes: usize, ms: i64) -> Packet {
    let mut data = match track {
        Track::Audio => vec![0xfc],
        Track::Video => {
            vec![
                0, 0, 0, 1, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0, 0, 0, 1, 0x68, 0xCE, 0x3C, 0x80, 0, 0, 0, 1,
                0x65,
            ]
        }
    };
    data.resize(bytes.max(data.len()), 0x55);
    Packet { track, data: data.into(), pts, dts: pts, duration: MediaTime(ms * 1_000_000), keyframe: true }
}

/// A publisher of one layer, and the link to the room.
struct Fixture {
    targets: RecordedTargets,
    link: LinkEmulator,
    server: Server,
    // Fields are dropped in this order, so the encoder stops before the publisher.
    _encoder: FakeEncoder,
    publisher: Publisher,
}

impl Fixture {
    fn start(kbps: u32, conditions: LinkConditions) -> Result<Self> {
        // The media port must be known before the rooms start, because they advertise the link's address.
        let media = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let link = LinkEmulator::start(media)?;
        link.set_conditions(conditions);
        let addresses = vec![link.address()];
        let server = Server::start(Config {
            http: "127.0.0.1:0".parse()?,
            media,
            advertised_addresses: addresses,
            ..Config::default()
        })?;
        let url = format!("http://{}/rooms/{{room}}/whip?user={{user}}", server.http_addr());
        let service = RoomService::Whip { url: RoomUrl::parse(&url)?, token: None };
        let id = |text: &str| text.to_owned();
        let ids = RoomIds { app: id("app"), room: id("demo"), user: id("page"), task: id("task") };
        let layer = Layer { size: Size::HD, fps: Fps::DEFAULT, bitrate_kbps: Some(kbps) };
        let publisher = Publisher::start(Room::new(service, ids, layer))?;
        let targets = RecordedTargets::default();
        let encoder = FakeEncoder::start(&publisher, &targets);
        Ok(Self { targets, link, server, _encoder: encoder, publisher })
    }

    /// The lowest received bitrate of the video during `duration`, in bit/s.
    fn min_received_bps(&self, duration: Duration) -> Result<u64> {
        let (began, mut lowest) = (Instant::now(), u64::MAX);
        while began.elapsed() < duration {
            let stats = self.server.stats("demo").context("no room")?;
            let layer = stats.publishers.first().and_then(|publisher| publisher.layers.first());
            lowest = lowest.min(layer.context("no layer")?.bitrate_bps);
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(lowest)
    }
}

#[test]
fn a_publisher_on_a_good_link_keeps_its_layer() -> Result<()> {
    let fixture = Fixture::start(2500, LinkConditions::default())?;
    fixture.targets.wait("the full bitrate", ESTIMATE_TIMEOUT, |target| target.bitrate_bps == 2_500_000)?;
    let grown = fixture.targets.all().len();
    let lowest = fixture.min_received_bps(WATCH_DURATION)?;
    let later = fixture.targets.all().split_off(grown);
    println!("at least {lowest} bit/s arrive; later targets: {later:?}; {:?}", fixture.publisher.status());
    ensure!(later.is_empty(), "a layer shrinks on a good link: {later:?}");
    Ok(())
}

#[test]
fn a_publisher_on_a_narrow_link_sends_what_fits() -> Result<()> {
    let narrow = |bps| LinkConditions { bits_per_second: Some(bps), ..LinkConditions::default() };
    let fixture = Fixture::start(2500, LinkConditions::default())?;
    fixture.targets.wait("the full bitrate", ESTIMATE_TIMEOUT, |target| target.bitrate_bps == 2_500_000)?;
    fixture.link.set_conditions(narrow(1_000_000));
    let down = fixture.targets.wait("a lower bitrate", TIMEOUT, |target| target.bitrate_bps < 900_000)?;
    fixture.link.set_conditions(narrow(300_000));
    let fewer = fixture.targets.wait("a lower frame rate", TIMEOUT, |target| {
        target.bitrate_bps < 200_000 && (1..=8).contains(&target.fps) || target.bitrate_bps == 0
    })?;
    fixture.link.set_conditions(LinkConditions::default());
    // Close to the cap, the estimator probes no further.
    let up = fixture.targets.wait("nearly the full bitrate again", ESTIMATE_TIMEOUT, |target| {
        target.bitrate_bps >= 2_000_000 && target.fps == 30
    })?;
    println!("down after {down:?}, fewer frames after {fewer:?}, up after {up:?}");
    Ok(())
}
