use axum::body::to_bytes;
use axum::http::Request;
use pagecast_core::spec::Secret;
use pagecast_fleet::{NodeInfo, WorkerId, WorkerStatus};
use tower::ServiceExt as _;

use super::*;
use crate::app::ApplicationRegistry;
use crate::auth_log::tests::CapturedLogs;
use crate::callback::testing::{FakeFleet, unix_ms};
use crate::config::{Config, Role};

fn echo_response(name: &'static str, call: &ApiRequest) -> Response {
    let len = call.body.len();
    let id = &call.id;
    let error = if len == 3 { r#"{"Response":{"Error":{"Code":"Auth.Bad","Message":"x"}}}"# } else { "" };
    format!("{name} {} ?{} {len} {id}{error}", call.method, call.query).into_response()
}

static ECHO_FRONTENDS: &[ApiFrontend] = &[
    ApiFrontend {
        api: "tencent",
        actions: &["StartWebRecord", "StopWebRecord"],
        matches: |call| call.header("x-tc-action").is_some(),
        max_body_len: MAX_BODY_LEN,
        handle: |_, call| Box::pin(async move { echo_response("tencent", &call) }),
        body_error_response: |_, error| format!("tencent: {error}").into_response(),
    },
    ApiFrontend {
        api: "volcengine",
        actions: &["StartWebcast"],
        matches: |call| call.query.contains("Version="),
        max_body_len: volcengine::signature::MAX_BODY_LEN,
        handle: |_, call| Box::pin(async move { echo_response("volcengine", &call) }),
        body_error_response: |_, error| format!("volcengine: {error}").into_response(),
    },
];

struct TestServer {
    outbox: Arc<FakeFleet>,
    router: Router,
    draining: watch::Sender<bool>,
}

fn test_server(config: Config) -> TestServer {
    let rest = Router::new().route("/v1/things/{id}", get(|| async { "thing" }));
    test_server_with(config, ECHO_FRONTENDS, move |_| rest.clone())
}

fn rooms() -> Router {
    Router::new().route("/rooms/{room}", get(|| async { "room" }))
}

fn test_server_with(
    config: Config,
    frontends: &'static [ApiFrontend],
    rest: impl Fn(Service) -> Router,
) -> TestServer {
    let outbox = FakeFleet::new();
    let apps = Arc::new(ApplicationRegistry::default());
    let app = serde_json::json!({"name": "a", "keys": [{"id": "AKKNOWN", "secret": "0123456789abcdef"}]});
    apps.replace(vec![serde_json::from_value(app).unwrap()]);
    let service = Service {
        node: pagecast_fleet::WorkerId("w".to_owned()),
        fleet: outbox.clone(),
        apps,
        config: Arc::new(config),
        rooms: None,
        clock: Arc::new(unix_ms),
        peers: None,
        draining: Arc::default(),
        live_api_nodes: Arc::default(),
        audit: Arc::default(),
        sign_in_code: Arc::default(),
        page_checker: None,
        evidence: None,
        recordings: None,
        storage_tester: None,
    };
    let (draining, draining_receiver) = watch::channel(false);
    let rest = rest(service.clone());
    let state = AppState {
        service,
        metrics: Arc::default(),
        draining: draining_receiver,
        frontends,
        last_check: Arc::default(),
    };
    TestServer { outbox, router: build_router(state, Some(rest), rooms()), draining }
}

impl TestServer {
    async fn send(
        &self,
        request: axum::http::request::Builder,
        body: impl Into<Body>,
    ) -> (StatusCode, String, HeaderMap) {
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, String::from_utf8(body.to_vec()).unwrap(), parts.headers)
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let (status, body, _) = self.send(Request::get(path), "").await;
        (status, body)
    }
}

#[tokio::test]
async fn each_request_reaches_its_frontend() {
    let server = test_server(Config::default());
    let post = Request::post;
    for (request, expected) in [
        (post("/").header("X-TC-Action", "StartWebRecord"), "tencent POST ? 2"),
        (
            post("/?Action=StartWebcast&Version=2020-12-01"),
            "volcengine POST ?Action=StartWebcast&Version=2020-12-01 2",
        ),
        (Request::get("/?Action=GetWebCastTask"), "volcengine GET ?Action=GetWebCastTask 2"),
        (post("/"), "volcengine POST ? 2"),
        (Request::get("/").header("Authorization", "HMAC-SHA256 x"), "volcengine GET ? 2"),
        (Request::put("/"), "volcengine PUT ? 2"),
    ] {
        let (status, body, _) = server.send(request, "{}").await;
        assert!(status == StatusCode::OK && body.starts_with(expected), "{body} is not {expected}");
    }
    let (_, text, headers) = server.send(Request::get("/").header("Accept", "text/html,*/*"), "").await;
    assert!(text.is_empty() && headers["location"] == "/console/");
    let (status, text, headers) = server.send(Request::get("/console/casts/x?tab=events"), "").await;
    assert!(status == StatusCode::OK && text.starts_with("<!doctype html>"), "{status} {text}");
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(policy.contains("frame-ancestors 'none'") && headers["x-frame-options"] == "DENY");
    let known = headers["etag"].to_str().unwrap().to_owned();
    let again = Request::get("/console/").header("If-None-Match", &known);
    let (status, text, _) = server.send(again, "").await;
    assert!(status == StatusCode::NOT_MODIFIED && text.is_empty());
    let (status, ..) = server.send(Request::get("/console/missing.js"), "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, text, _) = server.send(Request::get("/"), "").await;
    assert!(text.starts_with("This is Pagecast."));
    assert_eq!(server.get("/v1/things/7").await, (StatusCode::OK, "thing".into()));
    assert_eq!(server.get("/elsewhere").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn each_response_has_a_request_id() {
    let server = test_server(Config::default());
    let id = |headers: &HeaderMap| headers["x-request-id"].to_str().unwrap().to_owned();
    let (_, body, headers) = server.send(Request::post("/").header("X-Request-Id", "mine_1.2-3"), "").await;
    assert_eq!(id(&headers), "mine_1.2-3");
    assert!(body.ends_with("mine_1.2-3"), "the handler has the same id: {body}");
    for bad in ["", "a b", "x\"y", &"a".repeat(65)] {
        let (_, body, headers) =
            server.send(Request::get("/v1/things/1").header("X-Request-Id", bad), "").await;
        assert!(id(&headers).len() == 36 && body == "thing", "{bad:?} became {:?}", id(&headers));
    }
}

#[tokio::test]
async fn a_broken_body_is_answered_by_its_front_end() {
    let server = test_server(Config::default());
    for (name, api) in [("x-tc-action", "tencent"), ("x-other", "volcengine")] {
        let broken = futures_util::stream::iter([Ok("{"), Err(std::io::Error::other("gone"))]);
        let (_, body, _) = server.send(Request::post("/").header(name, "x"), Body::from_stream(broken)).await;
        assert_eq!(body, format!("{api}: the body cannot be read"));
    }
}

#[tokio::test]
async fn a_body_is_read_only_to_its_limit() {
    let server = test_server(Config::default());
    for (len, expected) in [
        (MAX_BODY_LEN, MAX_BODY_LEN),
        (MAX_BODY_LEN + 1, MAX_BODY_LEN + 1),
        (MAX_BODY_LEN + 5000, MAX_BODY_LEN + 1),
    ] {
        let (_, body, _) = server.send(with_known_key(Request::post("/")), vec![b'x'; len]).await;
        assert!(body.contains(&format!(" {expected} ")), "{body}");
    }
    let volcengine = with_known_key(Request::post("/?Version=1"));
    let (_, body, _) = server.send(volcengine, vec![b'x'; MAX_BODY_LEN]).await;
    assert!(body.contains(" 65537 "), "its own limit is lower: {body}");
}

/// Adds an unverified signature of a known key.
fn with_known_key(request: axum::http::request::Builder) -> axum::http::request::Builder {
    request.header(
        "Authorization",
        "HMAC-SHA256 Credential=AKKNOWN/20261121/cn-north-1/rtc/request, Signature=0",
    )
}

#[tokio::test]
async fn an_anonymous_body_is_limited() {
    let server = test_server(Config::default());
    for (name, api) in [("x-tc-action", "tencent"), ("x-other", "volcengine")] {
        for credential in ["", "HMAC-SHA256 Credential=AKOTHER/1/2", "TC3-HMAC-SHA256 Credential=, x"] {
            let request = Request::post("/").header(name, "x").header("Authorization", credential);
            let (_, body, _) = server.send(request, vec![b'x'; 100_000]).await;
            assert!(body.starts_with(&format!("{api}: the body has more than 65536 bytes")), "{body}");
        }
    }
}

#[tokio::test]
async fn anonymous_senders_do_not_block_customers() {
    use futures_util::FutureExt as _;
    use futures_util::stream::{StreamExt as _, iter, pending};
    let server = test_server(Config::default());
    let endless = || {
        let begin = iter([Ok::<_, std::io::Error>(axum::body::Bytes::from(vec![b'x'; 100_000]))]);
        Body::from_stream(begin.chain(pending()))
    };
    let form = || Request::post("/").header("Content-Type", "application/x-www-form-urlencoded");
    // More large bodies than anonymous senders may have; none of them ends.
    let anonymous = (0..64).map(|_| server.send(form(), endless()));
    let mut anonymous = std::pin::pin!(futures_util::future::join_all(anonymous));
    assert!(anonymous.as_mut().now_or_never().is_none());
    let customer = server.send(with_known_key(Request::post("/")), vec![b'x'; 100_000]);
    tokio::select! {
        biased;
        (_, body, _) = customer => assert!(body.contains(" 100000 "), "{body}"),
        _ = anonymous.as_mut() => panic!("the customer waits for anonymous senders"),
    }
    for (_, body, _) in anonymous.await {
        assert_eq!(body, "volcengine: the body did not arrive in time");
    }
}

#[tokio::test]
async fn health_and_readiness() {
    let server = test_server(Config::default());
    assert_eq!(server.get("/healthz").await, (StatusCode::OK, "ok\n".into()));
    let not_ready = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"));
    assert_eq!(server.get("/readyz").await, not_ready("no worker heartbeat in the last 10 s"));
    let load =
        |heartbeat_age_ms, draining| WorkerStatus { heartbeat_age_ms, draining, ..WorkerStatus::default() };
    let put = |loads: Vec<WorkerStatus>| {
        // This node is the last one.
        let names = ["u", "w"].into_iter().skip(2 - loads.len());
        let named = names.map(|name| WorkerId(name.into())).zip(loads).collect();
        *server.outbox.worker_statuses.lock().unwrap() = named;
    };
    put(vec![load(60_000, false)]);
    assert_eq!(server.get("/readyz").await, not_ready("no worker heartbeat in the last 10 s"));
    put(vec![load(60_000, false), load(0, true)]);
    assert_eq!(server.get("/readyz").await, not_ready("all workers are draining"));
    put(vec![load(0, true), load(0, false)]);
    assert_eq!(server.get("/readyz").await, (StatusCode::OK, "ready\n".into()));
    *server.outbox.is_unavailable.lock().unwrap() = true;
    assert_eq!(server.get("/readyz").await, not_ready("the fleet is not available"));
    *server.outbox.is_unavailable.lock().unwrap() = false;
    server.draining.send_replace(true);
    assert_eq!(server.get("/readyz").await, not_ready("shutting down"));
    assert_eq!(server.get("/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn readiness_depends_on_the_roles() {
    let worker = WorkerStatus::default();
    let draining = WorkerStatus { draining: true, ..worker.clone() };
    let late = WorkerStatus { heartbeat_age_ms: 10_001, ..worker.clone() };
    let api_only = WorkerStatus {
        node: NodeInfo { roles: vec!["api".to_owned()], ..NodeInfo::default() },
        ..worker.clone()
    };
    let api_draining = WorkerStatus { draining: true, ..api_only.clone() };
    for (roles, statuses, expected) in [
        (&[Role::Api][..], &[("other", &worker)][..], "ready"),
        (&[Role::Api], &[], "not ready: no worker heartbeat in the last 10 s"),
        (&[Role::Api], &[("w", &api_only)], "not ready: no worker heartbeat in the last 10 s"),
        (&[Role::Api], &[("other", &draining)], "not ready: all workers are draining"),
        (&[Role::Worker], &[("w", &worker)], "ready"),
        (&[Role::Worker], &[("other", &worker)], "not ready: this node sent no heartbeat in the last 10 s"),
        (&[Role::Worker], &[("w", &late)], "not ready: this node sent no heartbeat in the last 10 s"),
        (&[Role::Worker], &[("w", &draining), ("other", &worker)], "not ready: this node is draining"),
        (
            &[Role::Api, Role::Worker],
            &[("w", &draining), ("other", &worker)],
            "not ready: this node is draining",
        ),
        (&[Role::Api], &[("w", &api_draining), ("other", &worker)], "not ready: this node is draining"),
        (&[Role::Rooms], &[], "ready"),
    ] {
        let mut config = Config::default();
        config.fleet.roles = roles.to_vec();
        let server = test_server(config);
        let named = |(name, status): &(&str, &WorkerStatus)| (WorkerId((*name).into()), (*status).clone());
        *server.outbox.worker_statuses.lock().unwrap() = statuses.iter().map(named).collect();
        let (_, answer) = server.get("/readyz").await;
        assert_eq!(answer, format!("{expected}\n"), "{roles:?} {statuses:?}");
    }
}

#[tokio::test]
async fn a_node_without_the_role_api_has_no_apis() {
    let mut config = Config::default();
    config.fleet.roles = vec![Role::Worker, Role::Rooms];
    let outbox = FakeFleet::new();
    let service = Service {
        fleet: outbox.clone(),
        node: WorkerId("w".to_owned()),
        apps: Arc::default(),
        config: Arc::new(config),
        rooms: None,
        peers: None,
        clock: Arc::new(unix_ms),
        draining: Arc::default(),
        live_api_nodes: Arc::default(),
        audit: Arc::default(),
        sign_in_code: Arc::default(),
        page_checker: None,
        evidence: None,
        recordings: None,
        storage_tester: None,
    };
    let (draining, stopped) = watch::channel(false);
    let router = super::router(service, Arc::default(), stopped, rooms());
    let server = TestServer { outbox, router, draining };
    for path in ["/", "/v1", "/v1/casts", "/v1/openapi.json", "/?Action=StartWebcast&Version=2020-12-01"] {
        assert_eq!(server.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let signed = Request::post("/").header("X-TC-Action", "StartWebRecord");
    assert_eq!(server.send(signed, "{}").await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/rooms/a").await, (StatusCode::OK, "room".into()));
    assert_eq!(server.get("/healthz").await, (StatusCode::OK, "ok\n".into()));
    assert_eq!(server.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let metrics = server.send(Request::get("/metrics").header("Host", "localhost"), "").await.1;
    assert!(metrics.contains("pagecast_database_up 1"), "{metrics}");
}

#[tokio::test]
async fn rooms_are_served_without_request_ids_and_metrics() {
    let server = test_server(Config::default());
    // No frontend reads it as a signed request.
    let signed = Request::get("/rooms/a?Version=1").header("Authorization", "HMAC-SHA256 x");
    let (status, body, headers) = server.send(signed, "").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "room"));
    assert!(!headers.contains_key("x-request-id"), "{headers:?}");
    let (status, _, headers) = server.send(Request::delete("/rooms/a"), "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(!headers.contains_key("x-request-id"), "{headers:?}");
    let (status, _, headers) = server.send(Request::get("/v1/things/7"), "").await;
    assert!(status == StatusCode::OK && headers.contains_key("x-request-id"), "{headers:?}");
    let (status, _, headers) = server.send(Request::get("/elsewhere"), "").await;
    assert!(status == StatusCode::NOT_FOUND && headers.contains_key("x-request-id"), "{headers:?}");
    let metrics = server.send(Request::get("/metrics").header("Host", "localhost"), "").await.1;
    assert!(metrics.contains("/v1/things") && !metrics.contains("/rooms"), "{metrics}");
}

#[tokio::test]
async fn metrics_are_for_this_machine_and_the_administrator() {
    let token = "an-administrators-token";
    let open = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        admin_token: Some(Secret::new(token)),
        ..Config::default()
    };
    let nobody = Config { admin_token: None, ..open.clone() };
    let local = Config { admin_token: None, ..Config::default() };
    let bearer = |token: &str| Some(("Authorization", format!("Bearer {token}")));
    for (case, config, header, expected) in [
        ("from this machine", &local, None, 200),
        ("from this machine through a proxy", &local, Some(("X-Forwarded-For", "1.2.3.4".into())), 401),
        ("from elsewhere", &open, None, 401),
        ("a wrong token", &open, bearer("an-administrators-tokem"), 401),
        ("no token", &open, bearer(""), 401),
        ("the token in another scheme", &open, Some(("Authorization", format!("Basic {token}"))), 401),
        ("the token", &open, bearer(token), 200),
        ("no administrator", &nobody, bearer(""), 401),
    ] {
        let server = test_server(config.clone());
        let mut request = Request::get("/metrics");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let (status, body, _) = server.send(request, "").await;
        assert_eq!(status.as_u16(), expected, "{case}: {body}");
        assert_eq!(body.contains("pagecast_casts{"), expected == 200, "{case}: {body}");
    }
}

#[tokio::test]
async fn metrics_are_not_for_pages_of_other_sites() {
    let server = test_server(Config::default());
    for (host, origin, expected) in [
        ("localhost:8080", None, 200),
        ("127.0.0.1:8080", None, 200),
        ("[::1]:8080", None, 200),
        ("pagecast.localhost", Some("http://localhost:3000"), 200),
        ("rebound.example:8080", None, 401),
        ("rebound.example:8080", Some("http://rebound.example:8080"), 401),
        ("localhost.example", None, 401),
        ("192.168.1.5:8080", None, 401),
        ("127.0.0.1:8080", Some("https://evil.example"), 401),
        ("127.0.0.1:8080", Some("null"), 401),
        ("", None, 401),
    ] {
        let mut request = Request::get("/metrics").header("Host", host);
        if let Some(origin) = origin {
            request = request.header("Origin", origin);
        }
        let (status, body, _) = server.send(request, "").await;
        assert_eq!(status.as_u16(), expected, "{host} {origin:?}: {body}");
    }
}

#[tokio::test]
async fn requests_are_measured_by_action_and_code() {
    let server = test_server(Config::default());
    server.send(Request::post("/").header("X-TC-Action", "startwebrecord"), "{}").await;
    server.send(Request::post("/").header("X-TC-Action", "StopWebRecord"), "bad").await;
    server.send(Request::post("/?Version=1&Action=Whatever"), "{}").await;
    let form = Request::post("/?Version=1").header("content-type", "application/x-www-form-urlencoded");
    server.send(form, "Action=StartWebcast").await;
    server.get("/v1/things/8").await;
    let text = server.get("/metrics").await.1;
    for labels in [
        r#"api="tencent",action="StartWebRecord",code="ok""#,
        r#"api="tencent",action="StopWebRecord",code="Auth.Bad""#,
        r#"api="volcengine",action="other",code="ok""#,
        r#"api="volcengine",action="StartWebcast",code="ok""#,
        r#"api="v1",action="GET /v1/things/{id}",code="200""#,
    ] {
        let line = format!("pagecast_api_request_duration_seconds_count{{{labels}}} 1");
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn codes_are_found_in_envelopes_only() {
    for (body, expected) in [
        (r#"{"Response":{"Error":{"Code":"InternalError","Message":"m"}}}"#, Some("InternalError")),
        (
            r#"{"ResponseMetadata":{"Error":{"CodeN":1,"Code":"InvalidParameter.X"}}}"#,
            Some("InvalidParameter.X"),
        ),
        (r#"{"Result":"\"Error\":{\"Code\":\"no\""}"#, None),
        (r#"{"Error":{"Code":"a b"}}"#, None),
        (r#"{"Error":{"Code":"unfinished"#, None),
        ("", None),
    ] {
        assert_eq!(vendor_code(body.as_bytes()).as_deref(), expected, "{body}");
    }
}

#[tokio::test]
async fn each_api_answers_in_its_own_format() {
    let server = test_server_with(Config::default(), API_FRONTENDS, rest::router);
    let long = vec![b' '; MAX_BODY_LEN + 10];
    let tencent =
        |action| Request::post("/").header("X-TC-Action", action).header("Content-Type", "application/json");
    for (request, body, status, expected) in [
        (tencent("StartWebRecord"), b"{}".to_vec(), 200, "\"Code\":\"AuthFailure"),
        (tencent("StartWebRecord"), long, 200, "\"Code\":\"RequestSizeLimitExceeded\""),
        (
            Request::post("/?Action=StartWebcast&Version=2020-12-01"),
            b"{}".to_vec(),
            401,
            "\"Code\":\"MissingAuth",
        ),
        (Request::post("/"), Vec::new(), 400, "\"Code\":\"MissingParameter\""),
        (Request::get("/v1/casts"), Vec::new(), 401, "\"error\""),
        (Request::get("/v1/nothing"), Vec::new(), 404, "\"error\""),
        (Request::delete("/v1/nothing/at/all"), Vec::new(), 404, "\"error\""),
    ] {
        let (found, body, headers) = server.send(request, body).await;
        assert!(found == status && body.contains(expected), "{found}: {body}");
        assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
    }
    let text = server.get("/metrics").await.1;
    for labels in [
        r#"api="v1",action="GET /v1/casts",code="401""#,
        r#"api="v1",action="GET other",code="404""#,
        r#"api="tencent",action="StartWebRecord",code="RequestSizeLimitExceeded""#,
    ] {
        assert!(text.contains(labels), "{labels} is not in\n{text}");
    }
}

/// Header, body and log of a request have one id, in each dialect, whether the client chose the id or not.
#[tokio::test]
async fn header_body_and_log_have_the_same_request_id() {
    let server = test_server_with(Config::default(), API_FRONTENDS, rest::router);
    let lines = CapturedLogs::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let volcengine = "HMAC-SHA256 Credential=AKLTNOBODY/20231114/cn-north-1/rtc/request, \
                      SignedHeaders=x-date, Signature=00";
    type NewRequest = fn() -> axum::http::request::Builder;
    let requests: [(&str, &str, NewRequest); 3] = [
        ("/ResponseMetadata/RequestId", volcengine, || {
            Request::post("/?Action=StartWebcast&Version=2020-12-01").header("x-date", "20231114T221320Z")
        }),
        ("/Response/RequestId", "TC3-HMAC-SHA256 Credential=AKID1/x", || {
            Request::post("/").header("x-tc-action", "StopWebRecord")
        }),
        ("/request_id", "Bearer an-unknown-token", || Request::get("/v1/casts")),
    ];
    for (pointer, authorization, request) in requests {
        for chosen in [None, Some("chosen_1.2-3")] {
            let before = lines.text().len();
            let mut request = request().header("authorization", authorization);
            if let Some(id) = chosen {
                request = request.header("x-request-id", id);
            }
            let (_, body, headers) = server.send(request, "{}").await;
            let id = headers["x-request-id"].to_str().unwrap();
            assert!(chosen.map_or(id.len() == 36, |chosen| chosen == id), "{id}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body.pointer(pointer).and_then(|id| id.as_str()), Some(id), "{body}");
            if let Some(log_id) = headers.get("x-tt-logid") {
                assert_eq!(log_id, id);
            }
            let logged = lines.text()[before..].to_owned();
            let line = logged.lines().find(|line| line.contains("authentication refused")).unwrap();
            assert!(line.contains(&format!("request_id={id}")), "{id} is not in {line}");
        }
    }
}

/// Operators count these lines to ban addresses: each front end logs key id, source address and code.
#[tokio::test]
async fn refused_authentication_is_logged() {
    let token = "an-administrators-token";
    let config = Config { admin_token: Some(Secret::new(token)), ..Config::default() };
    let server = test_server_with(config, API_FRONTENDS, rest::router);
    let lines = CapturedLogs::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let peer = axum::extract::ConnectInfo::<std::net::SocketAddr>("192.0.2.7:4711".parse().unwrap());
    let from = |request: axum::http::request::Builder| request.extension(peer);
    let webcast = Request::post("/?Action=StartWebcast&Version=2020-12-01");
    let volcengine = "HMAC-SHA256 Credential=AKLTNOBODY/20231114/cn-north-1/rtc/request, \
                      SignedHeaders=x-date, Signature=00";
    let bearer = "Bearer a-token-that-is-nobodys";
    for (request, fields) in [
        (
            webcast.header("authorization", volcengine).header("x-date", "20231114T221320Z"),
            r#"api="volcengine" key_id="AKLTNOBODY" address=192.0.2.7 code="InvalidAccessKey""#,
        ),
        (
            Request::post("/")
                .header("x-tc-action", "StopWebRecord")
                .header("authorization", "TC3-HMAC-SHA256 Credential=AKID1/x"),
            r#"api="tencent" key_id="AKID1" address=192.0.2.7 code="AuthFailure.InvalidAuthorization""#,
        ),
        (
            Request::get("/v1/casts")
                .header("authorization", bearer)
                .header("x-forwarded-for", "198.51.100.1"),
            r#"api="v1" key_id="2a6d1ceb342b" address=192.0.2.7 forwarded_for="198.51.100.1" code="unauthorized""#,
        ),
        (Request::get("/v1/casts"), r#"api="v1" key_id="" address=192.0.2.7 code="unauthorized""#),
        (Request::get("/metrics"), r#"api="metrics" key_id="" address=192.0.2.7 code="401""#),
    ] {
        let before = lines.text().len();
        server.send(from(request), "{}").await;
        let logged = lines.text()[before..].to_owned();
        let line = logged.lines().find(|line| line.contains("authentication refused")).unwrap_or_default();
        assert!(line.contains(" INFO ") && line.contains(fields), "{fields} is not in {logged}");
        assert!(!logged.contains("a-token-that"), "{logged}");
    }
    let before = lines.text().len();
    server.send(from(Request::get("/metrics").header("authorization", format!("Bearer {token}"))), "").await;
    assert!(!lines.text()[before..].contains("authentication"), "success is not logged");
}
