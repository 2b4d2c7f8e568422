//! Any requests to Tencent's API, with a valid key or raw.
//!
//! Run it with `cargo +nightly fuzz run tencent -- -detect_leaks=0`: the service keeps state, which is not a
//! leak, and the check is slow. The first byte of an input selects what the rest is: a raw request; the body
//! of a signed one; mutations of a valid body, which is then signed; a form with a version 1 signature; or
//! mutations of the headers of a signed request.

#![no_main]

#[path = "service/fixture.rs"]
#[allow(dead_code, reason = "other targets use the rest")]
mod fixture;

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use pagecast_core::spec::Secret;
use pagecast_server::tencent::sign_v3;
use serde_json::{Value, json};

use fixture::{Fixture, HOST, SDK_APP_ID, SECRET, mutated, percent_encode, raw_request};

const ACTIONS: [&str; 3] = ["StartWebRecord", "StopWebRecord", "DescribeWebRecord"];

fn good(vod: bool) -> Value {
    let cloud = json!({
        "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "b-125", "AccessKey": "ak", "SecretKey": "sk",
        "FileNamePrefix": ["a", "b"],
    });
    let vod_cloud = json!({"TencentVod": {
        "Procedure": "p", "ExpireTime": 86_400, "StorageRegion": "ap-guangzhou", "ClassId": 1, "SubAppId": 2,
        "SessionContext": "s", "SourceContext": "t", "MediaType": 0, "UserDefineRecordId": "u",
    }});
    let storage = if vod { json!({"CloudVod": vod_cloud}) } else { json!({"CloudStorage": cloud}) };
    json!({
        "RecordUrl": "https://example.com/room?id=1", "SdkAppId": SDK_APP_ID, "MaxDurationLimit": 3600,
        "StorageParams": storage,
        "WebRecordVideoParams": {"Width": 1280, "Height": 720, "Format": "hls", "MaxMediaFileDuration": 60},
        "RecordId": "r", "ReadyTimeout": 10,
        "PublishCdnParams": [{"PublishCdnUrl": "rtmp://live.example/app/key", "IsTencentCdn": 1}],
        "EmulateMobileParams": {"MobileDeviceType": 1, "ScreenOrientation": 1},
        "TaskId": fixture::memory_fleet::ENDED_CAST_ID,
    })
}

fn signed(fixture: &Fixture, action: &str, body: &[u8], mutation: &[u8]) -> Option<Request<Body>> {
    let headers =
        sign_v3(&fixture.key(), &Secret::new(SECRET), HOST, action, body, fixture.now().div_euclid(1000));
    let mut request = Request::builder().method("POST").uri("/").header("host", HOST);
    // Each pair of bytes changes one header.
    let mut mutation = mutation.chunks_exact(2).cycle();
    for (name, value) in headers {
        let mut value = value.into_bytes();
        let length = value.len().max(1);
        if let Some([at, with]) = mutation.next()
            && let Some(byte) = value.get_mut(usize::from(*at) % length)
        {
            *byte ^= with;
        }
        request = request.header(name, value);
    }
    request.body(Body::from(body.to_vec())).ok()
}

/// A form with a version 1 signature and `more` fields, by GET or by POST.
fn form(fixture: &Fixture, action: &str, post: bool, more: &[u8]) -> Option<Request<Body>> {
    let (key, stamp) = (fixture.key(), fixture.now().div_euclid(1000));
    let form = format!(
        "Action={action}&Version=2019-07-22&SecretId={key}&Timestamp={stamp}&Nonce=1&Signature=AAAA&\
         SdkAppId={SDK_APP_ID}&{}",
        percent_encode(more)
    );
    let request = Request::builder().header("host", HOST);
    if post {
        let kind = "application/x-www-form-urlencoded";
        request.method("POST").uri("/").header("content-type", kind).body(Body::from(form)).ok()
    } else {
        request.method("GET").uri(format!("/?{form}")).body(Body::empty()).ok()
    }
}

fuzz_target!(|data: &[u8]| {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    let fixture = FIXTURE.get_or_init(|| Fixture::new(4000));
    let [kind, rest @ ..] = data else { return };
    fixture.reset();
    let (action, flag) = (ACTIONS[usize::from(kind >> 3) % 3], kind >> 5 & 1 == 1);
    let request = match kind % 5 {
        0 => raw_request(rest),
        1 => signed(fixture, action, rest, &[]),
        2 => signed(fixture, action, mutated(&good(flag), rest).to_string().as_bytes(), &[]),
        3 => form(fixture, action, flag, rest),
        _ => signed(fixture, action, good(flag).to_string().as_bytes(), rest),
    };
    let Some(response) = request.and_then(|request| fixture.send(request)) else { return };
    assert!(
        response.status.as_u16() < 500,
        "{} {}",
        response.status,
        String::from_utf8_lossy(&response.body)
    );
    // A raw request may be for another API.
    if kind % 5 != 0 && kind % 5 != 4 {
        assert!(response.status.is_success(), "{}", response.status);
        let answer = response.json();
        assert!(answer["Response"]["RequestId"].is_string(), "{answer}");
        // A valid request must be accepted; otherwise the target tests little.
        let good = kind % 5 == 2 && rest.is_empty() && action == ACTIONS[0];
        assert!(!good || answer["Response"]["TaskId"].is_string(), "{answer}");
        assert_ne!(answer["Response"]["Error"]["Code"], "InternalError", "{answer}");
    }
});
