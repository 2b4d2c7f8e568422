//! A LiveKit session: joining, publishing, events, leaving.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pagecast_core::spec::{IceServer, MAX_ICE_SERVERS, Secret};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, ConnectionError};
use super::messages::{
    AddTrackRequest, AudioTrackFeature, DisconnectReason, JoinResponse, LeaveRequest, Ping, Reason, Request,
    RequestResponse, Response, SessionDescription, SignalTarget, SubscribedQuality, SubscribedQualityUpdate,
    TrackSource, TrackType, TrickleRequest, VideoLayer, VideoQuality,
};
use crate::sdp;
use crate::signaling::{Offer, OfferedLayer, ServerEvent, sanitize_text};

/// The `rid`s of two layers, the larger one first, as LiveKit's own clients have them.
pub(super) const RIDS: [&str; 2] = ["h", "q"];
/// Events that arrived while an answer was awaited. When full, later ones are dropped.
pub(super) const MAX_QUEUED_EVENTS: usize = 64;
/// Longest SDP answer, in bytes; usual ones have a few kilobytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Longest candidate, in bytes; usual ones have 200.
const MAX_CANDIDATE_BYTES: usize = 1024;
/// Longest URL, user or password of an ICE server, in bytes.
const MAX_ICE_FIELD_BYTES: usize = 1024;
/// Interval and timeout of pings if the server names none, in seconds.
const DEFAULT_PING_S: (i32, i32) = (5, 15);
/// Accepted intervals and timeouts of pings, in seconds.
const PING_INTERVAL_RANGE_S: std::ops::RangeInclusive<i32> = 1..=30;
const PING_TIMEOUT_RANGE_S: std::ops::RangeInclusive<i32> = 2..=120;

/// A joined session.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    ping_interval: Duration,
    ping_timeout: Duration,
    last_ping: Instant,
    last_received: Instant,
    /// Latest offer, and the number of offers.
    offer_sdp: String,
    offer_count: u32,
    layer_count: usize,
    /// Server's identifier of the video track.
    video_track_sid: Option<String>,
    events: VecDeque<ServerEvent>,
}

/// `RTCIceCandidateInit`. All media are bundled, so the media section of the candidate does not matter.
#[derive(Debug, Deserialize)]
struct CandidateInit {
    candidate: String,
}

impl Session {
    /// Waits for the join response and returns the session and the ICE servers.
    pub(super) async fn join(mut connection: Connection) -> Result<(Self, Vec<IceServer>), ConnectionError> {
        let join = loop {
            match connection.receive().await? {
                Some(Response::Join(join)) => break join,
                Some(Response::Leave(leave)) => return Err(leave_error(&leave)),
                _ => {}
            }
        };
        if !join.alternative_url.is_empty() {
            return Err(ConnectionError::Failed("the server is not available and names another one".into()));
        }
        let seconds = |given: i32, default: i32, range: std::ops::RangeInclusive<i32>| {
            let seconds = if given > 0 { given } else { default };
            Duration::from_secs(seconds.clamp(*range.start(), *range.end()).unsigned_abs().into())
        };
        let now = Instant::now();
        let session = Self {
            connection,
            ping_interval: seconds(join.ping_interval, DEFAULT_PING_S.0, PING_INTERVAL_RANGE_S),
            ping_timeout: seconds(join.ping_timeout, DEFAULT_PING_S.1, PING_TIMEOUT_RANGE_S),
            last_ping: now,
            last_received: now,
            offer_sdp: String::new(),
            offer_count: 0,
            layer_count: 0,
            video_track_sid: None,
            events: VecDeque::new(),
        };
        Ok((session, ice_servers(join)))
    }

    /// Announces the tracks, sends the offer and returns the SDP answer.
    pub(super) async fn publish(&mut self, offer: &Offer) -> Result<String, ConnectionError> {
        let cid = |mid: &str| sdp::track_id(&offer.sdp, mid).unwrap_or(mid).to_owned();
        let (audio, video) = (cid(&offer.audio_mid), cid(&offer.video_mid));
        self.layer_count = offer.layers.len();
        self.connection.send(Request::AddTrack(audio_track_request(audio))).await?;
        self.connection.send(Request::AddTrack(video_track_request(video.clone(), &offer.layers))).await?;
        self.send_offer(offer.sdp.clone(), &video).await
    }

    /// Sends the offer with the credentials and candidates of a fragment, and returns those of the answer.
    pub(super) async fn restart_ice(&mut self, fragment: &str) -> Result<String, ConnectionError> {
        let offer_sdp = sdp::apply_fragment(&self.offer_sdp, fragment);
        // Candidates of the previous ICE session are no longer valid.
        self.events.retain(|event| !matches!(event, ServerEvent::Candidate(_)));
        let answer = self.send_offer(offer_sdp, "").await?;
        Ok(sdp::restart_fragment(&answer))
    }

    /// Sends an offer and waits for its answer. `video_cid` is the video's `cid` if it was just announced.
    async fn send_offer(&mut self, offer_sdp: String, video_cid: &str) -> Result<String, ConnectionError> {
        self.offer_count += 1;
        let (id, sdp) = (self.offer_count, offer_sdp.clone());
        self.offer_sdp = offer_sdp;
        self.connection.send(Request::Offer(SessionDescription { r#type: "offer".into(), sdp, id })).await?;
        loop {
            let response = self.connection.receive().await?;
            self.last_received = Instant::now();
            match response {
                Some(Response::Answer(answer)) if answer.id == id || answer.id == 0 => {
                    return if answer.sdp.len() <= MAX_ANSWER_BYTES {
                        Ok(answer.sdp)
                    } else {
                        Err(ConnectionError::Failed("the answer is longer than 256 KiB".into()))
                    };
                }
                Some(Response::TrackPublished(published)) if published.cid == video_cid => {
                    self.video_track_sid = published.track.map(|track| track.sid);
                }
                Some(response) => self.handle_response(response)?,
                None => {}
            }
        }
    }

    /// Sends the candidates of an SDP fragment.
    pub(super) async fn trickle(&mut self, fragment: &str) -> Result<(), ConnectionError> {
        for candidate in sdp::candidate_lines(fragment) {
            // All media are bundled with the first section.
            let candidate_init = json!({ "candidate": candidate, "sdpMLineIndex": 0 }).to_string();
            let target = SignalTarget::Publisher.into();
            self.connection.send(Request::Trickle(TrickleRequest { candidate_init, target })).await?;
        }
        Ok(())
    }

    /// Waits for the next event and keeps the connection alive. Cancel-safe.
    pub(super) async fn next_event(&mut self) -> Result<ServerEvent, ConnectionError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let (ping_at, timeout_at) =
                (self.last_ping + self.ping_interval, self.last_received + self.ping_timeout);
            tokio::select! {
                response = self.connection.receive() => {
                    self.last_received = Instant::now();
                    if let Some(response) = response? {
                        self.handle_response(response)?;
                    }
                }
                () = sleep_until(timeout_at) => {
                    return Err(ConnectionError::Unreachable("the server does not answer pings".into()));
                }
                () = sleep_until(ping_at) => {
                    let timestamp = unix_time_ms();
                    self.connection.send(Request::PingReq(Ping { timestamp })).await?;
                    self.connection.send(Request::Ping(timestamp)).await?;
                    self.last_ping = Instant::now();
                }
            }
        }
    }

    fn handle_response(&mut self, response: Response) -> Result<(), ConnectionError> {
        match response {
            Response::Leave(leave) => return Err(leave_error(&leave)),
            Response::RequestResponse(response) => return request_error(&response),
            Response::Trickle(trickle) => self.queue_event(parse_candidate(&trickle)),
            Response::SubscribedQualityUpdate(update)
                if self.video_track_sid.as_ref() == Some(&update.track_sid) =>
            {
                layer_subscriptions(&update, self.layer_count)
                    .into_iter()
                    .for_each(|event| self.queue_event(Some(event)));
            }
            // Responses about other tracks, and late ones.
            Response::Join(_)
            | Response::Answer(_)
            | Response::TrackPublished(_)
            | Response::SubscribedQualityUpdate(_) => {}
        }
        Ok(())
    }

    fn queue_event(&mut self, event: Option<ServerEvent>) {
        if self.events.len() < MAX_QUEUED_EVENTS {
            self.events.extend(event);
        }
    }

    /// Leaves and waits until the server closes the connection. Returns the server's reason if it had ended
    /// the session before.
    pub(super) async fn leave(mut self) -> Option<ConnectionError> {
        let reason = DisconnectReason::ClientInitiated.into();
        // The connection may be closed already, but responses from before may still be unread.
        let _closed = self.connection.send(Request::Leave(LeaveRequest { reason })).await;
        loop {
            match self.connection.receive().await {
                Ok(Some(Response::Leave(leave))) if leave.reason() != DisconnectReason::ClientInitiated => {
                    return Some(leave_error(&leave));
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Request for an audio track in stereo, without discontinuous transmission.
fn audio_track_request(cid: String) -> AddTrackRequest {
    AddTrackRequest {
        name: cid.clone(),
        cid,
        r#type: TrackType::Audio.into(),
        source: TrackSource::ScreenShareAudio.into(),
        disable_dtx: true,
        disable_red: true,
        stereo: true,
        audio_features: vec![AudioTrackFeature::Stereo.into(), AudioTrackFeature::NoDtx.into()],
        ..AddTrackRequest::default()
    }
}

/// Request for a video track. It is a screen share, because LiveKit considers the layers of a camera dead at
/// one frame per second.
fn video_track_request(cid: String, layers: &[OfferedLayer]) -> AddTrackRequest {
    let (width, height) = layers.first().map_or((0, 0), |layer| layer.size);
    // LiveKit expects the smaller layer first.
    let layers = layers.iter().enumerate().rev().zip(0..).map(|((index, layer), spatial_layer)| VideoLayer {
        quality: video_quality(index, layers.len()).into(),
        width: layer.size.0,
        height: layer.size.1,
        bitrate: layer.bitrate_bps,
        spatial_layer,
        rid: layer.rid.clone().unwrap_or_default(),
    });
    AddTrackRequest {
        name: cid.clone(),
        cid,
        r#type: TrackType::Video.into(),
        source: TrackSource::ScreenShare.into(),
        width,
        height,
        layers: layers.collect(),
        ..AddTrackRequest::default()
    }
}

/// LiveKit's quality of a layer: it corresponds to the `rid`; a single layer is high.
fn video_quality(index: usize, layers: usize) -> VideoQuality {
    match (index, layers) {
        (_, 0 | 1) => VideoQuality::High,
        (0, _) => VideoQuality::Medium,
        _ => VideoQuality::Low,
    }
}

/// Subscriptions of the layers: all layers up to the best requested quality, which the largest layer stands
/// for if it is above it.
fn layer_subscriptions(update: &SubscribedQualityUpdate, layers: usize) -> Vec<ServerEvent> {
    let codecs = update.subscribed_codecs.iter().flat_map(|codec| &codec.qualities);
    let all: Vec<&SubscribedQuality> = if update.subscribed_codecs.is_empty() {
        update.subscribed_qualities.iter().collect()
    } else {
        codecs.collect()
    };
    let any_enabled = |filter: &dyn Fn(VideoQuality) -> bool| {
        all.iter().any(|q| q.enabled && q.quality() != VideoQuality::Off && filter(q.quality()))
    };
    let subscribed = |layer: usize| match (layer, layers) {
        (_, 0 | 1) => any_enabled(&|_| true),
        (0, _) => any_enabled(&|quality| quality != VideoQuality::Low),
        _ => any_enabled(&|quality| quality == VideoQuality::Low),
    };
    (0..layers).map(|layer| ServerEvent::LayerSubscription { layer, subscribed: subscribed(layer) }).collect()
}

/// The error that a leave message of the server means. Deliberate ones are refusals, which are not retried.
fn leave_error(leave: &LeaveRequest) -> ConnectionError {
    let failed = |why: &str| ConnectionError::Failed(why.to_owned());
    match leave.reason() {
        DisconnectReason::DuplicateIdentity => ConnectionError::Replaced,
        DisconnectReason::ParticipantRemoved => {
            ConnectionError::Refused("this user was removed from the room".into())
        }
        DisconnectReason::RoomDeleted => ConnectionError::Refused("the room was deleted".into()),
        DisconnectReason::ServerShutdown => failed("the server is shutting down"),
        DisconnectReason::RoomClosed => failed("the room was closed"),
        DisconnectReason::ConnectionTimeout | DisconnectReason::MediaFailure => {
            failed("no media reached the server in time")
        }
        other => ConnectionError::Failed(format!("the server ended the session ({other:?})")),
    }
}

/// The error of a request's response, if it is one.
fn request_error(response: &RequestResponse) -> Result<(), ConnectionError> {
    let why = match response.reason() {
        Reason::Ok | Reason::Queued => return Ok(()),
        Reason::NotAllowed => "this API key does not allow publishing",
        Reason::LimitExceeded => "a limit is exceeded",
        Reason::UnsupportedType => "this type of track is not supported",
        Reason::NotFound => "the track does not exist",
    };
    let text = sanitize_text(&response.message);
    Err(ConnectionError::Refused(if text.is_empty() { why.to_owned() } else { format!("{why}: {text}") }))
}

/// The candidate of a trickle message, if it is for the publisher.
fn parse_candidate(trickle: &TrickleRequest) -> Option<ServerEvent> {
    if trickle.target() != SignalTarget::Publisher || trickle.candidate_init.len() > MAX_CANDIDATE_BYTES {
        return None;
    }
    let init: CandidateInit = serde_json::from_str(&trickle.candidate_init).ok()?;
    // An empty candidate marks the end.
    (!init.candidate.is_empty()).then_some(ServerEvent::Candidate(init.candidate))
}

fn ice_servers(join: JoinResponse) -> Vec<IceServer> {
    let is_short = |text: &String| text.len() <= MAX_ICE_FIELD_BYTES;
    let is_known = |url: &String| ["stun:", "turn:", "turns:"].iter().any(|scheme| url.starts_with(scheme));
    let servers = join.ice_servers.into_iter().filter(|s| is_short(&s.username) && is_short(&s.credential));
    let all = servers.flat_map(|server| {
        let (username, credential) = (server.username, Secret::new(server.credential));
        let urls = server.urls.into_iter().filter(move |url| is_short(url) && is_known(url));
        urls.map(move |url| IceServer { url, username: username.clone(), credential: credential.clone() })
    });
    all.take(MAX_ICE_SERVERS).collect()
}

fn unix_time_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(0)
}
