//! Request signatures: version 3 (`TC3-HMAC-SHA256`) in headers, version 1 (`HmacSHA1`, `HmacSHA256`) among
//! the parameters.
//!
//! A repeated request is answered again within its five minutes. Its signature would identify it, but the
//! vendor's Go SDK repeats the same bytes after `RequestLimitExceeded` and after a lost connection, and would
//! be refused as a forger. Repeating stop and describe is harmless, and `RecordId` prevents starting twice.

mod explain;

use aws_lc_rs::{constant_time, hmac};
use base16ct::lower::encode_string as hex;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use pagecast_core::spec::Secret;
use pagecast_tc3::{SigningInput, SigningKey, TERMINATOR, canonical_request, sha256_hex, string_to_sign};

pub(super) use explain::explain;
pub(super) use pagecast_tc3::ALGORITHM;

use super::error_code::ErrorCode;
use super::response::ApiError;
use crate::route::ApiRequest;

/// Value of `X-TC-Content-SHA256` of a request whose body is not signed.
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Largest difference between a client's clock and ours, in seconds: the vendor's limit.
const MAX_CLOCK_SKEW_S: u64 = 300;
/// Most signed headers: SDKs sign two or three.
const MAX_SIGNED_HEADERS: usize = 32;
/// Longest `Authorization` header, in bytes: an SDK's has some 300.
const MAX_AUTHORIZATION_LEN: usize = 4096;

/// A signature as a request states it, with all texts that it may cover: clients differ in details, and every
/// documented variant is accepted.
#[derive(Debug)]
pub(super) struct ClaimedSignature {
    /// Key id that the request claims.
    pub key_id: String,
    timestamp: i64,
    texts: Vec<SignedText>,
    version: SignatureVersion,
}

/// A text that a signature may cover.
#[derive(Debug, PartialEq, Eq)]
struct SignedText {
    /// Canonical request; version 1 has none.
    canonical_request: String,
    string_to_sign: String,
}

#[derive(Debug)]
enum SignatureVersion {
    V3 { date: String, service: String, signature: String },
    V1 { sha256: bool, signature: Vec<u8> },
}

impl ClaimedSignature {
    /// Parses a signature of version 3.
    pub(super) fn parse_v3(call: &ApiRequest) -> Result<Self, ApiError> {
        let header = |name| {
            call.header(name).ok_or_else(|| ApiError::missing_parameter(ErrorCode::MissingParameter, name))
        };
        let credential = Authorization::parse(call.header("authorization").unwrap_or_default())
            .ok_or_else(|| ApiError::new(ErrorCode::InvalidAuthorization, MALFORMED_AUTHORIZATION))?;
        let stamp = header("x-tc-timestamp")?;
        let timestamp = parse_timestamp(stamp, "X-TC-Timestamp")?;
        if utc_day(timestamp).as_deref() != Some(credential.date) {
            return Err(signature_mismatch(
                "the date of the credential is not the UTC day of X-TC-Timestamp",
            ));
        }
        let texts = texts_v3(call, &credential, stamp, &payload_hash(call))?;
        let kind = SignatureVersion::V3 {
            date: credential.date.into(),
            service: credential.service.into(),
            signature: credential.signature.to_ascii_lowercase(),
        };
        Ok(Self { key_id: credential.key_id.to_owned(), timestamp, texts, version: kind })
    }

    /// Parses a signature of version 1 from decoded parameters.
    pub(super) fn parse_v1(call: &ApiRequest, pairs: &[(String, String)]) -> Result<Self, ApiError> {
        let find =
            |name: &str| pairs.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str());
        let required =
            |name| find(name).ok_or_else(|| ApiError::missing_parameter(ErrorCode::MissingParameter, name));
        let (key_id, signature) = (required("SecretId")?, required("Signature")?);
        let timestamp = parse_timestamp(required("Timestamp")?, "Timestamp")?;
        if required("Nonce")?.parse::<u64>().is_err() {
            return Err(ApiError::new(
                ErrorCode::InvalidParameterValue,
                "the parameter `Nonce` must be a positive integer",
            ));
        }
        let sha256 = match find("SignatureMethod").unwrap_or("HmacSHA1") {
            "HmacSHA1" => false,
            "HmacSHA256" => true,
            _ => {
                let message = "the parameter `SignatureMethod` must be HmacSHA1 or HmacSHA256";
                return Err(ApiError::new(ErrorCode::InvalidParameterValue, message));
            }
        };
        let host = call
            .header("host")
            .ok_or_else(|| ApiError::missing_parameter(ErrorCode::MissingParameter, "host"))?;
        let text = |host| SignedText {
            canonical_request: String::new(),
            string_to_sign: string_to_sign_v1(call.method.as_str(), host, pairs),
        };
        let texts = host_candidates(host).map(text).collect();
        // Invalid base64 becomes an empty signature, which matches no secret.
        let signature = STANDARD.decode(signature).unwrap_or_default();
        Ok(Self {
            key_id: key_id.to_owned(),
            timestamp,
            texts,
            version: SignatureVersion::V1 { sha256, signature },
        })
    }

    /// Checks that the timestamp is within five minutes of `now_s`, in Unix seconds.
    pub(super) fn check_timestamp(&self, now_s: i64) -> Result<(), ApiError> {
        if now_s.abs_diff(self.timestamp) <= MAX_CLOCK_SKEW_S {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::SignatureExpire,
            "the signature is expired: its timestamp is more than five minutes away from the server's clock",
        ))
    }

    /// Whether this secret made the signature.
    pub(super) fn is_signed_with(&self, secret: &Secret) -> bool {
        let is_equal = |a: &[u8], b: &[u8]| constant_time::verify_slices_are_equal(a, b).is_ok();
        match &self.version {
            SignatureVersion::V3 { date, service, signature } => {
                let key = SigningKey::derive(secret.reveal(), date, service);
                // All are compared: the time must not tell which variant matched.
                let made = self.texts.iter().map(|text| hex(&key.sign(&text.string_to_sign)));
                made.fold(false, |found, made| found | is_equal(made.as_bytes(), signature.as_bytes()))
            }
            SignatureVersion::V1 { sha256, signature } => {
                let key = hmac::Key::new(algorithm_v1(*sha256), secret.reveal().as_bytes());
                let made = self.texts.iter().map(|text| hmac::sign(&key, text.string_to_sign.as_bytes()));
                made.fold(false, |found, made| found | is_equal(made.as_ref(), signature))
            }
        }
    }
}

/// Headers that sign a POST with version 3: names and values. `host` is sent with its port, if any; `unix_s`
/// is in seconds.
#[must_use]
pub fn sign_v3(
    key_id: &str,
    secret: &Secret,
    host: &str,
    action: &str,
    body: &[u8],
    unix_s: i64,
) -> Vec<(&'static str, String)> {
    sign_v3_with_texts(key_id, secret, host, action, body, unix_s).headers
}

/// Headers that sign a POST with version 3, and the texts from which the signature was made.
pub(super) struct SignedV3 {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) authorization: String,
    pub(super) canonical_request: String,
    pub(super) string_to_sign: String,
}

/// Does [`sign_v3`] and returns the signed texts, too.
pub(super) fn sign_v3_with_texts(
    key_id: &str,
    secret: &Secret,
    host: &str,
    action: &str,
    body: &[u8],
    unix_s: i64,
) -> SignedV3 {
    const JSON: &str = "application/json";
    let input = SigningInput {
        method: "POST",
        query: "",
        headers: &[("content-type", JSON), ("host", host)],
        payload_hash: &sha256_hex(body),
        timestamp: unix_s.unsigned_abs(),
        service: "trtc",
    };
    let authorization = input.authorization(key_id, secret.reveal());
    let headers = vec![
        ("Content-Type", JSON.to_owned()),
        ("X-TC-Action", action.to_owned()),
        ("X-TC-Version", super::VERSION.to_owned()),
        ("X-TC-Timestamp", unix_s.to_string()),
        ("Authorization", authorization.clone()),
    ];
    SignedV3 {
        headers,
        authorization,
        canonical_request: input.canonical_request(),
        string_to_sign: input.string_to_sign(),
    }
}

/// Hash of the signed body.
fn payload_hash(call: &ApiRequest) -> String {
    match (call.header("x-tc-content-sha256"), call.method.as_str()) {
        (Some(UNSIGNED_PAYLOAD), _) => sha256_hex(UNSIGNED_PAYLOAD.as_bytes()),
        (_, "GET") => sha256_hex(b""),
        _ => hex(call.body.sha256()),
    }
}

/// All texts that a signature of version 3 may cover; the first is that of the documents.
fn texts_v3(
    call: &ApiRequest,
    credential: &Authorization<'_>,
    stamp: &str,
    payload_hash: &str,
) -> Result<Vec<SignedText>, ApiError> {
    let &Authorization { date, service, signed_headers: signed, .. } = credential;
    let host = call
        .header("host")
        .ok_or_else(|| ApiError::missing_parameter(ErrorCode::MissingParameter, "host"))?;
    let query = if call.method == "GET" { call.query.as_str() } else { "" };
    let mut texts = Vec::new();
    for host in host_candidates(host) {
        for lower in [false, true] {
            let block = canonical_headers(call, signed, host, lower)?;
            let canonical_request =
                canonical_request(call.method.as_str(), query, &block, signed, payload_hash);
            let string_to_sign = string_to_sign(stamp, date, service, &canonical_request);
            texts.push(SignedText { canonical_request, string_to_sign });
        }
    }
    texts.dedup();
    Ok(texts)
}

/// Key id in an `Authorization` header, well formed or not.
pub(super) fn claimed_key_id(authorization: &str) -> &str {
    let (_, credential) = authorization.split_once("Credential=").unwrap_or_default();
    credential.split(['/', ',']).next().unwrap_or_default()
}

const MALFORMED_AUTHORIZATION: &str = "the header Authorization must be TC3-HMAC-SHA256 \
    Credential=ID/YYYY-MM-DD/SERVICE/tc3_request, SignedHeaders=content-type;host, Signature=HEX";

/// Parsed `Authorization` header.
struct Authorization<'a> {
    key_id: &'a str,
    date: &'a str,
    service: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// Parses the header; `None` if it is malformed, including `SKIP` of unsigned calls.
    fn parse(authorization: &'a str) -> Option<Self> {
        if authorization.len() > MAX_AUTHORIZATION_LEN {
            return None;
        }
        let rest = authorization.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        let mut scope = credential?.split('/');
        let (key_id, date, service) = (scope.next()?, scope.next()?, scope.next()?);
        let closed = scope.next() == Some(TERMINATOR) && scope.next().is_none();
        // An SDK with another host than the vendor's takes the service from that host's name.
        let is_service = (1..=253).contains(&service.len()) && service.bytes().all(|b| b.is_ascii_graphic());
        let (signed, signature) = (signed?, signature?);
        let names: Vec<&str> = signed.split(';').collect();
        let is_name =
            |n: &&str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
        let has = |name| names.iter().filter(|n| **n == name).count() == 1;
        let good = closed
            && is_service
            && !key_id.is_empty()
            && names.len() <= MAX_SIGNED_HEADERS
            && names.iter().all(is_name)
            && has("content-type")
            && has("host")
            && signature.len() == 64
            && signature.bytes().all(|b| b.is_ascii_hexdigit());
        good.then_some(Self { key_id, date, service, signed_headers: signed, signature })
    }
}

/// The signed headers, one line each. The documents require values in lower case, but SDKs do not change
/// them.
fn canonical_headers(call: &ApiRequest, signed: &str, host: &str, lower: bool) -> Result<String, ApiError> {
    let mut block = String::new();
    for name in signed.split(';') {
        let values = call.headers.get_all(name).iter().count();
        let value = if name == "host" { Some(host) } else { call.header(name).filter(|_| values == 1) };
        let value =
            value.ok_or_else(|| signature_mismatch("a signed header is missing or present twice"))?.trim();
        let value = if lower { value.to_ascii_lowercase() } else { value.to_owned() };
        block.push_str(&format!("{name}:{value}\n"));
    }
    Ok(block)
}

/// The host as sent, and without its port: some SDKs sign only that.
fn host_candidates(host: &str) -> impl Iterator<Item = &str> {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let bare = host.rsplit_once(':').filter(|(_, port)| is_port(port)).map(|(bare, _)| bare);
    [Some(host), bare].into_iter().flatten()
}

/// Text that version 1 signs.
fn string_to_sign_v1(method: &str, host: &str, pairs: &[(String, String)]) -> String {
    let own = pairs.iter().filter(|(name, _)| name != "Signature");
    let mut signed: Vec<_> = own.map(|(name, value)| (name.replace('_', "."), value)).collect();
    signed.sort();
    let list: Vec<_> = signed.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{method}{host}/?{}", list.join("&"))
}

fn algorithm_v1(sha256: bool) -> hmac::Algorithm {
    if sha256 { hmac::HMAC_SHA256 } else { hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY }
}

fn signature_mismatch(why: &str) -> ApiError {
    ApiError::new(ErrorCode::SignatureFailure, format!("the signature does not match: {why}"))
}

fn parse_timestamp(text: &str, name: &str) -> Result<i64, ApiError> {
    // Only digits: a number in another form would be signed differently.
    let digits = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let bad = || ApiError::new(ErrorCode::InvalidParameterValue, format!("`{name}` must be Unix seconds"));
    text.parse().ok().filter(|_| digits).ok_or_else(bad)
}

/// UTC day of a time, like `2023-11-14`.
fn utc_day(unix_s: i64) -> Option<String> {
    Some(DateTime::from_timestamp(unix_s, 0)?.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
pub(super) mod tests;
