//! What an application may be.

use std::collections::{HashMap, HashSet};

use pagecast_core::CastSpec;
use pagecast_core::spec::{
    Layer, Recording, Room, RoomIds, RoomService, Secret, Size, Source, SourceUrl, Storage, StorageKeys,
};
use pagecast_core::time::Fps;
use url::Url;

use super::{AccessKey, Application, CallbackReceiver, RoomProvider};
use crate::volcengine::token::APP_ID_LEN;

/// Longest name, in characters.
pub const MAX_NAME_LEN: usize = 64;
/// Most keys of an application, and most tokens.
pub const MAX_KEYS: usize = 32;
/// Shortest token, in characters.
pub const MIN_TOKEN_LEN: usize = 16;
/// Longest token and longest secret, in characters.
pub const MAX_SECRET_LEN: usize = 256;
/// Longest address of a receiver, in bytes.
pub const MAX_RECEIVER_LEN: usize = 2048;
/// Longest time that an event is tried beyond the vendor's rule, in seconds: a week.
pub const MAX_RETRY_S: u64 = 7 * 86_400;
/// Most casts at the same time.
pub const MAX_CASTS: u32 = 100_000;
/// Most that may be kept of an application's casts, in MiB: more than a database in one file is good for.
const MAX_KEPT_MIB: u32 = 1 << 20;

/// Why an application cannot be as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ValidationError {
    /// Which value, like `callbacks.native.url`.
    pub field: String,
    /// What is wrong with it, and what is possible.
    pub reason: String,
    /// Whether it would do, if another application did not have it.
    pub is_duplicate: bool,
}

fn invalid<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, ValidationError> {
    Err(ValidationError { field: field.into(), reason: why.into(), is_duplicate: false })
}

fn duplicate<T>(field: String, why: impl Into<String>) -> Result<T, ValidationError> {
    Err(ValidationError { field, reason: why.into(), is_duplicate: true })
}

impl Application {
    /// Checks every value.
    ///
    /// # Errors
    /// The first one that cannot be used.
    pub fn validate(&self) -> Result<(), ValidationError> {
        validate_name(&self.name)?;
        let id = |c: u8| c.is_ascii_alphanumeric() || b"_@-.".contains(&c);
        if self.app_id.as_ref().is_some_and(|text| !(1..=128).contains(&text.len()) || !text.bytes().all(id))
        {
            return invalid(
                "app_id",
                "1 to 128 of the letters a to z and A to Z, digits, and _ @ - . are possible",
            );
        }
        if self.sdk_app_id.is_some_and(|id| id == 0 || id > u64::from(u32::MAX)) {
            return invalid("sdk_app_id", "1 to 4294967295 are possible");
        }
        if !(1..=MAX_CASTS).contains(&self.max_casts) {
            return invalid("max_casts", "1 to 100000 are possible");
        }
        if !(1..=MAX_KEPT_MIB).contains(&self.max_kept_mib) {
            return invalid("max_kept_mib", "1 to 1048576 are possible, 1 TiB");
        }
        self.validate_keys()?;
        for (name, receiver) in [
            ("volcengine", &self.callbacks.volcengine),
            ("tencent", &self.callbacks.tencent),
            ("native", &self.callbacks.native),
        ] {
            receiver.as_ref().map_or(Ok(()), |r| validate_receiver(&format!("callbacks.{name}"), r))?;
        }
        let secret = self.callbacks.tencent.as_ref().and_then(|receiver| receiver.secret.as_ref());
        let plain = |text: &str| text.len() <= 32 && text.bytes().all(|c| c.is_ascii_alphanumeric());
        if secret.is_some_and(|secret| !plain(secret.reveal())) {
            return invalid("callbacks.tencent.secret", "up to 32 letters and digits are possible");
        }
        self.validate_storage()?;
        self.validate_cast_defaults()
    }

    fn validate_keys(&self) -> Result<(), ValidationError> {
        if self.keys.len() > MAX_KEYS || self.tokens.len() > MAX_KEYS {
            return invalid(
                "keys",
                "at most 32 keys and 32 tokens are possible: remove those that nobody uses",
            );
        }
        let mut seen = HashSet::new();
        for (i, key) in self.keys.iter().enumerate() {
            validate_key(&format!("keys[{i}]"), key)?;
            if !seen.insert(&key.id) {
                return invalid(format!("keys[{i}].id"), "it is given twice");
            }
        }
        self.tokens
            .iter()
            .enumerate()
            .try_for_each(|(i, token)| validate_token(&format!("tokens[{i}]"), token))
    }

    fn validate_storage(&self) -> Result<(), ValidationError> {
        let storage = &self.storage;
        for (name, url) in [
            ("cos_endpoint", &storage.cos_endpoint),
            ("s3_endpoint", &storage.s3_endpoint),
            ("vod_endpoint", &storage.vod_endpoint),
        ] {
            if url.as_ref().is_some_and(|url| !is_server_url(url)) {
                let why = "write http:// or https://, a host and a port, and nothing else";
                return invalid(format!("storage.{name}"), why);
            }
        }
        if storage.buckets.as_ref().is_some_and(|path| path.as_os_str().is_empty() || path.to_str().is_none())
        {
            return invalid("storage.buckets", "write the name of a folder");
        }
        storage.vod_keys.as_ref().map_or(Ok(()), |key| validate_key("storage.vod_keys", key))?;
        match &storage.default {
            Some(Storage::File(_)) => invalid("storage.default", "each cast would replace this one file"),
            Some(default) => {
                default.validate().or_else(|error| invalid("storage.default", error.to_string()))
            }
            None => Ok(()),
        }
    }

    /// What its casts get is checked as casts are: on one that has all of it.
    fn validate_cast_defaults(&self) -> Result<(), ValidationError> {
        let Ok(url) = SourceUrl::parse("http://localhost/") else { return Ok(()) };
        let mut spec = CastSpec::new(Source::new(url));
        spec.limits = self.limits.clone();
        spec.validate().or_else(|error| invalid("limits", error.to_string()))?;
        let usual = || Storage::Folder("recordings".into());
        let to = self.storage.default.clone().unwrap_or_else(usual);
        let mut recording = Recording::new("a", to, "spool".into());
        recording.backup = self.storage.backup.clone().map(Storage::Bucket);
        spec.recording = Some(recording);
        spec.validate().or_else(|error| invalid("storage.backup", error.to_string()))?;
        let service = match &self.room {
            RoomProvider::Embedded => return self.validate_ice(spec),
            RoomProvider::Service(service) => service.clone(),
            RoomProvider::Volcengine(rooms) => {
                if self.app_id.as_ref().is_none_or(|id| id.len() != APP_ID_LEN || !id.is_ascii()) {
                    return invalid("app_id", "tokens of Volcengine RTC need one of 24 characters");
                }
                RoomService::Whip { url: rooms.url.clone(), token: Some(rooms.app_key.clone()) }
            }
        };
        let mut room = Room::new(service, sample_room_ids(), sample_layer());
        spec.room = Some(room.clone());
        spec.validate().or_else(|error| invalid("room", error.to_string()))?;
        room.ice = self.ice.clone();
        spec.room = Some(room);
        spec.validate().or_else(|error| invalid("ice", error.to_string()))
    }

    fn validate_ice(&self, mut spec: CastSpec) -> Result<(), ValidationError> {
        let Ok(url) = pagecast_core::spec::RoomUrl::parse("http://localhost/") else { return Ok(()) };
        let service = pagecast_core::spec::RoomService::Whip { url, token: None };
        spec.room =
            Some(Room { ice: self.ice.clone(), ..Room::new(service, sample_room_ids(), sample_layer()) });
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

/// A name of an application.
pub(crate) fn validate_name(name: &str) -> Result<(), ValidationError> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-".contains(&c);
    if (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    invalid("name", "1 to 64 small letters, digits, _ and - are possible")
}

pub(crate) fn validate_key(field: &str, key: &AccessKey) -> Result<(), ValidationError> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_-.".contains(&c);
    if !(1..=128).contains(&key.id.len()) || !key.id.bytes().all(plain) {
        return invalid(format!("{field}.id"), "1 to 128 letters, digits and _ - . are possible");
    }
    if is_valid_secret(&key.secret, 1) {
        return Ok(());
    }
    invalid(format!("{field}.secret"), "1 to 256 ASCII characters without blanks are possible")
}

pub(crate) fn validate_token(field: &str, token: &Secret) -> Result<(), ValidationError> {
    if is_valid_secret(token, MIN_TOKEN_LEN) {
        return Ok(());
    }
    invalid(field, "16 to 256 ASCII characters without blanks are possible")
}

fn is_valid_secret(secret: &Secret, least: usize) -> bool {
    let text = secret.reveal();
    (least..=MAX_SECRET_LEN).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
}

/// Somebody who is told.
pub(crate) fn validate_receiver(field: &str, receiver: &CallbackReceiver) -> Result<(), ValidationError> {
    let url = &receiver.url;
    let bad = |why: &str| invalid(format!("{field}.url"), why);
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return bad("write an address like https://host/path");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return bad("leave out user, password and what stands behind #");
    }
    if url.as_str().len() > MAX_RECEIVER_LEN {
        return bad("it is longer than 2048 bytes");
    }
    let possible = |secret: &Secret| (1..=MAX_SECRET_LEN).contains(&secret.reveal().len());
    if receiver.secret.as_ref().is_some_and(|secret| !possible(secret)) {
        return invalid(format!("{field}.secret"), "1 to 256 bytes are possible");
    }
    if receiver.retry_s > MAX_RETRY_S {
        return invalid(format!("{field}.retry_s"), "at most a week is possible, 604800 s");
    }
    Ok(())
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

/// Checks each application, and that all can be told apart. `admin` is the administrator's token.
///
/// # Errors
/// The first thing that cannot be, with the application's name in front of the field.
pub fn validate_all<'a>(
    all: impl IntoIterator<Item = &'a Application>,
    admin: Option<&Secret>,
) -> Result<(), ValidationError> {
    let (mut names, mut sdk_ids) = (HashMap::new(), HashMap::new());
    let mut keys: HashMap<&str, &Secret> = HashMap::new();
    let mut tokens: HashSet<&str> = admin.map(Secret::reveal).into_iter().collect();
    for app in all {
        let of = |field: &str| format!("{}.{field}", app.name);
        app.validate().or_else(|error| invalid(of(&error.field), error.reason))?;
        // A name and an id of somebody else would share rooms.
        for (field, id) in [("name", Some(&app.name)), ("app_id", app.app_id.as_ref())] {
            if let Some(id) = id
                && names.insert(id, &app.name).is_some_and(|owner| *owner != app.name || field == "name")
            {
                return duplicate(of(field), "another application has it already");
            }
        }
        if let Some(id) = app.sdk_app_id
            && sdk_ids.insert(id, ()).is_some()
        {
            return duplicate(of("sdk_app_id"), "another application has it already");
        }
        for key in &app.keys {
            // One pair may act for several applications, but it is one pair.
            if keys.insert(&key.id, &key.secret).is_some_and(|other| *other != key.secret) {
                return duplicate(
                    of("keys"),
                    format!("{} has another secret in another application", key.id),
                );
            }
        }
        if app.tokens.iter().any(|token| !tokens.insert(token.reveal())) {
            return duplicate(of("tokens"), "a token is given twice, and would not tell whose it is");
        }
    }
    Ok(())
}

/// Whether a storage's keys can be used.
pub(crate) fn set_storage_keys(
    mut storage: Storage,
    keys: Option<StorageKeys>,
) -> Result<Storage, &'static str> {
    match (storage.keys_mut(), keys) {
        (Some(slot), keys) => *slot = keys,
        (None, Some(_)) => return Err("a folder of the server has no keys"),
        (None, None) => {}
    }
    Ok(storage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(text: &str) -> Application {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = app(r#"{"name": "a"}"#);
        assert_eq!(good.validate(), Ok(()));
        for (more, field) in [
            (r#""name": """#, "name"),
            (r#""name": "A""#, "name"),
            (r#""name": "../a""#, "name"),
            (r#""name": "a", "app_id": """#, "app_id"),
            (r#""name": "a", "sdk_app_id": 0"#, "sdk_app_id"),
            (r#""name": "a", "max_casts": 0"#, "max_casts"),
            (r#""name": "a", "max_kept_mib": 0"#, "max_kept_mib"),
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
                r#""name": "a", "callbacks": {"volcengine": {"url": "http://a/", "retry_s": 604801}}"#,
                "callbacks.volcengine.retry_s",
            ),
            (r#""name": "a", "storage": {"default": {"file": "a.mp4"}}"#, "storage.default"),
            (r#""name": "a", "storage": {"s3_endpoint": "http://a/b"}"#, "storage.s3_endpoint"),
            (
                r#""name": "a", "storage": {"backup": {"service": "cos", "bucket": "abc-1"}}"#,
                "storage.backup",
            ),
            (r#""name": "a", "limits": {"max_time": {"secs": 1, "nanos": 0}}"#, "limits"),
            (r#""name": "a", "room": {"service": {"whip": {"url": "ws://a/"}}}"#, "room"),
            (r#""name": "a", "ice": {"servers": [{"url": "http://a/"}]}"#, "ice"),
        ] {
            let bad = app(&format!("{{{more}}}"));
            assert_eq!(bad.validate().unwrap_err().field, field, "{more}");
        }
    }

    #[test]
    fn applications_can_be_told_apart() {
        let admin = Secret::new("administrator-0123456789");
        let check = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|text| app(text)).collect();
            validate_all(&all, Some(&admin)).map_err(|wrong| wrong.field)
        };
        let refused = |field: &str| Err(field.to_owned());
        assert_eq!(check(&[r#"{"name": "a", "app_id": "a"}"#, r#"{"name": "b"}"#]), Ok(()));
        assert_eq!(check(&[r#"{"name": "a"}"#, r#"{"name": "a"}"#]), refused("a.name"));
        assert_eq!(check(&[r#"{"name": "a"}"#, r#"{"name": "b", "app_id": "a"}"#]), refused("b.app_id"));
        assert_eq!(check(&[r#"{"name": "a", "app_id": "b"}"#, r#"{"name": "b"}"#]), refused("b.name"));
        let sdk = [r#"{"name": "a", "sdk_app_id": 1}"#, r#"{"name": "b", "sdk_app_id": 1}"#];
        assert_eq!(check(&sdk), refused("b.sdk_app_id"));
        let pair = |name: &str, secret: &str| {
            format!(r#"{{"name": "{name}", "keys": [{{"id": "k", "secret": "{secret}"}}]}}"#)
        };
        assert_eq!(check(&[&pair("a", "s"), &pair("b", "s")]), Ok(()), "one pair may act for several");
        assert_eq!(check(&[&pair("a", "s"), &pair("b", "t")]), refused("b.keys"));
        let token = |name: &str, token: &str| format!(r#"{{"name": "{name}", "tokens": ["{token}"]}}"#);
        let twice = [token("a", "token-0123456789"), token("b", "token-0123456789")];
        assert_eq!(check(&[&twice[0], &twice[1]]), refused("b.tokens"));
        assert_eq!(check(&[&token("a", "administrator-0123456789")]), refused("a.tokens"));
    }
}
