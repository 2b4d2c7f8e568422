//! Runs a sequence of operations on the SFU from fuzzer input, for the fuzz target and a random test.
//!
//! Each operation is a kind, a length of two bytes, and its data. A fuzzer cannot guess passwords, so the
//! remote addresses are bound to sessions directly, and its datagrams reach them as those of real clients.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::super::command::{ClientOrigin, JoinRequest, PatchRequest, SessionPath};
use super::super::expected_publishers::ExpectedPublishers;
use super::super::{Limits, payload};
use super::{Input, SessionConfig, SessionId, Sfu};
use crate::rtc::Protocol;
use crate::rtc::answerer::Certificate;
use crate::rtc::answerer::media::Codec;

/// A valid offer. Data that starts with a zero byte mutates it: the next two bytes are the position, and the
/// rest is written there.
pub(super) const OFFER: &str = "\
v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=msid-semantic:WMS a\r\n\
m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
a=ice-pwd:0123456789abcdefghijklmn\r\n\
a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:\
AA:BB:CC:DD:EE:FF\r\na=setup:actpass\r\na=mid:0\r\n\
a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=sendrecv\r\na=rtcp-mux\r\n\
a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\n\
m=video 9 UDP/TLS/RTP/SAVPF 108 109 96 97\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
a=ice-pwd:0123456789abcdefghijklmn\r\na=setup:actpass\r\na=mid:1\r\n\
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\na=sendrecv\r\na=rtcp-mux\r\n\
a=rtpmap:108 H264/90000\r\na=rtcp-fb:108 nack pli\r\n\
a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
a=rtpmap:109 rtx/90000\r\na=fmtp:109 apt=108\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n\
a=fmtp:97 apt=96\r\na=rid:h send\r\na=rid:m send\r\na=simulcast:send h;m\r\n";

/// Runs the operations in `data`.
///
/// # Panics
/// An invariant of the SFU is broken.
pub fn run_fuzz_input(data: &[u8]) {
    static CERTIFICATE: OnceLock<Option<Certificate>> = OnceLock::new();
    let Some(certificate) = CERTIFICATE.get_or_init(Certificate::new).clone() else { return };
    let address = SocketAddr::from(([127, 0, 0, 1], 4000));
    let mut now = Instant::now();
    let limits = Limits { rooms: 2, viewers_per_room: 3, viewers: 4, ..Limits::default() };
    let mut expected = ExpectedPublishers::default();
    ["a", "b", "c"].iter().for_each(|room| expected.add(now, room, "somebody"));
    let expected = Arc::new(Mutex::new(expected));
    let mut sfu =
        Sfu::new(now, SessionConfig { certificate, addresses: vec![address], tcp: true, limits, expected });
    let (mut rest, mut paths) = (data, Vec::new());
    while let [kind, high, low, more @ ..] = rest {
        let (bytes, remaining) =
            more.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(more.len()));
        rest = remaining;
        let (room, from) = (["a", "b", "c"][usize::from(kind >> 3) % 3], usize::from(kind >> 5));
        let publishes = kind & 8 == 0;
        match kind & 7 {
            0 | 1 => {
                let (room, offer) = (room.to_owned(), mutated_offer(bytes));
                let join =
                    JoinRequest { room, publishes, user: None, offer, origin: ClientOrigin::default() };
                let room = join.room.clone();
                if let Ok(joined) = sfu.join(now, join) {
                    paths.push(SessionPath { room, publishes, secret: joined.secret });
                    sfu.demux.bind_address(remote_address(paths.len()), SessionId(sfu.last_session_id));
                }
            }
            2 => {
                let fragment = String::from_utf8_lossy(bytes).into_owned();
                let Some(session) = paths.get(from).cloned() else { continue };
                let _refused =
                    sfu.patch_session(now, &PatchRequest { session, etag: "*".to_owned(), fragment });
            }
            3 => {
                if let Some(path) = paths.get(from) {
                    let _refused = sfu.set_layer_preference(now, path, &String::from_utf8_lossy(bytes));
                }
            }
            4 => {
                now += Duration::from_millis(u64::from(*low) * 40);
                sfu.handle(now, Input::Timeout);
            }
            5 => {
                payload::inspect(Codec::H264(0), bytes);
                payload::inspect(Codec::Vp8, bytes);
            }
            _ => sfu.handle(now, Input::Datagram { remote: remote_address(from + 1), data: bytes }),
        }
        let outputs = std::iter::from_fn(|| sfu.poll(now)).count();
        assert!(outputs < 10_000 || sfu.deadline().is_none_or(|at| at > now));
        assert!(sfu.sessions.len() <= 4 + 2 * limits.publishers_per_room && sfu.rooms.len() <= 2);
    }
    sfu.stats(now);
    sfu.handle(now, Input::Close);
    assert!(sfu.sessions.is_empty() && sfu.rooms.is_empty() && sfu.deadlines.is_empty());
}

fn remote_address(number: usize) -> (Protocol, SocketAddr) {
    let port = u16::try_from(number).unwrap_or(0);
    let protocol = if number.is_multiple_of(2) { Protocol::Udp } else { Protocol::Tcp };
    (protocol, SocketAddr::from(([127, 0, 0, 2], port)))
}

fn mutated_offer(bytes: &[u8]) -> String {
    let [0, high, low, patch @ ..] = bytes else { return String::from_utf8_lossy(bytes).into_owned() };
    let mut offer = OFFER.as_bytes().to_vec();
    let at = usize::from(u16::from_be_bytes([*high, *low])) % offer.len();
    let end = (at + patch.len()).min(offer.len());
    offer.splice(at..end, patch.iter().copied());
    String::from_utf8_lossy(&offer).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_is_accepted() {
        let mut data = vec![0, 0, 3, 0, 0, 0, 8, 0, 3, 0, 0, 0, 4, 0, 10];
        data.extend([0x27, 0, 4, 0x80, 108, 0, 1, 7, 0, 2, 22, 254]);
        run_fuzz_input(&data);
        assert_eq!(mutated_offer(&[0, 0, 0]), OFFER);
    }

    #[test]
    fn random_operations_do_not_panic() {
        let mut state = 7_u64;
        let mut roll = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        for _ in 0..200 {
            let mut data = vec![0, 0, 3, 0, 0, 0, 8, 0, 3, 0, 0, 0];
            for _ in 0..30 {
                let (kind, length) = (roll(), roll() / 4);
                data.extend([kind, 0, length]);
                data.extend((0..length).map(|n| match n {
                    0 => [0x80, 0x90, 22, 0, b'a'][usize::from(roll()) % 5],
                    _ => roll(),
                }));
            }
            run_fuzz_input(&data);
        }
    }
}
