//! A client against a server of a few lines, with a clock that is only told.

use super::*;
use crate::net::stun::HEADER_LEN;

const RELAYED: &str = "192.0.2.9:50000";
const PEER: &str = "198.51.100.7:4000";

fn peer() -> SocketAddr {
    PEER.parse().unwrap()
}

/// What a test says in the name of the server, to a client whose time it tells.
struct Fixture {
    client: Client,
    now: Instant,
    nonce: String,
}

/// A request as the server reads it.
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
    fn new(way: TransportKind) -> Self {
        let now = Instant::now();
        let client = Client::new(way, "user", &Secret::new("password"), now);
        Self { client, now, nonce: "nonce-1".into() }
    }

    /// With an address, after the usual exchange.
    fn allocated(way: TransportKind, lifetime: u32) -> Self {
        let mut table = Self::new(way);
        let first = table.take_request();
        assert!(first.message().get(attribute::USERNAME).is_none());
        table.respond_error(&first, 401);
        let second = table.take_request();
        assert_eq!(second.message().verify_integrity(&key()), Some(true));
        assert_eq!(second.message().text(attribute::NONCE), Some("nonce-1"));
        table.respond_allocated(&second, lifetime);
        assert_eq!(table.client.state(), &State::Allocated { relayed: RELAYED.parse().unwrap() });
        table
    }

    fn take_sent(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.client.poll_transmit()).collect()
    }

    /// The one request that was sent.
    fn take_request(&mut self) -> SentRequest {
        let mut sent = self.take_sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        SentRequest { bytes: sent.remove(0) }
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        self.client.handle_packet(bytes, self.now).map(|(from, data)| (from, data.to_vec()))
    }

    fn respond(&mut self, asked: &SentRequest, class: Class, change: impl FnOnce(Builder) -> Builder) {
        let (method, id) = (asked.message().method(), asked.message().transaction_id());
        let built = change(Builder::new(class, method, id));
        let bytes = if class == Class::Success { built.sign(&key()) } else { built.finish() };
        assert_eq!(self.receive(&bytes), None);
    }

    fn respond_success(&mut self, asked: &SentRequest) {
        self.respond(asked, Class::Success, |b| b);
    }

    fn respond_allocated(&mut self, asked: &SentRequest, lifetime: u32) {
        self.respond(asked, Class::Success, |b| {
            b.with_xor_address(attribute::XOR_RELAYED_ADDRESS, RELAYED.parse().unwrap())
                .with_attribute(attribute::LIFETIME, &lifetime.to_be_bytes())
        });
    }

    fn respond_error(&mut self, asked: &SentRequest, code: u16) {
        let value = [0, 0, (code / 100) as u8, (code % 100) as u8, b'n', b'o'];
        let nonce = self.nonce.clone();
        self.respond(asked, Class::Error, |b| {
            b.with_attribute(attribute::ERROR_CODE, &value)
                .with_attribute(attribute::REALM, b"realm")
                .with_attribute(attribute::NONCE, nonce.as_bytes())
        });
    }

    /// Lets time pass until something is due, at most so long.
    fn advance(&mut self, most: Duration) -> Duration {
        let until = self.now + most;
        let before = self.now;
        self.now = self.client.deadline().map_or(until, |due| due.min(until));
        self.client.handle_timeout(self.now);
        self.now - before
    }

    /// Lets time pass until something is sent.
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
        panic!("nothing is sent");
    }

    fn data_indication(data: &[u8]) -> Vec<u8> {
        let built = Builder::new(Class::Indication, method::DATA, [1; 12]);
        built
            .with_xor_address(attribute::XOR_PEER_ADDRESS, peer())
            .with_attribute(attribute::DATA, data)
            .finish()
    }

    /// A peer that may be sent to by number.
    fn bind_channel(&mut self) {
        self.client.send(peer(), b"first", self.now);
        let permit = self.take_request();
        self.respond_success(&permit);
        assert_eq!(self.take_sent().len(), 1, "what was kept is sent");
        assert_eq!(self.receive(&Self::data_indication(b"hello")), Some((peer(), b"hello".to_vec())));
        let bind = self.take_request();
        assert_eq!(bind.method(), method::CHANNEL_BIND);
        self.respond_success(&bind);
    }
}

#[test]
fn data_goes_both_ways_first_in_messages_then_by_number() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    table.client.send(peer(), b"one", table.now);
    table.client.send(peer(), b"two", table.now);
    let permit = table.take_request();
    assert_eq!(permit.method(), method::CREATE_PERMISSION);
    assert_eq!(permit.message().xor_address(attribute::XOR_PEER_ADDRESS), Some(peer()));
    assert_eq!(permit.message().verify_integrity(&key()), Some(true));
    table.respond_success(&permit);
    for (expected, sent) in [b"one", b"two"].iter().zip(table.take_sent()) {
        let sent = Message::parse(&sent).unwrap();
        assert_eq!((sent.class(), sent.method()), (Class::Indication, method::SEND));
        assert_eq!(sent.get(attribute::DATA), Some(&expected[..]));
        assert_eq!(sent.xor_address(attribute::XOR_PEER_ADDRESS), Some(peer()));
    }
    assert_eq!(table.receive(&Fixture::data_indication(b"hi")), Some((peer(), b"hi".to_vec())));
    let bind = table.take_request();
    let number = bind.message().number(attribute::CHANNEL_NUMBER).unwrap();
    assert_eq!(number, 0x4000 << 16);
    table.client.send(peer(), b"three", table.now);
    assert_eq!(Message::parse(&table.take_sent()[0]).unwrap().method(), method::SEND, "not by number yet");
    table.respond_success(&bind);
    table.client.send(peer(), b"four!", table.now);
    assert_eq!(table.take_sent(), [b"\x40\x00\x00\x05four!".to_vec()]);
    assert_eq!(table.receive(b"\x40\x00\x00\x03yes\x00"), Some((peer(), b"yes".to_vec())));
    assert_eq!(table.receive(b"\x40\x01\x00\x03yes\x00"), None, "nobody has that number");
    assert_eq!(table.receive(&Fixture::data_indication(b"again")), Some((peer(), b"again".to_vec())));
    assert!(table.take_sent().is_empty(), "a number is asked for once");
}

#[test]
fn on_a_stream_data_is_padded_and_nothing_retransmitted() {
    let mut table = Fixture::allocated(TransportKind::Stream, 600);
    table.bind_channel();
    table.client.send(peer(), b"four!", table.now);
    assert_eq!(table.take_sent(), [b"\x40\x00\x00\x05four!\x00\x00\x00".to_vec()]);
    let mut silent = Fixture::new(TransportKind::Stream);
    drop(silent.take_request());
    assert_eq!(silent.advance(Duration::from_secs(1000)), REQUEST_TIMEOUT);
    assert_eq!(silent.client.state(), &State::Closed(Error::Timeout));
    assert!(silent.take_sent().is_empty());
}

#[test]
fn a_wrong_password_is_reported_as_unauthorized() {
    let mut table = Fixture::new(TransportKind::Datagram);
    for _ in 0..2 {
        let asked = table.take_request();
        table.respond_error(&asked, 401);
    }
    assert_eq!(table.client.state(), &State::Closed(Error::Unauthorized));
    assert_eq!((table.take_sent().len(), table.client.deadline()), (0, None));
    assert!(!format!("{:?}", table.client).contains("password"));
}

#[test]
fn other_refusals_have_a_code_and_a_reason() {
    let mut table = Fixture::new(TransportKind::Datagram);
    let asked = table.take_request();
    table.respond_error(&asked, 486);
    assert_eq!(table.client.state(), &State::Closed(Error::Refused { code: 486, reason: "no".into() }));
}

#[test]
fn another_server_is_named() {
    let mut table = Fixture::new(TransportKind::Datagram);
    let asked = table.take_request();
    table.respond(&asked, Class::Error, |b| {
        b.with_attribute(attribute::ERROR_CODE, &[0, 0, 3, 0])
            .with_attribute(attribute::ALTERNATE_SERVER, &[0, 1, 0x0D, 0x96, 192, 0, 2, 1])
    });
    let elsewhere = "192.0.2.1:3478".parse().unwrap();
    assert_eq!(table.client.state(), &State::Closed(Error::AlternateServer(elsewhere)));
}

#[test]
fn questions_are_asked_again_and_given_up() {
    let mut table = Fixture::new(TransportKind::Datagram);
    let first = table.take_request();
    let began = table.now;
    let mut asked = 0;
    while table.client.state() == &State::Allocating {
        table.advance(Duration::from_secs(1000));
        for again in table.take_sent() {
            assert_eq!(again, first.bytes);
            asked += 1;
        }
    }
    assert_eq!(table.client.state(), &State::Closed(Error::Timeout));
    assert_eq!((table.now - began, asked), (REQUEST_TIMEOUT, 6));
}

#[test]
fn an_allocation_is_refreshed_in_time_and_with_a_fresh_nonce() {
    for (lifetime, after) in [(600, 450), (3600, 450), (20, 15), (1, 1)] {
        let mut table = Fixture::allocated(TransportKind::Datagram, lifetime);
        for _ in 0..3 {
            let (passed, refresh) = table.advance_until_request();
            assert_eq!((refresh.method(), passed.as_secs()), (method::REFRESH, after), "of {lifetime}");
            table.nonce.push('x');
            table.respond_error(&refresh, 438);
            let again = table.take_request();
            assert_eq!(again.message().text(attribute::NONCE), Some(table.nonce.as_str()));
            assert_ne!(again.message().transaction_id(), refresh.message().transaction_id());
            table.respond_allocated(&again, lifetime);
        }
        assert!(matches!(table.client.state(), State::Allocated { .. }));
    }
}

#[test]
fn a_nonce_that_is_always_stale_is_given_up() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    let (_, mut asked) = table.advance_until_request();
    for _ in 0..MAX_NONCE_RETRIES {
        table.respond_error(&asked, 438);
        asked = table.take_request();
    }
    table.respond_error(&asked, 438);
    assert!(matches!(table.client.state(), State::Closed(Error::InvalidResponse(_))));
}

#[test]
fn a_forgotten_allocation_is_over() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    let (_, refresh) = table.advance_until_request();
    table.respond_error(&refresh, 437);
    assert_eq!(table.client.state(), &State::Closed(Error::AllocationLost));
    table.client.send(peer(), b"x", table.now);
    assert!(table.take_sent().is_empty());
}

#[test]
fn what_is_used_is_renewed_and_what_is_not_is_forgotten() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    table.bind_channel();
    let mut renewed = 0;
    let began = table.now;
    while table.now - began < Duration::from_secs(1000) {
        table.client.send(peer(), b"x", table.now);
        table.advance(Duration::from_secs(20));
        for bytes in table.take_sent() {
            if bytes[0] >= 0x40 {
                continue;
            }
            let asked = SentRequest { bytes };
            match asked.method() {
                method::REFRESH => table.respond_allocated(&asked, 600),
                method::CHANNEL_BIND => {
                    renewed += 1;
                    table.respond_success(&asked);
                }
                other => panic!("{other} is asked for"),
            }
        }
    }
    assert_eq!(renewed, 4, "every four minutes");
    for _ in 0..3 {
        let (_, asked) = table.advance_until_request();
        if asked.method() == method::REFRESH {
            table.respond_allocated(&asked, 600);
        } else {
            table.respond_success(&asked);
        }
    }
    assert_eq!(table.receive(b"\x40\x00\x00\x01x"), None, "nobody was sent to for long");
}

#[test]
fn a_peer_that_is_refused_is_asked_for_again_later() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    table.client.send(peer(), b"x", table.now);
    let permit = table.take_request();
    table.respond_error(&permit, 403);
    table.client.send(peer(), b"x", table.now);
    assert!(table.take_sent().is_empty());
    let (passed, again) = table.advance_until_request();
    assert_eq!((passed.as_secs(), again.method()), (60, method::CREATE_PERMISSION));
    table.respond_success(&again);
    assert!(table.take_sent().is_empty(), "nothing old is sent");
    table.client.send(peer(), b"x", table.now);
    assert_eq!(table.take_sent().len(), 1);
}

#[test]
fn without_a_number_data_goes_on_in_messages() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    table.client.send(peer(), b"x", table.now);
    let permit = table.take_request();
    table.respond_success(&permit);
    drop(table.take_sent());
    table.receive(&Fixture::data_indication(b"x"));
    let bind = table.take_request();
    table.respond_error(&bind, 400);
    table.advance(Duration::ZERO);
    let permit = table.take_request();
    assert_eq!(permit.method(), method::CREATE_PERMISSION);
    table.respond_success(&permit);
    table.client.send(peer(), b"x", table.now);
    assert_eq!(Message::parse(&table.take_sent()[0]).unwrap().method(), method::SEND);
}

#[test]
fn it_is_given_back() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    table.bind_channel();
    table.client.close(table.now);
    let refresh = table.take_request();
    assert_eq!(refresh.message().number(attribute::LIFETIME), Some(0));
    assert_eq!((refresh.method(), table.client.deadline()), (method::REFRESH, None));
    assert_eq!(table.client.state(), &State::Closed(Error::Closed));
}

#[test]
fn forged_responses_are_ignored() {
    let mut table = Fixture::new(TransportKind::Datagram);
    let first = table.take_request();
    table.respond_error(&first, 401);
    let second = table.take_request();
    let good = |id, key: Option<&hmac::Key>| {
        let built = Builder::new(Class::Success, method::ALLOCATE, id)
            .with_xor_address(attribute::XOR_RELAYED_ADDRESS, peer())
            .with_attribute(attribute::LIFETIME, &600_u32.to_be_bytes());
        key.map_or_else(|| Builder::new(Class::Success, method::ALLOCATE, id).finish(), |key| built.sign(key))
    };
    let id = second.message().transaction_id();
    let other = long_term_key("user", "realm", "other");
    for forged in [
        good([0; 12], Some(&key())),
        good(id, None),
        good(id, Some(&other)),
        good(first.message().transaction_id(), Some(&key())),
    ] {
        assert_eq!(table.receive(&forged), None);
        assert_eq!(table.client.state(), &State::Allocating);
    }
    assert_eq!(table.receive(&Fixture::data_indication(b"x")), None, "nobody may send yet");
    table.respond_allocated(&second, 600);
    assert!(matches!(table.client.state(), State::Allocated { .. }));
    assert_eq!(table.receive(&Fixture::data_indication(b"x")), None, "nobody was sent to");
}

#[test]
fn memory_is_bounded() {
    let mut table = Fixture::allocated(TransportKind::Datagram, 600);
    for port in 1..5000 {
        let peer = SocketAddr::new(peer().ip(), port);
        for _ in 0..3 {
            table.client.send(peer, &[0; MAX_DATA_BYTES], table.now);
        }
    }
    table.client.send(peer(), &[0; MAX_DATA_BYTES + 1], table.now);
    assert!(table.client.outgoing.len() <= MAX_QUEUED_PACKETS);
    assert!(table.client.requests.len() <= 65, "{}", table.client.requests.len());
}

proptest::proptest! {
    /// Whatever a server says, changed anywhere: no panic, and what is due lies ahead.
    #[test]
    fn nothing_that_comes_is_believed_blindly(
        noise in proptest::collection::vec(proptest::prelude::any::<(u8, u16, u8)>(), 0..40),
    ) {
        let mut table = Fixture::allocated(TransportKind::Datagram, 600);
        table.bind_channel();
        for (kind, at, value) in noise {
            table.client.send(peer(), b"data", table.now);
            table.advance(Duration::from_secs(u64::from(value)));
            let waiting = table.take_sent();
            let mut packet = match (kind % 4, waiting.first()) {
                (0, _) => Fixture::data_indication(b"some data"),
                (1, _) => b"\x40\x00\x00\x09some data".to_vec(),
                (_, Some(sent)) if sent.len() >= HEADER_LEN && sent[0] < 0x40 => {
                    let request = Message::parse(sent).unwrap();
                    Builder::new(if kind % 4 == 2 { Class::Success } else { Class::Error }, request.method(), request.transaction_id())
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
            let _heard = table.receive(&packet);
            proptest::prop_assert!(table.client.deadline().is_none_or(|due| due + Duration::from_secs(1) > table.now));
        }
    }
}
