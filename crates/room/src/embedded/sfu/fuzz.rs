//! A life of the rooms, led by bytes: for the fuzzer, and for a test that plays one.
//!
//! Each step is a kind, a length of two bytes, and what it is made of. Strangers do not know passwords, so
//! sessions are told here that the strangers' addresses are theirs: what they send gets as far as it would
//! from those who connected.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::super::command::{ClientOrigin, JoinRequest, PatchRequest, SessionPath as Name};
use super::super::expected_publishers::ExpectedPublishers;
use super::super::{Limits, payload};
use super::{SessionConfig, SessionId, Sfu};
use crate::rtc::Protocol;
use crate::rtc::answerer::Certificate;
use crate::rtc::answerer::media::Codec;

/// An offer that is taken, for those that begin with a byte of zero: the next two say where the rest is
/// written into it.
pub(super) const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=msid-semantic:WMS a\r\n\
m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijklmn\r\n\
a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n\
a=setup:actpass\r\na=mid:0\r\na=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=sendrecv\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n\
a=rtcp-fb:111 transport-cc\r\n\
m=video 9 UDP/TLS/RTP/SAVPF 108 109 96 97\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijklmn\r\n\
a=setup:actpass\r\na=mid:1\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\na=sendrecv\r\na=rtcp-mux\r\n\
a=rtpmap:108 H264/90000\r\na=rtcp-fb:108 nack pli\r\n\
a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\na=rtpmap:109 rtx/90000\r\n\
a=fmtp:109 apt=108\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rid:h send\r\na=rid:m send\r\n\
a=simulcast:send h;m\r\n";

/// Leads such a life.
///
/// # Panics
/// Never, it is hoped.
pub fn run_fuzz_input(data: &[u8]) {
    static CERTIFICATE: OnceLock<Option<Certificate>> = OnceLock::new();
    let Some(certificate) = CERTIFICATE.get_or_init(Certificate::new).clone() else { return };
    let here = SocketAddr::from(([127, 0, 0, 1], 4000));
    let mut now = Instant::now();
    let limits = Limits { rooms: 2, viewers_per_room: 3, viewers: 4, ..Limits::default() };
    let mut expected = ExpectedPublishers::default();
    ["a", "b", "c"].iter().for_each(|room| expected.add(now, room, "somebody"));
    let expected = Arc::new(Mutex::new(expected));
    let mut hub =
        Sfu::new(now, SessionConfig { certificate, addresses: vec![here], tcp: true, limits, expected });
    let (mut rest, mut names) = (data, Vec::new());
    while let [kind, high, low, more @ ..] = rest {
        let (bytes, later) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(more.len()));
        rest = later;
        let (room, from) = (["a", "b", "c"][usize::from(kind >> 3) % 3], usize::from(kind >> 5));
        let publishes = kind & 8 == 0;
        match kind & 7 {
            0 | 1 => {
                let (room, offer) = (room.to_owned(), mutated_offer(bytes));
                let join =
                    JoinRequest { room, publishes, user: None, offer, origin: ClientOrigin::default() };
                let room = join.room.clone();
                if let Ok(joined) = hub.join(now, join) {
                    names.push(Name { room, publishes, secret: joined.secret });
                    hub.demux.bind_address(remote_address(names.len()), SessionId(hub.last_session_id));
                }
            }
            2 => {
                let fragment = String::from_utf8_lossy(bytes).into_owned();
                let Some(session) = names.get(from).cloned() else { continue };
                let _refused =
                    hub.patch_session(now, &PatchRequest { session, etag: "*".to_owned(), fragment });
            }
            3 => {
                if let Some(name) = names.get(from) {
                    let _refused = hub.set_layer_preference(now, name, &String::from_utf8_lossy(bytes));
                }
            }
            4 => {
                now += Duration::from_millis(u64::from(*low) * 40);
                hub.handle_timeout(now);
            }
            5 => {
                payload::inspect(Codec::H264(0), bytes);
                payload::inspect(Codec::Vp8, bytes);
            }
            _ => drop(hub.handle_datagram(now, remote_address(from + 1), bytes)),
        }
        assert!(hub.deadline() > now || hub.transmits().count() < 10_000);
        assert!(hub.sessions.len() <= 4 + 2 * limits.publishers_per_room && hub.rooms.len() <= 2);
        hub.transmits();
    }
    hub.stats(now);
    hub.close(now);
    assert!(hub.sessions.is_empty() && hub.rooms.is_empty() && hub.deadlines.is_empty());
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
    fn the_offer_is_taken() {
        let mut data = vec![0, 0, 3, 0, 0, 0, 8, 0, 3, 0, 0, 0, 4, 0, 10];
        data.extend([0x27, 0, 4, 0x80, 108, 0, 1, 7, 0, 2, 22, 254]);
        run_fuzz_input(&data);
        assert_eq!(mutated_offer(&[0, 0, 0]), OFFER);
    }

    #[test]
    fn random_lives_end_well() {
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
