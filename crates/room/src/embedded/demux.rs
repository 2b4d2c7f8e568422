//! Maps datagrams to sessions. All sessions share one port: the ICE user fragment in a client's first STUN
//! request identifies its session, and its address does afterwards.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::sfu::SessionId;
use crate::rtc::Protocol;

/// Most addresses of a session, for several interfaces and NAT rebinding. The oldest is dropped.
const MAX_ADDRESSES: usize = 8;

/// Protocol and remote address.
pub(super) type TransportAddress = (Protocol, SocketAddr);

/// Sessions by ICE user fragment and remote address.
#[derive(Debug, Default)]
pub(super) struct Demux {
    by_ufrag: HashMap<String, SessionId>,
    by_address: HashMap<TransportAddress, SessionId>,
    addresses: HashMap<SessionId, Vec<TransportAddress>>,
}

impl Demux {
    /// Sets the user fragment of a session, in place of an earlier one.
    pub(super) fn set_ufrag(&mut self, session: SessionId, ufrag: &str) {
        self.by_ufrag.retain(|_, known| *known != session);
        self.by_ufrag.insert(ufrag.to_owned(), session);
    }

    /// The session that a STUN binding request names.
    pub(super) fn session_by_ufrag(&self, data: &[u8]) -> Option<SessionId> {
        self.by_ufrag.get(local_ufrag(data)?).copied()
    }

    /// The session at a remote address.
    pub(super) fn session_at(&self, address: TransportAddress) -> Option<SessionId> {
        self.by_address.get(&address).copied()
    }

    /// Binds a remote address to a session that has authenticated from it.
    pub(super) fn bind_address(&mut self, address: TransportAddress, session: SessionId) {
        if self.session_at(address) == Some(session) {
            return;
        }
        self.unbind_address(address);
        self.by_address.insert(address, session);
        let addresses = self.addresses.entry(session).or_default();
        addresses.push(address);
        if addresses.len() > MAX_ADDRESSES {
            let oldest = addresses.remove(0);
            self.by_address.remove(&oldest);
        }
    }

    /// Removes a remote address.
    pub(super) fn unbind_address(&mut self, address: TransportAddress) {
        if let Some(session) = self.by_address.remove(&address) {
            self.addresses.entry(session).or_default().retain(|known| *known != address);
        }
    }

    /// Removes a session and returns its remote addresses.
    pub(super) fn remove_session(&mut self, session: SessionId) -> Vec<TransportAddress> {
        self.by_ufrag.retain(|_, known| *known != session);
        let addresses = self.addresses.remove(&session).unwrap_or_default();
        for address in &addresses {
            self.by_address.remove(address);
        }
        addresses
    }
}

/// Whether this is STUN rather than DTLS or RTP (RFC 7983).
pub(super) fn is_stun(data: &[u8]) -> bool {
    data.first().is_some_and(|first| *first < 2)
}

/// The local user fragment in a STUN binding request (RFC 8489, RFC 8445 section 7.2.2).
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
        let mut demux = Demux::default();
        demux.set_ufrag(SessionId(1), "one");
        demux.set_ufrag(SessionId(2), "two");
        assert_eq!(demux.session_by_ufrag(&binding_request("two:them")), Some(SessionId(2)));
        demux.set_ufrag(SessionId(2), "new");
        assert_eq!(
            [
                demux.session_by_ufrag(&binding_request("two:them")),
                demux.session_by_ufrag(&binding_request("new"))
            ],
            [None, None]
        );
        let whole = binding_request("new:them");
        for length in 0..whole.len() {
            assert_eq!(demux.session_by_ufrag(&whole[..length]), None);
        }
    }

    #[test]
    fn addresses_are_limited_and_belong_to_one_session() {
        let mut demux = Demux::default();
        let address = |port| (Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], port)));
        (0..20).for_each(|port| demux.bind_address(address(port), SessionId(1)));
        assert_eq!(
            [demux.session_at(address(11)), demux.session_at(address(12))],
            [None, Some(SessionId(1))]
        );
        demux.bind_address(address(19), SessionId(2));
        assert_eq!(demux.remove_session(SessionId(1)).len(), 7);
        assert_eq!(
            [demux.session_at(address(18)), demux.session_at(address(19))],
            [None, Some(SessionId(2))]
        );
    }
}
