//! The offering side of a peer connection, which sends a stream. Sans-IO: callers hand in the time and
//! inputs, and carry out the outputs.
//!
//! Methods with a result negotiate. Then [`PeerConnection::handle`] takes an input, [`PeerConnection::poll`]
//! returns the next output to carry out, and [`PeerConnection::deadline`] is the latest time to hand in
//! [`Input::Timeout`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use pagecast_core::Packet;
use pagecast_core::spec::{Layer, RoomCodec};
use str0m::bwe::{Bitrate, BweKind};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{
    Direction, Frequency, MediaKind, MediaTime as RtpTime, Mid, Pt, Rid, Simulcast, SimulcastLayer,
};
use str0m::net::Receive;
use str0m::rtp::Ssrc;
use str0m::stats::{MediaEgressStats, PeerStats};
use str0m::{Candidate, Event as RtcEvent, IceConnectionState, Input as RtcInput, Output as RtcOutput, Rtc};

use super::{Datagram, LinkStats, Transmit};
use crate::sdp::describe_parse_error;
use crate::signaling::{Offer, OfferedLayer};

/// Payload types of H.264 and of its retransmissions, the same as Chromium's.
const H264_PT: (u8, u8) = (108, 109);
/// Constrained Baseline, level 3.1, which every browser supports. Higher levels are sent all the same (RFC
/// 6184, level asymmetry).
const H264_PROFILE: u32 = 0x42_e01f;
/// Bandwidth estimate before the first measurement, in bit/s: most uplinks carry this.
const INITIAL_ESTIMATE_BPS: u32 = 1_500_000;
/// Longest interval of ICE connectivity checks. Their answers show that the server is reachable even while
/// no media is sent.
const MAX_STUN_RTO: Duration = Duration::from_millis(500);
/// Interval of link measurements and statistics. Congestion is detected with the second measurement.
const STATS_INTERVAL: Duration = Duration::from_millis(250);
/// Packets kept for retransmission: one second of busy video.
const RETRANSMIT_BUFFER_PACKETS: usize = 2000;
/// Ticks per second of RTP time stamps (RFC 6184, RFC 7741; RFC 7587).
const VIDEO_CLOCK_RATE: u32 = 90_000;
const AUDIO_CLOCK_RATE: u32 = 48_000;

/// Why a connection cannot be established or used. Texts from the server are shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The answer is malformed.
    #[error("the server's answer cannot be used: {0}")]
    Answer(String),
    /// The server does not accept the codec.
    #[error("the server does not accept {0}; choose another codec")]
    CodecRejected(&'static str),
    /// The server does not accept two layers.
    #[error("the server accepts one layer only; turn simulcast off")]
    SimulcastRejected,
    /// ICE, DTLS or RTP failed.
    #[error("the connection failed: {0}")]
    ConnectionFailed(String),
}

/// One offering WebRTC connection.
pub(crate) struct PeerConnection {
    rtc: Rtc,
    codec: RoomCodec,
    layers: Vec<Layer>,
    rids: Vec<Option<Rid>>,
    audio: Mid,
    video: Mid,
    pending: Option<SdpPendingOffer>,
    sdp: String,
    payload_types: Option<(Pt, Pt)>,
    /// Streams without a sent packet.
    held_streams: Vec<(Mid, Option<Rid>, Ssrc, Option<Ssrc>)>,
    /// Streams with only their first packet sent.
    started_streams: Vec<(Mid, Option<Rid>)>,
    /// The instant of pts zero.
    time_origin: Option<Instant>,
    connected: bool,
    deadline: Option<Instant>,
    /// Whether a packet was written, which str0m sends with the next timeout.
    has_written: bool,
    /// Whether the connection has failed, and the error until it is polled.
    has_failed: bool,
    failure: Option<Error>,
    /// Whether the link shows neither loss nor delay; see [`Input::LinkClear`].
    link_clear: bool,
    /// Estimated bandwidth in bit/s: our own (TWCC) and the server's (REMB).
    capacities_bps: [Option<u32>; 2],
    stats: Stats,
}

impl std::fmt::Debug for PeerConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConnection").field("connected", &self.connected).finish_non_exhaustive()
    }
}

/// Input of a [`PeerConnection`].
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// A datagram arrived.
    Datagram(Datagram<'a>),
    /// A packet of a video layer is to be sent.
    Video {
        /// Index of the layer.
        layer: usize,
        /// The layer's next packet.
        packet: &'a Packet,
    },
    /// A packet of the audio is to be sent.
    Audio(&'a Packet),
    /// The server has a further candidate, `candidate:…`. One that cannot be parsed is ignored.
    RemoteCandidate(&'a str),
    /// The link shows neither loss nor delay, or does again. On a clear link the pacer does not delay
    /// packets, however low the estimate is.
    LinkClear(bool),
    /// The bandwidth estimator is to restart from this estimate, in bit/s.
    ResetEstimate(u64),
    /// The connection is to be closed.
    Close,
    /// Time has passed; see [`PeerConnection::deadline`].
    Timeout,
}

/// Output of a [`PeerConnection`] that the caller carries out.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send a datagram.
    Transmit(Transmit),
    /// Process an event.
    Event(Event),
}

/// Event of a connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The connection is established: media can be sent.
    Connected,
    /// ICE lost the server; it may recover.
    Disconnected,
    /// The server has closed the connection.
    Closed,
    /// The server requests a keyframe of this layer.
    KeyframeRequested(usize),
    /// Estimated bandwidth of the link (TWCC), in bit/s.
    BandwidthEstimate(u32),
    /// Highest bitrate that the server accepts (REMB), in bit/s.
    ReceiverLimit(u32),
    /// The link was measured.
    LinkMeasured(LinkStats),
    /// The connection has failed; no output follows.
    Failed(Error),
}

/// Statistics of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats {
    /// Round-trip time.
    pub(crate) rtt: Option<Duration>,
    /// Estimated bandwidth, in bit/s.
    pub(crate) estimate_bps: Option<u32>,
    /// Statistics of the layers, followed by those of the audio.
    pub(crate) streams: Vec<StreamStats>,
}

/// Statistics of one layer or of the audio.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StreamStats {
    /// Sent bytes, retransmissions included.
    pub(crate) bytes: u64,
    /// Recent packet loss, 0 to 1.
    pub(crate) loss: f32,
    /// Received NACKs.
    pub(crate) nacks: u64,
    /// Received keyframe requests.
    pub(crate) keyframe_requests: u64,
}

impl PeerConnection {
    /// A connection without candidates. `rids` are used if there are two layers.
    pub(crate) fn new(now: Instant, codec: RoomCodec, layers: &[Layer], rids: [&str; 2]) -> Self {
        let first = layers.iter().map(Layer::bitrate_bps).sum::<u32>().min(INITIAL_ESTIMATE_BPS);
        let mut config = Rtc::builder()
            .set_extension_map(super::extension_map())
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(codec == RoomCodec::Vp8)
            .enable_bwe(Some(Bitrate::bps(first.into())))
            .set_send_buffer_video(RETRANSMIT_BUFFER_PACKETS)
            .set_stats_interval(Some(STATS_INTERVAL));
        if codec == RoomCodec::H264 {
            let (pt, resend) = (Pt::from(H264_PT.0), Pt::from(H264_PT.1));
            config.codec_config().add_h264(pt, Some(resend), true, H264_PROFILE);
        }
        config.set_max_stun_rto(MAX_STUN_RTO);
        let rtc = config.build(now);
        let rids = match layers {
            [_] => vec![None],
            _ => rids.iter().map(|rid| Some(Rid::from(*rid))).collect(),
        };
        let stats = Stats { streams: vec![StreamStats::default(); layers.len() + 1], ..Stats::default() };
        let mut peer = Self {
            rtc,
            codec,
            layers: layers.to_vec(),
            rids,
            audio: Mid::new(),
            video: Mid::new(),
            pending: None,
            sdp: String::new(),
            payload_types: None,
            held_streams: Vec::new(),
            started_streams: Vec::new(),
            time_origin: None,
            connected: false,
            deadline: Some(now),
            has_written: false,
            has_failed: false,
            failure: None,
            link_clear: false,
            capacities_bps: [None; 2],
            stats,
        };
        peer.set_desired_bitrate();
        peer
    }

    /// Sets the bitrate that the estimate may grow to.
    fn set_desired_bitrate(&mut self) {
        let desired = self.layers.iter().map(Layer::bitrate_bps).sum::<u32>();
        // More than is needed, because estimates vary.
        let desired = Bitrate::bps(u64::from(desired) * 5 / 4 + 100_000);
        self.rtc.bwe().set_bitrate(Bitrate::ZERO, desired);
    }

    /// Adds a local candidate.
    pub(crate) fn add_local_candidate(&mut self, candidate: Candidate) {
        self.rtc.add_local_candidate(candidate);
    }

    fn add_remote_candidate(&mut self, candidate: &str) {
        match Candidate::from_sdp_string(candidate) {
            Ok(candidate) => self.rtc.add_remote_candidate(candidate),
            // For example mDNS names, which end in .local.
            Err(error) => tracing::debug!(%error, "remote candidate ignored"),
        }
    }

    /// Creates an offer with all candidates known so far. Each offer after the first restarts ICE.
    pub(crate) fn create_offer(&mut self) -> Offer {
        let (rids, is_restart) = (self.rids.clone(), self.payload_types.is_some());
        let mut change = self.rtc.sdp_api();
        if is_restart {
            change.ice_restart(true);
        } else {
            let simulcast = (rids.len() > 1).then(|| Simulcast {
                send: rids
                    .iter()
                    .flatten()
                    .map(|rid| SimulcastLayer { rid: *rid, attributes: None })
                    .collect(),
                recv: Vec::new(),
            });
            let (stream, send) = (Some("pagecast".to_owned()), Direction::SendOnly);
            self.audio = change.add_media(MediaKind::Audio, send, stream.clone(), Some("audio".into()), None);
            self.video = change.add_media(MediaKind::Video, send, stream, Some("video".into()), simulcast);
        }
        if let Some((offer, pending)) = change.apply() {
            self.pending = Some(pending);
            self.sdp = offer.to_sdp_string();
        }
        let layers = self.layers.iter().zip(&self.rids).map(|(layer, rid)| OfferedLayer {
            rid: rid.map(|rid| rid.to_string()),
            size: (layer.size.width(), layer.size.height()),
            fps: layer.fps.get(),
            bitrate_bps: layer.bitrate_bps(),
        });
        Offer {
            sdp: self.sdp.clone(),
            audio_mid: self.audio.to_string(),
            video_mid: self.video.to_string(),
            layers: layers.collect(),
        }
    }

    /// The SDP of the last offer.
    pub(crate) fn offer_sdp(&self) -> &str {
        &self.sdp
    }

    /// Accepts the answer to the last offer.
    ///
    /// # Errors
    /// The answer is malformed, or rejects a codec or simulcast.
    pub(crate) fn accept_answer(&mut self, sdp: &str) -> Result<(), Error> {
        let malformed = |reason: String| Error::Answer(reason.chars().take(200).collect());
        let answer = SdpAnswer::from_sdp_string(sdp)
            .map_err(|e| malformed(describe_parse_error(sdp, &e.to_string())))?;
        let Some(pending) = self.pending.take() else { return Ok(()) };
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(|e| malformed(e.to_string()))?;
        let video_codec = match self.codec {
            RoomCodec::H264 => Codec::H264,
            RoomCodec::Vp8 => Codec::Vp8,
        };
        let mut payload = |mid, codec| {
            let writer = self.rtc.writer(mid)?;
            writer.payload_params().find(|p| p.spec().codec == codec).map(|p| p.pt())
        };
        let audio = payload(self.audio, Codec::Opus).ok_or(Error::CodecRejected("Opus"))?;
        let name = if video_codec == Codec::H264 { "H.264" } else { "VP8" };
        let video = payload(self.video, video_codec).ok_or(Error::CodecRejected(name))?;
        let is_restart = self.payload_types.replace((audio, video)).is_some();
        if !is_restart {
            self.hold_streams();
        }
        let media = self.rtc.media(self.video);
        let accepts = |rid: &Rid| match media.map(str0m::media::Media::rids_tx) {
            Some(str0m::media::Rids::Specific(rids)) => rids.contains(rid),
            Some(str0m::media::Rids::Any) => true,
            Some(str0m::media::Rids::None) | None => false,
        };
        if !self.rids.iter().flatten().all(accepts) {
            return Err(Error::SimulcastRejected);
        }
        Ok(())
    }

    /// Removes the outgoing streams until their first packet declares them again. str0m sends sender reports
    /// for a stream at once, with RTP time stamp zero until a packet was sent, and servers would use that
    /// time stamp.
    fn hold_streams(&mut self) {
        let streams = self.rids.iter().map(|rid| (self.video, *rid)).chain([(self.audio, None)]);
        let streams: Vec<_> = streams.collect();
        let mut direct = self.rtc.direct_api();
        for (mid, rid) in streams {
            let Some(stream) = direct.stream_tx_by_mid(mid, rid) else { continue };
            let (ssrc, resend) = (stream.ssrc(), stream.rtx());
            direct.remove_stream_tx(ssrc);
            self.held_streams.push((mid, rid, ssrc, resend));
        }
    }

    /// Declares a stream for its first packet, and sets its pacing for the ones after it.
    fn release_stream(&mut self, now: Instant, mid: Mid, rid: Option<Rid>) {
        let held = self.held_streams.iter().position(|held| (held.0, held.1) == (mid, rid));
        if let Some(index) = held {
            let (_, _, ssrc, resend) = self.held_streams.swap_remove(index);
            // A stream whose first packet waits in the pacer would still report time stamp zero.
            self.rtc.direct_api().declare_stream_tx(ssrc, resend, mid, rid).set_unpaced(true);
            self.started_streams.push((mid, rid));
        } else if let Some(index) = self.started_streams.iter().position(|started| *started == (mid, rid)) {
            self.started_streams.swap_remove(index);
            if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(mid, rid) {
                stream.set_unpaced(mid == self.audio);
            }
        } else if mid == self.video {
            let clear = self.link_clear;
            if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(mid, rid) {
                stream.set_unpaced(clear && super::is_pacing_overdue(stream, now));
            }
        }
    }

    /// Processes an input at time `now`. Poll all outputs before the next one.
    pub(crate) fn handle(&mut self, now: Instant, input: Input<'_>) {
        if self.has_failed {
            return;
        }
        let handled = match input {
            Input::Datagram(datagram) => self.handle_datagram(now, datagram),
            Input::Video { layer, packet } => self.write_video(now, layer, packet),
            Input::Audio(packet) => self.write_audio(now, packet),
            Input::RemoteCandidate(candidate) => {
                self.add_remote_candidate(candidate);
                Ok(())
            }
            Input::LinkClear(clear) => {
                self.link_clear = clear;
                Ok(())
            }
            Input::ResetEstimate(bps) => {
                self.rtc.bwe().reset(Bitrate::bps(bps));
                self.handle_rtc_input(RtcInput::Timeout(now))
            }
            Input::Close => {
                if let Err(error) = self.rtc.close() {
                    tracing::debug!(%error, "peer connection close failed");
                }
                Ok(())
            }
            Input::Timeout => self.handle_rtc_input(RtcInput::Timeout(now)),
        };
        if let Err(error) = handled {
            self.fail(error);
        }
    }

    /// Returns the next output to carry out, if any.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Output> {
        loop {
            if self.has_failed {
                return self.failure.take().map(|error| Output::Event(Event::Failed(error)));
            }
            match self.rtc.poll_output() {
                Ok(RtcOutput::Transmit(transmit)) => return Some(Output::Transmit(transmit.into())),
                Ok(RtcOutput::Event(event)) => {
                    if let Some(event) = self.handle_rtc_event(event) {
                        return Some(Output::Event(event));
                    }
                }
                Ok(RtcOutput::Timeout(_)) if std::mem::take(&mut self.has_written) => {
                    if let Err(error) = self.handle_rtc_input(RtcInput::Timeout(now)) {
                        self.fail(error);
                    }
                }
                Ok(RtcOutput::Timeout(at)) => {
                    self.deadline = Some(at);
                    return None;
                }
                Err(error) => self.fail(connection_failed(error)),
            }
        }
    }

    /// Latest time to hand in [`Input::Timeout`]; `None` if the connection has failed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ends the connection.
    fn fail(&mut self, error: Error) {
        (self.has_failed, self.failure, self.deadline) = (true, Some(error), None);
    }

    fn handle_rtc_input(&mut self, input: RtcInput<'_>) -> Result<(), Error> {
        self.rtc.handle_input(input).map_err(connection_failed)
    }

    /// Sends a packet of a video layer.
    fn write_video(&mut self, now: Instant, layer: usize, packet: &Packet) -> Result<(), Error> {
        let (Some((_, pt)), Some(rid)) = (self.payload_types, self.rids.get(layer).copied()) else {
            return Ok(());
        };
        self.write(now, (self.video, pt, rid), VIDEO_CLOCK_RATE, packet)
    }

    /// Sends a packet of the audio.
    fn write_audio(&mut self, now: Instant, packet: &Packet) -> Result<(), Error> {
        let Some((pt, _)) = self.payload_types else { return Ok(()) };
        self.write(now, (self.audio, pt, None), AUDIO_CLOCK_RATE, packet)
    }

    fn write(
        &mut self,
        now: Instant,
        (mid, pt, rid): (Mid, Pt, Option<Rid>),
        rate: u32,
        packet: &Packet,
    ) -> Result<(), Error> {
        if !self.connected {
            return Ok(());
        }
        // Opus starts before the audio by its pre-skip, so the pts may be slightly negative.
        let pts = Duration::from_nanos(u64::try_from(packet.pts.0).unwrap_or(0));
        // Audio and video share one origin, because players synchronize them by it.
        let origin = *self.time_origin.get_or_insert_with(|| now.checked_sub(pts).unwrap_or(now));
        let ticks = u64::try_from(packet.pts.to_index(rate)).unwrap_or(0);
        let frequency =
            if rate == VIDEO_CLOCK_RATE { Frequency::NINETY_KHZ } else { Frequency::FORTY_EIGHT_KHZ };
        let time = RtpTime::new(ticks, frequency);
        self.has_written = true;
        self.release_stream(now, mid, rid);
        let Some(mut writer) = self.rtc.writer(mid) else { return Ok(()) };
        if let Some(rid) = rid {
            writer = writer.rid(rid);
        }
        if mid == self.video {
            let [least, most] = super::playout_delay();
            writer = writer.playout_delay(least, most);
        }
        writer.write(pt, origin + pts, time, Arc::clone(&packet.data)).map_err(connection_failed)
    }

    fn handle_datagram(&mut self, now: Instant, datagram: Datagram<'_>) -> Result<(), Error> {
        let Datagram { protocol, source, destination, data } = datagram;
        // Datagrams other than STUN, DTLS and RTP are ignored.
        let Ok(receive) = Receive::new(protocol, source, destination, data) else { return Ok(()) };
        let input = RtcInput::Receive(now, receive);
        if self.rtc.accepts(&input) { self.handle_rtc_input(input) } else { Ok(()) }
    }

    fn handle_rtc_event(&mut self, event: RtcEvent) -> Option<Event> {
        match event {
            RtcEvent::Connected => {
                self.connected = true;
                Some(Event::Connected)
            }
            RtcEvent::IceConnectionStateChange(IceConnectionState::Disconnected) => Some(Event::Disconnected),
            RtcEvent::Closed => Some(Event::Closed),
            RtcEvent::KeyframeRequest(request) => Some(Event::KeyframeRequested(
                self.rids.iter().position(|rid| *rid == request.rid).unwrap_or(0),
            )),
            RtcEvent::EgressBitrateEstimate(BweKind::Twcc { estimate, can_probe: true }) => {
                self.capacities_bps[0] = Some(u32::try_from(estimate.as_u64()).unwrap_or(u32::MAX));
                self.stats.estimate_bps = self.capacities_bps.into_iter().flatten().min();
                self.capacities_bps[0].map(Event::BandwidthEstimate)
            }
            RtcEvent::EgressBitrateEstimate(BweKind::Remb { estimate, .. }) => {
                self.capacities_bps[1] = Some(u32::try_from(estimate.as_u64()).unwrap_or(u32::MAX));
                self.stats.estimate_bps = self.capacities_bps.into_iter().flatten().min();
                self.capacities_bps[1].map(Event::ReceiverLimit)
            }
            RtcEvent::PeerStats(stats) => Some(Event::LinkMeasured(self.update_link_stats(&stats))),
            RtcEvent::MediaEgressStats(stats) => {
                self.update_stream_stats(&stats);
                None
            }
            _ => None,
        }
    }

    fn update_link_stats(&mut self, stats: &PeerStats) -> LinkStats {
        let pair = stats.selected_candidate_pair.as_ref();
        self.stats.rtt = pair.and_then(|pair| pair.current_round_trip_time).or(stats.rtt);
        let estimate_bps = stats.bwe_tx.map(|estimate| estimate.as_u64());
        LinkStats { rtt: stats.rtt, loss: stats.egress_loss_fraction, estimate_bps }
    }

    fn update_stream_stats(&mut self, stats: &MediaEgressStats) {
        let layer = self.rids.iter().position(|rid| *rid == stats.rid);
        let index = if stats.mid == self.audio { Some(self.layers.len()) } else { layer };
        let Some(stream) = index.and_then(|index| self.stats.streams.get_mut(index)) else { return };
        *stream = StreamStats {
            bytes: stats.bytes,
            loss: stats.loss.unwrap_or(stream.loss),
            nacks: stats.nacks,
            keyframe_requests: stats.plis + stats.firs,
        };
    }

    /// Statistics, updated every [`STATS_INTERVAL`].
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether the connection is established.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether the connection has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        !self.has_failed && self.rtc.is_alive()
    }
}

fn connection_failed(error: impl std::fmt::Display) -> Error {
    Error::ConnectionFailed(error.to_string().chars().take(200).collect())
}
