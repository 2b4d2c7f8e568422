//! Whether callbacks are signed as the vendors' documents say: made independently of what makes them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::receiver::ReceivedRequest;

/// That a callback is Volcengine's, signed with this secret; what is in `EventData`.
///
/// # Errors
/// It is not.
pub fn volcengine(told: &ReceivedRequest, secret: &str) -> Result<Value> {
    let body = told.json();
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

/// That a callback is Tencent's, signed with this key; its body.
///
/// # Errors
/// It is not.
pub fn tencent(told: &ReceivedRequest, key: &str) -> Result<Value> {
    let expected = base64(&hmac_sha256(key, &[&told.body])?);
    let given = told.header("sign").context("not signed")?;
    ensure!(given == expected, "the signature {given} should be {expected}");
    ensure!(told.header("content-type").is_some_and(|kind| kind.starts_with("application/json")), "no JSON");
    ensure!(told.header("sdkappid").is_some_and(|id| id.parse::<u64>().is_ok()), "no SdkAppId");
    Ok(told.json())
}

/// That a callback is Pagecast's own, signed with this secret; its body.
///
/// # Errors
/// It is not.
pub fn native(told: &ReceivedRequest, secret: &str) -> Result<Value> {
    let time = told.header("pagecast-timestamp").context("no time")?;
    let expected = format!("v1={}", hex(&hmac_sha256(secret, &[time.as_bytes(), b".", &told.body])?));
    let given = told.header("pagecast-signature").context("not signed")?;
    ensure!(given == expected, "the signature {given} should be {expected}");
    ensure!(told.header("pagecast-event-id").is_some(), "no id");
    Ok(told.json())
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

/// RFC 4648, section 4.
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
