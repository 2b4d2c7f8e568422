//! Signs requests like Volcengine's SDKs, independently of the code that checks them.

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use crate::verify::{hex, hmac_sha256};

const ALGORITHM: &str = "HMAC-SHA256";
const REGION: &str = "cn-north-1";

/// Headers that sign a request to `/` with this key and its secret, besides `Host`. The query is encoded,
/// with its items sorted. The date is like `20231114T221320Z`, and the server compares it with its clock.
///
/// # Errors
/// The date is malformed.
pub fn volcengine(
    method: &str,
    host: &str,
    query: &str,
    body: &[u8],
    key: (&str, &str),
    date: &str,
) -> Result<Vec<(&'static str, String)>> {
    const SIGNED: &str = "host;x-content-sha256;x-date";
    let hash = |bytes: &[u8]| hex(&Sha256::digest(bytes));
    let body_hash = hash(body);
    let canonical = format!(
        "{method}\n/\n{query}\nhost:{host}\nx-content-sha256:{body_hash}\nx-date:{date}\n\n{SIGNED}\n\
         {body_hash}"
    );
    let day = date.get(..8).ok_or_else(|| anyhow::anyhow!("malformed date {date}"))?;
    let scope = format!("{day}/{REGION}/rtc/request");
    let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
    let mut signature = key.1.as_bytes().to_vec();
    for step in [day, REGION, "rtc", "request", &to_sign] {
        signature = hmac_sha256(signature, &[step.as_bytes()])?;
    }
    let signature = hex(&signature);
    let authorization =
        format!("{ALGORITHM} Credential={}/{scope}, SignedHeaders={SIGNED}, Signature={signature}", key.0);
    Ok(vec![
        ("x-content-sha256", body_hash),
        ("x-date", date.to_owned()),
        ("authorization", authorization),
        ("content-type", "application/json".to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_vendors_sdk() {
        // Signed by the vendor's SDK for Python.
        let query =
            "Action=GetWebCastTask&AppId=app0123456789&RoomId=room%201&TaskId=t%40a-b.c_d&Version=2020-12-01";
        let key = ("AKLTEXAMPLE", "U0VDUkVUX0VYQU1QTEU=");
        let headers =
            volcengine("GET", "127.0.0.1:18092", query, b"", key, "20231114T221320Z").expect("headers");
        let expected = "HMAC-SHA256 Credential=AKLTEXAMPLE/20231114/cn-north-1/rtc/request, \
            SignedHeaders=host;x-content-sha256;x-date, \
            Signature=534bc3ebcd1efbd9d6eb93fc94020a418a2d2244c8ec2eeb663e8fa3829040c0";
        assert!(headers.contains(&("authorization", expected.to_owned())), "{headers:?}");
    }
}
