//! A client of a TURN server (RFC 8656), sans-IO: packets and the time in, packets and a deadline out.
//!
//! ```text
//!  Allocate ─▶ 401 ─▶ Allocate, signed ─▶ allocated ─▶ Refresh …             ─▶ Refresh 0
//!  each peer:         first packet ─▶ CreatePermission ─▶ Send/Data ─▶ ChannelBind ─▶ ChannelData
//! ```

mod peers;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use pagecast_core::spec::Secret;

use super::stun::{Builder, Class, Message, TransactionId, attribute, long_term_key, method};
use peers::{Grant, Peers};

/// Longest data for a peer; longer ones are dropped.
pub const MAX_DATA: usize = 2048;
/// Packets that wait to be sent; when it is full, the newest is dropped.
const MAX_WAITING: usize = 512;

/// First pause before a request is said again, where packets get lost; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(12);
/// How often a request may be told that its nonce is stale.
const MAX_RENEWALS: u8 = 3;
/// An allocation is asked for so long, in seconds.
const LIFETIME: u32 = 600;
/// An allocation is not refreshed more often, however short the server keeps it.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// UDP, in the words of IP (RFC 8656 section 18.8).
const REQUESTED_UDP: [u8; 4] = [17, 0, 0, 0];

/// Why there is no relayed address, or no longer one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// User or password are wrong.
    #[error("the user or the password is wrong")]
    Unauthorized,
    /// It said why.
    #[error("it refuses: {code} {reason}")]
    Refused {
        /// RFC 8489 section 14.8, RFC 8656 section 19.
        code: u16,
        /// In its own words.
        reason: String,
    },
    /// It wants another one to be asked.
    #[error("it names another server")]
    Elsewhere(SocketAddr),
    /// It does not answer.
    #[error("it does not answer")]
    Silent,
    /// What it answers makes no sense.
    #[error("its answer makes no sense: {0}")]
    Garbled(&'static str),
    /// It forgot the allocation.
    #[error("it forgot the relayed address")]
    Forgotten,
    /// The address was given back.
    #[error("the relayed address was given back")]
    Closed,
}

/// What lies between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Packets, which get lost.
    Datagrams,
    /// A stream.
    Stream,
}

/// How a client gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It asks for an address.
    Asking,
    /// It has one.
    Allocated {
        /// What peers send to.
        relayed: SocketAddr,
    },
    /// It has none, for good.
    Over(Error),
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Allocate,
    Refresh(u32),
    Permit(SocketAddr),
    Bind(SocketAddr, u16),
}

#[derive(Debug)]
struct Request {
    wish: Wish,
    id: TransactionId,
    bytes: Vec<u8>,
    signed: bool,
    renewals: u8,
    pause: Duration,
    /// When it is said again.
    again: Option<Instant>,
    /// When it has taken too long.
    late: Instant,
}

/// What a server wants to be told with each request.
struct Login {
    realm: String,
    nonce: String,
    key: hmac::Key,
}

/// A client with at most one relayed address.
pub struct Client {
    way: Way,
    user: String,
    password: Secret,
    login: Option<Login>,
    state: State,
    requests: Vec<Request>,
    refresh_at: Option<Instant>,
    peers: Peers,
    waiting: VecDeque<Vec<u8>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Begins to ask for an address.
    #[must_use]
    pub fn new(way: Way, user: &str, password: &Secret, now: Instant) -> Self {
        let mut client = Self {
            way,
            user: user.to_owned(),
            password: password.clone(),
            login: None,
            state: State::Asking,
            requests: Vec::new(),
            refresh_at: None,
            peers: Peers::default(),
            waiting: VecDeque::new(),
        };
        client.ask(Wish::Allocate, now);
        client
    }

    /// How it gets on.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is to be sent to the server next.
    pub fn next_packet(&mut self) -> Option<Vec<u8>> {
        self.waiting.pop_front()
    }

    /// When to call [`Client::tick`] at the latest.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let requests = self.requests.iter().map(|r| r.again.map_or(r.late, |again| again.min(r.late)));
        requests.chain(self.refresh_at).chain(self.peers.due()).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        let mut late = Vec::new();
        for request in &mut self.requests {
            if request.late <= now {
                late.push(request.id);
            } else if request.again.is_some_and(|again| again <= now) {
                request.pause = (request.pause * 2).min(MAX_PAUSE);
                request.again = Some(now + request.pause);
                let bytes = request.bytes.clone();
                queue(&mut self.waiting, bytes);
            }
        }
        for id in late {
            if let Some(request) = self.take(id) {
                self.fail(request.wish, Error::Silent, now);
            }
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.ask(Wish::Refresh(LIFETIME), now);
        }
        for (peer, channel) in self.peers.renew(now) {
            self.ask(channel.map_or(Wish::Permit(peer), |number| Wish::Bind(peer, number)), now);
        }
    }

    /// Data for a peer. What comes before the peer may be sent to is kept, a little.
    pub fn send(&mut self, peer: SocketAddr, data: &[u8], now: Instant) {
        if data.len() > MAX_DATA || !matches!(self.state, State::Allocated { .. }) {
            return;
        }
        let Some((known, is_new)) = self.peers.wanted(peer, now) else { return };
        match known.grant {
            Grant::Asked => known.keep(data),
            Grant::Denied => {}
            Grant::Permitted => self.indicate(peer, data),
            Grant::Bound(number) => queue(&mut self.waiting, channel_data(number, data, self.way)),
        }
        if is_new {
            self.ask(Wish::Permit(peer), now);
        }
    }

    /// A whole packet of the server: what a peer sent, if it is such.
    pub fn receive<'a>(&mut self, packet: &'a [u8], now: Instant) -> Option<(SocketAddr, &'a [u8])> {
        if packet.first().is_some_and(|first| (0x40..0x50).contains(first)) {
            let (head, rest) = packet.split_at_checked(4)?;
            let peer = self.peers.of_channel(u16::from_be_bytes([head[0], head[1]]))?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            return Some((peer, rest.get(..length)?));
        }
        let message = Message::parse(packet)?;
        match (message.class(), message.method()) {
            (Class::Indication, method::DATA) => {
                let peer = message.address(attribute::XOR_PEER_ADDRESS)?;
                let data = message.get(attribute::DATA)?;
                let unbound = self.peers.heard(peer)?;
                if let Some(number) = unbound {
                    self.ask(Wish::Bind(peer, number), now);
                }
                Some((peer, data))
            }
            (Class::Success | Class::Error, _) => {
                self.answered(&message, now);
                None
            }
            _ => None,
        }
    }

    /// Gives the address back.
    pub fn close(&mut self, now: Instant) {
        if matches!(self.state, State::Allocated { .. }) {
            self.requests.clear();
            self.waiting.clear();
            self.ask(Wish::Refresh(0), now);
        }
        self.end(Error::Closed);
    }

    /// There is nothing more to wait for; packets that are to be sent still are.
    fn end(&mut self, why: Error) {
        self.requests.clear();
        self.peers = Peers::default();
        self.refresh_at = None;
        if !matches!(self.state, State::Over(_)) {
            self.state = State::Over(why);
        }
    }

    fn ask(&mut self, wish: Wish, now: Instant) {
        let mut request = Request {
            wish,
            id: [0; 12],
            bytes: Vec::new(),
            signed: false,
            renewals: 0,
            pause: FIRST_PAUSE,
            again: None,
            late: now + PATIENCE,
        };
        self.write(&mut request, now);
        self.requests.push(request);
    }

    /// Writes a request, anew if it was told how to log in, and sends it.
    fn write(&mut self, request: &mut Request, now: Instant) {
        // Without randomness the id stays what it was, which costs safety only from those who could guess it.
        let _filled = aws_lc_rs::rand::fill(&mut request.id);
        let lifetime = LIFETIME.to_be_bytes();
        let new = |method| Builder::new(Class::Request, method, request.id);
        let builder = match request.wish {
            Wish::Allocate => new(method::ALLOCATE)
                .with(attribute::REQUESTED_TRANSPORT, &REQUESTED_UDP)
                .with(attribute::LIFETIME, &lifetime),
            Wish::Refresh(seconds) => new(method::REFRESH).with(attribute::LIFETIME, &seconds.to_be_bytes()),
            Wish::Permit(peer) => {
                new(method::CREATE_PERMISSION).with_address(attribute::XOR_PEER_ADDRESS, peer)
            }
            Wish::Bind(peer, number) => new(method::CHANNEL_BIND)
                .with(attribute::CHANNEL_NUMBER, &(u32::from(number) << 16).to_be_bytes())
                .with_address(attribute::XOR_PEER_ADDRESS, peer),
        };
        request.signed = self.login.is_some();
        request.bytes = match &self.login {
            Some(login) => builder
                .with(attribute::USERNAME, self.user.as_bytes())
                .with(attribute::REALM, login.realm.as_bytes())
                .with(attribute::NONCE, login.nonce.as_bytes())
                .sign(&login.key),
            None => builder.finish(),
        };
        request.pause = FIRST_PAUSE;
        request.again = (self.way == Way::Datagrams).then(|| now + request.pause);
        queue(&mut self.waiting, request.bytes.clone());
    }

    fn take(&mut self, id: TransactionId) -> Option<Request> {
        let at = self.requests.iter().position(|request| request.id == id)?;
        Some(self.requests.swap_remove(at))
    }

    fn answered(&mut self, message: &Message<'_>, now: Instant) {
        let signature = self.login.as_ref().and_then(|login| message.is_signed_by(&login.key));
        let Some(asked) = self.requests.iter().find(|request| request.id == message.id()) else { return };
        // A good answer must be signed if the question was; a bad one cannot be before there is a key.
        let is_good = message.class() == Class::Success;
        if signature == Some(false) || (is_good && asked.signed && signature.is_none()) {
            return;
        }
        let Some(request) = self.take(message.id()) else { return };
        if is_good {
            return self.succeed(request.wish, message, now);
        }
        let (code, reason) = message.error().unwrap_or_default();
        match code {
            401 if !request.signed => self.log_in(request, message, now),
            438 if request.signed => self.log_in(request, message, now),
            401 | 441 => self.fail(request.wish, Error::Unauthorized, now),
            437 if request.wish != Wish::Allocate => self.end(Error::Forgotten),
            300 => {
                let elsewhere = message.plain_address(attribute::ALTERNATE_SERVER);
                let why = elsewhere.map_or(Error::Garbled("it names no other server"), Error::Elsewhere);
                self.fail(request.wish, why, now);
            }
            _ => self.fail(request.wish, Error::Refused { code, reason }, now),
        }
    }

    /// Asks again, as the server wants to be asked.
    fn log_in(&mut self, mut request: Request, message: &Message<'_>, now: Instant) {
        let before = self.login.as_ref().map(|login| login.realm.as_str());
        let realm = message.text(attribute::REALM).or(before).map(str::to_owned);
        let (Some(realm), Some(nonce)) = (realm, message.text(attribute::NONCE)) else {
            return self.fail(request.wish, Error::Garbled("it wants a password, but not how"), now);
        };
        if request.renewals == MAX_RENEWALS {
            return self.fail(request.wish, Error::Garbled("each nonce of it is stale"), now);
        }
        let key = long_term_key(&self.user, &realm, self.password.reveal());
        self.login = Some(Login { realm, nonce: nonce.to_owned(), key });
        request.renewals += 1;
        self.write(&mut request, now);
        self.requests.push(request);
    }

    fn succeed(&mut self, wish: Wish, message: &Message<'_>, now: Instant) {
        match wish {
            Wish::Allocate => {
                let Some(relayed) = message.address(attribute::XOR_RELAYED_ADDRESS) else {
                    return self.end(Error::Garbled("it names no relayed address"));
                };
                self.state = State::Allocated { relayed };
                self.keep(message, now);
            }
            Wish::Refresh(_) => self.keep(message, now),
            Wish::Permit(peer) => {
                for data in self.peers.permitted(peer, now) {
                    self.indicate(peer, &data);
                }
            }
            Wish::Bind(peer, number) => self.peers.bound(peer, number, now),
        }
    }

    /// The address is kept for so long; it is asked for again in time.
    fn keep(&mut self, message: &Message<'_>, now: Instant) {
        match message.number(attribute::LIFETIME) {
            Some(0) => self.end(Error::Forgotten),
            seconds => {
                let lifetime = Duration::from_secs(u64::from(seconds.unwrap_or(LIFETIME).min(LIFETIME)));
                self.refresh_at = Some(now + (lifetime * 3 / 4).max(MIN_REFRESH));
            }
        }
    }

    fn fail(&mut self, wish: Wish, why: Error, now: Instant) {
        match wish {
            Wish::Allocate | Wish::Refresh(_) => self.end(why),
            Wish::Permit(peer) => {
                tracing::debug!(%why, "a TURN server does not let a peer send");
                self.peers.denied(peer, now);
            }
            // Without a number, data goes on as before.
            Wish::Bind(peer, _) => {
                tracing::debug!(%why, "a TURN server gives no channel for a peer");
                self.peers.unbound(peer, now);
            }
        }
    }

    fn indicate(&mut self, peer: SocketAddr, data: &[u8]) {
        let mut id = [0; 12];
        let _filled = aws_lc_rs::rand::fill(&mut id);
        let indication = Builder::new(Class::Indication, method::SEND, id)
            .with_address(attribute::XOR_PEER_ADDRESS, peer)
            .with(attribute::DATA, data);
        queue(&mut self.waiting, indication.finish());
    }
}

fn queue(waiting: &mut VecDeque<Vec<u8>>, packet: Vec<u8>) {
    if waiting.len() < MAX_WAITING {
        waiting.push_back(packet);
    }
}

/// Data with four bytes in front; on a stream, filled up to a multiple of four (RFC 8656 section 12.5).
fn channel_data(number: u16, data: &[u8], way: Way) -> Vec<u8> {
    let mut packet = Vec::with_capacity(data.len() + 7);
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(&(data.len() as u16).to_be_bytes());
    packet.extend_from_slice(data);
    if way == Way::Stream {
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
    packet
}

#[cfg(test)]
mod tests;
