//! Verifies a signature in steps and says what differs.

use super::{
    ApiError, Authorization, ClaimedSignature, MALFORMED_AUTHORIZATION, SignedText, parse_timestamp,
    payload_hash, sha256_hex, signature_mismatch, texts_v3, utc_day,
};
use crate::explorer::explanation::{CLOCK_CHECK, Checks, KnownKeys, SignedTexts};
use crate::route::ApiRequest;

/// Values of `Content-Type` that clients sign although they send another one.
const CONTENT_TYPES: [&str; 3] =
    ["application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded"];
/// Advice if no usual mistake explains the signature.
const COMPARE: &str = "compare your string to sign with the server's, line by line; if they are the same, \
                       the secret key is another one. A proxy that changes Host, query or body also changes \
                       what is signed";

/// Checks the signature of a request, which is a form with these pairs if it is of version 1. Returns the id
/// of the key if it is known.
pub(in crate::tencent) fn explain(
    call: &ApiRequest,
    v1_form: Option<&[(String, String)]>,
    now_s: i64,
    keys: &KnownKeys,
    checks: &mut Checks,
) -> Option<String> {
    match v1_form {
        Some(pairs) => explain_v1(call, pairs, now_s, keys, checks),
        None => explain_v3(call, now_s, keys, checks),
    }
}

fn explain_v3(call: &ApiRequest, now_s: i64, keys: &KnownKeys, checks: &mut Checks) -> Option<String> {
    let credential = match call.header("authorization") {
        None => Err("the request is not signed: send the header Authorization".to_owned()),
        Some(text) => Authorization::parse(text).ok_or_else(|| MALFORMED_AUTHORIZATION.to_owned()),
    };
    let passed = "the request has a signature and names its key, day and service";
    let credential = checks.record("authorization", credential, passed)?;
    let secrets = checks.record("key", keys.find(credential.key_id), "the key is one of yours")?;
    let stamp = call.header("x-tc-timestamp");
    let timestamp = stamp
        .ok_or_else(|| "the header X-TC-Timestamp is missing".to_owned())
        .and_then(|stamp| parse_timestamp(stamp, "X-TC-Timestamp").map_err(text));
    let timestamp = checks.record("date", timestamp, "X-TC-Timestamp is a number of seconds")?;
    let day = if utc_day(timestamp).as_deref() == Some(credential.date) {
        Ok(())
    } else {
        Err(signature_mismatch("the date of the credential is not the UTC day of X-TC-Timestamp"))
    };
    checks.record("day", day.map_err(text), "the credential is for the UTC day of X-TC-Timestamp");
    let body_hash = payload_hash(call);
    let texts = texts_v3(call, &credential, stamp.unwrap_or_default(), &body_hash).map_err(text);
    let texts = checks.record("headers", texts, "each signed header is present once");
    let Some(texts) = texts else { return Some(credential.key_id.to_owned()) };
    // Hashes and headers that clients sign by mistake.
    let mut mistakes: Vec<(Vec<SignedText>, &str)> = Vec::new();
    let mut try_body = |hash: String, hint| {
        mistakes.extend(texts_v3(call, &credential, stamp.unwrap_or_default(), &hash).ok().zip(Some(hint)));
    };
    try_body(sha256_hex(b""), "the client signed an empty body");
    try_body(
        sha256_hex(call.body.trim_ascii_end()),
        "the client signed the body without white space at its end",
    );
    try_body(
        sha256_hex(b"UNSIGNED-PAYLOAD"),
        "the client did not sign the body: it must send X-TC-Content-SHA256: UNSIGNED-PAYLOAD, too",
    );
    for kind in CONTENT_TYPES {
        let mut changed = call.clone();
        changed.headers.insert("content-type", axum::http::HeaderValue::from_static(kind));
        let texts = texts_v3(&changed, &credential, stamp.unwrap_or_default(), &body_hash).ok();
        let hint = "the client signed another Content-Type than it sent; HTTP libraries often add a charset";
        mistakes.extend(texts.zip(Some(hint)));
    }
    let claim = |texts| ClaimedSignature {
        key_id: credential.key_id.to_owned(),
        timestamp,
        texts,
        version: super::SignatureVersion::V3 {
            date: credential.date.into(),
            service: credential.service.into(),
            signature: credential.signature.to_ascii_lowercase(),
        },
    };
    let own = claim(texts);
    checks.record(CLOCK_CHECK, own.check_timestamp(now_s).map_err(text), "the time is close to the clock's");
    if secrets.iter().any(|secret| own.is_signed_with(secret)) {
        checks.pass("signature", "the signature was made with the key's secret, over this request");
    } else {
        let found = mistakes.into_iter().find_map(|(texts, hint)| {
            let claim = claim(texts);
            secrets.iter().any(|secret| claim.is_signed_with(secret)).then_some(hint)
        });
        checks.fail("signature", format!("the signature does not match: {}", found.unwrap_or(COMPARE)));
    }
    checks.server = own.texts.into_iter().next().map(into_shown);
    Some(own.key_id)
}

fn explain_v1(
    call: &ApiRequest,
    pairs: &[(String, String)],
    now_s: i64,
    keys: &KnownKeys,
    checks: &mut Checks,
) -> Option<String> {
    let claim = ClaimedSignature::parse_v1(call, pairs).map_err(text);
    let claim = checks.record("authorization", claim, "the request has the parameters of a signature")?;
    let secrets = checks.record("key", keys.find(&claim.key_id), "the key is one of yours")?;
    let clock = claim.check_timestamp(now_s).map_err(text);
    checks.record(CLOCK_CHECK, clock, "Timestamp is close to the service's clock");
    if secrets.iter().any(|secret| claim.is_signed_with(secret)) {
        checks.pass("signature", "the signature was made with the key's secret, over this request");
    } else {
        checks.fail("signature", format!("the signature does not match: {COMPARE}"));
    }
    checks.server = claim.texts.into_iter().next().map(into_shown);
    Some(claim.key_id)
}

fn text(error: ApiError) -> String {
    error.message
}

fn into_shown(text: SignedText) -> SignedTexts {
    let SignedText { canonical_request, string_to_sign } = text;
    SignedTexts { canonical_request, string_to_sign }
}
