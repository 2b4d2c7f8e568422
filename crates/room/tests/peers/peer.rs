//! Those who publish and watch in tests: str0m, a socket, and a thread each.
//!
//! What is published is no picture, but says what it is: which layer, which frame, and when it was made.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
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
/// Longest wait for a datagram, so that orders are heard.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A layer of what is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) rid: &'static str,
    pub(crate) bps: u32,
}

/// Two layers, as Pagecast sends them.
pub(crate) const LAYERS: [Layer; 2] = [Layer { rid: "h", bps: 1_200_000 }, Layer { rid: "m", bps: 300_000 }];

/// How somebody is connected, and what the line does to what comes.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkConditions {
    /// Sends no RTP and RTCP: only takes.
    pub(crate) no_media: bool,
    /// Reads nothing.
    pub(crate) no_reads: bool,
    /// Goes by TCP; only at the beginning.
    pub(crate) tcp: bool,
    /// What gets through, in bit/s, after a queue of 300 ms.
    pub(crate) bandwidth_bps: Option<u64>,
    /// Every so manieth datagram is lost; 0: none.
    pub(crate) drop_every: u64,
    /// The receiver does something else for so long, each time after it has read for so long. Nothing is lost
    /// by that.
    pub(crate) busy: Option<[Duration; 2]>,
}

/// What is known of a peer from outside.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) connected: bool,
    /// The other side has said goodbye, or nothing for too long.
    pub(crate) disconnected: bool,
    /// Of a publisher: keyframes that were asked for, by layer.
    pub(crate) keyframe_requests: [u64; 2],
    /// Of a viewer: all packets of the picture and of the sound by sequence number.
    pub(crate) video: BTreeMap<u64, ReceivedPacket>,
    pub(crate) audio: BTreeMap<u64, ReceivedPacket>,
    /// Sender reports: the wall clock, and what time stamp it was.
    pub(crate) sender_reports: BTreeMap<&'static str, Vec<(SystemTime, u64)>>,
    pub(crate) closed_at: Option<Instant>,
}

/// A packet that came.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedPacket {
    pub(crate) received_at: Instant,
    /// RTP time stamp, counted on.
    pub(crate) timestamp: u64,
    pub(crate) marker: bool,
    pub(crate) keyframe: bool,
    /// What it says, if it is the first of its picture: layer, frame, and when it was made.
    pub(crate) label: Option<(usize, u64, Duration)>,
}

impl PeerState {
    /// The layer of the latest picture.
    pub(crate) fn layer(&self) -> Option<usize> {
        self.video.values().rev().find_map(|got| got.label).map(|says| says.0)
    }

    /// Sequence numbers that never came, up to the latest but those of the last moments.
    pub(crate) fn missing(&self) -> Vec<u64> {
        let (Some(first), Some(last)) = (self.video.keys().next(), self.video.keys().last()) else {
            return Vec::new();
        };
        (*first..last.saturating_sub(30)).filter(|seq| !self.video.contains_key(seq)).collect()
    }
}

/// A publisher or viewer; dropped, it goes without a word.
#[derive(Debug)]
pub(crate) struct Peer {
    server: SocketAddr,
    /// Its session at the server.
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
    /// An ICE restart is wanted; its offer; the answer to it.
    restart_ice: bool,
    restart_offer: Option<String>,
    restart_answer: Option<String>,
}

/// What is published or watched, and as whom.
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

    pub(crate) fn link(mut self, line: LinkConditions) -> Self {
        self.link = line;
        self
    }

    fn path(&self, verb: &str) -> String {
        let user = self.user.map(|user| format!("?user={user}")).unwrap_or_default();
        format!("/rooms/{}/{verb}{user}", self.room)
    }
}

/// An offer of one who publishes, with the connection that made it.
pub(crate) struct PendingOffer {
    pub(crate) rtc: Rtc,
    pub(crate) sdp: String,
    pending: SdpPendingOffer,
    audio: Mid,
    video: Mid,
    transport: PeerTransport,
}

/// Offers to publish these layers, or to watch.
pub(crate) fn offer(layers: Option<&[Layer]>, tcp: bool) -> Result<PendingOffer> {
    let wire = if tcp { PeerTransport::None } else { PeerTransport::Udp(UdpSocket::bind("127.0.0.1:0")?) };
    let mut config = Rtc::builder().clear_codecs().enable_opus(true, false);
    config = config.set_rtp_mode(layers.is_none());
    config = config.set_rtcp_report_interval_audio(Duration::from_secs(1));
    config.codec_config().add_h264(108.into(), Some(109.into()), true, 0x42_e01f);
    let mut rtc = config.build(Instant::now());
    if let PeerTransport::Udp(socket) = &wire {
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
    Ok(PendingOffer { rtc, sdp: offer.to_sdp_string(), pending, audio, video, transport: wire })
}

impl Peer {
    /// Publishes.
    pub(crate) fn publish(server: SocketAddr, wish: &SessionRequest<'_>) -> Result<Self> {
        Self::start(server, wish, "whip", offer(Some(wish.layers), wish.link.tcp)?, true)
    }

    /// Watches.
    pub(crate) fn watch(server: SocketAddr, wish: &SessionRequest<'_>) -> Result<Self> {
        Self::start(server, wish, "whep", offer(None, wish.link.tcp)?, false)
    }

    fn start(
        server: SocketAddr,
        wish: &SessionRequest<'_>,
        verb: &str,
        offered: PendingOffer,
        publishes: bool,
    ) -> Result<Self> {
        let answer = http::post_offer(server, &wish.path(verb), wish.token, &offered.sdp)?;
        ensure!(answer.status == 201, "the offer is answered with {}: {}", answer.status, answer.body);
        let PendingOffer { mut rtc, pending, audio, video, transport: mut wire, .. } = offered;
        let sdp = SdpAnswer::from_sdp_string(&answer.body)?;
        rtc.sdp_api().accept_answer(pending, sdp)?;
        if matches!(wire, PeerTransport::None) {
            wire = PeerTransport::connect(&answer.body)?;
            let here =
                Candidate::builder().tcp().host(wire.local_address()?).tcptype(TcpType::Active).build()?;
            rtc.add_local_candidate(here);
        }
        let shared = Arc::new(Shared::default());
        shared.controls().link = wish.link.clone();
        let media = Media { audio, video, layers: wish.layers.to_vec(), publishes };
        let (for_thread, name) = (Arc::clone(&shared), if publishes { "publisher" } else { "viewer" });
        let run = move || {
            let mut run = PeerLoop {
                rtc,
                transport: wire,
                media,
                shared: Arc::clone(&for_thread),
                queue: VecDeque::new(),
                frames: None,
                pending: None,
            };
            if let Err(error) = run.run() {
                tracing::error!("a peer ends: {error:#}");
            }
            for_thread.update_state(|seen| seen.disconnected = true);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let header = |name| answer.header(name).map(str::to_owned).with_context(|| format!("no {name}"));
        let (session, etag) = (header("location")?, header("etag")?);
        Ok(Self { server, session, etag, answer: answer.body.clone(), shared, thread: Some(thread) })
    }

    /// What it has seen.
    pub(crate) fn state(&self) -> MutexGuard<'_, PeerState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has seen this.
    pub(crate) fn wait(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&PeerState) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut seen = self.state();
        while !condition(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (video, audio, layer) = (seen.video.len(), seen.audio.len(), seen.layer());
                bail!(
                    "not within {limit:?}: {what}; {video} of the picture, {audio} of the sound, layer {layer:?}"
                );
            }
            seen = self.shared.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Changes the line.
    pub(crate) fn set_link(&self, line: LinkConditions) {
        self.shared.controls().link = line;
    }

    /// Finds new ways to the server, while media go on (ICE restart).
    pub(crate) fn restart_ice(&self) -> Result<()> {
        self.shared.controls().restart_ice = true;
        let deadline = Instant::now() + Duration::from_secs(10);
        let offered = loop {
            if let Some(offered) = self.shared.controls().restart_offer.take() {
                break offered;
            }
            ensure!(Instant::now() < deadline, "no offer is made");
            std::thread::sleep(POLL_INTERVAL);
        };
        let is_ice = |line: &&str| line.starts_with("a=ice-ufrag:") || line.starts_with("a=ice-pwd:");
        let lines: Vec<&str> = offered.lines().filter(is_ice).take(2).collect();
        let headers = [("Content-Type", "application/trickle-ice-sdpfrag"), ("If-Match", "*")];
        let said = http::send_request(
            self.server,
            "PATCH",
            &self.session,
            &headers,
            &(lines.join("\r\n") + "\r\n"),
        )?;
        ensure!(said.status == 200, "the restart is answered with {}: {}", said.status, said.body);
        let mut answer = String::new();
        for line in self.answer.lines() {
            let name = is_ice(&line).then(|| line.split(':').next().unwrap_or_default());
            let new = name.and_then(|name| said.body.lines().find(|line| line.starts_with(name)));
            answer.push_str(new.unwrap_or(line));
            answer.push_str("\r\n");
        }
        self.shared.controls().restart_answer = Some(answer);
        Ok(())
    }

    /// Ends the session properly.
    pub(crate) fn leave(self) -> Result<()> {
        let answer = http::send_request(self.server, "DELETE", &self.session, &[], "")?;
        ensure!(answer.status == 200, "DELETE is answered with {}", answer.status);
        Ok(())
    }

    /// Ends the connection properly, but not the session.
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

/// How datagrams go.
enum PeerTransport {
    None,
    Udp(UdpSocket),
    /// What has come, and what was not taken yet.
    Tcp(TcpStream, Vec<u8>, Vec<u8>),
}

impl PeerTransport {
    /// To the passive candidate of an answer.
    fn connect(sdp: &str) -> Result<Self> {
        let passive = sdp.lines().find(|line| line.contains("tcptype passive")).context("no TCP")?;
        let words: Vec<&str> = passive.split(' ').collect();
        let to: SocketAddr = format!("{}:{}", words[4], words[5]).parse()?;
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream, Vec::new(), Vec::new()))
    }

    fn local_address(&self) -> Result<SocketAddr> {
        Ok(match self {
            Self::None => bail!("no wire"),
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
            Self::Tcp(stream, _, left) => {
                left.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
                left.extend(data);
                if let Ok(taken) = stream.write(left) {
                    left.drain(..taken);
                }
            }
        }
    }

    /// The next datagram, waited for until then. Time-outs of sockets are too rough for who measures a line.
    fn receive(&mut self, wait: Duration) -> std::io::Result<(SocketAddr, Vec<u8>)> {
        let wait = Timespec::try_from(wait).unwrap_or_default();
        match self {
            Self::None => Err(ErrorKind::WouldBlock.into()),
            Self::Udp(socket) => {
                let mut datagram = [0; 2000];
                socket.set_nonblocking(true)?;
                poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait))?;
                let (length, from) = socket.recv_from(&mut datagram)?;
                Ok((from, datagram[..length].to_vec()))
            }
            Self::Tcp(stream, come, _) => {
                stream.set_nonblocking(true)?;
                loop {
                    if let [high, low, rest @ ..] = &come[..] {
                        let length = usize::from(u16::from_be_bytes([*high, *low]));
                        if let Some(frame) = rest.get(..length).map(<[u8]>::to_vec) {
                            come.drain(..length + 2);
                            return Ok((stream.peer_addr()?, frame));
                        }
                    }
                    let mut piece = [0; 4096];
                    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&wait))?;
                    let length = stream.read(&mut piece)?;
                    if length == 0 {
                        return Err(ErrorKind::ConnectionReset.into());
                    }
                    come.extend(&piece[..length]);
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
    /// What is under way on a slow line, and when it arrives.
    queue: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    frames: Option<PublishProgress>,
    pending: Option<SdpPendingOffer>,
}

/// What is published.
struct PublishProgress {
    origin: Instant,
    video: u64,
    audio: u64,
    keyframe: [bool; 2],
}

impl PeerLoop {
    fn run(&mut self) -> Result<()> {
        let (mut count, mut free_at, mut reads_since) = (0_u64, Instant::now(), Instant::now());
        let (local, protocol) = (self.transport.local_address()?, self.transport.protocol());
        while self.rtc.is_alive() {
            let deadline = self.drain_output()?;
            let (stop, close, line) = {
                let orders = self.shared.controls();
                (orders.stop, orders.close, orders.link.clone())
            };
            if stop {
                return Ok(());
            }
            if close {
                self.rtc.close()?;
                continue;
            }
            if let Some([busy, reads]) = line.busy
                && reads_since.elapsed() >= reads
            {
                std::thread::sleep(busy);
                reads_since = Instant::now();
            }
            self.restart_ice()?;
            self.write_due()?;
            let soon = deadline
                .saturating_duration_since(Instant::now())
                .clamp(Duration::from_millis(1), POLL_INTERVAL);
            if line.no_reads {
                std::thread::sleep(soon);
                self.rtc.handle_input(Input::Timeout(Instant::now()))?;
                continue;
            }
            match self.transport.receive(soon) {
                Ok((from, data)) => {
                    count += 1;
                    let now = Instant::now();
                    if line.drop_every == 0 || !count.is_multiple_of(line.drop_every) {
                        let bits = data.len() as u64 * 8;
                        let takes = line
                            .bandwidth_bps
                            .map_or(Duration::ZERO, |bps| Duration::from_secs_f64(bits as f64 / bps as f64));
                        if free_at.saturating_duration_since(now) < Duration::from_millis(300) {
                            free_at = free_at.max(now) + takes;
                            self.queue.push_back((free_at, from, data));
                        }
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
            while self.queue.front().is_some_and(|(at, ..)| *at <= Instant::now()) {
                let Some((_, from, data)) = self.queue.pop_front() else { break };
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
        let mut orders = self.shared.controls();
        if std::mem::take(&mut orders.restart_ice) {
            let mut change = self.rtc.sdp_api();
            change.ice_restart(true);
            let (offer, pending) = change.apply().context("no offer")?;
            (orders.restart_offer, self.pending) = (Some(offer.to_sdp_string()), Some(pending));
        }
        if let Some((answer, pending)) =
            orders.restart_answer.take().and_then(|answer| Some((answer, self.pending.take()?)))
        {
            self.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer)?)?;
        }
        drop(orders);
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
                self.shared.update_state(|seen| seen.connected = true);
                self.frames = self.media.publishes.then(|| PublishProgress {
                    origin: Instant::now(),
                    video: 0,
                    audio: 0,
                    keyframe: [true; 2],
                });
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                self.shared.update_state(|seen| seen.disconnected = true);
            }
            Event::Closed => self.shared.update_state(|seen| {
                seen.disconnected = true;
                seen.closed_at = Some(Instant::now());
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
                self.shared.update_state(|seen| seen.keyframe_requests[layer] += 1);
            }
            Event::SenderFeedback(feedback) => {
                let kind = if feedback.mid == self.media.video { "video" } else { "audio" };
                let info = feedback.sender_info;
                self.shared.update_state(|seen| {
                    seen.sender_reports.entry(kind).or_default().push((info.ntp_time, info.rtp_time.numer()));
                });
            }
            Event::RtpPacket(packet) => {
                let mid = self.rtc.direct_api().stream_rx(&packet.header.ssrc).map(|stream| stream.mid());
                let (says, keyframe) = parse_label(&packet.payload);
                let got = ReceivedPacket {
                    received_at: Instant::now(),
                    timestamp: packet.time.numer(),
                    marker: packet.header.marker,
                    keyframe,
                    label: says,
                };
                let is_video = mid == Some(self.media.video);
                self.shared.update_state(|seen| {
                    let list = if is_video { &mut seen.video } else { &mut seen.audio };
                    list.insert(*packet.seq_no, got);
                });
            }
            _ => {}
        }
    }

    /// Writes what is due.
    fn write_due(&mut self) -> Result<()> {
        let Some(frames) = &mut self.frames else { return Ok(()) };
        let (now, mut due) = (Instant::now(), Vec::new());
        let at = |count: u64, rate: u64| Duration::from_nanos(count * 1_000_000_000 / rate);
        while frames.origin + at(frames.video, FPS.into()) <= now {
            let made = at(frames.video, FPS.into());
            for (index, layer) in self.media.layers.iter().enumerate() {
                let keyframe = std::mem::take(&mut frames.keyframe[index]);
                due.push((
                    Some((index, layer.rid)),
                    made,
                    test_frame(index, frames.video, made, keyframe, layer.bps),
                ));
            }
            frames.video += 1;
        }
        while frames.origin + at(frames.audio, 50) <= now {
            let made = at(frames.audio, 50);
            let mut data = frame_label(9, frames.audio, made);
            data.resize(100, 0x55);
            due.push((None, made, data));
            frames.audio += 1;
        }
        let (origin, simulcast) = (frames.origin, self.media.layers.len() > 1);
        for (layer, made, data) in due {
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
            // Time stamps of picture, layers and sound begin anywhere.
            let time = match layer {
                Some((index, _)) => video_time(made, index),
                None => MediaTime::new(
                    7_000_000 + made.as_nanos() as u64 * 48 / 1_000_000,
                    Frequency::FORTY_EIGHT_KHZ,
                ),
            };
            writer.write(pt, origin + made, time, data)?;
            self.drain_output()?;
            self.rtc.handle_input(Input::Timeout(Instant::now()))?;
            self.drain_output()?;
        }
        Ok(())
    }
}

fn video_time(made: Duration, layer: usize) -> MediaTime {
    MediaTime::new(100_000 * (layer as u64 + 1) + made.as_nanos() as u64 * 9 / 100_000, Frequency::NINETY_KHZ)
}

/// RTP and RTCP; not STUN and DTLS.
fn is_media(data: &[u8]) -> bool {
    data.first().is_some_and(|first| *first >= 128)
}

fn frame_label(layer: usize, frame: u64, made: Duration) -> Vec<u8> {
    format!("L{layer}F{frame:08}T{:012}", made.as_micros()).into_bytes()
}

/// A picture as a decoder would get it, which says what it is.
fn test_frame(layer: usize, frame: u64, made: Duration, keyframe: bool, bps: u32) -> Vec<u8> {
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
    data.extend(frame_label(layer, frame, made));
    let size = (bps / 8 / FPS) as usize * if keyframe { 4 } else { 1 };
    data.resize(size.max(data.len()), 0x55);
    data
}

/// What a packet says, and whether a decoder can begin with it.
fn parse_label(payload: &[u8]) -> (Option<(usize, u64, Duration)>, bool) {
    let kind = payload.first().map_or(0, |first| first & 0x1f);
    let says = match kind {
        28 if payload.get(1).is_some_and(|header| header & 0x80 != 0) => payload.get(2..),
        1 | 5 => payload.get(1..),
        _ if payload.first() == Some(&b'L') => Some(payload),
        _ => None,
    };
    let text = says.and_then(|says| std::str::from_utf8(says.get(..24)?).ok());
    let parsed = text.and_then(|text| {
        let (layer, rest) = text.strip_prefix('L')?.split_once('F')?;
        let (frame, made) = rest.split_once('T')?;
        Some((layer.parse().ok()?, frame.parse().ok()?, Duration::from_micros(made.parse().ok()?)))
    });
    (parsed, matches!(kind, 7 | 24) && payload.first() != Some(&b'L'))
}
