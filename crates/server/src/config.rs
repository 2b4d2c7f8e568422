//! What an operator can set: a file, `pagecast.toml`, then the environment, then flags, each before the one
//! in front of it.
//!
//! `PAGECAST__LISTEN=0.0.0.0:8080` sets `listen`, `PAGECAST__CASTS__QUEUE_S=5` sets `queue_s` in `[casts]`:
//! two underscores before each name. Where text is wanted, the value is the text; everything else is written
//! as in the file (`'["cn-north-1"]'`). `PAGECAST_SECRET_KEY` and `PAGECAST_ADMIN_TOKEN` are short for two of
//! them. Wherever a secret is wanted, `{ file = "…" }` or `{ env = "…" }` says where it is.

mod demo;
mod load;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod toml_errors;
mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;

use pagecast_core::spec::Secret;
use pagecast_listen::Subnet;
use serde::{Deserialize, Serialize};

use crate::app::Application;

pub use demo::{DemoError, demo_application};
pub use load::{Error, Options, environment, load};
#[cfg(test)]
pub(crate) use reference::assert_golden_file;
pub use validate::Finding;

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
    /// Seals what is kept: 32 bytes as base64 text. Without one, a key is made once and kept in the data
    /// folder.
    pub secret_key: Option<Secret>,
    /// How much may come from outside.
    pub limits: Limits,
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

/// How much may come from outside. Connections are those of the APIs, and those of the rooms likewise, each
/// with as many of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once. More close those that have been without a request for longest.
    pub connections: usize,
    /// Connections at once from one address, or from one /64 network of IPv6. A quarter of all, so that no
    /// single address takes them all; more than usual SDKs keep. Addresses of this machine and of
    /// `trusted_proxies` are not limited.
    pub connections_per_address: usize,
    /// Addresses and networks of reverse proxies, like `["10.0.0.0/8"]`: all their clients come from the same
    /// address, so `connections_per_address` does not hold for it, and their header `X-Forwarded-For` says
    /// who the client is.
    pub trusted_proxies: Vec<Subnet>,
    /// Requests a second for each token of the REST API, and as many at once after a pause; more are answered
    /// with status 429. The administrator's are not counted. As many as vendors allow for each key:
    /// Volcengine 60 to 150, Tencent 20, for each action.
    pub requests_per_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let pagecast_listen::Limits {
            max_connections: connections,
            max_connections_per_address: per_address,
            ..
        } = pagecast_listen::Limits::default();
        Self {
            connections,
            connections_per_address: per_address,
            trusted_proxies: Vec::new(),
            requests_per_s: 100,
        }
    }
}

impl Limits {
    /// What holds for a listener's connections.
    #[must_use]
    pub fn listener_limits(&self) -> pagecast_listen::Limits {
        pagecast_listen::Limits {
            max_connections: self.connections,
            max_connections_per_address: self.connections_per_address,
            trusted_proxies: self.trusted_proxies.clone(),
            ..pagecast_listen::Limits::default()
        }
    }
}

/// How casts are run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Casts {
    /// How long a cast waits for room on the machine before it has failed, in seconds.
    pub queue_s: u64,
    /// Longest time that a request may ask a cast to wait for room, in seconds. The usual hour is as long as
    /// a machine that others fill usually takes to come free, and short enough that requests that nobody
    /// waits for any more do not fill the queue for a day.
    pub max_queue_s: u64,
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
    /// How long running casts may go on when the service is asked to end, in seconds; what still runs then
    /// goes on with the next start.
    pub drain_s: u64,
    /// How long storage is tried for a recording, in seconds; then it stays in its spool.
    pub storage_patience_s: u64,
    /// How long casts that ended are remembered, in hours, 72 at least.
    pub history_h: u64,
    /// Size of the database with all casts and what happened to them, in MiB. When it is larger, the casts
    /// that ended first are forgotten before their time. The usual 2048 are some 500 000 ordinary casts, and
    /// 8 applications with all that they may keep.
    pub history_mib: u64,
}

impl Casts {
    /// Longest time that a cast may wait for room, in seconds: what requests may ask for, or what those get
    /// that ask for nothing.
    #[must_use]
    pub fn max_wait_s(&self) -> u64 {
        self.max_queue_s.max(self.queue_s)
    }
}

impl Default for Casts {
    fn default() -> Self {
        Self {
            queue_s: 60,
            max_queue_s: 3600,
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
            history_mib: 2048,
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
    /// Most rooms at once. Rooms of this service's own casts are not refused for it.
    pub max_rooms: usize,
    /// Most rooms of one application. Raise it to `max_rooms` where there is only one.
    pub max_rooms_per_application: usize,
    /// Most viewers in all rooms. The default is what a gigabit carries at 2 Mbit/s each.
    pub max_viewers: usize,
    /// Most viewers in all rooms of one application. Raise it to `max_viewers` where there is only one.
    pub max_viewers_per_application: usize,
    /// Most viewers in one room.
    pub max_viewers_per_room: usize,
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
            max_rooms: 100,
            max_rooms_per_application: 50,
            max_viewers: 500,
            max_viewers_per_application: 250,
            max_viewers_per_room: 200,
        }
    }
}

/// What Volcengine's documents leave open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Volcengine {
    /// Whether a task that runs already is an error in version 2020-12-01
    /// (`InvalidParameter.TaskAlreadyExists`), as an old list of errors has it, and not a success as in
    /// 2023-11-01.
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
    /// Smallest `MaxDurationLimit` of a request, in seconds.
    pub min_duration_s: u64,
    /// Largest `MaxDurationLimit` of a request, and that of a request without one, in seconds:
    /// `min_duration_s` to 86400. The Chinese document says 36000, the international one 86400.
    pub max_duration_s: u64,
    /// Whether signatures of version 1 (`HmacSHA1`, `HmacSHA256`) are accepted beside those of version 3.
    /// They use the secret itself as their key, and SHA-1 unless told otherwise: set this to `false` if no
    /// client needs them.
    pub v1_signatures: bool,
    /// Whether a video above 1920x1080 in its page ends a task (callback 804 with 2), as the documents have
    /// it.
    pub limit_video: bool,
}

impl Default for Tencent {
    fn default() -> Self {
        Self {
            regions: Vec::new(),
            min_duration_s: 1800,
            max_duration_s: 36_000,
            v1_signatures: true,
            limit_video: true,
        }
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
            limits: Limits::default(),
            casts: Casts::default(),
            rooms: Rooms::default(),
            volcengine: Volcengine::default(),
            tencent: Tencent::default(),
            applications: Vec::new(),
        }
    }
}
