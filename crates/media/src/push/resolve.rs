//! Finds the addresses of a push target. If a network policy applies, the name is looked up before each
//! connection, and the connection goes to an address that the policy permits.
//!
//! RTMPS is an exception: libavformat sends the server name (SNI, RFC 6066) only if it connects by name, and
//! most servers need it to choose their certificate. So the name is checked here, and libavformat looks it up
//! once more. If it changes in between, the other server gets a TLS `ClientHello` and no more, as it has no
//! certificate for the name.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal, PushProtocol, PushUrl};
use pagecast_egress::check::check_addresses;
pub use pagecast_egress::system_resolver;

/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Looks up the addresses of a name, best first. Blocks.
pub type Resolver = fn(&str) -> io::Result<Vec<IpAddr>>;

/// What to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectTo {
    /// The name of the host, which libavformat looks up.
    ByName,
    /// An address that was checked.
    Address(SocketAddr),
}

/// Why a target has no address to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("the host is unknown: no address was found for its name")]
    NotFound,
    #[error("the host's address is not public, and no rule of the network allows it")]
    NotPublic,
    #[error("a rule of the network denies the host's address")]
    Denied,
}

impl From<NetworkRefusal> for ResolveError {
    fn from(refusal: NetworkRefusal) -> Self {
        match refusal {
            NetworkRefusal::NotPublic => Self::NotPublic,
            NetworkRefusal::Denied => Self::Denied,
        }
    }
}

/// What to connect to for a target, in the order in which it is tried; at least one. Blocks during the
/// lookup.
pub(super) fn connect_addresses(
    url: &PushUrl,
    network: Option<&NetworkPolicy>,
    resolve: Resolver,
) -> Result<Vec<ConnectTo>, ResolveError> {
    let Some(network) = network else { return Ok(vec![ConnectTo::ByName]) };
    let (host, port) = (url.host(), url.port());
    let found = resolve(host).map_err(|error| {
        tracing::debug!(host, %error, "push host lookup failed");
        ResolveError::NotFound
    })?;
    let mut seen = HashSet::new();
    let found = found.into_iter().filter(|address| seen.insert(*address));
    let checked = check_addresses(network, host, found, port);
    let refusal = checked.last_refusal().map(ResolveError::from);
    let mut permitted: Vec<_> =
        checked.permitted.into_iter().map(|ip| ConnectTo::Address(SocketAddr::new(ip, port))).collect();
    // A connection by name could go to any of the addresses, so all of them must be permitted.
    let by_name = url.protocol() == PushProtocol::Rtmps;
    match refusal {
        Some(refusal) if by_name || permitted.is_empty() => Err(refusal),
        None if permitted.is_empty() => Err(ResolveError::NotFound),
        _ if by_name => Ok(vec![ConnectTo::ByName]),
        _ => {
            permitted.truncate(MAX_ADDRESSES);
            Ok(permitted)
        }
    }
}

/// The `tcUrl` of RTMP, as libavformat builds it from a URL: a server with several names selects one by it.
pub(super) fn tc_url(url: &PushUrl) -> String {
    let (host, port, path) = (url.host(), url.port(), url.path());
    let path = path.strip_prefix('/').unwrap_or(path);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("rtmp://{host}:{port}/{}", rtmp_app(path))
}

/// The RTMP application in a path, by the rules of libavformat: the first two segments, of which the second
/// may be in the query, or only the first one if the key follows it or has a colon.
fn rtmp_app(path: &str) -> &str {
    if let Some((before, query)) = path.split_once('?')
        && query.contains("slist=")
    {
        return before;
    }
    let Some(first) = path.find('/') else { return path };
    let rest = &path[first + 1..];
    match (rest.find('/'), rest.find(':')) {
        (Some(second), colon) if colon.is_none_or(|colon| second <= colon) => &path[..first + 1 + second],
        _ => &path[..first],
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::NetworkRule;

    use super::*;

    fn url(text: &str) -> PushUrl {
        PushUrl::parse(text).unwrap()
    }

    #[test]
    fn resolved_addresses_are_checked() {
        let found: Resolver = |host| match host {
            "private" => Ok(vec!["10.0.0.1".parse().unwrap()]),
            "both" => {
                Ok(["10.0.0.1", "8.8.8.8", "2606:4700::1", "8.8.8.8"].map(|a| a.parse().unwrap()).into())
            }
            "denied" => Ok(vec!["1.1.1.1".parse().unwrap()]),
            "none" => Ok(Vec::new()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let rules = |text: &[&str]| text.iter().map(|rule| NetworkRule::parse(rule).unwrap()).collect();
        let network =
            NetworkPolicy { allow: rules(&["10.0.0.1:1936"]), deny: rules(&["1.1.1.1"]), udp: false };
        let to = |text: &str| ConnectTo::Address(text.parse().unwrap());
        for (text, expected) in [
            ("rtmp://private/live/k", Err(ResolveError::NotPublic)),
            ("rtmp://private:1936/live/k", Ok(vec![to("10.0.0.1:1936")])),
            ("rtmps://private:1936/live/k", Ok(vec![ConnectTo::ByName])),
            ("rtmp://both/live/k", Ok(vec![to("8.8.8.8:1935"), to("[2606:4700::1]:1935")])),
            ("rtmps://both/live/k", Err(ResolveError::NotPublic)),
            ("srt://both:9", Ok(vec![to("8.8.8.8:9"), to("[2606:4700::1]:9")])),
            ("srt://denied:9", Err(ResolveError::Denied)),
            ("rtmp://none/live/k", Err(ResolveError::NotFound)),
            ("rtmp://other/live/k", Err(ResolveError::NotFound)),
        ] {
            assert_eq!(connect_addresses(&url(text), Some(&network), found), expected, "{text}");
            assert_eq!(connect_addresses(&url(text), None, found), Ok(vec![ConnectTo::ByName]));
        }
        let closed = NetworkPolicy::default();
        for text in [
            "rtmp://127.0.0.1/live/k",
            "rtmp://2130706433/live/k",
            "rtmp://[::1]/live/k",
            "srt://localhost:9",
        ] {
            assert_eq!(
                connect_addresses(&url(text), Some(&closed), system_resolver),
                Err(ResolveError::NotPublic),
                "{text}"
            );
        }
    }

    #[test]
    fn tc_url_has_the_host_name_of_the_url() {
        for (text, expected) in [
            ("rtmp://a.example/live/k", "rtmp://a.example:1935/live"),
            ("rtmp://me:pw@a.example:1/live/k?s=1", "rtmp://a.example:1/live"),
            ("rtmp://[::1]/live/k", "rtmp://[::1]:1935/live"),
            ("rtmp://a.example/live/room/k", "rtmp://a.example:1935/live/room"),
            ("rtmp://a.example/live/mp4:a/b", "rtmp://a.example:1935/live"),
            ("rtmp://a.example/live/k?s=a/b", "rtmp://a.example:1935/live/k?s=a"),
            ("rtmp://a.example/live/x?slist=k", "rtmp://a.example:1935/live/x"),
            ("rtmp://a.example//live/k", "rtmp://a.example:1935//live"),
        ] {
            assert_eq!(tc_url(&url(text)), expected);
        }
    }
}
