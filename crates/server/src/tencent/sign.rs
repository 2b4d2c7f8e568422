//! Signatures: version 3 (`TC3-HMAC-SHA256`) in headers, version 1 (`HmacSHA1`, `HmacSHA256`) among the
//! parameters.
//!
//! A request that comes a second time within its five minutes is answered a second time. It could be known by
//! its signature, but the vendor's Go SDK sends the very same bytes again after `RequestLimitExceeded` and
//! after a lost connection, and would be told that its own request is a forgery. To stop or to describe twice
//! does no harm, and to start twice is what `RecordId` is for.

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use pagecast_core::spec::Secret;

use super::answer::Fault;
use crate::route::Call;

/// What `Authorization` begins with.
pub(super) const ALGORITHM: &str = "TC3-HMAC-SHA256";
/// A header of this value says that the body is not signed.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// How far a client's clock may be from ours, in seconds.
const WINDOW_S: u64 = 300;
/// Most headers that are signed.
const MAX_SIGNED: usize = 32;
/// Longest `Authorization`, in bytes.
const MAX_AUTHORIZATION_LEN: usize = 4096;

/// A signature, and all that it may be of: clients differ in small things, of which every way is good.
#[derive(Debug)]
pub(super) struct Claim {
    /// Whose it claims to be.
    pub key_id: String,
    timestamp: i64,
    texts: Vec<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    V3 { date: String, service: String, signature: String },
    V1 { sha256: bool, signature: Vec<u8> },
}

impl Claim {
    /// Reads version 3.
    pub(super) fn v3(call: &Call) -> Result<Self, Fault> {
        let header = |name| call.header(name).ok_or_else(|| Fault::missing("MissingParameter", name));
        let credential = Credential::read(call.header("authorization").unwrap_or_default())
            .ok_or_else(|| Fault::new("AuthFailure.InvalidAuthorization", MALFORMED))?;
        let stamp = header("x-tc-timestamp")?;
        let timestamp = read_timestamp(stamp, "X-TC-Timestamp")?;
        let Credential { key_id, date, service, signed, signature } = credential;
        if day(timestamp).as_deref() != Some(date) {
            return Err(mismatch("the date of the credential is not the UTC day of X-TC-Timestamp"));
        }
        let payload = match (call.header("x-tc-content-sha256"), call.method.as_str()) {
            (Some(UNSIGNED), _) => sha256_hex(UNSIGNED.as_bytes()),
            (_, "GET") => sha256_hex(b""),
            _ => hex(call.body.sha256()),
        };
        let query = if call.method == "GET" { call.query.as_str() } else { "" };
        let mut texts = Vec::new();
        for host in hosts(header("host")?) {
            for lower in [false, true] {
                let block = header_block(call, signed, host, lower)?;
                let canonical = format!("{}\n/\n{query}\n{block}\n{signed}\n{payload}", call.method);
                texts.push(string_to_sign(stamp, date, service, &canonical));
            }
        }
        texts.dedup();
        let kind = Kind::V3 {
            date: date.into(),
            service: service.into(),
            signature: signature.to_ascii_lowercase(),
        };
        Ok(Self { key_id: key_id.to_owned(), timestamp, texts, kind })
    }

    /// Reads version 1 from the parameters of a request, decoded.
    pub(super) fn v1(call: &Call, pairs: &[(String, String)]) -> Result<Self, Fault> {
        let find =
            |name: &str| pairs.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str());
        let needed = |name| find(name).ok_or_else(|| Fault::missing("MissingParameter", name));
        let (key_id, signature) = (needed("SecretId")?, needed("Signature")?);
        let timestamp = read_timestamp(needed("Timestamp")?, "Timestamp")?;
        if needed("Nonce")?.parse::<u64>().is_err() {
            return Err(Fault::new(
                "InvalidParameterValue",
                "the parameter `Nonce` must be a positive integer",
            ));
        }
        let sha256 = match find("SignatureMethod").unwrap_or("HmacSHA1") {
            "HmacSHA1" => false,
            "HmacSHA256" => true,
            _ => {
                let words = "the parameter `SignatureMethod` must be HmacSHA1 or HmacSHA256";
                return Err(Fault::new("InvalidParameterValue", words));
            }
        };
        let host = call.header("host").ok_or_else(|| Fault::missing("MissingParameter", "host"))?;
        let texts = hosts(host).map(|host| text_v1(call.method.as_str(), host, pairs)).collect();
        // What is not base64 is nobody's signature.
        let signature = STANDARD.decode(signature).unwrap_or_default();
        Ok(Self { key_id: key_id.to_owned(), timestamp, texts, kind: Kind::V1 { sha256, signature } })
    }

    /// Whether it was made within five minutes of `now_s`, Unix seconds.
    pub(super) fn is_fresh(&self, now_s: i64) -> Result<(), Fault> {
        if now_s.abs_diff(self.timestamp) <= WINDOW_S {
            return Ok(());
        }
        Err(Fault::new(
            "AuthFailure.SignatureExpire",
            "the signature is expired: its timestamp is more than five minutes away from the server's clock",
        ))
    }

    /// Whether this secret made it.
    pub(super) fn is_by(&self, secret: &Secret) -> bool {
        let same = |a: &[u8], b: &[u8]| constant_time::verify_slices_are_equal(a, b).is_ok();
        match &self.kind {
            Kind::V3 { date, service, signature } => {
                let key = signing_key(secret, date, service);
                let made = self.texts.iter().map(|text| hex(hmac::sign(&key, text.as_bytes()).as_ref()));
                made.fold(false, |found, made| found | same(made.as_bytes(), signature.as_bytes()))
            }
            Kind::V1 { sha256, signature } => {
                let key = hmac::Key::new(algorithm_v1(*sha256), secret.reveal().as_bytes());
                let made = self.texts.iter().map(|text| hmac::sign(&key, text.as_bytes()));
                made.fold(false, |found, made| found | same(made.as_ref(), signature))
            }
        }
    }
}

/// The headers that sign a request of ours by POST, version 3: name and value. `host` as it is sent, with the
/// port if there is one; `unix_s` in seconds.
#[must_use]
pub fn sign_v3(
    key_id: &str,
    secret: &Secret,
    host: &str,
    action: &str,
    body: &[u8],
    unix_s: i64,
) -> Vec<(&'static str, String)> {
    const KIND: &str = "application/json";
    const SIGNED: &str = "content-type;host";
    const SERVICE: &str = "trtc";
    let (stamp, date) = (unix_s.to_string(), day(unix_s).unwrap_or_default());
    let block = format!("content-type:{KIND}\nhost:{host}\n");
    let canonical = format!("POST\n/\n\n{block}\n{SIGNED}\n{}", sha256_hex(body));
    let text = string_to_sign(&stamp, &date, SERVICE, &canonical);
    let signature = hex(hmac::sign(&signing_key(secret, &date, SERVICE), text.as_bytes()).as_ref());
    let credential = format!("{key_id}/{date}/{SERVICE}/tc3_request");
    vec![
        ("Content-Type", KIND.to_owned()),
        ("X-TC-Action", action.to_owned()),
        ("X-TC-Version", super::VERSION.to_owned()),
        ("X-TC-Timestamp", stamp),
        (
            "Authorization",
            format!("{ALGORITHM} Credential={credential}, SignedHeaders={SIGNED}, Signature={signature}"),
        ),
    ]
}

/// The id of the key that an `Authorization` header names, whether the rest of it is well formed or not.
pub(super) fn claimed_key(authorization: &str) -> &str {
    let (_, credential) = authorization.split_once("Credential=").unwrap_or_default();
    credential.split(['/', ',']).next().unwrap_or_default()
}

const MALFORMED: &str = "the header Authorization must be TC3-HMAC-SHA256 \
    Credential=ID/YYYY-MM-DD/SERVICE/tc3_request, SignedHeaders=content-type;host, Signature=HEX";

/// What stands in `Authorization`.
struct Credential<'a> {
    key_id: &'a str,
    date: &'a str,
    service: &'a str,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Credential<'a> {
    /// `None` for whatever is malformed, `SKIP` of unsigned calls included.
    fn read(authorization: &'a str) -> Option<Self> {
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
        let closed = scope.next() == Some("tc3_request") && scope.next().is_none();
        // SDKs that are given another host than the vendor's name the service after that.
        let is_service = (1..=253).contains(&service.len()) && service.bytes().all(|b| b.is_ascii_graphic());
        let (signed, signature) = (signed?, signature?);
        let names: Vec<&str> = signed.split(';').collect();
        let is_name =
            |n: &&str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
        let has = |name| names.iter().filter(|n| **n == name).count() == 1;
        let good = closed
            && is_service
            && !key_id.is_empty()
            && names.len() <= MAX_SIGNED
            && names.iter().all(is_name)
            && has("content-type")
            && has("host")
            && signature.len() == 64
            && signature.bytes().all(|b| b.is_ascii_hexdigit());
        good.then_some(Self { key_id, date, service, signed, signature })
    }
}

/// The signed headers, a line each. The documents want values in lower case, SDKs leave them as they are.
fn header_block(call: &Call, signed: &str, host: &str, lower: bool) -> Result<String, Fault> {
    let mut block = String::new();
    for name in signed.split(';') {
        let values = call.headers.get_all(name).iter().count();
        let value = if name == "host" { Some(host) } else { call.header(name).filter(|_| values == 1) };
        let value = value.ok_or_else(|| mismatch("a signed header is missing, or there twice"))?.trim();
        let value = if lower { value.to_ascii_lowercase() } else { value.to_owned() };
        block.push_str(&format!("{name}:{value}\n"));
    }
    Ok(block)
}

/// The host as it was sent, and without its port: not all SDKs sign that.
fn hosts(host: &str) -> impl Iterator<Item = &str> {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let bare = host.rsplit_once(':').filter(|(_, port)| is_port(port)).map(|(bare, _)| bare);
    [Some(host), bare].into_iter().flatten()
}

/// What version 1 signs.
fn text_v1(method: &str, host: &str, pairs: &[(String, String)]) -> String {
    let own = pairs.iter().filter(|(name, _)| name != "Signature");
    let mut signed: Vec<_> = own.map(|(name, value)| (name.replace('_', "."), value)).collect();
    signed.sort();
    let list: Vec<_> = signed.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{method}{host}/?{}", list.join("&"))
}

fn algorithm_v1(sha256: bool) -> hmac::Algorithm {
    if sha256 { hmac::HMAC_SHA256 } else { hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY }
}

fn string_to_sign(stamp: &str, date: &str, service: &str, canonical: &str) -> String {
    format!("{ALGORITHM}\n{stamp}\n{date}/{service}/tc3_request\n{}", sha256_hex(canonical.as_bytes()))
}

fn signing_key(secret: &Secret, date: &str, service: &str) -> hmac::Key {
    let mut key = format!("TC3{}", secret.reveal()).into_bytes();
    for part in [date, service, "tc3_request"] {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    hmac::Key::new(hmac::HMAC_SHA256, &key)
}

fn mismatch(why: &str) -> Fault {
    Fault::new("AuthFailure.SignatureFailure", format!("the signature does not match: {why}"))
}

fn read_timestamp(text: &str, name: &str) -> Result<i64, Fault> {
    // Digits only: a number that is written differently would be signed differently.
    let digits = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let bad = || Fault::new("InvalidParameterValue", format!("`{name}` must be Unix seconds"));
    text.parse().ok().filter(|_| digits).ok_or_else(bad)
}

/// The UTC day of a time, like `2023-11-14`.
fn day(unix_s: i64) -> Option<String> {
    Some(DateTime::from_timestamp(unix_s, 0)?.format("%Y-%m-%d").to_string())
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests;
