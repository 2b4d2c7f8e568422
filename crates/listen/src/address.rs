//! Addresses: whose a connection is, which proxies are trusted, and which client a proxy names.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Bits of an IPv6 address that name a network. A single host commonly has a whole /64 to choose addresses
/// from (RFC 6177), so these are counted as one.
const V6_SOURCE_PREFIX: u8 = 64;
/// Header in which a proxy names its client, the nearest one last.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Headers that a proxy adds to what it passes on.
const PROXY_HEADERS: [&str; 4] = ["forwarded", FORWARDED_FOR, "x-real-ip", "via"];

/// An address, or a network like `10.0.0.0/8` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// A text is not a [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address or a network like 10.0.0.0/8 or fd00::/8 is wanted")]
pub struct ParseSubnetError;

impl Subnet {
    /// Whether this address lies in it. An IPv4 address that is wrapped in an IPv6 one counts as what it
    /// wraps.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = u32::from(32 - self.prefix.min(32));
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or_default() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = u32::from(128 - self.prefix.min(128));
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or_default() == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, ParseSubnetError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| ParseSubnetError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParseSubnetError)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix <= most { Ok(Self { address, prefix }) } else { Err(ParseSubnetError) }
    }
}

impl TryFrom<String> for Subnet {
    type Error = ParseSubnetError;

    fn try_from(text: String) -> Result<Self, ParseSubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The address that a connection is counted for: one host, or one network of IPv6.
pub(crate) fn limit_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - V6_SOURCE_PREFIX);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The client of a request: whoever a trusted proxy names, or else the other end of the connection. The port
/// of a named one is 0.
pub(crate) fn client_address(peer: SocketAddr, headers: &HeaderMap, trusted: &[Subnet]) -> SocketAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|subnet| subnet.contains(address));
    if !is_trusted(peer.ip()) {
        return peer;
    }
    // Each proxy appends the address that it was asked from; what stands in front of those that are trusted
    // was made up by anybody.
    let named = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut client = peer;
    for text in named.into_iter().rev() {
        let Ok(address) = text.parse::<IpAddr>() else { break };
        client = SocketAddr::new(address, 0);
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// Whether a request comes from a program on this machine, and no proxy says that it passes it on for
/// somebody else.
pub(crate) fn is_local_request(peer: IpAddr, local: IpAddr, headers: &HeaderMap) -> bool {
    let here = peer.to_canonical().is_loopback() || peer.to_canonical() == local.to_canonical();
    here && !PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        for (subnet, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.3", "10.2.0.0"),
            ("10.1.2.3", "::ffff:10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "198.51.100.7", "2001:db8::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1", "::1", "::2"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
        ] {
            let net: Subnet = subnet.parse().unwrap();
            assert!(net.contains(inside.parse().unwrap()), "{inside} in {subnet}");
            assert!(!net.contains(outside.parse().unwrap()), "{outside} in {subnet}");
            assert_eq!(net.to_string().parse(), Ok(net));
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0", "proxy.example", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(bad.parse::<Subnet>(), Err(ParseSubnetError), "{bad}");
            assert!(serde_json::from_value::<Subnet>(bad.into()).is_err());
        }
    }

    #[test]
    fn hosts_are_counted_by_what_they_cannot_choose() {
        let source = |text: &str| limit_key(text.parse().unwrap()).to_string();
        assert_eq!(source("::ffff:198.51.100.7"), "198.51.100.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), source("2001:db8:1:2:ffff::"));
        assert_ne!(source("2001:db8:1:2::"), source("2001:db8:1:3::"));
    }

    #[test]
    fn only_trusted_proxies_name_clients() {
        let trusted: Vec<Subnet> = vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        for (peer, forwarded, want) in [
            ("198.51.100.7:5", &["203.0.113.9"][..], "198.51.100.7:5"),
            ("10.0.0.1:5", &[], "10.0.0.1:5"),
            ("10.0.0.1:5", &["203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1:5", &["1.2.3.4, 203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1:5", &["1.2.3.4, 203.0.113.9", "10.0.0.2"], "203.0.113.9:0"),
            ("127.0.0.1:5", &["10.0.0.2, 10.0.0.3"], "10.0.0.2:0"),
            ("127.0.0.1:5", &["2001:db8::1"], "[2001:db8::1]:0"),
            ("127.0.0.1:5", &["1.2.3.4, unknown"], "127.0.0.1:5"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let found = client_address(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found.to_string(), want, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn this_machine_is_known_by_both_ends() {
        let mut headers = HeaderMap::new();
        for (peer, local, want) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true),
            ("203.0.113.5", "203.0.113.5", true),
            ("203.0.113.6", "203.0.113.5", false),
        ] {
            let found = is_local_request(peer.parse().unwrap(), local.parse().unwrap(), &headers);
            assert_eq!(found, want, "{peer} to {local}");
        }
        headers.insert("x-forwarded-for", "203.0.113.6".parse().unwrap());
        let here = IpAddr::from([127, 0, 0, 1]);
        assert!(!is_local_request(here, here, &headers), "passed on for somebody else");
    }
}
