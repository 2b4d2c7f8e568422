//! Whatever comes to the address of both clouds' APIs, and whatever somebody with a key of Volcengine's asks for.
//!
//! Run it with `cargo +nightly fuzz run volcengine -- -detect_leaks=0`: what the service remembers is no leak, and to look for one each time
//! is slow. The first byte of an input says what the rest is: a request as it is; the body of a signed one; changes of a body that is good,
//! to be signed; a query, to be signed; or changes of the headers of a request that was signed.

#![no_main]

#[path = "service/rig.rs"]
#[allow(dead_code, reason = "other targets use the rest")]
mod rig;

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use pagecast_core::spec::Secret;
use pagecast_server::volcengine::sign::{Unsigned, sign};
use serde_json::{Value, json};

use rig::{APP_ID, HOST, Rig, SECRET, changed, percent, raw};

const ACTIONS: [&str; 3] = ["StartWebcast", "StopWebcast", "GetWebCastTask"];
const VERSIONS: [&str; 2] = ["2020-12-01", "2023-11-01"];

fn good() -> Value {
    json!({
        "AppId": APP_ID, "RoomId": "room1", "TaskId": "task1", "UserId": "webcast_1", "BusinessId": "b",
        "SourceURL": "https://a.example/b?c=d", "MaxRunningTime": 600,
        "VideoSolutions": [
            {"Width": 1280, "Height": 720, "FrameRate": 30, "Bitrate": 2000},
            {"Width": 640, "Height": 360, "FrameRate": 15, "Bitrate": 0},
        ],
        "MonitorConfig": {"FreezeCheckInterval": 2, "BlankCheckInterval": 30, "CrashCheckInterval": 1},
        "EventNotifyConfig": {"EnableEventNotify": true, "StartTimeout": 10},
    })
}

fn signed(rig: &Rig, method: &str, query: &str, body: &[u8], spoil: &[u8]) -> Option<Request<Body>> {
    let unsigned = Unsigned { method, host: HOST, query, body, region: "cn-north-1" };
    let headers = sign(&unsigned, &rig.key(), &Secret::new(SECRET), rig.now()).ok()?;
    let mut request = Request::builder().method(method).uri(format!("/?{query}")).header("host", HOST);
    // Each two bytes change one of the headers.
    let mut spoil = spoil.chunks_exact(2).cycle();
    for (name, value) in headers {
        let mut value = value.into_bytes();
        if let Some([at, with]) = spoil.next()
            && let Some(byte) = {
                let length = value.len();
                value.get_mut(usize::from(*at) % length.max(1))
            }
        {
            *byte ^= with;
        }
        request = request.header(name, value);
    }
    request.body(Body::from(body.to_vec())).ok()
}

fuzz_target!(|data: &[u8]| {
    static RIG: OnceLock<Rig> = OnceLock::new();
    let rig = RIG.get_or_init(|| Rig::new(1000));
    let [kind, rest @ ..] = data else { return };
    rig.begin();
    let (action, version) = (ACTIONS[usize::from(kind >> 3) % 3], VERSIONS[usize::from(kind >> 5) % 2]);
    let query = format!("Action={action}&Version={version}");
    let method = if action == ACTIONS[2] { "GET" } else { "POST" };
    let request = match kind % 5 {
        0 => raw(rest),
        1 => signed(rig, method, &query, rest, &[]),
        2 => signed(rig, "POST", &query, changed(&good(), rest).to_string().as_bytes(), &[]),
        3 => signed(rig, method, &format!("{query}&{}", percent(rest)), b"", &[]),
        _ => signed(rig, method, &query, good().to_string().as_bytes(), rest),
    };
    let Some(said) = request.and_then(|request| rig.send(request)) else { return };
    assert!(said.status.as_u16() < 500, "{} {}", said.status, String::from_utf8_lossy(&said.body));
    // A request as it is may be for another API.
    if kind % 5 != 0 {
        let answer = said.json();
        let about = &answer["ResponseMetadata"];
        assert_eq!(said.status.is_success(), about["Error"].is_null(), "{answer}");
        // What is good is taken: behind a wall there is nothing to be found.
        let good = kind % 5 == 2 && rest.is_empty() && action == ACTIONS[0];
        assert!(!good || said.status.is_success(), "{answer}");
        assert_eq!(said.headers["x-tt-logid"].to_str().ok(), about["RequestId"].as_str(), "{answer}");
    }
});
