use super::*;
use crate::new_cast::CastDraft;

#[tokio::test]
async fn the_request_of_a_cast_is_shown_without_secrets() {
    let server = TestServer::new().await;
    let body = json!({
        "url": "https://user:planted@a.example/talk?token=planted", "width": 640, "height": 360,
        "headers": {"X-Key": "planted"}, "script": "planted()", "recording": {"format": "hls"},
        "pushes": [{"url": "rtmp://live.example.com/app/planted"}],
        "basic_auth": {"user": "me", "password": "planted"},
    });
    let id = server.create_cast_as(TOKEN_ONE, &body).await;
    let path = format!("/v1/casts/{id}/request");
    let shown = server.get(TOKEN_ONE, &path).await.expect_status(200);
    assert_no_secrets(&shown);
    let request = json!({
        "url": "https://a.example/talk?…", "width": 640, "height": 360, "headers": {"X-Key": "…"},
        "script": "…", "recording": {"format": "hls"},
        "pushes": [{"url": shown["request"]["pushes"][0]["url"]}],
        "basic_auth": {"user": "me", "password": "…"},
    });
    assert_eq!(shown, json!({"api": "v1", "action": "createCast", "request": request}));
    assert_eq!(server.get(ADMIN_TOKEN, &path).await.expect_status(200), shown);
    server.get(TOKEN_TWO, &path).await.expect_error(404, "no-such-cast", "-");
    server.get("", &path).await.expect_error(401, "unauthorized", "-");
    let unknown = format!("/v1/casts/{}/request", "0".repeat(32));
    server.get(TOKEN_ONE, &unknown).await.expect_error(404, "no-such-cast", "-");
}

#[tokio::test]
async fn requests_to_the_other_apis_are_shown() {
    let server = TestServer::new().await;
    let app = server.service.apps.by_name("one").unwrap();
    for (api, stored, action, request) in [
        (
            "volcengine",
            json!({"AppId": "a", "TaskId": "t", "SourceURL": "http://a.example/?planted"}),
            "StartWebcast",
            json!({"AppId": "a", "TaskId": "t", "SourceURL": "http://a.example/?…"}),
        ),
        (
            "tencent",
            json!({"SdkAppId": 5, "PublishCdnUrls": ["rtmp://a.example/planted"], "body": {"RecordId": "r"}}),
            "StartWebRecord",
            json!({"RecordId": "r"}),
        ),
        // Earlier versions stored no body.
        ("tencent", json!({"SdkAppId": 5}), "StartWebRecord", Value::Null),
        ("v1", json!({"hash": "h"}), "createCast", Value::Null),
    ] {
        let page = pagecast_core::spec::SourceUrl::parse("http://a.example/").unwrap();
        let api_name =
            [crate::volcengine::API, crate::tencent::API, "v1"].into_iter().find(|name| *name == api);
        let draft = CastDraft {
            id: server.service.new_cast_id(),
            api: api_name.unwrap(),
            key: None,
            request: stored,
            spec: pagecast_core::CastSpec::new(pagecast_core::spec::Source::new(page)),
            queue_timeout: None,
            notify: false,
        };
        let id = draft.id.clone();
        server.advance_clock(60_000);
        server.service.create(draft.into_new_cast(&server.service, &app)).await.unwrap();
        let shown = server.get(ADMIN_TOKEN, &format!("/v1/casts/{id}/request")).await.expect_status(200);
        assert_eq!(shown, json!({"api": api, "action": action, "request": request}));
        server.service.fleet.send_command(&id, pagecast_fleet::Command::Stop).await.unwrap();
    }
}
