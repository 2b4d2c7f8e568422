//! Addresses of connections and requests: limits per source, trusted proxies, forwarded clients, and the
//! check that a request is for this host.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// Prefix length by which IPv6 addresses are counted, in bits. A single host commonly has a whole /64 to
/// choose addresses from (RFC 6177), so such a network counts as one source.
const V6_SOURCE_PREFIX: u8 = 64;
/// Header to which each proxy appends the address of its client.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Headers that proxies add to forwarded requests.
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
#[error("expected an address or a network like 10.0.0.0/8 or fd00::/8")]
pub struct ParseSubnetError;

impl Subnet {
    /// Whether the network contains this address. An IPv4-mapped IPv6 address counts as the IPv4 address.
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
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(max);
        if prefix <= max { Ok(Self { address, prefix }) } else { Err(ParseSubnetError) }
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

/// Source that a connection counts for: an IPv4 address, or a /64 network of IPv6.
pub(crate) fn limit_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - V6_SOURCE_PREFIX);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Client of a request: the one that trusted proxies report, with port 0, or else the peer of the connection.
pub(crate) fn client_address(peer: SocketAddr, headers: &HeaderMap, trusted: &[Subnet]) -> SocketAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|subnet| subnet.contains(address));
    if !is_trusted(peer.ip()) {
        return peer;
    }
    // Each proxy appends its client, so the list is trusted from its end up to the first untrusted address.
    // Clients can forge everything before that.
    let values = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let forwarded: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut client = peer;
    for text in forwarded.into_iter().rev() {
        let Ok(address) = text.parse::<IpAddr>() else { break };
        client = SocketAddr::new(address, 0);
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// Whether a request comes from a program on this machine that is not a proxy.
pub(crate) fn is_local_request(peer: IpAddr, local: IpAddr, headers: &HeaderMap) -> bool {
    let is_local = peer.to_canonical().is_loopback() || peer.to_canonical() == local.to_canonical();
    is_local && !is_forwarded(headers)
}

/// Whether a proxy forwarded this request, by the headers that proxies usually add.
#[must_use]
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
}

/// Whether a request is for this host by a loopback name or address: its `Host`, and its `Origin` if a page's
/// script sent it. Other names may point here by DNS rebinding, and other origins are pages of other sites.
#[must_use]
pub fn is_for_localhost(headers: &HeaderMap) -> bool {
    // A header that is not text becomes an invalid URL.
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).map(|host| format!("http://{host}"));
    let mut urls = host.into_iter().chain(text(header::ORIGIN).map(str::to_owned));
    urls.all(|url| is_loopback_url(&url))
}

fn is_loopback_url(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
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
    fn ipv6_addresses_count_by_their_network() {
        let source = |text: &str| limit_key(text.parse().unwrap()).to_string();
        assert_eq!(source("::ffff:198.51.100.7"), "198.51.100.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), source("2001:db8:1:2:ffff::"));
        assert_ne!(source("2001:db8:1:2::"), source("2001:db8:1:3::"));
    }

    #[test]
    fn only_trusted_proxies_report_clients() {
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
    fn a_local_request_has_local_addresses_at_both_ends() {
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
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert!(!is_local_request(loopback, loopback, &headers), "a proxy forwarded it");
    }

    #[test]
    fn only_loopback_urls_are_local() {
        for url in ["http://localhost:1", "http://127.0.0.1", "http://[::1]:8080", "https://a.localhost"] {
            assert!(is_loopback_url(url), "{url}");
        }
        for url in
            ["null", "", "http://localhost.example", "http://192.168.1.1", "https://evil.example", "file://"]
        {
            assert!(!is_loopback_url(url), "{url}");
        }
    }

    #[test]
    fn host_and_origin_decide_whether_a_request_is_for_localhost() {
        let check = |all: &[(HeaderName, &[u8])]| {
            let mut headers = HeaderMap::new();
            for (name, value) in all {
                headers.insert(name, header::HeaderValue::from_bytes(value).unwrap());
            }
            is_for_localhost(&headers)
        };
        assert!(check(&[]));
        assert!(check(&[(header::HOST, b"localhost:8080")]));
        assert!(check(&[(header::HOST, b"[::1]"), (header::ORIGIN, b"http://127.0.0.1:3000")]));
        assert!(!check(&[(header::HOST, b"rebound.example")]));
        assert!(!check(&[(header::HOST, b"localhost"), (header::ORIGIN, b"https://evil.example")]));
        assert!(!check(&[(header::HOST, b"localhost"), (header::ORIGIN, b"null")]));
        assert!(!check(&[(header::HOST, b"localhost\xff")]));
    }
}
