//! From names to addresses.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};

/// Finds the addresses of a name. It may take its time: it is called on threads that are there for it.
pub trait Resolve: Debug + Send + Sync {
    /// All addresses of `host`, best first.
    ///
    /// # Errors
    /// It has none, or nobody could tell.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of this machine: its hosts file, its name servers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect())
    }
}

/// The addresses of a name that means this machine (RFC 6761), whatever its name servers say. Browsers know them too, if
/// they are let.
pub(super) fn loopback_addresses(host: &str) -> Option<Vec<IpAddr>> {
    is_localhost_name(host).then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// Whether `host` is `localhost` or below it.
pub(crate) fn is_localhost_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_many_names() {
        for (host, ours) in [
            ("localhost", true),
            ("LocalHost.", true),
            ("app.localhost", true),
            ("localhost.example", false),
            ("notlocalhost", false),
            ("", false),
        ] {
            assert_eq!(loopback_addresses(host).is_some(), ours, "{host}");
        }
    }

    #[test]
    fn the_system_knows_every_spelling_of_an_address() {
        for spelling in ["2130706433", "0177.0.0.1", "127.1", "0x7f000001"] {
            assert_eq!(
                SystemResolver.resolve(spelling).unwrap(),
                [IpAddr::from(Ipv4Addr::LOCALHOST)],
                "{spelling}"
            );
        }
        assert!(SystemResolver.resolve("no-such-host.invalid").is_err());
    }
}
