//! Janus, its VideoRoom plugin: a session with one handle, which joins a room and publishes in it.
//!
//! A user has one name in a room, so Janus lets it in once. Who has the name already is thrown out, for which Janus wants the room's
//! secret, if the room has one. Without it, both stay: we join under a name that Janus chooses, and the earlier one goes when it leaves
//! or its session is over, which is how a connection of ours that was lost ends as well.

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

/// How long joining a room may take, all in all.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the goodbye may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the server is told that we are there: it forgets who says nothing for a minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(25);
/// Most times that somebody else may join under our name while we throw others out.
const MAX_JOIN_ATTEMPTS: usize = 3;
/// Candidates that wait to be told. Full: later ones are not.
const MAX_QUEUED_CANDIDATES: usize = 64;
/// What the picture's bitrate is multiplied by for the cap that Janus tells: it counts more than the picture.
const BITRATE_CAP_RATIO: (u64, u64) = (3, 2);

/// Where and as whom we publish, templates filled in.
#[derive(Debug)]
struct JoinParams {
    url: String,
    room: String,
    user: String,
    secret: Option<Secret>,
    room_secret: Option<Secret>,
    pin: Option<Secret>,
}

/// One session.
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
    /// Why it is over.
    end_reason: Option<Error>,
    /// When the server is to be told that we are there.
    keepalive_at: Instant,
    /// Until when it must have said something.
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
        let access = JoinParams {
            url: ids.fill_url_template(url),
            room: ids.room.clone(),
            user: ids.user.clone(),
            secret: fill(secret),
            room_secret: fill(room_secret),
            pin: fill(pin),
        };
        Self {
            params: access,
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

    /// What others said, fit to be repeated: short, on one line, and without what they were told in confidence.
    fn redact(&self, text: &str) -> String {
        let JoinParams { secret, room_secret, pin, .. } = &self.params;
        let secrets = [secret, room_secret, pin].into_iter().flatten().map(Secret::reveal);
        let hidden = secrets.filter(|s| !s.is_empty()).fold(text.to_owned(), |text, s| text.replace(s, "…"));
        super::sanitize_text(&hidden)
    }

    /// What a problem means, whatever was asked.
    fn map_error(&self, problem: &ApiError) -> Error {
        // What it says after the end follows from the end.
        if let Some(end) = &self.end_reason {
            return end.clone();
        }
        let said = format!("{} ({})", problem.reason, problem.code);
        match problem.code {
            error_code::UNAUTHORIZED | error_code::UNAUTHORIZED_PLUGIN if self.params.secret.is_none() => {
                self.refused(&format!("it wants an API secret or a token: {said}"))
            }
            error_code::UNAUTHORIZED | error_code::UNAUTHORIZED_PLUGIN => {
                self.refused(&format!("the API secret or token is wrong: {said}"))
            }
            error_code::NO_PLUGIN => self.refused(&format!("it has no VideoRoom plugin: {said}")),
            error_code::NO_ROOM => self.refused(&format!("there is no such room: {said}")),
            error_code::MISSING_ELEMENT if self.params.pin.is_none() => {
                self.refused(&format!("is a pin needed to join? {said}"))
            }
            error_code::MISSING_ELEMENT
            | error_code::INVALID_ELEMENT
            | error_code::ROOM_UNAUTHORIZED
            | error_code::INVALID_SDP => self.refused(&said),
            error_code::PUBLISHERS_FULL => self.failed(&format!("as many publish as may: {said}")),
            _ => self.failed(&said),
        }
    }

    /// Sends a request that belongs to what there is so far; its transaction.
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
            // Which of the two it is, only the server knows.
            request["apisecret"] = json!(secret.reveal());
            request["token"] = json!(secret.reveal());
        }
        let Some(link) = &self.transport else { return Err(self.failed("there is no connection")) };
        link.send(request).map_err(|why| self.failed(&why))?;
        self.keepalive_at = Instant::now() + KEEPALIVE_INTERVAL;
        Ok(transaction)
    }

    /// Waits for a message. Safe to be dropped and called again.
    async fn receive_message(&mut self) -> Result<Message, Error> {
        let Some(link) = &mut self.transport else { return Err(self.failed("there is no connection")) };
        let message = match link.receive().await {
            Ok(message) => message,
            Err(why) => return Err(self.failed(&why)),
        };
        self.response_deadline = None;
        Ok(message)
    }

    /// Sends a request and waits for its answer, which may be that it cannot be done.
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

    /// The same for the plugin.
    async fn request_plugin(&mut self, body: Value) -> Result<Result<Message, ApiError>, Error> {
        self.request(json!({"janus": "message", "body": body})).await
    }

    /// Takes what the server says by itself.
    fn handle_message(&mut self, message: &Message) {
        tracing::trace!(kind = message.janus, "Janus says");
        match message.event() {
            Event::Ignored => {}
            Event::Candidate(line) if self.candidates.len() < MAX_QUEUED_CANDIDATES => {
                self.candidates.push_back(line);
            }
            Event::Candidate(_) => tracing::debug!("Janus names too many candidates"),
            // Only what came first is the reason; the rest follows from it.
            Event::Kicked => self.end_reason = self.end_reason.take().or(Some(Error::Replaced)),
            Event::SessionEnded(why) => {
                self.end_reason = self.end_reason.take().or_else(|| Some(self.failed(&why)));
            }
        }
    }

    async fn open_session(&mut self) -> Result<(), Error> {
        let url = Url::parse(&self.params.url).map_err(|_| self.refused("its address is none"))?;
        match Transport::open(&url, self.params.secret.as_ref()).await {
            Ok(link) => self.transport = Some(link),
            Err(why) => return Err(self.unreachable(&why)),
        }
        let session = self.request(json!({"janus": "create"})).await?.map_err(|p| self.map_error(&p))?;
        self.session = session.created_id();
        let attach = json!({"janus": "attach", "plugin": messages::PLUGIN});
        let handle = self.request(attach).await?.map_err(|p| self.map_error(&p))?;
        self.handle = handle.created_id();
        if self.session.is_none() || self.handle.is_none() {
            return Err(self.failed("it made no session"));
        }
        let room = self.find_room().await?;
        self.join_room(&room).await
    }

    /// How the server names the room, which is made if it is not there.
    async fn find_room(&mut self) -> Result<Identifier, Error> {
        let guesses = Identifier::possible_ids(&self.params.room);
        let numbers = guesses.len() > 1;
        for room in guesses {
            let exists = json!({"request": "exists", "room": room.to_json()});
            match self.request_plugin(exists).await? {
                Ok(message) if message.plugin_data()["exists"] == true => return Ok(room),
                Ok(_) => return self.create_room(room).await,
                Err(ApiError { code: error_code::INVALID_ELEMENT, .. }) => {}
                Err(problem) => return Err(self.map_error(&problem)),
            }
        }
        let why =
            if numbers { "it takes no name of a room" } else { "its rooms have numbers, and this is none" };
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
                Err(self.refused(&format!("there is no room {id}, and we may not make one: {reason}")))
            }
            Err(problem) => Err(self.map_error(&problem)),
        }
    }

    /// Joins, in place of whoever is there as the same user.
    async fn join_room(&mut self, room: &Identifier) -> Result<(), Error> {
        let name = room.for_user(&self.params.user);
        for _ in 0..MAX_JOIN_ATTEMPTS {
            if !self.kick_same_user(room, &name).await? {
                tracing::info!(
                    "another publisher of the same user stays in the room: without its secret, nobody can be thrown out"
                );
                return self.join_as(room, None).await?.map_err(|p| self.map_error(&p));
            }
            match self.join_as(room, Some(&name)).await? {
                Ok(()) => return Ok(()),
                Err(ApiError { code: error_code::ID_EXISTS, .. }) => {}
                Err(problem) => return Err(self.map_error(&problem)),
            }
        }
        Err(self.failed("others join as the same user, again and again"))
    }

    async fn join_as(
        &mut self,
        room: &Identifier,
        name: Option<&Identifier>,
    ) -> Result<Result<(), ApiError>, Error> {
        let mut body = json!({
            "request": "join", "ptype": "publisher", "room": room.to_json(), "display": self.params.user,
        });
        if let Some(name) = name {
            body["id"] = name.to_json();
        }
        if let Some(pin) = &self.params.pin {
            body["pin"] = json!(pin.reveal());
        }
        if let Some(secret) = &self.params.secret {
            // Rooms may have lists of tokens, too.
            body["token"] = json!(secret.reveal());
        }
        Ok(self.request_plugin(body).await?.map(drop))
    }

    /// Throws out who is there as the same user. `false` if somebody stays who has the name.
    async fn kick_same_user(&mut self, room: &Identifier, name: &Identifier) -> Result<bool, Error> {
        let list = json!({"request": "listparticipants", "room": room.to_json()});
        let list = match self.request_plugin(list).await? {
            Ok(message) => message.plugin_data().clone(),
            Err(problem) => return Err(self.map_error(&problem)),
        };
        let mut free = true;
        for other in messages::participants_of_user(&list, &self.params.user, name) {
            let named = other.id == name.to_json();
            // Somebody else may have the number by chance.
            let gone = other.is_user && self.kick(room, &other.id).await?;
            free &= gone || !named;
        }
        Ok(free)
    }

    /// Whether somebody is gone.
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
                let why = "the same user is in the room, and the room's secret to throw it out is wrong";
                Err(self.refused(&format!("{why}: {reason}")))
            }
            Err(problem) => Err(self.map_error(&problem)),
        }
    }

    /// Publishes, or changes what is published.
    async fn publish(&mut self, body: Value, sdp: &str) -> Result<String, Error> {
        // All candidates are in the offer.
        let jsep = json!({"type": "offer", "sdp": sdp, "trickle": false, "rid_order": "hml"});
        let published = self.request(json!({"janus": "message", "body": body, "jsep": jsep})).await?;
        let message = published.map_err(|p| self.map_error(&p))?;
        let answer = message.answer_sdp().map(str::to_owned);
        let answer =
            answer.ok_or_else(|| self.failed("it published nothing: there is no SDP in its answer"))?;
        self.offer = Some(sdp.to_owned());
        Ok(answer)
    }
}

#[async_trait]
impl SignalingClient for JanusClient {
    async fn join(&mut self) -> Result<Vec<IceServer>, Error> {
        match timeout(JOIN_TIMEOUT, self.open_session()).await {
            Ok(joined) => joined.map(|()| Vec::new()),
            Err(_) => Err(self.unreachable("it did not answer in time")),
        }
    }

    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error> {
        let picture = offer.layers.iter().map(|layer| u64::from(layer.bitrate_bps)).sum::<u64>();
        let body =
            json!({"request": "publish", "bitrate": picture * BITRATE_CAP_RATIO.0 / BITRATE_CAP_RATIO.1});
        match timeout(RESPONSE_TIMEOUT, self.publish(body, &offer.sdp)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("it did not answer in time")),
        }
    }

    async fn restart_ice(&mut self, fragment: &str) -> Result<Option<String>, Error> {
        let Some(offer) = &self.offer else { return Ok(None) };
        let offer = sdp::apply_fragment(offer, fragment);
        match timeout(RESPONSE_TIMEOUT, self.publish(json!({"request": "configure"}), &offer)).await {
            Ok(answer) => Ok(Some(sdp::restart_fragment(&answer?))),
            Err(_) => Err(self.unreachable("it did not answer in time")),
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
            let wake = self.response_deadline.unwrap_or(self.keepalive_at);
            tokio::select! {
                message = self.receive_message() => {
                    let message = message.inspect_err(|error| self.end_reason = Some(error.clone()))?;
                    self.handle_message(&message);
                }
                () = sleep_until(wake) => {
                    if self.response_deadline.is_some() {
                        self.end_reason = Some(self.unreachable("it does not answer any more"));
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
            // With the session go the handle, and our place in the room.
            self.handle = None;
            let goodbye = self.request(json!({"janus": "destroy"}));
            if timeout(LEAVE_TIMEOUT, goodbye).await.is_err() {
                tracing::debug!("Janus does not say goodbye");
            }
        }
        (self.transport, self.session) = (None, None);
        self.end_reason.take()
    }
}

#[cfg(test)]
mod tests;
