//! Forwards a video over links with a simulated clock: the layer of a viewer follows from its link alone,
//! however busy this machine is.

use pagecast_core::spec::{Layer, RoomCodec, Size};
use pagecast_core::{Fps, Track};
use pagecast_testkit::LinkConditions;
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind};
use str0m::net::Receive;
use str0m::{Input as RtcInput, Output as RtcOutput, Rtc};

use super::super::command::JoinRequest;
use super::*;
use crate::rtc::{Candidate, offerer};
use crate::simulated_link::{SimulatedLink, address, jittery, narrow, packet};

const PUBLISHER: SocketAddr = address(1);
const VIEWER: SocketAddr = address(2);
const SERVER: SocketAddr = address(3);
/// Interval at which the viewer's layer is observed.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(100);
/// Parameter sets of x264 for 1280x720 and 640x360.
const SPS: [&[u8]; 2] = [
    &[
        0x67, 0x42, 0xc0, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xec, 0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00,
        0x00, 0x0f, 0x03, 0xc6, 0x0c, 0xa8,
    ],
    &[
        0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00,
        0x00, 0x03, 0x00, 0xf0, 0x3c, 0x58,
    ],
];
const PPS: &[u8] = &[0x68, 0xce, 0x0f, 0xc8];

/// An SFU with a publisher on a perfect link and a viewer on another one, under one simulated clock.
struct Simulation {
    start: Instant,
    now: Instant,
    sfu: Sfu,
    publisher: offerer::PeerConnection,
    publisher_link: SimulatedLink,
    /// Bitrate of each layer, in bit/s.
    layers: Vec<u32>,
    keyframe_wanted: Vec<bool>,
    next_video: Instant,
    next_audio: Instant,
    viewer: Rtc,
    viewer_deadline: Instant,
    viewer_link: SimulatedLink,
    /// Packets that arrived at the viewer.
    received: usize,
    next_observation: Instant,
    /// Layer of the viewer at each observation, `-` for none.
    observed: String,
}

impl Simulation {
    fn new(layers: &[u32], conditions: LinkConditions) -> Self {
        let now = Instant::now();
        let expected = Arc::default();
        let limits = Limits::default();
        let certificate = Certificate::new().unwrap();
        let config = SessionConfig { certificate, addresses: vec![SERVER], tcp: false, limits, expected };
        let mut sfu = Sfu::new(now, config);
        let publisher = join_publisher(&mut sfu, now, layers);
        let viewer = join_viewer(&mut sfu, now);
        Self {
            start: now,
            now,
            sfu,
            publisher,
            publisher_link: SimulatedLink::new(LinkConditions::default()),
            layers: layers.to_vec(),
            keyframe_wanted: vec![true; layers.len()],
            next_video: now,
            next_audio: now,
            viewer,
            viewer_deadline: now,
            viewer_link: SimulatedLink::new(conditions),
            received: 0,
            next_observation: now,
            observed: String::new(),
        }
    }

    /// Runs for so many simulated seconds and returns the viewer's layer at each observation.
    fn run(&mut self, seconds: u64) -> String {
        let end = self.now + Duration::from_secs(seconds);
        self.observed.clear();
        while self.now < end {
            self.step();
            let machines = [self.sfu.deadline(), self.publisher.deadline(), Some(self.viewer_deadline)];
            let links = [self.publisher_link.deadline(), self.viewer_link.deadline()];
            let own = [self.next_video, self.next_audio, self.next_observation, end].map(Some);
            let next = machines.into_iter().chain(links).chain(own).flatten().min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(100));
        }
        self.observed.clone()
    }

    /// Hands in everything that is due.
    fn step(&mut self) {
        let now = self.now;
        while let Some(data) = self.publisher_link.up.poll(now) {
            self.sfu.handle(now, Input::Datagram { remote: (Protocol::Udp, PUBLISHER), data: &data });
            self.drain_sfu();
        }
        while let Some(data) = self.viewer_link.up.poll(now) {
            self.sfu.handle(now, Input::Datagram { remote: (Protocol::Udp, VIEWER), data: &data });
            self.drain_sfu();
        }
        if self.sfu.deadline().is_some_and(|at| at <= now) {
            self.sfu.handle(now, Input::Timeout);
            self.drain_sfu();
        }
        while let Some(data) = self.publisher_link.down.poll(now) {
            let (protocol, source, destination) = (Protocol::Udp, SERVER, PUBLISHER);
            let datagram = Datagram { protocol, source, destination, data: &data };
            self.publisher.handle(now, offerer::Input::Datagram(datagram));
            self.drain_publisher();
        }
        if self.publisher.deadline().is_some_and(|at| at <= now) {
            self.publisher.handle(now, offerer::Input::Timeout);
            self.drain_publisher();
        }
        while let Some(data) = self.viewer_link.down.poll(now) {
            let receive = Receive::new(Protocol::Udp, SERVER, VIEWER, &data).unwrap();
            self.viewer.handle_input(RtcInput::Receive(now, receive)).unwrap();
            self.drain_viewer();
        }
        if self.viewer_deadline <= now {
            self.viewer.handle_input(RtcInput::Timeout(now)).unwrap();
            self.drain_viewer();
        }
        self.encode();
        if now >= self.next_observation {
            self.next_observation += OBSERVE_INTERVAL;
            let layer = self.sfu.stats(now)[0].viewers[0].layer.clone();
            self.observed.push_str(layer.as_deref().unwrap_or("-"));
        }
    }

    fn drain_sfu(&mut self) {
        while let Some(output) = self.sfu.poll(self.now) {
            let Output::Transmit(transmit) = output else { continue };
            let link =
                if transmit.destination == VIEWER { &mut self.viewer_link } else { &mut self.publisher_link };
            link.down.send(self.now, transmit.data);
        }
    }

    fn drain_publisher(&mut self) {
        while let Some(output) = self.publisher.poll(self.now) {
            match output {
                offerer::Output::Transmit(transmit) => {
                    self.publisher_link.up.send(self.now, transmit.data);
                }
                offerer::Output::Event(offerer::Event::KeyframeRequested(layer)) => {
                    self.keyframe_wanted[layer] = true;
                }
                offerer::Output::Event(_) => {}
            }
        }
    }

    fn drain_viewer(&mut self) {
        loop {
            match self.viewer.poll_output().unwrap() {
                RtcOutput::Timeout(at) => {
                    self.viewer_deadline = at;
                    return;
                }
                RtcOutput::Transmit(transmit) => {
                    self.viewer_link.up.send(self.now, transmit.contents.into());
                }
                RtcOutput::Event(event) => {
                    self.received += usize::from(matches!(event, str0m::Event::RtpPacket(_)));
                }
            }
        }
    }

    /// Publishes the frames and the audio that are due.
    fn encode(&mut self) {
        let now = self.now;
        if !self.publisher.is_connected() {
            (self.next_video, self.next_audio) = (now + OBSERVE_INTERVAL, now + OBSERVE_INTERVAL);
            return;
        }
        let pts = now - self.start;
        if now >= self.next_audio {
            self.next_audio += Duration::from_millis(20);
            let packet = packet(Track::Audio, pts, vec![0xfc; 120]);
            self.publisher.handle(now, offerer::Input::Audio(&packet));
            self.drain_publisher();
        }
        if now >= self.next_video {
            self.next_video += Fps::DEFAULT.interval();
            for layer in 0..self.layers.len() {
                let keyframe = std::mem::take(&mut self.keyframe_wanted[layer]);
                let packet = packet(Track::Video, pts, frame(layer, self.layers[layer], keyframe));
                self.publisher.handle(now, offerer::Input::Video { layer, packet: &packet });
                self.drain_publisher();
            }
        }
    }
}

fn join(sfu: &mut Sfu, now: Instant, publishes: bool, offer: String) -> String {
    let (room, origin) = ("demo".to_owned(), ClientOrigin::default());
    sfu.join(now, JoinRequest { room, publishes, user: None, offer, origin }).unwrap().answer
}

fn join_publisher(sfu: &mut Sfu, now: Instant, bitrates: &[u32]) -> offerer::PeerConnection {
    let layer = |bps: &u32| Layer { size: Size::HD, fps: Fps::DEFAULT, bitrate_kbps: Some(bps / 1000) };
    let layers: Vec<Layer> = bitrates.iter().map(layer).collect();
    let mut peer = offerer::PeerConnection::new(now, RoomCodec::H264, &layers, ["h", "m"]);
    peer.add_local_candidate(Candidate::host(PUBLISHER, Protocol::Udp).unwrap());
    let answer = join(sfu, now, true, peer.create_offer().sdp);
    peer.accept_answer(&answer).unwrap();
    peer
}

fn join_viewer(sfu: &mut Sfu, now: Instant) -> Rtc {
    let mut config = Rtc::builder().clear_codecs().enable_opus(true, false).set_rtp_mode(true);
    config.codec_config().add_h264(108.into(), Some(109.into()), true, 0x42_e01f);
    let mut rtc = config.build(now);
    rtc.add_local_candidate(Candidate::host(VIEWER, Protocol::Udp).unwrap());
    let mut change = rtc.sdp_api();
    change.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
    change.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
    let (offer, pending): (_, SdpPendingOffer) = change.apply().unwrap();
    let answer = join(sfu, now, false, offer.to_sdp_string());
    rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
    rtc
}

/// An H.264 access unit of the usual size at this bitrate, or three times as large for a keyframe. It cannot
/// be decoded.
fn frame(layer: usize, bps: u32, keyframe: bool) -> Vec<u8> {
    let start: &[u8] = &[0, 0, 0, 1];
    let mut data = Vec::new();
    if keyframe {
        data.extend([start, SPS[layer], start, PPS].concat());
    }
    data.extend(start);
    data.push(if keyframe { 0x65 } else { 0x41 });
    let bytes = (bps / 8 / Fps::DEFAULT.get()) as usize * if keyframe { 3 } else { 1 };
    data.resize(bytes.max(data.len()), 0x55);
    data
}

#[test]
fn a_viewer_gets_the_layer_that_fits_its_link() {
    for (kbps, layers, expected) in [
        (1000, [1_500_000, 400_000], "m"),
        (300, [1_500_000, 120_000], "m"),
        (300, [1_500_000, 600_000], "-"),
    ] {
        let mut simulation = Simulation::new(&layers, narrow(kbps));
        let first = simulation.run(20);
        let settled = simulation.run(10);
        let share = settled.matches(expected).count() * 100 / settled.len();
        assert!(share > 90, "{kbps} kbit/s, {layers:?}: {first} {settled}");
    }
}

#[test]
fn the_layer_follows_a_link_that_changes() {
    let mut simulation = Simulation::new(&[1_200_000, 300_000], LinkConditions::default());
    let steps = [(None, 10, "h"), (Some(600), 10, "m"), (Some(110), 10, "-"), (None, 60, "h")];
    for (kbps, seconds, expected) in steps {
        let conditions = kbps.map_or_else(LinkConditions::default, narrow);
        simulation.viewer_link.set_conditions(simulation.now, conditions);
        let observed = simulation.run(seconds);
        assert!(observed.ends_with(expected), "{kbps:?} kbit/s: {observed}");
    }
}

#[test]
fn a_lossless_link_never_pauses_the_only_layer() {
    let mut simulation = Simulation::new(&[1_500_000], jittery());
    simulation.run(2);
    let observed = simulation.run(30);
    assert!(observed.chars().all(|layer| layer == '0') && simulation.received > 5000, "{observed}");
}
