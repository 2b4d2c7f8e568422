//! The addresses of this machine, as the kernel lists them. What listens on them may think that nobody from outside asks.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of all interfaces in our network namespace; none where they cannot be read.
pub(super) fn addresses() -> HashSet<IpAddr> {
    let read = |name| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let v4 = local_v4(&read("fib_trie")).into_iter().map(IpAddr::V4).collect::<Vec<_>>();
    let v6 = read("if_inet6");
    v4.into_iter().chain(local_v6(&v6).map(IpAddr::V6)).collect()
}

/// An address stands on one line, and what it is on those below it.
fn local_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut address: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("|-- ") {
            address = text.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(address);
        }
    }
    found
}

fn local_v6(list: &str) -> impl Iterator<Item = Ipv6Addr> {
    let first = |line: &str| u128::from_str_radix(line.split(' ').next()?, 16).ok();
    list.lines().filter_map(move |line| first(line).map(Ipv6Addr::from_bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lists() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 8.8.4.0/24 2 0 2\n        |-- 8.8.4.0\n           /24 link UNICAST\n        |-- 8.8.4.2\n           /32 host LOCAL\n        |-- 8.8.4.255\n           /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(8, 8, 4, 2)]);
        let v6 = "20010db8000000000000000000000002 04 40 00 82     eth0\nnonsense\n";
        assert_eq!(local_v6(v6).collect::<Vec<_>>(), ["2001:db8::2".parse::<Ipv6Addr>().unwrap()]);
        assert!(addresses().contains(&IpAddr::from([127, 0, 0, 1])), "of this machine");
    }
}
