//! Signatures of Tencent's own SDKs, and refusals of signatures that were tampered with.

use super::*;
use crate::tencent::tests::{build_request, form_pairs};

pub(in crate::tencent) const KEY_ID: &str = "AKIDEXAMPLE0000000000000000000000000";
const SECRET: &str = "SECRETEXAMPLE000000000000000000";
const TIMESTAMP_S: i64 = 1_700_000_000;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const PYTHON_HOST: &str = "127.0.0.1:18090";
const NODE_HOST: &str = "127.0.0.1:18081";

/// Body of `StartWebRecord` that the Python SDK sent as JSON, and its signature.
const START_JSON: &str = r#"{"RecordUrl": "https://example.com/room?id=1&name=\u6d4b\u8bd5", "StorageParams": {"CloudStorage": {"Vendor": 0, "Region": "ap-guangzhou", "Bucket": "b-125", "AccessKey": "ak", "SecretKey": "sk", "FileNamePrefix": ["record", "video"]}}, "SdkAppId": 1400000001, "MaxDurationLimit": 3600, "WebRecordVideoParams": {"Width": 1280, "Height": 720, "Format": "mp4", "MaxMediaFileDuration": 60}, "RecordId": "rec_1", "PublishCdnParams": [{"PublishCdnUrl": "rtmp://127.0.0.1/live/a", "IsTencentCdn": 0}], "ReadyTimeout": 30, "EmulateMobileParams": {"MobileDeviceType": 0, "ScreenOrientation": 1}}"#;
const START_SIGNATURE: &str = "a981eec94e45e67e07b314df31ad6c7f7ea36800142de67397a7aee399328c9c";
const START_FORM: &str = r"RecordUrl=https%3A%2F%2Fexample.com%2Froom%3Fid%3D1%26name%3D%E6%B5%8B%E8%AF%95&StorageParams.CloudStorage.Vendor=0&StorageParams.CloudStorage.Region=ap-guangzhou&StorageParams.CloudStorage.Bucket=b-125&StorageParams.CloudStorage.AccessKey=ak&StorageParams.CloudStorage.SecretKey=sk&StorageParams.CloudStorage.FileNamePrefix.0=record&StorageParams.CloudStorage.FileNamePrefix.1=video&SdkAppId=1400000001&MaxDurationLimit=3600&WebRecordVideoParams.Width=1280&WebRecordVideoParams.Height=720&WebRecordVideoParams.Format=mp4&WebRecordVideoParams.MaxMediaFileDuration=60&RecordId=rec_1&PublishCdnParams.0.PublishCdnUrl=rtmp%3A%2F%2F127.0.0.1%2Flive%2Fa&PublishCdnParams.0.IsTencentCdn=0&ReadyTimeout=30&EmulateMobileParams.MobileDeviceType=0&EmulateMobileParams.ScreenOrientation=1&Action=StartWebRecord&RequestClient=SDK_PYTHON_3.1.177&Nonce=11886&Timestamp=1700000000&Version=2019-07-22&Region=ap-guangzhou&SecretId=AKIDEXAMPLE0000000000000000000000000&SignatureMethod=HmacSHA1&Language=zh-CN&Signature=QIxx9P1tbFAXKiXDdIlIb5f8xxg%3D";

pub(in crate::tencent) fn secret() -> Secret {
    Secret::new(SECRET)
}

fn authorization(service: &str, signature: &str) -> String {
    format!(
        "TC3-HMAC-SHA256 Credential={KEY_ID}/2023-11-14/{service}/tc3_request, \
         SignedHeaders=content-type;host, Signature={signature}"
    )
}

/// A request with a signature of version 3, as SDKs send it.
fn v3_request(
    method: &str,
    kind: &str,
    host: &str,
    query: &str,
    body: &str,
    authorization: &str,
) -> ApiRequest {
    let stamp = TIMESTAMP_S.to_string();
    let headers = [
        ("content-type", kind),
        ("host", host),
        ("x-tc-timestamp", &stamp),
        ("authorization", authorization),
    ];
    build_request(method, query, &headers, body)
}

fn sample_request() -> ApiRequest {
    let signature = "05eb1a85f0780d290a26e771704b348ebb2a1046630dfeba4f761f95bfabc30c";
    v3_request(
        "POST",
        JSON,
        PYTHON_HOST,
        "",
        "{\"TaskId\": \"abc+/=def\"}",
        &authorization("trtc", signature),
    )
}

/// A request that an SDK sent, with the hash and the signature that it computed.
struct Vector {
    name: &'static str,
    method: &'static str,
    host: &'static str,
    query: &'static str,
    body: &'static str,
    service: &'static str,
    unsigned: bool,
    hash: &'static str,
    signature: &'static str,
}

const BASE_VECTOR: Vector = Vector {
    name: "",
    method: "POST",
    host: PYTHON_HOST,
    query: "",
    body: "{\"TaskId\": \"abc+/=def\"}",
    service: "trtc",
    unsigned: false,
    hash: "",
    signature: "",
};

const VECTORS: [Vector; 6] = [
    Vector {
        name: "V3-1",
        hash: "fd6394cd430d0ebef1587a83c54c81e363978e2eef25e95f23d78b263aad9915",
        signature: "05eb1a85f0780d290a26e771704b348ebb2a1046630dfeba4f761f95bfabc30c",
        ..BASE_VECTOR
    },
    Vector {
        name: "V3-2",
        method: "GET",
        query: "TaskId=abc%2B%2F%3Ddef&SdkAppId=1400000001",
        body: "",
        hash: "e224a824f33427f25a058544936f4fe7f29e980e07c49fd2320104adc95f33f7",
        signature: "79b4eda4875364a730f7315150da8db09a13c0ba8031213b54fa6bbb0c02f07c",
        ..BASE_VECTOR
    },
    Vector {
        name: "V3-3",
        unsigned: true,
        hash: "f286d1a254bd49d4a9bef3ef01fb39243696d3b2acbb2b9bff04c50d134f1975",
        signature: "6940565be5846ba5bf8c3ac9d6baf461a87c0f72be32c219e840c0fd2404ebd1",
        ..BASE_VECTOR
    },
    Vector {
        name: "V3-4",
        host: NODE_HOST,
        body: "{\"TaskId\":\"abc+/=def\"}",
        service: "127",
        hash: "049facbe7b76a10770ba52ce25e24602babb53f3ab62c4326ab4f9e849131e20",
        signature: "5fb3430c8695362d04d9c9eb0439b2fe8ef7594cb441f4455579df0be179d038",
        ..BASE_VECTOR
    },
    Vector {
        name: "V3-5",
        method: "GET",
        host: NODE_HOST,
        query: "TaskId=abc%2B%2F%3Ddef",
        body: "",
        service: "127",
        hash: "6b6f3c1b3d00eee7577c9d73f64db17fa0805acee2634f362decf270bf3f1117",
        signature: "6ed1b05bfe35627ff941aec9988efb78c79553307d9e583b32bbbb5e6abd3204",
        ..BASE_VECTOR
    },
    Vector {
        name: "captured",
        host: "127.0.0.1:18080",
        body: START_JSON,
        signature: START_SIGNATURE,
        ..BASE_VECTOR
    },
];

#[test]
fn signatures_of_version_3_are_verified() {
    for vector in VECTORS {
        let Vector { name, method, host, query, body, service, .. } = vector;
        let kind = if method == "GET" { FORM } else { JSON };
        let mut call = v3_request(method, kind, host, query, body, &authorization(service, vector.signature));
        if vector.unsigned {
            call.headers.insert("x-tc-content-sha256", "UNSIGNED-PAYLOAD".parse().unwrap());
        }
        let claim = ClaimedSignature::parse_v3(&call).unwrap();
        assert_eq!(claim.key_id, KEY_ID, "{name}");
        assert!(
            claim.texts.iter().any(|text| text.string_to_sign.ends_with(vector.hash)),
            "{name}: {:?}",
            claim.texts
        );
        assert!(claim.is_signed_with(&secret()), "{name}");
        assert!(!claim.is_signed_with(&Secret::new("SECRETEXAMPLE000000000000000001")), "{name}");
    }
}

#[test]
fn the_key_is_derived_step_by_step() {
    let key = |service| {
        let mut key = format!("TC3{SECRET}").into_bytes();
        for part in ["2023-11-14", service, "tc3_request"] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        key
    };
    for (service, expected) in [
        ("trtc", "c6aa09925a056512ff70b4945cfae21394e0de31644b0d73aaae07dae692c9dd"),
        ("127", "e9494490a0fcd7127158f972e0eeac18d9d1e2f1270e760412bc6d29526a304e"),
    ] {
        assert_eq!(hex(&key(service)), expected);
        let signature = SigningKey::derive(SECRET, "2023-11-14", service).sign("x");
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key(service)), b"x");
        assert_eq!(signature.as_slice(), expected.as_ref());
    }
}

#[test]
fn a_signed_action_is_accepted_in_both_cases() {
    let mut call = sample_request();
    call.headers.insert("x-tc-action", "StopWebRecord".parse().unwrap());
    let canonical = |action: &str| {
        format!(
            "POST\n/\n\ncontent-type:{JSON}\nhost:{PYTHON_HOST}\nx-tc-action:{action}\n\n\
             content-type;host;x-tc-action\n{}",
            sha256_hex(&call.body)
        )
    };
    for action in ["stopwebrecord", "StopWebRecord"] {
        let text = string_to_sign("1700000000", "2023-11-14", "trtc", &canonical(action));
        let signature = hex(&SigningKey::derive(SECRET, "2023-11-14", "trtc").sign(&text));
        let authorization =
            authorization("trtc", &signature).replace("content-type;host", "content-type;host;x-tc-action");
        let mut signed = call.clone();
        signed.headers.insert("authorization", authorization.parse().unwrap());
        assert!(ClaimedSignature::parse_v3(&signed).unwrap().is_signed_with(&secret()), "{action}");
        signed.headers.insert("x-tc-action", "StartWebRecord".parse().unwrap());
        assert!(!ClaimedSignature::parse_v3(&signed).unwrap().is_signed_with(&secret()), "{action}");
        signed.headers.remove("x-tc-action");
        assert_eq!(ClaimedSignature::parse_v3(&signed).unwrap_err().code, "AuthFailure.SignatureFailure");
    }
}

#[test]
fn changed_requests_of_version_3_are_refused() {
    let set = |header: &'static str, value: &str| {
        let mut call = sample_request();
        call.headers.insert(header, value.parse().unwrap());
        call
    };
    let without = |header: &str| {
        let mut call = sample_request();
        call.headers.remove(header);
        call
    };
    let good = authorization("trtc", "05eb1a85f0780d290a26e771704b348ebb2a1046630dfeba4f761f95bfabc30c");
    let with = |from: &str, to: &str| set("authorization", &good.replace(from, to));
    let twice = {
        let mut call = sample_request();
        call.headers.append("content-type", JSON.parse().unwrap());
        call
    };
    const MALFORMED: &str = "AuthFailure.InvalidAuthorization";
    const MISMATCH: &str = "AuthFailure.SignatureFailure";
    for (call, code) in [
        (without("authorization"), MALFORMED),
        (set("authorization", "SKIP"), MALFORMED),
        (with("TC3-HMAC-SHA256", "TC3-HMAC-SHA1"), MALFORMED),
        (with("TC3-HMAC-SHA256", "HMAC-SHA256"), MALFORMED),
        (with("/tc3_request", ""), MALFORMED),
        (with("/tc3_request", "/tc3_request/more"), MALFORMED),
        (with("content-type;host", "content-type"), MALFORMED),
        (with("content-type;host", "host;x-tc-action"), MALFORMED),
        (with("content-type;host", "content-type;host;host"), MALFORMED),
        (with("content-type;host", "Content-Type;Host"), MALFORMED),
        (with(", Signature", ", Signature=00, Signature"), MALFORMED),
        (with("Signature=05eb", "Signature=zzzz"), MALFORMED),
        (with("Signature=05eb", "Signature="), MALFORMED),
        (with(KEY_ID, ""), MALFORMED),
        (with("SignedHeaders=", &format!("X={}, SignedHeaders=", "a".repeat(5000))), MALFORMED),
        (with("content-type;host", &format!("content-type;host{}", ";a".repeat(40))), MALFORMED),
        (with("2023-11-14", "2023-11-13"), MISMATCH),
        (with("2023-11-14", "2023-11-15"), MISMATCH),
        (with("content-type;host", "content-type;host;x-gone"), MISMATCH),
        (without("content-type"), MISMATCH),
        (twice, MISMATCH),
        (without("x-tc-timestamp"), "MissingParameter"),
        (without("host"), "MissingParameter"),
        (set("x-tc-timestamp", "soon"), "InvalidParameterValue"),
        (set("x-tc-timestamp", "+1700000000"), "InvalidParameterValue"),
        (set("x-tc-timestamp", "99999999999999"), "InvalidParameterValue"),
    ] {
        let error = ClaimedSignature::parse_v3(&call).unwrap_err();
        assert_eq!(error.code, code, "{call:?}: {}", error.message);
        assert!(!error.message.contains(SECRET));
    }
    let mut body = sample_request();
    body.body = axum::body::Bytes::from("{\"TaskId\": \"abc+/=deg\"}").into();
    let mut method = sample_request();
    method.method = axum::http::Method::PUT;
    for call in [
        body,
        method,
        set("host", "127.0.0.1:18091"),
        set("content-type", "application/json; charset=utf-8"),
        set("x-tc-timestamp", "1700000001"),
        set("x-tc-content-sha256", "UNSIGNED-PAYLOAD"),
        with("/trtc/", "/vod/"),
        with("Signature=05eb", "Signature=05ec"),
    ] {
        assert!(!ClaimedSignature::parse_v3(&call).unwrap().is_signed_with(&secret()), "{call:?}");
    }
}

#[test]
fn clocks_may_differ_by_five_minutes() {
    let claim = ClaimedSignature::parse_v3(&sample_request()).unwrap();
    for (offset_s, is_valid) in
        [(0, true), (300, true), (-300, true), (301, false), (-301, false), (i64::MIN, false)]
    {
        let result = claim.check_timestamp(TIMESTAMP_S.saturating_add(offset_s));
        assert_eq!(result.is_ok(), is_valid, "{offset_s}");
        assert!(is_valid || result.unwrap_err().code == "AuthFailure.SignatureExpire");
    }
}

#[test]
fn signatures_of_version_1_are_verified() {
    let py = r"Action=StopWebRecord&Language=zh-CN&Nonce=11886&Region=ap-guangzhou&RequestClient=SDK_PYTHON_3.1.177&SecretId=AKIDEXAMPLE0000000000000000000000000&TaskId=abc%2B%2F%3Ddef&Timestamp=1700000000&Version=2019-07-22";
    let node = r"Action=StopWebRecord&Nonce=39419&Region=ap-guangzhou&RequestClient=SDK_NODEJS_4.1.313&SecretId=AKIDEXAMPLE0000000000000000000000000&TaskId=abc%2B%2F%3Ddef&Timestamp=1700000000&Version=2019-07-22";
    for (name, method, host, form) in [
        (
            "V1-1",
            "POST",
            PYTHON_HOST,
            format!("{py}&SignatureMethod=HmacSHA1&Signature=n37RQ%2Fee354lJw6ZaHldt%2FEyyfs%3D"),
        ),
        (
            "V1-2",
            "GET",
            PYTHON_HOST,
            format!(
                "{py}&SignatureMethod=HmacSHA256&Signature=tTthKowgordAHa%2BNM%2BKfZfhwZgKVDNNhl7plpvWyIAo%3D"
            ),
        ),
        (
            "V1-3",
            "POST",
            NODE_HOST,
            format!(
                "{node}&SignatureMethod=HmacSHA256&Signature=3Lw2YAHfNqDMS9ij0bExcDfL7aBlPJpdxrK3BZd81kQ%3D"
            ),
        ),
        ("captured", "POST", "127.0.0.1:18080", START_FORM.to_owned()),
    ] {
        let call = build_request(method, "", &[("host", host)], "");
        let claim = ClaimedSignature::parse_v1(&call, &form_pairs(&form)).unwrap();
        assert_eq!(claim.key_id, KEY_ID);
        assert!(
            claim.check_timestamp(TIMESTAMP_S + 300).is_ok()
                && claim.check_timestamp(TIMESTAMP_S + 301).is_err(),
            "{name}"
        );
        assert!(claim.is_signed_with(&secret()), "{name}: {:?}", claim.texts);
        assert!(!claim.is_signed_with(&Secret::new("SECRETEXAMPLE000000000000000001")), "{name}");
        let changed = |from: &str, to: &str| {
            let pairs = form_pairs(&form.replacen(from, to, 1));
            ClaimedSignature::parse_v1(&call, &pairs).unwrap().is_signed_with(&secret())
        };
        assert!(!changed("Action=St", "Action=st") && !changed("Nonce=", "Nonce=1"), "{name}");
        assert!(!changed("Timestamp=17", "Timestamp=16") && !changed("ap-guangzhou", "ap-beijing"), "{name}");
        assert!(!changed("Signature=", "Signature=A") && !changed("Signature=", "Signature=%00"), "{name}");
    }
    let text = string_to_sign_v1(
        "POST",
        PYTHON_HOST,
        &form_pairs(&format!("{py}&SignatureMethod=HmacSHA1&Signature=x")),
    );
    assert_eq!(
        text,
        r"POST127.0.0.1:18090/?Action=StopWebRecord&Language=zh-CN&Nonce=11886&Region=ap-guangzhou&RequestClient=SDK_PYTHON_3.1.177&SecretId=AKIDEXAMPLE0000000000000000000000000&SignatureMethod=HmacSHA1&TaskId=abc+/=def&Timestamp=1700000000&Version=2019-07-22"
    );
}

#[test]
fn invalid_requests_of_version_1_are_refused() {
    let call = build_request("POST", "", &[("host", PYTHON_HOST)], "");
    let good = "SecretId=a&Signature=eA%3D%3D&Timestamp=1&Nonce=1";
    let code = |form: &str| {
        ClaimedSignature::parse_v1(&call, &form_pairs(form)).map_or_else(|error| error.code.as_str(), |_| "")
    };
    assert_eq!(code(good), "");
    for name in ["SecretId", "Signature", "Timestamp", "Nonce"] {
        assert_eq!(code(&good.replace(&format!("{name}="), "X=")), "MissingParameter", "{name}");
    }
    for (from, to) in [
        ("Timestamp=1", "Timestamp=1.5"),
        ("Nonce=1", "Nonce=-1"),
        ("Nonce=1", "Nonce=1&SignatureMethod=TC3"),
    ] {
        assert_eq!(code(&good.replace(from, to)), "InvalidParameterValue", "{to}");
    }
    let bare = super::host_candidates("localhost:80").collect::<Vec<_>>();
    assert_eq!(bare, ["localhost:80", "localhost"]);
    assert_eq!(host_candidates("[::1]").collect::<Vec<_>>(), ["[::1]"]);
}

#[test]
fn signatures_of_our_own_client_are_verified() {
    let body = b"{\"TaskId\":\"a\"}";
    for host in ["127.0.0.1:8080", "records.example.com"] {
        let signed = sign_v3(KEY_ID, &secret(), host, "StopWebRecord", body, TIMESTAMP_S);
        let mut headers: Vec<(&str, &str)> = signed.iter().map(|(n, v)| (*n, v.as_str())).collect();
        headers.push(("host", host));
        let call = build_request("POST", "", &headers, std::str::from_utf8(body).unwrap());
        assert!(ClaimedSignature::parse_v3(&call).unwrap().is_signed_with(&secret()), "{host}");
        assert_eq!(call.header("x-tc-action"), Some("StopWebRecord"));
    }
    let signed =
        sign_v3(KEY_ID, &secret(), PYTHON_HOST, "StopWebRecord", b"{\"TaskId\": \"abc+/=def\"}", TIMESTAMP_S);
    let authorization = signed.last().unwrap();
    assert!(
        authorization.1.ends_with("=05eb1a85f0780d290a26e771704b348ebb2a1046630dfeba4f761f95bfabc30c"),
        "the signature is the SDK's"
    );
}

proptest::proptest! {
    #[test]
    fn no_authorization_panics(text in "(TC3-HMAC-SHA256 )?[ -~]{0,120}", stamp in "[0-9]{0,14}") {
        let mut call = sample_request();
        call.headers.insert("authorization", text.parse().unwrap());
        call.headers.insert("x-tc-timestamp", stamp.parse().unwrap());
        if let Ok(claim) = ClaimedSignature::parse_v3(&call) {
            proptest::prop_assert!(!claim.is_signed_with(&secret()));
        }
    }
}

const HOST: &str = "localhost:8080";

/// `StartWebRecord` as the Python SDK sent it at [`TIMESTAMP_S`], with signatures of version 3 and version 1.
pub(in crate::tencent) fn captured_requests() -> [ApiRequest; 2] {
    const HOST: &str = "127.0.0.1:18080";
    let mut version_3 =
        v3_request("POST", JSON, HOST, "", START_JSON, &authorization("trtc", START_SIGNATURE));
    for (name, value) in [
        ("x-tc-traceid", "00000000-0000-4000-8000-000000000000"),
        ("x-tc-action", "StartWebRecord"),
        ("x-tc-requestclient", "SDK_PYTHON_3.1.177"),
        ("x-tc-version", "2019-07-22"),
        ("x-tc-region", "ap-guangzhou"),
        ("x-tc-language", "zh-CN"),
    ] {
        version_3.headers.insert(name, value.parse().unwrap());
    }
    let trace = ("x-tc-traceid", "00000000-0000-4000-8000-000000000000");
    [version_3, build_request("POST", "", &[trace, ("content-type", FORM), ("host", HOST)], START_FORM)]
}

/// How a request is encoded and signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tencent) enum Encoding {
    /// JSON by POST, version 3.
    Json,
    /// Query of a GET, version 3.
    Get,
    /// Form by POST, version 1 with SHA-1.
    FormV1,
    /// Query of a GET, version 1 with SHA-256.
    GetV1,
    /// JSON by POST, version 3, with another content type.
    OtherType(&'static str),
}

/// Builds a signed request to `localhost:8080`.
pub(in crate::tencent) fn signed_request(
    encoding: Encoding,
    id: &str,
    secret: &Secret,
    action: &str,
    params: &serde_json::Value,
    unix_s: i64,
) -> ApiRequest {
    let mut pairs = Vec::new();
    flatten("", params, &mut pairs);
    let encode = |pairs: &[(String, String)]| {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    };
    match encoding {
        Encoding::Json => {
            let body = params.to_string();
            let headers = sign_v3(id, secret, HOST, action, body.as_bytes(), unix_s);
            let headers: Vec<_> =
                headers.iter().map(|(n, v)| (*n, v.as_str())).chain([("host", HOST)]).collect();
            build_request("POST", "", &headers, &body)
        }
        Encoding::Get => signed_v3_request("GET", FORM, &encode(&pairs), "", id, secret, action, unix_s),
        Encoding::OtherType(kind) => {
            signed_v3_request("POST", kind, "", &params.to_string(), id, secret, action, unix_s)
        }
        Encoding::FormV1 | Encoding::GetV1 => {
            let (method, sha256) = if encoding == Encoding::FormV1 { ("POST", false) } else { ("GET", true) };
            let stamp = unix_s.to_string();
            let mut common = vec![
                ("Action", action),
                ("Version", "2019-07-22"),
                ("Timestamp", &stamp),
                ("Nonce", "7"),
                ("SecretId", id),
            ];
            if sha256 {
                common.push(("SignatureMethod", "HmacSHA256"));
            }
            pairs.extend(common.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())));
            let key = hmac::Key::new(algorithm_v1(sha256), secret.reveal().as_bytes());
            let signature = hmac::sign(&key, string_to_sign_v1(method, HOST, &pairs).as_bytes());
            pairs.push(("Signature".to_owned(), STANDARD.encode(signature)));
            let (form, headers) = (encode(&pairs), [("host", HOST), ("content-type", FORM)]);
            if sha256 {
                build_request("GET", &form, &headers[..1], "")
            } else {
                build_request("POST", "", &headers, &form)
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "a signature covers all of them")]
fn signed_v3_request(
    method: &str,
    kind: &str,
    query: &str,
    body: &str,
    id: &str,
    secret: &Secret,
    action: &str,
    unix_s: i64,
) -> ApiRequest {
    let (stamp, date) = (unix_s.to_string(), utc_day(unix_s).unwrap());
    let canonical = format!(
        "{method}\n/\n{query}\ncontent-type:{kind}\nhost:{HOST}\n\ncontent-type;host\n{}",
        sha256_hex(body.as_bytes())
    );
    let text = string_to_sign(&stamp, &date, "trtc", &canonical);
    let signature = hex(&SigningKey::derive(secret.reveal(), &date, "trtc").sign(&text));
    let authorization = format!(
        "{ALGORITHM} Credential={id}/{date}/trtc/tc3_request, SignedHeaders=content-type;host, \
         Signature={signature}"
    );
    let headers = [
        ("host", HOST),
        ("content-type", kind),
        ("x-tc-action", action),
        ("x-tc-version", "2019-07-22"),
        ("x-tc-timestamp", &stamp),
        ("authorization", &authorization),
    ];
    build_request(method, query, &headers, body)
}

/// Flattens parameters as the SDKs do: names with dots, without nulls.
fn flatten(name: &str, value: &serde_json::Value, pairs: &mut Vec<(String, String)>) {
    use serde_json::Value;
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Null => {}
        Value::Object(members) => {
            members.iter().for_each(|(part, value)| flatten(&below(part), value, pairs));
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(i, value)| flatten(&below(&i.to_string()), value, pairs));
        }
        Value::String(text) => pairs.push((name.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => pairs.push((name.to_owned(), value.to_string())),
    }
}
