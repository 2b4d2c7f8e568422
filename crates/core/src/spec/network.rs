//! Network policy: which addresses a cast may reach.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::SpecError;

/// IPv4 networks that are closed unless a rule allows them: special-purpose addresses of the IANA registry
/// (RFC 6890), multicast and reserved addresses.
const SPECIAL_PURPOSE_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    // Metadata services of Alibaba Cloud and Azure, which lie in public ranges.
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];
/// The only open part of IPv6 (global unicast), apart from [`SPECIAL_PURPOSE_V6`].
const GLOBAL_UNICAST_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Networks within [`GLOBAL_UNICAST_V6`] that are closed unless a rule allows them.
const SPECIAL_PURPOSE_V6: &[(Ipv6Addr, u8)] = &[
    // Teredo, benchmarking, ORCHID and other protocol assignments.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Addresses that a page, and the names in a request, may reach. `deny` rules are applied first, then `allow`
/// rules; of the remaining addresses, public ones are allowed and all others refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkPolicy {
    /// Rules that allow addresses that are not public.
    pub allow: Vec<NetworkRule>,
    /// Rules that deny addresses.
    pub deny: Vec<NetworkRule>,
    /// Whether pages may send UDP past the egress proxy, as WebRTC prefers to. The rules do not apply to UDP.
    pub udp: bool,
}

/// A pattern of hosts and, optionally, a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkRule {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// A network and its prefix length, in bits.
    Subnet(IpAddr, u8),
    /// A host name, in lower case.
    Name(String),
    /// All names below a domain: `example.com` for `*.example.com`.
    Subdomains(String),
}

/// Reason why an address may not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkRefusal {
    /// A rule denies the address.
    Denied,
    /// The address is not public, and no rule allows it.
    NotPublic,
}

impl NetworkPolicy {
    /// Checks whether `address` may be reached; `host` is the name or address as the page wrote it. None of
    /// this machine's `own` addresses counts as public, because services on it may trust local clients.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub fn permits(
        &self,
        own: &HashSet<IpAddr>,
        host: &str,
        address: IpAddr,
        port: u16,
    ) -> Result<(), NetworkRefusal> {
        let open = is_public(address) && !own.contains(&address.to_canonical());
        // A rule may name the IPv4 address or the IPv6 address that embeds it.
        let forms = [address, to_embedded_ipv4(address)];
        let matches = |rules: &[NetworkRule]| {
            rules.iter().any(|rule| forms.iter().any(|a| rule.matches(host, *a, port)))
        };
        if matches(&self.deny) {
            Err(NetworkRefusal::Denied)
        } else if open || matches(&self.allow) {
            Ok(())
        } else {
            Err(NetworkRefusal::NotPublic)
        }
    }
}

impl NetworkRule {
    /// Parses `HOST` or `HOST:PORT`, where `HOST` is an address, a network like `10.0.0.0/8` or `[fd00::]/8`,
    /// a name, `*.name` for all names below it, or `*`.
    ///
    /// # Errors
    /// [`SpecError::NetworkRule`].
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::NetworkRule(text.to_owned());
        // Colons in brackets, and several colons without brackets, belong to an IPv6 address.
        let bare_v6 = !text.contains('[') && text.matches(':').count() > 1;
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !bare_v6 && !port.contains(']') => {
                (host, Some(port.parse().map_err(|_| bad())?))
            }
            _ => (text, None),
        };
        let host = host.replace(['[', ']'], "").to_ascii_lowercase();
        let host = host.strip_suffix('.').filter(|h| *h != "*").unwrap_or(&host);
        let host = if host == "*" {
            Host::Any
        } else if let Some((net, bits)) = host.split_once('/') {
            let net: IpAddr = net.parse().map_err(|_| bad())?;
            let bits = bits.parse().ok().filter(|b| *b <= address_bits(net)).ok_or_else(bad)?;
            Host::Subnet(net, bits)
        } else if let Ok(address) = host.parse::<IpAddr>() {
            Host::Subnet(to_embedded_ipv4(address), address_bits(to_embedded_ipv4(address)))
        } else {
            let (name, below) = host.strip_prefix("*.").map_or((host, false), |name| (name, true));
            let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > 253 || !name.chars().all(part) {
                return Err(bad());
            }
            if below { Host::Subdomains(name.to_owned()) } else { Host::Name(name.to_owned()) }
        };
        Ok(Self { host, port })
    }

    fn matches(&self, host: &str, address: IpAddr, port: u16) -> bool {
        if self.port.is_some_and(|p| p != port) {
            return false;
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match &self.host {
            Host::Any => true,
            Host::Subnet(net, bits) => is_in_subnet(address, *net, *bits),
            Host::Name(name) => host == *name,
            Host::Subdomains(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    }
}

impl fmt::Display for NetworkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Subnet(IpAddr::V4(net), bits) => write!(f, "{net}/{bits}")?,
            Host::Subnet(IpAddr::V6(net), bits) => write!(f, "[{net}]/{bits}")?,
            Host::Name(name) => f.write_str(name)?,
            Host::Subdomains(name) => write!(f, "*.{name}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for NetworkRule {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<NetworkRule> for String {
    fn from(rule: NetworkRule) -> Self {
        rule.to_string()
    }
}

/// Whether this is a public internet address.
fn is_public(address: IpAddr) -> bool {
    let within = |nets: &[(Ipv4Addr, u8)], v4: Ipv4Addr| {
        nets.iter().any(|(n, b)| is_in_subnet(v4.into(), (*n).into(), *b))
    };
    match to_embedded_ipv4(address) {
        IpAddr::V4(v4) => !within(SPECIAL_PURPOSE_V4, v4),
        IpAddr::V6(v6) => {
            let closed = |(net, bits): &(Ipv6Addr, u8)| is_in_subnet(v6.into(), (*net).into(), *bits);
            closed(&GLOBAL_UNICAST_V6) && !SPECIAL_PURPOSE_V6.iter().any(closed)
        }
    }
}

/// The IPv4 address that an IPv6 address embeds (mapped, compatible, NAT64 of RFC 6052, 6to4 of RFC 3056), or
/// else the address itself.
fn to_embedded_ipv4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        [0, 0, 0, 0, 0, 0] if (g, h) > (0, 1) => v4(g, h),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

fn address_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_in_subnet(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    let bits_of = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    };
    let rest = 128 - u32::from(bits);
    let cut = |a: IpAddr| bits_of(a).checked_shr(rest).unwrap_or(0);
    address.is_ipv4() == net.is_ipv4() && cut(address) == cut(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_public_addresses_are_open() {
        for open in
            ["1.1.1.1", "93.184.215.14", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1"]
        {
            assert!(is_public(ip(open)), "{open}");
        }
        for closed in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "168.63.129.16",
        ] {
            assert!(!is_public(ip(closed)), "{closed}");
        }
    }

    #[test]
    fn rules_read_and_write() {
        for (text, shown) in [
            ("*", "*"),
            ("*:443", "*:443"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("127.0.0.1:8080", "127.0.0.1/32:8080"),
            ("::1", "[::1]/128"),
            ("[::1]:80", "[::1]/128:80"),
            ("[fd00::]/8", "[fd00::]/8"),
            ("[fd00::]/8:443", "[fd00::]/8:443"),
            ("fd00::/8", "[fd00::]/8"),
            ("Example.COM.", "example.com"),
            ("*.example.com:443", "*.example.com:443"),
        ] {
            let rule = NetworkRule::parse(text).unwrap();
            assert_eq!(rule.to_string(), shown);
            assert_eq!(NetworkRule::parse(shown).unwrap(), rule);
        }
        for bad in [
            "",
            ":",
            "10.0.0.0/33",
            "a b",
            "example.com:x",
            "example.com:70000",
            "1.2.3.4/",
            "/8",
            "*.",
            "http://a",
        ] {
            assert!(NetworkRule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deny_beats_allow_beats_the_default() {
        let rules = |texts: &[&str]| texts.iter().map(|t| NetworkRule::parse(t).unwrap()).collect();
        let network = NetworkPolicy {
            allow: rules(&["127.0.0.0/8:8080", "*.internal.example"]),
            deny: rules(&["127.0.0.9", "1.2.3.0/24", "evil.example", "2002::/16"]),
            udp: false,
        };
        let none = HashSet::new();
        assert_eq!(network.permits(&none, "localhost", ip("127.0.0.1"), 8080), Ok(()));
        assert_eq!(network.permits(&none, "localhost", ip("127.0.0.1"), 80), Err(NetworkRefusal::NotPublic));
        assert_eq!(network.permits(&none, "x", ip("127.0.0.9"), 8080), Err(NetworkRefusal::Denied));
        assert_eq!(network.permits(&none, "x", ip("::ffff:127.0.0.1"), 8080), Ok(()));
        assert_eq!(network.permits(&none, "A.Internal.Example.", ip("10.0.0.1"), 1), Ok(()));
        assert_eq!(
            network.permits(&none, "internal.example", ip("10.0.0.1"), 1),
            Err(NetworkRefusal::NotPublic)
        );
        assert_eq!(
            network.permits(&none, "notinternal.example", ip("10.0.0.1"), 1),
            Err(NetworkRefusal::NotPublic)
        );
        assert_eq!(network.permits(&none, "x", ip("1.2.3.4"), 443), Err(NetworkRefusal::Denied));
        assert_eq!(network.permits(&none, "evil.example", ip("1.1.1.1"), 443), Err(NetworkRefusal::Denied));
        assert_eq!(network.permits(&none, "x", ip("2002:808:808::1"), 443), Err(NetworkRefusal::Denied));
        assert_eq!(network.permits(&none, "x", ip("1.1.1.1"), 443), Ok(()));
        let own = HashSet::from([ip("1.1.1.1")]);
        let beside = |host, address| network.permits(&own, host, ip(address), 443);
        assert_eq!(beside("x", "1.1.1.1"), Err(NetworkRefusal::NotPublic));
        assert_eq!(beside("x", "::ffff:1.1.1.1"), Err(NetworkRefusal::NotPublic));
        assert_eq!(beside("a.internal.example", "1.1.1.1"), Ok(()));
        assert_eq!(beside("x", "1.1.1.2"), Ok(()));
    }
}
