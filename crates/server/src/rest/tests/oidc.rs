//! Signing in with OpenID Connect, against a provider that can be told to misbehave.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use super::session::console_request;
use super::*;

fn sha256(text: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

/// What the provider does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    WrongNonce,
    NoNonce,
    WrongIssuer,
    WrongAudience,
    OtherParty,
    Expired,
    NoSubject,
    Unsigned,
    SymmetricKey,
    ForeignKey,
    NoToken,
    LongToken,
    LongDiscovery,
    OtherDiscovery,
    PlainEndpoint,
    RedirectedToken,
    RefusedToken,
}

/// A provider in this process.
struct FakeProvider {
    issuer: String,
    fault: Fault,
    /// Claims of the person.
    claims: Value,
    /// Claims that only the user info has.
    user_info: Value,
    nonce: String,
    challenge: String,
    key: EncodingKey,
    jwk: Jwk,
}

type Shared = Arc<Mutex<FakeProvider>>;

fn key() -> EncodingKey {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    EncodingKey::from_ec_der(pkcs8.as_ref())
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, FakeProvider> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn discovery(State(shared): State<Shared>) -> Response {
    let provider = lock(&shared);
    let issuer = &provider.issuer;
    let padding = if provider.fault == Fault::LongDiscovery { "x".repeat(300_000) } else { String::new() };
    let plain = provider.fault == Fault::PlainEndpoint;
    let document = json!({
        "issuer": if provider.fault == Fault::OtherDiscovery { "https://other.example" } else { issuer },
        "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
        "token_endpoint": if plain { "http://192.0.2.1/token".to_owned() } else { format!("{issuer}/token") },
        "userinfo_endpoint": format!("{issuer}/me"),
        "jwks_uri": format!("{issuer}/keys"),
        "padding": padding,
    });
    axum::Json(document).into_response()
}

async fn keys(State(shared): State<Shared>) -> Response {
    let jwk = lock(&shared).jwk.clone();
    axum::Json(json!({"keys": [{"kty": "new kind"}, jwk]})).into_response()
}

async fn token(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let provider = lock(&shared);
    let form: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let basic = "Basic cGFnZWNhc3Q6cGxhbnRlZCtjbGllbnQlMkZzZWNyZXQ=";
    assert_eq!(headers["authorization"], basic);
    assert_eq!((form["grant_type"].as_str(), form["code"].as_str()), ("authorization_code", "the code"));
    assert_eq!(form["redirect_uri"], "http://127.0.0.1:8080/v1/session/oidc/callback");
    assert_eq!(URL_SAFE_NO_PAD.encode(sha256(&form["code_verifier"])), provider.challenge);
    match provider.fault {
        Fault::NoToken => return axum::Json(json!({"access_token": "x"})).into_response(),
        Fault::LongToken => return axum::Json(json!({"id_token": "x".repeat(100_000)})).into_response(),
        Fault::RedirectedToken => return axum::response::Redirect::to("/keys").into_response(),
        Fault::RefusedToken => return StatusCode::BAD_REQUEST.into_response(),
        _ => {}
    }
    axum::Json(json!({"id_token": provider.id_token(), "access_token": "access"})).into_response()
}

async fn user_info(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    assert_eq!(headers["authorization"], "Bearer access");
    axum::Json(lock(&shared).user_info.clone()).into_response()
}

impl FakeProvider {
    async fn start() -> Shared {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = key();
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some("one".to_owned());
        let provider = Self {
            issuer,
            fault: Fault::None,
            claims: json!({"email": "ada@example.com", "groups": ["staff", "owners"]}),
            user_info: json!({}),
            nonce: String::new(),
            challenge: String::new(),
            key,
            jwk,
        };
        let shared = Arc::new(Mutex::new(provider));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .route("/me", get(user_info))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        shared
    }

    fn id_token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": self.issuer, "aud": "pagecast", "sub": "person-1", "nonce": self.nonce,
            "iat": now, "exp": now + 300,
        });
        claims.as_object_mut().unwrap().extend(self.claims.as_object().unwrap().clone());
        match self.fault {
            Fault::WrongNonce => claims["nonce"] = "another".into(),
            Fault::NoNonce => drop(claims.as_object_mut().unwrap().remove("nonce")),
            Fault::WrongIssuer => claims["iss"] = "https://other.example".into(),
            Fault::WrongAudience => claims["aud"] = "another".into(),
            Fault::OtherParty => claims["aud"] = json!(["pagecast", "another"]),
            Fault::Expired => claims["exp"] = (now - 120).into(),
            Fault::NoSubject => drop(claims.as_object_mut().unwrap().remove("sub")),
            _ => {}
        }
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("one".to_owned());
        match self.fault {
            Fault::Unsigned => {
                let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
                format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims))
            }
            Fault::SymmetricKey => {
                // The attacker knows the public key, and the client's secret is no key either.
                let public = serde_json::to_vec(&self.jwk).unwrap();
                encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&public)).unwrap()
            }
            Fault::ForeignKey => encode(&header, &claims, &key()).unwrap(),
            _ => encode(&header, &claims, &self.key).unwrap(),
        }
    }
}

/// A service whose people come from this provider.
async fn server_with(provider: &Shared) -> TestServer {
    let issuer = lock(provider).issuer.clone();
    TestServer::with_config(json!({"console": {"oidc": {
        "issuer": issuer, "client_id": "pagecast", "client_secret": "planted client/secret",
        "label": "Staff", "role_claim": "groups",
        "roles": [
            {"value": "owners", "role": "admin"},
            {"value": "operators", "role": "operator"},
            {"value": "teachers", "role": "admin", "app": "one"},
            {"value": "gone", "role": "admin", "app": "no-such-application"},
            {"value": "staff", "role": "viewer"},
        ],
    }}}))
    .await
}

fn cookie_of(response: &TestResponse, name: &str) -> Option<String> {
    let cookies = response.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let mut pairs = cookies.filter_map(|cookie| cookie.split(';').next());
    pairs.find(|pair| pair.starts_with(&format!("{name}="))).map(str::to_owned)
}

/// An attempt to sign in that has reached the provider.
struct Begun {
    cookie: String,
    state: String,
}

impl TestServer {
    async fn begin(&self, provider: &Shared) -> Begun {
        let begun = self.send_from_console("GET", "/v1/session/oidc", "").await;
        assert_eq!(begun.status, 303);
        let url = url::Url::parse(begun.header("location")).unwrap();
        let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert!(url.as_str().starts_with(&format!("{}/authorize?tenant=1&", lock(provider).issuer)), "{url}");
        assert_eq!(query["scope"], "openid email profile");
        assert_eq!(
            (query["code_challenge_method"].as_str(), query["client_id"].as_str()),
            ("S256", "pagecast")
        );
        lock(provider).nonce = query["nonce"].clone();
        lock(provider).challenge = query["code_challenge"].clone();
        let set = begun.header("set-cookie");
        assert!(set.contains("; Max-Age=600; HttpOnly; SameSite=Lax"), "{set}");
        Begun { cookie: cookie_of(&begun, "pagecast-oidc").unwrap(), state: query["state"].clone() }
    }

    /// What the service answers when the provider sends the browser back.
    async fn finish(&self, begun: &Begun, query: &str) -> TestResponse {
        let path = format!("/v1/session/oidc/callback?{query}");
        let mut request = console_request("GET", &path, &begun.cookie).body(Body::empty()).unwrap();
        request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
        self.send(request).await
    }

    async fn sign_in_with(&self, provider: &Shared) -> TestResponse {
        let begun = self.begin(provider).await;
        let response = self.finish(&begun, &format!("code=the+code&state={}", begun.state)).await;
        assert_eq!((response.status.as_u16(), response.header("cache-control")), (303, "no-store"));
        assert_eq!(cookie_of(&response, "pagecast-oidc").as_deref(), Some("pagecast-oidc="));
        response
    }

    /// Signs in as somebody in these groups. Returns the session's cookie.
    async fn sign_in_as(&self, provider: &Shared, groups: Value) -> String {
        lock(provider).claims["groups"] = groups;
        let response = self.sign_in_with(provider).await;
        assert_eq!(response.header("location"), "/console/");
        cookie_of(&response, "pagecast").unwrap()
    }
}

#[tokio::test]
async fn people_sign_in_with_their_role() {
    let provider = FakeProvider::start().await;
    let server = server_with(&provider).await;
    let methods = server.get("", "/v1/session/methods").await.expect_status(200);
    assert_eq!(methods, json!({"token": true, "oidc": {"label": "Staff"}}));
    let cast = server.create_cast_as(TOKEN_TWO, &json!({"url": "http://b.example/", "recording": {}})).await;
    for (groups, role, app, permission) in [
        (json!(["staff", "owners"]), "administrator", Value::Null, "admin"),
        (json!("operators"), "administrator", Value::Null, "operator"),
        (json!(["teachers"]), "application", json!("one"), "admin"),
        (json!(["other", "staff"]), "administrator", Value::Null, "viewer"),
    ] {
        let cookie = server.sign_in_as(&provider, groups).await;
        let session = server.send_from_console("GET", "/v1/session", &cookie).await.expect_status(200);
        assert_eq!((&session["role"], &session["app"]), (&json!(role), &app), "{session}");
        assert_eq!(
            (&session["permission"], &session["name"]),
            (&json!(permission), &json!("ada@example.com"))
        );
        let seen = server.send_from_console("GET", &format!("/v1/casts/{cast}"), &cookie).await;
        seen.expect_status(if app.is_null() { 200 } else { 404 });
        let stop = server.send_from_console("POST", &format!("/v1/casts/{cast}/stop"), &cookie).await;
        stop.expect_status(match (permission, app.is_null()) {
            ("viewer", _) => 403,
            (_, true) => 200,
            (_, false) => 404,
        });
        let key = server.send_from_console("POST", "/v1/applications/two/keys", &cookie).await;
        let may = permission == "admin" && app.is_null();
        assert_eq!(key.status == 403, !may, "{permission}");
        let code = server.send_from_console("POST", "/v1/session/codes", &cookie).await;
        assert!(code.status == 401 || code.status == 403, "a session creates no links");
        server.send_from_console("DELETE", "/v1/session", &cookie).await.expect_status(204);
        server.send_from_console("GET", "/v1/session", &cookie).await.expect_error(401, "unauthorized", "-");
    }
    let by_token = server.get(TOKEN_ONE, "/v1/session").await.expect_status(200);
    assert_eq!((&by_token["permission"], &by_token["name"]), (&json!("admin"), &Value::Null));
}

#[tokio::test]
async fn the_audit_names_people() {
    let provider = FakeProvider::start().await;
    let server = server_with(&provider).await;
    let cookie = server.sign_in_as(&provider, json!(["teachers"])).await;
    let path = format!("/v1/casts/{}/stop", "0".repeat(32));
    server.send_from_console("POST", &path, &cookie).await.expect_status(404);
    lock(&provider).claims["groups"] = json!("other");
    server.sign_in_with(&provider).await;
    let audit = server.get(ADMIN_TOKEN, "/v1/audit").await.expect_status(200);
    let entries = audit["entries"].as_array().unwrap().iter();
    let shown: Vec<_> = entries
        .map(|entry| {
            let fields =
                ["role", "app", "actor", "via", "action", "status"].map(|field| match &entry[field] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
            fields.join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "unknown null nobody api finishOidcSignIn 303",
            "application one ada@example.com console stopCast 404",
            "application one ada@example.com console finishOidcSignIn 303",
        ]
    );
    assert!(!audit.to_string().contains("the+code"));
}

#[tokio::test]
async fn people_without_a_role_are_refused() {
    let provider = FakeProvider::start().await;
    let server = server_with(&provider).await;
    for groups in
        [json!([]), json!("other"), json!({"staff": true}), Value::Null, json!(["gone"]), json!("*")]
    {
        lock(&provider).claims["groups"] = groups;
        lock(&provider).user_info = json!({"sub": "person-1"});
        let response = server.sign_in_with(&provider).await;
        assert_eq!(response.header("location"), "/console/sign-in#problem=oidc-no-role");
        assert_eq!(cookie_of(&response, "pagecast"), None);
    }
}

#[tokio::test]
async fn roles_may_be_in_the_user_info() {
    let provider = FakeProvider::start().await;
    let server = server_with(&provider).await;
    lock(&provider).claims = json!({});
    lock(&provider).user_info = json!({"sub": "person-1", "groups": "owners", "name": "Ada\n"});
    let response = server.sign_in_with(&provider).await;
    let cookie = cookie_of(&response, "pagecast").unwrap();
    let session = server.send_from_console("GET", "/v1/session", &cookie).await.expect_status(200);
    assert_eq!((&session["permission"], &session["name"]), (&json!("admin"), &json!("Ada")));
    lock(&provider).user_info = json!({"sub": "person-2", "groups": "owners"});
    let response = server.sign_in_with(&provider).await;
    assert_eq!(response.header("location"), "/console/sign-in#problem=oidc-failed");
}

#[tokio::test]
async fn answers_of_a_wrong_provider_are_refused() {
    let provider = FakeProvider::start().await;
    for fault in [
        Fault::WrongNonce,
        Fault::NoNonce,
        Fault::WrongIssuer,
        Fault::WrongAudience,
        Fault::OtherParty,
        Fault::Expired,
        Fault::NoSubject,
        Fault::Unsigned,
        Fault::SymmetricKey,
        Fault::ForeignKey,
        Fault::NoToken,
        Fault::LongToken,
        Fault::RedirectedToken,
        Fault::RefusedToken,
    ] {
        lock(&provider).fault = fault;
        let response = server_with(&provider).await.sign_in_with(&provider).await;
        assert_eq!(response.header("location"), "/console/sign-in#problem=oidc-failed", "{fault:?}");
        assert_eq!(cookie_of(&response, "pagecast"), None, "{fault:?}");
    }
    for fault in [Fault::LongDiscovery, Fault::OtherDiscovery] {
        lock(&provider).fault = fault;
        let server = server_with(&provider).await;
        let response = server.send_from_console("GET", "/v1/session/oidc", "").await;
        assert_eq!(response.header("location"), "/console/sign-in#problem=oidc-failed", "{fault:?}");
    }
    lock(&provider).fault = Fault::PlainEndpoint;
    let response = server_with(&provider).await.sign_in_with(&provider).await;
    assert_eq!(response.header("location"), "/console/sign-in#problem=oidc-failed");
    // The same provider without a fault.
    lock(&provider).fault = Fault::None;
    server_with(&provider).await.sign_in_as(&provider, json!("staff")).await;
}

#[tokio::test]
async fn an_answer_belongs_to_one_attempt_of_one_browser() {
    let provider = FakeProvider::start().await;
    let server = server_with(&provider).await;
    let (first, second) = (server.begin(&provider).await, server.begin(&provider).await);
    let no_cookie = Begun { cookie: "other=1".to_owned(), state: first.state.clone() };
    let issuer = lock(&provider).issuer.clone();
    for (begun, query, problem) in [
        (&second, format!("code=the+code&state={}", first.state), "oidc-expired"),
        (&no_cookie, format!("code=the+code&state={}", first.state), "oidc-expired"),
        (&second, "code=the+code".to_owned(), "oidc-expired"),
        (&second, String::new(), "oidc-expired"),
        (&second, format!("error=access_denied&state={}", second.state), "oidc-refused"),
        (&second, format!("state={}", second.state), "oidc-refused"),
        (&second, format!("code=the+code&iss=https://other.example&state={}", second.state), "oidc-refused"),
        (&second, format!("code={}&state={}", "x".repeat(5000), second.state), "oidc-refused"),
    ] {
        let response = server.finish(begun, &query).await;
        assert_eq!(response.header("location"), format!("/console/sign-in#problem={problem}"), "{query}");
        assert_eq!(cookie_of(&response, "pagecast"), None);
    }
    // A cookie that the browser had before is not used for the new session.
    let fixed = Begun { cookie: format!("pagecast=chosen; {}", second.cookie), state: second.state.clone() };
    let query = format!("code=the+code&iss={issuer}&state={}", second.state);
    let cookie = cookie_of(&server.finish(&fixed, &query).await, "pagecast").unwrap();
    assert_ne!(cookie, "pagecast=chosen");
    server.send_from_console("GET", "/v1/session", "pagecast=chosen").await.expect_status(401);
    server.send_from_console("GET", "/v1/session", &cookie).await.expect_status(200);

    let late = server.begin(&provider).await;
    server.advance_clock(10 * 60 * 1000);
    let response = server.finish(&late, &format!("code=the+code&state={}", late.state)).await;
    assert_eq!(response.header("location"), "/console/sign-in#problem=oidc-expired");
}

#[tokio::test]
async fn sessions_of_people_end_after_a_day() {
    let provider = FakeProvider::start().await;
    let server = server_with(&provider).await;
    let cookie = server.sign_in_as(&provider, json!("staff")).await;
    let other = server.sign_in_as(&provider, json!("staff")).await;
    for _ in 0..2 {
        server.advance_clock(11 * 3600 * 1000);
        server.send_from_console("GET", "/v1/session", &cookie).await.expect_status(200);
    }
    server.advance_clock(3 * 3600 * 1000);
    server.send_from_console("GET", "/v1/session", &cookie).await.expect_error(401, "unauthorized", "-");
    server.send_from_console("GET", "/v1/session", &other).await.expect_error(401, "unauthorized", "-");
    let cookie = server.sign_in_as(&provider, json!("staff")).await;
    let other = server.sign_in_as(&provider, json!("staff")).await;
    server.send_from_console("DELETE", "/v1/session?everywhere=true", &cookie).await.expect_status(204);
    server.send_from_console("GET", "/v1/session", &other).await.expect_error(401, "unauthorized", "-");
}

#[tokio::test]
async fn without_a_provider_there_are_only_tokens() {
    let server = TestServer::new().await;
    let methods = server.get("", "/v1/session/methods").await.expect_status(200);
    assert_eq!(methods, json!({"token": true, "oidc": null}));
    for path in ["/v1/session/oidc", "/v1/session/oidc/callback?code=x&state=y"] {
        server.send_from_console("GET", path, "").await.expect_error(404, "not-found", "-");
    }
}
