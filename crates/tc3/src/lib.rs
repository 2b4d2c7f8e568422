//! Signature of Tencent Cloud's API, version 3 (`TC3-HMAC-SHA256`).
//!
//! Clients sign a [`SigningInput`]; servers rebuild what a request signs with [`canonical_request`] and
//! [`string_to_sign`], and sign it with [`SigningKey`].
//!
//! Deliberately absent: HTTP, clocks, and the checks of a server.

use aws_lc_rs::{digest, hmac};
use base16ct::lower::encode_string as hex;
use chrono::{DateTime, Utc};

/// Name of the signature, the beginning of the header `Authorization`.
pub const ALGORITHM: &str = "TC3-HMAC-SHA256";
/// End of the credential scope.
pub const TERMINATOR: &str = "tc3_request";

/// The signed parts of a request.
#[derive(Debug, Clone, Copy)]
pub struct SigningInput<'a> {
    /// `POST` or `GET`.
    pub method: &'a str,
    /// Text behind the `?`, as sent; empty for POST.
    pub query: &'a str,
    /// Names, in lower case and sorted, and values; at least `content-type` and `host`.
    pub headers: &'a [(&'a str, &'a str)],
    /// [`sha256_hex`] of the body, or of `UNSIGNED-PAYLOAD`.
    pub payload_hash: &'a str,
    /// Unix seconds, as in `X-TC-Timestamp`.
    pub timestamp: u64,
    /// Service, like `vod`.
    pub service: &'a str,
}

impl SigningInput<'_> {
    /// The signature, in lower-case hex digits.
    #[must_use]
    pub fn signature(&self, secret_key: &str) -> String {
        hex(&SigningKey::derive(secret_key, &self.date(), self.service).sign(&self.string_to_sign()))
    }

    /// Value of the header `Authorization`.
    #[must_use]
    pub fn authorization(&self, secret_id: &str, secret_key: &str) -> String {
        let scope = credential_scope(&self.date(), self.service);
        let (names, signature) = (self.signed_headers(), self.signature(secret_key));
        format!("{ALGORITHM} Credential={secret_id}/{scope}, SignedHeaders={names}, Signature={signature}")
    }

    /// Text that the signature covers, with the hash of the canonical request.
    #[must_use]
    pub fn string_to_sign(&self) -> String {
        let canonical = self.canonical_request();
        string_to_sign(&self.timestamp.to_string(), &self.date(), self.service, &canonical)
    }

    /// Text of the signed parts.
    #[must_use]
    pub fn canonical_request(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        canonical_request(self.method, self.query, &headers, &self.signed_headers(), self.payload_hash)
    }

    fn signed_headers(&self) -> String {
        self.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
    }

    fn date(&self) -> String {
        utc_time(self.timestamp).format("%Y-%m-%d").to_string()
    }
}

/// Key that signs the requests of one day to one service.
#[derive(Debug)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// Derives the key from the secret key. `date` is a UTC day like `2023-11-14`.
    #[must_use]
    pub fn derive(secret_key: &str, date: &str, service: &str) -> Self {
        let mut key = format!("TC3{secret_key}").into_bytes();
        for part in [date, service, TERMINATOR] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// Signs the result of [`string_to_sign`]; 32 bytes.
    #[must_use]
    pub fn sign(&self, string_to_sign: &str) -> [u8; 32] {
        let mut signature = [0; 32];
        signature.copy_from_slice(hmac::sign(&self.0, string_to_sign.as_bytes()).as_ref());
        signature
    }
}

/// Text of the signed parts of a request. `headers` has a line `name:value\n` for each name in
/// `signed_headers`.
#[must_use]
pub fn canonical_request(
    method: &str,
    query: &str,
    headers: &str,
    signed_headers: &str,
    payload_hash: &str,
) -> String {
    format!("{method}\n/\n{query}\n{headers}\n{signed_headers}\n{payload_hash}")
}

/// Text that the signature covers. `timestamp` is the value of `X-TC-Timestamp`, `date` its UTC day.
#[must_use]
pub fn string_to_sign(timestamp: &str, date: &str, service: &str, canonical_request: &str) -> String {
    let (scope, hash) = (credential_scope(date, service), sha256_hex(canonical_request.as_bytes()));
    format!("{ALGORITHM}\n{timestamp}\n{scope}\n{hash}")
}

/// SHA-256 in lower-case hex digits.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Unix seconds as ISO 8601 in UTC, like `2023-11-14T22:13:20Z`.
#[must_use]
pub fn iso8601(timestamp: u64) -> String {
    utc_time(timestamp).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn credential_scope(date: &str, service: &str) -> String {
    format!("{date}/{service}/{TERMINATOR}")
}

/// Times beyond chrono's range become 1970.
fn utc_time(timestamp: u64) -> DateTime<Utc> {
    i64::try_from(timestamp).ok().and_then(|s| DateTime::from_timestamp(s, 0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "SECRETEXAMPLE000000000000000000";
    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";

    /// Vectors made by Tencent's own SDKs.
    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn signatures_match_those_of_the_sdks() {
        let post = sha256_hex(b"{\"TaskId\": \"abc+/=def\"}");
        let node = sha256_hex(b"{\"TaskId\":\"abc+/=def\"}");
        let (unsigned, empty) = (sha256_hex(b"UNSIGNED-PAYLOAD"), sha256_hex(b""));
        let get = "TaskId=abc%2B%2F%3Ddef&SdkAppId=1400000001";
        let (py, js) = ("127.0.0.1:18090", "127.0.0.1");
        for (method, query, kind, host, payload_hash, service, canonical, signature) in [
            (
                "POST",
                "",
                JSON,
                py,
                &post,
                "trtc",
                "fd6394cd430d0ebef1587a83c54c81e363978e2eef25e95f23d78b263aad9915",
                "05eb1a85f0780d290a26e771704b348ebb2a1046630dfeba4f761f95bfabc30c",
            ),
            (
                "GET",
                get,
                FORM,
                py,
                &empty,
                "trtc",
                "e224a824f33427f25a058544936f4fe7f29e980e07c49fd2320104adc95f33f7",
                "79b4eda4875364a730f7315150da8db09a13c0ba8031213b54fa6bbb0c02f07c",
            ),
            (
                "POST",
                "",
                JSON,
                py,
                &unsigned,
                "trtc",
                "f286d1a254bd49d4a9bef3ef01fb39243696d3b2acbb2b9bff04c50d134f1975",
                "6940565be5846ba5bf8c3ac9d6baf461a87c0f72be32c219e840c0fd2404ebd1",
            ),
            (
                "POST",
                "",
                JSON,
                js,
                &node,
                "127",
                "049facbe7b76a10770ba52ce25e24602babb53f3ab62c4326ab4f9e849131e20",
                "5fb3430c8695362d04d9c9eb0439b2fe8ef7594cb441f4455579df0be179d038",
            ),
            (
                "GET",
                "TaskId=abc%2B%2F%3Ddef",
                FORM,
                js,
                &empty,
                "127",
                "6b6f3c1b3d00eee7577c9d73f64db17fa0805acee2634f362decf270bf3f1117",
                "6ed1b05bfe35627ff941aec9988efb78c79553307d9e583b32bbbb5e6abd3204",
            ),
        ] {
            let headers = [("content-type", kind), ("host", host)];
            let signed = SigningInput {
                method,
                query,
                headers: &headers,
                payload_hash,
                timestamp: 1_700_000_000,
                service,
            };
            assert_eq!(sha256_hex(signed.canonical_request().as_bytes()), canonical, "{signed:?}");
            assert_eq!(signed.signature(SECRET), signature, "{signed:?}");
            let header = signed.authorization("AKID", SECRET);
            let scope = format!(
                "Credential=AKID/2023-11-14/{service}/tc3_request, SignedHeaders=content-type;host, "
            );
            assert!(header.contains(&scope) && !header.contains(SECRET), "{header}");
        }
    }

    #[test]
    fn dates() {
        for (timestamp, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(iso8601(timestamp), date);
        }
    }
}
