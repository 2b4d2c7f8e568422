//! What tests of several front ends have in common.

use std::time::Duration;

use pagecast_fleet::{Command, Fleet, Renewal, Ticket};
use serde_json::{Value, json};

/// Pending commands of a cast, as its owner gets them.
pub(crate) async fn pending_commands(fleet: &dyn Fleet, ticket: &Ticket) -> Vec<(u64, Command)> {
    let renewals = fleet.renew_all(std::slice::from_ref(ticket), Duration::from_secs(3600)).await.unwrap();
    match renewals.into_iter().next() {
        Some(Renewal::Renewed { commands }) => commands,
        lost => panic!("the ticket is not valid: {lost:?}"),
    }
}

/// A value for each setting; all secrets contain `planted`.
pub(crate) fn full_settings() -> Value {
    json!({
        "app_id": "1400", "sdk_app_id": 1400, "max_casts": 7,
        "callbacks": {
            "volcengine": {"url": "https://hooks.example/v?planted=1", "secret": "planted-volc",
            "extra_retry_s": 60, "noce": true},
            "tencent": {"url": "https://hooks.example/t", "secret": "planted0tencent", "extra_retry_s": 0,
            "noce": false},
            "native": {"url": "https://hooks.example/n", "secret": "planted-native", "extra_retry_s": 0,
            "noce": false},
        },
        "room": {"type": "livekit", "url": "wss://rooms.example/?planted=1", "key": "name",
        "secret": "planted-livekit"},
        "codec": "vp8",
        "ice": {"servers": [{"url": "turn:turn.example:3478", "username": "u",
        "credential": "planted-turn"}], "relay_only": true},
        "storage": {
            "default": {"to": "s3://recordings?region=eu-west-1", "keys": {"access_key": "planted-a",
            "secret_key": "planted-b"}},
            "backup": {"to": "cos://recordings-1250000000?region=ap-guangzhou",
            "keys": {"access_key": "planted-c", "secret_key": "planted-d", "session_token": "planted-e"}},
            "buckets_dir": null, "cos_endpoint": "http://127.0.0.1:9000/", "s3_endpoint": null,
            "vod_endpoint": null,
            "vod_keys": {"id": "vod", "secret": "planted-vod"},
        },
        "network": {"allow": ["10.0.0.0/8", "*.example.com:443"], "deny": ["192.0.2.1"], "udp": true},
        "ca": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "limits": {"max_time_s": 3600, "attempts": 2, "memory_mib": 1024, "disk_mib": 512, "cpu_weight": 50},
    })
}
