//! Client for the VideoRoom plugin of Janus: a session with one handle, which joins a room and publishes.
//!
//! A user has one identifier in a room, so Janus admits it once. An earlier publisher with the identifier is
//! kicked, which needs the room's secret if the room has one. Without it, this publisher joins with an
//! identifier chosen by Janus, and the earlier one stays until it leaves or its session times out, as a lost
//! connection of our own does.

mod messages;
mod transport;

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use pagecast_core::spec::{IceServer, RoomIds, RoomUrl, Secret};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use super::{Error, Offer, ServerEvent, SignalingClient};
use crate::sdp;
use messages::{ApiError, Event, Identifier, Message, error_code};
use transport::Transport;

/// Longest duration of joining: up to seven requests.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest duration of leaving: the end of a cast waits for it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of keepalives: Janus ends sessions that are silent for a minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(25);
/// Most attempts to join, in case another publisher takes the identifier in between.
const MAX_JOIN_ATTEMPTS: usize = 3;
/// Candidates that wait to be returned. When full, later ones are dropped.
const MAX_QUEUED_CANDIDATES: usize = 64;
/// Ratio of the bitrate cap for Janus to the video's bitrate: Janus counts audio and retransmissions, too.
const BITRATE_CAP_RATIO: (u64, u64) = (3, 2);

/// Room, user and secrets, with templates filled in.
#[derive(Debug)]
struct JoinParams {
    url: String,
    room: String,
    user: String,
    secret: Option<Secret>,
    room_secret: Option<Secret>,
    pin: Option<Secret>,
}

/// Janus client for one session.
#[derive(Debug)]
pub(crate) struct JanusClient {
    params: JoinParams,
    display_url: String,
    transport: Option<Transport>,
    session: Option<u64>,
    handle: Option<u64>,
    offer: Option<String>,
    last_transaction: u64,
    candidates: VecDeque<String>,
    /// Why the session has ended.
    end_reason: Option<Error>,
    /// Time of the next keepalive.
    keepalive_at: Instant,
    /// Time by which the server must answer the keepalive.
    response_deadline: Option<Instant>,
}

impl JanusClient {
    pub(crate) fn new(
        url: &RoomUrl,
        [secret, room_secret, pin]: [Option<&Secret>; 3],
        ids: &RoomIds,
    ) -> Self {
        let fill =
            |secret: Option<&Secret>| secret.map(|secret| Secret::new(ids.fill_template(secret.reveal())));
        let params = JoinParams {
            url: ids.fill_url_template(url),
            room: ids.room.clone(),
            user: ids.user.clone(),
            secret: fill(secret),
            room_secret: fill(room_secret),
            pin: fill(pin),
        };
        Self {
            params,
            display_url: ids.fill_template(&url.to_string()),
            transport: None,
            session: None,
            handle: None,
            offer: None,
            last_transaction: 0,
            candidates: VecDeque::new(),
            end_reason: None,
            keepalive_at: Instant::now(),
            response_deadline: None,
        }
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unreachable { server: self.display_url.clone(), why: self.redact(why) }
    }

    fn failed(&self, why: &str) -> Error {
        Error::Failed { server: self.display_url.clone(), why: self.redact(why) }
    }

    fn refused(&self, why: &str) -> Error {
        Error::Refused { server: self.display_url.clone(), why: self.redact(why) }
    }

    /// Text of a server for an error: on one line, shortened, without secrets.
    fn redact(&self, text: &str) -> String {
        let JoinParams { secret, room_secret, pin, .. } = &self.params;
        let secrets = [secret, room_secret, pin].into_iter().flatten().map(Secret::reveal);
        let redacted =
            secrets.filter(|s| !s.is_empty()).fold(text.to_owned(), |text, s| text.replace(s, "…"));
        super::sanitize_text(&redacted)
    }

    /// The meaning of an API error, whatever the request.
    fn map_error(&self, error: &ApiError) -> Error {
        // Errors after the end of the session are consequences of it.
        if let Some(end) = &self.end_reason {
            return end.clone();
        }
        let text = format!("{} ({})", error.reason, error.code);
        match error.code {
            error_code::UNAUTHORIZED | error_code::UNAUTHORIZED_PLUGIN if self.params.secret.is_none() => {
                self.refused(&format!("an API secret or a token is needed: {text}"))
            }
            error_code::UNAUTHORIZED | error_code::UNAUTHORIZED_PLUGIN => {
                self.refused(&format!("the API secret or token is wrong: {text}"))
            }
            error_code::NO_PLUGIN => self.refused(&format!("the VideoRoom plugin is missing: {text}")),
            error_code::NO_ROOM => self.refused(&format!("there is no such room: {text}")),
            error_code::MISSING_ELEMENT if self.params.pin.is_none() => {
                self.refused(&format!("the room may need a pin: {text}"))
            }
            error_code::MISSING_ELEMENT
            | error_code::INVALID_ELEMENT
            | error_code::ROOM_UNAUTHORIZED
            | error_code::INVALID_SDP => self.refused(&text),
            error_code::PUBLISHERS_FULL => {
                self.failed(&format!("the room has reached its limit of publishers: {text}"))
            }
            _ => self.failed(&text),
        }
    }

    /// Sends a request with the current session and handle, and returns its transaction.
    fn send_request(&mut self, mut request: Value) -> Result<String, Error> {
        self.last_transaction += 1;
        let transaction = self.last_transaction.to_string();
        request["transaction"] = json!(transaction);
        for (name, id) in [("session_id", self.session), ("handle_id", self.handle)] {
            if let Some(id) = id {
                request[name] = json!(id);
            }
        }
        if let Some(secret) = &self.params.secret {
            // The server may be configured for either of them.
            request["apisecret"] = json!(secret.reveal());
            request["token"] = json!(secret.reveal());
        }
        let Some(transport) = &self.transport else { return Err(self.failed("there is no connection")) };
        transport.send(request).map_err(|why| self.failed(&why))?;
        self.keepalive_at = Instant::now() + KEEPALIVE_INTERVAL;
        Ok(transaction)
    }

    /// Waits for a message. Cancel-safe.
    async fn receive_message(&mut self) -> Result<Message, Error> {
        let Some(transport) = &mut self.transport else { return Err(self.failed("there is no connection")) };
        let message = match transport.receive().await {
            Ok(message) => message,
            Err(why) => return Err(self.failed(&why)),
        };
        self.response_deadline = None;
        Ok(message)
    }

    /// Sends a request and waits for its response, which may be an API error.
    async fn request(&mut self, request: Value) -> Result<Result<Message, ApiError>, Error> {
        let transaction = self.send_request(request)?;
        loop {
            let message = self.receive_message().await?;
            if message.transaction.as_ref() != Some(&transaction) {
                self.handle_message(&message);
            } else if !message.is_ack() {
                return Ok(message.api_error().map_or(Ok(message), Err));
            }
        }
    }

    /// Sends a request to the plugin and waits for its response.
    async fn request_plugin(&mut self, body: Value) -> Result<Result<Message, ApiError>, Error> {
        self.request(json!({"janus": "message", "body": body})).await
    }

    /// Handles a message that is not a response.
    fn handle_message(&mut self, message: &Message) {
        tracing::trace!(kind = message.janus, "janus event received");
        match message.event() {
            Event::Ignored => {}
            Event::Candidate(line) if self.candidates.len() < MAX_QUEUED_CANDIDATES => {
                self.candidates.push_back(line);
            }
            Event::Candidate(_) => tracing::debug!("candidate dropped, queue full"),
            // The first event is the reason; later ones are consequences.
            Event::Kicked => self.end_reason = self.end_reason.take().or(Some(Error::Replaced)),
            Event::SessionEnded(why) => {
                self.end_reason = self.end_reason.take().or_else(|| Some(self.failed(&why)));
            }
        }
    }

    async fn open_session(&mut self) -> Result<(), Error> {
        let url = Url::parse(&self.params.url).map_err(|_| self.refused("the URL is invalid"))?;
        match Transport::open(&url, self.params.secret.as_ref()).await {
            Ok(transport) => self.transport = Some(transport),
            Err(why) => return Err(self.unreachable(&why)),
        }
        let session = self.request(json!({"janus": "create"})).await?.map_err(|p| self.map_error(&p))?;
        self.session = session.created_id();
        let attach = json!({"janus": "attach", "plugin": messages::PLUGIN});
        let handle = self.request(attach).await?.map_err(|p| self.map_error(&p))?;
        self.handle = handle.created_id();
        if self.session.is_none() || self.handle.is_none() {
            return Err(self.failed("the response has no session or handle"));
        }
        let room = self.find_room().await?;
        self.join_room(&room).await
    }

    /// Finds the room's identifier, and creates the room if it does not exist.
    async fn find_room(&mut self) -> Result<Identifier, Error> {
        let candidates = Identifier::possible_ids(&self.params.room);
        let is_number = candidates.len() > 1;
        for room in candidates {
            let exists = json!({"request": "exists", "room": room.to_json()});
            match self.request_plugin(exists).await? {
                Ok(message) if message.plugin_data()["exists"] == true => return Ok(room),
                Ok(_) => return self.create_room(room).await,
                Err(ApiError { code: error_code::INVALID_ELEMENT, .. }) => {}
                Err(problem) => return Err(self.map_error(&problem)),
            }
        }
        let why =
            if is_number { "the room's identifier is invalid" } else { "rooms need a number as identifier" };
        Err(self.refused(&format!("{why}: {}", self.params.room)))
    }

    async fn create_room(&mut self, room: Identifier) -> Result<Identifier, Error> {
        let JoinParams { room_secret, pin, .. } = &self.params;
        let body = messages::create_room_request(
            &room,
            pin.as_ref().map(Secret::reveal),
            room_secret.as_ref().map(Secret::reveal),
        );
        match self.request_plugin(body).await? {
            Ok(_) | Err(ApiError { code: error_code::ROOM_EXISTS, .. }) => Ok(room),
            Err(ApiError { code: error_code::MISSING_ELEMENT | error_code::ROOM_UNAUTHORIZED, reason }) => {
                let id = &self.params.room;
                Err(self
                    .refused(&format!("there is no room {id}, and creating one is not allowed: {reason}")))
            }
            Err(problem) => Err(self.map_error(&problem)),
        }
    }

    /// Joins the room in place of earlier publishers of the same user.
    async fn join_room(&mut self, room: &Identifier) -> Result<(), Error> {
        let id = room.for_user(&self.params.user);
        for _ in 0..MAX_JOIN_ATTEMPTS {
            if !self.kick_same_user(room, &id).await? {
                tracing::info!("earlier publisher of this user stays, room secret needed to kick it");
                return self.join_as(room, None).await?.map_err(|p| self.map_error(&p));
            }
            match self.join_as(room, Some(&id)).await? {
                Ok(()) => return Ok(()),
                Err(ApiError { code: error_code::ID_EXISTS, .. }) => {}
                Err(problem) => return Err(self.map_error(&problem)),
            }
        }
        Err(self.failed("other publishers of the same user join again and again"))
    }

    async fn join_as(
        &mut self,
        room: &Identifier,
        id: Option<&Identifier>,
    ) -> Result<Result<(), ApiError>, Error> {
        let mut body = json!({
            "request": "join", "ptype": "publisher", "room": room.to_json(), "display": self.params.user,
        });
        if let Some(id) = id {
            body["id"] = id.to_json();
        }
        if let Some(pin) = &self.params.pin {
            body["pin"] = json!(pin.reveal());
        }
        if let Some(secret) = &self.params.secret {
            // Rooms may have lists of allowed tokens, too.
            body["token"] = json!(secret.reveal());
        }
        Ok(self.request_plugin(body).await?.map(drop))
    }

    /// Kicks earlier publishers of the same user. Returns whether the identifier is free then.
    async fn kick_same_user(&mut self, room: &Identifier, id: &Identifier) -> Result<bool, Error> {
        let list = json!({"request": "listparticipants", "room": room.to_json()});
        let list = match self.request_plugin(list).await? {
            Ok(message) => message.plugin_data().clone(),
            Err(problem) => return Err(self.map_error(&problem)),
        };
        let mut free = true;
        for other in messages::participants_of_user(&list, &self.params.user, id) {
            let has_id = other.id == id.to_json();
            // Another user may have the number by chance, and is not kicked.
            let kicked = other.is_user && self.kick(room, &other.id).await?;
            free &= kicked || !has_id;
        }
        Ok(free)
    }

    /// Kicks a participant. Returns whether it is gone.
    async fn kick(&mut self, room: &Identifier, id: &Value) -> Result<bool, Error> {
        let mut body = json!({"request": "kick", "room": room.to_json(), "id": id});
        if let Some(secret) = &self.params.room_secret {
            body["secret"] = json!(secret.reveal());
        }
        match self.request_plugin(body).await? {
            Ok(_) | Err(ApiError { code: error_code::NO_FEED, .. }) => Ok(true),
            Err(ApiError { code: error_code::MISSING_ELEMENT | error_code::ROOM_UNAUTHORIZED, reason }) => {
                if self.params.room_secret.is_none() {
                    return Ok(false);
                }
                let why = "the room secret is wrong, so an earlier publisher of this user cannot be kicked";
                Err(self.refused(&format!("{why}: {reason}")))
            }
            Err(problem) => Err(self.map_error(&problem)),
        }
    }

    /// Publishes or reconfigures the stream, and returns the SDP answer.
    async fn publish(&mut self, body: Value, sdp: &str) -> Result<String, Error> {
        // All candidates are in the offer.
        let jsep = json!({"type": "offer", "sdp": sdp, "trickle": false, "rid_order": "hml"});
        let published = self.request(json!({"janus": "message", "body": body, "jsep": jsep})).await?;
        let message = published.map_err(|p| self.map_error(&p))?;
        let answer = message.answer_sdp().map(str::to_owned);
        let answer = answer.ok_or_else(|| self.failed("the response to publishing has no SDP answer"))?;
        self.offer = Some(sdp.to_owned());
        Ok(answer)
    }
}

#[async_trait]
impl SignalingClient for JanusClient {
    async fn join(&mut self) -> Result<Vec<IceServer>, Error> {
        match timeout(JOIN_TIMEOUT, self.open_session()).await {
            Ok(joined) => joined.map(|()| Vec::new()),
            Err(_) => Err(self.unreachable("the response timed out")),
        }
    }

    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error> {
        let video_bps = offer.layers.iter().map(|layer| u64::from(layer.bitrate_bps)).sum::<u64>();
        let body =
            json!({"request": "publish", "bitrate": video_bps * BITRATE_CAP_RATIO.0 / BITRATE_CAP_RATIO.1});
        match timeout(RESPONSE_TIMEOUT, self.publish(body, &offer.sdp)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("the response timed out")),
        }
    }

    async fn restart_ice(&mut self, fragment: &str) -> Result<Option<String>, Error> {
        let Some(offer) = &self.offer else { return Ok(None) };
        let offer = sdp::apply_fragment(offer, fragment);
        match timeout(RESPONSE_TIMEOUT, self.publish(json!({"request": "configure"}), &offer)).await {
            Ok(answer) => Ok(Some(sdp::restart_fragment(&answer?))),
            Err(_) => Err(self.unreachable("the response timed out")),
        }
    }

    async fn next_event(&mut self) -> Result<ServerEvent, Error> {
        loop {
            if let Some(line) = self.candidates.pop_front() {
                return Ok(ServerEvent::Candidate(line));
            }
            if let Some(end) = &self.end_reason {
                return Err(end.clone());
            }
            let deadline = self.response_deadline.unwrap_or(self.keepalive_at);
            tokio::select! {
                message = self.receive_message() => {
                    let message = message.inspect_err(|error| self.end_reason = Some(error.clone()))?;
                    self.handle_message(&message);
                }
                () = sleep_until(deadline) => {
                    if self.response_deadline.is_some() {
                        self.end_reason = Some(self.unreachable("the server does not answer keepalives"));
                    } else {
                        self.send_request(json!({"janus": "keepalive"}))?;
                        self.response_deadline = Some(Instant::now() + RESPONSE_TIMEOUT);
                    }
                }
            }
        }
    }

    async fn leave(&mut self) -> Option<Error> {
        if self.session.is_some() && self.transport.is_some() {
            // Destroying the session also detaches the handle and leaves the room.
            self.handle = None;
            let destroy = self.request(json!({"janus": "destroy"}));
            if timeout(LEAVE_TIMEOUT, destroy).await.is_err() {
                tracing::debug!("janus session destroy timed out");
            }
        }
        (self.transport, self.session) = (None, None);
        self.end_reason.take()
    }
}

#[cfg(test)]
mod tests;
