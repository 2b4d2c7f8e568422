//! Statistics of casts and workers, and snapshots: the newest values only, not kept over a restart.

use std::collections::HashMap;
use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_core::connection;
use serde::{Deserialize, Serialize};

use crate::{CastId, Error, Ticket, UnixMs, WorkerId};

/// Largest snapshot that is kept, in bytes: well above a JPEG of 3840x2160 pixels.
pub const MAX_SNAPSHOT_BYTES: usize = 8 << 20;

/// Statistics of a running cast. The fleet does not keep them: a new owner starts anew.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CastStats {
    /// Time of the measurement.
    pub at_ms: UnixMs,
    /// Duration of the output so far, in milliseconds.
    pub elapsed_ms: u64,
    /// Recent rate of changed pictures, per second.
    pub fps: f64,
    /// Ticks with a changed picture.
    pub frames_captured: u64,
    /// Frames encoded.
    pub frames_encoded: u64,
    /// Ticks without a change.
    pub frames_unchanged: u64,
    /// Changes that were merged into a later tick.
    pub frames_dropped: u64,
    /// Bytes encoded.
    pub bytes: u64,
    /// Recent peak level of left and right, 0 to 1, or above if the signal clips.
    pub peak: [f32; 2],
    /// Recent CPU use of the browser and all other processes of the cast, in cores.
    pub cpu_cores: f64,
    /// Memory of the browser and all other processes of the cast, in bytes.
    pub memory_bytes: u64,
    /// Files that are waiting to be uploaded or being uploaded.
    pub upload_pending: usize,
    /// Times that the page was opened again because of a fault.
    pub reloads: u64,
    /// Recent upload error, if uploads are failing.
    pub upload_error: Option<String>,
    /// Pushes of the cast: number within the cast, and state.
    pub pushes: Vec<(u32, connection::State)>,
    /// Statistics of the room, if the cast has one.
    pub room: Option<RoomStats>,
}

/// Name of the file with the statistics of a cast that the owner with this epoch collected: one
/// [`CastStats`] as JSON per line, oldest first. It is among the cast's evidence.
#[must_use]
pub fn stats_history_name(epoch: u64) -> String {
    format!("stats-{epoch}.jsonl")
}

/// Whether a file among the evidence has this name.
#[must_use]
pub fn is_stats_history(name: &str) -> bool {
    name.starts_with("stats-") && name.ends_with(".jsonl")
}

/// Statistics of a cast's room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoomStats {
    /// State of the connection.
    pub state: connection::State,
    /// Bitrate sent, video and audio, in kbit/s.
    pub bitrate_kbps: u32,
    /// Round-trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Largest recent packet loss of a layer, 0 to 1.
    pub loss: f32,
}

/// Capacity and load of a worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Time of the measurement.
    pub at_ms: UnixMs,
    /// CPU cores available to the worker.
    pub cores: f64,
    /// CPU cores in use, by any process.
    pub cores_used: f64,
    /// Memory available to the worker, in bytes.
    pub memory_bytes: u64,
    /// Free memory, in bytes.
    pub memory_free_bytes: u64,
    /// Number of casts that the worker runs.
    pub casts: usize,
    /// Viewers in the embedded rooms of the worker's node.
    #[serde(default)]
    pub viewers: usize,
    /// Whether the worker is shutting down, or was asked to drain, and claims no more casts.
    pub draining: bool,
    /// Time since the leases of its casts were last renewed, in milliseconds: of the one that was renewed
    /// longest ago. `None` without casts.
    #[serde(default)]
    pub renewal_age_ms: Option<u64>,
    /// Time since the fleet received this status, in milliseconds by the fleet's clock. The fleet sets it.
    #[serde(skip)]
    pub heartbeat_age_ms: u64,
    /// What the worker's node is.
    #[serde(default)]
    pub node: NodeInfo,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// Version of the program.
    pub version: String,
    /// Roles: `api`, `worker`, `rooms`.
    pub roles: Vec<String>,
    /// Labels that casts may ask for.
    pub labels: Vec<String>,
    /// URL at which other nodes reach this one.
    pub peer_url: Option<String>,
    /// Random number of the process. A node that starts replaces an earlier process of the same name.
    pub instance: u64,
}

impl NodeInfo {
    /// Whether the node runs casts. A node of an earlier version, which names no roles, does.
    #[must_use]
    pub fn runs_casts(&self) -> bool {
        self.roles.is_empty() || self.roles.iter().any(|role| role == "worker")
    }

    /// Whether the node has all of these labels.
    #[must_use]
    pub fn has_labels(&self, labels: &[String]) -> bool {
        labels.iter().all(|label| self.labels.contains(label))
    }
}

/// What a worker learns from its heartbeat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeartbeatResponse {
    /// Whether the worker was asked to drain ([`Telemetry::request_drain`]).
    pub drain_requested: bool,
    /// The other workers, as from [`Telemetry::workers`].
    pub others: Vec<(WorkerId, WorkerStatus)>,
}

/// Statistics and snapshots: written by workers, read by servers.
#[async_trait]
pub trait Telemetry: Debug + Send + Sync {
    /// Returns the statistics of a cast that has an owner.
    async fn stats(&self, id: &CastId) -> Option<CastStats>;

    /// Returns the statistics of those of these casts that have an owner. It costs about as much as one
    /// [`Self::stats`].
    async fn stats_of(&self, casts: &[CastId]) -> HashMap<CastId, CastStats> {
        let mut all = HashMap::new();
        for id in casts {
            all.extend(self.stats(id).await.map(|stats| (id.clone(), stats)));
        }
        all
    }

    /// Returns the newest snapshot of a cast (JPEG) and its time.
    async fn snapshot(&self, id: &CastId) -> Option<(UnixMs, Bytes)>;

    /// Returns the workers that sent a heartbeat recently, with their status.
    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)>;

    /// Returns the workers as this process last learned of them, at most a few seconds ago, for what asks for
    /// them all the time. In a process that sends heartbeats it costs nothing.
    async fn recent_workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        self.workers().await
    }

    /// Stores the statistics of a cast. Ignored if the ticket is no longer valid.
    async fn put_stats(&self, ticket: &Ticket, stats: CastStats);

    /// Stores a snapshot of a cast (JPEG). Ignored if the ticket is no longer valid, or if the snapshot
    /// exceeds [`MAX_SNAPSHOT_BYTES`].
    async fn put_snapshot(&self, ticket: &Ticket, jpeg: Bytes);

    /// Stores the status of a worker, and returns that of the others.
    ///
    /// # Errors
    /// [`Error::Replaced`]: a later process of the same name has registered, and this one must stop.
    async fn heartbeat(&self, worker: &WorkerId, status: WorkerStatus) -> Result<HeartbeatResponse, Error>;

    /// Asks a worker to drain: to claim no more casts, and to end when its casts have ended. It learns so
    /// from its next heartbeat. Returns whether there is such a worker. The request ends with the process:
    /// [`crate::Leases::register_worker`] removes it.
    async fn request_drain(&self, worker: &WorkerId) -> Result<bool, Error>;
}
