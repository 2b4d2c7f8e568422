//! The channel between the nodes of a fleet: who lives and what it runs, snapshots, evidence, logs and
//! recordings of casts, and signalling of rooms.
//!
//! It has a listener of its own, never that of users ([`router`]), and each request carries a short-lived
//! token that is signed with the fleet's secret ([`token`]). [`PeerClient`] sends such requests;
//! [`RoomForwarder`] passes on users' requests to the node that carries their room. Answers are limited in
//! size and time: another node may be broken, or not a node at all.

mod client;
mod messages;
mod rooms;
mod routes;
#[cfg(test)]
mod tests;
mod token;

pub use client::{PeerClient, PeerClientConfig};
pub use messages::{CastOwner, PeerError, PeerStatus};
pub use rooms::{OccupiedRoom, OwnerCache, RoomForwarder, RoomServer, renew_rooms};
pub use routes::{Node, listener_limits, router};

/// Marks an answer that refuses a node, so that no node takes it for a room's answer to a user.
const REFUSED_HEADER: &str = "pagecast-peer-refused";
/// Time of a snapshot, in milliseconds since 1970.
const TAKEN_AT_HEADER: &str = "pagecast-taken-at-ms";
/// Size of a file of which a chunk is sent, in bytes.
const SIZE_HEADER: &str = "pagecast-file-size";
