use axum::response::Response;
use pagecast_core::cast::{EndReason, HealthFault};
use pagecast_core::connection;

use super::*;

const STREAM_TIMEOUT: Duration = Duration::from_secs(60);

async fn open_stream(server: &TestServer, path: &str, last: Option<&str>) -> Response {
    let mut request = request("GET", path, TOKEN_ONE).header("accept", "text/html, text/event-stream;q=0.9");
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    server.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

/// Reads a stream until it contains `wanted`, or to its end if that is empty.
async fn read_until(body: &mut Body, wanted: &str) -> String {
    let mut text = String::new();
    while wanted.is_empty() || !text.contains(wanted) {
        let Some(frame) =
            tokio::time::timeout(STREAM_TIMEOUT, body.frame()).await.expect("the stream continues or ends")
        else {
            break;
        };
        text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
    }
    text
}

fn event_ids(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
}

async fn report_all_events(server: &TestServer, claim: &Claim) {
    let url = "rtmp://a.example/b/…".to_owned();
    for kind in [
        EventKind::Live,
        EventKind::Reloaded { fault: HealthFault::Freeze },
        EventKind::Moved { fault: HealthFault::Unreachable },
        EventKind::Restarted,
        EventKind::RecordingStopped,
        EventKind::Push {
            id: 1,
            url,
            state: connection::State::Recovering,
            error: Some("refused".to_owned()),
        },
        EventKind::Room { state: connection::State::Running, error: None },
        EventKind::Upload { failing: true, pending: 2, error: Some("full".to_owned()) },
        EventKind::Ended { reason: EndReason::MaxTime, message: None, cause: None },
        EventKind::Stored {
            files: Vec::new(),
            complete: false,
            backup: false,
            error: Some("full".to_owned()),
        },
    ] {
        server.report(claim, kind).await;
    }
}

#[tokio::test]
async fn the_history_is_listed_in_pages() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    report_all_events(&server, &claim).await;
    let path = format!("/v1/casts/{id}/events");
    let all = server.get(TOKEN_ONE, &path).await.expect_status(200);
    let events = all["events"].as_array().unwrap();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "queued",
            "started",
            "live",
            "reloaded",
            "moved",
            "restarted",
            "recording-stopped",
            "push",
            "room",
            "upload",
            "ended",
            "stored",
        ]
    );
    let at = "2026-11-21T17:00:00.000Z";
    for (seq, more) in [
        (1, json!({})),
        (4, json!({"fault": "freeze"})),
        (5, json!({"fault": "unreachable"})),
        (
            8,
            json!({"push": {"id": 1, "url": "rtmp://a.example/b/…", "state": "recovering",
            "error": "refused"}}),
        ),
        (9, json!({"room": {"state": "running"}})),
        (10, json!({"upload": {"failing": true, "pending": 2, "error": "full"}})),
        (11, json!({"end": {"reason": "max-time"}})),
        (12, json!({"stored": {"complete": false, "backup": false, "error": "full", "files": []}})),
    ] {
        let mut expected =
            json!({"id": format!("{id}-{seq}"), "seq": seq, "at": at, "event": names[seq - 1]});
        for (name, value) in more.as_object().unwrap() {
            expected[name] = value.clone();
        }
        assert_eq!(events[seq - 1], expected);
    }
    assert_eq!(all["next"], Value::Null);
    let page = server.get(TOKEN_ONE, &format!("{path}?after=3&limit=2")).await.expect_status(200);
    assert_eq!(
        (&page["events"][0]["seq"], &page["events"][1]["seq"], &page["next"]),
        (&json!(4), &json!(5), &json!(5))
    );
    assert_eq!(
        server.get(TOKEN_ONE, &format!("{path}?after=12")).await.expect_status(200)["events"],
        json!([])
    );
    for (query, field) in [
        ("after=x", "after"),
        ("after=-1", "after"),
        ("after=18446744073709551615", "after"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("more=1", "more"),
    ] {
        server.get(TOKEN_ONE, &format!("{path}?{query}")).await.expect_error(400, "invalid-parameter", field);
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_cast_is_closed() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/events");
    let response = open_stream(&server, &path, None).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert!(response.headers().contains_key("x-request-id"));
    let mut body = response.into_body();
    let text = read_until(&mut body, "queued").await;
    assert!(text.contains("event: queued\n") && text.contains(&format!("\"id\":\"{id}-1\"")), "{text}");
    let claim = server.claim().await;
    read_until(&mut body, "started").await;
    server.report(&claim, EventKind::Live).await;
    read_until(&mut body, "event: live").await;
    server.report(&claim, EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None }).await;
    read_until(&mut body, "event: ended").await;
    let stored = EventKind::Stored { files: Vec::new(), complete: true, backup: false, error: None };
    server.report(&claim, stored).await;
    server.service.fleet.close(&claim.ticket, None, None).await.unwrap();
    let rest = read_until(&mut body, "").await;
    assert!(event_ids(&rest).ends_with(&[5]), "the last event is sent before the end: {rest}");
    // A client that lost the connection continues after its last event, given by number or by id.
    for (last, expected) in [("3", vec![4, 5]), (&format!("{id}-4"), vec![5]), ("5", vec![])] {
        let mut body = open_stream(&server, &path, Some(last)).await.into_body();
        assert_eq!(event_ids(&read_until(&mut body, "").await), expected, "{last}");
    }
    let mut body = open_stream(&server, &format!("{path}?after=2"), None).await.into_body();
    assert_eq!(event_ids(&read_until(&mut body, "").await), [3, 4, 5]);
}

#[tokio::test]
async fn a_warning_names_the_setting_and_is_shown_once() {
    use pagecast_core::cast::Warning;
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    for warning in [Warning::WebRtcWithoutUdp, Warning::InsecureTls, Warning::WebRtcWithoutUdp] {
        server.report(&claim, EventKind::Warning { warning }).await;
    }
    let events = server.get(TOKEN_ONE, &format!("/v1/casts/{id}/events")).await.expect_status(200);
    let event = &events["events"][2];
    assert_eq!(
        (&event["event"], &event["warning"]["kind"]),
        (&json!("warning"), &json!("webrtc-without-udp"))
    );
    let shown = server.get(TOKEN_ONE, &format!("/v1/casts/{id}")).await.expect_status(200);
    let warnings = shown["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{shown}");
    for (warning, setting) in warnings.iter().zip(["network.udp", "tls.insecure"]) {
        assert!(warning["message"].as_str().unwrap().contains(setting), "{warning}");
    }
}

#[tokio::test]
async fn the_end_has_the_cause_of_a_failed_load() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    let cause = Some(pagecast_core::cast::LoadError::HttpStatus { status: 503 });
    let message = Some("cannot open http://a.example/: the server answered HTTP 503".to_owned());
    let ended = EventKind::Ended { reason: EndReason::StartFailed, message: message.clone(), cause };
    server.report(&claim, ended).await;
    let end = json!({"reason": "start-failed", "cause": "http-status", "message": message});
    assert_eq!(server.get(TOKEN_ONE, &format!("/v1/casts/{id}")).await.expect_status(200)["end"], end);
    let events = server.get(TOKEN_ONE, &format!("/v1/casts/{id}/events")).await.expect_status(200);
    assert_eq!(events["events"][2]["end"], end);
}

#[tokio::test]
async fn invalid_event_ids_and_too_many_streams_are_refused() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/events");
    for last in ["x", "-1", "", "00000000000000000000000000000000-1"] {
        let request = request("GET", &path, TOKEN_ONE)
            .header("accept", "text/event-stream")
            .header("last-event-id", last);
        let response = server.send(request.body(Body::empty()).unwrap()).await;
        response.expect_error(400, "invalid-parameter", "Last-Event-ID");
    }
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(open_stream(&server, &path, None).await);
    }
    let sixty_fifth = || {
        request("GET", &path, TOKEN_ONE).header("accept", "text/event-stream").body(Body::empty()).unwrap()
    };
    let response = server.send(sixty_fifth()).await;
    response.expect_error(429, "too-many-streams", "-");
    assert_eq!(response.header("retry-after"), "10");
    server.get(TOKEN_ONE, &path).await.expect_status(200);
    open.clear();
    assert_eq!(open_stream(&server, &path, None).await.status(), 200, "a closed stream frees its permit");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_removed() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let mut body = open_stream(&server, &format!("/v1/casts/{id}/events"), None).await.into_body();
    read_until(&mut body, "queued").await;
    let mut one = (*server.service.apps.by_name("one").unwrap()).clone();
    one.tokens.retain(|token| token.reveal() != TOKEN_ONE);
    server.service.apps.replace(vec![one]);
    let ends = async { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(20), ends).await.expect("the stream ends");
}

#[tokio::test]
async fn a_quiet_stream_sends_keep_alives() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let mut body = open_stream(&server, &format!("/v1/casts/{id}/events"), None).await.into_body();
    read_until(&mut body, "queued").await;
    assert!(read_until(&mut body, ":").await.contains(": keep-alive"));
}

#[tokio::test]
async fn a_callback_is_rendered_the_same_each_time() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    let receiver = server.service.apps.by_name("one").unwrap().settings.callbacks.native.clone().unwrap();
    let rendered = async || {
        let cast = server.service.fleet.get(&id).await.unwrap().unwrap();
        let events = server.service.fleet.events(&id, 0, 100).await.unwrap();
        events.iter().map(|event| crate::rest::callback::render(&receiver, &cast, event)).collect::<Vec<_>>()
    };
    let url = "rtmp://a.example/b/…".to_owned();
    let push = || EventKind::Push { id: 1, url: url.clone(), state: connection::State::Running, error: None };
    let mut before = rendered().await;
    for kind in [
        push(),
        EventKind::Live,
        push(),
        EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None },
        push(),
        EventKind::Stored { files: Vec::new(), complete: true, backup: false, error: None },
    ] {
        server.advance_clock(1500);
        server.report(&claim, kind).await;
        let after = rendered().await;
        assert_eq!(after[..before.len()], before[..], "callbacks of earlier events are unchanged");
        before = after;
    }
    let states = before.iter().map(|messages| {
        let [message] = messages.as_slice() else { panic!("expected one message: {messages:?}") };
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        assert_no_secrets(&body);
        assert_eq!((&body["cast"], &body["app"]), (&json!(id.as_str()), &json!("one")));
        format!("{} {}", body["event"].as_str().unwrap(), body["state"].as_str().unwrap())
    });
    let expected = [
        "queued queued",
        "started starting",
        "push starting",
        "live live",
        "push live",
        "ended ended",
        "push ended",
        "stored ended",
    ];
    assert_eq!(states.collect::<Vec<_>>(), expected);
    let headers = &before[3][0].headers;
    let header = |name: &str| &headers.iter().find(|(known, _)| *known == name).unwrap().1;
    assert_eq!(header("Pagecast-Event-Id"), &format!("{id}-4"));
    assert_eq!(header("Pagecast-Timestamp"), &((START_MS + 3000) / 1000).to_string());
    assert!(header("Pagecast-Signature").strip_prefix("v1=").is_some_and(|hex| hex.len() == 64));
}
