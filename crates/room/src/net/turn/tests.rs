//! Tests the client against a scripted server, with a simulated clock.

use super::*;
use crate::net::stun::HEADER_LEN;

const RELAYED: &str = "192.0.2.9:50000";
const PEER: &str = "198.51.100.7:4000";

fn peer() -> SocketAddr {
    PEER.parse().unwrap()
}

/// A client, its simulated clock, and the state of the scripted server.
struct Fixture {
    client: Client,
    now: Instant,
    nonce: String,
}

/// A request as the server receives it.
struct SentRequest {
    bytes: Vec<u8>,
}

impl SentRequest {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }

    fn method(&self) -> u16 {
        self.message().method()
    }
}

fn key() -> hmac::Key {
    long_term_key("user", "realm", "password")
}

impl Fixture {
    fn new(transport: TransportKind) -> Self {
        let now = Instant::now();
        let client = Client::new(transport, "user", &Secret::new("password"), now);
        Self { client, now, nonce: "nonce-1".into() }
    }

    /// A client with an allocation, after the usual exchange.
    fn allocated(transport: TransportKind, lifetime: u32) -> Self {
        let mut fixture = Self::new(transport);
        let first = fixture.take_request();
        assert!(first.message().get(attribute::USERNAME).is_none());
        fixture.respond_error(&first, 401);
        let second = fixture.take_request();
        assert_eq!(second.message().verify_integrity(&key()), Some(true));
        assert_eq!(second.message().text(attribute::NONCE), Some("nonce-1"));
        fixture.respond_allocated(&second, lifetime);
        assert_eq!(fixture.client.state(), &State::Allocated { relayed: RELAYED.parse().unwrap() });
        fixture
    }

    fn send(&mut self, peer: SocketAddr, data: &[u8]) {
        self.client.handle(self.now, Input::Data { peer, data });
    }

    /// The packets that were sent. There is no data of a peer, which [`Fixture::receive`] takes.
    fn take_sent(&mut self) -> Vec<Vec<u8>> {
        let packet = |output| match output {
            Output::Transmit(packet) => packet,
            Output::Data { .. } => panic!("data without a received packet"),
        };
        std::iter::from_fn(|| self.client.poll()).map(packet).collect()
    }

    /// The one request that was sent.
    fn take_request(&mut self) -> SentRequest {
        let mut sent = self.take_sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        SentRequest { bytes: sent.remove(0) }
    }

    /// Hands in a packet and returns the data in it. Packets to send stay queued.
    fn receive(&mut self, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        self.client.handle(self.now, Input::Packet(bytes));
        let at = self.client.outputs.iter().position(|output| matches!(output, Output::Data { .. }))?;
        match self.client.outputs.remove(at) {
            Some(Output::Data { peer, data }) => Some((peer, data)),
            _ => None,
        }
    }

    fn respond(&mut self, request: &SentRequest, class: Class, change: impl FnOnce(Builder) -> Builder) {
        let (method, id) = (request.message().method(), request.message().transaction_id());
        let built = change(Builder::new(class, method, id));
        let bytes = if class == Class::Success { built.sign(&key()) } else { built.finish() };
        assert_eq!(self.receive(&bytes), None);
    }

    fn respond_success(&mut self, request: &SentRequest) {
        self.respond(request, Class::Success, |b| b);
    }

    fn respond_allocated(&mut self, request: &SentRequest, lifetime: u32) {
        self.respond(request, Class::Success, |b| {
            b.with_xor_address(attribute::XOR_RELAYED_ADDRESS, RELAYED.parse().unwrap())
                .with_attribute(attribute::LIFETIME, &lifetime.to_be_bytes())
        });
    }

    fn respond_error(&mut self, request: &SentRequest, code: u16) {
        let value = [0, 0, (code / 100) as u8, (code % 100) as u8, b'n', b'o'];
        let nonce = self.nonce.clone();
        self.respond(request, Class::Error, |b| {
            b.with_attribute(attribute::ERROR_CODE, &value)
                .with_attribute(attribute::REALM, b"realm")
                .with_attribute(attribute::NONCE, nonce.as_bytes())
        });
    }

    /// Advances the clock to the client's deadline, by at most `limit`.
    fn advance(&mut self, limit: Duration) -> Duration {
        let until = self.now + limit;
        let before = self.now;
        self.now = self.client.deadline().map_or(until, |deadline| deadline.min(until));
        self.client.handle(self.now, Input::Timeout);
        self.now - before
    }

    /// Advances the clock until a request is sent.
    fn advance_until_request(&mut self) -> (Duration, SentRequest) {
        let before = self.now;
        for _ in 0..100 {
            self.advance(Duration::from_secs(1000));
            let mut sent = self.take_sent();
            if !sent.is_empty() {
                assert_eq!(sent.len(), 1);
                return (self.now - before, SentRequest { bytes: sent.remove(0) });
            }
        }
        panic!("no request was sent");
    }

    fn data_indication(data: &[u8]) -> Vec<u8> {
        let built = Builder::new(Class::Indication, method::DATA, [1; 12]);
        built
            .with_xor_address(attribute::XOR_PEER_ADDRESS, peer())
            .with_attribute(attribute::DATA, data)
            .finish()
    }

    /// Binds a channel to the peer.
    fn bind_channel(&mut self) {
        self.send(peer(), b"first");
        let permit = self.take_request();
        self.respond_success(&permit);
        assert_eq!(self.take_sent().len(), 1, "the kept packet is sent");
        assert_eq!(self.receive(&Self::data_indication(b"hello")), Some((peer(), b"hello".to_vec())));
        let bind = self.take_request();
        assert_eq!(bind.method(), method::CHANNEL_BIND);
        self.respond_success(&bind);
    }
}

#[test]
fn data_goes_both_ways_first_in_indications_then_over_a_channel() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    fixture.send(peer(), b"one");
    fixture.send(peer(), b"two");
    let permit = fixture.take_request();
    assert_eq!(permit.method(), method::CREATE_PERMISSION);
    assert_eq!(permit.message().xor_address(attribute::XOR_PEER_ADDRESS), Some(peer()));
    assert_eq!(permit.message().verify_integrity(&key()), Some(true));
    fixture.respond_success(&permit);
    for (expected, sent) in [b"one", b"two"].iter().zip(fixture.take_sent()) {
        let sent = Message::parse(&sent).unwrap();
        assert_eq!((sent.class(), sent.method()), (Class::Indication, method::SEND));
        assert_eq!(sent.get(attribute::DATA), Some(&expected[..]));
        assert_eq!(sent.xor_address(attribute::XOR_PEER_ADDRESS), Some(peer()));
    }
    assert_eq!(fixture.receive(&Fixture::data_indication(b"hi")), Some((peer(), b"hi".to_vec())));
    let bind = fixture.take_request();
    let number = bind.message().number(attribute::CHANNEL_NUMBER).unwrap();
    assert_eq!(number, 0x4000 << 16);
    fixture.send(peer(), b"three");
    assert_eq!(
        Message::parse(&fixture.take_sent()[0]).unwrap().method(),
        method::SEND,
        "not over the channel yet"
    );
    fixture.respond_success(&bind);
    fixture.send(peer(), b"four!");
    assert_eq!(fixture.take_sent(), [b"\x40\x00\x00\x05four!".to_vec()]);
    assert_eq!(fixture.receive(b"\x40\x00\x00\x03yes\x00"), Some((peer(), b"yes".to_vec())));
    assert_eq!(fixture.receive(b"\x40\x01\x00\x03yes\x00"), None, "no peer has that channel");
    assert_eq!(fixture.receive(&Fixture::data_indication(b"again")), Some((peer(), b"again".to_vec())));
    assert!(fixture.take_sent().is_empty(), "a channel is requested once");
}

#[test]
fn on_a_stream_data_is_padded_and_nothing_retransmitted() {
    let mut fixture = Fixture::allocated(TransportKind::Stream, 600);
    fixture.bind_channel();
    fixture.send(peer(), b"four!");
    assert_eq!(fixture.take_sent(), [b"\x40\x00\x00\x05four!\x00\x00\x00".to_vec()]);
    let mut silent = Fixture::new(TransportKind::Stream);
    drop(silent.take_request());
    assert_eq!(silent.advance(Duration::from_secs(1000)), REQUEST_TIMEOUT);
    assert_eq!(silent.client.state(), &State::Closed(Error::Timeout));
    assert!(silent.take_sent().is_empty());
}

#[test]
fn a_wrong_password_is_reported_as_unauthorized() {
    let mut fixture = Fixture::new(TransportKind::Datagram);
    for _ in 0..2 {
        let request = fixture.take_request();
        fixture.respond_error(&request, 401);
    }
    assert_eq!(fixture.client.state(), &State::Closed(Error::Unauthorized));
    assert_eq!((fixture.take_sent().len(), fixture.client.deadline()), (0, None));
    assert!(!format!("{:?}", fixture.client).contains("password"));
}

#[test]
fn other_refusals_have_a_code_and_a_reason() {
    let mut fixture = Fixture::new(TransportKind::Datagram);
    let request = fixture.take_request();
    fixture.respond_error(&request, 486);
    assert_eq!(fixture.client.state(), &State::Closed(Error::Refused { code: 486, reason: "no".into() }));
}

#[test]
fn another_server_is_named() {
    let mut fixture = Fixture::new(TransportKind::Datagram);
    let request = fixture.take_request();
    fixture.respond(&request, Class::Error, |b| {
        b.with_attribute(attribute::ERROR_CODE, &[0, 0, 3, 0])
            .with_attribute(attribute::ALTERNATE_SERVER, &[0, 1, 0x0D, 0x96, 192, 0, 2, 1])
    });
    let alternate = "192.0.2.1:3478".parse().unwrap();
    assert_eq!(fixture.client.state(), &State::Closed(Error::AlternateServer(alternate)));
}

#[test]
fn requests_are_retransmitted_until_they_time_out() {
    let mut fixture = Fixture::new(TransportKind::Datagram);
    let first = fixture.take_request();
    let began = fixture.now;
    let mut retransmissions = 0;
    while fixture.client.state() == &State::Allocating {
        fixture.advance(Duration::from_secs(1000));
        for again in fixture.take_sent() {
            assert_eq!(again, first.bytes);
            retransmissions += 1;
        }
    }
    assert_eq!(fixture.client.state(), &State::Closed(Error::Timeout));
    assert_eq!((fixture.now - began, retransmissions), (REQUEST_TIMEOUT, 6));
}

#[test]
fn an_allocation_is_refreshed_in_time_and_with_a_fresh_nonce() {
    for (lifetime, after) in [(600, 450), (3600, 450), (20, 15), (1, 1)] {
        let mut fixture = Fixture::allocated(TransportKind::Datagram, lifetime);
        for _ in 0..3 {
            let (passed, refresh) = fixture.advance_until_request();
            assert_eq!((refresh.method(), passed.as_secs()), (method::REFRESH, after), "of {lifetime}");
            fixture.nonce.push('x');
            fixture.respond_error(&refresh, 438);
            let again = fixture.take_request();
            assert_eq!(again.message().text(attribute::NONCE), Some(fixture.nonce.as_str()));
            assert_ne!(again.message().transaction_id(), refresh.message().transaction_id());
            fixture.respond_allocated(&again, lifetime);
        }
        assert!(matches!(fixture.client.state(), State::Allocated { .. }));
    }
}

#[test]
fn a_nonce_that_is_always_stale_is_given_up() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    let (_, mut request) = fixture.advance_until_request();
    for _ in 0..MAX_NONCE_RETRIES {
        fixture.respond_error(&request, 438);
        request = fixture.take_request();
    }
    fixture.respond_error(&request, 438);
    assert!(matches!(fixture.client.state(), State::Closed(Error::InvalidResponse(_))));
}

#[test]
fn an_allocation_that_the_server_lost_ends_the_client() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    let (_, refresh) = fixture.advance_until_request();
    fixture.respond_error(&refresh, 437);
    assert_eq!(fixture.client.state(), &State::Closed(Error::AllocationLost));
    fixture.send(peer(), b"x");
    assert!(fixture.take_sent().is_empty());
}

#[test]
fn used_peers_are_renewed_and_unused_ones_removed() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    fixture.bind_channel();
    let mut renewed = 0;
    let began = fixture.now;
    while fixture.now - began < Duration::from_secs(1000) {
        fixture.send(peer(), b"x");
        fixture.advance(Duration::from_secs(20));
        for bytes in fixture.take_sent() {
            if bytes[0] >= 0x40 {
                continue;
            }
            let request = SentRequest { bytes };
            match request.method() {
                method::REFRESH => fixture.respond_allocated(&request, 600),
                method::CHANNEL_BIND => {
                    renewed += 1;
                    fixture.respond_success(&request);
                }
                other => panic!("unexpected method {other}"),
            }
        }
    }
    assert_eq!(renewed, 4, "every four minutes");
    for _ in 0..3 {
        let (_, request) = fixture.advance_until_request();
        if request.method() == method::REFRESH {
            fixture.respond_allocated(&request, 600);
        } else {
            fixture.respond_success(&request);
        }
    }
    assert_eq!(fixture.receive(b"\x40\x00\x00\x01x"), None, "the peer was removed");
}

#[test]
fn a_denied_permission_is_requested_again_later() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    fixture.send(peer(), b"x");
    let permit = fixture.take_request();
    fixture.respond_error(&permit, 403);
    fixture.send(peer(), b"x");
    assert!(fixture.take_sent().is_empty());
    let (passed, again) = fixture.advance_until_request();
    assert_eq!((passed.as_secs(), again.method()), (60, method::CREATE_PERMISSION));
    fixture.respond_success(&again);
    assert!(fixture.take_sent().is_empty(), "denied packets are not sent later");
    fixture.send(peer(), b"x");
    assert_eq!(fixture.take_sent().len(), 1);
}

#[test]
fn without_a_channel_data_is_sent_in_indications() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    fixture.send(peer(), b"x");
    let permit = fixture.take_request();
    fixture.respond_success(&permit);
    drop(fixture.take_sent());
    fixture.receive(&Fixture::data_indication(b"x"));
    let bind = fixture.take_request();
    fixture.respond_error(&bind, 400);
    fixture.advance(Duration::ZERO);
    let permit = fixture.take_request();
    assert_eq!(permit.method(), method::CREATE_PERMISSION);
    fixture.respond_success(&permit);
    fixture.send(peer(), b"x");
    assert_eq!(Message::parse(&fixture.take_sent()[0]).unwrap().method(), method::SEND);
}

#[test]
fn close_releases_the_allocation() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    fixture.bind_channel();
    fixture.client.handle(fixture.now, Input::Close);
    let refresh = fixture.take_request();
    assert_eq!(refresh.message().number(attribute::LIFETIME), Some(0));
    assert_eq!((refresh.method(), fixture.client.deadline()), (method::REFRESH, None));
    assert_eq!(fixture.client.state(), &State::Closed(Error::Closed));
}

#[test]
fn forged_responses_are_ignored() {
    let mut fixture = Fixture::new(TransportKind::Datagram);
    let first = fixture.take_request();
    fixture.respond_error(&first, 401);
    let second = fixture.take_request();
    let success = |id, key: Option<&hmac::Key>| {
        let built = Builder::new(Class::Success, method::ALLOCATE, id)
            .with_xor_address(attribute::XOR_RELAYED_ADDRESS, peer())
            .with_attribute(attribute::LIFETIME, &600_u32.to_be_bytes());
        key.map_or_else(|| Builder::new(Class::Success, method::ALLOCATE, id).finish(), |key| built.sign(key))
    };
    let id = second.message().transaction_id();
    let other = long_term_key("user", "realm", "other");
    for forged in [
        success([0; 12], Some(&key())),
        success(id, None),
        success(id, Some(&other)),
        success(first.message().transaction_id(), Some(&key())),
    ] {
        assert_eq!(fixture.receive(&forged), None);
        assert_eq!(fixture.client.state(), &State::Allocating);
    }
    assert_eq!(fixture.receive(&Fixture::data_indication(b"x")), None, "there is no allocation yet");
    fixture.respond_allocated(&second, 600);
    assert!(matches!(fixture.client.state(), State::Allocated { .. }));
    assert_eq!(fixture.receive(&Fixture::data_indication(b"x")), None, "the peer has no permission");
}

#[test]
fn memory_is_bounded() {
    let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
    for port in 1..5000 {
        let peer = SocketAddr::new(peer().ip(), port);
        for _ in 0..3 {
            fixture.send(peer, &[0; MAX_DATA_BYTES]);
        }
    }
    fixture.send(peer(), &[0; MAX_DATA_BYTES + 1]);
    assert!(fixture.client.outputs.len() <= MAX_QUEUED_OUTPUTS);
    assert!(fixture.client.requests.len() <= 65, "{}", fixture.client.requests.len());
}

proptest::proptest! {
    /// Mutated packets from the server cause no panic, and the deadline stays in the future.
    #[test]
    fn mutated_packets_do_no_harm(
        noise in proptest::collection::vec(proptest::prelude::any::<(u8, u16, u8)>(), 0..40),
    ) {
        let mut fixture = Fixture::allocated(TransportKind::Datagram, 600);
        fixture.bind_channel();
        for (kind, at, value) in noise {
            fixture.send(peer(), b"data");
            fixture.advance(Duration::from_secs(u64::from(value)));
            let sent_packets = fixture.take_sent();
            let mut packet = match (kind % 4, sent_packets.first()) {
                (0, _) => Fixture::data_indication(b"some data"),
                (1, _) => b"\x40\x00\x00\x09some data".to_vec(),
                (_, Some(sent)) if sent.len() >= HEADER_LEN && sent[0] < 0x40 => {
                    let request = Message::parse(sent).unwrap();
                    let class = if kind % 4 == 2 { Class::Success } else { Class::Error };
                    Builder::new(class, request.method(), request.transaction_id())
                        .with_attribute(attribute::ERROR_CODE, &[0, 0, value % 8, kind])
                        .with_attribute(attribute::NONCE, b"n")
                        .with_attribute(attribute::LIFETIME, &u32::from(at).to_be_bytes())
                        .sign(&key())
                }
                _ => vec![value; usize::from(at) % 64],
            };
            if kind & 0x80 != 0 && !packet.is_empty() {
                let at = usize::from(at) % packet.len();
                packet[at] = value;
            }
            let _data = fixture.receive(&packet);
            let deadline = fixture.client.deadline();
            proptest::prop_assert!(deadline.is_none_or(|at| at + Duration::from_secs(1) > fixture.now));
        }
    }
}
