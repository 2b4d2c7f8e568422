//! Where a target is: if there is a network that it must keep to, its name is looked up before each connection, what was found is judged,
//! and the connection is made to that.
//!
//! Not so over RTMPS: libavformat sends a server the name that it wants (SNI, RFC 6066) only if it connects by that name, and most servers
//! have no certificate for who names none. So the name is judged here and looked up once more over there. Who changes it
//! in between has a stranger sent the first words of TLS (`ClientHello`), and no more: the stranger has no certificate for the name.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal, PushProtocol, PushUrl};

use crate::local_addresses;

/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Finds the addresses of a name, best first. It may take its time.
pub type Resolver = fn(&str) -> io::Result<Vec<IpAddr>>;

/// As this machine finds them: its hosts file, its name servers.
///
/// # Errors
/// The name has none, or nobody could tell.
pub fn system_resolver(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|found| found.ip()).collect())
}

/// How to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectTo {
    /// As libavformat finds it by its name.
    ByName,
    /// To this address.
    Address(SocketAddr),
}

/// Why there is no way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("the host is unknown: no address was found for its name")]
    NotFound,
    #[error("the host's address is not public, and no rule of the network allows it")]
    NotPublic,
    #[error("a rule of the network denies the host's address")]
    Denied,
}

/// The ways to a target, at least one, in the order in which they are tried. May take as long as name servers do.
pub(super) fn connect_addresses(
    url: &PushUrl,
    network: Option<&NetworkPolicy>,
    resolve: Resolver,
) -> Result<Vec<ConnectTo>, ResolveError> {
    let Some(network) = network else { return Ok(vec![ConnectTo::ByName]) };
    let (host, port) = (url.host(), url.port());
    let found = resolve(host).map_err(|error| {
        tracing::debug!(host, %error, "no address");
        ResolveError::NotFound
    })?;
    let own = local_addresses::read();
    let (mut open, mut closed, mut seen) = (Vec::new(), None, HashSet::new());
    for address in found.into_iter().filter(|address| seen.insert(*address)) {
        match network.permits(&own, host, address, port) {
            Ok(()) => open.push(ConnectTo::Address(SocketAddr::new(address, port))),
            Err(NetworkRefusal::NotPublic) => closed = Some(ResolveError::NotPublic),
            Err(NetworkRefusal::Denied) => closed = Some(ResolveError::Denied),
        }
    }
    // By name it could be any of them.
    let by_name = url.protocol() == PushProtocol::Rtmps;
    match closed {
        Some(closed) if by_name || open.is_empty() => Err(closed),
        None if open.is_empty() => Err(ResolveError::NotFound),
        _ if by_name => Ok(vec![ConnectTo::ByName]),
        _ => {
            open.truncate(MAX_ADDRESSES);
            Ok(open)
        }
    }
}

/// What RTMP calls `tcUrl`, as libavformat makes it of an address: a server of many names tells by it which one is meant.
pub(super) fn tc_url(url: &PushUrl) -> String {
    let (host, port, path) = (url.host(), url.port(), url.path());
    let path = path.strip_prefix('/').unwrap_or(path);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("rtmp://{host}:{port}/{}", rtmp_app(path))
}

/// The application, as libavformat finds it: the first two parts, of which the second may be in the query, unless the key follows the
/// first one or has a colon.
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
        for (text, wanted) in [
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
            assert_eq!(connect_addresses(&url(text), Some(&network), found), wanted, "{text}");
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
    fn tc_url_has_the_name_that_was_written() {
        for (text, wanted) in [
            ("rtmp://a.example/live/k", "rtmp://a.example:1935/live"),
            ("rtmp://me:pw@a.example:1/live/k?s=1", "rtmp://a.example:1/live"),
            ("rtmp://[::1]/live/k", "rtmp://[::1]:1935/live"),
            ("rtmp://a.example/live/room/k", "rtmp://a.example:1935/live/room"),
            ("rtmp://a.example/live/mp4:a/b", "rtmp://a.example:1935/live"),
            ("rtmp://a.example/live/k?s=a/b", "rtmp://a.example:1935/live/k?s=a"),
            ("rtmp://a.example/live/x?slist=k", "rtmp://a.example:1935/live/x"),
            ("rtmp://a.example//live/k", "rtmp://a.example:1935//live"),
        ] {
            assert_eq!(tc_url(&url(text)), wanted);
        }
    }
}
