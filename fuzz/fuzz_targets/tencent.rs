//! Whatever comes to the address of both clouds' APIs, and whatever somebody with a key of Tencent's asks for.
//!
//! Run it with `cargo +nightly fuzz run tencent -- -detect_leaks=0`: what the service remembers is no leak, and to look for one each time
//! is slow. The first byte of an input says what the rest is: a request as it is; the body of a signed one; changes of a body that is good,
//! to be signed; a form with a signature of version 1; or changes of the headers of a request that was signed.

#![no_main]

#[path = "service/rig.rs"]
#[allow(dead_code, reason = "other targets use the rest")]
mod rig;

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use pagecast_core::spec::Secret;
use pagecast_server::tencent::sign_v3;
use serde_json::{Value, json};

use rig::{HOST, Rig, SDK_APP_ID, SECRET, changed, percent, raw};

const ACTIONS: [&str; 3] = ["StartWebRecord", "StopWebRecord", "DescribeWebRecord"];

fn good(vod: bool) -> Value {
    let cloud = json!({
        "Vendor": 0, "Region": "ap-guangzhou", "Bucket": "b-125", "AccessKey": "ak", "SecretKey": "sk", "FileNamePrefix": ["a", "b"],
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
        "TaskId": rig::shelf::OVER,
    })
}

fn signed(rig: &Rig, action: &str, body: &[u8], spoil: &[u8]) -> Option<Request<Body>> {
    let headers = sign_v3(&rig.key(), &Secret::new(SECRET), HOST, action, body, rig.now().div_euclid(1000));
    let mut request = Request::builder().method("POST").uri("/").header("host", HOST);
    // Each two bytes change one of the headers.
    let mut spoil = spoil.chunks_exact(2).cycle();
    for (name, value) in headers {
        let mut value = value.into_bytes();
        let length = value.len().max(1);
        if let Some([at, with]) = spoil.next()
            && let Some(byte) = value.get_mut(usize::from(*at) % length)
        {
            *byte ^= with;
        }
        request = request.header(name, value);
    }
    request.body(Body::from(body.to_vec())).ok()
}

/// A form of version 1 with `more` in it, by GET or by POST.
fn form(rig: &Rig, action: &str, post: bool, more: &[u8]) -> Option<Request<Body>> {
    let (key, stamp) = (rig.key(), rig.now().div_euclid(1000));
    let form = format!(
        "Action={action}&Version=2019-07-22&SecretId={key}&Timestamp={stamp}&Nonce=1&Signature=AAAA&SdkAppId={SDK_APP_ID}&{}",
        percent(more)
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
    static RIG: OnceLock<Rig> = OnceLock::new();
    let rig = RIG.get_or_init(|| Rig::new(4000));
    let [kind, rest @ ..] = data else { return };
    rig.begin();
    let (action, flag) = (ACTIONS[usize::from(kind >> 3) % 3], kind >> 5 & 1 == 1);
    let request = match kind % 5 {
        0 => raw(rest),
        1 => signed(rig, action, rest, &[]),
        2 => signed(rig, action, changed(&good(flag), rest).to_string().as_bytes(), &[]),
        3 => form(rig, action, flag, rest),
        _ => signed(rig, action, good(flag).to_string().as_bytes(), rest),
    };
    let Some(said) = request.and_then(|request| rig.send(request)) else { return };
    assert!(said.status.as_u16() < 500, "{} {}", said.status, String::from_utf8_lossy(&said.body));
    // A request as it is may be for another API.
    if kind % 5 != 0 && kind % 5 != 4 {
        assert!(said.status.is_success(), "{}", said.status);
        let answer = said.json();
        assert!(answer["Response"]["RequestId"].is_string(), "{answer}");
        // What is good is taken: behind a wall there is nothing to be found.
        let good = kind % 5 == 2 && rest.is_empty() && action == ACTIONS[0];
        assert!(!good || answer["Response"]["TaskId"].is_string(), "{answer}");
        assert_ne!(answer["Response"]["Error"]["Code"], "InternalError", "{answer}");
    }
});
