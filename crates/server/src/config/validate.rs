//! What cannot be as it is set, and what should not be: all of it at once.

use std::collections::HashMap;
use std::net::SocketAddr;

use pagecast_core::spec::{MAX_TIME_RANGE, Secret, UPLOAD_TIMEOUT_RANGE};
use url::{Host, Url};

use super::{Config, Rooms};
use crate::app::{MIN_TOKEN_LEN, validate_all};
use crate::listen::check_tls;

/// Shorter secrets than this can be guessed, in characters.
const WEAK_SECRET_LEN: usize = 16;
/// Longest time that may be set where seconds are, a week; for storage, 30 days.
const MAX_WAIT_S: u64 = 7 * 86_400;
const MAX_UPLOAD_TIMEOUT_S: u64 = UPLOAD_TIMEOUT_RANGE.end().as_secs();
/// Connections of a listener. With fewer there would be none beside the 64 that are reserved; more are out of
/// reach for one process.
const CONNECTIONS_RANGE: std::ops::RangeInclusive<usize> = 128..=100_000;
/// Clouds remember this long, in hours; longer than ten years is a mistake.
const HISTORY_H_RANGE: std::ops::RangeInclusive<u64> = 72..=87_600;

/// Rooms and viewers; one process carries no more than some thousand.
const ROOM_LIMIT_RANGE: std::ops::RangeInclusive<usize> = 1..=10_000;
/// Longest time that a request may ask for, in seconds: what the description of the REST API says.
const MAX_QUEUE_S: u64 = 86_400;
/// Sizes of the database, in MiB: less than 64 is hardly a day, more than 1 TiB more than a database in one
/// file is good for.
const HISTORY_MIB_RANGE: std::ops::RangeInclusive<u64> = 64..=1 << 20;

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the service cannot run like this; otherwise it can, and should not.
    pub fatal: bool,
    /// What, and what to do about it.
    pub text: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, text: impl Into<String>) {
        self.0.push(Finding { fatal: true, text: text.into() });
    }

    fn warning(&mut self, text: impl Into<String>) {
        self.0.push(Finding { fatal: false, text: text.into() });
    }

    fn error_unless(&mut self, holds: bool, text: &str) {
        if !holds {
            self.error(text);
        }
    }
}

impl Config {
    /// What cannot be and what should not be, grave things first. Files that are named are looked at.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut found = Findings::default();
        self.validate_listeners(&mut found);
        self.validate_numbers(&mut found);
        self.validate_rooms(&mut found);
        self.validate_applications(&mut found);
        found.0.sort_by_key(|finding| !finding.fatal);
        found.0
    }

    fn validate_listeners(&self, found: &mut Findings) {
        if let Some(why) = self.tls.as_ref().and_then(|tls| check_tls(tls).err()) {
            found.error(why);
        }
        let open = !self.listen.ip().is_loopback();
        // An administrator can add some while it runs.
        if open && self.applications.is_empty() && self.admin_token.is_none() {
            found.error(
                "listen: others can reach it, and there is no application: the demo application is for this machine only; \
                 write [[applications]], set admin_token, or listen on 127.0.0.1",
            );
        }
        if open && self.tls.is_none() {
            found.warning("listen: others can reach it and nothing is encrypted: set tls, or put a proxy that has it in front");
        }
        if self.data.as_os_str().is_empty() {
            found.error("data: a folder is needed");
        }
        if let Some(token) = &self.admin_token {
            let len = token.reveal().chars().count();
            found.error_unless(len >= MIN_TOKEN_LEN, "admin_token: at least 16 characters are needed");
            if is_guessable(token) {
                found.warning("admin_token: it can be guessed: take one that was made by chance, as by openssl rand -hex 32");
            }
        }
        if self.rooms.enabled && addresses_conflict(self.listen, self.rooms.listen) {
            found.error("rooms.listen: it is where the APIs listen, and one of both must go elsewhere");
        }
    }

    fn validate_numbers(&self, found: &mut Findings) {
        let casts = &self.casts;
        for (holds, text) in [
            ((0.1..=16.0).contains(&casts.cpu_share), "casts.cpu_share: 0.1 to 16 are possible"),
            (
                HISTORY_H_RANGE.contains(&casts.history_h),
                "casts.history_h: 72 to 87600 are possible: clients may look back 72 hours",
            ),
            (casts.queue_s <= MAX_WAIT_S, "casts.queue_s: at most 604800 are possible, a week"),
            (casts.max_queue_s <= MAX_QUEUE_S, "casts.max_queue_s: at most 86400 are possible, a day"),
            (
                HISTORY_MIB_RANGE.contains(&casts.history_mib),
                "casts.history_mib: 64 to 1048576 are possible, 1 TiB",
            ),
            (
                casts.queue_limit >= 1,
                "casts.queue_limit: 1 is the least: casts are queued before they are begun",
            ),
            (casts.max >= 1, "casts.max: 1 is the least"),
            (
                CONNECTIONS_RANGE.contains(&self.limits.connections),
                "limits.connections: 128 to 100000 are possible: 64 are kept for health and for this machine's own casts",
            ),
            (
                self.limits.connections_per_address >= 1,
                "limits.connections_per_address: 1 is the least; write as many as limits.connections to have no limit",
            ),
            (self.limits.requests_per_s >= 1, "limits.requests_per_s: 1 is the least"),
            (casts.warm <= 64, "casts.warm: at most 64 browsers can be kept ready"),
            (casts.drain_s <= MAX_WAIT_S, "casts.drain_s: at most 604800 are possible, a week"),
            (
                casts.storage_patience_s <= MAX_UPLOAD_TIMEOUT_S,
                "casts.storage_patience_s: at most 2592000 are possible, 30 days",
            ),
            (
                casts.spare_memory_mib < 1 << 20,
                "casts.spare_memory_mib: less than 1048576 are possible, 1 TiB",
            ),
            (
                casts.spare_disk_mib < 1 << 30,
                "casts.spare_disk_mib: less than 1073741824 are possible, 1 PiB",
            ),
            (
                casts.browser_uids.is_none_or(|[first, last]| (1000..=last).contains(&first)),
                "casts.browser_uids: two user ids from 1000 on are wanted, the smaller one first",
            ),
            (
                self.tencent.min_duration_s <= 86_400,
                "tencent.min_duration_s: at most 86400 are possible, a day",
            ),
            (
                (self.tencent.min_duration_s..=86_400).contains(&self.tencent.max_duration_s)
                    && self.tencent.max_duration_s >= MAX_TIME_RANGE.start().as_secs(),
                "tencent.max_duration_s: at least 10 and tencent.min_duration_s, and at most 86400 are possible",
            ),
        ] {
            found.error_unless(holds, text);
        }
    }

    fn validate_rooms(&self, found: &mut Findings) {
        let Rooms { enabled, listen, media, addresses, public_url, secret, .. } = &self.rooms;
        if !enabled {
            return;
        }
        let open = !listen.ip().is_loopback();
        let elsewhere = |url: &Url| match url.host() {
            Some(Host::Domain(name)) => name != "localhost",
            Some(Host::Ipv4(ip)) => !ip.is_loopback(),
            Some(Host::Ipv6(ip)) => !ip.is_loopback(),
            None => false,
        };
        let public =
            public_url.as_ref().and_then(|url| Url::parse(url).ok()).is_some_and(|url| elsewhere(&url));
        if (open || public) && secret.is_none() {
            found.error(
                "rooms.secret: it is needed, because others can reach the rooms and could watch and publish",
            );
        }
        if secret.as_ref().is_some_and(|secret| secret.reveal().len() < WEAK_SECRET_LEN) {
            found.error("rooms.secret: at least 16 characters are needed");
        }
        if open && media.ip().is_loopback() && addresses.is_empty() {
            found.warning(
                "rooms.media: viewers elsewhere cannot reach 127.0.0.1: set an address that they can",
            );
        }
        if addresses.iter().any(|address| address.ip().is_unspecified() || address.port() == 0) {
            found.error("rooms.addresses: each must be an address and a port that viewers can reach");
        }
        let good = |url: &String| {
            Url::parse(url).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
            })
        };
        if public_url.as_ref().is_some_and(|url| !good(url)) {
            found.error("rooms.public_url: write an address like https://rooms.example.com");
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
                let (least, most) = (ROOM_LIMIT_RANGE.start(), ROOM_LIMIT_RANGE.end());
                found.error(format!("rooms.{key}: {value} is not possible: {least} to {most} are"));
            }
        }
    }

    fn validate_applications(&self, found: &mut Findings) {
        let apps = &self.applications;
        let of = |name: &str, field: &str| format!("application {name}: {field}");
        let mut ids: HashMap<(&str, String), &str> = HashMap::new();
        let mut pairs: HashMap<&str, (&str, &Secret)> = HashMap::new();
        for app in apps {
            let tokens = app.tokens.iter().map(|token| ("a token", token.reveal().to_owned()));
            let named = [
                Some(("name", app.name.clone())),
                app.app_id.clone().map(|id| ("app_id", id)),
                app.sdk_app_id.map(|id| ("sdk_app_id", id.to_string())),
            ];
            for (what, id) in named.into_iter().flatten().chain(tokens) {
                if let Some(other) = ids.insert((what, id), &app.name) {
                    found.error(of(&app.name, &format!("{what}: {other} has the same")));
                }
            }
            for key in &app.keys {
                let (other, secret) = *pairs.entry(&key.id).or_insert((&app.name, &key.secret));
                if *secret != key.secret {
                    found.error(of(&app.name, &format!("keys: {} has another secret in {other}", key.id)));
                }
                if key.secret.reveal().len() < WEAK_SECRET_LEN || is_guessable(&key.secret) {
                    found.warning(of(&app.name, &format!("keys: the secret of {} can be guessed", key.id)));
                }
            }
            if let Err(wrong) = app.validate() {
                found.error(of(&app.name, &wrong.to_string()));
            }
            let admins = app.tokens.iter().any(|token| Some(token) == self.admin_token.as_ref());
            found.error_unless(!admins, &of(&app.name, "tokens: one is the administrator's"));
            if app.keys.iter().all(|key| key.disabled) && app.tokens.is_empty() {
                found
                    .warning(of(&app.name, "it has neither a key nor a token: nobody can ask for its casts"));
            }
            if !app.keys.is_empty() && app.app_id.is_none() && app.sdk_app_id.is_none() {
                found.warning(of(&app.name, "its keys are of no use without an app_id or an sdk_app_id"));
            }
        }
        // What is left: a name that is another's id.
        if !found.0.iter().any(|finding| finding.fatal)
            && let Err(wrong) = validate_all(apps, self.admin_token.as_ref())
        {
            found.error(format!("application {wrong}"));
        }
    }
}

/// Whether both cannot listen at the same time.
fn addresses_conflict(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Whether a secret is made of very few different characters.
fn is_guessable(secret: &Secret) -> bool {
    let mut bytes = secret.reveal().as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    bytes.len() < 6
}
