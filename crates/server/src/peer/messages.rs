//! What nodes say to each other, and why they may not be asked.

use pagecast_fleet::{CastId, RunningCast, WorkerId};
use serde::{Deserialize, Serialize};

/// Most casts in one request for owners.
pub(super) const MAX_OWNERS: usize = 256;

/// Status of a node, as it answers by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Whether the node can write to the fleet's database now.
    pub database: bool,
    /// Casts that run on the node.
    pub casts: Vec<RunningCast>,
}

/// Owner of a cast, as the database says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastOwner {
    /// Id of the cast.
    pub id: CastId,
    /// Worker that owns it.
    pub worker: WorkerId,
    /// Epoch of its lease.
    pub epoch: u64,
}

/// Body of a request for the owners of casts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnersRequest {
    /// Ids of [`MAX_OWNERS`] casts at most.
    pub(super) casts: Vec<CastId>,
}

/// Answer to a request for the owners of casts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OwnersResponse {
    /// Owners of those casts that have one.
    pub(super) owners: Vec<CastOwner>,
}

/// Answer to a request for a list of evidence.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EvidenceResponse {
    /// Names and sizes in bytes.
    pub(super) files: Vec<(String, u64)>,
}

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// No recent heartbeat of the node names the address of its peer channel.
    #[error("the address of node {} is not known", .0.0)]
    UnknownNode(WorkerId),
    /// The node cannot be connected to, or the connection was lost.
    #[error("node {} cannot be reached", .node.0)]
    Unreachable {
        /// The node that was asked.
        node: WorkerId,
        /// Error of the connection.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node did not answer in time.
    #[error("node {} did not answer in time", .0.0)]
    Timeout(WorkerId),
    /// The node has no database now.
    #[error("node {} has no database", .0.0)]
    NoDatabase(WorkerId),
    /// The node does not accept this node's requests: another secret, or a wrong clock.
    #[error("node {} refuses requests of this one", .0.0)]
    Refused(WorkerId),
    /// The node answered with an unexpected status.
    #[error("node {} answered with status {status}", .node.0)]
    Status {
        /// The node that was asked.
        node: WorkerId,
        /// HTTP status of the answer.
        status: u16,
    },
    /// The answer is too long, or malformed.
    #[error("node {} gave an answer that cannot be used", .0.0)]
    InvalidAnswer(WorkerId),
}
