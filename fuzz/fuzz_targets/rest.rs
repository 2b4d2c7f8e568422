//! Any requests to the REST API with a token.
//!
//! Run it with `cargo +nightly fuzz run rest -- -detect_leaks=0`: the service keeps state, which is not a
//! leak, and the check is slow. The first byte of an input selects what the rest is: a body of any operation;
//! mutations of a valid cast or application; the query of a list; or a path. The second byte is the length of
//! the `Idempotency-Key`, which comes next.

#![no_main]

#[path = "service/fixture.rs"]
#[allow(dead_code, reason = "other targets use the rest")]
mod fixture;

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

use fixture::{ADMIN, Fixture, HOST, TOKEN, mutated, percent_encode};

const OPERATIONS: [(&str, &str); 16] = [
    ("POST", "/v1/casts"),
    ("POST", "/v1/casts/00000000000000000000000000000001/stop"),
    ("POST", "/v1/casts/00000000000000000000000000000001/pushes"),
    ("DELETE", "/v1/casts/00000000000000000000000000000001/pushes"),
    ("GET", "/v1/casts/00000000000000000000000000000001/events"),
    ("GET", "/v1/casts/00000000000000000000000000000001/evidence/a"),
    ("POST", "/v1/casts/00000000000000000000000000000001/deliveries/redeliver"),
    ("POST", "/v1/applications"),
    ("PUT", "/v1/applications/two"),
    ("POST", "/v1/applications/two/keys"),
    ("PUT", "/v1/applications/two/keys/k"),
    ("DELETE", "/v1/applications/two/keys/k"),
    ("POST", "/v1/applications/two/tokens"),
    ("DELETE", "/v1/applications/two/tokens/t"),
    ("DELETE", "/v1/applications/two"),
    ("GET", "/v1/openapi.json"),
];

fn cast() -> Value {
    json!({
        "url": "https://a.example/p", "width": 1920, "height": 1080, "fps": 25, "scale_factor": 1.0,
        "bitrate_kbps": 4000, "app": "one", "headers": {"X-A": "v"}, "cookies": {"c": "v"},
        "user_agent": "UA",
        "locale": "de-DE", "mobile": {"device": "phone", "orientation": "portrait"},
        "timezone": "Europe/Berlin",
        "color_scheme": "dark", "css": "a{}", "script": "1;", "basic_auth": {"user": "u", "password": "p"},
        "ready": {"signal": "notify-ready", "timeout_s": 60, "selector": "#x", "network_idle": true},
        "checks": {"freeze_s": 2, "blank_s": 30, "crash_s": 1}, "max_time_s": 3600, "duration_s": 12.5,
        "queue_timeout_s": 0,
        "room": {"room": "r@1", "user": "u", "layers": [
            {"width": 1920, "height": 1080, "fps": 25, "bitrate_kbps": 2500}, {"width": 640, "height": 360},
        ]},
        "recording": {
            "to": "s3://recordings/a?region=eu-west-1&endpoint=https://s3.example",
            "keys": {"access_key": "a", "secret_key": "s", "session_token": "t"},
            "format": "both-ts", "segment_s": 6, "split_s": 60, "thumbnails_s": 10, "name": "talk",
            "manifest": true, "audio_only": false,
        },
        "pushes": [
            {"url": "rtmp://live.example/app/key", "reconnect_timeout_s": 30},
            {"url": "srt://live.example:9000?passphrase=p"},
        ],
        "callback": {"url": "https://hooks.example/a", "secret": "s"},
    })
}

fn application() -> Value {
    json!({
        "app_id": "two", "sdk_app_id": 7, "max_casts": 9,
        "callbacks": {
            "volcengine": {"url": "https://hooks.example/v", "secret": "s", "extra_retry_s": 60,
            "noce": true},
            "tencent": {"url": "https://hooks.example/t", "secret": "s", "extra_retry_s": 0, "noce": false},
            "native": {"url": "https://hooks.example/n", "secret": "s", "extra_retry_s": 0, "noce": false},
        },
        "room": {"type": "livekit", "url": "wss://rooms.example/", "key": "name", "secret": "s"},
        "codec": "vp8",
        "ice": {
            "servers": [{"url": "turn:turn.example:3478", "username": "u", "credential": "c"}],
            "relay_only": true,
        },
        "storage": {
            "default": {
                "to": "s3://recordings?region=eu-west-1", "keys": {"access_key": "a", "secret_key": "b"},
            },
            "backup": {
                "to": "cos://recordings-1250000000?region=ap-guangzhou",
                "keys": {"access_key": "c", "secret_key": "d"},
            },
            "buckets": null, "cos_endpoint": "http://127.0.0.1:9000/", "s3_endpoint": null,
            "vod_endpoint": null,
            "vod_keys": {"id": "vod", "secret": "s"},
        },
        "network": {"allow": ["10.0.0.0/8", "*.example.com:443"], "deny": ["192.0.2.1"], "udp": true},
        "limits": {"max_time_s": 3600, "attempts": 2, "memory_mib": 1024, "cpu_weight": 50},
    })
}

fn send(fixture: &Fixture, token: &str, (method, path): (&str, &str), key: &[u8], body: &[u8], good: bool) {
    let mut request = Request::builder().method(method).uri(path).header("host", HOST);
    request =
        request.header("authorization", format!("Bearer {token}")).header("content-type", "application/json");
    if !key.is_empty() {
        request = request.header("idempotency-key", key);
    }
    let Some(response) =
        request.body(Body::from(body.to_vec())).ok().and_then(|request| fixture.send(request))
    else {
        return;
    };
    let shown = || String::from_utf8_lossy(&response.body).into_owned();
    assert!(response.status.as_u16() < 500, "{method} {path}: {} {}", response.status, shown());
    if response.status.is_client_error() {
        let error = response.json();
        assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string(), "{error}");
        assert_eq!(response.headers["x-request-id"].to_str().ok(), error["request_id"].as_str(), "{error}");
    }
    // A valid request must be accepted; otherwise the target tests little.
    assert!(response.status.is_success() || !good, "{method} {path}: {}", shown());
}

fuzz_target!(|data: &[u8]| {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    let fixture = FIXTURE.get_or_init(|| Fixture::new(0));
    let [kind, key, rest @ ..] = data else { return };
    fixture.reset();
    let operation = OPERATIONS[usize::from(kind >> 3) % OPERATIONS.len()];
    let token = if kind >> 7 == 1 { ADMIN } else { TOKEN };
    let (key, body) = rest.split_at(rest.len().min(usize::from(key % 8)));
    let good = body.is_empty() && key.iter().all(u8::is_ascii_graphic);
    match kind % 5 {
        0 => {
            let create = json!({"name": "two", "settings": application()}).to_string();
            send(fixture, ADMIN, OPERATIONS[7], b"", create.as_bytes(), true);
            send(fixture, ADMIN, operation, key, body, false);
        }
        1 => {
            let request = mutated(&cast(), body).to_string();
            for _ in 0..2 {
                send(fixture, token, OPERATIONS[0], key, request.as_bytes(), good);
            }
        }
        2 => {
            let settings = mutated(&application(), body);
            let create = json!({"name": "two", "settings": settings}).to_string();
            for (operation, body) in [(OPERATIONS[7], create), (OPERATIONS[8], settings.to_string())] {
                send(fixture, ADMIN, operation, key, body.as_bytes(), good);
            }
        }
        3 => {
            let paths =
                ["/v1/casts", "/v1/applications", "/v1/casts/00000000000000000000000000000001/events"];
            let path = format!("{}?{}", paths[usize::from(kind >> 3) % 3], percent_encode(body));
            send(fixture, token, ("GET", &path), key, b"", false);
        }
        _ => {
            send(fixture, token, (operation.0, &format!("/v1/{}", percent_encode(body))), key, b"{}", false);
        }
    }
});
