//! ICE servers and their URLs (RFC 7064, RFC 7065).

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use pagecast_core::spec::{IceServer, Secret};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Most addresses of a host that are tried, of each family. Gathering waits for all of them.
const MAX_ADDRESSES_PER_FAMILY: usize = 2;
/// Longest duration of a DNS lookup: as long as gathering may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest host name, in bytes (RFC 1035).
const MAX_HOST_BYTES: usize = 255;

const DEFAULT_PORT: u16 = 3478;
const DEFAULT_TLS_PORT: u16 = 5349;

/// Why an ICE server cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// Its URL is invalid.
    #[error("the URL of the ICE server is invalid: {0}")]
    InvalidUrl(&'static str),
    /// Its host name cannot be resolved.
    #[error("the host name of the ICE server cannot be resolved: {0}")]
    Resolve(String),
}

/// Kind of an ICE server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// STUN: gives server reflexive candidates.
    Stun,
    /// TURN over this transport: gives relayed candidates.
    Turn(Transport),
}

/// Transport to a TURN server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// A TURN or STUN server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Secret,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, transport) = match self.kind {
            Kind::Stun => ("stun", ""),
            Kind::Turn(Transport::Udp) => ("turn", "?transport=udp"),
            Kind::Turn(Transport::Tcp) => ("turn", "?transport=tcp"),
            Kind::Turn(Transport::Tls) => ("turns", "?transport=tcp"),
        };
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "{scheme}:[{host}]:{port}{transport}")
        } else {
            write!(f, "{scheme}:{host}:{port}{transport}")
        }
    }
}

impl Server {
    /// Parses the URL of a server.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`].
    pub(crate) fn parse(server: &IceServer) -> Result<Self, Error> {
        let invalid = |reason| Err(Error::InvalidUrl(reason));
        let Some((scheme, rest)) = server.url.split_once(':') else { return invalid("it has no scheme") };
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let transport = match query.split_once('=') {
            None if query.is_empty() => None,
            Some(("transport", "udp")) => Some(Transport::Udp),
            Some(("transport", "tcp")) => Some(Transport::Tcp),
            _ => return invalid("after ? only transport=udp and transport=tcp are allowed"),
        };
        let kind = match (scheme, transport) {
            ("stun", None) => Kind::Stun,
            ("turn", transport) => Kind::Turn(transport.unwrap_or(Transport::Udp)),
            ("turns", None | Some(Transport::Tcp)) => Kind::Turn(Transport::Tls),
            ("turns", _) => return invalid("turns: works over TCP only"),
            _ => return invalid("use stun:host, turn:host?transport=udp or turns:host"),
        };
        let default_port = if kind == Kind::Turn(Transport::Tls) { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
        let (host, port) = parse_host_port(authority, default_port)?;
        let (user, password) = (server.username.clone(), server.credential.clone());
        if matches!(kind, Kind::Turn(_)) && user.is_empty() {
            return invalid("a TURN server needs a user and a password");
        }
        Ok(Self { kind, host, port, user, password })
    }

    /// Resolves the host into addresses, IPv4 first.
    ///
    /// # Errors
    /// [`Error::Resolve`].
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let failed = |reason: &str| Error::Resolve(reason.to_owned());
        let lookup = timeout(LOOKUP_TIMEOUT, lookup_host((self.host.as_str(), self.port))).await;
        let found = match lookup {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(failed(&error.to_string())),
            Err(_elapsed) => return Err(failed("the DNS lookup timed out")),
        };
        let (v4, v6): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
        let mut all: Vec<_> = v4.into_iter().take(MAX_ADDRESSES_PER_FAMILY).collect();
        all.extend(v6.into_iter().take(MAX_ADDRESSES_PER_FAMILY));
        all.dedup();
        if all.is_empty() { Err(failed("it has no address")) } else { Ok(all) }
    }
}

/// Host and port of `host:port`, `host`, `[v6]:port` or `[v6]`.
fn parse_host_port(authority: &str, default_port: u16) -> Result<(String, u16), Error> {
    let invalid = |reason| Err(Error::InvalidUrl(reason));
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            if host.parse::<Ipv6Addr>().is_err() {
                return invalid("the text between [ and ] is not an IPv6 address");
            }
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => authority.split_once(':').map_or((authority, Some("")), |(host, port)| (host, Some(port))),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.chars().all(is_allowed) {
        return invalid("its host is missing or has characters that no host name has");
    }
    match port {
        Some("") => Ok((host.to_owned(), default_port)),
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => Ok((host.to_owned(), port)),
            _ => invalid("its port is not a number from 1 to 65535"),
        },
        None => invalid("its port is not a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<String, Error> {
        let server =
            IceServer { url: url.to_owned(), username: "u".into(), credential: Secret::new("hunter2") };
        Server::parse(&server).map(|server| server.to_string())
    }

    #[test]
    fn valid_urls_are_parsed() {
        for (url, shown) in [
            ("stun:a.example", "stun:a.example:3478"),
            ("stun:192.0.2.1:19302", "stun:192.0.2.1:19302"),
            ("turn:a.example", "turn:a.example:3478?transport=udp"),
            ("turn:a.example:80?transport=tcp", "turn:a.example:80?transport=tcp"),
            ("turns:a.example", "turns:a.example:5349?transport=tcp"),
            ("turns:[2001:db8::1]:443?transport=tcp", "turns:[2001:db8::1]:443?transport=tcp"),
            ("turn:[::1]", "turn:[::1]:3478?transport=udp"),
        ] {
            assert_eq!(parse(url).as_deref(), Ok(shown));
        }
    }

    #[test]
    fn invalid_urls_are_refused() {
        for url in [
            "",
            "turn",
            "turn:",
            "turn::3478",
            "turn:a:b",
            "turn:a:0",
            "turn:a:70000",
            "turn:a?transport=sctp",
            "turn:a?x",
            "turns:a?transport=udp",
            "stun:a?transport=tcp",
            "http:a",
            "turn:[::1",
            "turn:[x]:1",
            "turn:[::1]1",
            "turn:a b",
            "turn:user@a",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
        let anonymous =
            IceServer { url: "turn:a".into(), username: String::new(), credential: Secret::default() };
        assert!(Server::parse(&anonymous).unwrap_err().to_string().contains("user"));
    }
}
