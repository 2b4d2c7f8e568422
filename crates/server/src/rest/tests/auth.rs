use super::*;

#[tokio::test]
async fn requests_without_a_token_are_refused() {
    let server = TestServer::new().await;
    for header in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer nobody-has-this-token"),
        Some("Basic dXNlcjpwYXNz"),
        Some("token-of-one-0123456789"),
        Some("Bearer token-of-one-012345678"),
    ] {
        for path in [
            "/v1/casts",
            "/v1/casts/x",
            "/v1/casts/x/events",
            "/v1/applications",
            "/v1/applications/one/keys",
        ] {
            let mut request = Request::builder().uri(path);
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let response = server.send(request.body(Body::empty()).unwrap()).await;
            response.expect_error(401, "unauthorized", "-");
            assert_eq!(response.header("www-authenticate"), r#"Bearer realm="pagecast""#, "{header:?}");
        }
    }
    let twice = request("GET", "/v1/casts", TOKEN_ONE).header("authorization", format!("Bearer {TOKEN_TWO}"));
    server.send(twice.body(Body::empty()).unwrap()).await.expect_error(401, "unauthorized", "-");
    let not_utf8 = Request::builder().uri("/v1/casts").header("authorization", &b"Bearer \xff\xfe"[..]);
    server.send(not_utf8.body(Body::empty()).unwrap()).await.expect_error(401, "unauthorized", "-");
}

#[tokio::test]
async fn several_tokens_are_valid_at_once() {
    let server = TestServer::new().await;
    for token in [TOKEN_ONE, TOKEN_ONE_OTHER, TOKEN_TWO, ADMIN_TOKEN] {
        server.get(token, "/v1/casts").await.expect_status(200);
    }
    let lower_case =
        Request::builder().uri("/v1/casts").header("authorization", format!("bearer  {TOKEN_ONE}"));
    server.send(lower_case.body(Body::empty()).unwrap()).await.expect_status(200);
}

#[tokio::test]
async fn applications_see_their_own_casts_only() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let base = format!("/v1/casts/{id}");
    server.get(TOKEN_ONE, &base).await.expect_status(200);
    server.get(ADMIN_TOKEN, &base).await.expect_status(200);
    for (method, rest) in [
        ("GET", ""),
        ("POST", "/stop"),
        ("POST", "/pushes"),
        ("DELETE", "/pushes"),
        ("GET", "/snapshot.jpg"),
        ("GET", "/events"),
        ("GET", "/evidence"),
        ("GET", "/evidence/a.txt"),
        ("GET", "/deliveries"),
        ("POST", "/deliveries/redeliver"),
    ] {
        let path = format!("{base}{rest}");
        let body = if rest == "/pushes" { json!({"url": "rtmp://a.example/b/c"}) } else { json!({}) };
        server.send_json(method, TOKEN_TWO, &path, &body).await.expect_error(404, "no-such-cast", "-");
    }
    assert_eq!(server.get(TOKEN_TWO, "/v1/casts").await.expect_status(200)["casts"], json!([]));
    server.get(TOKEN_TWO, "/v1/casts?app=one").await.expect_error(403, "forbidden", "app");
    let other = json!({"app": "one", "url": "http://a.example/", "recording": {}});
    server.post(TOKEN_TWO, "/v1/casts", &other).await.expect_error(403, "forbidden", "app");
}

#[tokio::test]
async fn only_the_administrator_manages_applications() {
    let server = TestServer::new().await;
    let body = json!({"name": "three"});
    server.get(TOKEN_ONE, "/v1/applications").await.expect_error(403, "forbidden", "-");
    server.post(TOKEN_ONE, "/v1/applications", &body).await.expect_error(403, "forbidden", "-");
    for (method, path) in [
        ("GET", "/v1/applications/one"),
        ("PUT", "/v1/applications/one"),
        ("DELETE", "/v1/applications/one"),
        ("GET", "/v1/applications/one/keys"),
        ("POST", "/v1/applications/one/keys"),
        ("PUT", "/v1/applications/one/keys/a"),
        ("DELETE", "/v1/applications/one/keys/a"),
        ("GET", "/v1/applications/one/tokens"),
        ("POST", "/v1/applications/one/tokens"),
        ("DELETE", "/v1/applications/one/tokens/a"),
    ] {
        server.send_json(method, TOKEN_ONE, path, &json!({})).await.expect_error(403, "forbidden", "-");
    }
    server.post(ADMIN_TOKEN, "/v1/applications", &body).await.expect_status(201);
}

#[tokio::test]
async fn without_an_admin_token_nobody_is_administrator() {
    let mut server = TestServer::new().await;
    let mut config = (*server.service.config).clone();
    config.admin_token = None;
    server.service.config = Arc::new(config);
    server.router = router_of(crate::rest::router(server.service.clone()));
    server.get(ADMIN_TOKEN, "/v1/applications").await.expect_error(401, "unauthorized", "-");
    server.get("", "/v1/applications").await.expect_error(401, "unauthorized", "-");
    server.get(TOKEN_ONE, "/v1/applications").await.expect_error(403, "forbidden", "-");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_errors() {
    let server = TestServer::new().await;
    server.get(TOKEN_ONE, "/v1/nothing").await.expect_error(404, "not-found", "-");
    server.get(TOKEN_ONE, "/v1/casts/%ff").await.expect_error(400, "bad-request", "-");
    server.get(TOKEN_ONE, "/v1/casts/..%2f..%2fetc").await.expect_error(404, "no-such-cast", "-");
    let response = server.send_json("PATCH", TOKEN_ONE, "/v1/casts", &json!({})).await;
    response.expect_error(405, "method-not-allowed", "-");
    assert!(response.header("allow").contains("POST"), "{:?}", response.headers);
    let response = server.send(request("HEAD", "/v1/casts", TOKEN_ONE).body(Body::empty()).unwrap()).await;
    assert_eq!((response.status.as_u16(), response.body.len()), (200, 0));
}

#[tokio::test]
async fn nothing_of_another_application_can_be_reached() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let claim = server.claim().await;
    server.report(&claim, EventKind::Live).await;
    let api: Value = serde_json::from_str(&crate::rest::openapi::openapi_json()).unwrap();
    let mut checked = 0;
    for (path, item) in api["paths"].as_object().unwrap() {
        let is_own = path.starts_with("/v1/session") || path.starts_with("/v1/explorer");
        for (method, _) in item.as_object().unwrap().iter().filter(|_| !is_own) {
            let method = method.to_ascii_uppercase();
            let owner = if path.starts_with("/v1/casts") { id.as_str() } else { "one" };
            let path = path.replacen("{id}", owner, 1).replace("{name}", "one").replace("{seq}", "1");
            let path = path.replace("{push}", "1").replace("{id}", "a");
            // Valid for each operation, so that it is refused because of its sender.
            let body = match path.rsplit('/').next().unwrap() {
                "test" if path.contains("callbacks") => json!({"api": "v1"}),
                "test" => json!({"storage": "default"}),
                "pushes" => json!({"url": "rtmp://live.example/app/key"}),
                "redeliver" => json!({}),
                "casts" | "check" => json!({"url": "http://a.example/", "recording": {}, "app": "one"}),
                _ => json!({}),
            };
            let response = server.send_json(&method, TOKEN_TWO, &path, &body).await;
            let text = String::from_utf8_lossy(&response.body).into_owned();
            assert!(!text.contains(id.as_str()), "{method} {path}: {text}");
            let is_list = method == "GET" && ["/v1/casts", "/v1/use"].contains(&path.as_str());
            let expected: &[u16] = if is_list { &[200] } else { &[403, 404] };
            assert!(expected.contains(&response.status.as_u16()), "{method} {path}: {text}");
            checked += 1;
        }
    }
    assert!(checked >= 35, "{checked} operations");
    let cast = server.get(TOKEN_ONE, &format!("/v1/casts/{id}")).await.expect_status(200);
    assert_eq!((&cast["state"], &cast["stop_requested"]), (&json!("live"), &json!(false)));
}
