//! Volcengine's signature of requests, `HMAC-SHA256`, in the headers or in the query.
//!
//! A request names in `SignedHeaders` which headers are signed, and it differs by SDK; the date alone must be
//! among them.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use axum::http::{Method, header};
use chrono::NaiveDateTime;
use pagecast_core::spec::Secret;
use pagecast_fleet::UnixMs;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::SERVICE;
use super::answer::{Code, Fault, shown};
use crate::route::Call;
use crate::service::same;

/// How far the date of a request may be from now, ahead, and behind unless it says so itself, in
/// milliseconds.
pub const WINDOW_MS: i64 = 900_000;
/// How far behind at most, whatever `X-Expires` says.
pub const MAX_EXPIRES_MS: i64 = 3_600_000;
/// Longest query, in bytes.
pub const MAX_QUERY_LEN: usize = 16_384;
/// Longest body, in bytes.
pub const MAX_BODY_LEN: usize = 65_536;
/// Most items of a query, and most signed headers.
pub const MAX_ITEMS: usize = 64;
/// Longest `Authorization`, in bytes.
const MAX_AUTHORIZATION_LEN: usize = 4096;

const ALGORITHM: &str = "HMAC-SHA256";
const TERMINATOR: &str = "request";
/// Everything but these is written with `%`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Name and value, decoded.
pub type Item = (String, String);

/// A request whose signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who signed it.
    pub key_id: String,
    /// With which of the secrets.
    pub secret: Secret,
    /// For which region.
    pub region: String,
    /// The signature itself.
    pub signature: [u8; 32],
    /// The part of the query that is signed. Nothing else of it may be used.
    pub query: Vec<Item>,
}

/// What a request says about its signature.
struct Claim<'a> {
    key_id: &'a str,
    /// As the credential has it.
    day: &'a str,
    region: &'a str,
    service: &'a str,
    /// As `X-Date` has it.
    date: &'a str,
    /// `X-Expires`, if it is there and signed: for how many seconds the signature is good.
    expires: Option<&'a str>,
    signed_headers: &'a str,
    /// Names of the query's signed items; all of them if the signature is in the headers.
    signed_queries: Option<&'a str>,
    signature: &'a str,
}

/// Whether a list like `host;x-date` has this name.
fn lists(list: &str, name: &str) -> bool {
    list.split(';').any(|listed| listed == name)
}

fn mismatch(message: impl Into<String>) -> Fault {
    Fault::new(Code::SignatureDoesNotMatch, message)
}

/// The items of a query, decoded.
///
/// # Errors
/// There is more of it than anybody needs.
pub fn items(query: &str) -> Result<Vec<Item>, Fault> {
    let too_much = |what: String| Err(Fault::new(Code::InvalidParameter, what));
    if query.len() > MAX_QUERY_LEN {
        return too_much(format!(
            "the query has {} bytes: at most {MAX_QUERY_LEN} are possible",
            query.len()
        ));
    }
    let items: Vec<Item> =
        form_urlencoded::parse(query.as_bytes()).into_owned().take(MAX_ITEMS + 1).collect();
    if items.len() > MAX_ITEMS {
        return too_much(format!("the query has more than {MAX_ITEMS} items"));
    }
    Ok(items)
}

/// The first item of this name.
#[must_use]
pub fn item<'a>(items: &'a [Item], name: &str) -> Option<&'a str> {
    items.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// Checks a request that arrived at this time. `secrets` tells those of a key's id, none if nobody has it;
/// `regions` are those that it may be signed for, any if empty.
///
/// # Errors
/// What is missing or wrong, in the vendor's words.
pub fn verify(
    call: &Call,
    now: UnixMs,
    regions: &[String],
    secrets: impl Fn(&str) -> Vec<Secret>,
) -> Result<Verified, Fault> {
    if call.body.len() > MAX_BODY_LEN {
        let message = format!("the body has {} bytes: at most {MAX_BODY_LEN} are possible", call.body.len());
        return Err(Fault::new(Code::InvalidParameter, message));
    }
    let query = items(&call.query)?;
    let named = |name| item(&query, name).is_some();
    let claim = if call.headers.contains_key(header::AUTHORIZATION) {
        Claim::of_headers(call)?
    } else if named("X-Algorithm") || named("X-Credential") || named("X-Signature") {
        Claim::of_query(call, &query)?
    } else {
        let message = "the request is not signed: it needs an Authorization header, or X-Algorithm, X-Credential and X-Signature in the query";
        return Err(Fault::new(Code::MissingAuthenticationToken, message));
    };
    if claim.service != SERVICE {
        let message = format!("there is no service {} here, only {SERVICE}", shown(claim.service));
        return Err(Fault::new(Code::ServiceNotFound, message));
    }
    if !regions.is_empty() && !regions.iter().any(|region| region == claim.region) {
        let message = format!("the service {SERVICE} is not in the region {}", shown(claim.region));
        return Err(Fault::new(Code::ServiceNotFound, message));
    }
    let secrets = secrets(claim.key_id);
    if secrets.is_empty() {
        let message = format!("the access key {} is not known", shown(claim.key_id));
        return Err(Fault::new(Code::InvalidAccessKey, message));
    }
    check_date(&claim, now)?;
    let query: Vec<Item> = match claim.signed_queries {
        None => query.clone(),
        Some(list) => query.iter().filter(|(name, _)| lists(list, name)).cloned().collect(),
    };
    let request = claim.canonical(call, &query)?;
    let to_sign = string_to_sign(claim.date, claim.day, claim.region, &request);
    let signed_with = |secret: &Secret| hex(&signature(secret, claim.day, claim.region, &to_sign));
    let Some(secret) = secrets.into_iter().find(|s| same(&Secret::new(signed_with(s)), claim.signature))
    else {
        // It tells nothing that the sender does not know, and most of what is needed to find the mistake.
        let hash = hash(request.as_bytes());
        return Err(mismatch(format!(
            "the signature is not that of this request with the secret of this key: the canonical request has the SHA-256 {hash}"
        )));
    };
    Ok(Verified {
        signature: signature(&secret, claim.day, claim.region, &to_sign),
        key_id: claim.key_id.to_owned(),
        region: claim.region.to_owned(),
        secret,
        query,
    })
}

/// The id of the access key that a request names, whether it proves it or not; empty if it names none.
pub(super) fn claimed_key(call: &Call) -> String {
    let of_header =
        call.header(header::AUTHORIZATION.as_str()).and_then(|text| text.split_once("Credential="));
    let of_query = || {
        let query = items(&call.query).unwrap_or_default();
        item(&query, "X-Credential").map(str::to_owned)
    };
    let credential = of_header.map(|(_, credential)| credential.to_owned()).or_else(of_query);
    credential.unwrap_or_default().split(['/', ',']).next().unwrap_or_default().to_owned()
}

fn check_date(claim: &Claim<'_>, now: UnixMs) -> Result<(), Fault> {
    let bad = |message: String| Err(Fault::new(Code::InvalidTimestamp, message));
    let Some(date_ms) = parse_date(claim.date) else {
        return bad(format!("X-Date must look like 20231114T221320Z, UTC: it is {}", shown(claim.date)));
    };
    let behind_ms = match claim.expires.map(str::parse::<u32>) {
        None => WINDOW_MS,
        Some(Ok(seconds)) => (1000 * i64::from(seconds)).min(MAX_EXPIRES_MS),
        Some(Err(_)) => return bad("X-Expires must be a number of seconds".to_owned()),
    };
    if now - date_ms > behind_ms || date_ms - now > WINDOW_MS {
        return bad(format!(
            "X-Date is {}, and it is {} here: it may be {} s behind, and {} s ahead",
            claim.date,
            format_date(now),
            behind_ms / 1000,
            WINDOW_MS / 1000
        ));
    }
    if claim.date.get(..8) == Some(claim.day) {
        return Ok(());
    }
    Err(mismatch(format!("the credential is for the day {}, and X-Date is {}", shown(claim.day), claim.date)))
}

impl<'a> Claim<'a> {
    fn of_headers(call: &'a Call) -> Result<Self, Fault> {
        let text = once(call, "authorization")?;
        let none = |message| Fault::new(Code::MissingAuthenticationToken, message);
        let text = text.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with(' '));
        let text =
            text.ok_or_else(|| none("the Authorization header must begin with HMAC-SHA256 Credential="))?;
        if text.len() > MAX_AUTHORIZATION_LEN {
            return Err(none("the Authorization header is longer than 4096 bytes"));
        }
        let part = |name: &str| {
            let named = |part: &'a str| part.trim().strip_prefix(name)?.strip_prefix('=');
            text.split(',').find_map(named).unwrap_or_default()
        };
        let signed_headers = part("SignedHeaders");
        let is_signed = |name| lists(signed_headers, name);
        let expires = "x-expires";
        let has_expires = call.headers.contains_key(expires) && is_signed(expires);
        let claim = Self {
            date: call.headers.get("x-date").map_or(Ok(""), |_| once(call, "x-date"))?,
            expires: has_expires.then(|| once(call, expires)).transpose()?,
            signed_headers,
            signed_queries: None,
            ..Self::new(part("Credential"), part("Signature"))?
        };
        // A request without it has no date at all, which is what it is refused for.
        if !claim.date.is_empty() && !is_signed("x-date") {
            return Err(mismatch("SignedHeaders must name x-date"));
        }
        let token = "x-security-token";
        if call.headers.contains_key(token) && !is_signed(token) {
            return Err(mismatch("SignedHeaders must name x-security-token, because it is there"));
        }
        Ok(claim)
    }

    fn of_query(call: &Call, query: &'a [Item]) -> Result<Self, Fault> {
        let part = |name| item(query, name).unwrap_or_default();
        if part("X-Algorithm") != ALGORITHM {
            return Err(Fault::new(Code::MissingAuthenticationToken, "X-Algorithm must be HMAC-SHA256"));
        }
        if call.method != Method::GET {
            return Err(mismatch("a signature in the query is for GET alone: sign the headers"));
        }
        let signed = part("X-SignedQueries");
        let is_signed = |name| lists(signed, name);
        let token = "X-Security-Token";
        if item(query, token).is_some() && !is_signed(token) {
            return Err(mismatch("X-SignedQueries must name X-Security-Token, because it is there"));
        }
        Ok(Self {
            date: part("X-Date"),
            expires: item(query, "X-Expires").filter(|_| is_signed("X-Expires")),
            signed_headers: part("X-SignedHeaders"),
            signed_queries: Some(signed),
            ..Self::new(part("X-Credential"), part("X-Signature"))?
        })
    }

    fn new(credential: &'a str, signature: &'a str) -> Result<Self, Fault> {
        if signature.is_empty() {
            return Err(Fault::new(Code::MissingSignature, "the request has no Signature"));
        }
        let parts: Vec<&str> = credential.split('/').take(6).collect();
        let [key_id, day, region, service, TERMINATOR] = parts[..] else {
            let message = "the credential must look like AKLT…/20231114/cn-north-1/rtc/request";
            return Err(Fault::new(Code::MissingRequestInfo, message));
        };
        if [key_id, day, region, service].contains(&"") {
            let message = "the credential lacks the access key, the day, the region or the service";
            return Err(Fault::new(Code::MissingRequestInfo, message));
        }
        Ok(Self {
            key_id,
            day,
            region,
            service,
            signature,
            date: "",
            expires: None,
            signed_headers: "",
            signed_queries: None,
        })
    }

    fn canonical(&self, call: &Call, query: &[Item]) -> Result<String, Fault> {
        // Nothing of a body is used of a request that is signed in its query.
        let body_hash = if self.signed_queries.is_some() { hash(&[]) } else { hex(call.body.sha256()) };
        if call.headers.contains_key("x-content-sha256")
            && self.signed_queries.is_none()
            && !once(call, "x-content-sha256")?.eq_ignore_ascii_case(&body_hash)
        {
            return Err(mismatch("X-Content-Sha256 is not the SHA-256 of the body"));
        }
        let names: Vec<&str> =
            self.signed_headers.split(';').filter(|name| !name.is_empty()).take(MAX_ITEMS + 1).collect();
        if names.len() > MAX_ITEMS {
            return Err(mismatch(format!("more than {MAX_ITEMS} headers are signed")));
        }
        let mut headers = Vec::with_capacity(names.len());
        for name in names {
            headers.push((name, once(call, name)?));
        }
        Ok(canonical(call.method.as_str(), query, &headers, self.signed_headers, &body_hash))
    }
}

/// The value of a header that must be there once, as text.
fn once<'a>(call: &'a Call, name: &str) -> Result<&'a str, Fault> {
    let mut values = call.headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(value)), None) => Ok(value.trim()),
        (None, _) => Err(mismatch(format!("the header {} is signed and not there", shown(name)))),
        _ => Err(mismatch(format!("the header {} must be there once, as text", shown(name)))),
    }
}

fn canonical(
    method: &str,
    query: &[Item],
    headers: &[(&str, &str)],
    signed_headers: &str,
    body_hash: &str,
) -> String {
    let mut sorted: Vec<&Item> = query.iter().collect();
    sorted.sort();
    let escape = |text| utf8_percent_encode(text, ESCAPED);
    let query: Vec<String> =
        sorted.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    let lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| match *name {
            "host" => format!("host:{}", host(value)),
            _ => format!("{name}:{value}"),
        })
        .collect();
    format!("{method}\n/\n{}\n{}\n\n{signed_headers}\n{body_hash}", query.join("&"), lines.join("\n"))
}

/// The host without a port that goes without saying.
fn host(value: &str) -> &str {
    value.strip_suffix(":80").or_else(|| value.strip_suffix(":443")).unwrap_or(value)
}

fn string_to_sign(date: &str, day: &str, region: &str, request: &str) -> String {
    let request = hash(request.as_bytes());
    format!("{ALGORITHM}\n{date}\n{day}/{region}/{SERVICE}/{TERMINATOR}\n{request}")
}

fn signature(secret: &Secret, day: &str, region: &str, to_sign: &str) -> [u8; 32] {
    let steps = [day, region, SERVICE, TERMINATOR, to_sign];
    let mut key = secret.reveal().as_bytes().to_vec();
    for step in steps {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), step.as_bytes()).as_ref().to_vec();
    }
    let mut out = [0; 32];
    out.copy_from_slice(&key);
    out
}

/// SHA-256 in lower-case hex.
pub(super) fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

fn parse_date(text: &str) -> Option<UnixMs> {
    let shape = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if text.len() != 16 || !text.bytes().enumerate().all(shape) {
        return None;
    }
    let date = NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%SZ").ok()?;
    Some(date.and_utc().timestamp_millis())
}

fn format_date(now: UnixMs) -> String {
    let date = chrono::DateTime::from_timestamp_millis(now).unwrap_or_default();
    date.format("%Y%m%dT%H%M%SZ").to_string()
}

/// A request to be signed.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// How.
    pub method: &'a str,
    /// Whom, with the port if it is not the usual one.
    pub host: &'a str,
    /// What stands behind the `?`.
    pub query: &'a str,
    /// What it sends.
    pub body: &'a [u8],
    /// For which region.
    pub region: &'a str,
}

/// The headers that sign a request now, besides `Host`: names in lower case, and values.
///
/// # Errors
/// The query is longer than anybody takes.
pub fn sign(
    request: &Unsigned<'_>,
    key_id: &str,
    secret: &Secret,
    now: UnixMs,
) -> Result<Vec<(&'static str, String)>, Fault> {
    let (date, body_hash) = (format_date(now), hash(request.body));
    let day = &date[..8];
    let mut headers = vec![("x-content-sha256", body_hash.as_str()), ("x-date", &date)];
    headers.insert(0, ("host", request.host));
    if !request.body.is_empty() {
        headers.insert(0, ("content-type", "application/json"));
    }
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical = canonical(request.method, &items(request.query)?, &headers, &names, &body_hash);
    let to_sign = string_to_sign(&date, day, request.region, &canonical);
    let signature = hex(&signature(secret, day, request.region, &to_sign));
    let scope = format!("{key_id}/{day}/{}/{SERVICE}/{TERMINATOR}", request.region);
    let authorization =
        format!("{ALGORITHM} Credential={scope}, SignedHeaders={names}, Signature={signature}");
    let mut signed: Vec<(&'static str, String)> = headers
        .into_iter()
        .filter(|(name, _)| *name != "host")
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    signed.push(("authorization", authorization));
    Ok(signed)
}

/// The signature of a GET that stands in its query: of all of it, and of no header.
#[cfg(test)]
pub(super) fn query_signature(query: &str, secret: &Secret, date: &str, region: &str) -> String {
    let canonical = canonical("GET", &items(query).unwrap(), &[], "", &hash(b""));
    hex(&signature(secret, &date[..8], region, &string_to_sign(date, &date[..8], region, &canonical)))
}

/// Adds the token of a temporary key to a POST that is signed in its headers, and signs it anew.
#[cfg(test)]
pub(super) fn add_token(call: &mut Call, token: &str, secret: &Secret) {
    use axum::http::HeaderValue;
    call.headers.insert("x-security-token", HeaderValue::from_str(token).unwrap());
    let text = call.header("authorization").unwrap().replace(", Signature=", ";x-security-token, Signature=");
    call.headers.insert("authorization", HeaderValue::from_str(&text).unwrap());
    let claim = Claim::of_headers(call).unwrap();
    let request = claim.canonical(call, &items(&call.query).unwrap()).unwrap();
    let to_sign = string_to_sign(claim.date, claim.day, claim.region, &request);
    let signed = hex(&signature(secret, claim.day, claim.region, &to_sign));
    let text = text.replace(claim.signature, &signed);
    call.headers.insert("authorization", HeaderValue::from_str(&text).unwrap());
}

#[cfg(test)]
mod tests;
