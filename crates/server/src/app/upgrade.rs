//! Upgrades documents of earlier versions, in which some settings had other names and forms.

use pagecast_core::spec::{Bucket, Storage};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::settings::CallbackReceiver;
use super::storage::StorageLocation;

/// Gives the settings of an application their present names and forms.
pub(super) fn upgrade(app: &mut Value) {
    rename(app, "max_kept_mib", "max_history_mib", |mib| mib);
    for receiver in ["volcengine", "tencent", "native"] {
        if let Some(receiver) = app.pointer_mut(&format!("/callbacks/{receiver}")) {
            upgrade_receiver(receiver);
        }
    }
    if let Some(limits) = app.get_mut("limits") {
        let to_mib = |bytes: Value| json!(bytes.as_u64().unwrap_or_default() >> 20);
        rename(limits, "max_time", "max_time_s", |mut time| time["secs"].take());
        rename(limits, "memory_bytes", "memory_mib", to_mib);
        rename(limits, "disk_bytes", "disk_mib", to_mib);
        if let Some([width, height]) = limits["max_video"].as_array().map(Vec::as_slice) {
            limits["max_video"] = json!({"width": width, "height": height});
        }
    }
    if let Some(room) = app.get_mut("room") {
        *room = upgrade_room(room.take());
    }
    if let Some(storage) = app.get_mut("storage") {
        rename(storage, "buckets", "buckets_dir", |path| path);
        let location = |storage| json!(StorageLocation::from(storage));
        if let Ok(default) = Storage::deserialize(&storage["default"]) {
            storage["default"] = location(default);
        }
        if let Some(keys) = storage["vod_keys"].as_object_mut() {
            keys.remove("disabled");
        }
        if let Ok(backup) = Bucket::deserialize(&storage["backup"]) {
            storage["backup"] = location(Storage::Bucket(backup));
        }
    }
}

impl CallbackReceiver {
    /// Reads a receiver that was stored with a cast.
    pub(crate) fn from_stored(mut receiver: Value) -> Option<Self> {
        upgrade_receiver(&mut receiver);
        serde_json::from_value(receiver).ok()
    }
}

fn upgrade_receiver(receiver: &mut Value) {
    rename(receiver, "retry_s", "extra_retry_s", |seconds| seconds);
}

fn rename(object: &mut Value, old: &str, new: &str, convert: impl FnOnce(Value) -> Value) {
    if let Some(value) = object.as_object_mut().and_then(|object| object.remove(old)) {
        object[new] = convert(value);
    }
}

/// Converts `"embedded"`, `{"volcengine": {…}}` and `{"service": {"live-kit": {…}}}`.
fn upgrade_room(room: Value) -> Value {
    match room {
        Value::String(kind) => json!({"type": kind}),
        Value::Object(mut room) if !room.contains_key("type") => match room.remove("service") {
            Some(service) => upgrade_room(service),
            None => {
                let Some((kind, Value::Object(mut server))) = room.into_iter().next() else {
                    return Value::Null;
                };
                server.insert("type".to_owned(), json!(kind.replace('-', "")));
                Value::Object(server)
            }
        },
        room => room,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Application;
    use super::*;

    fn old_document() -> Value {
        json!({
            "name": "a", "app_id": null, "sdk_app_id": 7,
            "keys": [{"id": "k", "secret": "s", "disabled": false}],
            "tokens": ["token-0123456789"], "max_casts": 3, "max_kept_mib": 64,
            "callbacks": {
                "volcengine": null, "tencent": null,
                "native": {"url": "https://a.example/?b", "secret": "s", "retry_s": 5, "noce": false},
            },
            "room": {"service": {"live-kit": {"url": "wss://a.example/", "key": "k", "secret": "s"}}},
            "codec": "vp8",
            "ice": {
                "servers": [{"url": "turn:a.example", "username": "u", "credential": "c"}],
                "relay_only": true,
            },
            "storage": {
                "default": {"bucket": {
                    "service": "s3", "bucket": "recordings", "prefix": ["a"], "region": "eu-west-1",
                    "endpoint": null, "account": null, "path_style": null,
                    "keys": {"access_key": "a", "secret_key": "b", "session_token": null},
                }},
                "buckets": "/buckets", "cos_endpoint": null, "s3_endpoint": null, "vod_endpoint": null,
                "vod_keys": {"id": "v", "secret": "s", "disabled": false},
                "backup": {
                    "service": "cos", "bucket": "backup-1250000000", "prefix": [], "region": "ap-guangzhou",
                    "endpoint": null, "account": null, "path_style": null, "keys": null,
                },
            },
            "network": {"allow": ["10.0.0.0/8"], "deny": [], "udp": false},
            "ca": null,
            "limits": {
                "max_time": {"secs": 600, "nanos": 0}, "attempts": 2, "memory_bytes": 1 << 30,
                "disk_bytes": 512 << 20, "cpu_weight": 50, "max_video": [1920, 1080],
            },
        })
    }

    fn present_document() -> Value {
        json!({
            "name": "a", "sdk_app_id": 7, "keys": [{"id": "k", "secret": "s"}],
            "tokens": ["token-0123456789"], "max_casts": 3, "max_history_mib": 64,
            "callbacks": {"native": {"url": "https://a.example/?b", "secret": "s", "extra_retry_s": 5}},
            "room": {"type": "livekit", "url": "wss://a.example/", "key": "k", "secret": "s"},
            "codec": "vp8",
            "ice": {
                "servers": [{"url": "turn:a.example", "username": "u", "credential": "c"}],
                "relay_only": true,
            },
            "storage": {
                "default": {
                    "to": "s3://recordings/a?region=eu-west-1",
                    "keys": {"access_key": "a", "secret_key": "b"},
                },
                "buckets_dir": "/buckets",
                "vod_keys": {"id": "v", "secret": "s"},
                "backup": {"to": "cos://backup-1250000000?region=ap-guangzhou"},
            },
            "network": {"allow": ["10.0.0.0/8"]},
            "limits": {
                "max_time_s": 600, "attempts": 2, "memory_mib": 1024, "disk_mib": 512, "cpu_weight": 50,
                "max_video": {"width": 1920, "height": 1080},
            },
        })
    }

    #[test]
    fn documents_of_earlier_versions_are_read() {
        let mut document = old_document();
        upgrade(&mut document);
        let app = |document: &Value| Application::deserialize(document).unwrap();
        assert_eq!(app(&document), app(&present_document()));
        app(&document).validate().unwrap();
        let upgraded = document.clone();
        upgrade(&mut document);
        assert_eq!(document, upgraded);
        let mut folder = json!({"storage": {"default": {"folder": "/recordings"}, "backup": null}});
        upgrade(&mut folder);
        assert_eq!(folder["storage"]["default"], json!({"to": "/recordings", "keys": null}));
    }

    #[test]
    fn receivers_of_casts_of_earlier_versions_are_read() {
        let url = "https://a.example/?b";
        let old = json!({"url": url, "secret": null, "retry_s": 7, "noce": false});
        let present = json!({"url": url, "extra_retry_s": 7});
        let receiver = CallbackReceiver::from_stored(old).unwrap();
        assert_eq!((receiver.url.as_str(), receiver.extra_retry_s), (url, 7));
        assert_eq!(CallbackReceiver::from_stored(present), Some(receiver));
    }

    #[test]
    fn rooms_of_earlier_versions_are_read() {
        for (old, present) in [
            (json!("embedded"), json!({"type": "embedded"})),
            (
                json!({"volcengine": {"url": "https://a.example/", "app_key": "s"}}),
                json!({"type": "volcengine", "url": "https://a.example/", "app_key": "s"}),
            ),
            (
                json!({"service": {"whip": {"url": "https://a.example/", "token": null}}}),
                json!({"type": "whip", "url": "https://a.example/", "token": null}),
            ),
        ] {
            assert_eq!(upgrade_room(old), present);
        }
    }
}
