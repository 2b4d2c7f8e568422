use pagecast_core::cast::EndReason;
use pagecast_core::connection;
use pagecast_fleet::{CastStats, RoomStats, StoredFile};

use super::*;
use crate::app::testing::pending_commands;

fn body() -> Value {
    json!({"url": "http://a.example/", "recording": {}})
}

async fn post_with_key(server: &TestServer, token: &str, key: &str, body: &str) -> TestResponse {
    let request = request("POST", "/v1/casts", token)
        .header("content-type", "application/json")
        .header("idempotency-key", key);
    server.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn a_repeated_idempotency_key_returns_the_same_cast() {
    let server = TestServer::new().await;
    let text = r#"{"url": "http://a.example/", "recording": {"segment_s": 6}}"#;
    let same = r#"{ "recording": {"segment_s":6}, "url":"http://a.example/" }"#;
    let first = post_with_key(&server, TOKEN_ONE, "a key", text).await;
    let id = first.expect_status(201)["id"].clone();
    assert_eq!(first.header("idempotent-replayed"), "");
    for again in [text, same] {
        let response = post_with_key(&server, TOKEN_ONE_OTHER, "a key", again).await;
        assert_eq!(response.expect_status(200)["id"], id);
        assert_eq!(response.header("idempotent-replayed"), "true");
        assert_eq!(response.header("location"), first.header("location"));
    }
    let other = r#"{"url": "http://b.example/", "recording": {}}"#;
    post_with_key(&server, TOKEN_ONE, "a key", other).await.expect_error(
        409,
        "idempotency-key-reused",
        "Idempotency-Key",
    );
    assert_ne!(
        post_with_key(&server, TOKEN_TWO, "a key", text).await.expect_status(201)["id"],
        id,
        "keys of different applications are independent"
    );
    // The key keeps naming the cast after its end, until 24 hours have passed.
    server
        .post(TOKEN_ONE, &format!("/v1/casts/{}/stop", id.as_str().unwrap()), &json!({}))
        .await
        .expect_status(200);
    server.advance_clock(86_399_000);
    assert_eq!(post_with_key(&server, TOKEN_ONE, "a key", text).await.expect_status(200)["state"], "ended");
    server.advance_clock(2_000);
    assert_ne!(post_with_key(&server, TOKEN_ONE, "a key", text).await.expect_status(201)["id"], id);
}

#[tokio::test]
async fn invalid_idempotency_keys_are_refused() {
    let server = TestServer::new().await;
    let text = body().to_string();
    let long = "k".repeat(129);
    for key in ["", "a\tb", long.as_str()] {
        post_with_key(&server, TOKEN_ONE, key, &text).await.expect_error(
            400,
            "invalid-parameter",
            "Idempotency-Key",
        );
    }
    let two = request("POST", "/v1/casts", TOKEN_ONE)
        .header("content-type", "application/json")
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    server.send(two.body(Body::from(text.clone())).unwrap()).await.expect_error(
        400,
        "invalid-parameter",
        "Idempotency-Key",
    );
    let not_ascii = request("POST", "/v1/casts", TOKEN_ONE)
        .header("content-type", "application/json")
        .header("idempotency-key", &b"\xc3\xa4"[..]);
    server.send(not_ascii.body(Body::from(text.clone())).unwrap()).await.expect_error(
        400,
        "invalid-parameter",
        "Idempotency-Key",
    );
    post_with_key(&server, TOKEN_ONE, &"k".repeat(128), &text).await.expect_status(201);
}

#[tokio::test]
async fn quota_and_queue_limit_are_enforced() {
    let server = TestServer::with_casts_config(json!({"max_queued_casts": 4})).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(server.create_cast().await);
    }
    let response = server.post(TOKEN_ONE, "/v1/casts", &body()).await;
    response.expect_error(429, "too-many-casts", "-");
    assert!(response.header("retry-after").parse::<u64>().unwrap() >= 1);
    server.post(TOKEN_TWO, "/v1/casts", &body()).await.expect_status(201);
    let response = server.post(TOKEN_TWO, "/v1/casts", &body()).await;
    response.expect_error(429, "queue-full", "-");
    assert!(response.header("retry-after").parse::<u64>().unwrap() >= 1);
    server.post(TOKEN_ONE, &format!("/v1/casts/{}/stop", ids[0]), &json!({})).await.expect_status(200);
    server.post(TOKEN_ONE, "/v1/casts", &body()).await.expect_status(201);
}

#[tokio::test]
async fn a_repeated_stop_is_one_command() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    let path = format!("/v1/casts/{id}/stop");
    for _ in 0..3 {
        let shown = server.post(TOKEN_ONE, &path, &json!({})).await.expect_status(200);
        assert_eq!((&shown["state"], &shown["stop_requested"]), (&json!("starting"), &json!(true)));
    }
    assert_eq!(pending_commands(&*server.service.fleet, &claim.ticket).await.len(), 1);
    server.report(&claim, EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None }).await;
    let shown =
        server.send(request("POST", &path, TOKEN_ONE).body(Body::empty()).unwrap()).await.expect_status(200);
    assert_eq!((&shown["state"], &shown["end"]["reason"]), (&json!("ended"), &json!("stopped")));
    let waiting = server.create_cast().await;
    let shown =
        server.post(TOKEN_ONE, &format!("/v1/casts/{waiting}/stop"), &json!({})).await.expect_status(200);
    assert_eq!(
        (&shown["state"], &shown["closed"]),
        (&json!("ended"), &json!(true)),
        "no worker had claimed it"
    );
    let nobody = CastId::new(0, [0; 10]);
    server.post(TOKEN_ONE, &format!("/v1/casts/{nobody}/stop"), &json!({})).await.expect_error(
        404,
        "no-such-cast",
        "-",
    );
}

#[tokio::test]
async fn a_cast_is_shown_with_the_state_of_its_outputs() {
    let server = TestServer::new().await;
    let body = json!({
        "url": "http://a.example/", "recording": {}, "room": {"room": "r", "user": "u"},
        "pushes": [{"url": "rtmp://a.example/b/planted-1"}, {"url": "rtmp://a.example/b/planted-2"}],
    });
    let id = server.create_cast_as(TOKEN_ONE, &body).await;
    let claim = server.claim().await;
    let path = format!("/v1/casts/{id}");
    server.advance_clock(1000);
    let url = "rtmp://a.example/b/…".to_owned();
    let push = |state| EventKind::Push { id: 1, url: url.clone(), state, error: Some("refused".to_owned()) };
    let room_event = EventKind::Room { state: connection::State::Running, error: None };
    for kind in [EventKind::Live, push(connection::State::Recovering), room_event] {
        server.report(&claim, kind).await;
    }
    let room =
        RoomStats { state: connection::State::Recovering, bitrate_kbps: 900, rtt_ms: Some(12.0), loss: 0.25 };
    let stats = CastStats {
        at_ms: START_MS,
        fps: 29.5,
        pushes: vec![(1, connection::State::Running)],
        room: Some(room),
        upload_error: Some("no space".to_owned()),
        ..CastStats::default()
    };
    server.service.fleet.put_stats(&claim.ticket, stats).await;
    let shown = server.get(TOKEN_ONE, &path).await.expect_status(200);
    assert_no_secrets(&shown);
    assert_eq!(shown["pushes"][0], json!({"id": 1, "url": url, "state": "running", "error": "refused"}));
    assert_eq!(shown["pushes"][1], json!({"id": 2, "url": url, "state": "idle"}));
    assert_eq!(shown["room"]["state"], "recovering");
    assert_eq!(shown["recording"]["upload_error"], "no space");
    assert_eq!((&shown["stats"]["fps"], &shown["stats"]["room_loss"]), (&json!(29.5), &json!(0.25)));
    assert_eq!(shown["live_at"], "2026-11-21T17:00:01.000Z");
    let end = EndReason::PageFailed(pagecast_core::cast::HealthFault::Freeze);
    server.report(&claim, EventKind::RecordingStopped).await;
    server
        .report(
            &claim,
            EventKind::Ended { reason: end, message: Some("the page froze".to_owned()), cause: None },
        )
        .await;
    let file = StoredFile {
        name: "a_0.mp4".to_owned(),
        bytes: 5,
        begin_ms: START_MS,
        end_ms: START_MS + 1500,
        media_id: None,
        url: None,
    };
    let stored = EventKind::Stored { files: vec![file], complete: true, backup: false, error: None };
    server.report(&claim, stored).await;
    server.service.fleet.close(&claim.ticket, None, None).await.unwrap();
    let shown = server.get(TOKEN_ONE, &path).await.expect_status(200);
    assert_eq!(
        shown["end"],
        json!({"reason": "page-failed", "fault": "freeze", "message": "the page froze"})
    );
    assert_eq!(shown["recording"]["stopped"], true);
    assert_eq!(
        shown["recording"]["stored"],
        json!({"complete": true, "backup": false, "files": [{
            "name": "a_0.mp4", "bytes": 5,
            "begin_at": "2026-11-21T17:00:00.000Z", "end_at": "2026-11-21T17:00:01.500Z",
        }]})
    );
    assert_eq!((&shown["closed"], &shown["room"]["watch_url"]), (&json!(true), &Value::Null));
    for link in ["cast", "events", "evidence", "deliveries"] {
        server.get(TOKEN_ONE, shown["links"][link].as_str().unwrap()).await.expect_status(200);
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let server = TestServer::new().await;
    let mut ids = Vec::new();
    for token in [TOKEN_ONE, TOKEN_TWO, TOKEN_TWO, TOKEN_TWO, TOKEN_ONE] {
        ids.push(server.create_cast_as(token, &body()).await.to_string());
        server.advance_clock(1000);
    }
    server.post(TOKEN_TWO, &format!("/v1/casts/{}/stop", ids[2]), &json!({})).await.expect_status(200);
    let found = async |token: &str, query: &str| -> Vec<usize> {
        let page = server.get(token, &format!("/v1/casts?{query}")).await.expect_status(200);
        let index = |cast: &Value| ids.iter().position(|id| cast["id"] == **id).unwrap();
        page["casts"].as_array().unwrap().iter().map(index).collect()
    };
    for (token, query, expected) in [
        (ADMIN_TOKEN, "", vec![4, 3, 2, 1, 0]),
        (ADMIN_TOKEN, "app=two", vec![3, 2, 1]),
        (ADMIN_TOKEN, "app=nobody", vec![]),
        (TOKEN_TWO, "", vec![3, 2, 1]),
        (TOKEN_TWO, "app=two", vec![3, 2, 1]),
        (TOKEN_TWO, "state=ended", vec![2]),
        (TOKEN_TWO, "state=queued", vec![3, 1]),
        (TOKEN_TWO, "state=queued,ended", vec![3, 2, 1]),
        (TOKEN_TWO, "state=queued&state=ended", vec![3, 2, 1]),
        (TOKEN_TWO, "state=live", vec![]),
        (TOKEN_TWO, "api=v1", vec![3, 2, 1]),
        (TOKEN_TWO, "api=tencent", vec![]),
        (ADMIN_TOKEN, "since=2026-11-21T17:00:02Z", vec![4, 3, 2]),
        (ADMIN_TOKEN, "before=2026-11-21T17:00:02Z", vec![1, 0]),
        (ADMIN_TOKEN, "since=2026-11-21T18:00:01%2B01:00&before=2026-11-21T17:00:03.5Z", vec![3, 2, 1]),
        (ADMIN_TOKEN, "since=2026-11-21T18:00:01+01:00&limit=2", vec![4, 3]),
    ] {
        assert_eq!(found(token, query).await, expected, "{query}");
    }
    let (mut all, mut query) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = server.get(ADMIN_TOKEN, &format!("/v1/casts?{query}")).await.expect_status(200);
        all.extend(page["casts"].as_array().unwrap().iter().map(|cast| cast["id"].clone()));
        assert!(page["casts"].as_array().unwrap().len() <= 2);
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=2&after={next}");
    }
    ids.reverse();
    assert_eq!(json!(all), json!(ids), "each cast once, the newest first");
    for (query, field) in [
        ("state=dead", "state"),
        ("state=", "state"),
        ("api=nobody", "api"),
        ("since=yesterday", "since"),
        ("before=1700000000", "before"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=x", "after"),
        ("colour=red", "colour"),
    ] {
        server.get(ADMIN_TOKEN, &format!("/v1/casts?{query}")).await.expect_error(
            400,
            "invalid-parameter",
            field,
        );
    }
}

#[tokio::test]
async fn the_history_quota_is_enforced() {
    let server = TestServer::new().await;
    let mut all: Vec<_> = server.service.apps.all().iter().map(|app| (**app).clone()).collect();
    all.iter_mut().for_each(|app| app.settings.max_history_mib = 1);
    server.service.apps.replace(all);
    let cast_body = json!({"url": "http://a.example/", "recording": {}, "css": "x".repeat(400_000)});
    let first = server.create_cast_as(TOKEN_TWO, &cast_body).await;
    server.create_cast_as(TOKEN_TWO, &cast_body).await;
    let refused = server.post(TOKEN_TWO, "/v1/casts", &cast_body).await;
    refused.expect_error(429, "history-quota-exceeded", "-");
    assert_eq!(refused.header("retry-after"), "10");
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("0.8 MiB") && message.contains("1 MiB (max_history_mib)"), "{message}");
    server.create_cast_as(TOKEN_ONE, &cast_body).await;
    server.post(TOKEN_TWO, &format!("/v1/casts/{first}/stop"), &json!({})).await.expect_status(200);
    server.create_cast_as(TOKEN_TWO, &cast_body).await;
}

#[tokio::test]
async fn recent_unstarted_casts_count_towards_the_quota() {
    let server = TestServer::new().await;
    let cast_body = json!({"url": "http://a.example/", "recording": {}, "queue_timeout_s": 0});
    // The quota of `one` is 3.
    for _ in 0..6 {
        server.create_cast_as(TOKEN_ONE, &cast_body).await;
        server.service.fleet.sweep().await.unwrap();
    }
    server.post(TOKEN_ONE, "/v1/casts", &cast_body).await.expect_error(429, "too-many-casts", "-");
    server.advance_clock(60_000);
    server.create_cast_as(TOKEN_ONE, &cast_body).await;
}
