//! Parser for the part of SOCKS5 (RFC 1928) that a browser uses: no authentication, CONNECT only. Does no
//! I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest greeting and request together, in bytes: 2 + 255, and 4 + 1 + 255 + 2.
pub(super) const MAX_HANDSHAKE_BYTES: usize = 519;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const CONNECT: u8 = 1;
/// Length of a request up to its address, in bytes.
const REQUEST_HEADER_LEN: usize = 4;

/// Reply to a greeting that offers no authentication.
pub(super) const METHOD_ACCEPTED: [u8; 2] = [VERSION, NO_AUTHENTICATION];
/// Reply to a greeting that offers only other methods.
pub(super) const NO_ACCEPTABLE_METHODS: [u8; 2] = [VERSION, 0xff];

/// Destination of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// A name, or the address as it was written. Printable ASCII.
    pub(super) host: String,
    /// The address, if `host` is one.
    pub(super) literal: Option<IpAddr>,
    pub(super) port: u16,
}

/// Reply to a request, with its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Succeeded = 0,
    GeneralFailure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// The bytes of the reply. The bound address is not disclosed, so it is all zeros.
    pub(super) fn bytes(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Why a handshake is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandshakeError {
    /// It is not SOCKS5, so the client would not understand a reply.
    Version,
    /// The request is rejected with this reply.
    Request(Reply),
}

/// Parses a greeting: whether it offers no authentication, and its length. `None` until it is complete.
pub(super) fn parse_greeting(bytes: &[u8]) -> Result<Option<(bool, usize)>, HandshakeError> {
    match bytes {
        [] | [VERSION] => Ok(None),
        [VERSION, count, rest @ ..] => {
            let count = usize::from(*count);
            Ok(rest.get(..count).map(|methods| (methods.contains(&NO_AUTHENTICATION), 2 + count)))
        }
        _ => Err(HandshakeError::Version),
    }
}

/// Parses a request: its target, and its length. `None` until it is complete.
pub(super) fn parse_request(bytes: &[u8]) -> Result<Option<(Target, usize)>, HandshakeError> {
    if bytes.first().is_some_and(|version| *version != VERSION) {
        return Err(HandshakeError::Version);
    }
    let Some((&[_, command, _, kind], rest)) = bytes.split_first_chunk::<REQUEST_HEADER_LEN>() else {
        return Ok(None);
    };
    if command != CONNECT {
        return Err(HandshakeError::Request(Reply::CommandNotSupported));
    }
    let (address, length) = match kind {
        1 => (rest.first_chunk().map(|b: &[u8; 4]| Ok(Ipv4Addr::from(*b).into())), 4),
        4 => (rest.first_chunk().map(|b: &[u8; 16]| Ok(Ipv6Addr::from(*b).into())), 16),
        3 => match rest.split_first() {
            Some((length, name)) => (name.get(..usize::from(*length)).map(Err), 1 + usize::from(*length)),
            None => (None, 0),
        },
        _ => return Err(HandshakeError::Request(Reply::AddressTypeNotSupported)),
    };
    let Some((address, port)) = address.zip(rest.get(length..).and_then(|r| r.first_chunk())) else {
        return Ok(None);
    };
    let (host, literal) = match address {
        Ok(address) => (IpAddr::to_string(&address), Some(address)),
        Err(name) => parse_host(name).ok_or(HandshakeError::Request(Reply::GeneralFailure))?,
    };
    Ok(Some((Target { host, literal, port: u16::from_be_bytes(*port) }, REQUEST_HEADER_LEN + length + 2)))
}

/// Parses the domain name field, where browsers put names and addresses alike.
fn parse_host(bytes: &[u8]) -> Option<(String, Option<IpAddr>)> {
    // The name appears in logs and messages, so control characters are rejected.
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    Some((bare.to_owned(), bare.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn connect_request(kind: u8, address: &[u8], port: u16) -> Vec<u8> {
        [&[5, 1, 0, kind], address, &port.to_be_bytes()].concat()
    }

    fn domain_request(name: &str) -> Vec<u8> {
        connect_request(3, &[&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat(), 443)
    }

    #[test]
    fn greetings() {
        for (bytes, parsed) in [
            (&b""[..], Ok(None)),
            (b"\x05", Ok(None)),
            (b"\x05\x02\x01", Ok(None)),
            (b"\x05\x01\x00", Ok(Some((true, 3)))),
            (b"\x05\x02\x02\x00rest", Ok(Some((true, 4)))),
            (b"\x05\x01\x02", Ok(Some((false, 3)))),
            (b"\x05\x00", Ok(Some((false, 2)))),
            (b"\x04\x01\x00\x50", Err(HandshakeError::Version)),
            (b"GET / HTTP/1.1", Err(HandshakeError::Version)),
        ] {
            assert_eq!(parse_greeting(bytes), parsed, "{bytes:?}");
        }
    }

    #[test]
    fn addresses_in_any_form() {
        for (bytes, host, literal) in [
            (connect_request(1, &[127, 0, 0, 1], 443), "127.0.0.1", Some("127.0.0.1")),
            (connect_request(4, &Ipv6Addr::LOCALHOST.octets(), 443), "::1", Some("::1")),
            (domain_request("example.com"), "example.com", None),
            (domain_request("127.0.0.1"), "127.0.0.1", Some("127.0.0.1")),
            (domain_request("[::1]"), "::1", Some("::1")),
            (domain_request("::ffff:7f00:1"), "::ffff:7f00:1", Some("::ffff:127.0.0.1")),
            // The resolver turns these into addresses, which are then checked.
            (domain_request("2130706433"), "2130706433", None),
            (domain_request("0177.0.0.1"), "0177.0.0.1", None),
            (domain_request("127.1"), "127.1", None),
        ] {
            let target =
                Target { host: host.to_owned(), literal: literal.map(|l| l.parse().unwrap()), port: 443 };
            assert_eq!(parse_request(&bytes), Ok(Some((target.clone(), bytes.len()))));
            let longer = [&bytes[..], b"more"].concat();
            assert_eq!(
                parse_request(&longer),
                Ok(Some((target, bytes.len()))),
                "bytes after the request are left"
            );
            for cut in 0..bytes.len() {
                assert_eq!(parse_request(&bytes[..cut]), Ok(None), "{host} cut to {cut}");
            }
        }
    }

    #[test]
    fn other_protocols_and_commands_are_rejected() {
        for (bytes, error) in [
            (&b"\x04\x01\x00\x50"[..], HandshakeError::Version),
            (b"\x05\x02\x00\x01", HandshakeError::Request(Reply::CommandNotSupported)),
            (b"\x05\x03\x00\x03", HandshakeError::Request(Reply::CommandNotSupported)),
            (b"\x05\x01\x00\x02", HandshakeError::Request(Reply::AddressTypeNotSupported)),
            (b"\x05\x01\x00\x03\x00\x00\x50", HandshakeError::Request(Reply::GeneralFailure)),
            (b"\x05\x01\x00\x03\x02a\n\x00\x50", HandshakeError::Request(Reply::GeneralFailure)),
            (b"\x05\x01\x00\x03\x02\xc3\xa4\x00\x50", HandshakeError::Request(Reply::GeneralFailure)),
            (b"\x05\x01\x00\x03\x03a\x00b\x00\x50", HandshakeError::Request(Reply::GeneralFailure)),
        ] {
            assert_eq!(parse_request(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn the_longest_handshake_fits() {
        let longest = 2 + 255 + domain_request(&"a".repeat(255)).len();
        assert_eq!(longest, MAX_HANDSHAKE_BYTES);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for kind in [&[][..], &[5, 1, 0, 1], &[5, 1, 0, 3], &[5, 1, 0, 4]] {
                let bytes = [kind, &bytes].concat();
                let greeting = parse_greeting(&bytes).ok().flatten().map(|(_, length)| length);
                let request = parse_request(&bytes).ok().flatten().map(|(_, length)| length);
                for length in [greeting, request] {
                    prop_assert!(length.is_none_or(|l| l <= bytes.len() && l <= MAX_HANDSHAKE_BYTES));
                }
            }
        }
    }
}
