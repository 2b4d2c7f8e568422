use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::request_id::RequestId;

const NOW_MS: UnixMs = 1_700_000_000_000;
/// Time at which the SDKs' requests were captured: 2026-11-21T00:08:54Z.
const CAPTURED_MS: UnixMs = 1_795_219_734_000;
const SECRET: &str = "U0VDUkVUX0VYQU1QTEU=";
const SCOPE: &str = "AKLTEXAMPLE/20231114/cn-north-1/rtc/request";
const START: &str = "Action=StartWebcast&Version=2020-12-01";
const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const BODY_A: &str = r#"{"AppId":"app0123456789","RoomId":"room1","TaskId":"task1"}"#;
const HASH_A: &str = "c7eb1522b5e539825816deee22e1d406b70db3612b551bcab7db4fa9f6c7e8d3";
const BODY_C: &str = r#"{"AppId":"app0123456789","RoomId":"room1","TaskId":"task1","UserId":"u","SourceURL":"https://example.com/页"}"#;
const QUERY_E: &str = r"Action=GetWebCastTask&Version=2020-12-01&AppId=a&RoomId=r&TaskId=t&X-Date=20231114T221320Z&X-NotSignBody=&X-Credential=AKLTEXAMPLE%2F20231114%2Fcn-north-1%2Frtc%2Frequest&X-Algorithm=HMAC-SHA256&X-SignedHeaders=&X-SignedQueries=Action%3BAppId%3BRoomId%3BTaskId%3BVersion%3BX-Algorithm%3BX-Credential%3BX-Date%3BX-NotSignBody%3BX-SignedHeaders%3BX-SignedQueries&X-Signature=33dec314160d47549a7b4dedace1130f924f247cf316f6892fb4ce046b4f7d0f";

fn request(method: &str, query: &str, headers: &[(&str, &str)], body: &str) -> ApiRequest {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    ApiRequest {
        id: RequestId::random(),
        method: method.parse().unwrap(),
        query: query.to_owned(),
        headers: map,
        body: Bytes::copy_from_slice(body.as_bytes()).into(),
    }
}

/// A request that is signed in its headers.
fn signed(
    (method, query, body): (&str, &str, &str),
    headers: &[(&str, &str)],
    names: &str,
    signature: &str,
) -> ApiRequest {
    let authorization =
        format!("HMAC-SHA256 Credential={SCOPE}, SignedHeaders={names}, Signature={signature}");
    let mut all = vec![("authorization", authorization.as_str()), ("x-date", "20231114T221320Z")];
    all.extend(headers);
    request(method, query, &all, body)
}

pub(super) fn vector_a() -> ApiRequest {
    signed(
        ("POST", "Action=StopWebcast&Version=2020-12-01", BODY_A),
        &[("content-type", "application/json"), ("host", "127.0.0.1:18092"), ("x-content-sha256", HASH_A)],
        "content-type;host;x-content-sha256;x-date",
        "c4f644954c63b0c52e425a4dd91811688fcb69c5bff0662e0e916011baa44236",
    )
}

pub(super) fn vector_e() -> ApiRequest {
    request("GET", QUERY_E, &[("host", "127.0.0.1:18092")], "")
}

/// A POST of `{}` whose signature is made over this canonical request with this secret.
pub(super) fn signed_with(
    canonical: &str,
    query: &str,
    content_type: &str,
    names: &str,
    secret: &str,
) -> ApiRequest {
    let to_sign = string_to_sign("20231114T221320Z", "20231114", "cn-north-1", canonical);
    let signature = hex(&compute_signature(&Secret::new(secret), "20231114", "cn-north-1", &to_sign));
    let headers = [("content-type", content_type), ("host", "127.0.0.1:18092")];
    signed(("POST", query, "{}"), &headers, names, &signature)
}

fn check(call: &ApiRequest, now: UnixMs) -> Result<VerifiedRequest, ErrorCode> {
    let known = |id: &str| if id == "AKLTEXAMPLE" { vec![Secret::new(SECRET)] } else { Vec::new() };
    verify(call, now, &[], known).map_err(|error| error.code)
}

type Vector = (&'static str, ApiRequest, UnixMs);

/// The vectors of the specification.
fn vectors() -> Vec<Vector> {
    vec![
        ("A", vector_a(), NOW_MS),
        (
            "A with a session token",
            signed(
                ("POST", "Action=StopWebcast&Version=2020-12-01", BODY_A),
                &[
                    ("content-type", "application/json"),
                    ("host", "127.0.0.1:18092"),
                    ("x-content-sha256", HASH_A),
                    ("x-security-token", "STS2abc"),
                ],
                "content-type;host;x-content-sha256;x-date;x-security-token",
                "ee915ca9182778779ba6d8811a538f2c6b0921c975ce17ae11c2e81b74976ee5",
            ),
            NOW_MS,
        ),
        (
            "B",
            signed(
                (
                    "GET",
                    r"Action=GetWebCastTask&Version=2020-12-01&AppId=app0123456789&RoomId=room+1&TaskId=t%40a-b.c_d",
                    "",
                ),
                &[("host", "127.0.0.1:18092"), ("x-content-sha256", EMPTY_HASH)],
                "host;x-content-sha256;x-date",
                "534bc3ebcd1efbd9d6eb93fc94020a418a2d2244c8ec2eeb663e8fa3829040c0",
            ),
            NOW_MS,
        ),
        (
            "C",
            signed(
                ("POST", START, BODY_C),
                &[
                    ("host", "127.0.0.1:18092"),
                    ("content-type", "application/json; charset=utf-8"),
                    ("x-content-sha256", "257bdf39c3bb8799fb1647863c37ebe9950333b4c1f2dfa22a6029e28fd5208a"),
                ],
                "x-content-sha256;x-date",
                "5521148733cac22718df321fcd8f0d3a8d4bf554848c9eb840564863a3f67223",
            ),
            NOW_MS,
        ),
        (
            "D",
            signed(
                ("GET", "Action=GetWebCastTask&AppId=a&RoomId=r&TaskId=t&Version=2020-12-01", ""),
                &[],
                "x-date",
                "edf98f8571b114c620c18e120741b488d865fe922bfc1eb046edd3fcdd4e3513",
            ),
            NOW_MS,
        ),
        ("E", vector_e(), NOW_MS),
    ]
}

/// Requests that SDKs sent.
fn captured() -> Vec<Vector> {
    let go = "HMAC-SHA256 Credential=AKLTEXAMPLE/20261121/cn-north-1/rtc/request, \
              SignedHeaders=content-type;host;x-content-sha256;x-date, Signature=";
    let go_start = format!("{go}604f7911bebe0d15147460496e64d12c2048f88b17f88d75210c056ec859f723");
    let go_get = format!("{go}f18cde08dd7ca8992d9d7167be4d3d6906ae063e1066f312f8338ff543e9af22");
    vec![
        (
            "captured from Go, POST",
            request(
                "POST",
                START,
                &[
                    ("host", "127.0.0.1:18081"),
                    ("content-type", "application/json"),
                    ("x-content-sha256", "71292d9f7c20a909a13b5666495428c82011aa02ef9042180cc47c8c777bbdf9"),
                    ("x-date", "20261121T000854Z"),
                    ("authorization", &go_start),
                ],
                r#"{"AppId":"app0123456789","RoomId":"room1","SourceURL":"https://example.com/p?a=1\u0026b=页\u003c\u003e","TaskId":"task1","UserId":"webcast_1","EventNotifyConfig":{"EnableEventNotify":false,"StartTimeout":0},"MaxRunningTime":60,"MonitorConfig":{"FreezeCheckInterval":3},"VideoSolutions":[{"FrameRate":30,"Height":720,"Width":1280}]}"#,
            ),
            CAPTURED_MS,
        ),
        (
            "captured from Go, GET",
            request(
                "GET",
                "Action=GetWebCastTask&AppId=a&RoomId=r+1&TaskId=t&Version=2020-12-01",
                &[
                    ("host", "127.0.0.1:18081"),
                    ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                    ("x-content-sha256", EMPTY_HASH),
                    ("x-date", "20261121T000854Z"),
                    ("authorization", &go_get),
                ],
                "",
            ),
            CAPTURED_MS,
        ),
        (
            "captured from Python's core",
            signed(
                (
                    "POST",
                    START,
                    r#"{"AppId": "app0123456789", "RoomId": "room1", "TaskId": "task1", "UserId": "webcast_1", "SourceURL": "https://example.com/\u9875"}"#,
                ),
                &[
                    ("content-type", "application/json"),
                    ("x-sdk-invocation-id", "403971a2-2924-4a08-8bfa-113a33fac0b0"),
                    ("x-sdk-request", "attempt=1; max=1"),
                    ("host", "127.0.0.1:18083"),
                    ("x-content-sha256", "063ad61428646c47807607be9fa21badfb1b42a683f8a5978ae4b26c8e68ad2e"),
                ],
                "content-type;host;x-content-sha256;x-date;x-sdk-invocation-id;x-sdk-request",
                "fce0eff387bf8957dd820e37fe85df52694e8263aae010fe202fd70ad88599f1",
            ),
            NOW_MS,
        ),
    ]
}

#[test]
fn requests_of_sdks_are_accepted() {
    for (name, call, now) in vectors().into_iter().chain(captured()) {
        let verified = check(&call, now).unwrap_or_else(|code| panic!("{name}: {code:?}"));
        assert_eq!(
            (verified.key_id.as_str(), verified.region.as_str()),
            ("AKLTEXAMPLE", "cn-north-1"),
            "{name}"
        );
        let other = verify(&call, now, &[], |_| vec![Secret::new("another"), Secret::new("")]);
        assert_eq!(other.map_err(|error| error.code), Err(ErrorCode::SignatureDoesNotMatch), "{name}");
    }
}

#[test]
fn the_canonical_request_is_as_specified() {
    for (call, expected) in [
        (vector_a(), "27cf3864a88a1c068e50b888cc4d3ae64a0d4f497316d7ad4c8cf6b324627971"),
        (vector_e(), "19fe06071c2d93a6664e4ceed01d8bf0beb932026c29f7138bc9a423ec82c7e6"),
    ] {
        let query = parse_query(&call.query).unwrap();
        let (claim, query) = if call.headers.contains_key("authorization") {
            (ClaimedSignature::from_headers(&call).unwrap(), query.clone())
        } else {
            (ClaimedSignature::from_query(&call, &query).unwrap(), query[..query.len() - 1].to_vec())
        };
        assert_eq!(sha256_hex(claim.canonical_request(&call, &query).unwrap().as_bytes()), expected);
    }
}

/// A changed copy of a valid call.
fn call_with(of: &ApiRequest, change: impl Fn(&mut ApiRequest)) -> ApiRequest {
    let mut call = of.clone();
    change(&mut call);
    call
}

fn set_header(call: &mut ApiRequest, name: &'static str, value: &str) {
    call.headers.insert(name, HeaderValue::from_str(value).unwrap());
}

/// Replaces a part of the credentials, in the header or in the query.
fn replace_in_credential(call: &mut ApiRequest, from: &str, to: &str) {
    if let Some(text) = call.header("authorization").map(|text| text.replace(from, to)) {
        set_header(call, "authorization", &text);
    } else {
        let (from, to) = (from.replace('/', "%2F"), to.replace('/', "%2F"));
        call.query = call.query.replace(&from, &to);
    }
}

type Change<'a> = (&'a str, &'a dyn Fn(&mut ApiRequest), ErrorCode);

#[test]
fn invalid_signatures_have_the_vendors_codes() {
    use ErrorCode as C;
    let both: [Change<'_>; 9] = [
        ("another key", &|c| replace_in_credential(c, "AKLTEXAMPLE", "AKLTOTHER"), C::InvalidAccessKey),
        ("another service", &|c| replace_in_credential(c, "/rtc/", "/iam/"), C::ServiceNotFound),
        (
            "another region",
            &|c| replace_in_credential(c, "/cn-north-1/", "/us-east-1/"),
            C::SignatureDoesNotMatch,
        ),
        ("another day", &|c| replace_in_credential(c, "/20231114/", "/20231113/"), C::SignatureDoesNotMatch),
        ("no key", &|c| replace_in_credential(c, "AKLTEXAMPLE/", "/"), C::MissingRequestInfo),
        ("no region", &|c| replace_in_credential(c, "/cn-north-1/", "/"), C::MissingRequestInfo),
        (
            "too many parts",
            &|c| replace_in_credential(c, "/rtc/request", "/rtc/request/more"),
            C::MissingRequestInfo,
        ),
        (
            "another action",
            &|c| c.query = c.query.replace("WebCast", "X").replace("Stop", "Start"),
            C::SignatureDoesNotMatch,
        ),
        ("another method", &|c| c.method = Method::PUT, C::SignatureDoesNotMatch),
    ];
    for (of, name) in [(&vector_a(), "header"), (&vector_e(), "query")] {
        assert!(check(of, NOW_MS).is_ok());
        for (case, change, code) in &both {
            assert_eq!(check(&call_with(of, change), NOW_MS), Err(*code), "{case} in the {name}");
        }
    }
}

#[test]
fn invalid_headers_are_refused() {
    use ErrorCode as C;
    let headers: [Change<'_>; 17] = [
        ("another body", &|c| c.body = Bytes::from_static(b"{}").into(), C::SignatureDoesNotMatch),
        (
            "another body with its hash",
            &|c| {
                c.body = Bytes::from_static(b"{}").into();
                set_header(c, "x-content-sha256", &sha256_hex(b"{}"));
            },
            C::SignatureDoesNotMatch,
        ),
        ("another parameter", &|c| c.query.push_str("&X=1"), C::SignatureDoesNotMatch),
        ("no host", &|c| drop(c.headers.remove("host")), C::SignatureDoesNotMatch),
        ("no content type", &|c| drop(c.headers.remove("content-type")), C::SignatureDoesNotMatch),
        ("another host", &|c| set_header(c, "host", "127.0.0.1:18093"), C::SignatureDoesNotMatch),
        (
            "two hosts",
            &|c| assert!(c.headers.append("host", HeaderValue::from_static("x"))),
            C::SignatureDoesNotMatch,
        ),
        ("no date", &|c| drop(c.headers.remove("x-date")), C::InvalidTimestamp),
        ("a bad date", &|c| set_header(c, "x-date", "2023-11-14T22:13:20Z"), C::InvalidTimestamp),
        ("an impossible date", &|c| set_header(c, "x-date", "20231344T221320Z"), C::InvalidTimestamp),
        ("a later date", &|c| set_header(c, "x-date", "20231114T221321Z"), C::SignatureDoesNotMatch),
        ("an unsigned date", &|c| replace_in_credential(c, ";x-date", ""), C::SignatureDoesNotMatch),
        ("an unsigned token", &|c| set_header(c, "x-security-token", "STS2"), C::SignatureDoesNotMatch),
        (
            "another signature",
            &|c| replace_in_credential(c, "Signature=c4f6", "Signature=c4f7"),
            C::SignatureDoesNotMatch,
        ),
        (
            "half a signature",
            &|c| replace_in_credential(c, "c4f644954c63b0c52e42", ""),
            C::SignatureDoesNotMatch,
        ),
        ("no signature", &|c| replace_in_credential(c, ", Signature=", ", S="), C::MissingSignature),
        ("no credential", &|c| replace_in_credential(c, "Credential=", "C="), C::MissingRequestInfo),
    ];
    for (case, change, code) in headers {
        assert_eq!(check(&call_with(&vector_a(), change), NOW_MS), Err(code), "{case}");
    }
}

#[test]
fn invalid_queries_are_refused() {
    use ErrorCode as C;
    let queries: [Change<'_>; 6] = [
        ("another value", &|c| c.query = c.query.replace("TaskId=t", "TaskId=u"), C::SignatureDoesNotMatch),
        ("a missing parameter", &|c| c.query = c.query.replace("TaskId=t&", ""), C::SignatureDoesNotMatch),
        ("no signature", &|c| c.query = c.query.replace("X-Signature=", "X-S="), C::MissingSignature),
        ("no credential", &|c| c.query = c.query.replace("X-Credential=", "X-C="), C::MissingRequestInfo),
        ("another algorithm", &|c| c.query = c.query.replace("HMAC-", "H-"), C::MissingAuthenticationToken),
        ("a token", &|c| c.query.push_str("&X-Security-Token=STS2"), C::SignatureDoesNotMatch),
    ];
    for (case, change, code) in queries {
        assert_eq!(check(&call_with(&vector_e(), change), NOW_MS), Err(code), "{case}");
    }
}

#[test]
fn unsigned_and_oversized_requests_are_refused() {
    use ErrorCode as C;
    let header = vector_a();
    for (case, call, code) in [
        ("nothing", request("POST", "Action=StopWebcast", &[], ""), C::MissingAuthenticationToken),
        (
            "another scheme",
            call_with(&header, |c| set_header(c, "authorization", "Bearer x")),
            C::MissingAuthenticationToken,
        ),
        (
            "a large body",
            call_with(&header, |c| c.body = Bytes::from(vec![b' '; MAX_BODY_LEN + 1]).into()),
            C::InvalidParameter,
        ),
        (
            "a long query",
            call_with(&header, |c| c.query = "a".repeat(MAX_QUERY_LEN + 1)),
            C::InvalidParameter,
        ),
        (
            "a query with many parameters",
            call_with(&header, |c| c.query = "a&".repeat(MAX_ITEMS + 1)),
            C::InvalidParameter,
        ),
        (
            "many headers",
            call_with(&header, |c| replace_in_credential(c, ";x-date", &";x-date".repeat(65))),
            C::SignatureDoesNotMatch,
        ),
    ] {
        assert_eq!(check(&call, NOW_MS), Err(code), "{case}");
    }
}

#[test]
fn the_date_may_be_off_by_15_minutes() {
    for call in [vector_a(), vector_e()] {
        for (offset_ms, is_valid) in [(-900_001, false), (-900_000, true), (900_000, true), (900_001, false)]
        {
            let found = check(&call, NOW_MS + offset_ms).map(|_| ());
            let expected = if is_valid { Ok(()) } else { Err(ErrorCode::InvalidTimestamp) };
            assert_eq!(found, expected, "{offset_ms} ms");
        }
    }
}

#[test]
fn regions_can_be_restricted() {
    let known = |_: &str| vec![Secret::new("another"), Secret::new(SECRET)];
    let at = |regions: &[&str]| {
        let regions: Vec<String> = regions.iter().map(|&region| region.to_owned()).collect();
        verify(&vector_a(), NOW_MS, &regions, known).map_err(|error| error.code)
    };
    assert!(at(&["ap-singapore-1", "cn-north-1"]).is_ok(), "the second secret of the key matches");
    assert_eq!(at(&["ap-singapore-1"]), Err(ErrorCode::ServiceNotFound));
}

/// Parameters outside the signature are ignored.
#[test]
fn an_unsigned_parameter_is_ignored() {
    let call = call_with(&vector_e(), |call| call.query = format!("Extra=1&{}", call.query));
    let verified = check(&call, NOW_MS).unwrap();
    assert_eq!(
        (query_param(&verified.query, "TaskId"), query_param(&verified.query, "Extra")),
        (Some("t"), None)
    );
}

#[test]
fn default_ports_are_not_signed() {
    for (given, signed) in [
        ("a.example", "a.example"),
        ("a.example:80", "a.example"),
        ("a.example:443", "a.example"),
        ("a.example:8080", "a.example:8080"),
        ("[::1]:1443", "[::1]:1443"),
    ] {
        assert_eq!(strip_default_port(given), signed);
    }
}

#[test]
fn signatures_of_our_own_client_are_verified() {
    let secret = Secret::new(SECRET);
    for (method, query, body) in [
        ("POST", "Action=StopWebcast&Version=2020-12-01", BODY_A),
        ("GET", "Version=2020-12-01&Action=GetWebCastTask&RoomId=r+1&TaskId=%40~%E9%A1%B5&AppId=", ""),
    ] {
        let unsigned = UnsignedRequest {
            method,
            host: "127.0.0.1:18092",
            query,
            body: body.as_bytes(),
            region: "cn-north-1",
        };
        let headers = sign(&unsigned, "AKLTEXAMPLE", &secret, NOW_MS).unwrap().headers;
        let mut all: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.push(("host", unsigned.host));
        assert!(check(&request(method, query, &all, body), NOW_MS + 1).is_ok(), "{method}");
        if method == "POST" {
            let vector = vector_a();
            assert_eq!(headers.last().map(|(_, value)| value.as_str()), vector.header("authorization"));
        }
    }
}

proptest::proptest! {
    #[test]
    fn nothing_from_outside_panics(
        query in "(X-(Date|Credential|Algorithm|Signature|SignedQueries|SignedHeaders)=[ -~]{0,30}&){0,8}[ \
                  -~]{0,40}",
        authorization in "(HMAC-SHA256 )?[ -~]{0,80}",
        date in "[ -~]{0,20}|[0-9]{8}T[0-9]{6}Z",
    ) {
        let call = request("GET", &query, &[("authorization", &authorization), ("x-date", &date)], "");
        assert!(check(&call, NOW_MS).is_err());
        assert!(check(&request("GET", &query, &[], ""), NOW_MS).is_err());
        let credential = format!("HMAC-SHA256 Credential={SCOPE}, {authorization}");
        assert!(check(&request("GET", &query, &[("authorization", &credential), ("x-date", &date)], ""),
        NOW_MS).is_err());
    }
}

/// A request that is signed in its headers, with a date and `X-Expires`.
fn signed_with_expires(date: &str, expires: &str, names: &str) -> ApiRequest {
    let mut call = request("GET", "Action=GetWebCastTask", &[("x-date", date), ("x-expires", expires)], "");
    let query = parse_query(&call.query).unwrap();
    let scope = "AKLTEXAMPLE/20231114/cn-north-1/rtc/request";
    let authorization = |signature: &str| {
        format!("HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}")
    };
    set_header(&mut call, "authorization", &authorization("0"));
    let canonical = ClaimedSignature::from_headers(&call).unwrap().canonical_request(&call, &query).unwrap();
    let to_sign = string_to_sign(date, "20231114", "cn-north-1", &canonical);
    let signature = hex(&compute_signature(&Secret::new(SECRET), "20231114", "cn-north-1", &to_sign));
    set_header(&mut call, "authorization", &authorization(&signature));
    call
}

#[test]
fn a_signature_is_valid_until_it_expires() {
    let (signed, unsigned) = ("x-date;x-expires", "x-date");
    for (expires, names, age_s, is_valid) in [
        ("60", signed, 60, true),
        ("60", signed, 61, false),
        ("1800", signed, 1800, true),
        ("1800", signed, 1801, false),
        ("86400", signed, 3600, true),
        ("86400", signed, 3601, false),
        ("1800", unsigned, 900, true),
        ("1800", unsigned, 901, false),
        ("60", signed, -900, true),
        ("60", signed, -901, false),
        ("-1", signed, 0, false),
        ("", signed, 0, false),
    ] {
        let call = signed_with_expires("20231114T221320Z", expires, names);
        let result = check(&call, NOW_MS + 1000 * age_s);
        let expected = if is_valid { Ok(()) } else { Err(ErrorCode::InvalidTimestamp) };
        assert_eq!(result.map(drop), expected, "{expires} in {names}, {age_s} s later");
    }
}
