//! Janus, its VideoRoom plugin: a session with one handle, which joins a room and publishes in it.
//!
//! A user has one name in a room, so Janus lets it in once. Who has the name already is thrown out, for which Janus wants the room's
//! secret, if the room has one. Without it, both stay: we join under a name that Janus chooses, and the earlier one goes when it leaves
//! or its session is over, which is how a connection of ours that was lost ends as well.

mod link;
mod words;

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use pagecast_core::spec::{IceServer, RoomIds, RoomUrl, Secret};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use super::{Error, Offer, Said, Signal};
use crate::sdp;
use link::Link;
use words::{Message, Name, News, Problem, code};

/// How long joining a room may take, all in all.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often the server is told that we are there: it forgets who says nothing for a minute.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// Most times that somebody else may join under our name while we throw others out.
const ATTEMPTS: usize = 3;
/// Candidates that wait to be told. Full: later ones are not.
const CANDIDATES: usize = 64;
/// What the picture's bitrate is multiplied by for the cap that Janus tells: it counts more than the picture.
const CAP: (u64, u64) = (3, 2);

/// Where and as whom we publish, templates filled in.
#[derive(Debug)]
struct Access {
    url: String,
    room: String,
    user: String,
    secret: Option<Secret>,
    room_secret: Option<Secret>,
    pin: Option<Secret>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Janus {
    access: Access,
    shown: String,
    link: Option<Link>,
    session: Option<u64>,
    handle: Option<u64>,
    offer: Option<String>,
    transactions: u64,
    candidates: VecDeque<String>,
    /// Why it is over.
    end: Option<Error>,
    /// When the server is to be told that we are there.
    due: Instant,
    /// Until when it must have said something.
    deadline: Option<Instant>,
}

impl Janus {
    pub(crate) fn new(
        url: &RoomUrl,
        [secret, room_secret, pin]: [Option<&Secret>; 3],
        ids: &RoomIds,
    ) -> Self {
        let fill = |secret: Option<&Secret>| secret.map(|secret| Secret::new(ids.fill(secret.reveal())));
        let access = Access {
            url: ids.fill_url(url),
            room: ids.room.clone(),
            user: ids.user.clone(),
            secret: fill(secret),
            room_secret: fill(room_secret),
            pin: fill(pin),
        };
        Self {
            access,
            shown: ids.fill(&url.to_string()),
            link: None,
            session: None,
            handle: None,
            offer: None,
            transactions: 0,
            candidates: VecDeque::new(),
            end: None,
            due: Instant::now(),
            deadline: None,
        }
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unreachable { server: self.shown.clone(), why: self.clean(why) }
    }

    fn failed(&self, why: &str) -> Error {
        Error::Failed { server: self.shown.clone(), why: self.clean(why) }
    }

    fn refused(&self, why: &str) -> Error {
        Error::Refused { server: self.shown.clone(), why: self.clean(why) }
    }

    /// What others said, fit to be repeated: short, on one line, and without what they were told in confidence.
    fn clean(&self, text: &str) -> String {
        let Access { secret, room_secret, pin, .. } = &self.access;
        let secrets = [secret, room_secret, pin].into_iter().flatten().map(Secret::reveal);
        let hidden = secrets.filter(|s| !s.is_empty()).fold(text.to_owned(), |text, s| text.replace(s, "…"));
        super::shorten(&hidden)
    }

    /// What a problem means, whatever was asked.
    fn judge(&self, problem: &Problem) -> Error {
        // What it says after the end follows from the end.
        if let Some(end) = &self.end {
            return end.clone();
        }
        let said = format!("{} ({})", problem.reason, problem.code);
        match problem.code {
            code::UNAUTHORIZED | code::UNAUTHORIZED_PLUGIN if self.access.secret.is_none() => {
                self.refused(&format!("it wants an API secret or a token: {said}"))
            }
            code::UNAUTHORIZED | code::UNAUTHORIZED_PLUGIN => {
                self.refused(&format!("the API secret or token is wrong: {said}"))
            }
            code::NO_PLUGIN => self.refused(&format!("it has no VideoRoom plugin: {said}")),
            code::NO_ROOM => self.refused(&format!("there is no such room: {said}")),
            code::MISSING_ELEMENT if self.access.pin.is_none() => {
                self.refused(&format!("is a pin needed to join? {said}"))
            }
            code::MISSING_ELEMENT | code::INVALID_ELEMENT | code::ROOM_UNAUTHORIZED | code::INVALID_SDP => {
                self.refused(&said)
            }
            code::PUBLISHERS_FULL => self.failed(&format!("as many publish as may: {said}")),
            _ => self.failed(&said),
        }
    }

    /// Sends a request that belongs to what there is so far; its transaction.
    fn send(&mut self, mut request: Value) -> Result<String, Error> {
        self.transactions += 1;
        let transaction = self.transactions.to_string();
        request["transaction"] = json!(transaction);
        for (name, id) in [("session_id", self.session), ("handle_id", self.handle)] {
            if let Some(id) = id {
                request[name] = json!(id);
            }
        }
        if let Some(secret) = &self.access.secret {
            // Which of the two it is, only the server knows.
            request["apisecret"] = json!(secret.reveal());
            request["token"] = json!(secret.reveal());
        }
        let Some(link) = &self.link else { return Err(self.failed("there is no connection")) };
        link.send(request).map_err(|why| self.failed(&why))?;
        self.due = Instant::now() + KEEPALIVE;
        Ok(transaction)
    }

    /// Waits for a message. Safe to be dropped and called again.
    async fn receive(&mut self) -> Result<Message, Error> {
        let Some(link) = &mut self.link else { return Err(self.failed("there is no connection")) };
        let message = match link.receive().await {
            Ok(message) => message,
            Err(why) => return Err(self.failed(&why)),
        };
        self.deadline = None;
        Ok(message)
    }

    /// Sends a request and waits for its answer, which may be that it cannot be done.
    async fn ask(&mut self, request: Value) -> Result<Result<Message, Problem>, Error> {
        let transaction = self.send(request)?;
        loop {
            let message = self.receive().await?;
            if message.transaction.as_ref() != Some(&transaction) {
                self.hear(&message);
            } else if !message.is_receipt() {
                return Ok(message.problem().map_or(Ok(message), Err));
            }
        }
    }

    /// The same for the plugin.
    async fn ask_plugin(&mut self, body: Value) -> Result<Result<Message, Problem>, Error> {
        self.ask(json!({"janus": "message", "body": body})).await
    }

    /// Takes what the server says by itself.
    fn hear(&mut self, message: &Message) {
        tracing::trace!(kind = message.janus, "Janus says");
        match message.news() {
            News::Nothing => {}
            News::Candidate(line) if self.candidates.len() < CANDIDATES => self.candidates.push_back(line),
            News::Candidate(_) => tracing::debug!("Janus names too many candidates"),
            // Only what came first is the reason; the rest follows from it.
            News::Kicked => self.end = self.end.take().or(Some(Error::Replaced)),
            News::Over(why) => self.end = self.end.take().or_else(|| Some(self.failed(&why))),
        }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let url = Url::parse(&self.access.url).map_err(|_| self.refused("its address is none"))?;
        match Link::open(&url, self.access.secret.as_ref()).await {
            Ok(link) => self.link = Some(link),
            Err(why) => return Err(self.unreachable(&why)),
        }
        let session = self.ask(json!({"janus": "create"})).await?.map_err(|p| self.judge(&p))?;
        self.session = session.id();
        let attach = json!({"janus": "attach", "plugin": words::PLUGIN});
        let handle = self.ask(attach).await?.map_err(|p| self.judge(&p))?;
        self.handle = handle.id();
        if self.session.is_none() || self.handle.is_none() {
            return Err(self.failed("it made no session"));
        }
        let room = self.find_room().await?;
        self.enter(&room).await
    }

    /// How the server names the room, which is made if it is not there.
    async fn find_room(&mut self) -> Result<Name, Error> {
        let guesses = Name::guesses(&self.access.room);
        let numbers = guesses.len() > 1;
        for room in guesses {
            let exists = json!({"request": "exists", "room": room.json()});
            match self.ask_plugin(exists).await? {
                Ok(message) if message.plugin()["exists"] == true => return Ok(room),
                Ok(_) => return self.make_room(room).await,
                Err(Problem { code: code::INVALID_ELEMENT, .. }) => {}
                Err(problem) => return Err(self.judge(&problem)),
            }
        }
        let why =
            if numbers { "it takes no name of a room" } else { "its rooms have numbers, and this is none" };
        Err(self.refused(&format!("{why}: {}", self.access.room)))
    }

    async fn make_room(&mut self, room: Name) -> Result<Name, Error> {
        let Access { room_secret, pin, .. } = &self.access;
        let body =
            words::create(&room, pin.as_ref().map(Secret::reveal), room_secret.as_ref().map(Secret::reveal));
        match self.ask_plugin(body).await? {
            Ok(_) | Err(Problem { code: code::ROOM_EXISTS, .. }) => Ok(room),
            Err(Problem { code: code::MISSING_ELEMENT | code::ROOM_UNAUTHORIZED, reason }) => {
                let id = &self.access.room;
                Err(self.refused(&format!("there is no room {id}, and we may not make one: {reason}")))
            }
            Err(problem) => Err(self.judge(&problem)),
        }
    }

    /// Joins, in place of whoever is there as the same user.
    async fn enter(&mut self, room: &Name) -> Result<(), Error> {
        let name = room.of_user(&self.access.user);
        for _ in 0..ATTEMPTS {
            if !self.make_way(room, &name).await? {
                tracing::info!(
                    "another publisher of the same user stays in the room: without its secret, nobody can be thrown out"
                );
                return self.join_as(room, None).await?.map_err(|p| self.judge(&p));
            }
            match self.join_as(room, Some(&name)).await? {
                Ok(()) => return Ok(()),
                Err(Problem { code: code::ID_EXISTS, .. }) => {}
                Err(problem) => return Err(self.judge(&problem)),
            }
        }
        Err(self.failed("others join as the same user, again and again"))
    }

    async fn join_as(&mut self, room: &Name, name: Option<&Name>) -> Result<Result<(), Problem>, Error> {
        let mut body = json!({
            "request": "join", "ptype": "publisher", "room": room.json(), "display": self.access.user,
        });
        if let Some(name) = name {
            body["id"] = name.json();
        }
        if let Some(pin) = &self.access.pin {
            body["pin"] = json!(pin.reveal());
        }
        if let Some(secret) = &self.access.secret {
            // Rooms may have lists of tokens, too.
            body["token"] = json!(secret.reveal());
        }
        Ok(self.ask_plugin(body).await?.map(drop))
    }

    /// Throws out who is there as the same user. `false` if somebody stays who has the name.
    async fn make_way(&mut self, room: &Name, name: &Name) -> Result<bool, Error> {
        let list = json!({"request": "listparticipants", "room": room.json()});
        let list = match self.ask_plugin(list).await? {
            Ok(message) => message.plugin().clone(),
            Err(problem) => return Err(self.judge(&problem)),
        };
        let mut free = true;
        for other in words::same_user(&list, &self.access.user, name) {
            let named = other.id == name.json();
            // Somebody else may have the number by chance.
            let gone = other.is_user && self.throw_out(room, &other.id).await?;
            free &= gone || !named;
        }
        Ok(free)
    }

    /// Whether somebody is gone.
    async fn throw_out(&mut self, room: &Name, id: &Value) -> Result<bool, Error> {
        let mut body = json!({"request": "kick", "room": room.json(), "id": id});
        if let Some(secret) = &self.access.room_secret {
            body["secret"] = json!(secret.reveal());
        }
        match self.ask_plugin(body).await? {
            Ok(_) | Err(Problem { code: code::NO_FEED, .. }) => Ok(true),
            Err(Problem { code: code::MISSING_ELEMENT | code::ROOM_UNAUTHORIZED, reason }) => {
                if self.access.room_secret.is_none() {
                    return Ok(false);
                }
                let why = "the same user is in the room, and the room's secret to throw it out is wrong";
                Err(self.refused(&format!("{why}: {reason}")))
            }
            Err(problem) => Err(self.judge(&problem)),
        }
    }

    /// Publishes, or changes what is published.
    async fn publish(&mut self, body: Value, sdp: &str) -> Result<String, Error> {
        // All candidates are in the offer.
        let jsep = json!({"type": "offer", "sdp": sdp, "trickle": false, "rid_order": "hml"});
        let published = self.ask(json!({"janus": "message", "body": body, "jsep": jsep})).await?;
        let message = published.map_err(|p| self.judge(&p))?;
        let answer = message.answer().map(str::to_owned);
        let answer =
            answer.ok_or_else(|| self.failed("it published nothing: there is no SDP in its answer"))?;
        self.offer = Some(sdp.to_owned());
        Ok(answer)
    }
}

#[async_trait]
impl Signal for Janus {
    async fn join(&mut self) -> Result<Vec<IceServer>, Error> {
        match timeout(JOIN_TIMEOUT, self.begin()).await {
            Ok(joined) => joined.map(|()| Vec::new()),
            Err(_) => Err(self.unreachable("it did not answer in time")),
        }
    }

    async fn negotiate(&mut self, offer: &Offer) -> Result<String, Error> {
        let picture = offer.layers.iter().map(|layer| u64::from(layer.bitrate_bps)).sum::<u64>();
        let body = json!({"request": "publish", "bitrate": picture * CAP.0 / CAP.1});
        match timeout(TIMEOUT, self.publish(body, &offer.sdp)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("it did not answer in time")),
        }
    }

    async fn restart(&mut self, fragment: &str) -> Result<Option<String>, Error> {
        let Some(offer) = &self.offer else { return Ok(None) };
        let offer = sdp::patched(offer, fragment);
        match timeout(TIMEOUT, self.publish(json!({"request": "configure"}), &offer)).await {
            Ok(answer) => Ok(Some(sdp::restart(&answer?))),
            Err(_) => Err(self.unreachable("it did not answer in time")),
        }
    }

    async fn next(&mut self) -> Result<Said, Error> {
        loop {
            if let Some(line) = self.candidates.pop_front() {
                return Ok(Said::Candidate(line));
            }
            if let Some(end) = &self.end {
                return Err(end.clone());
            }
            let wake = self.deadline.unwrap_or(self.due);
            tokio::select! {
                message = self.receive() => {
                    let message = message.inspect_err(|error| self.end = Some(error.clone()))?;
                    self.hear(&message);
                }
                () = sleep_until(wake) => {
                    if self.deadline.is_some() {
                        self.end = Some(self.unreachable("it does not answer any more"));
                    } else {
                        self.send(json!({"janus": "keepalive"}))?;
                        self.deadline = Some(Instant::now() + TIMEOUT);
                    }
                }
            }
        }
    }

    async fn leave(&mut self) -> Option<Error> {
        if self.session.is_some() && self.link.is_some() {
            // With the session go the handle, and our place in the room.
            self.handle = None;
            let goodbye = self.ask(json!({"janus": "destroy"}));
            if timeout(GOODBYE, goodbye).await.is_err() {
                tracing::debug!("Janus does not say goodbye");
            }
        }
        (self.link, self.session) = (None, None);
        self.end.take()
    }
}

#[cfg(test)]
mod tests;
