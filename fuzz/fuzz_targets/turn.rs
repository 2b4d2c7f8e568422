//! Anything a TURN or STUN server may say, cut anywhere, at any time.
//!
//! Run it with `cargo +nightly fuzz run turn`. The first byte of an input picks what lies between client and server. The rest is a run
//! of steps: one byte says what happens, one how much time passes before, one how many of the following bytes it takes. Some steps answer
//! what the client asked, signed as it wants, so that more is reached than what a stranger can say.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use pagecast_core::spec::Secret;
use pagecast_room::net::stream::{Frames, Framing};
use pagecast_room::net::stun::{Builder, Class, Message, attribute, long_term_key, method};
use pagecast_room::net::turn::{Client, Way};

/// Peers that the client sends to.
const PEERS: [&str; 3] = ["198.51.100.7:4000", "198.51.100.7:4001", "[2001:db8::7]:4000"];

/// An answer to a request: with these bytes as attributes, and those that it takes to be believed.
fn answer(request: &Message<'_>, kind: u8, bytes: &[u8]) -> Vec<u8> {
    let class = if kind & 1 == 0 { Class::Success } else { Class::Error };
    let mut builder = Builder::new(class, request.method(), request.id());
    if kind & 2 != 0 {
        builder = builder
            .with_address(attribute::XOR_RELAYED_ADDRESS, ([192, 0, 2, 9], 50000).into())
            .with(attribute::REALM, b"r")
            .with(attribute::NONCE, b"n");
    }
    if let [code @ (3 | 4 | 5), rest @ ..] = bytes {
        let number = rest.first().copied().unwrap_or(1) % 100;
        builder = builder.with(attribute::ERROR_CODE, &[0, 0, *code, number]);
    }
    for chunk in bytes.chunks(11) {
        if let [high, low, value @ ..] = chunk {
            builder = builder.with(u16::from_be_bytes([*high & 0x80, *low & 0x3F]), value);
        }
    }
    builder.sign(&long_term_key("u", "r", "p"))
}

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else { return };
    let (way, framing) =
        if first & 1 == 0 { (Way::Datagrams, Framing::Turn) } else { (Way::Stream, Framing::Length) };
    let mut now = Instant::now();
    let mut client = Client::new(way, "u", &Secret::new("p"), now);
    let mut frames = Frames::new(framing);
    while let [what, wait, length, after @ ..] = rest {
        let (bytes, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        now += Duration::from_millis(u64::from(*wait) * 100);
        client.tick(now);
        let asked: Vec<_> = std::iter::from_fn(|| client.next_packet()).collect();
        let request = asked.iter().rev().find_map(|packet| Message::parse(packet));
        let packet = match (what % 8, request) {
            (0, _) => {
                let peer = PEERS[usize::from(*what >> 3) % PEERS.len()];
                client.send(peer.parse().expect("an address"), bytes, now);
                continue;
            }
            (1, _) => {
                frames.push(bytes);
                // What cannot be a packet ends the connection.
                while let Ok(Some(packet)) = frames.take() {
                    client.receive(&packet, now);
                }
                continue;
            }
            (2, _) => Builder::new(Class::Indication, method::DATA, [1; 12])
                .with_address(attribute::XOR_PEER_ADDRESS, PEERS[0].parse().expect("an address"))
                .with(attribute::DATA, bytes)
                .finish(),
            (3, _) if *what >> 3 == 31 => {
                client.close(now);
                continue;
            }
            (3..=6, Some(request)) => answer(&request, *what >> 3, bytes),
            _ => bytes.to_vec(),
        };
        client.receive(&packet, now);
        assert!(client.due().is_none_or(|due| due + Duration::from_secs(60) > now), "something is overdue");
    }
});
