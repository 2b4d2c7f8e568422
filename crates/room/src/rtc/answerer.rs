//! The side of a connection that answers: the embedded room's. Sans-IO, on the level of RTP packets.
//!
//! str0m panics where it finds a bug in itself. What a stranger can make happen must not end the room, so
//! each call is caught, and the connection whose call it was is over.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

use str0m::bwe::{Bitrate, BweKind};
use str0m::change::SdpOffer;
use str0m::config::DtlsCert;
use str0m::media::{KeyframeRequestKind, MediaKind, Mid, Rid, Rids};
use str0m::net::{Receive, TcpType};
use str0m::rtp::{ExtensionValues, RtpPacket, RtpWrite, SeqNo, Ssrc};
use str0m::{Candidate, Event as RtcEvent, IceConnectionState, IceCreds, Input, Output, Rtc};

use self::media::{Media, Packet, SenderReport, Track};

mod events;
pub(crate) mod media;
mod sdp;

pub(crate) use self::events::{Datagram, Event, OutgoingPacket};
pub(crate) use self::sdp::OfferError;
use self::sdp::{count_media_sections, sanitize_text, with_ice_credentials};
use crate::sdp::describe_parse_error;

/// What a viewer's line is believed to carry before anything is known about it, in bit/s: enough for a page
/// in HD to begin with.
const INITIAL_ESTIMATE_BPS: u64 = 2_500_000;
/// Less than anything that is ever wished for, in bit/s.
const MIN_DESIRED_BPS: u64 = 10_000;
/// How often statistics are made, and sender reports sent: players need two of each to hold picture and sound
/// together.
const RTCP_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often a viewer's line is measured: as often as its layer is chosen.
const VIEWER_STATS_INTERVAL: Duration = Duration::from_millis(250);
/// Packets kept for retransmission: a second of a busy picture.
const RETRANSMIT_BUFFER_PACKETS: usize = 2000;
const RETRANSMIT_MAX_AGE: Duration = Duration::from_secs(3);
/// Most of what is sent that is sent again.
const MAX_RETRANSMIT_SHARE: f32 = 0.25;
/// Most layers of a picture.
const MAX_LAYERS: usize = 4;
/// Most media sections of an offer: sound and picture.
const MAX_MEDIA_SECTIONS: usize = 2;
/// How often a connection may ask for another turn before others have theirs.
const MAX_POLL_ROUNDS: usize = 64;
/// What goes through UDP without being cut; larger payloads than a packet of this size can hold are nobody's.
pub(crate) const MAX_DATAGRAM: usize = 1500;

/// What all connections of a room prove themselves with.
#[derive(Clone)]
pub(crate) struct Certificate(DtlsCert);

impl Certificate {
    /// A fresh one; none if there is no randomness.
    pub(crate) fn new() -> Option<Self> {
        str0m::crypto::from_feature_flags().dtls_provider.generate_certificate().map(Self)
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

/// What the other side wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// To send.
    Publisher,
    /// To receive.
    Viewer,
}

/// How a connection is answered.
#[derive(Debug)]
pub(crate) struct Config<'a> {
    /// What it proves itself with.
    pub(crate) certificate: &'a Certificate,
    /// Where it can be reached by UDP, and by TCP if `tcp`.
    pub(crate) addresses: &'a [SocketAddr],
    /// Whether it can be reached by TCP, too.
    pub(crate) tcp: bool,
    /// What the other side wants.
    pub(crate) role: Role,
    /// Name and password for ICE.
    pub(crate) credentials: (String, String),
}

/// One connection.
pub(crate) struct PeerConnection {
    /// Gone once it is over.
    rtc: Option<Rtc>,
    role: Role,
    offer: String,
    addresses: Vec<SocketAddr>,
    tcp: bool,
    audio: Option<Media>,
    video: Option<Media>,
    /// What the SSRCs of a publisher were found to be.
    tracks_by_ssrc: Vec<(Ssrc, Track)>,
    deadline: Instant,
    connected: bool,
    /// Whether the line shows neither losses nor delays; see [`Self::set_clear`].
    link_clear: bool,
}

impl std::fmt::Debug for PeerConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("role", &self.role).field("connected", &self.connected).finish()
    }
}

impl PeerConnection {
    /// Takes an offer; the connection, and the answer.
    ///
    /// # Errors
    /// [`OfferError`].
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
            connected: false,
            link_clear: true,
        };
        let made = catch_unwind(AssertUnwindSafe(|| peer.negotiate(now, setup)));
        let answer = made
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
            return Err(OfferError::Unsupported("more than one sound and one picture"));
        }
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|e| malformed(&e))?.to_sdp_string();
        self.rtc = Some(rtc);
        self.collect_media(&answer)?;
        Ok(self.with_shared_stream_id(answer))
    }

    /// Notes which media were agreed on.
    fn collect_media(&mut self, answer: &str) -> Result<(), OfferError> {
        let Some(rtc) = &mut self.rtc else { return Ok(()) };
        for mid in answer.lines().filter_map(|line| line.strip_prefix("a=mid:")) {
            let mid = Mid::from(mid.trim());
            let Some(media) = rtc.media(mid) else {
                return Err(OfferError::Unsupported("it wants data channels"));
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
                return Err(OfferError::Unsupported("more than one sound and one picture of four layers"));
            }
            *slot = Some(found);
        }
        if self.audio.is_none() && self.video.is_none() {
            let why = match self.role {
                Role::Publisher => "it sends no Opus, H.264 or VP8",
                Role::Viewer => "it receives no Opus, H.264 or VP8",
            };
            return Err(OfferError::Unsupported(why));
        }
        self.hold_streams();
        Ok(())
    }

    /// A stream reports on itself from its first moment on, and says that its time stamp is zero as long as
    /// nothing was sent. Players believe that. So the streams that the answer names are taken back, and
    /// declared again with their first packet.
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

    /// Players hold together what is of one stream; by itself, each of our media would be one.
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

    /// Takes new ICE credentials of the other side (ICE restart); ours, and our candidates.
    ///
    /// # Errors
    /// [`OfferError`]; the connection goes on as it was, or is over.
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
        let answered =
            self.call_catching_panic(|rtc| rtc.sdp_api().accept_offer(parsed).map(|a| a.to_sdp_string()));
        let over = || OfferError::Unsupported("the connection is over");
        let answer =
            answered.ok_or_else(over)?.map_err(|e| OfferError::Malformed(sanitize_text(&e.to_string())))?;
        self.hold_streams();
        self.offer = offer;
        let value =
            |name| answer.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned());
        value("a=ice-ufrag:").zip(value("a=ice-pwd:")).ok_or_else(over)
    }

    /// Our candidates, as lines of SDP.
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

    /// One more way to reach the other side; `candidate:…`. What cannot be understood is passed over.
    pub(crate) fn add_remote_candidate(&mut self, candidate: &str) {
        if let Ok(candidate) = Candidate::from_sdp_string(candidate) {
            self.call_catching_panic(|rtc| rtc.add_remote_candidate(candidate));
        }
    }

    /// Whether this datagram is part of this connection: it proves it by its password, or comes from where
    /// proven ones come from.
    pub(crate) fn accepts(&self, now: Instant, datagram: Datagram<'_>) -> bool {
        let Some(rtc) = &self.rtc else { return false };
        let Some(receive) = parse_datagram(datagram) else { return false };
        catch_unwind(AssertUnwindSafe(|| rtc.accepts(&Input::Receive(now, receive)))).unwrap_or(false)
    }

    /// Takes a datagram.
    pub(crate) fn handle_datagram(&mut self, now: Instant, datagram: Datagram<'_>, out: &mut Vec<Event>) {
        let Some(receive) = parse_datagram(datagram) else { return };
        if let Some(Err(error)) =
            self.call_catching_panic(|rtc| rtc.handle_input(Input::Receive(now, receive)))
        {
            tracing::debug!(%error, "a datagram is not understood");
        }
        self.drain_output(now, out);
    }

    /// Tells it that it is later.
    pub(crate) fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Event>) {
        if let Some(Err(error)) = self.call_catching_panic(|rtc| rtc.handle_input(Input::Timeout(now))) {
            tracing::debug!(%error, "a connection broke");
            self.rtc = None;
        }
        self.drain_output(now, out);
    }

    /// When it wants to be told so.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether there is anything left of it.
    pub(crate) fn is_alive(&self) -> bool {
        self.rtc.as_ref().is_some_and(Rtc::is_alive)
    }

    /// Whether media flow.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected && self.is_alive()
    }

    /// The names of the picture's layers; one without a name if there is only one.
    pub(crate) fn layer_rids(&self) -> Vec<Option<String>> {
        let rids = self.video.as_ref().map_or(&[][..], |media| &media.rids);
        rids.iter().map(|rid| rid.map(|rid| rid.to_string())).collect()
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self, now: Instant, out: &mut Vec<Event>) {
        self.call_catching_panic(|rtc| rtc.close().is_ok());
        self.drain_output(now, out);
        self.rtc = None;
    }

    /// Asks a publisher for a keyframe of a layer.
    pub(crate) fn request_keyframe(&mut self, now: Instant, layer: usize, out: &mut Vec<Event>) {
        let Some((mid, rid)) = self.video.as_ref().and_then(|m| Some((m.mid, *m.rids.get(layer)?))) else {
            return;
        };
        self.call_catching_panic(|rtc| {
            let mut direct = rtc.direct_api();
            if let Some(stream) = direct.stream_rx_by_mid(mid, rid) {
                stream.request_keyframe(KeyframeRequestKind::Pli);
            }
        });
        self.drain_output(now, out);
    }

    /// What could be sent to a viewer, in bit/s: the line is tried for as much, now and whenever it seems
    /// good to str0m.
    pub(crate) fn set_desired_bitrate(&mut self, now: Instant, bps: u64, out: &mut Vec<Event>) {
        // Only a wish for more makes it try at once.
        for bps in [MIN_DESIRED_BPS.min(bps), bps] {
            self.call_catching_panic(|rtc| rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::bps(bps)));
            self.drain_output(now, out);
            self.handle_timeout(now, out);
        }
    }

    /// Says whether the line shows neither losses nor delays. Then the pacer does not hold packets up,
    /// however low the estimate is.
    pub(crate) fn set_link_clear(&mut self, clear: bool) {
        self.link_clear = clear;
    }

    /// The estimator begins anew, from this, in bit/s.
    pub(crate) fn reset_estimate(&mut self, now: Instant, bps: u64, out: &mut Vec<Event>) {
        self.call_catching_panic(|rtc| rtc.bwe().reset(Bitrate::bps(bps)));
        self.drain_output(now, out);
        self.handle_timeout(now, out);
    }

    /// Since when packets of the picture wait for the line.
    pub(crate) fn video_queued_since(&mut self) -> Option<Instant> {
        let mid = self.video.as_ref().filter(|media| media.started)?.mid;
        self.call_catching_panic(|rtc| {
            let mut direct = rtc.direct_api();
            direct.stream_tx_by_mid(mid, None)?.queue_info()?.first_unsent()
        })?
    }

    /// Sends a packet to a viewer; whether it takes this codec at all.
    pub(crate) fn send_packet(&mut self, now: Instant, packet: OutgoingPacket, out: &mut Vec<Event>) -> bool {
        let media = if packet.is_audio { &mut self.audio } else { &mut self.video };
        let Some((media, rtc)) = media.as_mut().zip(self.rtc.as_mut()) else { return false };
        let (Some(payload_type), Some((ssrc, resend))) = (media.payload_type(packet.codec), media.ssrc)
        else {
            return false;
        };
        let (audio, fresh, clear) = (packet.is_audio, packet.source_changed, self.link_clear);
        let (mid, begun) = (media.mid, std::mem::replace(&mut media.started, true));
        let patch =
            packet.vp8_ids.and_then(|(picture, base)| media::vp8_patch(&packet.payload, picture, base));
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
            if !begun {
                direct.declare_stream_tx(ssrc, resend, mid, None);
            }
            if let Some(stream) = direct.stream_tx(&ssrc) {
                // A stream whose first packet waits for its turn still reports that its time stamp is zero.
                stream.set_unpaced(audio || !begun || (clear && super::is_pacing_overdue(stream, now)));
                if fresh || !begun {
                    // What is missing of the layer before would only take the line from this one.
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
        self.drain_output(now, out);
        true
    }

    /// Calls into str0m; none if there is nothing to call any more.
    fn call_catching_panic<T>(&mut self, what: impl FnOnce(&mut Rtc) -> T) -> Option<T> {
        let rtc = self.rtc.as_mut()?;
        let done = catch_unwind(AssertUnwindSafe(|| what(rtc)));
        if done.is_err() {
            tracing::warn!("a connection is given up: it found a bug in itself");
            self.rtc = None;
        }
        done.ok()
    }

    /// Hears what it has to say until it only waits. Must follow every change.
    fn drain_output(&mut self, now: Instant, out: &mut Vec<Event>) {
        let mut turns = 0;
        loop {
            match self.call_catching_panic(Rtc::poll_output) {
                None => break,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection broke");
                    self.rtc = None;
                }
                Some(Ok(Output::Transmit(t))) => {
                    out.push(Event::Transmit(t.proto, t.destination, t.contents.into()));
                }
                Some(Ok(Output::Event(event))) => self.handle_rtc_event(event, out),
                Some(Ok(Output::Timeout(at))) if at > now || turns >= MAX_POLL_ROUNDS => {
                    self.deadline = at.max(now + Duration::from_millis(u64::from(at <= now)));
                    return;
                }
                Some(Ok(Output::Timeout(_))) => {
                    turns += 1;
                    let passed = self.call_catching_panic(|rtc| rtc.handle_input(Input::Timeout(now)));
                    if !matches!(passed, Some(Ok(()))) {
                        self.rtc = None;
                    }
                }
            }
        }
        self.deadline = now;
        out.push(Event::Disconnected);
    }

    fn handle_rtc_event(&mut self, event: RtcEvent, out: &mut Vec<Event>) {
        let happening = match event {
            RtcEvent::Connected => {
                self.connected = true;
                Event::Connected
            }
            RtcEvent::IceConnectionStateChange(IceConnectionState::Disconnected) | RtcEvent::Closed => {
                Event::Disconnected
            }
            RtcEvent::RtpPacket(packet) => match self.map_packet(packet) {
                Some(packet) => Event::Packet(packet),
                None => return,
            },
            RtcEvent::SenderFeedback(feedback) => {
                let info = feedback.sender_info;
                match self.find_track(feedback.mid, feedback.rid) {
                    // What is said of a stream that was not sent yet is a guess.
                    Some(track) if info.sender_packet_count > 0 => {
                        let wall = info.ntp_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                        Event::SenderReport(
                            track,
                            SenderReport { wall_clock: wall, timestamp: low_32_bits(info.rtp_time.numer()) },
                        )
                    }
                    _ => return,
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
            _ => return,
        };
        out.push(happening);
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
        // A payload that filled a packet on its way here must fit one on its way out, where headers may be
        // longer.
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

/// The layers of a picture.
fn receive_rids(rids: &Rids) -> Vec<Option<Rid>> {
    match rids {
        Rids::Specific(rids) => rids.iter().map(|rid| Some(*rid)).collect(),
        Rids::None | Rids::Any => vec![None],
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the 32 bits that RTP carries")]
fn low_32_bits(ticks: u64) -> u32 {
    ticks as u32
}
