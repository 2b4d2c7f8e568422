//! Publishes over links with a simulated clock: the encoder's targets follow from the link alone, however
//! busy this machine is.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use pagecast_core::spec::{Layer, RoomCodec, Size};
use pagecast_core::{Fps, Track};
use pagecast_testkit::LinkConditions;
use tokio::sync::mpsc;

use super::super::{EncoderControl, Feed, LayerTarget, Status};
use super::*;
use crate::rtc::Protocol;
use crate::rtc::answerer::{self, Certificate};
use crate::simulated_link::{SimulatedLink, address, jittery, narrow, packet};

const PUBLISHER: SocketAddr = address(1);
const SERVER: SocketAddr = address(2);
/// Bitrate cap of the only layer, in kbit/s.
const CAP_KBPS: u32 = 1500;

/// An encoder that remembers its target.
#[derive(Debug, Clone)]
struct FakeEncoder(Arc<Mutex<LayerTarget>>);

impl FakeEncoder {
    fn target(&self) -> LayerTarget {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncoderControl for FakeEncoder {
    fn request_keyframe(&self, _layer: usize) {}

    fn set_target(&self, _layer: usize, target: LayerTarget) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }
}

/// A publisher with its encoder, a link, and the server's end of the connection, under one simulated clock.
struct Simulation {
    start: Instant,
    now: Instant,
    peer: PeerConnection,
    media: MediaFeed,
    encoder: FakeEncoder,
    next_video: Instant,
    next_audio: Instant,
    next_check: Instant,
    link: SimulatedLink,
    server: answerer::PeerConnection,
    /// Audio packets that arrived.
    received_audio: usize,
    /// Each target of the encoder since the connection was established, with its time.
    targets: Vec<(Duration, LayerTarget)>,
}

impl Simulation {
    fn new(conditions: LinkConditions) -> Self {
        let now = Instant::now();
        let layer = Layer { size: Size::HD, fps: Fps::DEFAULT, bitrate_kbps: Some(CAP_KBPS) };
        let mut peer = PeerConnection::new(now, RoomCodec::H264, &[layer], ["h", "m"]);
        peer.add_local_candidate(crate::rtc::Candidate::host(PUBLISHER, Protocol::Udp).unwrap());
        let config = answerer::Config {
            certificate: &Certificate::new().unwrap(),
            addresses: &[SERVER],
            tcp: false,
            role: answerer::Role::Publisher,
            credentials: ("abcdef".to_owned(), "0123456789abcdefghijklmn".to_owned()),
        };
        let offer = peer.create_offer();
        let (server, answer) = answerer::PeerConnection::accept_offer(now, &offer.sdp, config).unwrap();
        peer.accept_answer(&answer).unwrap();
        let encoder = FakeEncoder(Arc::new(Mutex::new(LayerTarget { bitrate_bps: 0, fps: 0 })));
        let mut media = MediaFeed::new(&[layer], Arc::new(Mutex::new(Status::new(String::new()))));
        // The simulation hands in the packets itself.
        let feed = Feed { video: vec![mpsc::channel(1).1], audio: mpsc::channel(1).1 };
        media.feed(feed, Box::new(encoder.clone()));
        Self {
            start: now,
            now,
            peer,
            media,
            encoder,
            next_video: now,
            next_audio: now,
            next_check: now,
            link: SimulatedLink::new(conditions),
            server,
            received_audio: 0,
            targets: Vec::new(),
        }
    }

    /// Runs for so many simulated seconds.
    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.step();
            let machines = [self.peer.deadline(), self.media.deadline(), self.server.deadline()];
            let own = [self.next_video, self.next_audio, self.next_check, end].map(Some);
            let all = machines.into_iter().chain([self.link.deadline()]).chain(own);
            let next = all.flatten().min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(100));
        }
    }

    /// Hands in everything that is due.
    fn step(&mut self) {
        let now = self.now;
        while let Some(data) = self.link.up.poll(now) {
            let (protocol, source, destination) = (Protocol::Udp, PUBLISHER, SERVER);
            let datagram = Datagram { protocol, source, destination, data: &data };
            self.server.handle(now, answerer::Input::Datagram(datagram));
            self.drain_server();
        }
        while let Some(data) = self.link.down.poll(now) {
            let (protocol, source, destination) = (Protocol::Udp, SERVER, PUBLISHER);
            self.peer.handle(now, Input::Datagram(Datagram { protocol, source, destination, data: &data }));
            self.drain_peer();
        }
        if self.server.deadline().is_some_and(|at| at <= now) {
            self.server.handle(now, answerer::Input::Timeout);
            self.drain_server();
        }
        if self.peer.deadline().is_some_and(|at| at <= now) {
            self.peer.handle(now, Input::Timeout);
            self.drain_peer();
        }
        self.media.handle_timeout(now);
        if now >= self.next_check {
            self.next_check = now + CHECK_INTERVAL;
            self.media.update_status(now, self.peer.stats());
        }
        self.encode();
    }

    fn drain_server(&mut self) {
        while let Some(output) = self.server.poll(self.now) {
            match output {
                answerer::Output::Transmit(transmit) => self.link.down.send(self.now, transmit.data),
                answerer::Output::Event(answerer::Event::Packet(packet)) => {
                    self.received_audio += usize::from(packet.track == answerer::media::Track::Audio);
                }
                answerer::Output::Event(_) => {}
            }
        }
    }

    fn drain_peer(&mut self) {
        let mut events = VecDeque::new();
        loop {
            while let Some(output) = self.peer.poll(self.now) {
                match output {
                    Output::Transmit(transmit) => self.link.up.send(self.now, transmit.data),
                    Output::Event(event) => events.push_back(event),
                }
            }
            match events.pop_front() {
                Some(Event::Connected) => self.media.on_connected(self.now),
                Some(event) => handle_event(self.now, &mut self.peer, &mut self.media, event).unwrap(),
                None => return,
            }
        }
    }

    /// Sends the frames and the audio that are due, by the encoder's target.
    fn encode(&mut self) {
        let (now, target) = (self.now, self.encoder.target());
        if !self.peer.is_connected() {
            (self.next_video, self.next_audio) = (now + CHECK_INTERVAL, now + CHECK_INTERVAL);
            return;
        }
        if self.targets.last().is_none_or(|(_, last)| *last != target) {
            self.targets.push((now - self.start, target));
        }
        let pts = now - self.start;
        if now >= self.next_audio {
            self.next_audio += Duration::from_millis(20);
            self.peer.handle(now, Input::Audio(&packet(Track::Audio, pts, vec![0xfc; 240])));
            self.drain_peer();
        }
        if now >= self.next_video {
            self.next_video = now + Duration::from_secs(1) / target.fps.max(1);
            if target.bitrate_bps > 0 {
                let bytes = (target.bitrate_bps / 8 / target.fps.max(1)) as usize;
                let packet = packet(Track::Video, pts, frame(bytes));
                self.peer.handle(now, Input::Video { layer: 0, packet: &packet });
                self.drain_peer();
            }
        }
    }

    /// Lowest and highest target bitrates since `from`, in kbit/s.
    fn target_range_kbps(&self, from: Duration) -> (u32, u32) {
        let before = self.targets.iter().rev().find(|(at, _)| *at <= from);
        let since = self.targets.iter().filter(|(at, _)| *at > from);
        let kbps: Vec<u32> = before.into_iter().chain(since).map(|(_, t)| t.bitrate_bps / 1000).collect();
        (*kbps.iter().min().unwrap(), *kbps.iter().max().unwrap())
    }
}

/// A frame of so many bytes that can be sent but not decoded.
fn frame(bytes: usize) -> Vec<u8> {
    let mut data =
        vec![0, 0, 0, 1, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0, 0, 0, 1, 0x68, 0xCE, 0x3C, 0x80, 0, 0, 0, 1, 0x65];
    data.resize(bytes.max(data.len()), 0x55);
    data
}

#[test]
fn the_bitrate_fits_the_link() {
    // The narrower one carries the audio and, at times, a small video.
    for (kbps, expected) in [(300, 0..=200), (1000, 100..=900)] {
        let mut simulation = Simulation::new(narrow(kbps));
        simulation.run(40);
        let (lowest, highest) = simulation.target_range_kbps(Duration::from_secs(20));
        let fits = expected.contains(&lowest) && expected.contains(&highest);
        assert!(fits, "{lowest} to {highest} kbit/s over {kbps} kbit/s: {:?}", simulation.targets);
        // Audio has priority, so nearly all of its 2000 packets arrive.
        assert!(simulation.received_audio > 1900, "{} over {kbps} kbit/s", simulation.received_audio);
    }
}

#[test]
fn a_lossless_link_never_pauses_the_only_layer() {
    let mut simulation = Simulation::new(jittery());
    simulation.run(30);
    let (lowest, highest) = simulation.target_range_kbps(Duration::from_secs(1));
    assert!(lowest > 0 && highest == CAP_KBPS, "{:?}", simulation.targets);
}
