//! Any bytes from a TURN or STUN server, in pieces of any size, at any time.
//!
//! Run it with `cargo +nightly fuzz run turn`. The first byte of an input selects the transport. The rest is
//! a sequence of steps: one byte for the action, one for the time that passes before it, one for the number
//! of following bytes that it uses. Some steps respond to the last request with a valid signature, to reach
//! more than an attacker without the password can.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use pagecast_core::spec::Secret;
use pagecast_room::net::stream::{Deframer, Framing};
use pagecast_room::net::stun::{Builder, Class, Message, attribute, long_term_key, method};
use pagecast_room::net::turn::{Client, Input, Output, TransportKind};

/// Peers that the client sends to.
const PEERS: [&str; 3] = ["198.51.100.7:4000", "198.51.100.7:4001", "[2001:db8::7]:4000"];

/// A signed response to a request, with these bytes as attributes.
fn answer(request: &Message<'_>, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let class = if kind & 1 == 0 { Class::Success } else { Class::Error };
    let mut builder = Builder::new(class, request.method(), request.transaction_id());
    if kind & 2 != 0 {
        builder = builder
            .with_xor_address(attribute::XOR_RELAYED_ADDRESS, ([192, 0, 2, 9], 50000).into())
            .with_attribute(attribute::REALM, b"r")
            .with_attribute(attribute::NONCE, b"n");
    }
    if let [code @ (3 | 4 | 5), rest @ ..] = bytes {
        let number = rest.first().copied().unwrap_or(1) % 100;
        builder = builder.with_attribute(attribute::ERROR_CODE, &[0, 0, *code, number]);
    }
    for chunk in bytes.chunks(11) {
        if let [high, low, value @ ..] = chunk {
            builder = builder.with_attribute(u16::from_be_bytes([*high & 0x80, *low & 0x3F]), value);
        }
    }
    builder.sign(&long_term_key("u", "r", "p"))
}

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    let (transport, framing) = if first & 1 == 0 {
        (TransportKind::Datagram, Framing::Turn)
    } else {
        (TransportKind::Stream, Framing::Rfc4571)
    };
    let mut now = Instant::now();
    let mut client = Client::new(transport, "u", &Secret::new("p"), now);
    let mut deframer = Deframer::new(framing);
    while let [action, wait, length, after @ ..] = rest {
        let (bytes, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        now += Duration::from_millis(u64::from(*wait) * 100);
        client.handle(now, Input::Timeout);
        let packet = |output| match output {
            Output::Transmit(packet) => Some(packet),
            Output::Data { .. } => None,
        };
        let sent: Vec<_> = std::iter::from_fn(|| client.poll()).filter_map(packet).collect();
        let request = sent.iter().rev().find_map(|packet| Message::parse(packet));
        let packet = match (action % 8, request) {
            (0, _) => {
                let peer = PEERS[usize::from(*action >> 3) % PEERS.len()];
                let peer = peer.parse().expect("an address");
                client.handle(now, Input::Data { peer, data: bytes });
                continue;
            }
            (1, _) => {
                deframer.push(bytes);
                // A malformed packet ends the connection.
                while let Ok(Some(packet)) = deframer.next_packet() {
                    client.handle(now, Input::Packet(&packet));
                }
                continue;
            }
            (2, _) => Builder::new(Class::Indication, method::DATA, [1; 12])
                .with_xor_address(attribute::XOR_PEER_ADDRESS, PEERS[0].parse().expect("an address"))
                .with_attribute(attribute::DATA, bytes)
                .finish(),
            (3, _) if *action >> 3 == 31 => {
                client.handle(now, Input::Close);
                continue;
            }
            (3..=6, Some(request)) => answer(&request, *action >> 3, bytes),
            _ => bytes.to_vec(),
        };
        client.handle(now, Input::Packet(&packet));
        assert!(
            client.deadline().is_none_or(|deadline| deadline + Duration::from_secs(60) > now),
            "the deadline is in the past"
        );
    }
});
