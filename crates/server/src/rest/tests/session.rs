use super::*;

const COOKIE: &str = "pagecast=";

/// A request to this service on loopback, as the console sends it.
pub(super) fn console_request(method: &str, path: &str, cookie: &str) -> axum::http::request::Builder {
    let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8080");
    request.header("sec-fetch-site", "same-origin").header("pagecast-console", "1").header("cookie", cookie)
}

impl TestServer {
    pub(super) async fn send_from_console(&self, method: &str, path: &str, cookie: &str) -> TestResponse {
        self.send(console_request(method, path, cookie).body(Body::empty()).unwrap()).await
    }

    /// Signs in on loopback and returns the cookie.
    pub(super) async fn sign_in(&self, token: &str) -> String {
        let request =
            console_request("POST", "/v1/session", "other=1").header("content-type", "application/json");
        let response =
            self.send(request.body(Body::from(json!({"token": token}).to_string())).unwrap()).await;
        response.expect_status(201);
        let cookie = response.header("set-cookie");
        assert!(cookie.starts_with(COOKIE) && cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_session_is_as_good_as_its_token_until_it_is_closed() {
    let server = TestServer::new().await;
    let own = server.create_cast().await;
    let foreign =
        server.create_cast_as(TOKEN_TWO, &json!({"url": "http://b.example/", "recording": {}})).await;
    let cookie = server.sign_in(TOKEN_ONE).await;
    let session = server.send_from_console("GET", "/v1/session", &cookie).await.expect_status(200);
    assert_eq!((&session["role"], &session["app"]), (&json!("application"), &json!("one")));
    assert_eq!(session["expires_at"], "2026-11-22T05:00:00.000Z");
    server.send_from_console("GET", &format!("/v1/casts/{own}"), &cookie).await.expect_status(200);
    let other = server.send_from_console("GET", &format!("/v1/casts/{foreign}"), &cookie).await;
    other.expect_error(404, "no-such-cast", "-");
    server.send_from_console("GET", "/v1/applications", &cookie).await.expect_error(403, "forbidden", "-");
    let admin = server.sign_in(ADMIN_TOKEN).await;
    server.send_from_console("GET", "/v1/applications", &admin).await.expect_status(200);

    let signed_out = server.send_from_console("DELETE", "/v1/session", &cookie).await;
    signed_out.expect_status(204);
    assert!(signed_out.header("set-cookie").starts_with("pagecast=; Path=/; Max-Age=0;"));
    server.send_from_console("GET", "/v1/session", &cookie).await.expect_error(401, "unauthorized", "-");
    server.send_from_console("GET", "/v1/session", &admin).await.expect_status(200);
}

#[tokio::test]
async fn signing_out_everywhere_ends_all_sessions_of_the_token() {
    let server = TestServer::new().await;
    let (first, second) = (server.sign_in(TOKEN_ONE).await, server.sign_in(TOKEN_ONE).await);
    let other = server.sign_in(TOKEN_ONE_OTHER).await;
    assert_ne!(first, second);
    server.send_from_console("DELETE", "/v1/session?everywhere=true", &first).await.expect_status(204);
    for (cookie, status) in [(&first, 401), (&second, 401), (&other, 200)] {
        server.send_from_console("GET", "/v1/session", cookie).await.expect_status(status);
    }
    let invalid = server.send_from_console("DELETE", "/v1/session?everywhere=maybe", &other).await;
    invalid.expect_error(400, "invalid-parameter", "everywhere");
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used() {
    let server = TestServer::new().await;
    let (used, unused) = (server.sign_in(TOKEN_ONE).await, server.sign_in(TOKEN_ONE).await);
    server.advance_clock(11 * 3600 * 1000);
    server.send_from_console("GET", "/v1/session", &used).await.expect_status(200);
    server.advance_clock(2 * 3600 * 1000);
    server.send_from_console("GET", "/v1/session", &used).await.expect_status(200);
    server.send_from_console("GET", "/v1/session", &unused).await.expect_error(401, "unauthorized", "-");
}

#[tokio::test]
async fn the_sessions_of_a_token_are_bounded() {
    let server = TestServer::new().await;
    let first = server.sign_in(TOKEN_ONE).await;
    server.advance_clock(1000);
    for _ in 0..50 {
        server.sign_in(TOKEN_ONE).await;
    }
    server.send_from_console("GET", "/v1/session", &first).await.expect_error(401, "unauthorized", "-");
    let stored = server.service.fleet.documents("session").await.unwrap().documents;
    assert_eq!(stored.len(), 50);
    let value = first.trim_start_matches(COOKIE);
    let text = format!("{stored:?}");
    assert!(!text.contains(value) && !text.contains(TOKEN_ONE), "only hashes are stored");
}

#[tokio::test]
async fn pages_of_other_sites_cannot_use_a_session() {
    let server = TestServer::new().await;
    let cookie = server.sign_in(ADMIN_TOKEN).await;
    let base = |method: &str| {
        Request::builder()
            .method(method)
            .uri("/v1/casts")
            .header("host", "127.0.0.1:8080")
            .header("cookie", &cookie)
    };
    for (method, headers, status) in [
        ("GET", vec![("sec-fetch-site", "cross-site")], 403),
        ("GET", vec![("sec-fetch-site", "same-site")], 403),
        ("GET", vec![("origin", "https://evil.example")], 403),
        ("GET", vec![("origin", "null")], 403),
        ("POST", vec![("sec-fetch-site", "same-origin")], 403),
        ("POST", vec![("sec-fetch-site", "cross-site"), ("pagecast-console", "1")], 403),
        ("POST", vec![("origin", "http://127.0.0.1:9999"), ("pagecast-console", "1")], 403),
        ("GET", vec![("sec-fetch-site", "none")], 200),
        ("GET", vec![("sec-fetch-site", "same-origin")], 200),
        ("GET", vec![], 200),
        // The body is missing, which is noticed after the caller.
        ("POST", vec![("origin", "http://127.0.0.1:8080"), ("pagecast-console", "1")], 415),
    ] {
        let request =
            headers.iter().fold(base(method), |request, (name, value)| request.header(*name, *value));
        let response = server.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status.as_u16(), status, "{method} {headers:?}");
    }
    let forced = Request::builder().method("POST").uri("/v1/session").header("sec-fetch-site", "cross-site");
    let forced = forced.header("content-type", "application/json");
    let forced = server.send(forced.body(Body::from(json!({"token": TOKEN_ONE}).to_string())).unwrap()).await;
    forced.expect_error(403, "forbidden", "-");
}

#[tokio::test]
async fn cookies_are_secure_except_on_loopback() {
    let server = TestServer::new().await;
    for (host, secure) in [
        ("127.0.0.1:8080", false),
        ("localhost:8080", false),
        ("[::1]:8080", false),
        ("pagecast.example", true),
        ("10.0.0.7:8080", true),
        ("localhost.evil.example", true),
        ("127.0.0.1.evil.example:80", true),
    ] {
        let request = Request::builder().method("POST").uri("/v1/session").header("host", host);
        let request = request.header("content-type", "application/json");
        let body = Body::from(json!({"token": TOKEN_ONE}).to_string());
        let response = server.send(request.body(body).unwrap()).await;
        response.expect_status(201);
        let cookie = response.header("set-cookie");
        assert_eq!(
            cookie.starts_with("__Host-pagecast=") && cookie.ends_with("; Secure"),
            secure,
            "{host}: {cookie}"
        );
        assert_eq!(cookie.starts_with(COOKIE), !secure, "{host}: {cookie}");
    }
}

#[tokio::test]
async fn attempts_to_sign_in_are_limited_by_address() {
    let server = TestServer::new().await;
    let attempt = async |address: &str, token: &str| {
        let mut request = console_request("POST", "/v1/session", "");
        request = request.header("content-type", "application/json");
        let mut request = request.body(Body::from(json!({"token": token}).to_string())).unwrap();
        let address: std::net::SocketAddr = address.parse().unwrap();
        request.extensions_mut().insert(axum::extract::ConnectInfo(address));
        server.send(request).await
    };
    for _ in 0..10 {
        attempt("192.0.2.1:5", "guess").await.expect_error(401, "unauthorized", "-");
    }
    let refused = attempt("192.0.2.1:6", TOKEN_ONE).await;
    refused.expect_error(429, "too-many-requests", "-");
    assert_eq!(refused.header("retry-after"), "60");
    attempt("192.0.2.2:5", TOKEN_ONE).await.expect_status(201);
    for host in 0..10 {
        attempt(&format!("[2001:db8::{host:x}]:5"), "guess").await.expect_error(401, "unauthorized", "-");
    }
    attempt("[2001:db8::ffff]:5", TOKEN_ONE).await.expect_error(429, "too-many-requests", "-");
    attempt("[2001:db8:1::1]:5", TOKEN_ONE).await.expect_status(201);
}

#[tokio::test]
async fn a_code_signs_in_once() {
    let server = TestServer::new().await;
    let attempt = async |body: Value| {
        let request = console_request("POST", "/v1/session", "").header("content-type", "application/json");
        server.send(request.body(Body::from(body.to_string())).unwrap()).await
    };
    attempt(json!({"code": ""})).await.expect_error(401, "unauthorized", "-");
    let (old, code) = (server.service.sign_in_code.create(), server.service.sign_in_code.create());
    for wrong in [old.as_str(), "", &code[1..]] {
        attempt(json!({"code": wrong})).await.expect_error(401, "unauthorized", "-");
    }
    attempt(json!({"code": code, "token": TOKEN_ONE})).await.expect_error(400, "invalid-parameter", "token");
    attempt(json!({})).await.expect_error(400, "invalid-parameter", "token");
    let response = attempt(json!({"code": code})).await;
    assert_eq!(response.expect_status(201)["role"], "administrator");
    let cookie = response.header("set-cookie").split(';').next().unwrap().to_owned();
    server.send_from_console("GET", "/v1/applications", &cookie).await.expect_status(200);
    attempt(json!({"code": code})).await.expect_error(401, "unauthorized", "-");
}

#[tokio::test]
async fn links_sign_in_once_with_the_token_that_asked_for_them() {
    let server = TestServer::new().await;
    let create = async |token: &str, host: &str| {
        let request = request("POST", "/v1/session/codes", token).header("host", host);
        server.send(request.body(Body::empty()).unwrap()).await
    };
    let attempt = async |link: &Value| {
        let code = link["url"].as_str().unwrap().split_once("/console/sign-in#code=").unwrap().1;
        let request = console_request("POST", "/v1/session", "").header("content-type", "application/json");
        server.send(request.body(Body::from(json!({"code": code}).to_string())).unwrap()).await
    };
    let link = create(ADMIN_TOKEN, "127.0.0.1:8080").await.expect_status(201);
    assert!(link["url"].as_str().unwrap().starts_with("http://127.0.0.1:8080/console/"), "{link}");
    assert_eq!(link["expires_at"], "2026-11-21T17:10:00.000Z");
    let public = create(TOKEN_ONE, "casts.example").await.expect_status(201);
    assert!(public["url"].as_str().unwrap().starts_with("https://casts.example/console/"), "{public}");
    assert_eq!(attempt(&link).await.expect_status(201)["role"], "administrator");
    attempt(&link).await.expect_error(401, "unauthorized", "-");
    assert_eq!(attempt(&public).await.expect_status(201)["app"], "one");

    let late = create(ADMIN_TOKEN, "127.0.0.1:8080").await.expect_status(201);
    server.advance_clock(10 * 60 * 1000);
    attempt(&late).await.expect_error(401, "unauthorized", "-");

    let first = create(TOKEN_ONE, "localhost").await.expect_status(201);
    let others = create(TOKEN_ONE_OTHER, "localhost").await.expect_status(201);
    for _ in 0..20 {
        server.advance_clock(1);
        create(TOKEN_ONE, "localhost").await.expect_status(201);
    }
    attempt(&first).await.expect_error(401, "unauthorized", "-");
    attempt(&others).await.expect_status(201);
}

#[tokio::test]
async fn links_need_a_token_and_a_host() {
    let server = TestServer::new().await;
    let cookie = server.sign_in(ADMIN_TOKEN).await;
    let by_session = server.send_from_console("POST", "/v1/session/codes", &cookie).await;
    by_session.expect_error(401, "unauthorized", "-");
    for host in ["", "a b", "a/../b", "a@b", &"a".repeat(300)] {
        let request = request("POST", "/v1/session/codes", ADMIN_TOKEN).header("host", host);
        let refused = server.send(request.body(Body::empty()).unwrap()).await;
        refused.expect_error(400, "bad-request", "-");
    }
}
