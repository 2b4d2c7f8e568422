//! Whose datagram this is. All connections share a port: a newcomer says in a STUN request whom it means, and is known by its address
//! from then on.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::hub::Key;
use crate::rtc::Protocol;

/// Most addresses of a session: interfaces of the other side, and NATs that changed their mind. The oldest is forgotten.
const MAX_ADDRESSES: usize = 8;

/// An address, and how it is reached.
pub(super) type Path = (Protocol, SocketAddr);

/// Who is where.
#[derive(Debug, Default)]
pub(super) struct Paths {
    by_name: HashMap<String, Key>,
    by_path: HashMap<Path, Key>,
    of: HashMap<Key, Vec<Path>>,
}

impl Paths {
    /// A session is known by this name in STUN requests, and by those it had before no more.
    pub(super) fn name(&mut self, key: Key, name: &str) {
        self.by_name.retain(|_, known| *known != key);
        self.by_name.insert(name.to_owned(), key);
    }

    /// Whom a STUN request means.
    pub(super) fn named(&self, data: &[u8]) -> Option<Key> {
        self.by_name.get(local_name(data)?).copied()
    }

    /// Who is at this address.
    pub(super) fn at(&self, path: Path) -> Option<Key> {
        self.by_path.get(&path).copied()
    }

    /// A session has proven to be at this address.
    pub(super) fn found(&mut self, path: Path, key: Key) {
        if self.at(path) == Some(key) {
            return;
        }
        self.lost(path);
        self.by_path.insert(path, key);
        let paths = self.of.entry(key).or_default();
        paths.push(path);
        if paths.len() > MAX_ADDRESSES {
            let oldest = paths.remove(0);
            self.by_path.remove(&oldest);
        }
    }

    /// Nobody is at this address any more.
    pub(super) fn lost(&mut self, path: Path) {
        if let Some(key) = self.by_path.remove(&path) {
            self.of.entry(key).or_default().retain(|known| *known != path);
        }
    }

    /// A session has gone; where it was.
    pub(super) fn forget(&mut self, key: Key) -> Vec<Path> {
        self.by_name.retain(|_, known| *known != key);
        let paths = self.of.remove(&key).unwrap_or_default();
        for path in &paths {
            self.by_path.remove(path);
        }
        paths
    }
}

/// Whether this is STUN rather than DTLS or RTP (RFC 7983).
pub(super) fn is_stun(data: &[u8]) -> bool {
    data.first().is_some_and(|first| *first < 2)
}

/// Our half of the user name in a STUN binding request (RFC 8489, RFC 8445 section 7.2.2).
fn local_name(data: &[u8]) -> Option<&str> {
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

    fn request(name: &str) -> Vec<u8> {
        let mut data = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        data.extend([7; 12]);
        data.extend([0x80, 0x22, 0, 1, b'x', 0, 0, 0, 0, 6]);
        data.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        data.extend(name.as_bytes());
        data
    }

    #[test]
    fn newcomers_say_whom_they_mean() {
        let mut paths = Paths::default();
        paths.name(Key(1), "one");
        paths.name(Key(2), "two");
        assert_eq!(paths.named(&request("two:them")), Some(Key(2)));
        paths.name(Key(2), "new");
        assert_eq!([paths.named(&request("two:them")), paths.named(&request("new"))], [None, None]);
        let whole = request("new:them");
        for length in 0..whole.len() {
            assert_eq!(paths.named(&whole[..length]), None);
        }
    }

    #[test]
    fn addresses_are_few_and_belong_to_one() {
        let mut paths = Paths::default();
        let path = |port| (Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], port)));
        (0..20).for_each(|port| paths.found(path(port), Key(1)));
        assert_eq!([paths.at(path(11)), paths.at(path(12))], [None, Some(Key(1))]);
        paths.found(path(19), Key(2));
        assert_eq!(paths.forget(Key(1)).len(), 7);
        assert_eq!([paths.at(path(18)), paths.at(path(19))], [None, Some(Key(2))]);
    }
}
