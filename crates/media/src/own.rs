//! What a request names must not lead to what listens on this machine.

use std::net::IpAddr;

use pagecast_core::spec::{Network, Refusal, own_addresses};

/// Whether `address`, which is known as `host`, may be connected to: this machine's own addresses are not public, whatever they are.
pub(crate) fn permits(network: &Network, host: &str, address: IpAddr, port: u16) -> Result<(), Refusal> {
    let read = |name| std::fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    network.permits_beside(&own_addresses(&read("fib_trie"), &read("if_inet6")), host, address, port)
}
