//! Validation of a configuration: every error and every risky setting, reported at once.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use pagecast_core::spec::{MAX_TIME_RANGE, Secret, Storage, UPLOAD_TIMEOUT_RANGE, is_label};
use url::{Host, Url};

use super::{Config, Fleet, Peer, Role, Rooms};
use crate::app::{AccessKey, Application, MIN_TOKEN_LEN, find_errors, validate_location};
use crate::listen::validate_tls;
use crate::oidc::is_secure;
use crate::permission::Permission;
use crate::service::error_chain;

/// Shortest secret that cannot be guessed, in bytes.
const MIN_SECRET_LEN: usize = 16;
/// Fewest different bytes of a secret that was generated at random.
const MIN_DISTINCT_BYTES: usize = 6;
/// Largest time that may be set in seconds: a week. A longer one is probably a mistake.
const MAX_WAIT_S: u64 = 7 * 86_400;
/// Largest `casts.upload_timeout_s`, in seconds: the limit of the cast's own description, 30 days.
const MAX_UPLOAD_TIMEOUT_S: u64 = UPLOAD_TIMEOUT_RANGE.end().as_secs();
/// Allowed values of `limits.connections`. 64 of them are reserved, so fewer than 128 would hardly serve
/// anyone; one process cannot handle more than 100 000.
const CONNECTIONS_RANGE: RangeInclusive<usize> = 128..=100_000;
/// Allowed values of `casts.retention_h`. The vendors answer queries for 72 hours; more than ten years is a
/// mistake.
const RETENTION_H_RANGE: RangeInclusive<u64> = 72..=87_600;
/// Allowed numbers of rooms and viewers. One process serves no more than a few thousand.
const ROOM_LIMIT_RANGE: RangeInclusive<usize> = 1..=10_000;
/// Largest `casts.max_queue_timeout_s`, in seconds: a day, as the description of the REST API says.
const MAX_QUEUE_TIMEOUT_S: u64 = 86_400;
/// Allowed values of `casts.max_database_mib`. Less than 64 MiB holds hardly a day; 1 TiB is more than a
/// database in one file can handle.
const MAX_DATABASE_MIB_RANGE: RangeInclusive<u64> = 64..=1 << 20;
/// Most `casts.warm_browsers`. Each takes memory all the time, and a machine starts fewer casts at once.
const MAX_WARM_BROWSERS: usize = 64;
/// Largest `MaxDurationLimit` of a task, in seconds: a day, as Tencent's international document says.
const MAX_DURATION_S: u64 = 86_400;

/// Allowed values of `fleet.lease_s`. A database needs up to a second for an operation; after a minute,
/// viewers are gone.
const LEASE_S_RANGE: RangeInclusive<u64> = 3..=60;
/// Most labels of a node: more than anybody distinguishes, so that rows of nodes stay small.
const MAX_LABELS: usize = 32;
/// Longest `console.oidc.label`, in characters: it is on a button.
const MAX_LABEL_CHARS: usize = 64;
/// Most `console.oidc.roles`: more than anybody maintains by hand.
const MAX_OIDC_ROLES: usize = 1000;
/// Shortest `fleet.peer.secret`, in characters: what gives full strength to its signatures.
const MIN_FLEET_SECRET_LEN: usize = 32;

/// An error or a risk in a configuration. It is displayed as `key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the service cannot run with this setting. Otherwise it is a warning.
    pub fatal: bool,
    /// The key, like `casts.cpu_share`, or `application NAME: FIELD`.
    pub key: String,
    /// What is wrong, what is allowed, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding { fatal: true, key: key.into(), message: message.into() });
    }

    fn warning(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding { fatal: false, key: key.into(), message: message.into() });
    }

    fn error_unless(&mut self, holds: bool, key: &str, message: &str) {
        if !holds {
            self.error(key, message);
        }
    }
}

impl Config {
    /// Validates the configuration and returns all findings, errors first. It reads the certificate files.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut found = Findings::default();
        self.validate_listeners(&mut found);
        self.validate_limits(&mut found);
        self.validate_casts(&mut found);
        self.validate_vendors(&mut found);
        self.validate_rooms(&mut found);
        self.validate_fleet(&mut found);
        self.validate_console(&mut found);
        self.validate_applications(&mut found);
        found.0.sort_by_key(|finding| !finding.fatal);
        found.0
    }

    fn validate_console(&self, found: &mut Findings) {
        let Some(oidc) = &self.console.oidc else { return };
        let is_issuer = Url::parse(&oidc.issuer)
            .is_ok_and(|url| is_secure(&url) && url.query().is_none() && url.fragment().is_none());
        found.error_unless(
            is_issuer,
            "console.oidc.issuer",
            "must be a URL that begins with https://, or http:// on loopback, without a query",
        );
        found.error_unless(!oidc.client_id.is_empty(), "console.oidc.client_id", "must not be empty");
        found.error_unless(
            oidc.scopes.iter().any(|scope| scope == "openid"),
            "console.oidc.scopes",
            "must contain openid",
        );
        found.error_unless(
            (1..=MAX_LABEL_CHARS).contains(&oidc.label.chars().count()),
            "console.oidc.label",
            "must have 1 to 64 characters",
        );
        found.error_unless(
            (1..=MAX_OIDC_ROLES).contains(&oidc.roles.len()),
            "console.oidc.roles",
            "must have 1 to 1000 entries: without one, nobody can sign in",
        );
        if oidc.roles.iter().any(|role| role.value == "*" && role.role != Permission::Viewer) {
            found.warning(
                "console.oidc.roles",
                "everybody whom the provider knows may change something: name a value instead of *",
            );
        }
    }

    fn validate_listeners(&self, found: &mut Findings) {
        if let Some(error) = self.tls.as_ref().and_then(|tls| validate_tls(tls).err()) {
            found.error("tls", error_chain(&error));
        }
        let is_public = !self.listen.ip().is_loopback();
        // With an admin token, applications can be added at run time.
        if is_public && self.applications.is_empty() && self.admin_token.is_none() {
            found.error(
                "listen",
                "this address is reachable from other machines, but there is no application (the demo \
                 application \
                 is only available on loopback): add [[applications]], set admin_token, or listen on \
                 127.0.0.1",
            );
        }
        if is_public && self.tls.is_none() {
            found.warning(
                "listen",
                "this address is reachable from other machines without encryption: set tls, or use a \
                 reverse proxy \
                 with TLS",
            );
        }
        found.error_unless(!self.data.as_os_str().is_empty(), "data", "must be the path of a folder");
        if let Some(token) = &self.admin_token {
            let len = token.reveal().chars().count();
            found.error_unless(len >= MIN_TOKEN_LEN, "admin_token", "must have at least 16 characters");
            if is_guessable(token) {
                found.warning(
                    "admin_token",
                    "this token can be guessed: use a random one, for example of openssl rand -hex 32",
                );
            }
        }
        if self.rooms.enabled
            && self.rooms.listen.is_some_and(|address| addresses_conflict(self.listen, address))
        {
            found.error("rooms.listen", "must differ from listen; leave it out to serve the rooms there");
        }
    }

    fn validate_limits(&self, found: &mut Findings) {
        let limits = &self.limits;
        found.error_unless(
            CONNECTIONS_RANGE.contains(&limits.connections),
            "limits.connections",
            "must be 128 to 100000: 64 are reserved for health checks",
        );
        found.error_unless(
            limits.connections_per_address >= 1,
            "limits.connections_per_address",
            "must be at least 1; set it to limits.connections for no limit per address",
        );
        found.error_unless(limits.requests_per_s >= 1, "limits.requests_per_s", "must be at least 1");
    }

    fn validate_casts(&self, found: &mut Findings) {
        let casts = &self.casts;
        for (holds, key, message) in [
            ((0.1..=16.0).contains(&casts.cpu_share), "casts.cpu_share", "must be 0.1 to 16"),
            (
                RETENTION_H_RANGE.contains(&casts.retention_h),
                "casts.retention_h",
                "must be 72 to 87600: clients of the vendors' APIs may query a task for 72 hours",
            ),
            (casts.queue_timeout_s <= MAX_WAIT_S, "casts.queue_timeout_s", "must be at most 604800 (a week)"),
            (
                casts.max_queue_timeout_s <= MAX_QUEUE_TIMEOUT_S,
                "casts.max_queue_timeout_s",
                "must be at most 86400 (a day)",
            ),
            (
                MAX_DATABASE_MIB_RANGE.contains(&casts.max_database_mib),
                "casts.max_database_mib",
                "must be 64 to 1048576 (1 TiB)",
            ),
            (
                casts.max_queued_casts >= 1,
                "casts.max_queued_casts",
                "must be at least 1: every cast passes through the queue",
            ),
            (casts.max_running >= 1, "casts.max_running", "must be at least 1"),
            (casts.warm_browsers <= MAX_WARM_BROWSERS, "casts.warm_browsers", "must be at most 64"),
            (casts.drain_timeout_s <= MAX_WAIT_S, "casts.drain_timeout_s", "must be at most 604800 (a week)"),
            (
                casts.upload_timeout_s <= MAX_UPLOAD_TIMEOUT_S,
                "casts.upload_timeout_s",
                "must be at most 2592000 (30 days)",
            ),
            (
                casts.reserved_memory_mib < 1 << 20,
                "casts.reserved_memory_mib",
                "must be less than 1048576 (1 TiB)",
            ),
            (
                casts.min_free_disk_mib < 1 << 30,
                "casts.min_free_disk_mib",
                "must be less than 1073741824 (1 PiB)",
            ),
            (
                casts.browser_uids.is_none_or(|[first, last]| (1000..=last).contains(&first)),
                "casts.browser_uids",
                "must be the first and the last of a range of user ids from 1000 on",
            ),
        ] {
            found.error_unless(holds, key, message);
        }
    }

    fn validate_vendors(&self, found: &mut Findings) {
        let tencent = &self.tencent;
        found.error_unless(
            tencent.min_duration_s <= MAX_DURATION_S,
            "tencent.min_duration_s",
            "must be at most 86400 (a day)",
        );
        found.error_unless(
            (tencent.min_duration_s..=MAX_DURATION_S).contains(&tencent.max_duration_s)
                && tencent.max_duration_s >= MAX_TIME_RANGE.start().as_secs(),
            "tencent.max_duration_s",
            "must be at least 10 and at least tencent.min_duration_s, and at most 86400 (a day)",
        );
    }

    fn validate_rooms(&self, found: &mut Findings) {
        let Rooms { enabled, listen, media_listen, announced_addresses, public_url, secret, .. } =
            &self.rooms;
        if !enabled {
            return;
        }
        let address = listen.unwrap_or(self.listen);
        let is_public = !address.ip().is_loopback();
        let is_remote = |url: &Url| match url.host() {
            Some(Host::Domain(name)) => name != "localhost",
            Some(Host::Ipv4(ip)) => !ip.is_loopback(),
            Some(Host::Ipv6(ip)) => !ip.is_loopback(),
            None => false,
        };
        let has_remote_url =
            public_url.as_ref().and_then(|url| Url::parse(url).ok()).is_some_and(|url| is_remote(&url));
        if (is_public || has_remote_url) && secret.is_none() {
            found.error(
                "rooms.secret",
                "required, because the rooms are reachable from other machines, which could watch and \
                 publish: set it, or set rooms.enabled = false",
            );
        }
        if address.ip().is_unspecified() && public_url.is_none() {
            found.warning(
                "rooms.public_url",
                "viewers get the address of the rooms with this URL: set the one at which they reach it",
            );
        }
        if secret.as_ref().is_some_and(|secret| secret.reveal().len() < MIN_SECRET_LEN) {
            found.error("rooms.secret", "must have at least 16 characters");
        }
        if is_public && media_listen.ip().is_loopback() && announced_addresses.is_empty() {
            found.warning(
                "rooms.media_listen",
                "viewers on other machines cannot reach 127.0.0.1: set an address that they can reach",
            );
        }
        if announced_addresses.iter().any(|address| address.ip().is_unspecified() || address.port() == 0) {
            found.error(
                "rooms.announced_addresses",
                "each entry must be an address and a port that viewers can reach",
            );
        }
        let is_base_url = |url: &String| {
            Url::parse(url).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
            })
        };
        if public_url.as_ref().is_some_and(|url| !is_base_url(url)) {
            found.error("rooms.public_url", "must be a URL like https://rooms.example.com");
        }
        self.validate_room_limits(found);
    }

    fn validate_room_limits(&self, found: &mut Findings) {
        let rooms = &self.rooms;
        for (key, value) in [
            ("max_rooms", rooms.max_rooms),
            ("max_rooms_per_application", rooms.max_rooms_per_application),
            ("max_viewers", rooms.max_viewers),
            ("max_viewers_per_application", rooms.max_viewers_per_application),
            ("max_viewers_per_room", rooms.max_viewers_per_room),
        ] {
            if !ROOM_LIMIT_RANGE.contains(&value) {
                let (min, max) = (ROOM_LIMIT_RANGE.start(), ROOM_LIMIT_RANGE.end());
                found.error(
                    format!("rooms.{key}"),
                    format!("{value} is out of range: must be {min} to {max}"),
                );
            }
        }
    }

    fn validate_fleet(&self, found: &mut Findings) {
        let Fleet { database, direct_database, node, roles, labels, lease_s, store, peer, .. } = &self.fleet;
        found.error_unless(
            LEASE_S_RANGE.contains(lease_s),
            "fleet.lease_s",
            "must be 3 to 60: a shorter lease is lost whenever the database is slow",
        );
        let is_name = |name: &String| is_label(name);
        let names = "must be 1 to 63 letters, digits and _ - .";
        found.error_unless(node.as_ref().is_none_or(is_name), "fleet.node", names);
        found.error_unless(labels.iter().all(is_name), "fleet.labels", &format!("each {names}"));
        let few = labels.len() <= MAX_LABELS;
        found.error_unless(few, "fleet.labels", "must be at most 32");
        found.error_unless(!roles.is_empty(), "fleet.roles", "must name at least one of api, worker, rooms");
        if let Some(peer) = peer {
            self.validate_peer(peer, found);
        }
        if let Some(store) = store {
            let is_shareable = match &store.to {
                Storage::Bucket(_) => true,
                Storage::Folder(path) => path.is_absolute(),
                Storage::File(_) | Storage::TencentVod(_) => false,
            };
            found.error_unless(
                is_shareable,
                "fleet.store.to",
                "must be a bucket, or the absolute path of a folder that all nodes share",
            );
            if let Err(error) = validate_location("store", store) {
                found.error(format!("fleet.{}", error.field), error.reason);
            }
        }
        if database.is_none() {
            found.error_unless(
                direct_database.is_none() && peer.is_none(),
                "fleet.database",
                "required for a fleet: without it, this machine is alone and needs no other setting here",
            );
            let all = Role::ALL.iter().all(|role| roles.contains(role));
            found.error_unless(all, "fleet.roles", "a machine without fleet.database must have all roles");
            return;
        }
        found.error_unless(
            self.secret_key.is_some(),
            "secret_key",
            "required with fleet.database: all nodes need the same key, which no node can generate alone",
        );
        if peer.is_none() {
            found.warning(
                "fleet.peer",
                "snapshots, evidence and rooms of other nodes cannot be had: set fleet.peer on all nodes",
            );
        }
    }

    fn validate_peer(&self, peer: &Peer, found: &mut Findings) {
        let url = peer.url.as_ref().map(|url| Url::parse(url));
        let is_url =
            |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/";
        let reachable = match &url {
            Some(url) => url.as_ref().is_ok_and(is_url),
            None => !peer.listen.ip().is_unspecified(),
        };
        found.error_unless(
            reachable,
            "fleet.peer.url",
            "must be the URL at which the other nodes reach this one, like http://10.0.0.7:8083",
        );
        found.error_unless(
            self.tls.is_none() || !url.is_some_and(|url| url.is_ok_and(|url| url.scheme() == "http")),
            "fleet.peer.url",
            "must begin with https, because the listener for other nodes uses tls",
        );
        found.error_unless(
            peer.secret.reveal().len() >= MIN_FLEET_SECRET_LEN,
            "fleet.peer.secret",
            "must have at least 32 characters: use one of openssl rand -hex 32",
        );
        found.error_unless(
            !addresses_conflict(self.listen, peer.listen),
            "fleet.peer.listen",
            "must differ from listen: users must not reach it",
        );
        let carries_rooms = self.rooms.enabled && self.fleet.has_role(Role::Rooms);
        if carries_rooms && self.rooms.media_listen.ip().is_loopback() && !peer.listen.ip().is_loopback() {
            found.warning(
                "rooms.media_listen",
                "casts and viewers on other machines cannot reach the rooms of this node: set an address \
                 that they reach, or remove the role rooms",
            );
        }
    }

    fn validate_applications(&self, found: &mut Findings) {
        for error in find_errors(&self.applications, self.admin_token.as_ref()) {
            found.error(format!("application {}: {}", error.application, error.field), error.reason);
        }
        for Application { name, keys, tokens, settings } in &self.applications {
            let mut warning = |message: &str| found.warning(format!("application {name}: keys"), message);
            for AccessKey { id, secret, .. } in keys {
                if secret.reveal().len() < MIN_SECRET_LEN || is_guessable(secret) {
                    warning(&format!("the secret of {id} can be guessed: use a random one"));
                }
            }
            if keys.iter().all(|key| key.disabled) && tokens.is_empty() {
                warning("the application has no enabled key and no token, so it cannot be used");
            }
            if !keys.is_empty() && settings.app_id.is_none() && settings.sdk_app_id.is_none() {
                warning("keys need an app_id or an sdk_app_id to be of use");
            }
        }
    }
}

/// Whether two listeners cannot be bound at the same time.
fn addresses_conflict(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Whether a secret consists of very few different bytes.
fn is_guessable(secret: &Secret) -> bool {
    let mut bytes = secret.reveal().as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    bytes.len() < MIN_DISTINCT_BYTES
}
