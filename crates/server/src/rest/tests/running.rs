use bytes::Bytes;
use pagecast_core::cast::EndReason;
use pagecast_fleet::{Command, DeliveryAttempt, DeliveryOutcome};

use super::*;

#[tokio::test]
async fn pushes_come_and_go() {
    let lab = TestServer::new().await;
    let id = lab.create_cast().await;
    let path = format!("/v1/casts/{id}/pushes");
    let push = json!({"url": "rtmp://a.example/b/planted", "patience_s": 5});
    let url = json!({"url": "rtmp://a.example/b/planted"});
    // Whoever takes it up is told.
    assert_no_secrets(&lab.post(TOKEN_ONE, &path, &push).await.expect_status(202));
    let claim = lab.claim().await;
    assert_no_secrets(&lab.send_json("DELETE", TOKEN_ONE, &path, &url).await.expect_status(202));
    let commands = lab.service.fleet.commands(&claim.ticket).await.unwrap();
    let [(_, Command::AddPush(added)), (last, Command::RemovePush(removed))] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!((&added.url, added.reconnect_timeout), (removed, Some(Duration::from_secs(5))));
    assert_eq!(added.url.reveal(), "rtmp://a.example/b/planted");
    lab.service.fleet.ack_commands(&claim.ticket, *last).await.unwrap();
    lab.service.fleet.put_pushes(&claim.ticket, vec![added.clone()]).await.unwrap();
    lab.post(TOKEN_ONE, &path, &push).await.expect_error(409, "push-exists", "url");
    let ten = (0..10).map(|i| {
        let url = pagecast_core::spec::PushUrl::parse(&format!("rtmp://a.example/b/{i}")).unwrap();
        pagecast_core::spec::Push { url, reconnect_timeout: None }
    });
    lab.service.fleet.put_pushes(&claim.ticket, ten.collect()).await.unwrap();
    lab.post(TOKEN_ONE, &path, &push).await.expect_error(409, "too-many-pushes", "-");
    for (body, field) in [
        (json!({}), "-"),
        (json!({"url": "http://a.example/"}), "url"),
        (json!({"url": 1}), "url"),
        (json!({"url": "rtmp://a.example/b/c", "more": 1}), "more"),
    ] {
        lab.post(TOKEN_ONE, &path, &body).await.expect_error(400, "invalid-parameter", field);
        lab.send_json("DELETE", TOKEN_ONE, &path, &body).await.expect_error(400, "invalid-parameter", field);
    }
    lab.post(TOKEN_ONE, &path, &json!({"url": "rtmp://10.0.0.1/b/c"})).await.expect_error(
        400,
        "invalid-parameter",
        "url",
    );
    lab.post(TOKEN_ONE, &path, &json!({"url": "rtmp://a.example/b/c", "patience_s": 86_401}))
        .await
        .expect_error(400, "invalid-parameter", "patience_s");
    for _ in 0..pagecast_fleet::MAX_COMMANDS {
        lab.send_json("DELETE", TOKEN_ONE, &path, &url).await.expect_status(202);
    }
    let reply = lab.send_json("DELETE", TOKEN_ONE, &path, &url).await;
    reply.expect_error(503, "busy", "-");
    assert_eq!(reply.header("retry-after"), "1");
    lab.report(&claim, EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None }).await;
    lab.post(TOKEN_ONE, &path, &push).await.expect_error(409, "over", "-");
    lab.send_json("DELETE", TOKEN_ONE, &path, &url).await.expect_error(409, "over", "-");
}

#[tokio::test]
async fn a_snapshot_is_requested_and_awaited() {
    let lab = TestServer::new().await;
    let id = lab.create_cast().await;
    let path = format!("/v1/casts/{id}/snapshot.jpg");
    lab.get(TOKEN_ONE, &path).await.expect_error(409, "not-running", "-");
    let claim = lab.claim().await;
    lab.report(&claim, EventKind::Live).await;
    lab.service.fleet.put_snapshot(&claim.ticket, Bytes::from_static(b"old")).await;
    lab.advance_clock(1000);
    let worker = async {
        let mut changes = lab.service.fleet.changes();
        loop {
            let commands = lab.service.fleet.commands(&claim.ticket).await.unwrap();
            if let [(seq, Command::Snapshot)] = commands.as_slice() {
                lab.service.fleet.ack_commands(&claim.ticket, *seq).await.unwrap();
                break;
            }
            assert!(commands.is_empty(), "one picture for all who wait: {commands:?}");
            changes.changed().await.unwrap();
        }
        lab.service.fleet.put_snapshot(&claim.ticket, Bytes::from_static(b"new")).await;
    };
    let (first, second, ()) = tokio::join!(lab.get(TOKEN_ONE, &path), lab.get(ADMIN_TOKEN, &path), worker);
    for reply in [first, second] {
        assert_eq!((reply.status.as_u16(), reply.body.as_slice()), (200, &b"new"[..]));
        assert_eq!((reply.header("content-type"), reply.header("cache-control")), ("image/jpeg", "no-store"));
        assert_eq!(reply.header("pagecast-taken-at"), "2026-11-21T17:00:01.000Z");
    }
    // Nobody takes the next one.
    lab.advance_clock(1000);
    lab.get(TOKEN_ONE, &path).await.expect_error(504, "no-picture", "-");
    lab.report(&claim, EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None }).await;
    lab.get(TOKEN_ONE, &path).await.expect_error(409, "over", "-");
}

#[tokio::test]
async fn deliveries_are_shown_and_made_again() {
    let lab = TestServer::new().await;
    let id = lab.create_cast().await;
    let path = format!("/v1/casts/{id}/deliveries");
    let again = format!("{path}/redeliver");
    let shown = lab.get(ADMIN_TOKEN, &path).await.expect_status(200);
    let backlog = json!({"waiting": 1, "oldest_at": "2026-11-21T17:00:00.000Z", "given_up": 0});
    assert_eq!(shown, json!({"attempts": [], "backlog": backlog}));
    let attempt = DeliveryAttempt {
        seq: 1,
        part: 0,
        at_ms: START_MS + 5,
        took_ms: 7,
        url: "http://127.0.0.1/hook".to_owned(),
        status: Some(500),
        error: None,
    };
    lab.service.fleet.settle(&id, 1, DeliveryOutcome::GivenUp, Some(attempt)).await.unwrap();
    let shown = lab.get(TOKEN_ONE, &path).await.expect_status(200);
    assert_no_secrets(&shown);
    let expected = json!({
        "event_id": format!("{id}-1"), "seq": 1, "part": 0, "at": "2026-11-21T17:00:00.005Z", "took_ms": 7,
        "url": "http://127.0.0.1/hook", "status": 500,
    });
    assert_eq!(shown, json!({"attempts": [expected]}), "the backlog of all is the administrator's");
    assert!(lab.service.fleet.due_entries(10, &std::collections::HashSet::new()).await.unwrap().is_empty());
    let empty = request("POST", &again, TOKEN_ONE).body(Body::empty()).unwrap();
    let at_once = json!({"events": 1, "waiting": 1, "next_at": "2026-11-21T17:00:00.000Z"});
    assert_eq!(lab.send(empty).await.expect_status(202), at_once);
    assert_eq!(lab.service.fleet.due_entries(10, &std::collections::HashSet::new()).await.unwrap().len(), 1);
    lab.service.fleet.settle(&id, 1, DeliveryOutcome::Delivered, None).await.unwrap();
    assert_eq!(
        lab.post(TOKEN_ONE, &again, &json!({})).await.expect_status(202),
        json!({"events": 0, "waiting": 0})
    );
    assert_eq!(lab.post(TOKEN_ONE, &again, &json!({"seq": 1})).await.expect_status(202), at_once);
    for (body, status, code) in [
        (json!({"seq": 2}), 404, "no-such-event"),
        (json!({"seq": u64::MAX}), 400, "invalid-parameter"),
        (json!({"seq": 0}), 400, "invalid-parameter"),
    ] {
        lab.post(TOKEN_ONE, &again, &body).await.expect_error(status, code, "seq");
    }
    lab.post(TOKEN_ONE, &again, &json!({"sequence": 1})).await.expect_error(
        400,
        "invalid-parameter",
        "sequence",
    );
}

#[tokio::test]
async fn casts_with_a_receiver_are_delivered() {
    let lab = TestServer::new().await;
    let quiet = json!({"url": "http://a.example/", "recording": {}});
    let own =
        json!({"url": "http://a.example/", "recording": {}, "callback": {"url": "http://hooks.example/"}});
    lab.create_cast_as(TOKEN_TWO, &quiet).await;
    assert_eq!(lab.service.fleet.backlog().await.unwrap().pending, 0, "nobody wants to know");
    lab.create_cast_as(TOKEN_TWO, &own).await;
    assert_eq!(lab.service.fleet.backlog().await.unwrap().pending, 1);
    lab.create_cast_as(TOKEN_ONE, &quiet).await;
    assert_eq!(lab.service.fleet.backlog().await.unwrap().pending, 2);
}

#[tokio::test]
async fn redelivery_reports_what_is_pending() {
    let lab = TestServer::new().await;
    let id = lab.create_cast().await;
    let again = format!("/v1/casts/{id}/deliveries/redeliver");
    lab.service
        .fleet
        .settle(&id, 1, DeliveryOutcome::RetryAfter(Duration::from_secs(60)), None)
        .await
        .unwrap();
    // Two hours back: what waits, waits no longer for that.
    lab.clock_ms.fetch_sub(7_200_000, Ordering::SeqCst);
    let told = lab.post(TOKEN_ONE, &again, &json!({"seq": 1})).await.expect_status(202);
    assert_eq!((&told["events"], &told["waiting"]), (&json!(1), &json!(1)), "{told}");
    lab.service
        .fleet
        .settle(&id, 1, DeliveryOutcome::RetryAfter(Duration::from_secs(60)), None)
        .await
        .unwrap();
    let told = lab.post(TOKEN_ONE, &again, &json!({})).await.expect_status(202);
    assert_eq!(told, json!({"events": 0, "waiting": 1, "next_at": "2026-11-21T15:00:00.000Z"}), "at once");
}
