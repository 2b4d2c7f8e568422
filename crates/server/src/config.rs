//! The operator's configuration: the file `pagecast.toml`, overridden by the environment, overridden by
//! flags.
//!
//! `PAGECAST__LISTEN=0.0.0.0:8080` sets `listen`, `PAGECAST__CASTS__QUEUE_TIMEOUT_S=5` sets `queue_timeout_s`
//! in `[casts]`: two underscores before each name. A value that the file would quote is given without quotes;
//! everything else is written as in the file (`'["cn-north-1"]'`). `PAGECAST_SECRET_KEY` and
//! `PAGECAST_ADMIN_TOKEN` are shorthands. Every secret may be given as `{ file = "…" }` or `{ env = "…" }`.

mod console;
mod demo;
mod fleet;
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

pub use console::{Console, Oidc, OidcRole};
pub use demo::{DemoError, demo_application};
pub use fleet::{Fleet, Peer, Role};
pub use load::{Error, Options, environment, load};
#[cfg(test)]
pub(crate) use reference::assert_golden_file;
pub use validate::Finding;

/// The contents of `pagecast.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port on which the APIs and the rooms listen.
    pub listen: SocketAddr,
    /// Certificate and key of `listen`. Without them, it uses plain HTTP.
    pub tls: Option<Tls>,
    /// Data folder: database, spools, recordings, evidence and generated keys.
    pub data: PathBuf,
    /// Token of the administrator, at least 16 characters. Without one, the admin API is disabled.
    pub admin_token: Option<Secret>,
    /// Key that encrypts secrets in the database: 32 bytes in base64. Without one, a key is generated once
    /// and stored in the data folder.
    pub secret_key: Option<Secret>,
    /// Limits on connections and requests.
    pub limits: Limits,
    /// Queueing, resources and retention of casts.
    pub casts: Casts,
    /// The embedded rooms.
    pub rooms: Rooms,
    /// The machines that are one service.
    pub fleet: Fleet,
    /// Signing in to the console.
    pub console: Console,
    /// Options of the Volcengine API.
    pub volcengine: Volcengine,
    /// Options of the Tencent API.
    pub tencent: Tencent,
    /// Applications that may create casts.
    pub applications: Vec<Application>,
}

/// Certificate and key of `listen`, in PEM files. They are reloaded when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// File with the certificate chain.
    pub certificate: PathBuf,
    /// File with the private key.
    pub key: PathBuf,
}

/// Limits on connections and requests. Event streams of the rooms' viewers do not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most open connections. When another one arrives, the connection that has been idle for longest is
    /// closed.
    pub connections: usize,
    /// Most open connections of one address, or of one IPv6 /64 network. The default is a quarter of all, so
    /// that no single address can take them all; it is more than the vendors' SDKs open. Addresses of this
    /// machine and of `trusted_proxies` are exempt.
    pub connections_per_address: usize,
    /// Addresses and networks of reverse proxies, like `["10.0.0.0/8"]`. They are exempt from
    /// `connections_per_address`, and their header `X-Forwarded-For` names the client.
    pub trusted_proxies: Vec<Subnet>,
    /// Requests per second and token of the REST API, and size of a burst. Further requests are answered with
    /// status 429. The administrator's requests do not count. The default is in the range of the vendors'
    /// limits for each key and action: 60 to 150 at Volcengine, 20 at Tencent.
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
    /// The limits of a listener.
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

/// Queueing, resources and retention of casts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Casts {
    /// Longest time a cast waits in the queue, in seconds. A cast that has not started by then fails.
    pub queue_timeout_s: u64,
    /// Largest `queue_timeout_s` of a REST request, in seconds. An hour is usually enough for other casts to
    /// end, and keeps requests that nobody waits for from filling the queue for a day.
    pub max_queue_timeout_s: u64,
    /// Most casts in the queue. Further requests are refused, except from applications that have less than a
    /// tenth of this number in the queue.
    pub max_queued_casts: u32,
    /// Share of the CPU cores that casts may use, 0.1 to 16. A value above 1 overcommits the machine.
    pub cpu_share: f64,
    /// Memory that casts leave to other programs, in MiB.
    pub reserved_memory_mib: u64,
    /// Free disk space below which no cast starts, in MiB: on the disk of the data folder and on that of
    /// temporary files. The default is twice what the browser of one cast may write.
    pub min_free_disk_mib: u64,
    /// First and last user id for browsers, like `[2000000000, 2000065535]`. If the service runs as root, the
    /// browser of each cast gets a user id of its own from this range. No other account may use these ids.
    pub browser_uids: Option<[u32; 2]>,
    /// Most casts that run at once, even if the machine has capacity for more.
    pub max_running: u32,
    /// Number of browsers that are kept ready for new casts.
    pub warm_browsers: usize,
    /// How long running casts may go on after the service was asked to stop, in seconds. Casts that still run
    /// then are resumed at the next start.
    pub drain_timeout_s: u64,
    /// How long a failing upload of a recording is retried, in seconds. After that, the recording stays in
    /// its spool.
    pub upload_timeout_s: u64,
    /// How long ended casts are kept, in hours, at least 72.
    pub retention_h: u64,
    /// Largest size of the database, in MiB. When it is larger, the casts that ended first are deleted before
    /// `retention_h`. The default holds some 500 000 ordinary casts, or 8 applications that use all of their
    /// `max_history_mib`.
    pub max_database_mib: u64,
}

impl Casts {
    /// Longest time a cast may wait in the queue, in seconds: the larger one of the default and of what a
    /// request may set.
    #[must_use]
    pub fn max_wait_s(&self) -> u64 {
        self.max_queue_timeout_s.max(self.queue_timeout_s)
    }
}

impl Default for Casts {
    fn default() -> Self {
        Self {
            queue_timeout_s: 60,
            max_queue_timeout_s: 3600,
            max_queued_casts: 100,
            cpu_share: 0.9,
            reserved_memory_mib: 512,
            min_free_disk_mib: 2048,
            browser_uids: None,
            max_running: 1000,
            warm_browsers: 0,
            drain_timeout_s: 0,
            upload_timeout_s: 86_400,
            retention_h: 7 * 24,
            max_database_mib: 2048,
        }
    }
}

/// The embedded rooms: a WebRTC server for publishers and viewers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rooms {
    /// Whether the embedded rooms are available.
    pub enabled: bool,
    /// Address and port of a web server for the rooms alone, with plain HTTP. Without it, the rooms are at
    /// `/rooms/` of the service's own `listen`, with its `tls`.
    pub listen: Option<SocketAddr>,
    /// Address and port for media: UDP and TCP on the same port. Port 0 chooses a free one.
    pub media_listen: SocketAddr,
    /// Addresses and ports at which clients reach `media_listen`, if they differ from it, as behind NAT.
    pub announced_addresses: Vec<SocketAddr>,
    /// URL at which viewers reach the rooms, if it is not the address on which they listen, like
    /// `https://rooms.example.com`. `/rooms/…` is appended.
    pub public_url: Option<String>,
    /// Secret that signs the tokens for publishing and watching, at least 16 characters. Required unless the
    /// rooms are only reachable from this machine. Without one, no token is needed. All nodes of a fleet must
    /// have the same.
    pub secret: Option<Secret>,
    /// Most rooms at once. The rooms of this service's own casts are never refused.
    pub max_rooms: usize,
    /// Most rooms of one application. If there is only one application, raise it to `max_rooms`.
    pub max_rooms_per_application: usize,
    /// Most viewers in all rooms. The default is what 1 Gbit/s carries at 2 Mbit/s per viewer.
    pub max_viewers: usize,
    /// Most viewers in all rooms of one application. If there is only one application, raise it to
    /// `max_viewers`.
    pub max_viewers_per_application: usize,
    /// Most viewers in one room.
    pub max_viewers_per_room: usize,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: None,
            media_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            announced_addresses: Vec::new(),
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

/// Options of the Volcengine API, where the vendor's documents differ or leave a choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Volcengine {
    /// Whether version 2020-12-01 answers a start of a running task with the error
    /// `InvalidParameter.TaskAlreadyExists`, as an old list of error codes says. Otherwise the start
    /// succeeds, as in version 2023-11-01.
    pub reject_running_task: bool,
    /// Regions for which requests may be signed. An empty list allows every region.
    pub regions: Vec<String>,
}

/// Options of the Tencent API, where the vendor's documents differ or leave a choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tencent {
    /// Regions that requests may name. An empty list allows every region, and requests without one.
    pub regions: Vec<String>,
    /// Smallest `MaxDurationLimit` of a request, in seconds.
    pub min_duration_s: u64,
    /// Largest `MaxDurationLimit` of a request and default of requests without one, in seconds,
    /// `min_duration_s` to 86400. The Chinese document says 36000, the international one 86400.
    pub max_duration_s: u64,
    /// Whether signatures of version 1 (`HmacSHA1`, `HmacSHA256`) are accepted in addition to version 3.
    /// Version 1 uses the secret itself as the key and SHA-1 by default. Set this to `false` if no client
    /// needs it.
    pub v1_signatures: bool,
    /// Whether a video above 1920x1080 in the page ends the task (callback 804 with status 2), as documented
    /// by the vendor.
    pub enforce_video_limit: bool,
}

impl Default for Tencent {
    fn default() -> Self {
        Self {
            regions: Vec::new(),
            min_duration_s: 1800,
            max_duration_s: 36_000,
            v1_signatures: true,
            enforce_video_limit: true,
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
            fleet: Fleet::default(),
            console: Console::default(),
            volcengine: Volcengine::default(),
            tencent: Tencent::default(),
            applications: Vec::new(),
        }
    }
}
