//! The answering side of a peer connection, which the embedded room uses. It works on RTP packets. Sans-IO:
//! callers hand in the time and inputs, and carry out the outputs.
//!
//! Methods with a result negotiate. Then [`PeerConnection::handle`] takes an input, [`PeerConnection::poll`]
//! returns the next output to carry out, and [`PeerConnection::deadline`] is the latest time to hand in
//! [`Input::Timeout`].
//!
//! str0m panics when it finds a bug in itself. A client must not be able to end the room that way, so each
//! call into str0m catches panics, and a panic ends only the connection that it happened in.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

use str0m::bwe::{Bitrate, BweKind};
use str0m::change::SdpOffer;
use str0m::config::DtlsCert;
use str0m::media::{KeyframeRequestKind, MediaKind, Mid, Rid, Rids};
use str0m::net::{Receive, TcpType};
use str0m::rtp::{ExtensionValues, RtpPacket, RtpWrite, SeqNo, Ssrc};
use str0m::{
    Candidate, Event as RtcEvent, IceConnectionState, IceCreds, Input as RtcInput, Output as RtcOutput, Rtc,
};

use self::media::{Media, Packet, SenderReport, Track};

mod interface;
pub(crate) mod media;
mod sdp;

pub(crate) use self::interface::{Event, Input, OutgoingPacket, Output};
pub(crate) use self::sdp::OfferError;
use self::sdp::{count_media_sections, sanitize_text, with_ice_credentials};
use super::Datagram;
use crate::sdp::describe_parse_error;

/// Bandwidth estimate of a viewer's link before the first measurement, in bit/s: what a slow mobile link
/// carries. The first probes have three and six times as much, so a good link is known within a second, and a
/// narrow one is not flooded.
const INITIAL_ESTIMATE_BPS: u64 = 500_000;
/// Lower than any bitrate that is ever desired, in bit/s.
const MIN_DESIRED_BPS: u64 = 10_000;
/// Interval of statistics and sender reports. Players need two sender reports of each stream to synchronize
/// audio and video.
const RTCP_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which a viewer's link is measured: the same as that of layer selection.
const VIEWER_STATS_INTERVAL: Duration = Duration::from_millis(250);
/// Packets kept for retransmission: one second of busy video.
const RETRANSMIT_BUFFER_PACKETS: usize = 2000;
/// Oldest packet that is sent again; players have given up a frame by then.
const RETRANSMIT_MAX_AGE: Duration = Duration::from_secs(3);
/// Largest share of retransmissions in the sent bytes, 0 to 1: more would congest a lossy link further.
const MAX_RETRANSMIT_SHARE: f32 = 0.25;
/// Most simulcast layers of a video; publishers send three at most.
const MAX_LAYERS: usize = 4;
/// Most media sections of an offer: one audio and one video.
const MAX_MEDIA_SECTIONS: usize = 2;
/// Most timeouts handled between two inputs, so that one connection cannot hold up the others.
const MAX_POLL_ROUNDS: usize = 64;
/// Largest datagram, in bytes: the usual MTU. Larger ones are dropped.
pub(crate) const MAX_DATAGRAM: usize = 1500;

/// DTLS certificate that all connections of a room share.
#[derive(Clone)]
pub(crate) struct Certificate(DtlsCert);

impl Certificate {
    /// Generates a certificate. `None` if the system has no randomness.
    pub(crate) fn new() -> Option<Self> {
        str0m::crypto::from_feature_flags().dtls_provider.generate_certificate().map(Self)
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

/// Role of the remote peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends media.
    Publisher,
    /// Receives media.
    Viewer,
}

/// Parameters of a new connection.
#[derive(Debug)]
pub(crate) struct Config<'a> {
    /// DTLS certificate of this side.
    pub(crate) certificate: &'a Certificate,
    /// Local addresses for UDP candidates, and for TCP candidates if `tcp`.
    pub(crate) addresses: &'a [SocketAddr],
    /// Whether TCP candidates are offered, too.
    pub(crate) tcp: bool,
    /// Role of the remote peer.
    pub(crate) role: Role,
    /// ICE user fragment and password of this side.
    pub(crate) credentials: (String, String),
}

/// One answering WebRTC connection.
pub(crate) struct PeerConnection {
    /// `None` once the connection has ended.
    rtc: Option<Rtc>,
    role: Role,
    offer: String,
    addresses: Vec<SocketAddr>,
    tcp: bool,
    audio: Option<Media>,
    video: Option<Media>,
    /// Tracks of a publisher, by SSRC.
    tracks_by_ssrc: Vec<(Ssrc, Track)>,
    deadline: Instant,
    /// Timeouts that [`Self::poll`] has handled since the last input.
    poll_rounds: usize,
    /// Outputs from the middle of an input, which come before those of str0m.
    early_outputs: VecDeque<Output>,
    /// Whether the end of the connection was polled.
    end_reported: bool,
    connected: bool,
    /// Whether the link shows neither loss nor delay; see [`Input::LinkClear`].
    link_clear: bool,
}

impl std::fmt::Debug for PeerConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConnection")
            .field("role", &self.role)
            .field("connected", &self.connected)
            .finish()
    }
}

impl PeerConnection {
    /// Accepts an offer and returns the connection and the SDP answer.
    ///
    /// # Errors
    /// The offer is malformed or unsupported.
    pub(crate) fn accept_offer(
        now: Instant,
        offer: &str,
        setup: Config<'_>,
    ) -> Result<(Self, String), OfferError> {
        let mut peer = Self {
            rtc: None,
            role: setup.role,
            offer: offer.to_owned(),
            addresses: setup.addresses.to_vec(),
            tcp: setup.tcp,
            audio: None,
            video: None,
            tracks_by_ssrc: Vec::new(),
            deadline: now,
            poll_rounds: 0,
            early_outputs: VecDeque::new(),
            end_reported: false,
            connected: false,
            link_clear: true,
        };
        let negotiated = catch_unwind(AssertUnwindSafe(|| peer.negotiate(now, setup)));
        let answer = negotiated
            .unwrap_or_else(|_panic| Err(OfferError::Malformed("its parts contradict each other".into())))?;
        Ok((peer, answer))
    }

    fn negotiate(&mut self, now: Instant, setup: Config<'_>) -> Result<String, OfferError> {
        let (ufrag, pass) = setup.credentials;
        let mut config = Rtc::builder()
            .set_rtp_mode(true)
            .set_ice_lite(true)
            .set_local_ice_credentials(IceCreds { ufrag, pass })
            .set_dtls_cert(setup.certificate.0.clone())
            .set_extension_map(super::extension_map())
            .clear_codecs()
            .enable_opus(true, false)
            .enable_h264(true)
            .enable_vp8(true)
            .set_send_buffer_video(RETRANSMIT_BUFFER_PACKETS)
            .set_rtcp_report_interval_audio(RTCP_REPORT_INTERVAL)
            .set_rtcp_report_interval_video(RTCP_REPORT_INTERVAL)
            .set_stats_interval(Some(RTCP_REPORT_INTERVAL));
        if setup.role == Role::Viewer {
            config = config.enable_bwe(Some(Bitrate::bps(INITIAL_ESTIMATE_BPS)));
            config = config.set_stats_interval(Some(VIEWER_STATS_INTERVAL));
        }
        let mut rtc = config.build(now);
        for address in setup.addresses {
            let udp = Candidate::builder().udp().host(*address).build();
            let tcp = Candidate::builder().tcp().host(*address).tcptype(TcpType::Passive).build();
            for candidate in [Some(udp), setup.tcp.then_some(tcp)].into_iter().flatten().flatten() {
                rtc.add_local_candidate(candidate);
            }
        }
        let malformed = |why: &dyn std::fmt::Display| OfferError::Malformed(sanitize_text(&why.to_string()));
        let offer = SdpOffer::from_sdp_string(&self.offer)
            .map_err(|e| malformed(&describe_parse_error(&self.offer, &e.to_string())))?;
        if count_media_sections(&self.offer) > MAX_MEDIA_SECTIONS {
            return Err(OfferError::Unsupported("it has more than one audio and one video section"));
        }
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|e| malformed(&e))?.to_sdp_string();
        self.rtc = Some(rtc);
        self.collect_media(&answer)?;
        Ok(self.with_shared_stream_id(answer))
    }

    /// Stores the media sections that both sides agreed on.
    fn collect_media(&mut self, answer: &str) -> Result<(), OfferError> {
        let Some(rtc) = &mut self.rtc else { return Ok(()) };
        for mid in answer.lines().filter_map(|line| line.strip_prefix("a=mid:")) {
            let mid = Mid::from(mid.trim());
            let Some(media) = rtc.media(mid) else {
                return Err(OfferError::Unsupported("it has data channels"));
            };
            if media.disabled() {
                continue;
            }
            let flows = match self.role {
                Role::Publisher => media.direction().is_receiving(),
                Role::Viewer => media.direction().is_sending(),
            };
            if !flows {
                continue;
            }
            let (kind, rids) = (media.kind(), receive_rids(media.rids_rx()));
            let found = Media::new(mid, rids, media.remote_pts(), rtc.codec_config().params());
            let slot = if kind == MediaKind::Audio { &mut self.audio } else { &mut self.video };
            if found.rids.len() > MAX_LAYERS || slot.is_some() {
                return Err(OfferError::Unsupported(
                    "it has more than one audio and one video of four layers",
                ));
            }
            *slot = Some(found);
        }
        if self.audio.is_none() && self.video.is_none() {
            let reason = match self.role {
                Role::Publisher => "it sends no Opus, H.264 or VP8",
                Role::Viewer => "it receives no Opus, H.264 or VP8",
            };
            return Err(OfferError::Unsupported(reason));
        }
        self.hold_streams();
        Ok(())
    }

    /// Removes the outgoing streams of the answer until their first packet declares them again. str0m sends
    /// sender reports for a stream at once, with RTP time stamp zero until a packet was sent, and players
    /// would use that time stamp.
    fn hold_streams(&mut self) {
        let (Some(rtc), Role::Viewer) = (&mut self.rtc, self.role) else { return };
        for media in [&mut self.audio, &mut self.video].into_iter().flatten().filter(|media| !media.started) {
            let mut direct = rtc.direct_api();
            let Some(stream) = direct.stream_tx_by_mid(media.mid, None) else { continue };
            let (ssrc, resend) = (stream.ssrc(), stream.rtx());
            direct.remove_stream_tx(ssrc);
            media.ssrc = Some((ssrc, resend));
        }
    }

    /// Gives audio and video one stream identifier: players synchronize the tracks of one stream only.
    fn with_shared_stream_id(&self, answer: String) -> String {
        let id = |media: &Option<Media>| {
            let mid = media.as_ref()?.mid;
            Some(self.rtc.as_ref()?.media(mid)?.stream_id().to_owned())
        };
        match (self.role, id(&self.audio), id(&self.video)) {
            (Role::Viewer, Some(audio), Some(video)) if audio != video => answer.replace(&video, &audio),
            _ => answer,
        }
    }

    /// Restarts ICE with new remote credentials and returns the new local user fragment and password.
    ///
    /// # Errors
    /// The credentials are malformed (the connection continues) or the connection has ended.
    pub(crate) fn restart_ice(
        &mut self,
        ufrag: &str,
        password: &str,
    ) -> Result<(String, String), OfferError> {
        let offer = with_ice_credentials(&self.offer, ufrag, password);
        let malformed =
            |error: &str| OfferError::Malformed(sanitize_text(&describe_parse_error(&offer, error)));
        let parsed = SdpOffer::from_sdp_string(&offer).map_err(|e| malformed(&e.to_string()))?;
        for media in [&self.audio, &self.video].into_iter().flatten().filter(|media| !media.started) {
            if let (Some((ssrc, resend)), Some(rtc)) = (media.ssrc, &mut self.rtc) {
                rtc.direct_api().declare_stream_tx(ssrc, resend, media.mid, None);
            }
        }
        let accepted =
            self.call_catching_panic(|rtc| rtc.sdp_api().accept_offer(parsed).map(|a| a.to_sdp_string()));
        let over = || OfferError::Unsupported("the connection is over");
        let answer =
            accepted.ok_or_else(over)?.map_err(|e| OfferError::Malformed(sanitize_text(&e.to_string())))?;
        self.hold_streams();
        self.offer = offer;
        let value =
            |name| answer.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
        value("a=ice-ufrag:").zip(value("a=ice-pwd:")).ok_or_else(over)
    }

    /// Local candidates, as lines of SDP.
    pub(crate) fn candidate_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for address in &self.addresses {
            let udp = Candidate::builder().udp().host(*address).build();
            let tcp = Candidate::builder().tcp().host(*address).tcptype(TcpType::Passive).build();
            for candidate in [Some(udp), self.tcp.then_some(tcp)].into_iter().flatten().flatten() {
                lines.push(format!("a={}", candidate.to_sdp_string()));
            }
        }
        lines
    }

    /// Whether this datagram belongs to this connection, by its ICE credentials or its source address.
    pub(crate) fn accepts(&self, now: Instant, datagram: Datagram<'_>) -> bool {
        let Some(rtc) = &self.rtc else { return false };
        let Some(receive) = parse_datagram(datagram) else { return false };
        catch_unwind(AssertUnwindSafe(|| rtc.accepts(&RtcInput::Receive(now, receive)))).unwrap_or(false)
    }

    /// Processes an input at time `now`. Poll all outputs before the next one.
    pub(crate) fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.poll_rounds = 0;
        match input {
            Input::Datagram(datagram) => self.handle_datagram(now, datagram),
            Input::Packet(packet) => self.send_packet(now, packet),
            Input::RequestKeyframe(layer) => self.request_keyframe(layer),
            Input::RemoteCandidate(candidate) => {
                if let Ok(candidate) = Candidate::from_sdp_string(candidate) {
                    self.call_catching_panic(|rtc| rtc.add_remote_candidate(candidate));
                }
                self.handle_timeout(now);
            }
            Input::DesiredBitrate(bps) => self.set_desired_bitrate(now, bps),
            Input::LinkClear(clear) => self.link_clear = clear,
            Input::ResetEstimate(bps) => {
                self.call_catching_panic(|rtc| rtc.bwe().reset(Bitrate::bps(bps)));
                self.poll_early(now);
                self.handle_timeout(now);
            }
            Input::Close => {
                self.call_catching_panic(|rtc| rtc.close().is_ok());
                self.poll_early(now);
                self.rtc = None;
            }
            Input::Timeout => self.handle_timeout(now),
        }
    }

    /// Returns the next output to carry out, if any. The last one is [`Event::Disconnected`].
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Output> {
        self.early_outputs.pop_front().or_else(|| self.poll_rtc(now))
    }

    /// Latest time to hand in [`Input::Timeout`]; `None` if the connection has ended.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rtc.as_ref().map(|_| self.deadline)
    }

    fn handle_datagram(&mut self, now: Instant, datagram: Datagram<'_>) {
        let Some(receive) = parse_datagram(datagram) else { return };
        if let Some(Err(error)) =
            self.call_catching_panic(|rtc| rtc.handle_input(RtcInput::Receive(now, receive)))
        {
            tracing::debug!(%error, "datagram rejected");
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(Err(error)) = self.call_catching_panic(|rtc| rtc.handle_input(RtcInput::Timeout(now))) {
            tracing::debug!(%error, "peer connection failed");
            self.rtc = None;
        }
    }

    /// Whether the connection has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.rtc.as_ref().is_some_and(Rtc::is_alive)
    }

    /// Whether the connection is established.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected && self.is_alive()
    }

    /// The rids of the video layers; a single `None` without simulcast.
    pub(crate) fn layer_rids(&self) -> Vec<Option<String>> {
        let rids = self.video.as_ref().map_or(&[][..], |media| &media.rids);
        rids.iter().map(|rid| rid.map(|rid| rid.to_string())).collect()
    }

    /// Requests a keyframe of a layer from a publisher.
    fn request_keyframe(&mut self, layer: usize) {
        let Some((mid, rid)) = self.video.as_ref().and_then(|m| Some((m.mid, *m.rids.get(layer)?))) else {
            return;
        };
        self.call_catching_panic(|rtc| {
            let mut direct = rtc.direct_api();
            if let Some(stream) = direct.stream_rx_by_mid(mid, rid) {
                stream.request_keyframe(KeyframeRequestKind::Pli);
            }
        });
    }

    /// Sets the bitrate that could be sent to a viewer, in bit/s.
    fn set_desired_bitrate(&mut self, now: Instant, bps: u64) {
        // str0m probes at once only when the desired bitrate grows.
        for bps in [MIN_DESIRED_BPS.min(bps), bps] {
            self.call_catching_panic(|rtc| rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::bps(bps)));
            self.poll_early(now);
            self.handle_timeout(now);
            self.poll_early(now);
        }
    }

    /// When the oldest video packet in the pacer was queued.
    pub(crate) fn video_queued_since(&mut self) -> Option<Instant> {
        let mid = self.video.as_ref().filter(|media| media.started)?.mid;
        self.call_catching_panic(|rtc| {
            let mut direct = rtc.direct_api();
            direct.stream_tx_by_mid(mid, None)?.queue_info()?.first_unsent()
        })?
    }

    /// Sends a packet to a viewer, unless the viewer does not receive this codec.
    fn send_packet(&mut self, now: Instant, packet: OutgoingPacket) {
        let media = if packet.is_audio { &mut self.audio } else { &mut self.video };
        let Some((media, rtc)) = media.as_mut().zip(self.rtc.as_mut()) else { return };
        let (Some(payload_type), Some((ssrc, resend))) = (media.payload_type(packet.codec), media.ssrc)
        else {
            return;
        };
        let (audio, source_changed, clear) = (packet.is_audio, packet.source_changed, self.link_clear);
        let (mid, started) = (media.mid, std::mem::replace(&mut media.started, true));
        let patch = packet
            .vp8_ids
            .and_then(|(picture_id, tl0_pic_idx)| media::vp8_patch(&packet.payload, picture_id, tl0_pic_idx));
        let mut write = RtpWrite::new(
            payload_type,
            SeqNo::from(packet.seq),
            packet.timestamp,
            packet.captured_at,
            packet.payload,
        )
        .marker(packet.marker)
        .nackable(!packet.is_audio);
        if let Some(patch) = patch {
            write = write.vp8_patch(patch);
        }
        if !packet.is_audio {
            let [least, most] = super::playout_delay();
            let mut values = ExtensionValues::default();
            (values.play_delay_min, values.play_delay_max) = (Some(least), Some(most));
            write = write.ext_vals(values);
        }
        let sent = catch_unwind(AssertUnwindSafe(|| {
            let mut direct = rtc.direct_api();
            if !started {
                direct.declare_stream_tx(ssrc, resend, mid, None);
            }
            if let Some(stream) = direct.stream_tx(&ssrc) {
                // A stream whose first packet waits in the pacer would still report time stamp zero.
                stream.set_unpaced(audio || !started || (clear && super::is_pacing_overdue(stream, now)));
                if source_changed || !started {
                    // Retransmissions of the previous layer would only take bandwidth from this one.
                    stream.set_rtx_cache(
                        RETRANSMIT_BUFFER_PACKETS,
                        RETRANSMIT_MAX_AGE,
                        Some(MAX_RETRANSMIT_SHARE),
                    );
                }
                stream.write_rtp(write);
            }
        }));
        if sent.is_err() {
            self.rtc = None;
        }
    }

    /// Calls into str0m and ends the connection if it panics. `None` if the connection has ended.
    fn call_catching_panic<T>(&mut self, call: impl FnOnce(&mut Rtc) -> T) -> Option<T> {
        let rtc = self.rtc.as_mut()?;
        let result = catch_unwind(AssertUnwindSafe(|| call(rtc)));
        if result.is_err() {
            tracing::error!("peer connection panicked, session ends");
            self.rtc = None;
        }
        result.ok()
    }

    /// Polls str0m in the middle of an input: it must wait for a timeout before the next change.
    fn poll_early(&mut self, now: Instant) {
        while let Some(output) = self.poll_rtc(now) {
            self.early_outputs.push_back(output);
        }
        self.poll_rounds = 0;
    }

    /// Returns str0m's next output, and lets it handle the timeouts that are due.
    fn poll_rtc(&mut self, now: Instant) -> Option<Output> {
        loop {
            match self.call_catching_panic(Rtc::poll_output) {
                None => {
                    let is_new = !std::mem::replace(&mut self.end_reported, true);
                    return is_new.then_some(Output::Event(Event::Disconnected));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "peer connection failed");
                    self.rtc = None;
                }
                Some(Ok(RtcOutput::Transmit(transmit))) => return Some(Output::Transmit(transmit.into())),
                Some(Ok(RtcOutput::Event(event))) => {
                    if let Some(event) = self.map_event(event) {
                        return Some(Output::Event(event));
                    }
                }
                Some(Ok(RtcOutput::Timeout(at))) if at > now || self.poll_rounds >= MAX_POLL_ROUNDS => {
                    self.deadline = at.max(now + Duration::from_millis(u64::from(at <= now)));
                    return None;
                }
                Some(Ok(RtcOutput::Timeout(_))) => {
                    self.poll_rounds += 1;
                    let handled = self.call_catching_panic(|rtc| rtc.handle_input(RtcInput::Timeout(now)));
                    if !matches!(handled, Some(Ok(()))) {
                        self.rtc = None;
                    }
                }
            }
        }
    }

    fn map_event(&mut self, event: RtcEvent) -> Option<Event> {
        Some(match event {
            RtcEvent::Connected => {
                self.connected = true;
                Event::Connected
            }
            RtcEvent::IceConnectionStateChange(IceConnectionState::Disconnected) | RtcEvent::Closed => {
                Event::Disconnected
            }
            RtcEvent::RtpPacket(packet) => Event::Packet(self.map_packet(packet)?),
            RtcEvent::SenderFeedback(feedback) => {
                let info = feedback.sender_info;
                match self.find_track(feedback.mid, feedback.rid) {
                    // A report about a stream without packets has no meaningful time stamp.
                    Some(track) if info.sender_packet_count > 0 => {
                        let wall = info.ntp_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                        Event::SenderReport(
                            track,
                            SenderReport { wall_clock: wall, timestamp: low_32_bits(info.rtp_time.numer()) },
                        )
                    }
                    _ => return None,
                }
            }
            RtcEvent::KeyframeRequest(_) => Event::KeyframeRequested,
            RtcEvent::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) => {
                Event::BandwidthEstimate(estimate.as_u64())
            }
            RtcEvent::PeerStats(stats) => {
                let loss = match self.role {
                    Role::Publisher => stats.ingress_loss_fraction,
                    Role::Viewer => stats.egress_loss_fraction,
                };
                let estimate_bps = stats.bwe_tx.map(|estimate| estimate.as_u64());
                Event::LinkMeasured(super::LinkStats { rtt: stats.rtt, loss, estimate_bps })
            }
            _ => return None,
        })
    }

    fn map_packet(&mut self, packet: RtpPacket) -> Option<Packet> {
        let ssrc = packet.header.ssrc;
        let track = match self.tracks_by_ssrc.iter().find(|(known, _)| *known == ssrc) {
            Some((_, track)) => *track,
            None => {
                let mut direct = self.rtc.as_mut()?.direct_api();
                let stream = direct.stream_rx(&ssrc)?;
                let (mid, rid) = (stream.mid(), stream.rid());
                let track = self.find_track(mid, rid)?;
                self.tracks_by_ssrc.retain(|(_, known)| *known != track);
                self.tracks_by_ssrc.push((ssrc, track));
                track
            }
        };
        let media = if track == Track::Audio { &self.audio } else { &self.video };
        let codec = media.as_ref()?.codec(packet.header.payload_type)?;
        // The payload of a full incoming packet must fit into an outgoing one, whose headers may be longer.
        (packet.payload.len() < MAX_DATAGRAM).then_some(Packet {
            track,
            codec,
            seq: *packet.seq_no,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            payload: packet.payload,
        })
    }

    fn find_track(&self, mid: Mid, rid: Option<Rid>) -> Option<Track> {
        if self.audio.as_ref().is_some_and(|media| media.mid == mid) {
            return Some(Track::Audio);
        }
        let video = self.video.as_ref().filter(|media| media.mid == mid)?;
        video.rids.iter().position(|known| *known == rid).map(Track::Video)
    }
}

fn parse_datagram(datagram: Datagram<'_>) -> Option<Receive<'_>> {
    if datagram.data.len() > MAX_DATAGRAM {
        return None;
    }
    let Datagram { protocol, source, destination, data } = datagram;
    catch_unwind(|| Receive::new(protocol, source, destination, data).ok()).ok().flatten()
}

/// The rids of the received layers.
fn receive_rids(rids: &Rids) -> Vec<Option<Rid>> {
    match rids {
        Rids::Specific(rids) => rids.iter().map(|rid| Some(*rid)).collect(),
        Rids::None | Rids::Any => vec![None],
    }
}

#[expect(clippy::cast_possible_truncation, reason = "RTP time stamps have 32 bits")]
fn low_32_bits(ticks: u64) -> u32 {
    ticks as u32
}
