//! Validation of applications: each value, and conflicts between applications.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;

use pagecast_core::CastSpec;
use pagecast_core::spec::{
    ATTEMPTS_RANGE, CPU_WEIGHT_RANGE, DISK_RANGE, Layer, MAX_TIME_RANGE, MEMORY_RANGE, Room, RoomIds,
    RoomService, RoomUrl, Secret, Size, Source, SourceUrl, Storage,
};
use pagecast_core::time::Fps;
use url::Url;

use super::{AccessKey, Application, CallbackReceiver, RoomProvider, Settings, StorageLocation};
use crate::volcengine::token::APP_ID_LEN;

/// Longest name of an application, in characters. Names are path segments and metric labels.
pub const MAX_NAME_LEN: usize = 64;
/// Most access keys of an application, and most tokens: enough for one per client and rotation.
pub const MAX_KEYS: usize = 32;
/// Shortest token, in characters. Shorter ones can be guessed.
pub const MIN_TOKEN_LEN: usize = 16;
/// Longest token and longest secret, in bytes.
pub const MAX_SECRET_LEN: usize = 256;
/// Longest URL of a callback receiver, in bytes.
pub const MAX_RECEIVER_LEN: usize = 2048;
/// Largest `extra_retry_s`, in seconds: a week, the default retention of casts.
pub const MAX_RETRY_S: u64 = 7 * 86_400;
/// Largest `max_casts`.
pub const MAX_CASTS: u32 = 100_000;
/// Largest `max_history_mib`, in MiB: 1 TiB is more than a database in one file can handle.
const MAX_HISTORY_MIB: u32 = 1 << 20;

/// An invalid value of an application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("application {application}: {field}: {reason}")]
pub struct ValidationError {
    /// Name of the application; empty if only a part of it was validated.
    pub application: String,
    /// Path of the field, like `callbacks.native.url`.
    pub field: String,
    /// What is wrong with the value, and what is allowed.
    pub reason: String,
    /// Whether the value is only invalid because another application uses it.
    pub is_duplicate: bool,
}

fn invalid<T>(field: impl Into<String>, reason: impl Into<String>) -> Result<T, ValidationError> {
    let (field, reason) = (field.into(), reason.into());
    Err(ValidationError { application: String::new(), field, reason, is_duplicate: false })
}

impl Application {
    /// Validates every value of this application by itself.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn validate(&self) -> Result<(), ValidationError> {
        validate_name(&self.name)?;
        if self.keys.len() > MAX_KEYS || self.tokens.len() > MAX_KEYS {
            return invalid("keys", "at most 32 keys and 32 tokens are allowed: remove unused ones");
        }
        let mut seen = HashSet::new();
        for (i, AccessKey { id, secret, .. }) in self.keys.iter().enumerate() {
            validate_key(&format!("keys[{i}]"), id, secret)?;
            if !seen.insert(id) {
                return invalid(format!("keys[{i}].id"), "this id occurs twice");
            }
        }
        for (i, token) in self.tokens.iter().enumerate() {
            validate_token(&format!("tokens[{i}]"), token)?;
        }
        self.settings.validate()
    }
}

impl Settings {
    fn validate(&self) -> Result<(), ValidationError> {
        let id_char = |c: u8| c.is_ascii_alphanumeric() || b"_@-.".contains(&c);
        if self
            .app_id
            .as_ref()
            .is_some_and(|text| !(1..=128).contains(&text.len()) || !text.bytes().all(id_char))
        {
            return invalid("app_id", "must be 1 to 128 letters, digits and _ @ - .");
        }
        if self.sdk_app_id.is_some_and(|id| id == 0 || id > u64::from(u32::MAX)) {
            return invalid("sdk_app_id", "must be 1 to 4294967295");
        }
        if !(1..=MAX_CASTS).contains(&self.max_casts) {
            return invalid("max_casts", "must be 1 to 100000");
        }
        if !(1..=MAX_HISTORY_MIB).contains(&self.max_history_mib) {
            return invalid("max_history_mib", "must be 1 to 1048576 MiB (1 TiB)");
        }
        for (name, receiver) in self.callbacks.receivers() {
            receiver.as_ref().map_or(Ok(()), |r| validate_receiver(&format!("callbacks.{name}"), r))?;
        }
        let secret = self.callbacks.tencent.as_ref().and_then(|receiver| receiver.secret.as_ref());
        let is_alphanumeric =
            |text: &str| text.len() <= 32 && text.bytes().all(|c| c.is_ascii_alphanumeric());
        if secret.is_some_and(|secret| !is_alphanumeric(secret.reveal())) {
            return invalid("callbacks.tencent.secret", "must be at most 32 letters and digits");
        }
        self.validate_storage()?;
        self.validate_limits()?;
        self.validate_room()
    }

    fn validate_storage(&self) -> Result<(), ValidationError> {
        let storage = &self.storage;
        for (name, url) in [
            ("cos_endpoint", &storage.cos_endpoint),
            ("s3_endpoint", &storage.s3_endpoint),
            ("vod_endpoint", &storage.vod_endpoint),
        ] {
            if url.as_ref().is_some_and(|url| !is_server_url(url)) {
                let reason = "must be a URL with scheme, host and optional port only, like https://host:9000";
                return invalid(format!("storage.{name}"), reason);
            }
        }
        if storage
            .buckets_dir
            .as_ref()
            .is_some_and(|path| path.as_os_str().is_empty() || path.to_str().is_none())
        {
            return invalid("storage.buckets_dir", "must be the path of a folder");
        }
        if let Some(keys) = &storage.vod_keys {
            validate_key("storage.vod_keys", &keys.id, &keys.secret)?;
        }
        for (name, location) in [("default", &storage.default), ("backup", &storage.backup)] {
            let Some(location) = location else { continue };
            if name == "backup" && !matches!(location.to, Storage::Bucket(_)) {
                return invalid("storage.backup.to", "must be a bucket: use s3://… or another service");
            }
            validate_location(&format!("storage.{name}"), location)?;
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), ValidationError> {
        let limits = &self.limits;
        for (name, value, low, high) in [
            (
                "max_time_s",
                limits.max_time_s,
                MAX_TIME_RANGE.start().as_secs(),
                MAX_TIME_RANGE.end().as_secs(),
            ),
            (
                "attempts",
                limits.attempts.into(),
                (*ATTEMPTS_RANGE.start()).into(),
                (*ATTEMPTS_RANGE.end()).into(),
            ),
            ("memory_mib", limits.memory_mib, MEMORY_RANGE.start() >> 20, MEMORY_RANGE.end() >> 20),
            ("disk_mib", limits.disk_mib, DISK_RANGE.start() >> 20, DISK_RANGE.end() >> 20),
            (
                "cpu_weight",
                limits.cpu_weight.into(),
                (*CPU_WEIGHT_RANGE.start()).into(),
                (*CPU_WEIGHT_RANGE.end()).into(),
            ),
        ] {
            if !(low..=high).contains(&value) {
                let reason = format!("{value} is out of range: must be {low} to {high}");
                return invalid(format!("limits.{name}"), reason);
            }
        }
        Ok(())
    }

    /// Validates room and ICE servers as part of a sample cast.
    fn validate_room(&self) -> Result<(), ValidationError> {
        let Ok(url) = SourceUrl::parse("http://localhost/") else { return Ok(()) };
        let mut spec = CastSpec::new(Source::new(url));
        if matches!(self.room, RoomProvider::Volcengine { .. })
            && self.app_id.as_ref().is_none_or(|id| id.len() != APP_ID_LEN || !id.is_ascii())
        {
            return invalid("app_id", "must have 24 characters: tokens of Volcengine RTC contain it");
        }
        let Ok(service) = self.room.service(|app_key| Ok::<_, Infallible>(app_key.clone()));
        let Ok(url) = RoomUrl::parse("http://localhost/") else { return Ok(()) };
        let service = service.unwrap_or(RoomService::Whip { url, token: None });
        let mut room = Room::new(service, sample_room_ids(), sample_layer());
        spec.room = Some(room.clone());
        spec.validate().or_else(|error| invalid("room", error.to_string()))?;
        room.ice = self.ice.to_spec();
        spec.room = Some(room);
        spec.validate().or_else(|error| invalid("ice", error.to_string()))
    }
}

fn sample_room_ids() -> RoomIds {
    let a = || "a".to_owned();
    RoomIds { app: a(), room: a(), user: a(), task: a() }
}

fn sample_layer() -> Layer {
    Layer { size: Size::HD, fps: Fps::DEFAULT, bitrate_kbps: None }
}

/// Validates the name of an application.
pub(crate) fn validate_name(name: &str) -> Result<(), ValidationError> {
    let name_char = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-".contains(&c);
    if (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(name_char) {
        return Ok(());
    }
    invalid("name", "must be 1 to 64 lower-case letters, digits, _ and -")
}

pub(crate) fn validate_key(field: &str, id: &str, secret: &Secret) -> Result<(), ValidationError> {
    let id_char = |c: u8| c.is_ascii_alphanumeric() || b"_-.".contains(&c);
    if !(1..=128).contains(&id.len()) || !id.bytes().all(id_char) {
        return invalid(format!("{field}.id"), "must be 1 to 128 letters, digits and _ - .");
    }
    if is_valid_secret(secret, 1) {
        return Ok(());
    }
    invalid(format!("{field}.secret"), "must be 1 to 256 ASCII characters without spaces")
}

pub(crate) fn validate_token(field: &str, token: &Secret) -> Result<(), ValidationError> {
    if is_valid_secret(token, MIN_TOKEN_LEN) {
        return Ok(());
    }
    invalid(field, "must be 16 to 256 ASCII characters without spaces")
}

fn is_valid_secret(secret: &Secret, min_len: usize) -> bool {
    let text = secret.reveal();
    (min_len..=MAX_SECRET_LEN).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

/// Validates a receiver of callbacks.
pub(crate) fn validate_receiver(field: &str, receiver: &CallbackReceiver) -> Result<(), ValidationError> {
    let url = &receiver.url;
    let invalid_url = |reason: &str| invalid(format!("{field}.url"), reason);
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return invalid_url("must be an http or https URL like https://host/path");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return invalid_url("must not contain a user, a password or a fragment (#…)");
    }
    if url.as_str().len() > MAX_RECEIVER_LEN {
        return invalid_url("must be at most 2048 bytes long");
    }
    let has_valid_len = |secret: &Secret| (1..=MAX_SECRET_LEN).contains(&secret.reveal().len());
    if receiver.secret.as_ref().is_some_and(|secret| !has_valid_len(secret)) {
        return invalid(format!("{field}.secret"), "must be 1 to 256 bytes");
    }
    if receiver.extra_retry_s > MAX_RETRY_S {
        return invalid(format!("{field}.extra_retry_s"), "must be at most 604800 s (a week)");
    }
    Ok(())
}

/// Validates the keys of a storage. Its address was validated when it was parsed.
pub(crate) fn validate_location(field: &str, location: &StorageLocation) -> Result<(), ValidationError> {
    let invalid_keys = |reason: String| invalid(format!("{field}.keys"), reason);
    if location.keys.is_some() && !matches!(location.to, Storage::Bucket(_)) {
        return invalid_keys("a folder has no keys: remove them".to_owned());
    }
    location.to_spec().validate().or_else(|error| invalid_keys(error.to_string()))
}

fn is_server_url(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
}

/// Validates each application, and that no two of them conflict. `admin` is the administrator's token.
///
/// # Errors
/// The first invalid value.
pub fn validate_all<'a>(
    all: impl IntoIterator<Item = &'a Application>,
    admin: Option<&Secret>,
) -> Result<(), ValidationError> {
    find_errors(all, admin).into_iter().next().map_or(Ok(()), Err)
}

/// All errors that [`validate_all`] looks for.
pub(crate) fn find_errors<'a>(
    all: impl IntoIterator<Item = &'a Application>,
    admin: Option<&Secret>,
) -> Vec<ValidationError> {
    let mut found = Vec::new();
    let mut owners: HashMap<(&str, String), Option<&str>> = HashMap::new();
    owners.extend(admin.map(|token| (("token", token.reveal().to_owned()), None)));
    let mut secrets: HashMap<&str, (&str, &Secret)> = HashMap::new();
    for app in all {
        let mut report = |error: ValidationError| {
            found.push(ValidationError { application: app.name.clone(), ..error });
        };
        app.validate().unwrap_or_else(&mut report);
        let duplicate = |field: &str, reason: String| ValidationError {
            application: String::new(),
            field: field.to_owned(),
            reason,
            is_duplicate: true,
        };
        let sdk_app_id = app.settings.sdk_app_id.map(|id| id.to_string());
        // Embedded rooms are named by either of them, so an id must not be the name of another application.
        let ids = [
            ("name", "name", Some(app.name.as_str())),
            ("app_id", "name", app.settings.app_id.as_deref()),
            ("sdk_app_id", "sdk_app_id", sdk_app_id.as_deref()),
        ];
        let tokens = app.tokens.iter().map(|token| ("tokens", "token", Some(token.reveal())));
        for (field, kind, id) in ids.into_iter().chain(tokens) {
            let Some(id) = id else { continue };
            match owners.insert((kind, id.to_owned()), Some(&app.name)) {
                Some(None) => report(duplicate(field, "a token must differ from admin_token".to_owned())),
                // An application's id may be its own name.
                Some(Some(owner)) if owner != app.name || field != "app_id" => {
                    report(duplicate(field, format!("application {owner} uses the same value")));
                }
                _ => {}
            }
        }
        for AccessKey { id, secret, .. } in &app.keys {
            // Applications may share an access key, but only with the same secret.
            let (owner, other) = *secrets.entry(id).or_insert((&app.name, secret));
            if other != secret {
                let reason = format!("application {owner} has a different secret for {id}");
                report(duplicate("keys", reason));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> Application {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn invalid_values_are_reported_with_their_field() {
        let good = app(r#"{"name": "a"}"#);
        assert_eq!(good.validate(), Ok(()));
        for (more, field) in [
            (r#""name": """#, "name"),
            (r#""name": "A""#, "name"),
            (r#""name": "../a""#, "name"),
            (r#""name": "a", "app_id": """#, "app_id"),
            (r#""name": "a", "sdk_app_id": 0"#, "sdk_app_id"),
            (r#""name": "a", "max_casts": 0"#, "max_casts"),
            (r#""name": "a", "max_history_mib": 0"#, "max_history_mib"),
            (r#""name": "a", "keys": [{"id": "a b", "secret": "s"}]"#, "keys[0].id"),
            (r#""name": "a", "keys": [{"id": "a", "secret": ""}]"#, "keys[0].secret"),
            (
                r#""name": "a", "keys": [{"id": "a", "secret": "s"}, {"id": "a", "secret": "s"}]"#,
                "keys[1].id",
            ),
            (r#""name": "a", "tokens": ["0123456789abcde"]"#, "tokens[0]"),
            (r#""name": "a", "callbacks": {"native": {"url": "ftp://a/"}}"#, "callbacks.native.url"),
            (r#""name": "a", "callbacks": {"native": {"url": "http://u:p@a/"}}"#, "callbacks.native.url"),
            (
                r#""name": "a", "callbacks": {"tencent": {"url": "http://a/", "secret": "a-b"}}"#,
                "callbacks.tencent.secret",
            ),
            (
                r#""name": "a", "callbacks": {"volcengine": {"url": "http://a/", "extra_retry_s": 604801}}"#,
                "callbacks.volcengine.extra_retry_s",
            ),
            (
                r#""name": "a", "storage": {"default":
                    {"to": "/a", "keys": {"access_key": "a", "secret_key": "b"}}}"#,
                "storage.default.keys",
            ),
            (
                r#""name": "a", "storage": {"default":
                    {"to": "gs://abc", "keys": {"access_key": "", "secret_key": ""}}}"#,
                "storage.default.keys",
            ),
            (r#""name": "a", "storage": {"backup": {"to": "/a"}}"#, "storage.backup.to"),
            (r#""name": "a", "storage": {"vod_keys": {"id": "", "secret": "s"}}"#, "storage.vod_keys.id"),
            (r#""name": "a", "storage": {"s3_endpoint": "http://a/b"}"#, "storage.s3_endpoint"),
            (r#""name": "a", "limits": {"max_time_s": 9}"#, "limits.max_time_s"),
            (r#""name": "a", "limits": {"attempts": 11}"#, "limits.attempts"),
            (r#""name": "a", "limits": {"memory_mib": 255}"#, "limits.memory_mib"),
            (r#""name": "a", "limits": {"disk_mib": 262145}"#, "limits.disk_mib"),
            (r#""name": "a", "limits": {"cpu_weight": 0}"#, "limits.cpu_weight"),
            (r#""name": "a", "room": {"type": "whip", "url": "ws://a/"}"#, "room"),
            (r#""name": "a", "room": {"type": "volcengine", "url": "http://a/", "app_key": "s"}"#, "app_id"),
            (r#""name": "a", "ice": {"servers": [{"url": "http://a/"}]}"#, "ice"),
        ] {
            let bad = app(&format!("{{{more}}}"));
            assert_eq!(bad.validate().unwrap_err().field, field, "{more}");
        }
    }

    #[test]
    fn conflicts_between_applications_are_reported() {
        let admin = Secret::new("administrator-0123456789");
        let validate = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|text| app(text)).collect();
            validate_all(&all, Some(&admin)).map_err(|error| format!("{}.{}", error.application, error.field))
        };
        let refused = |field: &str| Err(field.to_owned());
        assert_eq!(validate(&[r#"{"name": "a", "app_id": "a"}"#, r#"{"name": "b"}"#]), Ok(()));
        assert_eq!(validate(&[r#"{"name": "a"}"#, r#"{"name": "a"}"#]), refused("a.name"));
        assert_eq!(validate(&[r#"{"name": "a"}"#, r#"{"name": "b", "app_id": "a"}"#]), refused("b.app_id"));
        assert_eq!(validate(&[r#"{"name": "a", "app_id": "b"}"#, r#"{"name": "b"}"#]), refused("b.name"));
        let sdk = [r#"{"name": "a", "sdk_app_id": 1}"#, r#"{"name": "b", "sdk_app_id": 1}"#];
        assert_eq!(validate(&sdk), refused("b.sdk_app_id"));
        let pair = |name: &str, secret: &str| {
            format!(r#"{{"name": "{name}", "keys": [{{"id": "k", "secret": "{secret}"}}]}}"#)
        };
        assert_eq!(validate(&[&pair("a", "s"), &pair("b", "s")]), Ok(()), "applications may share a key");
        assert_eq!(validate(&[&pair("a", "s"), &pair("b", "t")]), refused("b.keys"));
        let token = |name: &str, token: &str| format!(r#"{{"name": "{name}", "tokens": ["{token}"]}}"#);
        let twice = [token("a", "token-0123456789"), token("b", "token-0123456789")];
        assert_eq!(validate(&[&twice[0], &twice[1]]), refused("b.tokens"));
        assert_eq!(validate(&[&token("a", "administrator-0123456789")]), refused("a.tokens"));
    }
}
