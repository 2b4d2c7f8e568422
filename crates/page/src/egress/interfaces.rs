//! The addresses of this machine, as the kernel lists them.

use std::collections::HashSet;
use std::net::IpAddr;

use pagecast_core::spec::local_addresses;

/// Addresses of all interfaces in our network namespace; none where they cannot be read.
pub(super) fn addresses() -> HashSet<IpAddr> {
    local_addresses(|path| std::fs::read_to_string(path).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_lists() {
        assert!(addresses().contains(&IpAddr::from([127, 0, 0, 1])), "of this machine");
    }
}
