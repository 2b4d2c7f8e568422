//! Any requests to Volcengine's API, with a valid key or raw.
//!
//! Run it with `cargo +nightly fuzz run volcengine -- -detect_leaks=0`: the service keeps state, which is not
//! a leak, and the check is slow. The first byte of an input selects what the rest is: a raw request; the
//! body of a signed one; mutations of a valid body, which is then signed; a query, which is then signed; or
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
use pagecast_server::volcengine::signature::{UnsignedRequest, sign};
use serde_json::{Value, json};

use fixture::{APP_ID, Fixture, HOST, SECRET, mutated, percent_encode, raw_request};

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

fn signed(
    fixture: &Fixture,
    method: &str,
    query: &str,
    body: &[u8],
    mutation: &[u8],
) -> Option<Request<Body>> {
    let unsigned = UnsignedRequest { method, host: HOST, query, body, region: "cn-north-1" };
    let headers = sign(&unsigned, &fixture.key(), &Secret::new(SECRET), fixture.now()).ok()?;
    let mut request = Request::builder().method(method).uri(format!("/?{query}")).header("host", HOST);
    // Each pair of bytes changes one header.
    let mut mutation = mutation.chunks_exact(2).cycle();
    for (name, value) in headers {
        let mut value = value.into_bytes();
        if let Some([at, with]) = mutation.next()
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
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    let fixture = FIXTURE.get_or_init(|| Fixture::new(1000));
    let [kind, rest @ ..] = data else { return };
    fixture.reset();
    let (action, version) = (ACTIONS[usize::from(kind >> 3) % 3], VERSIONS[usize::from(kind >> 5) % 2]);
    let query = format!("Action={action}&Version={version}");
    let method = if action == ACTIONS[2] { "GET" } else { "POST" };
    let request = match kind % 5 {
        0 => raw_request(rest),
        1 => signed(fixture, method, &query, rest, &[]),
        2 => signed(fixture, "POST", &query, mutated(&good(), rest).to_string().as_bytes(), &[]),
        3 => signed(fixture, method, &format!("{query}&{}", percent_encode(rest)), b"", &[]),
        _ => signed(fixture, method, &query, good().to_string().as_bytes(), rest),
    };
    let Some(response) = request.and_then(|request| fixture.send(request)) else { return };
    assert!(
        response.status.as_u16() < 500,
        "{} {}",
        response.status,
        String::from_utf8_lossy(&response.body)
    );
    // A raw request may be for another API.
    if kind % 5 != 0 {
        let answer = response.json();
        let metadata = &answer["ResponseMetadata"];
        assert_eq!(response.status.is_success(), metadata["Error"].is_null(), "{answer}");
        // A valid request must be accepted; otherwise the target tests little.
        let good = kind % 5 == 2 && rest.is_empty() && action == ACTIONS[0];
        assert!(!good || response.status.is_success(), "{answer}");
        assert_eq!(response.headers["x-tt-logid"].to_str().ok(), metadata["RequestId"].as_str(), "{answer}");
    }
});
