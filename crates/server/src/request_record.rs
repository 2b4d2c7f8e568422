//! Requests as they were made, kept with their casts: without secrets, and bounded.
//!
//! What may be shown is listed by name. All other text is `…`, so that a new parameter is hidden until it is
//! listed here.

use pagecast_core::spec::{PushUrl, SourceUrl, Storage};
use serde_json::{Map, Value};
use url::Url;

use crate::app::public_url;
use crate::callback::shown_url;

/// Field of a stored request with the body as it was sent, without secrets.
pub(crate) const BODY_FIELD: &str = "body";
/// What stands for text that is not kept.
const HIDDEN: &str = "…";
/// Longest text that is kept, in characters.
const MAX_TEXT_CHARS: usize = 1000;
/// Longest name of a parameter, in bytes.
const MAX_NAME_LEN: usize = 64;
/// Most members of an object, and elements of an array, that are kept.
const MAX_MEMBERS: usize = 100;
/// Deepest object or array that is kept: parameters of all APIs have less.
const MAX_DEPTH: usize = 8;
/// Largest request that is kept, in bytes of JSON. Of a larger one only numbers and short text remain.
const MAX_LEN: usize = 32 << 10;

/// Parameters whose text is shown as it is: names, places and choices.
const SHOWN: &[&str] = &[
    // REST
    "app",
    "user_agent",
    "locale",
    "timezone",
    "color_scheme",
    "device",
    "orientation",
    "user",
    "signal",
    "selector",
    "room",
    "format",
    "name",
    "labels",
    // Volcengine
    "AppId",
    "RoomId",
    "TaskId",
    "BusinessId",
    "UserId",
    // Tencent, where numbers of forms are text, too
    "SdkAppId",
    "RecordId",
    "MaxDurationLimit",
    "ReadyTimeout",
    "Vendor",
    "Region",
    "Bucket",
    "FileNamePrefix",
    "MaxMediaFileDuration",
    "MediaType",
    "Format",
    "Procedure",
    "StorageRegion",
    "UserDefineRecordId",
    "IsTencentCdn",
    "Width",
    "Height",
    "Fps",
    "BitRate",
    "MobileDeviceType",
    "ScreenOrientation",
];
/// Parameters with members of any name, whose values are secret.
const SECRET_MAPS: &[&str] = &["headers", "cookies", "keys"];
/// Addresses of pages.
const PAGES: &[&str] = &["SourceURL", "RecordUrl"];

/// A request without secrets, in bounded size.
pub(crate) fn without_secrets(request: &Value) -> Value {
    let shown = shown_value(request, "", "", 0);
    if shown.to_string().len() <= MAX_LEN {
        return shown;
    }
    let Value::Object(members) = shown else { return Value::from(HIDDEN) };
    let shorten = |value: Value| match value {
        Value::Array(_) | Value::Object(_) => Value::from(HIDDEN),
        other => other,
    };
    Value::Object(members.into_iter().map(|(name, value)| (name, shorten(value))).collect())
}

/// A value without secrets; `name` is that of its parameter, and `parent` that of the object around it.
fn shown_value(value: &Value, name: &str, parent: &str, depth: usize) -> Value {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        _ if depth > MAX_DEPTH => Value::from(HIDDEN),
        Value::String(text) => Value::from(shown_text(text, name, parent)),
        Value::Array(elements) => elements
            .iter()
            .take(MAX_MEMBERS)
            .map(|value| shown_value(value, name, parent, depth + 1))
            .collect(),
        Value::Object(members) => {
            let is_secret = SECRET_MAPS.contains(&name);
            let members = members.iter().filter(|(name, _)| name.len() <= MAX_NAME_LEN).take(MAX_MEMBERS);
            let shown = members.map(|(member, value)| {
                let hidden = || Value::from(HIDDEN);
                let shown = if is_secret { hidden() } else { shown_value(value, member, name, depth + 1) };
                (member.clone(), shown)
            });
            Value::Object(shown.collect::<Map<_, _>>())
        }
    }
}

fn shown_text(text: &str, name: &str, parent: &str) -> String {
    let shown = match (name, parent) {
        ("url", "pushes") | ("PublishCdnUrl", _) => PushUrl::parse(text).ok().map(|url| url.to_string()),
        ("url", "callback") => Url::parse(text).ok().map(|url| shown_url(&url)),
        ("url", "") => SourceUrl::parse(text).ok().map(|url| url.to_string()),
        ("to", "recording") => Storage::parse(text).ok().and_then(|storage| public_url(&storage)),
        (name, _) if PAGES.contains(&name) => SourceUrl::parse(text).ok().map(|url| url.to_string()),
        (name, _) if SHOWN.contains(&name) => Some(text.to_owned()),
        _ => None,
    };
    shown.map_or_else(|| HIDDEN.to_owned(), |shown| shown.chars().take(MAX_TEXT_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_of_a_rest_request_are_hidden() {
        let request = json!({
            "app": "one", "url": "https://u:planted@a.example/talk?token=planted#x", "width": 1280,
            "headers": {"X-Token": "planted", "name": "planted"}, "cookies": {"sid": "planted"},
            "css": "planted", "script": "planted", "basic_auth": {"user": "u", "password": "planted"},
            "tls": {"ca": "planted", "insecure": true}, "ready": {"signal": "webcast", "selector": "#a"},
            "room": {"room": "r", "user": "u", "layers": [{"width": 640, "height": 360}]},
            "recording": {"to": "s3://bucket/p?region=eu-1", "format": "mp4",
                "keys": {"access_key": "planted", "secret_key": "planted"}},
            "pushes": [{"url": "rtmp://live.example.com/app/planted", "reconnect_timeout_s": 5},
                {"url": "srt://a.example:9000?streamid=planted&passphrase=planted"}],
            "callback": {"url": "https://c.example/hook?key=planted", "secret": "planted"},
            "placement": {"labels": ["gpu"]}, "future": {"token": "planted"}, "duration_s": 1.5,
        });
        let shown = without_secrets(&request);
        assert!(!shown.to_string().contains("planted"), "{shown}");
        assert_eq!(shown["url"], "https://a.example/talk?…");
        assert_eq!(shown["headers"], json!({"X-Token": "…", "name": "…"}));
        assert_eq!(shown["basic_auth"], json!({"user": "u", "password": "…"}));
        assert_eq!(shown["recording"]["to"], "s3://bucket/p?region=eu-1");
        assert!(shown["pushes"][0]["url"].as_str().unwrap().starts_with("rtmp://live.example.com/"));
        assert_eq!(shown["callback"], json!({"url": "https://c.example/hook?…", "secret": "…"}));
        for kept in ["app", "width", "room", "placement", "ready", "duration_s"] {
            assert_eq!(shown[kept], request[kept], "{kept}");
        }
        // A folder of the server is nobody's business.
        let folder = without_secrets(&json!({"recording": {"to": "/srv/planted"}}));
        assert_eq!(folder, json!({"recording": {"to": "…"}}));
    }

    #[test]
    fn secrets_of_the_vendors_requests_are_hidden() {
        let tencent = json!({
            "SdkAppId": 14, "RecordUrl": "https://a.example/?planted=1", "RecordId": "r",
            "Unknown": "planted",
            "StorageParams": {"CloudStorage": {"Vendor": 0, "Bucket": "b", "AccessKey": "planted",
                "SecretKey": "planted", "FileNamePrefix": ["a", "b"]}},
            "PublishCdnParams": [{"PublishCdnUrl": "rtmp://live.example.com/app/planted"}],
            "WebRecordVideoParams": {"Width": "1280", "Format": "mp4"},
        });
        let shown = without_secrets(&tencent);
        assert!(!shown.to_string().contains("planted"), "{shown}");
        assert_eq!(shown["WebRecordVideoParams"], tencent["WebRecordVideoParams"]);
        assert_eq!(shown["StorageParams"]["CloudStorage"]["FileNamePrefix"], json!(["a", "b"]));
        let volcengine = json!({"AppId": "a", "TaskId": "t", "SourceURL": "not a url, planted",
            "MonitorConfig": {"FreezeCheckInterval": 5}});
        let shown = without_secrets(&volcengine);
        assert_eq!(
            shown,
            json!({"AppId": "a", "TaskId": "t", "SourceURL": "…",
            "MonitorConfig": {"FreezeCheckInterval": 5}})
        );
    }

    #[test]
    fn a_large_request_is_bounded() {
        let long = "x".repeat(100_000);
        let many: Vec<_> = (0..10_000).map(|n| json!({"name": format!("{n}{long}")})).collect();
        let shown = without_secrets(&json!({"app": long, "labels": many, "width": 5, long: 1}));
        assert!(shown.to_string().len() < 3000);
        assert_eq!((&shown["width"], &shown["labels"]), (&json!(5), &json!("…")));
        let mut deep = json!("x");
        for _ in 0..100 {
            deep = json!({"name": deep});
        }
        assert!(without_secrets(&deep).to_string().len() < 300);
        assert_eq!(without_secrets(&json!("planted")), json!("…"));
    }
}
