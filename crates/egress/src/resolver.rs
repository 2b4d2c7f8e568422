//! Name lookups.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs as _};

/// Finds the addresses of a name. Blocks, so it is called on threads that may wait.
pub trait Resolve: Debug + Send + Sync {
    /// All addresses of `host`, best first.
    ///
    /// # Errors
    /// The name has no address, or the lookup failed.
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of this machine, as [`system_resolver`].
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        system_resolver(host)
    }
}

/// Looks `host` up in the hosts file and at the name servers of this machine. Blocks.
///
/// # Errors
/// The name has no address, or the lookup failed.
pub fn system_resolver(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|found| found.ip()).collect())
}

/// The addresses of a name that always means this machine (RFC 6761), regardless of name servers; `None` for
/// all other names.
#[must_use]
pub fn loopback_addresses(host: &str) -> Option<Vec<IpAddr>> {
    is_localhost_name(host).then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

/// Whether `host` is `localhost` or a name below it.
#[must_use]
pub fn is_localhost_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_names_are_recognised() {
        for (host, is_local) in [
            ("localhost", true),
            ("LocalHost.", true),
            ("app.localhost", true),
            ("localhost.example", false),
            ("notlocalhost", false),
            ("", false),
        ] {
            assert_eq!(loopback_addresses(host).is_some(), is_local, "{host}");
        }
    }

    #[test]
    fn the_system_resolver_reads_every_spelling_of_an_address() {
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
