use std::net::SocketAddr;

use axum::extract::ConnectInfo;

use super::session::console_request;
use super::*;

/// Id of a token, as the list of tokens shows it.
fn token_id(token: &str) -> String {
    let hash = super::super::session::token_hash(token);
    hash[..12].to_owned()
}

impl TestServer {
    /// The recorded requests, newest first.
    async fn audit(&self, query: &str) -> Vec<Value> {
        let list = self.get(ADMIN_TOKEN, &format!("/v1/audit{query}")).await.expect_status(200);
        assert_no_secrets(&list);
        list["entries"].as_array().unwrap().clone()
    }
}

/// Sender, operation, target and status of each entry.
fn summaries(entries: &[Value]) -> Vec<String> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("-").to_owned();
    let summary = |entry: &Value| {
        let fields = ["role", "app", "actor", "via", "action", "target"].map(|field| text(entry, field));
        format!("{} {}", fields.join(" "), entry["status"])
    };
    entries.iter().map(summary).collect()
}

#[tokio::test]
async fn changes_are_recorded_with_their_sender_and_reads_are_not() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    server.get(TOKEN_ONE, "/v1/casts").await.expect_status(200);
    let body = json!({"app": "two", "url": "http://b.example/?planted=1", "recording": {}});
    let other = server.create_cast_as(ADMIN_TOKEN, &body).await;
    let cookie = server.sign_in(TOKEN_ONE_OTHER).await;
    let stop = format!("/v1/casts/{id}/stop");
    server.send_from_console("POST", &stop, &cookie).await.expect_status(200);
    let code = server.service.sign_in_code.create();
    let request = console_request("POST", "/v1/session", "").header("content-type", "application/json");
    let signed_in = server.send(request.body(Body::from(json!({"code": code}).to_string())).unwrap()).await;
    let administrator = signed_in.header("set-cookie").split(';').next().unwrap().to_owned();
    server.send_from_console("DELETE", "/v1/session", &administrator).await.expect_status(204);
    let application = json!({"name": "school", "settings": {"max_casts": 5}});
    server.post(ADMIN_TOKEN, "/v1/applications", &application).await.expect_status(201);
    let token = server.post(ADMIN_TOKEN, "/v1/applications/school/tokens", &json!({})).await;
    let token = token.expect_status(201);
    let (token_name, token) = (token["id"].as_str().unwrap(), token["token"].as_str().unwrap());
    // A secret that is sent by mistake is not kept.
    let by_mistake = format!("/v1/applications/school/tokens/{token}");
    server.send_json("DELETE", ADMIN_TOKEN, &by_mistake, &json!({})).await.expect_error(
        404,
        "no-such-token",
        "-",
    );

    let entries = server.audit("").await;
    let (one, one_other) = (token_id(TOKEN_ONE), token_id(TOKEN_ONE_OTHER));
    let mut expected = vec![
        format!("application one token {one} api createCast /v1/casts/{id} 201"),
        format!("administrator two administrator api createCast /v1/casts/{other} 201"),
        format!("application one token {one_other} console signIn /v1/session 201"),
        format!("application one token {one_other} console stopCast {stop} 200"),
        "administrator - one-time link console signIn /v1/session 201".to_owned(),
        "administrator - one-time link console signOut /v1/session 204".to_owned(),
        "administrator school administrator api createApplication /v1/applications/school 201".to_owned(),
        format!(
            "administrator school administrator api addToken /v1/applications/school/tokens/{token_name} 201"
        ),
        "administrator school administrator api removeToken /v1/applications/school/tokens/… 404".to_owned(),
    ];
    expected.reverse();
    assert_eq!(summaries(&entries), expected);
    assert!(entries.iter().all(|entry| entry["at"] == "2026-11-21T17:00:00.000Z" && entry["count"] == 1));
    assert!(entries.iter().all(|entry| entry["request_id"].as_str().unwrap().len() == 36));
    let text = serde_json::to_string(&entries).unwrap();
    for secret in [TOKEN_ONE, TOKEN_ONE_OTHER, ADMIN_TOKEN, token, &code] {
        assert!(!text.contains(secret));
    }
}

#[tokio::test]
async fn refused_requests_are_recorded_and_a_flood_is_counted() {
    let server = TestServer::new().await;
    let send = async |method: &str, path: &str, token: &str, address: &str| {
        let mut request = request(method, path, token).body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address.parse().unwrap(), 4711)));
        server.send(request).await.status.as_u16()
    };
    assert_eq!(send("DELETE", "/v1/applications/one", TOKEN_TWO, "192.0.2.7").await, 403);
    assert_eq!(send("POST", "/v1/nothing/planted", TOKEN_TWO, "192.0.2.7").await, 404);
    for n in 0..200 {
        let token = format!("a-guess-of-a-token-{n:04}");
        let address = format!("2001:db8::{n:x}");
        assert_eq!(send("POST", "/v1/casts", &token, &address).await, 401);
    }
    assert_eq!(send("POST", "/v1/casts", "", "192.0.2.8").await, 401);
    let entries = server.audit("").await;
    assert_eq!(entries.len(), 2 + 10 + 1);
    let newest = &entries[0];
    assert_eq!((&newest["actor"], &newest["address"]), (&json!("nobody"), &json!("192.0.2.8")));
    let guess = format!(
        "unknown - unverified token {} api createCast /v1/casts 401",
        token_id("a-guess-of-a-token-0009")
    );
    assert_eq!(summaries(&entries[1..2]), [guess]);
    assert_eq!(entries[1]["address"], "2001:db8::9");
    let unknown = format!("unknown - unverified token {} api unknown - 404", token_id(TOKEN_TWO));
    let forbidden = format!(
        "application two token {} api removeApplication /v1/applications/one 403",
        token_id(TOKEN_TWO)
    );
    assert_eq!(summaries(&entries[11..]), [unknown, forbidden]);
    // Its owner is the application; what it was about is in the target.
    assert_eq!(entries[12]["app"], "two");

    server.advance_clock(60_000);
    assert_eq!(send("POST", "/v1/casts", "", "192.0.2.8").await, 401);
    let entries = server.audit("").await;
    assert_eq!((entries.len(), &entries[1]["count"]), (15, &json!(190)), "{entries:?}");
}

#[tokio::test]
async fn a_request_of_a_client_that_is_gone_is_recorded() {
    let server = TestServer::new().await;
    let request = request("POST", "/v1/casts", TOKEN_ONE).header("content-type", "application/json");
    let (_sender, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let body = Body::from_stream(futures_util::stream::unfold(body, |mut body| async {
        let next = body.recv().await?;
        Some((next, body))
    }));
    let call = server.router.clone().oneshot(request.body(body).unwrap());
    tokio::time::timeout(Duration::from_millis(200), call).await.expect_err("the body never ends");
    let entries = server.audit("").await;
    let of_one = format!("application one token {} api createCast /v1/casts 499", token_id(TOKEN_ONE));
    assert_eq!(summaries(&entries), [of_one]);
}

#[tokio::test]
async fn the_list_has_pages_and_a_filter_and_is_for_the_administrator() {
    let server = TestServer::new().await;
    for token in [TOKEN_ONE, TOKEN_TWO, TOKEN_ONE] {
        server.create_cast_as(token, &json!({"url": "http://a.example/", "recording": {}})).await;
    }
    let first = server.get(ADMIN_TOKEN, "/v1/audit?limit=2").await.expect_status(200);
    assert_eq!(first["entries"].as_array().unwrap().len(), 2);
    let next = first["next"].as_u64().unwrap();
    assert_eq!(first["entries"][1]["id"], next);
    let second = server.get(ADMIN_TOKEN, &format!("/v1/audit?limit=2&after={next}")).await.expect_status(200);
    assert_eq!((second["entries"].as_array().unwrap().len(), &second["next"]), (1, &Value::Null));
    let of_two = server.audit("?app=two").await;
    assert_eq!((of_two.len(), &of_two[0]["app"]), (1, &json!("two")));
    assert!(server.audit("?app=nobody").await.is_empty());
    for (query, field) in [("limit=0", "limit"), ("limit=1001", "limit"), ("after=x", "after"), ("x=1", "x")]
    {
        let refused = server.get(ADMIN_TOKEN, &format!("/v1/audit?{query}")).await;
        refused.expect_error(400, "invalid-parameter", field);
    }
    server.get(TOKEN_ONE, "/v1/audit").await.expect_error(403, "forbidden", "-");
    server.get("", "/v1/audit").await.expect_error(401, "unauthorized", "-");
}
