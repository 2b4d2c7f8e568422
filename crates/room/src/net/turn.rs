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
use peers::{Peers, Permission};

/// Longest data for a peer; longer ones are dropped.
pub const MAX_DATA_BYTES: usize = 2048;
/// Packets that wait to be sent; when it is full, the newest is dropped.
const MAX_QUEUED_PACKETS: usize = 512;

/// First pause before a request is said again, where packets get lost; it doubles.
const INITIAL_RTO: Duration = Duration::from_millis(250);
const MAX_RTO: Duration = Duration::from_secs(4);
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);
/// How often a request may be told that its nonce is stale.
const MAX_NONCE_RETRIES: u8 = 3;
/// An allocation is asked for so long, in seconds.
const REQUESTED_LIFETIME_S: u32 = 600;
/// An allocation is not refreshed more often, however short the server keeps it.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// UDP, in the words of IP (RFC 8656 section 18.8).
const REQUESTED_TRANSPORT_UDP: [u8; 4] = [17, 0, 0, 0];

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
    AlternateServer(SocketAddr),
    /// It does not answer.
    #[error("it does not answer")]
    Timeout,
    /// What it answers makes no sense.
    #[error("its answer makes no sense: {0}")]
    InvalidResponse(&'static str),
    /// It forgot the allocation.
    #[error("it forgot the relayed address")]
    AllocationLost,
    /// The address was given back.
    #[error("the relayed address was given back")]
    Closed,
}

/// What lies between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportKind {
    /// Packets, which get lost.
    Datagram,
    /// A stream.
    Stream,
}

/// How a client gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It asks for an address.
    Allocating,
    /// It has one.
    Allocated {
        /// What peers send to.
        relayed: SocketAddr,
    },
    /// It has none, for good.
    Closed(Error),
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    Allocate,
    Refresh(u32),
    CreatePermission(SocketAddr),
    ChannelBind(SocketAddr, u16),
}

#[derive(Debug)]
struct Request {
    kind: RequestKind,
    id: TransactionId,
    bytes: Vec<u8>,
    signed: bool,
    nonce_retries: u8,
    rto: Duration,
    /// When it is said again.
    retransmit_at: Option<Instant>,
    /// When it has taken too long.
    timeout_at: Instant,
}

/// What a server wants to be told with each request.
struct LongTermCredential {
    realm: String,
    nonce: String,
    key: hmac::Key,
}

/// A client with at most one relayed address.
pub struct Client {
    transport: TransportKind,
    user: String,
    password: Secret,
    credential: Option<LongTermCredential>,
    state: State,
    requests: Vec<Request>,
    refresh_at: Option<Instant>,
    peers: Peers,
    outgoing: VecDeque<Vec<u8>>,
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
    pub fn new(way: TransportKind, user: &str, password: &Secret, now: Instant) -> Self {
        let mut client = Self {
            transport: way,
            user: user.to_owned(),
            password: password.clone(),
            credential: None,
            state: State::Allocating,
            requests: Vec::new(),
            refresh_at: None,
            peers: Peers::default(),
            outgoing: VecDeque::new(),
        };
        client.start_request(RequestKind::Allocate, now);
        client
    }

    /// How it gets on.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is to be sent to the server next.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }

    /// When to call [`FuzzClient::handle_timeout`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let requests = self
            .requests
            .iter()
            .map(|r| r.retransmit_at.map_or(r.timeout_at, |again| again.min(r.timeout_at)));
        requests.chain(self.refresh_at).chain(self.peers.deadline()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut late = Vec::new();
        for request in &mut self.requests {
            if request.timeout_at <= now {
                late.push(request.id);
            } else if request.retransmit_at.is_some_and(|again| again <= now) {
                request.rto = (request.rto * 2).min(MAX_RTO);
                request.retransmit_at = Some(now + request.rto);
                let bytes = request.bytes.clone();
                enqueue(&mut self.outgoing, bytes);
            }
        }
        for id in late {
            if let Some(request) = self.take_request(id) {
                self.handle_failure(request.kind, Error::Timeout, now);
            }
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.start_request(RequestKind::Refresh(REQUESTED_LIFETIME_S), now);
        }
        for (peer, channel) in self.peers.take_due_renewals(now) {
            self.start_request(
                channel.map_or(RequestKind::CreatePermission(peer), |number| {
                    RequestKind::ChannelBind(peer, number)
                }),
                now,
            );
        }
    }

    /// Data for a peer. What comes before the peer may be sent to is kept, a little.
    pub fn send(&mut self, peer: SocketAddr, data: &[u8], now: Instant) {
        if data.len() > MAX_DATA_BYTES || !matches!(self.state, State::Allocated { .. }) {
            return;
        }
        let Some((known, is_new)) = self.peers.get_or_insert(peer, now) else { return };
        match known.permission {
            Permission::Pending => known.buffer(data),
            Permission::Denied => {}
            Permission::Permitted => self.send_indication(peer, data),
            Permission::ChannelBound(number) => {
                enqueue(&mut self.outgoing, encode_channel_data(number, data, self.transport));
            }
        }
        if is_new {
            self.start_request(RequestKind::CreatePermission(peer), now);
        }
    }

    /// A whole packet of the server: what a peer sent, if it is such.
    pub fn handle_packet<'a>(&mut self, packet: &'a [u8], now: Instant) -> Option<(SocketAddr, &'a [u8])> {
        if packet.first().is_some_and(|first| (0x40..0x50).contains(first)) {
            let (head, rest) = packet.split_at_checked(4)?;
            let peer = self.peers.by_channel(u16::from_be_bytes([head[0], head[1]]))?;
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            return Some((peer, rest.get(..length)?));
        }
        let message = Message::parse(packet)?;
        match (message.class(), message.method()) {
            (Class::Indication, method::DATA) => {
                let peer = message.xor_address(attribute::XOR_PEER_ADDRESS)?;
                let data = message.get(attribute::DATA)?;
                let unbound = self.peers.on_data_received(peer)?;
                if let Some(number) = unbound {
                    self.start_request(RequestKind::ChannelBind(peer, number), now);
                }
                Some((peer, data))
            }
            (Class::Success | Class::Error, _) => {
                self.handle_response(&message, now);
                None
            }
            _ => None,
        }
    }

    /// Gives the address back.
    pub fn close(&mut self, now: Instant) {
        if matches!(self.state, State::Allocated { .. }) {
            self.requests.clear();
            self.outgoing.clear();
            self.start_request(RequestKind::Refresh(0), now);
        }
        self.terminate(Error::Closed);
    }

    /// There is nothing more to wait for; packets that are to be sent still are.
    fn terminate(&mut self, why: Error) {
        self.requests.clear();
        self.peers = Peers::default();
        self.refresh_at = None;
        if !matches!(self.state, State::Closed(_)) {
            self.state = State::Closed(why);
        }
    }

    fn start_request(&mut self, wish: RequestKind, now: Instant) {
        let mut request = Request {
            kind: wish,
            id: [0; 12],
            bytes: Vec::new(),
            signed: false,
            nonce_retries: 0,
            rto: INITIAL_RTO,
            retransmit_at: None,
            timeout_at: now + REQUEST_TIMEOUT,
        };
        self.send_request(&mut request, now);
        self.requests.push(request);
    }

    /// Writes a request, anew if it was told how to log in, and sends it.
    fn send_request(&mut self, request: &mut Request, now: Instant) {
        // Without randomness the id stays what it was, which costs safety only from those who could guess it.
        let _filled = aws_lc_rs::rand::fill(&mut request.id);
        let lifetime = REQUESTED_LIFETIME_S.to_be_bytes();
        let new = |method| Builder::new(Class::Request, method, request.id);
        let builder = match request.kind {
            RequestKind::Allocate => new(method::ALLOCATE)
                .with_attribute(attribute::REQUESTED_TRANSPORT, &REQUESTED_TRANSPORT_UDP)
                .with_attribute(attribute::LIFETIME, &lifetime),
            RequestKind::Refresh(seconds) => {
                new(method::REFRESH).with_attribute(attribute::LIFETIME, &seconds.to_be_bytes())
            }
            RequestKind::CreatePermission(peer) => {
                new(method::CREATE_PERMISSION).with_xor_address(attribute::XOR_PEER_ADDRESS, peer)
            }
            RequestKind::ChannelBind(peer, number) => new(method::CHANNEL_BIND)
                .with_attribute(attribute::CHANNEL_NUMBER, &(u32::from(number) << 16).to_be_bytes())
                .with_xor_address(attribute::XOR_PEER_ADDRESS, peer),
        };
        request.signed = self.credential.is_some();
        request.bytes = match &self.credential {
            Some(login) => builder
                .with_attribute(attribute::USERNAME, self.user.as_bytes())
                .with_attribute(attribute::REALM, login.realm.as_bytes())
                .with_attribute(attribute::NONCE, login.nonce.as_bytes())
                .sign(&login.key),
            None => builder.finish(),
        };
        request.rto = INITIAL_RTO;
        request.retransmit_at = (self.transport == TransportKind::Datagram).then(|| now + request.rto);
        enqueue(&mut self.outgoing, request.bytes.clone());
    }

    fn take_request(&mut self, id: TransactionId) -> Option<Request> {
        let at = self.requests.iter().position(|request| request.id == id)?;
        Some(self.requests.swap_remove(at))
    }

    fn handle_response(&mut self, message: &Message<'_>, now: Instant) {
        let signature = self.credential.as_ref().and_then(|login| message.verify_integrity(&login.key));
        let Some(asked) = self.requests.iter().find(|request| request.id == message.transaction_id()) else {
            return;
        };
        // A good answer must be signed if the question was; a bad one cannot be before there is a key.
        let is_good = message.class() == Class::Success;
        if signature == Some(false) || (is_good && asked.signed && signature.is_none()) {
            return;
        }
        let Some(request) = self.take_request(message.transaction_id()) else { return };
        if is_good {
            return self.handle_success(request.kind, message, now);
        }
        let (code, reason) = message.error_code().unwrap_or_default();
        match code {
            401 if !request.signed => self.authenticate(request, message, now),
            438 if request.signed => self.authenticate(request, message, now),
            401 | 441 => self.handle_failure(request.kind, Error::Unauthorized, now),
            437 if request.kind != RequestKind::Allocate => self.terminate(Error::AllocationLost),
            300 => {
                let elsewhere = message.mapped_address(attribute::ALTERNATE_SERVER);
                let why = elsewhere
                    .map_or(Error::InvalidResponse("it names no other server"), Error::AlternateServer);
                self.handle_failure(request.kind, why, now);
            }
            _ => self.handle_failure(request.kind, Error::Refused { code, reason }, now),
        }
    }

    /// Asks again, as the server wants to be asked.
    fn authenticate(&mut self, mut request: Request, message: &Message<'_>, now: Instant) {
        let before = self.credential.as_ref().map(|login| login.realm.as_str());
        let realm = message.text(attribute::REALM).or(before).map(str::to_owned);
        let (Some(realm), Some(nonce)) = (realm, message.text(attribute::NONCE)) else {
            return self.handle_failure(
                request.kind,
                Error::InvalidResponse("it wants a password, but not how"),
                now,
            );
        };
        if request.nonce_retries == MAX_NONCE_RETRIES {
            return self.handle_failure(
                request.kind,
                Error::InvalidResponse("each nonce of it is stale"),
                now,
            );
        }
        let key = long_term_key(&self.user, &realm, self.password.reveal());
        self.credential = Some(LongTermCredential { realm, nonce: nonce.to_owned(), key });
        request.nonce_retries += 1;
        self.send_request(&mut request, now);
        self.requests.push(request);
    }

    fn handle_success(&mut self, wish: RequestKind, message: &Message<'_>, now: Instant) {
        match wish {
            RequestKind::Allocate => {
                let Some(relayed) = message.xor_address(attribute::XOR_RELAYED_ADDRESS) else {
                    return self.terminate(Error::InvalidResponse("it names no relayed address"));
                };
                self.state = State::Allocated { relayed };
                self.schedule_refresh(message, now);
            }
            RequestKind::Refresh(_) => self.schedule_refresh(message, now),
            RequestKind::CreatePermission(peer) => {
                for data in self.peers.set_permitted(peer, now) {
                    self.send_indication(peer, &data);
                }
            }
            RequestKind::ChannelBind(peer, number) => self.peers.set_bound(peer, number, now),
        }
    }

    /// The address is kept for so long; it is asked for again in time.
    fn schedule_refresh(&mut self, message: &Message<'_>, now: Instant) {
        match message.number(attribute::LIFETIME) {
            Some(0) => self.terminate(Error::AllocationLost),
            seconds => {
                let lifetime = Duration::from_secs(u64::from(
                    seconds.unwrap_or(REQUESTED_LIFETIME_S).min(REQUESTED_LIFETIME_S),
                ));
                self.refresh_at = Some(now + (lifetime * 3 / 4).max(MIN_REFRESH_INTERVAL));
            }
        }
    }

    fn handle_failure(&mut self, wish: RequestKind, why: Error, now: Instant) {
        match wish {
            RequestKind::Allocate | RequestKind::Refresh(_) => self.terminate(why),
            RequestKind::CreatePermission(peer) => {
                tracing::debug!(%why, "a TURN server does not let a peer send");
                self.peers.set_denied(peer, now);
            }
            // Without a number, data goes on as before.
            RequestKind::ChannelBind(peer, _) => {
                tracing::debug!(%why, "a TURN server gives no channel for a peer");
                self.peers.set_unbound(peer, now);
            }
        }
    }

    fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        let mut id = [0; 12];
        let _filled = aws_lc_rs::rand::fill(&mut id);
        let indication = Builder::new(Class::Indication, method::SEND, id)
            .with_xor_address(attribute::XOR_PEER_ADDRESS, peer)
            .with_attribute(attribute::DATA, data);
        enqueue(&mut self.outgoing, indication.finish());
    }
}

fn enqueue(waiting: &mut VecDeque<Vec<u8>>, packet: Vec<u8>) {
    if waiting.len() < MAX_QUEUED_PACKETS {
        waiting.push_back(packet);
    }
}

/// Data with four bytes in front; on a stream, filled up to a multiple of four (RFC 8656 section 12.5).
fn encode_channel_data(number: u16, data: &[u8], way: TransportKind) -> Vec<u8> {
    let mut packet = Vec::with_capacity(data.len() + 7);
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(&(data.len() as u16).to_be_bytes());
    packet.extend_from_slice(data);
    if way == TransportKind::Stream {
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
    packet
}

#[cfg(test)]
mod tests;
