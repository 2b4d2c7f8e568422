//! The addresses of this machine: what a request names must not lead there.

use std::collections::HashSet;
use std::net::IpAddr;

use pagecast_core::spec::local_addresses;

/// As the kernel lists them now; none where they cannot be read.
pub(crate) fn read() -> HashSet<IpAddr> {
    local_addresses(|path| std::fs::read_to_string(path).unwrap_or_default())
}
