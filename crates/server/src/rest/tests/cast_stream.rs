use axum::response::Response;
use pagecast_core::cast::EndReason;
use pagecast_fleet::Command;

use super::*;

const STREAM_TIMEOUT: Duration = Duration::from_secs(60);

async fn open_stream(server: &TestServer, token: &str, path: &str) -> Response {
    let request = request("GET", path, token).header("accept", "text/event-stream");
    server.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

/// Data of the next event. `None` at the end of the stream.
async fn next_event(body: &mut Body) -> Option<Value> {
    let mut text = String::new();
    while !text.contains("\n\n") || text.starts_with(':') {
        text = if text.starts_with(':') { String::new() } else { text };
        let frame =
            tokio::time::timeout(STREAM_TIMEOUT, body.frame()).await.expect("the stream goes on or ends");
        text.push_str(std::str::from_utf8(frame?.unwrap().data_ref().unwrap()).unwrap());
    }
    let lines: Vec<&str> = text.trim().lines().collect();
    assert!(lines.contains(&"event: casts") && lines.contains(&"retry: 1000"), "{text}");
    let data = lines.iter().find_map(|line| line.strip_prefix("data: "));
    Some(serde_json::from_str(data.unwrap()).unwrap())
}

/// Reads events until one has a cast in this state, and returns that event.
async fn wait_for_state(body: &mut Body, id: &CastId, state: &str) -> Value {
    loop {
        let event = next_event(body).await.expect("the stream goes on");
        let cast = event["casts"].as_array().unwrap().iter().find(|cast| cast["id"] == id.as_str());
        if cast.is_some_and(|cast| cast["state"] == state) {
            return event;
        }
    }
}

#[tokio::test]
async fn a_stream_has_all_open_casts_and_then_what_changes() {
    let server = TestServer::new().await;
    let first = server.create_cast().await;
    let foreign =
        server.create_cast_as(TOKEN_TWO, &json!({"url": "http://b.example/", "recording": {}})).await;
    let response = open_stream(&server, TOKEN_ONE, "/v1/casts").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let mut body = response.into_body();
    let event = next_event(&mut body).await.unwrap();
    assert_no_secrets(&event);
    assert_eq!(event["counts"], json!({"queued": 1, "starting": 0, "live": 0, "ended": 0}));
    assert_eq!(event["casts"].as_array().unwrap().len(), 1);
    let listed = server.get(TOKEN_ONE, "/v1/casts").await.expect_status(200);
    assert_eq!(event["casts"], listed["casts"], "the same description as in the list");

    let second = server.create_cast().await;
    let event = wait_for_state(&mut body, &second, "queued").await;
    assert!(!event.to_string().contains(first.as_str()), "what has not changed is not repeated: {event}");
    let claim = server.claim().await;
    server.report(&claim, EventKind::Live).await;
    let event = wait_for_state(&mut body, &claim.cast.id, "live").await;
    assert!(!event.to_string().contains(foreign.as_str()), "{event}");
    // It ends, and is sent once more when it is closed.
    let end = EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None };
    server.report(&claim, end).await;
    let event = wait_for_state(&mut body, &claim.cast.id, "ended").await;
    assert_eq!(event["counts"]["ended"], 1);
    server.service.fleet.close(&claim.ticket, None, None).await.unwrap();
    let event = wait_for_state(&mut body, &claim.cast.id, "ended").await;
    assert_eq!(event["casts"][0]["closed"], true);
    // A queued cast that is stopped is closed at once.
    let other = if claim.cast.id == first { &second } else { &first };
    server.service.fleet.send_command(other, Command::Stop).await.unwrap();
    let event = wait_for_state(&mut body, other, "ended").await;
    assert_eq!(event["counts"], json!({"queued": 0, "starting": 0, "live": 0, "ended": 2}));
}

#[tokio::test]
async fn the_administrator_sees_all_applications_or_one() {
    let server = TestServer::new().await;
    let one = server.create_cast().await;
    let two = server.create_cast_as(TOKEN_TWO, &json!({"url": "http://b.example/", "recording": {}})).await;
    for (path, ids) in [("/v1/casts", vec![&two, &one]), ("/v1/casts?app=two", vec![&two])] {
        let mut body = open_stream(&server, ADMIN_TOKEN, path).await.into_body();
        let event = next_event(&mut body).await.unwrap();
        let found: Vec<_> =
            event["casts"].as_array().unwrap().iter().map(|cast| cast["id"].as_str().unwrap()).collect();
        let mut expected: Vec<_> = ids.iter().map(|id| id.as_str()).collect();
        expected.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(found, expected);
    }
    let refused = open_stream(&server, TOKEN_ONE, "/v1/casts?app=two").await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_stream_ends_with_its_session_and_with_the_service() {
    let server = TestServer::new().await;
    let cookie = server.sign_in(TOKEN_ONE).await;
    let from_console =
        session::console_request("GET", "/v1/casts", &cookie).header("accept", "text/event-stream");
    let response = server.router.clone().oneshot(from_console.body(Body::empty()).unwrap()).await.unwrap();
    let mut of_session = response.into_body();
    let mut of_token = open_stream(&server, TOKEN_ONE, "/v1/casts").await.into_body();
    next_event(&mut of_session).await.unwrap();
    next_event(&mut of_token).await.unwrap();
    server.send_from_console("DELETE", "/v1/session", &cookie).await.expect_status(204);
    server.create_cast().await;
    assert!(next_event(&mut of_token).await.is_some(), "the token is still valid");
    assert_eq!(next_event(&mut of_session).await, None);
    server.service.draining.store(true, std::sync::atomic::Ordering::Release);
    while next_event(&mut of_token).await.is_some() {}
}
