//! What is said on a link, from the greeting to the goodbye.

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
/// What the server said while something else was waited for. Full: what comes is passed over.
pub(super) const MAX_QUEUED_EVENTS: usize = 64;
/// Longest answer in bytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Longest candidate in bytes.
const MAX_CANDIDATE_BYTES: usize = 1024;
/// Longest address, user or password of a server for ICE, in bytes.
const MAX_ICE_FIELD_BYTES: usize = 1024;
/// How often the server is asked whether it is there, and how long it may be silent, if it does not say; in seconds.
const DEFAULT_PING_S: (i32, i32) = (5, 15);
/// What it may say.
const PING_INTERVAL_RANGE_S: std::ops::RangeInclusive<i32> = 1..=30;
const PING_TIMEOUT_RANGE_S: std::ops::RangeInclusive<i32> = 2..=120;

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    ping_interval: Duration,
    ping_timeout: Duration,
    last_ping: Instant,
    last_received: Instant,
    /// What was offered, and how often.
    offer_sdp: String,
    offer_count: u32,
    layer_count: usize,
    /// What the server calls the picture.
    video_track_sid: Option<String>,
    events: VecDeque<ServerEvent>,
}

/// A candidate as browsers write it; all media are bundled, so it matters to none of them more than to another.
#[derive(Debug, Deserialize)]
struct CandidateInit {
    candidate: String,
}

impl Session {
    /// Waits for the greeting: with it come servers for ICE.
    pub(super) async fn join(mut link: Connection) -> Result<(Self, Vec<IceServer>), ConnectionError> {
        let greeting = loop {
            match link.receive().await? {
                Some(Response::Join(greeting)) => break greeting,
                Some(Response::Leave(leave)) => return Err(leave_error(&leave)),
                _ => {}
            }
        };
        if !greeting.alternative_url.is_empty() {
            return Err(ConnectionError::Failed("it is not available, and names another server".into()));
        }
        let seconds = |given: i32, usual: i32, range: std::ops::RangeInclusive<i32>| {
            let seconds = if given > 0 { given } else { usual };
            Duration::from_secs(seconds.clamp(*range.start(), *range.end()).unsigned_abs().into())
        };
        let now = Instant::now();
        let session = Self {
            connection: link,
            ping_interval: seconds(greeting.ping_interval, DEFAULT_PING_S.0, PING_INTERVAL_RANGE_S),
            ping_timeout: seconds(greeting.ping_timeout, DEFAULT_PING_S.1, PING_TIMEOUT_RANGE_S),
            last_ping: now,
            last_received: now,
            offer_sdp: String::new(),
            offer_count: 0,
            layer_count: 0,
            video_track_sid: None,
            events: VecDeque::new(),
        };
        Ok((session, ice_servers(greeting)))
    }

    /// Announces the tracks, and offers them.
    pub(super) async fn publish(&mut self, offer: &Offer) -> Result<String, ConnectionError> {
        let name = |mid: &str| sdp::track_id(&offer.sdp, mid).unwrap_or(mid).to_owned();
        let (sound, picture) = (name(&offer.audio_mid), name(&offer.video_mid));
        self.layer_count = offer.layers.len();
        self.connection.send(Request::AddTrack(audio_track_request(sound))).await?;
        self.connection.send(Request::AddTrack(video_track_request(picture.clone(), &offer.layers))).await?;
        self.send_offer(offer.sdp.clone(), &picture).await
    }

    /// Offers the same with other credentials and candidates; those of the answer.
    pub(super) async fn restart_ice(&mut self, fragment: &str) -> Result<String, ConnectionError> {
        let offered = sdp::apply_fragment(&self.offer_sdp, fragment);
        // Ways that were named before lead nowhere now.
        self.events.retain(|said| !matches!(said, ServerEvent::Candidate(_)));
        let answer = self.send_offer(offered, "").await?;
        Ok(sdp::restart_fragment(&answer))
    }

    /// Sends an offer and waits for the answer to it. `picture` is our name of the picture, if it has just been announced.
    async fn send_offer(&mut self, offered: String, picture: &str) -> Result<String, ConnectionError> {
        self.offer_count += 1;
        let (id, sdp) = (self.offer_count, offered.clone());
        self.offer_sdp = offered;
        self.connection.send(Request::Offer(SessionDescription { r#type: "offer".into(), sdp, id })).await?;
        loop {
            let response = self.connection.receive().await?;
            self.last_received = Instant::now();
            match response {
                Some(Response::Answer(answer)) if answer.id == id || answer.id == 0 => {
                    return if answer.sdp.len() <= MAX_ANSWER_BYTES {
                        Ok(answer.sdp)
                    } else {
                        Err(ConnectionError::Failed("its answer is longer than 256 KiB".into()))
                    };
                }
                Some(Response::TrackPublished(published)) if published.cid == picture => {
                    self.video_track_sid = published.track.map(|track| track.sid);
                }
                Some(response) => self.handle_response(response)?,
                None => {}
            }
        }
    }

    /// Tells the candidates of a fragment of SDP.
    pub(super) async fn trickle(&mut self, fragment: &str) -> Result<(), ConnectionError> {
        for candidate in sdp::candidate_lines(fragment) {
            // All media are bundled with the first.
            let candidate_init = json!({ "candidate": candidate, "sdpMLineIndex": 0 }).to_string();
            let target = SignalTarget::Publisher.into();
            self.connection.send(Request::Trickle(TrickleRequest { candidate_init, target })).await?;
        }
        Ok(())
    }

    /// Waits for something that matters, and keeps the link alive. Safe to be dropped and called again.
    pub(super) async fn next_event(&mut self) -> Result<ServerEvent, ConnectionError> {
        loop {
            if let Some(said) = self.events.pop_front() {
                return Ok(said);
            }
            let (ping, silent) =
                (self.last_ping + self.ping_interval, self.last_received + self.ping_timeout);
            tokio::select! {
                response = self.connection.receive() => {
                    self.last_received = Instant::now();
                    if let Some(response) = response? {
                        self.handle_response(response)?;
                    }
                }
                () = sleep_until(silent) => return Err(ConnectionError::Unreachable("it is silent".into())),
                () = sleep_until(ping) => {
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
                    .for_each(|said| self.queue_event(Some(said)));
            }
            // Other tracks, and what comes too late.
            Response::Join(_)
            | Response::Answer(_)
            | Response::TrackPublished(_)
            | Response::SubscribedQualityUpdate(_) => {}
        }
        Ok(())
    }

    fn queue_event(&mut self, said: Option<ServerEvent>) {
        if self.events.len() < MAX_QUEUED_EVENTS {
            self.events.extend(said);
        }
    }

    /// Says goodbye; what the server had said before, if it was the first to say so. Waits until the server closes the link.
    pub(super) async fn leave(mut self) -> Option<ConnectionError> {
        let reason = DisconnectReason::ClientInitiated.into();
        // The link may be closed already: what came before that is still to be read.
        let _too_late = self.connection.send(Request::Leave(LeaveRequest { reason })).await;
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

/// Sound that is never taken apart: in stereo, and silence too.
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

/// A shared screen: LiveKit takes layers of cameras for dead when there is a picture a second.
fn video_track_request(cid: String, layers: &[OfferedLayer]) -> AddTrackRequest {
    let (width, height) = layers.first().map_or((0, 0), |layer| layer.size);
    // The smaller one first.
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

/// What LiveKit's clients call a layer: it follows from the `rid`, and a layer that is alone is high.
fn video_quality(index: usize, layers: usize) -> VideoQuality {
    match (index, layers) {
        (_, 0 | 1) => VideoQuality::High,
        (0, _) => VideoQuality::Medium,
        _ => VideoQuality::Low,
    }
}

/// Which layers anybody watches: all up to the best quality that anybody wants. Above the best that there is, it is that one.
fn layer_subscriptions(update: &SubscribedQualityUpdate, layers: usize) -> Vec<ServerEvent> {
    let codecs = update.subscribed_codecs.iter().flat_map(|codec| &codec.qualities);
    let all: Vec<&SubscribedQuality> = if update.subscribed_codecs.is_empty() {
        update.subscribed_qualities.iter().collect()
    } else {
        codecs.collect()
    };
    let enabled = |fits: &dyn Fn(VideoQuality) -> bool| {
        all.iter().any(|q| q.enabled && q.quality() != VideoQuality::Off && fits(q.quality()))
    };
    let wanted = |layer: usize| match (layer, layers) {
        (_, 0 | 1) => enabled(&|_| true),
        (0, _) => enabled(&|quality| quality != VideoQuality::Low),
        _ => enabled(&|quality| quality == VideoQuality::Low),
    };
    (0..layers).map(|layer| ServerEvent::LayerSubscription { layer, subscribed: wanted(layer) }).collect()
}

/// What a goodbye of the server means. What says that it wants no more of this is not tried again.
fn leave_error(leave: &LeaveRequest) -> ConnectionError {
    let failed = |why: &str| ConnectionError::Failed(why.to_owned());
    match leave.reason() {
        DisconnectReason::DuplicateIdentity => ConnectionError::Replaced,
        DisconnectReason::ParticipantRemoved => {
            ConnectionError::Refused("this user was removed from the room".into())
        }
        DisconnectReason::RoomDeleted => ConnectionError::Refused("the room was deleted".into()),
        DisconnectReason::ServerShutdown => failed("it shuts down"),
        DisconnectReason::RoomClosed => failed("the room was closed"),
        DisconnectReason::ConnectionTimeout | DisconnectReason::MediaFailure => {
            failed("nothing of the stream reached it in time")
        }
        other => ConnectionError::Failed(format!("it ended the session ({other:?})")),
    }
}

/// Whether an answer to a request is a refusal.
fn request_error(response: &RequestResponse) -> Result<(), ConnectionError> {
    let why = match response.reason() {
        Reason::Ok | Reason::Queued => return Ok(()),
        Reason::NotAllowed => "nothing may be published with this API key",
        Reason::LimitExceeded => "a limit is exceeded",
        Reason::UnsupportedType => "it does not take such a track",
        Reason::NotFound => "there is no such track",
    };
    let said = sanitize_text(&response.message);
    Err(ConnectionError::Refused(if said.is_empty() { why.to_owned() } else { format!("{why}: {said}") }))
}

/// A candidate for us, if it is one.
fn parse_candidate(trickle: &TrickleRequest) -> Option<ServerEvent> {
    if trickle.target() != SignalTarget::Publisher || trickle.candidate_init.len() > MAX_CANDIDATE_BYTES {
        return None;
    }
    let init: CandidateInit = serde_json::from_str(&trickle.candidate_init).ok()?;
    // An empty one says that there are no more.
    (!init.candidate.is_empty()).then_some(ServerEvent::Candidate(init.candidate))
}

fn ice_servers(greeting: JoinResponse) -> Vec<IceServer> {
    let short = |text: &String| text.len() <= MAX_ICE_FIELD_BYTES;
    let known = |url: &String| ["stun:", "turn:", "turns:"].iter().any(|scheme| url.starts_with(scheme));
    let servers = greeting.ice_servers.into_iter().filter(|s| short(&s.username) && short(&s.credential));
    let each = servers.flat_map(|server| {
        let (username, credential) = (server.username, Secret::new(server.credential));
        let urls = server.urls.into_iter().filter(move |url| short(url) && known(url));
        urls.map(move |url| IceServer { url, username: username.clone(), credential: credential.clone() })
    });
    each.take(MAX_ICE_SERVERS).collect()
}

fn unix_time_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(0)
}
