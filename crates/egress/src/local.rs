//! The addresses of this machine.

use std::collections::HashSet;
use std::net::IpAddr;

/// Reads the addresses of all interfaces in the network namespace of this process from `/proc/net`. Empty if
/// these files cannot be read.
#[must_use]
pub fn local_addresses() -> HashSet<IpAddr> {
    pagecast_core::spec::local_addresses(|path| std::fs::read_to_string(path).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_local_address() {
        assert!(local_addresses().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
