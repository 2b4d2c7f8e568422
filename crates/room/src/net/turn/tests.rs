//! A client against a server of a few lines, with a clock that is only told.

use super::*;
use crate::net::stun::HEADER_LEN;

const RELAYED: &str = "192.0.2.9:50000";
const PEER: &str = "198.51.100.7:4000";

fn peer() -> SocketAddr {
    PEER.parse().unwrap()
}

/// What a test says in the name of the server, to a client whose time it tells.
struct Table {
    client: Client,
    now: Instant,
    nonce: String,
}

/// A request as the server reads it.
struct Asked {
    bytes: Vec<u8>,
}

impl Asked {
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

impl Table {
    fn new(way: Way) -> Self {
        let now = Instant::now();
        let client = Client::new(way, "user", &Secret::new("password"), now);
        Self { client, now, nonce: "nonce-1".into() }
    }

    /// With an address, after the usual exchange.
    fn allocated(way: Way, lifetime: u32) -> Self {
        let mut table = Self::new(way);
        let first = table.asked();
        assert!(first.message().get(attribute::USERNAME).is_none());
        table.refuse(&first, 401);
        let second = table.asked();
        assert_eq!(second.message().is_signed_by(&key()), Some(true));
        assert_eq!(second.message().text(attribute::NONCE), Some("nonce-1"));
        table.grant(&second, lifetime);
        assert_eq!(table.client.state(), &State::Allocated { relayed: RELAYED.parse().unwrap() });
        table
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.client.next_packet()).collect()
    }

    /// The one request that was sent.
    fn asked(&mut self) -> Asked {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        Asked { bytes: sent.remove(0) }
    }

    fn hear(&mut self, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        self.client.receive(bytes, self.now).map(|(from, data)| (from, data.to_vec()))
    }

    fn answer(&mut self, asked: &Asked, class: Class, change: impl FnOnce(Builder) -> Builder) {
        let (method, id) = (asked.message().method(), asked.message().id());
        let built = change(Builder::new(class, method, id));
        let bytes = if class == Class::Success { built.sign(&key()) } else { built.finish() };
        assert_eq!(self.hear(&bytes), None);
    }

    fn accept(&mut self, asked: &Asked) {
        self.answer(asked, Class::Success, |b| b);
    }

    fn grant(&mut self, asked: &Asked, lifetime: u32) {
        self.answer(asked, Class::Success, |b| {
            b.with_address(attribute::XOR_RELAYED_ADDRESS, RELAYED.parse().unwrap())
                .with(attribute::LIFETIME, &lifetime.to_be_bytes())
        });
    }

    fn refuse(&mut self, asked: &Asked, code: u16) {
        let value = [0, 0, (code / 100) as u8, (code % 100) as u8, b'n', b'o'];
        let nonce = self.nonce.clone();
        self.answer(asked, Class::Error, |b| {
            b.with(attribute::ERROR_CODE, &value)
                .with(attribute::REALM, b"realm")
                .with(attribute::NONCE, nonce.as_bytes())
        });
    }

    /// Lets time pass until something is due, at most so long.
    fn pass(&mut self, most: Duration) -> Duration {
        let until = self.now + most;
        let before = self.now;
        self.now = self.client.due().map_or(until, |due| due.min(until));
        self.client.tick(self.now);
        self.now - before
    }

    /// Lets time pass until something is sent.
    fn pass_until_asked(&mut self) -> (Duration, Asked) {
        let before = self.now;
        for _ in 0..100 {
            self.pass(Duration::from_secs(1000));
            let mut sent = self.sent();
            if !sent.is_empty() {
                assert_eq!(sent.len(), 1);
                return (self.now - before, Asked { bytes: sent.remove(0) });
            }
        }
        panic!("nothing is sent");
    }

    fn from_peer(data: &[u8]) -> Vec<u8> {
        let built = Builder::new(Class::Indication, method::DATA, [1; 12]);
        built.with_address(attribute::XOR_PEER_ADDRESS, peer()).with(attribute::DATA, data).finish()
    }

    /// A peer that may be sent to by number.
    fn bind(&mut self) {
        self.client.send(peer(), b"first", self.now);
        let permit = self.asked();
        self.accept(&permit);
        assert_eq!(self.sent().len(), 1, "what was kept is sent");
        assert_eq!(self.hear(&Self::from_peer(b"hello")), Some((peer(), b"hello".to_vec())));
        let bind = self.asked();
        assert_eq!(bind.method(), method::CHANNEL_BIND);
        self.accept(&bind);
    }
}

#[test]
fn data_goes_both_ways_first_in_messages_then_by_number() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    table.client.send(peer(), b"one", table.now);
    table.client.send(peer(), b"two", table.now);
    let permit = table.asked();
    assert_eq!(permit.method(), method::CREATE_PERMISSION);
    assert_eq!(permit.message().address(attribute::XOR_PEER_ADDRESS), Some(peer()));
    assert_eq!(permit.message().is_signed_by(&key()), Some(true));
    table.accept(&permit);
    for (expected, sent) in [b"one", b"two"].iter().zip(table.sent()) {
        let sent = Message::parse(&sent).unwrap();
        assert_eq!((sent.class(), sent.method()), (Class::Indication, method::SEND));
        assert_eq!(sent.get(attribute::DATA), Some(&expected[..]));
        assert_eq!(sent.address(attribute::XOR_PEER_ADDRESS), Some(peer()));
    }
    assert_eq!(table.hear(&Table::from_peer(b"hi")), Some((peer(), b"hi".to_vec())));
    let bind = table.asked();
    let number = bind.message().number(attribute::CHANNEL_NUMBER).unwrap();
    assert_eq!(number, 0x4000 << 16);
    table.client.send(peer(), b"three", table.now);
    assert_eq!(Message::parse(&table.sent()[0]).unwrap().method(), method::SEND, "not by number yet");
    table.accept(&bind);
    table.client.send(peer(), b"four!", table.now);
    assert_eq!(table.sent(), [b"\x40\x00\x00\x05four!".to_vec()]);
    assert_eq!(table.hear(b"\x40\x00\x00\x03yes\x00"), Some((peer(), b"yes".to_vec())));
    assert_eq!(table.hear(b"\x40\x01\x00\x03yes\x00"), None, "nobody has that number");
    assert_eq!(table.hear(&Table::from_peer(b"again")), Some((peer(), b"again".to_vec())));
    assert!(table.sent().is_empty(), "a number is asked for once");
}

#[test]
fn on_a_stream_data_is_filled_up_and_nothing_said_twice() {
    let mut table = Table::allocated(Way::Stream, 600);
    table.bind();
    table.client.send(peer(), b"four!", table.now);
    assert_eq!(table.sent(), [b"\x40\x00\x00\x05four!\x00\x00\x00".to_vec()]);
    let mut silent = Table::new(Way::Stream);
    drop(silent.asked());
    assert_eq!(silent.pass(Duration::from_secs(1000)), PATIENCE);
    assert_eq!(silent.client.state(), &State::Over(Error::Silent));
    assert!(silent.sent().is_empty());
}

#[test]
fn a_wrong_password_is_said_to_be_one() {
    let mut table = Table::new(Way::Datagrams);
    for _ in 0..2 {
        let asked = table.asked();
        table.refuse(&asked, 401);
    }
    assert_eq!(table.client.state(), &State::Over(Error::Unauthorized));
    assert_eq!((table.sent().len(), table.client.due()), (0, None));
    assert!(!format!("{:?}", table.client).contains("password"));
}

#[test]
fn other_refusals_have_a_code_and_a_reason() {
    let mut table = Table::new(Way::Datagrams);
    let asked = table.asked();
    table.refuse(&asked, 486);
    assert_eq!(table.client.state(), &State::Over(Error::Refused { code: 486, reason: "no".into() }));
}

#[test]
fn another_server_is_named() {
    let mut table = Table::new(Way::Datagrams);
    let asked = table.asked();
    table.answer(&asked, Class::Error, |b| {
        b.with(attribute::ERROR_CODE, &[0, 0, 3, 0])
            .with(attribute::ALTERNATE_SERVER, &[0, 1, 0x0D, 0x96, 192, 0, 2, 1])
    });
    let elsewhere = "192.0.2.1:3478".parse().unwrap();
    assert_eq!(table.client.state(), &State::Over(Error::Elsewhere(elsewhere)));
}

#[test]
fn questions_are_asked_again_and_given_up() {
    let mut table = Table::new(Way::Datagrams);
    let first = table.asked();
    let began = table.now;
    let mut asked = 0;
    while table.client.state() == &State::Asking {
        table.pass(Duration::from_secs(1000));
        for again in table.sent() {
            assert_eq!(again, first.bytes);
            asked += 1;
        }
    }
    assert_eq!(table.client.state(), &State::Over(Error::Silent));
    assert_eq!((table.now - began, asked), (PATIENCE, 6));
}

#[test]
fn an_allocation_is_refreshed_in_time_and_with_a_fresh_nonce() {
    for (lifetime, after) in [(600, 450), (3600, 450), (20, 15), (1, 1)] {
        let mut table = Table::allocated(Way::Datagrams, lifetime);
        for _ in 0..3 {
            let (passed, refresh) = table.pass_until_asked();
            assert_eq!((refresh.method(), passed.as_secs()), (method::REFRESH, after), "of {lifetime}");
            table.nonce.push('x');
            table.refuse(&refresh, 438);
            let again = table.asked();
            assert_eq!(again.message().text(attribute::NONCE), Some(table.nonce.as_str()));
            assert_ne!(again.message().id(), refresh.message().id());
            table.grant(&again, lifetime);
        }
        assert!(matches!(table.client.state(), State::Allocated { .. }));
    }
}

#[test]
fn a_nonce_that_is_always_stale_is_given_up() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    let (_, mut asked) = table.pass_until_asked();
    for _ in 0..MAX_RENEWALS {
        table.refuse(&asked, 438);
        asked = table.asked();
    }
    table.refuse(&asked, 438);
    assert!(matches!(table.client.state(), State::Over(Error::Garbled(_))));
}

#[test]
fn a_forgotten_allocation_is_over() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    let (_, refresh) = table.pass_until_asked();
    table.refuse(&refresh, 437);
    assert_eq!(table.client.state(), &State::Over(Error::Forgotten));
    table.client.send(peer(), b"x", table.now);
    assert!(table.sent().is_empty());
}

#[test]
fn what_is_used_is_renewed_and_what_is_not_is_forgotten() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    table.bind();
    let mut renewed = 0;
    let began = table.now;
    while table.now - began < Duration::from_secs(1000) {
        table.client.send(peer(), b"x", table.now);
        table.pass(Duration::from_secs(20));
        for bytes in table.sent() {
            if bytes[0] >= 0x40 {
                continue;
            }
            let asked = Asked { bytes };
            match asked.method() {
                method::REFRESH => table.grant(&asked, 600),
                method::CHANNEL_BIND => {
                    renewed += 1;
                    table.accept(&asked);
                }
                other => panic!("{other} is asked for"),
            }
        }
    }
    assert_eq!(renewed, 4, "every four minutes");
    for _ in 0..3 {
        let (_, asked) = table.pass_until_asked();
        if asked.method() == method::REFRESH {
            table.grant(&asked, 600);
        } else {
            table.accept(&asked);
        }
    }
    assert_eq!(table.hear(b"\x40\x00\x00\x01x"), None, "nobody was sent to for long");
}

#[test]
fn a_peer_that_is_refused_is_asked_for_again_later() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    table.client.send(peer(), b"x", table.now);
    let permit = table.asked();
    table.refuse(&permit, 403);
    table.client.send(peer(), b"x", table.now);
    assert!(table.sent().is_empty());
    let (passed, again) = table.pass_until_asked();
    assert_eq!((passed.as_secs(), again.method()), (60, method::CREATE_PERMISSION));
    table.accept(&again);
    assert!(table.sent().is_empty(), "nothing old is sent");
    table.client.send(peer(), b"x", table.now);
    assert_eq!(table.sent().len(), 1);
}

#[test]
fn without_a_number_data_goes_on_in_messages() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    table.client.send(peer(), b"x", table.now);
    let permit = table.asked();
    table.accept(&permit);
    drop(table.sent());
    table.hear(&Table::from_peer(b"x"));
    let bind = table.asked();
    table.refuse(&bind, 400);
    table.pass(Duration::ZERO);
    let permit = table.asked();
    assert_eq!(permit.method(), method::CREATE_PERMISSION);
    table.accept(&permit);
    table.client.send(peer(), b"x", table.now);
    assert_eq!(Message::parse(&table.sent()[0]).unwrap().method(), method::SEND);
}

#[test]
fn it_is_given_back() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    table.bind();
    table.client.close(table.now);
    let refresh = table.asked();
    assert_eq!(refresh.message().number(attribute::LIFETIME), Some(0));
    assert_eq!((refresh.method(), table.client.due()), (method::REFRESH, None));
    assert_eq!(table.client.state(), &State::Over(Error::Closed));
}

#[test]
fn answers_of_others_are_not_heard() {
    let mut table = Table::new(Way::Datagrams);
    let first = table.asked();
    table.refuse(&first, 401);
    let second = table.asked();
    let good = |id, key: Option<&hmac::Key>| {
        let built = Builder::new(Class::Success, method::ALLOCATE, id)
            .with_address(attribute::XOR_RELAYED_ADDRESS, peer())
            .with(attribute::LIFETIME, &600_u32.to_be_bytes());
        key.map_or_else(|| Builder::new(Class::Success, method::ALLOCATE, id).finish(), |key| built.sign(key))
    };
    let id = second.message().id();
    let other = long_term_key("user", "realm", "other");
    for forged in [
        good([0; 12], Some(&key())),
        good(id, None),
        good(id, Some(&other)),
        good(first.message().id(), Some(&key())),
    ] {
        assert_eq!(table.hear(&forged), None);
        assert_eq!(table.client.state(), &State::Asking);
    }
    assert_eq!(table.hear(&Table::from_peer(b"x")), None, "nobody may send yet");
    table.grant(&second, 600);
    assert!(matches!(table.client.state(), State::Allocated { .. }));
    assert_eq!(table.hear(&Table::from_peer(b"x")), None, "nobody was sent to");
}

#[test]
fn memory_is_bounded() {
    let mut table = Table::allocated(Way::Datagrams, 600);
    for port in 1..5000 {
        let peer = SocketAddr::new(peer().ip(), port);
        for _ in 0..3 {
            table.client.send(peer, &[0; MAX_DATA], table.now);
        }
    }
    table.client.send(peer(), &[0; MAX_DATA + 1], table.now);
    assert!(table.client.waiting.len() <= MAX_WAITING);
    assert!(table.client.requests.len() <= 65, "{}", table.client.requests.len());
}

proptest::proptest! {
    /// Whatever a server says, changed anywhere: no panic, and what is due lies ahead.
    #[test]
    fn nothing_that_comes_is_believed_blindly(
        noise in proptest::collection::vec(proptest::prelude::any::<(u8, u16, u8)>(), 0..40),
    ) {
        let mut table = Table::allocated(Way::Datagrams, 600);
        table.bind();
        for (kind, at, value) in noise {
            table.client.send(peer(), b"data", table.now);
            table.pass(Duration::from_secs(u64::from(value)));
            let waiting = table.sent();
            let mut packet = match (kind % 4, waiting.first()) {
                (0, _) => Table::from_peer(b"some data"),
                (1, _) => b"\x40\x00\x00\x09some data".to_vec(),
                (_, Some(sent)) if sent.len() >= HEADER_LEN && sent[0] < 0x40 => {
                    let request = Message::parse(sent).unwrap();
                    Builder::new(if kind % 4 == 2 { Class::Success } else { Class::Error }, request.method(), request.id())
                        .with(attribute::ERROR_CODE, &[0, 0, value % 8, kind])
                        .with(attribute::NONCE, b"n")
                        .with(attribute::LIFETIME, &u32::from(at).to_be_bytes())
                        .sign(&key())
                }
                _ => vec![value; usize::from(at) % 64],
            };
            if kind & 0x80 != 0 && !packet.is_empty() {
                let at = usize::from(at) % packet.len();
                packet[at] = value;
            }
            let _heard = table.hear(&packet);
            proptest::prop_assert!(table.client.due().is_none_or(|due| due + Duration::from_secs(1) > table.now));
        }
    }
}
