//! What an operator can set: a file, `pagecast.toml`, then the environment, then flags, each before the one in front of it.
//!
//! `PAGECAST__LISTEN=0.0.0.0:8080` sets `listen`, `PAGECAST__CASTS__QUEUE_S=5` sets `queue_s` in `[casts]`: two underscores before
//! each name. Where text is wanted, the value is the text; everything else is written as in the file (`'["cn-north-1"]'`).
//! `PAGECAST_SECRET_KEY` and `PAGECAST_ADMIN_TOKEN` are short for two of them. Wherever a secret is wanted, `{ file = "…" }` or
//! `{ env = "…" }` says where it is.

mod check;
mod demo;
mod load;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod words;

use std::net::SocketAddr;
use std::path::PathBuf;

use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};

use crate::app::Application;

pub use check::Finding;
pub use demo::{DemoError, demo_application};
pub use load::{Error, Options, environment, load};
#[cfg(test)]
pub(crate) use reference::golden;

/// `pagecast.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the APIs listen.
    pub listen: SocketAddr,
    /// Certificates and key, PEM; without them the APIs speak plain HTTP.
    pub tls: Option<Tls>,
    /// Where casts, spools, evidence and the keys of the embedded defaults are kept.
    pub data: PathBuf,
    /// The administrator's token, at least 16 characters; without one there is no admin API.
    pub admin_token: Option<Secret>,
    /// Seals what is kept: 32 bytes as base64 text. Without one, a key is made once and kept in the data folder.
    pub secret_key: Option<Secret>,
    /// How casts are run.
    pub casts: Casts,
    /// The rooms of this service.
    pub rooms: Rooms,
    /// Differences between what the vendors' documents say.
    pub volcengine: Volcengine,
    /// Likewise.
    pub tencent: Tencent,
    /// Who may ask for casts.
    pub applications: Vec<Application>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// How casts are run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Casts {
    /// How long a cast waits for room on the machine before it has failed, in seconds.
    pub queue_s: u64,
    /// Casts that may wait. More are refused.
    pub queue_limit: u32,
    /// Part of the cores that casts may use, 0.1 to 16; beyond 1, more is promised than there is.
    pub cpu_share: f64,
    /// Memory that is left to others, in MiB.
    pub spare_memory_mib: u64,
    /// Disk space that is left, in MiB: while the disk of the data folder, or that of temporary files, has
    /// less, no cast is begun. The usual value is twice what the browser of one cast may write.
    pub spare_disk_mib: u64,
    /// Started by root, the service runs the browser of each cast as a user of its own, out of this range,
    /// like
    /// `[2000000000, 2000065535]`. The ids must belong to nobody else.
    pub browser_uids: Option<[u32; 2]>,
    /// Most casts at once, whatever the machine could carry.
    pub max: u32,
    /// Browsers that are kept ready.
    pub warm: usize,
    /// How long running casts may go on when the service is asked to end, in seconds; what still runs then goes on with the next start.
    pub drain_s: u64,
    /// How long storage is tried for a recording, in seconds; then it stays in its spool.
    pub storage_patience_s: u64,
    /// How long casts that ended are remembered, in hours, 72 at least.
    pub history_h: u64,
}

impl Default for Casts {
    fn default() -> Self {
        Self {
            queue_s: 60,
            queue_limit: 100,
            cpu_share: 0.9,
            spare_memory_mib: 512,
            spare_disk_mib: 2048,
            browser_uids: None,
            max: 1000,
            warm: 0,
            drain_s: 0,
            storage_patience_s: 86_400,
            history_h: 7 * 24,
        }
    }
}

/// The rooms of this service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rooms {
    /// Whether there are any.
    pub enabled: bool,
    /// Where their web server listens, which publishers and viewers reach.
    pub listen: SocketAddr,
    /// Where media come and go, one UDP port and one TCP port of the same number; port 0: any.
    pub media: SocketAddr,
    /// Where others reach `media`, if that is not where it is.
    pub addresses: Vec<SocketAddr>,
    /// Where viewers reach `listen`, if that is not where it is: `https://rooms.example.com`.
    pub public_url: Option<String>,
    /// Signs tokens, which are then needed to publish and to watch; needed beyond this machine.
    pub secret: Option<Secret>,
}

impl Default for Rooms {
    fn default() -> Self {
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            enabled: true,
            listen: here(8081),
            media: here(0),
            addresses: Vec::new(),
            public_url: None,
            secret: None,
        }
    }
}

/// What Volcengine's documents leave open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Volcengine {
    /// Whether a task that runs already is an error in version 2020-12-01 (`InvalidParameter.TaskAlreadyExists`), as an old list of
    /// errors has it, and not a success as in 2023-11-01.
    pub strict_repeat: bool,
    /// Regions that requests may be signed for; any, if empty.
    pub regions: Vec<String>,
}

/// What Tencent's documents leave open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tencent {
    /// Regions that are served; any and none, if empty.
    pub regions: Vec<String>,
    /// The least `MaxDurationLimit`, in seconds.
    pub min_duration_s: u64,
    /// Whether a video above 1920x1080 in its page ends a task (callback 804 with 2), as the documents have it.
    pub limit_video: bool,
}

impl Default for Tencent {
    fn default() -> Self {
        Self { regions: Vec::new(), min_duration_s: 1800, limit_video: true }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            data: PathBuf::from("pagecast-data"),
            admin_token: None,
            secret_key: None,
            casts: Casts::default(),
            rooms: Rooms::default(),
            volcengine: Volcengine::default(),
            tencent: Tencent::default(),
            applications: Vec::new(),
        }
    }
}
