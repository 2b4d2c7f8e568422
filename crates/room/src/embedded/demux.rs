//! Whose datagram this is. All connections share a port: a newcomer says in a STUN request whom it means, and is known by its address
//! from then on.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::sfu::SessionId;
use crate::rtc::Protocol;

/// Most addresses of a session: interfaces of the other side, and NATs that changed their mind. The oldest is forgotten.
const MAX_ADDRESSES: usize = 8;

/// An address, and how it is reached.
pub(super) type TransportAddress = (Protocol, SocketAddr);

/// Who is where.
#[derive(Debug, Default)]
pub(super) struct Demux {
    by_ufrag: HashMap<String, SessionId>,
    by_address: HashMap<TransportAddress, SessionId>,
    addresses: HashMap<SessionId, Vec<TransportAddress>>,
}

impl Demux {
    /// A session is known by this name in STUN requests, and by those it had before no more.
    pub(super) fn set_ufrag(&mut self, key: SessionId, name: &str) {
        self.by_ufrag.retain(|_, known| *known != key);
        self.by_ufrag.insert(name.to_owned(), key);
    }

    /// Whom a STUN request means.
    pub(super) fn session_by_ufrag(&self, data: &[u8]) -> Option<SessionId> {
        self.by_ufrag.get(local_ufrag(data)?).copied()
    }

    /// Who is at this address.
    pub(super) fn session_at(&self, path: TransportAddress) -> Option<SessionId> {
        self.by_address.get(&path).copied()
    }

    /// A session has proven to be at this address.
    pub(super) fn bind_address(&mut self, path: TransportAddress, key: SessionId) {
        if self.session_at(path) == Some(key) {
            return;
        }
        self.unbind_address(path);
        self.by_address.insert(path, key);
        let paths = self.addresses.entry(key).or_default();
        paths.push(path);
        if paths.len() > MAX_ADDRESSES {
            let oldest = paths.remove(0);
            self.by_address.remove(&oldest);
        }
    }

    /// Nobody is at this address any more.
    pub(super) fn unbind_address(&mut self, path: TransportAddress) {
        if let Some(key) = self.by_address.remove(&path) {
            self.addresses.entry(key).or_default().retain(|known| *known != path);
        }
    }

    /// A session has gone; where it was.
    pub(super) fn remove_session(&mut self, key: SessionId) -> Vec<TransportAddress> {
        self.by_ufrag.retain(|_, known| *known != key);
        let paths = self.addresses.remove(&key).unwrap_or_default();
        for path in &paths {
            self.by_address.remove(path);
        }
        paths
    }
}

/// Whether this is STUN rather than DTLS or RTP (RFC 7983).
pub(super) fn is_stun(data: &[u8]) -> bool {
    data.first().is_some_and(|first| *first < 2)
}

/// Our half of the user name in a STUN binding request (RFC 8489, RFC 8445 section 7.2.2).
fn local_ufrag(data: &[u8]) -> Option<&str> {
    const BINDING_REQUEST: [u8; 2] = [0, 1];
    const USERNAME: [u8; 2] = [0, 6];
    if data.get(..2)? != BINDING_REQUEST {
        return None;
    }
    let mut rest = data.get(20..)?;
    while let [k0, k1, l0, l1, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        if [*k0, *k1] == USERNAME {
            let name = std::str::from_utf8(after.get(..length)?).ok()?;
            return Some(name.split_once(':')?.0);
        }
        rest = after.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding_request(name: &str) -> Vec<u8> {
        let mut data = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        data.extend([7; 12]);
        data.extend([0x80, 0x22, 0, 1, b'x', 0, 0, 0, 0, 6]);
        data.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        data.extend(name.as_bytes());
        data
    }

    #[test]
    fn new_addresses_are_matched_by_ufrag() {
        let mut paths = Demux::default();
        paths.set_ufrag(SessionId(1), "one");
        paths.set_ufrag(SessionId(2), "two");
        assert_eq!(paths.session_by_ufrag(&binding_request("two:them")), Some(SessionId(2)));
        paths.set_ufrag(SessionId(2), "new");
        assert_eq!(
            [
                paths.session_by_ufrag(&binding_request("two:them")),
                paths.session_by_ufrag(&binding_request("new"))
            ],
            [None, None]
        );
        let whole = binding_request("new:them");
        for length in 0..whole.len() {
            assert_eq!(paths.session_by_ufrag(&whole[..length]), None);
        }
    }

    #[test]
    fn addresses_are_few_and_belong_to_one() {
        let mut paths = Demux::default();
        let path = |port| (Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], port)));
        (0..20).for_each(|port| paths.bind_address(path(port), SessionId(1)));
        assert_eq!([paths.session_at(path(11)), paths.session_at(path(12))], [None, Some(SessionId(1))]);
        paths.bind_address(path(19), SessionId(2));
        assert_eq!(paths.remove_session(SessionId(1)).len(), 7);
        assert_eq!([paths.session_at(path(18)), paths.session_at(path(19))], [None, Some(SessionId(2))]);
    }
}
