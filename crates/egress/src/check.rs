//! Checks of hosts and addresses against a network policy.

use std::net::{IpAddr, Ipv4Addr};

use pagecast_core::spec::{NetworkPolicy, NetworkRefusal};
use url::Host;

use crate::{is_localhost_name, local_addresses};

/// Addresses of one host, split by a network policy. Both lists keep the order of the lookup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedAddresses {
    /// Addresses that may be connected to.
    pub permitted: Vec<IpAddr>,
    /// Addresses that the policy refuses, with the reason.
    pub refused: Vec<(IpAddr, NetworkRefusal)>,
}

impl CheckedAddresses {
    /// Splits `addresses` by what `permits` returns for each.
    pub fn split(
        addresses: impl IntoIterator<Item = IpAddr>,
        permits: impl Fn(IpAddr) -> Result<(), NetworkRefusal>,
    ) -> Self {
        let mut checked = Self::default();
        for address in addresses {
            match permits(address) {
                Ok(()) => checked.permitted.push(address),
                Err(refusal) => checked.refused.push((address, refusal)),
            }
        }
        checked
    }

    /// Reason of the last refused address; `None` if none was refused.
    #[must_use]
    pub fn last_refusal(&self) -> Option<NetworkRefusal> {
        self.refused.last().map(|(_, refusal)| *refusal)
    }
}

/// Checks what the name `host` resolved to.
#[must_use]
pub fn check_addresses(
    network: &NetworkPolicy,
    host: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
    port: u16,
) -> CheckedAddresses {
    let local = local_addresses();
    CheckedAddresses::split(addresses, |address| network.permits(&local, host, address, port))
}

/// Checks a host that is written as an address. HTTP clients connect to these without a lookup, so a
/// [`FilteringResolver`](crate::FilteringResolver) never sees them. Names pass.
///
/// # Errors
/// Why the policy refuses the address.
pub fn check_literal(network: &NetworkPolicy, host: &Host<&str>, port: u16) -> Result<(), NetworkRefusal> {
    let address: IpAddr = match host {
        Host::Ipv4(address) => (*address).into(),
        Host::Ipv6(address) => (*address).into(),
        Host::Domain(_) => return Ok(()),
    };
    network.permits(&local_addresses(), &address.to_string(), address, port)
}

/// Checks a host as far as that is possible without a lookup: an address, and `localhost` and the names below
/// it. All other names pass, and are checked when they are connected to.
///
/// # Errors
/// Why the policy refuses the host.
pub fn check_unresolved(network: &NetworkPolicy, host: &Host<&str>, port: u16) -> Result<(), NetworkRefusal> {
    let Host::Domain(name) = host else { return check_literal(network, host, port) };
    let name = name.trim_end_matches('.');
    if !is_localhost_name(name) {
        return Ok(());
    }
    network.permits(&local_addresses(), name, Ipv4Addr::LOCALHOST.into(), port)
}

#[cfg(test)]
mod tests {
    use pagecast_core::spec::NetworkRule;

    use super::*;

    #[test]
    fn addresses_are_split_in_order() {
        let rules = |texts: &[&str]| texts.iter().map(|text| NetworkRule::parse(text).unwrap()).collect();
        let network =
            NetworkPolicy { allow: rules(&["10.0.0.0/8:80"]), deny: rules(&["8.8.8.8"]), udp: false };
        let addresses: [IpAddr; 5] =
            ["10.0.0.1", "8.8.8.8", "1.1.1.1", "127.0.0.1", "2606:4700::1"].map(|text| text.parse().unwrap());
        let [private, denied, public, loopback, v6] = addresses;
        let checked = check_addresses(&network, "a.example", addresses, 80);
        assert_eq!(checked.permitted, [private, public, v6]);
        assert_eq!(
            checked.refused,
            [(denied, NetworkRefusal::Denied), (loopback, NetworkRefusal::NotPublic)]
        );
        assert_eq!(checked.last_refusal(), Some(NetworkRefusal::NotPublic));
        assert_eq!(check_addresses(&network, "a.example", [public], 80).last_refusal(), None);
    }

    #[test]
    fn hosts_are_checked_without_a_lookup() {
        let network = NetworkPolicy::default();
        let not_public = Err(NetworkRefusal::NotPublic);
        for (host, literal, unresolved) in [
            ("a.example", Ok(()), Ok(())),
            ("1.1.1.1", Ok(()), Ok(())),
            ("127.0.0.1", not_public, not_public),
            ("2130706433", not_public, not_public),
            ("[::1]", not_public, not_public),
            ("[::ffff:7f00:1]", not_public, not_public),
            ("localhost", Ok(()), not_public),
            ("a.localhost.", Ok(()), not_public),
        ] {
            let url = url::Url::parse(&format!("http://{host}/")).unwrap();
            let parsed = url.host().unwrap();
            assert_eq!(check_literal(&network, &parsed, 80), literal, "{host}");
            assert_eq!(check_unresolved(&network, &parsed, 80), unresolved, "{host}");
        }
    }
}
