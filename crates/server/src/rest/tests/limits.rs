use super::*;
use crate::rate_limit::KeyedRateLimiter;

#[tokio::test]
async fn requests_of_a_token_are_rate_limited() {
    let mut server = TestServer::new().await;
    let limits = KeyedRateLimiter::once_an_hour();
    server.router = router_of(crate::rest::router_with_limits(server.service.clone(), limits));
    server.get(TOKEN_ONE, "/v1/casts").await.expect_status(200);
    for (method, path) in [
        ("GET", "/v1/casts"),
        ("POST", "/v1/casts"),
        ("GET", "/v1/casts/x/events"),
        ("GET", "/v1/applications"),
    ] {
        let response = server.send_json(method, TOKEN_ONE, path, &json!({})).await;
        response.expect_error(429, "too-many-requests", "-");
        assert_eq!(response.header("retry-after"), "1", "{method} {path}");
    }
    server.get(TOKEN_ONE_OTHER, "/v1/casts").await.expect_status(200);
    server.get(TOKEN_TWO, "/v1/casts").await.expect_status(200);
    server.get("nobody-has-this-token", "/v1/casts").await.expect_error(401, "unauthorized", "-");
    for _ in 0..20 {
        server.get(ADMIN_TOKEN, "/v1/casts").await.expect_status(200);
    }
}

#[tokio::test]
async fn a_body_with_too_many_values_is_refused() {
    let server = TestServer::new().await;
    let many = vec!["[]"; 20_000].join(",");
    let members: Vec<_> = (0..20_000).map(|n| format!("\"h{n}\":\"\"")).collect();
    for body in [
        format!("[{many}]"),
        format!("{{\"layers\":[{many}]}}"),
        format!("{{\"url\":\"http://a.example/\",\"headers\":{{{}}}}}", members.join(",")),
        format!("{{{}}}", vec!["\"url\":\"\""; 20_000].join(",")),
    ] {
        let request = request("POST", "/v1/casts", TOKEN_ONE).header("content-type", "application/json");
        let response = server.send(request.body(Body::from(body.clone())).unwrap()).await;
        let json = response.json();
        response.expect_error(413, "too-large", "-");
        assert!(json["error"]["message"].as_str().unwrap().contains("10000 values"), "{body:.30}: {json}");
    }
    let long = json!({"url": "http://a.example/", "recording": {}, "script": "[],".repeat(300_000)});
    server.post(TOKEN_ONE, "/v1/casts", &long).await.expect_status(201);
}
