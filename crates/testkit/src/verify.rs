//! Checks signatures of callbacks by the vendors' documents, independently of the code that signs them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::receiver::ReceivedRequest;

/// Checks that a callback is in Volcengine's format and signed with this secret. Returns the parsed
/// `EventData`.
///
/// # Errors
/// The format or the signature is wrong.
pub fn volcengine(callback: &ReceivedRequest, secret: &str) -> Result<Value> {
    let body = callback.json();
    let field = |name: &str| body[name].as_str().with_context(|| format!("no {name} in {body}"));
    let mut values = vec![secret];
    for name in ["EventType", "EventData", "EventTime", "EventId", "Version", "AppId", "Nonce"] {
        values.push(field(name)?);
    }
    values.sort_unstable();
    let expected = hex(&Sha256::digest(values.concat().as_bytes()));
    ensure!(field("Signature")? == expected, "the signature of {body} should be {expected}");
    ensure!(field("Nonce")?.len() == 4 && field("EventType")? == "Webcast", "{body}");
    Ok(serde_json::from_str(field("EventData")?)?)
}

/// Checks that a callback is in Tencent's format and signed with this key. Returns its body.
///
/// # Errors
/// The format or the signature is wrong.
pub fn tencent(callback: &ReceivedRequest, key: &str) -> Result<Value> {
    let expected = base64(&hmac_sha256(key, &[&callback.body])?);
    let given = callback.header("sign").context("not signed")?;
    ensure!(given == expected, "the signature {given} should be {expected}");
    ensure!(
        callback.header("content-type").is_some_and(|kind| kind.starts_with("application/json")),
        "no JSON"
    );
    ensure!(callback.header("sdkappid").is_some_and(|id| id.parse::<u64>().is_ok()), "no SdkAppId");
    Ok(callback.json())
}

/// Checks that a callback is in Pagecast's format and signed with this secret. Returns its body.
///
/// # Errors
/// The format or the signature is wrong.
pub fn native(callback: &ReceivedRequest, secret: &str) -> Result<Value> {
    let time = callback.header("pagecast-timestamp").context("no time")?;
    let expected = format!("v1={}", hex(&hmac_sha256(secret, &[time.as_bytes(), b".", &callback.body])?));
    let given = callback.header("pagecast-signature").context("not signed")?;
    ensure!(given == expected, "the signature {given} should be {expected}");
    ensure!(callback.header("pagecast-event-id").is_some(), "no id");
    Ok(callback.json())
}

pub(crate) fn hmac_sha256(key: impl AsRef<[u8]>, parts: &[&[u8]]) -> Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_ref())?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(mac.finalize().into_bytes().to_vec())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(*three.get(i).unwrap_or(&0)));
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
