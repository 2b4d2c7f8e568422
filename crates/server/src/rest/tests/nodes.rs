use pagecast_fleet::{HeartbeatResponse, NodeInfo, WorkerStatus};

use super::*;

fn status() -> WorkerStatus {
    let node = NodeInfo {
        version: "0.9.0".to_owned(),
        roles: vec!["api".to_owned(), "worker".to_owned()],
        labels: vec!["zone-a".to_owned()],
        peer_url: Some("http://10.0.0.7:8083".to_owned()),
        instance: 7,
    };
    WorkerStatus {
        cores: 4.0,
        cores_used: 1.5,
        memory_bytes: 8000,
        memory_free_bytes: 3000,
        casts: 2,
        renewal_age_ms: Some(1000),
        node,
        ..WorkerStatus::default()
    }
}

impl TestServer {
    async fn heartbeat(&self, node: &str, status: WorkerStatus) -> HeartbeatResponse {
        self.service.fleet.heartbeat(&WorkerId(node.to_owned()), status).await.unwrap()
    }
}

#[tokio::test]
async fn nodes_are_listed() {
    let server = TestServer::new().await;
    assert_eq!(server.get(ADMIN_TOKEN, "/v1/nodes").await.expect_status(200), json!({"nodes": []}));
    server.heartbeat("b", WorkerStatus { renewal_age_ms: None, ..status() }).await;
    server.advance_clock(3500);
    server.heartbeat("a", status()).await;
    server.advance_clock(500);
    let mut a = json!({
        "name": "a", "version": "0.9.0", "roles": ["api", "worker"], "labels": ["zone-a"], "cores": 4.0,
        "cores_used": 1.5, "memory_bytes": 8000, "memory_free_bytes": 3000, "casts": 2, "draining": false,
        "heartbeat_age_s": 0.5, "lease": {"health": "ok", "renewal_age_s": 1.5},
    });
    let mut b = a.clone();
    b.as_object_mut().unwrap().remove("lease");
    (b["name"], b["heartbeat_age_s"]) = ("b".into(), 4.0.into());
    let list = server.get(ADMIN_TOKEN, "/v1/nodes").await.expect_status(200);
    assert_eq!(list, json!({"nodes": [a, b]}));
    server.advance_clock(2500);
    a["heartbeat_age_s"] = 3.0.into();
    a["lease"] = json!({"health": "late", "renewal_age_s": 4.0});
    assert_eq!(server.get(ADMIN_TOKEN, "/v1/nodes/a").await.expect_status(200), a);
    server.advance_clock(30_000);
    assert_eq!(server.get(ADMIN_TOKEN, "/v1/nodes").await.expect_status(200), json!({"nodes": []}));
}

#[tokio::test]
async fn a_node_is_asked_to_drain() {
    let server = TestServer::new().await;
    for node in ["a", "b"] {
        assert!(!server.heartbeat(node, status()).await.drain_requested);
    }
    for _ in 0..2 {
        let drained = server.post(ADMIN_TOKEN, "/v1/nodes/a/drain", &json!({})).await.expect_status(202);
        assert_eq!((&drained["name"], &drained["draining"]), (&json!("a"), &json!(true)));
    }
    let shown = server.get(ADMIN_TOKEN, "/v1/nodes/a").await.expect_status(200);
    assert_eq!(shown["draining"], true, "even before the node says so");
    assert!(server.heartbeat("a", status()).await.drain_requested);
    assert!(!server.heartbeat("b", status()).await.drain_requested);
    for path in ["/v1/nodes/c/drain", "/v1/nodes/%00%F0%9F%92%A5/drain"] {
        server.post(ADMIN_TOKEN, path, &json!({})).await.expect_error(404, "no-such-node", "-");
    }
    server.get(ADMIN_TOKEN, "/v1/nodes/c").await.expect_error(404, "no-such-node", "-");
}

#[tokio::test]
async fn nodes_are_for_the_administrator() {
    let server = TestServer::new().await;
    server.heartbeat("a", status()).await;
    for (token, code, reason) in [(TOKEN_ONE, 403, "forbidden"), ("", 401, "unauthorized")] {
        for path in ["/v1/nodes", "/v1/nodes/a"] {
            server.get(token, path).await.expect_error(code, reason, "-");
        }
        server.post(token, "/v1/nodes/a/drain", &json!({})).await.expect_error(code, reason, "-");
    }
    assert!(!server.heartbeat("a", status()).await.drain_requested);
}

#[tokio::test]
async fn a_service_that_is_alone_and_drains_takes_no_casts() {
    let server = TestServer::new().await;
    server.heartbeat("other", WorkerStatus { draining: true, ..status() }).await;
    server.create_cast().await;
    server.heartbeat("w", status()).await;
    server.post(ADMIN_TOKEN, "/v1/nodes/w/drain", &json!({})).await.expect_status(202);
    let body = json!({"url": "http://a.example/", "recording": {}});
    server.post(TOKEN_ONE, "/v1/casts", &body).await.expect_error(429, "queue-full", "-");
}

fn cast_with_labels(labels: Value) -> Value {
    json!({"url": "http://a.example/", "recording": {}, "placement": {"labels": labels}})
}

#[tokio::test]
async fn a_service_that_is_alone_refuses_labels() {
    let server = TestServer::new().await;
    let response = server.post(TOKEN_ONE, "/v1/casts", &cast_with_labels(json!(["gpu"]))).await;
    response.expect_error(400, "invalid-parameter", "placement.labels");
    server.post(TOKEN_ONE, "/v1/casts", &cast_with_labels(json!([]))).await.expect_status(201);
}

#[tokio::test]
async fn casts_name_their_node_and_their_place_in_the_queue() {
    let server = &TestServer::with_config(json!({"fleet": {"database": "postgres://db/fleet"}})).await;
    let body = cast_with_labels;
    let created = server.post(TOKEN_ONE, "/v1/casts", &body(json!([]))).await.expect_status(201);
    assert_eq!((&created["node"], created.get("placement")), (&Value::Null, None));
    assert!(created.as_object().unwrap().contains_key("node"));
    assert_eq!(created["queue"], json!({"position": 1, "waits_for": "node"}));
    server.heartbeat("w", status()).await;
    server.advance_clock(1);
    let second = server.post(TOKEN_TWO, "/v1/casts", &body(json!(["zone-b"]))).await.expect_status(201);
    assert_eq!(second["placement"], json!({"labels": ["zone-b"]}));
    assert_eq!(second["queue"], json!({"position": 2, "waits_for": "node-with-labels"}));
    let show = |token, cast: &Value| {
        let path = format!("/v1/casts/{}", cast["id"].as_str().unwrap());
        async move { server.get(token, &path).await.expect_status(200) }
    };
    assert_eq!(show(TOKEN_ONE, &created).await["queue"], json!({"position": 1}));
    server.advance_clock(4000);
    assert_eq!(show(TOKEN_ONE, &created).await["queue"], json!({"position": 1, "waits_for": "room"}));
    let claim = server.claim().await;
    let running = show(TOKEN_ONE, &created).await;
    assert_eq!((&running["node"], running.get("queue")), (&json!("w"), None));
    let list = server.get(ADMIN_TOKEN, "/v1/casts").await.expect_status(200);
    assert_eq!(list["casts"][0]["queue"], json!({"position": 1, "waits_for": "node-with-labels"}));
    assert_eq!((&list["casts"][1]["node"], list["casts"][1].get("queue")), (&json!("w"), None));
    server.service.fleet.close(&claim.ticket, None, None).await.unwrap();
    assert_eq!(show(TOKEN_ONE, &created).await["node"], Value::Null);
    for labels in [json!(["a b"]), json!([""]), json!(vec!["a"; 9])] {
        let response = server.post(TOKEN_ONE, "/v1/casts", &body(labels)).await;
        response.expect_error(400, "invalid-parameter", "placement.labels");
    }
}

#[tokio::test]
async fn a_lost_node_is_named_in_the_events() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    server.report(&claim, EventKind::Live).await;
    server.advance_clock(i64::try_from(LEASE.as_millis()).unwrap() + 1);
    let other = WorkerId("x".to_owned());
    server
        .service
        .fleet
        .claim(&other, &NodeInfo::default(), LEASE, &|_| true)
        .await
        .unwrap()
        .expect("its lease has expired");
    let list = server.get(TOKEN_ONE, &format!("/v1/casts/{id}/events?after=3")).await.expect_status(200);
    let events: Vec<_> =
        list["events"].as_array().unwrap().iter().map(|e| (&e["event"], &e["node"])).collect();
    assert_eq!(events, [(&json!("lost-node"), &json!("w")), (&json!("resumed"), &json!("x"))]);
}
