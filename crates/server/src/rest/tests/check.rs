use std::io;
use std::sync::Mutex;

use async_trait::async_trait;
use pagecast_core::CastSpec;
use pagecast_core::dry_run::{
    Codecs, ConsoleMessage, DryRunProblem, DryRunReport, DryRunWarning, FailedRequest, SoundStats,
};
use tokio::sync::Notify;

use super::*;
use crate::PageChecker;

/// A checker that keeps the descriptions, and answers when the test says so.
#[derive(Debug, Default)]
struct FakeChecker {
    specs: Mutex<Vec<CastSpec>>,
    may_answer: Notify,
    fails: bool,
}

#[async_trait]
impl PageChecker for FakeChecker {
    async fn check(&self, spec: CastSpec) -> io::Result<DryRunReport> {
        let url = spec.source.url.to_string();
        self.specs.lock().unwrap().push(spec);
        self.may_answer.notified().await;
        if self.fails {
            return Err(io::Error::other("planted"));
        }
        let peak = [0.5, 0.25];
        Ok(DryRunReport {
            url,
            title: "A page".to_owned(),
            http_status: Some(200),
            load_ms: Some(800),
            picture: Some("data:image/jpeg;base64,AAAA".to_owned()),
            problem: Some(DryRunProblem { kind: "not-ready".to_owned(), message: "why".to_owned() }),
            failed_requests: vec![FailedRequest {
                url: "http://a.example/x.js".to_owned(),
                reason: "the server answered HTTP 404".to_owned(),
                status: Some(404),
                resource_type: "script".to_owned(),
            }],
            console: vec![ConsoleMessage { level: "error".to_owned(), text: "<b>".to_owned() }],
            codecs: Codecs { h264: true, ..Codecs::default() },
            autoplay: true,
            sound: SoundStats { streams: 1, peak },
            fps: 29.5,
            cpu_cores: 0.25,
            memory_bytes: 1 << 20,
            warnings: vec![DryRunWarning { kind: "blank".to_owned(), message: "white".to_owned() }],
            ..DryRunReport::default()
        })
    }
}

async fn server_with(checker: FakeChecker) -> (TestServer, Arc<FakeChecker>) {
    let mut server = TestServer::new().await;
    let checker = Arc::new(checker);
    server.service.page_checker = Some(checker.clone());
    server.router = router_of(crate::rest::router(server.service.clone()));
    (server, checker)
}

const CHECK: &str = "/v1/casts/check";

#[tokio::test]
async fn a_page_is_opened_without_outputs() {
    let (server, checker) = server_with(FakeChecker::default()).await;
    checker.may_answer.notify_one();
    let body = json!({
        "url": "http://a.example/?planted=1", "width": 640, "height": 360, "locale": "de-DE",
        "headers": {"X-Key": "planted"}, "recording": {"format": "hls"},
        "pushes": [{"url": "rtmp://a.example/b/planted"}], "room": {"room": "r", "user": "u"},
    });
    let result = server.post(TOKEN_ONE, CHECK, &body).await.expect_status(200);
    assert_no_secrets(&result);
    let took_ms = result["took_ms"].clone();
    assert_eq!(
        result,
        json!({
            "ok": false, "url": "http://a.example/?…", "title": "A page", "http_status": 200,
            "load_ms": 800, "ready_ms": null, "problem": {"kind": "not-ready", "message": "why"},
            "picture": "data:image/jpeg;base64,AAAA",
            "failed_requests": [{
                "url": "http://a.example/x.js", "reason": "the server answered HTTP 404", "status": 404,
                "type": "script",
            }],
            "console": [{"level": "error", "text": "<b>"}],
            "codecs": {"h264": true, "vp8": false, "vp9": false, "av1": false, "aac": false, "opus": false},
            "autoplay": {"allowed": true}, "sound": {"streams": 1, "peak": [0.5, 0.25]},
            "fps": 29.5, "cpu_cores": 0.25, "memory_bytes": 1_048_576,
            "warnings": [{"kind": "blank", "message": "white"}],
            "node": "w", "fits_now": false, "fits_reason": "no node runs casts", "took_ms": took_ms,
        })
    );
    let spec = checker.specs.lock().unwrap()[0].clone();
    assert!(spec.room.is_none() && spec.recording.is_none() && spec.pushes.is_empty());
    assert_eq!((spec.source.size.width(), spec.source.context.locale.as_deref()), (640, Some("de-DE")));
    assert_eq!(spec.source.context.headers[0].1.reveal(), "planted");
    let queued = server.get(TOKEN_ONE, "/v1/casts").await.expect_status(200);
    assert_eq!(queued["casts"], json!([]), "no cast was created");
}

#[tokio::test]
async fn a_check_needs_no_output_but_valid_values() {
    let (server, checker) = server_with(FakeChecker::default()).await;
    let check = async |body: Value| server.post(TOKEN_ONE, CHECK, &body).await;
    for (body, field) in [
        (json!({"url": "a.example"}), "url"),
        (json!({"url": "http://a.example/", "fps": 61}), "fps"),
        (json!({"url": "http://a.example/", "recording": {"to": "/etc"}}), "recording.to"),
        (json!({"url": "http://a.example/", "pushes": [{"url": "rtmp://10.0.0.1/b/c"}]}), "pushes[0].url"),
        (json!({"url": "http://a.example/", "callback": {"url": "http://10.0.0.1/"}}), "callback.url"),
        (json!({"url": "http://a.example/", "queue_timeout_s": 90_000}), "queue_timeout_s"),
    ] {
        check(body).await.expect_error(400, "invalid-parameter", field);
    }
    check(json!({"url": "http://a.example/", "app": "two"})).await.expect_error(403, "forbidden", "app");
    let body = json!({"url": "http://a.example/"});
    server.post("", CHECK, &body).await.expect_error(401, "unauthorized", "-");
    server.post(ADMIN_TOKEN, CHECK, &body).await.expect_error(400, "invalid-parameter", "app");
    assert!(checker.specs.lock().unwrap().is_empty());
    checker.may_answer.notify_one();
    check(body).await.expect_status(200);
}

#[tokio::test]
async fn checks_are_limited() {
    let (server, checker) = server_with(FakeChecker::default()).await;
    let body = json!({"url": "http://a.example/"});
    let second = json!({"url": "http://a.example/", "app": "two"});
    let others = async {
        while checker.specs.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        let refused = server.post(TOKEN_ONE, CHECK, &body).await;
        refused.expect_error(429, "too-many-checks", "-");
        assert_eq!(refused.header("retry-after"), "8");
        checker.may_answer.notify_waiters();
    };
    let (one, two, ()) =
        tokio::join!(server.post(TOKEN_ONE, CHECK, &body), server.post(ADMIN_TOKEN, CHECK, &second), others);
    one.expect_status(200);
    two.expect_status(200);
    checker.may_answer.notify_one();
    server.post(TOKEN_ONE, CHECK, &body).await.expect_status(200);
}

#[tokio::test]
async fn a_node_that_cannot_open_pages_says_so() {
    let body = json!({"url": "http://a.example/"});
    let server = TestServer::new().await;
    server.post(TOKEN_ONE, CHECK, &body).await.expect_error(503, "no-worker", "-");
    let (server, checker) = server_with(FakeChecker { fails: true, ..FakeChecker::default() }).await;
    checker.may_answer.notify_one();
    let response = server.post(TOKEN_ONE, CHECK, &body).await;
    response.expect_error(500, "internal", "-");
    assert_no_secrets(&response.json());
    server.service.draining.store(true, Ordering::SeqCst);
    server.post(TOKEN_ONE, CHECK, &body).await.expect_error(503, "no-worker", "-");
}
