//! `[fleet]`: the machines that are one service.

use std::net::SocketAddr;
use std::time::Duration;

use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};

use crate::app::StorageLocation;

/// The fleet: machines with one database that are one service. Without `database`, this machine is alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    /// URL of the PostgreSQL database that all nodes use, version 14 or newer, like
    /// `postgres://USER:PASSWORD@HOST/NAME`. The connection is encrypted, unless the database is on this
    /// machine or the URL ends with `?sslmode=disable`. Without it, the service uses a database in its data
    /// folder, and is alone.
    pub database: Option<Secret>,
    /// URL of the same database without the pooler (such as PgBouncer) that `database` leads to, for the one
    /// connection that waits for notifications.
    pub direct_database: Option<Secret>,
    /// Certificates of the authorities that sign the database's certificate, in PEM, as `{ file = "…" }`.
    /// Without them, those that the system trusts are used. For the certificates of other nodes, both count.
    pub ca: Option<String>,
    /// Name of this node, 1 to 63 letters, digits and `_ - .`; no two live nodes may have the same. The
    /// default is the name of the machine.
    pub node: Option<String>,
    /// What this node does: `api` answers requests and sends callbacks, `worker` runs casts, `rooms` carries
    /// embedded rooms.
    pub roles: Vec<Role>,
    /// Labels of this node, each 1 to 63 letters, digits and `_ - .`. Casts may ask for nodes with certain
    /// labels (`placement.labels` in the REST API).
    pub labels: Vec<String>,
    /// Time after which the casts of a node that does not answer go to other nodes, in seconds, 3 to 60. It
    /// is renewed after each third of it. All nodes should have the same.
    pub lease_s: u64,
    /// Store of the fleet: a bucket, or a folder that all nodes share. Copies of what running casts record
    /// are kept there until their recordings are stored, so that another node can finish the recording of a
    /// node that is gone, and evidence and logs of casts as long as the fleet knows them. Only this fleet may
    /// use it. Without it, the recording goes on in another file.
    pub store: Option<StorageLocation>,
    /// Channel between the nodes. Without it, snapshots, evidence and rooms are only to be had from the node
    /// that has them.
    pub peer: Option<Peer>,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Answers requests and sends callbacks.
    Api,
    /// Runs casts.
    Worker,
    /// Carries embedded rooms.
    Rooms,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Api, Self::Worker, Self::Rooms];

    /// Name of the role, as in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Rooms => "rooms",
        }
    }
}

/// Channel between the nodes of a fleet, with the `tls` of the service. It is not for users, and their tokens
/// are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Address and port on which this node listens for the other nodes.
    pub listen: SocketAddr,
    /// URL at which the other nodes reach this one, like `http://10.0.0.7:8083`. The default is `listen`.
    #[serde(default)]
    pub url: Option<String>,
    /// Secret that all nodes of the fleet have, at least 32 characters. It signs the requests between them.
    pub secret: Secret,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            database: None,
            direct_database: None,
            ca: None,
            node: None,
            roles: Role::ALL.to_vec(),
            labels: Vec::new(),
            lease_s: 6,
            store: None,
            peer: None,
        }
    }
}

impl Fleet {
    /// Whether this node has a role.
    #[must_use]
    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// How long a lease lasts without being renewed.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_s)
    }
}
