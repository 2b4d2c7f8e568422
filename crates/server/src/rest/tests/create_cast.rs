use pagecast_core::spec::{Bucket, Source, SourceUrl, Storage};

use super::*;

/// A minimal body with these fields added or replaced.
fn body_with(changes: &Value) -> Value {
    let mut body = json!({"url": "http://a.example/", "recording": {}});
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

type InvalidCases = Vec<(Value, &'static str)>;

/// Invalid values of the page, each with the field that the error names.
fn invalid_pages() -> InvalidCases {
    let long = "a".repeat(pagecast_core::spec::MAX_URL_LEN);
    vec![
        (json!({"url": 1}), "url"),
        (json!({"url": "file:///etc/passwd"}), "url"),
        (json!({"url": "a.example"}), "url"),
        (json!({"url": format!("http://a.example/{long}")}), "url"),
        (json!({"width": 1281}), "width"),
        (json!({"width": 48}), "width"),
        (json!({"height": 0}), "height"),
        (json!({"width": 1e300}), "width"),
        (json!({"width": -1}), "width"),
        (json!({"width": "1280"}), "width"),
        (json!({"fps": 0}), "fps"),
        (json!({"fps": 61}), "fps"),
        (json!({"scale_factor": 0.1}), "scale_factor"),
        (json!({"bitrate_kbps": 49}), "bitrate_kbps"),
        (json!({"mobile": {"device": "fridge"}}), "mobile.device"),
        (json!({"mobile": {"device": "phone"}, "scale_factor": 2}), "mobile"),
        (json!({"headers": {"a b": "c"}}), "headers"),
        (json!({"headers": {"a": "b\r\nc: d"}}), "headers"),
        (json!({"headers": {"host": "b"}}), "headers"),
        (json!({"cookies": {"a": "b;c"}}), "cookies"),
        (json!({"user_agent": ""}), "user_agent"),
        (json!({"locale": "de DE"}), "locale"),
        (json!({"timezone": "a b"}), "timezone"),
        (json!({"color_scheme": "pink"}), "color_scheme"),
        (json!({"css": "a".repeat((1 << 20) + 1)}), "css"),
        (json!({"basic_auth": {"user": "a"}}), "basic_auth"),
        (json!({"tls": {"ca": "none"}}), "tls.ca"),
        (json!({"tls": {"insecure": 1}}), "tls.insecure"),
    ]
}

/// Invalid values of checks, limits and rooms, each with the field that the error names.
fn invalid_checks_and_rooms() -> InvalidCases {
    let layer = |width: u32| json!({"width": width, "height": 720});
    let room = |layers: Value| json!({"room": {"room": "r", "user": "u", "layers": layers}});
    vec![
        (json!({"ready": {"timeout_s": 61}}), "ready.timeout_s"),
        (json!({"ready": ["none", 0, null, false]}), "ready"),
        (json!({"ready": {"selector": ""}}), "ready.selector"),
        (json!({"ready": {"signal": "smoke"}}), "ready.signal"),
        (json!({"checks": {"freeze_s": 1}}), "checks.freeze_s"),
        (json!({"checks": {"blank_s": 31}}), "checks.blank_s"),
        (json!({"checks": {"crash_s": 0}}), "checks.crash_s"),
        (json!({"max_time_s": 9}), "max_time_s"),
        (json!({"max_time_s": 86_401}), "max_time_s"),
        (json!({"max_time_s": u64::MAX}), "max_time_s"),
        (json!({"duration_s": 0}), "duration_s"),
        (json!({"duration_s": -1}), "duration_s"),
        (json!({"duration_s": 0.999}), "duration_s"),
        (json!({"duration_s": 86_400.001}), "duration_s"),
        (json!({"duration_s": 1e300}), "duration_s"),
        (json!({"queue_timeout_s": 3601}), "queue_timeout_s"),
        (json!({"queue_timeout_s": 86_401}), "queue_timeout_s"),
        (json!({"queue_timeout_s": u64::MAX}), "queue_timeout_s"),
        (json!({"room": {"room": "a/b", "user": "u"}}), "room.room"),
        (json!({"room": {"room": "r", "user": "u".repeat(129)}}), "room.user"),
        (json!({"room": {"room": "r"}}), "room"),
        (room(json!([])), "room.layers"),
        (room(json!([layer(1280), layer(640), layer(320)])), "room.layers"),
        (room(json!([layer(640)])), "room.layers"),
        (room(json!([layer(1280), layer(641)])), "room.layers[1].width"),
        (room(json!([{"width": 1280, "height": 720, "fps": 0}])), "room.layers[0].fps"),
        (room(json!([{"width": 1280, "height": 720, "bitrate_kbps": 1}])), "room.layers"),
    ]
}

/// Invalid values of outputs and callbacks, each with the field that the error names.
fn invalid_outputs() -> InvalidCases {
    let pushes: Vec<_> = (0..11).map(|i| json!({"url": format!("rtmp://a.example/b/{i}")})).collect();
    let bucket = |more: Value| {
        let mut recording = json!({"to": "s3://recordings", "keys": {"access_key": "a", "secret_key": "b"}});
        more.as_object().unwrap().iter().for_each(|(name, value)| recording[name] = value.clone());
        json!({"recording": recording})
    };
    vec![
        (json!({"recording": {"to": "/etc"}}), "recording.to"),
        (json!({"recording": {"to": "ftp://a"}}), "recording.to"),
        (json!({"recording": {"to": "s3://recordings"}}), "recording.keys"),
        (json!({"recording": {"keys": {"access_key": "a", "secret_key": "b"}}}), "recording.keys"),
        (bucket(json!({"to": "cos://recordings-1250000000"})), "recording.to"),
        (bucket(json!({"to": "s3://recordings/../a"})), "recording.to"),
        (bucket(json!({"keys": {"access_key": "", "secret_key": ""}})), "recording.keys"),
        (bucket(json!({"format": "avi"})), "recording.format"),
        (bucket(json!({"segment_s": 61})), "recording.segment_s"),
        (bucket(json!({"split_s": 4})), "recording.split_s"),
        (bucket(json!({"thumbnails_s": 0})), "recording.thumbnails_s"),
        (bucket(json!({"thumbnails_s": 5, "audio_only": true})), "recording.thumbnails_s"),
        (bucket(json!({"name": "../a"})), "recording.name"),
        (json!({"pushes": pushes}), "pushes"),
        (json!({"pushes": [pushes[0], pushes[0]]}), "pushes"),
        (json!({"pushes": [pushes[0], {"url": "http://a.example/"}]}), "pushes[1].url"),
        (
            json!({"pushes": [{"url": "rtmp://a.example/b/c", "reconnect_timeout_s": 86_401}]}),
            "pushes[0].reconnect_timeout_s",
        ),
        (json!({"pushes": [{"url": "rtmp://127.0.0.1/b/c"}]}), "pushes[0].url"),
        (json!({"pushes": [{"url": "srt://2130706433:9000"}]}), "pushes[0].url"),
        (json!({"callback": {"url": "http://[::1]/"}}), "callback.url"),
        (json!({"callback": {"url": "http://169.254.169.254/"}}), "callback.url"),
        (bucket(json!({"to": "s3://recordings?endpoint=http%3A%2F%2F10.0.0.1%3A9000"})), "recording.to"),
        (json!({"callback": {"url": "here"}}), "callback.url"),
        (json!({"callback": {"url": "ftp://a.example/"}}), "callback.url"),
        (json!({"callback": {"url": "http://a.example/", "secret": ""}}), "callback.secret"),
        (json!({"callback": {"url": "http://a.example/", "more": 1}}), "callback.more"),
        (json!({"colour": "red"}), "colour"),
    ]
}

#[tokio::test]
async fn errors_name_the_invalid_field() {
    let server = TestServer::new().await;
    for (changes, field) in
        invalid_pages().into_iter().chain(invalid_checks_and_rooms()).chain(invalid_outputs())
    {
        let response = server.post(TOKEN_ONE, "/v1/casts", &body_with(&changes)).await;
        assert_eq!(response.status, 400, "{changes:.200}: {:.400}", response.json().to_string());
        response.expect_error(400, "invalid-parameter", field);
    }
    let without = |name: &str| {
        let mut body = body_with(&json!({}));
        body.as_object_mut().unwrap().remove(name);
        body
    };
    server.post(TOKEN_ONE, "/v1/casts", &without("recording")).await.expect_error(400, "no-output", "-");
    server
        .post(TOKEN_ONE, "/v1/casts", &body_with(&json!({"recording": null, "pushes": []})))
        .await
        .expect_error(400, "no-output", "-");
    server.post(TOKEN_ONE, "/v1/casts", &without("url")).await.expect_error(400, "invalid-parameter", "-");
    server.post(TOKEN_TWO, "/v1/casts", &body_with(&json!({"max_time_s": 601}))).await.expect_error(
        400,
        "invalid-parameter",
        "max_time_s",
    );
    assert_eq!(
        server.get(ADMIN_TOKEN, "/v1/casts").await.expect_status(200)["casts"],
        json!([]),
        "no cast was created"
    );
}

/// A value for each field; all secrets contain `planted`.
fn full_request() -> Value {
    json!({
        "url": "https://a.example/p?planted=1", "width": 1920, "height": 1080, "fps": 25,
        "scale_factor": 1.5, "bitrate_kbps": 4000,
        "headers": {"X-A": "planted-header"}, "cookies": {"c": "planted-cookie"}, "user_agent": "UA",
        "locale": "de-DE",
        "timezone": "Europe/Berlin", "color_scheme": "dark", "css": "a{}", "script": "1;",
        "basic_auth": {"user": "u", "password": "planted-password"},
        "ready": {"signal": "notify-ready", "timeout_s": 60, "selector": "#x", "network_idle": true},
        "checks": {"freeze_s": 2, "blank_s": 30, "crash_s": 1}, "max_time_s": 3600, "duration_s": 12.5,
        "queue_timeout_s": 0,
        "room": {"room": "r@1", "user": "u", "layers": [
            {"width": 1920, "height": 1080, "fps": 25, "bitrate_kbps": 2500}, {"width": 640, "height": 360},
        ]},
        "recording": {
            "to": "s3://recordings/a?region=eu-west-1", "keys": {"access_key": "planted-a",
            "secret_key": "planted-s", "session_token": "planted-t"},
            "format": "both-ts", "segment_s": 6, "split_s": 60, "thumbnails_s": 10, "name": "talk",
            "manifest": true,
        },
        "pushes": [{"url": "rtmp://live.example/app/planted-key", "reconnect_timeout_s": 30},
        {"url": "srt://live.example:9000?passphrase=planted-passphrase"}],
        "callback": {"url": "https://hooks.example/a?planted=2", "secret": "planted-secret"},
    })
}

#[tokio::test]
async fn all_fields_are_in_the_spec() {
    let server = TestServer::new().await;
    let mut body = full_request();
    // Only a worker that claims the cast reads the injected data, so the cast must wait for it.
    body["queue_timeout_s"] = json!(60);
    let response = server.post(TOKEN_ONE, "/v1/casts", &body).await;
    let shown = response.expect_status(201);
    assert_no_secrets(&shown);
    let id = CastId::parse(shown["id"].as_str().unwrap()).unwrap();
    assert_eq!(response.header("location"), format!("/v1/casts/{id}"));
    let cast = server.claim().await.cast;
    let (spec, recording) = (&cast.spec, cast.spec.recording.as_ref().unwrap());
    let spec_text = format!("{spec:?}");
    for part in [
        "width: 1920",
        "height: 1080",
        "Fps(25)",
        "scale_factor: 1.5",
        "bitrate_kbps: Some(4000)",
        "\"X-A\"",
        "\"c\"",
        "Some(\"UA\")",
        "de-DE",
        "Europe/Berlin",
        "Dark",
        "a{}",
        "1;",
        "NotifyReady",
        "timeout: 60s",
        "#x",
        "network_idle: true",
        "freeze: Some(2s)",
        "blank: Some(30s)",
        "crash: Some(1s)",
        "max_time: 3600s",
        "duration: Some(12.5s)",
        "r@1",
        "Some(2500)",
        "BothTs",
        "segment: 6s",
        "split: 60s",
        "thumbnails: Some(10s)",
        "\"talk\"",
        "manifest: true",
        "reconnect_timeout: Some(30s)",
    ] {
        assert!(spec_text.contains(part), "{part}: {spec_text}");
    }
    let room = spec.room.as_ref().unwrap();
    assert!(room.layers.len() == 2 && crate::is_embedded_room(&room.service), "{room:?}");
    let has_policy = |bucket: &Bucket| bucket.network.as_ref() == Some(&spec.network);
    let is_checked = matches!(&recording.to, Storage::Bucket(bucket) if has_policy(bucket));
    assert!(is_checked, "the storage endpoint is checked");
    assert!(!spec.pushes_anywhere, "push targets are checked");
    let mut to = recording.to.clone();
    assert_eq!(to.keys_mut().unwrap().as_ref().unwrap().secret_key.reveal(), "planted-s");
    assert_eq!(cast.request["callback"]["url"], "https://hooks.example/a?planted=2");
    assert_eq!(cast.request["callback"]["secret"], "planted-secret");
    assert_eq!((cast.api.as_str(), cast.app.as_str()), ("v1", "one"));
    assert_eq!(shown["recording"]["to"], "s3://recordings/a?region=eu-west-1");
    assert_eq!(shown["room"]["watch_url"], "http://127.0.0.1:8080/one/r@1");
    assert_eq!(shown["room"]["viewers"], 3);
    assert_eq!(shown["pushes"][0], json!({"id": 1, "url": "rtmp://live.example/app/…", "state": "idle"}));
    assert_eq!(shown["source"]["url"], "https://a.example/p?…");
    assert_eq!(shown["created_at"], "2026-11-21T17:00:00.000Z");
}

#[tokio::test]
async fn omitted_fields_have_defaults() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let cast = server.service.fleet.get(&id).await.unwrap().unwrap();
    let recording = cast.spec.recording.as_ref().unwrap();
    assert_eq!((cast.spec.source.size.width(), cast.spec.source.fps.get()), (1280, 30));
    assert_eq!(recording.name, id.as_str());
    let named = json!({"url": "http://a.example/", "width": null, "recording": {"name": "mine"}});
    let named =
        server.service.fleet.get(&server.create_cast_as(TOKEN_TWO, &named).await).await.unwrap().unwrap();
    let folder = format!("{:?}", named.spec.recording.unwrap().to);
    assert!(
        folder.contains("recordings/two"),
        "a named recording is in the folder of its application: {folder}"
    );
    let spec = serde_json::to_string(&cast.spec).unwrap();
    let data = server.scratch.path().display().to_string();
    assert!(!spec.contains(&data) && !folder.contains(&data), "a path of this machine: {spec}");
    let mine = json!({"app": "two", "url": "http://a.example/", "recording": {"to": "/srv/films"}});
    let mine =
        server.service.fleet.get(&server.create_cast_as(ADMIN_TOKEN, &mine).await).await.unwrap().unwrap();
    assert!(format!("{:?}", mine.spec.recording.unwrap().to).contains("/srv/films"));
    let shown = server.get(TOKEN_TWO, &format!("/v1/casts/{}", mine.id)).await.expect_status(200);
    assert!(!shown.to_string().contains("/srv"), "folders of the server are hidden: {shown}");
    let body = json!({"url": "http://a.example/", "recording": {}});
    server.post(ADMIN_TOKEN, "/v1/casts", &body).await.expect_error(400, "invalid-parameter", "app");
    let body = json!({"app": "nobody", "url": "http://a.example/", "recording": {}});
    server.post(ADMIN_TOKEN, "/v1/casts", &body).await.expect_error(400, "invalid-parameter", "app");
}

#[tokio::test]
async fn certificates_of_the_application_are_trusted_by_the_casts_of_every_api() {
    let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    let server = TestServer::new().await;
    let mut one = (*server.service.apps.by_name("one").unwrap()).clone();
    one.settings.ca = Some(pagecast_core::spec::CaBundle::parse(&pem("MIIOne")).unwrap());
    server.service.apps.replace(vec![one.clone()]);
    let tls = async |changes: Value| {
        let id = server.create_cast_as(TOKEN_ONE, &body_with(&changes)).await;
        server.service.fleet.get(&id).await.unwrap().unwrap().spec.source.context.tls
    };
    let default = tls(json!({})).await;
    assert_eq!((&default.ca, default.insecure), (&one.settings.ca, false));
    let both = tls(json!({"tls": {"ca": pem("MIITwo"), "insecure": true}})).await;
    let all = both.ca.unwrap();
    assert_eq!((all.as_str(), both.insecure), (&*(pem("MIIOne") + &pem("MIITwo")), true));
    // The vendors' APIs create their casts with the same function.
    let source = Source::new(SourceUrl::parse("https://a.example/").unwrap());
    let spec = server.service.new_cast_spec(&one, source);
    assert_eq!(spec.source.context.tls.ca, one.settings.ca);
}

#[tokio::test]
async fn a_room_is_refused_if_rooms_are_disabled() {
    let mut server = TestServer::new().await;
    server.service.rooms = None;
    server.router = router_of(crate::rest::router(server.service.clone()));
    let body = json!({"url": "http://a.example/", "room": {"room": "r", "user": "u"}});
    server.post(TOKEN_ONE, "/v1/casts", &body).await.expect_error(409, "rooms-disabled", "room");
}

#[tokio::test]
async fn invalid_bodies_are_refused() {
    let server = TestServer::new().await;
    let send = async |kind: &str, body: Vec<u8>| {
        let request = request("POST", "/v1/casts", TOKEN_ONE).header("content-type", kind);
        server.send(request.body(Body::from(body)).unwrap()).await
    };
    let json = "application/json; charset=utf-8";
    let deep = format!("{{\"url\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, code) in [
        (&b""[..], "invalid-json"),
        (b"{", "invalid-json"),
        (br#"{"url": "http://a.example/"} {}"#, "invalid-json"),
        (b"nonsense", "invalid-json"),
        (b"[]", "invalid-parameter"),
        (b"null", "invalid-parameter"),
        (b"\"a\"", "invalid-parameter"),
        (br#"{"url": "http://a.example/", "url": "http://b.example/"}"#, "invalid-parameter"),
        (deep.as_bytes(), "invalid-parameter"),
    ] {
        let response = send(json, body.to_vec()).await;
        let error = response.expect_status(400);
        assert_eq!(error["error"]["code"], code, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().len() <= 400);
    }
    let response = send(json, b"{\"url\": \"\xff\"}".to_vec()).await;
    assert_eq!(response.status, 400);
    send("text/plain", b"{}".to_vec()).await.expect_error(415, "unsupported-media-type", "-");
    send("application/x-www-form-urlencoded", b"url=a".to_vec()).await.expect_error(
        415,
        "unsupported-media-type",
        "-",
    );
    send(json, vec![b' '; (8 << 20) + 1]).await.expect_error(413, "too-large", "-");
    let mut unknown = serde_json::Map::new();
    unknown.insert("x".repeat(1 << 20), Value::Null);
    let response = send(json, Value::Object(unknown).to_string().into_bytes()).await;
    assert!(response.body.len() < 2000, "the error does not repeat the long name");
}

#[tokio::test]
async fn the_operator_limits_the_queue_time() {
    let cast_body = |s: u64| json!({"url": "http://a.example/", "recording": {}, "queue_timeout_s": s});
    for (casts, most) in [
        (json!({}), 3600),
        (json!({"max_queue_timeout_s": 90}), 90),
        (json!({"max_queue_timeout_s": 9, "queue_timeout_s": 20}), 20),
    ] {
        let server = TestServer::with_casts_config(casts).await;
        server.post(TOKEN_ONE, "/v1/casts", &cast_body(most)).await.expect_status(201);
        let refused = server.post(TOKEN_ONE, "/v1/casts", &cast_body(most + 1)).await;
        refused.expect_error(400, "invalid-parameter", "queue_timeout_s");
        let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&format!("{most} s")), "{message}");
    }
}
