use super::*;
use crate::app::testing::full_settings;

const BASE: &str = "/v1/applications";

#[tokio::test]
async fn settings_are_shown_without_secrets_and_keep_them_when_put_back() {
    let server = TestServer::new().await;
    let response =
        server.post(ADMIN_TOKEN, BASE, &json!({"name": "three", "settings": full_settings()})).await;
    let created = response.expect_status(201);
    assert_no_secrets(&created);
    assert_eq!(response.header("location"), "/v1/applications/three");
    assert_eq!((&created["name"], &created["defined_in"]), (&json!("three"), &json!("api")));
    let before = server.service.apps.by_name("three").unwrap();
    assert_eq!(
        before.settings.callbacks.tencent.as_ref().unwrap().secret.as_ref().unwrap().reveal(),
        "planted0tencent"
    );
    let limits = before.settings.limits.to_spec();
    assert_eq!((limits.memory_bytes, limits.disk_bytes), (1_073_741_824, 536_870_912));
    let path = format!("{BASE}/three");
    let shown = server.get(ADMIN_TOKEN, &path).await.expect_status(200);
    assert_eq!(shown, created);
    let settings = &shown["settings"];
    assert_eq!(settings["callbacks"]["volcengine"]["url"], "https://hooks.example/v?…");
    assert_eq!(settings["room"]["secret"], "…");
    assert_eq!(settings["ca"], full_settings()["ca"], "certificates are shown");
    server.send_json("PUT", ADMIN_TOKEN, &path, settings).await.expect_status(200);
    assert_eq!(
        *server.service.apps.by_name("three").unwrap(),
        *before,
        "secrets sent back as … are unchanged"
    );
    let mut changed = settings.clone();
    changed["callbacks"]["native"] = Value::Null;
    changed["room"] = json!({"type": "janus", "url": "https://janus.example/janus", "pin": "planted-pin"});
    changed["max_casts"] = json!(8);
    assert_no_secrets(&server.send_json("PUT", ADMIN_TOKEN, &path, &changed).await.expect_status(200));
    let now = server.service.apps.by_name("three").unwrap();
    assert_eq!((now.settings.max_casts, now.settings.callbacks.native.is_none()), (8, true));
    // The stored keys are not sent to a new location.
    let mut moved = server.get(ADMIN_TOKEN, &path).await.expect_status(200)["settings"].clone();
    moved["storage"]["default"]["to"] = json!("s3://somebody-elses?region=eu-west-1");
    server.send_json("PUT", ADMIN_TOKEN, &path, &moved).await.expect_error(
        400,
        "invalid-parameter",
        "storage.default.keys.access_key",
    );
    server.send_json("PUT", ADMIN_TOKEN, &path, &json!({})).await.expect_status(200);
    let defaults = &server.service.apps.by_name("three").unwrap().settings;
    assert_eq!((defaults.max_casts, defaults.app_id.as_ref()), (200, None), "omitted settings have defaults");
    server.send_json("DELETE", ADMIN_TOKEN, &path, &json!({})).await.expect_status(204);
    server.get(ADMIN_TOKEN, &path).await.expect_error(404, "no-such-application", "-");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "each step needs the one before")]
async fn tokens_and_keys_are_rotated_without_interruption() {
    let server = TestServer::new().await;
    server.post(ADMIN_TOKEN, BASE, &json!({"name": "three"})).await.expect_status(201);
    let (tokens, keys) = (format!("{BASE}/three/tokens"), format!("{BASE}/three/keys"));
    let created = server.post(ADMIN_TOKEN, &tokens, &json!({})).await.expect_status(201);
    let first = created["token"].as_str().unwrap().to_owned();
    assert!(first.len() >= 40);
    server.get(&first, "/v1/casts").await.expect_status(200);
    let empty = request("POST", &tokens, ADMIN_TOKEN).body(Body::empty()).unwrap();
    let second = server.send(empty).await.expect_status(201)["token"].as_str().unwrap().to_owned();
    server.get(&second, "/v1/casts").await.expect_status(200);
    let own =
        server.post(ADMIN_TOKEN, &tokens, &json!({"token": "planted-0123456789"})).await.expect_status(201);
    assert_no_secrets(&own);
    assert_no_secrets(&server.get(ADMIN_TOKEN, &tokens).await.expect_status(200));
    let removed = format!("{tokens}/{}", created["id"].as_str().unwrap());
    server.send_json("DELETE", ADMIN_TOKEN, &removed, &json!({})).await.expect_status(204);
    server.get(&first, "/v1/casts").await.expect_error(401, "unauthorized", "-");
    server.get(&second, "/v1/casts").await.expect_status(200);
    server.send_json("DELETE", ADMIN_TOKEN, &removed, &json!({})).await.expect_error(
        404,
        "no-such-token",
        "-",
    );
    server.post(ADMIN_TOKEN, &tokens, &json!({"token": "short"})).await.expect_error(
        400,
        "invalid-parameter",
        "token",
    );
    server.post(ADMIN_TOKEN, &tokens, &json!({"token": ADMIN_TOKEN})).await.expect_error(
        409,
        "already-exists",
        "tokens",
    );
    server.post(ADMIN_TOKEN, &tokens, &json!({"token": TOKEN_ONE})).await.expect_error(
        409,
        "already-exists",
        "tokens",
    );

    let created = server.post(ADMIN_TOKEN, &keys, &json!({})).await.expect_status(201);
    let id = created["id"].as_str().unwrap();
    let found = server.service.apps.by_key(id);
    assert_eq!(found[0].keys[0].secret.reveal(), created["secret"].as_str().unwrap());
    assert_no_secrets(
        &server
            .post(ADMIN_TOKEN, &keys, &json!({"id": "mine", "secret": "planted"}))
            .await
            .expect_status(201),
    );
    let listed = server.get(ADMIN_TOKEN, &keys).await.expect_status(200);
    assert_eq!(listed, json!({"keys": [{"id": id, "disabled": false}, {"id": "mine", "disabled": false}]}));
    let path = format!("{keys}/{id}");
    server.send_json("PUT", ADMIN_TOKEN, &path, &json!({"disabled": true})).await.expect_status(200);
    assert!(server.service.apps.by_key(id).is_empty() && !server.service.apps.by_key("mine").is_empty());
    server.send_json("PUT", ADMIN_TOKEN, &path, &json!({"disabled": false})).await.expect_status(200);
    assert_eq!(server.service.apps.by_key(id).len(), 1);
    server.send_json("PUT", ADMIN_TOKEN, &path, &json!({})).await.expect_error(400, "invalid-parameter", "-");
    server.send_json("DELETE", ADMIN_TOKEN, &path, &json!({})).await.expect_status(204);
    server.send_json("DELETE", ADMIN_TOKEN, &path, &json!({})).await.expect_error(404, "no-such-key", "-");
    server.send_json("PUT", ADMIN_TOKEN, &path, &json!({"disabled": true})).await.expect_error(
        404,
        "no-such-key",
        "-",
    );
    for (body, status, code, field) in [
        (json!({"id": "mine"}), 409, "already-exists", "id"),
        (json!({"id": "a b"}), 400, "invalid-parameter", "id"),
        (json!({"secret": ""}), 400, "invalid-parameter", "secret"),
        (json!({"more": 1}), 400, "invalid-parameter", "more"),
        (json!([null, null]), 400, "invalid-parameter", "-"),
    ] {
        server.post(ADMIN_TOKEN, &keys, &body).await.expect_error(status, code, field);
    }
    for _ in 1..32 {
        server.post(ADMIN_TOKEN, &keys, &json!({})).await.expect_status(201);
    }
    server.post(ADMIN_TOKEN, &keys, &json!({})).await.expect_error(400, "invalid-parameter", "keys");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn errors_name_the_invalid_setting() {
    let server = TestServer::new().await;
    server
        .post(ADMIN_TOKEN, BASE, &json!({"name": "three", "settings": {"app_id": "a3", "sdk_app_id": 3}}))
        .await
        .expect_status(201);
    for (settings, field) in [
        (json!({"colour": "red"}), "colour"),
        (json!({"app_id": "a b"}), "app_id"),
        (json!({"sdk_app_id": 0}), "sdk_app_id"),
        (json!({"max_casts": 0}), "max_casts"),
        (json!({"callbacks": {"native": {"url": "here"}}}), "callbacks.native.url"),
        (json!({"callbacks": {"native": {"url": "file:///a"}}}), "callbacks.native.url"),
        (
            json!({"callbacks": {"native": {"url": "http://a.example/", "secret": "…"}}}),
            "callbacks.native.secret",
        ),
        (
            json!({"callbacks": {"tencent": {"url": "http://a.example/", "secret": "a-b"}}}),
            "callbacks.tencent.secret",
        ),
        (json!({"room": {"type": "zoom"}}), "room.type"),
        (json!({"room": {"type": "whip", "url": "ftp://a"}}), "room.url"),
        (json!({"room": {"type": "whip", "url": "http://a", "token": 1}}), "room.token"),
        (json!({"room": {"type": "whip"}}), "room"),
        (json!({"room": {"type": "embedded", "pin": "a"}}), "room"),
        (json!({"room": {"type": "livekit", "url": "ws://a", "key": "a", "secret": "…"}}), "room.secret"),
        (json!({"ice": {"servers": [{"url": "http://a"}]}}), "ice"),
        (json!({"storage": {"default": {"to": "ftp://a"}}}), "storage.default.to"),
        (
            json!({"storage": {"default": {"to": "/a", "keys": {"access_key": "a", "secret_key": "b"}}}}),
            "storage.default.keys",
        ),
        (json!({"storage": {"backup": {"to": "/a"}}}), "storage.backup.to"),
        (json!({"storage": {"s3_endpoint": "a"}}), "storage.s3_endpoint"),
        (json!({"storage": {"s3_endpoint": "http://a/b"}}), "storage.s3_endpoint"),
        (json!({"storage": [null, null]}), "storage"),
        (json!({"network": {"allow": ["*.example.com", "a b"]}}), "network.allow[1]"),
        (json!({"limits": {"max_time_s": 9}}), "limits.max_time_s"),
        (json!({"limits": {"memory_mib": u64::MAX}}), "limits.memory_mib"),
        (json!({"limits": {"disk_mib": u64::MAX}}), "limits.disk_mib"),
        (json!({"limits": {"attempts": 0}}), "limits.attempts"),
        (json!({"limits": {"max_video": {"width": 1, "height": 1}}}), "limits.max_video"),
    ] {
        server.send_json("PUT", ADMIN_TOKEN, "/v1/applications/three", &settings).await.expect_error(
            400,
            "invalid-parameter",
            field,
        );
        let full_name = format!("settings.{field}");
        let body = json!({"name": "four", "settings": settings});
        server.post(ADMIN_TOKEN, BASE, &body).await.expect_error(400, "invalid-parameter", &full_name);
    }
    for name in ["", "A", "a/b", "..", &"a".repeat(65)] {
        server.post(ADMIN_TOKEN, BASE, &json!({"name": name})).await.expect_error(
            400,
            "invalid-parameter",
            "name",
        );
    }
    for (body, field) in [
        (json!({"name": "three"}), "name"),
        (json!({"name": "one"}), "name"),
        (json!({"name": "four", "settings": {"app_id": "a3"}}), "settings.app_id"),
        (json!({"name": "four", "settings": {"app_id": "two"}}), "settings.app_id"),
        (json!({"name": "a3"}), "name"),
        (json!({"name": "four", "settings": {"sdk_app_id": 3}}), "settings.sdk_app_id"),
    ] {
        server.post(ADMIN_TOKEN, BASE, &body).await.expect_error(409, "already-exists", field);
    }
    let names = |all: Value| {
        all["applications"].as_array().unwrap().iter().map(|app| app["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(server.get(ADMIN_TOKEN, BASE).await.expect_status(200)), ["one", "three", "two"]);
}

#[tokio::test]
async fn applications_of_the_configuration_cannot_be_changed() {
    let server = TestServer::new().await;
    let shown = server.get(ADMIN_TOKEN, "/v1/applications/one").await.expect_status(200);
    assert_no_secrets(&shown);
    assert!(!shown.to_string().contains(TOKEN_ONE));
    assert_eq!(
        (&shown["defined_in"], shown["tokens"].as_array().unwrap().len()),
        (&json!("configuration"), 2)
    );
    for (method, rest, body) in [
        ("PUT", "", json!({})),
        ("DELETE", "", json!({})),
        ("POST", "/keys", json!({})),
        ("PUT", "/keys/a", json!({"disabled": true})),
        ("DELETE", "/keys/a", json!({})),
        ("POST", "/tokens", json!({})),
        ("DELETE", "/tokens/a", json!({})),
    ] {
        let path = format!("{BASE}/one{rest}");
        server.send_json(method, ADMIN_TOKEN, &path, &body).await.expect_error(
            409,
            "defined-in-configuration",
            "-",
        );
        let path = format!("{BASE}/nobody{rest}");
        server.send_json(method, ADMIN_TOKEN, &path, &body).await.expect_error(
            404,
            "no-such-application",
            "-",
        );
    }
}

#[tokio::test]
async fn applications_outlive_the_service() {
    let server = TestServer::new().await;
    server.post(ADMIN_TOKEN, BASE, &json!({"name": "three"})).await.expect_status(201);
    let token = server
        .post(ADMIN_TOKEN, &format!("{BASE}/three/tokens"), &json!({}))
        .await
        .expect_status(201)["token"]
        .clone();
    let token = token.as_str().unwrap();
    server.service.apps.replace(Vec::new());
    crate::app::load(&server.service).await.unwrap();
    let id = server.create_cast_as(token, &json!({"url": "http://a.example/", "recording": {}})).await;
    server.send_json("DELETE", ADMIN_TOKEN, &format!("{BASE}/three"), &json!({})).await.expect_error(
        409,
        "has-casts",
        "-",
    );
    server.post(token, &format!("/v1/casts/{id}/stop"), &json!({})).await.expect_status(200);
    // If the file defines an application of the same name, the service starts and uses the file's.
    let mut service = server.service.clone();
    let mut config = (*service.config).clone();
    config.applications[0].name = "three".to_owned();
    service.config = Arc::new(config);
    crate::app::load(&service).await.unwrap();
    assert_eq!(service.apps.all().iter().filter(|app| app.name == "three").count(), 1);
    assert_eq!(service.apps.by_name("three").unwrap().tokens.len(), 2, "the file's has priority");
    crate::app::load(&server.service).await.unwrap();
    server.send_json("DELETE", ADMIN_TOKEN, &format!("{BASE}/three"), &json!({})).await.expect_status(204);
    server.get(token, "/v1/casts").await.expect_error(401, "unauthorized", "-");
    assert_eq!(server.service.fleet.get(&id).await.unwrap().unwrap().app, "three", "its casts are kept");
    // A new application of this name would see them.
    server.post(ADMIN_TOKEN, BASE, &json!({"name": "three"})).await.expect_error(
        409,
        "already-exists",
        "name",
    );
    let again = server.post(ADMIN_TOKEN, BASE, &json!({"name": "four"})).await;
    again.expect_status(201);
    server.advance_clock(101 * 3_600_000);
    server.service.fleet.sweep().await.unwrap();
    server.post(ADMIN_TOKEN, BASE, &json!({"name": "three"})).await.expect_status(201);
}

#[tokio::test]
async fn concurrent_changes_are_all_kept() {
    let server = TestServer::new().await;
    server.post(ADMIN_TOKEN, BASE, &json!({"name": "three"})).await.expect_status(201);
    let add = async || {
        server.post(ADMIN_TOKEN, "/v1/applications/three/tokens", &json!({})).await.expect_status(201)
    };
    tokio::join!(add(), add(), add(), add(), add(), add());
    assert_eq!(server.service.apps.by_name("three").unwrap().tokens.len(), 6);
}

#[tokio::test]
async fn an_optional_body_may_be_empty_but_not_invalid() {
    let server = TestServer::new().await;
    server.post(ADMIN_TOKEN, BASE, &json!({"name": "three"})).await.expect_status(201);
    let path = format!("{BASE}/three/tokens");
    for (body, status) in [("", 201), ("{}", 201), ("\r", 400), ("null", 201), ("[]", 400)] {
        let request = request("POST", &path, ADMIN_TOKEN).header("content-type", "application/json");
        let response = server.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(response.status.as_u16(), status, "{body:?}");
    }
}
