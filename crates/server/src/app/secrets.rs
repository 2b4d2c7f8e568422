//! Secrets of settings. They are shown as `…`; a client that sends `…` back keeps the secret.

use std::collections::HashMap;

use pagecast_core::spec::Secret;
use url::Url;

use super::room::{Ice, IceServer, RoomProvider};
use super::settings::Settings;
use super::storage::{StorageDefaults, StorageKeys, StorageLocation, VodKeys, storage_url};

/// Shown in place of a secret.
pub(super) const REDACTED: &str = "…";

/// A secret of settings.
struct SecretField<'a> {
    /// Path of the field, like `callbacks.native.secret`.
    path: String,
    /// What the secret is for. Another purpose, such as another bucket, does not get it.
    purpose: String,
    secret: &'a mut Secret,
}

impl Settings {
    /// These settings without secrets.
    pub(crate) fn redacted(&self) -> Self {
        let mut shown = self.clone();
        for field in shown.secrets().into_iter().filter(|field| !field.secret.reveal().is_empty()) {
            *field.secret = Secret::new(REDACTED);
        }
        for receiver in shown.callbacks.receivers_mut().into_iter().filter_map(|(_, r)| r.as_mut()) {
            receiver.url = redacted_url(&receiver.url);
        }
        if let Some(url) = shown.room.url_mut() {
            *url = url.redacted();
        }
        shown
    }

    /// Replaces what is as it was shown by what `old` has there.
    ///
    /// # Errors
    /// The path of a secret that `old` does not have.
    pub(crate) fn restore_secrets(&mut self, mut old: Self) -> Result<(), String> {
        let receivers = self.callbacks.receivers_mut().into_iter().zip(old.callbacks.receivers());
        for ((_, receiver), (_, old)) in receivers {
            if let (Some(receiver), Some(old)) = (receiver, old)
                && receiver.url == redacted_url(&old.url)
            {
                receiver.url.clone_from(&old.url);
            }
        }
        if let (Some(url), Some(old)) = (self.room.url_mut(), old.room.url_mut())
            && *url == old.redacted()
        {
            url.clone_from(old);
        }
        let old: HashMap<_, _> =
            old.secrets().into_iter().map(|field| (field.purpose, field.secret.clone())).collect();
        for field in self.secrets().into_iter().filter(|field| field.secret.reveal() == REDACTED) {
            *field.secret = old.get(&field.purpose).cloned().ok_or(field.path)?;
        }
        Ok(())
    }

    /// All secrets. The patterns name every field, so that a new secret cannot be forgotten.
    fn secrets(&mut self) -> Vec<SecretField<'_>> {
        let Self {
            app_id: _,
            sdk_app_id: _,
            max_casts: _,
            max_history_mib: _,
            callbacks,
            room,
            codec: _,
            ice: Ice { servers, relay_only: _ },
            storage,
            network: _,
            ca: _,
            limits: _,
        } = self;
        let mut found = room_secrets(room);
        for (name, receiver) in callbacks.receivers_mut() {
            let path = format!("callbacks.{name}.secret");
            let secret = receiver.as_mut().and_then(|receiver| receiver.secret.as_mut());
            found.extend(secret.map(|secret| SecretField { purpose: path.clone(), path, secret }));
        }
        for (i, IceServer { url, username, credential: secret }) in servers.iter_mut().enumerate() {
            let path = format!("ice.servers[{i}].credential");
            found.push(SecretField { path, purpose: format!("ICE {username} {url}"), secret });
        }
        found.extend(storage_secrets(storage));
        found
    }
}

fn room_secrets(room: &mut RoomProvider) -> Vec<SecretField<'_>> {
    let (kind, secrets) = match room {
        RoomProvider::Embedded => return Vec::new(),
        RoomProvider::Whip { url: _, token } => ("whip", vec![("token", token.as_mut())]),
        RoomProvider::Volcengine { url: _, app_key } => ("volcengine", vec![("app_key", Some(app_key))]),
        RoomProvider::Livekit { url: _, key: _, secret } => ("livekit", vec![("secret", Some(secret))]),
        RoomProvider::Janus { url: _, secret, room_secret, pin } => {
            let secrets = [("secret", secret), ("room_secret", room_secret), ("pin", pin)];
            ("janus", secrets.into_iter().map(|(name, secret)| (name, secret.as_mut())).collect())
        }
    };
    let field = |(name, secret): (&str, Option<_>)| {
        Some(SecretField { path: format!("room.{name}"), purpose: format!("{kind} {name}"), secret: secret? })
    };
    secrets.into_iter().filter_map(field).collect()
}

fn storage_secrets(storage: &mut StorageDefaults) -> Vec<SecretField<'_>> {
    let StorageDefaults {
        default,
        backup,
        buckets_dir: _,
        cos_endpoint: _,
        s3_endpoint: _,
        vod_endpoint: _,
        vod_keys,
    } = storage;
    let mut found = Vec::new();
    for (name, location) in [("default", default), ("backup", backup)] {
        let Some(StorageLocation { to, keys: Some(keys) }) = location else { continue };
        let StorageKeys { access_key, secret_key, session_token } = keys;
        for (key, secret) in [
            ("access_key", Some(access_key)),
            ("secret_key", Some(secret_key)),
            ("session_token", session_token.as_mut()),
        ] {
            let path = format!("storage.{name}.keys.{key}");
            let purpose = format!("{path} {}", storage_url(to));
            found.extend(secret.map(|secret| SecretField { path, purpose, secret }));
        }
    }
    if let Some(VodKeys { id, secret }) = vod_keys {
        let path = "storage.vod_keys.secret".to_owned();
        found.push(SecretField { path, purpose: format!("video on demand {id}"), secret });
    }
    found
}

/// The URL with [`REDACTED`] as its query.
fn redacted_url(url: &Url) -> Url {
    let mut shown = url.clone();
    if url.query().is_some() {
        shown.set_query(Some(REDACTED));
    }
    shown.set_fragment(None);
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::full_settings;
    use super::*;

    #[test]
    fn secrets_are_not_shown_and_come_back() {
        let url = "https://user:planted@a.example/?planted";
        for room in [
            json!({"type": "whip", "url": url, "token": "planted"}),
            json!({"type": "volcengine", "url": url, "app_key": "planted"}),
            json!({"type": "livekit", "url": url, "key": "k", "secret": "planted"}),
            json!({
                "type": "janus", "url": url, "secret": "planted", "room_secret": "planted",
                "pin": "planted",
            }),
        ] {
            let mut settings = full_settings();
            settings["room"] = room;
            let settings: Settings = serde_json::from_value(settings).unwrap();
            let shown = json!(settings.redacted());
            assert!(!shown.to_string().contains("planted"), "{shown}");
            assert_eq!(shown["callbacks"]["volcengine"]["url"], "https://hooks.example/v?…");
            let sent = || serde_json::from_value::<Settings>(shown.clone()).unwrap();
            let mut restored = sent();
            restored.restore_secrets(settings.clone()).unwrap();
            assert_eq!(restored, settings);
            let error = sent().restore_secrets(Settings::default()).unwrap_err();
            assert!(error.starts_with("room."), "{error}");
        }
    }

    #[test]
    fn secrets_do_not_go_elsewhere() {
        let settings: Settings = serde_json::from_value(full_settings()).unwrap();
        let whip = json!({"type": "whip", "url": "https://a.example/", "token": REDACTED});
        for (at, value, path) in [
            (
                "/storage/default/to",
                json!("s3://another?region=eu-west-1"),
                "storage.default.keys.access_key",
            ),
            ("/storage/backup/to", json!("cos://another-1?region=x"), "storage.backup.keys.access_key"),
            ("/storage/vod_keys/id", json!("another"), "storage.vod_keys.secret"),
            ("/ice/servers/0/username", json!("another"), "ice.servers[0].credential"),
            ("/ice/servers/0/url", json!("turn:another.example"), "ice.servers[0].credential"),
            ("/room", whip, "room.token"),
        ] {
            let mut sent = json!(settings.redacted());
            *sent.pointer_mut(at).unwrap() = value;
            let mut sent: Settings = serde_json::from_value(sent).unwrap();
            assert_eq!(sent.restore_secrets(settings.clone()), Err(path.to_owned()));
        }
    }
}
