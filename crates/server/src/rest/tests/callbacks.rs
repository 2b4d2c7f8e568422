use tokio::sync::watch;

use super::*;
use crate::callback::WebhookDispatcher;
use crate::callback::testing::{FakeReceiver, FakeResponse, ReceivedRequest};
use crate::metrics::Metrics;

/// A service whose application `one` may call this receiver on loopback; `two` may not.
async fn server_with(receiver: &FakeReceiver) -> TestServer {
    let hook = |secret: &str| json!({"url": receiver.url(), "secret": secret});
    let application = |name: &str, token: &str, network: Value| {
        json!({
            "name": name, "tokens": [token], "sdk_app_id": if name == "one" { 14 } else { 15 },
            "network": network,
            "callbacks": {"native": hook("planted-native"), "tencent": hook("plantedtencent")},
        })
    };
    TestServer::with_config(json!({"applications": [
        application("one", TOKEN_ONE, json!({"allow": ["127.0.0.0/8"]})),
        application("two", TOKEN_TWO, json!({})),
    ]}))
    .await
}

/// Whether a received request is the message that was shown.
#[track_caller]
fn assert_same(received: &ReceivedRequest, shown: &Value) {
    assert_eq!(received.body, shown["body"].as_str().unwrap());
    for (name, value) in shown["headers"].as_object().unwrap() {
        let line = format!("{}: {}", name.to_lowercase(), value.as_str().unwrap());
        assert!(received.raw_head.lines().any(|header| header == line), "{line}: {}", received.raw_head);
    }
}

#[tokio::test]
async fn a_test_message_goes_the_way_of_real_ones_once() {
    let receiver = FakeReceiver::start(&[FakeResponse::Status(500)], FakeResponse::Status(204)).await;
    let server = server_with(&receiver).await;
    let path = "/v1/applications/one/callbacks/test";
    let failed = server.post(ADMIN_TOKEN, path, &json!({"api": "v1"})).await.expect_status(200);
    assert_no_secrets(&failed);
    assert_eq!(failed["url"], format!("http://{}/hook?…", receiver.addr));
    assert_eq!((&failed["status"], &failed["answer"]), (&json!(500), &json!("ok")));
    assert_eq!(failed["error"], "the receiver answered 500");
    let body: Value = serde_json::from_str(failed["body"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&body["event"], &body["app"], &body["at"]),
        (&json!("test"), &json!("one"), &json!("2026-11-21T17:00:00.000Z"))
    );
    assert!(failed["headers"]["Pagecast-Signature"].as_str().unwrap().starts_with("v1="));
    let accepted = server.post(TOKEN_ONE, path, &json!({"api": "v1"})).await.expect_status(200);
    assert_eq!((&accepted["status"], &accepted["error"]), (&json!(204), &Value::Null));
    let tencent = server.post(TOKEN_ONE, path, &json!({"api": "tencent"})).await.expect_status(200);
    // Tencent's format accepts 200 only.
    assert_eq!(tencent["error"], "the receiver answered 204");
    assert_eq!(tencent["headers"]["SdkAppId"], "14");
    assert!(tencent["headers"]["Sign"].is_string());
    let received = receiver.received();
    assert_eq!(received.len(), 3, "nothing is sent again");
    for (received, shown) in received.iter().zip([&failed, &accepted, &tencent]) {
        assert_same(received, shown);
        assert!(received.head.contains("user-agent: pagecast/"));
    }
    let none = server.post(ADMIN_TOKEN, path, &json!({"api": "volcengine"})).await;
    none.expect_error(409, "no-receiver", "-");
    server.post(TOKEN_TWO, path, &json!({"api": "v1"})).await.expect_error(403, "forbidden", "-");
    server.post(ADMIN_TOKEN, path, &json!({"api": "v2"})).await.expect_error(400, "invalid-parameter", "api");
    let unknown = "/v1/applications/three/callbacks/test";
    server.post(ADMIN_TOKEN, unknown, &json!({"api": "v1"})).await.expect_error(
        404,
        "no-such-application",
        "-",
    );
    let forbidden =
        server.post(TOKEN_TWO, "/v1/applications/two/callbacks/test", &json!({"api": "v1"})).await;
    let forbidden = forbidden.expect_status(200);
    assert_eq!(forbidden["status"], Value::Null);
    assert!(forbidden["error"].as_str().unwrap().contains("not public"), "{forbidden}");
    assert_eq!(receiver.received().len(), 3);
}

#[tokio::test]
async fn tests_that_wait_are_few() {
    let receiver = FakeReceiver::start(&[], FakeResponse::Hang).await;
    let server = server_with(&receiver).await;
    let path = "/v1/applications/one/callbacks/test";
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let request = request("POST", path, TOKEN_ONE).header("content-type", "application/json");
        let call = server.router.clone().oneshot(request.body(Body::from(r#"{"api": "v1"}"#)).unwrap());
        waiting.spawn(call);
    }
    while receiver.received().len() < 8 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = server.post(ADMIN_TOKEN, path, &json!({"api": "v1"})).await;
    refused.expect_error(429, "too-many-requests", "-");
    waiting.abort_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_messages_of_an_event_are_shown_as_they_are_sent() {
    let receiver = FakeReceiver::start(&[FakeResponse::Status(503)], FakeResponse::Status(200)).await;
    let server = server_with(&receiver).await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    server.report(&claim, EventKind::Live).await;
    let (stop, stopped) = watch::channel(false);
    let dispatcher = WebhookDispatcher::new(server.service.clone(), Arc::new(Metrics::default()));
    let dispatcher = tokio::spawn(dispatcher.run(stopped));
    let list = format!("/v1/casts/{id}/deliveries");
    let attempts = async || server.get(TOKEN_ONE, &list).await.expect_status(200)["attempts"].clone();
    let mut first = attempts().await;
    while first.as_array().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        first = attempts().await;
    }
    assert_eq!((&first[0]["status"], &first[0]["answer"]), (&json!(503), &json!("ok")));
    stop.send_replace(true);
    dispatcher.await.unwrap();
    let shown = server.get(TOKEN_ONE, &format!("{list}/1")).await.expect_status(200);
    assert_no_secrets(&shown);
    assert_eq!(shown["messages"].as_array().unwrap().len(), 1);
    let message = &shown["messages"][0];
    assert_eq!(
        (&message["method"], &message["url"]),
        (&json!("POST"), &json!(format!("http://{}/hook?…", receiver.addr)))
    );
    assert_same(&receiver.received()[0], message);
    let live = server.get(ADMIN_TOKEN, &format!("{list}/3")).await.expect_status(200);
    assert!(live["messages"][0]["body"].as_str().unwrap().contains("\"event\":\"live\""));
    for seq in ["0", "4", "-1", "x", "18446744073709551615"] {
        server.get(TOKEN_ONE, &format!("{list}/{seq}")).await.expect_error(404, "no-such-event", "-");
    }
    server.get(TOKEN_TWO, &format!("{list}/1")).await.expect_error(404, "no-such-cast", "-");
}

#[tokio::test]
async fn keys_of_pushes_are_not_shown_in_messages() {
    let receiver = FakeReceiver::start(&[], FakeResponse::Status(200)).await;
    let server = server_with(&receiver).await;
    let urls = ["rtmp://live.example.com/app/planted", "rtmp://live.example.com/app/planted-too"];
    let page = pagecast_core::spec::SourceUrl::parse("http://a.example/").unwrap();
    let mut spec = pagecast_core::CastSpec::new(pagecast_core::spec::Source::new(page));
    let push = |url: &&str| pagecast_core::spec::Push {
        url: pagecast_core::spec::PushUrl::parse(url).unwrap(),
        reconnect_timeout: None,
    };
    spec.pushes = urls.iter().map(push).collect();
    let draft = crate::new_cast::CastDraft {
        id: server.service.new_cast_id(),
        api: crate::tencent::API,
        key: None,
        request: json!({"SdkAppId": 14, "PublishCdnUrls": urls}),
        spec,
        queue_timeout: None,
        notify: true,
    };
    let app = server.service.apps.by_name("one").unwrap();
    let id = draft.id.clone();
    server.service.create(draft.into_new_cast(&server.service, &app)).await.unwrap();
    let claim = server.claim().await;
    for (n, url) in (1..).zip(&urls) {
        let event = EventKind::Push {
            id: n,
            url: pagecast_core::spec::PushUrl::parse(url).unwrap().to_string(),
            state: pagecast_core::connection::State::Running,
            error: None,
        };
        server.report(&claim, event).await;
    }
    for seq in [3, 4] {
        let shown = server.get(TOKEN_ONE, &format!("/v1/casts/{id}/deliveries/{seq}")).await;
        let shown = shown.expect_status(200);
        assert_no_secrets(&shown);
        assert!(shown["messages"][0]["body"].as_str().unwrap().contains("rtmp://live.example.com/"));
    }
}
