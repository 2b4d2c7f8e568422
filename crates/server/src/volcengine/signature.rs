//! Volcengine's request signature `HMAC-SHA256`, in headers or in the query.
//!
//! SDKs sign different headers and name them in `SignedHeaders`. Only the date must be among them.

mod explain;

use aws_lc_rs::{digest, hmac};
use axum::http::{Method, header};
use base16ct::lower::encode_string as hex;
use chrono::NaiveDateTime;
use pagecast_core::spec::Secret;
use pagecast_fleet::UnixMs;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub(super) use explain::explain;

use super::SERVICE;
use super::response::{ApiError, ErrorCode, quote_truncated};
use crate::route::ApiRequest;
use crate::service::constant_time_eq;

/// Largest difference between the date of a request and now, in milliseconds. `X-Expires` replaces it for
/// dates in the past.
pub const MAX_CLOCK_SKEW_MS: i64 = 900_000;
/// Largest age of a request, whatever `X-Expires` says, in milliseconds.
pub const MAX_EXPIRES_MS: i64 = 3_600_000;
/// Longest query, in bytes: all three actions need less than 1 KiB.
pub const MAX_QUERY_LEN: usize = 16_384;
/// Longest body, in bytes: the vendor's limit.
pub const MAX_BODY_LEN: usize = 65_536;
/// Most parameters of a query, and most signed headers: a signed request of an SDK has fewer than 20.
pub const MAX_ITEMS: usize = 64;
/// Longest `Authorization` header, in bytes: an SDK's has some 300.
const MAX_AUTHORIZATION_LEN: usize = 4096;

const ALGORITHM: &str = "HMAC-SHA256";
const TERMINATOR: &str = "request";
/// Characters that are percent-encoded: all but the unreserved ones of RFC 3986.
const ESCAPE_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Name and value of a query parameter, decoded.
pub type QueryParam = (String, String);

/// A request with a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRequest {
    /// Id of the access key that signed the request.
    pub key_id: String,
    /// Secret that the signature was made with.
    pub secret: Secret,
    /// Region in the credential.
    pub region: String,
    /// The signature.
    pub signature: [u8; 32],
    /// The signed parameters of the query. No other parameter may be used.
    pub query: Vec<QueryParam>,
}

/// Signature as a request states it, not verified.
struct ClaimedSignature<'a> {
    key_id: &'a str,
    /// Day in the credential.
    day: &'a str,
    region: &'a str,
    service: &'a str,
    /// Value of `X-Date`.
    date: &'a str,
    /// Value of `X-Expires` if it is present and signed: validity in seconds.
    expires: Option<&'a str>,
    signed_headers: &'a str,
    /// Names of the signed query parameters; `None` if the signature is in the headers, which covers all of
    /// them.
    signed_queries: Option<&'a str>,
    signature: &'a str,
}

/// Whether a list like `host;x-date` contains this name.
fn list_contains(list: &str, name: &str) -> bool {
    list.split(';').any(|listed| listed == name)
}

fn signature_mismatch(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::SignatureDoesNotMatch, message)
}

/// Parses a query into decoded parameters.
///
/// If the query exceeds [`MAX_QUERY_LEN`] or [`MAX_ITEMS`].
pub fn parse_query(query: &str) -> Result<Vec<QueryParam>, ApiError> {
    let too_long = |message: String| Err(ApiError::new(ErrorCode::InvalidParameter, message));
    if query.len() > MAX_QUERY_LEN {
        return too_long(format!("the query has {} bytes: the limit is {MAX_QUERY_LEN}", query.len()));
    }
    let items: Vec<QueryParam> =
        form_urlencoded::parse(query.as_bytes()).into_owned().take(MAX_ITEMS + 1).collect();
    if items.len() > MAX_ITEMS {
        return too_long(format!("the query has more than {MAX_ITEMS} parameters"));
    }
    Ok(items)
}

/// The first parameter of this name.
#[must_use]
pub fn query_param<'a>(items: &'a [QueryParam], name: &str) -> Option<&'a str> {
    items.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// Verifies the signature of a request that arrived at `now`. `secrets` returns the secrets of a key id, none
/// if the id is unknown. `regions` are the accepted regions; empty accepts all.
///
/// If the signature is missing, malformed, expired or wrong, with the vendor's code.
pub fn verify(
    call: &ApiRequest,
    now: UnixMs,
    regions: &[String],
    secrets: impl Fn(&str) -> Vec<Secret>,
) -> Result<VerifiedRequest, ApiError> {
    check_body_len(call)?;
    let query = parse_query(&call.query)?;
    let claim = ClaimedSignature::parse(call, &query)?;
    claim.check_scope(regions)?;
    let secrets = secrets(claim.key_id);
    if secrets.is_empty() {
        let message = format!("the access key {} is not known", quote_truncated(claim.key_id));
        return Err(ApiError::new(ErrorCode::InvalidAccessKey, message));
    }
    check_clock(&claim, parse_claimed_date(&claim)?, now)?;
    check_day(&claim)?;
    let query = claim.signed_params(&query);
    let request = claim.canonical_request(call, &query)?;
    let to_sign = string_to_sign(claim.date, claim.day, claim.region, &request);
    let signed_with = |secret: &Secret| hex(&compute_signature(secret, claim.day, claim.region, &to_sign));
    let Some(secret) =
        secrets.into_iter().find(|s| constant_time_eq(&Secret::new(signed_with(s)), claim.signature))
    else {
        // The sender knows this hash and can compare it with its own to find the mistake.
        let hash = sha256_hex(request.as_bytes());
        return Err(signature_mismatch(format!(
            "the signature does not match: the canonical request has the SHA-256 {hash}; compare it with \
             yours, then check the secret key"
        )));
    };
    Ok(VerifiedRequest {
        signature: compute_signature(&secret, claim.day, claim.region, &to_sign),
        key_id: claim.key_id.to_owned(),
        region: claim.region.to_owned(),
        secret,
        query,
    })
}

/// Key id that a request claims, with a valid signature or not; empty without one.
pub(super) fn claimed_key_id(call: &ApiRequest) -> String {
    let from_header =
        call.header(header::AUTHORIZATION.as_str()).and_then(|text| text.split_once("Credential="));
    let from_query = || {
        let query = parse_query(&call.query).unwrap_or_default();
        query_param(&query, "X-Credential").map(str::to_owned)
    };
    let credential = from_header.map(|(_, credential)| credential.to_owned()).or_else(from_query);
    credential.unwrap_or_default().split(['/', ',']).next().unwrap_or_default().to_owned()
}

fn check_body_len(call: &ApiRequest) -> Result<(), ApiError> {
    if call.body.len() <= MAX_BODY_LEN {
        return Ok(());
    }
    let message = format!("the body has {} bytes: the limit is {MAX_BODY_LEN}", call.body.len());
    Err(ApiError::new(ErrorCode::InvalidParameter, message))
}

fn parse_claimed_date(claim: &ClaimedSignature<'_>) -> Result<UnixMs, ApiError> {
    parse_date(claim.date).ok_or_else(|| {
        invalid_timestamp(format!(
            "X-Date is {}: it must be a UTC time like 20231114T221320Z",
            quote_truncated(claim.date)
        ))
    })
}

fn check_clock(claim: &ClaimedSignature<'_>, date_ms: UnixMs, now: UnixMs) -> Result<(), ApiError> {
    let behind_ms = match claim.expires.map(str::parse::<u32>) {
        None => MAX_CLOCK_SKEW_MS,
        Some(Ok(seconds)) => (1000 * i64::from(seconds)).min(MAX_EXPIRES_MS),
        Some(Err(_)) => return Err(invalid_timestamp("X-Expires must be a number of seconds".to_owned())),
    };
    if now - date_ms <= behind_ms && date_ms - now <= MAX_CLOCK_SKEW_MS {
        return Ok(());
    }
    Err(invalid_timestamp(format!(
        "X-Date is {}, the server's clock says {}: X-Date may be at most {} s behind it and {} s ahead",
        claim.date,
        format_date(now),
        behind_ms / 1000,
        MAX_CLOCK_SKEW_MS / 1000
    )))
}

fn check_day(claim: &ClaimedSignature<'_>) -> Result<(), ApiError> {
    if claim.date.get(..8) == Some(claim.day) {
        return Ok(());
    }
    Err(signature_mismatch(format!(
        "the credential is for the day {}, and X-Date is {}",
        quote_truncated(claim.day),
        claim.date
    )))
}

fn invalid_timestamp(message: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidTimestamp, message)
}

impl<'a> ClaimedSignature<'a> {
    fn parse(call: &'a ApiRequest, query: &'a [QueryParam]) -> Result<Self, ApiError> {
        let named = |name| query_param(query, name).is_some();
        if call.headers.contains_key(header::AUTHORIZATION) {
            Self::from_headers(call)
        } else if named("X-Algorithm") || named("X-Credential") || named("X-Signature") {
            Self::from_query(call, query)
        } else {
            let message = "the request is not signed: send an Authorization header, or X-Algorithm, \
                           X-Credential and X-Signature in the query";
            Err(ApiError::new(ErrorCode::MissingAuthenticationToken, message))
        }
    }

    fn check_scope(&self, regions: &[String]) -> Result<(), ApiError> {
        let message = if self.service != SERVICE {
            format!("there is no service {} here, only {SERVICE}", quote_truncated(self.service))
        } else if !regions.is_empty() && !regions.iter().any(|region| region == self.region) {
            format!("the service {SERVICE} is not in the region {}", quote_truncated(self.region))
        } else {
            return Ok(());
        };
        Err(ApiError::new(ErrorCode::ServiceNotFound, message))
    }

    /// The parameters that the signature covers.
    fn signed_params(&self, query: &[QueryParam]) -> Vec<QueryParam> {
        match self.signed_queries {
            None => query.to_vec(),
            Some(list) => query.iter().filter(|(name, _)| list_contains(list, name)).cloned().collect(),
        }
    }

    fn from_headers(call: &'a ApiRequest) -> Result<Self, ApiError> {
        let text = single_header(call, "authorization")?;
        let missing_token = |message| ApiError::new(ErrorCode::MissingAuthenticationToken, message);
        let text = text.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with(' '));
        let text = text.ok_or_else(|| {
            missing_token("the Authorization header must begin with HMAC-SHA256 Credential=")
        })?;
        if text.len() > MAX_AUTHORIZATION_LEN {
            return Err(missing_token("the Authorization header is longer than 4096 bytes"));
        }
        let part = |name: &str| {
            let named = |part: &'a str| part.trim().strip_prefix(name)?.strip_prefix('=');
            text.split(',').find_map(named).unwrap_or_default()
        };
        let signed_headers = part("SignedHeaders");
        let is_signed = |name| list_contains(signed_headers, name);
        let expires = "x-expires";
        let has_expires = call.headers.contains_key(expires) && is_signed(expires);
        let claim = Self {
            date: call.headers.get("x-date").map_or(Ok(""), |_| single_header(call, "x-date"))?,
            expires: has_expires.then(|| single_header(call, expires)).transpose()?,
            signed_headers,
            signed_queries: None,
            ..Self::new(part("Credential"), part("Signature"))?
        };
        // A request without X-Date is refused for its missing date instead.
        if !claim.date.is_empty() && !is_signed("x-date") {
            return Err(signature_mismatch("SignedHeaders must name x-date"));
        }
        let token = "x-security-token";
        if call.headers.contains_key(token) && !is_signed(token) {
            return Err(signature_mismatch(
                "SignedHeaders must name x-security-token, because the header is present",
            ));
        }
        Ok(claim)
    }

    fn from_query(call: &ApiRequest, query: &'a [QueryParam]) -> Result<Self, ApiError> {
        let part = |name| query_param(query, name).unwrap_or_default();
        if part("X-Algorithm") != ALGORITHM {
            return Err(ApiError::new(
                ErrorCode::MissingAuthenticationToken,
                "X-Algorithm must be HMAC-SHA256",
            ));
        }
        if call.method != Method::GET {
            return Err(signature_mismatch(
                "a signature in the query is only possible with GET: sign the headers",
            ));
        }
        let signed = part("X-SignedQueries");
        let is_signed = |name| list_contains(signed, name);
        let token = "X-Security-Token";
        if query_param(query, token).is_some() && !is_signed(token) {
            return Err(signature_mismatch(
                "X-SignedQueries must name X-Security-Token, because the parameter is present",
            ));
        }
        Ok(Self {
            date: part("X-Date"),
            expires: query_param(query, "X-Expires").filter(|_| is_signed("X-Expires")),
            signed_headers: part("X-SignedHeaders"),
            signed_queries: Some(signed),
            ..Self::new(part("X-Credential"), part("X-Signature"))?
        })
    }

    fn new(credential: &'a str, signature: &'a str) -> Result<Self, ApiError> {
        if signature.is_empty() {
            return Err(ApiError::new(ErrorCode::MissingSignature, "the request has no Signature"));
        }
        let parts: Vec<&str> = credential.split('/').take(6).collect();
        let [key_id, day, region, service, TERMINATOR] = parts[..] else {
            let message = "the credential must look like AKLT…/20231114/cn-north-1/rtc/request";
            return Err(ApiError::new(ErrorCode::MissingRequestInfo, message));
        };
        if [key_id, day, region, service].contains(&"") {
            let message = "the credential lacks the access key, the day, the region or the service";
            return Err(ApiError::new(ErrorCode::MissingRequestInfo, message));
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

    fn canonical_request(&self, call: &ApiRequest, query: &[QueryParam]) -> Result<String, ApiError> {
        let body_hash = self.body_hash(call)?;
        let headers = self.signed_header_values(call)?;
        Ok(canonical_request(call.method.as_str(), query, &headers, self.signed_headers, &body_hash))
    }

    /// Hash of the signed body.
    fn body_hash(&self, call: &ApiRequest) -> Result<String, ApiError> {
        // The body of a request that is signed in its query is ignored.
        if self.signed_queries.is_some() {
            return Ok(sha256_hex(&[]));
        }
        let body_hash = hex(call.body.sha256());
        if call.headers.contains_key("x-content-sha256")
            && !single_header(call, "x-content-sha256")?.eq_ignore_ascii_case(&body_hash)
        {
            return Err(signature_mismatch("X-Content-Sha256 is not the SHA-256 of the body"));
        }
        Ok(body_hash)
    }

    /// Names and values of the signed headers.
    fn signed_header_values<'c>(&self, call: &'c ApiRequest) -> Result<Vec<(&'a str, &'c str)>, ApiError> {
        let names: Vec<&str> =
            self.signed_headers.split(';').filter(|name| !name.is_empty()).take(MAX_ITEMS + 1).collect();
        if names.len() > MAX_ITEMS {
            return Err(signature_mismatch(format!("SignedHeaders names more than {MAX_ITEMS} headers")));
        }
        names.into_iter().map(|name| Ok((name, single_header(call, name)?))).collect()
    }
}

/// Value of a header that must be present once, as text.
fn single_header<'a>(call: &'a ApiRequest, name: &str) -> Result<&'a str, ApiError> {
    let mut values = call.headers.get_all(name).iter();
    match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(value)), None) => Ok(value.trim()),
        (None, _) => {
            Err(signature_mismatch(format!("the header {} is signed but missing", quote_truncated(name))))
        }
        _ => Err(signature_mismatch(format!(
            "the header {} must be present exactly once, as text",
            quote_truncated(name)
        ))),
    }
}

fn canonical_request(
    method: &str,
    query: &[QueryParam],
    headers: &[(&str, &str)],
    signed_headers: &str,
    body_hash: &str,
) -> String {
    let mut sorted: Vec<&QueryParam> = query.iter().collect();
    sorted.sort();
    assemble_canonical_request(method, &canonical_query(&sorted), headers, signed_headers, body_hash)
}

/// Encodes parameters in this order.
fn canonical_query(params: &[&QueryParam]) -> String {
    let escape = |text| utf8_percent_encode(text, ESCAPE_SET);
    let pairs: Vec<String> =
        params.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    pairs.join("&")
}

fn assemble_canonical_request(
    method: &str,
    query: &str,
    headers: &[(&str, &str)],
    signed_headers: &str,
    body_hash: &str,
) -> String {
    let lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| match *name {
            "host" => format!("host:{}", strip_default_port(value)),
            _ => format!("{name}:{value}"),
        })
        .collect();
    format!("{method}\n/\n{query}\n{}\n\n{signed_headers}\n{body_hash}", lines.join("\n"))
}

/// The host without a default port.
fn strip_default_port(value: &str) -> &str {
    value.strip_suffix(":80").or_else(|| value.strip_suffix(":443")).unwrap_or(value)
}

fn string_to_sign(date: &str, day: &str, region: &str, request: &str) -> String {
    let request = sha256_hex(request.as_bytes());
    format!("{ALGORITHM}\n{date}\n{day}/{region}/{SERVICE}/{TERMINATOR}\n{request}")
}

fn compute_signature(secret: &Secret, day: &str, region: &str, to_sign: &str) -> [u8; 32] {
    let steps = [day, region, SERVICE, TERMINATOR, to_sign];
    let mut key = secret.reveal().as_bytes().to_vec();
    for step in steps {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), step.as_bytes()).as_ref().to_vec();
    }
    let mut out = [0; 32];
    out.copy_from_slice(&key);
    out
}

/// SHA-256 in lower-case hex digits.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
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

/// A request to sign.
#[derive(Debug, Clone, Copy)]
pub struct UnsignedRequest<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Host, with a port that is not the default.
    pub host: &'a str,
    /// Text behind the `?`.
    pub query: &'a str,
    /// Body of the request.
    pub body: &'a [u8],
    /// Region in the credential.
    pub region: &'a str,
}

/// A signed request: its headers, and the texts from which its signature was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRequest {
    /// Headers besides `Host`: names in lower case, and values.
    pub headers: Vec<(&'static str, String)>,
    /// Value of the header `Authorization`, which is among the headers.
    pub authorization: String,
    /// Canonical request.
    pub canonical_request: String,
    /// String to sign.
    pub string_to_sign: String,
}

/// Signs the headers of a request at `now`.
///
/// As [`parse_query`].
pub fn sign(
    request: &UnsignedRequest<'_>,
    key_id: &str,
    secret: &Secret,
    now: UnixMs,
) -> Result<SignedRequest, ApiError> {
    let (date, body_hash) = (format_date(now), sha256_hex(request.body));
    let day = &date[..8];
    let mut headers = vec![("x-content-sha256", body_hash.as_str()), ("x-date", &date)];
    headers.insert(0, ("host", request.host));
    if !request.body.is_empty() {
        headers.insert(0, ("content-type", "application/json"));
    }
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical_request =
        canonical_request(request.method, &parse_query(request.query)?, &headers, &names, &body_hash);
    let string_to_sign = string_to_sign(&date, day, request.region, &canonical_request);
    let signature = hex(&compute_signature(secret, day, request.region, &string_to_sign));
    let scope = format!("{key_id}/{day}/{}/{SERVICE}/{TERMINATOR}", request.region);
    let authorization =
        format!("{ALGORITHM} Credential={scope}, SignedHeaders={names}, Signature={signature}");
    let mut headers: Vec<(&'static str, String)> = headers
        .into_iter()
        .filter(|(name, _)| *name != "host")
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    headers.push(("authorization", authorization.clone()));
    Ok(SignedRequest { headers, authorization, canonical_request, string_to_sign })
}

/// Signature in the query of a GET that covers the whole query and no header.
#[cfg(test)]
pub(super) fn query_signature(query: &str, secret: &Secret, date: &str, region: &str) -> String {
    let canonical = canonical_request("GET", &parse_query(query).unwrap(), &[], "", &sha256_hex(b""));
    hex(&compute_signature(secret, &date[..8], region, &string_to_sign(date, &date[..8], region, &canonical)))
}

/// Adds a security token to a POST that is signed in its headers, and signs it again.
#[cfg(test)]
pub(super) fn add_security_token(call: &mut ApiRequest, token: &str, secret: &Secret) {
    use axum::http::HeaderValue;
    call.headers.insert("x-security-token", HeaderValue::from_str(token).unwrap());
    let text = call.header("authorization").unwrap().replace(", Signature=", ";x-security-token, Signature=");
    call.headers.insert("authorization", HeaderValue::from_str(&text).unwrap());
    let claim = ClaimedSignature::from_headers(call).unwrap();
    let request = claim.canonical_request(call, &parse_query(&call.query).unwrap()).unwrap();
    let to_sign = string_to_sign(claim.date, claim.day, claim.region, &request);
    let signed = hex(&compute_signature(secret, claim.day, claim.region, &to_sign));
    let text = text.replace(claim.signature, &signed);
    call.headers.insert("authorization", HeaderValue::from_str(&text).unwrap());
}

#[cfg(test)]
mod tests;
