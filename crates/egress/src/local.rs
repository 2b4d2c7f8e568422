//! The addresses of this machine.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use if_addrs::Interface;

/// All addresses in the network namespace of this process that reach this machine.
///
/// The routing table knows addresses that no interface has, such as those that a cloud's load balancer
/// forwards; the interfaces are listed in case `/proc/net` cannot be read.
#[must_use]
pub fn local_addresses() -> HashSet<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let routed = routed_addresses(&read("/proc/net/fib_trie"), &read("/proc/net/if_inet6"));
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    routed.into_iter().chain(interfaces.iter().map(Interface::ip)).collect()
}

/// The addresses of the interfaces that are up, in the order of the interfaces: those at which others may
/// reach this machine.
///
/// # Errors
/// The interfaces cannot be listed.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    Ok(if_addrs::get_if_addrs()?.iter().filter(|i| i.is_oper_up()).map(Interface::ip).collect())
}

/// Parses the addresses of this machine from the text of `/proc/net/fib_trie` and `/proc/net/if_inet6`.
fn routed_addresses(fib_trie: &str, if_inet6: &str) -> Vec<IpAddr> {
    // An address is on one line, and its kind on the lines below.
    let mut address: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in fib_trie.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("|-- ") {
            address = text.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(address.map(IpAddr::V4));
        }
    }
    let first = |line: &str| u128::from_str_radix(line.split(' ').next()?, 16).ok();
    found.extend(if_inet6.lines().filter_map(first).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_local_address() {
        assert!(local_addresses().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn addresses_of_interfaces_are_local() {
        let (local, interfaces) = (local_addresses(), interface_addresses().unwrap());
        assert!(!interfaces.is_empty() && interfaces.iter().all(|ip| local.contains(ip)), "{interfaces:?}");
    }

    #[test]
    fn proc_files_are_parsed() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- \
                    8.8.4.0/24 2 0 2\n        |-- 8.8.4.0\n           /24 link UNICAST\n        |-- \
                    8.8.4.2\n           /32 host LOCAL\n        |-- 8.8.4.255\n           /32 link \
                    BROADCAST\n";
        let v6 = "20010db8000000000000000000000002 04 40 00 82     eth0\nnonsense\n";
        let expected = ["8.8.4.2", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(routed_addresses(trie, v6), expected);
    }
}
