//! STUN messages (RFC 8489): parsing, encoding, message integrity.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use md5::{Digest as _, Md5};

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 20;

const MAGIC_COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
/// Length of an HMAC-SHA1, in bytes.
const MESSAGE_INTEGRITY_LEN: usize = 20;
/// Longest reason phrase that is kept, in characters: a line of a log.
const MAX_REASON_CHARS: usize = 120;

/// Methods (RFC 8489 section 18.2, RFC 8656 section 17).
pub mod method {
    /// Asks for the reflexive address.
    pub const BINDING: u16 = 0x001;
    /// Requests an allocation.
    pub const ALLOCATE: u16 = 0x003;
    /// Extends or releases an allocation.
    pub const REFRESH: u16 = 0x004;
    /// Carries data to a peer.
    pub const SEND: u16 = 0x006;
    /// Carries data from a peer.
    pub const DATA: u16 = 0x007;
    /// Permits a peer to send.
    pub const CREATE_PERMISSION: u16 = 0x008;
    /// Binds a channel to a peer.
    pub const CHANNEL_BIND: u16 = 0x009;
}

/// Attributes (RFC 8489 section 18.3, RFC 8656 section 18).
pub mod attribute {
    /// User name.
    pub const USERNAME: u16 = 0x0006;
    /// HMAC of everything before it.
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    /// Code and reason of an error.
    pub const ERROR_CODE: u16 = 0x0009;
    /// Channel number.
    pub const CHANNEL_NUMBER: u16 = 0x000C;
    /// Lifetime of an allocation, in seconds.
    pub const LIFETIME: u16 = 0x000D;
    /// Address of a peer.
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    /// Data from or to a peer.
    pub const DATA: u16 = 0x0013;
    /// Authentication realm.
    pub const REALM: u16 = 0x0014;
    /// Nonce, which requests repeat.
    pub const NONCE: u16 = 0x0015;
    /// Relayed address.
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    /// Transport between server and peers.
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    /// Reflexive address.
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    /// Server that the client should use instead.
    pub const ALTERNATE_SERVER: u16 = 0x8023;
}

/// Identifier that matches a response to its request.
pub type TransactionId = [u8; 12];

/// Message class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A request, which has a response.
    Request,
    /// An indication, which has no response.
    Indication,
    /// A success response.
    Success,
    /// An error response.
    Error,
}

impl Class {
    fn bits(self) -> u16 {
        match self {
            Self::Request => 0x000,
            Self::Indication => 0x010,
            Self::Success => 0x100,
            Self::Error => 0x110,
        }
    }
}

/// The key of long-term credentials (RFC 8489 section 18.5.1.1): MD5 of user, realm and password.
#[must_use]
pub fn long_term_key(user: &str, realm: &str, password: &str) -> hmac::Key {
    let key: [u8; 16] = Md5::digest(format!("{user}:{realm}:{password}")).into();
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key)
}

/// A received message. Its attributes are known to lie within it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: u16,
    id: TransactionId,
}

impl<'a> Message<'a> {
    /// Parses one message, which must fill `bytes`.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_at_checked(HEADER_LEN)?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if kind & 0xC000 != 0 || header[4..8] != MAGIC_COOKIE || length != rest.len() {
            return None;
        }
        while !rest.is_empty() {
            rest = split_attribute(rest)?.2;
        }
        let class = match kind & 0x110 {
            0x000 => Class::Request,
            0x010 => Class::Indication,
            0x100 => Class::Success,
            _ => Class::Error,
        };
        let method = (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2;
        Some(Self { bytes, class, method, id: header[8..].try_into().ok()? })
    }

    /// Message class.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Method: one of the constants in [`method`].
    #[must_use]
    pub fn method(&self) -> u16 {
        self.method
    }

    /// Transaction identifier.
    #[must_use]
    pub fn transaction_id(&self) -> TransactionId {
        self.id
    }

    /// Attributes up to the message integrity, because later ones are not authenticated: type, value, offset.
    fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8], usize)> + use<'a> {
        let (whole, mut rest) = (self.bytes.len(), &self.bytes[HEADER_LEN..]);
        let mut ended = false;
        std::iter::from_fn(move || {
            let at = whole - rest.len();
            let (kind, value, after) = split_attribute(rest).filter(|_| !ended)?;
            rest = after;
            ended = kind == attribute::MESSAGE_INTEGRITY;
            Some((kind, value, at))
        })
    }

    /// The first attribute of a type.
    #[must_use]
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(found, ..)| *found == kind).map(|(_, value, _)| value)
    }

    /// The first attribute of a type, if it is text of at most 763 bytes (RFC 8489 section 14).
    #[must_use]
    pub fn text(&self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind)?).ok().filter(|text| text.len() <= 763)
    }

    /// The first attribute of a type, if it is a number.
    #[must_use]
    pub fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The first attribute of a type, if it is a plain address (RFC 8489 section 14.1).
    #[must_use]
    pub fn mapped_address(&self, kind: u16) -> Option<SocketAddr> {
        decode_address(self.get(kind)?, &[0; 16])
    }

    /// The first attribute of a type, if it is an XORed address (RFC 8489 section 14.2).
    #[must_use]
    pub fn xor_address(&self, kind: u16) -> Option<SocketAddr> {
        decode_address(self.get(kind)?, &xor_mask(&self.id))
    }

    /// Code and reason of an error. The reason is shortened and printable.
    #[must_use]
    pub fn error_code(&self) -> Option<(u16, String)> {
        let value = self.get(attribute::ERROR_CODE)?;
        let (head, reason) = value.split_at_checked(4)?;
        let code = u16::from(head[2] & 7) * 100 + u16::from(head[3] % 100);
        let printable = |c: &char| !c.is_control();
        let reason =
            String::from_utf8_lossy(reason).chars().filter(printable).take(MAX_REASON_CHARS).collect();
        Some((code, reason))
    }

    /// Whether the message integrity matches this key. `None` if there is no message integrity.
    #[must_use]
    pub fn verify_integrity(&self, key: &hmac::Key) -> Option<bool> {
        let (_, signature, at) =
            self.attributes().find(|(kind, ..)| *kind == attribute::MESSAGE_INTEGRITY)?;
        let expected = message_integrity(&self.bytes[..at], key);
        Some(verify_slices_are_equal(expected.as_ref(), signature).is_ok())
    }
}

/// Type and value of the first attribute, and the remaining bytes.
fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let value = rest.get(..length)?;
    Some((u16::from_be_bytes([head[0], head[1]]), value, rest.get(length.next_multiple_of(4)..)?))
}

fn xor_mask(id: &TransactionId) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE);
    mask[4..].copy_from_slice(id);
    mask
}

fn decode_address(value: &[u8], mask: &[u8; 16]) -> Option<SocketAddr> {
    let (head, ip) = value.split_at_checked(4)?;
    let port = u16::from_be_bytes([head[2] ^ mask[0], head[3] ^ mask[1]]);
    let plain = |at: usize| ip[at] ^ mask[at];
    let ip = match (head[1], ip.len()) {
        (1, 4) => IpAddr::V4(Ipv4Addr::from(std::array::from_fn::<u8, 4, _>(plain))),
        (2, 16) => IpAddr::V6(Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(plain))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The message integrity of the bytes before it. The HMAC covers a length that includes it.
fn message_integrity(before: &[u8], key: &hmac::Key) -> hmac::Tag {
    let length = (before.len() - HEADER_LEN + 4 + MESSAGE_INTEGRITY_LEN) as u16;
    let mut context = hmac::Context::with_key(key);
    context.update(&before[..2]);
    context.update(&length.to_be_bytes());
    context.update(&before[4..]);
    context.sign()
}

/// Builds a message.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    id: TransactionId,
}

impl Builder {
    /// A message without attributes.
    #[must_use]
    pub fn new(class: Class, method: u16, id: TransactionId) -> Self {
        let kind = class.bits() | (method & 0x000F) | (method & 0x0070) << 1 | (method & 0x0F80) << 2;
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE);
        bytes.extend_from_slice(&id);
        Self { bytes, id }
    }

    /// Adds an attribute. One that does not fit into the message is left out.
    #[must_use]
    pub fn with_attribute(mut self, kind: u16, value: &[u8]) -> Self {
        if self.bytes.len() + value.len() + 64 < usize::from(u16::MAX) {
            self.bytes.extend_from_slice(&kind.to_be_bytes());
            self.bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
            self.bytes.extend_from_slice(value);
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        }
        self
    }

    /// Adds an XORed address.
    #[must_use]
    pub fn with_xor_address(self, kind: u16, address: SocketAddr) -> Self {
        let mask = xor_mask(&self.id);
        let mut value = [0; 20];
        let port = address.port().to_be_bytes();
        value[2..4].copy_from_slice(&[port[0] ^ mask[0], port[1] ^ mask[1]]);
        let mut encode = |family: u8, ip: &[u8]| {
            value[1] = family;
            for (at, byte) in ip.iter().enumerate() {
                value[4 + at] = byte ^ mask[at];
            }
            4 + ip.len()
        };
        let length = match address.ip() {
            IpAddr::V4(ip) => encode(1, &ip.octets()),
            IpAddr::V6(ip) => encode(2, &ip.octets()),
        };
        self.with_attribute(kind, &value[..length])
    }

    /// The message with message integrity.
    #[must_use]
    pub fn sign(self, key: &hmac::Key) -> Vec<u8> {
        let signature = message_integrity(&self.bytes, key);
        self.with_attribute(attribute::MESSAGE_INTEGRITY, signature.as_ref()).finish()
    }

    /// The finished message.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let length = (self.bytes.len() - HEADER_LEN) as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 section 2.4, a request with long-term authentication.
    const SIGNED_REQUEST: &str = "\
        000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c\
        662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014\
        f67024656dd64a3e02b8e0712e85c9a28ca89666";

    fn from_hex(hex: &str) -> Vec<u8> {
        let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |at: usize| char::from(hex[at]).to_digit(16).unwrap() as u8;
        (0..hex.len() / 2).map(|at| digit(2 * at) << 4 | digit(2 * at + 1)).collect()
    }

    #[test]
    fn the_vector_of_the_rfc_is_parsed() {
        let bytes = from_hex(SIGNED_REQUEST);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Request, method::BINDING));
        assert_eq!(message.text(attribute::REALM), Some("example.org"));
        let key = |password: &str| {
            long_term_key(message.text(attribute::USERNAME).unwrap(), "example.org", password)
        };
        assert_eq!(message.verify_integrity(&key("TheMatrIX")), Some(true));
        assert_eq!(message.verify_integrity(&key("TheMatriX")), Some(false));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let key = long_term_key("u", "r", "p");
        for address in ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:1"] {
            let address: SocketAddr = address.parse().unwrap();
            let built = Builder::new(Class::Success, method::CHANNEL_BIND, *b"abcdefghijkl")
                .with_attribute(attribute::DATA, b"five!")
                .with_attribute(attribute::LIFETIME, &600_u32.to_be_bytes())
                .with_xor_address(attribute::XOR_PEER_ADDRESS, address)
                .sign(&key);
            let read = Message::parse(&built).unwrap();
            assert_eq!((read.class(), read.method()), (Class::Success, method::CHANNEL_BIND));
            assert_eq!(read.transaction_id(), *b"abcdefghijkl");
            assert_eq!(read.get(attribute::DATA), Some(&b"five!"[..]));
            assert_eq!(read.number(attribute::LIFETIME), Some(600));
            assert_eq!(read.xor_address(attribute::XOR_PEER_ADDRESS), Some(address));
            assert_eq!(read.verify_integrity(&key), Some(true));
            for at in 0..built.len() - 1 {
                assert!(Message::parse(&built[..at]).is_none(), "cut at {at}");
                let mut changed = built.clone();
                changed[at] ^= 1;
                let signed = Message::parse(&changed).and_then(|m| m.verify_integrity(&key));
                assert_ne!(signed, Some(true), "changed at {at}");
            }
        }
    }

    #[test]
    fn errors_are_short_and_printable() {
        let mut value = vec![0, 0, 4, 1];
        value.extend_from_slice("no\x1b[2J\u{0}way".repeat(100).as_bytes());
        let built = Builder::new(Class::Error, method::ALLOCATE, [0; 12])
            .with_attribute(attribute::ERROR_CODE, &value)
            .finish();
        let (code, reason) = Message::parse(&built).unwrap().error_code().unwrap();
        assert_eq!(code, 401);
        assert!(reason.starts_with("no[2Jwayno") && reason.chars().count() == MAX_REASON_CHARS, "{reason}");
    }

    #[test]
    fn attributes_after_the_message_integrity_are_ignored() {
        let mut built = Builder::new(Class::Success, method::REFRESH, [7; 12])
            .with_attribute(attribute::REALM, b"one")
            .sign(&long_term_key("u", "r", "p"));
        built.extend_from_slice(&[0, 0x0D, 0, 4, 0, 0, 0, 9]);
        let length = (built.len() - HEADER_LEN) as u16;
        built[2..4].copy_from_slice(&length.to_be_bytes());
        let read = Message::parse(&built).unwrap();
        assert_eq!(read.number(attribute::LIFETIME), None);
        assert_eq!(read.verify_integrity(&long_term_key("u", "r", "p")), Some(true));
    }
}
