//! TURN client (RFC 8656). Sans-IO: callers hand in the time and inputs, and carry out the outputs.
//!
//! ```text
//!  Allocate ─▶ 401 ─▶ Allocate, signed ─▶ allocated ─▶ Refresh …             ─▶ Refresh 0
//!  each peer:         first packet ─▶ CreatePermission ─▶ Send/Data ─▶ ChannelBind ─▶ ChannelData
//! ```
//!
//! [`Client::handle`] takes an input, [`Client::poll`] returns the next output to carry out, and
//! [`Client::deadline`] is the latest time to hand in [`Input::Timeout`].

mod peers;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use pagecast_core::spec::Secret;

use super::stun::{Builder, Class, Message, TransactionId, attribute, long_term_key, method};
use peers::{Peers, Permission};

/// Largest datagram to a peer, in bytes; larger ones are dropped. Ours fit into an MTU of 1500.
pub const MAX_DATA_BYTES: usize = 2048;
/// Outputs that wait to be polled; when full, the newest is dropped.
const MAX_QUEUED_OUTPUTS: usize = 512;

/// Delay before the first retransmission of a request over UDP; it doubles each time.
const INITIAL_RTO: Duration = Duration::from_millis(250);
/// Longest delay between retransmissions.
const MAX_RTO: Duration = Duration::from_secs(4);
/// Time after which a request has failed: six retransmissions.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);
/// Most retries of one request for a stale nonce; a server needs one.
const MAX_NONCE_RETRIES: u8 = 3;
/// Requested lifetime of an allocation, in seconds: the default of RFC 8656.
const REQUESTED_LIFETIME_S: u32 = 600;
/// Shortest interval between refreshes, however short the lifetime that the server grants.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// IP protocol number of UDP, for REQUESTED-TRANSPORT (RFC 8656 section 18.8).
const REQUESTED_TRANSPORT_UDP: [u8; 4] = [17, 0, 0, 0];

/// Why there is no relayed address, or no longer one. The texts follow the name of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The user or the password is wrong.
    #[error("the TURN server rejects the user or the password")]
    Unauthorized,
    /// The server returned another error.
    #[error("the TURN server refused the request: {code} {reason}")]
    Refused {
        /// Error code (RFC 8489 section 14.8, RFC 8656 section 19).
        code: u16,
        /// Reason phrase of the server.
        reason: String,
    },
    /// The server redirects to another one.
    #[error("the TURN server redirects to {0}")]
    AlternateServer(SocketAddr),
    /// The server does not answer.
    #[error("the TURN server does not answer")]
    Timeout,
    /// The server's response is invalid.
    #[error("the TURN server's response is invalid: {0}")]
    InvalidResponse(&'static str),
    /// The server no longer has the allocation.
    #[error("the TURN server no longer has the allocation")]
    AllocationLost,
    /// The client released the allocation.
    #[error("the allocation was released")]
    Closed,
}

/// Transport between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportKind {
    /// UDP: packets may get lost, so requests are retransmitted.
    Datagram,
    /// TCP or TLS.
    Stream,
}

/// State of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The allocation is requested.
    Allocating,
    /// The allocation exists.
    Allocated {
        /// Relayed transport address, which peers send to.
        relayed: SocketAddr,
    },
    /// There is no allocation, and the client does not request another one.
    Closed(Error),
}

/// Input of the [`Client`].
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A packet arrived from the server.
    Packet(&'a [u8]),
    /// Data is to be sent to a peer. A few packets are kept until the peer's permission exists.
    Data {
        /// Address of the peer.
        peer: SocketAddr,
        /// At most [`MAX_DATA_BYTES`].
        data: &'a [u8],
    },
    /// The allocation is to be released.
    Close,
    /// Time has passed; see [`Client::deadline`].
    Timeout,
}

/// Output of the [`Client`] that the caller carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a packet to the server.
    Transmit(Vec<u8>),
    /// A peer sent data.
    Data {
        /// Address of the peer.
        peer: SocketAddr,
        /// Data of one datagram.
        data: Vec<u8>,
    },
}

/// Kind of a request, with its parameters.
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
    /// Time of the next retransmission.
    retransmit_at: Option<Instant>,
    /// Time at which the request has failed.
    timeout_at: Instant,
}

/// Long-term credential that authenticates requests (RFC 8489 section 9.2).
struct LongTermCredential {
    realm: String,
    nonce: String,
    key: hmac::Key,
}

/// TURN client with at most one allocation.
pub struct Client {
    transport: TransportKind,
    user: String,
    password: Secret,
    credential: Option<LongTermCredential>,
    state: State,
    requests: Vec<Request>,
    refresh_at: Option<Instant>,
    peers: Peers,
    outputs: VecDeque<Output>,
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
    /// A client that requests an allocation.
    #[must_use]
    pub fn new(transport: TransportKind, user: &str, password: &Secret, now: Instant) -> Self {
        let mut client = Self {
            transport,
            user: user.to_owned(),
            password: password.clone(),
            credential: None,
            state: State::Allocating,
            requests: Vec::new(),
            refresh_at: None,
            peers: Peers::default(),
            outputs: VecDeque::new(),
        };
        client.start_request(RequestKind::Allocate, now);
        client
    }

    /// State of the allocation.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Processes an input at time `now`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Packet(packet) => self.handle_packet(packet, now),
            Input::Data { peer, data } => self.send(peer, data, now),
            Input::Close => self.close(now),
            Input::Timeout => self.handle_timeout(now),
        }
    }

    /// Returns the next output to carry out, if any.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Latest time to hand in [`Input::Timeout`]; `None` if only another input can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let requests = self
            .requests
            .iter()
            .map(|r| r.retransmit_at.map_or(r.timeout_at, |retransmit_at| retransmit_at.min(r.timeout_at)));
        requests.chain(self.refresh_at).chain(self.peers.deadline()).min()
    }

    /// Retransmits, refreshes and renews what is due.
    fn handle_timeout(&mut self, now: Instant) {
        let mut timed_out = Vec::new();
        for request in &mut self.requests {
            if request.timeout_at <= now {
                timed_out.push(request.id);
            } else if request.retransmit_at.is_some_and(|at| at <= now) {
                request.rto = (request.rto * 2).min(MAX_RTO);
                request.retransmit_at = Some(now + request.rto);
                let packet = request.bytes.clone();
                enqueue(&mut self.outputs, Output::Transmit(packet));
            }
        }
        for id in timed_out {
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

    /// Sends data to a peer. Keeps a few packets until the peer's permission exists.
    fn send(&mut self, peer: SocketAddr, data: &[u8], now: Instant) {
        if data.len() > MAX_DATA_BYTES || !matches!(self.state, State::Allocated { .. }) {
            return;
        }
        let Some((known, is_new)) = self.peers.get_or_insert(peer, now) else { return };
        match known.permission {
            Permission::Pending => known.buffer(data),
            Permission::Denied => {}
            Permission::Permitted => self.send_indication(peer, data),
            Permission::ChannelBound(number) => {
                let packet = encode_channel_data(number, data, self.transport);
                enqueue(&mut self.outputs, Output::Transmit(packet));
            }
        }
        if is_new {
            self.start_request(RequestKind::CreatePermission(peer), now);
        }
    }

    /// Handles one packet from the server.
    fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        let received = if packet.first().is_some_and(|first| (0x40..0x50).contains(first)) {
            self.parse_channel_data(packet)
        } else {
            self.handle_message(packet, now)
        };
        if let Some((peer, data)) = received {
            enqueue(&mut self.outputs, Output::Data { peer, data: data.to_vec() });
        }
    }

    /// Returns the peer and its data in a ChannelData message.
    fn parse_channel_data<'a>(&self, packet: &'a [u8]) -> Option<(SocketAddr, &'a [u8])> {
        let (head, rest) = packet.split_at_checked(4)?;
        let peer = self.peers.by_channel(u16::from_be_bytes([head[0], head[1]]))?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        Some((peer, rest.get(..length)?))
    }

    /// Handles a STUN message. Returns the peer and its data if it is a Data indication.
    fn handle_message<'a>(&mut self, packet: &'a [u8], now: Instant) -> Option<(SocketAddr, &'a [u8])> {
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

    /// Releases the allocation.
    fn close(&mut self, now: Instant) {
        if matches!(self.state, State::Allocated { .. }) {
            self.requests.clear();
            self.outputs.clear();
            self.start_request(RequestKind::Refresh(0), now);
        }
        self.terminate(Error::Closed);
    }

    /// Ends the client. Outputs that are already queued stay.
    fn terminate(&mut self, error: Error) {
        self.requests.clear();
        self.peers = Peers::default();
        self.refresh_at = None;
        if !matches!(self.state, State::Closed(_)) {
            self.state = State::Closed(error);
        }
    }

    fn start_request(&mut self, kind: RequestKind, now: Instant) {
        let mut request = Request {
            kind,
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

    /// Encodes a request with the current credential and sends it.
    fn send_request(&mut self, request: &mut Request, now: Instant) {
        // Without randomness the id stays the same, which only makes it easier to forge a response.
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
            Some(credential) => builder
                .with_attribute(attribute::USERNAME, self.user.as_bytes())
                .with_attribute(attribute::REALM, credential.realm.as_bytes())
                .with_attribute(attribute::NONCE, credential.nonce.as_bytes())
                .sign(&credential.key),
            None => builder.finish(),
        };
        request.rto = INITIAL_RTO;
        request.retransmit_at = (self.transport == TransportKind::Datagram).then(|| now + request.rto);
        enqueue(&mut self.outputs, Output::Transmit(request.bytes.clone()));
    }

    fn take_request(&mut self, id: TransactionId) -> Option<Request> {
        let at = self.requests.iter().position(|request| request.id == id)?;
        Some(self.requests.swap_remove(at))
    }

    fn handle_response(&mut self, message: &Message<'_>, now: Instant) {
        let signature = self.credential.as_ref().and_then(|c| message.verify_integrity(&c.key));
        let Some(pending) = self.requests.iter().find(|request| request.id == message.transaction_id())
        else {
            return;
        };
        // A success response must be signed if the request was; an error response may come before the key.
        let is_success = message.class() == Class::Success;
        if signature == Some(false) || (is_success && pending.signed && signature.is_none()) {
            return;
        }
        let Some(request) = self.take_request(message.transaction_id()) else { return };
        if is_success {
            return self.handle_success(request.kind, message, now);
        }
        let (code, reason) = message.error_code().unwrap_or_default();
        match code {
            401 if !request.signed => self.authenticate(request, message, now),
            438 if request.signed => self.authenticate(request, message, now),
            401 | 441 => self.handle_failure(request.kind, Error::Unauthorized, now),
            437 if request.kind != RequestKind::Allocate => self.terminate(Error::AllocationLost),
            300 => {
                let alternate = message.mapped_address(attribute::ALTERNATE_SERVER);
                let missing = Error::InvalidResponse("a redirect without ALTERNATE-SERVER");
                let error = alternate.map_or(missing, Error::AlternateServer);
                self.handle_failure(request.kind, error, now);
            }
            _ => self.handle_failure(request.kind, Error::Refused { code, reason }, now),
        }
    }

    /// Repeats a request with the realm and nonce of an error response.
    fn authenticate(&mut self, mut request: Request, message: &Message<'_>, now: Instant) {
        let previous = self.credential.as_ref().map(|credential| credential.realm.as_str());
        let realm = message.text(attribute::REALM).or(previous).map(str::to_owned);
        let (Some(realm), Some(nonce)) = (realm, message.text(attribute::NONCE)) else {
            return self.handle_failure(
                request.kind,
                Error::InvalidResponse("authentication is required, but REALM or NONCE is missing"),
                now,
            );
        };
        if request.nonce_retries == MAX_NONCE_RETRIES {
            return self.handle_failure(request.kind, Error::InvalidResponse("every nonce is stale"), now);
        }
        let key = long_term_key(&self.user, &realm, self.password.reveal());
        self.credential = Some(LongTermCredential { realm, nonce: nonce.to_owned(), key });
        request.nonce_retries += 1;
        self.send_request(&mut request, now);
        self.requests.push(request);
    }

    fn handle_success(&mut self, kind: RequestKind, message: &Message<'_>, now: Instant) {
        match kind {
            RequestKind::Allocate => {
                let Some(relayed) = message.xor_address(attribute::XOR_RELAYED_ADDRESS) else {
                    return self.terminate(Error::InvalidResponse("XOR-RELAYED-ADDRESS is missing"));
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

    /// Schedules the next refresh by the lifetime in a response.
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

    fn handle_failure(&mut self, kind: RequestKind, error: Error, now: Instant) {
        match kind {
            RequestKind::Allocate | RequestKind::Refresh(_) => self.terminate(error),
            RequestKind::CreatePermission(peer) => {
                tracing::debug!(%error, "TURN CreatePermission failed");
                self.peers.set_denied(peer, now);
            }
            // Without a channel, data is still sent in indications.
            RequestKind::ChannelBind(peer, _) => {
                tracing::debug!(%error, "TURN ChannelBind failed");
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
        enqueue(&mut self.outputs, Output::Transmit(indication.finish()));
    }
}

fn enqueue(queue: &mut VecDeque<Output>, output: Output) {
    if queue.len() < MAX_QUEUED_OUTPUTS {
        queue.push_back(output);
    }
}

/// ChannelData message; on a stream padded to a multiple of four bytes (RFC 8656 section 12.5).
fn encode_channel_data(number: u16, data: &[u8], transport: TransportKind) -> Vec<u8> {
    let mut packet = Vec::with_capacity(data.len() + 7);
    packet.extend_from_slice(&number.to_be_bytes());
    packet.extend_from_slice(&(data.len() as u16).to_be_bytes());
    packet.extend_from_slice(data);
    if transport == TransportKind::Stream {
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
    packet
}

#[cfg(test)]
mod tests;
