//! Publishers and viewers for tests: a str0m connection, a socket and a thread each.
//!
//! Published frames cannot be decoded. Each contains a label with its layer, its number and its capture time.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_testkit::link::{self, Link};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, Frequency, MediaKind, MediaTime, Mid, Rid, Simulcast, SimulcastLayer};
use str0m::net::{Protocol, Receive, TcpType};
use str0m::{Candidate, Event, IceConnectionState, Input, Output, Rtc};

use super::http;

/// Parameter sets of x264 for 1280x720 and 640x360.
const SPS_720: &[u8] = &[
    0x67, 0x42, 0xc0, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xec, 0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00,
    0x00, 0x0f, 0x03, 0xc6, 0x0c, 0xa8,
];
const SPS_360: &[u8] = &[
    0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00,
    0x00, 0x03, 0x00, 0xf0, 0x3c, 0x58,
];
const PPS: &[u8] = &[0x68, 0xce, 0x0f, 0xc8];
const FPS: u32 = 30;
/// Longest time in the queue of a link with limited bandwidth: enough to count as severe congestion.
const MAX_QUEUE_DELAY: Duration = Duration::from_millis(300);
/// Longest wait for a datagram, so that controls are read often.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A published layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) rid: &'static str,
    pub(crate) bps: u32,
}

/// Two layers, as Pagecast sends them.
pub(crate) const LAYERS: [Layer; 2] = [Layer { rid: "h", bps: 1_200_000 }, Layer { rid: "m", bps: 300_000 }];

/// Conditions of a peer's link, for received datagrams.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkConditions {
    /// Whether the peer sends no RTP and RTCP.
    pub(crate) no_media: bool,
    /// Whether the peer reads nothing.
    pub(crate) no_reads: bool,
    /// Whether the peer uses TCP. Only the initial value counts.
    pub(crate) tcp: bool,
    /// Bandwidth in bit/s, with a queue of [`MAX_QUEUE_DELAY`].
    pub(crate) bandwidth_bps: Option<u64>,
    /// Drops every nth datagram; 0 drops none.
    pub(crate) drop_every: u64,
    /// Durations for which the receiver is busy and for which it reads, in turns. Nothing is lost meanwhile.
    pub(crate) busy: Option<[Duration; 2]>,
}

impl LinkConditions {
    /// The conditions of the link itself, without those of its ends.
    fn of_link(&self) -> link::LinkConditions {
        link::LinkConditions {
            lose_every: self.drop_every,
            bits_per_second: self.bandwidth_bps,
            max_queue_delay: MAX_QUEUE_DELAY,
            ..link::LinkConditions::default()
        }
    }
}

/// Observable state of a peer.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) connected: bool,
    /// Whether the server closed the connection or is silent.
    pub(crate) disconnected: bool,
    /// Keyframe requests to a publisher, by layer.
    pub(crate) keyframe_requests: [u64; 2],
    /// Received packets of a viewer, by sequence number.
    pub(crate) video: BTreeMap<u64, ReceivedPacket>,
    pub(crate) audio: BTreeMap<u64, ReceivedPacket>,
    /// Sender reports: wall-clock time and RTP time stamp.
    pub(crate) sender_reports: BTreeMap<&'static str, Vec<(SystemTime, u64)>>,
    pub(crate) closed_at: Option<Instant>,
}

/// A received packet.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedPacket {
    pub(crate) received_at: Instant,
    /// Extended RTP time stamp.
    pub(crate) timestamp: u64,
    pub(crate) marker: bool,
    pub(crate) keyframe: bool,
    /// Label in the first packet of a frame: layer, number and capture time.
    pub(crate) label: Option<(usize, u64, Duration)>,
}

impl PeerState {
    /// The layer of the latest frame.
    pub(crate) fn layer(&self) -> Option<usize> {
        self.video.values().rev().find_map(|packet| packet.label).map(|label| label.0)
    }

    /// Missing sequence numbers, without the latest ones, which may still arrive.
    pub(crate) fn missing(&self) -> Vec<u64> {
        let (Some(first), Some(last)) = (self.video.keys().next(), self.video.keys().last()) else {
            return Vec::new();
        };
        (*first..last.saturating_sub(30)).filter(|seq| !self.video.contains_key(seq)).collect()
    }
}

/// A publisher or viewer. Dropping it does not close the session.
#[derive(Debug)]
pub(crate) struct Peer {
    server: SocketAddr,
    /// Path of the session.
    pub(crate) session: String,
    pub(crate) etag: String,
    answer: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<PeerState>,
    changed: Condvar,
    controls: Mutex<Controls>,
}

#[derive(Debug, Default)]
struct Controls {
    stop: bool,
    close: bool,
    link: LinkConditions,
    /// Request for an ICE restart, its offer, and the answer to it.
    restart_ice: bool,
    restart_offer: Option<String>,
    restart_answer: Option<String>,
}

/// Parameters of a session.
#[derive(Debug, Clone)]
pub(crate) struct SessionRequest<'a> {
    pub(crate) room: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) token: Option<&'a str>,
    pub(crate) layers: &'a [Layer],
    pub(crate) link: LinkConditions,
}

impl<'a> SessionRequest<'a> {
    pub(crate) fn room(room: &'a str) -> Self {
        Self { room, user: None, token: None, layers: &LAYERS, link: LinkConditions::default() }
    }

    pub(crate) fn user(mut self, user: &'a str) -> Self {
        self.user = Some(user);
        self
    }

    pub(crate) fn layers(mut self, layers: &'a [Layer]) -> Self {
        self.layers = layers;
        self
    }

    pub(crate) fn link(mut self, link: LinkConditions) -> Self {
        self.link = link;
        self
    }

    fn path(&self, verb: &str) -> String {
        let user = self.user.map(|user| format!("?user={user}")).unwrap_or_default();
        format!("/rooms/{}/{verb}{user}", self.room)
    }
}

/// An offer, with the connection that created it.
pub(crate) struct PendingOffer {
    pub(crate) rtc: Rtc,
    pub(crate) sdp: String,
    pending: SdpPendingOffer,
    audio: Mid,
    video: Mid,
    transport: PeerTransport,
}

/// Creates an offer to publish these layers, or to watch.
pub(crate) fn offer(layers: Option<&[Layer]>, tcp: bool) -> Result<PendingOffer> {
    let transport =
        if tcp { PeerTransport::None } else { PeerTransport::Udp(UdpSocket::bind("127.0.0.1:0")?) };
    let mut config = Rtc::builder().clear_codecs().enable_opus(true, false);
    config = config.set_rtp_mode(layers.is_none());
    config = config.set_rtcp_report_interval_audio(Duration::from_secs(1));
    config.codec_config().add_h264(108.into(), Some(109.into()), true, 0x42_e01f);
    let mut rtc = config.build(Instant::now());
    if let PeerTransport::Udp(socket) = &transport {
        rtc.add_local_candidate(Candidate::host(socket.local_addr()?, "udp")?);
    }
    let direction = if layers.is_some() { Direction::SendOnly } else { Direction::RecvOnly };
    let mut change = rtc.sdp_api();
    let audio = change.add_media(MediaKind::Audio, direction, None, None, None);
    let simulcast = layers.filter(|layers| layers.len() > 1).map(|layers| {
        let send = layers.iter().map(|layer| SimulcastLayer::new(layer.rid)).collect();
        Simulcast { send, recv: Vec::new() }
    });
    let video = change.add_media(MediaKind::Video, direction, None, None, simulcast);
    let (offer, pending) = change.apply().context("no offer")?;
    Ok(PendingOffer { rtc, sdp: offer.to_sdp_string(), pending, audio, video, transport })
}

impl Peer {
    /// Publishes with WHIP.
    pub(crate) fn publish(server: SocketAddr, request: &SessionRequest<'_>) -> Result<Self> {
        Self::start(server, request, "whip", offer(Some(request.layers), request.link.tcp)?, true)
    }

    /// Watches with WHEP.
    pub(crate) fn watch(server: SocketAddr, request: &SessionRequest<'_>) -> Result<Self> {
        Self::start(server, request, "whep", offer(None, request.link.tcp)?, false)
    }

    fn start(
        server: SocketAddr,
        request: &SessionRequest<'_>,
        verb: &str,
        offer: PendingOffer,
        publishes: bool,
    ) -> Result<Self> {
        let answer = http::post_offer(server, &request.path(verb), request.token, &offer.sdp)?;
        ensure!(answer.status == 201, "the offer is answered with {}: {}", answer.status, answer.body);
        let PendingOffer { mut rtc, pending, audio, video, mut transport, .. } = offer;
        let sdp = SdpAnswer::from_sdp_string(&answer.body)?;
        rtc.sdp_api().accept_answer(pending, sdp)?;
        if matches!(transport, PeerTransport::None) {
            transport = PeerTransport::connect(&answer.body)?;
            let local = transport.local_address()?;
            let candidate = Candidate::builder().tcp().host(local).tcptype(TcpType::Active).build()?;
            rtc.add_local_candidate(candidate);
        }
        let shared = Arc::new(Shared::default());
        shared.controls().link = request.link.clone();
        let media = Media { audio, video, layers: request.layers.to_vec(), publishes };
        let (thread_shared, name) = (Arc::clone(&shared), if publishes { "publisher" } else { "viewer" });
        let run = move || {
            let mut peer_loop = PeerLoop {
                rtc,
                transport,
                media,
                shared: Arc::clone(&thread_shared),
                link: Link::new(link::LinkConditions::default(), 1),
                frames: None,
                pending: None,
            };
            if let Err(error) = peer_loop.run() {
                tracing::error!("peer failed: {error:#}");
            }
            thread_shared.update_state(|state| state.disconnected = true);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let header = |name| answer.header(name).map(str::to_owned).with_context(|| format!("no {name}"));
        let (session, etag) = (header("location")?, header("etag")?);
        Ok(Self { server, session, etag, answer: answer.body.clone(), shared, thread: Some(thread) })
    }

    /// Current state.
    pub(crate) fn state(&self) -> MutexGuard<'_, PeerState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a state that meets a condition.
    pub(crate) fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&PeerState) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while !condition(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (video, audio, layer) = (state.video.len(), state.audio.len(), state.layer());
                bail!(
                    "not within {limit:?}: {what}; {video} video and {audio} audio packets, layer {layer:?}"
                );
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Changes the conditions of the link.
    pub(crate) fn set_link(&self, link: LinkConditions) {
        self.shared.controls().link = link;
    }

    /// Restarts ICE while media continue.
    pub(crate) fn restart_ice(&self) -> Result<()> {
        self.shared.controls().restart_ice = true;
        let deadline = Instant::now() + Duration::from_secs(10);
        let offer = loop {
            if let Some(offer) = self.shared.controls().restart_offer.take() {
                break offer;
            }
            ensure!(Instant::now() < deadline, "no offer is created");
            std::thread::sleep(POLL_INTERVAL);
        };
        let is_ice = |line: &&str| line.starts_with("a=ice-ufrag:") || line.starts_with("a=ice-pwd:");
        let lines: Vec<&str> = offer.lines().filter(is_ice).take(2).collect();
        let headers = [("Content-Type", "application/trickle-ice-sdpfrag"), ("If-Match", "*")];
        let response = http::send_request(
            self.server,
            "PATCH",
            &self.session,
            &headers,
            &(lines.join("\r\n") + "\r\n"),
        )?;
        ensure!(
            response.status == 200,
            "the restart is answered with {}: {}",
            response.status,
            response.body
        );
        let mut answer = String::new();
        for line in self.answer.lines() {
            let name = is_ice(&line).then(|| line.split(':').next().unwrap_or_default());
            let new = name.and_then(|name| response.body.lines().find(|line| line.starts_with(name)));
            answer.push_str(new.unwrap_or(line));
            answer.push_str("\r\n");
        }
        self.shared.controls().restart_answer = Some(answer);
        Ok(())
    }

    /// Ends the session with DELETE.
    pub(crate) fn leave(self) -> Result<()> {
        let answer = http::send_request(self.server, "DELETE", &self.session, &[], "")?;
        ensure!(answer.status == 200, "DELETE is answered with {}", answer.status);
        Ok(())
    }

    /// Closes the connection, but not the session.
    pub(crate) fn close(&self) {
        self.shared.controls().close = true;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.controls().stop = true;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn controls(&self) -> MutexGuard<'_, Controls> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update_state(&self, change: impl FnOnce(&mut PeerState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

struct Media {
    audio: Mid,
    video: Mid,
    layers: Vec<Layer>,
    publishes: bool,
}

/// Socket of a peer.
enum PeerTransport {
    None,
    Udp(UdpSocket),
    /// The stream, received bytes, and unsent bytes.
    Tcp(TcpStream, Vec<u8>, Vec<u8>),
}

impl PeerTransport {
    /// Connects to the passive TCP candidate of an answer.
    fn connect(sdp: &str) -> Result<Self> {
        let passive = sdp.lines().find(|line| line.contains("tcptype passive")).context("no TCP")?;
        let fields: Vec<&str> = passive.split(' ').collect();
        let to: SocketAddr = format!("{}:{}", fields[4], fields[5]).parse()?;
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream, Vec::new(), Vec::new()))
    }

    fn local_address(&self) -> Result<SocketAddr> {
        Ok(match self {
            Self::None => bail!("no socket"),
            Self::Udp(socket) => socket.local_addr()?,
            Self::Tcp(stream, ..) => stream.local_addr()?,
        })
    }

    fn protocol(&self) -> Protocol {
        if matches!(self, Self::Tcp(..)) { Protocol::Tcp } else { Protocol::Udp }
    }

    fn send(&mut self, data: &[u8], to: SocketAddr) {
        match self {
            Self::None => {}
            Self::Udp(socket) => drop(socket.send_to(data, to)),
            Self::Tcp(stream, _, unsent) => {
                unsent.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
                unsent.extend(data);
                if let Ok(written) = stream.write(unsent) {
                    unsent.drain(..written);
                }
            }
        }
    }

    /// Waits for the next datagram. It polls, because socket timeouts are too coarse to measure a link.
    fn receive(&mut self, timeout: Duration) -> std::io::Result<(SocketAddr, Vec<u8>)> {
        let timeout = Timespec::try_from(timeout).unwrap_or_default();
        match self {
            Self::None => Err(ErrorKind::WouldBlock.into()),
            Self::Udp(socket) => {
                let mut datagram = [0; 2000];
                socket.set_nonblocking(true)?;
                poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout))?;
                let (length, from) = socket.recv_from(&mut datagram)?;
                Ok((from, datagram[..length].to_vec()))
            }
            Self::Tcp(stream, received, _) => {
                stream.set_nonblocking(true)?;
                loop {
                    if let [high, low, rest @ ..] = &received[..] {
                        let length = usize::from(u16::from_be_bytes([*high, *low]));
                        if let Some(frame) = rest.get(..length).map(<[u8]>::to_vec) {
                            received.drain(..length + 2);
                            return Ok((stream.peer_addr()?, frame));
                        }
                    }
                    let mut piece = [0; 4096];
                    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout))?;
                    let length = stream.read(&mut piece)?;
                    if length == 0 {
                        return Err(ErrorKind::ConnectionReset.into());
                    }
                    received.extend(&piece[..length]);
                }
            }
        }
    }
}

struct PeerLoop {
    rtc: Rtc,
    transport: PeerTransport,
    media: Media,
    shared: Arc<Shared>,
    /// Link of received datagrams, with their senders.
    link: Link<(SocketAddr, Vec<u8>)>,
    frames: Option<PublishProgress>,
    pending: Option<SdpPendingOffer>,
}

/// Progress of a publisher.
struct PublishProgress {
    origin: Instant,
    video: u64,
    audio: u64,
    keyframe: [bool; 2],
}

impl PeerLoop {
    fn run(&mut self) -> Result<()> {
        let mut reads_since = Instant::now();
        let (local, protocol) = (self.transport.local_address()?, self.transport.protocol());
        while self.rtc.is_alive() {
            let deadline = self.drain_output()?;
            let (stop, close, link) = {
                let controls = self.shared.controls();
                (controls.stop, controls.close, controls.link.clone())
            };
            if stop {
                return Ok(());
            }
            if close {
                self.rtc.close()?;
                continue;
            }
            if let Some([busy, reads]) = link.busy
                && reads_since.elapsed() >= reads
            {
                std::thread::sleep(busy);
                reads_since = Instant::now();
            }
            self.restart_ice()?;
            self.write_due()?;
            let wait = deadline
                .saturating_duration_since(Instant::now())
                .clamp(Duration::from_millis(1), POLL_INTERVAL);
            if link.no_reads {
                std::thread::sleep(wait);
                self.rtc.handle_input(Input::Timeout(Instant::now()))?;
                continue;
            }
            match self.transport.receive(wait) {
                Ok((from, data)) => {
                    let (now, length) = (Instant::now(), data.len());
                    self.link.handle(now, link::Input::Conditions(link.of_link()));
                    self.link.handle(now, link::Input::Datagram { datagram: (from, data), length });
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
            while let Some((from, data)) = self.link.poll(Instant::now()) {
                let received = Receive::new(protocol, from, local, &data);
                let Ok(received) = received else { continue };
                self.rtc.handle_input(Input::Receive(Instant::now(), received))?;
                self.drain_output()?;
            }
            self.rtc.handle_input(Input::Timeout(Instant::now()))?;
        }
        Ok(())
    }

    fn restart_ice(&mut self) -> Result<()> {
        let mut controls = self.shared.controls();
        if std::mem::take(&mut controls.restart_ice) {
            let mut change = self.rtc.sdp_api();
            change.ice_restart(true);
            let (offer, pending) = change.apply().context("no offer")?;
            (controls.restart_offer, self.pending) = (Some(offer.to_sdp_string()), Some(pending));
        }
        if let Some((answer, pending)) =
            controls.restart_answer.take().and_then(|answer| Some((answer, self.pending.take()?)))
        {
            self.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer)?)?;
        }
        drop(controls);
        self.drain_output().map(drop)
    }

    fn drain_output(&mut self) -> Result<Instant> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(transmit) => {
                    let mute = self.shared.controls().link.no_media && is_media(&transmit.contents);
                    if !mute {
                        self.transport.send(&transmit.contents, transmit.destination);
                    }
                }
                Output::Event(event) => self.handle_event(event),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.shared.update_state(|state| state.connected = true);
                self.frames = self.media.publishes.then(|| PublishProgress {
                    origin: Instant::now(),
                    video: 0,
                    audio: 0,
                    keyframe: [true; 2],
                });
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                self.shared.update_state(|state| state.disconnected = true);
            }
            Event::Closed => self.shared.update_state(|state| {
                state.disconnected = true;
                state.closed_at = Some(Instant::now());
            }),
            Event::KeyframeRequest(request) => {
                let layer = self
                    .media
                    .layers
                    .iter()
                    .position(|layer| Some(Rid::from(layer.rid)) == request.rid)
                    .unwrap_or(0);
                if let Some(frames) = &mut self.frames {
                    frames.keyframe[layer] = true;
                }
                self.shared.update_state(|state| state.keyframe_requests[layer] += 1);
            }
            Event::SenderFeedback(feedback) => {
                let kind = if feedback.mid == self.media.video { "video" } else { "audio" };
                let info = feedback.sender_info;
                self.shared.update_state(|state| {
                    state
                        .sender_reports
                        .entry(kind)
                        .or_default()
                        .push((info.ntp_time, info.rtp_time.numer()));
                });
            }
            Event::RtpPacket(packet) => {
                let mid = self.rtc.direct_api().stream_rx(&packet.header.ssrc).map(|stream| stream.mid());
                let (label, keyframe) = parse_label(&packet.payload);
                let received = ReceivedPacket {
                    received_at: Instant::now(),
                    timestamp: packet.time.numer(),
                    marker: packet.header.marker,
                    keyframe,
                    label,
                };
                let is_video = mid == Some(self.media.video);
                self.shared.update_state(|state| {
                    let packets = if is_video { &mut state.video } else { &mut state.audio };
                    packets.insert(*packet.seq_no, received);
                });
            }
            _ => {}
        }
    }

    /// Writes the frames and audio packets that are due.
    fn write_due(&mut self) -> Result<()> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        let (now, mut due) = (Instant::now(), Vec::new());
        let at = |count: u64, rate: u64| Duration::from_nanos(count * 1_000_000_000 / rate);
        while frames.origin + at(frames.video, FPS.into()) <= now {
            let pts = at(frames.video, FPS.into());
            for (index, layer) in self.media.layers.iter().enumerate() {
                let keyframe = std::mem::take(&mut frames.keyframe[index]);
                due.push((
                    Some((index, layer.rid)),
                    pts,
                    test_frame(index, frames.video, pts, keyframe, layer.bps),
                ));
            }
            frames.video += 1;
        }
        while frames.origin + at(frames.audio, 50) <= now {
            let pts = at(frames.audio, 50);
            let mut data = frame_label(9, frames.audio, pts);
            data.resize(100, 0x55);
            due.push((None, pts, data));
            frames.audio += 1;
        }
        let (origin, simulcast) = (frames.origin, self.media.layers.len() > 1);
        for (layer, pts, data) in due {
            let (mid, codec) = match layer {
                Some(_) => (self.media.video, Codec::H264),
                None => (self.media.audio, Codec::Opus),
            };
            let Some(mut writer) = self.rtc.writer(mid) else { continue };
            let Some(pt) = writer.payload_params().find(|p| p.spec().codec == codec).map(|p| p.pt()) else {
                continue;
            };
            if let (Some((_, rid)), true) = (layer, simulcast) {
                writer = writer.rid(Rid::from(rid));
            }
            // Each layer and the audio have their own time stamp offset.
            let time = match layer {
                Some((index, _)) => video_time(pts, index),
                None => MediaTime::new(
                    7_000_000 + pts.as_nanos() as u64 * 48 / 1_000_000,
                    Frequency::FORTY_EIGHT_KHZ,
                ),
            };
            writer.write(pt, origin + pts, time, data)?;
            self.drain_output()?;
            self.rtc.handle_input(Input::Timeout(Instant::now()))?;
            self.drain_output()?;
        }
        Ok(())
    }
}

fn video_time(pts: Duration, layer: usize) -> MediaTime {
    MediaTime::new(100_000 * (layer as u64 + 1) + pts.as_nanos() as u64 * 9 / 100_000, Frequency::NINETY_KHZ)
}

/// Whether a datagram is RTP or RTCP rather than STUN or DTLS (RFC 7983).
fn is_media(data: &[u8]) -> bool {
    data.first().is_some_and(|first| *first >= 128)
}

fn frame_label(layer: usize, frame: u64, pts: Duration) -> Vec<u8> {
    format!("L{layer}F{frame:08}T{:012}", pts.as_micros()).into_bytes()
}

/// An H.264 access unit that contains a label.
fn test_frame(layer: usize, frame: u64, pts: Duration, keyframe: bool, bps: u32) -> Vec<u8> {
    let start: &[u8] = &[0, 0, 0, 1];
    let mut data = Vec::new();
    if keyframe {
        for unit in [if layer == 0 { SPS_720 } else { SPS_360 }, PPS] {
            data.extend(start);
            data.extend(unit);
        }
    }
    data.extend(start);
    data.push(if keyframe { 0x65 } else { 0x41 });
    data.extend(frame_label(layer, frame, pts));
    let size = (bps / 8 / FPS) as usize * if keyframe { 4 } else { 1 };
    data.resize(size.max(data.len()), 0x55);
    data
}

/// The label in a packet, and whether a keyframe starts with it.
fn parse_label(payload: &[u8]) -> (Option<(usize, u64, Duration)>, bool) {
    let kind = payload.first().map_or(0, |first| first & 0x1f);
    let label = match kind {
        28 if payload.get(1).is_some_and(|header| header & 0x80 != 0) => payload.get(2..),
        1 | 5 => payload.get(1..),
        _ if payload.first() == Some(&b'L') => Some(payload),
        _ => None,
    };
    let text = label.and_then(|label| std::str::from_utf8(label.get(..24)?).ok());
    let parsed = text.and_then(|text| {
        let (layer, rest) = text.strip_prefix('L')?.split_once('F')?;
        let (frame, pts) = rest.split_once('T')?;
        Some((layer.parse().ok()?, frame.parse().ok()?, Duration::from_micros(pts.parse().ok()?)))
    });
    (parsed, matches!(kind, 7 | 24) && payload.first() != Some(&b'L'))
}
