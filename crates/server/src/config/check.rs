//! What cannot be as it is set, and what should not be: all of it at once.

use std::collections::HashMap;
use std::net::SocketAddr;

use pagecast_core::spec::{MAX_TIME_RANGE, PATIENCE_RANGE, Secret};
use url::{Host, Url};

use super::{Config, Rooms};
use crate::app::{MIN_TOKEN_LEN, check_all};
use crate::listen::check_tls;

/// Shorter secrets than this can be guessed, in characters.
const WEAK_SECRET_LEN: usize = 16;
/// Longest time that may be set where seconds are, a week; for storage, 30 days.
const MAX_WAIT_S: u64 = 7 * 86_400;
const MAX_PATIENCE_S: u64 = PATIENCE_RANGE.end().as_secs();
/// Connections of a listener. With fewer there would be none beside the 64 that are reserved; more are out of
/// reach for one process.
const CONNECTIONS: std::ops::RangeInclusive<usize> = 128..=100_000;
/// Clouds remember this long, in hours; longer than ten years is a mistake.
const HISTORY_H: std::ops::RangeInclusive<u64> = 72..=87_600;

/// Rooms and viewers; one process carries no more than some thousand.
const ROOM_PLACES: std::ops::RangeInclusive<usize> = 1..=10_000;
/// Longest time that a request may ask for, in seconds: what the description of the REST API says.
const MAX_QUEUE_S: u64 = 86_400;
/// Sizes of the database, in MiB: less than 64 is hardly a day, more than 1 TiB more than a database in one
/// file is good for.
const HISTORY_MIB: std::ops::RangeInclusive<u64> = 64..=1 << 20;

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the service cannot run like this; otherwise it can, and should not.
    pub grave: bool,
    /// What, and what to do about it.
    pub text: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn grave(&mut self, text: impl Into<String>) {
        self.0.push(Finding { grave: true, text: text.into() });
    }

    fn risky(&mut self, text: impl Into<String>) {
        self.0.push(Finding { grave: false, text: text.into() });
    }

    fn unless(&mut self, holds: bool, text: &str) {
        if !holds {
            self.grave(text);
        }
    }
}

impl Config {
    /// What cannot be and what should not be, grave things first. Files that are named are looked at.
    #[must_use]
    pub fn check(&self) -> Vec<Finding> {
        let mut found = Findings::default();
        self.check_listeners(&mut found);
        self.check_numbers(&mut found);
        self.check_rooms(&mut found);
        self.check_applications(&mut found);
        found.0.sort_by_key(|finding| !finding.grave);
        found.0
    }

    fn check_listeners(&self, found: &mut Findings) {
        if let Some(why) = self.tls.as_ref().and_then(|tls| check_tls(tls).err()) {
            found.grave(why);
        }
        let open = !self.listen.ip().is_loopback();
        // An administrator can add some while it runs.
        if open && self.applications.is_empty() && self.admin_token.is_none() {
            found.grave(
                "listen: others can reach it, and there is no application: the demo application is for this machine only; \
                 write [[applications]], set admin_token, or listen on 127.0.0.1",
            );
        }
        if open && self.tls.is_none() {
            found.risky("listen: others can reach it and nothing is encrypted: set tls, or put a proxy that has it in front");
        }
        if self.data.as_os_str().is_empty() {
            found.grave("data: a folder is needed");
        }
        if let Some(token) = &self.admin_token {
            let len = token.reveal().chars().count();
            found.unless(len >= MIN_TOKEN_LEN, "admin_token: at least 16 characters are needed");
            if is_plain(token) {
                found.risky("admin_token: it can be guessed: take one that was made by chance, as by openssl rand -hex 32");
            }
        }
        if self.rooms.enabled && clash(self.listen, self.rooms.listen) {
            found.grave("rooms.listen: it is where the APIs listen, and one of both must go elsewhere");
        }
    }

    fn check_numbers(&self, found: &mut Findings) {
        let casts = &self.casts;
        for (holds, text) in [
            ((0.1..=16.0).contains(&casts.cpu_share), "casts.cpu_share: 0.1 to 16 are possible"),
            (
                HISTORY_H.contains(&casts.history_h),
                "casts.history_h: 72 to 87600 are possible: clients may look back 72 hours",
            ),
            (casts.queue_s <= MAX_WAIT_S, "casts.queue_s: at most 604800 are possible, a week"),
            (casts.max_queue_s <= MAX_QUEUE_S, "casts.max_queue_s: at most 86400 are possible, a day"),
            (
                HISTORY_MIB.contains(&casts.history_mib),
                "casts.history_mib: 64 to 1048576 are possible, 1 TiB",
            ),
            (
                casts.queue_limit >= 1,
                "casts.queue_limit: 1 is the least: casts are queued before they are begun",
            ),
            (casts.max >= 1, "casts.max: 1 is the least"),
            (
                CONNECTIONS.contains(&self.limits.connections),
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
                casts.storage_patience_s <= MAX_PATIENCE_S,
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
            found.unless(holds, text);
        }
    }

    fn check_rooms(&self, found: &mut Findings) {
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
            found.grave(
                "rooms.secret: it is needed, because others can reach the rooms and could watch and publish",
            );
        }
        if secret.as_ref().is_some_and(|secret| secret.reveal().len() < WEAK_SECRET_LEN) {
            found.grave("rooms.secret: at least 16 characters are needed");
        }
        if open && media.ip().is_loopback() && addresses.is_empty() {
            found
                .risky("rooms.media: viewers elsewhere cannot reach 127.0.0.1: set an address that they can");
        }
        if addresses.iter().any(|address| address.ip().is_unspecified() || address.port() == 0) {
            found.grave("rooms.addresses: each must be an address and a port that viewers can reach");
        }
        let good = |url: &String| {
            Url::parse(url).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
            })
        };
        if public_url.as_ref().is_some_and(|url| !good(url)) {
            found.grave("rooms.public_url: write an address like https://rooms.example.com");
        }
        self.check_places(found);
    }

    fn check_places(&self, found: &mut Findings) {
        let rooms = &self.rooms;
        for (key, value) in [
            ("max_rooms", rooms.max_rooms),
            ("max_rooms_per_application", rooms.max_rooms_per_application),
            ("max_viewers", rooms.max_viewers),
            ("max_viewers_per_application", rooms.max_viewers_per_application),
            ("max_viewers_per_room", rooms.max_viewers_per_room),
        ] {
            if !ROOM_PLACES.contains(&value) {
                let (least, most) = (ROOM_PLACES.start(), ROOM_PLACES.end());
                found.grave(format!("rooms.{key}: {value} is not possible: {least} to {most} are"));
            }
        }
    }

    fn check_applications(&self, found: &mut Findings) {
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
                    found.grave(of(&app.name, &format!("{what}: {other} has the same")));
                }
            }
            for key in &app.keys {
                let (other, secret) = *pairs.entry(&key.id).or_insert((&app.name, &key.secret));
                if *secret != key.secret {
                    found.grave(of(&app.name, &format!("keys: {} has another secret in {other}", key.id)));
                }
                if key.secret.reveal().len() < WEAK_SECRET_LEN || is_plain(&key.secret) {
                    found.risky(of(&app.name, &format!("keys: the secret of {} can be guessed", key.id)));
                }
            }
            if let Err(wrong) = app.check() {
                found.grave(of(&app.name, &wrong.to_string()));
            }
            let admins = app.tokens.iter().any(|token| Some(token) == self.admin_token.as_ref());
            found.unless(!admins, &of(&app.name, "tokens: one is the administrator's"));
            if app.keys.iter().all(|key| key.disabled) && app.tokens.is_empty() {
                found.risky(of(&app.name, "it has neither a key nor a token: nobody can ask for its casts"));
            }
            if !app.keys.is_empty() && app.app_id.is_none() && app.sdk_app_id.is_none() {
                found.risky(of(&app.name, "its keys are of no use without an app_id or an sdk_app_id"));
            }
        }
        // What is left: a name that is another's id.
        if !found.0.iter().any(|finding| finding.grave)
            && let Err(wrong) = check_all(apps, self.admin_token.as_ref())
        {
            found.grave(format!("application {wrong}"));
        }
    }
}

/// Whether both cannot listen at the same time.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Whether a secret is made of very few different characters.
fn is_plain(secret: &Secret) -> bool {
    let mut bytes = secret.reveal().as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    bytes.len() < 6
}
