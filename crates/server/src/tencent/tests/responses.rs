//! Exact responses, and all reasons for refusals.

use axum::body::to_bytes;

use super::super::signature::tests as captured;
use super::*;

/// Sends a request and returns the body without its request id, which is checked, and the headers.
async fn respond(fixture: &Fixture, call: ApiRequest) -> (Value, HeaderMap) {
    let expected_id = call.id.clone();
    let response = response::respond(&call, fixture.execute(&call).await);
    assert_eq!(response.status(), 200, "errors have status 200, too");
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/json", "without parameters");
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    let id = body["Response"].as_object_mut().unwrap().remove("RequestId").unwrap();
    assert_eq!(id, expected_id.as_str());
    assert_eq!(expected_id.as_str().split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    (body, headers)
}

fn valid_request(action: &str, params: &Value) -> ApiRequest {
    signed_request(Encoding::Json, KEY_ID, &Secret::new(SECRET), action, params, NOW_MS / 1000)
}

fn modified_request(change: impl FnOnce(&mut ApiRequest)) -> ApiRequest {
    let mut call = valid_request("StopWebRecord", &json!({ "TaskId": "abc" }));
    change(&mut call);
    call
}

fn with_header(header: &'static str, value: &str) -> ApiRequest {
    modified_request(|call| drop(call.headers.insert(header, value.parse().unwrap())))
}

fn without_header(header: &str) -> ApiRequest {
    modified_request(|call| drop(call.headers.remove(header)))
}

#[tokio::test]
async fn responses_have_only_the_documented_fields() {
    let fixture = Fixture::new();
    let (body, headers) = respond(&fixture, valid_request("StartWebRecord", &minimal_params())).await;
    let id = body["Response"]["TaskId"].as_str().unwrap().to_owned();
    assert!(
        id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "safe as the name of a folder: {id}"
    );
    assert_eq!(body, json!({ "Response": { "TaskId": id } }));
    assert!(!headers.contains_key("x-tc-traceid"));
    let mut traced = valid_request("StopWebRecord", &json!({ "TaskId": id }));
    traced.headers.insert("x-tc-traceid", "00000000-0000-4000-8000-000000000000".parse().unwrap());
    let (body, headers) = respond(&fixture, traced.clone()).await;
    assert_eq!(body, json!({ "Response": {} }));
    assert_eq!(headers["x-tc-traceid"], "00000000-0000-4000-8000-000000000000");
    let (body, headers) = respond(&fixture, traced).await;
    let error = json!({ "Code": "FailedOperation.TaskNotExist", "Message": "task not exist" });
    assert_eq!(body, json!({ "Response": { "Error": error } }));
    assert_eq!(headers["x-tc-traceid"], "00000000-0000-4000-8000-000000000000", "errors have it, too");
    let (_, headers) = respond(&fixture, with_header("x-tc-traceid", &"a".repeat(129))).await;
    assert!(!headers.contains_key("x-tc-traceid"), "too long");
}

const EXPIRED: &str = "AuthFailure.SignatureExpire";
const MISMATCH: &str = "AuthFailure.SignatureFailure";
const MALFORMED: &str = "AuthFailure.InvalidAuthorization";
/// The request is valid, but its task does not exist.
const TASK_NOT_FOUND: &str = "FailedOperation.TaskNotExist";

/// A form that is signed as SDKs do it, and then changed.
fn signed_form(change: impl FnOnce(&mut String)) -> ApiRequest {
    let mut call = signed_request(
        Encoding::FormV1,
        KEY_ID,
        &Secret::new(SECRET),
        "StopWebRecord",
        &json!({}),
        NOW_MS / 1000,
    );
    let mut body = String::from_utf8(call.body.to_vec()).unwrap();
    change(&mut body);
    call.body = axum::body::Bytes::from(body).into();
    call
}

async fn check_codes(rows: Vec<(ApiRequest, &str)>) {
    let fixture = Fixture::new();
    for (call, code) in rows {
        let shown = format!("{} {:?}", call.method, call.headers);
        let (body, _) = respond(&fixture, call).await;
        let error = &body["Response"]["Error"];
        assert_eq!(error["Code"], code, "{shown}: {error}");
        let message = error["Message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains(SECRET), "{message}");
        assert_eq!(body["Response"].as_object().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn unauthenticated_requests_are_refused() {
    let stop = json!({ "TaskId": "abc" });
    let by = |encoding, id, secret: &str| {
        signed_request(encoding, id, &Secret::new(secret), "StopWebRecord", &stop, NOW_MS / 1000)
    };
    let aged = |encoding, seconds| {
        signed_request(
            encoding,
            KEY_ID,
            &Secret::new(SECRET),
            "StopWebRecord",
            &stop,
            NOW_MS / 1000 + seconds,
        )
    };
    check_codes(vec![
        (without_header("authorization"), MALFORMED),
        (with_header("authorization", "SKIP"), MALFORMED),
        (without_header("x-tc-timestamp"), "MissingParameter"),
        (without_header("host"), "MissingParameter"),
        (without_header("content-type"), MISMATCH),
        (with_header("content-type", "text/plain"), MISMATCH),
        (with_header("host", "elsewhere:8080"), MISMATCH),
        (with_header("x-tc-token", "temporary"), "AuthFailure.TokenFailure"),
        (with_header("x-tc-token", ""), TASK_NOT_FOUND),
        (modified_request(|call| call.body = axum::body::Bytes::from("{}").into()), MISMATCH),
        (by(Encoding::Json, KEY_ID, "wrong"), MISMATCH),
        (by(Encoding::Get, KEY_ID, "wrong"), MISMATCH),
        (by(Encoding::FormV1, KEY_ID, "wrong"), MISMATCH),
        (by(Encoding::GetV1, KEY_ID, "wrong"), MISMATCH),
        (by(Encoding::Json, "AKIDgone", SECRET), "AuthFailure.SecretIdNotFound"),
        (by(Encoding::FormV1, "AKIDgone", SECRET), "AuthFailure.SecretIdNotFound"),
        (aged(Encoding::Json, 301), EXPIRED),
        (aged(Encoding::Json, -301), EXPIRED),
        (aged(Encoding::FormV1, 301), EXPIRED),
        (aged(Encoding::GetV1, -301), EXPIRED),
        (aged(Encoding::Json, 300), TASK_NOT_FOUND),
        (aged(Encoding::GetV1, -300), TASK_NOT_FOUND),
        (signed_form(|body| *body = body.replace("StopWebRecord", "StartWebRecord")), MISMATCH),
        (signed_form(|body| body.push_str("&More=1")), MISMATCH),
        (signed_form(|body| *body = body.replace("Signature=", "Unsigned=")), "MissingParameter"),
        (signed_form(|body| *body = body.replace("SecretId=", "Unsigned=")), "MissingParameter"),
        (signed_form(|body| *body = body.replace("Nonce=7", "Nonce=x")), "InvalidParameterValue"),
    ])
    .await;
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let stop = json!({ "TaskId": "abc" });
    let with_content_type = |kind| {
        signed_request(
            Encoding::OtherType(kind),
            KEY_ID,
            &Secret::new(SECRET),
            "StopWebRecord",
            &stop,
            NOW_MS / 1000,
        )
    };
    let get = |query: String| modified_request(|call| (call.method, call.query) = (Method::GET, query));
    const TOO_LARGE: &str = "RequestSizeLimitExceeded";
    check_codes(vec![
        (modified_request(|call| call.method = Method::PUT), "UnsupportedProtocol"),
        (modified_request(|call| call.method = Method::HEAD), "UnsupportedProtocol"),
        (with_content_type("multipart/form-data; boundary=x"), "InvalidRequest"),
        (with_content_type("text/plain"), "InvalidParameter.BodyParamsError"),
        (with_content_type("Application/JSON; charset=UTF-8"), TASK_NOT_FOUND),
        (without_header("x-tc-action"), "MissingParameter"),
        (without_header("x-tc-version"), "MissingParameter"),
        (with_header("x-tc-version", "2020-12-01"), "NoSuchVersion"),
        (valid_request("StartWebRecords", &stop), "InvalidAction"),
        (valid_request("startWebRecord", &stop), "InvalidAction"),
        (signed_form(|body| body.push_str(&"&a=".repeat(1000))), "InvalidParameter.BodyParamsError"),
        (get("a=&".repeat(1001)), "InvalidParameter.UrlParamsError"),
        (signed_form(|body| body.push_str(&"a".repeat(1 << 20))), TOO_LARGE),
        (get("a=".repeat(16_385)), TOO_LARGE),
        (
            modified_request(|call| call.body = axum::body::Bytes::from(vec![b' '; (10 << 20) + 1]).into()),
            TOO_LARGE,
        ),
    ])
    .await;
}

#[tokio::test]
async fn invalid_signed_bodies_are_refused() {
    let fixture = Fixture::new();
    for (body, code) in [
        ("[]", "InvalidParameter.BodyParamsError"),
        ("{\"TaskId\":", "InvalidParameter.BodyParamsError"),
        ("\u{0}", "InvalidParameter.BodyParamsError"),
        ("", "MissingParameter.TaskId"),
        ("{\"TaskId\":\"abc\",\"TaskId\":\"abd\"}", "FailedOperation.TaskNotExist"),
    ] {
        let headers = sign_v3(
            KEY_ID,
            &Secret::new(SECRET),
            "localhost",
            "StopWebRecord",
            body.as_bytes(),
            NOW_MS / 1000,
        );
        let headers: Vec<_> =
            headers.iter().map(|(n, v)| (*n, v.as_str())).chain([("host", "localhost")]).collect();
        let error = fixture.execute(&build_request("POST", "", &headers, body)).await.unwrap_err();
        assert_eq!(error.code, code, "{body:?}");
    }
    let twice = json!({ "TaskId": "a", "TaskId.B": "b" });
    assert_eq!(fixture.error_code(Encoding::FormV1, "StopWebRecord", &twice).await, "InvalidParameter");
}

#[tokio::test]
async fn keys_are_rotated_and_disabled_keys_are_refused() {
    let key = |id: &str, secret: &str, disabled| AccessKey {
        id: id.to_owned(),
        secret: Secret::new(secret),
        disabled,
    };
    let mut one = application("one", SDK_APP_ID);
    one.keys = vec![
        key("old", "1", false),
        key("new", "2", false),
        key("off", "3", true),
        key("shared", "4", false),
    ];
    let mut two = application("two", 7);
    two.keys = vec![key("shared", "4", false), key("off", "5", false), key("old", "another", false)];
    let fixture = Fixture::with(vec![one, two], |_| {});
    let start = async |id: &str, secret: &str, sdk_app_id: u64| {
        let params = with_value(minimal_params(), "SdkAppId", Some(json!(sdk_app_id)));
        let call = signed_request(
            Encoding::Json,
            id,
            &Secret::new(secret),
            "StartWebRecord",
            &params,
            NOW_MS / 1000,
        );
        fixture.execute(&call).await.map_or_else(|error| error.code.as_str(), |_| "")
    };
    const FOREIGN_APP: &str = "FailedOperation.SdkAppIdNotUnderAppId";
    for (id, secret, app, code) in [
        ("old", "1", SDK_APP_ID, ""),
        ("new", "2", SDK_APP_ID, ""),
        ("off", "3", SDK_APP_ID, "AuthFailure.SignatureFailure"),
        ("off", "5", 7, ""),
        ("off", "5", SDK_APP_ID, FOREIGN_APP),
        ("shared", "4", SDK_APP_ID, ""),
        ("shared", "4", 7, ""),
        ("old", "1", 7, FOREIGN_APP),
        ("old", "another", 7, ""),
        ("new", "1", SDK_APP_ID, "AuthFailure.SignatureFailure"),
    ] {
        assert_eq!(start(id, secret, app).await, code, "{id} {secret} {app}");
    }
}

#[tokio::test]
async fn signatures_of_version_1_can_be_refused() {
    let fixture =
        Fixture::with(vec![application("demo", SDK_APP_ID)], |config| config.tencent.v1_signatures = false);
    let stop = json!({ "TaskId": "abc" });
    for (encoding, code) in [
        (Encoding::Json, TASK_NOT_FOUND),
        (Encoding::Get, TASK_NOT_FOUND),
        (Encoding::FormV1, MISMATCH),
        (Encoding::GetV1, MISMATCH),
    ] {
        let error = fixture.send(encoding, "StopWebRecord", &stop).await.unwrap_err();
        assert_eq!(error.code, code, "{encoding:?}");
        assert!(
            code == TASK_NOT_FOUND || error.message.contains("sign with TC3-HMAC-SHA256"),
            "{}",
            error.message
        );
    }
}

#[tokio::test]
async fn regions_can_be_restricted() {
    let fixture = Fixture::with(vec![application("demo", SDK_APP_ID)], |config| {
        config.tencent.regions = vec!["ap-beijing".into(), "ap-guangzhou".into()];
    });
    let code = async |region: Option<&str>| {
        let call =
            region.map_or_else(|| modified_request(|_| {}), |region| with_header("x-tc-region", region));
        fixture.execute(&call).await.unwrap_err().code
    };
    assert_eq!(code(None).await, "MissingParameter");
    assert_eq!(code(Some("ap-guangzhou")).await, "FailedOperation.TaskNotExist");
    assert_eq!(code(Some("ap-singapore")).await, "UnsupportedRegion");
    let form = json!({ "TaskId": "abc", "Region": "ap-beijing" });
    assert_eq!(
        fixture.error_code(Encoding::FormV1, "StopWebRecord", &form).await,
        "FailedOperation.TaskNotExist"
    );
    let any = Fixture::new();
    for region in ["ap-nowhere", ""] {
        let error = any.execute(&with_header("x-tc-region", region)).await.unwrap_err();
        assert_eq!(error.code, "FailedOperation.TaskNotExist");
    }
}

#[tokio::test]
async fn requests_are_limited_per_key_and_action() {
    let mut fixture = Fixture::new();
    // With one request per second, two requests within a second exceed the limit.
    fixture.limits = KeyedRateLimiter::new(1);
    let stop = json!({ "TaskId": "abc" });
    let forged =
        signed_request(Encoding::Json, KEY_ID, &Secret::new("wrong"), "StopWebRecord", &stop, NOW_MS / 1000);
    assert_eq!(fixture.execute(&forged).await.unwrap_err().code, "AuthFailure.SignatureFailure");
    let mut codes = Vec::new();
    // Even on a slow machine, two of many calls are within a second.
    while !codes.contains(&"RequestLimitExceeded") {
        codes.push(fixture.error_code(Encoding::Json, "StopWebRecord", &stop).await);
    }
    assert_eq!(codes[0], "FailedOperation.TaskNotExist", "forged requests do not count");
    assert_eq!(
        fixture.error_code(Encoding::Json, "DescribeWebRecord", &stop).await,
        "FailedOperation.TaskNotExist"
    );
}

#[tokio::test]
async fn fleet_errors_are_hidden_from_clients() {
    let error = internal_error(&pagecast_fleet::Error::Unavailable);
    assert_eq!((error.code.as_str(), error.message.contains("fleet")), ("InternalError", false));
}

#[tokio::test]
async fn callers_are_asked_to_come_back_while_the_database_is_away() {
    let mut fixture = Fixture::new();
    fixture.service.fleet = crate::callback::testing::FakeFleet::new();
    let stop = json!({ "TaskId": "0123456789abcdef0123456789abcdef" });
    let call =
        signed_request(Encoding::Json, KEY_ID, &Secret::new(SECRET), "StopWebRecord", &stop, NOW_MS / 1000);
    let response = handle(&fixture.service, call).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (200, &HeaderValue::from(1))
    );
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["Response"]["Error"]["Code"], "InternalError");
}

#[test]
fn requests_of_this_api_are_recognized() {
    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
    for (call, expected) in [
        (build_request("POST", "", &[("x-tc-action", "StartWebRecord")], "{}"), true),
        (build_request("POST", "", &[("x-tc-anything", "")], ""), true),
        (build_request("POST", "", &[("authorization", "TC3-HMAC-SHA256 x")], ""), true),
        (build_request("POST", "", &[("authorization", "HMAC-SHA256 x")], ""), false),
        (build_request("GET", "Action=StopWebRecord&SecretId=a", &[], ""), true),
        (build_request("GET", "Version=2019-07-22", &[], ""), true),
        (build_request("GET", "Version=2020-12-01&Action=StartWebcast", &[], ""), false),
        (build_request("POST", "", &[FORM], "Version=2019-07-22"), true),
        (build_request("POST", "", &[FORM], "a=SecretId"), false),
        (build_request("POST", "", &[("content-type", "application/json")], "SecretId=a"), false),
        (build_request("GET", "", &[], ""), false),
    ] {
        assert_eq!(matches(&call), expected, "{call:?}");
    }
}

#[tokio::test]
async fn captured_requests_of_the_sdk_work_and_repetitions_are_refused() {
    let mut app = application("demo", SDK_APP_ID);
    app.keys =
        vec![AccessKey { id: captured::KEY_ID.to_owned(), secret: captured::secret(), disabled: false }];
    app.settings.network = serde_json::from_value(json!({ "allow": ["127.0.0.1:1935"] })).unwrap();
    let mut specs = Vec::new();
    for call in captured::captured_requests() {
        assert!(matches(&call));
        let fixture = Fixture::with(vec![app.clone()], |_| {});
        let response = fixture.execute(&call).await.unwrap();
        let id = CastId::parse(response["TaskId"].as_str().unwrap()).unwrap();
        let cast = fixture.service.fleet.get(&id).await.unwrap().unwrap();
        let urls: Vec<_> = cast.spec.pushes.iter().map(|push| push.url.reveal()).collect();
        let request = json!({ "SdkAppId": SDK_APP_ID, "RecordId": "rec_1", "PublishCdnUrls": urls });
        assert_eq!(without_body(cast.request), request);
        // Go's SDK repeats the same bytes and gets the result of the first request.
        assert_eq!(fixture.execute(&call).await.unwrap_err().code, "FailedOperation.TaskExist");
        let mut spec = serde_json::to_value(&cast.spec).unwrap().to_string();
        for own in [id.as_str(), fixture.service.config.data.to_str().unwrap()] {
            spec = spec.replace(own, "");
        }
        specs.push(spec);
    }
    assert_eq!(specs[0], specs[1], "both versions request the same cast");
}
