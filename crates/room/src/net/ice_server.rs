//! Which server, and how it is reached: the addresses of RFC 7064 and RFC 7065.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use pagecast_core::spec::{IceServer, Secret};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Most addresses of a name that are tried, of each family.
const MAX_ADDRESSES_PER_FAMILY: usize = 2;
/// How long a name may take to be looked up.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest name of a host (RFC 1035).
const MAX_HOST_BYTES: usize = 255;

const DEFAULT_PORT: u16 = 3478;
const DEFAULT_TLS_PORT: u16 = 5349;

/// Why a server cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// Its address cannot be understood.
    #[error("the address of this server for ICE cannot be used: {0}")]
    InvalidUrl(&'static str),
    /// Its name has no address.
    #[error("the name of this server has no address: {0}")]
    Resolve(String),
}

/// What a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Which address it sees.
    Stun,
    /// An address of its own, over this transport.
    Turn(Transport),
}

/// What a server is spoken to over.
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
    /// Reads its address.
    ///
    /// # Errors
    /// [`ErrorBody::InvalidUrl`].
    pub(crate) fn parse(server: &IceServer) -> Result<Self, Error> {
        let bad = |why| Err(Error::InvalidUrl(why));
        let Some((scheme, rest)) = server.url.split_once(':') else { return bad("it has no scheme") };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let transport = match query.split_once('=') {
            None if query.is_empty() => None,
            Some(("transport", "udp")) => Some(Transport::Udp),
            Some(("transport", "tcp")) => Some(Transport::Tcp),
            _ => return bad("after ? only transport=udp and transport=tcp are possible"),
        };
        let kind = match (scheme, transport) {
            ("stun", None) => Kind::Stun,
            ("turn", transport) => Kind::Turn(transport.unwrap_or(Transport::Udp)),
            ("turns", None | Some(Transport::Tcp)) => Kind::Turn(Transport::Tls),
            ("turns", _) => return bad("turns: is possible over TCP only"),
            _ => return bad("it is not one like stun:host, turn:host?transport=udp or turns:host"),
        };
        let usual = if kind == Kind::Turn(Transport::Tls) { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
        let (host, port) = parse_host_port(place, usual)?;
        let (user, password) = (server.username.clone(), server.credential.clone());
        if matches!(kind, Kind::Turn(_)) && user.is_empty() {
            return bad("a TURN server wants a user and a password");
        }
        Ok(Self { kind, host, port, user, password })
    }

    /// Its addresses, IPv4 first.
    ///
    /// # Errors
    /// [`ErrorBody::Resolve`].
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        let failed = |why: &str| Error::Resolve(why.to_owned());
        let asked = timeout(LOOKUP_TIMEOUT, lookup_host((self.host.as_str(), self.port))).await;
        let found = match asked {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(failed(&error.to_string())),
            Err(_late) => return Err(failed("it took too long to look it up")),
        };
        let (v4, v6): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
        let mut all: Vec<_> = v4.into_iter().take(MAX_ADDRESSES_PER_FAMILY).collect();
        all.extend(v6.into_iter().take(MAX_ADDRESSES_PER_FAMILY));
        all.dedup();
        if all.is_empty() { Err(failed("there is none")) } else { Ok(all) }
    }
}

/// Host and port of `host:port`, `host`, `[v6]:port` or `[v6]`.
fn parse_host_port(place: &str, usual: u16) -> Result<(String, u16), Error> {
    let bad = |why| Err(Error::InvalidUrl(why));
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            if host.parse::<Ipv6Addr>().is_err() {
                return bad("what stands between [ and ] is no IPv6 address");
            }
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => place.split_once(':').map_or((place, Some("")), |(host, port)| (host, Some(port))),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.chars().all(fits) {
        return bad("it names no host");
    }
    match port {
        Some("") => Ok((host.to_owned(), usual)),
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => Ok((host.to_owned(), port)),
            _ => bad("its port is no port"),
        },
        None => bad("its port is no port"),
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
    fn addresses_are_understood() {
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
    fn others_are_refused() {
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
