//! Decides which outgoing connections are permitted, by a
//! [`NetworkPolicy`](pagecast_core::spec::NetworkPolicy).
//!
//! The rules are in `core`; this crate supplies what they need from the system: the addresses of this machine
//! ([`local_addresses`], [`interface_addresses`]) and name lookups ([`Resolve`]). Begin with [`check`], which
//! judges hosts and addresses. [`http`] builds HTTP clients; with a [`FilteringResolver`] they connect only
//! to permitted addresses.
//!
//! Every name is looked up once and the connection goes to an address that was checked, so that a name server
//! cannot give another answer after the check.
//!
//! Deliberately absent: the SOCKS proxy of the browser (`page::egress`), and the wording of refusals, which
//! each caller chooses for its reader.

pub mod check;
pub mod http;
mod local;
mod resolver;

pub use check::CheckedAddresses;
pub use http::{FilteringResolver, ResolveError};
pub use local::{interface_addresses, local_addresses};
pub use resolver::{Resolve, SystemResolver, is_localhost_name, loopback_addresses, system_resolver};
