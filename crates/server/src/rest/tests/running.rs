use bytes::Bytes;
use pagecast_core::cast::EndReason;
use pagecast_fleet::{Command, DeliveryAttempt, DeliveryOutcome};

use super::*;
use crate::app::testing::pending_commands;

#[tokio::test]
async fn pushes_are_added_and_removed() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/pushes");
    let push = json!({"url": "rtmp://a.example/b/planted", "reconnect_timeout_s": 5});
    let url = json!({"url": "rtmp://a.example/b/planted"});
    // The command is kept for the worker that claims the cast.
    assert_no_secrets(&server.post(TOKEN_ONE, &path, &push).await.expect_status(202));
    let claim = server.claim().await;
    assert_no_secrets(&server.send_json("DELETE", TOKEN_ONE, &path, &url).await.expect_status(202));
    let commands = pending_commands(&*server.service.fleet, &claim.ticket).await;
    let [(_, Command::AddPush(added)), (last, Command::RemovePush(removed))] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!((&added.url, added.reconnect_timeout), (removed, Some(Duration::from_secs(5))));
    assert_eq!(added.url.reveal(), "rtmp://a.example/b/planted");
    server.service.fleet.ack_commands(&claim.ticket, *last).await.unwrap();
    server.service.fleet.put_pushes(&claim.ticket, vec![added.clone()]).await.unwrap();
    server.post(TOKEN_ONE, &path, &push).await.expect_error(409, "push-exists", "url");
    let ten = (0..10).map(|i| {
        let url = pagecast_core::spec::PushUrl::parse(&format!("rtmp://a.example/b/{i}")).unwrap();
        pagecast_core::spec::Push { url, reconnect_timeout: None }
    });
    server.service.fleet.put_pushes(&claim.ticket, ten.collect()).await.unwrap();
    server.post(TOKEN_ONE, &path, &push).await.expect_error(409, "too-many-pushes", "-");
    for (body, field) in [
        (json!({}), "-"),
        (json!({"url": "http://a.example/"}), "url"),
        (json!({"url": 1}), "url"),
        (json!({"url": "rtmp://a.example/b/c", "more": 1}), "more"),
    ] {
        server.post(TOKEN_ONE, &path, &body).await.expect_error(400, "invalid-parameter", field);
        server.send_json("DELETE", TOKEN_ONE, &path, &body).await.expect_error(
            400,
            "invalid-parameter",
            field,
        );
    }
    server.post(TOKEN_ONE, &path, &json!({"url": "rtmp://10.0.0.1/b/c"})).await.expect_error(
        400,
        "invalid-parameter",
        "url",
    );
    server
        .post(TOKEN_ONE, &path, &json!({"url": "rtmp://a.example/b/c", "reconnect_timeout_s": 86_401}))
        .await
        .expect_error(400, "invalid-parameter", "reconnect_timeout_s");
    for _ in 0..pagecast_fleet::MAX_COMMANDS {
        server.send_json("DELETE", TOKEN_ONE, &path, &url).await.expect_status(202);
    }
    let response = server.send_json("DELETE", TOKEN_ONE, &path, &url).await;
    response.expect_error(503, "too-many-commands", "-");
    assert_eq!(response.header("retry-after"), "1");
    server.report(&claim, EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None }).await;
    server.post(TOKEN_ONE, &path, &push).await.expect_error(409, "cast-ended", "-");
    server.send_json("DELETE", TOKEN_ONE, &path, &url).await.expect_error(409, "cast-ended", "-");
}

#[tokio::test]
async fn a_running_cast_is_moved() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/move");
    let move_cast =
        async || server.send(request("POST", &path, TOKEN_ONE).body(Body::empty()).unwrap()).await;
    move_cast().await.expect_error(409, "not-running", "-");
    let claim = server.claim().await;
    server.report(&claim, EventKind::Live).await;
    let moved = move_cast().await.expect_status(202);
    assert_eq!((&moved["id"], &moved["state"]), (&json!(id), &json!("live")));
    let commands = pending_commands(&*server.service.fleet, &claim.ticket).await;
    assert!(matches!(commands.as_slice(), [(_, Command::Move)]), "{commands:?}");
    let other = request("POST", &path, TOKEN_TWO).body(Body::empty()).unwrap();
    server.send(other).await.expect_error(404, "no-such-cast", "-");
    server.post(TOKEN_ONE, &format!("/v1/casts/{id}/stop"), &json!({})).await.expect_status(200);
    move_cast().await.expect_error(409, "cast-ended", "-");
    server.report(&claim, EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None }).await;
    move_cast().await.expect_error(409, "cast-ended", "-");
}

#[tokio::test]
async fn a_snapshot_is_requested_and_awaited() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/snapshot.jpg");
    server.get(TOKEN_ONE, &path).await.expect_error(409, "not-running", "-");
    let claim = server.claim().await;
    server.report(&claim, EventKind::Live).await;
    server.service.fleet.put_snapshot(&claim.ticket, Bytes::from_static(b"old")).await;
    server.advance_clock(1000);
    let worker = async {
        let mut changes = server.service.fleet.changes();
        loop {
            let commands = pending_commands(&*server.service.fleet, &claim.ticket).await;
            if let [(seq, Command::Snapshot)] = commands.as_slice() {
                server.service.fleet.ack_commands(&claim.ticket, *seq).await.unwrap();
                break;
            }
            assert!(commands.is_empty(), "concurrent requests share one snapshot: {commands:?}");
            changes.changed().await.unwrap();
        }
        server.service.fleet.put_snapshot(&claim.ticket, Bytes::from_static(b"new")).await;
    };
    let (first, second, ()) =
        tokio::join!(server.get(TOKEN_ONE, &path), server.get(ADMIN_TOKEN, &path), worker);
    for response in [first, second] {
        assert_eq!((response.status.as_u16(), response.body.as_slice()), (200, &b"new"[..]));
        assert_eq!(
            (response.header("content-type"), response.header("cache-control")),
            ("image/jpeg", "no-store")
        );
        assert_eq!(response.header("pagecast-taken-at"), "2026-11-21T17:00:01.000Z");
    }
    // No worker takes the next snapshot.
    server.advance_clock(1000);
    server.get(TOKEN_ONE, &path).await.expect_error(504, "snapshot-timeout", "-");
    server.report(&claim, EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None }).await;
    server.get(TOKEN_ONE, &path).await.expect_error(409, "cast-ended", "-");
}

#[tokio::test]
async fn deliveries_are_shown_and_repeated() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/deliveries");
    let redeliver = format!("{path}/redeliver");
    let shown = server.get(ADMIN_TOKEN, &path).await.expect_status(200);
    let backlog = json!({"pending": 1, "oldest_at": "2026-11-21T17:00:00.000Z", "given_up": 0});
    assert_eq!(shown, json!({"attempts": [], "backlog": backlog}));
    let attempt = DeliveryAttempt {
        seq: 1,
        part: 0,
        at_ms: START_MS + 5,
        took_ms: 7,
        url: "http://127.0.0.1/hook".to_owned(),
        status: Some(500),
        answer: Some("busy\\n".to_owned()),
        error: None,
    };
    server.service.fleet.settle(&id, 1, DeliveryOutcome::GivenUp, Some(attempt)).await.unwrap();
    let shown = server.get(TOKEN_ONE, &path).await.expect_status(200);
    assert_no_secrets(&shown);
    let expected = json!({
        "event_id": format!("{id}-1"), "seq": 1, "part": 0, "at": "2026-11-21T17:00:00.005Z",
        "duration_ms": 7,
        "url": "http://127.0.0.1/hook", "status": 500, "answer": "busy\\n",
    });
    assert_eq!(shown, json!({"attempts": [expected]}), "only the administrator sees the backlog");
    assert!(
        server.service.fleet.due_entries(10, &std::collections::HashSet::new()).await.unwrap().is_empty()
    );
    let empty = request("POST", &redeliver, TOKEN_ONE).body(Body::empty()).unwrap();
    let requeued = json!({"requeued": 1, "pending": 1, "next_at": "2026-11-21T17:00:00.000Z"});
    assert_eq!(server.send(empty).await.expect_status(202), requeued);
    assert_eq!(
        server.service.fleet.due_entries(10, &std::collections::HashSet::new()).await.unwrap().len(),
        1
    );
    server.service.fleet.settle(&id, 1, DeliveryOutcome::Delivered, None).await.unwrap();
    assert_eq!(
        server.post(TOKEN_ONE, &redeliver, &json!({})).await.expect_status(202),
        json!({"requeued": 0, "pending": 0})
    );
    assert_eq!(server.post(TOKEN_ONE, &redeliver, &json!({"seq": 1})).await.expect_status(202), requeued);
    for (body, status, code) in [
        (json!({"seq": 2}), 404, "no-such-event"),
        (json!({"seq": u64::MAX}), 400, "invalid-parameter"),
        (json!({"seq": 0}), 400, "invalid-parameter"),
    ] {
        server.post(TOKEN_ONE, &redeliver, &body).await.expect_error(status, code, "seq");
    }
    server.post(TOKEN_ONE, &redeliver, &json!({"sequence": 1})).await.expect_error(
        400,
        "invalid-parameter",
        "sequence",
    );
}

#[tokio::test]
async fn only_casts_with_a_receiver_have_deliveries() {
    let server = TestServer::new().await;
    let quiet = json!({"url": "http://a.example/", "recording": {}});
    let own =
        json!({"url": "http://a.example/", "recording": {}, "callback": {"url": "http://hooks.example/"}});
    server.create_cast_as(TOKEN_TWO, &quiet).await;
    assert_eq!(server.service.fleet.backlog().await.unwrap().pending, 0, "there is no receiver");
    server.create_cast_as(TOKEN_TWO, &own).await;
    assert_eq!(server.service.fleet.backlog().await.unwrap().pending, 1);
    server.create_cast_as(TOKEN_ONE, &quiet).await;
    assert_eq!(server.service.fleet.backlog().await.unwrap().pending, 2);
}

#[tokio::test]
async fn redelivery_reports_what_is_pending() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let redeliver = format!("/v1/casts/{id}/deliveries/redeliver");
    server
        .service
        .fleet
        .settle(&id, 1, DeliveryOutcome::RetryAfter(Duration::from_secs(60)), None)
        .await
        .unwrap();
    // A clock that is set back by two hours does not lengthen the delay.
    server.clock_ms.fetch_sub(7_200_000, Ordering::SeqCst);
    let outcome = server.post(TOKEN_ONE, &redeliver, &json!({"seq": 1})).await.expect_status(202);
    assert_eq!((&outcome["requeued"], &outcome["pending"]), (&json!(1), &json!(1)), "{outcome}");
    server
        .service
        .fleet
        .settle(&id, 1, DeliveryOutcome::RetryAfter(Duration::from_secs(60)), None)
        .await
        .unwrap();
    let outcome = server.post(TOKEN_ONE, &redeliver, &json!({})).await.expect_status(202);
    assert_eq!(
        outcome,
        json!({"requeued": 0, "pending": 1, "next_at": "2026-11-21T15:00:00.000Z"}),
        "it is due at once"
    );
}
